#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use super::*;

fn region(start: u64, end: u64, backing: Backing) -> Region {
    Region { start, end, protection: READ | WRITE, backing, traits: Vec::new(), page_size: 4096, protection_key: 0 }
}

fn state(regions: Vec<Region>) -> MemoryState {
    MemoryState {
        regions,
        guards: Vec::new(),
        bounds: Bounds {
            start_code: 0,
            end_code: 0,
            start_data: 0,
            end_data: 0,
            start_brk: 0,
            brk: 0,
            start_stack: 0,
            arg_start: 0,
            arg_end: 0,
            env_start: 0,
            env_end: 0,
        },
        auxv: Vec::new(),
        executable: 0,
        locks_future: false,
    }
}

#[test]
fn the_region_at_an_address() {
    let state = state(vec![
        region(0x1000, 0x3000, Backing::Anonymous(None)),
        region(0x3000, 0x4000, Backing::Anonymous(None)),
        region(0x8000, 0x9000, Backing::Anonymous(None)),
    ]);
    for (addr, start) in [
        (0, None),
        (0xfff, None),
        (0x1000, Some(0x1000)),
        (0x2fff, Some(0x1000)),
        (0x3000, Some(0x3000)),
        (0x3fff, Some(0x3000)),
        (0x4000, None),
        (0x7fff, None),
        (0x8000, Some(0x8000)),
        (0x8fff, Some(0x8000)),
        (0x9000, None),
        (u64::MAX, None),
    ] {
        assert_eq!(state.region_at(addr).map(|region| region.start), start, "{addr:#x}");
    }
    assert_eq!(self::state(Vec::new()).region_at(0x1000), None);
}

#[test]
fn whose_pages_go_into_an_image() {
    let file = |shared| Backing::File { file: 0, offset: 0, shared, may_write: true };
    let kernel = |name: &str| Backing::Kernel(name.to_owned());
    for (backing, expected) in [
        (Backing::Anonymous(None), true),
        (Backing::Shared { object: 1, offset: 0 }, true),
        (file(false), true),
        (file(true), false),
        (kernel("[vdso]"), true),
        (kernel("[vvar]"), false),
        (kernel("[vvar_vclock]"), false),
    ] {
        assert_eq!(region(0, 4096, backing.clone()).has_pages(), expected, "{backing:?}");
    }
}

#[test]
fn what_a_program_may_do_with_a_region() {
    let mut region = region(0x1000, 0x3000, Backing::Anonymous(None));
    assert_eq!((region.size(), region.is_readable(), region.is_writable()), (0x2000, true, true));
    region.protection = EXEC;
    assert_eq!((region.is_readable(), region.is_writable()), (false, false));
    region.traits = vec![Trait::Locked];
    assert!(region.has(Trait::Locked) && !region.has(Trait::HugePage));
}
