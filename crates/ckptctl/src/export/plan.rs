//! Which parts of memory the core has contents of.

use ckpt_core::resource::memory::{Backing, Region};
use ckpt_image::PageRange;

use crate::image::overlapping;

/// A region larger than this (what sanitizers and garbage collectors reserve) is split into what the image holds of it
/// and what is empty.
const LARGEST_WHOLE: u64 = 64 << 30;
/// All whole regions together: file systems have a largest file size, and ext4's is 16 TiB.
const MOST_WHOLE: u64 = 1 << 40;

/// A piece of memory in the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The first address.
    pub start: u64,
    /// The address after the last byte.
    pub end: u64,
    /// `PROT_*`.
    pub protection: u32,
    /// How much of it has contents in the core: all or nothing.
    pub file_size: u64,
    /// Where these lie in the core.
    pub offset: u64,
}

/// Cuts the regions into segments. `ranges` are those that the image holds, as [`shown`] gives them; `has_file` tells
/// whether a file's contents are to be had.
pub fn segments(regions: &[Region], ranges: &[PageRange], has_file: impl Fn(u64) -> bool) -> Vec<Segment> {
    let mut room = MOST_WHOLE;
    let mut segments = Vec::new();
    for region in regions {
        let first = ranges.partition_point(|range| range.addr + range.len <= region.start);
        let held = ranges[first..].iter().take_while(|range| range.addr < region.end);
        let is_known = match &region.backing {
            // What is not in the image is zero. What nobody may touch and nobody has touched says nothing.
            Backing::Anonymous(_) | Backing::Shared { .. } => region.protection != 0 || held.clone().next().is_some(),
            Backing::File { file, .. } => has_file(*file),
            Backing::Kernel(_) => false,
        };
        let part = |start, end, is_held: bool| {
            let file_size = if is_held { end - start } else { 0 };
            Segment { start, end, protection: region.protection, file_size, offset: 0 }
        };
        if is_known && region.size() <= LARGEST_WHOLE.min(room) {
            room -= region.size();
            segments.push(part(region.start, region.end, true));
            continue;
        }
        let mut at = region.start;
        for range in held {
            let (start, end) = (range.addr.max(region.start), (range.addr + range.len).min(region.end));
            if at < start {
                segments.push(part(at, start, false));
            }
            segments.push(part(start, end, true));
            at = end;
        }
        if at < region.end {
            segments.push(part(at, region.end, false));
        }
    }
    segments
}

/// Ranges in ascending order and apart from each other, with those that show the same shared memory elsewhere.
pub fn shown(regions: &[Region], mut ranges: Vec<PageRange>) -> Vec<PageRange> {
    let elsewhere: Vec<PageRange> =
        ranges.iter().flat_map(|range| aliases(regions, *range)).map(|alias| alias.at).collect();
    ranges.extend(elsewhere);
    ranges.sort_unstable();
    let mut merged: Vec<PageRange> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.addr <= last.addr + last.len => {
                last.len = last.len.max(range.addr + range.len - last.addr);
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// Another place where memory is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alias {
    /// Where.
    pub at: PageRange,
    /// Which part of the original range, counted from its beginning.
    pub from: u64,
}

/// Where else the shared memory of a range is seen: the image holds each page of it once.
pub fn aliases(regions: &[Region], range: PageRange) -> Vec<Alias> {
    let mut found = Vec::new();
    for own in &regions[overlapping(regions, range.addr, range.addr + range.len)] {
        let Backing::Shared { object, offset } = own.backing else { continue };
        let (start, end) = (range.addr.max(own.start), (range.addr + range.len).min(own.end));
        let in_object = offset.saturating_add(start - own.start);
        for other in regions.iter().filter(|other| other.start != own.start) {
            let Backing::Shared { object: theirs, offset } = other.backing else { continue };
            let first = in_object.max(offset);
            let last = in_object.saturating_add(end - start).min(offset.saturating_add(other.size()));
            if theirs == object && first < last {
                let at = PageRange { addr: other.start + (first - offset), len: last - first };
                found.push(Alias { at, from: start - range.addr + (first - in_object) });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tests::region;

    fn range(addr: u64, len: u64) -> PageRange {
        PageRange { addr, len }
    }

    fn parts(segments: &[Segment]) -> Vec<(u64, u64, u64)> {
        segments.iter().map(|segment| (segment.start, segment.end, segment.file_size)).collect()
    }

    #[test]
    fn anonymous_memory_is_whole_unless_it_is_a_reservation() {
        let huge = 1 << 44;
        let guard = Region { protection: 0, ..region(0x8000, 0x9000) };
        let regions = [region(0x1000, 0x4000), guard, region(0x10_0000, huge)];
        let held = [range(0x2000, 0x1000), range(0x20_0000, 0x1000)];
        let expected = [
            (0x1000, 0x4000, 0x3000),
            (0x8000, 0x9000, 0),
            (0x10_0000, 0x20_0000, 0),
            (0x20_0000, 0x20_1000, 0x1000),
            (0x20_1000, huge, 0),
        ];
        assert_eq!(parts(&segments(&regions, &held, |_| false)), expected);
    }

    #[test]
    fn of_a_file_that_is_gone_only_changed_pages_are_known() {
        let backing = Backing::File { file: 3, offset: 0, shared: false, may_write: true };
        let regions = [Region { backing, ..region(0x1000, 0x4000) }];
        let held = [range(0x2000, 0x1000)];
        assert_eq!(parts(&segments(&regions, &held, |file| file == 3)), [(0x1000, 0x4000, 0x3000)]);
        let expected = [(0x1000, 0x2000, 0), (0x2000, 0x3000, 0x1000), (0x3000, 0x4000, 0)];
        assert_eq!(parts(&segments(&regions, &held, |_| false)), expected);
    }

    #[test]
    fn shared_memory_is_seen_at_each_of_its_places() {
        let shared =
            |start, end, offset| Region { backing: Backing::Shared { object: 9, offset }, ..region(start, end) };
        let regions = [shared(0x1000, 0x4000, 0), shared(0x8000, 0x9000, 0x1000), region(0xa000, 0xb000)];
        let found = aliases(&regions, range(0x1000, 0x3000));
        assert_eq!(found, [Alias { at: range(0x8000, 0x1000), from: 0x1000 }]);
        assert!(aliases(&regions, range(0xa000, 0x1000)).is_empty());
        let shown = shown(&regions, vec![range(0x3000, 0x1000), range(0x2000, 0x1000)]);
        assert_eq!(shown, [range(0x2000, 0x2000), range(0x8000, 0x1000)]);
    }
}
