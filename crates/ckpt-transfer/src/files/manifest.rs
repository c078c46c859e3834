//! Which files go along.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ckpt_core::resource::bytes::Bytes;
use ckpt_core::resource::files::FileKind;
use ckpt_core::{Survey, SurveyedFile};

use super::{FilesError, Hashes, below};
use crate::protocol::{FileEntry, FileRole, FilesPolicy};

/// How much of a working directory goes along by itself.
const MOST_ENTRIES: usize = 10_000;
/// The same in bytes.
const MOST_BYTES: u64 = 1 << 30;
/// Directories that belong to the system: as a working directory they do not go along, what is below them does.
const SYSTEM: &[&str] = &[
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc", "/root",
    "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/tmp",
];
/// What every machine has of its own.
const OF_THE_MACHINE: &[&str] = &["/dev", "/proc", "/sys"];

/// What is wanted.
pub struct Asked<'a> {
    /// What to do about files.
    pub policy: FilesPolicy,
    /// More files or directories that go along.
    pub with: &'a [PathBuf],
    /// Through which directory the program's paths are reached: `/`, or `/proc/PID/root`.
    pub root: &'a Path,
    /// The user's home directory, which does not go along as a whole.
    pub home: Option<&'a Path>,
}

/// Lists the files that go along, with the hashes of their contents, and what the user should know.
///
/// # Errors
/// When one of them cannot be read.
pub fn manifest(
    survey: &Survey,
    asked: &Asked<'_>,
    hashes: &mut Hashes,
) -> Result<(Vec<FileEntry>, Vec<String>), FilesError> {
    let mut notes = Vec::new();
    let mut entries = BTreeMap::new();
    let named = survey.files.iter().filter(|file| file.kind == FileKind::Linked && !is_of_the_machine(&file.path));
    for file in named {
        let whole = below(asked.root, &file.path);
        let stat = fs::symlink_metadata(&whole).map_err(FilesError::io("look at", &whole))?;
        add(&mut entries, asked, hashes, &file.path, role(file, &stat), &stat)?;
    }
    if asked.policy == FilesPolicy::Carry {
        let directory = &survey.directory;
        match tree_refusal(directory, asked) {
            Some(why) => notes.push(format!("the working directory {} does not go along as a whole: {why}", directory.display())),
            None => match walk(directory, asked, true)? {
                Some(found) => add_tree(&mut entries, asked, hashes, found, &mut notes)?,
                None => notes.push(format!(
                    "the working directory {} does not go along as a whole: it is larger than 1 GiB or 10000 files (--with takes it along all the same)",
                    directory.display()
                )),
            },
        }
    }
    for path in asked.with {
        if let Some(found) = walk(path, asked, false)? {
            add_tree(&mut entries, asked, hashes, found, &mut notes)?;
        }
    }
    hashes.save();
    Ok((entries.into_values().collect(), notes))
}

fn role(file: &SurveyedFile, stat: &Metadata) -> FileRole {
    let uses = file.uses;
    match () {
        () if uses.written && stat.is_file() => FileRole::Output,
        () if uses.executable || uses.mapped || stat.is_dir() => FileRole::Code,
        () => FileRole::Input,
    }
}

fn is_of_the_machine(path: &Path) -> bool {
    OF_THE_MACHINE.iter().any(|directory| path.starts_with(directory))
}

/// Why a working directory is not the program's own.
fn tree_refusal(directory: &Path, asked: &Asked<'_>) -> Option<&'static str> {
    match () {
        () if Some(directory) == asked.home => Some("it is the home directory; only what is open there does"),
        () if SYSTEM.iter().any(|system| Path::new(system) == directory) || is_of_the_machine(directory) => {
            Some("it belongs to the system; only what is open there does")
        }
        () => None,
    }
}

type Found = Vec<(PathBuf, Metadata)>;

/// Everything below a path; `None` when that is too much.
fn walk(path: &Path, asked: &Asked<'_>, is_limited: bool) -> Result<Option<Found>, FilesError> {
    let (mut found, mut bytes) = (Vec::new(), 0_u64);
    let mut waiting = vec![path.to_path_buf()];
    while let Some(path) = waiting.pop() {
        let whole = below(asked.root, &path);
        let stat = fs::symlink_metadata(&whole).map_err(FilesError::io("look at", &whole))?;
        if stat.is_dir() {
            let entries = fs::read_dir(&whole).map_err(FilesError::io("read", &whole))?;
            for entry in entries {
                let name = entry.map_err(FilesError::io("read", &whole))?.file_name();
                waiting.push(path.join(name));
            }
        }
        bytes += if stat.is_file() { stat.len() } else { 0 };
        found.push((path, stat));
        if is_limited && (found.len() > MOST_ENTRIES || bytes > MOST_BYTES) {
            return Ok(None);
        }
    }
    Ok(Some(found))
}

fn add_tree(
    entries: &mut BTreeMap<PathBuf, FileEntry>,
    asked: &Asked<'_>,
    hashes: &mut Hashes,
    found: Found,
    notes: &mut Vec<String>,
) -> Result<(), FilesError> {
    for (path, stat) in found {
        let kind = stat.mode() & 0o170_000;
        let is_known = matches!(kind, 0o100_000 | 0o040_000 | 0o120_000);
        // An executable in its own directory stays one.
        let role = match entries.get(&path) {
            Some(known) if stat.is_file() => known.role,
            _ => FileRole::Input,
        };
        match is_known.then(|| add(entries, asked, hashes, &path, role, &stat)) {
            Some(Ok(())) => {}
            Some(Err(FilesError::Io { source, .. })) if role == FileRole::Input => {
                notes.push(format!("{} does not go along: {source}", path.display()));
            }
            Some(Err(error)) => return Err(error),
            None => notes.push(format!("{} does not go along: it is no file", path.display())),
        }
    }
    Ok(())
}

fn add(
    entries: &mut BTreeMap<PathBuf, FileEntry>,
    asked: &Asked<'_>,
    hashes: &mut Hashes,
    path: &Path,
    role: FileRole,
    stat: &Metadata,
) -> Result<(), FilesError> {
    let whole = below(asked.root, path);
    let hash = match (stat.is_file(), asked.policy) {
        (true, FilesPolicy::Carry | FilesPolicy::Expect) => {
            Some(hashes.of(&whole).map_err(FilesError::io("read", &whole))?)
        }
        _ => None,
    };
    let link = stat.is_symlink().then(|| fs::read_link(&whole)).transpose().map_err(FilesError::io("read", &whole))?;
    let entry = FileEntry {
        path: path.to_path_buf(),
        role,
        mode: stat.mode(),
        size: if stat.is_file() { stat.len() } else { 0 },
        modified: stat.mtime() * 1_000_000_000 + stat.mtime_nsec(),
        hash,
        build_id: None,
        link: link.map(|link| Bytes(link.as_os_str().as_bytes().to_vec())),
    };
    entries.insert(path.to_path_buf(), entry);
    Ok(())
}
