//! What can be asked and set about another process without stopping it.

use std::cmp::Ordering;
use std::io;

use super::checked;
use crate::Tid;

/// What `kcmp(2)` compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// Two descriptors: the same open file description?
    File(i32, i32),
    /// The descriptor tables of two tasks.
    Files,
    /// Their file system information: cwd, root, umask.
    Fs,
}

/// Compares a kernel resource of two tasks. The order is arbitrary but stable (`kernel/kcmp.c`).
///
/// # Errors
/// ENOSYS on a kernel without kcmp, EPERM, ESRCH, EBADF.
pub fn kcmp(one: Tid, other: Tid, what: Shared) -> io::Result<Ordering> {
    let (kind, a, b) = match what {
        Shared::File(a, b) => (0, i64::from(a), i64::from(b)),
        Shared::Files => (2, 0, 0),
        Shared::Fs => (3, 0, 0),
    };
    // SAFETY: takes only integers.
    match checked(unsafe { libc::syscall(libc::SYS_kcmp, one, other, kind, a, b) })? {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 => Ok(Ordering::Greater),
        _ => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
    }
}

/// The head of a thread's robust futex list and its length.
///
/// # Errors
/// EPERM, ESRCH.
pub fn robust_list(tid: Tid) -> io::Result<(u64, u64)> {
    let (mut head, mut len) = (0_u64, 0_u64);
    // SAFETY: both point to live words.
    checked(unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len) })?;
    Ok((head, len))
}

/// The I/O priority of a thread (`ioprio_get(2)`, class in the bits from 13).
///
/// # Errors
/// ESRCH.
pub fn io_priority(tid: Tid) -> io::Result<u64> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: takes only integers.
    checked(unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid) })
}

/// Sets the I/O priority of a thread.
///
/// # Errors
/// EPERM for the real-time class without privilege.
pub fn set_io_priority(tid: Tid, priority: u64) -> io::Result<()> {
    // SAFETY: takes only integers.
    checked(unsafe { libc::syscall(libc::SYS_ioprio_set, 1, tid, priority) }).map(drop)
}

/// `struct sched_attr`, as words are laid out in version 1 (`include/uapi/linux/sched/types.h`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedAttr {
    /// Its size in bytes: 56.
    pub size: u32,
    /// `SCHED_OTHER` 0, `FIFO` 1, `RR` 2, `BATCH` 3, `IDLE` 5, `DEADLINE` 6.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice, for the ordinary policies.
    pub nice: i32,
    /// Priority, for FIFO and RR.
    pub priority: u32,
    /// Deadline parameters in nanoseconds; for ordinary policies since 6.12 the slice.
    pub runtime: u64,
    /// See `runtime`.
    pub deadline: u64,
    /// See `runtime`.
    pub period: u64,
    /// Utilization clamps.
    pub util_min: u32,
    /// See `util_min`.
    pub util_max: u32,
}

/// The scheduling attributes of a thread.
///
/// # Errors
/// ESRCH.
pub fn sched_attr(tid: Tid) -> io::Result<SchedAttr> {
    let mut attr = SchedAttr::default();
    let size = size_of::<SchedAttr>();
    // SAFETY: `attr` is live and `size` long.
    checked(unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &raw mut attr, size, 0) })?;
    Ok(attr)
}

/// Sets the scheduling attributes of a thread.
///
/// # Errors
/// EPERM for more than the limits allow.
pub fn set_sched_attr(tid: Tid, attr: &SchedAttr) -> io::Result<()> {
    // SAFETY: `attr` is live and says its own size.
    checked(unsafe { libc::syscall(libc::SYS_sched_setattr, tid, std::ptr::from_ref(attr), 0) }).map(drop)
}

/// The processors that a thread may run on, as a bit mask of bytes.
///
/// # Errors
/// ESRCH.
pub fn affinity(tid: Tid) -> io::Result<Vec<u8>> {
    let mut mask = vec![0_u64; 128];
    // SAFETY: the mask is live and its length is given in bytes.
    let got = checked(unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid, mask.len() * 8, mask.as_mut_ptr()) })?;
    let bytes = mask.iter().flat_map(|word| word.to_le_bytes()).take(usize::try_from(got).unwrap_or_default());
    Ok(bytes.collect())
}

/// Sets the processors that a thread may run on.
///
/// # Errors
/// EINVAL when none of them exists here.
pub fn set_affinity(tid: Tid, mask: &[u8]) -> io::Result<()> {
    // SAFETY: the mask is live and its length is given.
    checked(unsafe { libc::syscall(libc::SYS_sched_setaffinity, tid, mask.len(), mask.as_ptr()) }).map(drop)
}

/// A resource limit of a process: soft and hard.
///
/// # Errors
/// EPERM, ESRCH.
pub fn rlimit(pid: Tid, resource: u32) -> io::Result<(u64, u64)> {
    let mut limits = [0_u64; 2];
    let none = std::ptr::null::<u64>();
    // SAFETY: `limits` has the layout of rlimit64 and is live.
    checked(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, none, limits.as_mut_ptr()) })?;
    Ok((limits[0], limits[1]))
}

/// Sets a resource limit of a process.
///
/// # Errors
/// EPERM for a higher hard limit without privilege.
pub fn set_rlimit(pid: Tid, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limits = [soft, hard];
    let none = std::ptr::null_mut::<u64>();
    // SAFETY: `limits` has the layout of rlimit64 and is live.
    checked(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, limits.as_ptr(), none) }).map(drop)
}

/// Whether `userfaultfd(2)` can be had for faults of user mode.
#[must_use]
pub fn has_userfaultfd() -> bool {
    const UFFD_USER_MODE_ONLY: i32 = 1;
    // SAFETY: takes only flags.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, UFFD_USER_MODE_ONLY | libc::O_CLOEXEC) };
    if let Ok(fd) = i32::try_from(fd)
        && fd >= 0
    {
        // SAFETY: the descriptor was just made and nothing else knows it.
        unsafe { libc::close(fd) };
        return true;
    }
    false
}

/// Whether POSIX timers can be made with chosen ids (`PR_TIMER_CREATE_RESTORE_IDS`, Linux 6.15).
#[must_use]
pub fn has_timer_ids() -> bool {
    const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;
    const GET: libc::c_ulong = 2;
    // SAFETY: asks, and takes only integers.
    unsafe { libc::prctl(PR_TIMER_CREATE_RESTORE_IDS, GET, 0, 0, 0) >= 0 }
}
