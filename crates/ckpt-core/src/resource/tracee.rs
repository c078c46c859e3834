//! For tests: a small process of their own, frozen or working for them.

#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use std::time::{Duration, Instant};

use ckpt_trace::{Batch, Event, Injection, Memory, Outcome, Running, SeizeOptions, Stopped, sys};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::vdso;
use crate::proc::{SyscallState, VmaKind, maps};

/// A forked process that waits for signals, with no descriptors but the standard ones.
pub(crate) struct Tracee {
    pub(crate) pid: i32,
}

impl Tracee {
    pub(crate) fn new() -> Self {
        let Some(pid) = sys::fork().unwrap() else {
            sys::close_range(3, u32::MAX);
            sys::pause_for_ever()
        };
        let tracee = Self { pid };
        let began = Instant::now();
        while !matches!(SyscallState::of(pid, pid), Ok(SyscallState::Blocked { nr: libc::SYS_pause, .. })) {
            assert!(began.elapsed() < Duration::from_secs(20), "it does not wait");
            std::thread::yield_now();
        }
        tracee
    }

    /// Stops it, with pages of ours in it.
    pub(crate) fn worker(&self) -> Worker {
        let running = Running::seize(self.pid, SeizeOptions::default()).unwrap();
        running.interrupt().unwrap();
        let Event::Stopped(thread, _) = running.wait().unwrap() else { panic!("it has ended") };
        let memory = Memory::open(self.pid).unwrap();
        let vmas = maps::maps(self.pid).unwrap();
        let vdso = vmas.iter().find(|vma| vma.kind() == VmaKind::Vdso).unwrap();
        let mut code = vec![0; usize::try_from(vdso.size()).unwrap()];
        memory.read(vdso.start, &mut code).unwrap();
        let syscall_at = vdso.start + vdso::syscall_offset(&code).unwrap();
        let (thread, injection) = Injection::map(thread, &memory, 1 << 20, 0, syscall_at, libc::SIGURG).unwrap();
        Worker { thread: Some(thread), memory, injection }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.pid).unwrap();
        let _ = kill_process(pid, Signal::KILL);
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
}

/// A stopped process that makes calls.
pub(crate) struct Worker {
    thread: Option<Stopped>,
    memory: Memory,
    injection: Injection,
}

impl Worker {
    pub(crate) fn batch(&self) -> Batch {
        self.injection.batch()
    }

    pub(crate) fn run(&mut self, batch: Batch) -> Outcome {
        let thread = self.thread.take().unwrap();
        let (thread, outcome) = self.injection.run(thread, &self.memory, batch).unwrap();
        self.thread = Some(thread);
        outcome
    }
}

impl Worker {
    /// Lets the process go, without our pages.
    pub(crate) fn leave(mut self) {
        let thread = self.thread.take().unwrap();
        self.injection.unmap(thread, &self.memory).unwrap().detach().unwrap();
    }
}

/// How many calls a batch holds.
pub(crate) fn calls(batch: &mut Batch) -> usize {
    batch.call("getpid", libc::SYS_getpid, &[])
}
