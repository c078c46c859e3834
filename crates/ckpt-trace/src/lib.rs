//! Processes under ptrace, as types: seize, stop, registers, memory, and system calls made by the tracee.
//!
//! This is the one crate with unsafe code, and it knows nothing of images. What is particular to a processor
//! stays in [`arch`]. A stop is a type: [`Stopped`] is neither `Clone` nor `Copy`, and resuming consumes it, so a
//! ptrace request on a running thread does not compile. A tracee can die at any call: that is
//! [`TraceError::Gone`], mapped in one place.

pub mod arch;
mod error;
mod memory;
mod remote;
pub mod sys;
mod take_signal;
mod thread;
#[cfg(test)]
mod tracee;

pub use arch::Registers;
pub use error::TraceError;
pub use memory::{Memory, Span, usize_of};
pub use remote::{Batch, CallSite, InFlight, Injection, Outcome, begin_wait};
pub use take_signal::take_signal;
pub use thread::{Event, Running, SeizeOptions, SigInfo, SigQueue, Stop, Stopped};

/// The id of a thread as the tracer sees it (in a nest the tracee sees another number).
pub type Tid = i32;

/// The size of a page on every architecture that is supported here.
pub const PAGE: u64 = 4096;
