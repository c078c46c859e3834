//! Why hosts cannot be read or changed.

use std::io;
use std::path::PathBuf;

/// Why hosts cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// A file says something that cannot be.
    #[error("{}:{line}: {what}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The line.
        line: usize,
        /// What is wrong, and what would be right.
        what: String,
    },
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("{} cannot be written: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no such host.
    #[error(
        "there is no host {name:?} in {} or ~/.ssh/config ({known}); add it: ckptctl hosts add {name} [USER@]ADDRESS",
        file.display()
    )]
    NoHost {
        /// What was asked for.
        name: String,
        /// Those that there are.
        known: String,
        /// `hosts.toml`.
        file: PathBuf,
    },
    /// There is one already.
    #[error("there is a host {name:?} already, at {}:{line}; change it: ckptctl hosts edit {name}", file.display())]
    Exists {
        /// Its name.
        name: String,
        /// The file.
        file: PathBuf,
        /// The line.
        line: usize,
    },
    /// It is not in `hosts.toml`.
    #[error("the host {name:?} is at {}:{line}, which ckptctl does not change; remove it there", file.display())]
    Elsewhere {
        /// Its name.
        name: String,
        /// The file.
        file: PathBuf,
        /// The line.
        line: usize,
    },
    /// A name or value that cannot be.
    #[error("{0}")]
    Value(String),
    /// Nobody knows where this user's files are.
    #[error("this user's home directory is not known; set HOME")]
    NoHome,
}
