//! Messages on sockets of this machine, which can carry descriptors.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use ckpt_transfer::wire::{self, WireError};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How many descriptors may come with a message.
const MOST_DESCRIPTORS: usize = 64;

/// The receiving half of a socket: bytes, and the descriptors that came with them.
#[derive(Debug)]
pub struct Receiver {
    stream: UnixStream,
    came: VecDeque<OwnedFd>,
}

impl Receiver {
    /// Of a socket.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, came: VecDeque::new() }
    }

    /// The next message, with its body; `None` when the other side has closed the socket.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<(T, Vec<u8>)>, WireError> {
        wire::receive(self)
    }

    /// The descriptors that came with the messages so far and were not taken yet, in order.
    pub fn take_descriptors(&mut self) -> VecDeque<OwnedFd> {
        std::mem::take(&mut self.came)
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }
}

impl Read for Receiver {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(&self.stream, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.came.extend(descriptors);
            }
        }
        Ok(received.bytes)
    }
}

/// Sends a message with descriptors.
pub fn send(to: &UnixStream, head: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> Result<(), WireError> {
    let mut message = Vec::new();
    wire::send(&mut message, head, &[])?;
    let mut sent = 0;
    if !descriptors.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(WireError::Nonsense(format!("{} descriptors are too many", descriptors.len())));
        }
        // They go with the first byte.
        sent = rustix::io::retry_on_intr(|| {
            sendmsg(to.as_fd(), &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL)
        })
        .map_err(io::Error::from)?;
    }
    io::Write::write_all(&mut &*to, &message[sent..])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use std::fs::File;

    use super::*;

    #[test]
    fn descriptors_come_with_their_message() {
        let (one, other) = UnixStream::pair().unwrap();
        let mut receiver = Receiver::new(other);
        let null = File::open("/dev/null").unwrap();
        send(&one, &"first", &[]).unwrap();
        send(&one, &"second", &[null.as_fd(), null.as_fd()]).unwrap();
        drop(one);
        assert_eq!(receiver.receive::<String>().unwrap().unwrap().0, "first");
        assert!(receiver.take_descriptors().is_empty());
        assert_eq!(receiver.receive::<String>().unwrap().unwrap().0, "second");
        assert_eq!(receiver.take_descriptors().len(), 2);
        assert!(receiver.receive::<String>().unwrap().is_none());
    }
}
