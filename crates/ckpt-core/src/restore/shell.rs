//! The shell: an empty process under our control that becomes the program.

use std::collections::BTreeMap;

use ckpt_trace::sys;
use ckpt_trace::{
    Batch, Event, InFlight, Injection, Memory, Outcome, Running, SeizeOptions, Stop, Stopped, Tid, TraceError, arch,
};

use crate::Error;
use crate::proc::{self, Status, Vma, VmaKind};
use crate::resource::memory::{Backing, MemoryState};
use crate::resource::vdso;

/// Room for calls: enough for a batch that fills a gigabyte.
const INJECTION: u64 = 1 << 20;
/// Where addresses may begin that are not the null page's.
const LOWEST: u64 = 0x1_0000;

/// The shell is of our own making: it dies with us.
const OURS: SeizeOptions = SeizeOptions { kill_on_exit: true };

/// A process being built.
pub struct Shell {
    /// Its id, as we see it.
    pub pid: Tid,
    /// Its memory.
    pub memory: Memory,
    /// Our pages in it.
    pub injection: Injection,
    thread: Option<Stopped>,
    trap_signal: i32,
    syscall_at: u64,
    /// Where nothing of the program will be: for what has to be somewhere meanwhile.
    gaps: Gaps,
}

impl Shell {
    /// Takes control of a process that waits, and empties it. `wanted` is the memory that it will have.
    ///
    /// # Errors
    /// [`Error::Trace`].
    pub fn take(pid: Tid, wanted: &MemoryState, trap_signal: i32) -> Result<Self, Error> {
        let running = Running::seize(pid, OURS)?;
        running.interrupt()?;
        let thread = stopped(running)?;
        let memory = Memory::open(pid)?;
        let vmas = proc::maps::maps(pid)?;
        let mut gaps = Gaps::new(wanted, &vmas);
        let syscall_at = syscall_site(&memory, &vmas).ok_or(TraceError::NoSyscallInstruction { tid: pid })?;
        let (thread, injection) =
            Injection::map(thread, &memory, INJECTION, gaps.take(INJECTION)?, syscall_at, trap_signal)?;
        let mut shell = Self { pid, memory, injection, thread: Some(thread), trap_signal, syscall_at, gaps };
        shell.empty(&vmas)?;
        shell.place_vdso(&vmas, wanted)?;
        Ok(shell)
    }

    /// Takes away all of its memory but the vDSO and our own pages, and what the kernel was told about it.
    fn empty(&mut self, vmas: &[Vma]) -> Result<(), Error> {
        let rseq = self.thread()?.rseq()?;
        self.run(|batch| {
            if let Some((area, length, signature)) = rseq {
                const RSEQ_FLAG_UNREGISTER: u64 = 1;
                batch.call("rseq", libc::SYS_rseq, &[area, length.into(), RSEQ_FLAG_UNREGISTER, signature.into()]);
            }
            batch.call("set_robust_list", libc::SYS_set_robust_list, &[0, 24]);
            for vma in vmas.iter().filter(|vma| !is_kernels(vma)) {
                batch.call("munmap", libc::SYS_munmap, &[vma.start, vma.size()]);
            }
        })
    }

    /// Moves the vDSO to where the program knows it. On another kernel the old code gets there as ordinary memory, and the
    /// new vDSO is kept elsewhere: see [`Shell::redirect_vdso`].
    fn place_vdso(&mut self, vmas: &[Vma], wanted: &MemoryState) -> Result<(), Error> {
        let ours: Vec<&Vma> = vmas.iter().filter(|vma| is_kernels(vma) && vma.kind() != VmaKind::Vsyscall).collect();
        let (Some(first), Some(last)) = (ours.first(), ours.last()) else { return Ok(()) };
        let span = last.end - first.start;
        let old_base = first.start;
        let parked = self.gaps.take(span)?;
        self.move_mappings(&ours, old_base, parked)?;
        let mut base = parked;
        let theirs: Vec<(&str, u64, u64)> = kernel_regions(wanted).collect();
        let here: Vec<(&str, u64, u64)> = ours
            .iter()
            .map(|vma| (std::str::from_utf8(&vma.name).unwrap_or_default(), vma.start - old_base, vma.size()))
            .collect();
        let shape: Vec<(&str, u64, u64)> = match theirs.first() {
            Some(&(_, start, _)) => theirs.iter().map(|&(name, at, size)| (name, at - start, size)).collect(),
            None => Vec::new(),
        };
        if let Some(&(_, start, _)) = theirs.first()
            && shape == here
        {
            let parked: Vec<Vma> = ours
                .iter()
                .map(|vma| Vma { start: vma.start - old_base + base, end: vma.end - old_base + base, ..(*vma).clone() })
                .collect();
            self.move_mappings(&parked.iter().collect::<Vec<_>>(), base, start)?;
            base = start;
        }
        self.syscall_at = self.syscall_at - old_base + base;
        self.injection.set_syscall_at(self.syscall_at);
        Ok(())
    }

    fn move_mappings(&mut self, mappings: &[&Vma], from: u64, to: u64) -> Result<(), Error> {
        let flags = u64::from((libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED).unsigned_abs());
        self.run(|batch| {
            for vma in mappings {
                let target = vma.start - from + to;
                batch.call("mremap", libc::SYS_mremap, &[vma.start, vma.size(), vma.size(), flags, target]);
            }
        })
    }

    /// Where this kernel's vDSO is now, with its code.
    ///
    /// # Errors
    /// [`Error::Proc`].
    pub fn vdso(&self) -> Result<Option<(u64, Vec<u8>)>, Error> {
        let vmas = proc::maps::maps(self.pid)?;
        let Some(vma) = vmas.iter().find(|vma| vma.kind() == VmaKind::Vdso) else { return Ok(None) };
        let mut code = vec![0; usize::try_from(vma.size()).unwrap_or_default()];
        self.memory.read(vma.start, &mut code)?;
        Ok(Some((vma.start, code)))
    }

    /// Moves this kernel's vDSO away from the program's addresses, to make room for the old one's code, and makes the old
    /// one's functions jump to the new one's.
    ///
    /// # Errors
    /// [`Error::Restore`] when the new kernel lacks a function.
    pub fn redirect_vdso(&mut self, old_base: u64, old: &[u8], wanted: &MemoryState) -> Result<(), Error> {
        let (mut new_base, new) = self.vdso()?.ok_or_else(|| no_vdso("no vDSO at all"))?;
        if wanted.region_at(new_base).is_some() {
            let vmas = proc::maps::maps(self.pid)?;
            let group: Vec<&Vma> =
                vmas.iter().filter(|vma| is_kernels(vma) && vma.kind() != VmaKind::Vsyscall).collect();
            if let (Some(first), Some(last)) = (group.first(), group.last()) {
                let parked = self.gaps.take(last.end - first.start)?;
                self.move_mappings(&group, first.start, parked)?;
                self.syscall_at = self.syscall_at - first.start + parked;
                self.injection.set_syscall_at(self.syscall_at);
                new_base = new_base - first.start + parked;
            }
        }
        let patches =
            vdso::redirections(old, &new, new_base).map_err(|name| no_vdso(&format!("no {name} in its vDSO")))?;
        let mut code = old.to_vec();
        for (offset, jump) in patches {
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            let place = code.get_mut(at..at + jump.len()).ok_or_else(|| no_vdso("a vDSO that is too short"))?;
            place.copy_from_slice(&jump);
        }
        let length = code.len() as u64;
        self.run(|batch| {
            let protection = u64::from((libc::PROT_READ | libc::PROT_EXEC).unsigned_abs());
            let flags = u64::from((libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE).unsigned_abs());
            batch.call("mmap", libc::SYS_mmap, &[old_base, length, protection, flags, u64::MAX, 0]);
        })?;
        Ok(self.memory.write_forced(old_base, &code)?)
    }

    /// Fresh addresses that neither the program nor the shell uses.
    ///
    /// # Errors
    /// When the address space is full.
    pub fn free_range(&mut self, size: u64) -> Result<u64, Error> {
        self.gaps.take(size)
    }

    /// A system call instruction that will stay.
    pub fn syscall_at(&self) -> u64 {
        self.syscall_at
    }

    /// The first thread.
    ///
    /// # Errors
    /// When it was lost to an earlier error.
    pub fn thread(&self) -> Result<&Stopped, Error> {
        Ok(self.thread.as_ref().ok_or(TraceError::Gone { tid: self.pid })?)
    }

    /// Gives the first thread away, for what works on all threads alike.
    ///
    /// # Errors
    /// When it was lost to an earlier error.
    pub fn take_thread(&mut self) -> Result<Stopped, Error> {
        Ok(self.thread.take().ok_or(TraceError::Gone { tid: self.pid })?)
    }

    /// Takes it back.
    pub fn put_thread(&mut self, thread: Stopped) {
        self.thread = Some(thread);
    }

    /// Runs calls in the first thread; all must succeed.
    ///
    /// # Errors
    /// The first call that failed, by name.
    pub fn run(&mut self, fill: impl FnOnce(&mut Batch)) -> Result<(), Error> {
        let mut batch = self.injection.batch();
        fill(&mut batch);
        self.run_batch(batch).map(drop)
    }

    /// Runs a batch in the first thread; all calls must succeed.
    ///
    /// # Errors
    /// The first call that failed, by name.
    pub fn run_batch(&mut self, batch: Batch) -> Result<Outcome, Error> {
        if batch.is_empty() {
            return self.try_batch(batch);
        }
        let outcome = self.try_batch(batch)?;
        outcome.all()?;
        Ok(outcome)
    }

    /// Runs a batch in the first thread, whose calls may fail.
    ///
    /// # Errors
    /// When the process ends.
    pub fn try_batch(&mut self, batch: Batch) -> Result<Outcome, Error> {
        let thread = self.take_thread()?;
        let (thread, outcome) = self.injection.run(thread, &self.memory, batch)?;
        self.thread = Some(thread);
        Ok(outcome)
    }

    /// Runs one piece of work after another in as few batches as they fit into. A piece needs at most `calls` calls and
    /// `bytes` bytes.
    ///
    /// # Errors
    /// The first call that failed, by name.
    pub fn run_each<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        calls: usize,
        bytes: impl Fn(&T) -> usize,
        mut add: impl FnMut(&mut Batch, T),
    ) -> Result<(), Error> {
        let mut batch = self.injection.batch();
        for item in items {
            if !batch.has_room(calls, bytes(&item)) {
                let full = std::mem::replace(&mut batch, self.injection.batch());
                self.run_batch(full)?;
            }
            add(&mut batch, item);
        }
        if batch.is_empty() { Ok(()) } else { self.run_batch(batch).map(drop) }
    }

    /// Makes a thread with the id `tid` (as the program knows it; `None`: any). It waits in our pages.
    ///
    /// # Errors
    /// EEXIST when the id is taken.
    pub fn make_thread(&mut self, tid: Option<i32>) -> Result<Stopped, Error> {
        let flags = libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM;
        let mut batch = self.injection.batch();
        let set_tid = batch.data(&tid.unwrap_or_default().to_le_bytes());
        let mut words = [0_u64; 11];
        words[0] = u64::from(flags.unsigned_abs());
        // The new thread is stopped before its first instruction and gets its registers from us: any stack does.
        if tid.is_some() {
            words[8] = set_tid;
            words[9] = 1;
        }
        let args: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let args_at = batch.data(&args);
        batch.call("clone3", libc::SYS_clone3, &[args_at, args.len() as u64]);
        let outcome = self.try_batch(batch)?;
        let tid = *outcome.clones.first().ok_or_else(|| match outcome.all() {
            Err(error) => Error::from(error),
            Ok(()) => Error::from(TraceError::Gone { tid: self.pid }),
        })?;
        stopped(Running::attached(tid, OURS))
    }

    /// A second set of our pages, for a second thread to work at the same time.
    ///
    /// # Errors
    /// [`Error::Trace`].
    pub fn second_injection(&mut self, thread: Stopped) -> Result<(Stopped, Injection), Error> {
        let hint = self.gaps.take(INJECTION)?;
        Ok(Injection::map(thread, &self.memory, INJECTION, hint, self.syscall_at, self.trap_signal)?)
    }

    /// Ends a thread that was made to help, and takes its pages away.
    ///
    /// # Errors
    /// When the process ends.
    pub fn end_thread(&mut self, injection: &Injection, thread: Stopped) -> Result<(), Error> {
        thread.exit_thread(self.syscall_at)?;
        let pages = injection.range();
        self.run(|batch| {
            batch.call("munmap", libc::SYS_munmap, &[pages.start, pages.end - pages.start]);
        })
    }

    /// Lets the first thread begin with a batch.
    ///
    /// # Errors
    /// When the process ends.
    pub fn start(&mut self, batch: Batch) -> Result<InFlight, Error> {
        let thread = self.take_thread()?;
        Ok(self.injection.start(thread, &self.memory, batch)?)
    }

    /// Puts a time where calls can point to, until the next batch.
    ///
    /// # Errors
    /// When the process ends.
    pub fn timespec(&self, nanoseconds: u64) -> Result<u64, Error> {
        const SECOND: u64 = 1_000_000_000;
        let time = [nanoseconds / SECOND, nanoseconds % SECOND].map(u64::to_le_bytes).concat();
        let at = self.injection.batch().data(&time);
        self.memory.write(at, &time)?;
        Ok(at)
    }

    /// Takes our pages away, which is the last that the process does for us, and gives its first thread.
    ///
    /// # Errors
    /// When the process ends.
    pub fn release(mut self) -> Result<Stopped, Error> {
        let thread = self.take_thread()?;
        Ok(self.injection.unmap(thread, &self.memory)?)
    }

    /// What the process may do (permitted capabilities).
    ///
    /// # Errors
    /// [`Error::Proc`].
    pub fn capabilities(&self) -> Result<u64, Error> {
        Ok(Status::of(self.pid)?.cap_prm)
    }
}

/// Waits for the stop of a thread that was asked to, or is new.
fn stopped(running: Running) -> Result<Stopped, Error> {
    let tid = running.tid();
    let mut running = running;
    loop {
        match running.wait()? {
            Event::Stopped(thread, Stop::Interrupt) => return Ok(thread),
            Event::Stopped(thread, _) => running = thread.resume()?,
            Event::Ended(_) => return Err(TraceError::Gone { tid }.into()),
        }
    }
}

fn is_kernels(vma: &Vma) -> bool {
    matches!(vma.kind(), VmaKind::Vdso | VmaKind::Vvar | VmaKind::Vsyscall)
}

fn kernel_regions(memory: &MemoryState) -> impl Iterator<Item = (&str, u64, u64)> {
    memory.regions.iter().filter_map(|region| match &region.backing {
        Backing::Kernel(name) => Some((name.as_str(), region.start, region.size())),
        _ => None,
    })
}

fn no_vdso(what: &str) -> Error {
    Error::restore(format!("this kernel has {what}, which the program calls"), "restore it on a newer kernel")
}

fn syscall_site(memory: &Memory, vmas: &[Vma]) -> Option<u64> {
    let vdso = vmas.iter().find(|vma| vma.kind() == VmaKind::Vdso)?;
    let mut code = vec![0; usize::try_from(vdso.size()).ok()?];
    memory.read(vdso.start, &mut code).ok()?;
    Some(vdso.start + vdso::syscall_offset(&code)?)
}

/// Addresses that are free in the program and in the shell.
struct Gaps {
    /// Start to end of what is taken.
    taken: BTreeMap<u64, u64>,
}

impl Gaps {
    fn new(wanted: &MemoryState, vmas: &[Vma]) -> Self {
        let program = wanted.regions.iter().map(|region| (region.start, region.end));
        // The heap grows into what follows it, and a stack into what comes before: keep away from both.
        let heap = (wanted.bounds.start_brk, wanted.bounds.brk + (1 << 30));
        let mut taken = BTreeMap::new();
        for (start, end) in program.chain([heap]).chain(vmas.iter().map(|vma| (vma.start, vma.end))) {
            let slot = taken.entry(start).or_insert(end);
            *slot = (*slot).max(end);
        }
        Self { taken }
    }

    /// The lowest free range of this size, with some distance to all others. It is taken from then on.
    fn take(&mut self, size: u64) -> Result<u64, Error> {
        const DISTANCE: u64 = 1 << 24;
        let mut at = LOWEST;
        for (&start, &end) in &self.taken {
            if start >= at && start - at >= size + 2 * DISTANCE {
                break;
            }
            at = at.max(end);
        }
        let at = (at + DISTANCE).next_multiple_of(ckpt_trace::PAGE);
        if at + size > arch::USER_END {
            return Err(Error::restore(
                "the program's address space has no free place",
                "free some memory in it first",
            ));
        }
        self.taken.insert(at, at + size);
        Ok(at)
    }
}

/// Whether an id is free among those that we see.
pub fn is_free(tid: Tid) -> bool {
    sys::rlimit(tid, 0).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
}
