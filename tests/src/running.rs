//! A process that a test has started, ended when the test is over.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::capture::Capture;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It exited with this status.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
}

impl From<ExitStatus> for Ending {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Exited(code),
            (None, signal) => Self::Signaled(signal.unwrap_or_default()),
        }
    }
}

/// A child of the harness; dropped, it is killed and reaped.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Capture,
    stderr: Capture,
    deadline: Instant,
    ended: Option<Ending>,
}

impl Running {
    pub(crate) fn new(mut child: Child, terminal: Option<Capture>, deadline: Instant) -> Self {
        let stdout = terminal.or_else(|| child.stdout.take().map(Capture::of));
        let stderr = child.stderr.take().map(Capture::of);
        Self {
            stdin: child.stdin.take(),
            stdout: stdout.unwrap_or_else(Capture::nothing),
            stderr: stderr.unwrap_or_else(Capture::nothing),
            deadline,
            ended: None,
            child,
        }
    }

    /// The process id, as the harness sees it.
    ///
    /// # Panics
    /// Never: a process id fits an `i32`.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(i32::MAX)
    }

    /// What it has printed so far; for a program on a terminal, what the terminal shows.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has printed to its standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Writes to its standard input, which stays open.
    ///
    /// # Errors
    /// When the program no longer reads.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its input was not piped")?;
        stdin.write_all(bytes)?;
        Ok(stdin.flush()?)
    }

    /// Its standard input ends.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Takes its terminal away, as when the window is closed, and waits for its end.
    ///
    /// # Errors
    /// When the deadline passes before.
    pub fn hang_up(&mut self, terminal: crate::Terminal) -> Result<()> {
        drop(terminal);
        while self.child.try_wait()?.is_none() {
            if Instant::now() > self.deadline {
                bail!("did not end; {}", self.streams());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid()).context("no pid")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.pid()))
    }

    /// Waits until its output contains `text`.
    ///
    /// # Errors
    /// When it ends or the deadline passes before.
    pub fn wait_for_text(&mut self, text: &str) -> Result<()> {
        loop {
            if self.stdout().contains(text) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                self.drain();
                if !self.stdout().contains(text) {
                    bail!("{status} before it printed {text:?}; {}", self.streams());
                }
            }
            if Instant::now() > self.deadline {
                bail!("never printed {text:?}; {}", self.streams());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until it ends and all that it printed is read.
    ///
    /// # Errors
    /// When the deadline passes before.
    pub fn wait(&mut self) -> Result<Ending> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.drain();
                self.ended = Some(status.into());
                return Ok(status.into());
            }
            if Instant::now() > self.deadline {
                bail!("did not end; {}", self.streams());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// True until it has ended.
    ///
    /// # Errors
    /// When the kernel cannot say.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Kills it and waits for its end.
    ///
    /// # Errors
    /// When the kernel cannot say how it ended.
    pub fn kill(&mut self) -> Result<Ending> {
        self.child.kill()?;
        Ok(self.child.wait()?.into())
    }

    /// Both its streams, and how it ended, for a message about a failure.
    #[must_use]
    pub fn streams(&self) -> String {
        let ended = self.ended.map_or_else(String::new, |ending| format!("{ending:?}, "));
        format!("{ended}stdout {:?}, stderr {:?}", self.stdout(), self.stderr())
    }

    // Another process may hold the pipe (a program restored in the background): then there is no
    // end of file, and what the ended process itself wrote has long been read.
    fn drain(&self) {
        let limit = Instant::now() + Duration::from_secs(2);
        while !(self.stdout.has_ended() && self.stderr.has_ended()) && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
