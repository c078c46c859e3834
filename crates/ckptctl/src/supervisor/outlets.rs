//! Where a program's output comes out and its input goes in: its terminal, and pipes in place of it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::Arc;

use ckpt_transfer::protocol::Stream;
use rustix::fs::OFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice, tee};

use super::log::Log;
use super::terminal::Terminal;

const PIECE: usize = 64 << 10;

/// The supervisor's ends.
#[derive(Debug, Clone)]
pub struct Outlets {
    /// A pipe between the terminal and the log (a terminal cannot be spliced into a file): reading and writing end. The
    /// keeper holds it as well, so that what is in it outlives the supervisor.
    pub spool: (Arc<OwnedFd>, Arc<OwnedFd>),
    /// Of the pipes that are standard input, output and error.
    ends: [Option<Arc<OwnedFd>>; 3],
}

impl Outlets {
    /// With no pipes yet, and a new spool.
    pub fn new() -> io::Result<Self> {
        let (reading, writing) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self::spooling(reading, writing))
    }

    /// With no pipes yet.
    pub fn spooling(reading: OwnedFd, writing: OwnedFd) -> Self {
        Self { spool: (Arc::new(reading), Arc::new(writing)), ends: [None, None, None] }
    }

    /// Our end of the pipe that is the program's descriptor 0, 1 or 2.
    pub fn get(&self, fd: i32) -> Option<&Arc<OwnedFd>> {
        self.ends.get(usize::try_from(fd).ok()?)?.as_ref()
    }

    /// Has this end.
    pub fn put(&mut self, fd: i32, end: OwnedFd) {
        if let Some(place) = usize::try_from(fd).ok().and_then(|index| self.ends.get_mut(index)) {
            *place = Some(Arc::new(end));
        }
    }

    /// Closes an end.
    pub fn take(&mut self, fd: i32) {
        if let Some(place) = usize::try_from(fd).ok().and_then(|index| self.ends.get_mut(index)) {
            *place = None;
        }
    }

    /// Makes a pipe for the program's descriptor 0, 1 or 2, keeps our end and gives the program's.
    pub fn make_pipe(&mut self, fd: i32) -> io::Result<OwnedFd> {
        let (reading, writing) = pipe_with(PipeFlags::CLOEXEC)?;
        let (theirs, ours) = if fd == 0 { (reading, writing) } else { (writing, reading) };
        rustix::io::ioctl_fionbio(&ours, true)?;
        self.put(fd, ours);
        Ok(theirs)
    }

    /// Moves what is there into the log, without waiting; a pipe at whose end nobody writes any more is closed. Gives the
    /// number of bytes: when it is 0, all that was printed has been moved.
    pub fn pump(&mut self, terminal: &Terminal, log: &mut Log) -> io::Result<usize> {
        let mut moved = none_yet(log.take_from_pipe(Stream::Terminal, &self.spool.0))?.unwrap_or(0);
        if moved == 0 && fill(&terminal.master, &self.spool.1)? > 0 {
            moved += none_yet(log.take_from_pipe(Stream::Terminal, &self.spool.0))?.unwrap_or(0);
        }
        for (fd, stream) in [(1, Stream::Output), (2, Stream::Error)] {
            if let Some(end) = self.get(fd).cloned() {
                match none_yet(log.take_from_pipe(stream, &end))? {
                    Some(0) => self.take(fd),
                    count => moved += count.unwrap_or(0),
                }
            }
        }
        Ok(moved)
    }
}

/// What is in the pipe that is the standard input of a frozen program, and stays there: whether or not our end is open, the
/// program's is.
pub fn unread(pid: i32) -> io::Result<Vec<u8>> {
    let path = format!("/proc/{pid}/fd/0");
    let Ok(stat) = fs::metadata(&path) else { return Ok(Vec::new()) };
    if !stat.file_type().is_fifo() {
        // It has closed that, or put something else in its place.
        return Ok(Vec::new());
    }
    let input = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    let size = fcntl_getpipe_size(&input)?;
    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    fcntl_setpipe_size(&writing, size)?;
    let count = match tee(&input, &writing, size, SpliceFlags::NONBLOCK) {
        Err(Errno::AGAIN) => 0,
        count => count?,
    };
    drop(writing);
    let mut bytes = Vec::with_capacity(count);
    File::from(reading).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Moves what the terminal has into the spool.
fn fill(master: &OwnedFd, spool: &OwnedFd) -> io::Result<usize> {
    match retry_on_intr(|| splice(master, None, spool, None, PIECE, SpliceFlags::NONBLOCK)) {
        Err(Errno::AGAIN | Errno::IO) => Ok(0),
        // Before Linux 5.11 terminals could not be spliced.
        Err(Errno::INVAL) => {
            let mut buffer = [0; 4096];
            match retry_on_intr(|| rustix::io::read(master, &mut buffer)) {
                Err(Errno::AGAIN | Errno::IO) => Ok(0),
                Ok(count) => Ok(rustix::io::write(spool.as_fd(), &buffer[..count])?),
                Err(error) => Err(error.into()),
            }
        }
        result => Ok(result?),
    }
}

fn none_yet(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        result => result.map(Some),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use super::super::terminal::UNSEEN;
    use super::*;

    #[test]
    fn what_a_program_has_not_read_is_seen_and_stays() {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let mut program = Command::new("sleep").arg("1000").stdin(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(program.id()).unwrap();
        let mut input = program.stdin.take().unwrap();
        assert_eq!(unread(pid).unwrap(), b"");
        let much = vec![7; 40_000];
        input.write_all(&much).unwrap();
        assert_eq!(unread(pid).unwrap(), much);
        drop(input);
        assert_eq!(unread(pid).unwrap(), much);
        program.kill().unwrap();
        program.wait().unwrap();
        assert_eq!(unread(std::process::id().cast_signed()).unwrap(), b"", "the test's own is no pipe");
    }

    #[test]
    fn all_that_was_printed_gets_into_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(directory.path()).unwrap();
        let terminal = Terminal::open(UNSEEN, None).unwrap();
        let mut outlets = Outlets::new().unwrap();
        let output = outlets.make_pipe(1).unwrap();
        assert_eq!(outlets.pump(&terminal, &mut log).unwrap(), 0);
        let text = "x".repeat(3000);
        rustix::io::write(&*terminal.slave, text.as_bytes()).unwrap();
        rustix::io::write(&output, b"piped").unwrap();
        while outlets.pump(&terminal, &mut log).unwrap() > 0 {}
        assert_eq!(log.bytes(0, log.end()).unwrap().len(), 3005);
        assert!(outlets.get(1).is_some());
        drop(output);
        assert_eq!(outlets.pump(&terminal, &mut log).unwrap(), 0);
        assert!(outlets.get(1).is_none());
    }
}
