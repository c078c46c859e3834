//! A small image with a record of every kind, and a reader that takes in all of an image.
#![allow(clippy::unwrap_used, dead_code)] // tests may panic, and each uses what it needs of this

use std::io::Read;

use ckpt_image::{Codec, Content, Encoder, ImageError, ImageReader, ImageWriter, PageRange, Summary};

pub const X86_64: u16 = 62;
pub const PAGE: u64 = 4096;

/// Page `number` of a memory whose bytes no codec can shrink.
pub fn noise(number: u64) -> Vec<u8> {
    let words = number * PAGE / 8..(number + 1) * PAGE / 8;
    words.flat_map(|word| ckpt_image::checksum(&word.to_le_bytes()).to_le_bytes()).collect()
}

pub fn range(page: u64, count: u64) -> PageRange {
    PageRange { addr: page * PAGE, len: count * PAGE }
}

/// The pages from `first` on, `count` of them, as [`noise`].
pub fn memory(first: u64, count: u64) -> Vec<u8> {
    (first..first + count).flat_map(noise).collect()
}

/// An image that is small enough to be damaged in every place: all its pages are compressed.
pub fn small() -> (Vec<u8>, Summary) {
    let mut bytes = Vec::new();
    let mut writer = ImageWriter::new(&mut bytes, X86_64, 4096).unwrap();
    writer.put_layout(&["one process"]).unwrap();
    put_compressed(&mut writer);
    writer.put_state("process", &("pid", 42)).unwrap();
    writer.put_state("threads", &[1, 2, 3]).unwrap();
    let summary = writer.finish().unwrap();
    (bytes, summary)
}

pub fn put_compressed(writer: &mut ImageWriter<&mut Vec<u8>>) {
    let mut lz4 = Encoder::new(4096, Codec::Lz4).unwrap();
    let mut zstd = Encoder::new(4096, Codec::Zstd).unwrap();
    let two = [range(16, 1), range(18, 2)];
    writer.append(&lz4.pages(0, &two, &[7; 3 * 4096]).unwrap()).unwrap();
    writer.append(&zstd.pages(1, &[range(32, 2)], &[9; 2 * 4096]).unwrap()).unwrap();
    writer.append(&zstd.file_data(3, 1 << 40, b"a carried file").unwrap()).unwrap();
}

/// All records of an image with their data.
pub type Records = Vec<(Content, Vec<u8>)>;

pub fn read_all(image: impl Read) -> Result<(Records, Summary), ImageError> {
    let mut reader = ImageReader::new(image)?;
    let mut records = Vec::new();
    while let Some(record) = reader.next_record()? {
        let mut data = Vec::new();
        reader.read_data(&mut data)?;
        records.push((record.content, data));
    }
    Ok((records, reader.summary().unwrap()))
}

/// Reads an image to its end without looking at any data.
pub fn pass_over_all(image: impl Read) -> Result<(), ImageError> {
    let mut reader = ImageReader::new(image)?;
    while reader.next_record()?.is_some() {}
    Ok(())
}
