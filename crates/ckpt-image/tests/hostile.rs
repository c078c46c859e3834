//! Images that nobody wrote: each is an error, none a panic, none takes memory that it does not fill.
#![allow(clippy::unwrap_used)] // a test may panic

mod sample;

use std::io::Cursor;

use ckpt_image::{Codec, Encoder, FileHeader, ImageError, ImageReader, ImageWriter, checksum};
use proptest::prelude::*;
use sample::{X86_64, memory, pass_over_all, range, read_all, small};

/// Reads an image in every way there is; the error that the full reading gave.
fn refused(bytes: &[u8]) -> ImageError {
    assert!(pass_over_all(bytes).is_err());
    skip_all(bytes);
    read_all(bytes).unwrap_err()
}

/// Skips all data. Damage to it goes unseen by that, so the outcome is not judged.
fn skip_all(bytes: &[u8]) {
    let Ok(mut reader) = ImageReader::new(Cursor::new(bytes)) else {
        return;
    };
    while let Ok(Some(_)) = reader.next_record() {
        if reader.skip_data().is_err() {
            return;
        }
    }
}

/// A record head with checksums that fit, whatever it says.
#[derive(Debug, Clone)]
struct Forged {
    kind: u16,
    codec: u8,
    flags: u8,
    pad: u32,
    stored_len: u64,
    raw_len: u64,
    meta: Vec<u8>,
    data: Vec<u8>,
}

impl Forged {
    fn state(stored_len: u64) -> Self {
        let (meta, data) = (b"process".to_vec(), Vec::new());
        Self { kind: 3, codec: 0, flags: 0, pad: 0, stored_len, raw_len: stored_len, meta, data }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend([self.codec, self.flags]);
        bytes.extend(u32::try_from(self.meta.len()).unwrap().to_le_bytes());
        bytes.extend(self.pad.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.stored_len.to_le_bytes());
        bytes.extend(self.raw_len.to_le_bytes());
        bytes.extend(checksum(&self.data).to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(&self.meta);
        let sum = checksum(&bytes);
        bytes[40..48].copy_from_slice(&sum.to_le_bytes());
        bytes.extend(vec![0; self.pad.min(70_000) as usize]);
        bytes.extend(&self.data);
        bytes
    }

    /// An image that begins with this record.
    fn image(&self) -> Vec<u8> {
        let mut bytes = FileHeader::new(X86_64, 4096).encode().to_vec();
        bytes.extend(self.bytes());
        bytes
    }
}

#[test]
fn cut_off_anywhere_it_says_where_it_ends() {
    let (bytes, _) = small();
    for length in 1..bytes.len() {
        let cut = &bytes[..length];
        let error = refused(cut);
        assert!(matches!(error, ImageError::Truncated { position } if position == length as u64), "{error}");
        let mut reader = match ImageReader::new(Cursor::new(cut)) {
            Ok(reader) => reader,
            Err(error) => {
                assert!(matches!(error, ImageError::Truncated { position } if position == length as u64));
                continue;
            }
        };
        let error = loop {
            match reader.next_record().map(|record| assert!(record.is_some())).and_then(|()| reader.skip_data()) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ImageError::Truncated { position } if position == length as u64), "{error}");
    }
    assert!(matches!(refused(b""), ImageError::Empty));
}

#[test]
fn any_one_bit_flipped_is_found() {
    let (bytes, _) = small();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            refused(&damaged);
        }
    }
}

#[test]
fn a_bit_flipped_in_the_pad_is_found() {
    let mut bytes = Vec::new();
    let mut writer = ImageWriter::new(&mut bytes, X86_64, 4096).unwrap();
    let mut encoder = Encoder::new(4096, Codec::None).unwrap();
    writer.append(&encoder.pages(0, &[range(1, 16)], &memory(1, 16)).unwrap()).unwrap();
    writer.finish().unwrap();
    read_all(&bytes[..]).unwrap();
    for at in [64 + 48 + 24, 2000, 4095] {
        let mut damaged = bytes.clone();
        damaged[at] = 1;
        let error = refused(&damaged);
        assert!(matches!(error, ImageError::Damaged { position: 64, .. }), "{error}");
    }
}

#[test]
fn records_left_out_repeated_or_swapped_are_found() {
    let (bytes, _) = small();
    let mut reader = ImageReader::new(Cursor::new(&bytes)).unwrap();
    let mut spans = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        let end = record.data.position + record.data.stored_len;
        spans.push(usize::try_from(record.data.record_position).unwrap()..usize::try_from(end).unwrap());
    }
    let build = |order: &[usize]| {
        let mut image = bytes[..64].to_vec();
        for &i in order {
            image.extend(&bytes[spans[i].clone()]);
        }
        image.extend(&bytes[spans[5].end..]);
        image
    };
    assert_eq!(build(&[0, 1, 2, 3, 4, 5]), bytes);
    for order in [&[0, 1, 2, 3, 4][..], &[0, 1, 2, 3, 4, 5, 5], &[0, 2, 1, 3, 4, 5]] {
        assert!(matches!(refused(&build(order)), ImageError::Damaged { .. }));
    }
}

#[test]
fn bytes_after_the_end_are_an_error() {
    let (mut bytes, summary) = small();
    bytes.push(0);
    assert!(matches!(refused(&bytes), ImageError::Damaged { position, .. } if position == summary.bytes));
}

#[test]
fn damage_to_data_leaves_the_records_behind_it_readable() {
    let (mut bytes, _) = small();
    let mut reader = ImageReader::new(&bytes[..]).unwrap();
    let first = reader.next_record().unwrap().unwrap();
    bytes[usize::try_from(first.data.position).unwrap()] ^= 1;
    let mut reader = ImageReader::new(&bytes[..]).unwrap();
    let (mut good, mut bad) = (0, 0);
    loop {
        match reader.next_record() {
            Ok(Some(_)) => good += 1,
            Ok(None) => break,
            Err(ImageError::Damaged { position: 64, .. }) => bad += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((good, bad), (6, 1));
}

#[test]
fn a_length_that_lies_takes_no_memory() {
    let mut reader = ImageReader::new(Cursor::new(Forged::state(64 << 20).image())).unwrap();
    reader.next_record().unwrap().unwrap();
    let mut out = Vec::new();
    assert!(matches!(reader.read_data(&mut out), Err(ImageError::Truncated { .. })));
    assert!(out.capacity() <= 1 << 20, "{}", out.capacity());
}

#[test]
fn lengths_beyond_the_format_are_too_large() {
    let error = refused(&Forged::state((64 << 20) + 1).image());
    assert!(matches!(error, ImageError::TooLarge { limit: 0x400_0000, .. }), "{error}");
    let meta = [&[0; 8][..], &[0; 8]].concat();
    let file = Forged { kind: 4, meta, ..Forged::state((1 << 20) + 1) };
    assert!(matches!(refused(&file.image()), ImageError::TooLarge { limit: 0x10_0000, .. }));
    assert!(matches!(refused(&Forged { pad: 65536, ..Forged::state(0) }.image()), ImageError::Damaged { .. }));
    assert!(matches!(refused(&Forged { kind: 5, ..Forged::state(1) }.image()), ImageError::TooLarge { .. }));
}

#[test]
fn what_is_not_known_is_named_unless_it_may_be_ignored() {
    let unknown = Forged { kind: 99, data: b"new".to_vec(), ..Forged::state(3) };
    let named = |record: &Forged| match refused(&record.image()) {
        ImageError::Unknown { position: 64, what } => what,
        error => panic!("{error}"),
    };
    assert_eq!(named(&unknown), "a record of kind 99");
    assert_eq!(named(&Forged { kind: 6, ..unknown.clone() }), "a reference to a parent image");
    assert_eq!(named(&Forged { kind: 3, codec: 9, ..unknown.clone() }), "a record compressed by codec 9");
    assert_eq!(named(&Forged { kind: 3, flags: 4, ..unknown.clone() }), "a record with flags 0x4");

    let mut ignorable = Forged { flags: 1, ..unknown };
    let mut image = ignorable.image();
    let position = image.len() as u64;
    image.extend(end(&[&ignorable], position));
    let (records, summary) = read_all(&image[..]).unwrap();
    assert_eq!((records.len(), summary.records), (0, 1));
    pass_over_all(&image[..]).unwrap();

    ignorable.stored_len = u64::MAX;
    assert!(matches!(refused(&ignorable.image()), ImageError::Truncated { .. }));
}

/// The end record, from what docs/image-format.md says of it alone.
fn end(records: &[&Forged], position: u64) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&FileHeader::new(X86_64, 4096).encode());
    for record in records {
        hasher.update(&record.bytes()[40..48]);
    }
    let mut meta = (records.len() as u64).to_le_bytes().to_vec();
    meta.extend(position.to_le_bytes());
    meta.extend(hasher.finalize().as_bytes());
    Forged { kind: 5, meta, ..Forged::state(0) }.bytes()
}

#[test]
fn asking_for_data_twice_is_an_error_and_not_a_surprise() {
    let (bytes, _) = small();
    let mut reader = ImageReader::new(Cursor::new(&bytes)).unwrap();
    assert!(reader.read_data(&mut Vec::new()).is_err());
    reader.next_record().unwrap();
    reader.read_data(&mut Vec::new()).unwrap();
    assert!(reader.read_data(&mut Vec::new()).is_err());
    assert!(reader.skip_data().is_err());
    assert!(reader.next_record().unwrap().is_some());
}

/// Numbers near the bounds of things, which random ones never meet.
fn length() -> impl Strategy<Value = u64> {
    prop_oneof![0..100u64, Just(4096), Just(1 << 20), Just((1 << 20) + 1), Just(64 << 20), any::<u64>()]
}

prop_compose! {
    fn forged()(
        kind in 0..8u16,
        codec in 0..4u8,
        flags in 0..3u8,
        pad in prop_oneof![Just(0u32), 0..70_000u32, any::<u32>()],
        stored_len in length(),
        raw_len in length(),
        equal in any::<bool>(),
        numbers in prop::collection::vec(length(), 0..9),
        name in any::<bool>(),
        data in prop::collection::vec(any::<u8>(), 0..200),
    ) -> Forged {
        let meta = if name { b"name".to_vec() } else { numbers.iter().flat_map(|n| n.to_le_bytes()).collect() };
        let stored_len = if equal { data.len() as u64 } else { stored_len };
        Forged { kind, codec, flags, pad, stored_len, raw_len, meta, data }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        refused(&bytes);
        let header = FileHeader::new(X86_64, 4096).encode();
        refused(&[&header[..], &bytes].concat());
    }

    #[test]
    fn several_flipped_bits_are_found(flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8), 1..6)) {
        let (bytes, _) = small();
        let mut damaged = bytes.clone();
        for (at, bit) in &flips {
            damaged[at.index(bytes.len())] ^= 1u8 << bit;
        }
        if damaged != bytes {
            refused(&damaged);
        }
    }

    /// Nonsense under checksums that fit: what comes after the checksum has to hold by itself.
    #[test]
    fn forged_records_are_refused(records in prop::collection::vec(forged(), 1..4)) {
        let mut image = FileHeader::new(X86_64, 4096).encode().to_vec();
        for record in &records {
            image.extend(record.bytes());
        }
        refused(&image);
    }
}
