#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use super::*;

/// By `PAGEMAP_SCAN` and entry by entry, the same pages are found: only those that the process has made its own.
#[test]
fn own_pages_are_found_by_every_means() {
    const PAGE: usize = 4096;
    let us = i32::try_from(std::process::id()).unwrap();
    // Room for eight whole pages; a large vector is memory that nobody has touched yet.
    let mut memory: Vec<u8> = vec![0; 64 << 20];
    let first = memory.as_ptr().addr().next_multiple_of(PAGE);
    let offset = first - memory.as_ptr().addr() + (32 << 20);
    for page in [0, 1, 4, 7] {
        memory[offset + page * PAGE] = 1;
    }
    let start = (first + (32 << 20)) as u64;
    let end = start + 8 * PAGE as u64;
    let mut finder = PageFinder::open(us).unwrap();
    let mut answers = Vec::new();
    for means in [Means::ScanWithGuards, Means::Scan, Means::Entries] {
        finder.means = means;
        let (found, reached) = finder.own_pages(start..end).unwrap();
        assert_eq!(reached, end);
        let pages: Vec<u64> = found.iter().flat_map(|range| (range.start..range.end).step_by(PAGE)).collect();
        answers.push(pages.iter().map(|page| (page - start) / PAGE as u64).collect::<Vec<_>>());
        assert!(finder.guards(start..end).unwrap().0.is_empty());
    }
    // Huge pages, where they are on for everyone, make the neighbours the program's own as well.
    assert!([0, 1, 4, 7].iter().all(|page| answers[0].contains(page)), "{answers:?}");
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    drop(memory);
}
