//! System calls that the tracee makes for us, in batches.
//!
//! A ptrace stop costs 10 µs on the same core and over 80 across cores, so a small page is mapped into the tracee once,
//! in which a loop runs a whole array of calls and then traps once.
//!
//! Should the tracer die at any moment, a guard gives the thread its registers and its signal mask back, takes our pages
//! away, and the program goes on. The guard stands in the padding of the vDSO, so the page itself is mapped and unmapped
//! under its care too. Where there is no room for it, the first and the last call borrow a system call instruction of the
//! program by registers alone, and harm can come of a tracer's death in these few microseconds.

use std::io;

use crate::arch::{self, CALL_BYTES, CALLS, Registers};
use crate::memory::usize_of;
use crate::{Event, Memory, PAGE, Running, Stop, Stopped, Tid, TraceError};

/// Pages of ours in a tracee, and the means to run calls there.
#[derive(Debug)]
pub struct Injection {
    base: u64,
    len: u64,
    trap_signal: i32,
    site: CallSite,
}

/// Calls to make in one go, and the memory that their arguments point to.
#[derive(Debug)]
pub struct Batch {
    calls: Vec<u8>,
    names: Vec<&'static str>,
    scratch: Vec<u8>,
    scratch_at: u64,
    scratch_capacity: usize,
    calls_capacity: usize,
    entry: u64,
}

/// What a batch did.
#[derive(Debug)]
pub struct Outcome {
    tid: Tid,
    results: Vec<i64>,
    names: Vec<&'static str>,
    scratch: Vec<u8>,
    scratch_at: u64,
    /// Threads that the calls made, as the tracer sees them, oldest first.
    pub clones: Vec<Tid>,
}

/// Where a tracee can be made to make a call without code of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallSite {
    /// A system call instruction.
    pub syscall_at: u64,
    /// At least [`arch::guard_bytes`] bytes of zeros that nobody uses, in memory that can be executed: the padding at the
    /// end of the vDSO. With them the tracee comes to no harm even if the tracer dies while our pages are being mapped.
    pub guard_at: Option<u64>,
}

impl From<u64> for CallSite {
    fn from(syscall_at: u64) -> Self {
        Self { syscall_at, guard_at: None }
    }
}

impl Injection {
    /// Maps `len` bytes (a multiple of the page size, at least two pages) into the process of a stopped thread.
    ///
    /// `trap_signal` must be one that the program ignores. `hint` asks for an address (0: the kernel chooses). The
    /// thread's registers and signal mask are as before afterwards.
    ///
    /// # Errors
    /// [`TraceError::Remote`] when the process may not map memory.
    pub fn map(
        thread: Stopped,
        memory: &Memory,
        len: u64,
        hint: u64,
        site: impl Into<CallSite>,
        trap_signal: i32,
    ) -> Result<(Stopped, Self), TraceError> {
        let mut injection = Self { base: 0, len, trap_signal, site: site.into() };
        let fixed = if hint == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE };
        let flags = u64::from((libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed).unsigned_abs());
        let exec = u64::from((libc::PROT_READ | libc::PROT_EXEC).unsigned_abs());
        let args = [hint, len, exec, flags, u64::MAX, 0];
        let (thread, base) = injection.call(thread, memory, libc::SYS_mmap, args, Some(len))?;
        injection.base = checked("mmap", thread.tid(), base).inspect_err(|_| injection.leave(memory))?.cast_unsigned();
        memory.write_forced(injection.base, arch::batch_code().0)?;
        let write = u64::from((libc::PROT_READ | libc::PROT_WRITE).unsigned_abs());
        let args = [injection.base + PAGE, len - PAGE, write, 0, 0, 0];
        let (thread, result) = injection.call(thread, memory, libc::SYS_mprotect, args, None)?;
        if let Err(error) = checked("mprotect", thread.tid(), result) {
            injection.unmap(thread, memory)?;
            return Err(error);
        }
        Ok((thread, injection))
    }

    /// Where the pages are.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u64> {
        self.base..self.base + self.len
    }

    /// Takes the pages away again.
    ///
    /// # Errors
    /// [`TraceError::Gone`] when the process has ended.
    pub fn unmap(&self, thread: Stopped, memory: &Memory) -> Result<Stopped, TraceError> {
        // From here on there is nothing left to take away, whoever does it.
        let gone = Self { base: 0, ..*self };
        let args = [self.base, self.len, 0, 0, 0, 0];
        let (thread, result) = gone.call(thread, memory, libc::SYS_munmap, args, None)?;
        self.leave(memory);
        checked("munmap", thread.tid(), result)?;
        Ok(thread)
    }

    /// The system call instruction that [`Injection::unmap`] will borrow, after it has moved.
    pub fn set_syscall_at(&mut self, at: u64) {
        self.site = at.into();
    }

    /// Where the guard is: with the vDSO's padding, or else behind our own code.
    fn guard_at(&self) -> u64 {
        const BEHIND_THE_CODE: u64 = PAGE / 2;
        self.site.guard_at.unwrap_or(self.base + BEHIND_THE_CODE)
    }

    /// Arms the guard with what it would have to give back to a thread.
    fn arm(&self, memory: &Memory, registers: &Registers, mask: u64) -> Result<(), TraceError> {
        // Code that stands in our own pages cannot take them away.
        let ours = if self.base == 0 || self.site.guard_at.is_none() { (0, 0) } else { (self.base, self.len) };
        let (code, ..) = arch::guard_code();
        let bytes = [code, &arch::guard_data(ours, mask, registers)].concat();
        memory.write_forced(self.guard_at(), &bytes)
    }

    /// Leaves the vDSO's padding as it was.
    fn leave(&self, memory: &Memory) {
        if let Some(at) = self.site.guard_at {
            let zeros = vec![0; usize_of(arch::guard_bytes())];
            // The process may have ended; else what could be written before can be again.
            let _ = memory.write_forced(at, &zeros);
        }
    }

    /// Makes one call without the help of our pages. Registers and signal mask are given back.
    fn call(
        &self,
        thread: Stopped,
        memory: &Memory,
        number: i64,
        args: [u64; 6],
        undo: Option<u64>,
    ) -> Result<(Stopped, i64), TraceError> {
        let Some(guard) = self.site.guard_at else { return call_at(thread, self.site.syscall_at, number, args) };
        let registers = thread.registers()?;
        let mask = thread.signal_mask()?;
        self.arm(memory, &registers, mask)?;
        thread.set_registers(&registers.for_guarded_call(guard, number, args, self.trap_signal, undo))?;
        thread.set_signal_mask(self.mask_for_us())?;
        let trap_at = guard + arch::guard_code().1;
        let (thread, _) = run_to_trap(thread.resume()?, self.trap_signal, trap_at)?;
        let result = thread.registers()?.guarded_result();
        thread.set_signal_mask(mask)?;
        thread.set_registers(&registers)?;
        Ok((thread, result))
    }

    /// All signals but the trap.
    fn mask_for_us(&self) -> u64 {
        !(1 << (self.trap_signal - 1))
    }

    /// An empty batch for these pages.
    #[must_use]
    pub fn batch(&self) -> Batch {
        let data = usize_of(self.len - PAGE);
        let calls_capacity = ((data - CALLS) / 2) / CALL_BYTES;
        let scratch_offset = CALLS + calls_capacity * CALL_BYTES;
        Batch {
            calls: Vec::new(),
            names: Vec::new(),
            scratch: Vec::new(),
            scratch_at: self.base + PAGE + scratch_offset as u64,
            scratch_capacity: data - scratch_offset,
            calls_capacity,
            entry: 0,
        }
    }

    /// Runs the batch in the thread; its registers and signal mask are the same afterwards.
    ///
    /// # Errors
    /// [`TraceError::Gone`] when the process ends meanwhile. A failed call is no error here: see [`Outcome`].
    pub fn run(&self, thread: Stopped, memory: &Memory, batch: Batch) -> Result<(Stopped, Outcome), TraceError> {
        self.start(thread, memory, batch)?.finish(memory)
    }

    /// Lets the thread begin with the batch; [`InFlight::finish`] waits for its end. So several threads, each with an
    /// injection of its own, can work at once.
    ///
    /// # Errors
    /// [`TraceError::Gone`] when the process has ended.
    pub fn start(&self, thread: Stopped, memory: &Memory, batch: Batch) -> Result<InFlight, TraceError> {
        if batch.names.len() > batch.calls_capacity || batch.scratch.len() > batch.scratch_capacity {
            let source = io::Error::from_raw_os_error(libc::E2BIG);
            return Err(TraceError::Call { call: "put a batch of calls into", tid: thread.tid(), source });
        }
        let registers = thread.registers()?;
        let mask = thread.signal_mask()?;
        let data = self.base + PAGE;
        self.arm(memory, &registers, mask)?;
        let mut head = vec![0; CALLS];
        head[..8].copy_from_slice(&(self.guard_at() + arch::guard_code().2).to_le_bytes());
        head.extend_from_slice(&batch.calls);
        memory.write(data, &head)?;
        memory.write(batch.scratch_at, &batch.scratch)?;

        // In this order, and backwards at the end: with the registers of the program its own mask holds.
        let count = batch.names.len() as u64;
        let first = data + CALLS as u64;
        thread.set_registers(&registers.for_batch(self.base, batch.entry, first, count, self.trap_signal))?;
        thread.set_signal_mask(self.mask_for_us())?;
        let heal_at = self.base + arch::batch_code().1;
        let calls_at = data + CALLS as u64;
        Ok(InFlight {
            running: thread.resume()?,
            batch,
            registers,
            mask,
            calls_at,
            heal_at,
            trap_signal: self.trap_signal,
        })
    }
}

/// A batch that is being run.
#[derive(Debug)]
#[must_use = "the thread must be waited for"]
pub struct InFlight {
    running: Running,
    batch: Batch,
    registers: Registers,
    mask: u64,
    calls_at: u64,
    heal_at: u64,
    trap_signal: i32,
}

impl InFlight {
    /// Waits for the end of the batch.
    ///
    /// # Errors
    /// [`TraceError::Gone`] when the process ends meanwhile.
    pub fn finish(self, memory: &Memory) -> Result<(Stopped, Outcome), TraceError> {
        let Self { running, batch, registers, mask, calls_at, heal_at, trap_signal } = self;
        let (thread, clones) = run_to_trap(running, trap_signal, heal_at)?;
        thread.set_signal_mask(mask)?;
        thread.set_registers(&registers)?;

        let mut calls = batch.calls;
        memory.read(calls_at, &mut calls)?;
        let results = calls
            .chunks_exact(CALL_BYTES)
            .filter_map(|call| call[56..64].try_into().ok().map(i64::from_le_bytes))
            .collect();
        let mut scratch = batch.scratch;
        memory.read(batch.scratch_at, &mut scratch)?;
        let outcome =
            Outcome { tid: thread.tid(), results, names: batch.names, scratch, scratch_at: batch.scratch_at, clones };
        Ok((thread, outcome))
    }
}

/// Makes one system call at the instruction `at`, by registers alone. Registers and signal mask are given back.
fn call_at(thread: Stopped, at: u64, number: i64, args: [u64; 6]) -> Result<(Stopped, i64), TraceError> {
    let registers = thread.registers()?;
    let mask = thread.signal_mask()?;
    thread.set_signal_mask(u64::MAX)?;
    thread.set_registers(&registers.for_call(at, number, args))?;
    let thread = to_syscall_stop(thread)?;
    let thread = to_syscall_stop(thread)?;
    let result = thread.registers()?.result();
    thread.set_registers(&registers)?;
    let thread = to_interrupt_stop(thread)?;
    thread.set_signal_mask(mask)?;
    Ok((thread, result))
}

/// Lets a thread begin a wait at the system call instruction `at` and interrupts it at once: the kernel then holds a
/// restart block for it, as for a wait that a stop interrupted. Gives the call's result: `-ERESTART_RESTARTBLOCK` (-516),
/// or the end of a wait that had nothing to wait for. The thread's registers are whatever the call left.
///
/// # Errors
/// [`TraceError::Gone`] when it has ended.
pub fn begin_wait(thread: Stopped, at: u64, number: i64, args: [u64; 6]) -> Result<(Stopped, i64), TraceError> {
    thread.set_registers(&thread.registers()?.for_call(at, number, args))?;
    let thread = to_syscall_stop(thread)?;
    thread.interrupt()?;
    let thread = to_syscall_stop(thread)?;
    let result = thread.registers()?.result();
    Ok((to_interrupt_stop(thread)?, result))
}

fn to_syscall_stop(mut thread: Stopped) -> Result<Stopped, TraceError> {
    let mut signal = 0;
    loop {
        let (stopped, stop) = wait_stop(thread.deliver_to_syscall(signal)?)?;
        if stop == Stop::Syscall {
            return Ok(stopped);
        }
        signal = unblockable(stop);
        thread = stopped;
    }
}

/// From a system call stop to one in which the kernel looks for signals (`get_signal`): only on the way out of that does
/// it make an interrupted call again.
fn to_interrupt_stop(mut thread: Stopped) -> Result<Stopped, TraceError> {
    thread.interrupt()?;
    let mut signal = 0;
    loop {
        let (stopped, stop) = wait_stop(thread.deliver(signal)?)?;
        if matches!(stop, Stop::Interrupt | Stop::Group(_)) {
            return Ok(stopped);
        }
        signal = unblockable(stop);
        thread = stopped;
    }
}

/// The signal to go on with after a stop. SIGSTOP cannot be blocked: taken here, it would be lost. Delivered, the
/// process is stopped as soon as it is let go; until then its thread works on for us.
fn unblockable(stop: Stop) -> i32 {
    if stop == Stop::Signal(libc::SIGSTOP) { libc::SIGSTOP } else { 0 }
}

/// Waits until the thread has sent itself the trap signal, with the threads that it made meanwhile.
fn run_to_trap(mut running: Running, trap_signal: i32, trap_at: u64) -> Result<(Stopped, Vec<Tid>), TraceError> {
    let mut clones = Vec::new();
    loop {
        let (stopped, stop) = wait_stop(running)?;
        match stop {
            Stop::Signal(signal) if signal == trap_signal && stopped.registers()?.ip() == trap_at => {
                return Ok((stopped, clones));
            }
            Stop::Clone(tid) => clones.push(tid),
            _ => {}
        }
        running = stopped.deliver(unblockable(stop))?;
    }
}

fn wait_stop(running: Running) -> Result<(Stopped, Stop), TraceError> {
    let tid = running.tid();
    match running.wait()? {
        Event::Stopped(stopped, stop) => Ok((stopped, stop)),
        Event::Ended(_) => Err(TraceError::Gone { tid }),
    }
}

fn checked(call: &'static str, tid: Tid, result: i64) -> Result<i64, TraceError> {
    if (-4095..0).contains(&result) {
        let errno = i32::try_from(-result).unwrap_or(libc::EIO);
        return Err(TraceError::Remote { call, tid, source: io::Error::from_raw_os_error(errno) });
    }
    Ok(result)
}

impl Batch {
    /// Adds a call and says which it is. `name` is for messages.
    pub fn call(&mut self, name: &'static str, number: i64, args: &[u64]) -> usize {
        let mut words = [0_u64; 8];
        words[0] = number.cast_unsigned();
        words[1..=args.len()].copy_from_slice(args);
        for word in words {
            self.calls.extend_from_slice(&word.to_le_bytes());
        }
        self.names.push(name);
        self.names.len() - 1
    }

    /// Lets the thread use an AMX tile first, so that its tile registers can be set afterwards.
    pub fn use_tiles(&mut self) {
        self.entry = arch::tiles_entry();
    }

    /// Puts bytes where the calls can point to, and says at which address (aligned to 16).
    pub fn data(&mut self, bytes: &[u8]) -> u64 {
        self.scratch.resize(self.scratch.len().next_multiple_of(16), 0);
        let at = self.scratch_at + self.scratch.len() as u64;
        self.scratch.extend_from_slice(bytes);
        at
    }

    /// Keeps zeroed room for a call's output.
    pub fn space(&mut self, len: usize) -> u64 {
        self.data(&vec![0; len])
    }

    /// A path or another string, ended by a zero byte.
    pub fn string(&mut self, bytes: &[u8]) -> u64 {
        let mut with_zero = bytes.to_vec();
        with_zero.push(0);
        self.data(&with_zero)
    }

    /// Whether `calls` more calls with `bytes` more data fit.
    #[must_use]
    pub fn has_room(&self, calls: usize, bytes: usize) -> bool {
        self.names.len() + calls <= self.calls_capacity && self.scratch.len() + bytes + 16 <= self.scratch_capacity
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

impl Outcome {
    /// The result of a call, an errno as an error.
    ///
    /// # Errors
    /// [`TraceError::Remote`] with the errno.
    pub fn result(&self, call: usize) -> Result<u64, TraceError> {
        checked(self.names[call], self.tid, self.results[call]).map(i64::cast_unsigned)
    }

    /// The raw result of a call.
    #[must_use]
    pub fn raw(&self, call: usize) -> i64 {
        self.results[call]
    }

    /// Fails with the first call that failed.
    ///
    /// # Errors
    /// [`TraceError::Remote`] with its name and errno.
    pub fn all(&self) -> Result<(), TraceError> {
        (0..self.results.len()).try_for_each(|call| self.result(call).map(drop))
    }

    /// The bytes at an address that [`Batch::data`] or [`Batch::space`] gave out, as the calls left them.
    #[must_use]
    pub fn bytes(&self, at: u64, len: usize) -> &[u8] {
        let start = usize_of(at - self.scratch_at);
        &self.scratch[start..start + len]
    }

    /// A word there.
    #[must_use]
    pub fn word(&self, at: u64) -> u64 {
        self.bytes(at, 8).try_into().map(u64::from_le_bytes).unwrap_or_default()
    }

    /// A half word there.
    #[must_use]
    pub fn half(&self, at: u64) -> u32 {
        self.bytes(at, 4).try_into().map(u32::from_le_bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
