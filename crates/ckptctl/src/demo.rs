//! `demo`: what ckptctl is for, from end to end, on a program that counts.
//!
//! Everything is done by the verbs, which are called as a user would call them.

mod be_host;
mod counter;
mod host;
mod verbs;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ckpt_core::Class;
use rustix::process::Signal;

use crate::demo::counter::Counter;
use crate::demo::host::{Host, Tools};
use crate::demo::verbs::Verbs;
use crate::failure::Failure;
use crate::{cancel, output, text};

pub use crate::demo::be_host::{ThrowAwayHostArgs, throw_away_host};

/// The program. It knows nothing of checkpoints.
const SOURCE: &str = r#"#include <stdio.h>
#include <time.h>

int main(void)
{
    for (int number = 1;; number++) {
        printf("%d\n", number);
        fflush(stdout);
        nanosleep(&(struct timespec){0, 100000000}, NULL);
    }
}
"#;
/// How many numbers each stage waits for.
const NUMBERS: usize = 5;
/// How long anything may take before the demonstration gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// The job's name.
const JOB: &str = "count";
/// The host's name.
const HOST: &str = "throwaway";

/// Runs the demonstration; an error says what did not work.
pub fn demo() -> anyhow::Result<i32> {
    // Before anything of ours is open: descriptors that a shell or terminal leaked to us would be the example's as well,
    // and a program that holds an open pipe cannot be saved.
    ckpt_trace::sys::close_range(3, u32::MAX);
    cancel::watch()?;
    let directory = tempfile::Builder::new().prefix("ckptctl-demo-").tempdir();
    let directory = directory.context("no directory for the demonstration can be made; name one in TMPDIR")?;
    // Whatever is still there when this function is left is ended before its directory is removed.
    let verbs = Verbs::in_directory(directory.path())?;
    save_and_restore(&verbs)?;
    match Tools::find() {
        Ok(tools) => move_there_and_back(&verbs, &tools)?,
        Err(missing) => say(&format!(
            "   To see it move to another host and home again: install {missing} and start this once more"
        ))?,
    }
    Ok(0)
}

/// The first half: Ctrl+C saves the program, and `-r` brings it back.
fn save_and_restore(verbs: &Verbs) -> anyhow::Result<()> {
    let program = verbs.work().join("count");
    let took = build(verbs, &program)?;
    say(&format!("1. Wrote a C program that counts, and built it: ckptctl build count.c ({})", text::took(took)))?;

    let mut first = Counter::start(verbs.command(&program))?;
    say("2. Started it: ./count")?;
    let mut numbers = first.numbers(NUMBERS)?;
    say(&format!("   {}", row(&numbers)))?;

    let began = Instant::now();
    first.signal(Signal::INT)?;
    let status = first.wait()?;
    let took = began.elapsed();
    numbers.extend(first.rest()?);
    let image = verbs.work().join("count.ckpt");
    let Ok(stat) = std::fs::metadata(&image) else {
        bail!("Ctrl+C did not save the program ({status}): {}", first.said());
    };
    say(&format!(
        "3. Pressed Ctrl+C at {}: saved to count.ckpt ({}), the program has ended ({})",
        last(&numbers),
        text::size(stat.len()),
        text::took(took)
    ))?;

    let began = Instant::now();
    let mut restore = verbs.command(&program);
    restore.arg("-r");
    let mut second = Counter::start(restore)?;
    let resumed_from = numbers.len();
    numbers.extend(second.numbers(1)?);
    let took = began.elapsed();
    say(&format!("4. Restored it: ./count -r; its next number came after {}", text::took(took)))?;
    numbers.extend(second.numbers(NUMBERS - 1)?);
    say(&format!("   {}", row(&numbers[resumed_from..])))?;
    second.signal(Signal::TERM)?;
    second.wait()?;
    numbers.extend(second.rest()?);

    check(&numbers)?;
    say(&format!("   1 to {}: no number lost, none repeated", last(&numbers)))
}

/// The second half: the running program goes to another host and comes home.
fn move_there_and_back(verbs: &Verbs, tools: &Tools) -> anyhow::Result<()> {
    let began = Instant::now();
    let host = Host::make(verbs, tools)?;
    say(&format!("5. Made a host to move it to ({}): {}", text::took(began.elapsed()), host.describe()))?;
    verbs.run(&host.add())?;

    let program = verbs.work().join("count");
    let mut run = verbs.verb(&["run", "--name", JOB, "--"]);
    run.arg(program);
    let mut counter = Counter::start(run)?;
    say("6. Started the program as a job: ckptctl run -- ./count")?;
    let mut numbers = counter.numbers(NUMBERS)?;
    say(&format!("   {}", row(&numbers)))?;

    for (step, place) in [(7, HOST), (8, "local")] {
        let (moved, took) = verbs.run_json(&["migrate", JOB, place, "--json"])?;
        let downtime = moved["downtime"].as_f64().unwrap_or_default();
        let word = if place == HOST { "there" } else { "home" };
        say(&format!(
            "{step}. Moved it {word}: ckptctl migrate {JOB} {place} ({}; it stood still for {})",
            text::took(took),
            text::took(Duration::from_secs_f64(downtime.max(0.0)))
        ))?;
        // Those that it printed before it was frozen come first.
        let before = numbers.len();
        numbers.extend(counter.numbers(2 * NUMBERS)?);
        say(&format!("   {}", row(&numbers[before..])))?;
        let (jobs, _) = verbs.run_json(&["ps", "--json"])?;
        let name = jobs["jobs"][0]["host"].as_str().unwrap_or_default();
        if name != place {
            bail!("`ckptctl ps` says that the job is on {name:?} and not on {place:?}; please report this");
        }
        say(&format!("   ckptctl ps: {JOB} is on {name}, where it is process {}", moved["pid"]))?;
    }
    verbs.run(&["stop".to_owned(), JOB.to_owned()])?;
    counter.wait()?;
    numbers.extend(counter.rest()?);
    check(&numbers)?;
    say(&format!(
        "9. 1 to {}: no number lost, none repeated. Ended the program and the host, and removed all files",
        last(&numbers)
    ))
}

/// Writes the source and builds it with this very program.
fn build(verbs: &Verbs, program: &Path) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let source = verbs.work().join("count.c");
    std::fs::write(&source, SOURCE).with_context(|| format!("cannot write {}", text::path(&source)))?;
    let built = verbs.verb(&["build"]).arg(&source).arg("-o").arg(program).output();
    let built = built.context("this program cannot start itself to build the example")?;
    if cancel::is_cancelled() {
        return Err(cancelled());
    }
    if !built.status.success() {
        let said = String::from_utf8_lossy(&built.stderr);
        // The first line of the compiler, or the only one of `build`, which says what to install.
        let said = said.trim().trim_start_matches("ckptctl: ");
        return Err(Failure::new(Class::Failed, format!("the example could not be built: {said}")).into());
    }
    Ok(began.elapsed())
}

/// Fails unless the numbers are 1, 2, 3 ...
fn check(numbers: &[u64]) -> anyhow::Result<()> {
    for (expected, number) in (1..).zip(numbers) {
        if *number != expected {
            bail!(
                "after {} came {number}: the restored program did not go on where it was; please report this",
                expected - 1
            );
        }
    }
    Ok(())
}

/// What the user is told who has cancelled.
fn cancelled() -> anyhow::Error {
    Failure::new(Class::Cancelled, "cancelled; everything was ended and removed").into()
}

fn last(numbers: &[u64]) -> u64 {
    numbers.last().copied().unwrap_or_default()
}

fn row(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

fn say(line: &str) -> anyhow::Result<()> {
    output::print(&format!("{line}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_or_repeated_number_is_found() {
        assert!(check(&[1, 2, 3]).is_ok());
        assert!(check(&[1, 2, 2, 3]).is_err());
        assert!(check(&[1, 2, 4]).is_err());
        assert!(check(&[2]).is_err());
    }
}
