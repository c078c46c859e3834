//! Parking: a frozen program that stays where it is even if its tracer is killed.
//!
//! A SIGSTOP is sent while all threads are held. When their tracer dies each of them is woken in the middle of the kernel's
//! search for signals (`kernel/signal.c`, `get_signal`), under the lock of the process's signals: the first to come takes
//! the SIGSTOP and makes it a stop of all in the same breath, and the others find that stop before they find a way out. So
//! none executes an instruction.

use ckpt_trace::{SigQueue, take_signal};
use rustix::process::{Pid, Signal, kill_process};

use crate::Error;
use crate::capture;
use crate::freeze::Frozen;
use crate::proc::Status;
use crate::resource::ProcessState;
use crate::resource::signals;

/// A parked program.
#[derive(Debug)]
pub struct Parked {
    stop: Stop,
    /// Signals that the SIGSTOP took away: pending SIGCONTs (`prepare_signal`).
    lost: Lost,
}

/// What became of the SIGSTOP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// It waits to be taken.
    Waits,
    /// It has stopped the process: the tracer had died.
    Holds,
    /// It waits and may wait for ever: the process was stopped before. Whatever lets that go on takes it away first.
    Idle,
}

/// Signals to be queued again, as siginfo in hex.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lost {
    process: Vec<String>,
    /// By the thread's index.
    threads: Vec<(usize, Vec<String>)>,
}

/// The other signals that stop; SIGCONT takes them away.
const STOPS: [i32; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

impl Parked {
    /// Parks a frozen process.
    ///
    /// # Errors
    /// [`Error::Died`].
    pub fn park(frozen: &Frozen) -> Result<Self, Error> {
        let lost = Lost::among(frozen, &[libc::SIGCONT])?;
        let stop = if frozen.stopped_by.is_some() { Stop::Idle } else { Stop::Waits };
        Self { stop, lost }.renew(frozen)
    }

    /// Sends the SIGSTOP, also where it was sent before: a SIGCONT may have taken it away. Whatever undoes the one undoes
    /// the other.
    ///
    /// # Errors
    /// [`Error::Died`].
    pub fn renew(self, frozen: &Frozen) -> Result<Self, Error> {
        send(frozen.pid, Signal::STOP)?;
        if has_pending_stop(frozen.pid)? { Ok(self) } else { Err(Error::Died { pid: frozen.pid }) }
    }

    /// What became of one whose tracer has died, and which is frozen again.
    ///
    /// # Errors
    /// [`Error::Died`].
    pub fn found(frozen: &mut Frozen) -> Result<Self, Error> {
        let stop = if has_pending_stop(frozen.pid)? {
            Stop::Idle
        } else {
            // That it is stopped is our doing and no part of its state.
            frozen.stopped_by = None;
            Stop::Holds
        };
        Ok(Self { stop, lost: Lost::default() })
    }

    /// Takes it all back. The process is as if it had never been parked, and frozen.
    ///
    /// # Errors
    /// [`Error::Trace`] when it ends.
    pub fn undo(self, frozen: &mut Frozen) -> Result<(), Error> {
        let mut lost = self.lost;
        match self.stop {
            Stop::Waits if has_pending_stop(frozen.pid)? => take(frozen, 0, libc::SIGSTOP)?,
            Stop::Waits | Stop::Idle => {}
            Stop::Holds => {
                // Only SIGCONT ends a stop, and whether the program hears of it is for its tracer to say.
                lost = Lost::among(frozen, &STOPS)?;
                send(frozen.pid, Signal::CONT)?;
                take_continue(frozen)?;
            }
        }
        lost.queue_again(frozen)
    }

    /// Corrects what is read of the signals of a parked process.
    pub fn amend(&self, state: &mut ProcessState) {
        state.signals.pending.retain(|info| signals::number(info) != Some(libc::SIGSTOP));
        state.signals.pending.extend(self.lost.process.iter().cloned());
        for (index, infos) in &self.lost.threads {
            if let Some(thread) = state.threads.get_mut(*index) {
                thread.pending.extend(infos.iter().cloned());
            }
        }
    }
}

impl Lost {
    /// What is pending of some signals.
    fn among(frozen: &Frozen, wanted: &[i32]) -> Result<Self, Error> {
        let read = |index: usize, queue| -> Result<Vec<String>, Error> {
            let infos = frozen.threads[index].pending_signals(queue)?;
            let infos = infos.iter().map(hex::encode);
            Ok(infos.filter(|info| signals::number(info).is_some_and(|signal| wanted.contains(&signal))).collect())
        };
        let mut threads = Vec::new();
        for index in 0..frozen.threads.len() {
            let infos = read(index, SigQueue::Thread)?;
            if !infos.is_empty() {
                threads.push((index, infos));
            }
        }
        Ok(Self { process: read(0, SigQueue::Process)?, threads })
    }

    fn queue_again(self, frozen: &mut Frozen) -> Result<(), Error> {
        if self == Self::default() {
            return Ok(());
        }
        capture::inject(frozen, |frozen, injection| {
            let pid = frozen.pid;
            let inner = |tid| Ok::<_, Error>(Status::of_thread(pid, tid)?.ns_pid.last().copied().unwrap_or(tid));
            let inner_pid = inner(pid)?;
            for (index, infos) in &self.threads {
                let tid = inner(frozen.threads[*index].tid())?;
                let mut batch = injection.batch();
                signals::requeue(&mut batch, inner_pid, Some(tid), infos);
                frozen.run(*index, injection, batch)?.all()?;
            }
            let mut batch = injection.batch();
            signals::requeue(&mut batch, inner_pid, None, &self.process);
            if !batch.is_empty() {
                frozen.run(0, injection, batch)?.all()?;
            }
            Ok(())
        })
    }
}

fn send(pid: i32, signal: Signal) -> Result<(), Error> {
    let target = Pid::from_raw(pid).ok_or(Error::NoProcess { pid })?;
    kill_process(target, signal)
        .map_err(|error| Error::System { what: format!("send {signal:?} to process {pid}"), source: error.into() })
}

/// Whether a SIGSTOP waits to be taken; [`Error::Died`] when nobody is there to take it.
fn has_pending_stop(pid: i32) -> Result<bool, Error> {
    let status = Status::of(pid).map_err(|error| if error.is_gone() { Error::Died { pid } } else { error.into() })?;
    Ok(status.shd_pnd & 1 << (libc::SIGSTOP - 1) != 0)
}

/// Lets a thread take a signal of its process, and discards it.
fn take(frozen: &mut Frozen, index: usize, signal: i32) -> Result<(), Error> {
    // Where it is gone, somebody else has let the program go on, which we are about to do as well.
    let (thread, _) = take_signal(frozen.take_thread(index)?, signal)?;
    frozen.threads.insert(index, thread);
    Ok(())
}

/// As [`take`], of the SIGCONT that was just sent. Where all threads block it, one unblocks it as long as that takes.
fn take_continue(frozen: &mut Frozen) -> Result<(), Error> {
    let bit = 1 << (libc::SIGCONT - 1);
    let masks = frozen.threads.iter().map(ckpt_trace::Stopped::signal_mask).collect::<Result<Vec<u64>, _>>()?;
    if let Some(index) = masks.iter().position(|mask| mask & bit == 0) {
        return take(frozen, index, libc::SIGCONT);
    }
    frozen.threads[0].set_signal_mask(masks[0] & !bit)?;
    take(frozen, 0, libc::SIGCONT)?;
    Ok(frozen.threads[0].set_signal_mask(masks[0])?)
}
