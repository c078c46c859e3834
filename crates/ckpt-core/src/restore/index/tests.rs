#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use ckpt_image::{Codec, Encoder, ImageWriter};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::Class;
use crate::DepartOptions;
use crate::capture::capture;
use crate::freeze::Frozen;
use crate::pages::PAGE_SIZE;
use crate::resource::tracee::Tracee;
use crate::restore::fill::{FileRuns, Runs};

/// Layout and state of a real process.
pub fn real() -> &'static (Value, Value) {
    static REAL: OnceLock<(Value, Value)> = OnceLock::new();
    REAL.get_or_init(|| {
        let tracee = Tracee::new();
        let mut frozen = Frozen::freeze(tracee.pid).unwrap();
        let captured = capture(&mut frozen, &DepartOptions::default()).unwrap();
        frozen.thaw().unwrap();
        (serde_json::to_value(&captured.layout).unwrap(), serde_json::to_value(&captured.state).unwrap())
    })
}

struct Image(PathBuf);

impl Image {
    fn write(architecture: u16, fill: impl FnOnce(&mut ImageWriter<&mut Vec<u8>>)) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mut bytes = Vec::new();
        let mut writer = ImageWriter::new(&mut bytes, architecture, PAGE_SIZE).unwrap();
        fill(&mut writer);
        writer.finish().unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ckpt-index-{}-{number}.ckpt", std::process::id()));
        File::create(&path).unwrap().write_all(&bytes).unwrap();
        Self(path)
    }

    fn of(layout: &Value, state: &Value) -> Self {
        Self::write(arch::ELF_MACHINE, |writer| {
            writer.put_layout(layout).unwrap();
            writer.put_state("process", state).unwrap();
        })
    }

    fn error(&self) -> Error {
        match ImageIndex::open(&self.0) {
            Ok(_) => panic!("it was opened"),
            Err(error) => error,
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_real_image_is_read_as_it_was_written() {
    let (layout, state) = real();
    let image = Image::write(arch::ELF_MACHINE, |writer| {
        let mut encoder = Encoder::new(PAGE_SIZE, Codec::None).unwrap();
        writer.put_layout(layout).unwrap();
        let ranges = [PageRange { addr: 0x1000, len: 4096 }];
        writer.append(&encoder.pages(0, &ranges, &[7; 4096]).unwrap()).unwrap();
        writer.append(&encoder.file_data(3, 100, b"contents").unwrap()).unwrap();
        writer.put_state("process", state).unwrap();
    });
    let (index, runs) = ImageIndex::open(&image.0).unwrap();
    assert_eq!(&serde_json::to_value(&index.layout).unwrap(), layout);
    assert_eq!(&serde_json::to_value(&index.state).unwrap(), state);
    let (mut buffer, mut data) = (Vec::new(), Vec::new());
    assert_eq!((runs.len(), runs[0].ranges[0].addr), (1, 0x1000));
    index.read(&runs[0].stored, &mut buffer, &mut data).unwrap();
    assert_eq!(data, [7; 4096]);
    let (offset, stored) = &index.pieces[&3][0];
    index.read(stored, &mut buffer, &mut data).unwrap();
    assert_eq!((*offset, data.as_slice()), (100, b"contents".as_slice()));
}

#[test]
fn an_image_without_its_parts_is_damaged() {
    let (layout, state) = real();
    for (image, missing) in [
        (Image::write(arch::ELF_MACHINE, |writer| writer.put_layout(layout).unwrap()), "no state"),
        (
            Image::write(arch::ELF_MACHINE, |writer| {
                writer.put_layout(layout).unwrap();
                writer.put_state("process of another kind", state).unwrap();
            }),
            "process of another kind",
        ),
    ] {
        let error = image.error();
        assert_eq!(error.class(), Class::BadImage);
        assert!(error.to_string().contains(missing), "{error}");
    }
}

#[test]
fn an_image_of_another_architecture_is_refused() {
    const EM_AARCH64: u16 = 183;
    let (layout, _) = real();
    let error = Image::write(EM_AARCH64, |writer| writer.put_layout(layout).unwrap()).error();
    assert!(matches!(&error, Error::Foreign { what, .. } if what.contains("183")), "{error}");
    assert_eq!(error.class(), Class::BadImage);
}

#[test]
fn what_is_no_image_is_refused() {
    for (path, class) in [
        (std::env::temp_dir(), Class::Failed),
        (PathBuf::from("/no/such/image"), Class::Failed),
        (PathBuf::from("/dev/null"), Class::BadImage),
        (std::env::current_exe().unwrap(), Class::BadImage),
    ] {
        let Err(error) = ImageIndex::open(&path) else { panic!("{} was opened", path.display()) };
        assert_eq!(error.class(), class, "{error}");
    }
}

/// A place in the JSON and what is put there, and a word of the answer.
fn refused(layout: &[(&str, Value)], state: &[(&str, Value)], told: &str) {
    let mut both = real().clone();
    for (pointer, value) in layout {
        *both.0.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value.clone();
    }
    for (pointer, value) in state {
        *both.1.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value.clone();
    }
    let error = Image::of(&both.0, &both.1).error();
    assert_eq!(error.class(), Class::BadImage, "{error}");
    assert!(error.to_string().contains(told), "{error}");
}

#[test]
fn a_layout_that_does_not_hang_together_is_refused() {
    let files = real().0["files"].as_array().unwrap().len();
    let process = real().0["processes"][0].clone();
    let first = "/processes/0/memory/regions/0";
    let at = |field: &str| format!("{first}/{field}");
    refused(&[("/processes", json!([]))], &[], "0 processes");
    refused(&[("/processes", json!([process, process]))], &[], "2 processes");
    refused(&[("/files/0/id", json!(1))], &[], "not numbered");
    refused(&[("/files", json!([]))], &[], "executable");
    refused(&[("/processes/0/memory/executable", json!(files))], &[], "executable");
    refused(&[("/processes/0/memory/executable", json!(u64::MAX))], &[], "executable");
    for (field, value) in [
        ("start", json!(0x1001)),
        ("end", json!(0x1001)),
        ("end", json!(0)),
        ("end", json!(u64::MAX - 4095)),
        ("start", json!(u64::MAX - 4095)),
        ("end", json!(arch::USER_END + 4096)),
    ] {
        refused(&[(&at(field), value)], &[], "cannot be");
    }
    // Two at one place, and one before another.
    let second = real().0["processes"][0]["memory"]["regions"][1].clone();
    refused(&[(first, second)], &[], "cannot be");
    let file = json!({ "file": { "file": files, "offset": 0, "shared": false, "may_write": true } });
    refused(&[(&at("backing"), file)], &[], "not in the table");
}

#[test]
fn a_state_that_does_not_fit_its_layout_is_refused() {
    let descriptors = &real().1["descriptors"];
    let count = descriptors["descriptions"].as_array().unwrap().len();
    assert!(!descriptors["descriptors"].as_array().unwrap().is_empty());
    refused(&[], &[("/threads", json!([]))], "first thread");
    refused(&[], &[("/threads/0/tid", json!(1))], "first thread");
    refused(&[("/processes/0/pid", json!(-5))], &[], "first thread");
    refused(&[], &[("/threads/0/registers", json!(vec![0; 26]))], "registers");
    refused(&[], &[("/threads/0/registers", json!(vec![0; 28]))], "registers");
    refused(&[], &[("/descriptors/descriptors/0/description", json!(count))], "no open file");
    refused(&[], &[("/descriptors/descriptors/0/description", json!(u64::MAX))], "no open file");
    for fd in [-1, 1 << 20, i32::MAX, i32::MIN] {
        refused(&[], &[("/descriptors/descriptors/0/fd", json!(fd))], "no open file");
    }
}

#[test]
fn values_of_other_types_are_refused() {
    for (pointer, value) in [
        ("/threads/0/extended", json!("no hex")),
        ("/threads/0/registers/3", json!(-1)),
        ("/threads/0/signal_mask", json!(1.5)),
        ("/process/umask", json!("022")),
        ("/credentials/uid", json!(u64::MAX)),
        ("/signals/pending", json!({})),
        ("/clocks", json!(null)),
    ] {
        refused(&[], &[(pointer, value)], "");
    }
}

/// Every place in a value, as a JSON pointer.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        // Of a long list the beginning is as good as all.
        Value::Array(items) => {
            (0..)
                .zip(items.iter().take(8))
                .for_each(|(index, item): (usize, _)| places(item, &format!("{at}/{index}"), found));
        }
        Value::Object(fields) => fields.iter().for_each(|(name, item)| places(item, &format!("{at}/{name}"), found)),
        _ => {}
    }
}

fn hostile() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::sample::select(vec![0, 1, 4096, 0xfff, u64::MAX, u64::MAX - 4095, 1 << 63, 1 << 47, 1 << 32])
            .prop_map(Value::from),
        prop::sample::select(vec![-1, i64::MIN, i64::from(i32::MAX), 1 << 20]).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        "\\PC{0,6}".prop_map(Value::from),
        Just(Value::Null),
        Just(json!([])),
        Just(json!({})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Whatever the JSON says, the image is opened or refused as a bad one.
    #[test]
    fn any_json_is_answered(changes in prop::collection::vec((any::<prop::sample::Index>(), hostile(), 0..3), 1..4)) {
        let mut both = real().clone();
        for (place, value, how) in changes {
            let target = if place.index(2) == 0 { &mut both.0 } else { &mut both.1 };
            let mut all = Vec::new();
            places(target, "", &mut all);
            let pointer = all[place.index(all.len())].clone();
            let Some(slot) = target.pointer_mut(&pointer) else { continue };
            match (how, &mut *slot) {
                // Doubled and emptied lists are whole in themselves, unlike a changed number.
                (1, Value::Array(items)) => items.extend_from_within(..),
                (2, Value::Array(items)) => items.truncate(1),
                (1, Value::Object(fields)) => drop(fields.pop_first()),
                _ => *slot = value,
            }
        }
        let image = Image::of(&both.0, &both.1);
        match ImageIndex::open(&image.0) {
            Ok((index, _)) => {
                let memory = &index.layout.processes[0].memory;
                for region in &memory.regions {
                    prop_assert!(region.size() > 0 && memory.region_at(region.start) == Some(region));
                }
                for descriptor in &index.state.descriptors.descriptors {
                    prop_assert!(index.state.descriptors.descriptions.get(descriptor.description).is_some());
                }
            }
            Err(error) => prop_assert_eq!(error.class(), Class::BadImage, "{}", error),
        }
    }
}

trait PopFirst {
    fn pop_first(&mut self) -> Option<Value>;
}

impl PopFirst for serde_json::Map<String, Value> {
    fn pop_first(&mut self) -> Option<Value> {
        let name = self.keys().next()?.clone();
        self.remove(&name)
    }
}

#[test]
fn a_description_of_no_file_is_refused() {
    let files = real().0["files"].as_array().unwrap().len();
    refused(&[], &[("/descriptors/descriptions/0/opened", json!({ "file": files }))], "not in the table");
}

#[test]
fn guards_outside_of_regions_are_refused() {
    for guard in [[0x2000_u64, 0x1000], [0x1000, 0x2000], [0, u64::MAX]] {
        refused(&[("/processes/0/memory/guards", json!([guard]))], &[], "guard");
    }
}

#[test]
fn a_heap_beyond_the_address_space_is_refused() {
    refused(&[("/processes/0/memory/bounds/brk", json!(u64::MAX))], &[], "heap");
}

#[test]
fn timers_without_order_or_thread_are_refused() {
    let timer = |id: i32| json!({ "id": id, "clock": 0, "notify": 0, "signal": 10, "value": 0, "thread": null, "setting": [0, 0, 0, 0] });
    refused(&[], &[("/timers/posix", json!([timer(-1)]))], "timer");
    refused(&[], &[("/timers/posix", json!([timer(2), timer(1)]))], "timer");
    let mut of_no_thread = timer(1);
    of_no_thread["thread"] = json!(i32::MAX);
    refused(&[], &[("/timers/posix", json!([of_no_thread]))], "thread");
}

#[test]
fn an_object_beyond_the_address_space_is_refused() {
    let backing = json!({ "shared": { "object": 1, "offset": u64::MAX } });
    refused(&[("/processes/0/memory/regions/0/backing", backing)], &[], "region");
}

#[test]
fn two_vdsos_do_not_panic() {
    let (layout, state) = real().clone();
    let mut layout = layout;
    let page = 4096_u64;
    let mut regions = layout["processes"][0]["memory"]["regions"].as_array().unwrap().clone();
    let mut one = regions[0].clone();
    one["start"] = json!(page * 16);
    one["end"] = json!(page * 17);
    one["backing"] = json!({ "kernel": "[vdso]" });
    let mut two = one.clone();
    two["start"] = json!(page * 20);
    two["end"] = json!(page * 21);
    regions.insert(0, two);
    regions.insert(0, one);
    layout["processes"][0]["memory"]["regions"] = json!(regions);
    let image = Image::write(arch::ELF_MACHINE, |writer| {
        let mut encoder = Encoder::new(PAGE_SIZE, Codec::None).unwrap();
        writer.put_layout(&layout).unwrap();
        let ranges = [PageRange { addr: page * 20, len: page }];
        writer.append(&encoder.pages(0, &ranges, &[7; 4096]).unwrap()).unwrap();
        let ranges = [PageRange { addr: page * 16, len: page }];
        writer.append(&encoder.pages(0, &ranges, &[7; 4096]).unwrap()).unwrap();
        writer.put_state("process", &state).unwrap();
    });
    if let Ok((index, runs)) = ImageIndex::open(&image.0) {
        let _ = FileRuns(runs).vdso(&index);
    }
}
