//! The files that a process refers to, each described once, and where the contents of those that are carried can be read.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ckpt_trace::Span;

use super::files::{FileKind, FileState};
use crate::Error;
use crate::proc::{self, Vma, VmaKind};

/// Which files with a name go along all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carry {
    /// Those that are mapped.
    pub mapped: bool,
    /// Those that are open.
    pub open: bool,
}

/// Where a carried file's contents can be read.
pub enum Contents {
    /// From the open file.
    File(File),
    /// From memory that shows it: offset in the file, and where.
    Memory(Vec<(u64, Span)>),
}

/// The files that a process refers to, each once.
pub struct FileTable {
    pid: i32,
    carry: Carry,
    /// Whether paths mean the same to the process as to us.
    shares_paths: bool,
    files: Vec<FileState>,
    known: BTreeMap<(PathBuf, u64), u64>,
    contents: BTreeMap<u64, Contents>,
}

impl FileTable {
    /// An empty table for a process.
    #[must_use]
    pub fn new(pid: i32, carry: Carry) -> Self {
        let ours = std::process::id().try_into().ok().and_then(|us| proc::tree::namespace(us, "mnt").ok());
        let shares_paths = ours.is_some() && ours == proc::tree::namespace(pid, "mnt").ok();
        Self { pid, carry, shares_paths, files: Vec::new(), known: BTreeMap::new(), contents: BTreeMap::new() }
    }

    /// Enters the file behind a descriptor, of which we hold a copy.
    ///
    /// # Errors
    /// When it has to be carried and cannot be read.
    pub fn descriptor(&mut self, pid: i32, fd: i32, path: &Path, copy: &OwnedFd) -> Result<u64, Error> {
        let copy = File::from(copy.try_clone().map_err(Error::file("look at", path))?);
        let stat = copy.metadata().map_err(Error::file("look at", path))?;
        let seals = || rustix::fs::fcntl_get_seals(&copy).map_or(0, |seals| seals.bits());
        let reopen = || File::open(format!("/proc/{pid}/fd/{fd}"));
        self.enter(path, &stat, seals, reopen, self.carry.open, None)
    }

    /// Enters the file behind a mapping.
    ///
    /// # Errors
    /// A mapped device is refused; and when a file has to be carried and cannot be read.
    pub fn mapping(&mut self, pid: i32, vma: &Vma) -> Result<u64, Error> {
        let name = PathBuf::from(std::ffi::OsStr::from_bytes(&vma.name));
        let range = format!("/proc/{pid}/map_files/{:x}-{:x}", vma.start, vma.end);
        // The link to the mapped file itself takes privilege; a file that still has its path needs none.
        let open = || File::open(&range).or_else(|_| self.open_unlinked(vma.inode));
        let stat = match vma.kind() {
            VmaKind::File { deleted: false } => fs::metadata(self.resolve(&name)),
            _ => open().and_then(|file| file.metadata()),
        };
        if let Ok(stat) = &stat
            && stat.mode() & libc::S_IFMT == libc::S_IFCHR
            && name != Path::new("/dev/zero")
        {
            let what = format!("memory at {:#x} is a mapping of the device {}", vma.start, name.display());
            return Err(Error::refused(pid, what + ", which cannot be saved", "let the program unmap it"));
        }
        let in_memory = Span { addr: vma.start, len: vma.size() };
        match stat {
            Ok(stat) => {
                let file = open().or_else(|_| File::open(self.resolve(&name)));
                let seals =
                    || file.as_ref().ok().and_then(|f| rustix::fs::fcntl_get_seals(f).ok()).map_or(0, |s| s.bits());
                let reopen = || file.as_ref().map_err(|e| std::io::Error::from(e.kind())).and_then(File::try_clone);
                self.enter(&name, &stat, seals, reopen, self.carry.mapped, Some((vma.offset, in_memory)))
            }
            Err(_) => Ok(self.enter_from_memory(&name, vma, in_memory)),
        }
    }

    /// Enters the executable.
    ///
    /// # Errors
    /// When it has to be carried and cannot be read.
    pub fn executable(&mut self, pid: i32) -> Result<u64, Error> {
        let path = proc::tree::link(pid, "exe")?;
        let link = format!("/proc/{pid}/exe");
        let stat = fs::metadata(&link).map_err(Error::file("look at", &link))?;
        self.enter(&path, &stat, || 0, || File::open(&link), self.carry.mapped, None)
    }

    /// The path by which we reach what the process calls `path`.
    fn resolve(&self, path: &Path) -> PathBuf {
        if self.shares_paths { path.to_path_buf() } else { rooted(self.pid, path) }
    }

    /// Opens an unlinked file that is mapped, by a descriptor or the executable link that leads to it.
    fn open_unlinked(&self, inode: u64) -> std::io::Result<File> {
        let pid = self.pid;
        let fds = proc::tree::fds(pid).unwrap_or_default();
        let links = fds.iter().map(|fd| format!("/proc/{pid}/fd/{fd}")).chain([format!("/proc/{pid}/exe")]);
        for link in links {
            if fs::metadata(&link).is_ok_and(|stat| stat.ino() == inode) {
                return File::open(link);
            }
        }
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn enter(
        &mut self,
        name: &Path,
        stat: &fs::Metadata,
        seals: impl FnOnce() -> u32,
        open: impl Fn() -> std::io::Result<File>,
        carry: bool,
        mapped: Option<(u64, Span)>,
    ) -> Result<u64, Error> {
        let key = (name.to_path_buf(), stat.ino());
        if let Some(id) = self.known.get(&key) {
            if let (Some(part), Some(Contents::Memory(parts))) = (mapped, self.contents.get_mut(id)) {
                parts.push(part);
            }
            return Ok(*id);
        }
        let id = self.files.len() as u64;
        let (path, kind) = self.kind_of(name, stat, seals);
        let file = open();
        let is_carried = kind != FileKind::Linked || carry;
        let readable = file.as_ref().ok();
        let mut state = FileState::capture(id, path, kind, readable, stat).map_err(Error::file("read", name))?;
        if is_carried && stat.is_file() {
            let contents = file.map_err(|source| Error::File {
                what: "read, to carry its contents,",
                path: name.to_path_buf(),
                source,
            })?;
            self.contents.insert(id, Contents::File(contents));
        }
        state.is_carried = is_carried && stat.is_file();
        self.files.push(state);
        self.known.insert(key, id);
        Ok(id)
    }

    /// Enters an unlinked file that can be reached in no other way than through the memory that shows it.
    fn enter_from_memory(&mut self, name: &Path, vma: &Vma, part: Span) -> u64 {
        let key = (name.to_path_buf(), vma.inode);
        let (id, parts) = match self.known.get(&key) {
            Some(id) => (*id, self.contents.get_mut(id)),
            None => (self.files.len() as u64, None),
        };
        let end = vma.offset + vma.size();
        match parts {
            Some(Contents::Memory(parts)) => {
                parts.push((vma.offset, part));
                if let Some(file) = self.files.iter_mut().find(|file| file.id == id) {
                    file.size = file.size.max(end);
                }
            }
            Some(Contents::File(_)) => {}
            None => {
                let (path, kind) = unlinked(name, || 0);
                self.files.push(FileState {
                    id,
                    path,
                    kind,
                    size: end,
                    modified: 0,
                    inode: (0, vma.inode),
                    mode: libc::S_IFREG | 0o600,
                    build_id: None,
                    fingerprint: String::new(),
                    is_carried: true,
                });
                self.known.insert(key, id);
                self.contents.insert(id, Contents::Memory(vec![(vma.offset, part)]));
            }
        }
        id
    }

    fn kind_of(&self, name: &Path, stat: &fs::Metadata, seals: impl FnOnce() -> u32) -> (PathBuf, FileKind) {
        let is_there = |path: &Path| {
            fs::metadata(self.resolve(path)).is_ok_and(|found| (found.dev(), found.ino()) == (stat.dev(), stat.ino()))
        };
        if is_there(name) { (name.to_path_buf(), FileKind::Linked) } else { unlinked(name, seals) }
    }

    /// The table, and where carried contents are to be had.
    #[must_use]
    pub fn finish(self) -> (Vec<FileState>, BTreeMap<u64, Contents>) {
        (self.files, self.contents)
    }
}

/// What a process with another root calls `path`, as we reach it.
fn rooted(pid: i32, path: &Path) -> PathBuf {
    let mut rooted = PathBuf::from(format!("/proc/{pid}/root"));
    rooted.push(path.strip_prefix("/").unwrap_or(path));
    rooted
}

/// What a file is that its name does not lead to: unlinked, without a name from the beginning, or, where the name is not
/// marked as deleted, one that we cannot reach by it (another root, another mount namespace).
fn unlinked(name: &Path, seals: impl FnOnce() -> u32) -> (PathBuf, FileKind) {
    let Some(path) = strip_deleted(name) else { return (name.to_path_buf(), FileKind::Unlinked) };
    match memfd_name(&path) {
        Some(name) => (path, FileKind::Memfd { name, seals: seals() }),
        None => (path, FileKind::Unlinked),
    }
}

fn strip_deleted(name: &Path) -> Option<PathBuf> {
    let stripped = name.as_os_str().as_bytes().strip_suffix(b" (deleted)")?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(stripped)))
}

fn memfd_name(path: &Path) -> Option<String> {
    path.to_str()?.strip_prefix("/memfd:").map(str::to_owned)
}
