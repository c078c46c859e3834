//! Threads: registers, what each has told the kernel about itself, and how it is scheduled.

use std::io;

use ckpt_trace::sys::{self, SchedAttr};
use ckpt_trace::{Batch, Outcome, Registers, SigQueue, Stopped, Tid, TraceError, arch};
use rustix::process::{Pid, getpriority_process, setpriority_process};
use serde::{Deserialize, Serialize};

use super::bytes::Bytes;
use crate::proc::Status;

const PR_GET_TID_ADDRESS: u64 = 40;
const SS_ONSTACK: u32 = 1;

/// One thread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThreadState {
    /// Its id, as the program knows it.
    pub tid: i32,
    /// Its name (`comm`).
    pub name: Bytes,
    /// The general registers (`struct user_regs_struct`).
    pub registers: Vec<u64>,
    /// The extended registers: the XSAVE area in standard format.
    #[serde(with = "hex::serde")]
    pub extended: Vec<u8>,
    /// Blocked signals, bit n-1 for signal n.
    pub signal_mask: u64,
    /// Signals sent to the thread and not delivered yet: each a `siginfo_t`, oldest first, in hex.
    pub pending: Vec<String>,
    /// The alternate signal stack: address, flags, size.
    pub alternate_stack: (u64, u32, u64),
    /// The list of robust futexes: head, length.
    pub robust_list: (u64, u64),
    /// The restartable-sequences area: address, length, signature.
    pub rseq: Option<(u64, u32, u32)>,
    /// Where the kernel writes 0 when the thread ends (`set_tid_address(2)`).
    pub clear_child_tid: u64,
    /// How it is scheduled.
    pub scheduling: Scheduling,
    /// A wait that has to go on with the time that was left.
    pub wait: Option<Wait>,
}

/// Scheduling attributes of a thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduling {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice.
    pub nice: i32,
    /// Real-time priority.
    pub priority: u32,
    /// Deadline parameters or slice, in nanoseconds.
    pub deadline: [u64; 3],
    /// The processors that it may run on, a bit mask.
    #[serde(with = "hex::serde")]
    pub affinity: Vec<u8>,
    /// Timer slack in nanoseconds.
    pub timer_slack: u64,
    /// I/O priority, `ioprio_get(2)`.
    pub io_priority: u64,
    /// What happens on a memory error, `PR_MCE_KILL_GET`.
    pub memory_error_kill: u64,
}

/// A call with a time limit that the freeze interrupted, and which the kernel goes on with by itself only in the
/// process that made it (`restart_syscall(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// The system call's number.
    pub call: i64,
    /// Its arguments.
    pub args: [u64; 6],
    /// How much of the time limit is left, in nanoseconds.
    pub remaining: u64,
}

impl Wait {
    /// The arguments with which the wait goes on, given where a `timespec` of the remaining time is.
    #[must_use]
    pub fn arguments(&self, remaining_at: u64) -> [u64; 6] {
        let mut args = self.args;
        match self.call {
            libc::SYS_nanosleep => args[0] = remaining_at,
            libc::SYS_clock_nanosleep => args[2] = remaining_at,
            libc::SYS_poll => args[2] = self.remaining.div_ceil(1_000_000),
            libc::SYS_futex => args[3] = remaining_at,
            _ => {}
        }
        args
    }
}

/// What was asked of a thread in a batch.
pub struct Asked {
    alternate_stack: u64,
    tid_address: u64,
    timer_slack: usize,
    memory_error_kill: usize,
}

/// Asks what only the thread itself can tell.
pub fn ask(batch: &mut Batch) -> Asked {
    let alternate_stack = batch.space(24);
    let tid_address = batch.space(8);
    batch.call("sigaltstack", libc::SYS_sigaltstack, &[0, alternate_stack]);
    batch.call("prctl(PR_GET_TID_ADDRESS)", libc::SYS_prctl, &[PR_GET_TID_ADDRESS, tid_address, 0, 0, 0]);
    let slack = libc::PR_GET_TIMERSLACK.unsigned_abs().into();
    let timer_slack = batch.call("prctl(PR_GET_TIMERSLACK)", libc::SYS_prctl, &[slack, 0, 0, 0, 0]);
    let policy = libc::PR_MCE_KILL_GET.unsigned_abs().into();
    let memory_error_kill = batch.call("prctl(PR_MCE_KILL_GET)", libc::SYS_prctl, &[policy, 0, 0, 0, 0]);
    Asked { alternate_stack, tid_address, timer_slack, memory_error_kill }
}

impl ThreadState {
    /// The state of a stopped thread of process `pid` that will go on with `registers`, with its answers to [`ask`].
    ///
    /// # Errors
    /// When the thread has ended.
    pub fn capture(
        pid: Tid,
        thread: &Stopped,
        registers: &Registers,
        asked: &Asked,
        answers: &Outcome,
        wait: Option<Wait>,
    ) -> Result<Self, crate::Error> {
        let tid = thread.tid();
        let status = Status::of_thread(pid, tid)?;
        let call = |call| move |source| TraceError::Call { call, tid, source };
        let attr = sys::sched_attr(tid).map_err(call("sched_getattr"))?;
        let pending = thread.pending_signals(SigQueue::Thread)?;
        Ok(Self {
            tid: status.ns_pid.last().copied().unwrap_or(tid),
            name: Bytes(status.name),
            registers: registers.to_words().to_vec(),
            extended: thread.extended_state()?,
            signal_mask: thread.signal_mask()?,
            pending: pending.iter().map(hex::encode).collect(),
            alternate_stack: (
                answers.word(asked.alternate_stack),
                answers.half(asked.alternate_stack + 8),
                answers.word(asked.alternate_stack + 16),
            ),
            robust_list: sys::robust_list(tid).map_err(call("get_robust_list"))?,
            rseq: thread.rseq()?,
            clear_child_tid: answers.word(asked.tid_address),
            scheduling: Scheduling {
                policy: attr.policy,
                flags: attr.flags,
                nice: getpriority_process(Pid::from_raw(tid)).map_err(|error| call("getpriority")(error.into()))?,
                priority: attr.priority,
                deadline: [attr.runtime, attr.deadline, attr.period],
                affinity: sys::affinity(tid).map_err(call("sched_getaffinity"))?,
                timer_slack: answers.result(asked.timer_slack)?,
                io_priority: sys::io_priority(tid).map_err(call("ioprio_get"))?,
                memory_error_kill: answers.result(asked.memory_error_kill)?,
            },
            wait,
        })
    }

    /// What the new thread says to the kernel about itself. `tid_address` and the rest take effect at once; its
    /// registers and mask follow when everything else is in place.
    pub fn rebuild(&self, batch: &mut Batch) {
        if arch::uses_tiles(&self.extended) {
            batch.use_tiles();
        }
        let mut name = self.name.0.clone();
        name.truncate(15);
        let name = batch.string(&name);
        batch.call("prctl(PR_SET_NAME)", libc::SYS_prctl, &[libc::PR_SET_NAME.unsigned_abs().into(), name, 0, 0, 0]);
        batch.call("set_tid_address", libc::SYS_set_tid_address, &[self.clear_child_tid]);
        let (head, length) = self.robust_list;
        if head != 0 {
            batch.call("set_robust_list", libc::SYS_set_robust_list, &[head, length]);
        }
        if let Some((area, length, signature)) = self.rseq {
            batch.call("rseq", libc::SYS_rseq, &[area, length.into(), 0, signature.into()]);
        }
        // Set in any case: without one of its own the thread would have that of whoever made its process.
        let (address, flags, size) = self.alternate_stack;
        let mut stack = [0; 24];
        stack[..8].copy_from_slice(&address.to_le_bytes());
        // Whether the thread is on the stack now follows from its stack pointer.
        stack[8..12].copy_from_slice(&(flags & !SS_ONSTACK).to_le_bytes());
        stack[16..].copy_from_slice(&size.to_le_bytes());
        let stack = batch.data(&stack);
        batch.call("sigaltstack", libc::SYS_sigaltstack, &[stack, 0]);
        let slack = libc::PR_SET_TIMERSLACK.unsigned_abs().into();
        batch.call("prctl(PR_SET_TIMERSLACK)", libc::SYS_prctl, &[slack, self.scheduling.timer_slack, 0, 0, 0]);
        let policy = [libc::PR_MCE_KILL, libc::PR_MCE_KILL_SET].map(|number| u64::from(number.unsigned_abs()));
        let wanted = self.scheduling.memory_error_kill;
        batch.call("prctl(PR_MCE_KILL)", libc::SYS_prctl, &[policy[0], policy[1], wanted, 0, 0]);
    }

    /// Sets from outside how the thread `tid` (as we see it) is scheduled. What the machine or the user's limits do not
    /// allow is told in a note.
    ///
    /// # Errors
    /// When the thread has ended.
    pub fn rebuild_scheduling(&self, tid: Tid, notes: &mut Vec<String>) -> io::Result<()> {
        let wanted = &self.scheduling;
        let [runtime, deadline, period] = wanted.deadline;
        let current = sys::sched_attr(tid)?;
        let attr = SchedAttr {
            policy: wanted.policy,
            flags: wanted.flags,
            nice: wanted.nice,
            priority: wanted.priority,
            runtime,
            deadline,
            period,
            ..current
        };
        let mut tell = |what: String, error: &io::Error| {
            let note = format!("{what} could not be set ({error})");
            if !notes.contains(&note) {
                notes.push(note);
            }
        };
        if attr != current
            && let Err(error) = sys::set_sched_attr(tid, &attr)
        {
            tell(format!("scheduling policy {}", attr.policy), &error);
        }
        // Policies other than the ordinary ones leave nice as it is (kernel/sched/syscalls.c, __setscheduler_params).
        let thread = Pid::from_raw(tid);
        if getpriority_process(thread)? != wanted.nice
            && let Err(error) = setpriority_process(thread, wanted.nice)
        {
            tell(format!("nice {}", wanted.nice), &error.into());
        }
        if wanted.affinity != sys::affinity(tid)?
            && let Err(error) = sys::set_affinity(tid, &wanted.affinity)
        {
            tell("the processors that threads were bound to".to_owned(), &error);
        }
        if wanted.io_priority != sys::io_priority(tid)?
            && let Err(error) = sys::set_io_priority(tid, wanted.io_priority)
        {
            tell(format!("I/O priority {:#x}", wanted.io_priority), &error);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
