//! One record: its head, its meta bytes, and where its data lies.

use crate::codec::{self, checksum};
use crate::fields::Fields;
use crate::identity::{ImageId, Summary};
use crate::{Codec, ImageError};

/// Raw page data of this length and more, uncompressed, begins at a multiple of [`ALIGN`].
pub const PAD_FROM: u64 = 64 * 1024;
/// What padded data is aligned to in the stream.
pub const ALIGN: u64 = 4096;
/// Most raw bytes in a page run or a piece of a carried file.
pub const MAX_RUN: u64 = 1024 * 1024;
/// Most ranges in a page run.
pub const MAX_RANGES: usize = 1024;
/// Most bytes of JSON in a layout or state record.
pub const MAX_JSON: u64 = 64 * 1024 * 1024;
/// Most bytes in the name of a state record.
pub const MAX_NAME: usize = 256;
/// Most meta bytes of any record, of kinds yet to come too.
pub(crate) const MAX_META: u32 = 64 * 1024;
/// Most pad bytes that a reader accepts: enough for data aligned to the largest pages.
pub(crate) const MAX_PAD: u32 = 64 * 1024 - 1;

pub(crate) const HEAD_LEN: usize = 48;
/// The head's last field, its seal, is the checksum of head and meta, computed while it is zero.
const SEAL: usize = HEAD_LEN - 8;
/// The record may be passed over by a reader that does not know its kind.
pub(crate) const IGNORABLE: u8 = 1;

pub(crate) const LAYOUT: u16 = 1;
pub(crate) const PAGES: u16 = 2;
pub(crate) const STATE: u16 = 3;
pub(crate) const FILE_DATA: u16 = 4;
pub(crate) const END: u16 = 5;

/// The fixed front of a record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) kind: u16,
    pub(crate) codec: u8,
    pub(crate) flags: u8,
    pub(crate) meta_len: u32,
    pub(crate) pad: u32,
    pub(crate) stored_len: u64,
    pub(crate) raw_len: u64,
    pub(crate) data_checksum: u64,
    pub(crate) seal: u64,
}

impl Head {
    /// Lays head and meta into `out`, sealed, and gives the seal.
    pub(crate) fn seal(&self, meta: &[u8], out: &mut Vec<u8>) -> u64 {
        out.clear();
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.extend_from_slice(&[self.codec, self.flags]);
        out.extend_from_slice(&self.meta_len.to_le_bytes());
        out.extend_from_slice(&self.pad.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.stored_len.to_le_bytes());
        out.extend_from_slice(&self.raw_len.to_le_bytes());
        out.extend_from_slice(&self.data_checksum.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(meta);
        let sum = checksum(out);
        out[SEAL..HEAD_LEN].copy_from_slice(&sum.to_le_bytes());
        sum
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (kind, codec, flags) = (fields.u16()?, fields.u8()?, fields.u8()?);
        let (meta_len, pad) = (fields.u32()?, fields.u32()?);
        fields.u32()?;
        Some(Self {
            kind,
            codec,
            flags,
            meta_len,
            pad,
            stored_len: fields.u64()?,
            raw_len: fields.u64()?,
            data_checksum: fields.u64()?,
            seal: fields.u64()?,
        })
    }

    /// Whether `bytes`, head and meta, are what was sealed. Leaves the seal in them zero.
    pub(crate) fn is_sealing(&self, bytes: &mut [u8]) -> bool {
        let Some(sum) = bytes.get_mut(SEAL..HEAD_LEN) else {
            return false;
        };
        sum.fill(0);
        checksum(bytes) == self.seal
    }

    /// What a reader of this version cannot make sense of, if anything.
    pub(crate) fn unknown(&self) -> Option<String> {
        if !matches!(self.kind, LAYOUT..=END) {
            return Some(match self.kind {
                6 => "a reference to a parent image".into(),
                7 => "a signature".into(),
                8 => "an encryption key".into(),
                kind => format!("a record of kind {kind}"),
            });
        }
        if self.flags & !IGNORABLE != 0 {
            return Some(format!("a record with flags {:#x}", self.flags));
        }
        if Codec::from_byte(self.codec).is_none() {
            return Some(format!("a record compressed by codec {}", self.codec));
        }
        None
    }
}

/// Whole pages of memory that lie side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageRange {
    /// Address of the first byte.
    pub addr: u64,
    /// Length in bytes.
    pub len: u64,
}

/// What a record is about, without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Processes and their regions; the data is JSON.
    Layout,
    /// Named state (registers, files, signals ...); the data is JSON.
    State {
        /// Which state it is.
        name: String,
    },
    /// Memory; the data is the bytes of all ranges, one after another.
    Pages {
        /// Whose memory, counted in the order of the layout.
        process: u32,
        /// Which pages: ascending, apart from each other, never none.
        ranges: Vec<PageRange>,
    },
    /// A piece of a file that the image carries; the data is its bytes.
    FileData {
        /// Which of the carried files.
        file: u64,
        /// Where in the file the piece begins.
        offset: u64,
    },
}

impl Content {
    /// Reads the meta bytes of a record whose head has been verified and is of a known kind.
    pub(crate) fn parse(head: &Head, meta: &[u8], page_size: u32) -> Result<Self, String> {
        match head.kind {
            LAYOUT if meta.is_empty() => Ok(Self::Layout),
            LAYOUT => Err("a layout record has no name".into()),
            STATE => Ok(Self::State { name: parse_name(meta)? }),
            PAGES => parse_pages(meta, head.raw_len, page_size),
            FILE_DATA => parse_file_data(meta, head.raw_len),
            kind => Err(format!("a record of kind {kind} has no content")),
        }
    }
}

fn parse_name(meta: &[u8]) -> Result<String, String> {
    let name = std::str::from_utf8(meta).map_err(|_| "the name of a state record is not UTF-8")?;
    check_name(name)?;
    Ok(name.to_owned())
}

pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(format!("the name of a state record has {} bytes and not 1 to {MAX_NAME}", name.len()));
    }
    Ok(())
}

fn parse_pages(meta: &[u8], raw_len: u64, page_size: u32) -> Result<Content, String> {
    let mut fields = Fields(meta);
    let (process, count) = fields.u32().zip(fields.u32()).ok_or("the ranges of a page run are cut short")?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count > MAX_RANGES {
        return Err(format!("a page run has {count} ranges and not 1 to {MAX_RANGES}"));
    }
    let ranges: Option<Vec<_>> =
        (0..count).map(|_| Some(PageRange { addr: fields.u64()?, len: fields.u64()? })).collect();
    let ranges = ranges.filter(|_| fields.0.is_empty()).ok_or("the number of ranges of a page run is wrong")?;
    check_ranges(&ranges, raw_len, page_size)?;
    Ok(Content::Pages { process, ranges })
}

/// Whether a page run may have these ranges: what the writer promises is what the reader demands.
pub(crate) fn check_ranges(ranges: &[PageRange], raw_len: u64, page_size: u32) -> Result<(), String> {
    if ranges.is_empty() || ranges.len() > MAX_RANGES {
        return Err(format!("a page run has {} ranges and not 1 to {MAX_RANGES}", ranges.len()));
    }
    let page = u64::from(page_size);
    let (mut free_from, mut left) = (0, raw_len);
    for &PageRange { addr, len } in ranges {
        if addr % page != 0 || len % page != 0 || len == 0 {
            return Err(format!("the range {addr:#x}+{len:#x} of a page run is not of whole pages"));
        }
        let end = addr.checked_add(len).filter(|_| addr >= free_from);
        free_from = end.ok_or_else(|| format!("the range {addr:#x}+{len:#x} of a page run is out of order"))?;
        left = left.checked_sub(len).ok_or("the ranges of a page run are longer than its data")?;
    }
    if left != 0 {
        return Err("the ranges of a page run are shorter than its data".into());
    }
    Ok(())
}

fn parse_file_data(meta: &[u8], raw_len: u64) -> Result<Content, String> {
    let mut fields = Fields(meta);
    let (file, offset) = fields
        .u64()
        .zip(fields.u64())
        .filter(|_| fields.0.is_empty())
        .ok_or("the meta bytes of a piece of a file are not 16")?;
    check_offset(offset, raw_len)?;
    Ok(Content::FileData { file, offset })
}

/// Files end before 2^63 (`off_t`).
pub(crate) fn check_offset(offset: u64, raw_len: u64) -> Result<(), String> {
    match offset.checked_add(raw_len) {
        Some(end) if i64::try_from(end).is_ok() => Ok(()),
        _ => Err(format!("no file has {raw_len} bytes at offset {offset}")),
    }
}

/// What an end record says.
pub(crate) fn end_meta(summary: &Summary) -> Vec<u8> {
    let mut meta = Vec::with_capacity(48);
    meta.extend_from_slice(&summary.records.to_le_bytes());
    meta.extend_from_slice(&summary.bytes.to_le_bytes());
    meta.extend_from_slice(&summary.id.0);
    meta
}

/// Reads what an end record says; `bytes` is then the position of the end record itself.
pub(crate) fn parse_end(meta: &[u8]) -> Option<Summary> {
    let mut fields = Fields(meta);
    let (records, bytes, id) = (fields.u64()?, fields.u64()?, ImageId(fields.array()?));
    fields.0.is_empty().then_some(Summary { id, bytes, records })
}

/// A record whose data has not been read yet. Its head and meta are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is about.
    pub content: Content,
    /// Where its data is and how to check it.
    pub data: Stored,
}

/// Where the data of a record lies in the image, and what it must be.
///
/// It is small and holds nothing of the reader, so that another thread can get the bytes in its own way
/// (`pread`, a mapping), [`verify`](Self::verify) and [`decode`](Self::decode) them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Where the record begins in the image.
    pub record_position: u64,
    /// Where its data begins in the image.
    pub position: u64,
    /// How the data is coded.
    pub codec: Codec,
    /// How many bytes it takes in the image.
    pub stored_len: u64,
    /// How many bytes it is once decoded: at most [`MAX_RUN`], or [`MAX_JSON`] for layout and state.
    pub raw_len: u64,
    /// [`checksum`] of the bytes in the image.
    pub checksum: u64,
}

impl Stored {
    /// Takes the lengths and codec from a verified head of a known kind, if they are within the format.
    pub(crate) fn parse(head: &Head, record_position: u64, position: u64) -> Result<Self, ImageError> {
        let damaged = |what: &str| ImageError::damaged(record_position, what);
        let codec = Codec::from_byte(head.codec).ok_or_else(|| damaged("there is no such codec"))?;
        let (what, limit, compressible) = match head.kind {
            LAYOUT | STATE => ("a description", MAX_JSON, false),
            END => ("the end record", 0, false),
            _ => ("a run of data", MAX_RUN, true),
        };
        if head.raw_len > limit {
            return Err(ImageError::TooLarge {
                position: record_position,
                what,
                size: head.raw_len,
                limit,
                writing: false,
            });
        }
        if codec != Codec::None && !compressible {
            return Err(damaged("only pages and files can be compressed"));
        }
        let fits = if codec == Codec::None { head.stored_len == head.raw_len } else { head.stored_len < head.raw_len };
        if !fits {
            return Err(damaged("the stored and the raw length of a record contradict each other"));
        }
        Ok(Self {
            record_position,
            position,
            codec,
            stored_len: head.stored_len,
            raw_len: head.raw_len,
            checksum: head.data_checksum,
        })
    }

    /// Checks that `stored` is exactly what the writer stored.
    ///
    /// # Errors
    /// [`ImageError::Damaged`] if it is not.
    pub fn verify(&self, stored: &[u8]) -> Result<(), ImageError> {
        self.compare(stored.len() as u64, checksum(stored))
    }

    pub(crate) fn compare(&self, stored_len: u64, sum: u64) -> Result<(), ImageError> {
        if stored_len == self.stored_len && sum == self.checksum {
            return Ok(());
        }
        Err(ImageError::damaged(self.record_position, "the checksum of a record's data is wrong"))
    }

    /// Fills `out` with the bytes that verified `stored` ones stand for. `out` keeps its memory between calls.
    ///
    /// # Errors
    /// [`ImageError::Damaged`] if they do not come to [`raw_len`](Self::raw_len) bytes.
    pub fn decode(&self, stored: &[u8], out: &mut Vec<u8>) -> Result<(), ImageError> {
        codec::decompress(self.codec, stored, self.raw_len, out)
            .map_err(|what| ImageError::damaged(self.record_position, what))
    }
}
