//! Which files go along.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ckpt_core::resource::bytes::Bytes;
use ckpt_core::resource::files::FileKind;
use ckpt_core::{Survey, SurveyedFile};

use super::place::modified;
use super::{FilesError, Hashes, below};
use crate::protocol::{FileEntry, FileRole, FilesPolicy};

/// How much of a working directory goes along by itself.
const MOST_ENTRIES: usize = 10_000;
/// The same in bytes.
const MOST_BYTES: u64 = 1 << 30;
/// How many files can be listed in a message.
const MOST_LISTED: usize = 40_000;
/// Directories that belong to the system with all that is below them: a working directory there does not go along.
const SYSTEM: &[&str] = &[
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/sbin", "/sys", "/usr",
    "/var/lib",
];
/// Directories in which programs may have one of their own.
const SHARED: &[&str] = &[
    "/",
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/run",
    "/run/user",
    "/srv",
    "/tmp",
    "/usr/local",
    "/usr/src",
    "/var",
    "/var/cache",
    "/var/log",
    "/var/run",
    "/var/spool",
    "/var/tmp",
];
/// What lies below a directory of the system and yet is not the system's.
const OWN: &[&str] = &["/usr/local", "/usr/src"];
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
        let stat = match fs::symlink_metadata(&whole) {
            Ok(stat) => stat,
            // It was removed since the survey.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !file.uses.executable => continue,
            Err(error) => return Err(FilesError::io("look at", &file.path)(error)),
        };
        add(&mut entries, asked, hashes, &file.path, role(file, &stat), &stat)?;
        if let Some(entry) = entries.get_mut(&file.path) {
            entry.build_id.clone_from(&file.build_id);
        }
    }
    if asked.policy == FilesPolicy::Carry {
        let directory = &survey.directory;
        let refusal = match tree_refusal(directory, asked) {
            Some(why) => Some(why),
            None => match walk(directory, asked, true, &mut notes)? {
                Some(found) => {
                    add_tree(&mut entries, asked, hashes, found, &mut notes)?;
                    None
                }
                None => {
                    Some("it is larger than 1 GiB or 10000 files; only what is open there does (--with takes it all)")
                }
            },
        };
        if let Some(why) = refusal {
            notes.push(format!("the working directory {} does not go along as a whole: {why}", directory.display()));
        }
    }
    for path in asked.with {
        let whole = below(asked.root, path);
        fs::symlink_metadata(&whole).map_err(FilesError::io("look at", path))?;
        if let Some(found) = walk(path, asked, false, &mut notes)? {
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
    let is_below = |list: &[&str]| list.iter().any(|system| directory.starts_with(system));
    let is_in = |list: &[&str]| list.iter().any(|shared| directory == Path::new(shared));
    match () {
        () if !directory.is_absolute() || fs::symlink_metadata(below(asked.root, directory)).is_err() => {
            Some("it is not there any more")
        }
        () if Some(directory) == asked.home => Some("it is the home directory; only what is open there does"),
        () if asked.home.is_some_and(|home| home.starts_with(directory))
            || is_in(SHARED)
            || is_below(SYSTEM) && !is_below(OWN) =>
        {
            Some("it belongs to the system; only what is open there does")
        }
        () => None,
    }
}

type Found = Vec<(PathBuf, Metadata)>;

/// Everything below a path, on the same file system; `None` when that is too much. What vanishes meanwhile is not there.
fn walk(
    path: &Path,
    asked: &Asked<'_>,
    is_limited: bool,
    notes: &mut Vec<String>,
) -> Result<Option<Found>, FilesError> {
    let (mut found, mut bytes, mut device) = (Vec::new(), 0_u64, None);
    let mut waiting = vec![path.to_path_buf()];
    let mut leave_out = |path: &Path, why: &dyn std::fmt::Display| {
        notes.push(format!("{} does not go along: {why}", path.display()));
    };
    while let Some(path) = waiting.pop() {
        let whole = below(asked.root, &path);
        let stat = match fs::symlink_metadata(&whole) {
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(FilesError::io("look at", &path)(error)),
        };
        if *device.get_or_insert(stat.dev()) != stat.dev() {
            leave_out(&path, &"another file system is mounted there (--with takes it along)");
            continue;
        }
        if stat.is_dir() {
            match fs::read_dir(&whole).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
                Ok(entries) => waiting.extend(entries.iter().map(|entry| path.join(entry.file_name()))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => leave_out(&path, &error),
                Err(error) => return Err(FilesError::io("read", &path)(error)),
            }
        }
        bytes = bytes.saturating_add(if stat.is_file() { stat.len() } else { 0 });
        found.push((path, stat));
        if is_limited && (found.len() > MOST_ENTRIES || bytes > MOST_BYTES) {
            return Ok(None);
        }
        if found.len() > MOST_LISTED {
            let what = format!("holds more than {MOST_LISTED} files");
            return Err(FilesError::wrong(path_of(&found), what, "name a part of it, or pack it into one file"));
        }
    }
    Ok(Some(found))
}

fn path_of(found: &Found) -> &Path {
    found.first().map_or(Path::new("/"), |(path, _)| path)
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
        if !matches!(kind, 0o100_000 | 0o040_000 | 0o120_000) {
            notes.push(format!("{} does not go along: it is {}", path.display(), name_of(kind)));
            continue;
        }
        let known = entries.get(&path);
        if known.is_some() && stat.is_file() {
            // An executable in its own directory stays one, and it has been looked at.
            continue;
        }
        match add(entries, asked, hashes, &path, FileRole::Input, &stat) {
            // It was removed meanwhile.
            Err(FilesError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(FilesError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                notes.push(format!("{} does not go along: {source}", path.display()));
            }
            result => result?,
        }
    }
    Ok(())
}

fn name_of(kind: u32) -> &'static str {
    match kind {
        0o140_000 => "a socket",
        0o010_000 => "a FIFO",
        _ => "a device",
    }
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
            Some(hashes.of(&whole).map_err(FilesError::io("read", path))?)
        }
        _ => None,
    };
    // While it was read, it may have been written to.
    let after = hash.is_some().then(|| fs::symlink_metadata(&whole).ok().filter(Metadata::is_file)).flatten();
    let stat = after.as_ref().unwrap_or(stat);
    let link = stat.is_symlink().then(|| fs::read_link(&whole)).transpose().map_err(FilesError::io("read", path))?;
    let entry = FileEntry {
        path: path.to_path_buf(),
        role,
        mode: stat.mode(),
        size: if stat.is_file() { stat.len() } else { 0 },
        modified: modified(stat),
        hash,
        build_id: None,
        link: link.map(|link| Bytes(link.as_os_str().as_bytes().to_vec())),
    };
    entries.insert(path.to_path_buf(), entry);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_working_directory_is_the_programs_own_or_not() {
        let home = Path::new("/home/ada");
        let asked = Asked { policy: FilesPolicy::Carry, with: &[], root: Path::new("/"), home: Some(home) };
        for not_own in
            ["/", "/home", "/home/ada", "/tmp", "/usr/lib", "/etc/apt", "/var", "/usr", "/dev/shm", "relative"]
        {
            assert!(tree_refusal(Path::new(not_own), &asked).is_some(), "{not_own}");
        }
        let own = tempfile::tempdir().map(tempfile::TempDir::keep).unwrap_or_default();
        assert_eq!(tree_refusal(&own, &asked), None, "{}", own.display());
        assert!(tree_refusal(&own.join("gone"), &asked).is_some_and(|why| why.contains("not there")));
        let _ = fs::remove_dir(own);
    }
}
