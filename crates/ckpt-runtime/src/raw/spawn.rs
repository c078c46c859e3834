//! Starts the engine from a signal handler and waits for it, without the program noticing.
//!
//! Two processes are made. The **guard** shares the program's memory and has no exit signal, so that neither SIGCHLD
//! nor a `wait()` of the program ever tells of it. It starts the **engine** (`/proc/self/exe` again), waits for it and
//! leaves its status and message in the shared memory. The engine cannot be the program's own child: `execve` gives a
//! process SIGCHLD as its exit signal again (`de_thread` in the kernel's fs/exec.c).
//!
//! In a restored process there is no guard: the handler's wait fails with ECHILD, and this is how it knows.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use super::syscall::{self, Errno, address, call, int};
use crate::role::{Action, ENGINE};

/// What the constructor made ready for the handler, which cannot allocate. It lives as long as the process.
pub(super) struct Prepared {
    /// Where `/proc/self/exe` led at the start.
    pub(super) exe: std::ffi::CString,
    /// The environment at the start, ended by a null pointer. The program may have overwritten its own since.
    pub(super) env: Vec<*const c_char>,
    /// The program as it was started.
    pub(super) program: std::ffi::CString,
    /// Where to save, in order; at most [`FILES_MAX`].
    pub(super) files: Vec<std::ffi::CString>,
    /// What follows a save on Ctrl+C.
    pub(super) action: Action,
}

/// How many places to save at are passed to the engine.
pub(super) const FILES_MAX: usize = 3;

/// How a checkpoint of the own process went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Saved; this is the process that was saved.
    Saved,
    /// This is the restored process.
    Restored,
    /// The engine's exit status says why not.
    Failed(i32),
    /// The engine was ended before it was done, and has said nothing.
    EngineDied,
    /// The engine could not be started.
    NotStarted(Errno),
}

/// The engine's words, for the caller of `ckpt_checkpoint`; ended by a zero byte.
static MESSAGE: [AtomicU8; 1024] = [const { AtomicU8::new(0) }; 1024];

/// The engine's message of the last failure, or an empty text.
pub(super) fn message() -> *const c_char {
    MESSAGE.as_ptr().cast()
}

#[repr(align(16))]
struct Stack(UnsafeCell<[u8; 32 << 10]>);

// SAFETY: only the process that `run` makes uses a stack, and `run` is never entered twice at a time.
unsafe impl Sync for Stack {}

static GUARD_STACK: Stack = Stack(UnsafeCell::new([0; 32 << 10]));
static ENGINE_STACK: Stack = Stack(UnsafeCell::new([0; 32 << 10]));

impl Stack {
    /// Runs `function` with `job` in a new process on this stack; memory is shared, all else copied.
    fn start(
        &self,
        function: extern "C" fn(*mut c_void) -> c_int,
        exit_signal: c_int,
        job: &Job<'_>,
    ) -> Result<i32, Errno> {
        let top = self.0.get().cast::<u8>().wrapping_add(size_of::<Self>()).cast::<c_void>();
        let argument = ptr::from_ref(job).cast_mut().cast::<c_void>();
        // SAFETY: the stack is free (see above), and the job outlives the process: `run` waits for both.
        match unsafe { libc::clone(function, top, libc::CLONE_VM | exit_signal, argument) } {
            // SAFETY: the address of the calling thread's errno.
            -1 => Err(Errno(unsafe { *libc::__errno_location() })),
            pid => Ok(pid),
        }
    }
}

/// What the three processes share.
struct Job<'a> {
    prepared: &'a Prepared,
    /// Arguments of the engine; the guard adds its own number.
    argv: UnsafeCell<[*const c_char; 6 + FILES_MAX]>,
    guard: UnsafeCell<Number>,
    /// The pipe that brings the engine's message to the guard.
    pipe: UnsafeCell<[c_int; 2]>,
    /// The engine's pid, once known; -1 if it could not be made.
    engine: AtomicI32,
    /// Set when the engine is allowed to trace the program, and may start.
    go: AtomicI32,
    /// Why the engine could not be started.
    errno: AtomicI32,
    /// The engine's wait status.
    status: AtomicI32,
    /// Set by the guard as its last act: never in an image.
    done: AtomicI32,
}

/// Saves the calling process by an engine of its own. Safe in a signal handler; not to be entered twice at a time.
/// `file` takes the place of the files that were made ready.
pub(super) fn run(prepared: &Prepared, action: Action, file: Option<&CStr>) -> Outcome {
    MESSAGE[0].store(0, Ordering::SeqCst);
    let pid = Number::new(syscall::getpid());
    let mut argv = [ptr::null(); 6 + FILES_MAX];
    let files = prepared.files.iter().take(FILES_MAX).map(|file| file.as_ptr());
    let head = [ENGINE.as_ptr(), pid.as_ptr(), ptr::null(), action.word().as_ptr(), prepared.program.as_ptr()];
    let only = file.map(CStr::as_ptr);
    let words = head.into_iter().chain(only).chain(files.filter(|_| only.is_none()));
    for (slot, word) in argv.iter_mut().zip(words) {
        *slot = word;
    }
    let job = Job {
        prepared,
        argv: UnsafeCell::new(argv),
        guard: UnsafeCell::new(Number::new(0)),
        pipe: UnsafeCell::new([-1; 2]),
        engine: AtomicI32::new(0),
        go: AtomicI32::new(0),
        errno: AtomicI32::new(0),
        status: AtomicI32::new(0),
        done: AtomicI32::new(0),
    };
    // A handler of the program must not run in a process that shares its memory.
    let mask = syscall::set_mask(u64::MAX);
    let started = GUARD_STACK.start(guard, 0, &job);
    let gone = started.map(|guard| release(guard, &job));
    syscall::set_mask(mask);
    match (started, gone) {
        (Ok(_), Ok(true)) => Outcome::EngineDied,
        (Ok(guard), _) => await_guard(guard, &job),
        (Err(errno), _) => Outcome::NotStarted(errno),
    }
}

/// Lets the engine trace this process, then start. True if the guard is gone before that, killed by someone.
fn release(guard: i32, job: &Job<'_>) -> bool {
    loop {
        match job.engine.load(Ordering::SeqCst) {
            0 if syscall::wait(guard, libc::WNOHANG).is_ok_and(|status| status.is_some()) => return true,
            0 => syscall::futex_wait(&job.engine, 0, 50),
            -1 => return false,
            engine => {
                syscall::allow_tracer(engine);
                syscall::futex_store(&job.go, 1);
                return false;
            }
        }
    }
}

fn await_guard(guard: i32, job: &Job<'_>) -> Outcome {
    let waited = syscall::wait(guard, 0);
    syscall::allow_tracer(0);
    // A program that waits for any child with __WALL may have taken the guard's end away from us.
    let done = job.done.load(Ordering::SeqCst) == 1;
    if waited == Err(Errno(libc::ECHILD)) && !done {
        return Outcome::Restored;
    }
    let status = job.status.load(Ordering::SeqCst);
    match job.errno.load(Ordering::SeqCst) {
        0 if !done || !libc::WIFEXITED(status) => Outcome::EngineDied,
        0 if libc::WEXITSTATUS(status) == 0 => Outcome::Saved,
        0 => Outcome::Failed(libc::WEXITSTATUS(status)),
        errno => Outcome::NotStarted(Errno(errno)),
    }
}

/// The guard. All signals are blocked in it, and its descriptors are its own.
extern "C" fn guard(argument: *mut c_void) -> c_int {
    // SAFETY: `Stack::start` passes a job that outlives this process.
    let job = unsafe { &*argument.cast::<Job<'_>>() };
    if let Err(Errno(errno)) = keep_engine(job) {
        job.errno.store(errno, Ordering::SeqCst);
        job.engine.compare_exchange(0, -1, Ordering::SeqCst, Ordering::SeqCst).ok();
    }
    job.done.store(1, Ordering::SeqCst);
    syscall::exit_group(0)
}

fn keep_engine(job: &Job<'_>) -> Result<(), Errno> {
    // SAFETY: numbers only. The program's descriptors would keep its pipes open; locks are not lost, they belong to
    // the program's own table.
    let _ = unsafe { call(libc::SYS_close_range, [3, u32::MAX as usize, 0, 0, 0, 0]) };
    // The default again, in this process's own table: where the program ignores SIGCHLD, no status would come.
    let default = [0usize; 4];
    // SAFETY: an all-zero kernel_sigaction is valid, and means SIG_DFL.
    unsafe {
        call(libc::SYS_rt_sigaction, [libc::SIGCHLD as usize, address(default.as_ptr()), 0, size_of::<u64>(), 0, 0])
    }?;
    open_standard_descriptors()?;
    // SAFETY: nobody else looks at the pipe, the number or the arguments until the engine's process is made.
    unsafe {
        call(libc::SYS_pipe2, [job.pipe.get() as usize, 0, 0, 0, 0, 0])?;
        *job.guard.get() = Number::new(syscall::getpid());
        (*job.argv.get())[2] = (*job.guard.get()).as_ptr();
    }
    let pid = ENGINE_STACK.start(engine, libc::SIGCHLD, job)?;
    // SAFETY: the pipe was made above, and is only read from now on.
    let [read, write] = unsafe { *job.pipe.get() };
    // SAFETY: closes a descriptor of this process alone.
    let _ = unsafe { call(libc::SYS_close, [int(write), 0, 0, 0, 0, 0]) };
    syscall::futex_store(&job.engine, pid);
    keep_message(read);
    let status = syscall::wait(pid, 0)?.unwrap_or_default();
    job.status.store(status, Ordering::SeqCst);
    Ok(())
}

/// A program may run without stdin, stdout or stderr: then the engine's files must not take their numbers.
fn open_standard_descriptors() -> Result<(), Errno> {
    loop {
        let path = c"/dev/null".as_ptr();
        // SAFETY: the path is a valid string.
        let fd =
            unsafe { call(libc::SYS_openat, [int(libc::AT_FDCWD), address(path), libc::O_RDWR as usize, 0, 0, 0]) }?;
        if fd > 2 {
            // SAFETY: closes the descriptor just opened.
            let _ = unsafe { call(libc::SYS_close, [fd, 0, 0, 0, 0, 0]) };
            return Ok(());
        }
    }
}

/// Reads until the engine ends. What does not fit is read and dropped.
fn keep_message(fd: c_int) {
    let mut kept = 0;
    let mut buffer = [0u8; 256];
    loop {
        let args = [int(fd), buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0];
        // SAFETY: the buffer is valid for its length.
        let Ok(read @ 1..) = (unsafe { call(libc::SYS_read, args) }) else { break };
        for byte in buffer.iter().take(read) {
            if kept + 1 < MESSAGE.len() {
                MESSAGE[kept].store(*byte, Ordering::SeqCst);
                kept += 1;
            }
        }
    }
    MESSAGE[kept].store(0, Ordering::SeqCst);
}

/// The engine's process until it is the engine: it waits to be let go, and becomes another program.
extern "C" fn engine(argument: *mut c_void) -> c_int {
    // SAFETY: `Stack::start` passes a job that outlives this process's use of it.
    let job = unsafe { &*argument.cast::<Job<'_>>() };
    // A guard that is killed takes its engine along; from `prepare` on, by a signal that cleans up.
    // SAFETY: takes numbers only.
    let _ = unsafe { call(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0, 0, 0, 0]) };
    for _ in 0..100 {
        if job.go.load(Ordering::SeqCst) == 1 {
            break;
        }
        syscall::futex_wait(&job.go, 0, 100);
    }
    if job.go.load(Ordering::SeqCst) == 1 {
        let errno = become_engine(job);
        job.errno.store(errno.0, Ordering::SeqCst);
    }
    syscall::exit_group(127)
}

fn become_engine(job: &Job<'_>) -> Errno {
    // SAFETY: the descriptors are this process's own; path, arguments and environment are null-terminated and live on.
    unsafe {
        let [_, write] = *job.pipe.get();
        if write != super::engine::MESSAGE_FD {
            if let Err(errno) = call(libc::SYS_dup3, [int(write), int(super::engine::MESSAGE_FD), 0, 0, 0, 0]) {
                return errno;
            }
            let _ = call(libc::SYS_close, [int(write), 0, 0, 0, 0, 0]);
        }
        let env = job.prepared.env.as_ptr();
        let argv = job.argv.get().cast::<*const c_char>();
        let path = executable(job.prepared);
        call(libc::SYS_execve, [address(path), address(argv), address(env), 0, 0, 0]).err().unwrap_or(Errno(libc::EIO))
    }
}

/// `/proc/self/exe`, unless it leads elsewhere than at the start: a restore without a nest cannot set it.
fn executable(prepared: &Prepared) -> *const c_char {
    let link = c"/proc/self/exe";
    let mut target = [0u8; 4096];
    let args = [int(libc::AT_FDCWD), address(link.as_ptr()), target.as_mut_ptr() as usize, target.len(), 0, 0];
    // SAFETY: the link's name and the buffer are valid.
    let length = unsafe { call(libc::SYS_readlinkat, args) }.unwrap_or(0);
    let start = prepared.exe.to_bytes();
    let same =
        target.get(..length).is_some_and(|found| found == start || found.strip_prefix(start) == Some(b" (deleted)"));
    if same || start.is_empty() { link.as_ptr() } else { prepared.exe.as_ptr() }
}

/// A decimal number as a C string, made without allocating.
struct Number([u8; 12]);

impl Number {
    fn new(value: i32) -> Self {
        let mut digits = [0u8; 12];
        let mut count = 0;
        let mut rest = value.unsigned_abs();
        loop {
            digits[count] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            count += 1;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        digits[..count].reverse();
        Self(digits)
    }

    fn as_ptr(&self) -> *const c_char {
        self.0.as_ptr().cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_decimal() {
        for (value, text) in [(0, c"0"), (7, c"7"), (4_194_304, c"4194304"), (i32::MAX, c"2147483647")] {
            let number = Number::new(value);
            assert_eq!(CStr::from_bytes_until_nul(&number.0), Ok(text));
        }
    }
}
