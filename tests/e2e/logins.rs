//! Hosts that do not let us in, each in another manner: it is said which, in time, and the job does not notice.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ckpt_tests::{Case, Ending, Finished, Link, Network, Suite, Whos, keygen};

use crate::journey::{JOB, Journey, this_machine};

/// How long it may take to say that a host is of no use.
const PATIENCE: Duration = Duration::from_secs(20);

/// A host of no use: its name, what the refusal must say (alternatives between bars), and its entry in the hosts file.
struct Trap {
    name: &'static str,
    says: &'static [&'static str],
    entry: String,
    /// The way there, where it is a longer one.
    _link: Option<Link>,
}

pub fn add(suite: &mut Suite) {
    suite.add("logins::no_server", Whos::User, |case| trapped(case, no_server));
    suite.add("logins::silent_server", Whos::User, |case| trapped(case, silent_server));
    suite.add("logins::keys", Whos::Both, |case| trapped(case, keys));
    suite.add("logins::accounts", Whos::User, |case| trapped(case, accounts));
    suite.add("logins::banner", Whos::User, |case| works_all_the_same(case, "greeted"));
    suite.add("logins::shell_that_is_not_posix", Whos::User, |case| {
        if !std::path::Path::new("/usr/bin/tcsh").exists() && !std::path::Path::new("/bin/tcsh").exists() {
            return ckpt_tests::skip("there is no tcsh here: install tcsh");
        }
        works_all_the_same(case, "tcsh")
    });
}

/// The job is asked to move to each of the hosts, and goes on undisturbed where it is.
fn trapped(case: &Case, traps: fn(&Case, &Network) -> Result<Vec<Trap>>) -> Result<()> {
    let network = Network::make(case)?;
    let journey = Journey::start(case, &network, ("traveller", &[]))?;
    let pid = journey.copies().0[0].pid;
    let traps = traps(case, &network)?;
    let known = [network.alpha.known(), format!("{} {}\n", network.beta.address.ip(), network.alpha.host_key())];
    let entries: String = traps.iter().map(|trap| trap.entry.as_str()).collect();
    network.introduce_as(case, &entries, &known.concat())?;
    for trap in &traps {
        let told = in_time(case, &["hosts", "test", trap.name, "--json"])?.expect(5)?.json()?;
        let error = told["hosts"][0]["error"].as_str().with_context(|| format!("no error: {told}"))?;
        let says = |words: &&str| words.split('|').any(|word| error.to_lowercase().contains(&word.to_lowercase()));
        ensure!(trap.says[1..].iter().all(says), "not {:?}: {error}", trap.says);
    }
    for trap in &traps {
        let refused = in_time(case, &["migrate", JOB, trap.name])?;
        refused.expect_refusal(&[1, 4, 5], trap.says).with_context(|| trap.name)?;
        let copies = journey.copies();
        ensure!(copies.0.len() == 1 && copies.0[0].pid == pid && copies.0[0].runs(), "{}: {copies:?}", trap.name);
        journey.see_it_count(5)?;
    }
    let transcript = journey.end("quit 0\n", Ending::Exited(0))?;
    ensure!(transcript.hosts == [this_machine()?], "{:?}", transcript.hosts);
    Ok(())
}

/// A verb that must not take long.
fn in_time(case: &Case, arguments: &[&str]) -> Result<Finished> {
    let begun = Instant::now();
    let finished = case.run(&mut case.ckptctl(arguments))?;
    let took = begun.elapsed();
    case.note(&format!("{arguments:?} took {took:?}"));
    ensure!(took < PATIENCE, "{arguments:?} took {took:?}");
    Ok(finished)
}

/// An entry for a user of the host alpha.
fn entry(network: &Network, name: &str, user: &str, more: &str) -> String {
    network.entry(name, user, network.alpha.address) + more + "\n"
}

fn trap(name: &'static str, says: &'static [&'static str], entry: String) -> Trap {
    Trap { name, says, entry, _link: None }
}

fn no_server(_: &Case, network: &Network) -> Result<Vec<Trap>> {
    let entry = |name, address| hurried(network, name, address);
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    network.beta.cut()?;
    Ok(vec![
        trap("refuses", &["refuses", "connection refused"], entry("refuses", nobody)),
        trap("closes", &["closes", "closed|broke|ended"], entry("closes", serve(Duration::ZERO, b"")?)),
        trap("web", &["web", "no ssh server"], entry("web", serve(PATIENCE, b"HTTP/1.1 400 Bad Request\r\n\r\n")?)),
        trap("gone", &["gone", "no answer|unreachable|no route"], entry("gone", network.beta.address)),
    ])
}

fn silent_server(_: &Case, network: &Network) -> Result<Vec<Trap>> {
    let entry = hurried(network, "silent", serve(2 * PATIENCE, b"")?);
    Ok(vec![trap("silent", &["silent", "nothing came|no answer"], entry)])
}

/// Nobody wants to wait for each of these as long as is waited without being told.
fn hurried(network: &Network, name: &str, address: SocketAddr) -> String {
    let limits = "connect_timeout = 3\nlogin_timeout = 3";
    format!("{}\n[hosts.{name}.limits]\n{limits}\n\n", network.entry(name, "bob", address).trim_end())
}

/// Accepts connections, says something, and closes them after a while.
fn serve(stays: Duration, says: &'static [u8]) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                // Whoever has gone needs nothing said.
                let _ = stream.write_all(says);
                thread::sleep(stays);
            });
        }
    });
    Ok(address)
}

fn keys(case: &Case, network: &Network) -> Result<Vec<Trap>> {
    let wrong = case.path("wrong-key");
    keygen(&wrong)?;
    case.give(&wrong)?;
    let user = network.alpha.user;
    let stranger = network.entry("stranger", user, network.alpha.address);
    let stranger = stranger.replace(&network.key().display().to_string(), &wrong.display().to_string());
    // The line for beta in known_hosts has the key of alpha. Alpha is not known under this name.
    let changed = network.entry("changed", user, network.beta.address);
    let link = Link::to(network.alpha.address, Duration::ZERO)?;
    let unknown = network.entry("unknown", user, link.address());
    Ok(vec![
        trap("stranger", &["stranger", "wrong-key", "publickey"], stranger),
        trap("changed", &["changed", "known_hosts:2", "host key|changed"], changed),
        Trap { _link: Some(link), ..trap("unknown", &["unknown", "SHA256:", "not known"], unknown) },
    ])
}

#[allow(clippy::unnecessary_wraps, reason = "the others can fail")]
fn accounts(_: &Case, network: &Network) -> Result<Vec<Trap>> {
    Ok(vec![
        trap("closed", &["closed", "account is not available", "login shell"], entry(network, "closed", "nologin", "")),
        trap("full", &["full", "no space left|disk"], entry(network, "full", "full", "")),
        trap(
            "readonly",
            &["readonly", "/proc/ckptctl"],
            entry(network, "readonly", "bob", "directory = \"/proc/ckptctl\"\n"),
        ),
        trap("nobody", &["nobody", "publickey"], entry(network, "nobody", "nosuchuser", "")),
    ])
}

/// What stands in other programs' way does not stand in ours.
fn works_all_the_same(case: &Case, user: &str) -> Result<()> {
    let network = Network::make(case)?;
    let journey = Journey::start(case, &network, ("traveller", &[]))?;
    let entry = entry(&network, "alpha", user, "");
    network.introduce_as(case, &entry, &network.alpha.known())?;
    let told = case.run(&mut case.ckptctl(["hosts", "test", "alpha"]))?.expect(0)?;
    ensure!(!told.stdout.contains("Welcome"), "{told:?}");
    journey.migrate("alpha")?;
    journey.migrate("local")?;
    let transcript = journey.end("quit 4\n", Ending::Exited(4))?;
    ensure!(transcript.others == ["as expected"], "{:?}", transcript.others);
    Ok(())
}
