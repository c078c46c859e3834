//! `/proc/PID/smaps` and `/proc/PID/maps`: the mappings of a process.
//!
//! Both are printed by `fs/proc/task_mmu.c`. A process can have 65530 mappings
//! and more (`vm.max_map_count`), each with 25 lines in smaps, so the lines that
//! are not wanted cost nothing but the search for their end.

use super::text::{kilobytes, lines, number, split_once, unescape, unsigned};
use super::{Malformed, ProcError, VmFlags, read_as};

/// Reads the mappings of `pid` with all that smaps says of them.
///
/// The kernel walks the page tables for it; where [`VmFlags`] and sizes are not
/// wanted, [`maps`] is much faster. A zombie and a kernel thread have none.
///
/// # Errors
/// When the file cannot be read or understood.
pub fn smaps(pid: i32) -> Result<Vec<Vma>, ProcError> {
    read_as(format!("/proc/{pid}/smaps"), parse_smaps)
}

/// Reads the mappings of `pid`: addresses, permissions and names alone.
///
/// # Errors
/// When the file cannot be read or understood.
pub fn maps(pid: i32) -> Result<Vec<Vma>, ProcError> {
    read_as(format!("/proc/{pid}/maps"), parse_maps)
}

/// One mapping ("virtual memory area").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vma {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// What may be done with it.
    pub perms: Perms,
    /// Where in the file it begins, in bytes. Meaningless for anonymous memory.
    pub offset: u64,
    /// Major and minor number of the file's device.
    pub dev: (u32, u32),
    /// The file's inode, 0 for anonymous memory.
    pub inode: u64,
    /// The path or the kernel's name for it, empty when there is none. A newline
    /// in a path is itself (the kernel prints `\012`, and nothing else is
    /// escaped, so a path that really holds `\012` cannot be told from it).
    pub name: Vec<u8>,
    /// Size of its pages in bytes: 4096, or that of a huge page. 0 from [`maps`].
    pub kernel_page_size: u64,
    /// Bytes of it that are in memory. 0 from [`maps`].
    pub rss: u64,
    /// Bytes of it that are in memory and the process's own: no file's. 0 from [`maps`].
    pub anonymous: u64,
    /// Bytes of it that are swapped out. 0 from [`maps`].
    pub swap: u64,
    /// Bytes of it that are locked in memory: this process's share. 0 from [`maps`].
    pub locked: u64,
    /// Its key of pkeys(7), 0 where there is none.
    pub protection_key: u32,
    /// What the kernel has noted about it; nothing from [`maps`].
    pub flags: VmFlags,
}

impl Vma {
    /// Its size in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.end - self.start
    }
}

/// What may be done with a mapping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "the four letters of maps, each on its own")]
pub struct Perms {
    /// `r`: `PROT_READ`.
    pub read: bool,
    /// `w`: `PROT_WRITE`.
    pub write: bool,
    /// `x`: `PROT_EXEC`.
    pub exec: bool,
    /// `s` instead of `p`: `MAP_SHARED` instead of `MAP_PRIVATE`.
    pub shared: bool,
}

impl Perms {
    fn parse(letters: &[u8]) -> Option<Self> {
        let &[read, write, exec, shared] = letters else {
            return None;
        };
        let either = |letter: u8, yes: u8, no: u8| match letter {
            letter if letter == yes => Some(true),
            letter if letter == no => Some(false),
            _ => None,
        };
        Some(Self {
            read: either(read, b'r', b'-')?,
            write: either(write, b'w', b'-')?,
            exec: either(exec, b'x', b'-')?,
            shared: either(shared, b's', b'p')?,
        })
    }
}

/// The mappings in the text of smaps.
///
/// # Errors
/// When a line is not as the kernel prints it. Unknown lines are passed over.
pub fn parse_smaps(text: &[u8]) -> Result<Vec<Vma>, Malformed> {
    let mut vmas: Vec<Vma> = Vec::new();
    for line in lines(text).filter(|line| !line.is_empty()) {
        // A key begins with a capital, an address with a digit or a to f.
        if !line[0].is_ascii_uppercase() {
            vmas.push(parse_header(line)?);
        } else if let Some(vma) = vmas.last_mut() {
            add_detail(vma, line)?;
        } else {
            return Err(Malformed::new("no address range", line));
        }
    }
    Ok(vmas)
}

/// The mappings in the text of maps.
///
/// # Errors
/// When a line is not as the kernel prints it.
pub fn parse_maps(text: &[u8]) -> Result<Vec<Vma>, Malformed> {
    lines(text).filter(|line| !line.is_empty()).map(parse_header).collect()
}

/// The line that both files have: `start-end perms offset dev inode   name`.
fn parse_header(line: &[u8]) -> Result<Vma, Malformed> {
    header_fields(line).ok_or_else(|| Malformed::new("no mapping", line))
}

fn header_fields(line: &[u8]) -> Option<Vma> {
    // The name is the rest of the line, as it may hold spaces.
    let mut fields = line.splitn(6, |&byte| byte == b' ');
    let (start, end) = split_once(fields.next()?, b'-')?;
    let (start, end) = (unsigned(start, 16)?, unsigned(end, 16)?);
    if start >= end {
        return None;
    }
    let perms = Perms::parse(fields.next()?)?;
    let offset = unsigned(fields.next()?, 16)?;
    let (major, minor) = split_once(fields.next()?, b':')?;
    let dev = |half| u32::try_from(unsigned(half, 16)?).ok();
    let dev = (dev(major)?, dev(minor)?);
    let inode = unsigned(fields.next()?, 10)?;
    let padded = fields.next().unwrap_or_default();
    // Spaces are padding up to the name's column, never the name's beginning: that
    // is a slash or a bracket. Spaces at the end are the name's own.
    let name = padded.iter().position(|&byte| byte != b' ');
    let name = name.and_then(|at| padded.get(at..)).unwrap_or_default();
    Some(Vma {
        start,
        end,
        perms,
        offset,
        dev,
        inode,
        name: unescape(name, b"\\012", b'\n'),
        kernel_page_size: 0,
        rss: 0,
        anonymous: 0,
        swap: 0,
        locked: 0,
        protection_key: 0,
        flags: VmFlags::default(),
    })
}

/// Takes from one `Key: value` line what is wanted.
fn add_detail(vma: &mut Vma, line: &[u8]) -> Result<(), Malformed> {
    let Some((key, value)) = split_once(line, b':') else {
        return Err(Malformed::new("no colon", line));
    };
    let size = || kilobytes(value).ok_or_else(|| Malformed::new("no size in kB", line));
    match key {
        b"KernelPageSize" => vma.kernel_page_size = size()?,
        b"Rss" => vma.rss = size()?,
        b"Anonymous" => vma.anonymous = size()?,
        b"Swap" => vma.swap = size()?,
        b"Locked" => vma.locked = size()?,
        b"ProtectionKey" => {
            vma.protection_key = number(value.trim_ascii()).ok_or_else(|| Malformed::new("no protection key", line))?;
        }
        b"VmFlags" => vma.flags = VmFlags::parse(value),
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &[u8] = b"\
5629923f5000-5629923f7000 r--p 00001000 fe:00 247030                     /usr/bin/a b
Size:                  8 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                   8 kB
Pss:                   8 kB
Anonymous:             4 kB
Swap:                  4 kB
SwapPss:               1 kB
Locked:                8 kB
THPeligible:           0
ProtectionKey:         3
VmFlags: rd mr mw me lo
7ffc0000-7ffd0000 rw-s 00000000 00:00 0
Size:                 64 kB
KernelPageSize:     2048 kB
Rss:                   0 kB
VmFlags: rd wr sh mr mw me ms ht
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
VmFlags: ex
";

    #[test]
    fn smaps_of_three() {
        let vmas = parse_smaps(SMAPS).unwrap();
        let [file, huge, vsyscall] = vmas.as_slice() else {
            panic!("{vmas:?}");
        };
        assert_eq!((file.start, file.end), (0x5629_923f_5000, 0x5629_923f_7000));
        assert_eq!(file.size(), 0x2000);
        assert!(file.perms.read && !file.perms.write && !file.perms.exec && !file.perms.shared);
        assert_eq!((file.offset, file.dev, file.inode), (0x1000, (0xfe, 0), 247_030));
        assert_eq!(file.name, b"/usr/bin/a b");
        assert_eq!((file.kernel_page_size, file.rss, file.anonymous), (4096, 8192, 4096));
        assert_eq!((file.swap, file.locked, file.protection_key), (4096, 8192, 3));
        assert!(file.flags.is_locked());
        assert!(huge.perms.shared && huge.name.is_empty() && huge.flags.is_hugetlb());
        assert_eq!((huge.kernel_page_size, huge.protection_key), (2 << 20, 0));
        assert!(vsyscall.perms.exec && !vsyscall.flags.has_unknown());
    }

    #[test]
    fn newlines_in_a_path_are_undone() {
        let vmas = parse_maps(b"1000-2000 rwxp 00000000 103:0a 12   /a\\012b  \n").unwrap();
        assert_eq!(vmas[0].name, b"/a\nb  ");
        assert_eq!(vmas[0].dev, (0x103, 0xa));
    }

    #[test]
    fn a_name_may_be_any_bytes() {
        let vmas = parse_maps(b"1000-2000 r--p 00000000 fe:00 12   /\xff\xfe\n").unwrap();
        assert_eq!(vmas[0].name, b"/\xff\xfe");
    }

    #[test]
    fn nothing_mapped() {
        assert_eq!(parse_smaps(b"").unwrap(), []);
        assert_eq!(parse_maps(b"").unwrap(), []);
    }

    #[test]
    fn damaged_lines_are_refused() {
        for line in [
            "2000-1000 r--p 00000000 00:00 0 ",
            "1000-2000 r--q 00000000 00:00 0 ",
            "1000-2000 r-- 00000000 00:00 0 ",
            "1000-2000 r--p 00000000 0000 0 ",
            "1000-2000 r--p 00000000 00:00",
            "10000000000000000-2 r--p 00000000 00:00 0 ",
            "Size: 4 kB",
        ] {
            assert!(parse_maps(line.as_bytes()).is_err(), "{line}");
            assert!(parse_smaps(line.as_bytes()).is_err(), "{line}");
        }
        for detail in ["Rss: 4", "Rss: 4 MB", "Rss: 18014398509481985 kB", "Rss", "ProtectionKey: -1"] {
            let text = format!("1000-2000 r--p 00000000 00:00 0 \n{detail}\n");
            assert!(parse_smaps(text.as_bytes()).is_err(), "{detail}");
        }
    }

    #[test]
    fn own_mappings() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let all = smaps(pid).unwrap();
        let code = u64::try_from(own_mappings as *const () as usize).unwrap();
        let mine = all.iter().find(|vma| (vma.start..vma.end).contains(&code)).unwrap();
        assert!(mine.perms.exec && mine.flags.is_executable() && mine.rss > 0);
        assert!(maps(pid).unwrap().iter().any(|vma| vma.start == mine.start && vma.name == mine.name));
    }
}
