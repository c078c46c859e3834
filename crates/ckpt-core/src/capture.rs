//! Reading the state of a frozen process: the one place that asks every kind of resource in turn.
//!
//! It works on any frozen process, whoever froze it, and its result is plain data that can be compared.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ckpt_trace::{CallSite, Injection, Outcome, Span, arch};

use crate::Error;
use crate::freeze::Frozen;
use crate::proc::{self, Stat, Status, Vma, VmaKind};
use crate::resource::bytes::Bytes;
use crate::resource::clocks::ClockState;
use crate::resource::credentials::Credentials;
use crate::resource::descriptors::DescriptorState;
use crate::resource::files::{FileKind, FileState};
use crate::resource::machine::Machine;
use crate::resource::memory::{MemoryState, PageFinder, Trait};
use crate::resource::process::{self, ProcessAttributes};
use crate::resource::signals::{self, SignalState};
use crate::resource::threads::{self, ThreadState};
use crate::resource::timers::{self, TimerState};
use crate::resource::{Layout, ProcessLayout, ProcessState, vdso};
use crate::waits;

/// What was read of a frozen process.
pub struct Captured {
    /// For the front of the image.
    pub layout: Layout,
    /// The rest of its state.
    pub state: ProcessState,
    /// Where the contents of carried files are to be had.
    pub contents: BTreeMap<u64, Contents>,
    /// The pages of shared memory that exist, by where their regions begin.
    pub shared_pages: SharedPages,
    /// A system call instruction of the process.
    pub syscall_at: u64,
}

/// Which pages of regions of shared memory exist: start and end of each stretch, by the region's start.
pub type SharedPages = BTreeMap<u64, Vec<(u64, u64)>>;

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

/// Room for the batch of one process: 64 signal actions and a few hundred timers.
const INJECTION: u64 = 32 * ckpt_trace::PAGE;

/// Reads everything but the contents of memory. The process is as it was afterwards.
///
/// # Errors
/// What cannot be saved is refused by name.
pub fn capture(frozen: &mut Frozen, carry: Carry) -> Result<Captured, Error> {
    let pid = frozen.pid;
    let mut vmas = proc::maps::smaps(pid)?;
    frozen.settle(&vmas)?;
    let status = Status::of(pid)?;
    let site = call_site(frozen, &vmas)?;
    let left_behind = left_behind(frozen, &vmas);
    if !left_behind.is_empty() {
        with_injection(frozen, &status, site, |frozen, injection| unmap(frozen, injection, &left_behind))?;
        vmas = proc::maps::smaps(pid)?;
    }
    let stat = Stat::of(pid)?;
    let mut files = FileTable::new(pid, carry);
    let descriptors = DescriptorState::capture(pid, &mut files)?;
    let answers = with_injection(frozen, &status, site, |frozen, injection| ask_all(frozen, injection, &vmas))?;

    let mut memory = MemoryState::capture(pid, &vmas, &stat, answers.brk, &mut files)?;
    memory.guards = guards(pid, &memory)?;
    memory.locks_future = answers.locks_future;
    let attributes = ProcessAttributes::capture(pid, &status, &answers.process, &answers.first)?;
    let state = ProcessState {
        process: attributes,
        credentials: Credentials::capture(pid, &status)?,
        signals: SignalState::capture(&frozen.threads[0], answers.actions, &answers.first, frozen.stopped_by)?,
        timers: TimerState::capture(&answers.timers, &answers.first),
        threads: answers.threads,
        descriptors,
        clocks: ClockState::capture(pid),
    };
    let command = proc::read(format!("/proc/{pid}/cmdline"))?;
    let process = ProcessLayout {
        pid: status.ns_pid.last().copied().unwrap_or(pid),
        name: Bytes(status.name),
        command: command.split(|byte| *byte == 0).map(|part| Bytes(part.to_vec())).collect(),
        memory,
    };
    let (files, contents) = files.finish();
    let layout = Layout { machine: Machine::this(), files, processes: vec![process] };
    Ok(Captured { layout, state, contents, shared_pages: answers.shared_pages, syscall_at: site.syscall_at })
}

struct Answers {
    threads: Vec<ThreadState>,
    first: Outcome,
    process: process::Asked,
    actions: u64,
    timers: timers::Asked,
    brk: u64,
    locks_future: bool,
    shared_pages: SharedPages,
}

/// Injects our pages, does something with them, and takes them away, whatever came of it: from then on nothing of ours is
/// in the process.
fn with_injection<T>(
    frozen: &mut Frozen,
    status: &Status,
    site: CallSite,
    act: impl FnOnce(&mut Frozen, &Injection) -> Result<T, Error>,
) -> Result<T, Error> {
    let pid = frozen.pid;
    let statuses = frozen.threads.iter().map(|thread| Status::of_thread(pid, thread.tid()));
    let (mut blocked, mut pending) = (0, status.shd_pnd);
    for status in statuses.collect::<Result<Vec<_>, _>>()? {
        blocked |= status.sig_blk;
        pending |= status.sig_pnd;
    }
    let trap = signals::trap_signal(status.sig_cgt, blocked, pending);
    let (first, injection) = Injection::map(frozen.take_thread(0)?, &frozen.memory, INJECTION, 0, site, trap)?;
    frozen.threads.insert(0, first);
    let result = act(frozen, &injection);
    let first = injection.unmap(frozen.take_thread(0)?, &frozen.memory)?;
    frozen.threads.insert(0, first);
    result
}

/// Pages of ours that an earlier checkpoint could not take away because it was killed in the middle of its calls.
fn left_behind(frozen: &Frozen, vmas: &[Vma]) -> Vec<u64> {
    let is_ours = |vma: &&Vma| {
        let mut code = vec![0; arch::batch_bytes()];
        let may_be = vma.kind() == VmaKind::Anonymous && vma.perms.exec && !vma.perms.write && !vma.perms.shared;
        may_be && frozen.memory.read(vma.start, &mut code).is_ok() && arch::is_batch(&code)
    };
    vmas.iter().filter(is_ours).map(|vma| vma.start).collect()
}

fn unmap(frozen: &mut Frozen, injection: &Injection, starts: &[u64]) -> Result<(), Error> {
    let mut batch = injection.batch();
    for start in starts.iter().take(64) {
        batch.call("munmap", libc::SYS_munmap, &[*start, INJECTION]);
    }
    Ok(frozen.run(0, injection, batch)?.all()?)
}

fn ask_all(frozen: &mut Frozen, injection: &Injection, vmas: &[Vma]) -> Result<Answers, Error> {
    let pid = frozen.pid;
    let locks_future = is_locked(pid, injection)?;
    let mut batch = injection.batch();
    let process = process::ask(&mut batch);
    let actions = signals::ask(&mut batch);
    let brk = batch.call("brk", libc::SYS_brk, &[0]);
    let asked = threads::ask(&mut batch);
    let timers = timers::ask(pid, &mut batch)?;
    let first = frozen.run(0, injection, batch)?;
    let brk = first.result(brk)?;
    let mut threads = vec![thread_state(frozen, 0, &asked, &first)?];
    let mut shared_pages = SharedPages::new();
    let is_shared = |vma: &&Vma| vma.perms.shared && matches!(vma.kind(), VmaKind::SharedAnon | VmaKind::HugeAnon);
    for vma in vmas.iter().filter(is_shared) {
        shared_pages.insert(vma.start, existing_pages(frozen, injection, vma)?);
    }
    for index in 1..frozen.threads.len() {
        let mut batch = injection.batch();
        let asked = threads::ask(&mut batch);
        let answers = frozen.run(index, injection, batch)?;
        threads.push(thread_state(frozen, index, &asked, &answers)?);
    }
    Ok(Answers { threads, first, process, actions, timers, brk, locks_future, shared_pages })
}

fn thread_state(
    frozen: &Frozen,
    index: usize,
    asked: &threads::Asked,
    answers: &Outcome,
) -> Result<ThreadState, Error> {
    let thread = &frozen.threads[index];
    let sleeper = frozen.sleepers.get(&thread.tid());
    let wait = waits::wait_of(&thread.registers()?, &frozen.memory, sleeper);
    ThreadState::capture(frozen.pid, thread, asked, answers, wait)
}

/// Which pages of shared memory exist, whoever made them: the page tables of one mapping do not tell. Where some are in
/// swap the kernel does not say which, so all are taken.
fn existing_pages(frozen: &mut Frozen, injection: &Injection, vma: &Vma) -> Result<Vec<(u64, u64)>, Error> {
    const PAGES: u64 = 32 * 1024;
    const PAGE: u64 = ckpt_trace::PAGE;
    if vma.swap > 0 || vma.kind() == VmaKind::HugeAnon {
        return Ok(vec![(vma.start, vma.end)]);
    }
    let mut found: Vec<(u64, u64)> = Vec::new();
    let mut at = vma.start;
    while at < vma.end {
        let size = (vma.end - at).min(PAGES * PAGE);
        let count = usize::try_from(size / PAGE).unwrap_or_default();
        let mut batch = injection.batch();
        let residency = batch.space(count);
        batch.call("mincore", libc::SYS_mincore, &[at, size, residency]);
        let outcome = frozen.run(0, injection, batch)?;
        outcome.all()?;
        let is_there = |(_, byte): &(u64, &u8)| **byte & 1 != 0;
        for (start, _) in (at..).step_by(4096).zip(outcome.bytes(residency, count)).filter(is_there) {
            match found.last_mut() {
                Some(last) if last.1 == start => last.1 += PAGE,
                _ => found.push((start, start + PAGE)),
            }
        }
        at += size;
    }
    Ok(found)
}

/// Whether memory that is mapped now is locked at once (`MCL_FUTURE`): seen on the injected pages.
fn is_locked(pid: i32, injection: &Injection) -> Result<bool, Error> {
    if Status::of(pid)?.locked == 0 {
        return Ok(false);
    }
    let start = injection.range().start;
    Ok(proc::maps::smaps(pid)?.iter().any(|vma| vma.start <= start && start < vma.end && vma.flags.is_locked()))
}

/// Where the process can be made to make calls: a system call instruction in the vDSO, or else in any code that is mapped,
/// and the padding at the end of the vDSO.
fn call_site(frozen: &Frozen, vmas: &[Vma]) -> Result<CallSite, Error> {
    const MOST: u64 = 16 << 20;
    let code = |vma: &&Vma| vma.perms.exec && vma.perms.read && vma.kind() != VmaKind::Vsyscall;
    let (vdso, rest): (Vec<&Vma>, Vec<&Vma>) = vmas.iter().filter(code).partition(|vma| vma.kind() == VmaKind::Vdso);
    let mut guard_at = None;
    for vma in vdso.into_iter().chain(rest) {
        let mut bytes = vec![0; usize::try_from(vma.size().min(MOST)).unwrap_or_default()];
        if frozen.memory.read(vma.start, &mut bytes).is_err() {
            continue;
        }
        if vma.kind() == VmaKind::Vdso {
            guard_at = vdso::guard_offset(&bytes).map(|offset| vma.start + offset);
        }
        if let Some(offset) = vdso::syscall_offset(&bytes) {
            return Ok(CallSite { syscall_at: vma.start + offset, guard_at });
        }
    }
    Err(ckpt_trace::TraceError::NoSyscallInstruction { tid: frozen.pid }.into())
}

fn guards(pid: i32, memory: &MemoryState) -> Result<Vec<(u64, u64)>, Error> {
    let scanning = || Error::system(format!("scan the page tables of {pid}"));
    let mut finder = PageFinder::open(pid).map_err(scanning())?;
    let mut guards = Vec::new();
    for region in memory.regions.iter().filter(|region| region.has_pages() && !region.has(Trait::HugeTlb)) {
        let mut at = region.start;
        while at < region.end {
            let (found, reached) = finder.guards(at..region.end).map_err(scanning())?;
            guards.extend(found.iter().map(|range| (range.start, range.end)));
            at = reached;
        }
    }
    Ok(guards)
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
    fn new(pid: i32, carry: Carry) -> Self {
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
                let (path, kind) = match strip_deleted(name) {
                    Some(path) => match memfd_name(&path) {
                        Some(name) => (path, FileKind::Memfd { name, seals: 0 }),
                        None => (path, FileKind::Unlinked),
                    },
                    None => (name.to_path_buf(), FileKind::Unlinked),
                };
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
        match strip_deleted(name) {
            _ if is_there(name) => (name.to_path_buf(), FileKind::Linked),
            Some(path) => match memfd_name(&path) {
                Some(name) => (path, FileKind::Memfd { name, seals: seals() }),
                None => (path, FileKind::Unlinked),
            },
            // A path that leads elsewhere for us: another root, another mount namespace.
            None => (name.to_path_buf(), FileKind::Unlinked),
        }
    }

    fn finish(self) -> (Vec<FileState>, BTreeMap<u64, Contents>) {
        (self.files, self.contents)
    }
}

/// What a process with another root calls `path`, as we reach it.
fn rooted(pid: i32, path: &Path) -> PathBuf {
    let mut rooted = PathBuf::from(format!("/proc/{pid}/root"));
    rooted.push(path.strip_prefix("/").unwrap_or(path));
    rooted
}

fn strip_deleted(name: &Path) -> Option<PathBuf> {
    let stripped = name.as_os_str().as_bytes().strip_suffix(b" (deleted)")?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(stripped)))
}

fn memfd_name(path: &Path) -> Option<String> {
    path.to_str()?.strip_prefix("/memfd:").map(str::to_owned)
}
