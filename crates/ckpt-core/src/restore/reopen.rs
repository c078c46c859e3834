//! Finding the files of an image again, and opening them before anything is built.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use ckpt_trace::usize_of;
use rustix::fs::OFlags;
use rustix::io::fcntl_dupfd_cloexec;

use super::index::ImageIndex;
use crate::Error;
use crate::resource::descriptors::{Description, DescriptorState, Opened};
use crate::resource::events::Epoll;
use crate::resource::files::{Change, FileKind, FileState, FilesPolicy};
use crate::resource::memory::{Backing, MemoryState};
use crate::resource::pipes::Pipe;

/// Everything that is open before the new process is made; it inherits the descriptors by their numbers here.
pub struct OpenFiles {
    /// The descriptors that it will have: number here, number there, close-on-exec.
    pub descriptors: Vec<(i32, i32, bool)>,
    /// Descriptors to map files by: file and whether writable, and number here.
    pub mapped: BTreeMap<(u64, bool), i32>,
    /// The executable.
    pub executable: i32,
    /// The image.
    pub image: i32,
    /// The lowest number that is ours: the program's own are all below.
    pub base: i32,
    /// Files to be sealed, and how.
    unsealed: Vec<(File, u32, PathBuf)>,
    _held: Vec<OwnedFd>,
}

/// How files are looked for.
struct Finder<'a> {
    index: &'a ImageIndex,
    policy: FilesPolicy,
    recreated: BTreeMap<u64, File>,
    pipes: BTreeMap<u64, (OwnedFd, OwnedFd)>,
    used_ends: BTreeSet<(u64, bool)>,
    notes: &'a mut Vec<String>,
}

/// Finds and opens all files. What has changed is told in notes or refused, as the policy says.
///
/// # Errors
/// [`Error::Restore`] that names the file.
pub fn open_all(index: &ImageIndex, policy: FilesPolicy, notes: &mut Vec<String>) -> Result<OpenFiles, Error> {
    let memory = &index.layout.processes[0].memory;
    let descriptors = &index.state.descriptors;
    let mut finder =
        Finder { index, policy, recreated: BTreeMap::new(), pipes: BTreeMap::new(), used_ends: BTreeSet::new(), notes };
    finder.check_all(memory, descriptors)?;

    let base = descriptors.highest().max(2) + 1;
    let mut held: Vec<OwnedFd> = Vec::new();
    let mut hold = |file: OwnedFd| -> Result<i32, Error> {
        let high = fcntl_dupfd_cloexec(&file, base).map_err(|error| {
            let what = format!("the program had descriptors up to {} and more cannot be opened: {error}", base - 1);
            Error::restore(what, "raise the limit of open files (ulimit -n)")
        })?;
        let number = high.as_raw_fd();
        held.push(high);
        Ok(number)
    };
    let mut mapped = BTreeMap::new();
    for region in &memory.regions {
        if let Backing::File { file, shared, may_write, .. } = region.backing {
            let writable = shared && may_write;
            if let Entry::Vacant(place) = mapped.entry((file, writable)) {
                let flags = if writable { OFlags::RDWR } else { OFlags::RDONLY };
                place.insert(hold(finder.open(&index.layout.files[usize_of(file)], flags)?)?);
            }
        }
    }
    let executable = hold(finder.open(&index.layout.files[usize_of(memory.executable)], OFlags::RDONLY)?)?;
    let image = hold(index.file.as_fd().try_clone_to_owned().map_err(Error::reopening("read", &index.path))?)?;

    let mut sources: Vec<Option<i32>> = vec![None; descriptors.descriptions.len()];
    let mut placed = Vec::with_capacity(descriptors.descriptors.len());
    for descriptor in &descriptors.descriptors {
        let description = &descriptors.descriptions[descriptor.description];
        // Standard descriptors reconnect one by one: here they may lead to three places where they led to one.
        let is_standard = (0..=2).contains(&descriptor.fd) && is_inherited(&description.opened);
        let source = match sources[descriptor.description] {
            Some(source) if !is_standard => source,
            _ => hold(finder.open_description(description, descriptor.fd, is_standard)?)?,
        };
        if !is_standard || sources[descriptor.description].is_none() {
            sources[descriptor.description] = Some(source);
        }
        placed.push((source, descriptor.fd, descriptor.close_on_exec));
    }
    let unsealed = finder.unsealed();
    Ok(OpenFiles { descriptors: placed, mapped, executable, image, base, unsealed, _held: held })
}

impl OpenFiles {
    /// Seals what was sealed: not before it is mapped, since a mapping may be older than a seal that would forbid it.
    ///
    /// # Errors
    /// [`Error::Restore`].
    pub fn seal(&self) -> Result<(), Error> {
        for (file, seals, path) in &self.unsealed {
            let seals = rustix::fs::SealFlags::from_bits_retain(*seals);
            rustix::fs::fcntl_add_seals(file, seals).map_err(|error| Error::reopening("seal", path)(error.into()))?;
        }
        Ok(())
    }
}

fn is_inherited(opened: &Opened) -> bool {
    matches!(opened, Opened::Terminal { .. } | Opened::Inherited(_))
}

impl Finder<'_> {
    /// Compares every file with what it was, once, before anything is opened or changed.
    fn check_all(&mut self, memory: &MemoryState, descriptors: &DescriptorState) -> Result<(), Error> {
        let open: Vec<(u64, u32)> = descriptors
            .descriptions
            .iter()
            .filter_map(|description| match description.opened {
                Opened::File(file) => Some((file, description.flags)),
                _ => None,
            })
            .collect();
        let is_mapped = |id: u64| {
            memory.executable == id
                || memory
                    .regions
                    .iter()
                    .any(|region| matches!(region.backing, Backing::File { file, shared: false, .. } if file == id))
        };
        let mut rollbacks = Vec::new();
        for file in self.index.layout.files.iter().filter(|file| file.kind == FileKind::Linked) {
            let change = file.compare(&file.path).map_err(Error::reopening("look at", &file.path))?;
            let opened = open.iter().filter(|(id, _)| *id == file.id).map(|(_, flags)| *flags).collect::<Vec<_>>();
            if change != Change::Same && is_mapped(file.id) && opened.is_empty() {
                self.check_mapped(file, change)?;
            } else if let Some(rollback) = self.check_open(file, change)? {
                rollbacks.push((file, rollback));
            }
        }
        rollbacks.into_iter().try_for_each(|(file, change)| self.roll_back(file, change))
    }

    /// An executable or a library must be the same, or be in the image.
    fn check_mapped(&mut self, file: &FileState, change: Change) -> Result<(), Error> {
        if file.is_carried {
            let note = format!("{} is another file now; the image's own copy is used", file.path.display());
            self.notes.push(note);
            return Ok(());
        }
        let how = if change == Change::Missing { "is not there any more" } else { "is not the file that it was" };
        Err(Error::restore(
            format!("{}, which the program has mapped, {how}", file.path.display()),
            "put the same file there, or checkpoint with --self-contained so that the image carries it",
        ))
    }

    /// An open file may have changed, if the user says so. Gives the change that is to be undone.
    fn check_open(&mut self, file: &FileState, change: Change) -> Result<Option<Change>, Error> {
        let name = file.path.display();
        let told = match change {
            Change::Same => return Ok(None),
            Change::Grown => format!("{name} has grown since the checkpoint"),
            Change::Changed => format!("{name} has changed since the checkpoint"),
            Change::OtherKind => {
                let told = format!("{name} is not a file of the same kind any more");
                return Err(Error::restore(told, "put the file itself back in its place"));
            }
            Change::Missing => format!("{name} is not there any more"),
        };
        match (self.policy, change) {
            (FilesPolicy::Rollback, Change::Grown) => {
                self.notes.push(format!("{told}; what was added is cut off"));
                Ok(Some(change))
            }
            (FilesPolicy::Rollback, _) if file.is_carried => {
                self.notes.push(format!("{told}; its contents are put back from the image"));
                Ok(Some(change))
            }
            (FilesPolicy::Rollback, _) => Err(Error::restore(
                format!("{told}, and the image does not hold its contents"),
                "put it back as it was, use --files=keep, or checkpoint with --carry-files next time",
            )),
            (FilesPolicy::Keep | FilesPolicy::Fail, Change::Grown) => {
                self.notes.push(format!("{told}; it is kept (--files=rollback would cut off what was added)"));
                Ok(None)
            }
            (FilesPolicy::Keep, Change::Changed) => {
                self.notes.push(format!("{told}; it is kept as it is now"));
                Ok(None)
            }
            (FilesPolicy::Keep, _) if file.is_carried => {
                self.notes.push(format!("{told}; the image's own copy is used, and what is written to it has no name"));
                Ok(None)
            }
            (FilesPolicy::Fail, Change::Missing) => Err(Error::restore(
                told,
                "put it back, or take the image's own copy with --files=rollback if it was made with --carry-files",
            )),
            (FilesPolicy::Keep, _) => {
                Err(Error::restore(told, "put it back, or take an image that carries it (--carry-files)"))
            }
            (FilesPolicy::Fail, _) => Err(Error::restore(
                told,
                "decide with --files=keep (go on with it as it is now) or --files=rollback (make it what it was)",
            )),
        }
    }

    fn roll_back(&mut self, state: &FileState, change: Change) -> Result<(), Error> {
        let undoing = || Error::reopening("roll back", &state.path);
        let mut options = File::options();
        options.write(true);
        if change == Change::Missing {
            options.create_new(true).mode(state.mode & 0o7777);
        }
        let file = options.open(&state.path).map_err(undoing())?;
        if change != Change::Grown {
            file.set_len(0).map_err(undoing())?;
            self.fill(state, &file)?;
        }
        file.set_len(state.size).map_err(undoing())
    }

    /// Writes the carried contents of a file.
    fn fill(&self, state: &FileState, file: &File) -> Result<(), Error> {
        let (mut buffer, mut data) = (Vec::new(), Vec::new());
        for (offset, stored) in self.index.pieces.get(&state.id).into_iter().flatten() {
            self.index.read(stored, &mut buffer, &mut data)?;
            file.write_all_at(&data, *offset).map_err(Error::reopening("write", &state.path))?;
        }
        file.set_len(state.size).map_err(Error::reopening("write", &state.path))
    }

    /// Opens a file as it was open or mapped.
    fn open(&mut self, state: &FileState, flags: OFlags) -> Result<OwnedFd, Error> {
        let is_there = state.kind == FileKind::Linked
            && match state.compare(&state.path) {
                Ok(Change::Same | Change::Grown) => true,
                Ok(Change::Changed) => !state.is_carried || self.policy != FilesPolicy::Fail,
                _ => false,
            };
        let path = if is_there { state.path.clone() } else { self.recreated(state)? };
        let opened = rustix::fs::open(&path, flags | OFlags::CLOEXEC, rustix::fs::Mode::empty());
        opened.map_err(|error| Error::reopening("open", &state.path)(error.into()))
    }

    /// Takes out the files that are to be sealed.
    fn unsealed(&mut self) -> Vec<(File, u32, PathBuf)> {
        let made = std::mem::take(&mut self.recreated).into_iter();
        made.filter_map(|(id, file)| match &self.index.layout.files.get(usize_of(id))?.kind {
            FileKind::Memfd { name, seals } if *seals != 0 => Some((file, *seals, PathBuf::from(name))),
            _ => None,
        })
        .collect()
    }

    /// A path to the file that holds a carried file's contents, made when it is first needed.
    fn recreated(&mut self, state: &FileState) -> Result<PathBuf, Error> {
        if !self.recreated.contains_key(&state.id) {
            let file = state.recreate().map_err(Error::reopening("make a file like", &state.path))?;
            self.fill(state, &file)?;
            self.recreated.insert(state.id, file);
        }
        let number = self.recreated.get(&state.id).map_or(-1, AsRawFd::as_raw_fd);
        Ok(PathBuf::from(format!("/proc/self/fd/{number}")))
    }

    /// An end of a pipe, which is made when it is first needed.
    fn pipe_end(&mut self, end: &Pipe) -> Result<&OwnedFd, Error> {
        let pipe = match self.pipes.entry(end.inode) {
            Entry::Occupied(made) => made.into_mut(),
            Entry::Vacant(place) => {
                let descriptions = &self.index.state.descriptors.descriptions;
                let mut pipes = descriptions.iter().filter_map(|description| match &description.opened {
                    Opened::Pipe(pipe) => Some(pipe),
                    _ => None,
                });
                // What is in the pipe is known by its reading end.
                let reading = pipes.find(|pipe| pipe.inode == end.inode && pipe.is_reading).ok_or_else(|| {
                    Error::restore("a pipe of the program has no reading end", "the image is damaged; take another one")
                })?;
                place.insert(reading.rebuild().map_err(making("a pipe"))?)
            }
        };
        Ok(if end.is_reading { &pipe.0 } else { &pipe.1 })
    }

    fn open_description(&mut self, description: &Description, fd: i32, is_standard: bool) -> Result<OwnedFd, Error> {
        // How it came to be is past: it exists, and is not to be emptied.
        let mut only_at_opening = (libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC).unsigned_abs();
        let unnamed = libc::O_TMPFILE.unsigned_abs();
        if description.flags & unnamed == unnamed {
            only_at_opening |= unnamed;
        }
        let flags = OFlags::from_bits_retain(description.flags & !only_at_opening) | OFlags::NOCTTY;
        let open = |path: PathBuf| {
            rustix::fs::open(&path, flags | OFlags::CLOEXEC, rustix::fs::Mode::empty())
                .map_err(|error| Error::reopening("open", path)(error.into()))
        };
        match &description.opened {
            Opened::File(file) => {
                let state = &self.index.layout.files[usize_of(*file)];
                let opened = self.open(state, flags)?;
                if !flags.contains(OFlags::PATH) {
                    rustix::fs::seek(&opened, rustix::fs::SeekFrom::Start(description.offset))
                        .map_err(|error| Error::reopening("seek in", &state.path)(error.into()))?;
                }
                Ok(opened)
            }
            Opened::Device(path) => open(path.clone()),
            Opened::Terminal { .. } | Opened::Inherited(_) if is_standard => {
                match rustix::io::dup(standard(fd)) {
                    Ok(own) => Ok(own),
                    // Our own is closed.
                    Err(_) => open(PathBuf::from("/dev/null")),
                }
            }
            Opened::Terminal { path, .. } => {
                let own = (0..=2).find_map(|fd| rustix::termios::ttyname(standard(fd), Vec::new()).ok());
                let own = own.and_then(|name| name.into_string().ok()).map(PathBuf::from);
                match own {
                    Some(own) if path != std::path::Path::new("/dev/tty") => open(own),
                    _ => open(PathBuf::from("/dev/tty")),
                }
                .map_err(|_| {
                    Error::restore(
                        format!("the program has the terminal {} open as descriptor {fd}", path.display()),
                        "restore it in a terminal",
                    )
                })
            }
            Opened::Pipe(pipe) => {
                let is_first = self.used_ends.insert((pipe.inode, pipe.is_reading));
                let end = self.pipe_end(pipe)?;
                if is_first {
                    return end.try_clone().and_then(|end| with_flags(end, flags)).map_err(making("a pipe"));
                }
                // Another description of the same end: by its path in /proc.
                open(PathBuf::from(format!("/proc/self/fd/{}", end.as_raw_fd())))
            }
            Opened::EventCounter(counter) => {
                counter.rebuild().and_then(|fd| with_flags(fd, flags)).map_err(making("an eventfd"))
            }
            Opened::Epoll(_) => {
                Epoll::rebuild().and_then(|fd| with_flags(fd, flags)).map_err(making("an epoll instance"))
            }
            Opened::ResetSocket(socket) => {
                socket.rebuild().and_then(|fd| with_flags(fd, flags)).map_err(making("a socket that was reset"))
            }
            Opened::Inherited(_) => Err(Error::restore(
                format!("descriptor {fd} is a pipe or socket that cannot be reconnected"),
                "the image is damaged; take another one",
            )),
        }
    }
}

fn making(what: &str) -> impl FnOnce(std::io::Error) -> Error {
    Error::system(format!("make {what}"))
}

/// Gives a new descriptor the flags that its description had.
fn with_flags(fd: OwnedFd, flags: OFlags) -> std::io::Result<OwnedFd> {
    rustix::fs::fcntl_setfl(&fd, flags)?;
    Ok(fd)
}

/// Our own standard descriptor.
fn standard(fd: i32) -> rustix::fd::BorrowedFd<'static> {
    match fd {
        0 => rustix::stdio::stdin(),
        1 => rustix::stdio::stdout(),
        _ => rustix::stdio::stderr(),
    }
}
