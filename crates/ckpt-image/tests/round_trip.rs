//! What is written is what is read, in every way of reading.
#![allow(clippy::unwrap_used)] // a test may panic

mod sample;

use std::io::{self, Cursor, Read, Write};
use std::sync::Mutex;
use std::thread;

use ckpt_image::{ALIGN, Codec, Content, Encoder, ImageError, ImageReader, ImageWriter, PAD_FROM, PageRange};
use proptest::prelude::*;
use sample::{PAGE, X86_64, memory, range, read_all, small};

#[test]
fn a_small_image_is_read_as_written() {
    let (bytes, summary) = small();
    let (records, read) = read_all(&bytes[..]).unwrap();
    assert_eq!(read, summary);
    assert_eq!(summary.bytes, bytes.len() as u64);
    assert_eq!(summary.records, records.len() as u64);
    let expected = [
        (Content::Layout, br#"["one process"]"#.to_vec()),
        (Content::Pages { process: 0, ranges: vec![range(16, 1), range(18, 2)] }, vec![7; 3 * 4096]),
        (Content::Pages { process: 1, ranges: vec![range(32, 2)] }, vec![9; 2 * 4096]),
        (Content::FileData { file: 3, offset: 1 << 40 }, b"a carried file".to_vec()),
        (Content::State { name: "process".into() }, br#"["pid",42]"#.to_vec()),
        (Content::State { name: "threads".into() }, b"[1,2,3]".to_vec()),
    ];
    assert_eq!(records, expected);
}

#[test]
fn json_comes_back_as_values() {
    let (bytes, _) = small();
    let mut reader = ImageReader::new(&bytes[..]).unwrap();
    while let Some(record) = reader.next_record().unwrap() {
        if record.content == (Content::State { name: "process".into() }) {
            assert_eq!(reader.read_json::<(String, u32)>().unwrap(), ("pid".into(), 42));
        } else if record.content == Content::Layout {
            assert!(matches!(reader.read_json::<u32>(), Err(ImageError::Json { position: 64, .. })));
        }
    }
}

/// In a channel the next message follows, and what has not been sent yet would be waited for.
#[test]
fn in_a_channel_nothing_is_asked_for_beyond_the_image() {
    let (image, summary) = small();
    let mut channel = [image.as_slice(), &image, b"and more"].concat();
    let mut rest = channel.as_slice();
    for _ in 0..2 {
        let mut reader = ImageReader::in_channel(&mut rest).unwrap();
        let (mut stored, mut data, mut read) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(record) = reader.next_record().unwrap() {
            reader.read_stored(&mut stored).unwrap();
            assert_eq!(stored.len() as u64, record.data.stored_len);
            record.data.decode(&stored, &mut data).unwrap();
            read.push((record.content, data.clone()));
        }
        assert_eq!(reader.summary(), Some(summary));
        assert_eq!(read, read_all(image.as_slice()).unwrap().0);
    }
    assert_eq!(rest, b"and more");
    channel.truncate(image.len() - 1);
    let mut reader = ImageReader::in_channel(channel.as_slice()).unwrap();
    let end = std::iter::from_fn(|| reader.next_record().transpose()).find_map(Result::err).unwrap();
    assert!(matches!(end, ImageError::Truncated { position } if position == channel.len() as u64), "{end}");
}

#[test]
fn stored_data_is_verified_before_it_is_given() {
    let (mut bytes, _) = small();
    let mut reader = ImageReader::new(&bytes[..]).unwrap();
    let place = loop {
        let record = reader.next_record().unwrap().unwrap();
        if matches!(record.content, Content::Pages { .. }) {
            break usize::try_from(record.data.position).unwrap();
        }
    };
    bytes[place] ^= 1;
    let mut reader = ImageReader::new(&bytes[..]).unwrap();
    while !matches!(reader.next_record().unwrap().unwrap().content, Content::Pages { .. }) {}
    assert!(matches!(reader.read_stored(&mut Vec::new()), Err(ImageError::Damaged { .. })));
}

/// Restore reads large raw runs straight into page-aligned memory.
#[test]
fn large_raw_runs_are_aligned_and_only_they_are_padded() {
    let mut bytes = Vec::new();
    let mut writer = ImageWriter::new(&mut bytes, X86_64, 4096).unwrap();
    let mut encoder = Encoder::new(4096, Codec::None).unwrap();
    for count in [1, 15, 16, 1, 256, 17] {
        writer.append(&encoder.pages(0, &[range(1, count)], &memory(1, count)).unwrap()).unwrap();
    }
    writer.append(&encoder.file_data(0, 0, &memory(0, 256)).unwrap()).unwrap();
    writer.finish().unwrap();

    let mut reader = ImageReader::new(Cursor::new(&bytes)).unwrap();
    let mut end_of_last = 64;
    while let Some(record) = reader.next_record().unwrap() {
        let data = record.data;
        assert_eq!(data.record_position, end_of_last);
        if matches!(record.content, Content::Pages { .. }) && data.raw_len >= PAD_FROM {
            assert_eq!(data.position % ALIGN, 0);
            assert!(data.position - data.record_position < 48 + 24 + ALIGN);
        } else {
            let meta = if matches!(record.content, Content::Pages { .. }) { 24 } else { 16 };
            assert_eq!(data.position, data.record_position + 48 + meta);
        }
        end_of_last = data.position + data.stored_len;
        reader.skip_data().unwrap();
    }
}

/// The way restore works: positions first, data by other threads from the file itself.
#[test]
fn skipped_data_is_found_verified_and_decoded_from_its_place() {
    let (bytes, summary) = small();
    let mut reader = ImageReader::new(Cursor::new(&bytes)).unwrap();
    let mut pages = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        reader.skip_data().unwrap();
        if let Content::Pages { process, .. } = record.content {
            pages.push((process, record.data));
        }
    }
    assert_eq!(reader.summary(), Some(summary));
    assert_eq!(pages.len(), 2);
    for (process, data) in pages {
        let at = usize::try_from(data.position).unwrap();
        let stored = &bytes[at..at + usize::try_from(data.stored_len).unwrap()];
        data.verify(stored).unwrap();
        let mut out = Vec::new();
        data.decode(stored, &mut out).unwrap();
        assert!(out.iter().all(|&byte| byte == if process == 0 { 7 } else { 9 }));

        let mut damaged = stored.to_vec();
        damaged[3] ^= 1;
        assert!(data.verify(&damaged).is_err());
        assert!(data.verify(&stored[1..]).is_err());
    }
}

/// A pipe gives what it has, and signals interrupt it.
struct Trickle<'a>(&'a [u8], bool);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let some = buffer.len().min(7);
        self.0.read(&mut buffer[..some])
    }
}

#[test]
fn short_and_interrupted_reads_make_no_difference() {
    let (bytes, _) = small();
    assert_eq!(read_all(Trickle(&bytes, false)).unwrap(), read_all(&bytes[..]).unwrap());
    sample::pass_over_all(Trickle(&bytes, false)).unwrap();
}

#[test]
fn workers_share_one_writer() {
    let mut bytes = Vec::new();
    let writer = Mutex::new(ImageWriter::new(&mut bytes, X86_64, 4096).unwrap());
    thread::scope(|scope| {
        for (worker, codec) in (0..).zip([Codec::None, Codec::Lz4, Codec::Zstd]) {
            let writer = &writer;
            scope.spawn(move || {
                let mut encoder = Encoder::new(4096, codec).unwrap();
                for run in 0..20 {
                    let data = memory(run, 16);
                    let record = encoder.pages(worker, &[range(run, 16)], &data).unwrap();
                    writer.lock().unwrap().append(&record).unwrap();
                }
            });
        }
    });
    let summary = writer.into_inner().unwrap().finish().unwrap();
    let (records, read) = read_all(&bytes[..]).unwrap();
    assert_eq!((read, records.len()), (summary, 60));
    for (content, data) in records {
        let Content::Pages { ranges, .. } = content else { panic!("{content:?}") };
        assert_eq!(data, memory(ranges[0].addr / PAGE, 16));
    }
}

#[test]
fn equal_content_has_an_equal_id_and_other_content_another() {
    let write = |pid: u32| {
        let mut writer = ImageWriter::new(io::sink(), X86_64, 4096).unwrap();
        writer.put_state("process", &pid).unwrap();
        writer.finish().unwrap().id
    };
    assert_eq!(write(1), write(1));
    assert_ne!(write(1), write(2));
    assert_eq!(write(1).to_string().len(), 64);
    assert_eq!(serde_json::to_string(&write(1)).unwrap(), format!("\"{}\"", write(1)));
}

#[test]
fn what_the_format_cannot_say_is_not_written() {
    let mut encoder = Encoder::new(4096, Codec::None).unwrap();
    let page = [0; 4096];
    let refused: [(&[PageRange], &[u8]); 8] = [
        (&[], &[]),
        (&[range(1, 1)], &page[1..]),
        (&[range(1, 2)], &page),
        (&[PageRange { addr: 4097, len: 4096 }], &page),
        (&[PageRange { addr: 4096, len: 2048 }, PageRange { addr: 8192, len: 2048 }], &page),
        (&[range(2, 1), range(1, 1)], &[0; 8192]),
        (&[range(1, 2), range(2, 1)], &[0; 3 * 4096]),
        (&[PageRange { addr: u64::MAX - 4095, len: 4096 }], &page),
    ];
    for (ranges, data) in refused {
        let error = encoder.pages(0, ranges, data).unwrap_err();
        assert!(matches!(error, ImageError::Unwritable { .. }), "{ranges:?}: {error}");
    }
    assert!(encoder.pages(0, &[range(1, 257)], &memory(0, 257)).is_err());
    assert!(encoder.file_data(0, u64::MAX, b"x").is_err());
    let many: Vec<_> = (0..1025).map(|i| range(2 * i, 1)).collect();
    assert!(encoder.pages(0, &many, &[]).is_err());

    let mut writer = ImageWriter::new(io::sink(), X86_64, 4096).unwrap();
    assert!(writer.put_state("", &1).is_err());
    assert!(writer.put_state(&"n".repeat(257), &1).is_err());
    assert!(writer.put_state(&"n".repeat(256), &1).is_ok());
    assert!(ImageWriter::new(io::sink(), X86_64, 1000).is_err());
}

/// A disk that fills up and is then emptied again.
struct Full(u32);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += 1;
        if self.0 == 3 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn after_a_failed_write_the_image_cannot_be_finished() {
    let mut writer = ImageWriter::new(Full(0), X86_64, 4096).unwrap();
    let error = writer.put_state("process", &1).unwrap_err();
    assert!(matches!(&error, ImageError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull));
    assert!(writer.put_state("process", &1).is_err());
    assert!(writer.finish().is_err());
}

fn codec() -> impl Strategy<Value = Codec> {
    prop_oneof![Just(Codec::None), Just(Codec::Lz4), Just(Codec::Zstd)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Ranges are gaps and lengths in pages; every page is one byte over and over, or noise.
    #[test]
    fn any_page_runs_come_back(
        runs in prop::collection::vec(
            (any::<u32>(), codec(), prop::collection::vec((0..1000u64, 1..6u64, any::<bool>()), 1..8)),
            0..6,
        ),
    ) {
        let mut bytes = Vec::new();
        let mut writer = ImageWriter::new(&mut bytes, X86_64, 4096).unwrap();
        let mut expected = Vec::new();
        for (process, codec, parts) in runs {
            let (mut ranges, mut data, mut page) = (Vec::new(), Vec::new(), 0);
            for (gap, count, noisy) in parts {
                page += gap;
                ranges.push(range(page, count));
                data.extend(if noisy { memory(page, count) } else { vec![1; memory(page, count).len()] });
                page += count;
            }
            let mut encoder = Encoder::new(4096, codec).unwrap();
            writer.append(&encoder.pages(process, &ranges, &data).unwrap()).unwrap();
            expected.push((Content::Pages { process, ranges }, data));
        }
        let summary = writer.finish().unwrap();
        prop_assert_eq!(read_all(&bytes[..]).unwrap(), (expected, summary));
    }
}
