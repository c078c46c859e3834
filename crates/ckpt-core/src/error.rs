use std::io;
use std::path::PathBuf;

use ckpt_image::ImageError;
use ckpt_trace::TraceError;

use crate::proc::ProcError;

/// The kinds of failure that a script tells apart; the numbers are exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Anything else: a full disk, a process that is not there.
    Failed = 1,
    /// Wrong use of a command.
    Usage = 2,
    /// The process has something that cannot be saved.
    CannotCheckpoint = 3,
    /// The kernel or another user's ownership forbids it.
    NotPermitted = 4,
    /// Another machine could not be reached or failed.
    Remote = 5,
    /// The image is damaged, too new, or for another machine.
    BadImage = 6,
    /// The image is good but could not be brought back here.
    RestoreFailed = 7,
    /// The user cancelled.
    Cancelled = 130,
}

/// Why a checkpoint or a restore did not happen. The program is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process holds something that cannot be saved.
    #[error("process {pid}: {what}; {advice}")]
    Refused {
        /// The process.
        pid: i32,
        /// The resource, named.
        what: String,
        /// What the user can do.
        advice: String,
        /// The program may let go of it at any moment.
        is_passing: bool,
    },
    /// There is no such process.
    #[error("there is no process {pid}; look with ps for the right number")]
    NoProcess {
        /// The number that was given.
        pid: i32,
    },
    /// The process ended while it was being saved.
    #[error("process {pid} ended during the checkpoint; there was nothing left to save, start it again")]
    Died {
        /// The process.
        pid: i32,
    },
    /// Not allowed.
    #[error("{what}; {advice}")]
    NotPermitted {
        /// What was not permitted.
        what: String,
        /// What the user can do.
        advice: String,
    },
    /// The image cannot be read or written.
    #[error("{}: {source}", path.display())]
    Image {
        /// The image file.
        path: PathBuf,
        /// What is wrong with it.
        source: ImageError,
    },
    /// The image is sound, but not for this machine.
    #[error("{}: {what}; {advice}", path.display())]
    Foreign {
        /// The image file.
        path: PathBuf,
        /// What this machine lacks.
        what: String,
        /// What the user can do.
        advice: String,
    },
    /// A file could not be read or written.
    #[error("{what} {}: {source}; {}", path.display(), file_advice(source))]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The program could not be brought back here.
    #[error("{what}; {advice}")]
    Restore {
        /// What stands in the way.
        what: String,
        /// What the user can do.
        advice: String,
    },
    /// A tracee or the kernel did not do as asked.
    #[error("{0}; the program was left as it was")]
    Trace(#[from] TraceError),
    /// `/proc` did not say what it should.
    #[error("{0}; the program was left as it was")]
    Proc(#[from] ProcError),
    /// A system call of the engine failed.
    #[error("{what}: {source}; nothing was changed")]
    System {
        /// What was tried.
        what: String,
        /// The errno.
        source: io::Error,
    },
    /// The user cancelled.
    #[error("cancelled; the program runs on and no file was left")]
    Cancelled,
}

impl Error {
    /// Which kind of failure it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Refused { .. } => Class::CannotCheckpoint,
            Self::NotPermitted { .. } | Self::Trace(TraceError::Denied { .. }) => Class::NotPermitted,
            Self::Image { source, .. } if !matches!(source, ImageError::Io { .. }) => Class::BadImage,
            Self::Foreign { .. } => Class::BadImage,
            Self::Restore { .. } => Class::RestoreFailed,
            Self::Cancelled => Class::Cancelled,
            Self::Image { .. }
            | Self::NoProcess { .. }
            | Self::Died { .. }
            | Self::File { .. }
            | Self::Trace(_)
            | Self::Proc(_)
            | Self::System { .. } => Class::Failed,
        }
    }

    /// A failed system call of the engine's own.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }

    /// A file that could not be handled.
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    /// What `process` has and cannot be saved.
    pub(crate) fn refused(pid: i32, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Refused { pid, what: what.into(), advice: advice.into(), is_passing: false }
    }

    /// What it has for now.
    pub(crate) fn held(pid: i32, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Refused { pid, what: what.into(), advice: advice.into(), is_passing: true }
    }

    /// What stands in the way of a restore.
    pub(crate) fn restore(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Restore { what: what.into(), advice: advice.into() }
    }

    /// A file that stands in the way of a restore.
    pub(crate) fn reopening(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Restore {
            advice: file_advice(&source).to_owned(),
            what: format!("{what} {}: {source}", path.display()),
        }
    }

    /// The same failure, told as a failure to restore: what the kernel refused while the program was being built.
    pub(crate) fn while_restoring(self) -> Self {
        match self {
            Self::Trace(_) | Self::Proc(_) | Self::System { .. } | Self::Died { .. } => {
                let told = match &self {
                    Self::Trace(error) => error.to_string(),
                    Self::Proc(error) => error.to_string(),
                    Self::System { what, source } => format!("{what}: {source}"),
                    _ => "the process that was being built was killed".to_owned(),
                };
                Self::restore(
                    format!("the program could not be rebuilt: {told}"),
                    "nothing of it was left running and the image is unharmed; `ckptctl doctor` tells what this machine allows",
                )
            }
            other => other,
        }
    }
}

fn file_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "use a file or directory that you may use",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space or choose another directory",
        io::ErrorKind::ReadOnlyFilesystem => "choose a directory that can be written",
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => "give the path of a file",
        _ => "see to it and try again",
    }
}

#[cfg(test)]
mod tests;
