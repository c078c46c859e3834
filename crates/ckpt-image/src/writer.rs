//! From page runs and state to the bytes of an image.

use std::io::{self, Write};

use serde::Serialize;

use crate::codec::{Compressor, checksum};
use crate::header::is_page_size;
use crate::identity::Tally;
use crate::record::{
    ALIGN, END, FILE_DATA, Head, LAYOUT, MAX_JSON, MAX_RUN, PAD_FROM, PAGES, PageRange, STATE, check_name,
    check_offset, check_ranges, end_meta,
};
use crate::{Codec, FileHeader, ImageError, Summary};

/// Turns memory and file contents into records, without a writer: each worker thread has its own.
///
/// Compressing and the checksum happen here. With [`Codec::None`] the data is only read once, never copied.
pub struct Encoder {
    page_size: u32,
    compressor: Compressor,
    meta: Vec<u8>,
}

/// A record ready to be appended. It borrows its data, or its encoder where that was compressed.
#[derive(Debug, Clone, Copy)]
pub struct Encoded<'a> {
    kind: u16,
    codec: Codec,
    meta: &'a [u8],
    stored: &'a [u8],
    raw_len: u64,
    checksum: u64,
}

impl Encoded<'_> {
    /// How many bytes the data takes in the image.
    #[must_use]
    pub fn stored_len(&self) -> u64 {
        self.stored.len() as u64
    }
}

impl Encoder {
    /// An encoder for images of machines with pages of `page_size` bytes.
    ///
    /// # Errors
    /// [`ImageError::Io`] if the codec has no memory to work with.
    pub fn new(page_size: u32, codec: Codec) -> Result<Self, ImageError> {
        let compressor = Compressor::new(codec).map_err(|error| ImageError::written(0, error))?;
        Ok(Self { page_size, compressor, meta: Vec::new() })
    }

    /// Encodes pages of the `process`th process of the layout. `data` is the bytes of all `ranges`, one after
    /// another; zero pages are for the caller to leave out.
    ///
    /// # Errors
    /// [`ImageError::Unwritable`] if there are no or more than [`MAX_RANGES`](crate::MAX_RANGES) ranges, or
    /// over [`MAX_RUN`] bytes, or the ranges are not of whole pages, ascending, and as long as `data`.
    pub fn pages<'a>(
        &'a mut self,
        process: u32,
        ranges: &[PageRange],
        data: &'a [u8],
    ) -> Result<Encoded<'a>, ImageError> {
        check_ranges(ranges, data.len() as u64, self.page_size).map_err(ImageError::unwritable)?;
        let count = u32::try_from(ranges.len()).map_err(|error| ImageError::unwritable(error.to_string()))?;
        self.meta.clear();
        self.meta.extend_from_slice(&process.to_le_bytes());
        self.meta.extend_from_slice(&count.to_le_bytes());
        for range in ranges {
            self.meta.extend_from_slice(&range.addr.to_le_bytes());
            self.meta.extend_from_slice(&range.len.to_le_bytes());
        }
        self.encode(PAGES, data)
    }

    /// Encodes a piece of the carried file `file` that begins at `offset` in it.
    ///
    /// # Errors
    /// [`ImageError::Unwritable`] if `data` is over [`MAX_RUN`] bytes or would end after the end of any file.
    pub fn file_data<'a>(&'a mut self, file: u64, offset: u64, data: &'a [u8]) -> Result<Encoded<'a>, ImageError> {
        check_offset(offset, data.len() as u64).map_err(ImageError::unwritable)?;
        self.meta.clear();
        self.meta.extend_from_slice(&file.to_le_bytes());
        self.meta.extend_from_slice(&offset.to_le_bytes());
        self.encode(FILE_DATA, data)
    }

    fn encode<'a>(&'a mut self, kind: u16, data: &'a [u8]) -> Result<Encoded<'a>, ImageError> {
        let raw_len = data.len() as u64;
        if raw_len > MAX_RUN {
            return Err(ImageError::unwritable(format!("a run of {raw_len} bytes is longer than {MAX_RUN}")));
        }
        let (codec, stored) = self.compressor.compress(data);
        Ok(Encoded { kind, codec, meta: &self.meta, stored, raw_len, checksum: checksum(stored) })
    }
}

/// Writes an image from front to back into anything that is [`Write`], starting at its position 0.
///
/// It writes each record in at most two calls, the data of a run in one: a buffer would only copy that.
pub struct ImageWriter<W> {
    inner: W,
    position: u64,
    tally: Tally,
    head: Vec<u8>,
    failure: Option<io::Error>,
}

impl<W: Write> ImageWriter<W> {
    /// Begins an image by writing its header.
    ///
    /// # Errors
    /// [`ImageError::Io`], or [`ImageError::Unwritable`] for a page size that no machine has.
    pub fn new(inner: W, architecture: u16, page_size: u32) -> Result<Self, ImageError> {
        if !is_page_size(page_size) {
            return Err(ImageError::unwritable(format!("no machine has pages of {page_size} bytes")));
        }
        let header = FileHeader::new(architecture, page_size).encode();
        let tally = Tally::new(&header);
        let mut writer = Self { inner, position: 0, tally, head: Vec::new(), failure: None };
        writer.write(&[&header])?;
        Ok(writer)
    }

    /// How many bytes have been written.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Appends the layout: processes and their regions.
    ///
    /// # Errors
    /// [`ImageError::Io`]; [`ImageError::Json`] or [`ImageError::TooLarge`] if `layout` cannot be said.
    pub fn put_layout(&mut self, layout: &impl Serialize) -> Result<(), ImageError> {
        self.put_json(LAYOUT, "", layout)
    }

    /// Appends state under a name. There may be any number, also under the same name.
    ///
    /// # Errors
    /// As [`put_layout`](Self::put_layout), and [`ImageError::Unwritable`] for a name that is empty or over
    /// [`MAX_NAME`](crate::MAX_NAME) bytes.
    pub fn put_state(&mut self, name: &str, state: &impl Serialize) -> Result<(), ImageError> {
        check_name(name).map_err(ImageError::unwritable)?;
        self.put_json(STATE, name, state)
    }

    fn put_json(&mut self, kind: u16, name: &str, value: &impl Serialize) -> Result<(), ImageError> {
        let position = self.position;
        let json = serde_json::to_vec(value).map_err(|source| ImageError::Json { position, source })?;
        let size = json.len() as u64;
        if size > MAX_JSON {
            let what = "a description";
            return Err(ImageError::TooLarge { position, what, size, limit: MAX_JSON, writing: true });
        }
        self.append(&Encoded {
            kind,
            codec: Codec::None,
            meta: name.as_bytes(),
            stored: &json,
            raw_len: size,
            checksum: checksum(&json),
        })
    }

    /// Appends what an [`Encoder`] made. Of page runs for one address the last one holds.
    ///
    /// # Errors
    /// [`ImageError::Io`]; the image is then lost, and every later call fails for the same reason.
    pub fn append(&mut self, record: &Encoded<'_>) -> Result<(), ImageError> {
        let seal = self.put(record)?;
        self.tally.add(seal);
        Ok(())
    }

    /// Closes the image by its end record and flushes it.
    ///
    /// # Errors
    /// [`ImageError::Io`]; the image is then incomplete.
    pub fn finish(mut self) -> Result<Summary, ImageError> {
        let before = Summary { id: self.tally.id(), bytes: self.position, records: self.tally.records };
        let meta = end_meta(&before);
        let no_data =
            Encoded { kind: END, codec: Codec::None, meta: &meta, stored: &[], raw_len: 0, checksum: checksum(&[]) };
        self.put(&no_data)?;
        self.inner.flush().map_err(|error| ImageError::written(self.position, error))?;
        Ok(Summary { bytes: self.position, ..before })
    }

    fn put(&mut self, record: &Encoded<'_>) -> Result<u64, ImageError> {
        let mut head = std::mem::take(&mut self.head);
        let meta_len = u32::try_from(record.meta.len()).map_err(|error| ImageError::unwritable(error.to_string()))?;
        let pad = self.pad(record);
        let seal = Head {
            kind: record.kind,
            codec: record.codec.to_byte(),
            flags: 0,
            meta_len,
            pad,
            stored_len: record.stored_len(),
            raw_len: record.raw_len,
            data_checksum: record.checksum,
            seal: 0,
        }
        .seal(record.meta, &mut head);
        head.resize(head.len() + pad as usize, 0);
        self.write(&[&head, record.stored])?;
        self.head = head;
        Ok(seal)
    }

    /// How many bytes are missing to a multiple of [`ALIGN`], where restore gains by that.
    fn pad(&self, record: &Encoded<'_>) -> u32 {
        if record.kind != PAGES || record.codec != Codec::None || record.raw_len < PAD_FROM {
            return 0;
        }
        let unpadded = self.position + (crate::record::HEAD_LEN + record.meta.len()) as u64;
        u32::try_from(unpadded.next_multiple_of(ALIGN) - unpadded).unwrap_or(0)
    }

    fn write(&mut self, parts: &[&[u8]]) -> Result<(), ImageError> {
        if let Some(error) = &self.failure {
            // Whichever worker is asked, the first failure is what there is to tell.
            return Err(ImageError::written(self.position, same(error)));
        }
        for part in parts {
            if let Err(error) = self.inner.write_all(part) {
                self.failure = Some(same(&error));
                return Err(ImageError::written(self.position, error));
            }
            self.position += part.len() as u64;
        }
        Ok(())
    }
}

fn same(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test may panic

    use super::*;

    /// Takes the header and nothing more.
    struct Full {
        room: usize,
    }

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.room = self.room.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_call_after_a_failure_tells_its_reason() {
        let mut writer = ImageWriter::new(Full { room: crate::header::HEADER_LEN }, 62, 4096).unwrap();
        for _ in 0..2 {
            let Err(ImageError::Io { source, .. }) = writer.put_state("some", &1) else { panic!("it fits") };
            assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        }
    }

    #[test]
    fn the_number_of_an_error_is_kept() {
        let full = io::Error::from_raw_os_error(28);
        assert_eq!(same(&full).raw_os_error(), Some(28));
    }
}
