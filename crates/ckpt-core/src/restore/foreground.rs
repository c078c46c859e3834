//! Staying with a restored program in the foreground: its terminal, its signals, its end.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use ckpt_trace::sys::SignalWaiter;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitOptions, getpgrp, getpid, kill_process, kill_process_group, waitpid};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

use super::index::ImageIndex;
use super::nest::{Happened, Nest};
use super::shell::Shell;
use crate::Error;
use crate::resource::descriptors::Opened;
use crate::resource::terminal::TerminalState;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It exited with this status.
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
}

/// The terminal that a program in the foreground uses while we wait for it.
#[derive(Debug)]
pub struct Terminal {
    tty: File,
    group: Pid,
    ours: Option<TerminalState>,
}

/// A program's place among process groups and terminals.
#[derive(Debug)]
pub struct Place {
    /// The terminal, for a program in its foreground.
    terminal: Option<Terminal>,
    /// The settings that the program had made.
    settings: Option<TerminalState>,
    /// Whether it has a process group of its own: then the keys of a terminal reach us and not it.
    has_own_group: bool,
}

impl Place {
    /// Gives the program a group of its own (with `detach` a session, if it had one). In a nest there is no other group that
    /// it could be in. When we are in the foreground of a terminal, that is where it is to be.
    ///
    /// # Errors
    /// When the process cannot make its group.
    pub fn prepare(index: &ImageIndex, nest: &Nest, detach: bool, shell: &mut Shell) -> Result<Self, Error> {
        let process = &index.state.process;
        let tty = if detach { None } else { foreground_terminal() };
        if detach && process.leads_session {
            shell.run(|batch| {
                batch.call("setsid", libc::SYS_setsid, &[]);
            })?;
            return Ok(Self { terminal: None, settings: None, has_own_group: true });
        }
        let has_own_group = tty.is_some() || process.leads_group || nest.init.is_some();
        if has_own_group {
            shell.run(|batch| {
                batch.call("setpgid", libc::SYS_setpgid, &[0, 0]);
            })?;
        }
        let (Some(tty), Some(group)) = (tty, Pid::from_raw(nest.shell)) else {
            return Ok(Self { terminal: None, settings: None, has_own_group });
        };
        let terminal = Terminal { ours: TerminalState::capture(&tty), tty, group };
        let saved = index.state.descriptors.descriptions.iter().find_map(|description| match &description.opened {
            Opened::Terminal { state, .. } => Some(state.clone()),
            _ => None,
        });
        Ok(Self { terminal: Some(terminal), settings: saved, has_own_group })
    }

    /// Puts the program into the foreground of the terminal, with the settings that it had made.
    pub fn enter(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.give(self.settings.as_ref());
        }
    }
}

impl Terminal {
    /// Puts the program into the foreground, with these settings.
    fn give(&self, settings: Option<&TerminalState>) {
        if let Some(settings) = settings {
            with_output_allowed(|| settings.apply(&self.tty).is_ok());
        }
        with_output_allowed(|| tcsetpgrp(&self.tty, self.group).is_ok());
    }

    /// Takes the foreground back, with our settings; gives those of the program.
    fn take(&self) -> Option<TerminalState> {
        let theirs = TerminalState::capture(&self.tty);
        with_output_allowed(|| tcsetpgrp(&self.tty, getpgrp()).is_ok());
        if let Some(ours) = &self.ours {
            with_output_allowed(|| ours.apply(&self.tty).is_ok());
        }
        theirs
    }
}

/// The terminal in whose foreground we are.
fn foreground_terminal() -> Option<File> {
    let tty = File::options().read(true).write(true).open("/dev/tty").ok()?;
    let is_used =
        [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()].iter().any(rustix::termios::isatty);
    (is_used && tcgetpgrp(&tty).ok()? == getpgrp()).then_some(tty)
}

/// Changes a terminal even from its background, where the kernel would stop us by SIGTTOU. A terminal that has gone away
/// is no error here: the program will notice by itself.
fn with_output_allowed(change: impl FnOnce() -> bool) {
    let blocked = SignalWaiter::block(&[libc::SIGTTOU]);
    let _ = change();
    drop(blocked);
}

/// Signals that are meant for the program when someone sends them to us.
const PASSED_ON: [i32; 7] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2, libc::SIGTSTP];

/// Waits for the program's end.
///
/// # Errors
/// [`Error::System`].
pub fn wait(nest: Nest, place: &Place) -> Result<Ending, Error> {
    let terminal = place.terminal.as_ref();
    let is_only_ours = place.has_own_group && terminal.is_none();
    let program = Pid::from_raw(nest.shell).ok_or(Error::NoProcess { pid: nest.shell })?;
    let mut all = PASSED_ON.to_vec();
    all.push(libc::SIGCHLD);
    let signals = SignalWaiter::block(&all).map_err(Error::system("take over signals"))?;
    let mut reports = nest.reports;
    loop {
        while let Some(caught) = signals.next().map_err(Error::system("read signals"))? {
            // What a key of the terminal sends goes to the foreground by itself, where the program is if it can be.
            if PASSED_ON.contains(&caught.signal)
                && (caught.from_process || caught.signal == libc::SIGHUP || is_only_ours)
                && let Some(signal) = Signal::from_named_raw(caught.signal)
            {
                // The program may have ended this moment; then we are about to learn that.
                let _ = kill_process(program, signal);
            }
        }
        let happened = match &mut reports {
            // When init was killed, the whole nest was with it.
            Some(reports) if is_readable(reports) => {
                Some(Happened::receive(reports).unwrap_or(Happened::Killed(libc::SIGKILL)))
            }
            Some(_) => None,
            None => {
                let found = waitpid(Some(program), WaitOptions::UNTRACED | WaitOptions::NOHANG);
                found.ok().flatten().and_then(|(_, status)| Happened::from_status(status))
            }
        };
        let ending = match happened {
            None => {
                wait_readable(signals.as_fd(), reports.as_ref().map(File::as_fd))?;
                continue;
            }
            Some(Happened::Stopped) => {
                stay_stopped(terminal);
                continue;
            }
            Some(Happened::Exited(status)) => Ending::Exited(status),
            Some(Happened::Killed(signal)) => Ending::Signaled(signal),
        };
        terminal.map(Terminal::take);
        return Ok(ending);
    }
}

/// The program was stopped from its terminal: we stop too, so that the launching shell gets its turn, and when it puts us
/// into the foreground again the program goes on there. Without a terminal we only wait.
fn stay_stopped(terminal: Option<&Terminal>) {
    let Some(terminal) = terminal else { return };
    let theirs = terminal.take();
    // SIGSTOP cannot fail for ourselves.
    let _ = kill_process(getpid(), Signal::STOP);
    if tcgetpgrp(&terminal.tty).is_ok_and(|group| group == getpgrp()) {
        terminal.give(theirs.as_ref());
    }
    let _ = kill_process_group(terminal.group, Signal::CONT);
}

fn wait_readable(signals: BorrowedFd<'_>, reports: Option<BorrowedFd<'_>>) -> Result<(), Error> {
    let mut fds = vec![PollFd::from_borrowed_fd(signals, PollFlags::IN)];
    fds.extend(reports.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    match poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(Error::System { what: "wait for the program".to_owned(), source: error.into() }),
    }
}

pub fn is_readable(file: &File) -> bool {
    let mut fds = [PollFd::new(file, PollFlags::IN)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}
