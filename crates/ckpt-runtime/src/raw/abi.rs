//! The functions of `ckpt.h`, as C calls them. They are documented there.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};

use super::handler::{interrupt, prepared};
use super::hooks;
use super::spawn::{self, Outcome};
use super::state::{self, Refusal};
use super::syscall::Errno;
use crate::role::Action;
use ckpt_core::Class;

const SAVED: c_int = 0;
const RESTORED: c_int = 1;

thread_local! {
    /// The message of this thread's last failure.
    static ERROR: Cell<*const c_char> = const { Cell::new(c"".as_ptr()) };
}

#[unsafe(no_mangle)]
extern "C" fn ckpt_checkpoint() -> c_int {
    checkpoint(None)
}

/// # Safety
/// `path` is null or a C string.
#[unsafe(no_mangle)]
unsafe extern "C" fn ckpt_checkpoint_to(path: *const c_char) -> c_int {
    if path.is_null() {
        return fail(libc::EINVAL, c"ckpt_checkpoint_to needs a path".as_ptr());
    }
    // SAFETY: the caller passes a C string.
    checkpoint(Some(unsafe { CStr::from_ptr(path) }))
}

#[unsafe(no_mangle)]
extern "C" fn ckpt_error() -> *const c_char {
    ERROR.get()
}

#[unsafe(no_mangle)]
extern "C" fn ckpt_before(function: Option<hooks::Before>, argument: *mut c_void) -> c_int {
    registered(function.map(|function| hooks::add_before(function, argument)))
}

#[unsafe(no_mangle)]
extern "C" fn ckpt_after(function: Option<hooks::After>, argument: *mut c_void) -> c_int {
    registered(function.map(|function| hooks::add_after(function, argument)))
}

#[unsafe(no_mangle)]
extern "C" fn ckpt_hold() {
    state::hold();
}

#[unsafe(no_mangle)]
extern "C" fn ckpt_release() {
    if state::release_hold() {
        interrupt();
    }
}

fn registered(added: Option<bool>) -> c_int {
    match added {
        Some(true) => 0,
        Some(false) => fail(libc::ENOMEM, c"no more than 32 hooks of a kind".as_ptr()),
        None => fail(libc::EINVAL, c"the hook is a null pointer".as_ptr()),
    }
}

fn checkpoint(file: Option<&CStr>) -> c_int {
    let Some(prepared) = prepared() else {
        return fail(libc::EPERM, c"a program with more privileges than its user is not checkpointed".as_ptr());
    };
    match state::claim(true) {
        Ok(()) => {}
        Err(Refusal::Held) => return fail(libc::EBUSY, c"the program holds checkpoints off (ckpt_hold)".as_ptr()),
        Err(_) => return fail(libc::EBUSY, c"another checkpoint is under way".as_ptr()),
    }
    hooks::run_before();
    let outcome = spawn::run(prepared, Action::Call, file);
    if outcome == Outcome::Restored {
        state::renew_claim();
    }
    hooks::run_after(outcome == Outcome::Restored);
    state::release_claim();
    let result = returned(outcome);
    if state::take_pending() {
        // SAFETY: the address of this thread's errno, which the caller is about to read.
        let errno = unsafe { *libc::__errno_location() };
        interrupt();
        set_errno(errno);
    }
    result
}

fn returned(outcome: Outcome) -> c_int {
    match outcome {
        Outcome::Saved => SAVED,
        Outcome::Restored => RESTORED,
        Outcome::NotStarted(Errno(errno)) => fail(errno, c"the engine cannot be started from /proc/self/exe".as_ptr()),
        Outcome::EngineDied => fail(libc::EIO, c"the engine was ended before it was done".as_ptr()),
        Outcome::Failed(status) => fail(errno_of(status), spawn::message()),
    }
}

fn errno_of(status: i32) -> c_int {
    const NOT_POSSIBLE: i32 = Class::CannotCheckpoint as i32;
    const NOT_PERMITTED: i32 = Class::NotPermitted as i32;
    match status {
        NOT_POSSIBLE => libc::EOPNOTSUPP,
        NOT_PERMITTED => libc::EPERM,
        _ => libc::EIO,
    }
}

fn fail(errno: c_int, message: *const c_char) -> c_int {
    ERROR.set(message);
    set_errno(errno);
    -1
}

fn set_errno(errno: c_int) {
    // SAFETY: the address of this thread's errno.
    unsafe { *libc::__errno_location() = errno };
}
