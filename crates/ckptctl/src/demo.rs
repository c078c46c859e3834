//! `demo`: the main job from end to end, on a program that counts.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ckpt_core::Class;
use rustix::process::{Pid, Signal, kill_process};

use crate::failure::Failure;
use crate::{cancel, output, text};

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
/// How many numbers each half of the demonstration waits for.
const NUMBERS: usize = 5;
/// How long anything may take before the demonstration gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the demonstration; an error says what did not work.
pub fn demo() -> anyhow::Result<i32> {
    // Before anything of ours is open: descriptors that a shell or terminal leaked to us would be the example's as well,
    // and a program that holds an open pipe cannot be saved.
    ckpt_trace::sys::close_range(3, u32::MAX);
    cancel::watch()?;
    let directory = tempfile::Builder::new().prefix("ckptctl-demo-").tempdir();
    let directory = directory.context("no directory for the demonstration can be made; name one in TMPDIR")?;
    let program = directory.path().join("count");

    let took = build(directory.path(), &program)?;
    say(&format!(
        "1. wrote a C program that counts, and built it with `ckptctl build count.c` ({})",
        text::took(took)
    ))?;

    let mut first = Counter::start(Command::new(&program))?;
    say("2. started ./count")?;
    let mut numbers = first.numbers(NUMBERS)?;
    say(&format!("   {}", row(&numbers)))?;

    let began = Instant::now();
    first.signal(Signal::INT)?;
    let status = first.wait()?;
    let took = began.elapsed();
    numbers.extend(first.rest()?);
    let image = directory.path().join("count.ckpt");
    let Ok(stat) = std::fs::metadata(&image) else {
        bail!("Ctrl+C did not save the program ({status}): {}", first.said());
    };
    let size = text::size(stat.len());
    say(&format!(
        "3. pressed Ctrl+C at {}: saved to count.ckpt ({size}), the program has ended ({})",
        last(&numbers),
        text::took(took)
    ))?;

    let began = Instant::now();
    let mut restore = Command::new(&program);
    restore.arg("-r");
    let mut second = Counter::start(restore)?;
    let resumed_from = numbers.len();
    numbers.extend(second.numbers(1)?);
    let took = began.elapsed();
    say(&format!("4. restored it with ./count -r; its next number came after {}", text::took(took)))?;
    numbers.extend(second.numbers(NUMBERS - 1)?);
    say(&format!("   {}", row(&numbers[resumed_from..])))?;
    second.signal(Signal::TERM)?;
    second.wait()?;
    numbers.extend(second.rest()?);

    check(&numbers)?;
    say(&format!("5. 1 to {}: no number lost, none repeated. Ended it and cleaned up", last(&numbers)))?;
    Ok(0)
}

/// Writes the source and builds it with this very program.
fn build(directory: &Path, program: &Path) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let source = directory.join("count.c");
    std::fs::write(&source, SOURCE).with_context(|| format!("cannot write {}", text::path(&source)))?;
    let this = std::env::current_exe().context("this program cannot find its own file")?;
    let built = Command::new(this).arg("build").arg(&source).arg("-o").arg(program).output();
    let built = built.context("this program cannot start itself to build the example")?;
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

fn last(numbers: &[u64]) -> u64 {
    numbers.last().copied().unwrap_or_default()
}

fn row(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

fn say(line: &str) -> anyhow::Result<()> {
    output::print(&format!("{line}\n"))
}

/// A running program that prints numbers. It is ended when this is dropped.
struct Counter {
    child: Child,
    lines: Receiver<String>,
    /// What it said on its error output so far.
    said: Arc<Mutex<String>>,
}

impl Counter {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("the example cannot be started")?;
        let stdout = child.stdout.take().context("the example has no output")?;
        let stderr = child.stderr.take().context("the example has no error output")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let said = Arc::new(Mutex::new(String::new()));
        let all = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                all.push_str(&line);
                all.push('\n');
            }
        });
        Ok(Self { child, lines, said })
    }

    /// The next numbers.
    fn numbers(&mut self, count: usize) -> anyhow::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        while numbers.len() < count {
            let Some(line) = self.next_line()? else {
                let status = self.wait()?;
                bail!("the example ended too early ({status}): {}", self.said());
            };
            numbers.push(parse(&line)?);
        }
        Ok(numbers)
    }

    /// The numbers that were printed before it ended.
    fn rest(&mut self) -> anyhow::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        while let Some(line) = self.next_line()? {
            numbers.push(parse(&line)?);
        }
        Ok(numbers)
    }

    fn next_line(&self) -> anyhow::Result<Option<String>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if cancel::is_cancelled() {
                return Err(Failure::new(Class::Cancelled, "cancelled; the example was ended and removed").into());
            }
            match self.lines.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => return Ok(Some(line)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => bail!("the example printed nothing for {} s", PATIENCE.as_secs()),
            }
        }
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("the example has no number")?;
        kill_process(pid, signal).context("the example cannot be sent a signal")
    }

    /// Waits until it has ended. A program that says that it was not saved does not end.
    fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().context("the example cannot be waited for")? {
                return Ok(status);
            }
            let said = self.said();
            if said.contains("not saved") || Instant::now() > deadline || cancel::is_cancelled() {
                bail!("the example did not end: {said}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner).trim().to_owned();
        if said.is_empty() { "it said nothing about it".to_owned() } else { said }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // Most often it has ended already. A restore passes SIGTERM on to the program, as it could not SIGKILL.
        const GRACE: Duration = Duration::from_secs(2);
        let deadline = Instant::now() + GRACE;
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.signal(Signal::TERM);
        }
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse(line: &str) -> anyhow::Result<u64> {
    line.parse().with_context(|| format!("the example printed {line:?} and not a number"))
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
