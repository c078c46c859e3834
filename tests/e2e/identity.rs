//! Ids and addresses: the old ones where that is possible, and a program that works where it is not.

use std::fs;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ckpt_tests::{Case, Ending, Roundtrip, Running, Suite, Whos};

pub fn add(suite: &mut Suite) {
    suite.add("identity::addresses_are_randomized_and_kept", Whos::Both, addresses);
    suite.add("identity::old_pid_taken_by_another", Whos::Root, pid_taken);
    suite.add("identity::original_still_runs", Whos::Both, |case| beside_the_original(case, "process", &[], &[]));
    suite.add("identity::new_ids_without_a_nest", Whos::Both, |case| {
        beside_the_original(case, "thread_state", &["new-ids"], &["--nest", "never"])
    });
    for (program, args) in [
        ("thread_state", &["new-ids"][..]),
        ("threads_load", &[]),
        ("heap", &[]),
        ("blocked", &["nanosleep", "poll", "cond-monotonic", "futex-rel"]),
    ] {
        let name = format!("identity::user_namespaces_forbidden_{program}");
        suite.add(&name, Whos::User, move |case| namespaces_forbidden(case, program, args));
    }
}

fn addresses(case: &Case) -> Result<()> {
    let setting = fs::read_to_string("/proc/sys/kernel/randomize_va_space")?;
    ensure!(setting.trim() == "2", "these tests must run with full randomization, not {setting}");
    let program = Roundtrip::of("addresses");
    let first = program.start(case)?;
    let second = program.start(case)?;
    let (here, there) = (first.stdout(), second.stdout());
    let (here, there) = (line(&here, 0)?, line(&there, 0)?);
    for (a, b) in here.split(' ').skip(1).zip(there.split(' ').skip(1)) {
        ensure!(a != b, "not randomized: {here}, {there}");
    }
    let image = case.path("image");
    case.checkpoint(first.pid(), &image, &["--stop"])?;
    case.go()?;
    for _ in 0..3 {
        let mut restored = case.restore(&image, &[])?;
        ensure!(restored.wait()? == Ending::Exited(0), "{}", restored.streams());
        let said = restored.stdout();
        // The code and the stack; the heap has another address in its second word.
        let words = |line: &str| -> Vec<String> {
            line.split(' ').enumerate().filter(|(i, _)| *i != 2).map(|(_, w)| w.to_owned()).collect()
        };
        ensure!(words(line(&said, 0)?) == words(here), "{said} was {here}");
    }
    Ok(())
}

fn line(text: &str, index: usize) -> Result<&str> {
    text.lines().nth(index).with_context(|| format!("no line {index} in {text:?}"))
}

/// A process that sits on an id; ended when the test is over.
struct Squatter(Child);

impl Drop for Squatter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pid_taken(case: &Case) -> Result<()> {
    let mut program = Roundtrip::of("process").start(case)?;
    let image = case.path("image");
    let pid = program.pid();
    case.checkpoint(pid, &image, &["--stop"])?;
    program.wait()?;
    let _squatter = squat(pid)?;
    let restored = case.restore(&image, &[])?;
    finishes_well(case, restored)
}

/// Other tests start processes at the same time, so it may take a few tries to get the number.
fn squat(pid: i32) -> Result<Squatter> {
    for _ in 0..200 {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())?;
        let squatter = Squatter(Command::new("sleep").arg("100").spawn()?);
        if i64::from(squatter.0.id()) == i64::from(pid) {
            return Ok(squatter);
        }
        // A stranger has got it, who will not stay long.
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("the id {pid} was never given")
}

/// The program goes on while its restored copy runs, which must not get into its way.
fn beside_the_original(case: &Case, program: &str, args: &[&str], flags: &[&str]) -> Result<()> {
    let original = Roundtrip::of(program).args(args).start(case)?;
    let image = case.path("image");
    case.checkpoint(original.pid(), &image, &[])?;
    let restored = case.restore(&image, flags)?;
    finishes_well(case, restored)?;
    finishes_well(case, original)
}

fn finishes_well(case: &Case, mut program: Running) -> Result<()> {
    case.go()?;
    ensure!(program.wait()? == Ending::Exited(0), "{}", program.streams());
    ensure!(program.stdout().ends_with("as expected\n"), "{}", program.streams());
    Ok(())
}

fn namespaces_forbidden(case: &Case, program: &str, args: &[&str]) -> Result<()> {
    let program = Roundtrip::of(program).args(args).start(case)?;
    let image = case.path("image");
    case.checkpoint(program.pid(), &image, &["--stop"])?;
    let mut forbidden = case.program("no_user_namespaces")?;
    forbidden.arg(case.stage().ckptctl()).arg("restore").arg(&image);
    let mut restored = case.start(&mut forbidden)?;
    case.go()?;
    ensure!(restored.wait()? == Ending::Exited(0), "{}", restored.streams());
    ensure!(restored.stdout().ends_with("as expected\n"), "{}", restored.streams());
    let notice = restored.stderr();
    let told = notice.lines().filter(|line| line.contains("new process and thread ids")).count();
    ensure!(told == 1, "the user is told once: {notice:?}");
    Ok(())
}
