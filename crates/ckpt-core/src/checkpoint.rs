//! The checkpoint: a departure into a file, from which the program may come back at once.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ckpt_image::Codec;
use serde::{Serialize, Serializer};

use crate::depart::{DepartOptions, leave};
use crate::proc::Status;
use crate::survey::{look, patiently};
use crate::{Error, Progress, cancel};

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
#[derive(Debug, Clone, Default)]
pub struct CheckpointOptions {
    /// What happens to the program afterwards.
    pub after: After,
    /// How memory is compressed.
    pub codec: Codec,
    /// The image carries the executable, libraries and other mapped files as well.
    pub self_contained: bool,
    /// The image carries the contents of all open files, so that a restore can roll them back.
    pub carry_files: bool,
    /// Connected TCP sockets become such that their peers have reset; else they are refused.
    pub tcp_close: bool,
    /// A child of the process that is not part of it: the engine, when the process started it itself.
    pub ignored_child: Option<i32>,
    /// How far it is, to look at while it is made.
    pub progress: Arc<Progress>,
}

impl CheckpointOptions {
    /// What of them a departure has as well.
    fn departing(&self) -> DepartOptions {
        let Self { after: _, codec, self_contained, carry_files, tcp_close, ignored_child, ref progress } = *self;
        let progress = Arc::clone(progress);
        DepartOptions { codec, self_contained, carry_files, tcp_close, ignored_child, progress }
    }
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
    let departing = options.departing();
    patiently(|| look(pid, &departing))?;
    let unfinished = Unfinished::create(file)?;
    let departure = leave(pid, &unfinished.file, file, &departing, &mut |_| Ok(()))?;
    let (report, pause) = (departure.report().clone(), departure.frozen_for());
    if options.after == After::Continue {
        departure.resume()?;
        unfinished.publish()?;
    } else {
        unfinished.publish()?;
        departure.end_by(options.after)?;
    }
    Ok(CheckpointReport {
        pid,
        path: file.to_path_buf(),
        bytes: report.bytes,
        pages: report.pages,
        threads: report.threads,
        pause,
        total: began.elapsed(),
    })
}

/// An image being written, under a hidden name beside the final one. Dropped unpublished, it is removed.
pub struct Unfinished {
    /// It.
    pub file: File,
    path: PathBuf,
    target: PathBuf,
    is_published: std::cell::Cell<bool>,
}

impl Unfinished {
    /// Makes the hidden file.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn create(target: &Path) -> Result<Self, Error> {
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

    /// Syncs it and gives it its name.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Cancelled`] when that was wanted while it was being synced.
    pub fn publish(&self) -> Result<(), Error> {
        let target = &self.target;
        self.file.sync_all().map_err(Error::file("write", target))?;
        cancel::check()?;
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
