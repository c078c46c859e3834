//! What a process holds: one file per kind, what is captured beside how it is rebuilt.
//!
//! A kind's state is plain data that goes into the image as JSON. Capturing reads it from `/proc`, by ptrace, or by
//! calls that the tracee makes (they are asked for in a batch and answered together); rebuilding is calls that the new
//! process makes, or what its tracer does to it. What a kind cannot save it refuses by name.

pub mod bytes;
pub mod clocks;
pub mod credentials;
pub mod descriptors;
pub mod events;
pub mod file_table;
pub mod files;
pub mod machine;
pub mod memory;
pub mod pipes;
pub mod process;
pub mod signals;
pub mod sockets;
pub mod terminal;
pub mod threads;
pub mod timers;
#[cfg(test)]
pub(crate) mod tracee;
pub mod vdso;

use serde::{Deserialize, Serialize};

/// Everything but the memory's layout and contents: one record of the image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessState {
    /// Attributes of the process as a whole.
    pub process: process::ProcessAttributes,
    /// Who it runs as.
    pub credentials: credentials::Credentials,
    /// Its threads, the first one first.
    pub threads: Vec<threads::ThreadState>,
    /// What it does on signals, and which wait for the process.
    pub signals: signals::SignalState,
    /// Interval timers and POSIX timers.
    pub timers: timers::TimerState,
    /// Its open descriptors.
    pub descriptors: descriptors::DescriptorState,
    /// Its clocks.
    pub clocks: clocks::ClockState,
}

/// What stands at the front of an image: where it was made, and what memory there will be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    /// The machine that the image was made on.
    pub machine: machine::Machine,
    /// The files that mappings and descriptors refer to.
    pub files: Vec<files::FileState>,
    /// The processes; one so far.
    pub processes: Vec<ProcessLayout>,
}

/// One process in the layout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessLayout {
    /// Its id, as it knows it itself.
    pub pid: i32,
    /// Its name (`comm`).
    pub name: bytes::Bytes,
    /// Its command line.
    pub command: Vec<bytes::Bytes>,
    /// Its memory.
    pub memory: memory::MemoryState,
}
