//! Terminals: which descriptor is one, and its settings.

use std::os::fd::AsFd;

use ckpt_trace::sys;
use serde::{Deserialize, Serialize};

/// A terminal's settings and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalState {
    /// `struct termios2`.
    #[serde(with = "hex::serde")]
    pub settings: Vec<u8>,
    /// Rows and columns.
    pub size: (u16, u16),
}

impl TerminalState {
    /// The state of the terminal behind a descriptor; `None` when it is none.
    #[must_use]
    pub fn capture(fd: impl AsFd) -> Option<Self> {
        let settings = sys::terminal_settings(fd.as_fd()).ok()?;
        let size = rustix::termios::tcgetwinsize(fd.as_fd()).ok()?;
        Some(Self { settings: settings.to_vec(), size: (size.ws_row, size.ws_col) })
    }

    /// Gives a terminal these settings. Its size is the user's window, which is not ours to change: a program learns
    /// of another one by SIGWINCH.
    ///
    /// # Errors
    /// EIO when the caller is not in the terminal's foreground and SIGTTOU is not ignored.
    pub fn apply(&self, fd: impl AsFd) -> std::io::Result<()> {
        match self.settings.as_slice().try_into() {
            Ok(settings) => sys::set_terminal_settings(fd.as_fd(), settings),
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::InvalidData)),
        }
    }
}
