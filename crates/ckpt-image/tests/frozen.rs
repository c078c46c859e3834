//! An image written by version 1.0 of the format, which every later build must still read.
#![allow(clippy::unwrap_used)] // a test may panic

mod sample;

use std::fs::{self, File};
use std::io::Write;

use ckpt_image::{Codec, Content, Encoder, ImageReader, ImageWriter};
use sample::{X86_64, memory, range, read_all};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/frozen/v1.ckpt");
const ID: &str = "1e2d5db82213390944ca40846f4a73b9fc4792294f20daef097748c3b3dab2c7";

#[test]
fn version_1_is_read() {
    let image = fs::read(FILE).unwrap();
    let header = *ImageReader::new(&image[..]).unwrap().header();
    assert_eq!((header.major, header.minor, header.architecture, header.page_size), (1, 0, X86_64, 4096));
    let (records, summary) = read_all(&image[..]).unwrap();
    assert_eq!(summary.id.to_string(), ID);
    assert_eq!((summary.bytes, summary.records), (image.len() as u64, 6));
    let pages = |process, ranges| Content::Pages { process, ranges };
    let expected = [
        (Content::Layout, br#"["frozen"]"#.to_vec()),
        (pages(0, vec![range(256, 16)]), memory(256, 16)),
        (pages(0, vec![range(16, 1), range(18, 2)]), vec![7; 3 * 4096]),
        (pages(1, vec![range(32, 2)]), vec![9; 2 * 4096]),
        (Content::FileData { file: 3, offset: 1 << 40 }, b"a carried file".to_vec()),
        (Content::State { name: "process".into() }, br#"["pid",42]"#.to_vec()),
    ];
    assert_eq!(records, expected);
}

/// Made the file once. It never overwrites one: run it for a new version of the format, under a new name.
#[test]
#[ignore = "writes the frozen image"]
fn freeze() {
    let mut bytes = Vec::new();
    let mut writer = ImageWriter::new(&mut bytes, X86_64, 4096).unwrap();
    writer.put_layout(&["frozen"]).unwrap();
    let mut raw = Encoder::new(4096, Codec::None).unwrap();
    writer.append(&raw.pages(0, &[range(256, 16)], &memory(256, 16)).unwrap()).unwrap();
    sample::put_compressed(&mut writer);
    writer.put_state("process", &("pid", 42)).unwrap();
    let summary = writer.finish().unwrap();
    File::create_new(FILE).unwrap().write_all(&bytes).unwrap();
    println!("{}", summary.id);
}
