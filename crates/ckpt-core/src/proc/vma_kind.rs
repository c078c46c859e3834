//! What a mapping is, by the name that the kernel gives it.

use super::Vma;

/// What backs a mapping.
///
/// The names are made by `get_vma_name` in `fs/proc/task_mmu.c` and, for a file
/// without a path of its own, by whoever created it (`mm/shmem.c`, `mm/memfd.c`,
/// `ipc/shm.c`, `fs/hugetlbfs/inode.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VmaKind {
    /// Private memory without a name.
    Anonymous,
    /// `[heap]`: private memory that touches the brk area.
    Heap,
    /// `[stack]`: private memory around the address at which the stack began.
    Stack,
    /// `[vdso]`: the kernel's code in user space.
    Vdso,
    /// `[vvar]` and `[vvar_vclock]`: the data of the vDSO.
    Vvar,
    /// `[vsyscall]`: the page at a fixed address, the same in all processes.
    Vsyscall,
    /// A file with a path.
    File {
        /// The path names it no more. A living file whose name really ends with
        /// ` (deleted)` cannot be told from it.
        deleted: bool,
    },
    /// `[anon:NAME]`: private memory named by `PR_SET_VMA_ANON_NAME`.
    AnonNamed,
    /// `/dev/zero (deleted)` and `[anon_shmem:NAME]`: memory that is shared
    /// with whom it was inherited by.
    SharedAnon,
    /// `/memfd:NAME (deleted)`: a file of `memfd_create`.
    Memfd,
    /// `/SYSV00000000 (deleted)`: a segment of shmget, its key in the name and
    /// its id as the inode.
    SysV,
    /// `/anon_hugepage (deleted)`: `MAP_ANONYMOUS | MAP_HUGETLB`, private or shared.
    HugeAnon,
    /// Something else: another name in brackets, `anon_inode:[...]`, a socket.
    Special,
}

const DELETED: &[u8] = b" (deleted)";

impl Vma {
    /// What backs the mapping.
    #[must_use]
    pub fn kind(&self) -> VmaKind {
        let name = self.name.as_slice();
        match name {
            b"" => VmaKind::Anonymous,
            b"[heap]" => VmaKind::Heap,
            b"[stack]" => VmaKind::Stack,
            b"[vdso]" => VmaKind::Vdso,
            b"[vvar]" | b"[vvar_vclock]" => VmaKind::Vvar,
            b"[vsyscall]" => VmaKind::Vsyscall,
            [b'[', ..] if name.starts_with(b"[anon:") => VmaKind::AnonNamed,
            [b'[', ..] if name.starts_with(b"[anon_shmem:") => VmaKind::SharedAnon,
            [b'/', ..] => match name.strip_suffix(DELETED) {
                // The kernel's own file systems have no device, that is major 0.
                // A path in the root directory of a disk is a path.
                Some(path) if self.dev.0 == 0 => unlinked_kind(path),
                Some(_) => VmaKind::File { deleted: true },
                None => VmaKind::File { deleted: false },
            },
            _ => VmaKind::Special,
        }
    }

    /// The path of a file ([`VmaKind::File`]), without the mark of a deleted one.
    #[must_use]
    pub fn path(&self) -> Option<&[u8]> {
        match self.kind() {
            VmaKind::File { deleted: true } => self.name.strip_suffix(DELETED),
            VmaKind::File { deleted: false } => Some(&self.name),
            _ => None,
        }
    }

    /// The name that the program gave to memory without a path: of
    /// `[anon:NAME]`, `[anon_shmem:NAME]` or `/memfd:NAME (deleted)`.
    #[must_use]
    pub fn given_name(&self) -> Option<&[u8]> {
        let (before, after): (&[u8], &[u8]) = match self.kind() {
            VmaKind::AnonNamed => (b"[anon:", b"]"),
            VmaKind::SharedAnon => (b"[anon_shmem:", b"]"),
            VmaKind::Memfd => (b"/memfd:", DELETED),
            _ => return None,
        };
        self.name.strip_prefix(before)?.strip_suffix(after)
    }
}

/// The kind of a file that has no name any more, or never had one.
fn unlinked_kind(path: &[u8]) -> VmaKind {
    match path {
        b"/dev/zero" => VmaKind::SharedAnon,
        b"/anon_hugepage" => VmaKind::HugeAnon,
        _ if path.starts_with(b"/memfd:") => VmaKind::Memfd,
        _ if is_sysv(path) => VmaKind::SysV,
        _ => VmaKind::File { deleted: true },
    }
}

/// Whether `path` is `/SYSV` and the key as eight hexadecimal digits.
fn is_sysv(path: &[u8]) -> bool {
    path.strip_prefix(b"/SYSV").is_some_and(|key| key.len() == 8 && key.iter().all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
mod tests {
    use super::super::maps::parse_maps;
    use super::*;

    fn named(dev: &str, name: &str) -> Vma {
        let line = format!("1000-2000 rw-p 00000000 {dev} 0 {name}\n");
        parse_maps(line.as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn names_tell_the_kind() {
        for (dev, name, kind) in [
            ("00:00", "", VmaKind::Anonymous),
            ("00:00", "[heap]", VmaKind::Heap),
            ("00:00", "[stack]", VmaKind::Stack),
            ("00:00", "[vdso]", VmaKind::Vdso),
            ("00:00", "[vvar]", VmaKind::Vvar),
            ("00:00", "[vvar_vclock]", VmaKind::Vvar),
            ("00:00", "[vsyscall]", VmaKind::Vsyscall),
            ("00:00", "[uprobes]", VmaKind::Special),
            ("00:0e", "anon_inode:[perf_event]", VmaKind::Special),
            ("00:0e", "anon_inode:[io_uring]", VmaKind::Special),
            ("00:08", "socket:[1234]", VmaKind::Special),
            ("00:00", "[anon:glibc: malloc]", VmaKind::AnonNamed),
            ("00:01", "[anon_shmem:queue]", VmaKind::SharedAnon),
            ("00:01", "/dev/zero (deleted)", VmaKind::SharedAnon),
            ("00:06", "/dev/zero", VmaKind::File { deleted: false }),
            ("00:01", "/memfd:x (deleted)", VmaKind::Memfd),
            ("00:01", "/memfd: (deleted)", VmaKind::Memfd),
            ("fe:00", "/memfd:x (deleted)", VmaKind::File { deleted: true }),
            ("00:01", "/SYSV00abcdef (deleted)", VmaKind::SysV),
            ("00:0f", "/SYSV00abcdef (deleted)", VmaKind::SysV),
            ("00:1a", "/SYSVOL (deleted)", VmaKind::File { deleted: true }),
            ("00:0f", "/anon_hugepage (deleted)", VmaKind::HugeAnon),
            ("fe:00", "/usr/bin/cat", VmaKind::File { deleted: false }),
            ("fe:00", "/tmp/a b (deleted)", VmaKind::File { deleted: true }),
        ] {
            assert_eq!(named(dev, name).kind(), kind, "{name}");
        }
    }

    #[test]
    fn names_are_told_without_their_marks() {
        let path = |dev, name| named(dev, name).path().map(<[u8]>::to_vec);
        assert_eq!(path("fe:00", "/tmp/a (deleted)"), Some(b"/tmp/a".to_vec()));
        assert_eq!(path("fe:00", "/tmp/a"), Some(b"/tmp/a".to_vec()));
        assert_eq!(path("00:01", "/memfd:x (deleted)"), None);
        let given = |name| named("00:01", name).given_name().map(<[u8]>::to_vec);
        assert_eq!(given("/memfd:x (deleted)"), Some(b"x".to_vec()));
        assert_eq!(given("[anon:glibc: malloc]"), Some(b"glibc: malloc".to_vec()));
        assert_eq!(given("[anon_shmem:q]"), Some(b"q".to_vec()));
        assert_eq!(given("/dev/zero (deleted)"), None);
    }
}
