//! What can be told of a program without stopping it: what stands in the way of saving it, what it needs elsewhere.

use std::path::PathBuf;

use crate::Error;
use crate::depart::DepartOptions;
use crate::resource::files::FileKind;
use crate::resource::machine::Machine;

/// What a program holds and needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The machine it is on, with the processor features that the program may use.
    pub machine: Machine,
    /// How many bytes of memory have to be sent, about.
    pub memory: u64,
    /// How many threads it has.
    pub threads: usize,
    /// The files that it refers to, in the order in which the image will number them.
    pub files: Vec<SurveyedFile>,
    /// Its working directory.
    pub directory: PathBuf,
    /// What the user should know, in sentences.
    pub notes: Vec<String>,
}

/// A file that a program refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SurveyedFile {
    /// Its path, as the program knows it.
    pub path: PathBuf,
    /// Whether the path leads to it. Where it does not, the image carries it.
    pub kind: FileKind,
    /// What it is to the program.
    pub uses: Uses,
    /// Its size in bytes.
    pub size: u64,
    /// Type and permission bits (`st_mode`).
    pub mode: u32,
    /// Its last modification, in nanoseconds since 1970.
    pub modified: i64,
    /// The build id of an ELF file.
    pub build_id: Option<String>,
}

/// What a file is to a program.
#[allow(clippy::struct_excessive_bools)] // each is a question of its own
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uses {
    /// It is the executable.
    pub executable: bool,
    /// It is mapped.
    pub mapped: bool,
    /// It is open for reading.
    pub read: bool,
    /// It is open for writing, or mapped so that writing changes it.
    pub written: bool,
    /// It is a directory that is open.
    pub directory: bool,
}

/// Looks at a process without stopping or changing it, and refuses by name what can be seen to stand in the way of
/// [`depart`](crate::depart).
///
/// # Errors
/// [`Error::Refused`], [`Error::NotPermitted`], [`Error::NoProcess`].
pub fn survey(pid: i32, options: &DepartOptions) -> Result<Survey, Error> {
    let _ = (pid, options);
    unimplemented!("in progress")
}
