//! Pipes that a process made for itself, with the data that is in them.

use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, tee};
use serde::{Deserialize, Serialize};

/// A pipe both ends of which are in the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipe {
    /// Ends of one number belong together.
    pub inode: u64,
    /// How many bytes it can hold.
    pub capacity: u64,
    /// What was written and not read yet; only with the reading end.
    #[serde(with = "hex::serde")]
    pub unread: Vec<u8>,
    /// Whether this is the reading end.
    pub is_reading: bool,
}

impl Pipe {
    /// The state of one end, of which we hold a copy. The data stays where it is (`tee(2)`).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn capture(inode: u64, end: &OwnedFd, is_reading: bool) -> io::Result<Self> {
        let capacity = fcntl_getpipe_size(end)?;
        let mut unread = Vec::new();
        if is_reading {
            let waiting = usize::try_from(rustix::io::ioctl_fionread(end)?).unwrap_or_default();
            if waiting > 0 {
                let (reading, writing) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
                fcntl_setpipe_size(&writing, capacity)?;
                tee(end, &writing, waiting, SpliceFlags::NONBLOCK)?;
                drop(writing);
                let mut copy = std::fs::File::from(reading);
                io::Read::read_to_end(&mut copy, &mut unread)?;
            }
            if unread.len() != waiting {
                return Err(io::Error::other("not all of the data in the pipe could be read"));
            }
        }
        Ok(Self { inode, capacity: capacity as u64, unread, is_reading })
    }

    /// Makes the pipe again: its reading and its writing end. `self` is the reading end's state.
    ///
    /// # Errors
    /// EPERM for a pipe that is larger than the user may have.
    pub fn rebuild(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        let (reading, writing) = pipe_with(PipeFlags::CLOEXEC)?;
        let capacity = usize::try_from(self.capacity).unwrap_or_default();
        if fcntl_getpipe_size(&writing)? != capacity {
            fcntl_setpipe_size(&writing, capacity)?;
        }
        let mut rest = self.unread.as_slice();
        while !rest.is_empty() {
            let written = rustix::io::write(&writing, rest)?;
            rest = &rest[written..];
        }
        Ok((reading, writing))
    }
}
