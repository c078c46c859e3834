//! The settings of a terminal, as the kernel keeps them (`struct termios2`, `ioctl_tty(2)`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::checked;

/// `struct termios2`: flags, line discipline, control characters and speeds.
pub type TerminalSettings = [u8; 44];

/// Reads the settings.
///
/// # Errors
/// ENOTTY when it is no terminal.
pub fn terminal_settings(fd: BorrowedFd<'_>) -> io::Result<TerminalSettings> {
    let mut settings = [0; 44];
    // SAFETY: TCGETS2 writes one termios2, which is 44 bytes.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TCGETS2, settings.as_mut_ptr()) }.into())?;
    Ok(settings)
}

/// Applies settings, once what was written has been sent (`TCSETSW2`).
///
/// # Errors
/// ENOTTY when it is no terminal, EIO for a process without the right to it.
pub fn set_terminal_settings(fd: BorrowedFd<'_>, settings: &TerminalSettings) -> io::Result<()> {
    // SAFETY: TCSETSW2 reads one termios2, which is 44 bytes.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TCSETSW2, settings.as_ptr()) }.into()).map(drop)
}
