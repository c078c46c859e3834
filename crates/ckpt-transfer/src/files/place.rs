//! Files where a program arrives: which contents are lacking, and what is shown to it.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use ckpt_core::Shown;
use rustix::fs::{Access, AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, access, utimensat};

use super::{FilesError, Hashes, below, hashes, is_plain, make_way};
use crate::protocol::{FileEntry, FileRole, FilesPolicy};
use crate::store::Store;

/// What a program that arrived is shown.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// Files and directories of this machine under the program's paths.
    pub shown: Vec<Shown>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Which contents have to be sent: index into `files`, and how many bytes of each have come already.
///
/// # Errors
/// With [`FilesPolicy::Expect`] and [`FilesPolicy::Shared`] a file that is not there, or another one.
pub fn lacking(
    files: &[FileEntry],
    policy: FilesPolicy,
    store: &Store,
    hashes: &mut Hashes,
) -> Result<Vec<(usize, u64)>, FilesError> {
    let mut lacking = Vec::new();
    let mut asked = BTreeSet::new();
    for (index, file) in files.iter().enumerate() {
        match policy {
            FilesPolicy::Carry => {
                let Some(hash) = &file.hash else { continue };
                if asked.insert(hash) && !is_same_here(file, hash, hashes) && store.find(hash)?.is_none() {
                    lacking.push((index, store.partial_size(hash)?.min(file.size)));
                }
            }
            FilesPolicy::Expect => expect(file, hashes)?,
            FilesPolicy::Shared => {
                fs::symlink_metadata(&file.path).map_err(|error| not_there(&file.path, &error))?;
            }
        }
    }
    hashes.save();
    Ok(lacking)
}

fn not_there(path: &Path, error: &io::Error) -> FilesError {
    FilesError::wrong(path, format!("is not there: {error}"), "put it there, or let it go along with --files=carry")
}

fn expect(file: &FileEntry, hashes: &mut Hashes) -> Result<(), FilesError> {
    let stat = fs::metadata(&file.path).map_err(|error| not_there(&file.path, &error))?;
    let advice = "put the same file there, or let it go along with --files=carry";
    let wrong = |what: &str| Err(FilesError::wrong(&file.path, what, advice));
    let Some(hash) = &file.hash else {
        let is_directory = file.kind() == FileEntry::DIRECTORY;
        return if is_directory && !stat.is_dir() { wrong("is no directory there") } else { Ok(()) };
    };
    // As a restore does: a file that is only read may have grown.
    let is_grown = || file.role == FileRole::Input && stat.len() > file.size && begins_as(file, hash);
    if !stat.is_file() || !(is_same_here(file, hash, hashes) || is_grown()) {
        return wrong("is another file there");
    }
    if file.role == FileRole::Output && access(&file.path, Access::WRITE_OK).is_err() {
        return wrong("cannot be written there");
    }
    Ok(())
}

fn begins_as(file: &FileEntry, hash: &str) -> bool {
    let opened = File::open(&file.path);
    opened.and_then(|opened| hashes::hash(opened.take(file.size))).is_ok_and(|here| here == hash)
}

/// Whether this machine has a file of the same contents under the same path.
fn is_same_here(file: &FileEntry, hash: &str, hashes: &mut Hashes) -> bool {
    let is_as_long = fs::symlink_metadata(&file.path).is_ok_and(|stat| stat.is_file() && stat.len() == file.size);
    is_as_long && hashes.of(&file.path).is_ok_and(|here| here == hash)
}

/// Puts the files of a program in place, all of whose contents are here: those that it may write are copied below `directory`,
/// which is the job's own. May be given again with later states of the files.
///
/// # Errors
/// When one cannot be written; a path that leads elsewhere is refused.
pub fn place(
    files: &[FileEntry],
    policy: FilesPolicy,
    store: &Store,
    hashes: &mut Hashes,
    directory: &Path,
) -> Result<Placed, FilesError> {
    let mut placed = Placed::default();
    if policy != FilesPolicy::Carry {
        return Ok(placed);
    }
    let mut trees: Vec<&Path> = Vec::new();
    let mut kept = BTreeSet::new();
    // In the order of their paths, a directory comes before what is in it.
    let mut sorted: Vec<&FileEntry> = files.iter().collect();
    sorted.sort_by(|one, other| one.path.cmp(&other.path));
    for file in sorted {
        if !is_plain(&file.path) {
            return Err(FilesError::wrong(
                &file.path,
                "is no path of a file",
                "the other side is of another version or damaged",
            ));
        }
        let is_in_tree = trees.iter().any(|tree| file.path.starts_with(tree));
        let is_directory = file.kind() == FileEntry::DIRECTORY;
        if file.role == FileRole::Code && !is_in_tree {
            placed.shown.extend(place_code(file, store, hashes, directory)?);
            continue;
        }
        let copy = below(directory, &file.path);
        make_way(directory, &copy)?;
        put(file, store, hashes, &copy)?;
        kept.insert(copy.clone());
        if !is_in_tree {
            placed.shown.push(Shown { path: file.path.clone(), source: copy, read_only: false });
            if is_directory {
                trees.push(&file.path);
            }
        }
    }
    for tree in trees {
        remove_others(&below(directory, tree), &kept)?;
    }
    // Directories last: what was written into them has changed their times.
    for file in files.iter().filter(|file| file.kind() == FileEntry::DIRECTORY) {
        let copy = below(directory, &file.path);
        if kept.contains(&copy) {
            set_times(&copy, file)?;
        }
    }
    hashes.save();
    Ok(placed)
}

/// Puts in place what can be before the program is frozen, so that [`place`] finds it there. A file whose contents are not here
/// is left out: the program writes to it.
///
/// # Errors
/// As [`place`].
pub fn place_ahead(
    files: &[FileEntry],
    policy: FilesPolicy,
    store: &Store,
    hashes: &mut Hashes,
    directory: &Path,
) -> Result<(), FilesError> {
    let mut here = Vec::with_capacity(files.len());
    for file in files {
        let is_here = match &file.hash {
            Some(hash) => store.find(hash)?.is_some() || is_same_here(file, hash, hashes),
            None => true,
        };
        here.extend(is_here.then(|| file.clone()));
    }
    place(&here, policy, store, hashes, directory).map(drop)
}

/// An executable or a library: what is here already is taken, or shown from the store.
fn place_code(
    file: &FileEntry,
    store: &Store,
    hashes: &mut Hashes,
    directory: &Path,
) -> Result<Option<Shown>, FilesError> {
    let Some(hash) = &file.hash else {
        if fs::metadata(&file.path).is_ok_and(|stat| stat.is_dir()) || file.kind() != FileEntry::DIRECTORY {
            return Ok(None);
        }
        // A directory that it has open and that this machine lacks: an empty one.
        let copy = below(directory, &file.path);
        make_way(directory, &copy)?;
        put(file, store, hashes, &copy)?;
        return Ok(Some(Shown { path: file.path.clone(), source: copy, read_only: false }));
    };
    if is_same_here(file, hash, hashes) {
        return Ok(None);
    }
    let source = store.hold(hash, &held(directory).join(hash))?.ok_or_else(|| gone(file))?;
    Ok(Some(Shown { path: file.path.clone(), source, read_only: true }))
}

/// Where a job holds what it is shown from the store: beside its own files, so that no path of the program's leads there.
fn held(directory: &Path) -> PathBuf {
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(".code");
    directory.with_file_name(name)
}

fn gone(file: &FileEntry) -> FilesError {
    FilesError::wrong(&file.path, "did not come along", "move the program again")
}

/// Makes `copy` the file.
fn put(file: &FileEntry, store: &Store, hashes: &mut Hashes, copy: &Path) -> Result<(), FilesError> {
    let writing = || FilesError::io("write", copy);
    match (file.kind(), &file.hash, &file.link) {
        (FileEntry::DIRECTORY, ..) => {
            if fs::symlink_metadata(copy).is_ok_and(|stat| !stat.is_dir()) {
                fs::remove_file(copy).map_err(writing())?;
            }
            fs::create_dir_all(copy).map_err(writing())?;
            // It has to be written into, whatever it was.
            fs::set_permissions(copy, Permissions::from_mode(file.mode & 0o1777 | 0o700)).map_err(writing())
        }
        (FileEntry::LINK, _, Some(target)) => {
            remove(copy)?;
            symlink(std::ffi::OsStr::from_bytes(&target.0), copy).map_err(writing())?;
            set_times(copy, file)
        }
        (_, Some(hash), _) => {
            let stat = fs::symlink_metadata(copy).ok().filter(Metadata::is_file);
            let is_there =
                stat.is_some_and(|stat| stat.len() == file.size) && hashes.of(copy).is_ok_and(|h| h == *hash);
            if !is_there {
                let source = match store.find(hash)? {
                    Some(found) => found,
                    None if is_same_here(file, hash, hashes) => file.path.clone(),
                    None => return Err(gone(file)),
                };
                remove(copy)?;
                copy_file(&source, copy)?;
            }
            let is_as_it_was =
                |stat: Metadata| stat.mode() & 0o7777 == file.mode & 0o777 && modified(&stat) == file.modified;
            // Its hash is remembered by its time of change, among others.
            if !fs::symlink_metadata(copy).is_ok_and(is_as_it_was) {
                fs::set_permissions(copy, Permissions::from_mode(file.mode & 0o777)).map_err(writing())?;
                set_times(copy, file)?;
                hashes.learn(copy, hash);
            }
            Ok(())
        }
        _ => Err(gone(file)),
    }
}

/// Copies a file's contents; where the file system can share them, it does.
pub fn copy_file(source: &Path, copy: &Path) -> Result<(), FilesError> {
    fs::copy(source, copy).map(drop).map_err(FilesError::io("write", copy))
}

/// Removes what is at a path, if anything is.
fn remove(path: &Path) -> Result<(), FilesError> {
    let removed = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
        Ok(stat) if stat.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.map_err(FilesError::io("remove", path))
}

/// Removes from a tree what is not in it any more.
fn remove_others(tree: &Path, kept: &BTreeSet<PathBuf>) -> Result<(), FilesError> {
    for entry in fs::read_dir(tree).map_err(FilesError::io("read", tree))? {
        let path = entry.map_err(FilesError::io("read", tree))?.path();
        if !kept.contains(&path) {
            remove(&path)?;
        } else if fs::symlink_metadata(&path).is_ok_and(|stat| stat.is_dir()) {
            remove_others(&path, kept)?;
        }
    }
    Ok(())
}

/// Gives a file, or a symbolic link, the time of modification that it had.
pub fn set_times(path: &Path, file: &FileEntry) -> Result<(), FilesError> {
    const SECOND: i64 = 1_000_000_000;
    let modified = Timespec { tv_sec: file.modified.div_euclid(SECOND), tv_nsec: file.modified.rem_euclid(SECOND) };
    let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: modified };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| FilesError::io("set the time of", path)(error.into()))
}

/// A file's time of modification, in nanoseconds since 1970.
#[must_use]
pub fn modified(stat: &Metadata) -> i64 {
    stat.mtime() * 1_000_000_000 + stat.mtime_nsec()
}
