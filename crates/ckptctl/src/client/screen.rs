//! The user's terminal while it is lent to a job: raw, and given back on every way out.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use ckpt_core::resource::terminal::TerminalState;
use ckpt_trace::sys::SignalWaiter;
use ckpt_transfer::protocol::WindowSize;
use rustix::process::getpgrp;
use rustix::termios::{
    LocalModes, OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr,
};
use signal_hook::consts::SIGTTOU;

/// The terminal that is raw now, and its settings before: also a panic gives it back.
static LENT: Mutex<Option<(File, Termios)>> = Mutex::new(None);

fn lent() -> MutexGuard<'static, Option<(File, Termios)>> {
    LENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The user's terminal.
#[derive(Debug)]
pub struct Screen {
    terminal: File,
    /// Others write to it as well, who rely on how it shows lines.
    shows_others: bool,
    /// Its keys are not for the job: only what the job shows is.
    only_shows: bool,
}

impl Screen {
    /// The terminal that is standard input or output, if one is.
    pub fn find(only_shows: bool) -> Option<Self> {
        let is_shown = isatty(rustix::stdio::stdout());
        if !is_shown && !isatty(rustix::stdio::stdin()) {
            return None;
        }
        let terminal = File::options().read(true).write(true).open("/dev/tty").ok();
        let own = || {
            let fd = if is_shown { rustix::stdio::stdout() } else { rustix::stdio::stdin() };
            Some(File::from(rustix::io::fcntl_dupfd_cloexec(fd, 3).ok()?))
        };
        Some(Self { terminal: terminal.or_else(own)?, shows_others: !is_shown, only_shows })
    }

    /// Whether we are in its foreground.
    pub fn is_ours(&self) -> bool {
        // Of a terminal that does not control us, nobody can say; it is the one that we were given.
        tcgetpgrp(&self.terminal).map_or(true, |group| group == getpgrp())
    }

    /// Whether it is still there.
    pub fn is_there(&self) -> bool {
        tcgetattr(&self.terminal).is_ok()
    }

    /// Makes it raw, if we are in its foreground: keys and lines are the job's terminal's affair.
    pub fn lend(&self) {
        static ON_PANIC: Once = Once::new();
        ON_PANIC.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                before(panic);
            }));
        });
        if !self.is_ours() {
            return;
        }
        let mut lent = lent();
        let Ok(now) = tcgetattr(&self.terminal) else { return };
        let before = lent.as_ref().map_or_else(|| now.clone(), |(_, before)| before.clone());
        let mut raw = before.clone();
        if self.only_shows {
            raw.output_modes.remove(OutputModes::OPOST);
            raw.local_modes.remove(LocalModes::ECHO);
        } else {
            raw.make_raw();
        }
        if self.shows_others {
            raw.output_modes.set(OutputModes::OPOST, before.output_modes.contains(OutputModes::OPOST));
        }
        if tcsetattr(&self.terminal, OptionalActions::Now, &raw).is_ok()
            && let Ok(terminal) = self.terminal.try_clone()
        {
            *lent = Some((terminal, before));
        }
    }

    /// Whether it is raw, lines and all.
    pub fn is_raw(&self) -> bool {
        !self.shows_others && lent().is_some()
    }

    /// Its size.
    pub fn size(&self) -> Option<WindowSize> {
        let size = tcgetwinsize(&self.terminal).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0)?;
        Some(WindowSize { columns: size.ws_col, rows: size.ws_row })
    }

    /// Its settings, for a job's terminal to begin with.
    pub fn settings(&self) -> Option<TerminalState> {
        TerminalState::capture(&self.terminal)
    }

    /// Reads keys.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::read(&self.terminal, &mut *buffer))?)
    }
}

impl AsFd for Screen {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.terminal.as_fd()
    }
}

/// Makes the terminal what it was.
pub fn give_back() {
    if let Some((terminal, before)) = lent().take() {
        // From the background as well, where the kernel would stop us by SIGTTOU.
        let blocked = SignalWaiter::block(&[SIGTTOU]);
        // One that has gone needs nothing.
        let _ = tcsetattr(&terminal, OptionalActions::Drain, &before);
        drop(blocked);
    }
}
