//! Making the view out of mounts, in a mount namespace of one's own.
//!
//! Where a path exists, what it shows is mounted over it. Where it does not, the deepest directory on the way that
//! does is *opened*: a directory in memory is mounted over it in which everything that it holds is mounted again, and the
//! missing names are made there. When that is the root directory, the result becomes the new root. A directory that its
//! user may not search is opened as well, as an empty one: nothing that it holds could be found.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ckpt_trace::sys;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    Access, AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, accessat, chmodat,
    chownat, fstat, mkdirat, mknodat, openat, readlinkat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, chroot, fchdir, geteuid, pivot_root, umask};

use super::{Node, View, some_of};

/// Whom directories belong to that are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Whoever makes them, who can be nobody else.
    Ourselves,
    /// This user and group.
    Of(u32, u32),
}

/// A view being made.
struct Making<'a> {
    view: &'a View,
    owner: Owner,
    /// Paths that are tried in a directory that does not say what it holds.
    known: &'a [PathBuf],
    /// Copies of the mounts that are to be shown, by their places in the view; taken out as they find their place.
    sources: Vec<Option<OwnedFd>>,
    /// The devices of our directories in memory.
    ours: BTreeSet<u64>,
    /// The directory that is to become the root.
    new_root: Option<OwnedFd>,
    /// Directories in which what the program makes anew is in memory only.
    in_memory: Vec<PathBuf>,
    /// What cannot be seen any more.
    hidden: Vec<PathBuf>,
}

impl View {
    /// Makes the view in the mount namespace of the caller, which must be its own and empty of other processes. Gives what
    /// is not as one might expect, in sentences.
    ///
    /// # Errors
    /// What could not be made, in words.
    pub fn make(&self, owner: Owner, known: &[PathBuf]) -> Result<Vec<String>, String> {
        umask(Mode::WGRP | Mode::WOTH);
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(|error| format!("mounts cannot be made private: {error}"))?;
        // All before the first mount, which may cover some of them.
        let mut sources = Vec::with_capacity(self.places.len());
        for place in &self.places {
            let tree = open_tree(CWD, &place.source, COPY).map_err(|error| failed("show", &place.source, error))?;
            if place.read_only {
                sys::make_read_only(&tree)
                    .map_err(|error| format!("show {} read-only: {error}", place.source.display()))?;
            }
            sources.push(Some(tree));
        }
        let root = open_path(CWD, "/").map_err(|error| failed("open", Path::new("/"), error))?;
        let mut making = Making {
            view: self,
            owner,
            known,
            sources,
            ours: BTreeSet::new(),
            new_root: None,
            in_memory: Vec::new(),
            hidden: Vec::new(),
        };
        making.fit(&self.tree(), &root, Path::new("/"))?;
        if let Some(root) = making.new_root.take() {
            enter(&root).map_err(|error| format!("the root directory cannot be exchanged: {error}"))?;
        }
        Ok(making.notes())
    }
}

fn failed(what: &str, path: &Path, error: Errno) -> String {
    format!("{what} {}: {error}", path.display())
}

const COPY: OpenTreeFlags =
    OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC).union(OpenTreeFlags::AT_RECURSIVE);

impl Making<'_> {
    /// Gives all that is shown below a directory its place.
    fn fit(&mut self, node: &Node, directory: &OwnedFd, path: &Path) -> Result<(), String> {
        let adding = |error| failed("add to the directory", path, error);
        let mut made = None;
        if self.ours.contains(&fstat(directory).map_err(adding)?.st_dev) {
            // It was missing and is empty.
            self.in_memory.push(path.to_path_buf());
            for (name, child) in &node.below {
                self.make_place(None, directory, name, child).map_err(adding)?;
            }
        } else if !self.may_search(directory)
            || !node.below.iter().all(|(name, child)| self.has_place(directory, name, child))
        {
            made = Some(self.open(node, directory, path).map_err(adding)?);
        }
        let shown_in = made.as_ref().unwrap_or(directory);
        for (name, child) in &node.below {
            let path = path.join(name);
            let tree = child.shows.and_then(|index| self.sources.get_mut(index)?.take());
            let place = match tree {
                Some(tree) => attach(&tree, shown_in, name).map(|()| tree),
                None => open_path(shown_in, name),
            };
            let place = place.map_err(|error| failed("show something at", &path, error))?;
            if !child.below.is_empty() || child.shows.is_none() {
                self.fit(child, &place, &path)?;
            }
        }
        // Last: there may be more of it than mounts can be made.
        made.map_or(Ok(()), |made| self.keep_rest(node, directory, &made, path).map_err(adding))
    }

    /// Whether the user may search a directory. Our own that forbid it are not searched either, though we could here: the
    /// program's files are opened from outside of its namespaces.
    fn may_search(&self, directory: &OwnedFd) -> bool {
        match self.owner {
            Owner::Ourselves => {
                let is_forbidden =
                    |stat: Stat| stat.st_uid == geteuid().as_raw() && stat.st_mode & Mode::XUSR.as_raw_mode() == 0;
                accessat(directory, ".", Access::EXEC_OK, AtFlags::EACCESS).is_ok()
                    && !fstat(directory).is_ok_and(is_forbidden)
            }
            // Root makes it, who may search all.
            Owner::Of(..) => true,
        }
    }

    /// Whether what belongs there can be mounted over what is there: a directory over a directory, anything else over
    /// anything else, and nothing over a symbolic link.
    fn has_place(&self, directory: &OwnedFd, name: &OsStr, child: &Node) -> bool {
        let Some(kind) = kind_of(directory, name) else { return false };
        kind != FileType::Symlink && (kind == FileType::Directory) == self.wants_directory(child)
    }

    fn wants_directory(&self, node: &Node) -> bool {
        node.shows.is_none_or(|index| self.view.places[index].is_directory)
    }

    /// Mounts a directory in memory over one, with places for what is shown in it.
    fn open(&mut self, node: &Node, original: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
        let made = in_memory()?;
        let both_empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&made, "", original, "", both_empty)?;
        self.ours.insert(fstat(&made)?.st_dev);
        for (name, child) in &node.below {
            self.make_place(Some(original), &made, name, child)?;
        }
        if path == Path::new("/") {
            self.new_root = Some(made.try_clone().map_err(|_| Errno::MFILE)?);
        }
        Ok(made)
    }

    /// Shows in a directory in memory all else that the original holds, and makes it look like the original.
    fn keep_rest(&mut self, node: &Node, original: &OwnedFd, made: &OwnedFd, path: &Path) -> Result<(), Errno> {
        let entries = if self.may_search(original) {
            self.entries(original, path)
        } else {
            self.hidden.push(path.join("*"));
            Vec::new()
        };
        for (name, kind) in entries {
            if node.below.contains_key(&name) {
                continue;
            }
            match keep(original, made, &name, kind) {
                // It was there a moment ago.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(_) => self.hidden.push(path.join(name)),
            }
        }
        if self.copy_attributes(original, made)? {
            self.in_memory.push(path.to_path_buf());
        }
        Ok(())
    }

    /// Makes what something can be mounted over; a directory on the way shows what the original leads to, if anything.
    fn make_place(&self, original: Option<&OwnedFd>, made: &OwnedFd, name: &OsStr, child: &Node) -> Result<(), Errno> {
        if !self.wants_directory(child) {
            return mknodat(made, name, FileType::RegularFile, Mode::RUSR, 0);
        }
        mkdirat(made, name, Mode::from_raw_mode(0o755))?;
        if let Owner::Of(user, group) = self.owner {
            chownat(made, name, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if child.shows.is_none()
            && let Some(original) = original
            && let Ok(tree) = open_tree(original, name, COPY)
            && fstat(&tree).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        {
            attach(&tree, made, name)?;
        }
        Ok(())
    }

    /// What a directory holds; of one that does not say it, what is known to be there.
    fn entries(&mut self, directory: &OwnedFd, path: &Path) -> Vec<(OsString, FileType)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(mut reading) = openat(directory, ".", flags, Mode::empty()).and_then(Dir::new) else {
            self.hidden.push(path.join("*"));
            let names = self.known.iter().filter_map(|known| known.strip_prefix(path).ok()?.iter().next());
            let mut names: Vec<OsString> = names.map(OsStr::to_owned).collect();
            names.sort_unstable();
            names.dedup();
            return names.into_iter().filter_map(|name| kind_of(directory, &name).map(|kind| (name, kind))).collect();
        };
        let mut entries = Vec::new();
        while let Some(entry) = reading.read() {
            let Ok(entry) = entry else {
                self.hidden.push(path.join("*"));
                break;
            };
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => kind_of(directory, name),
                kind => Some(kind),
            };
            entries.extend(kind.map(|kind| (name.to_owned(), kind)));
        }
        entries
    }

    /// Gives a directory in memory the owner, mode and time of the one that it stands for, as far as we may. Tells whether
    /// the program can make files in it that would have been on disk.
    fn copy_attributes(&self, original: &OwnedFd, made: &OwnedFd) -> Result<bool, Errno> {
        let stat = fstat(original)?;
        let mode = stat.st_mode & 0o7777;
        let may_write = match self.owner {
            Owner::Of(user, group) => {
                chownat(
                    made,
                    ".",
                    Some(Uid::from_raw(stat.st_uid)),
                    Some(Gid::from_raw(stat.st_gid)),
                    AtFlags::empty(),
                )?;
                chmodat(made, ".", Mode::from_raw_mode(mode), AtFlags::empty())?;
                let bits = if stat.st_uid == user {
                    mode >> 6
                } else if stat.st_gid == group {
                    mode >> 3
                } else {
                    mode
                };
                user == 0 || bits & 2 != 0
            }
            Owner::Ourselves => {
                let may = |access: Access, bit: u32| {
                    if accessat(original, ".", access, AtFlags::EACCESS).is_ok() { bit } else { 0 }
                };
                let is_closed = !self.may_search(original);
                let ours = if is_closed {
                    // As one that is missing: the program's own.
                    7
                } else {
                    may(Access::READ_OK, 4) | may(Access::WRITE_OK, 2) | may(Access::EXEC_OK, 1)
                };
                let is_ours = stat.st_uid == geteuid().as_raw();
                let mode = if is_ours && !is_closed { mode } else { mode & !0o700 | ours << 6 };
                chmodat(made, ".", Mode::from_raw_mode(mode), AtFlags::empty())?;
                ours & 2 != 0
            }
        };
        let time = |seconds: i64, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds.cast_signed() };
        let times = Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
        };
        utimensat(made, ".", &times, AtFlags::empty())?;
        Ok(may_write)
    }

    fn notes(self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.in_memory.is_empty() {
            let directories = some_of(self.in_memory.iter().map(PathBuf::as_path));
            notes.push(format!(
                "new files in {directories} are kept in memory and go with the program, unless the whole directory goes along"
            ));
        }
        if !self.hidden.is_empty() {
            notes.push(format!(
                "the program does not see {} of this machine: not readable, or too many",
                some_of(self.hidden.iter().map(PathBuf::as_path))
            ));
        }
        notes
    }
}

/// An empty directory in memory, mounted nowhere yet.
fn in_memory() -> Result<OwnedFd, Errno> {
    let tmpfs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&tmpfs, "source", "ckptctl")?;
    fsconfig_create(&tmpfs)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(&tmpfs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Shows an entry of a directory in another under the same name.
fn keep(from: &OwnedFd, to: &OwnedFd, name: &OsStr, kind: FileType) -> Result<(), Errno> {
    if kind == FileType::Symlink {
        return symlinkat(readlinkat(from, name, Vec::new())?, to, name);
    }
    let flags = COPY | OpenTreeFlags::AT_SYMLINK_NOFOLLOW | OpenTreeFlags::AT_NO_AUTOMOUNT;
    let tree = open_tree(from, name, flags)?;
    let removal = if kind == FileType::Directory {
        mkdirat(to, name, Mode::RWXU)?;
        AtFlags::REMOVEDIR
    } else {
        mknodat(to, name, FileType::RegularFile, Mode::RUSR, 0)?;
        AtFlags::empty()
    };
    attach(&tree, to, name).inspect_err(|_| {
        // It stands for nothing; where it cannot be removed it is an empty file or directory.
        let _ = unlinkat(to, name, removal);
    })
}

fn attach(tree: &OwnedFd, directory: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    move_mount(tree, "", directory, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn open_path(directory: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

fn kind_of(directory: &OwnedFd, name: &OsStr) -> Option<FileType> {
    let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT).ok()?;
    Some(FileType::from_raw_mode(stat.st_mode))
}

/// Makes what is mounted over the root directory the root directory.
fn enter(new: &OwnedFd) -> Result<(), Errno> {
    let old = open_path(CWD, "/")?;
    fchdir(new)?;
    match pivot_root(".", ".") {
        Ok(()) => {
            fchdir(&old)?;
            unmount(".", UnmountFlags::DETACH)?;
        }
        // A root directory that is the kernel's first file system cannot be exchanged; it stays covered.
        Err(Errno::INVAL) => chroot(".")?,
        Err(error) => return Err(error),
    }
    chdir("/")
}

/// The root directory of the caller, as others can look into it.
pub fn root() -> Result<OwnedFd, Errno> {
    open_path(CWD, "/")
}
