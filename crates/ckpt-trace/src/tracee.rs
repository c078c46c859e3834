//! Tracees for tests: a forked closure, and what it shares with its test.

#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::{Event, Memory, Running, SeizeOptions, Stop, Stopped, Tid, sys};

/// How long anything may take that a test waits for.
const DEADLINE: Duration = Duration::from_secs(20);
/// A signal that every tracee here ignores by default.
pub const TRAP: i32 = libc::SIGURG;

/// A forked closure. It is killed and collected at the end of the test.
pub struct Tracee {
    pub pid: Tid,
}

impl Tracee {
    /// Forks. The closure must not allocate or panic: the parent has other threads. Its result is the exit status.
    pub fn fork(body: impl FnOnce() -> i32) -> Self {
        if let Some(pid) = sys::fork().unwrap() {
            return Self { pid };
        }
        // Without a terminal's session the test's own group may be an orphaned one, in which SIGTSTP stops nobody.
        // SAFETY: takes only integers.
        unsafe { libc::setpgid(0, 0) };
        sys::exit_now(body())
    }

    /// One that waits for signals until it is killed.
    pub fn waiting() -> Self {
        let tracee = Self::fork(|| sys::pause_for_ever());
        tracee.until_in_call(libc::SYS_pause);
        tracee
    }

    /// One that counts in memory that the test sees.
    pub fn counting(counter: &Shared) -> Self {
        let counter = counter.word(0);
        Self::fork(|| {
            loop {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    pub fn seize(&self) -> Running {
        Running::seize(self.pid, SeizeOptions::default()).unwrap()
    }

    /// Seizes and interrupts.
    pub fn stop(&self) -> Stopped {
        let running = self.seize();
        running.interrupt().unwrap();
        let (thread, stop) = wait(running);
        assert_eq!(stop, Stop::Interrupt);
        thread
    }

    pub fn memory(&self) -> Memory {
        Memory::open(self.pid).unwrap()
    }

    /// What `/proc` says of it.
    pub fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.pid)).unwrap()
    }

    /// The letter of its state.
    pub fn state(&self) -> char {
        let stat = self.proc("stat");
        stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap()
    }

    /// Waits until it sleeps in this system call.
    pub fn until_in_call(&self, number: i64) {
        let number = format!("{number} ");
        until("the system call", || self.proc("syscall").starts_with(&number));
    }

    pub fn kill(&self, signal: i32) {
        // SAFETY: takes only integers.
        assert_eq!(unsafe { libc::kill(self.pid, signal) }, 0);
    }

    /// Waits for its end, as a parent: the raw status.
    pub fn end(&self) -> i32 {
        let mut status = 0;
        // SAFETY: `status` is a live int.
        assert_eq!(unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL) }, self.pid);
        status
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        let mut status = 0;
        // SAFETY: `status` is a live int; while the child has not been collected its id is no one else's.
        unsafe {
            if libc::waitpid(self.pid, &raw mut status, libc::__WALL | libc::WNOHANG) == 0 {
                libc::kill(self.pid, libc::SIGKILL);
                libc::waitpid(self.pid, &raw mut status, libc::__WALL);
            }
        }
    }
}

/// Waits for a stop.
pub fn wait(running: Running) -> (Stopped, Stop) {
    match running.wait().unwrap() {
        Event::Stopped(thread, stop) => (thread, stop),
        Event::Ended(status) => panic!("it ended with status {status:#x}"),
    }
}

/// Polls until a condition holds.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The address of a system call instruction that every process here has: the vDSO's.
pub fn syscall_at() -> u64 {
    // SAFETY: takes only an integer.
    let base = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    assert_ne!(base, 0, "there is a vDSO");
    let mut code = vec![0; 4096];
    Memory::open(std::process::id().try_into().unwrap()).unwrap().read(base, &mut code).unwrap();
    let offset = code.windows(2).position(|pair| pair == crate::arch::SYSCALL_INSTRUCTION).unwrap();
    base + offset as u64
}

/// A page that a test and its tracees share.
pub struct Shared {
    page: *mut AtomicU64,
}

impl Shared {
    pub fn new() -> Self {
        let (read_write, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping wherever the kernel likes.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, read_write, shared, -1, 0) };
        assert_ne!(page, libc::MAP_FAILED);
        Self { page: page.cast() }
    }

    pub fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < 512);
        // SAFETY: within the page, which lives as long as `self`; an all-zero AtomicU64 is valid.
        unsafe { &*self.page.add(index) }
    }

    pub fn get(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::SeqCst)
    }

    pub fn set(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::SeqCst);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows it any more.
        unsafe { libc::munmap(self.page.cast(), 4096) };
    }
}

/// Private anonymous pages of this process, which its forks inherit.
pub struct Pages {
    pub addr: u64,
    len: usize,
}

impl Pages {
    pub fn new(count: usize) -> Self {
        let (read_write, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping wherever the kernel likes.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), count * 4096, read_write, private, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        Self { addr: at as u64, len: count * 4096 }
    }

    /// Writes a byte over a whole page.
    pub fn fill(&self, page: usize, byte: u8) {
        assert!(page * 4096 < self.len);
        let at = std::ptr::without_provenance_mut::<u8>(usize::try_from(self.addr).unwrap() + page * 4096);
        // SAFETY: within the mapping, which nothing borrows.
        unsafe { at.write_bytes(byte, 4096) };
    }

    pub fn protect(&self, page: usize, protection: i32) {
        let at = std::ptr::without_provenance_mut(usize::try_from(self.addr).unwrap() + page * 4096);
        // SAFETY: within the mapping, which nothing borrows.
        assert_eq!(unsafe { libc::mprotect(at, 4096, protection) }, 0);
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let at = std::ptr::without_provenance_mut(usize::try_from(self.addr).unwrap());
        // SAFETY: the mapping is ours and nothing borrows it.
        unsafe { libc::munmap(at, self.len) };
    }
}
