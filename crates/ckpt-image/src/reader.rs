//! From the bytes of an image back to its records.

use std::io::{ErrorKind, Read, Seek, SeekFrom};

use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::Xxh3Default;

use crate::header::HEADER_LEN;
use crate::identity::Tally;
use crate::record::{Content, END, HEAD_LEN, Head, IGNORABLE, MAX_META, MAX_PAD, Record, Stored, parse_end};
use crate::{Codec, FileHeader, ImageError, Summary};

/// Bytes that are passed over are checked in pieces of this size.
const PIECE: u64 = 64 * 1024;
/// Memory is filled in steps of this size before more is taken, whatever length a record claims.
const STEP: usize = 1024 * 1024;

/// Reads an image from front to back out of anything that is [`Read`], starting at its position 0.
///
/// Head and meta of every record are verified; data is when it is read or passed over by reading, not when
/// it is skipped by seeking.
pub struct ImageReader<R> {
    inner: R,
    header: FileHeader,
    position: u64,
    tally: Tally,
    pending: Option<Stored>,
    summary: Option<Summary>,
    /// Whether the stream is the image's alone.
    is_whole: bool,
    /// Head and meta, and other bytes on their way.
    buffer: Vec<u8>,
}

impl<R: Read> ImageReader<R> {
    /// Reads the header of an image that has a file or a stream for itself: nothing may follow it.
    ///
    /// # Errors
    /// As [`FileHeader::decode`], and [`ImageError::Io`].
    pub fn new(inner: R) -> Result<Self, ImageError> {
        Self::begin(inner, true)
    }

    /// Reads the header of an image in a channel where other things may follow it: not a byte beyond its end is asked for.
    ///
    /// # Errors
    /// As [`FileHeader::decode`], and [`ImageError::Io`].
    pub fn in_channel(inner: R) -> Result<Self, ImageError> {
        Self::begin(inner, false)
    }

    fn begin(mut inner: R, is_whole: bool) -> Result<Self, ImageError> {
        let mut buffer = Vec::with_capacity(HEADER_LEN);
        let mut start = inner.by_ref().take(HEADER_LEN as u64);
        start.read_to_end(&mut buffer).map_err(|error| ImageError::read(0, error))?;
        let header = FileHeader::decode(&buffer)?;
        let tally = Tally::new(&buffer);
        Ok(Self { inner, header, position: HEADER_LEN as u64, tally, pending: None, summary: None, is_whole, buffer })
    }

    /// What the image says of itself.
    pub fn header(&self) -> &FileHeader {
        &self.header
    }

    /// The image in short, once [`next_record`](Self::next_record) has come to its end.
    pub fn summary(&self) -> Option<Summary> {
        self.summary
    }

    /// Goes to the next record, over data that nobody read, which is then verified in passing. `None` when
    /// the image ended as it should; where it has the stream for itself, with nothing after it: to know that, one more
    /// byte is asked for.
    ///
    /// # Errors
    /// [`ImageError::Truncated`], [`ImageError::Damaged`], [`ImageError::Unknown`], [`ImageError::TooLarge`] or
    /// [`ImageError::Io`]. After damage to data, and only then, the next call goes on behind it.
    pub fn next_record(&mut self) -> Result<Option<Record>, ImageError> {
        if let Some(data) = self.pending.take() {
            self.pass_over(&data)?;
        }
        while self.summary.is_none() {
            let record_position = self.position;
            let head = self.read_head()?;
            if let Some(what) = head.unknown() {
                if head.flags & IGNORABLE == 0 {
                    return Err(ImageError::Unknown { position: record_position, what });
                }
                self.tally.add(head.seal);
                self.pass_over(&self.ignored(&head, record_position))?;
                continue;
            }
            let data = Stored::parse(&head, record_position, self.position)?;
            if head.kind == END {
                self.summary = Some(self.end(record_position)?);
                break;
            }
            let meta = &self.buffer[HEAD_LEN..];
            let content = Content::parse(&head, meta, self.header.page_size)
                .map_err(|what| ImageError::damaged(record_position, what))?;
            self.tally.add(head.seal);
            self.pending = Some(data);
            return Ok(Some(Record { content, data }));
        }
        Ok(None)
    }

    /// Reads, verifies and decodes the data of the record that [`next_record`](Self::next_record) gave last.
    /// `out` keeps its memory between calls; what it holds after an error is unspecified.
    ///
    /// # Errors
    /// [`ImageError::Truncated`], [`ImageError::Damaged`] or [`ImageError::Io`].
    pub fn read_data(&mut self, out: &mut Vec<u8>) -> Result<(), ImageError> {
        let data = self.take_pending()?;
        if data.codec == Codec::None {
            self.read_to(out, 0, data.stored_len)?;
            return data.verify(out);
        }
        let mut stored = std::mem::take(&mut self.buffer);
        let read = self.read_to(&mut stored, 0, data.stored_len);
        self.buffer = stored;
        read?;
        data.verify(&self.buffer)?;
        data.decode(&self.buffer, out)
    }

    /// Reads and verifies the data of the record that [`next_record`](Self::next_record) gave last, as it is stored: it can
    /// be [decoded](Stored::decode) elsewhere, or later. `out` as in [`read_data`](Self::read_data).
    ///
    /// # Errors
    /// [`ImageError::Truncated`], [`ImageError::Damaged`] or [`ImageError::Io`].
    pub fn read_stored(&mut self, out: &mut Vec<u8>) -> Result<(), ImageError> {
        let data = self.take_pending()?;
        self.read_to(out, 0, data.stored_len)?;
        data.verify(out)
    }

    /// Reads the data of a layout or state record as what it describes.
    ///
    /// # Errors
    /// As [`read_data`](Self::read_data), and [`ImageError::Json`].
    pub fn read_json<T: DeserializeOwned>(&mut self) -> Result<T, ImageError> {
        let position = self.pending.map_or(self.position, |data| data.record_position);
        let mut json = Vec::new();
        self.read_data(&mut json)?;
        serde_json::from_slice(&json).map_err(|source| ImageError::Json { position, source })
    }

    fn take_pending(&mut self) -> Result<Stored, ImageError> {
        self.pending.take().ok_or_else(|| {
            let misuse = std::io::Error::new(ErrorKind::InvalidInput, "no record's data is waiting here");
            ImageError::read(self.position, misuse)
        })
    }

    /// Reads head, meta and pad of a record and verifies them. Head and meta stay in the buffer.
    fn read_head(&mut self) -> Result<Head, ImageError> {
        let position = self.position;
        let mut buffer = std::mem::take(&mut self.buffer);
        self.read_to(&mut buffer, 0, HEAD_LEN as u64)?;
        let head = Head::parse(&buffer).filter(|head| head.meta_len <= MAX_META);
        let damaged = || ImageError::damaged(position, "the checksum of a record's head is wrong");
        let head = head.ok_or_else(damaged)?;
        self.read_to(&mut buffer, HEAD_LEN, u64::from(head.meta_len))?;
        if !head.is_sealing(&mut buffer) {
            return Err(damaged());
        }
        if head.pad > MAX_PAD {
            return Err(ImageError::damaged(position, format!("a record has {} pad bytes", head.pad)));
        }
        let sealed = buffer.len();
        self.read_to(&mut buffer, sealed, u64::from(head.pad))?;
        if buffer[sealed..].iter().any(|&byte| byte != 0) {
            return Err(ImageError::damaged(position, "the pad bytes of a record are not zero"));
        }
        buffer.truncate(sealed);
        self.buffer = buffer;
        Ok(head)
    }

    /// Compares what the end record says with what was read, and sees that nothing follows where nothing may.
    fn end(&mut self, position: u64) -> Result<Summary, ImageError> {
        let said = parse_end(&self.buffer[HEAD_LEN..])
            .ok_or_else(|| ImageError::damaged(position, "the end record is malformed"))?;
        let read = Summary { id: self.tally.id(), bytes: position, records: self.tally.records };
        if said != read {
            return Err(ImageError::damaged(position, "the records are not those that the end record counted"));
        }
        let bytes = self.position;
        if !self.is_whole {
            return Ok(Summary { bytes, ..read });
        }
        match self.fill(&mut [0]) {
            Err(ImageError::Truncated { .. }) => Ok(Summary { bytes, ..read }),
            Ok(()) => Err(ImageError::damaged(bytes, "there is more after its end record")),
            Err(error) => Err(error),
        }
    }

    /// The data of a record that this version does not know: nothing of it is believed but its length.
    fn ignored(&self, head: &Head, record_position: u64) -> Stored {
        Stored {
            record_position,
            position: self.position,
            codec: Codec::None,
            stored_len: head.stored_len,
            raw_len: head.raw_len,
            checksum: head.data_checksum,
        }
    }

    fn pass_over(&mut self, data: &Stored) -> Result<(), ImageError> {
        let mut piece = std::mem::take(&mut self.buffer);
        let mut sum = Xxh3Default::new();
        let mut left = data.stored_len;
        while left > 0 {
            let length = left.min(PIECE);
            self.read_to(&mut piece, 0, length)?;
            sum.update(&piece);
            left -= length;
        }
        self.buffer = piece;
        data.compare(data.stored_len, sum.digest())
    }

    /// Reads exactly `length` bytes into `out` from index `at` on, where `out` then ends. It grows no faster
    /// than bytes really come, and is not cleared first: what it already holds would only be zeroed again.
    fn read_to(&mut self, out: &mut Vec<u8>, mut at: usize, length: u64) -> Result<(), ImageError> {
        let end = at.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        out.truncate(end);
        while at < end {
            let next = end.min(at + STEP);
            if out.len() < next {
                out.resize(next, 0);
            }
            self.fill(&mut out[at..next])?;
            at = next;
        }
        Ok(())
    }

    fn fill(&mut self, mut bytes: &mut [u8]) -> Result<(), ImageError> {
        while !bytes.is_empty() {
            match self.inner.read(bytes) {
                Ok(0) => {
                    return Err(ImageError::Truncated { position: self.position });
                }
                Ok(count) => {
                    self.position += count as u64;
                    bytes = &mut bytes[count..];
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ImageError::read(self.position, error)),
            }
        }
        Ok(())
    }
}

impl<R: Read + Seek> ImageReader<R> {
    /// Skips the data of the record that [`next_record`](Self::next_record) gave last, without verifying it.
    ///
    /// # Errors
    /// [`ImageError::Truncated`] if it is not all there, or [`ImageError::Io`].
    pub fn skip_data(&mut self) -> Result<(), ImageError> {
        let data = self.take_pending()?;
        let Some(all_but_one) = data.stored_len.checked_sub(1) else {
            return Ok(());
        };
        // A seek goes beyond the end without complaint, so the last byte is read.
        let distance = i64::try_from(all_but_one).unwrap_or(i64::MAX);
        self.inner.seek_relative(distance).map_err(|error| ImageError::read(self.position, error))?;
        self.position += all_but_one;
        let last = self.fill(&mut [0]);
        if let Err(ImageError::Truncated { .. }) = last {
            let end = self.inner.seek(SeekFrom::End(0)).map_err(|error| ImageError::read(self.position, error))?;
            return Err(ImageError::Truncated { position: end });
        }
        last
    }
}
