//! Memory: the regions of an address space, which pages of them are the program's own, and how they are mapped again.

use ckpt_trace::Batch;
use serde::{Deserialize, Serialize};

use super::bytes::Bytes;
use super::file_table::FileTable;
use crate::Error;
use crate::proc::{Auxv, Stat, Vma, VmaKind};

/// The memory of a process, but for its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryState {
    /// The regions, ascending and apart from each other.
    pub regions: Vec<Region>,
    /// Guard pages within them (`MADV_GUARD_INSTALL`): start and end.
    pub guards: Vec<(u64, u64)>,
    /// The addresses that the kernel keeps of a process.
    pub bounds: Bounds,
    /// The auxiliary vector: type and value.
    pub auxv: Vec<(u64, u64)>,
    /// The executable's number in the file table.
    pub executable: u64,
    /// Whether memory mapped in the future is locked (`MCL_FUTURE`).
    pub locks_future: bool,
}

/// `struct prctl_mm_map`: where code, data, heap, stack, arguments and environment are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names are those of the kernel's structure
pub struct Bounds {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
}

/// A region of an address space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// The first address.
    pub start: u64,
    /// The address after the last byte.
    pub end: u64,
    /// `PROT_*`.
    pub protection: u32,
    /// What is behind it.
    pub backing: Backing,
    /// How it was set up and advised.
    pub traits: Vec<Trait>,
    /// The size of its pages in bytes.
    pub page_size: u64,
    /// Its memory protection key.
    pub protection_key: u32,
}

/// What is behind a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backing {
    /// Private anonymous memory, with the name that `PR_SET_VMA_ANON_NAME` gave it.
    Anonymous(Option<Bytes>),
    /// Shared anonymous memory.
    Shared {
        /// Regions of one number show the same memory.
        object: u64,
        /// Where in the object the region begins.
        offset: u64,
    },
    /// A file.
    File {
        /// Its number in the file table.
        file: u64,
        /// Where in the file the region begins.
        offset: u64,
        /// `MAP_SHARED`.
        shared: bool,
        /// Whether it may be made writable.
        may_write: bool,
    },
    /// The kernel's own: `[vdso]`, `[vvar]`, `[vvar_vclock]`.
    Kernel(String),
}

/// How a region was set up (`mmap(2)`) and advised (`madvise(2)`, `mlock(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // each is the flag or advice of the same name
pub enum Trait {
    GrowsDown,
    /// It counts towards committed memory although it is not writable now: it once was.
    Accounted,
    NoReserve,
    HugeTlb,
    Droppable,
    DontFork,
    WipeOnFork,
    DontDump,
    Mergeable,
    HugePage,
    NoHugePage,
    Sequential,
    Random,
    Locked,
    LockedOnFault,
    Sealed,
}

const READ: u32 = libc::PROT_READ.unsigned_abs();
const WRITE: u32 = libc::PROT_WRITE.unsigned_abs();
const EXEC: u32 = libc::PROT_EXEC.unsigned_abs();
const MADV_GUARD_INSTALL: u64 = 102;
const SYS_MSEAL: i64 = 462;
const MLOCK_ONFAULT: u64 = 1;

impl MemoryState {
    /// The memory of a frozen process; mapped files are entered into the table.
    ///
    /// # Errors
    /// Memory that cannot be saved is refused by address and kind.
    pub fn capture(pid: i32, vmas: &[Vma], stat: &Stat, brk: u64, files: &mut FileTable) -> Result<Self, Error> {
        let mut regions = Vec::with_capacity(vmas.len());
        for vma in vmas.iter().filter(|vma| vma.kind() != VmaKind::Vsyscall) {
            regions.push(Region::capture(pid, vma, files)?);
        }
        Ok(Self {
            regions,
            guards: Vec::new(),
            bounds: Bounds {
                start_code: stat.start_code,
                end_code: stat.end_code,
                start_data: stat.start_data,
                end_data: stat.end_data,
                start_brk: stat.start_brk,
                brk,
                start_stack: stat.start_stack,
                arg_start: stat.arg_start,
                arg_end: stat.arg_end,
                env_start: stat.env_start,
                env_end: stat.env_end,
            },
            auxv: Auxv::of(pid)?.entries().to_vec(),
            executable: files.executable(pid)?,
            locks_future: false,
        })
    }

    /// The region that holds an address.
    #[must_use]
    pub fn region_at(&self, addr: u64) -> Option<&Region> {
        let after = self.regions.partition_point(|region| region.start <= addr);
        self.regions.get(after.checked_sub(1)?).filter(|region| addr < region.end)
    }

    /// `PR_SET_MM_MAP`: tells the kernel the bounds, the auxiliary vector and, by descriptor, the executable.
    pub fn rebuild_bounds(&self, batch: &mut Batch, executable: Option<i32>) {
        let b = &self.bounds;
        let auxv: Vec<u8> = self
            .auxv
            .iter()
            .chain([&(0, 0)])
            .flat_map(|(key, value)| [key.to_le_bytes(), value.to_le_bytes()].concat())
            .collect();
        let auxv_at = batch.data(&auxv);
        let words = [
            b.start_code,
            b.end_code,
            b.start_data,
            b.end_data,
            b.start_brk,
            b.brk,
            b.start_stack,
            b.arg_start,
            b.arg_end,
            b.env_start,
            b.env_end,
            auxv_at,
        ];
        let mut map: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        map.extend_from_slice(&u32::try_from(auxv.len()).unwrap_or_default().to_le_bytes());
        map.extend_from_slice(&executable.unwrap_or(-1).to_le_bytes());
        let map_at = batch.data(&map);
        let (option, action) = (libc::PR_SET_MM.unsigned_abs().into(), libc::PR_SET_MM_MAP.unsigned_abs().into());
        batch.call("prctl(PR_SET_MM_MAP)", libc::SYS_prctl, &[option, action, map_at, map.len() as u64, 0]);
    }
}

impl Region {
    fn capture(pid: i32, vma: &Vma, files: &mut FileTable) -> Result<Self, Error> {
        let refuse = |what: &str, advice: &str| {
            Err(Error::refused(pid, format!("memory at {:#x} is {what}, which cannot be saved", vma.start), advice))
        };
        let flags = vma.flags;
        if flags.is_uffd_missing() || flags.is_uffd_wp() || flags.is_uffd_minor() {
            return refuse("handled by userfaultfd", "checkpoint when it is unregistered");
        }
        if flags.is_shadow_stack() {
            return refuse("a shadow stack", "start the program with GLIBC_TUNABLES=glibc.cpu.hwcaps=-SHSTK");
        }
        if (flags.is_io() || flags.is_pfn_map()) && !matches!(vma.kind(), VmaKind::Vvar | VmaKind::Vdso) {
            return refuse("memory of a device", "let the program close the device");
        }
        if flags.has_unknown() {
            return refuse("marked in a way that this version does not know", "use a newer ckptctl");
        }
        let shared = vma.perms.shared;
        let backing = match vma.kind() {
            VmaKind::Anonymous | VmaKind::Heap | VmaKind::Stack | VmaKind::AnonNamed => {
                Backing::Anonymous(vma.given_name().map(|name| Bytes(name.to_vec())))
            }
            VmaKind::HugeAnon if !shared => Backing::Anonymous(None),
            VmaKind::SharedAnon | VmaKind::HugeAnon => Backing::Shared { object: vma.inode, offset: vma.offset },
            VmaKind::File { .. } | VmaKind::Memfd => Backing::File {
                file: files.mapping(pid, vma)?,
                offset: vma.offset,
                shared,
                may_write: flags.may_write(),
            },
            VmaKind::Vdso | VmaKind::Vvar => Backing::Kernel(String::from_utf8_lossy(&vma.name).into_owned()),
            VmaKind::SysV => return refuse("System V shared memory", "let the program detach it"),
            VmaKind::Special | VmaKind::Vsyscall => {
                let name = String::from_utf8_lossy(&vma.name).into_owned();
                return refuse(&format!("a mapping of {name}"), "let the program unmap it");
            }
        };
        Ok(Self {
            start: vma.start,
            end: vma.end,
            protection: [(vma.perms.read, READ), (vma.perms.write, WRITE), (vma.perms.exec, EXEC)]
                .iter()
                .filter(|(is_set, _)| *is_set)
                .fold(0, |bits, (_, bit)| bits | bit),
            backing,
            traits: traits(vma),
            page_size: vma.kernel_page_size,
            protection_key: vma.protection_key,
        })
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it has a trait.
    #[must_use]
    pub fn has(&self, wanted: Trait) -> bool {
        self.traits.contains(&wanted)
    }

    /// Whether its pages can be read without force.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.protection & READ != 0
    }

    /// Whether it is mapped writable until it is filled.
    #[must_use]
    pub fn is_writable_at_first(&self) -> bool {
        self.is_writable() || self.has(Trait::Accounted) || matches!(self.backing, Backing::Shared { .. })
    }

    /// Whether the program can write to it now.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.protection & WRITE != 0
    }

    /// Whether pages of it may have to go into the image.
    #[must_use]
    pub fn has_pages(&self) -> bool {
        match &self.backing {
            Backing::Anonymous(_) | Backing::Shared { .. } | Backing::File { shared: false, .. } => true,
            Backing::File { shared: true, .. } => false,
            Backing::Kernel(_) => self.is_vdso(),
        }
    }

    /// Whether it is the code that the kernel puts into every process.
    #[must_use]
    pub fn is_vdso(&self) -> bool {
        matches!(&self.backing, Backing::Kernel(name) if name == "[vdso]")
    }

    /// Maps it, empty. `file` is the descriptor of a mapped file in the new process. What was
    /// writable once is mapped so, and gets its protection when it is filled.
    pub fn rebuild(&self, batch: &mut Batch, file: Option<i32>) {
        let mut flags = libc::MAP_FIXED_NOREPLACE;
        let protection = self.protection | if self.is_writable_at_first() { READ | WRITE } else { 0 };
        let mut offset = 0;
        match &self.backing {
            Backing::Anonymous(_) => flags |= libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            Backing::Shared { .. } => {
                flags |= libc::MAP_SHARED | libc::MAP_ANONYMOUS;
            }
            Backing::File { offset: at, shared, .. } => {
                flags |= if *shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
                offset = *at;
            }
            Backing::Kernel(_) => return,
        }
        for (wanted, flag) in [
            (Trait::GrowsDown, libc::MAP_GROWSDOWN),
            (Trait::NoReserve, libc::MAP_NORESERVE),
            (Trait::HugeTlb, libc::MAP_HUGETLB),
        ] {
            if self.has(wanted) && !(wanted == Trait::HugeTlb && file.is_some()) {
                flags |= flag;
            }
        }
        if self.has(Trait::HugeTlb) && file.is_none() {
            const MAP_HUGE_SHIFT: u32 = 26;
            flags |= i32::try_from(self.page_size.trailing_zeros()).unwrap_or_default() << MAP_HUGE_SHIFT;
        }
        if self.has(Trait::Droppable) {
            const MAP_DROPPABLE: i32 = 8;
            flags = flags & !libc::MAP_PRIVATE | MAP_DROPPABLE;
        }
        let descriptor = i64::from(file.unwrap_or(-1)).cast_unsigned();
        let arguments =
            [self.start, self.size(), protection.into(), u64::from(flags.unsigned_abs()), descriptor, offset];
        batch.call("mmap", libc::SYS_mmap, &arguments);
        self.rebuild_traits(batch);
    }

    /// What `madvise(2)` and `prctl(2)` said of it; locking waits until it is filled.
    pub fn rebuild_traits(&self, batch: &mut Batch) {
        for advised in &self.traits {
            let advice = match advised {
                Trait::DontFork => libc::MADV_DONTFORK,
                Trait::WipeOnFork => libc::MADV_WIPEONFORK,
                Trait::DontDump => libc::MADV_DONTDUMP,
                Trait::Mergeable => libc::MADV_MERGEABLE,
                Trait::HugePage => libc::MADV_HUGEPAGE,
                Trait::NoHugePage => libc::MADV_NOHUGEPAGE,
                Trait::Sequential => libc::MADV_SEQUENTIAL,
                Trait::Random => libc::MADV_RANDOM,
                _ => continue,
            };
            // Regions of huge pages are marked "do not dump", "do not expand" and so on by the kernel itself.
            if self.has(Trait::HugeTlb) && advice == libc::MADV_MERGEABLE {
                continue;
            }
            batch.call("madvise", libc::SYS_madvise, &[self.start, self.size(), advice.unsigned_abs().into()]);
        }
        if let Backing::Anonymous(Some(name)) = &self.backing {
            const PR_SET_VMA: u64 = 0x5356_4d41;
            let name = batch.string(&name.0);
            batch.call("prctl(PR_SET_VMA)", libc::SYS_prctl, &[PR_SET_VMA, 0, self.start, self.size(), name]);
        }
    }

    /// What comes when it is filled: the protection of shared memory, locks, seals.
    pub fn rebuild_late(&self, batch: &mut Batch) {
        if self.is_writable_at_first() && self.protection & (READ | WRITE) != READ | WRITE {
            batch.call("mprotect", libc::SYS_mprotect, &[self.start, self.size(), self.protection.into()]);
        }
        if self.protection_key != 0 {
            let key = self.protection_key.into();
            batch.call(
                "pkey_mprotect",
                libc::SYS_pkey_mprotect,
                &[self.start, self.size(), self.protection.into(), key],
            );
        }
        if self.has(Trait::LockedOnFault) {
            batch.call("mlock2", libc::SYS_mlock2, &[self.start, self.size(), MLOCK_ONFAULT]);
        } else if self.has(Trait::Locked) {
            batch.call("mlock2", libc::SYS_mlock2, &[self.start, self.size(), 0]);
        }
        if self.has(Trait::Sealed) {
            batch.call("mseal", SYS_MSEAL, &[self.start, self.size(), 0]);
        }
    }
}

/// Installs guard pages.
pub fn rebuild_guard(batch: &mut Batch, &(start, end): &(u64, u64)) {
    batch.call("madvise(MADV_GUARD_INSTALL)", libc::SYS_madvise, &[start, end - start, MADV_GUARD_INSTALL]);
}

fn traits(vma: &Vma) -> Vec<Trait> {
    let flags = vma.flags;
    let is_huge = flags.is_hugetlb();
    [
        (flags.grows_down(), Trait::GrowsDown),
        (flags.is_accounted() && !vma.perms.write && !vma.perms.shared, Trait::Accounted),
        (flags.is_noreserve(), Trait::NoReserve),
        (is_huge, Trait::HugeTlb),
        (flags.is_droppable(), Trait::Droppable),
        (flags.is_dont_fork(), Trait::DontFork),
        (flags.is_wipe_on_fork(), Trait::WipeOnFork),
        // Set by the kernel itself on the vvar pages.
        (flags.is_dont_dump() && vma.kind() != VmaKind::Vvar, Trait::DontDump),
        (flags.is_mergeable(), Trait::Mergeable),
        (flags.is_huge_advised(), Trait::HugePage),
        (flags.is_no_huge(), Trait::NoHugePage),
        (flags.is_sequential(), Trait::Sequential),
        (flags.is_random(), Trait::Random),
        (flags.is_locked() && !flags.is_locked_on_fault(), Trait::Locked),
        (flags.is_locked_on_fault(), Trait::LockedOnFault),
        (flags.is_sealed(), Trait::Sealed),
    ]
    .into_iter()
    .filter_map(|(is_set, set)| is_set.then_some(set))
    .collect()
}

#[cfg(test)]
mod tests;
