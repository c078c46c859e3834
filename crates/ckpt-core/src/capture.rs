//! Reading the state of a frozen process: the one place that asks every kind of resource in turn.
//!
//! It works on any frozen process, whoever froze it, and its result is plain data that can be compared.

use std::collections::BTreeMap;

use ckpt_trace::{CallSite, Injection, Outcome, Stopped, arch};

use crate::depart::DepartOptions;
use crate::freeze::Frozen;
use crate::page_finder::PageFinder;
use crate::proc::{self, Stat, Status, Vma, VmaKind};
use crate::resource::bytes::Bytes;
use crate::resource::clocks::ClockState;
use crate::resource::credentials::Credentials;
use crate::resource::descriptors::DescriptorState;
use crate::resource::file_table::{Contents, FileTable};
use crate::resource::memory::{MemoryState, Trait};
use crate::resource::process::{self, ProcessAttributes};
use crate::resource::signals::{self, SignalState};
use crate::resource::threads::{self, ThreadState};
use crate::resource::timers::{self, TimerState};
use crate::resource::{Layout, ProcessLayout, ProcessState, vdso};
use crate::survey::{self, Survey};
use crate::{Error, waits};

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
    /// How many bytes of memory are the program's own, about.
    pub own_memory: u64,
    /// A system call instruction of the process.
    pub syscall_at: u64,
}

/// Which pages of regions of shared memory exist: start and end of each stretch, by the region's start.
pub type SharedPages = BTreeMap<u64, Vec<(u64, u64)>>;

/// Room for the batch of one process: 64 signal actions and a few hundred timers.
const INJECTION: u64 = 32 * ckpt_trace::PAGE;

/// Reads everything but the contents of memory. The process is as it was afterwards.
///
/// # Errors
/// What cannot be saved is refused by name.
pub fn capture(frozen: &mut Frozen, options: &DepartOptions) -> Result<Captured, Error> {
    let pid = frozen.pid;
    let mut vmas = proc::maps::smaps(pid)?;
    frozen.settle(&vmas)?;
    let status = Status::of(pid)?;
    survey::look_at_state(pid, &status, options)?;
    let site = call_site(frozen, &vmas)?;
    let left_behind = left_behind(frozen, &vmas);
    if !left_behind.is_empty() {
        with_injection(frozen, &status, site, |frozen, injection| unmap(frozen, injection, &left_behind))?;
        vmas = proc::maps::smaps(pid)?;
    }
    let stat = Stat::of(pid)?;
    let mut files = FileTable::new(pid, options.carry());
    let descriptors = DescriptorState::capture(pid, &mut files, options.tcp_close)?;
    let answers = with_injection(frozen, &status, site, |frozen, injection| ask_all(frozen, injection, &vmas))?;

    let mut memory = MemoryState::capture(pid, &vmas, &stat, answers.brk, &mut files)?;
    memory.guards = guards(pid, &memory)?;
    memory.locks_future = answers.locks_future;
    let attributes = ProcessAttributes::capture(pid, &status, &answers.process, &answers.first)?;
    let outer_ids = frozen.threads.iter().map(Stopped::tid);
    let inner_ids = outer_ids.zip(answers.threads.iter().map(|thread| thread.tid)).collect();
    let state = ProcessState {
        process: attributes,
        credentials: Credentials::capture(pid, &status)?,
        signals: SignalState::capture(&frozen.threads[0], answers.actions, &answers.first, frozen.stopped_by)?,
        timers: TimerState::capture(pid, &answers.timers, &answers.first, &inner_ids)?,
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
    let layout = Layout { machine: survey::machine(pid, &vmas)?, files, processes: vec![process] };
    Ok(Captured {
        layout,
        state,
        contents,
        shared_pages: answers.shared_pages,
        own_memory: survey::own_memory(&vmas),
        syscall_at: site.syscall_at,
    })
}

impl Captured {
    /// The same in short.
    pub fn survey(&self) -> Survey {
        let descriptors = &self.state.descriptors;
        Survey {
            machine: self.layout.machine.clone(),
            memory: self.own_memory,
            threads: self.state.threads.len(),
            files: survey::used_files(&self.layout.files, &self.layout.processes[0].memory, descriptors),
            directory: self.state.process.cwd.clone(),
            notes: survey::notes(descriptors),
        }
    }
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

/// Lets a frozen process work for us, outside of a capture.
///
/// # Errors
/// [`Error::Trace`] when the process ends, and what `act` says.
pub fn inject<T>(
    frozen: &mut Frozen,
    act: impl FnOnce(&mut Frozen, &Injection) -> Result<T, Error>,
) -> Result<T, Error> {
    let site = call_site(frozen, &proc::maps::maps(frozen.pid)?)?;
    let status = Status::of(frozen.pid)?;
    with_injection(frozen, &status, site, act)
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
    const AT_ONCE: usize = 64;
    for some in starts.chunks(AT_ONCE) {
        let mut batch = injection.batch();
        for start in some {
            batch.call("munmap", libc::SYS_munmap, &[*start, INJECTION]);
        }
        frozen.run(0, injection, batch)?.all()?;
    }
    Ok(())
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
    let registers = thread.registers()?;
    let wait = waits::wait_of(&registers, &frozen.memory, sleeper);
    ThreadState::capture(frozen.pid, thread, &waits::as_begun(registers, sleeper), asked, answers, wait)
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
