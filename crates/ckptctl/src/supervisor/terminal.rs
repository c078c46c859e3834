//! A job's terminal: a pseudo terminal whose controlling side the supervisor holds.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ckpt_core::resource::terminal::TerminalState;
use ckpt_transfer::protocol::WindowSize;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr,
    tcsetwinsize,
};

/// The size of a terminal that nobody looks at.
pub const UNSEEN: WindowSize = WindowSize { columns: 80, rows: 24 };

/// Both sides of a pseudo terminal.
#[derive(Debug, Clone)]
pub struct Terminal {
    /// The supervisor's side; reading and writing do not wait.
    pub master: Arc<OwnedFd>,
    /// The program's side. As long as it is open here, the terminal outlives those who use it.
    pub slave: Arc<OwnedFd>,
}

impl Terminal {
    /// A new one, with these settings if any.
    pub fn open(size: WindowSize, settings: Option<&TerminalState>) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        let terminal = Self::of(master, slave)?;
        terminal.set_size(size)?;
        if let Some(settings) = settings {
            settings.apply(&*terminal.slave)?;
        }
        Ok(terminal)
    }

    /// One that exists.
    pub fn of(master: OwnedFd, slave: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(Self { master: Arc::new(master), slave: Arc::new(slave) })
    }

    /// Its size.
    pub fn size(&self) -> WindowSize {
        let size = tcgetwinsize(&self.master).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
        size.map_or(UNSEEN, |size| WindowSize { columns: size.ws_col, rows: size.ws_row })
    }

    /// Gives it another size, of which the kernel tells those in its foreground.
    pub fn set_size(&self, size: WindowSize) -> io::Result<()> {
        let size = Winsize { ws_col: size.columns, ws_row: size.rows, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(&self.master, size)?)
    }

    /// Takes what was typed and not read yet out of it. Nothing must be reading: the program is frozen.
    pub fn take_pending_input(&self) -> io::Result<Vec<u8>> {
        let before = tcgetattr(&*self.slave)?;
        let mut raw = before.clone();
        raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        raw.special_codes[SpecialCodeIndex::VMIN] = 0;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&*self.slave, OptionalActions::Now, &raw)?;
        let taken = read_all(&self.slave);
        tcsetattr(&*self.slave, OptionalActions::Now, &before)?;
        let mut taken = taken?;
        if before.local_modes.contains(LocalModes::ICANON) {
            // The kernel keeps the key that ends the input as a zero byte (`__DISABLED_CHAR`).
            let end = before.special_codes[SpecialCodeIndex::VEOF];
            taken.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = end);
        }
        Ok(taken)
    }

    /// Puts bytes back as if they had been typed, without showing them once more. Gives what there is no room for.
    pub fn give_pending_input(&self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        let before = tcgetattr(&*self.slave)?;
        tcsetattr(&*self.slave, OptionalActions::Now, &as_typed_already(&before))?;
        let mut given = 0;
        while given < bytes.len() {
            match retry_on_intr(|| rustix::io::write(&*self.master, &bytes[given..])) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(count) => given += count,
                Err(error) => {
                    tcsetattr(&*self.slave, OptionalActions::Now, &before)?;
                    return Err(error.into());
                }
            }
        }
        // Looking at the other side makes the kernel put what was written into its input queue, by these settings.
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&*self.slave, PollFlags::IN)], Some(&now))?;
        tcsetattr(&*self.slave, OptionalActions::Now, &before)?;
        Ok(bytes[given..].to_vec())
    }
}

/// Settings under which bytes that a terminal has let through once come through unchanged; lines still end where they ended.
fn as_typed_already(before: &Termios) -> Termios {
    let mut quiet = before.clone();
    let translations = InputModes::ICRNL
        | InputModes::INLCR
        | InputModes::IGNCR
        | InputModes::ISTRIP
        | InputModes::IUCLC
        | InputModes::IXON
        | InputModes::IXOFF
        | InputModes::PARMRK;
    quiet.input_modes.remove(translations);
    quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ISIG | LocalModes::IEXTEN);
    for key in [SpecialCodeIndex::VERASE, SpecialCodeIndex::VKILL, SpecialCodeIndex::VEOL, SpecialCodeIndex::VEOL2] {
        quiet.special_codes[key] = 0;
    }
    quiet
}

fn read_all(slave: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    // With VMIN and VTIME 0 reading never waits.
    while let count @ 1.. = retry_on_intr(|| rustix::io::read(slave, &mut buffer))? {
        all.extend_from_slice(&buffer[..count]);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use super::*;

    fn type_in(terminal: &Terminal, keys: &[u8]) {
        assert_eq!(rustix::io::write(&*terminal.master, keys).unwrap(), keys.len());
    }

    fn shown(terminal: &Terminal) -> Vec<u8> {
        let mut buffer = [0; 100];
        match rustix::io::read(&*terminal.master, &mut buffer) {
            Ok(count) => buffer[..count].to_vec(),
            Err(error) => {
                assert_eq!(error, Errno::AGAIN);
                Vec::new()
            }
        }
    }

    #[test]
    fn what_was_typed_moves_to_another_terminal() {
        let one = Terminal::open(UNSEEN, None).unwrap();
        type_in(&one, b"first\rsecond\r\x04part");
        let pending = one.take_pending_input().unwrap();
        assert_eq!(pending, b"first\nsecond\n\x04part");
        // The kernel shows it a moment later.
        let mut echo = Vec::new();
        while !echo.ends_with(b"part") {
            echo.extend(shown(&one));
        }
        assert_eq!(echo, b"first\r\nsecond\r\npart");
        let other = Terminal::open(UNSEEN, None).unwrap();
        assert!(other.give_pending_input(&pending).unwrap().is_empty());
        assert_eq!(shown(&other), b"");
        let mut buffer = [0; 100];
        let mut line = || {
            let count = rustix::io::read(&*other.slave, &mut buffer).unwrap();
            buffer[..count].to_vec()
        };
        assert_eq!(line(), b"first\n");
        assert_eq!(line(), b"second\n");
        assert_eq!(line(), b"");
        type_in(&other, b"\x7f!\r");
        assert_eq!(line(), b"par!\n");
    }

    #[test]
    fn raw_input_moves_as_it_is() {
        let raw = |terminal: &Terminal| {
            let mut settings = tcgetattr(&*terminal.slave).unwrap();
            settings.make_raw();
            tcsetattr(&*terminal.slave, OptionalActions::Now, &settings).unwrap();
        };
        let (one, other) = (Terminal::open(UNSEEN, None).unwrap(), Terminal::open(UNSEEN, None).unwrap());
        raw(&one);
        raw(&other);
        let all: Vec<u8> = (0..=255).collect();
        type_in(&one, &all);
        assert_eq!(one.take_pending_input().unwrap(), all);
        assert!(other.give_pending_input(&all).unwrap().is_empty());
        assert_eq!(other.take_pending_input().unwrap(), all);
    }

    #[test]
    fn its_size_can_be_changed() {
        let terminal = Terminal::open(UNSEEN, None).unwrap();
        assert_eq!(terminal.size(), UNSEEN);
        let size = WindowSize { columns: 132, rows: 50 };
        terminal.set_size(size).unwrap();
        assert_eq!(terminal.size(), size);
    }
}
