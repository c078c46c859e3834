#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use std::fs::File;

use super::*;
use crate::PAGE;
use crate::tracee::{Pages, Tracee};

fn scan_of(tracee: &Tracee) -> PagemapScan {
    PagemapScan::new(File::open(format!("/proc/{}/pagemap", tracee.pid)).unwrap())
}

/// Whether this kernel has the ioctl: 6.7. Said, not hidden.
fn is_missing(scan: &mut PagemapScan) -> bool {
    let missing = scan.next(0, PAGE, PagemapScan::PRESENT, 0).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTTY));
    if missing {
        eprintln!("SKIPPED: this kernel has no PAGEMAP_SCAN");
    }
    missing
}

fn all(scan: &mut PagemapScan, pages: &Pages, count: u64) -> Vec<(u64, u64)> {
    let (mut at, end) = (pages.addr, pages.addr + count * PAGE);
    let mut found = Vec::new();
    while at < end {
        let none = PagemapScan::ZERO | PagemapScan::FILE;
        let (ranges, reached) = scan.next(at, end, PagemapScan::PRESENT | PagemapScan::SWAPPED, none).unwrap();
        found.extend(ranges.iter().map(|range| ((range.start - pages.addr) / PAGE, (range.end - pages.addr) / PAGE)));
        assert!(reached > at, "it gets on");
        at = reached;
    }
    found
}

#[test]
fn touched_pages_are_found() {
    let pages = Pages::new(64);
    for page in [3, 4, 5, 9, 63] {
        pages.fill(page, 1);
    }
    // Reading makes the kernel show its page of zeros, which is nobody's own.
    crate::Memory::open(std::process::id().try_into().unwrap()).unwrap().read_u64(pages.addr + 20 * PAGE).unwrap();
    let tracee = Tracee::waiting();
    let mut scan = scan_of(&tracee);
    if is_missing(&mut scan) {
        return;
    }
    assert_eq!(all(&mut scan, &pages, 64), [(3, 6), (9, 10), (63, 64)]);
    let (ranges, reached) = scan.next(pages.addr + 4 * PAGE, pages.addr + 5 * PAGE, PagemapScan::PRESENT, 0).unwrap();
    assert_eq!(
        ranges.iter().map(|range| (range.start, range.end)).collect::<Vec<_>>(),
        [(pages.addr + 4 * PAGE, pages.addr + 5 * PAGE)]
    );
    assert_eq!(reached, pages.addr + 5 * PAGE);
}

/// More ranges than the buffer holds are found in several scans, none lost and none twice.
#[test]
fn a_full_buffer_is_gone_on_from() {
    const COUNT: usize = 20_000;
    let pages = Pages::new(COUNT);
    (0..COUNT).step_by(2).for_each(|page| pages.fill(page, 1));
    let tracee = Tracee::waiting();
    let mut scan = scan_of(&tracee);
    if is_missing(&mut scan) {
        return;
    }
    let found = all(&mut scan, &pages, COUNT as u64);
    assert!(found.iter().copied().eq((0..COUNT as u64).step_by(2).map(|page| (page, page + 1))));
}

#[test]
fn an_empty_range_of_addresses_has_no_pages() {
    let tracee = Tracee::waiting();
    let mut scan = scan_of(&tracee);
    if is_missing(&mut scan) {
        return;
    }
    let (ranges, reached) = scan.next(0x1_0000, 0x2_0000, PagemapScan::PRESENT, 0).unwrap();
    assert_eq!((ranges.len(), reached), (0, 0x2_0000));
}
