//! `doctor`: what this machine allows, what follows from it, and how to allow more.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;
use ckpt_core::proc::Status;
use ckpt_core::{Abilities, Class};
use serde::Serialize;

use crate::cli::DoctorArgs;
use crate::{output, text};

/// What was looked at.
struct Facts {
    abilities: Abilities,
    is_root: bool,
    /// `Seccomp` of `/proc/self/status`.
    seccomp: u32,
    /// `/proc/meminfo`, in bytes where the file says kB.
    memory: BTreeMap<String, u64>,
    /// The setting of transparent huge pages, if the kernel has them.
    huge_pages: Option<String>,
    /// The sysctls that forbid user namespaces and are set, with the value that would allow them.
    forbids_namespaces: Vec<&'static str>,
    has_compiler: bool,
}

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Grade {
    Ok,
    Limited,
    No,
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    /// What was looked at.
    name: &'static str,
    grade: Grade,
    /// What it is like.
    state: String,
    /// What follows from it.
    consequence: String,
    /// How to allow more; empty where nothing is missing.
    advice: String,
}

/// Tells what this machine allows. The status is 0 when programs can be saved and restored, even with limits, else that
/// of [`Class::NotPermitted`].
pub fn doctor(args: &DoctorArgs) -> anyhow::Result<i32> {
    let facts = Facts::gather();
    let findings = examine(&facts);
    if args.json {
        output::print_json(&serde_json::json!({ "abilities": facts.abilities, "findings": findings }))?;
    } else {
        output::print(&report(&facts, &findings))?;
    }
    let is_impossible = findings.iter().any(|finding| finding.grade == Grade::No);
    Ok(if is_impossible { Class::NotPermitted as i32 } else { 0 })
}

/// The same for another machine, of what was found out already.
pub fn report_of(abilities: Abilities) -> anyhow::Result<serde_json::Value> {
    let facts = Facts::with(abilities);
    let findings = examine(&facts);
    serde_json::to_value(serde_json::json!({ "abilities": facts.abilities, "findings": findings }))
        .context("the findings do not fit JSON")
}

impl Facts {
    fn gather() -> Self {
        Self::with(ckpt_core::abilities())
    }

    fn with(abilities: Abilities) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let is = |path: &str, value: &str| read(path).trim() == value;
        let switches = [
            ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
            ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
            (
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                "1",
                "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
            ),
        ];
        let forbids = switches.iter().filter(|(path, value, _)| is(path, value)).map(|(_, _, advice)| *advice);
        Self {
            abilities,
            is_root: rustix::process::geteuid().is_root(),
            seccomp: Status::of(rustix::process::getpid().as_raw_nonzero().get()).map_or(0, |status| status.seccomp),
            memory: parse_meminfo(&read("/proc/meminfo")),
            huge_pages: chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
            forbids_namespaces: forbids.collect(),
            has_compiler: has_compiler(),
        }
    }
}

/// Judges each fact.
fn examine(facts: &Facts) -> Vec<Finding> {
    vec![
        tracing(facts),
        nest(facts),
        ids(facts),
        pagemap_scan(facts),
        userfaultfd(facts),
        timers(facts),
        seccomp(facts),
        huge_pages(facts),
        processor(facts),
        memory(facts),
        compiler(facts),
    ]
}

fn finding(name: &'static str, grade: Grade, state: impl Into<String>, consequence: &str, advice: &str) -> Finding {
    Finding { name, grade, state: state.into(), consequence: consequence.to_owned(), advice: advice.to_owned() }
}

fn tracing(facts: &Facts) -> Finding {
    let name = "tracing";
    let all = "every process of yours can be saved";
    let allow = "as root: sysctl -w kernel.yama.ptrace_scope=0";
    match facts.abilities.ptrace_scope {
        None => finding(name, Grade::Ok, "without restriction by Yama", all, ""),
        Some(0) => finding(name, Grade::Ok, "Yama ptrace_scope 0", all, ""),
        Some(scope @ (1 | 2)) if facts.is_root => finding(
            name,
            Grade::Ok,
            format!("Yama ptrace_scope {scope}, you are root"),
            "every process can be saved",
            "",
        ),
        Some(1) => finding(
            name,
            Grade::Limited,
            "Yama ptrace_scope 1",
            "jobs, those started with `ckptctl run`, can be saved, and programs built with `ckptctl build` save themselves; others cannot be saved from outside",
            allow,
        ),
        Some(2) => finding(name, Grade::No, "Yama ptrace_scope 2", "only root can save programs", allow),
        Some(scope) => finding(
            name,
            Grade::No,
            format!("Yama ptrace_scope {scope}"),
            "nobody can trace, so nothing can be saved or restored",
            "boot with ptrace_scope below 3; it cannot be lowered while the machine runs",
        ),
    }
}

fn nest(facts: &Facts) -> Finding {
    let name = "namespaces";
    match &facts.abilities.nest {
        Ok(lacks) if lacks.is_empty() => {
            let consequence = "restored programs keep their process ids, and their clocks go on";
            finding(name, Grade::Ok, "PID, time and mount namespaces can be made", consequence, "")
        }
        Ok(lacks) => finding(
            name,
            Grade::Limited,
            "namespaces can be made, but not completely",
            &lacks.join("; "),
            "run ckptctl outside a container, or let the container mount /proc (systempaths=unconfined)",
        ),
        Err(why) => {
            let advice = match facts.forbids_namespaces.as_slice() {
                [] => "if this is a container, let it make user namespaces (for Docker, --security-opt seccomp=unconfined)".to_owned(),
                switches => format!("as root: {}", switches.join(" && ")),
            };
            let consequence = "restored programs get new process ids, and CLOCK_MONOTONIC is the machine's";
            finding(name, Grade::Limited, why.clone(), consequence, &advice)
        }
    }
}

fn ids(facts: &Facts) -> Finding {
    let name = "old ids";
    if facts.abilities.checkpoint_capability {
        let consequence = "free process ids are given again outside of namespaces too";
        return finding(name, Grade::Ok, "CAP_CHECKPOINT_RESTORE", consequence, "");
    }
    if facts.abilities.nest.is_ok() {
        return finding(name, Grade::Ok, "in namespaces", "old process ids are given in a nest", "");
    }
    finding(
        name,
        Grade::Limited,
        "no CAP_CHECKPOINT_RESTORE",
        "old process ids cannot be given here",
        "allow namespaces, or as root: setcap cap_checkpoint_restore+ep on the ckptctl binary",
    )
}

fn pagemap_scan(facts: &Facts) -> Finding {
    let name = "page scan";
    if facts.abilities.pagemap_scan {
        return finding(name, Grade::Ok, "PAGEMAP_SCAN", "a large program's pages are found quickly", "");
    }
    let consequence = "the page tables are read entry by entry: slower with large address spaces";
    finding(name, Grade::Limited, "no PAGEMAP_SCAN", consequence, "use Linux 6.7 or newer")
}

fn userfaultfd(facts: &Facts) -> Finding {
    let name = "userfaultfd";
    // Said because images taken while a program runs will need it.
    let consequence = "no verb of this version needs it";
    if facts.abilities.userfaultfd {
        return finding(name, Grade::Ok, "can be used", consequence, "");
    }
    finding(
        name,
        Grade::Limited,
        "cannot be used",
        consequence,
        "use Linux 5.11 or newer, built with CONFIG_USERFAULTFD",
    )
}

fn timers(facts: &Facts) -> Finding {
    let name = "timer ids";
    if facts.abilities.timer_ids {
        return finding(name, Grade::Ok, "PR_TIMER_CREATE_RESTORE_IDS", "POSIX timers get their old ids at once", "");
    }
    let consequence = "POSIX timers get their old ids by counting up to them: slow for a program that has made many";
    finding(name, Grade::Limited, "no PR_TIMER_CREATE_RESTORE_IDS", consequence, "use Linux 6.15 or newer")
}

fn seccomp(facts: &Facts) -> Finding {
    let name = "seccomp";
    if facts.seccomp == 0 {
        return finding(name, Grade::Ok, "no filter on this shell", "no system call is withheld", "");
    }
    finding(
        name,
        Grade::Limited,
        "this shell runs under a filter, as in a container",
        "it may withhold system calls; programs outside of it are refused or restored under it",
        "run ckptctl where the program runs, or start the container with a profile that allows ptrace and namespaces",
    )
}

fn huge_pages(facts: &Facts) -> Finding {
    let name = "huge pages";
    let reserved = facts.memory.get("HugePages_Total").copied().unwrap_or_default();
    let free = facts.memory.get("HugePages_Free").copied().unwrap_or_default();
    let transparent = facts.huge_pages.as_deref().unwrap_or("not in this kernel");
    let state = format!("transparent: {transparent}; reserved: {reserved}, of which free: {free}");
    let consequence = "a program that uses reserved huge pages needs as many free ones to be restored";
    finding(name, Grade::Ok, state, consequence, "")
}

fn processor(facts: &Facts) -> Finding {
    let machine = &facts.abilities.machine;
    let widest = ["amx_tile", "avx512f", "avx2", "avx"].into_iter().find(|name| machine.cpu_features.contains(*name));
    let state = format!("{} ({} features, {})", machine.cpu, machine.cpu_features.len(), widest.unwrap_or("no AVX"));
    let consequence = "images made here need a processor with these features; `ckptctl doctor --json` lists them";
    finding("processor", Grade::Ok, state, consequence, "")
}

fn memory(facts: &Facts) -> Finding {
    let available = facts.memory.get("MemAvailable").copied().unwrap_or_default();
    let swap = facts.memory.get("SwapFree").copied().unwrap_or_default();
    let state = format!("{} available, {} of swap free", text::size(available), text::size(swap));
    finding("memory", Grade::Ok, state, "programs that need less can be restored", "")
}

fn compiler(facts: &Facts) -> Finding {
    if facts.has_compiler {
        let consequence = "`ckptctl build` and `ckptctl demo` work";
        return finding("compiler", Grade::Ok, "a C compiler is there", consequence, "");
    }
    finding(
        "compiler",
        Grade::Limited,
        "no C compiler",
        "`ckptctl build` and `ckptctl demo` do not work; everything else does",
        "install one (Debian, Ubuntu: apt install gcc libc6-dev) or name it in CC",
    )
}

fn report(facts: &Facts, findings: &[Finding]) -> String {
    let machine = &facts.abilities.machine;
    let user = if facts.is_root { "root" } else { "an ordinary user" };
    let mut out = format!("{}, Linux {}, as {user}\n", text::plain(&machine.host), text::plain(&machine.kernel));
    for Finding { name, grade, state, consequence, advice } in findings {
        let mark = match grade {
            Grade::Ok => "[ok]",
            Grade::Limited => "[limited]",
            Grade::No => "[no]",
        };
        let state = text::plain(state);
        let _ = writeln!(out, "{mark:<10}{name}: {state}\n          {}", text::plain(consequence));
        if !advice.is_empty() {
            let _ = writeln!(out, "          to allow more: {advice}");
        }
    }
    out
}

/// The word in brackets: `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(word, _)| word.to_owned())
}

fn parse_meminfo(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let mut words = value.split_whitespace();
        let number: u64 = words.next()?.parse().ok()?;
        let unit = if words.next() == Some("kB") { 1024 } else { 1 };
        Some((name.to_owned(), number.saturating_mul(unit)))
    };
    text.lines().filter_map(line).collect()
}

fn has_compiler() -> bool {
    let name = std::env::var_os("CC").filter(|name| !name.is_empty()).unwrap_or_else(|| "cc".into());
    // CC may carry flags: `gcc -std=c99`.
    let name = name.to_string_lossy().split(' ').next().unwrap_or_default().to_owned();
    if name.contains('/') {
        return Path::new(&name).is_file();
    }
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(&name).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(ptrace_scope: Option<u32>, nest: Result<Vec<String>, String>) -> Facts {
        let machine = ckpt_core::resource::machine::Machine {
            host: "here".to_owned(),
            kernel: "6.18".to_owned(),
            cpu: "A CPU".to_owned(),
            cpu_features: ["avx2".to_owned()].into(),
            measured_state: true,
            xsave: Vec::new(),
        };
        let abilities = Abilities {
            machine,
            nest,
            pagemap_scan: true,
            userfaultfd: true,
            timer_ids: true,
            checkpoint_capability: false,
            ptrace_scope,
        };
        Facts {
            abilities,
            is_root: false,
            seccomp: 0,
            memory: BTreeMap::new(),
            huge_pages: None,
            forbids_namespaces: Vec::new(),
            has_compiler: true,
        }
    }

    fn grade(facts: &Facts, name: &str) -> Option<Grade> {
        examine(facts).iter().find(|finding| finding.name == name).map(|finding| finding.grade)
    }

    #[test]
    fn tracing_follows_yama() {
        let nest = || Ok(Vec::new());
        assert_eq!(grade(&facts(None, nest()), "tracing"), Some(Grade::Ok));
        assert_eq!(grade(&facts(Some(1), nest()), "tracing"), Some(Grade::Limited));
        assert_eq!(grade(&facts(Some(2), nest()), "tracing"), Some(Grade::No));
        assert_eq!(grade(&Facts { is_root: true, ..facts(Some(2), nest()) }, "tracing"), Some(Grade::Ok));
        assert_eq!(grade(&Facts { is_root: true, ..facts(Some(3), nest()) }, "tracing"), Some(Grade::No));
    }

    #[test]
    fn what_is_limited_comes_with_advice() {
        let mut facts = facts(Some(1), Err("namespaces are not allowed here".to_owned()));
        facts.forbids_namespaces.push("sysctl -w user.max_user_namespaces=10000");
        facts.abilities.pagemap_scan = false;
        facts.abilities.timer_ids = false;
        facts.seccomp = 2;
        facts.has_compiler = false;
        let findings = examine(&facts);
        for finding in findings.iter().filter(|finding| finding.grade != Grade::Ok) {
            assert!(!finding.advice.is_empty(), "{}", finding.name);
        }
        assert_eq!(findings.iter().filter(|finding| finding.grade == Grade::Limited).count(), 7);
        assert!(
            report(&facts, &findings).contains("to allow more: as root: sysctl -w user.max_user_namespaces=10000\n")
        );
    }

    #[test]
    fn system_files_are_read() {
        let memory = parse_meminfo("MemAvailable:    2 kB\nHugePages_Total:  3\nodd\n");
        assert_eq!((memory.get("MemAvailable"), memory.get("HugePages_Total")), (Some(&2048), Some(&3)));
        assert_eq!(chosen("always [madvise] never\n").as_deref(), Some("madvise"));
        assert_eq!(chosen(""), None);
    }
}
