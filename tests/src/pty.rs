//! A terminal for programs that want one.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::capture::Capture;

/// The user's side of a pseudo terminal: what the program shows is captured, keys can be pressed.
pub struct Terminal {
    keyboard: File,
    program_end: Option<File>,
    screen: Capture,
    /// Closed, it ends what reads the screen, which would keep the terminal open.
    _alive: OwnedFd,
}

impl Terminal {
    /// Opens a new terminal that the given user may open as well.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn open(case: &crate::Case) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).context("no terminal")?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?.into_string()?;
        case.give(name.as_ref())?;
        let keyboard = File::from(master);
        let no_controlling = i32::try_from(rustix::fs::OFlags::NOCTTY.bits())?;
        let program_end = OpenOptions::new().read(true).write(true).custom_flags(no_controlling).open(&name)?;
        let (until, alive) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let screen = Capture::of_terminal(keyboard.try_clone()?, until);
        Ok(Self { keyboard, program_end: Some(program_end), screen, _alive: alive })
    }

    /// Presses keys.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn press(&mut self, keys: &[u8]) -> Result<()> {
        Ok(self.keyboard.write_all(keys)?)
    }

    /// Gives it another size, as if its window was resized.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let size = rustix::termios::Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(&self.keyboard, size)?)
    }

    /// All that was ever shown.
    #[must_use]
    pub fn screen(&self) -> Capture {
        self.screen.clone()
    }

    /// The program's side, for its three standard streams. There is one program for each terminal, so that the
    /// screen ends when the last process that uses it does.
    pub(crate) fn program_ends(&mut self) -> Result<(File, File, File)> {
        let end = self.program_end.take().context("the terminal has its program already")?;
        Ok((end.try_clone()?, end.try_clone()?, end))
    }
}
