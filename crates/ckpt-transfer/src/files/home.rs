//! Files that come home: what the program wrote elsewhere goes to where it would have written it here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::place::{copy_file, modified, set_times};
use super::{FilesError, Hashes, is_plain, make_way};
use crate::protocol::{FileEntry, FileRole};
use crate::store::Store;

/// The files of a program as they were here when it left, or when they were last brought back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Listed", into = "Listed")]
pub struct Departed {
    files: BTreeMap<PathBuf, FileEntry>,
}

/// As it is written down.
#[derive(Serialize, Deserialize)]
struct Listed {
    files: Vec<FileEntry>,
}

impl From<Listed> for Departed {
    fn from(listed: Listed) -> Self {
        Self::new(listed.files)
    }
}

impl From<Departed> for Listed {
    fn from(departed: Departed) -> Self {
        Self { files: departed.files.into_values().collect() }
    }
}

impl Departed {
    /// Remembers files as they are here now.
    #[must_use]
    pub fn new(files: Vec<FileEntry>) -> Self {
        Self { files: files.into_iter().map(|file| (file.path.clone(), file)).collect() }
    }

    /// Reads what was written down in a job's directory; nothing where nothing was.
    ///
    /// # Errors
    /// When it cannot be read or understood.
    pub fn load(path: &Path) -> Result<Self, FilesError> {
        match fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(FilesError::io("read", path)(error)),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| FilesError::wrong(path, format!("is not understood: {error}"), "move it away")),
        }
    }

    /// Writes it down.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), FilesError> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.persist(path)?;
            Ok(())
        };
        write().map_err(FilesError::io("write", path))
    }

    /// The files.
    pub fn files(&self) -> impl Iterator<Item = &FileEntry> {
        self.files.values()
    }

    /// Notes that a file is here now as it is there.
    fn update(&mut self, file: &FileEntry) {
        self.files.insert(file.path.clone(), file.clone());
    }

    /// Whether a file is another one there than it was here.
    fn differs(&self, file: &FileEntry) -> bool {
        let what = |file: &FileEntry| (file.mode & 0o170_777, file.hash.clone(), file.link.clone());
        self.files.get(&file.path).is_none_or(|before| what(before) != what(file))
    }

    /// The outermost of the directories that went along as wholes in which a path is: only in these may new files appear.
    fn tree_of<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        let is_tree = |path: &&Path| {
            let entry = self.files.get(*path);
            entry.is_some_and(|entry| entry.kind() == FileEntry::DIRECTORY && entry.role != FileRole::Code)
        };
        path.ancestors().filter(is_tree).last()
    }

    /// Where a file may be written here because the program there has it: `None` if nowhere, else the directory below which no
    /// symbolic link is followed on the way to it.
    fn root_of<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        if !is_plain(path) {
            return None;
        }
        let is_known = || self.files.get(path).is_some_and(|file| file.role != FileRole::Code);
        self.tree_of(path).or_else(|| is_known().then(|| path.parent().unwrap_or(path)))
    }
}

/// The files that differ there from what is here and were changed here as well since they left.
///
/// # Errors
/// When one cannot be read.
pub fn conflicts(files: &[FileEntry], departed: &Departed, hashes: &mut Hashes) -> Result<Vec<PathBuf>, FilesError> {
    let mut conflicts = Vec::new();
    for file in files.iter().filter(|file| file.role != FileRole::Code) {
        let before = departed.files.get(&file.path);
        let is_there_as_it_left = before.is_some_and(|before| before.hash == file.hash && before.link == file.link);
        let is_directory = file.kind() == FileEntry::DIRECTORY;
        if is_there_as_it_left || is_directory || departed.root_of(&file.path).is_none() {
            continue;
        }
        let Ok(stat) = fs::symlink_metadata(&file.path) else { continue };
        if stat.is_symlink() {
            let here = fs::read_link(&file.path).map_err(FilesError::io("read", &file.path))?;
            let is = |other: &FileEntry| other.link.as_ref().is_some_and(|link| link.0 == here.as_os_str().as_bytes());
            if !is(file) && !before.is_some_and(is) {
                conflicts.push(file.path.clone());
            }
            continue;
        }
        if before.is_some_and(|before| {
            before.hash.is_some() && before.size == stat.len() && before.modified == modified(&stat) && stat.is_file()
        }) {
            continue;
        }
        let here = if stat.is_file() {
            Some(hashes.of(&file.path).map_err(FilesError::io("read", &file.path))?)
        } else {
            None
        };
        let is_as_it_left = here.is_some() && before.is_some_and(|before| before.hash == here);
        let is_as_there = here.is_some() && here == file.hash;
        if !is_as_it_left && !is_as_there {
            conflicts.push(file.path.clone());
        }
    }
    Ok(conflicts)
}

/// Brings files to where they belong here, whose contents are all in the store (or here already): each at once or not at all.
/// Gives those that changed here. `is_final` tells that the program is home itself, and what it removed goes here as well.
///
/// # Errors
/// A file that was changed here meanwhile, unless `overwrite`; one that cannot be written.
pub fn bring_home(
    files: &[FileEntry],
    departed: &mut Departed,
    store: &Store,
    hashes: &mut Hashes,
    overwrite: bool,
    is_final: bool,
) -> Result<Vec<PathBuf>, FilesError> {
    if let Some(path) = conflicts(files, departed, hashes)?.first().filter(|_| !overwrite) {
        let advice = "decide which one you want: move yours away, or let the program's replace it with --overwrite";
        return Err(FilesError::wrong(path, "was changed here since the program left, and there as well", advice));
    }
    let mut brought = Vec::new();
    let mut sorted: Vec<&FileEntry> = files.iter().filter(|file| file.role != FileRole::Code).collect();
    sorted.sort_by(|one, other| one.path.cmp(&other.path));
    for file in sorted {
        // Where there is no root, it was not here when the program left: made there, outside of what went along. It stays there.
        let Some(root) = departed.root_of(&file.path).map(Path::to_path_buf) else { continue };
        if !departed.differs(file) {
            // The program has not changed it; here it may have been.
            continue;
        }
        if bring(file, &root, store, hashes)? {
            brought.push(file.path.clone());
        }
        departed.update(file);
    }
    if is_final {
        remove_removed(files, departed, hashes)?;
    }
    hashes.save();
    Ok(brought)
}

/// Makes one file here what it is there; false when it is that already.
fn bring(file: &FileEntry, root: &Path, store: &Store, hashes: &mut Hashes) -> Result<bool, FilesError> {
    let path = file.path.as_path();
    let writing = || FilesError::io("write", path);
    if path != root {
        make_way(root, path)?;
    }
    let here = fs::symlink_metadata(path).ok();
    match (file.kind(), &file.hash, &file.link) {
        (FileEntry::DIRECTORY, ..) => match here {
            Some(stat) if stat.is_dir() => Ok(false),
            Some(_) => Err(FilesError::wrong(path, "is a directory there and none here", "move it away")),
            None => {
                fs::create_dir_all(path).map_err(writing())?;
                fs::set_permissions(path, Permissions::from_mode(file.mode & 0o1777 | 0o700)).map_err(writing())?;
                Ok(true)
            }
        },
        (FileEntry::LINK, _, Some(target)) => {
            let target = std::ffi::OsStr::from_bytes(&target.0);
            if fs::read_link(path).is_ok_and(|here| here.as_os_str() == target) {
                return Ok(false);
            }
            if here.is_some() {
                fs::remove_file(path).map_err(writing())?;
            }
            symlink(target, path).map(|()| true).map_err(writing())
        }
        (_, Some(hash), _) => {
            let mode = Permissions::from_mode(file.mode & 0o777);
            if let Some(stat) = here.filter(|stat| stat.is_file() && stat.len() == file.size)
                && hashes.of(path).is_ok_and(|here| here == *hash)
            {
                let is_other = stat.permissions().mode() & 0o777 != file.mode & 0o777;
                return if is_other {
                    fs::set_permissions(path, mode).map(|()| true).map_err(writing())
                } else {
                    Ok(false)
                };
            }
            let source =
                store.find(hash)?.ok_or_else(|| FilesError::wrong(path, "did not come along", "fetch it again"))?;
            let parent = path.parent().unwrap_or(Path::new("/"));
            let new = tempfile::Builder::new().prefix(".ckptctl-").tempfile_in(parent).map_err(writing())?;
            copy_file(&source, new.path())?;
            fs::set_permissions(new.path(), mode).map_err(writing())?;
            set_times(new.path(), file)?;
            new.as_file().sync_all().map_err(writing())?;
            new.persist(path).map_err(|error| writing()(error.error))?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Removes here what the program removed there, unless it was changed here since.
fn remove_removed(files: &[FileEntry], departed: &Departed, hashes: &mut Hashes) -> Result<(), FilesError> {
    let there: BTreeSet<&Path> = files.iter().map(|file| file.path.as_path()).collect();
    let is_gone = |file: &&FileEntry| file.role != FileRole::Code && !there.contains(file.path.as_path());
    let mut gone: Vec<&FileEntry> = departed.files().filter(is_gone).collect();
    // What is in a directory before the directory.
    gone.sort_by(|one, other| other.path.cmp(&one.path));
    for file in gone {
        let path = file.path.as_path();
        let Some(tree) = departed.tree_of(path).filter(|tree| path != *tree) else { continue };
        let Ok(stat) = fs::symlink_metadata(path) else { continue };
        // Its directories are there then; that none of them is a link has to be seen.
        if make_way(tree, path).is_err() {
            continue;
        }
        let removed = match (stat, &file.hash, &file.link) {
            (stat, Some(hash), _) if stat.is_file() && hashes.of(path).is_ok_and(|here| here == *hash) => {
                fs::remove_file(path)
            }
            (stat, _, Some(link)) if stat.is_symlink() => match fs::read_link(path) {
                Ok(here) if here.as_os_str().as_bytes() == link.0 => fs::remove_file(path),
                _ => Ok(()),
            },
            (stat, None, None) if stat.is_dir() => match fs::remove_dir(path) {
                // Something was made in it here.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                result => result,
            },
            _ => Ok(()),
        };
        removed.map_err(FilesError::io("remove", path))?;
    }
    Ok(())
}
