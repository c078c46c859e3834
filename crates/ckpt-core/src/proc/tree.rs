//! The directories and links of `/proc/PID`, and its files of one number.

use std::path::{Path, PathBuf};

use super::text::{number, single, single_hex, unsigned, words};
use super::{Malformed, ProcError, read_as};

/// The threads of a process, in the order of their ids.
///
/// # Errors
/// When the process is gone or not readable.
pub fn threads(pid: i32) -> Result<Vec<i32>, ProcError> {
    numbered(&PathBuf::from(format!("/proc/{pid}/task")))
}

/// The children of a process, whichever of its threads bore them, in the order
/// of their ids. Zombies that are not yet waited for are among them.
///
/// proc(5): the list is only sure when the process and its children are frozen.
///
/// # Errors
/// When the process is gone, or the kernel has no `CONFIG_PROC_CHILDREN`.
pub fn children(pid: i32) -> Result<Vec<i32>, ProcError> {
    let mut children = Vec::new();
    for tid in threads(pid)? {
        let thread = format!("/proc/{pid}/task/{tid}");
        match read_as(format!("{thread}/children"), parse_children) {
            Ok(some) => children.extend(some),
            // A thread that has ended in between left its children to another.
            Err(error) if error.is_gone() && !Path::new(&thread).exists() => {}
            Err(error) => return Err(error),
        }
    }
    children.sort_unstable();
    children.dedup();
    Ok(children)
}

/// The open descriptors of a process, in their order.
///
/// # Errors
/// When the process is gone, or EACCES without the right to trace it.
pub fn fds(pid: i32) -> Result<Vec<i32>, ProcError> {
    numbered(&PathBuf::from(format!("/proc/{pid}/fd")))
}

/// What descriptor `fd` of a process is open on: a path, with ` (deleted)` behind
/// it when that names it no more, or a name such as `pipe:[123]`.
///
/// # Errors
/// When the descriptor is gone or not readable.
pub fn fd_target(pid: i32, fd: i32) -> Result<PathBuf, ProcError> {
    read_link(format!("/proc/{pid}/fd/{fd}"))
}

/// The target of the link `exe`, `cwd` or `root` of a process, with ` (deleted)`
/// behind it when the path names it no more.
///
/// # Errors
/// When it is not readable, or there is none (ENOENT for `exe` of a kernel thread).
pub fn link(pid: i32, name: &str) -> Result<PathBuf, ProcError> {
    read_link(format!("/proc/{pid}/{name}"))
}

/// The identity of a namespace of a process: its inode, as namespaces(7) has it.
/// `kind` is a name in `/proc/PID/ns`: `mnt`, `pid`, `time_for_children`.
///
/// # Errors
/// When it is not readable, or the kernel has no such namespaces (ENOENT).
pub fn namespace(pid: i32, kind: &str) -> Result<u64, ProcError> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/{kind}"));
    let target = read_link(&path)?;
    parse_namespace(target.as_os_str().as_encoded_bytes()).map_err(|what| ProcError::Parse { path, what })
}

/// The flags of personality(2).
///
/// # Errors
/// When the file cannot be read (EPERM without the right to trace it) or understood.
pub fn personality(pid: i32) -> Result<u32, ProcError> {
    read_as(format!("/proc/{pid}/personality"), single_hex)
}

/// How the out-of-memory killer is to see the process, -1000 to 1000.
///
/// # Errors
/// When the file cannot be read or understood.
pub fn oom_score_adj(pid: i32) -> Result<i32, ProcError> {
    read_as(format!("/proc/{pid}/oom_score_adj"), single)
}

/// Which mappings a core dump holds, core(5). `None` for what has no memory.
///
/// # Errors
/// When the file cannot be read or understood.
pub fn coredump_filter(pid: i32) -> Result<Option<u32>, ProcError> {
    read_as(format!("/proc/{pid}/coredump_filter"), |text| match text {
        b"" => Ok(None),
        text => single_hex(text).map(Some),
    })
}

/// The timer slack of the thread `tid` in nanoseconds, `PR_SET_TIMERSLACK`.
///
/// # Errors
/// When the file cannot be read or understood. For another's thread the kernel
/// wants `CAP_SYS_NICE` (EPERM); the thread itself may ask prctl.
pub fn timerslack(tid: i32) -> Result<u64, ProcError> {
    read_as(format!("/proc/{tid}/timerslack_ns"), single)
}

/// The text of `task/TID/children`: ids with a space behind each.
fn parse_children(text: &[u8]) -> Result<Vec<i32>, Malformed> {
    words(text.trim_ascii_end()).map(|word| number(word).ok_or_else(|| Malformed::new("no process id", text))).collect()
}

/// The inode in `mnt:[4026531841]`.
fn parse_namespace(target: &[u8]) -> Result<u64, Malformed> {
    let bracket = target.iter().position(|&byte| byte == b'[');
    bracket
        .and_then(|at| target.get(at + 1..)?.strip_suffix(b"]"))
        .and_then(|inode| unsigned(inode, 10))
        .ok_or_else(|| Malformed::new("no inode", target))
}

/// The entries of a directory that are numbers, sorted.
fn numbered(directory: &Path) -> Result<Vec<i32>, ProcError> {
    let failed = |source| ProcError::io(directory, source);
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        numbers.extend(number::<i32>(name.as_encoded_bytes()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn read_link(path: impl AsRef<Path>) -> Result<PathBuf, ProcError> {
    let path = path.as_ref();
    std::fs::read_link(path).map_err(|source| ProcError::io(path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    #[test]
    fn texts_of_the_kernel() {
        assert_eq!(parse_children(b"12 13 4000 ").unwrap(), [12, 13, 4000]);
        assert_eq!(parse_children(b"").unwrap(), Vec::<i32>::new());
        assert!(parse_children(b"12 x").is_err());
        assert_eq!(parse_namespace(b"mnt:[4026531841]").unwrap(), 4_026_531_841);
        for wrong in ["", "mnt", "mnt:[]", "mnt:[1", "mnt:[1]x"] {
            assert!(parse_namespace(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert_eq!(single_hex(b"00000033\n").unwrap(), 0x33);
        assert!(single_hex(b"100000000\n").is_err());
        assert_eq!(single::<i32>(b"-1000\n").unwrap(), -1000);
    }

    #[test]
    fn own_threads_files_and_links() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        assert!(threads(me()).unwrap().contains(&me()));
        assert!(fds(me()).unwrap().contains(&fd));
        assert_eq!(fd_target(me(), fd).unwrap(), Path::new("/dev/null"));
        assert_eq!(link(me(), "exe").unwrap(), std::env::current_exe().unwrap());
        assert!(namespace(me(), "pid").unwrap() > 0);
        personality(me()).unwrap();
        assert!(coredump_filter(me()).unwrap().is_some());
        assert!((-1000..=1000).contains(&oom_score_adj(me()).unwrap()));
        // Its own is all that a thread without privileges may read.
        let this_thread = std::fs::read_link("/proc/thread-self").unwrap();
        let tid = this_thread.file_name().unwrap().as_encoded_bytes();
        assert!(timerslack(number(tid).unwrap()).is_ok_and(|nanos| nanos > 0));
    }

    #[test]
    fn what_does_not_exist_is_gone() {
        // No process has the id 0, and no descriptor is this high.
        assert!(threads(0).unwrap_err().is_gone());
        assert!(fd_target(me(), i32::MAX).unwrap_err().is_gone());
        assert!(namespace(me(), "nonsense").unwrap_err().is_gone());
    }
}
