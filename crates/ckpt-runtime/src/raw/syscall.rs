//! System calls that touch nothing but registers. libc's wrappers store into `errno`, and the processes that the
//! handler makes share the interrupted thread's memory: `errno` would be written by three of them at once.

use std::ffi::{c_int, c_long};
use std::sync::atomic::{AtomicI32, Ordering};

/// An error number, positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Errno(pub(super) i32);

/// Makes system call `number`.
///
/// # Safety
/// The arguments must be what the system call expects; pointers must be valid for what it does with them.
pub(super) unsafe fn call(number: c_long, args: [usize; 6]) -> Result<usize, Errno> {
    let returned: c_long;
    // SAFETY: the kernel's calling convention for x86-64; the caller vouches for the arguments.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") number => returned,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2], in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    // SAFETY: the kernel's calling convention for arm64; the caller vouches for the arguments.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("svc 0", in("x8") number, inlateout("x0") args[0] => returned,
            in("x1") args[1], in("x2") args[2], in("x3") args[3], in("x4") args[4], in("x5") args[5], options(nostack));
    }
    match returned {
        -4095..=-1 => Err(Errno(i32::try_from(-returned).unwrap_or(libc::EIO))),
        // Both targets have 64-bit words.
        _ => Ok(usize::try_from(returned.cast_unsigned()).unwrap_or(usize::MAX)),
    }
}

/// Waits until `word` is no longer `value`, for at most `milliseconds`; also returns without a reason.
pub(super) fn futex_wait(word: &AtomicI32, value: i32, milliseconds: i64) {
    let timeout = libc::timespec { tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000 };
    let args = [word.as_ptr() as usize, libc::FUTEX_WAIT as usize, int(value), (&raw const timeout) as usize, 0, 0];
    // SAFETY: the word and the timeout outlive the call.
    let _ = unsafe { call(libc::SYS_futex, args) };
}

/// Stores `value` and wakes all that wait for `word`, in other processes that share this memory too.
pub(super) fn futex_store(word: &AtomicI32, value: i32) {
    word.store(value, Ordering::SeqCst);
    // SAFETY: the word is valid, and waking has no other effect.
    let _ = unsafe {
        call(libc::SYS_futex, [word.as_ptr() as usize, libc::FUTEX_WAKE as usize, i32::MAX as usize, 0, 0, 0])
    };
}

/// Waits for a child however it was made. The status, or nothing where `flags` say not to wait and it still runs.
pub(super) fn wait(pid: i32, flags: c_int) -> Result<Option<c_int>, Errno> {
    let mut status: c_int = 0;
    loop {
        let args = [int(pid), (&raw mut status) as usize, int(flags | libc::__WALL), 0, 0, 0];
        // SAFETY: the status is valid for the call to write.
        match unsafe { call(libc::SYS_wait4, args) } {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(status)),
            Err(Errno(libc::EINTR)) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Replaces the calling thread's signal mask, and returns the old one. Bit `n - 1` is signal `n`.
pub(super) fn set_mask(mask: u64) -> u64 {
    let mut old = 0u64;
    let args =
        [libc::SIG_SETMASK as usize, (&raw const mask) as usize, (&raw mut old) as usize, size_of::<u64>(), 0, 0];
    // SAFETY: both masks are valid, of the kernel's size.
    let _ = unsafe { call(libc::SYS_rt_sigprocmask, args) };
    old
}

/// Takes every pending `signal` away that the calling thread blocks.
pub(super) fn drop_pending(signal: c_int) {
    let mask = 1u64 << (signal - 1);
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let args = [(&raw const mask) as usize, 0, (&raw const now) as usize, size_of::<u64>(), 0, 0];
    // SAFETY: mask and time are valid; no siginfo is asked for.
    while unsafe { call(libc::SYS_rt_sigtimedwait, args) }.is_ok() {}
}

/// The calling thread's id.
pub(super) fn gettid() -> i32 {
    // SAFETY: takes no argument.
    unsafe { call(libc::SYS_gettid, [0; 6]) }.map_or(0, |tid| i32::try_from(tid).unwrap_or(0))
}

/// The calling process's id, never a cached one.
pub(super) fn getpid() -> i32 {
    // SAFETY: takes no argument.
    unsafe { call(libc::SYS_getpid, [0; 6]) }.map_or(0, |pid| i32::try_from(pid).unwrap_or(0))
}

/// Who may trace this process where Yama's `ptrace_scope` is 1 (`PR_SET_PTRACER`); 0 takes it back.
pub(super) fn allow_tracer(pid: i32) {
    // SAFETY: takes numbers only; without Yama it fails with EINVAL and nothing is needed.
    let _ = unsafe { call(libc::SYS_prctl, [libc::PR_SET_PTRACER as usize, int(pid), 0, 0, 0, 0]) };
}

/// Writes to stderr what a signal handler can say: a constant.
pub(super) fn complain(text: &str) {
    // SAFETY: the text is valid for its length.
    let _ = unsafe { call(libc::SYS_write, [2, text.as_ptr() as usize, text.len(), 0, 0, 0]) };
}

/// Milliseconds of the monotonic clock.
pub(super) fn now() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is valid for the call to write.
    let _ = unsafe {
        call(libc::SYS_clock_gettime, [libc::CLOCK_MONOTONIC as usize, (&raw mut time) as usize, 0, 0, 0, 0])
    };
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

/// Ends the calling process or, in a child that shares memory, that child alone.
pub(super) fn exit_group(status: c_int) -> ! {
    loop {
        // SAFETY: does not return.
        let _ = unsafe { call(libc::SYS_exit_group, [int(status), 0, 0, 0, 0, 0]) };
    }
}

/// A C `int` as an argument: sign-extended, as the kernel reads it.
pub(super) fn int(value: c_int) -> usize {
    (value as isize).cast_unsigned()
}

/// A pointer as an argument.
pub(super) fn address<T>(pointer: *const T) -> usize {
    pointer as usize
}
