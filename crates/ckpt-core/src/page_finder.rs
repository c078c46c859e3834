//! Which pages of a process are its own: asked of the page tables.

use std::fs::File;
use std::io;
use std::ops::Range;

use ckpt_trace::sys::{PageRange, PagemapScan};

use crate::proc::PageEntry;

/// Finds the pages of regions that must go into the image.
#[derive(Debug)]
pub struct PageFinder {
    scan: PagemapScan,
    entries: File,
    means: Means,
}

/// How page tables can be read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    /// `PAGEMAP_SCAN`, with guard pages told (Linux 6.15).
    ScanWithGuards,
    /// `PAGEMAP_SCAN` (Linux 6.7).
    Scan,
    /// Entry by entry.
    Entries,
}

impl PageFinder {
    /// Over the page tables of a process.
    ///
    /// # Errors
    /// When `/proc/PID/pagemap` cannot be opened.
    pub fn open(pid: i32) -> io::Result<Self> {
        let entries = File::open(format!("/proc/{pid}/pagemap"))?;
        Ok(Self { scan: PagemapScan::new(entries.try_clone()?), entries, means: Means::ScanWithGuards })
    }

    /// Whether the kernel scans for us (`PAGEMAP_SCAN`), as far as has been seen.
    #[must_use]
    pub fn has_scan(&self) -> bool {
        self.means != Means::Entries
    }

    /// Some of the pages within a range that are the program's own: there or in swap, and neither a file's nor the page
    /// of zeros. With the address up to which they are all there are.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn own_pages(&mut self, range: Range<u64>) -> io::Result<(Vec<PageRange>, u64)> {
        let any = PagemapScan::PRESENT | PagemapScan::SWAPPED;
        let none = PagemapScan::ZERO | PagemapScan::FILE;
        self.find(range, any, none, |entry| {
            (entry.is_present() || entry.is_swapped()) && !entry.is_file_or_shared() && !entry.is_guard()
        })
    }

    /// Some of the guard pages within a range, likewise.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn guards(&mut self, range: Range<u64>) -> io::Result<(Vec<PageRange>, u64)> {
        self.find(range, PagemapScan::GUARD, 0, PageEntry::is_guard)
    }

    fn find(
        &mut self,
        range: Range<u64>,
        any: u64,
        none: u64,
        is_wanted: impl Fn(PageEntry) -> bool,
    ) -> io::Result<(Vec<PageRange>, u64)> {
        loop {
            let (any, none) = match self.means {
                Means::ScanWithGuards if any == PagemapScan::GUARD => (any, none),
                Means::ScanWithGuards => (any, none | PagemapScan::GUARD),
                // A kernel that cannot tell them has none, or shows them entry by entry.
                Means::Scan if any == PagemapScan::GUARD => return Ok((Vec::new(), range.end)),
                Means::Scan => (any, none),
                Means::Entries => return self.find_by_entry(range, is_wanted),
            };
            let result = self.scan.next(range.start, range.end, any, none).map(|(found, end)| (found.to_vec(), end));
            self.means = match result.as_ref().map_err(io::Error::raw_os_error) {
                Err(Some(libc::EINVAL)) if self.means == Means::ScanWithGuards => Means::Scan,
                Err(Some(libc::ENOTTY)) => Means::Entries,
                _ => return result,
            };
        }
    }

    fn find_by_entry(
        &self,
        range: Range<u64>,
        is_wanted: impl Fn(PageEntry) -> bool,
    ) -> io::Result<(Vec<PageRange>, u64)> {
        use std::os::unix::fs::FileExt;
        const AT_ONCE: u64 = 1 << 16;
        let page = ckpt_trace::PAGE;
        let end = range.end.min(range.start + AT_ONCE * page);
        let count = (end - range.start) / page * 8;
        let mut bytes = vec![0; usize::try_from(count).unwrap_or_default()];
        self.entries.read_exact_at(&mut bytes, range.start / page * 8)?;
        let mut found: Vec<PageRange> = Vec::new();
        let wanted = (0..).zip(PageEntry::parse(&bytes)).filter(|(_, entry)| is_wanted(*entry));
        for start in wanted.map(|(index, _): (u64, _)| range.start + index * page) {
            match found.last_mut() {
                Some(last) if last.end == start => last.end += page,
                _ => found.push(PageRange { start, end: start + page, categories: 0 }),
            }
        }
        Ok((found, end))
    }
}

#[cfg(test)]
mod tests;
