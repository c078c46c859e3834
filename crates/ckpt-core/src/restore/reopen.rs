//! Finding the files of an image again: compared with what they were before anything is built, and opened below the root
//! directory that the program will have.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ckpt_trace::usize_of;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::index::ImageIndex;
use super::nest::Prepared;
use super::view::{self, View};
use crate::Error;
use crate::resource::descriptors::{Description, Opened};
use crate::resource::events::Epoll;
use crate::resource::files::{Change, FileKind, FileState, FilesPolicy};
use crate::resource::machine::Machine;
use crate::resource::memory::Backing;
use crate::resource::pipes::Pipe;

/// Everything that was opened for the new process, by the numbers that it has in the shell.
pub struct OpenFiles {
    /// The descriptors that it will have: number in the shell, final number, close-on-exec.
    pub descriptors: Vec<(i32, i32, bool)>,
    /// Descriptors to map files by: file and whether writable.
    pub mapped: BTreeMap<(u64, bool), i32>,
    /// The executable.
    pub executable: i32,
    /// The image.
    pub image: i32,
    /// The working directory.
    pub directory: PathBuf,
    /// The lowest number that is ours: the program's own are all below.
    pub base: i32,
    /// Files to be sealed, and how.
    unsealed: Vec<(File, u32, PathBuf)>,
    _held: Vec<OwnedFd>,
}

/// What the files are today.
pub struct Checked<'a> {
    /// What is shown at other paths.
    pub view: &'a View,
    policy: FilesPolicy,
    changes: BTreeMap<u64, Change>,
}

/// How files are compared.
struct Checker<'a> {
    index: &'a ImageIndex,
    policy: FilesPolicy,
    view: &'a View,
    notes: &'a mut Vec<String>,
}

/// Where files are opened.
struct Place<'a> {
    /// Below this directory, where the program has one of its own.
    root: Option<BorrowedFd<'a>>,
    /// Else where this machine has them.
    view: &'a View,
}

/// How files are opened.
struct Finder<'a> {
    index: &'a ImageIndex,
    checked: &'a Checked<'a>,
    place: Place<'a>,
    recreated: BTreeMap<u64, File>,
    pipes: BTreeMap<u64, (OwnedFd, OwnedFd)>,
    used_ends: BTreeSet<(u64, bool)>,
}

/// Compares all files with what they were. What has changed is told in notes, undone or refused, as the policy says.
///
/// # Errors
/// [`Error::Restore`] that names the file.
pub fn check_all<'a>(
    index: &ImageIndex,
    policy: FilesPolicy,
    view: &'a View,
    notes: &mut Vec<String>,
) -> Result<Checked<'a>, Error> {
    let changes = Checker { index, policy, view, notes }.check_all()?;
    Ok(Checked { view, policy, changes })
}

/// Opens all files and passes them on to the shell to come.
///
/// # Errors
/// [`Error::Restore`] that names the file.
pub fn open_all(index: &ImageIndex, checked: &Checked<'_>, nest: &mut Prepared) -> Result<OpenFiles, Error> {
    let memory = &index.layout.processes[0].memory;
    let descriptors = &index.state.descriptors;
    let root = nest.root();
    let directory = &index.state.process.cwd;
    let directory = if root.is_some() { directory.clone() } else { checked.view.source_of(directory).into_owned() };
    if root.is_none() && !directory.is_dir() {
        return Err(no_directory(&directory.display().to_string()));
    }
    if root.is_none() && !view::may_search(&directory) {
        let host = &Machine::this().host;
        return Err(Error::restore(
            format!(
                "the program's working directory {} may not be searched by this user on {host}",
                directory.display()
            ),
            "see that it may be, show another directory in its place (--show), or allow namespaces (`ckptctl doctor`)",
        ));
    }
    let place = Place { root, view: checked.view };
    let (recreated, pipes, used_ends) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
    let mut finder = Finder { index, checked, place, recreated, pipes, used_ends };

    let mut held: Vec<OwnedFd> = Vec::new();
    let mut hold = |file: OwnedFd| {
        held.push(file);
        held.len() - 1
    };
    let mut mapped = BTreeMap::new();
    for region in &memory.regions {
        if let Backing::File { file, shared, may_write, .. } = region.backing {
            let writable = shared && may_write;
            if let Entry::Vacant(place) = mapped.entry((file, writable)) {
                let flags = if writable { OFlags::RDWR } else { OFlags::RDONLY };
                place.insert(hold(finder.open(&index.layout.files[usize_of(file)], flags)?));
            }
        }
    }
    let executable = hold(finder.open(&index.layout.files[usize_of(memory.executable)], OFlags::RDONLY)?);
    let image = hold(index.file.as_fd().try_clone_to_owned().map_err(Error::reopening("read", &index.path))?);

    let mut sources: Vec<Option<usize>> = vec![None; descriptors.descriptions.len()];
    let mut placed = Vec::with_capacity(descriptors.descriptors.len());
    for descriptor in &descriptors.descriptors {
        let description = &descriptors.descriptions[descriptor.description];
        // Standard descriptors reconnect one by one: here they may lead to three places where they led to one.
        let is_standard = (0..=2).contains(&descriptor.fd) && is_inherited(&description.opened);
        let source = match sources[descriptor.description] {
            Some(source) if !is_standard => source,
            _ => hold(finder.open_description(description, descriptor.fd, is_standard)?),
        };
        if !is_standard || sources[descriptor.description].is_none() {
            sources[descriptor.description] = Some(source);
        }
        placed.push((source, descriptor.fd, descriptor.close_on_exec));
    }
    let unsealed = finder.unsealed();

    let base = descriptors.highest().max(2) + 1;
    let numbers = nest.pass(&held, base).map_err(|error| {
        let what = format!("the program had descriptors up to {} and more cannot be opened: {error}", base - 1);
        Error::restore(what, "raise the limit of open files (ulimit -n)")
    })?;
    Ok(OpenFiles {
        descriptors: placed.into_iter().map(|(source, target, flag)| (numbers[source], target, flag)).collect(),
        mapped: mapped.into_iter().map(|(file, source)| (file, numbers[source])).collect(),
        executable: numbers[executable],
        image: numbers[image],
        directory,
        base,
        unsealed,
        _held: held,
    })
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

impl Place<'_> {
    fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        let Some(root) = self.root else {
            return Ok(rustix::fs::open(&*self.view.source_of(path), flags, Mode::empty())?);
        };
        // This call minds what does not go together, which the other one overlooks.
        let to_name_it = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let flags = if flags.contains(OFlags::PATH) { flags & to_name_it } else { flags };
        Ok(openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?)
    }

    /// The directory of a file, if what is made in it is on disk where the machine has that directory.
    fn directory_of(&self, path: &Path) -> Option<OwnedFd> {
        let parent = path.parent()?;
        let directory = self.open(parent, OFlags::PATH | OFlags::DIRECTORY).ok()?;
        let device = rustix::fs::fstat(&directory).ok()?.st_dev;
        let machine = std::fs::metadata(self.view.source_of(parent)).ok()?;
        (machine.dev() == device).then_some(directory)
    }
}

impl Checker<'_> {
    /// Compares every file with what it was, once, before anything is opened or changed.
    fn check_all(&mut self) -> Result<BTreeMap<u64, Change>, Error> {
        let memory = &self.index.layout.processes[0].memory;
        let descriptors = &self.index.state.descriptors;
        self.check_directory(&self.index.state.process.cwd)?;
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
        let (mut changes, mut rollbacks) = (BTreeMap::new(), Vec::new());
        for file in self.index.layout.files.iter().filter(|file| file.kind == FileKind::Linked) {
            let source = self.view.source_of(&file.path);
            let mut change = file.compare(&source).map_err(Error::reopening("look at", &*source))?;
            if change == Change::Missing
                && file.mode & libc::S_IFMT == libc::S_IFDIR
                && self.view.leads_through(&file.path)
            {
                change = Change::Same;
            }
            changes.insert(file.id, change);
            let opened = open.iter().filter(|(id, _)| *id == file.id).map(|(_, flags)| *flags).collect::<Vec<_>>();
            if change != Change::Same && is_mapped(file.id) && opened.is_empty() {
                self.check_mapped(file, change)?;
            } else if let Some(rollback) = self.check_open(file, change)? {
                rollbacks.push((file, rollback));
            }
        }
        for (file, change) in rollbacks {
            self.roll_back(file, change)?;
            changes.insert(file.id, Change::Same);
        }
        Ok(changes)
    }

    /// The program must find its working directory.
    fn check_directory(&self, directory: &Path) -> Result<(), Error> {
        let source = self.view.source_of(directory);
        if self.view.leads_through(directory) || source.is_dir() {
            return Ok(());
        }
        Err(no_directory(&self.named(directory)))
    }

    /// A path as the program knows it, with what is shown there.
    fn named(&self, path: &Path) -> String {
        let source = self.view.source_of(path);
        if source == path { path.display().to_string() } else { format!("{} ({})", path.display(), source.display()) }
    }

    /// An executable or a library must be the same, or be in the image.
    fn check_mapped(&mut self, file: &FileState, change: Change) -> Result<(), Error> {
        if file.is_carried {
            let note = format!("{} is another file now; the image's own copy is used", self.named(&file.path));
            self.notes.push(note);
            return Ok(());
        }
        let how = if change == Change::Missing { "is not there any more" } else { "is not the file that it was" };
        Err(Error::restore(
            format!("{}, which the program has mapped, {how}", self.named(&file.path)),
            "put the same file there, or checkpoint with --self-contained so that the image carries it",
        ))
    }

    /// An open file may have changed, if the user says so. Gives the change that is to be undone.
    fn check_open(&mut self, file: &FileState, change: Change) -> Result<Option<Change>, Error> {
        let name = self.named(&file.path);
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
        let path = self.view.source_of(&state.path);
        let undoing = || Error::reopening("roll back", &*path);
        let mut options = File::options();
        options.write(true);
        if change == Change::Missing {
            options.create_new(true).mode(state.mode & 0o7777);
        }
        let file = options.open(&path).map_err(undoing())?;
        if change != Change::Grown {
            file.set_len(0).map_err(undoing())?;
            fill(self.index, state, &file)?;
        }
        file.set_len(state.size).map_err(undoing())
    }
}

/// Writes the carried contents of a file.
fn fill(index: &ImageIndex, state: &FileState, file: &File) -> Result<(), Error> {
    let (mut buffer, mut data) = (Vec::new(), Vec::new());
    for (offset, stored) in index.pieces.get(&state.id).into_iter().flatten() {
        index.read(stored, &mut buffer, &mut data)?;
        file.write_all_at(&data, *offset).map_err(Error::reopening("write", &state.path))?;
    }
    file.set_len(state.size).map_err(Error::reopening("write", &state.path))
}

impl Finder<'_> {
    /// Opens a file as it was open or mapped.
    fn open(&mut self, state: &FileState, flags: OFlags) -> Result<OwnedFd, Error> {
        let is_there = match self.checked.changes.get(&state.id) {
            Some(Change::Same | Change::Grown) => true,
            Some(Change::Changed) => !state.is_carried || self.checked.policy != FilesPolicy::Fail,
            _ => false,
        };
        let opened = if is_there { self.place.open(&state.path, flags) } else { reopen(self.recreated(state)?, flags) };
        opened.map_err(Error::reopening("open", &state.path))
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

    /// The file that holds a carried file's contents, made when it is first needed.
    fn recreated(&mut self, state: &FileState) -> Result<&File, Error> {
        Ok(match self.recreated.entry(state.id) {
            Entry::Occupied(made) => made.into_mut(),
            Entry::Vacant(entry) => {
                let beside = self.place.directory_of(&state.path);
                let file =
                    state.recreate(beside.as_ref()).map_err(Error::reopening("make a file like", &state.path))?;
                fill(self.index, state, &file)?;
                entry.insert(file)
            }
        })
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
            rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty())
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
            Opened::Device(path) => self.place.open(path, flags).map_err(Error::reopening("open", path)),
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
                    Some(own) if path != Path::new("/dev/tty") => open(own),
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
                // Another description of the same end.
                reopen(end, flags).map_err(making("a pipe"))
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

fn no_directory(name: &str) -> Error {
    let what = format!("the program's working directory {name} is not there any more");
    Error::restore(what, "make it, or show another directory in its place (--show)")
}

/// Another description of what is open, by its path in `/proc`.
fn reopen(file: impl AsFd, flags: OFlags) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    Ok(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?)
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
