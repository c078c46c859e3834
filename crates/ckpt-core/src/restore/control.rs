//! What the processes that make a nest tell the engine, and what it asks of them; descriptors go along.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};

use ckpt_trace::Tid;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// The kernel takes no more descriptors with one message (`SCM_MAX_FD`).
pub const MOST_DESCRIPTORS: usize = 253;
/// Longer messages are cut.
const MOST_BYTES: usize = 4096;

/// What the engine is told.
#[derive(Debug)]
pub enum Report {
    /// The id of the nest's init, as the engine sees it.
    Init(Tid),
    /// Something that is done without.
    Note(String),
    /// What failed.
    Failed(String),
    /// The namespaces are made; with the root directory in them.
    Ready(OwnedFd),
    /// The numbers that descriptors have now.
    Taken(Vec<i32>),
    /// The id of the shell, as the engine sees it.
    Shell(Tid),
}

/// What the engine asks of the process that will make the shell.
#[derive(Debug)]
pub enum Request {
    /// Have these descriptors, by numbers from this one on.
    Take(i32, Vec<OwnedFd>),
    /// Make the shell.
    MakeShell,
}

/// One end of a pair of sockets.
#[derive(Debug)]
pub struct Control(OwnedFd);

impl Control {
    /// Both ends.
    ///
    /// # Errors
    /// EMFILE.
    pub fn pair() -> Result<(Self, Self), Errno> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(one), Self(other)))
    }

    /// The number of this end.
    pub fn number(&self) -> u32 {
        self.0.as_raw_fd().unsigned_abs()
    }

    /// Tells the engine something.
    ///
    /// # Errors
    /// EPIPE when it is gone.
    pub fn report(&self, report: &Report) -> Result<(), Errno> {
        match report {
            Report::Init(tid) => self.send(0, &tid.to_ne_bytes(), &[]),
            Report::Note(text) => self.send(1, text.as_bytes(), &[]),
            Report::Failed(text) => self.send(2, text.as_bytes(), &[]),
            Report::Ready(root) => self.send(3, &[], &[root.as_fd()]),
            Report::Taken(numbers) => {
                let numbers: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
                self.send(4, &numbers, &[])
            }
            Report::Shell(tid) => self.send(5, &tid.to_ne_bytes(), &[]),
        }
    }

    /// What the engine is told next; `None` when nobody is left to tell it anything.
    pub fn next_report(&self) -> Option<Report> {
        let (kind, bytes, files) = self.receive()?;
        let number = || Some(i32::from_ne_bytes(bytes.as_slice().try_into().ok()?));
        let text = || String::from_utf8_lossy(&bytes).into_owned();
        Some(match kind {
            0 => Report::Init(number()?),
            1 => Report::Note(text()),
            2 => Report::Failed(text()),
            3 => Report::Ready(files.into_iter().next()?),
            4 => Report::Taken(bytes.as_chunks().0.iter().copied().map(i32::from_ne_bytes).collect()),
            _ => Report::Shell(number()?),
        })
    }

    /// Asks to have copies of at most [`MOST_DESCRIPTORS`] descriptors, by numbers from `base` on.
    ///
    /// # Errors
    /// EPIPE when nobody is there, ETOOMANYREFS where fewer descriptors may be under way.
    pub fn give(&self, base: i32, files: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        self.send(0, &base.to_ne_bytes(), files)
    }

    /// Asks for the shell.
    ///
    /// # Errors
    /// EPIPE when nobody is there.
    pub fn ask_for_shell(&self) -> Result<(), Errno> {
        self.send(1, &[], &[])
    }

    /// What the engine asks next; `None` when it is gone.
    pub fn next_request(&self) -> Option<Request> {
        let (kind, bytes, files) = self.receive()?;
        Some(match kind {
            0 => Request::Take(i32::from_ne_bytes(bytes.try_into().ok()?), files),
            _ => Request::MakeShell,
        })
    }

    fn send(&self, kind: u8, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(Errno::MSGSIZE);
        }
        let kind = [kind];
        let bytes = [IoSlice::new(&kind), IoSlice::new(&bytes[..bytes.len().min(MOST_BYTES)])];
        loop {
            match sendmsg(&self.0, &bytes, &mut ancillary, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                result => return result.map(drop),
            }
        }
    }

    /// Descriptors that the limit of open files does not let in are missing at the end.
    fn receive(&self) -> Option<(u8, Vec<u8>, Vec<OwnedFd>)> {
        let (mut kind, mut bytes) = ([0], vec![0; MOST_BYTES]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut into = [IoSliceMut::new(&mut kind), IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.0, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                result => break result.ok()?,
            }
        };
        bytes.truncate(received.bytes.checked_sub(1)?);
        let files = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        });
        Some((kind[0], bytes, files.flatten().collect()))
    }
}

/// Gives descriptors the lowest free numbers from `base` on, for good.
///
/// # Errors
/// EMFILE.
pub fn take(base: i32, files: Vec<OwnedFd>) -> Result<Vec<i32>, Errno> {
    files.into_iter().map(|file| Ok(rustix::io::fcntl_dupfd_cloexec(&file, base)?.into_raw_fd())).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use super::*;

    #[test]
    fn reports_arrive_as_they_were_sent() {
        let (ours, theirs) = Control::pair().unwrap();
        theirs.report(&Report::Init(-7)).unwrap();
        theirs.report(&Report::Note(String::new())).unwrap();
        theirs.report(&Report::Failed("é".repeat(MOST_BYTES))).unwrap();
        theirs.report(&Report::Taken(vec![3, 1 << 30])).unwrap();
        drop(theirs);
        assert!(matches!(ours.next_report(), Some(Report::Init(-7))));
        assert!(matches!(ours.next_report(), Some(Report::Note(text)) if text.is_empty()));
        assert!(matches!(ours.next_report(), Some(Report::Failed(text)) if text == "é".repeat(MOST_BYTES / 2)));
        assert!(matches!(ours.next_report(), Some(Report::Taken(numbers)) if numbers == [3, 1 << 30]));
        assert!(ours.next_report().is_none(), "nobody is left");
        assert_eq!(ours.ask_for_shell(), Err(Errno::PIPE));
    }

    #[test]
    fn descriptors_get_numbers_from_the_given_one_on() {
        let (ours, theirs) = Control::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        ours.give(300, &[null.as_fd(); MOST_DESCRIPTORS]).unwrap();
        assert!(ours.give(300, &[null.as_fd(); MOST_DESCRIPTORS + 1]).is_err(), "more than the kernel takes");
        let Some(Request::Take(300, files)) = theirs.next_request() else { panic!("no descriptors") };
        assert_eq!(files.len(), MOST_DESCRIPTORS);
        let numbers = take(300, files).unwrap();
        assert!(numbers.iter().all(|number| *number >= 300), "{numbers:?}");
        ours.ask_for_shell().unwrap();
        assert!(matches!(theirs.next_request(), Some(Request::MakeShell)));
    }
}
