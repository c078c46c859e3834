//! Who may take a checkpoint now: one at a time, and none while the program holds them off.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, Ordering};

use super::syscall;

/// The thread that a checkpoint is taken by, or 0.
static BUSY: AtomicI32 = AtomicI32::new(0);
/// Whether that thread called `ckpt_checkpoint`; otherwise Ctrl+C interrupted it.
static CALLED: AtomicBool = AtomicBool::new(false);
/// How often `ckpt_hold` was called and not yet undone.
static HOLDS: AtomicU32 = AtomicU32::new(0);
/// Whether Ctrl+C came when it could not be acted upon.
static PENDING: AtomicBool = AtomicBool::new(false);
/// When Ctrl+C last came to nothing, in milliseconds of the monotonic clock; 0 for never.
static FAILED: AtomicI64 = AtomicI64::new(0);
/// Whether this process was forked by the one that the constructor ran in.
static FORKED: AtomicBool = AtomicBool::new(false);

/// Why no checkpoint can be taken now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Another one is under way, asked for by Ctrl+C.
    Interrupted,
    /// Another one is under way, asked for by a call.
    Called,
    /// The program holds checkpoints off.
    Held,
}

/// Claims the one checkpoint that may be under way.
///
/// Together with [`hold`] this is Dekker's algorithm: each side writes its own word before it reads the other's, so
/// that a critical section is never entered while the process is saved.
pub(super) fn claim(called: bool) -> Result<(), Refusal> {
    let tid = syscall::gettid();
    if BUSY.compare_exchange(0, tid, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        return Err(if CALLED.load(Ordering::SeqCst) { Refusal::Called } else { Refusal::Interrupted });
    }
    CALLED.store(called, Ordering::SeqCst);
    if HOLDS.load(Ordering::SeqCst) > 0 {
        release_claim();
        return Err(Refusal::Held);
    }
    Ok(())
}

/// Ends the claim, and lets threads go on that wait in [`hold`].
pub(super) fn release_claim() {
    CALLED.store(false, Ordering::SeqCst);
    syscall::futex_store(&BUSY, 0);
}

/// After a restore: the thread may have another id now, and what came before the checkpoint was its cause.
pub(super) fn renew_claim() {
    BUSY.store(syscall::gettid(), Ordering::SeqCst);
    PENDING.store(false, Ordering::SeqCst);
    FAILED.store(0, Ordering::SeqCst);
}

/// Enters a critical section; waits for the end of a checkpoint that another thread takes.
pub(super) fn hold() {
    HOLDS.fetch_add(1, Ordering::SeqCst);
    loop {
        let busy = BUSY.load(Ordering::SeqCst);
        // A hook runs on the thread that takes the checkpoint: it must not wait for itself.
        if busy == 0 || busy == syscall::gettid() {
            return;
        }
        syscall::futex_wait(&BUSY, busy, 1000);
    }
}

/// Leaves a critical section. True if it was the last one and Ctrl+C came meanwhile.
pub(super) fn release_hold() -> bool {
    let left = HOLDS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |holds| holds.checked_sub(1));
    left == Ok(1) && take_pending()
}

/// Whether neither a checkpoint is under way nor one is held off.
pub(super) fn is_idle() -> bool {
    BUSY.load(Ordering::SeqCst) == 0 && HOLDS.load(Ordering::SeqCst) == 0
}

/// Remembers Ctrl+C for later.
pub(super) fn remember() {
    PENDING.store(true, Ordering::SeqCst);
}

/// Whether Ctrl+C is to be acted upon now; asks once.
pub(super) fn take_pending() -> bool {
    HOLDS.load(Ordering::SeqCst) == 0 && PENDING.swap(false, Ordering::SeqCst)
}

/// Notes that Ctrl+C came to nothing.
pub(super) fn note_failure() {
    FAILED.store(syscall::now().max(1), Ordering::SeqCst);
}

/// What Ctrl+C means after one that came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeated {
    /// Nothing: it is the same key press, delivered to the process twice (terminal and parent).
    Echo,
    /// The user wants the program to end.
    Insists,
    /// A new one.
    No,
}

/// Tells a second Ctrl+C from a new one.
pub(super) fn repeated() -> Repeated {
    since(FAILED.load(Ordering::SeqCst), syscall::now())
}

fn since(failed: i64, now: i64) -> Repeated {
    match now - failed {
        _ if failed == 0 => Repeated::No,
        0..50 => Repeated::Echo,
        50..2000 => Repeated::Insists,
        _ => Repeated::No,
    }
}

/// Whether this process was forked by the program.
pub(super) fn is_forked() -> bool {
    FORKED.load(Ordering::SeqCst)
}

/// In a child of `fork`: nothing of the parent's is under way here.
pub(super) extern "C" fn forked() {
    FORKED.store(true, Ordering::SeqCst);
    PENDING.store(false, Ordering::SeqCst);
    FAILED.store(0, Ordering::SeqCst);
    release_claim();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_interrupt_counts_for_two_seconds() {
        assert_eq!(since(0, 5), Repeated::No);
        assert_eq!(since(1000, 1010), Repeated::Echo);
        assert_eq!(since(1000, 1500), Repeated::Insists);
        assert_eq!(since(1000, 3000), Repeated::No);
        assert_eq!(since(1000, 500), Repeated::No, "the clock was set back by a restore");
    }

    #[test]
    fn one_checkpoint_at_a_time_and_none_while_held() {
        assert_eq!(claim(true), Ok(()));
        assert_eq!(claim(false), Err(Refusal::Called));
        hold();
        release_claim();
        assert_eq!(claim(false), Err(Refusal::Held));
        remember();
        assert!(!take_pending(), "not while held");
        assert!(release_hold(), "acted upon at the last release");
        assert!(!release_hold(), "one release too many does nothing");
        assert_eq!(claim(false), Ok(()));
        assert_eq!(claim(true), Err(Refusal::Interrupted));
        release_claim();
    }
}
