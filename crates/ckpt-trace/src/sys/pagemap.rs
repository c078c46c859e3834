//! `ioctl(PAGEMAP_SCAN)` (Linux 6.7, Documentation/admin-guide/mm/pagemap.rst).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::checked;

/// Adjacent pages of the same categories.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PageRange {
    /// The first address.
    pub start: u64,
    /// The address after the last byte.
    pub end: u64,
    /// `PAGE_IS_*` bits, of those asked for.
    pub categories: u64,
}

#[repr(C)]
struct ScanArgs {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;

/// A scan of another process's page tables.
#[derive(Debug)]
pub struct PagemapScan {
    pagemap: File,
    ranges: Vec<PageRange>,
}

impl PagemapScan {
    /// The page belongs to a file or to shared memory.
    pub const FILE: u64 = 1 << 2;
    /// The page is in memory.
    pub const PRESENT: u64 = 1 << 3;
    /// The page is in swap.
    pub const SWAPPED: u64 = 1 << 4;
    /// The page is the kernel's shared page of zeros.
    pub const ZERO: u64 = 1 << 5;
    /// The page is a guard (`MADV_GUARD_INSTALL`; Linux 6.15).
    pub const GUARD: u64 = 1 << 8;

    /// Prepares scans over an open `/proc/PID/pagemap`.
    #[must_use]
    pub fn new(pagemap: File) -> Self {
        Self { pagemap, ranges: vec![PageRange::default(); 4096] }
    }

    /// Some ranges within `start..end` that are in any category of `any` and in none of `none`, ascending, and the address
    /// up to which they are all there are: where to go on.
    ///
    /// # Errors
    /// ENOTTY where the kernel has no such ioctl, EINVAL where it does not know a category.
    pub fn next(&mut self, start: u64, end: u64, any: u64, none: u64) -> io::Result<(&[PageRange], u64)> {
        let mut args = ScanArgs {
            size: size_of::<ScanArgs>() as u64,
            flags: 0,
            start,
            end,
            walk_end: 0,
            vec: self.ranges.as_mut_ptr() as u64,
            vec_len: self.ranges.len() as u64,
            max_pages: 0,
            category_inverted: none,
            category_mask: none,
            category_anyof_mask: any,
            return_mask: any,
        };
        // SAFETY: `args` is a live pm_scan_arg whose vec points to `vec_len` live page_regions.
        let got = checked(unsafe { libc::ioctl(self.pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut args) }.into())?;
        let got = usize::try_from(got).unwrap_or_default();
        let found = &self.ranges[..got];
        // With the vector full the walk may have ended before the end of the last range that it gives.
        let reached = found.last().map_or(args.walk_end, |last| last.end.max(args.walk_end));
        Ok((found, if reached > start { reached } else { end }))
    }
}

#[cfg(test)]
mod tests;
