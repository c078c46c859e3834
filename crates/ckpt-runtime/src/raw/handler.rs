//! Ctrl+C. Everything here runs in a signal handler: no allocation, no lock, no errno, no panic.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::spawn::{self, Outcome, Prepared};
use super::state::{self, Refusal, Repeated};
use super::{die_by, hooks, syscall};
use crate::engine::CANCELLED;

static PREPARED: AtomicPtr<Prepared> = AtomicPtr::new(null_mut());

/// Hands over what the handler needs. It is never freed.
pub(super) fn set_prepared(prepared: Prepared) {
    PREPARED.store(Box::into_raw(Box::new(prepared)), Ordering::SeqCst);
}

/// What the constructor made ready; nothing in a process with more privileges than its user.
pub(super) fn prepared() -> Option<&'static Prepared> {
    // SAFETY: null, or from `set_prepared` and never freed or changed.
    unsafe { PREPARED.load(Ordering::SeqCst).as_ref() }
}

/// Installs the handler, unless SIGINT is ignored (a background job) or someone else's already.
pub(super) fn install() {
    // SAFETY: the structures are valid; the handler is of the type that SA_SIGINFO says.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGINT, null_mut(), &raw mut old) != 0 || old.sa_sigaction != libc::SIG_DFL {
            return;
        }
        let mut new: libc::sigaction = std::mem::zeroed();
        new.sa_sigaction = on_signal as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as libc::sighandler_t;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGINT, &raw const new, null_mut());
        libc::pthread_atfork(None, None, Some(child_of_fork));
    }
}

unsafe extern "C" fn child_of_fork() {
    state::forked();
}

extern "C" fn on_signal(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the address of this thread's errno, which the interrupted code may be about to read.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO.
    let from_terminal = unsafe { (*info).si_code } > 0;
    if state::is_forked() {
        in_child(from_terminal);
    } else {
        interrupt();
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// A child of `fork` leaves Ctrl+C to the process that it came from, which the terminal signals too; one that is meant
/// for it alone ends it, as it would without this library.
fn in_child(from_terminal: bool) {
    match state::repeated() {
        Repeated::No if from_terminal => state::note_failure(),
        Repeated::Echo if from_terminal => {}
        _ => die_by(libc::SIGINT),
    }
}

/// Acts upon Ctrl+C: in the handler, or where the program allows it again.
pub(super) fn interrupt() {
    match state::repeated() {
        Repeated::Echo => return,
        Repeated::Insists => die_by(libc::SIGINT),
        Repeated::No => {}
    }
    match state::claim(false) {
        Ok(()) => {}
        Err(Refusal::Interrupted) => return,
        Err(Refusal::Called | Refusal::Held) => {
            state::remember();
            // What held it off may have ended just before it was remembered.
            if state::is_idle() && state::take_pending() {
                interrupt();
            }
            return;
        }
    }
    if let Some(prepared) = prepared() {
        save(prepared);
    }
    state::release_claim();
}

fn save(prepared: &Prepared) {
    hooks::run_before();
    let outcome = spawn::run(prepared, prepared.action, None);
    match outcome {
        // The user pressed Ctrl+C again: the engine has removed what it wrote.
        Outcome::Failed(CANCELLED) => die_by(libc::SIGINT),
        Outcome::Restored => {
            state::renew_claim();
            // One that was still pending in the image belongs to the past.
            syscall::drop_pending(libc::SIGINT);
        }
        Outcome::Failed(_) => state::note_failure(),
        Outcome::EngineDied => {
            syscall::complain(
                "ckpt: not saved: the engine was ended before it was done. The program goes on; Ctrl+C again within 2 seconds ends it\n",
            );
            state::note_failure();
        }
        Outcome::NotStarted(_) => {
            syscall::complain(
                "ckpt: not saved: the engine cannot be started. The program goes on; Ctrl+C again within 2 seconds ends it\n",
            );
            state::note_failure();
        }
        Outcome::Saved => {}
    }
    hooks::run_after(outcome == Outcome::Restored);
}
