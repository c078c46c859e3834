//! The departure: a program is frozen, its image written into a stream, and the program kept until its fate is decided.

use std::io::Write;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ckpt_image::{Codec, ImageWriter};
use ckpt_trace::{SigQueue, Stopped, arch};
use rustix::process::{Pid, Signal, kill_process};

use crate::capture::{Captured, capture};
use crate::checkpoint::{After, CheckpointReport, Unfinished};
use crate::freeze::Frozen;
use crate::pages::{PAGE_SIZE, Sink};
use crate::park::Parked;
use crate::proc::Status;
use crate::resource::file_table::Carry;
use crate::survey::{Survey, explain, look, patiently, survey};
use crate::{Error, Progress, cancel};

/// How to let a program depart.
#[derive(Debug, Clone, Default)]
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
    /// How far it is, to look at while the image is written.
    pub progress: Arc<Progress>,
}

impl DepartOptions {
    /// Which files with a name go along.
    pub(crate) fn carry(&self) -> Carry {
        Carry { mapped: self.self_contained, open: self.carry_files }
    }
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
/// Tracing belongs to a thread: it stays in that which froze the program. When that thread ends it is as if this was
/// dropped.
pub struct Departure {
    /// `None` when it has been ended.
    frozen: Option<Frozen>,
    /// What was read of it; of an adopted one nothing yet.
    captured: Option<Captured>,
    options: DepartOptions,
    report: DepartReport,
    parked: Option<Parked>,
    _of_its_thread: PhantomData<*const ()>,
}

/// What a stream is called in messages.
const STREAM: &str = "the image that was being sent";

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
    crate::raise_descriptor_limit();
    patiently(|| look(pid, options))?;
    leave(pid, sink, Path::new(STREAM), options, on_frozen)
}

/// As [`depart`], of a process that was looked at. `path` is what the sink is called.
///
/// # Errors
/// As [`depart`].
pub fn leave<W: Write + Send>(
    pid: i32,
    sink: W,
    path: &Path,
    options: &DepartOptions,
    on_frozen: &mut dyn FnMut(&Survey) -> Result<(), Error>,
) -> Result<Departure, Error> {
    let (frozen, captured) = freeze(pid, options)?;
    match write(&frozen, &captured, sink, path, options, on_frozen).map_err(|error| explain(pid, error)) {
        Ok(report) => Ok(Departure {
            frozen: Some(frozen),
            captured: Some(captured),
            options: options.clone(),
            report,
            parked: None,
            _of_its_thread: PhantomData,
        }),
        Err(error) => {
            frozen.thaw()?;
            Err(error)
        }
    }
}

/// Freezes a process and reads its state. One that has just then what cannot be saved runs on until it has not, or keeps it.
fn freeze(pid: i32, options: &DepartOptions) -> Result<(Frozen, Captured), Error> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let until = Instant::now() + PATIENCE;
    loop {
        let mut frozen = Frozen::freeze(pid).map_err(|error| explain(pid, error))?;
        let error = match cancel::check().and_then(|()| capture(&mut frozen, options)) {
            Ok(captured) => return Ok((frozen, captured)),
            Err(error) => explain(pid, error),
        };
        frozen.thaw()?;
        if Instant::now() >= until || !matches!(error, Error::Refused { is_passing: true, .. }) {
            return Err(error);
        }
        survey(pid, options)?;
    }
}

fn write<W: Write + Send>(
    frozen: &Frozen,
    captured: &Captured,
    sink: W,
    path: &Path,
    options: &DepartOptions,
    on_frozen: &mut dyn FnMut(&Survey) -> Result<(), Error>,
) -> Result<DepartReport, Error> {
    let capture = frozen.since.elapsed();
    on_frozen(&captured.survey())?;
    let (bytes, pages) = write_image(frozen, captured, sink, path, options)?;
    let write = frozen.since.elapsed().saturating_sub(capture);
    Ok(DepartReport { pid: frozen.pid, bytes, pages, threads: frozen.threads.len(), capture, write })
}

/// Writes a whole image: what a reader has to know before it can use memory comes before that. Gives its size in bytes and
/// the number of its pages.
fn write_image<W: Write + Send>(
    frozen: &Frozen,
    captured: &Captured,
    sink: W,
    path: &Path,
    options: &DepartOptions,
) -> Result<(u64, u64), Error> {
    let failed = |source| Error::Image { path: path.to_path_buf(), source };
    let writer = ImageWriter::new(sink, arch::ELF_MACHINE, PAGE_SIZE).map_err(failed)?;
    options.progress.expect(captured.own_memory);
    let mut sink = Sink { writer, path, codec: options.codec, progress: &options.progress };
    sink.writer.put_layout(&captured.layout).map_err(failed)?;
    sink.writer.put_state("process", &captured.state).map_err(failed)?;
    sink.put_files(&frozen.memory, &captured.contents)?;
    let regions = &captured.layout.processes[0].memory.regions;
    let (sink, pages) = sink.put_pages(frozen.pid, &frozen.memory, regions, &captured.shared_pages)?;
    let bytes = sink.writer.finish().map_err(failed)?.bytes;
    Ok((bytes, pages))
}

impl Departure {
    /// Takes over a parked program whose tracer has died: it is frozen again, by this thread.
    ///
    /// # Errors
    /// [`Error::Refused`] when it is not stopped.
    pub fn adopt(pid: i32) -> Result<Self, Error> {
        crate::raise_descriptor_limit();
        await_stop(pid)?;
        let mut frozen = Frozen::freeze(pid).map_err(|error| explain(pid, error))?;
        let parked = Parked::found(&mut frozen)?;
        let threads = frozen.threads.len();
        Ok(Self {
            frozen: Some(frozen),
            captured: None,
            // Whether its connections may be given up was decided when it departed; saved now, it would lose them in any case.
            options: DepartOptions { tcp_close: true, ..DepartOptions::default() },
            report: DepartReport { pid, bytes: 0, pages: 0, threads, capture: Duration::ZERO, write: Duration::ZERO },
            parked: Some(parked),
            _of_its_thread: PhantomData,
        })
    }

    /// What was sent.
    #[must_use]
    pub fn report(&self) -> &DepartReport {
        &self.report
    }

    /// For how long it has been frozen (an adopted one: since it was adopted).
    #[must_use]
    pub fn frozen_for(&self) -> Duration {
        self.frozen.as_ref().map(|frozen| frozen.since.elapsed()).unwrap_or_default()
    }

    /// Makes sure that the program does not run on should this process be killed: it is then stopped as by SIGSTOP,
    /// before any of its threads executes an instruction.
    ///
    /// A SIGCONT from anybody undoes that. Called again, it is made sure again.
    ///
    /// # Errors
    /// [`Error::Died`].
    pub fn park(&mut self) -> Result<(), Error> {
        let parked = self.parked.take();
        let frozen = self.frozen()?;
        self.parked = Some(match parked {
            Some(parked) => parked.renew(frozen)?,
            None => Parked::park(frozen)?,
        });
        Ok(())
    }

    /// Lets the program run on; it does not notice that it was frozen, nor that it was parked. One that was stopped before
    /// is stopped again.
    ///
    /// # Errors
    /// [`Error::Died`].
    pub fn resume(mut self) -> Result<(), Error> {
        let pid = self.report.pid;
        if let Some(parked) = self.parked.take() {
            parked.undo(self.frozen()?).map_err(|error| explain(pid, error))?;
        }
        self.frozen.take().ok_or(Error::Died { pid })?.thaw()
    }

    /// Ends the program (SIGKILL), and returns when it has ended.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn end(self) -> Result<(), Error> {
        self.end_by(After::Kill)
    }

    /// Lets it go on or ends it.
    pub(crate) fn end_by(mut self, how: After) -> Result<(), Error> {
        let Some(frozen) = self.frozen.take() else { return Ok(()) };
        let syscall_at = self.captured.as_ref().map(|captured| captured.syscall_at);
        end(frozen, how, syscall_at)
    }

    /// Writes a complete image file from the frozen program, then ends it. After an error it is frozen as before, and
    /// another file can be tried.
    ///
    /// # Errors
    /// As [`checkpoint`](crate::checkpoint).
    pub fn save(&mut self, file: &Path) -> Result<CheckpointReport, Error> {
        let began = Instant::now();
        let pid = self.report.pid;
        let unfinished = Unfinished::create(file)?;
        let written = self.write_again(&unfinished, file).map_err(|error| explain(pid, error));
        let (bytes, pages, threads) = written?;
        unfinished.publish()?;
        let pause = self.frozen_for();
        if let Some(frozen) = self.frozen.take() {
            end(frozen, After::Kill, None)?;
        }
        Ok(CheckpointReport { pid, path: file.to_path_buf(), bytes, pages, threads, pause, total: began.elapsed() })
    }

    fn write_again(&mut self, unfinished: &Unfinished, file: &Path) -> Result<(u64, u64, usize), Error> {
        let frozen = self.frozen.as_mut().ok_or(Error::Died { pid: self.report.pid })?;
        let captured = match &mut self.captured {
            Some(captured) => {
                renew_pending(frozen, captured, self.parked.as_ref())?;
                captured
            }
            none => none.insert(capture(frozen, &self.options)?),
        };
        let (bytes, pages) = write_image(frozen, captured, &unfinished.file, file, &self.options)?;
        Ok((bytes, pages, frozen.threads.len()))
    }

    fn frozen(&mut self) -> Result<&mut Frozen, Error> {
        self.frozen.as_mut().ok_or(Error::Died { pid: self.report.pid })
    }
}

impl std::fmt::Debug for Departure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { report, parked, .. } = self;
        out.debug_struct("Departure").field("report", report).field("parked", parked).finish_non_exhaustive()
    }
}

/// Of all that was read of a frozen process only the signals that wait for it can have become more.
fn renew_pending(frozen: &Frozen, captured: &mut Captured, parked: Option<&Parked>) -> Result<(), Error> {
    let state = &mut captured.state;
    let read =
        |thread: &Stopped, queue| Ok::<_, Error>(thread.pending_signals(queue)?.iter().map(hex::encode).collect());
    for (thread, state) in frozen.threads.iter().zip(&mut state.threads) {
        state.pending = read(thread, SigQueue::Thread)?;
    }
    state.signals.pending = read(&frozen.threads[0], SigQueue::Process)?;
    if let Some(parked) = parked {
        parked.amend(state);
    }
    Ok(())
}

/// Waits until a process is stopped whose tracer is about to die or has just died.
fn await_stop(pid: i32) -> Result<(), Error> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let began = Instant::now();
    loop {
        let status =
            Status::of(pid).map_err(|error| if error.is_gone() { Error::NoProcess { pid } } else { error.into() })?;
        if status.tracer_pid == 0 && status.state == 'T' {
            return Ok(());
        }
        if began.elapsed() > PATIENCE || matches!(status.state, 'Z' | 'X') {
            let what = if status.tracer_pid == 0 { "is not stopped" } else { "is being traced by another process" };
            return Err(Error::refused(pid, format!("it {what}"), "it was not left by a move that was broken off"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Ends a frozen process whose image is complete, and waits until it has ended.
fn end(frozen: Frozen, how: After, syscall_at: Option<u64>) -> Result<(), Error> {
    let pid = frozen.pid;
    let mut threads = frozen.threads.into_iter();
    let first = threads.next();
    match (how, first, syscall_at) {
        (After::Exit(status), Some(first), Some(syscall_at)) => first.exit_process(syscall_at, status)?,
        (_, first, _) => {
            if let Some(pid) = Pid::from_raw(pid) {
                kill_process(pid, Signal::KILL)
                    .map_err(|error| Error::System { what: format!("kill process {pid:?}"), source: error.into() })?;
            }
            threads.by_ref().for_each(Stopped::wait_for_end);
            first.into_iter().for_each(Stopped::wait_for_end);
        }
    }
    threads.for_each(Stopped::wait_for_end);
    Ok(())
}
