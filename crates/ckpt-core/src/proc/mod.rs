//! What `/proc` says of a process.
//!
//! Every parser is a pure function over bytes that is tested from strings and
//! never panics. Beside it stands the one function that reads the file. Paths
//! are those of the caller's own `/proc`, so the ids are those that the caller
//! sees. Addresses are plain `u64`, sizes are in bytes.
//!
//! The text is described in proc(5); the modules name the kernel file that
//! prints it.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that panics says where"))]

pub mod auxv;
pub mod fdinfo;
pub mod id_map;
pub mod maps;
pub mod pagemap;
pub mod sched;
pub mod stat;
pub mod status;
pub mod syscall;
pub mod timens;
pub mod timers;
pub mod tree;
mod vma_flags;
mod vma_kind;

mod text;

#[cfg(test)]
mod never_panics;
#[cfg(test)]
mod oracle;

pub use auxv::Auxv;
pub use fdinfo::FdInfo;
pub use id_map::IdMap;
pub use maps::{Perms, Vma};
pub use pagemap::PageEntry;
pub use stat::Stat;
pub use status::Status;
pub use syscall::SyscallState;
pub use timens::{TimeOffset, TimensOffsets};
pub use timers::{PosixTimer, TimerNotify, TimerTarget};
pub use vma_flags::VmFlags;
pub use vma_kind::VmaKind;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Reads a whole file of `/proc`.
///
/// # Errors
/// [`ProcError::Io`]; see [`ProcError::is_gone`] for a process that has ended.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<u8>, ProcError> {
    let path = path.as_ref();
    let mut bytes = Vec::with_capacity(FIRST_READ);
    // `take` hides from the standard library that this is a file, whose size it
    // would ask for first: two system calls per file for an answer of 0.
    File::open(path)
        .and_then(|file| file.take(u64::MAX).read_to_end(&mut bytes))
        .map_err(|source| ProcError::io(path, source))?;
    Ok(bytes)
}

/// Most files of `/proc` are smaller, and then take one read and the one that
/// finds the end.
const FIRST_READ: usize = 8192;

/// Why something could not be learned from `/proc`.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// The file could not be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The kernel's text is not what this program knows.
    #[error("{} is not understood: {what}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What was wrong, with the text that was met.
        what: Malformed,
    },
}

impl ProcError {
    /// Whether the process or thread, or the thing of it that was asked for,
    /// no longer exists: ENOENT when opened, ESRCH when it ended in between.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
            }
            Self::Parse { .. } => false,
        }
    }

    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// What a parser did not understand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} in {text:?}")]
pub struct Malformed {
    what: &'static str,
    text: String,
}

impl Malformed {
    /// `what` is missing or wrong in `text`, of which the start is kept.
    fn new(what: &'static str, text: &[u8]) -> Self {
        const KEPT: usize = 120;
        let start = text.get(..KEPT).unwrap_or(text);
        Self { what, text: String::from_utf8_lossy(start).into_owned() }
    }
}

/// Reads `path` and gives its bytes to `parse`.
fn read_as<T>(path: impl AsRef<Path>, parse: impl FnOnce(&[u8]) -> Result<T, Malformed>) -> Result<T, ProcError> {
    let path = path.as_ref();
    parse(&read(path)?).map_err(|what| ProcError::Parse { path: path.to_owned(), what })
}
