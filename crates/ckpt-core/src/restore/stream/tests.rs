#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use ckpt_image::{Codec, Encoder, ImageWriter, PageRange};
use ckpt_trace::{PAGE, arch};

use super::super::index::tests::real;
use super::*;
use crate::Class;
use crate::pages::PAGE_SIZE;

/// A record of a stream.
enum Part {
    Layout,
    State,
    Vdso,
    Page(u64, u8),
    File(u64, &'static [u8]),
}

fn vdso() -> (u64, u64) {
    let regions = real().0["processes"][0]["memory"]["regions"].as_array().unwrap().clone();
    let region = regions.iter().find(|region| region["backing"]["kernel"] == "[vdso]").unwrap();
    (region["start"].as_u64().unwrap(), region["end"].as_u64().unwrap())
}

fn image(architecture: u16, parts: &[Part]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ImageWriter::new(&mut bytes, architecture, PAGE_SIZE).unwrap();
    let mut encoder = Encoder::new(PAGE_SIZE, Codec::Lz4).unwrap();
    for part in parts {
        match part {
            Part::Layout => writer.put_layout(&real().0).unwrap(),
            Part::State => writer.put_state("process", &real().1).unwrap(),
            Part::Vdso => {
                let (start, end) = vdso();
                let code = vec![7; usize::try_from(end - start).unwrap()];
                let ranges = [PageRange { addr: start, len: end - start }];
                writer.append(&encoder.pages(0, &ranges, &code).unwrap()).unwrap();
            }
            Part::Page(number, byte) => {
                let ranges = [PageRange { addr: number * PAGE, len: PAGE }];
                let data = [*byte; PAGE_SIZE as usize];
                writer.append(&encoder.pages(0, &ranges, &data).unwrap()).unwrap();
            }
            Part::File(file, contents) => writer.append(&encoder.file_data(*file, 100, contents).unwrap()).unwrap(),
        }
    }
    writer.finish().unwrap();
    bytes
}

fn opened(parts: &[Part]) -> Result<(), Error> {
    let bytes = image(arch::ELF_MACHINE, parts);
    let (mut stream, index) = Stream::open(bytes.as_slice())?;
    stream.vdso(&index)?;
    let mut stored = Vec::new();
    while stream.take(&mut stored)?.is_some() {}
    Ok(())
}

#[test]
fn a_stream_is_read_as_it_was_written_and_not_beyond() {
    use Part::{File, Layout, Page, State, Vdso};
    const LONG: &[u8] = &[9; 5000];
    let parts = [Layout, State, File(2, b"contents"), File(1, LONG), Vdso, Page(5, 1), Page(5, 2), Page(3, 3)];
    let mut bytes = image(arch::ELF_MACHINE, &parts);
    bytes.extend_from_slice(b"what follows");
    let mut rest = bytes.as_slice();
    let (mut stream, index) = Stream::open(&mut rest).unwrap();
    assert_eq!(serde_json::to_value(&index.layout).unwrap(), real().0);
    assert_eq!(serde_json::to_value(&index.state).unwrap(), real().1);
    let (mut buffer, mut data) = (Vec::new(), Vec::new());
    for (file, contents) in [(2, b"contents".as_slice()), (1, LONG)] {
        let [(100, stored)] = index.pieces[&file].as_slice() else { panic!("{:?}", index.pieces) };
        index.read(stored, &mut buffer, &mut data).unwrap();
        assert_eq!(data, contents);
    }
    let (start, code) = stream.vdso(&index).unwrap().unwrap();
    assert_eq!((start, code.len() as u64), (vdso().0, vdso().1 - vdso().0));
    assert!(code.iter().all(|byte| *byte == 7));
    let mut runs = Vec::new();
    while let Some(run) = stream.take(&mut buffer).unwrap() {
        run.stored.decode(&buffer, &mut data).unwrap();
        runs.push((run.ranges[0].addr / PAGE, data[0]));
    }
    assert_eq!(runs, [(5, 1), (5, 2), (3, 3)]);
    drop(stream);
    assert_eq!(rest, b"what follows");
}

#[test]
fn what_does_not_come_in_order_is_refused() {
    use Part::{File, Layout, Page, State, Vdso};
    opened(&[Layout, State, Vdso]).unwrap();
    opened(&[State, File(0, b"x"), Layout, Vdso, Page(1, 1)]).unwrap();
    for (parts, told) in [
        (vec![], "no layout"),
        (vec![Layout], "no state"),
        (vec![State], "no layout"),
        (vec![Layout, Vdso, State], "older versions"),
        (vec![Vdso, Layout, State], "older versions"),
        (vec![Layout, State], "vDSO"),
        (vec![Layout, State, Page(1, 1), Vdso], "vDSO"),
        (vec![Layout, State, Vdso, Page(1, 1), State], "other than memory"),
        (vec![Layout, State, Vdso, Layout], "other than memory"),
        (vec![Layout, State, Vdso, File(0, b"x")], "other than memory"),
    ] {
        let error = opened(&parts).unwrap_err();
        assert_eq!(error.class(), Class::BadImage, "{error}");
        assert!(error.to_string().contains(told), "{told}: {error}");
    }
}

#[test]
fn a_stream_that_breaks_off_is_incomplete_wherever_it_does() {
    use Part::{File, Layout, Page, State, Vdso};
    let bytes = image(arch::ELF_MACHINE, &[Layout, State, File(0, b"contents"), Vdso, Page(5, 1), Page(6, 2)]);
    let read = |bytes: &[u8]| -> Result<(), Error> {
        let (mut stream, index) = Stream::open(bytes)?;
        stream.vdso(&index)?;
        while stream.take(&mut Vec::new())?.is_some() {}
        Ok(())
    };
    read(&bytes).unwrap();
    for cut in (1..bytes.len()).step_by(97).chain(bytes.len() - 300..bytes.len()) {
        let error = read(&bytes[..cut]).unwrap_err();
        assert!(matches!(error, Error::Image { source: ImageError::Truncated { .. }, .. }), "{cut}: {error}");
    }
}

#[test]
fn a_stream_from_another_architecture_is_refused() {
    const EM_AARCH64: u16 = 183;
    let bytes = image(EM_AARCH64, &[Part::Layout, Part::State]);
    let Err(error) = Stream::open(bytes.as_slice()) else { panic!("it was opened") };
    assert!(matches!(&error, Error::Foreign { what, .. } if what.contains("183")), "{error}");
}
