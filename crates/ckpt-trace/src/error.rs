use std::io;

use crate::Tid;

/// What can go wrong between a tracer and its tracee.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The thread died (or was reaped) under our hands: ESRCH, or an exit reported by `waitpid`.
    #[error("thread {tid} has ended")]
    Gone {
        /// The thread.
        tid: Tid,
    },
    /// The kernel did not let us trace: another user's, not dumpable, Yama, or traced already.
    #[error("not permitted to trace {tid}")]
    Denied {
        /// The thread.
        tid: Tid,
    },
    /// A system call of the tracer failed.
    #[error("{call} on {tid}: {source}")]
    Call {
        /// The system call or ptrace request.
        call: &'static str,
        /// The thread or process that it was about.
        tid: Tid,
        /// The errno.
        source: io::Error,
    },
    /// A system call that the tracee made for us failed.
    #[error("{call} inside {tid}: {source}")]
    Remote {
        /// The system call.
        call: &'static str,
        /// The tracee.
        tid: Tid,
        /// The errno that it got.
        source: io::Error,
    },
    /// The tracee's memory at an address could not be read or written.
    #[error("memory of {tid} at {addr:#x}: {source}")]
    Memory {
        /// The tracee.
        tid: Tid,
        /// Where.
        addr: u64,
        /// The errno.
        source: io::Error,
    },
    /// No executable page of the tracee holds a system call instruction.
    #[error("process {tid} has no system call instruction that could be borrowed")]
    NoSyscallInstruction {
        /// The process.
        tid: Tid,
    },
}

impl TraceError {
    /// From `errno` after `call` on `tid`: ESRCH is death, EPERM a refusal.
    pub(crate) fn last(call: &'static str, tid: Tid) -> Self {
        Self::from_io(call, tid, io::Error::last_os_error())
    }

    pub(crate) fn from_io(call: &'static str, tid: Tid, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ESRCH) => Self::Gone { tid },
            Some(libc::EPERM) if call == "PTRACE_SEIZE" => Self::Denied { tid },
            _ => Self::Call { call, tid, source },
        }
    }

    /// Whether the tracee's end is the reason.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }

    /// The errno behind it, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Call { source, .. } | Self::Remote { source, .. } | Self::Memory { source, .. } => {
                source.raw_os_error()
            }
            Self::Gone { .. } => Some(libc::ESRCH),
            Self::Denied { .. } => Some(libc::EPERM),
            Self::NoSyscallInstruction { .. } => None,
        }
    }
}
