//! `/proc/PID/pagemap`: one 64-bit word for every page of the address space.
//!
//! Documentation/admin-guide/mm/pagemap.rst; made by `pte_to_pagemap_entry` in
//! `fs/proc/task_mmu.c`.

/// Bytes per entry: the entry of address `A` is at `A / page size * 8`.
pub const ENTRY_BYTES: u64 = 8;

/// `PM_MMAP_EXCLUSIVE`: mapped by this process alone.
pub const EXCLUSIVE: u64 = 1 << 56;
/// `PM_UFFD_WP`: write-protected by userfaultfd. Since Linux 5.14.
pub const UFFD_WP: u64 = 1 << 57;
/// `PM_GUARD_REGION`: `MADV_GUARD_INSTALL`; an access is a SIGSEGV. Shown since Linux 6.15.
pub const GUARD: u64 = 1 << 58;
/// `PM_FILE`: the page of a file or of shared memory, not a private copy.
pub const FILE: u64 = 1 << 61;
/// `PM_SWAP`: swapped out, or a marker in its place.
pub const SWAP: u64 = 1 << 62;
/// `PM_PRESENT`: in memory.
pub const PRESENT: u64 = 1 << 63;

/// One word of pagemap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct PageEntry(pub u64);

impl PageEntry {
    /// The entries in what was read from `pagemap`; a cut one at the end is left out.
    pub fn parse(bytes: &[u8]) -> impl Iterator<Item = Self> {
        let (entries, _cut) = bytes.as_chunks();
        entries.iter().map(|&entry| Self(u64::from_ne_bytes(entry)))
    }

    /// In memory.
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// Swapped out. A guard region and a page that is not there but protected by
    /// userfaultfd are markers in the place of a swapped page, and not data.
    #[must_use]
    pub const fn is_swapped(self) -> bool {
        self.0 & SWAP != 0
    }

    /// A page of a file or of shared memory.
    #[must_use]
    pub const fn is_file_or_shared(self) -> bool {
        self.0 & FILE != 0
    }

    /// Write-protected by userfaultfd.
    #[must_use]
    pub const fn is_uffd_wp(self) -> bool {
        self.0 & UFFD_WP != 0
    }

    /// In a guard region.
    #[must_use]
    pub const fn is_guard(self) -> bool {
        self.0 & GUARD != 0
    }

    /// Mapped by this process alone.
    #[must_use]
    pub const fn is_exclusive(self) -> bool {
        self.0 & EXCLUSIVE != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_is_its_own() {
        let questions = [
            (63, PageEntry::is_present as fn(PageEntry) -> bool),
            (62, PageEntry::is_swapped),
            (61, PageEntry::is_file_or_shared),
            (58, PageEntry::is_guard),
            (57, PageEntry::is_uffd_wp),
            (56, PageEntry::is_exclusive),
        ];
        for (bit, _) in questions {
            for (asked, question) in questions {
                assert_eq!(question(PageEntry(1 << bit)), bit == asked);
            }
        }
    }

    #[test]
    fn pages_of_linux_6_18() {
        let written = PageEntry(0x8100_0000_0011_531c);
        assert!(written.is_present() && written.is_exclusive() && !written.is_file_or_shared());
        let guard = PageEntry(0x4400_0000_0000_009f);
        assert!(guard.is_guard() && guard.is_swapped() && !guard.is_present());
    }

    #[test]
    fn a_cut_entry_is_left_out() {
        let mut bytes = (1u64 << 63).to_ne_bytes().to_vec();
        bytes.extend([0; 8]);
        bytes.push(1);
        let entries: Vec<_> = PageEntry::parse(&bytes).collect();
        assert_eq!(entries, [PageEntry(PRESENT), PageEntry(0)]);
    }
}
