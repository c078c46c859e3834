//! The hosts themselves: that they are other machines as far as a program can tell, and that nothing is left of them.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ckpt_tests::{Case, Finished, Host, Link, Network, Suite, Whos};

pub fn add(suite: &mut Suite) {
    suite.add("hosts::are_other_machines", Whos::Both, other_machines);
    suite.add("hosts::cable_can_be_cut", Whos::Root, cable);
    suite.add("hosts::nothing_is_left", Whos::Root, nothing_is_left);
}

/// OpenSSH's own client, which knows the host and has the key.
fn ssh(case: &Case, network: &Network, host: &Host, at: SocketAddr, command: &str) -> Result<Finished> {
    let known = case.write("known", format!("{} {}\n", host.name, host.host_key()))?;
    let mut ssh = case.command("ssh");
    ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=2", "-o", "ServerAliveInterval=1"]);
    ssh.args(["-o", &format!("HostKeyAlias={}", host.name), "-o", &format!("UserKnownHostsFile={}", known.display())]);
    ssh.arg("-i").arg(network.key()).args(["-p", &at.port().to_string()]);
    ssh.arg(format!("{}@{}", host.user, at.ip())).arg(command);
    case.run(&mut ssh)
}

fn other_machines(case: &Case) -> Result<()> {
    let begun = Instant::now();
    let network = Network::make(case)?;
    case.note(&format!("made in {:?}", begun.elapsed()));
    let here = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let mut seen = vec![here.trim().to_owned()];
    for host in [&network.alpha, &network.beta] {
        let facts = "uname -n; cut -d. -f1 /proc/uptime; pwd; whoami; ls -d /lib /lib64; which python3 ckptctl bash";
        let said = ssh(case, &network, host, host.address, facts)?.stdout;
        let facts: Vec<&str> = said.lines().collect();
        let [name, uptime, home, user] = facts[..] else { anyhow::bail!("{said}, {}", host.log()) };
        ensure!(name == host.name && home.starts_with("/export/") && user == host.user, "{said}");
        seen.push((uptime.parse::<u64>()? / (24 * 3600)).to_string());
        // As an ordinary user, and in a process id namespace of one's own, /proc can be mounted.
        let nest = ssh(case, &network, host, host.address, "unshare -Urpf --mount-proc sh -c 'echo $$; id -u'")?;
        ensure!(nest.stdout == "1\n0\n", "{nest:?}");
    }
    ensure!(seen[1] != seen[2], "the same uptime: {seen:?}");
    Ok(())
}

fn cable(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    let alpha = &network.alpha;
    let link = Link::to(alpha.address, Duration::from_millis(20))?;
    let works = |at| -> Result<bool> { Ok(ssh(case, &network, alpha, at, "echo here")?.stdout == "here\n") };
    let begun = Instant::now();
    ensure!(works(link.address())? && begun.elapsed() > Duration::from_millis(200), "{:?}", begun.elapsed());
    link.cut();
    ensure!(!works(link.address())?, "it came through a cut cable");
    link.mend();
    ensure!(works(link.address())?, "it is not mended");
    alpha.cut()?;
    ensure!(!works(alpha.address)?, "it came through a cable that is not there");
    alpha.mend()?;
    ensure!(works(alpha.address)?, "it is not mended");
    Ok(())
}

fn nothing_is_left(case: &Case) -> Result<()> {
    let before = interfaces()?;
    let mut network = Network::make(case)?;
    let marker = case.path("marker").display().to_string();
    let running = ssh(
        case,
        &network,
        &network.alpha,
        network.alpha.address,
        &format!("exec sh -c 'while sleep 9; do :; done' {marker} >/dev/null 2>&1 &"),
    );
    running?.expect(0)?;
    case.wait_until("it runs there", || network.copies(&marker).running_on() == ["alpha"])?;
    let pid = network.copies(&marker).0[0].pid;
    network.alpha.end();
    case.wait_until("all that ran there has ended", || Case::state(pid).is_none())?;
    drop(network);
    ensure!(interfaces()? == before, "{:?} and not {before:?}", interfaces()?);
    let root = case.path("alpha.root");
    ensure!(fs::read_dir(&root).context("no mount point")?.next().is_none(), "still mounted");
    Ok(())
}

/// Those of the machine itself.
fn interfaces() -> Result<String> {
    let listed = Command::new("ip").args(["-brief", "link"]).output()?;
    Ok(String::from_utf8_lossy(&listed.stdout).into_owned())
}
