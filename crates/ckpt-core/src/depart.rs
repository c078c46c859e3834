//! The departure: a program is frozen, its image written into a stream, and the program kept until its fate is decided.

use std::io::Write;
use std::marker::PhantomData;
use std::path::Path;
use std::time::Duration;

use ckpt_image::Codec;

use crate::Error;
use crate::checkpoint::CheckpointReport;
use crate::survey::Survey;

/// How to let a program depart.
#[derive(Debug, Clone, Copy, Default)]
pub struct DepartOptions {
    /// How memory is compressed.
    pub codec: Codec,
    /// The image carries the executable, libraries and other mapped files as well.
    pub self_contained: bool,
    /// The image carries the contents of all open files.
    pub carry_files: bool,
    /// Connected TCP sockets become such that their peers have reset; else they are refused.
    pub tcp_close: bool,
    /// A child of the process that is not part of it: the engine, when the process started it itself.
    pub ignored_child: Option<i32>,
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DepartReport {
    /// The process, as the caller sees it.
    pub pid: i32,
    /// The size of the image in bytes.
    pub bytes: u64,
    /// How many pages of memory it holds.
    pub pages: u64,
    /// How many threads.
    pub threads: usize,
    /// From the freeze until everything but memory was read.
    pub capture: Duration,
    /// From then, with what the caller did first, until the image was written.
    pub write: Duration,
}

/// A frozen program whose image has been written. Dropped, it runs on as if nothing had happened; parked, it stays
/// stopped (see [`Departure::adopt`]).
///
/// Tracing belongs to a thread: it stays in that which froze the program. When that thread ends the program is let go.
#[derive(Debug)]
pub struct Departure {
    report: DepartReport,
    _of_its_thread: PhantomData<*const ()>,
}

/// Freezes a process, tells `on_frozen` what it holds now, writes its image into `sink` and keeps it frozen.
///
/// Nothing is written before `on_frozen` has returned. On any error the program runs on as if nothing had happened.
///
/// # Errors
/// See [`Error`]; [`Error::Cancelled`] by [`cancel_flag`](crate::cancel_flag).
pub fn depart<W: Write + Send>(
    pid: i32,
    sink: W,
    options: &DepartOptions,
    on_frozen: &mut dyn FnMut(&Survey) -> Result<(), Error>,
) -> Result<Departure, Error> {
    let _ = (pid, sink, options, on_frozen);
    unimplemented!("in progress")
}

impl Departure {
    /// Takes over a parked program whose tracer has died: it is frozen again, by this thread.
    ///
    /// # Errors
    /// [`Error::Refused`] when it is not stopped.
    pub fn adopt(pid: i32) -> Result<Self, Error> {
        let _ = pid;
        unimplemented!("in progress")
    }

    /// What was sent.
    #[must_use]
    pub fn report(&self) -> &DepartReport {
        &self.report
    }

    /// For how long it has been frozen.
    #[must_use]
    pub fn frozen_for(&self) -> Duration {
        unimplemented!("in progress")
    }

    /// Makes sure that the program does not run on should this process be killed: it is then stopped as by SIGSTOP,
    /// before any of its threads executes an instruction.
    ///
    /// # Errors
    /// [`Error::Died`].
    pub fn park(&mut self) -> Result<(), Error> {
        unimplemented!("in progress")
    }

    /// Lets the program run on; it does not notice that it was frozen, nor that it was parked.
    ///
    /// # Errors
    /// [`Error::Died`].
    pub fn resume(self) -> Result<(), Error> {
        unimplemented!("in progress")
    }

    /// Ends the program (SIGKILL), and returns when it has ended.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn end(self) -> Result<(), Error> {
        unimplemented!("in progress")
    }

    /// Writes a complete image file from the frozen program, then ends it. After an error it is frozen as before, and
    /// another file can be tried.
    ///
    /// # Errors
    /// As [`checkpoint`](crate::checkpoint).
    pub fn save(&mut self, file: &Path) -> Result<CheckpointReport, Error> {
        let _ = file;
        unimplemented!("in progress")
    }
}
