//! Files that come home: what the program wrote elsewhere goes to where it would have written it here.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::place::{copy_file, modified, set_times};
use super::{FilesError, Hashes, is_plain};
use crate::protocol::{FileEntry, FileRole};
use crate::store::Store;

const DIRECTORY: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

/// The files of a program as they were here when it left, or when they were last brought back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departed {
    files: Vec<FileEntry>,
}

impl Departed {
    /// Remembers files as they are here now.
    #[must_use]
    pub fn new(files: Vec<FileEntry>) -> Self {
        Self { files }
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

    fn by_path(&self) -> BTreeMap<&Path, &FileEntry> {
        self.files.iter().map(|file| (file.path.as_path(), file)).collect()
    }

    /// The files.
    #[must_use]
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// Notes that a file is here now as it is there.
    fn update(&mut self, file: &FileEntry) {
        self.files.retain(|known| known.path != file.path);
        self.files.push(file.clone());
    }

    /// The directories that went along as wholes: only in these may new files appear.
    fn trees(&self) -> Vec<&Path> {
        let is_tree = |file: &&FileEntry| file.mode & 0o170_000 == DIRECTORY && file.role != FileRole::Code;
        self.files.iter().filter(is_tree).map(|file| file.path.as_path()).collect()
    }

    /// Whether a file may be written here because the program there has it.
    fn covers(&self, path: &Path) -> bool {
        let is_known = |file: &FileEntry| file.path == path && file.role != FileRole::Code;
        is_plain(path) && (self.files.iter().any(is_known) || self.trees().iter().any(|tree| path.starts_with(tree)))
    }
}

/// The files that differ there from what is here and were changed here as well since they left.
///
/// # Errors
/// When one cannot be read.
pub fn conflicts(files: &[FileEntry], departed: &Departed, hashes: &mut Hashes) -> Result<Vec<PathBuf>, FilesError> {
    let known = departed.by_path();
    let mut conflicts = Vec::new();
    for file in files.iter().filter(|file| file.role != FileRole::Code && file.hash.is_some()) {
        let Ok(stat) = fs::symlink_metadata(&file.path) else { continue };
        let before = known.get(file.path.as_path());
        if before.is_some_and(|before| before.size == stat.len() && before.modified == modified(&stat)) {
            continue;
        }
        let here = if stat.is_file() {
            Some(hashes.of(&file.path).map_err(FilesError::io("read", &file.path))?)
        } else {
            None
        };
        let is_as_it_left = before.is_some_and(|before| before.hash == here);
        if !is_as_it_left && here != file.hash {
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
        if !departed.covers(&file.path) {
            // It was not here when the program left: made there, outside of what went along. It stays there.
            continue;
        }
        if bring(file, store, hashes)? {
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
fn bring(file: &FileEntry, store: &Store, hashes: &mut Hashes) -> Result<bool, FilesError> {
    let path = file.path.as_path();
    let writing = || FilesError::io("write", path);
    let here = fs::symlink_metadata(path).ok();
    match (file.mode & 0o170_000, &file.hash, &file.link) {
        (DIRECTORY, ..) => match here {
            Some(stat) if stat.is_dir() => Ok(false),
            _ => fs::create_dir_all(path).map(|()| true).map_err(writing()),
        },
        (LINK, _, Some(target)) => {
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
            let is_file = here.as_ref().is_some_and(|stat| stat.is_file() && stat.len() == file.size);
            if is_file && hashes.of(path).is_ok_and(|here| here == *hash) {
                return Ok(false);
            }
            let source =
                store.find(hash)?.ok_or_else(|| FilesError::wrong(path, "did not come along", "fetch it again"))?;
            let parent = path.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(parent).map_err(FilesError::io("make the directory", parent))?;
            let new = tempfile::NamedTempFile::new_in(parent).map_err(writing())?;
            copy_file(&source, new.path())?;
            fs::set_permissions(new.path(), Permissions::from_mode(file.mode & 0o7777)).map_err(writing())?;
            set_times(new.path(), file)?;
            new.persist(path).map_err(|error| writing()(error.error))?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Removes here what the program removed there, unless it was changed here since.
fn remove_removed(files: &[FileEntry], departed: &Departed, hashes: &mut Hashes) -> Result<(), FilesError> {
    let trees = departed.trees();
    let is_there = |path: &Path| files.iter().any(|file| file.path == path);
    let gone = departed.files.iter().filter(|file| file.role != FileRole::Code && !is_there(&file.path));
    for file in gone.filter(|file| trees.iter().any(|tree| file.path.starts_with(tree))) {
        let path = file.path.as_path();
        let is_as_it_left = hashes.of(path).is_ok_and(|here| Some(&here) == file.hash.as_ref());
        if file.hash.is_some() && is_as_it_left {
            fs::remove_file(path).map_err(FilesError::io("remove", path))?;
        }
    }
    Ok(())
}
