//! Waits with a time limit that a freeze cuts into, and how much of the limit is left.
//!
//! The kernel keeps the end of an interrupted `nanosleep`, `poll` or timed futex in the thread's restart block, which
//! cannot be read. `nanosleep` tells the rest where its caller asked for it. For the others it is the limit less the
//! time since the thread went to sleep, which `/proc/PID/task/TID/sched` shows (`se.exec_start`), read before the freeze.

use std::collections::BTreeMap;
use std::time::Instant;

use ckpt_trace::arch::{self, Interrupted};
use ckpt_trace::{Memory, Registers, Tid};

use crate::proc::{self, Stat, SyscallState};
use crate::resource::threads::Wait;

/// A thread that was in a call with a time limit when we looked.
#[derive(Debug, Clone, Copy)]
pub struct Sleeper {
    call: i64,
    args: [u64; 6],
    /// For how long it had been asleep, in nanoseconds, where only that tells how much of the limit is left.
    asleep: u64,
    seen: Instant,
}

const FUTEX_COMMAND: u64 = 0x7f;
const FUTEX_WAIT: u64 = 0;
const SECOND: u64 = 1_000_000_000;
/// The scheduler's clock is not exactly the one that timers go by. Too long a wait is a delay, too short a fault.
const MARGIN: u64 = 1_000_000;

/// The threads of a process that are in calls which use a restart block.
pub fn sleepers(pid: Tid) -> BTreeMap<Tid, Sleeper> {
    let mut found = BTreeMap::new();
    for tid in proc::tree::threads(pid).unwrap_or_default() {
        let Ok(SyscallState::Blocked { nr, args, .. }) = SyscallState::of(pid, tid) else { continue };
        let call = if nr == libc::SYS_restart_syscall { restarted_call(pid, tid, &args) } else { nr };
        if uses_restart_block(call) {
            let is_needed = has_hidden_rest(call, &args);
            let asleep = if is_needed { time_asleep(pid, tid).unwrap_or_default() } else { 0 };
            found.insert(tid, Sleeper { call, args, asleep, seen: Instant::now() });
        }
    }
    found
}

/// Calls that end in a restart block when they are interrupted (`set_restart_fn` in the kernel).
fn uses_restart_block(call: i64) -> bool {
    matches!(call, libc::SYS_poll | libc::SYS_nanosleep | libc::SYS_clock_nanosleep | libc::SYS_futex)
}

/// Which call a thread in `restart_syscall` goes on with: it was interrupted before. Its arguments are still in the
/// registers, its number is not; where it sleeps in the kernel tells.
fn restarted_call(pid: Tid, tid: Tid, args: &[u64; 6]) -> i64 {
    const LOWEST_ADDRESS: u64 = 4096;
    let place = proc::read(format!("/proc/{pid}/task/{tid}/wchan")).unwrap_or_default();
    let place = String::from_utf8_lossy(&place);
    if place.contains("poll") {
        libc::SYS_poll
    } else if place.contains("futex") {
        libc::SYS_futex
    } else if (LOWEST_ADDRESS..arch::USER_END).contains(&args[0]) {
        libc::SYS_nanosleep
    } else {
        // The first argument is a clock.
        libc::SYS_clock_nanosleep
    }
}

/// Whether only the kernel knows how much of the limit is left.
fn has_hidden_rest(call: i64, args: &[u64; 6]) -> bool {
    match call {
        // An int: negative is for ever.
        libc::SYS_poll => (1..1 << 31).contains(&(args[2] & 0xffff_ffff)),
        libc::SYS_nanosleep => args[1] == 0,
        libc::SYS_clock_nanosleep => args[3] == 0,
        libc::SYS_futex => args[1] & FUTEX_COMMAND == FUTEX_WAIT && args[3] != 0,
        _ => false,
    }
}

/// How long a sleeping thread has been asleep, in nanoseconds, by the clock of the processor that it last ran on.
fn time_asleep(pid: Tid, tid: Tid) -> Option<u64> {
    let fell_asleep = proc::sched::exec_start(pid, tid).ok()??;
    let processor = usize::try_from(Stat::of_thread(pid, tid).ok()?.processor).ok()?;
    let us = rustix::thread::gettid().as_raw_nonzero().get();
    let before = ckpt_trace::sys::affinity(us).ok()?;
    let mut only = vec![0_u8; before.len()];
    *only.get_mut(processor / 8)? |= 1 << (processor % 8);
    // Running on that processor brings our own reading of its clock up to date.
    ckpt_trace::sys::set_affinity(us, &only).ok()?;
    rustix::thread::sched_yield();
    let now = proc::sched::exec_start(us, us);
    ckpt_trace::sys::set_affinity(us, &before).ok()?;
    now.ok()??.checked_sub(fell_asleep)
}

/// What has to be done elsewhere for a thread to go on with the wait that it is in: `None` where making the call again
/// is enough.
pub fn wait_of(registers: &Registers, memory: &Memory, sleeper: Option<&Sleeper>) -> Option<Wait> {
    if registers.interrupted() != Some(Interrupted::RestartBlock) {
        return None;
    }
    let (call, args) = begun_call(registers, sleeper)?;
    let told = match call {
        libc::SYS_nanosleep if args[1] != 0 => timespec(memory, args[1]),
        libc::SYS_clock_nanosleep if args[3] != 0 => timespec(memory, args[3]),
        _ => None,
    };
    let limit = || match call {
        libc::SYS_nanosleep => timespec(memory, args[0]),
        libc::SYS_clock_nanosleep => timespec(memory, args[2]),
        libc::SYS_poll => Some((args[2] & 0xffff_ffff) * 1_000_000),
        // Other futex commands give an instant, not a duration.
        libc::SYS_futex if args[1] & FUTEX_COMMAND == FUTEX_WAIT => timespec(memory, args[3]),
        _ => None,
    };
    let asleep = sleeper.filter(|sleeper| (sleeper.call, sleeper.args) == (call, args)).map_or(0, |sleeper| {
        let since = u64::try_from(sleeper.seen.elapsed().as_nanos()).unwrap_or_default();
        (sleeper.asleep + since).saturating_sub(MARGIN)
    });
    let remaining = told.or_else(|| limit().map(|limit| limit.saturating_sub(asleep)));
    remaining.map(|remaining| Wait { call, args, remaining })
}

/// The call that a thread is in, with its arguments: behind `restart_syscall` the one that it goes on with.
fn begun_call(registers: &Registers, sleeper: Option<&Sleeper>) -> Option<(i64, [u64; 6])> {
    let (number, args) = registers.syscall()?;
    let call = match sleeper {
        Some(sleeper) if number == libc::SYS_restart_syscall && sleeper.args == args => sleeper.call,
        _ => number,
    };
    Some((call, args))
}

/// The registers with which an interrupted call can be made again elsewhere, where nobody knows what `restart_syscall`
/// would go on with.
pub fn as_begun(mut registers: Registers, sleeper: Option<&Sleeper>) -> Registers {
    if registers.interrupted() == Some(Interrupted::RestartBlock)
        && let Some((call, _)) = begun_call(&registers, sleeper)
    {
        registers.set_syscall(call);
    }
    registers
}

/// Calls that return EINTR for any stop of the thread, even one without a signal (signal(7), "Interruption of system
/// calls and library functions by stop signals"), and which can be made again with the same arguments.
pub fn is_never_restarted(call: i64) -> bool {
    matches!(
        call,
        libc::SYS_epoll_wait
            | libc::SYS_epoll_pwait
            | libc::SYS_epoll_pwait2
            | libc::SYS_semop
            | libc::SYS_semtimedop
            | libc::SYS_rt_sigtimedwait
            | libc::SYS_msgrcv
            | libc::SYS_msgsnd
            | libc::SYS_io_getevents
            | libc::SYS_read
            | libc::SYS_readv
            | libc::SYS_recvfrom
            | libc::SYS_recvmsg
            | libc::SYS_recvmmsg
            | libc::SYS_accept
            | libc::SYS_accept4
            | libc::SYS_sendto
            | libc::SYS_sendmsg
    )
}

fn timespec(memory: &Memory, at: u64) -> Option<u64> {
    let seconds = memory.read_u64(at).ok()?;
    let nanoseconds = memory.read_u64(at + 8).ok()?;
    Some(seconds.saturating_mul(SECOND).saturating_add(nanoseconds))
}

#[cfg(test)]
mod tests;
