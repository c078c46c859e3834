//! Stopping a process with all its threads, and letting it go again as if nothing had happened.

use std::collections::BTreeMap;
use std::time::Instant;

use ckpt_trace::arch::Interrupted;
use ckpt_trace::{Batch, Event, Injection, Memory, Outcome, Running, SeizeOptions, Stop, Stopped, Tid, TraceError};

use crate::Error;
use crate::proc::{self, Status, Vma, VmaKind};
use crate::waits::{self, Sleeper};

/// A process all of whose threads are stopped. Dropping it lets them run on.
pub struct Frozen {
    /// The process's id as we see it.
    pub pid: Tid,
    /// Its memory.
    pub memory: Memory,
    /// Its threads, the first one first.
    pub threads: Vec<Stopped>,
    /// The signal by which the process had been stopped before.
    pub stopped_by: Option<i32>,
    /// When the first thread was asked to stop.
    pub since: Instant,
    /// What threads were waiting for before they were stopped.
    pub sleepers: BTreeMap<Tid, Sleeper>,
}

impl Frozen {
    /// Freezes a process.
    ///
    /// # Errors
    /// [`Error::NotPermitted`], or [`Error::Died`] when it ends meanwhile. It then runs on.
    pub fn freeze(pid: Tid) -> Result<Self, Error> {
        let sleepers = waits::sleepers(pid);
        let since = Instant::now();
        let mut threads: BTreeMap<Tid, Stopped> = BTreeMap::new();
        let mut stopped_by = None;
        loop {
            let seized = seize_new(pid, &threads)?;
            if seized.is_empty() {
                break;
            }
            for running in seized {
                if let Some((thread, group_stop)) = wait_until_stopped(running)? {
                    stopped_by = stopped_by.or(group_stop);
                    threads.insert(thread.tid(), thread);
                }
            }
        }
        let memory = Memory::open(pid)?;
        let first = threads.remove(&pid).ok_or(Error::Died { pid })?;
        let threads = std::iter::once(first).chain(threads.into_values()).collect();
        Ok(Self { pid, memory, threads, stopped_by, since, sleepers })
    }

    /// Brings every thread to a place from which it can go on here and elsewhere: out of the vDSO, out of restartable
    /// sequences (as by any preemption), and with calls that the freeze alone interrupted made again.
    ///
    /// # Errors
    /// [`Error::Trace`].
    pub fn settle(&mut self, vmas: &[Vma]) -> Result<(), Error> {
        let vdso = vmas.iter().find(|vma| vma.kind() == VmaKind::Vdso).map(|vma| vma.start..vma.end);
        let mut settled = Vec::with_capacity(self.threads.len());
        for mut thread in std::mem::take(&mut self.threads) {
            if let Some(vdso) = &vdso {
                thread = step_out(thread, vdso)?;
            }
            leave_rseq(&thread, &self.memory)?;
            let mut registers = thread.registers()?;
            let call = registers.syscall().map(|(number, _)| number);
            if registers.interrupted() == Some(Interrupted::Eintr)
                && call.is_some_and(waits::is_never_restarted)
                && !has_deliverable_signal(self.pid, thread.tid())?
            {
                registers.set_call_again();
                thread.set_registers(&registers)?;
            }
            settled.push(thread);
        }
        self.threads = settled;
        Ok(())
    }

    /// Takes a thread out, for what consumes a stop; it has to be put back.
    ///
    /// # Errors
    /// [`Error::Died`] when it is not there.
    pub fn take_thread(&mut self, index: usize) -> Result<Stopped, Error> {
        if index < self.threads.len() { Ok(self.threads.remove(index)) } else { Err(Error::Died { pid: self.pid }) }
    }

    /// Lets a thread make calls.
    ///
    /// # Errors
    /// [`Error::Trace`] when the process ends.
    pub fn run(&mut self, index: usize, injection: &Injection, batch: Batch) -> Result<Outcome, Error> {
        let thread = self.take_thread(index)?;
        let (thread, outcome) = injection.run(thread, &self.memory, batch)?;
        self.threads.insert(index, thread);
        Ok(outcome)
    }

    /// Lets the process run on.
    ///
    /// # Errors
    /// None for threads that have ended.
    pub fn thaw(self) -> Result<(), Error> {
        for thread in self.threads {
            match thread.detach() {
                Ok(()) | Err(TraceError::Gone { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Seizes the threads that are not held yet and asks them to stop.
fn seize_new(pid: Tid, held: &BTreeMap<Tid, Stopped>) -> Result<Vec<Running>, Error> {
    let mut seized = Vec::new();
    let tids =
        proc::tree::threads(pid).map_err(|error| if error.is_gone() { Error::Died { pid } } else { error.into() })?;
    for tid in tids.into_iter().filter(|tid| !held.contains_key(tid)) {
        match Running::seize(tid, SeizeOptions::default()) {
            Ok(running) => match running.interrupt() {
                Ok(()) => seized.push(running),
                Err(TraceError::Gone { .. }) => {}
                Err(error) => return Err(error.into()),
            },
            Err(TraceError::Gone { .. }) => {}
            Err(TraceError::Denied { .. }) if is_ours(pid, tid) => {
                seized.push(Running::attached(tid, SeizeOptions::default()));
            }
            Err(TraceError::Denied { .. }) if has_ended(pid, tid) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(seized)
}

/// Whether a thread is traced by us already: its maker was, when it was made.
fn is_ours(pid: Tid, tid: Tid) -> bool {
    let us = Status::of(rustix::process::getpid().as_raw_nonzero().get()).map(|status| status.tgid);
    matches!((Status::of_thread(pid, tid), us), (Ok(status), Ok(us)) if tracer_group(status.tracer_pid) == Some(us))
}

/// The process of a tracing thread.
fn tracer_group(tracer: Tid) -> Option<Tid> {
    (tracer != 0).then(|| Status::of(tracer).ok().map(|status| status.tgid)).flatten()
}

fn has_ended(pid: Tid, tid: Tid) -> bool {
    Status::of_thread(pid, tid).map_or_else(|error| error.is_gone(), |status| matches!(status.state, 'Z' | 'X'))
}

/// Waits until our interrupt takes effect; `None` for a thread that ended instead. With the signal of a group-stop.
///
/// A signal that came before is not ours to take: it is delivered, and the stop comes after it. A thread that is just
/// making another is let out of the call first.
fn wait_until_stopped(running: Running) -> Result<Option<(Stopped, Option<i32>)>, Error> {
    let mut running = running;
    loop {
        let next = match running.wait() {
            Ok(Event::Stopped(thread, Stop::Interrupt)) => return Ok(Some((thread, None))),
            Ok(Event::Stopped(thread, Stop::Group(signal))) => return Ok(Some((thread, Some(signal)))),
            Ok(Event::Stopped(thread, Stop::Signal(signal))) => thread.deliver(signal),
            Ok(Event::Stopped(thread, Stop::Clone(_) | Stop::Syscall)) => thread.resume(),
            Ok(Event::Ended(_)) | Err(TraceError::Gone { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        running = match next {
            Ok(running) => running,
            Err(TraceError::Gone { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
    }
}

/// Steps a thread out of the vDSO: its code reads the kernel's data page in ways that another kernel does not share.
fn step_out(mut thread: Stopped, vdso: &std::ops::Range<u64>) -> Result<Stopped, Error> {
    const STEPS: usize = 10_000;
    for _ in 0..STEPS {
        if !vdso.contains(&thread.registers()?.ip()) {
            break;
        }
        let mut running = thread.step(0)?;
        let tid = running.tid();
        thread = loop {
            match running.wait()? {
                // A signal is not ours to take; where it has a handler, that is outside the vDSO.
                Event::Stopped(thread, Stop::Signal(signal)) if signal != libc::SIGTRAP => {
                    running = thread.step(signal)?;
                }
                Event::Stopped(thread, _) => break thread,
                Event::Ended(_) => return Err(TraceError::Gone { tid }.into()),
            }
        };
    }
    Ok(thread)
}

/// Aborts a restartable sequence that the thread is in, as the kernel does when it preempts one
/// (`kernel/rseq.c`, `rseq_ip_fixup`).
fn leave_rseq(thread: &Stopped, memory: &Memory) -> Result<(), Error> {
    const RSEQ_CS: u64 = 8;
    let Some((area, ..)) = thread.rseq()? else { return Ok(()) };
    let Ok(descriptor) = memory.read_u64(area + RSEQ_CS) else { return Ok(()) };
    if descriptor == 0 {
        return Ok(());
    }
    // struct rseq_cs: version and flags, start_ip, post_commit_offset, abort_ip.
    let mut words = [0; 24];
    if memory.read(descriptor + 8, &mut words).is_err() {
        return Ok(());
    }
    let word = |at: usize| words[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default();
    let (start, length, abort) = (word(0), word(8), word(16));
    let mut registers = thread.registers()?;
    if registers.ip().wrapping_sub(start) < length {
        registers.set_ip(abort);
        thread.set_registers(&registers)?;
    }
    Ok(())
}

/// Whether a signal waits that the thread would take: then an EINTR is due to it and not to us.
fn has_deliverable_signal(pid: Tid, tid: Tid) -> Result<bool, Error> {
    let status = Status::of_thread(pid, tid)?;
    Ok((status.sig_pnd | status.shd_pnd) & !status.sig_blk != 0)
}
