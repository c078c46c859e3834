//! Contents by their BLAKE3 hash: what was once sent to a machine is not sent again.
//!
//! A whole entry is a read-only file under its hash; it may be executed, since it may be shown to a program as its executable
//! or a library. What has come in part lies beside, so that an interrupted copy goes on.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::directories;

#[allow(clippy::cast_possible_wrap, reason = "a flag")]
const NO_FOLLOW: i32 = OFlags::NOFOLLOW.bits() as i32;

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
    #[error("{} arrived damaged: its hash is {found} and not {expected}; it is sent again at the next try", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The hash that was announced.
        expected: String,
        /// That of what came.
        found: String,
    },
    /// More came than was announced, or a part before it is gone.
    #[error("{} came in part only, and what was there of it has gone meanwhile; try again", path.display())]
    Gap {
        /// The partial copy.
        path: PathBuf,
    },
    /// It does not fit.
    #[error(
        "{} does not fit on its disk: it needs {needed} bytes and {free} are free; free some space there",
        path.display()
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// How many bytes it still needs.
        needed: u64,
        /// How many are free.
        free: u64,
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
        let cache = directories::base("XDG_CACHE_HOME", ".cache");
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

    /// Gives these contents a second name, which keeps them from being removed as long as it exists; `None` when they are not
    /// here. Where that file system has no such thing, the name in the store is given.
    ///
    /// # Errors
    /// When the directory of the new name cannot be made.
    pub fn hold(&self, hash: &str, name: &Path) -> Result<Option<PathBuf>, StoreError> {
        let Some(found) = self.find(hash)? else { return Ok(None) };
        let directory = name.parent().unwrap_or(&self.root);
        make_directory(directory)?;
        match fs::hard_link(&found, name) {
            Ok(()) => Ok(Some(name.to_path_buf())),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Some(name.to_path_buf())),
            Err(_) => Ok(Some(found)),
        }
    }

    /// How many bytes of these contents have come.
    ///
    /// # Errors
    /// [`StoreError::NoHash`].
    pub fn partial_size(&self, hash: &str) -> Result<u64, StoreError> {
        Ok(fs::metadata(self.partial(hash)?).map_or(0, |stat| stat.len()))
    }

    /// Begins to take contents in, from `offset` on; what came beyond that before is dropped. Several at once do not disturb
    /// each other.
    ///
    /// # Errors
    /// When it cannot be written, or is known not to fit.
    pub fn receive(&self, hash: &str, size: u64, offset: u64) -> Result<Incoming, StoreError> {
        let (place, partial) = (self.place(hash)?, self.partial(hash)?);
        for path in [&place, &partial] {
            make_directory(path.parent().unwrap_or(&self.root))?;
        }
        Incoming::open(place, &partial, hash, Extent { size, offset }, 0o555)
    }

    /// Begins contents with those that they have grown from, if these are here and nothing of the others is. Only a short cut:
    /// without room for it nothing is begun.
    ///
    /// # Errors
    /// [`StoreError::NoHash`].
    pub fn grow(&self, hash: &str, from: &str) -> Result<(), StoreError> {
        let (partial, found) = (self.partial(hash)?, self.find(from)?);
        let Some(before) = found.filter(|_| !partial.exists()) else { return Ok(()) };
        let begin = || -> io::Result<()> {
            make_directory(partial.parent().unwrap_or(&self.root)).map_err(io::Error::other)?;
            let directory = partial.parent().unwrap_or(&self.root);
            let mut copy = tempfile::NamedTempFile::new_in(directory)?;
            // In the kernel, and without a copy where the file system shares blocks (copy_file_range).
            io::copy(&mut File::open(before)?, copy.as_file_mut())?;
            copy.persist_noclobber(&partial)?;
            Ok(())
        };
        // All of it is sent then.
        let _ = begin();
        Ok(())
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

    /// Removes partial copies and contents that were not used for so long, and of the others those that were not used for the
    /// longest time, until at most `limit` bytes are left. What a job holds ([`Store::hold`]) stays. Gives the bytes freed.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn prune(&self, limit: u64, older_than: Duration) -> Result<u64, StoreError> {
        let oldest = SystemTime::now().checked_sub(older_than).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut entries = Vec::new();
        let mut directories = vec![self.root.join("partial"), self.root.join("store")];
        while let Some(directory) = directories.pop() {
            let found = match fs::read_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                found => found.map_err(io_error("read", &directory))?,
            };
            for entry in found.flatten() {
                match entry.metadata() {
                    Ok(stat) if stat.is_dir() => directories.push(entry.path()),
                    // A second name: a job holds it.
                    Ok(stat) if stat.nlink() == 1 => {
                        entries.push((stat.modified().unwrap_or(SystemTime::UNIX_EPOCH), stat.len(), entry.path()));
                    }
                    _ => {}
                }
            }
        }
        entries.sort();
        let (mut left, mut freed) = (entries.iter().map(|(_, size, _)| size).sum::<u64>(), 0);
        for (used, size, path) in entries {
            if (used < oldest || left > limit) && fs::remove_file(&path).is_ok() {
                left -= size;
                freed += size;
            }
        }
        Ok(freed)
    }
}

fn make_directory(directory: &Path) -> Result<(), StoreError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory).map_err(io_error("make the directory", directory))
}

fn is_same_file(file: &File, path: &Path) -> bool {
    let inode = |stat: fs::Metadata| (stat.dev(), stat.ino());
    file.metadata().is_ok_and(|open| fs::symlink_metadata(path).is_ok_and(|named| inode(open) == inode(named)))
}

fn check(hash: &str) -> Result<(), StoreError> {
    let is_hash = hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_hash { Ok(()) } else { Err(StoreError::NoHash(hash.to_owned())) }
}

/// How much is announced, and from where on it comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) size: u64,
    pub(crate) offset: u64,
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
    mode: u32,
}

impl Incoming {
    /// Begins to take in what will be `place`, and lies in `partial` until it is whole.
    pub(crate) fn open(
        place: PathBuf,
        partial: &Path,
        hash: &str,
        Extent { size, offset }: Extent,
        mode: u32,
    ) -> Result<Self, StoreError> {
        let writing = || io_error("write", partial);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(NO_FOLLOW);
        let common = options.open(partial).map_err(writing())?;
        if offset > size || common.metadata().map_err(writing())?.len() < offset {
            return Err(StoreError::Gap { path: partial.to_path_buf() });
        }
        // A copy that became whole meanwhile has another name now, and is not to be touched.
        let is_ours =
            |file: &File| flock(file, FlockOperation::NonBlockingLockExclusive).is_ok() && is_same_file(file, partial);
        let (mut file, path) = if is_ours(&common) {
            (common, partial.to_path_buf())
        } else {
            // Somebody else is receiving the same: what is there already does not change any more, and is common to both.
            let name = partial.file_name().unwrap_or_default();
            let directory = partial.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let own = tempfile::Builder::new().prefix(name).tempfile_in(directory).map_err(writing())?;
            let (mut file, path) = own.keep().map_err(|error| writing()(error.error))?;
            io::copy(&mut (&common).take(offset), &mut file).map_err(writing())?;
            file.rewind().map_err(writing())?;
            (file, path)
        };
        file.set_len(offset).map_err(writing())?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&mut file).map_err(io_error("read", partial))?;
        let incoming = Self { file, hasher, hash: hash.to_owned(), size, got: offset, place, partial: path, mode };
        match incoming.free() {
            Some(free) if free < size - offset => Err(incoming.full(free)),
            _ => Ok(incoming),
        }
    }

    /// Whether all has come.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.got >= self.size
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When they cannot be written, or are more than was announced.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if self.got + bytes.len() as u64 > self.size {
            return Err(StoreError::Gap { path: self.partial.clone() });
        }
        if let Err(error) = self.file.write_all(bytes) {
            return Err(match (error.kind(), self.free()) {
                (io::ErrorKind::StorageFull, Some(free)) => self.full(free),
                _ => io_error("write", &self.partial)(error),
            });
        }
        self.hasher.update(bytes);
        self.got += bytes.len() as u64;
        Ok(())
    }

    /// How many bytes this user may still write to its disk.
    fn free(&self) -> Option<u64> {
        let disk = rustix::fs::fstatvfs(&self.file).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn full(&self, free: u64) -> StoreError {
        StoreError::Full { path: self.place.clone(), needed: self.size.saturating_sub(self.got), free }
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
            return Err(StoreError::Damaged { path: self.place, expected: self.hash, found });
        }
        self.file.set_permissions(Permissions::from_mode(self.mode)).map_err(io_error("write", &self.partial))?;
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
    fn what_has_grown_is_begun_with_what_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().to_path_buf());
        let (before, after) = (hash(b"hello"), hash(b"hello world"));
        store.grow(&after, &before).unwrap();
        assert_eq!(store.partial_size(&after).unwrap(), 0, "what it was is not here");
        let mut incoming = store.receive(&before, 5, 0).unwrap();
        incoming.write(b"hello").unwrap();
        incoming.finish().unwrap();
        store.grow(&after, &before).unwrap();
        assert_eq!(store.partial_size(&after).unwrap(), 5);
        let mut incoming = store.receive(&after, 11, 5).unwrap();
        incoming.write(b" world").unwrap();
        // What has come in part already is not begun again.
        store.grow(&after, &before).unwrap();
        assert_eq!(fs::read(incoming.finish().unwrap()).unwrap(), b"hello world");
        assert_eq!(fs::read(store.find(&before).unwrap().unwrap()).unwrap(), b"hello");
        // One that was written anew is found out.
        let other = hash(b"HELLO world");
        store.grow(&other, &before).unwrap();
        let mut incoming = store.receive(&other, 11, 5).unwrap();
        incoming.write(b" world").unwrap();
        assert!(matches!(incoming.finish(), Err(StoreError::Damaged { .. })));
        assert_eq!(store.partial_size(&other).unwrap(), 0);
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
    fn two_that_receive_the_same_do_not_disturb_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().to_path_buf());
        let hash = hash(b"hello world");
        store.receive(&hash, 11, 0).unwrap().write(b"hello").unwrap();
        let mut one = store.receive(&hash, 11, 5).unwrap();
        let mut other = store.receive(&hash, 11, 5).unwrap();
        one.write(b" wor").unwrap();
        other.write(b" world").unwrap();
        one.write(b"ld").unwrap();
        assert_eq!(one.finish().unwrap(), other.finish().unwrap());
        assert_eq!(fs::read(store.find(&hash).unwrap().unwrap()).unwrap(), b"hello world");
        assert_eq!(fs::read_dir(directory.path().join("partial")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_announced_wrongly_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().to_path_buf());
        let hash = hash(b"hello");
        assert!(matches!(store.receive(&hash, 5, 3), Err(StoreError::Gap { .. })), "three bytes never came");
        let mut incoming = store.receive(&hash, 5, 0).unwrap();
        assert!(matches!(incoming.write(b"hello!"), Err(StoreError::Gap { .. })), "more than announced");
        drop(incoming);
        let error = store.receive(&hash, 1 << 60, 0).err().unwrap().to_string();
        assert!(error.contains(&hash) && error.contains("1152921504606846976 bytes"), "{error}");
    }

    #[test]
    fn what_is_not_used_goes() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().join("cache"));
        let file = directory.path().join("file");
        fs::write(&file, b"x").unwrap();
        let place = store.keep(&file, &hash(b"x")).unwrap();
        let held = store.keep(&file, &hash(b"x")).unwrap();
        assert_eq!(held, place);
        let day = Duration::from_secs(86400);
        assert_eq!(store.prune(u64::MAX, day).unwrap(), 0);
        let own = directory.path().join("job/code/x");
        assert_eq!(store.hold(&hash(b"x"), &own).unwrap(), Some(own.clone()));
        File::open(&place).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(store.prune(u64::MAX, day).unwrap(), 0, "a job holds it");
        fs::remove_file(own).unwrap();
        assert_eq!(store.prune(u64::MAX, day).unwrap(), 1);
        assert!(!place.exists());

        for (name, used) in [("old", 1), ("new", 2)] {
            fs::write(&file, name).unwrap();
            let place = store.keep(&file, &hash(name.as_bytes())).unwrap();
            File::open(place).unwrap().set_modified(SystemTime::UNIX_EPOCH + used * day).unwrap();
        }
        assert_eq!(store.prune(3, SystemTime::UNIX_EPOCH.elapsed().unwrap()).unwrap(), 3);
        assert!(store.find(&hash(b"old")).unwrap().is_none() && store.find(&hash(b"new")).unwrap().is_some());
    }
}
