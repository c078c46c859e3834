//! Keeping a program: learning of its stops and its end without waiting for nothing else.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use ckpt_trace::Tid;
use rustix::process::{Pid, WaitOptions, waitpid};

use super::Restored;
use super::foreground::{Ending, is_readable};
use super::nest::Happened;
use crate::Error;

/// A program that the caller started or restored.
#[derive(Debug)]
pub struct Kept {
    program: Pid,
    init: Option<Tid>,
    reports: Option<File>,
}

/// What happened to a kept program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// A signal stopped it.
    Stopped,
    /// It ended, and has been collected: its number may be another process's from now on.
    Ended(Ending),
}

impl Restored {
    /// The program, for a caller that has more to do than to wait for it.
    ///
    /// # Errors
    /// [`Error::NoProcess`].
    pub fn keep(self) -> Result<Kept, Error> {
        let program = Pid::from_raw(self.nest.shell).ok_or(Error::NoProcess { pid: self.nest.shell })?;
        Ok(Kept { program, init: self.nest.init, reports: self.nest.reports })
    }
}

impl Kept {
    /// A child of the caller.
    #[must_use]
    pub fn child(program: Pid) -> Self {
        Self { program, init: None, reports: None }
    }

    /// The process, as the caller sees it.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.program
    }

    /// What becomes readable when something has happened. Without it SIGCHLD tells.
    #[must_use]
    pub fn reports(&self) -> Option<BorrowedFd<'_>> {
        self.reports.as_ref().map(File::as_fd)
    }

    /// What happened since the last question; `None`: nothing yet.
    #[must_use]
    pub fn happened(&mut self) -> Option<Happening> {
        let happened = match &mut self.reports {
            // When init was killed, the whole nest was with it.
            Some(reports) if is_readable(reports) => {
                Some(Happened::receive(reports).unwrap_or(Happened::Killed(libc::SIGKILL)))
            }
            Some(_) => None,
            None => {
                let found = waitpid(Some(self.program), WaitOptions::UNTRACED | WaitOptions::NOHANG);
                found.ok().flatten().and_then(|(_, status)| Happened::from_status(status))
            }
        };
        Some(match happened? {
            Happened::Stopped => Happening::Stopped,
            Happened::Exited(status) => Happening::Ended(Ending::Exited(status)),
            Happened::Killed(signal) => Happening::Ended(Ending::Signaled(signal)),
        })
    }

    /// The nest's first process, which goes when the last one in it has gone.
    #[must_use]
    pub fn init(&self) -> Option<Tid> {
        self.init
    }
}
