//! The constructor, the signal handler and what C calls: all of this library that is not safe Rust.

mod abi;
pub(crate) mod engine;
mod handler;
mod hooks;
mod spawn;
mod start;
mod state;
mod syscall;

use std::ffi::c_int;

/// Ends the process without what `main` may have left to do: it never ran.
pub(crate) fn exit(status: c_int) -> ! {
    syscall::exit_group(status)
}

/// Ends the process by a signal, so that its parent sees what it would have seen: 128 + N in a shell. Safe in a
/// signal handler.
pub(crate) fn die_by(signal: c_int) -> ! {
    // SAFETY: limits and dispositions of this process; sigaction and setrlimit are safe in a handler.
    unsafe {
        if signal != libc::SIGINT {
            // The program that ended this way has left a core file where one is wanted.
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        }
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signal, &raw const default, std::ptr::null_mut());
        syscall::set_mask(0);
        libc::kill(syscall::getpid(), signal);
    }
    // The first process of a PID namespace does not die of its own signals.
    exit(128 + signal)
}
