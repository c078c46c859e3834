//! New processes, with chosen ids and in new namespaces.

use std::io;

use super::checked;
use crate::Tid;

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// `CLONE_NEWUSER`.
    User,
    /// `CLONE_NEWPID`: for the children to come.
    Pid,
    /// `CLONE_NEWTIME`: for the children to come.
    Time,
    /// `CLONE_NEWNS`.
    Mount,
    /// `CLONE_NEWUTS`: the host name.
    Uts,
}

/// Makes namespaces for the calling, single-threaded process.
///
/// # Errors
/// EPERM or ENOSPC where the machine forbids them.
pub fn unshare(namespaces: &[Namespace]) -> io::Result<()> {
    const CLONE_NEWTIME: i32 = 0x80;
    let flags = namespaces.iter().fold(0, |flags, namespace| {
        flags
            | match namespace {
                Namespace::User => libc::CLONE_NEWUSER,
                Namespace::Pid => libc::CLONE_NEWPID,
                Namespace::Time => CLONE_NEWTIME,
                Namespace::Mount => libc::CLONE_NEWNS,
                Namespace::Uts => libc::CLONE_NEWUTS,
            }
    });
    // SAFETY: takes only flags; namespaces do not affect memory.
    checked(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// Forks. `None` in the child, which is single-threaded.
///
/// # Errors
/// EAGAIN, ENOMEM.
pub fn fork() -> io::Result<Option<Tid>> {
    // SAFETY: glibc's fork takes the allocator's locks first, so the child of a threaded parent can allocate; the
    // child uses no lock that another thread of the parent may have held.
    let pid = unsafe { libc::fork() };
    checked(pid.into())?;
    Ok((pid != 0).then_some(pid))
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Whose child a new process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildOf {
    /// The caller's.
    Caller,
    /// The caller's parent's (`CLONE_PARENT`).
    Parent,
}

/// Forks with a chosen process id (`clone3(2)`, `set_tid`), or one that the kernel chooses. `None` in the child.
///
/// # Errors
/// EEXIST when the id is taken, EPERM without the capability.
pub fn clone_process(id: Option<Tid>, child_of: ChildOf) -> io::Result<Option<Tid>> {
    let ids: Vec<Tid> = id.into_iter().collect();
    let args = CloneArgs {
        flags: if child_of == ChildOf::Parent { libc::CLONE_PARENT as u64 } else { 0 },
        exit_signal: if child_of == ChildOf::Parent { 0 } else { libc::SIGCHLD as u64 },
        set_tid: if ids.is_empty() { 0 } else { ids.as_ptr() as u64 },
        set_tid_size: ids.len() as u64,
        ..CloneArgs::default()
    };
    // SAFETY: a fork without CLONE_VM; `args` and the ids are live. The caller is single-threaded.
    let pid = checked(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    Ok(Tid::try_from(pid).ok().filter(|pid| *pid != 0))
}

/// Sleeps until killed, without touching anything: what an empty process does until its tracer fills it.
pub fn pause_for_ever() -> ! {
    loop {
        // SAFETY: takes nothing.
        unsafe { libc::pause() };
    }
}

/// Ends a forked child at once, without running exit handlers.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: takes only the status.
    unsafe { libc::_exit(status) }
}

/// Closes all descriptors from `first` to `last` (`close_range(2)`, Linux 5.9): for a forked child that owns them all.
pub fn close_range(first: u32, last: u32) {
    if first <= last {
        // SAFETY: the caller is a child of ours that uses none of them any more.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}
