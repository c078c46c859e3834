#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use super::*;
use crate::PAGE;
use crate::tracee::{Pages, Tracee, until};

fn fault_at(error: &TraceError) -> u64 {
    match error {
        TraceError::Memory { addr, .. } => *addr,
        other => panic!("{other}"),
    }
}

#[test]
fn spans_are_gathered_and_scattered_in_order() {
    let pages = Pages::new(3);
    (0_u8..3).for_each(|page| pages.fill(page.into(), b'a' + page));
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let spans = [
        Span { addr: pages.addr + 2 * PAGE, len: 3 },
        Span { addr: pages.addr, len: 2 },
        Span { addr: pages.addr + PAGE - 1, len: 2 },
    ];
    let mut got = [0; 7];
    memory.gather(&spans, &mut got).unwrap();
    assert_eq!(&got, b"cccaaab");

    memory.scatter(b"1234567", &spans).unwrap();
    memory.gather(&spans, &mut got).unwrap();
    assert_eq!(&got, b"1234567");
    assert_eq!(memory.read_u64(pages.addr).unwrap().to_le_bytes(), *b"45aaaaaa");
}

/// The kernel takes 1024 ranges in one call (`UIO_MAXIOV`).
#[test]
fn more_spans_than_the_kernel_takes_at_once() {
    let pages = Pages::new(1);
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let spans: Vec<Span> = (0..2500).map(|index| Span { addr: pages.addr + index, len: 1 }).collect();
    let bytes: Vec<u8> = (0..=250).cycle().take(2500).collect();
    memory.scatter(&bytes, &spans).unwrap();
    let mut got = vec![0; 2500];
    memory.gather(&spans, &mut got).unwrap();
    assert_eq!(got, bytes);
}

/// `process_vm_readv(2)` stops at the page that it cannot read; the error names its address, not the first one.
#[test]
fn a_fault_in_the_middle_is_named_by_its_address() {
    let pages = Pages::new(4);
    (0..4).for_each(|page| pages.fill(page, 1));
    pages.protect(2, libc::PROT_NONE);
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let bad = pages.addr + 2 * PAGE;
    let mut buffer = vec![0; 4 * 4096];

    let whole = [Span { addr: pages.addr, len: 4 * PAGE }];
    assert_eq!(fault_at(&memory.gather(&whole, &mut buffer).unwrap_err()), bad);
    assert_eq!(fault_at(&memory.scatter(&buffer, &whole).unwrap_err()), bad);

    let apart: Vec<Span> = (0..4).map(|page| Span { addr: pages.addr + page * PAGE, len: PAGE }).collect();
    let error = memory.gather(&apart, &mut buffer).unwrap_err();
    assert_eq!((fault_at(&error), error.errno()), (bad, Some(libc::EFAULT)));
    // In the second group of 1024 as well.
    let many: Vec<Span> = (0..1100).map(|_| apart[0]).chain([apart[2]]).collect();
    let mut buffer = vec![0; many.len() * 4096];
    assert_eq!(fault_at(&memory.gather(&many, &mut buffer).unwrap_err()), bad);
    assert_eq!(fault_at(&memory.read_u64(bad).unwrap_err()), bad);
}

/// `/proc/PID/mem` of a process that we may trace ignores protection (`FOLL_FORCE`).
#[test]
fn protected_memory_is_read_and_written_by_force() {
    let pages = Pages::new(2);
    pages.fill(0, b'x');
    pages.protect(0, libc::PROT_NONE);
    pages.protect(1, libc::PROT_READ);
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let mut got = [0; 8];
    assert!(memory.read(pages.addr, &mut got).is_err());
    memory.read_forced(pages.addr, &mut got).unwrap();
    assert_eq!(&got, b"xxxxxxxx");

    let read_only = pages.addr + PAGE;
    assert_eq!(fault_at(&memory.write(read_only, b"new").unwrap_err()), read_only);
    memory.write_forced(read_only, b"new").unwrap();
    memory.read(read_only, &mut got).unwrap();
    assert_eq!(&got, b"new\0\0\0\0\0");
    memory.write_forced(pages.addr, b"y").unwrap();
    memory.read_forced(pages.addr, &mut got).unwrap();
    assert_eq!(&got, b"yxxxxxxx");
}

/// Nothing is mapped there: an error that names the place, by force too.
#[test]
fn unmapped_memory_is_an_error() {
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    // Lower than the kernel ever maps anything by itself.
    let hole = 0x2_0000;
    assert_eq!(fault_at(&memory.read_forced(hole, &mut [0; 4]).unwrap_err()), hole);
    assert_eq!(fault_at(&memory.write_forced(hole, &[0; 4]).unwrap_err()), hole);
    assert_eq!(fault_at(&memory.gather(&[Span { addr: hole, len: 4 }], &mut [0; 4]).unwrap_err()), hole);
}

/// The memory of a process that has ended is gone, and not just unreadable at an address.
#[test]
fn the_memory_of_the_dead_is_gone() {
    let pages = Pages::new(1);
    pages.fill(0, 1);
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    tracee.kill(libc::SIGKILL);
    until("its end", || tracee.state() == 'Z');
    assert!(memory.read_u64(pages.addr).unwrap_err().is_gone());
    assert!(memory.write(pages.addr, &[0; 8]).unwrap_err().is_gone());
}
