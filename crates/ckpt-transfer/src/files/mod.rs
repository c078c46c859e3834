//! The files that go along with a program: which they are, how they are shown where it arrives, how they come home.

mod hashes;
mod home;
mod manifest;
mod place;

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

pub use hashes::Hashes;
pub use home::{Departed, bring_home, conflicts};
pub use manifest::{Asked, manifest};
pub use place::{Placed, lacking, place};

use crate::store::StoreError;

/// The files of a program could not be handled.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file could not be read or written.
    #[error("{what} {}: {source}; {}", path.display(), advice(source))]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// A file is not what it must be.
    #[error("{} {what}; {advice}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What the user can do.
        advice: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FilesError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::Io { what, path, source }
    }

    fn wrong(path: &Path, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Wrong { path: path.to_path_buf(), what: what.into(), advice: advice.into() }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "see that you may use it",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space there",
        _ => "see to it and try again",
    }
}

/// What `path` is below `root`: a program in a nest of its own is looked at through `/proc/PID/root`.
#[must_use]
pub fn below(root: &Path, path: &Path) -> PathBuf {
    let mut whole = root.as_os_str().to_owned();
    if root == Path::new("/") {
        return path.to_path_buf();
    }
    if !path.as_os_str().as_bytes().starts_with(b"/") {
        whole.push("/");
    }
    whole.push(path.as_os_str());
    PathBuf::from(whole)
}

/// Whether a path is absolute and goes only down: what another machine says is not believed.
#[must_use]
pub fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && !path.as_os_str().as_bytes().contains(&0)
}

#[cfg(test)]
mod tests;
