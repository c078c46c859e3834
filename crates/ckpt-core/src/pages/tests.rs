#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use proptest::prelude::*;

use super::*;

fn run_of(ranges: &[(u64, u64)]) -> Run {
    let ranges = ranges.iter().map(|&(addr, pages)| PageRange { addr: addr * PAGE, len: pages * PAGE }).collect();
    Run { ranges, access: Access::default() }
}

/// Ranges in pages, and the byte that each page holds.
fn left(ranges: &[(u64, u64)], bytes: &[u8]) -> (Vec<(u64, u64)>, Vec<u8>) {
    let mut run = run_of(ranges);
    let mut data: Vec<u8> = bytes.iter().flat_map(|byte| [*byte; PAGE_SIZE as usize]).collect();
    run.leave_out_zeros(&mut data);
    assert!(data.chunks(PAGE_SIZE as usize).all(|page| page.iter().all(|byte| *byte == page[0])));
    let ranges = run.ranges.iter().map(|range| (range.addr / PAGE, range.len / PAGE)).collect();
    (ranges, data.iter().step_by(PAGE_SIZE as usize).copied().collect())
}

#[test]
fn pages_of_zeros_are_left_out() {
    assert_eq!(left(&[(1, 3)], &[1, 2, 3]), (vec![(1, 3)], vec![1, 2, 3]));
    assert_eq!(left(&[(1, 3)], &[1, 0, 3]), (vec![(1, 1), (3, 1)], vec![1, 3]));
    assert_eq!(left(&[(1, 4)], &[0, 2, 3, 0]), (vec![(2, 2)], vec![2, 3]));
    assert_eq!(left(&[(1, 2)], &[0, 0]), (vec![], vec![]));
    assert_eq!(left(&[(1, 2), (7, 2), (9, 1)], &[1, 0, 0, 4, 5]), (vec![(1, 1), (8, 2)], vec![1, 4, 5]));
    assert_eq!(left(&[], &[]), (vec![], vec![]));
}

/// One byte that is not zero keeps its page, wherever it is.
#[test]
fn a_page_with_one_byte_stays() {
    for at in [0, 1, 2047, 4095] {
        let mut run = run_of(&[(5, 2)]);
        let mut data = vec![0; 2 * PAGE_SIZE as usize];
        data[PAGE_SIZE as usize + at] = 1;
        run.leave_out_zeros(&mut data);
        assert_eq!((run.ranges.len(), run.ranges[0].addr, data.len()), (1, 6 * PAGE, PAGE_SIZE as usize));
        assert_eq!(data[at], 1);
    }
}

#[test]
fn a_stretch_is_cut_into_runs() {
    let cut = |start, length| pieces(start, length).collect::<Vec<_>>();
    assert_eq!(cut(10, 0), []);
    assert_eq!(cut(10, 1), [(10, 1)]);
    assert_eq!(cut(5, MAX_RUN), [(5, MAX_RUN)]);
    assert_eq!(cut(5, MAX_RUN + 1), [(5, MAX_RUN), (5 + MAX_RUN, 1)]);
    let long = cut(3, 3 * MAX_RUN + 7);
    assert_eq!(long.last(), Some(&(3 + 3 * MAX_RUN, 7)));
    assert_eq!(long.iter().map(|(_, length)| length).sum::<u64>(), 3 * MAX_RUN + 7);
}

proptest! {
    /// Put back over zeros, what is left is what was there.
    #[test]
    fn nothing_but_zeros_is_lost(layout in prop::collection::vec((1u64..4, prop::collection::vec(0u8..3, 1..6)), 1..6)) {
        let (mut ranges, mut bytes, mut at) = (Vec::new(), Vec::new(), 1);
        for (gap, pages) in layout {
            ranges.push((at + gap, pages.len() as u64));
            at += gap + pages.len() as u64;
            bytes.extend(pages);
        }
        let pages = |ranges: &[(u64, u64)]| ranges.iter().flat_map(|&(start, count)| start..start + count).collect::<Vec<_>>();
        let before: BTreeMap<u64, u8> = pages(&ranges).into_iter().zip(bytes.iter().copied()).filter(|(_, byte)| *byte != 0).collect();
        let (kept, data) = left(&ranges, &bytes);
        let after: BTreeMap<u64, u8> = pages(&kept).into_iter().zip(data).collect();
        prop_assert_eq!(after, before);
        prop_assert!(kept.windows(2).all(|pair| pair[0].0 + pair[0].1 < pair[1].0), "adjacent ranges are one: {:?}", kept);
    }
}
