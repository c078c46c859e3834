//! The checkpoint: look, freeze, read, write, let go.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ckpt_image::{Codec, ImageWriter};
use ckpt_trace::sys::{self, Shared};
use ckpt_trace::{TraceError, arch};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Serialize, Serializer};

use crate::capture::{Captured, capture};
use crate::freeze::Frozen;
use crate::pages::{PAGE_SIZE, Sink};
use crate::proc::{self, Stat, Status};
use crate::resource::file_table::Carry;
use crate::{Error, cancel};

/// What happens to the program when its image is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum After {
    /// It goes on.
    #[default]
    Continue,
    /// It is killed (SIGKILL).
    Kill,
    /// It ends by itself with this status, without running on.
    Exit(i32),
}

/// How to checkpoint.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckpointOptions {
    /// What happens to the program afterwards.
    pub after: After,
    /// How memory is compressed.
    pub codec: Codec,
    /// The image carries the executable, libraries and other mapped files as well.
    pub self_contained: bool,
    /// The image carries the contents of all open files, so that a restore can roll them back.
    pub carry_files: bool,
    /// A child of the process that is not part of it: the engine, when the process started it itself.
    pub ignored_child: Option<i32>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckpointReport {
    /// The process, as the caller sees it.
    pub pid: i32,
    /// The image.
    #[serde(serialize_with = "crate::resource::bytes::path::serialize")]
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// How many pages of memory it holds.
    pub pages: u64,
    /// How many threads.
    pub threads: usize,
    /// How long the program could not run.
    #[serde(rename = "pause_seconds", serialize_with = "seconds")]
    pub pause: Duration,
    /// How long the whole took.
    #[serde(rename = "total_seconds", serialize_with = "seconds")]
    pub total: Duration,
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// Saves a process and all its threads into a file.
///
/// The file appears under its name only when it is complete and on disk, readable by its owner alone. On any error the
/// process runs on as if nothing had happened, and no file is left.
///
/// # Errors
/// See [`Error`]; the kinds are told apart by [`Error::class`].
pub fn checkpoint(pid: i32, file: &Path, options: &CheckpointOptions) -> Result<CheckpointReport, Error> {
    let began = Instant::now();
    crate::raise_descriptor_limit();
    look(pid, options)?;
    let unfinished = Unfinished::create(file)?;
    let image = |source| Error::Image { path: file.to_path_buf(), source };
    let writer = ImageWriter::new(&unfinished.file, arch::ELF_MACHINE, PAGE_SIZE).map_err(image)?;
    let sink = Sink { writer, path: file, codec: options.codec };

    let mut frozen = Frozen::freeze(pid).map_err(|error| explain(pid, error))?;
    let saved = save(&mut frozen, sink, options).map_err(|error| explain(pid, error));
    let pause = frozen.since.elapsed();
    let (sink, captured, pages) = match saved {
        Ok(saved) => saved,
        Err(error) => {
            frozen.thaw()?;
            return Err(error);
        }
    };
    let threads = frozen.threads.len();
    let finish = |sink: Sink<'_, &File>| {
        let bytes = sink.writer.finish().map_err(image)?.bytes;
        unfinished.publish()?;
        Ok::<_, Error>(bytes)
    };
    let (bytes, pause) = match options.after {
        After::Continue => {
            frozen.thaw()?;
            (finish(sink)?, pause)
        }
        ending => {
            let bytes = finish(sink).inspect_err(|_| drop(std::mem::take(&mut frozen.threads)))?;
            end(frozen, ending, captured.syscall_at)?;
            (bytes, pause)
        }
    };
    Ok(CheckpointReport { pid, path: file.to_path_buf(), bytes, pages, threads, pause, total: began.elapsed() })
}

type Saved<'a> = (Sink<'a, &'a File>, Captured, u64);

fn save<'a>(frozen: &mut Frozen, sink: Sink<'a, &'a File>, options: &CheckpointOptions) -> Result<Saved<'a>, Error> {
    cancel::check()?;
    let carry = Carry { mapped: options.self_contained, open: options.carry_files };
    let mut captured = capture(frozen, carry)?;
    let mut sink = sink;
    let path = sink.path;
    let image = |source| Error::Image { path: path.to_path_buf(), source };
    sink.writer.put_layout(&captured.layout).map_err(image)?;
    let regions = &captured.layout.processes[0].memory.regions;
    let (mut sink, pages) = sink.put_pages(frozen.pid, &frozen.memory, regions, &captured.shared_pages)?;
    sink.put_files(&frozen.memory, std::mem::take(&mut captured.contents))?;
    sink.writer.put_state("process", &captured.state).map_err(image)?;
    Ok((sink, captured, pages))
}

/// Refuses what can be seen without stopping anything.
fn look(pid: i32, options: &CheckpointOptions) -> Result<(), Error> {
    let gone = |error: proc::ProcError| if error.is_gone() { Error::NoProcess { pid } } else { error.into() };
    if pid <= 0 {
        return Err(Error::NoProcess { pid });
    }
    let status = Status::of(pid).map_err(gone)?;
    let name = String::from_utf8_lossy(&status.name).into_owned();
    let refuse = |what: &str, advice: &str| Err(Error::refused(pid, format!("{name} {what}"), advice));
    if Stat::of(pid).map_err(gone)?.is_kernel_thread() {
        return refuse("is a thread of the kernel", "give the number of a program");
    }
    if status.tgid != pid {
        return refuse(&format!("is a thread of process {}", status.tgid), "give the number of the process");
    }
    if matches!(status.state, 'Z' | 'X') {
        return refuse("has ended and only waits to be collected (a zombie)", "there is nothing left to save");
    }
    if std::process::id().try_into() == Ok(pid) {
        return refuse("is the checkpoint itself", "give the number of another process");
    }
    let us = rustix::process::geteuid();
    if !us.is_root() && status.uid.iter().any(|uid| *uid != us.as_raw()) {
        return Err(Error::NotPermitted {
            what: format!("process {pid} ({name}) belongs to user {} and not to you", status.uid[0]),
            advice: "checkpoint it as that user or as root".to_owned(),
        });
    }
    if status.tracer_pid != 0 {
        let tracer = Status::of(status.tracer_pid).map(|tracer| String::from_utf8_lossy(&tracer.name).into_owned());
        let by = format!("is being traced by process {} ({})", status.tracer_pid, tracer.unwrap_or_default());
        let advice = if by.contains("(ckptctl") {
            "another checkpoint of it is under way; try again when that is done"
        } else {
            "detach the debugger first"
        };
        return refuse(&by, advice);
    }
    let ours = Status::of(rustix::process::getpid().as_raw_nonzero().get())?;
    if status.seccomp != 0 && (status.seccomp, status.seccomp_filters) != (ours.seccomp, ours.seccomp_filters) {
        return refuse(
            "has a seccomp filter, which cannot be saved",
            "run it without one, or run ckptctl inside the same container",
        );
    }
    if status.x86_features.iter().any(|feature| feature == "shstk") {
        return refuse(
            "has a shadow stack, which cannot be saved",
            "start it with GLIBC_TUNABLES=glibc.cpu.hwcaps=-SHSTK",
        );
    }
    let children = proc::tree::children(pid).map_err(gone)?;
    if let Some(child) = children.iter().find(|child| options.ignored_child != Some(**child)) {
        return refuse(
            &format!("has child processes ({child} for one), and only single processes can be saved"),
            "checkpoint when they have ended",
        );
    }
    let root = proc::tree::link(pid, "root").map_err(gone)?;
    if root != Path::new("/") {
        return refuse(&format!("has its root directory changed to {}", root.display()), "run it without chroot");
    }
    for tid in proc::tree::threads(pid).map_err(gone)?.into_iter().filter(|tid| *tid != pid) {
        for (what, named) in [(Shared::Files, "descriptors"), (Shared::Fs, "working directory")] {
            if matches!(sys::kcmp(pid, tid, what), Ok(order) if order.is_ne()) {
                return refuse(
                    &format!("has a thread ({tid}) with {named} of its own"),
                    "such threads cannot be saved; let it not unshare them",
                );
            }
        }
    }
    Ok(())
}

/// The same failure, told as what it means for this process.
fn explain(pid: i32, error: Error) -> Error {
    match error {
        Error::Trace(TraceError::Gone { .. }) => Error::Died { pid },
        Error::Proc(error) if error.is_gone() => Error::Died { pid },
        Error::Trace(TraceError::Denied { .. }) => Error::NotPermitted {
            what: format!("the kernel does not permit to trace process {pid}"),
            advice: "`ckptctl doctor` tells what this machine allows and how to allow more".to_owned(),
        },
        Error::Trace(TraceError::Call { source, .. }) if source.raw_os_error() == Some(libc::ENOEXEC) => {
            Error::refused(pid, "it runs 32-bit code, which cannot be saved", "use a 64-bit build of the program")
        }
        error if Status::of(pid).is_err_and(|error| error.is_gone()) => {
            drop(error);
            Error::Died { pid }
        }
        error => error,
    }
}

/// Ends a frozen process whose image is complete, and waits until it has ended.
fn end(frozen: Frozen, how: After, syscall_at: u64) -> Result<(), Error> {
    let pid = frozen.pid;
    let mut threads = frozen.threads.into_iter();
    let first = threads.next();
    match how {
        After::Continue => {}
        After::Exit(status) => {
            if let Some(first) = first {
                first.exit_process(syscall_at, status)?;
            }
        }
        After::Kill => {
            if let Some(pid) = Pid::from_raw(pid) {
                kill_process(pid, Signal::KILL)
                    .map_err(|error| Error::System { what: format!("kill process {pid:?}"), source: error.into() })?;
            }
            threads.by_ref().for_each(ckpt_trace::Stopped::wait_for_end);
            first.into_iter().for_each(ckpt_trace::Stopped::wait_for_end);
        }
    }
    threads.for_each(ckpt_trace::Stopped::wait_for_end);
    Ok(())
}

/// An image being written, under a hidden name beside the final one. Dropped unpublished, it is removed.
struct Unfinished {
    file: File,
    path: PathBuf,
    target: PathBuf,
    is_published: std::cell::Cell<bool>,
}

impl Unfinished {
    fn create(target: &Path) -> Result<Self, Error> {
        // A symbolic link is followed, as by any program that writes a file; what is no file is not replaced by one.
        let target = &fs::canonicalize(target).unwrap_or_else(|_| target.to_path_buf());
        if fs::metadata(target).is_ok_and(|stat| !stat.is_file() && !stat.is_dir()) {
            let source = std::io::Error::other("it is not a regular file");
            return Err(Error::File { what: "write", path: target.clone(), source });
        }
        let name = target.file_name().ok_or_else(|| Error::File {
            what: "write",
            path: target.clone(),
            source: std::io::ErrorKind::IsADirectory.into(),
        })?;
        if target.is_dir() {
            return Err(Error::file("write", target)(std::io::ErrorKind::IsADirectory.into()));
        }
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.unfinished", std::process::id()));
        let path = target.with_file_name(hidden);
        remove_left_over(&path);
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::file("write", target))?;
        Ok(Self { file, path, target: target.clone(), is_published: false.into() })
    }

    fn publish(&self) -> Result<(), Error> {
        let target = &self.target;
        self.file.sync_all().map_err(Error::file("write", target))?;
        fs::rename(&self.path, target).map_err(Error::file("write", target))?;
        self.is_published.set(true);
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The name itself is on disk when its directory is; some file systems do not let a directory be synced.
        if let Ok(directory) = File::open(parent) {
            let _ = directory.sync_all();
        }
        Ok(())
    }
}

/// Removes what a killed checkpoint to the same file left: its name ends with the number of a process that is gone, or
/// that is ours now.
fn remove_left_over(path: &Path) {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return;
    };
    let own = format!(".{}.unfinished", std::process::id());
    let Some(prefix) = name.strip_suffix(&own) else { return };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let number =
            found.to_str().and_then(|found| found.strip_prefix(prefix)?.strip_prefix('.')?.strip_suffix(".unfinished"));
        let Some(pid) = number.and_then(|number| number.parse::<i32>().ok()) else { continue };
        if std::process::id().try_into() == Ok(pid) || Status::of(pid).is_err_and(|error| error.is_gone()) {
            // Another checkpoint may be doing the same.
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_published.get() {
            // It may never have been made visible; there is nobody to tell.
            let _ = fs::remove_file(&self.path);
        }
    }
}
