//! A thread under ptrace: running, or stopped.

use std::io;
use std::mem::ManuallyDrop;

use crate::arch::{self, Registers};
use crate::{Tid, TraceError};

/// A raw `siginfo_t`, as the kernel keeps it (128 bytes, `include/uapi/asm-generic/siginfo.h`).
pub type SigInfo = [u8; 128];

/// Which queue of pending signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigQueue {
    /// Sent to the thread.
    Thread,
    /// Sent to the whole process.
    Process,
}

/// How a thread is seized.
#[derive(Debug, Clone, Copy, Default)]
pub struct SeizeOptions {
    /// The tracee dies with its tracer: for a process of our own making only.
    pub kill_on_exit: bool,
}

/// Why a tracee stopped (ptrace(2), "Stopped tracees").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// `PTRACE_INTERRUPT`, or the first stop of a new thread.
    Interrupt,
    /// The process is stopped by this signal (group-stop).
    Group(i32),
    /// This signal is about to be delivered.
    Signal(i32),
    /// At the entry to or the exit from a system call.
    Syscall,
    /// It made a thread or a process: the id as the tracer sees it.
    Clone(Tid),
}

/// What `waitpid` said of a tracee.
#[derive(Debug)]
pub enum Event {
    /// It stopped.
    Stopped(Stopped, Stop),
    /// It ended: the raw wait status.
    Ended(i32),
}

/// Whose a tracee is: what happens to it when it is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The user's: it is let go.
    User,
    /// Ours, the first thread of a process of our own making: it is killed.
    Us,
    /// Ours, another thread of such a process: it is killed and collected.
    UsAsThread,
}

/// A traced thread that runs. It can only be interrupted and waited for.
#[derive(Debug)]
#[must_use = "a tracee that is dropped running cannot be waited for again"]
pub struct Running {
    tid: Tid,
    owner: Owner,
}

/// A traced thread that is stopped. Dropping it lets it go (`PTRACE_DETACH`), or kills it if its process is of our own
/// making: such a one is only let go by [`Stopped::detach`].
#[derive(Debug)]
pub struct Stopped {
    tid: Tid,
    owner: Owner,
}

impl Running {
    /// Begins to trace a thread without stopping it. Threads that it makes are traced as well.
    ///
    /// # Errors
    /// [`TraceError::Denied`] where the kernel does not permit it, [`TraceError::Gone`] when it has ended.
    pub fn seize(tid: Tid, options: SeizeOptions) -> Result<Self, TraceError> {
        let mut flags = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE;
        if options.kill_on_exit {
            flags |= libc::PTRACE_O_EXITKILL;
        }
        request("PTRACE_SEIZE", libc::PTRACE_SEIZE, tid, 0, u64::from(flags.unsigned_abs()))?;
        Ok(Self { tid, owner: if options.kill_on_exit { Owner::Us } else { Owner::User } })
    }

    /// A thread that the kernel attached for us because its maker is traced (`PTRACE_O_TRACECLONE`), with the maker's
    /// options.
    pub fn attached(tid: Tid, options: SeizeOptions) -> Self {
        Self { tid, owner: if options.kill_on_exit { Owner::UsAsThread } else { Owner::User } }
    }

    /// The thread's id.
    #[must_use]
    pub fn tid(&self) -> Tid {
        self.tid
    }

    /// Asks the thread to stop; [`Running::wait`] tells when it has.
    ///
    /// # Errors
    /// [`TraceError::Gone`] when it has ended.
    pub fn interrupt(&self) -> Result<(), TraceError> {
        request("PTRACE_INTERRUPT", libc::PTRACE_INTERRUPT, self.tid, 0, 0).map(drop)
    }

    /// Waits until the thread stops or ends.
    ///
    /// # Errors
    /// [`TraceError::Gone`] when it was reaped by someone else.
    pub fn wait(self) -> Result<Event, TraceError> {
        loop {
            if let Some(status) = wait_status(self.tid, 0)? {
                return self.event(status);
            }
        }
    }

    /// As [`Running::wait`], but does not wait: gives itself back where nothing has happened.
    ///
    /// # Errors
    /// [`TraceError::Gone`] when it was reaped by someone else.
    pub(crate) fn poll(self) -> Result<Result<Event, Self>, TraceError> {
        match wait_status(self.tid, libc::WNOHANG)? {
            Some(status) => self.event(status).map(Ok),
            None => Ok(Err(self)),
        }
    }

    fn event(self, status: i32) -> Result<Event, TraceError> {
        if !libc::WIFSTOPPED(status) {
            return Ok(Event::Ended(status));
        }
        let stopped = Stopped { tid: self.tid, owner: self.owner };
        let signal = libc::WSTOPSIG(status);
        let stop = match status >> 16 {
            libc::PTRACE_EVENT_STOP if signal == libc::SIGTRAP => Stop::Interrupt,
            libc::PTRACE_EVENT_STOP => Stop::Group(signal),
            libc::PTRACE_EVENT_CLONE => Stop::Clone(stopped.event_message()?),
            _ if signal == libc::SIGTRAP | 0x80 => Stop::Syscall,
            _ => Stop::Signal(signal),
        };
        Ok(Event::Stopped(stopped, stop))
    }
}

impl Stopped {
    /// The thread's id.
    #[must_use]
    pub fn tid(&self) -> Tid {
        self.tid
    }

    /// Lets the thread run on, still traced, without delivering a signal.
    ///
    /// # Errors
    /// [`TraceError::Gone`] when it has ended.
    pub fn resume(self) -> Result<Running, TraceError> {
        self.go("PTRACE_CONT", libc::PTRACE_CONT, 0)
    }

    /// Lets the thread run on with this signal, which its stop was about.
    ///
    /// # Errors
    /// [`TraceError::Gone`] when it has ended.
    pub fn deliver(self, signal: i32) -> Result<Running, TraceError> {
        self.go("PTRACE_CONT", libc::PTRACE_CONT, signal)
    }

    /// Lets the thread run on to the next entry to or exit from a system call, with this signal if its stop was about one
    /// (else 0).
    pub(crate) fn deliver_to_syscall(self, signal: i32) -> Result<Running, TraceError> {
        self.go("PTRACE_SYSCALL", libc::PTRACE_SYSCALL, signal)
    }

    /// Lets the thread execute one instruction, after delivering `signal` if its stop was about one (else 0).
    ///
    /// # Errors
    /// [`TraceError::Gone`] when it has ended.
    pub fn step(self, signal: i32) -> Result<Running, TraceError> {
        self.go("PTRACE_SINGLESTEP", libc::PTRACE_SINGLESTEP, signal)
    }

    fn go(self, name: &'static str, how: u32, signal: i32) -> Result<Running, TraceError> {
        let this = ManuallyDrop::new(self);
        request(name, how, this.tid, 0, u64::from(signal.unsigned_abs()))?;
        Ok(Running { tid: this.tid, owner: this.owner })
    }

    /// Ends the tracing: the thread runs on by itself (or stays stopped if its process was stopped by a signal).
    ///
    /// # Errors
    /// [`TraceError::Gone`] when it has ended.
    pub fn detach(self) -> Result<(), TraceError> {
        let this = ManuallyDrop::new(self);
        request("PTRACE_DETACH", libc::PTRACE_DETACH, this.tid, 0, 0).map(drop)
    }

    /// Asks a stopped thread to stop again as soon as it is resumed.
    ///
    /// # Errors
    /// [`TraceError::Gone`] when it has ended.
    pub fn interrupt(&self) -> Result<(), TraceError> {
        request("PTRACE_INTERRUPT", libc::PTRACE_INTERRUPT, self.tid, 0, 0).map(drop)
    }

    /// Waits, without resuming the thread, until it is ended by something else: SIGKILL, or its process's exit.
    pub fn wait_for_end(self) {
        let mut last = self;
        loop {
            let this = ManuallyDrop::new(last);
            // A stop that is reported in between is the exit's own; anything else is the end.
            match (Running { tid: this.tid, owner: this.owner }).wait() {
                Ok(Event::Stopped(thread, _)) => last = thread,
                Ok(Event::Ended(_)) | Err(_) => return,
            }
        }
    }

    /// Ends the whole process with this exit status, at the system call instruction `syscall_at`, without letting any
    /// thread run on. The other threads stay stopped until they die of it.
    ///
    /// # Errors
    /// [`TraceError::Gone`] when it has ended already.
    pub fn exit_process(self, syscall_at: u64, status: i32) -> Result<(), TraceError> {
        self.set_signal_mask(u64::MAX)?;
        let args = [u64::from(status.unsigned_abs()), 0, 0, 0, 0, 0];
        self.set_registers(&self.registers()?.for_call(syscall_at, libc::SYS_exit_group, args))?;
        self.detach()
    }

    /// Ends this one thread, at the system call instruction `syscall_at`, and waits until it is gone.
    ///
    /// # Errors
    /// [`TraceError::Gone`] when it has ended already.
    pub fn exit_thread(self, syscall_at: u64) -> Result<(), TraceError> {
        self.set_signal_mask(u64::MAX)?;
        self.set_registers(&self.registers()?.for_call(syscall_at, libc::SYS_exit, [0; 6]))?;
        let mut running = self.resume()?;
        while let Event::Stopped(thread, _) = running.wait()? {
            running = thread.resume()?;
        }
        Ok(())
    }

    fn event_message(&self) -> Result<Tid, TraceError> {
        let mut message: libc::c_ulong = 0;
        request("PTRACE_GETEVENTMSG", libc::PTRACE_GETEVENTMSG, self.tid, 0, (&raw mut message) as u64)?;
        Tid::try_from(message).map_err(|_| TraceError::Gone { tid: self.tid })
    }

    /// The general registers.
    ///
    /// # Errors
    /// [`TraceError::Gone`] when it has ended.
    pub fn registers(&self) -> Result<Registers, TraceError> {
        let mut words = [0_u64; arch::REGISTER_WORDS];
        let got = self.get_regset(arch::NT_PRSTATUS, as_bytes_mut(&mut words))?;
        if got != size_of_val(&words) {
            // A 32-bit program's set is shorter.
            return Err(TraceError::from_io(
                "read the registers of a 32-bit program",
                self.tid,
                io::Error::from_raw_os_error(libc::ENOEXEC),
            ));
        }
        Ok(Registers::from_words(words))
    }

    /// Sets the general registers.
    ///
    /// # Errors
    /// EIO for segment values that the kernel does not take.
    pub fn set_registers(&self, registers: &Registers) -> Result<(), TraceError> {
        let mut words = registers.to_words();
        self.set_regset(arch::NT_PRSTATUS, as_bytes_mut(&mut words))
    }

    /// The extended state (x87, SSE, AVX ...: the XSAVE area), in the kernel's standard format.
    ///
    /// # Errors
    /// [`TraceError::Gone`] when it has ended.
    pub fn extended_state(&self) -> Result<Vec<u8>, TraceError> {
        let mut buffer = vec![0; arch::EXTENDED_STATE_MAX];
        match self.get_regset(arch::NT_EXTENDED, &mut buffer) {
            Ok(got) => buffer.truncate(got),
            Err(error) if lacks_regset(&error) => {
                let got = self.get_regset(arch::NT_BASIC, &mut buffer)?;
                buffer.truncate(got);
                arch::extend_basic_state(&mut buffer);
            }
            Err(error) => return Err(error),
        }
        Ok(buffer)
    }

    /// Sets the extended state.
    ///
    /// # Errors
    /// EINVAL or EFAULT when its layout is not this machine's.
    pub fn set_extended_state(&self, state: &[u8]) -> Result<(), TraceError> {
        match self.set_regset(arch::NT_EXTENDED, &mut state.to_vec()) {
            Err(error) if lacks_regset(&error) => {
                let basic = state.get(..arch::BASIC_STATE).unwrap_or(state);
                self.set_regset(arch::NT_BASIC, &mut basic.to_vec())
            }
            result => result,
        }
    }

    fn get_regset(&self, set: u32, buffer: &mut [u8]) -> Result<usize, TraceError> {
        let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        request("PTRACE_GETREGSET", libc::PTRACE_GETREGSET, self.tid, u64::from(set), (&raw mut iov) as u64)?;
        Ok(iov.iov_len)
    }

    fn set_regset(&self, set: u32, buffer: &mut [u8]) -> Result<(), TraceError> {
        let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        request("PTRACE_SETREGSET", libc::PTRACE_SETREGSET, self.tid, u64::from(set), (&raw mut iov) as u64).map(drop)
    }

    /// The blocked signals (bit n-1 is signal n). Inside `sigsuspend`, `ppoll` and the like: the mask that the program
    /// will have afterwards (`kernel/ptrace.c`, `ptrace_getsigmask`).
    ///
    /// # Errors
    /// [`TraceError::Gone`] when it has ended.
    pub fn signal_mask(&self) -> Result<u64, TraceError> {
        let mut mask = 0_u64;
        request("PTRACE_GETSIGMASK", libc::PTRACE_GETSIGMASK, self.tid, 8, (&raw mut mask) as u64)?;
        Ok(mask)
    }

    /// Sets the blocked signals.
    ///
    /// # Errors
    /// [`TraceError::Gone`] when it has ended.
    pub fn set_signal_mask(&self, mask: u64) -> Result<(), TraceError> {
        request("PTRACE_SETSIGMASK", libc::PTRACE_SETSIGMASK, self.tid, 8, (&raw const mask) as u64).map(drop)
    }

    /// The pending signals of a queue, oldest first, left where they are.
    ///
    /// # Errors
    /// [`TraceError::Gone`] when it has ended.
    pub fn pending_signals(&self, queue: SigQueue) -> Result<Vec<SigInfo>, TraceError> {
        #[repr(C)]
        struct PeekArgs {
            offset: u64,
            flags: u32,
            count: i32,
        }
        const AT_ONCE: u8 = 32;
        let mut all = Vec::new();
        loop {
            let mut part = [[0_u8; 128]; AT_ONCE as usize];
            let args = PeekArgs {
                offset: all.len() as u64,
                flags: u32::from(queue == SigQueue::Process),
                count: AT_ONCE.into(),
            };
            let got = request(
                "PTRACE_PEEKSIGINFO",
                libc::PTRACE_PEEKSIGINFO,
                self.tid,
                (&raw const args) as u64,
                part.as_mut_ptr() as u64,
            )?;
            let got = usize::try_from(got).unwrap_or_default().min(part.len());
            all.extend_from_slice(&part[..got]);
            if got < part.len() {
                return Ok(all);
            }
        }
    }

    /// The registered restartable-sequences area: address, length, signature; `None` without one, or on a kernel
    /// that does not tell (before 5.13).
    ///
    /// # Errors
    /// [`TraceError::Gone`] when it has ended.
    pub fn rseq(&self) -> Result<Option<(u64, u32, u32)>, TraceError> {
        const PTRACE_GET_RSEQ_CONFIGURATION: u32 = 0x420f;
        #[repr(C)]
        #[derive(Default)]
        struct Configuration {
            pointer: u64,
            size: u32,
            signature: u32,
            flags: u32,
            pad: u32,
        }
        let mut rseq = Configuration::default();
        let size = size_of::<Configuration>() as u64;
        match request(
            "PTRACE_GET_RSEQ_CONFIGURATION",
            PTRACE_GET_RSEQ_CONFIGURATION,
            self.tid,
            size,
            (&raw mut rseq) as u64,
        ) {
            Ok(_) if rseq.pointer != 0 => Ok(Some((rseq.pointer, rseq.size, rseq.signature))),
            Ok(_) => Ok(None),
            Err(TraceError::Call { source, .. }) if source.raw_os_error() == Some(libc::EIO) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a system call dispatcher is on (`PR_SET_SYSCALL_USER_DISPATCH`; kernels since 6.4 tell).
    ///
    /// # Errors
    /// [`TraceError::Gone`] when it has ended.
    pub fn has_syscall_dispatch(&self) -> Result<bool, TraceError> {
        const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: u32 = 0x4211;
        let mut config = [0_u64; 4];
        match request(
            "PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG",
            PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG,
            self.tid,
            size_of_val(&config) as u64,
            (&raw mut config) as u64,
        ) {
            Ok(_) => Ok(config[0] != 0),
            Err(TraceError::Call { source, .. }) if source.raw_os_error() == Some(libc::EIO) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What `waitpid` says of a thread: `None` where nothing has happened.
fn wait_status(tid: Tid, options: i32) -> Result<Option<i32>, TraceError> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a live int.
        let got = unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | options) };
        if got >= 0 {
            return Ok((got == tid).then_some(status));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ECHILD) => return Err(TraceError::Gone { tid }),
            _ => return Err(TraceError::from_io("waitpid", tid, error)),
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Best effort by nature: the tracee may have died, which is as good.
        if self.owner == Owner::User {
            let _ = request("PTRACE_DETACH", libc::PTRACE_DETACH, self.tid, 0, 0);
            return;
        }
        // SAFETY: takes only integers; the thread is ours and cannot have been collected by anyone else.
        unsafe { libc::syscall(libc::SYS_tkill, self.tid, libc::SIGKILL) };
        if self.owner == Owner::UsAsThread {
            let mut status = 0;
            // SAFETY: `status` is a live int.
            unsafe { libc::waitpid(self.tid, &raw mut status, libc::__WALL) };
        }
    }
}

fn as_bytes_mut(words: &mut [u64]) -> &mut [u8] {
    // SAFETY: any byte pattern is a valid u64 and a u64 has no padding; the length is the slice's own.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
}

/// Whether the processor has no such registers.
fn lacks_regset(error: &TraceError) -> bool {
    matches!(error, TraceError::Call { source, .. } if source.raw_os_error() == Some(libc::ENODEV))
}

/// One ptrace request. glibc's wrapper is variadic and treats PEEK specially, so the call is raw.
fn request(name: &'static str, request: u32, tid: Tid, addr: u64, data: u64) -> Result<i64, TraceError> {
    // SAFETY: every caller passes, for requests that read or write our memory, a pointer to a live object of the size
    // that the request takes.
    let result = unsafe { libc::syscall(libc::SYS_ptrace, u64::from(request), i64::from(tid), addr, data) };
    if result == -1 { Err(TraceError::last(name, tid)) } else { Ok(result) }
}

#[cfg(test)]
mod tests;
