//! `hosts test`: connects, logs in, and asks the copy of this program there.

use std::fs;
use std::path::Path;

use anyhow::Context;
use ckpt_core::Class;
use ckpt_transfer::hosts::{Host, Hosts};
use ckpt_transfer::ssh::{Prompter, Secrets, Session, SshError, SshFault, Step, own_hash};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::prompt::TerminalPrompter;
use crate::this_machine::{Clock, available_memory, clock, free_space, load};
use crate::{doctor, output, text};

/// What a copy of this program says of itself and its machine.
#[derive(Debug, Serialize, Deserialize)]
struct SelfCheck {
    /// Its BLAKE3 hash.
    hash: String,
    /// The clock, in nanoseconds since 1970.
    clock: i64,
    /// Available memory in bytes.
    memory: u64,
    /// Free disk space in bytes, where the copy is.
    disk: u64,
    /// Load average over a minute.
    load: f64,
    /// Its kernel's version.
    kernel: String,
    /// Its host name.
    host: String,
}

/// Says what this copy is, and what its machine has. Only ckptctl itself asks.
pub fn self_check() -> anyhow::Result<i32> {
    output::print_json(&SelfCheck::of_this()?)?;
    Ok(0)
}

impl SelfCheck {
    fn of_this() -> anyhow::Result<Self> {
        const FAILED: &str = "/proc cannot be read; see that it is mounted";
        let (hash, _) = own_hash().context(FAILED)?;
        let own = fs::read_link("/proc/self/exe").context(FAILED)?;
        let memory = fs::read_to_string("/proc/meminfo").context(FAILED)?;
        let loadavg = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let system = rustix::system::uname();
        Ok(Self {
            hash,
            memory: available_memory(&memory),
            disk: free_space(own.parent().unwrap_or(Path::new("/")))?,
            load: load(&loadavg),
            kernel: system.release().to_string_lossy().into_owned(),
            host: system.nodename().to_string_lossy().into_owned(),
            clock: clock(),
        })
    }
}

/// Tests hosts one after another: each may have something to ask. The status is that of [`Class::Remote`] if one fails.
pub fn test(name: Option<&str>, json: bool) -> anyhow::Result<i32> {
    let hosts = Hosts::load()?;
    let chosen = super::chosen(&hosts, name)?;
    if chosen.is_empty() && !json {
        output::print("There are no hosts. Add one: ckptctl hosts add NAME [USER@]ADDRESS\n")?;
    }
    let mut secrets = Secrets::new();
    let mut reports = Vec::new();
    for host in &chosen {
        if !json {
            output::print(&format!("{}\n", text::plain(&host.name)))?;
        }
        let mut tell = |title: &str, line: &str| {
            if json { Ok(()) } else { output::print(&format!("  {title:<10}{line}\n")) }
        };
        reports.push(try_host(host, &hosts, &mut secrets, &mut TerminalPrompter, &mut tell)?);
    }
    let all_work = reports.iter().all(|report| report["ok"] == true);
    if json {
        output::print_json(&json!({ "hosts": reports }))?;
    }
    Ok(if all_work { 0 } else { Class::Remote as i32 })
}

/// Is told what was found, as soon as it is: a title and a line.
pub type Tell<'a> = dyn FnMut(&str, &str) -> anyhow::Result<()> + 'a;

/// Tests a host. Gives what was found; `ok` in it says whether programs can be moved there.
///
/// # Errors
/// When it cannot be told.
pub fn try_host(
    host: &Host,
    hosts: &Hosts,
    secrets: &mut Secrets,
    prompter: &mut dyn Prompter,
    tell: &mut Tell<'_>,
) -> anyhow::Result<Value> {
    let mut report = Report { facts: Map::new(), tell };
    report.facts.insert("name".to_owned(), host.name.clone().into());
    let works = match examine(host, hosts, secrets, prompter, &mut report) {
        Ok(works) => works,
        Err(error) => {
            let fault = error.downcast_ref::<SshError>().map(|error| fault(error.fault));
            report.facts.insert("fault".to_owned(), json!(fault.unwrap_or("failed")));
            let line = text::plain(&crate::failure::line(&error));
            let short = line.strip_prefix(&format!("{}: ", host.name)).unwrap_or(&line).to_owned();
            report.fact("failed", "error", short.clone(), &short)?;
            false
        }
    };
    report.facts.insert("ok".to_owned(), works.into());
    Ok(Value::Object(report.facts))
}

/// The same for this machine.
///
/// # Errors
/// When `/proc` cannot be read, or it cannot be told.
pub fn try_here(tell: &mut Tell<'_>) -> anyhow::Result<Value> {
    let mut report = Report { facts: Map::new(), tell };
    let said = SelfCheck::of_this()?;
    report.machine(&said, "the file system of ckptctl")?;
    let works = report.doctor(doctor::report_of(ckpt_core::abilities())?)?;
    report.facts.insert("ok".to_owned(), works.into());
    Ok(Value::Object(report.facts))
}

/// What was found, told at once to people and at the end to scripts.
struct Report<'a, 't> {
    facts: Map<String, Value>,
    tell: &'a mut Tell<'t>,
}

impl Report<'_, '_> {
    fn fact(&mut self, title: &str, key: &str, value: impl Serialize, line: &str) -> anyhow::Result<()> {
        let value = serde_json::to_value(value).context("a fact does not fit JSON; please report this")?;
        self.facts.insert(key.to_owned(), value);
        (self.tell)(title, &text::plain(line))
    }

    fn machine(&mut self, said: &SelfCheck, place: &str) -> anyhow::Result<()> {
        let line = format!("{}, Linux {}, load {:.2}", said.host, said.kernel, said.load);
        let machine = json!({ "host": said.host, "kernel": said.kernel, "load": said.load });
        self.fact("machine", "machine", machine, &line)?;
        self.fact("memory", "memory", said.memory, &format!("{} available", text::size(said.memory)))?;
        self.fact("disk", "disk", said.disk, &format!("{} free in {place}", text::size(said.disk)))
    }

    /// What `doctor` has found, in one line; whether programs can be restored there at all.
    fn doctor(&mut self, said: Value) -> anyhow::Result<bool> {
        let findings = said.get("findings").and_then(Value::as_array).cloned().unwrap_or_default();
        let of = |grade: &str| -> Vec<String> {
            let member =
                |finding: &Value, key: &str| finding.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let those = findings.iter().filter(|finding| member(finding, "grade") == grade);
            those.map(|finding| format!("{} ({})", member(finding, "name"), member(finding, "state"))).collect()
        };
        let (limited, no) = (of("limited"), of("no"));
        let line = match (no.as_slice(), limited.as_slice()) {
            ([], []) => "everything is possible".to_owned(),
            ([], limited) => format!("limited: {}", limited.join("; ")),
            (no, []) => format!("not possible: {}", no.join("; ")),
            (no, limited) => format!("not possible: {}; limited: {}", no.join("; "), limited.join("; ")),
        };
        let works = no.is_empty();
        self.fact("doctor", "doctor", said, &line)?;
        Ok(works)
    }
}

/// Whether programs can be moved there.
fn examine(
    host: &Host,
    hosts: &Hosts,
    secrets: &mut Secrets,
    prompter: &mut dyn Prompter,
    report: &mut Report<'_, '_>,
) -> anyhow::Result<bool> {
    let mut printed = Ok(());
    let mut tell = |step: Step<'_>| {
        let told = match step {
            Step::Reached { address, took } => {
                let line = format!("{address}, after {}", text::took(took));
                report.fact("reached", "address", json!({ "address": address, "seconds": took.as_secs_f64() }), &line)
            }
            Step::Known(key) => report.fact(
                "host key",
                "host_key",
                key,
                &format!("{} {}, {}", key.algorithm, key.fingerprint, key.known),
            ),
            Step::LoggedIn(facts) => {
                let line = format!("as {} by {}; {}, {}", host.user, facts.login, facts.server, facts.cipher);
                let login =
                    json!({ "user": host.user, "by": facts.login, "server": facts.server, "cipher": facts.cipher });
                report.fact("login", "login", login, &line)
            }
        };
        if told.is_err() {
            printed = told;
        }
    };
    let session = Session::connect_telling(host, hosts, prompter, secrets, &mut tell)?;
    printed?;
    let installed = session.install(&mut |_, _| ())?;
    let line = match installed.sent {
        0 => format!("{}, was there", installed.path),
        sent => format!("{}, {} sent", installed.path, text::size(sent)),
    };
    report.fact("ckptctl", "ckptctl", &installed, &line)?;

    let (said, clock) = ask(&session, &installed.path)?;
    report.machine(&said, &installed.base)?;
    report.fact("clock", "clock", json!({ "ahead": clock.ahead, "within": clock.within }), &clock.line())?;
    doctor_there(&session, &installed.path, report)
}

impl Clock {
    fn line(&self) -> String {
        let within = self.within * 1e3;
        if self.ahead.abs() <= self.within {
            return format!("as here, within {within:.0} ms");
        }
        let way = if self.ahead > 0.0 { "ahead" } else { "behind" };
        format!("{:.3} s {way}, within {within:.0} ms", self.ahead.abs())
    }
}

fn ask(session: &Session, path: &str) -> anyhow::Result<(SelfCheck, Clock)> {
    let asked = clock();
    let finished = session.exec(&[path, "self-check"])?.finish()?;
    let answered = clock();
    let said: SelfCheck = serde_json::from_slice(&finished.output).map_err(|_| {
        let what = format!("ckptctl there does not answer: {}", finished.said());
        failed(session, what, "see what `PATH self-check` says there")
    })?;
    let clock = Clock::compare(asked, said.clock, answered);
    Ok((said, clock))
}

/// What `doctor` says there.
fn doctor_there(session: &Session, path: &str, report: &mut Report<'_, '_>) -> anyhow::Result<bool> {
    let finished = session.exec(&[path, "doctor", "--json"])?.finish()?;
    let said: Value = serde_json::from_slice(&finished.output).map_err(|_| {
        failed(session, format!("doctor does not answer there: {}", finished.said()), "run `PATH doctor` there")
    })?;
    report.doctor(said)
}

fn failed(session: &Session, what: String, advice: &str) -> SshError {
    SshError { fault: SshFault::Command, host: session.host().name.clone(), what, advice: advice.to_owned() }
}

/// As scripts read it.
fn fault(fault: SshFault) -> &'static str {
    match fault {
        SshFault::Configuration => "configuration",
        SshFault::Unreachable => "unreachable",
        SshFault::HostKey => "host_key",
        SshFault::Login => "login",
        SshFault::Command => "command",
        SshFault::Foreign => "foreign",
        SshFault::Install => "install",
        SshFault::Lost => "lost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_compared_with_the_middle_of_question_and_answer() {
        let second = 1_000_000_000;
        let same = Clock::compare(0, second / 20, second / 10);
        assert_eq!(same.line(), "as here, within 50 ms");
        let ahead = Clock::compare(0, 5 * second, second / 10);
        assert_eq!(ahead.line(), "4.950 s ahead, within 50 ms");
        let behind = Clock::compare(10 * second, 0, 10 * second);
        assert_eq!(behind.line(), "10.000 s behind, within 0 ms");
    }
}
