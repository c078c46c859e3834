//! BLAKE3 of files, remembered: a file that is what it was by all that `stat` tells is not read again.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::store::Store;

/// How many are remembered at most.
const MOST: usize = 50_000;

/// Remembered hashes: the key is device, inode, size, and both times of change.
#[derive(Debug, Default)]
pub struct Hashes {
    file: Option<PathBuf>,
    known: BTreeMap<String, String>,
    is_changed: bool,
}

impl Hashes {
    /// Those beside a store. What cannot be read is made anew.
    #[must_use]
    pub fn load(store: &Store) -> Self {
        let file = store.root().join("hashes.json");
        let known = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { file: Some(file), known, is_changed: false }
    }

    /// The hash of a file's contents.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(&mut self, path: &Path) -> io::Result<String> {
        let file = File::open(path)?;
        let key = key(&file.metadata()?);
        if let Some(hash) = self.known.get(&key) {
            return Ok(hash.clone());
        }
        let hash = hash(&file)?;
        // What was written to just now may be written to again without another time.
        if self.known.len() < MOST && key == self::key(&file.metadata()?) && is_settled(&file.metadata()?) {
            self.known.insert(key, hash.clone());
            self.is_changed = true;
        }
        Ok(hash)
    }

    /// Writes them down, if there are new ones. They are only a short cut: where that fails, files are read again.
    pub fn save(&self) {
        let Some(file) = self.file.as_ref().filter(|_| self.is_changed) else { return };
        let Some(directory) = file.parent() else { return };
        let write = || -> io::Result<()> {
            fs::create_dir_all(directory)?;
            let mut new = tempfile::NamedTempFile::new_in(directory)?;
            new.write_all(&serde_json::to_vec(&self.known)?)?;
            new.persist(file)?;
            Ok(())
        };
        let _ = write();
    }
}

fn key(stat: &Metadata) -> String {
    let (dev, ino, size) = (stat.dev(), stat.ino(), stat.len());
    format!("{dev}:{ino}:{size}:{}.{}:{}.{}", stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec())
}

/// Whether a file has not been changed for longer than times of change are apart.
fn is_settled(stat: &Metadata) -> bool {
    const TICK: std::time::Duration = std::time::Duration::from_secs(2);
    stat.modified().ok().and_then(|at| at.elapsed().ok()).is_some_and(|since| since > TICK)
}

fn hash(mut file: &File) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().to_hex().to_string()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
    }
}
