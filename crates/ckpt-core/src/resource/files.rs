//! Files that mappings and descriptors refer to: recognized by their contents, carried where they have no name.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use object::elf::FileHeader64;
use object::read::elf::{FileHeader, ProgramHeader};
use rustix::fs::{AtFlags, CWD, MemfdFlags, Mode, OFlags, memfd_create, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// How much of the beginning and of the end of a file its fingerprint covers.
const SAMPLE: u64 = 64 * 1024;

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// The number that mappings, descriptors and pieces of contents refer to.
    pub id: u64,
    /// Its path, or the last one it had.
    #[serde(with = "super::bytes::path")]
    pub path: PathBuf,
    /// Whether the path leads to it.
    pub kind: FileKind,
    /// Its size in bytes.
    pub size: u64,
    /// Its last modification, in nanoseconds since 1970.
    pub modified: i64,
    /// Its device and inode number.
    pub inode: (u64, u64),
    /// Type and permission bits (`st_mode`).
    pub mode: u32,
    /// The build id of an ELF file.
    pub build_id: Option<String>,
    /// BLAKE3 of its first and last 64 KiB; empty for a directory.
    pub fingerprint: String,
    /// Whether the image holds its contents.
    pub is_carried: bool,
}

/// How a file can be found again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// By its path.
    Linked,
    /// It was unlinked; its contents are in the image.
    Unlinked,
    /// Made by `memfd_create`, with these seals; its contents are in the image.
    Memfd {
        /// The name that was given.
        name: String,
        /// `F_SEAL_*`.
        seals: u32,
    },
}

/// How a file is today, compared with what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The same contents.
    Same,
    /// More was written at its end; what was there is the same.
    Grown,
    /// Other contents.
    Changed,
    /// Something of another kind: a symbolic link, a FIFO, a directory.
    OtherKind,
    /// Nothing there.
    Missing,
}

/// What to do about files that have changed since the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FilesPolicy {
    /// Refuse to restore, and name them. A file that only grew is no reason.
    #[default]
    Fail,
    /// Go on with them as they are now.
    Keep,
    /// Make them what they were: what was appended is cut off, other changes are undone from the image where it
    /// carries the contents.
    Rollback,
}

impl FileState {
    /// Describes an open file. `id` is its place in the table.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn capture(id: u64, path: PathBuf, kind: FileKind, file: Option<&File>, stat: &Metadata) -> io::Result<Self> {
        let size = stat.len();
        let (build_id, fingerprint) = match file {
            Some(file) if stat.is_file() => {
                let head = read_at_most(file, 0, SAMPLE)?;
                (build_id(&head), fingerprint(file, size)?)
            }
            _ => (None, String::new()),
        };
        Ok(Self {
            id,
            path,
            is_carried: kind != FileKind::Linked,
            kind,
            size,
            modified: stat.mtime() * 1_000_000_000 + stat.mtime_nsec(),
            inode: (stat.dev(), stat.ino()),
            mode: stat.mode(),
            build_id,
            fingerprint,
        })
    }

    /// How the file at the path is today.
    ///
    /// # Errors
    /// When there is a file that cannot be read.
    pub fn compare(&self, path: &Path) -> io::Result<Change> {
        // The path was without symbolic links at the checkpoint: one at its end is something else now.
        let stat = match fs::symlink_metadata(path) {
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Change::Missing),
            Err(error) => return Err(error),
        };
        if stat.mode() & libc::S_IFMT != self.mode & libc::S_IFMT {
            return Ok(Change::OtherKind);
        }
        let modified = stat.mtime() * 1_000_000_000 + stat.mtime_nsec();
        let is_same_inode = (stat.dev(), stat.ino()) == self.inode && modified == self.modified;
        if stat.is_dir() || self.fingerprint.is_empty() || is_same_inode && stat.len() == self.size {
            return Ok(Change::Same);
        }
        if stat.len() < self.size {
            return Ok(Change::Changed);
        }
        let is_prefix = fingerprint(&File::open(path)?, self.size)? == self.fingerprint;
        Ok(match is_prefix {
            true if stat.len() == self.size => Change::Same,
            true => Change::Grown,
            false => Change::Changed,
        })
    }

    /// Makes a file without a name that will hold the carried contents: in the directory `beside`, where the original
    /// was, and under its name, as far as that is possible.
    ///
    /// # Errors
    /// When no directory takes it.
    pub fn recreate(&self, beside: Option<&OwnedFd>) -> io::Result<File> {
        if let FileKind::Memfd { name, .. } = &self.kind {
            return Ok(File::from(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?));
        }
        let name = self.path.file_name().unwrap_or(OsStr::new("file"));
        let make = |directory: &OwnedFd| {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
            unlinkat(directory, name, AtFlags::empty())?;
            Ok(File::from(file))
        };
        let in_a_directory_of_its_own = |parent: &OwnedFd| {
            let own = format!(".ckptctl-{}-{}", std::process::id(), self.id);
            mkdirat(parent, &own, Mode::RWXU)?;
            let file = open_directory(parent, &own).and_then(|directory| make(&directory));
            unlinkat(parent, &own, AtFlags::REMOVEDIR)?;
            file
        };
        let file: Result<File, Errno> = match beside {
            Some(beside) => make(beside).or_else(|_| in_a_directory_of_its_own(beside)),
            None => Err(Errno::NOENT),
        };
        let file = file.or_else(|_| in_a_directory_of_its_own(&open_directory(CWD, std::env::temp_dir())?))?;
        // The mode that is given when a file is made is cut down by our own umask.
        file.set_permissions(fs::Permissions::from_mode(self.mode & 0o7777))?;
        Ok(file)
    }
}

fn open_directory(parent: impl AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    openat(parent, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Calls `found` with offset and length of each stretch of data: holes of a sparse file are left out.
///
/// # Errors
/// When the file cannot be sought in, or what `found` says.
pub fn each_stretch<E: From<io::Error>>(
    file: &mut File,
    size: u64,
    mut found: impl FnMut(u64, u64) -> Result<(), E>,
) -> Result<(), E> {
    use rustix::fs::{SeekFrom as Seek, seek};
    let mut at = 0;
    while at < size {
        let start = match seek(&*file, Seek::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            // A file system that knows no holes.
            Err(rustix::io::Errno::INVAL) => at,
            Err(error) => return Err(io::Error::from(error).into()),
        };
        let end = seek(&*file, Seek::Hole(start)).unwrap_or(size).min(size);
        if end <= start {
            break;
        }
        found(start, end - start)?;
        at = end;
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(())
}

fn read_at_most(file: &File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// BLAKE3 of the first and last [`SAMPLE`] bytes of the first `size` bytes of a file: constant work, and an
/// edit that keeps size, beginning and end is caught by the time of modification alone.
fn fingerprint(file: &File, size: u64) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&read_at_most(file, 0, size.min(SAMPLE))?);
    if size > SAMPLE {
        let tail = (size - SAMPLE).max(SAMPLE);
        hasher.update(&read_at_most(file, tail, size - tail)?);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The GNU build id, if the first bytes of a file are those of an ELF file that has one.
fn build_id(head: &[u8]) -> Option<String> {
    let elf = FileHeader64::<object::Endianness>::parse(head).ok()?;
    let endian = elf.endian().ok()?;
    for segment in elf.program_headers(endian, head).ok()? {
        let Ok(Some(mut notes)) = segment.notes(endian, head) else { continue };
        while let Ok(Some(note)) = notes.next() {
            if note.name() == b"GNU" && note.n_type(endian) == object::elf::NT_GNU_BUILD_ID {
                return Some(hex::encode(note.desc()));
            }
        }
    }
    None
}

/// Reads a carried file's stretch into `buffer`, exactly.
///
/// # Errors
/// When it became shorter meanwhile, or cannot be read.
pub fn read_stretch(file: &mut File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(buffer)
}

#[cfg(test)]
mod tests;
