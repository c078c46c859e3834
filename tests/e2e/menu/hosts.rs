//! Hosts that are not as they should be: unknown, or silent.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ckpt_tests::{Case, Host, Network};
use rustix::process::{Pid, Signal, kill_process};

use super::{Menu, start_counting, start_job};

/// A host whose key nobody knows yet: the menu shows it and asks.
pub fn unknown_host_key(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    network.introduce_as(case, &network.entry("nodea", network.alpha.user, network.alpha.address), "")?;
    start_job(case, "sim", &["/bin/sleep", "1000"])?;
    let mut menu = Menu::open(case, &[])?;
    menu.wait("> sim")?;
    // No: nothing has happened, and no key is known.
    menu.choose_host("sim", "nodea")?;
    menu.press("\r")?;
    menu.wait("A question")?;
    menu.escape("A question")?;
    menu.wait("Esc closes this")?;
    menu.escape("Moving sim to nodea")?;
    ensure!(fs::read_to_string(case.path(".ssh/known_hosts"))?.is_empty(), "a key was noted without an answer");
    // Yes.
    menu.choose_host("sim", "nodea")?;
    menu.press("\r")?;
    menu.wait("A question")?;
    menu.wait("SHA256:")?;
    menu.press("yes\r")?;
    menu.wait("It runs on nodea")?;
    ensure!(
        fs::read_to_string(case.path(".ssh/known_hosts"))?.contains(network.alpha.host_key()),
        "the key was not noted"
    );
    menu.press("\r")?;
    menu.wait("running on nodea")?;
    menu.quit()
}

/// One that takes the connection and says nothing, and one whose SSH server has stopped: neither holds up the menu or the program.
pub fn hosts_that_hang(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    let deaf = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let alpha = &network.alpha;
    let entry =
        |name, at| format!("{}[hosts.{name}.limits]\nlogin_timeout = 60\n\n", network.entry(name, alpha.user, at));
    let entries = [entry("deaf", deaf.local_addr()?), entry("stopped", alpha.address)];
    network.introduce_as(case, &entries.concat(), &alpha.known())?;
    kill_process(server(alpha)?, Signal::STOP)?;
    start_counting(case)?;
    let mut menu = Menu::open(case, &[])?;
    menu.wait("> count")?;
    // Both are tried at a time.
    menu.press("h")?;
    menu.wait("stopped  not tried")?;
    for host in ["deaf", "stopped"] {
        menu.press("\x1b[B")?;
        menu.wait(&format!("> {host}"))?;
        menu.press("t")?;
        menu.wait_until("it is tried", |lines| {
            lines.iter().any(|line| line.contains(&format!("{host} ")) && line.contains("trying"))
        })?;
        menu.answers_keys()?;
    }
    menu.press("j")?;
    menu.wait("> count")?;
    menu.press("\r")?;
    menu.wait_for_count(1)?;
    for host in ["deaf", "stopped"] {
        menu.choose_host("count", host)?;
        menu.press("\r")?;
        menu.wait(&format!("Moving count to {host}"))?;
        menu.wait("x gives it up")?;
        let begun = Instant::now();
        menu.press("x")?;
        menu.wait("Enter or Esc closes this")?;
        let took = begun.elapsed();
        ensure!(took < Duration::from_secs(5), "the move to {host} was given up after {took:?}");
        menu.escape(&format!("Moving count to {host}"))?;
        menu.wait("running on local")?;
        menu.wait_for_count(5)?;
    }
    menu.quit()
}

/// The host's sshd, as this machine numbers it.
fn server(host: &Host) -> Result<Pid> {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", host.pid))?;
    let is_server =
        |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("sshd"));
    let pid = children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is_server);
    pid.and_then(Pid::from_raw).context("the host has no sshd")
}
