//! One stream of bytes over several channels: numbered frames, put together again in their order.
//!
//! An SSH session is one lock and one cipher, so that two of them carry nearly twice as much. A frame is its number (64
//! bits, little endian), its length (32 bits) and its bytes; it may take any channel. A frame of length 0 ends a channel; its
//! number is that of all frames, on every channel the same.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};

/// Bytes of a frame, but for the last one.
pub const FRAME: usize = 512 << 10;
/// The longest frame that is believed.
const MOST: u32 = 4 << 20;
/// Bytes before a frame: number and length.
const HEAD: usize = 12;
/// How many frames may have come before one that is still awaited: channels differ in speed.
const AHEAD: usize = 64;

struct Frame {
    number: u64,
    bytes: Vec<u8>,
}

/// Writes one stream over several channels, each of which is written by a thread of its own.
pub struct FrameWriter {
    /// To the channels' threads, which take turns as they are ready.
    frames: Option<SyncSender<Frame>>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    failure: Arc<Mutex<Option<io::Error>>>,
    /// What is not a whole frame yet.
    partial: Vec<u8>,
    next: u64,
    total: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
}

impl FrameWriter {
    /// A writer over these channels.
    ///
    /// # Errors
    /// When no thread can be made, or there is no channel.
    pub fn new<W: Write + Send + 'static>(channels: Vec<W>) -> io::Result<Self> {
        if channels.is_empty() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "no channel to send over"));
        }
        // One frame on its way in each channel and one ready for each: more would only take memory.
        let (sender, receiver) = sync_channel(channels.len());
        let receiver = Arc::new(Mutex::new(receiver));
        let failure = Arc::new(Mutex::new(None));
        let (total, sent) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        for channel in channels {
            let (receiver, failure) = (Arc::clone(&receiver), Arc::clone(&failure));
            let (total, sent) = (Arc::clone(&total), Arc::clone(&sent));
            let thread = std::thread::Builder::new().name("frames".to_owned()).spawn(move || {
                let result = send_all(channel, &receiver, &total, &sent);
                if let Err(error) = &result {
                    // Others may wait for room in the queue: with the failure told, they end.
                    let mut slot = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    slot.get_or_insert_with(|| io::Error::new(error.kind(), error.to_string()));
                }
                result
            })?;
            threads.push(thread);
        }
        // With all channels' threads gone the queue is closed, and nobody waits for room in it.
        drop(receiver);
        Ok(Self { frames: Some(sender), threads, failure, partial: Vec::new(), next: 0, total, sent })
    }

    /// How many bytes have been given to channels so far: to look at while it works.
    #[must_use]
    pub fn sent(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sent)
    }

    /// Sends what is left and the end, and waits until all channels have taken everything.
    ///
    /// # Errors
    /// The first channel's failure.
    pub fn finish(mut self) -> io::Result<u64> {
        self.push()?;
        self.total.store(self.next, Ordering::Release);
        drop(self.frames.take());
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| io::Error::other("a thread that sends has panicked"))??;
        }
        Ok(self.sent.load(Ordering::Relaxed))
    }

    /// Gives the partial frame to a channel.
    fn push(&mut self) -> io::Result<()> {
        if self.partial.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::replace(&mut self.partial, Vec::with_capacity(FRAME));
        let frame = Frame { number: self.next, bytes };
        self.next += 1;
        self.check()?;
        let is_taken = self.frames.as_ref().is_some_and(|frames| frames.send(frame).is_ok());
        self.check()?;
        if is_taken { Ok(()) } else { Err(ErrorKind::BrokenPipe.into()) }
    }

    fn check(&self) -> io::Result<()> {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take().map_or(Ok(()), |error| {
            *failure = Some(io::Error::new(error.kind(), error.to_string()));
            Err(error)
        })
    }
}

impl Write for FrameWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(FRAME - self.partial.len());
        self.partial.extend_from_slice(&bytes[..taken]);
        if self.partial.len() == FRAME {
            self.push()?;
        }
        Ok(taken)
    }

    /// Frames are sent as they are full: to send what is left is for [`FrameWriter::finish`].
    fn flush(&mut self) -> io::Result<()> {
        self.check()
    }
}

fn send_all(
    mut channel: impl Write,
    frames: &Mutex<Receiver<Frame>>,
    total: &AtomicU64,
    sent: &AtomicU64,
) -> io::Result<()> {
    loop {
        let frame = frames.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Frame { number, bytes }) = frame else { break };
        channel.write_all(&head(number, bytes.len()))?;
        channel.write_all(&bytes)?;
        sent.fetch_add((HEAD + bytes.len()) as u64, Ordering::Relaxed);
    }
    let total = total.load(Ordering::Acquire);
    if total != u64::MAX {
        channel.write_all(&head(total, 0))?;
    }
    channel.flush()
}

fn head(number: u64, length: usize) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&number.to_le_bytes());
    head[8..].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    head
}

/// Reads one stream that comes over several channels, on a single thread.
pub struct FrameReader {
    channels: Vec<Channel>,
    /// Frames that came before their turn.
    ahead: BTreeMap<u64, Vec<u8>>,
    next: u64,
    total: Option<u64>,
    /// The frame that is being given, and how much of it was.
    current: Vec<u8>,
    given: usize,
}

struct Channel {
    file: std::fs::File,
    head: [u8; HEAD],
    head_len: usize,
    body: Vec<u8>,
    body_len: usize,
    is_ended: bool,
}

impl FrameReader {
    /// A reader of these channels.
    #[must_use]
    pub fn new(channels: Vec<OwnedFd>) -> Self {
        let channel = |fd: OwnedFd| Channel {
            file: fd.into(),
            head: [0; HEAD],
            head_len: 0,
            body: Vec::new(),
            body_len: 0,
            is_ended: false,
        };
        let channels = channels.into_iter().map(channel).collect();
        Self { channels, ahead: BTreeMap::new(), next: 0, total: None, current: Vec::new(), given: 0 }
    }

    /// Waits for the next frame in order; false when there are no more.
    fn advance(&mut self) -> io::Result<bool> {
        loop {
            if let Some(frame) = self.ahead.remove(&self.next) {
                (self.current, self.given) = (frame, 0);
                self.next += 1;
                return Ok(true);
            }
            if self.total == Some(self.next) && self.channels.iter().all(|channel| channel.is_ended) {
                return Ok(false);
            }
            self.receive()?;
        }
    }

    /// Reads from the channels that have something.
    fn receive(&mut self) -> io::Result<()> {
        // A channel that is far ahead waits for the others.
        let is_full = self.ahead.len() >= AHEAD;
        let mut ready = Vec::new();
        {
            let open = self.channels.iter().enumerate().filter(|(_, channel)| {
                let is_before = channel.head_len < HEAD || channel.number() == self.next;
                !channel.is_ended && (!is_full || is_before)
            });
            let (indices, mut fds): (Vec<usize>, Vec<PollFd<'_>>) =
                open.map(|(index, channel)| (index, PollFd::new(&channel.file, PollFlags::IN))).unzip();
            if fds.is_empty() {
                return Err(broken("frames are missing although every channel has ended"));
            }
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            ready.extend(
                indices.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(index, _)| index),
            );
        }
        for index in ready {
            if let Some(frame) = self.channels[index].read()? {
                self.take(frame)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, frame: Frame) -> io::Result<()> {
        if frame.bytes.is_empty() {
            return match self.total {
                Some(total) if total != frame.number => Err(broken("two channels end with different numbers")),
                _ => {
                    self.total = Some(frame.number);
                    Ok(())
                }
            };
        }
        let is_late = frame.number < self.next || self.total.is_some_and(|total| frame.number >= total);
        // Beyond this no honest sender gets, since each channel holds one frame at a time.
        let is_far = frame.number - self.next.min(frame.number) > (AHEAD * 1024) as u64;
        if is_late || is_far || self.ahead.insert(frame.number, frame.bytes).is_some() {
            return Err(broken("a frame came twice or out of all order"));
        }
        Ok(())
    }
}

impl Channel {
    fn number(&self) -> u64 {
        self.head[..8].try_into().map(u64::from_le_bytes).unwrap_or_default()
    }

    /// Reads once what there is; gives a frame when it is whole.
    fn read(&mut self) -> io::Result<Option<Frame>> {
        if self.head_len < HEAD {
            let count = read_some(&mut self.file, &mut self.head[self.head_len..])?;
            self.head_len += count;
            if self.head_len < HEAD {
                return Ok(None);
            }
            let length = self.head[8..].try_into().map_or(u32::MAX, u32::from_le_bytes);
            if length > MOST {
                return Err(broken("a frame is longer than any can be"));
            }
            self.body = vec![0; length as usize];
            self.body_len = 0;
            if length == 0 {
                self.is_ended = true;
                return Ok(Some(Frame { number: self.number(), bytes: Vec::new() }));
            }
            return Ok(None);
        }
        let count = read_some(&mut self.file, &mut self.body[self.body_len..])?;
        self.body_len += count;
        if self.body_len < self.body.len() {
            return Ok(None);
        }
        self.head_len = 0;
        Ok(Some(Frame { number: self.number(), bytes: std::mem::take(&mut self.body) }))
    }
}

impl Read for FrameReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if self.given == self.current.len() && !self.advance()? {
            return Ok(0);
        }
        let count = out.len().min(self.current.len() - self.given);
        out[..count].copy_from_slice(&self.current[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

/// Reads what there is, at least one byte.
fn read_some(file: &mut std::fs::File, out: &mut [u8]) -> io::Result<usize> {
    match file.read(out) {
        Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "the connection was lost before everything had come")),
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
        result => result,
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("what comes over the connection is not right: {what}"))
}

/// Passes one channel's frames on as they are, to their end; counts the bytes.
///
/// # Errors
/// When either side breaks, or the frames are not right.
pub fn copy_frames(mut from: impl Read, mut to: impl Write, count: &AtomicU64) -> io::Result<()> {
    let (mut head, mut frame) = ([0; HEAD], Vec::new());
    loop {
        from.read_exact(&mut head)?;
        let length = head[8..].try_into().map_or(u32::MAX, u32::from_le_bytes);
        if length > MOST {
            return Err(broken("a frame is longer than any can be"));
        }
        let whole = HEAD + length as usize;
        frame.resize(whole, 0);
        frame[..HEAD].copy_from_slice(&head);
        from.read_exact(&mut frame[HEAD..])?;
        to.write_all(&frame)?;
        count.fetch_add(whole as u64, Ordering::Relaxed);
        if length == 0 {
            return to.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use std::os::unix::net::UnixStream;

    use super::*;

    fn pairs(count: usize) -> (Vec<UnixStream>, Vec<OwnedFd>) {
        (0..count).map(|_| UnixStream::pair().unwrap()).map(|(one, other)| (one, OwnedFd::from(other))).unzip()
    }

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect()
    }

    #[test]
    fn a_stream_comes_back_in_order() {
        for channels in [1, 2, 5] {
            for length in [0, 1, FRAME, FRAME + 1, 9 * FRAME + 77] {
                let (writers, readers) = pairs(channels);
                let data = bytes(length);
                let sent = data.clone();
                let thread = std::thread::spawn(move || {
                    let mut writer = FrameWriter::new(writers).unwrap();
                    writer.write_all(&sent).unwrap();
                    writer.finish().unwrap()
                });
                let mut received = Vec::new();
                FrameReader::new(readers).read_to_end(&mut received).unwrap();
                assert!(received == data, "{channels} channels, {length} bytes");
                assert!(thread.join().unwrap() >= length as u64);
            }
        }
    }

    #[test]
    fn a_lost_channel_is_an_error_for_both_sides_and_hangs_nobody() {
        let (writers, mut readers) = pairs(2);
        drop(readers.pop());
        let mut writer = FrameWriter::new(writers).unwrap();
        let reading = std::thread::spawn(move || FrameReader::new(readers).read_to_end(&mut Vec::new()));
        let result = writer.write_all(&bytes(40 * FRAME)).and_then(|()| writer.finish().map(drop));
        assert!(result.is_err());
        assert!(reading.join().unwrap().is_err());
    }

    #[test]
    fn what_is_not_right_is_refused() {
        let frame = |number: u64, bytes: &[u8]| [&head(number, bytes.len())[..], bytes].concat();
        let wrong: [(&str, Vec<u8>); 6] = [
            ("twice", [frame(0, b"a"), frame(0, b"a"), frame(1, b"")].concat()),
            ("missing", [frame(1, b"a"), frame(2, b"")].concat()),
            ("far", [frame(1 << 40, b"a")].concat()),
            ("long", head(0, usize::MAX).to_vec()),
            ("cut", frame(0, b"abc")[..13].to_vec()),
            ("no end", frame(0, b"abc")),
        ];
        for (name, stream) in wrong {
            let (mut writers, readers) = pairs(1);
            writers[0].write_all(&stream).unwrap();
            drop(writers);
            assert!(FrameReader::new(readers).read_to_end(&mut Vec::new()).is_err(), "{name}");
        }
    }

    #[test]
    fn nothing_after_the_end_is_read() {
        let (mut writers, readers) = pairs(1);
        let copy = std::fs::File::from(readers[0].try_clone().unwrap());
        writers[0].write_all(&head(0, 0)).unwrap();
        writers[0].write_all(b"next").unwrap();
        assert_eq!(FrameReader::new(readers).read_to_end(&mut Vec::new()).unwrap(), 0);
        let mut rest = [0; 4];
        let mut copy = copy;
        copy.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"next");
    }

    #[test]
    fn frames_are_passed_on_as_they_are() {
        let (writers, _readers) = pairs(1);
        drop(writers);
        let stream = [&head(0, 3)[..], b"abc", &head(1, 0)[..], b"rest"].concat();
        let (mut out, count) = (Vec::new(), AtomicU64::new(0));
        copy_frames(stream.as_slice(), &mut out, &count).unwrap();
        assert_eq!(out, stream[..stream.len() - 4]);
        assert_eq!(count.into_inner(), out.len() as u64);
    }
}
