//! The example, running.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::cancel;
use crate::demo::{PATIENCE, cancelled};

/// A running program that prints numbers. It is ended when this is dropped.
pub struct Counter {
    child: Child,
    lines: Receiver<String>,
    /// What it said on its error output so far.
    said: Arc<Mutex<String>>,
}

impl Counter {
    pub fn start(mut command: Command) -> anyhow::Result<Self> {
        // Ctrl+C on the terminal is for the demonstration, which ends the example by itself.
        command.process_group(0);
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
    pub fn numbers(&mut self, count: usize) -> anyhow::Result<Vec<u64>> {
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
    pub fn rest(&mut self) -> anyhow::Result<Vec<u64>> {
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
                return Err(cancelled());
            }
            match self.lines.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => return Ok(Some(line)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => bail!("the example printed nothing for {} s", PATIENCE.as_secs()),
            }
        }
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("the example has no number")?;
        kill_process(pid, signal).context("the example cannot be sent a signal")
    }

    /// Waits until it has ended. A program that says that it was not saved does not end.
    pub fn wait(&mut self) -> anyhow::Result<ExitStatus> {
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

    pub fn said(&self) -> String {
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
