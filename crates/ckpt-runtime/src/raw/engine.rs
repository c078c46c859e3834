//! What the engine's own process needs beside ordinary Rust: signals that cancel, limits, and a word to its parent.

use std::ffi::c_int;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::FromRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::role::Action;

/// The descriptor that the guard reads the engine's message from.
pub(super) const MESSAGE_FD: c_int = 3;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes the process that the handler left behind an ordinary one. It has all signals blocked, and the program's
/// limits.
pub(crate) fn prepare(action: Action) {
    // Ctrl+C during `ckpt_checkpoint` is the program's to see, when the call is over.
    let interrupt = if action == Action::Call { libc::SIG_IGN } else { cancel_handler() };
    // SAFETY: dispositions of this process alone; the handler stores to two atomics. Numbers that are no signals fail.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        // A stop by Ctrl+Z would leave a frozen program that no shell knows to be stopped; the terminal's hangup and
        // a full disk must not cost the image.
        for signal in [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU, libc::SIGHUP, libc::SIGPIPE, libc::SIGXFSZ] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::signal(libc::SIGINT, interrupt);
        libc::signal(libc::SIGTERM, cancel_handler());
        libc::signal(libc::SIGQUIT, cancel_handler());
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
        libc::fcntl(MESSAGE_FD, libc::F_SETFD, libc::FD_CLOEXEC);
    }
    for limit in [libc::RLIMIT_FSIZE, libc::RLIMIT_NOFILE, libc::RLIMIT_AS, libc::RLIMIT_DATA, libc::RLIMIT_CPU] {
        raise_limit(limit);
    }
    // Only now: a Ctrl+C that came before is pending, and counts.
    super::syscall::set_mask(0);
}

/// Whether Ctrl+C came during the checkpoint.
pub(crate) fn was_interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Passes a message on to the program that called `ckpt_checkpoint`.
pub(crate) fn tell_caller(message: &str) {
    // SAFETY: the guard gave this process the descriptor for this one purpose, and nothing else uses it.
    let mut pipe = unsafe { File::from_raw_fd(MESSAGE_FD) };
    // A guard that is gone cannot be told; the exit status still says what kind of error it was.
    let _ = pipe.write_all(message.as_bytes());
}

extern "C" fn cancel(signal: c_int) {
    if signal == libc::SIGINT {
        INTERRUPTED.store(true, Ordering::SeqCst);
    }
    ckpt_core::cancel_flag().store(true, Ordering::SeqCst);
}

fn cancel_handler() -> libc::sighandler_t {
    cancel as extern "C" fn(c_int) as libc::sighandler_t
}

/// The program's own soft limits are no measure for the engine.
fn raise_limit(resource: libc::__rlimit_resource_t) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is valid to be written and read.
    unsafe {
        if libc::getrlimit(resource, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(resource, &raw const limit);
        }
    }
}
