//! What a job has printed: every byte with its offset since the job's beginning, as far back as there is room.
//!
//! Two files for each segment: the bytes, and where which stream goes on. Bytes go from the program's terminal or pipe into the
//! file inside the kernel (`splice`), so that none is lost when the supervisor is killed at any moment.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ckpt_transfer::protocol::Stream;
use rustix::pipe::{SpliceFlags, splice};

use crate::modes::Modes;

/// A segment that is longer than this is the last one's predecessor; older ones go.
const SEGMENT: u64 = 8 << 20;
const SEGMENTS: usize = 2;
/// How much is moved at once.
const PIECE: usize = 64 << 10;
const BYTES: &str = "output.";
const SWITCHES: &str = "streams.";
/// An offset and a stream.
const SWITCH: usize = 9;

/// A job's output.
#[derive(Debug)]
pub struct Log {
    directory: PathBuf,
    segments: VecDeque<Segment>,
}

#[derive(Debug)]
struct Segment {
    start: u64,
    length: u64,
    bytes: Arc<File>,
    index: File,
    /// From which offset on output comes from which stream.
    switches: Vec<(u64, Stream)>,
}

/// A part of the output that comes from one stream.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Its offset since the job's beginning.
    pub offset: u64,
    /// Where it comes from.
    pub stream: Stream,
    file: Arc<File>,
    at: u64,
    length: usize,
}

impl Piece {
    /// Its bytes.
    pub fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.length];
        self.file.read_exact_at(&mut bytes, self.at)?;
        Ok(bytes)
    }

    /// The offset of what comes after it.
    pub fn end(&self) -> u64 {
        self.offset + self.length as u64
    }
}

impl Log {
    /// Opens the log of a job's directory to read it and go on with it.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let mut log = Self::view(directory)?;
        if log.segments.is_empty() {
            log.begin_segment(0)?;
        }
        Ok(log)
    }

    /// Opens it to read what there is.
    pub fn view(directory: &Path) -> io::Result<Self> {
        let mut starts = Vec::new();
        for entry in fs::read_dir(directory)? {
            let name = entry?.file_name();
            starts.extend(name.to_str().and_then(|name| name.strip_prefix(BYTES)?.parse::<u64>().ok()));
        }
        starts.sort_unstable();
        let segments = starts.into_iter().map(|start| Segment::open(directory, start)).collect::<io::Result<_>>()?;
        Ok(Self { directory: directory.to_path_buf(), segments })
    }

    /// Removes it.
    pub fn remove(directory: &Path) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(BYTES) || name.starts_with(SWITCHES)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The offset of the first byte that is still there.
    pub fn start(&self) -> u64 {
        self.segments.front().map_or(0, |segment| segment.start)
    }

    /// The offset of the next byte.
    pub fn end(&self) -> u64 {
        self.segments.back().map_or(0, Segment::end)
    }

    /// For a job that has printed so much elsewhere: what comes is counted from there.
    pub fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        if offset > self.end() {
            self.begin_segment(offset)?;
        }
        Ok(())
    }

    /// Adds bytes.
    pub fn append(&mut self, stream: Stream, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(bytes.len().min(PIECE));
            let segment = self.current(stream)?;
            segment.bytes.write_all_at(part, segment.length)?;
            segment.length += part.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// Takes what is in a pipe, without waiting. Gives the number of bytes, 0 at its end; `WouldBlock` when nothing is there.
    pub fn take_from_pipe(&mut self, stream: Stream, pipe: impl AsFd) -> io::Result<usize> {
        match self.splice(stream, &pipe) {
            // Room is made where the disk is full: what was printed last matters most.
            Err(error) if error.kind() == io::ErrorKind::StorageFull && self.segments.len() > 1 => {
                self.drop_oldest();
                self.splice(stream, &pipe)
            }
            result => result,
        }
    }

    fn splice(&mut self, stream: Stream, pipe: &impl AsFd) -> io::Result<usize> {
        let segment = self.current(stream)?;
        let mut at = segment.length;
        let flags = SpliceFlags::NONBLOCK;
        let moved = rustix::io::retry_on_intr(|| splice(pipe, None, &*segment.bytes, Some(&mut at), PIECE, flags))?;
        segment.length += moved as u64;
        Ok(moved)
    }

    /// The part of the output at an offset, at most so long; `None` at the end. What is no longer there is passed over.
    pub fn piece(&self, from: u64, most: usize) -> Option<Piece> {
        let from = from.max(self.start());
        let segment = self.segments.iter().find(|segment| from < segment.end())?;
        let from = from.max(segment.start);
        let next = segment.switches.partition_point(|(offset, _)| *offset <= from);
        let stream = segment.switches[..next].last().map_or(Stream::Terminal, |(_, stream)| *stream);
        let until = segment.switches.get(next).map_or(segment.end(), |(offset, _)| *offset).min(segment.end());
        let length = usize::try_from(until - from).unwrap_or(usize::MAX).min(most);
        Some(Piece { offset: from, stream, file: Arc::clone(&segment.bytes), at: from - segment.start, length })
    }

    /// Where the last `lines` lines begin, not further back than `most` bytes.
    pub fn lines_back(&self, lines: usize, most: u64) -> io::Result<u64> {
        let end = self.end();
        let begin = end.saturating_sub(most).max(self.start());
        let bytes = self.bytes(begin, end)?;
        // The newline that ends the last line counts for nothing.
        let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let newlines = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
        let cut = newlines.map(|(index, _)| index + 1).nth(lines.saturating_sub(1)).unwrap_or(0);
        Ok(begin + cut as u64)
    }

    /// The output between two offsets, none of it longer than a mebibyte.
    pub fn pieces(&self, begin: u64, end: u64) -> impl Iterator<Item = Piece> {
        const MOST: u64 = 1 << 20;
        let mut at = begin;
        std::iter::from_fn(move || {
            let most = usize::try_from(end.saturating_sub(at).min(MOST)).unwrap_or(usize::MAX);
            let piece = self.piece(at, most).filter(|piece| piece.length > 0)?;
            at = piece.end();
            Some(piece)
        })
    }

    /// The bytes between two offsets, whichever stream they come from.
    pub fn bytes(&self, begin: u64, end: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for piece in self.pieces(begin, end) {
            bytes.extend(piece.bytes()?);
        }
        Ok(bytes)
    }

    /// How the terminal is set by what was shown on it.
    pub fn modes(&self) -> io::Result<Modes> {
        let mut modes = Modes::default();
        for piece in self.pieces(self.start(), self.end()).filter(|piece| piece.stream == Stream::Terminal) {
            modes.see(&piece.bytes()?);
        }
        Ok(modes)
    }

    /// The segment that output of a stream goes to.
    fn current(&mut self, stream: Stream) -> io::Result<&mut Segment> {
        let end = self.end();
        if self.segments.back().is_none_or(|segment| segment.length >= SEGMENT) {
            self.begin_segment(end)?;
        }
        let segment = self.segments.back_mut().ok_or(io::ErrorKind::NotFound)?;
        if segment.switches.last().is_none_or(|(_, last)| *last != stream) {
            // Before the bytes: a switch to where nothing follows does no harm.
            segment.index.write_all(&encode(segment.end(), stream))?;
            segment.switches.push((segment.end(), stream));
        }
        Ok(segment)
    }

    fn begin_segment(&mut self, start: u64) -> io::Result<()> {
        self.segments.push_back(Segment::create(&self.directory, start)?);
        while self.segments.len() > SEGMENTS {
            self.drop_oldest();
        }
        Ok(())
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.segments.pop_front() {
            for kind in [BYTES, SWITCHES] {
                // One that stays is found again and dropped the next time.
                let _ = fs::remove_file(self.directory.join(format!("{kind}{:020}", oldest.start)));
            }
        }
    }
}

impl Segment {
    fn create(directory: &Path, start: u64) -> io::Result<Self> {
        let create = |kind: &str| {
            let path = directory.join(format!("{kind}{start:020}"));
            File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
        };
        // The index first: bytes without one would be of an unknown stream.
        let index = create(SWITCHES)?;
        Ok(Self { start, length: 0, bytes: Arc::new(create(BYTES)?), index, switches: Vec::new() })
    }

    fn open(directory: &Path, start: u64) -> io::Result<Self> {
        let path = |kind: &str| directory.join(format!("{kind}{start:020}"));
        let bytes = File::options().read(true).write(true).open(path(BYTES))?;
        let index = File::options().read(true).append(true).create(true).mode(0o600).open(path(SWITCHES))?;
        let mut entries = vec![0; usize::try_from(index.metadata()?.len()).unwrap_or(0)];
        index.read_exact_at(&mut entries, 0)?;
        let length = bytes.metadata()?.len();
        let switches = entries.chunks_exact(SWITCH).filter_map(decode).collect();
        Ok(Self { start, length, bytes: Arc::new(bytes), index, switches })
    }

    fn end(&self) -> u64 {
        self.start + self.length
    }
}

fn encode(offset: u64, stream: Stream) -> [u8; SWITCH] {
    let mut entry = [0; SWITCH];
    entry[..8].copy_from_slice(&offset.to_le_bytes());
    entry[8] = match stream {
        Stream::Terminal => 0,
        Stream::Output => 1,
        Stream::Error => 2,
    };
    entry
}

fn decode(entry: &[u8]) -> Option<(u64, Stream)> {
    let offset = u64::from_le_bytes(entry.get(..8)?.try_into().ok()?);
    let stream = match entry.get(8)? {
        0 => Stream::Terminal,
        1 => Stream::Output,
        _ => Stream::Error,
    };
    Some((offset, stream))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use super::*;

    fn all(log: &Log, from: u64) -> Vec<(u64, Stream, Vec<u8>)> {
        let mut pieces = Vec::new();
        let mut at = from;
        while let Some(piece) = log.piece(at, usize::MAX) {
            at = piece.end();
            pieces.push((piece.offset, piece.stream, piece.bytes().unwrap()));
        }
        pieces
    }

    #[test]
    fn output_keeps_its_order_and_where_it_came_from() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(directory.path()).unwrap();
        log.append(Stream::Terminal, b"one ").unwrap();
        log.append(Stream::Terminal, b"two").unwrap();
        log.append(Stream::Error, b"oh").unwrap();
        let expected = vec![(0, Stream::Terminal, b"one two".to_vec()), (7, Stream::Error, b"oh".to_vec())];
        assert_eq!(all(&log, 0), expected);
        // Another process goes on with it.
        drop(log);
        let mut log = Log::open(directory.path()).unwrap();
        assert_eq!(all(&log, 0), expected);
        log.append(Stream::Error, b"!").unwrap();
        assert_eq!(all(&log, 8), [(8, Stream::Error, b"h!".to_vec())]);
        assert_eq!(log.end(), 10);
        log.skip_to(100).unwrap();
        log.append(Stream::Output, b"x").unwrap();
        assert_eq!(all(&log, 10), [(100, Stream::Output, b"x".to_vec())]);
        Log::remove(directory.path()).unwrap();
        assert_eq!(Log::open(directory.path()).unwrap().end(), 0);
    }

    #[test]
    fn a_pipe_goes_into_the_file_at_the_right_place() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(directory.path()).unwrap();
        let (mut reader, mut writer) = io::pipe().unwrap();
        log.append(Stream::Terminal, b"before ").unwrap();
        assert_eq!(log.take_from_pipe(Stream::Output, &reader).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        writer.write_all(b"piped").unwrap();
        assert_eq!(log.take_from_pipe(Stream::Output, &reader).unwrap(), 5);
        drop(writer);
        assert_eq!(log.take_from_pipe(Stream::Output, &reader).unwrap(), 0);
        assert_eq!(io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
        assert_eq!(log.bytes(0, log.end()).unwrap(), b"before piped");
    }

    #[test]
    fn old_output_makes_room() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(directory.path()).unwrap();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..40 {
            log.append(Stream::Terminal, &piece).unwrap();
        }
        assert_eq!(log.end(), 40 << 20);
        assert!(log.start() >= 24 << 20, "{}", log.start());
        assert!(log.end() - log.start() >= SEGMENT);
        assert_eq!(log.piece(0, 10).unwrap().offset, log.start());
        assert_eq!(Log::view(directory.path()).unwrap().start(), log.start());
    }

    #[test]
    fn lines_are_counted_from_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(directory.path()).unwrap();
        assert_eq!(log.lines_back(3, 100).unwrap(), 0);
        log.append(Stream::Terminal, b"1\n2\n3\n4\n").unwrap();
        assert_eq!(log.lines_back(2, 100).unwrap(), 4);
        assert_eq!(log.lines_back(9, 100).unwrap(), 0);
        assert_eq!(log.lines_back(9, 4).unwrap(), 4);
        log.append(Stream::Terminal, b"prompt> ").unwrap();
        assert_eq!(log.lines_back(1, 100).unwrap(), 8);
    }
}
