//! The `VmFlags:` line of smaps.

/// Declares one constant of [`VmFlags`] and one question per two-letter code.
macro_rules! vm_flags {
    ($($bit:literal $code:literal $question:ident $doc:literal;)*) => {
        impl VmFlags {
            /// The codes and the bits that stand for them here.
            const CODES: &'static [([u8; 2], u32)] = &[$((*$code, $bit)),*];

            $(
                #[doc = $doc]
                #[must_use]
                pub const fn $question(self) -> bool {
                    self.bits & (1 << $bit) != 0
                }
            )*

            fn bit(code: &[u8]) -> Option<u32> {
                match code {
                    $(code if code == $code => Some($bit),)*
                    _ => None,
                }
            }
        }
    };
}

/// What the kernel has noted about a mapping, by the two-letter codes of proc(5).
///
/// The codes are those of `show_smap_vma_flags` in `fs/proc/task_mmu.c`. One that
/// is not known here is not lost silently: see [`VmFlags::has_unknown`].
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct VmFlags {
    /// One bit per code, numbered by us.
    bits: u64,
}

vm_flags! {
    0 b"rd" is_readable "`rd`: can be read now.";
    1 b"wr" is_writable "`wr`: can be written now.";
    2 b"ex" is_executable "`ex`: can be executed now.";
    3 b"sh" is_shared "`sh`: writes are shared. Absent when a shared mapping's file was opened for reading alone.";
    4 b"mr" may_read "`mr`: mprotect may make it readable.";
    5 b"mw" may_write "`mw`: mprotect may make it writable.";
    6 b"me" may_exec "`me`: mprotect may make it executable.";
    7 b"ms" may_share "`ms`: was mapped with `MAP_SHARED`.";
    8 b"gd" grows_down "`gd`: `MAP_GROWSDOWN`, a stack.";
    9 b"pf" is_pfn_map "`pf`: pages without a struct page, as of devices.";
    10 b"lo" is_locked "`lo`: mlock.";
    11 b"lf" is_locked_on_fault "`lf`: `MLOCK_ONFAULT`.";
    12 b"io" is_io "`io`: memory of a device.";
    13 b"sr" is_sequential "`sr`: `MADV_SEQUENTIAL`.";
    14 b"rr" is_random "`rr`: `MADV_RANDOM`.";
    15 b"dc" is_dont_fork "`dc`: `MADV_DONTFORK`.";
    16 b"de" is_dont_expand "`de`: cannot grow by mremap.";
    17 b"ac" is_accounted "`ac`: counts towards committed memory.";
    18 b"nr" is_noreserve "`nr`: `MAP_NORESERVE`.";
    19 b"ht" is_hugetlb "`ht`: `MAP_HUGETLB` or a file of hugetlbfs.";
    20 b"sf" is_synchronous "`sf`: `MAP_SYNC`.";
    21 b"wf" is_wipe_on_fork "`wf`: `MADV_WIPEONFORK`.";
    22 b"dd" is_dont_dump "`dd`: `MADV_DONTDUMP`.";
    23 b"sd" is_soft_dirty "`sd`: soft-dirty.";
    24 b"mm" is_mixed_map "`mm`: pages with and without a struct page.";
    25 b"hg" is_huge_advised "`hg`: `MADV_HUGEPAGE`.";
    26 b"nh" is_no_huge "`nh`: `MADV_NOHUGEPAGE`.";
    27 b"mg" is_mergeable "`mg`: `MADV_MERGEABLE`.";
    28 b"um" is_uffd_missing "`um`: userfaultfd reports missing pages.";
    29 b"uw" is_uffd_wp "`uw`: userfaultfd reports writes.";
    30 b"ui" is_uffd_minor "`ui`: userfaultfd reports minor faults.";
    31 b"ss" is_shadow_stack "`ss`: shadow stack.";
    32 b"sl" is_sealed "`sl`: mseal.";
    33 b"dp" is_droppable "`dp`: `MAP_DROPPABLE`.";
    34 b"mt" is_memory_tagged "`mt`: `PROT_MTE` of arm64.";
    35 b"bt" is_branch_target "`bt`: `PROT_BTI` of arm64.";
    36 b"ar" has_arch_flag "`ar`: a flag of the processor; PAT on x86.";
    37 b"gu" may_have_guards "`gu`: may hold regions of `MADV_GUARD_INSTALL` (Linux 6.19).";
}

impl VmFlags {
    const UNKNOWN: u64 = 1 << 63;

    /// The flags of a `VmFlags:` line, given what follows the colon.
    #[must_use]
    pub fn parse(codes: &[u8]) -> Self {
        let bits = super::text::words(codes)
            .fold(0, |bits, code| bits | Self::bit(code).map_or(Self::UNKNOWN, |bit| 1 << bit));
        Self { bits }
    }

    /// Whether the two-letter `code` was there. False for a code not known here.
    #[must_use]
    pub fn has(self, code: &str) -> bool {
        Self::bit(code.as_bytes()).is_some_and(|bit| self.bits & (1 << bit) != 0)
    }

    /// Whether there was a code that is not known here: a kernel newer than
    /// this program, which has noted something about the mapping.
    #[must_use]
    pub const fn has_unknown(self) -> bool {
        self.bits & Self::UNKNOWN != 0
    }
}

impl std::fmt::Debug for VmFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = Self::CODES.iter().filter(|(_, bit)| self.bits & (1 << bit) != 0);
        let codes = known.map(|(code, _)| String::from_utf8_lossy(code).into_owned());
        let unknown = self.has_unknown().then(|| "??".to_owned());
        f.debug_set().entries(codes.chain(unknown)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_answers_for_itself_alone() {
        for (code, bit) in VmFlags::CODES {
            let flags = VmFlags::parse(code);
            assert_eq!(flags.bits, 1 << bit);
            assert!(flags.has(std::str::from_utf8(code).unwrap()));
            assert!(!flags.has_unknown());
        }
    }

    #[test]
    fn a_line_of_the_kernel() {
        let flags = VmFlags::parse(b" rd wr mr mw me gd ac ");
        assert!(flags.grows_down() && flags.is_accounted() && flags.has("gd"));
        assert!(!flags.is_locked() && !flags.has("lo") && !flags.has("nonsense"));
        assert_eq!(format!("{flags:?}"), r#"{"rd", "wr", "mr", "mw", "me", "gd", "ac"}"#);
    }

    #[test]
    fn a_code_of_the_future_is_seen() {
        let flags = VmFlags::parse(b"rd zz");
        assert!(flags.is_readable() && flags.has_unknown());
        assert_eq!(format!("{flags:?}"), r#"{"rd", "??"}"#);
    }
}
