//! Contents by their BLAKE3 hash: what was once sent to a machine is not sent again.
//!
//! A whole entry is a read-only file under its hash; it may be executed, since it may be shown to a program as its executable
//! or a library. What has come in part lies beside, so that an interrupted copy goes on.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A file could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("{what} {}: {source}; {}", path.display(), advice(source))]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// What came is not what was announced.
    #[error("a file arrived damaged: its hash is {found} and not {expected}; it is sent again at the next try")]
    Damaged {
        /// The hash that was announced.
        expected: String,
        /// That of what came.
        found: String,
    },
    /// No hash at all.
    #[error("{0:?} is no BLAKE3 hash; the other side is of another version")]
    NoHash(String),
    /// No place for it.
    #[error("there is no directory for files; set HOME or XDG_CACHE_HOME")]
    NoHome,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space there, or set XDG_CACHE_HOME to a larger disk"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "use a directory that can be written",
        _ => "see to it and try again",
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_path_buf();
    move |source| StoreError::Io { what, path, source }
}

/// The store of a user on a machine.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// That in `$XDG_CACHE_HOME/ckptctl`, by default `~/.cache/ckptctl`.
    ///
    /// # Errors
    /// Without a home directory.
    pub fn open() -> Result<Self, StoreError> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
        Ok(Self { root: cache.ok_or(StoreError::NoHome)?.join("ckptctl") })
    }

    /// That in a directory.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn place(&self, hash: &str) -> Result<PathBuf, StoreError> {
        check(hash)?;
        Ok(self.root.join("store").join(&hash[..2]).join(hash))
    }

    fn partial(&self, hash: &str) -> Result<PathBuf, StoreError> {
        check(hash)?;
        Ok(self.root.join("partial").join(hash))
    }

    /// The file of these contents, if it is here; it counts as used now.
    ///
    /// # Errors
    /// [`StoreError::NoHash`].
    pub fn find(&self, hash: &str) -> Result<Option<PathBuf>, StoreError> {
        let place = self.place(hash)?;
        let Ok(file) = File::open(&place) else { return Ok(None) };
        // When it was used last decides what is removed first; where that cannot be noted, it is only removed sooner.
        let _ = file.set_modified(SystemTime::now());
        Ok(Some(place))
    }

    /// How many bytes of these contents have come.
    ///
    /// # Errors
    /// [`StoreError::NoHash`].
    pub fn partial_size(&self, hash: &str) -> Result<u64, StoreError> {
        Ok(fs::metadata(self.partial(hash)?).map_or(0, |stat| stat.len()))
    }

    /// Begins to take contents in, from `offset` on; what came beyond that before is dropped.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn receive(&self, hash: &str, size: u64, offset: u64) -> Result<Incoming, StoreError> {
        let (place, partial) = (self.place(hash)?, self.partial(hash)?);
        for path in [&place, &partial] {
            let directory = path.parent().unwrap_or(&self.root);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(io_error("make the directory", directory))?;
        }
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&partial)
            .map_err(io_error("write", &partial))?;
        file.set_len(offset).map_err(io_error("write", &partial))?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).map_err(io_error("read", &partial))? {
                0 => break,
                count => hasher.update(&buffer[..count]),
            };
        }
        Ok(Incoming { file, hasher, hash: hash.to_owned(), size, got: offset, place, partial })
    }

    /// Takes in a file of this machine.
    ///
    /// # Errors
    /// When it cannot be read or written, or changed meanwhile.
    pub fn keep(&self, path: &Path, hash: &str) -> Result<PathBuf, StoreError> {
        if let Some(found) = self.find(hash)? {
            return Ok(found);
        }
        let mut file = File::open(path).map_err(io_error("read", path))?;
        let size = file.metadata().map_err(io_error("read", path))?.len();
        let mut incoming = self.receive(hash, size, 0)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).map_err(io_error("read", path))? {
                0 => break,
                count => incoming.write(&buffer[..count])?,
            }
        }
        incoming.finish()
    }

    /// Removes what was not used for so long, and partial copies as old.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn prune(&self, older_than: Duration) -> Result<u64, StoreError> {
        let mut freed = 0;
        let Some(limit) = SystemTime::now().checked_sub(older_than) else { return Ok(0) };
        let mut directories = vec![self.root.join("partial"), self.root.join("store")];
        while let Some(directory) = directories.pop() {
            let entries = match fs::read_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(io_error("read", &directory))?,
            };
            for entry in entries.flatten() {
                let Ok(stat) = entry.metadata() else { continue };
                if stat.is_dir() {
                    directories.push(entry.path());
                } else if stat.modified().is_ok_and(|used| used < limit) && fs::remove_file(entry.path()).is_ok() {
                    freed += stat.len();
                }
            }
        }
        Ok(freed)
    }
}

fn check(hash: &str) -> Result<(), StoreError> {
    let is_hash = hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_hash { Ok(()) } else { Err(StoreError::NoHash(hash.to_owned())) }
}

/// Contents on their way in.
pub struct Incoming {
    file: File,
    hasher: blake3::Hasher,
    hash: String,
    size: u64,
    got: u64,
    place: PathBuf,
    partial: PathBuf,
}

impl Incoming {
    /// Whether all has come.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.got >= self.size
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(io_error("write", &self.partial))?;
        self.hasher.update(bytes);
        self.got += bytes.len() as u64;
        Ok(())
    }

    /// Checks what came, and gives it its name.
    ///
    /// # Errors
    /// [`StoreError::Damaged`]: what came is thrown away then.
    pub fn finish(self) -> Result<PathBuf, StoreError> {
        let found = self.hasher.finalize().to_hex().to_string();
        if found != self.hash {
            // It would be wrong for ever.
            let _ = fs::remove_file(&self.partial);
            return Err(StoreError::Damaged { expected: self.hash, found });
        }
        self.file.set_permissions(Permissions::from_mode(0o555)).map_err(io_error("write", &self.partial))?;
        self.file.sync_all().map_err(io_error("write", &self.partial))?;
        fs::rename(&self.partial, &self.place).map_err(io_error("write", &self.place))?;
        Ok(self.place)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use super::*;

    fn hash(bytes: &[u8]) -> String {
        blake3::hash(bytes).to_hex().to_string()
    }

    #[test]
    fn an_interrupted_copy_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().to_path_buf());
        let hash = hash(b"hello world");
        assert_eq!((store.find(&hash).unwrap(), store.partial_size(&hash).unwrap()), (None, 0));
        store.receive(&hash, 11, 0).unwrap().write(b"hello").unwrap();
        assert_eq!(store.partial_size(&hash).unwrap(), 5);
        let mut incoming = store.receive(&hash, 11, 5).unwrap();
        incoming.write(b" world").unwrap();
        assert!(incoming.is_whole());
        let place = incoming.finish().unwrap();
        assert_eq!(store.find(&hash).unwrap(), Some(place.clone()));
        assert_eq!(fs::read(&place).unwrap(), b"hello world");
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o555);
    }

    #[test]
    fn what_is_damaged_is_thrown_away() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().to_path_buf());
        let hash = hash(b"hello");
        let mut incoming = store.receive(&hash, 5, 0).unwrap();
        incoming.write(b"hellO").unwrap();
        assert!(matches!(incoming.finish(), Err(StoreError::Damaged { .. })));
        assert_eq!((store.find(&hash).unwrap(), store.partial_size(&hash).unwrap()), (None, 0));
        for bad in ["", "../../../../etc/passwd", &"A".repeat(64), &"a".repeat(63)] {
            assert!(matches!(store.receive(bad, 0, 0), Err(StoreError::NoHash(_))), "{bad}");
        }
    }

    #[test]
    fn what_is_not_used_goes() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().join("cache"));
        let file = directory.path().join("file");
        fs::write(&file, b"x").unwrap();
        let place = store.keep(&file, &hash(b"x")).unwrap();
        assert_eq!(store.prune(Duration::from_secs(60)).unwrap(), 0);
        File::open(&place).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(store.prune(Duration::from_secs(60)).unwrap(), 1);
        assert!(!place.exists());
    }
}
