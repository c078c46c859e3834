//! The files that go along with a program: which they are, how they are shown where it arrives, how they come home.

mod hashes;
mod home;
mod manifest;
mod place;

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

pub use hashes::Hashes;
pub use home::{Departed, bring_home, conflicts};
pub use manifest::{Asked, manifest};
pub use place::{Placed, lacking, modified, place, place_ahead};

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

/// Makes the directories that lead from `root` to `path`. What stands in their way, a symbolic link above all, is an error: by
/// one, what another machine sends would come to lie outside of `root`.
///
/// # Errors
/// When something is in the way, or a directory cannot be made.
fn make_way(root: &Path, path: &Path) -> Result<(), FilesError> {
    let parent = path.parent().unwrap_or(root);
    let inner = parent.strip_prefix(root).map_err(|_| outside(path, root))?;
    let mut way = root.to_path_buf();
    fs::create_dir_all(&way).map_err(FilesError::io("make the directory", root))?;
    for part in inner.components() {
        if !matches!(part, Component::Normal(_)) {
            return Err(outside(path, root));
        }
        way.push(part);
        match fs::symlink_metadata(&way) {
            Ok(stat) if stat.is_dir() => {}
            Ok(_) => {
                return Err(FilesError::wrong(
                    &way,
                    format!("is no directory, and stands in the way of {}", path.display()),
                    "move it away",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir(&way).map_err(FilesError::io("make the directory", &way))?;
            }
            Err(error) => return Err(FilesError::io("look at", &way)(error)),
        }
    }
    Ok(())
}

fn outside(path: &Path, root: &Path) -> FilesError {
    let what = format!("is not below {}", root.display());
    FilesError::wrong(path, what, "the other side is of another version or damaged")
}

#[cfg(test)]
mod tests;
