//! Signals: what the process does on each, and those that wait to be delivered.

use ckpt_trace::{Batch, Outcome, SigQueue, Stopped};
use serde::{Deserialize, Serialize};

/// Signals 1 to 64.
const SIGNALS: i32 = 64;
/// The kernel's `struct sigaction`: handler, flags, restorer, mask.
const ACTION_BYTES: usize = 32;
const MASK_BYTES: u64 = 8;

/// The signal state of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalState {
    /// The actions that are not the default.
    pub actions: Vec<SignalAction>,
    /// Signals sent to the process and not delivered yet: each a `siginfo_t`, oldest first, in hex.
    pub pending: Vec<String>,
    /// The process was stopped by this signal.
    pub stopped_by: Option<i32>,
}

/// What happens on a signal (`rt_sigaction(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalAction {
    /// Which signal.
    pub signal: i32,
    /// The handler's address, or 1 for `SIG_IGN`.
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// What is blocked while it runs.
    pub mask: u64,
}

/// Asks for all actions; the answer is at the returned address.
pub fn ask(batch: &mut Batch) -> u64 {
    let actions = batch.space(ACTION_BYTES * SIGNALS.unsigned_abs() as usize);
    for signal in 1..=SIGNALS {
        let index = u64::from(signal.unsigned_abs());
        let old = actions + (index - 1) * ACTION_BYTES as u64;
        batch.call("rt_sigaction", libc::SYS_rt_sigaction, &[index, 0, old, MASK_BYTES]);
    }
    actions
}

impl SignalState {
    /// The state of a frozen process, of whose threads one is given.
    ///
    /// # Errors
    /// When the thread has ended.
    pub fn capture(
        thread: &Stopped,
        asked: u64,
        answers: &Outcome,
        stopped_by: Option<i32>,
    ) -> Result<Self, crate::Error> {
        let action = |signal: i32| {
            let at = asked + u64::from(signal.unsigned_abs() - 1) * ACTION_BYTES as u64;
            SignalAction {
                signal,
                handler: answers.word(at),
                flags: answers.word(at + 8),
                restorer: answers.word(at + 16),
                mask: answers.word(at + 24),
            }
        };
        let actions = (1..=SIGNALS).map(action).filter(|a| (a.handler, a.flags, a.mask) != (0, 0, 0));
        let pending = thread.pending_signals(SigQueue::Process)?;
        Ok(Self { actions: actions.collect(), pending: pending.iter().map(hex::encode).collect(), stopped_by })
    }

    /// Sets all actions, the default ones too: the new process has those of whoever made it.
    pub fn rebuild(&self, batch: &mut Batch) {
        for signal in (1..=SIGNALS).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal)) {
            let action = self.actions.iter().find(|action| action.signal == signal);
            let words = action.map_or([0; 4], |action| [action.handler, action.flags, action.restorer, action.mask]);
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let new = batch.data(&bytes);
            batch.call("rt_sigaction", libc::SYS_rt_sigaction, &[signal.unsigned_abs().into(), new, 0, MASK_BYTES]);
        }
    }
}

/// Sends pending signals again, to thread `tid` of process `pid` (ids as they see them) or, without a thread, to the
/// process. A process may send itself any siginfo; all signals are blocked while this runs.
pub fn requeue(batch: &mut Batch, pid: i32, tid: Option<i32>, pending: &[String]) {
    for info in pending.iter().filter_map(|text| hex::decode(text).ok()).filter(|info| info.len() == 128) {
        let signal = u64::from(u32::from_le_bytes([info[0], info[1], info[2], info[3]]));
        let at = batch.data(&info);
        let pid = u64::from(pid.unsigned_abs());
        match tid {
            Some(tid) => {
                let tid = u64::from(tid.unsigned_abs());
                batch.call("rt_tgsigqueueinfo", libc::SYS_rt_tgsigqueueinfo, &[pid, tid, signal, at]);
            }
            None => {
                batch.call("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo, &[pid, signal, at]);
            }
        }
    }
}

/// Which signal a siginfo in hex is about.
#[must_use]
pub fn number(info: &str) -> Option<i32> {
    let bytes = hex::decode(info.get(..8)?).ok()?;
    Some(i32::from_le_bytes(bytes.try_into().ok()?))
}

/// A signal that the program ignores by default or by choice and that is not pending: injected code may use it as a
/// trap (see `ckpt_trace::Injection`). SIGCONT comes last because sending it discards pending stops.
#[must_use]
pub fn trap_signal(caught: u64, blocked: u64, pending: u64) -> i32 {
    const CANDIDATES: [i32; 4] = [libc::SIGURG, libc::SIGWINCH, libc::SIGCHLD, libc::SIGCONT];
    let is_free = |busy: u64| move |signal: &&i32| busy & (1 << (**signal - 1)) == 0;
    let pick = |busy: u64| CANDIDATES.iter().find(is_free(busy)).copied();
    pick(caught | blocked | pending).or_else(|| pick(caught | pending)).unwrap_or(libc::SIGCONT)
}

#[cfg(test)]
mod tests;
