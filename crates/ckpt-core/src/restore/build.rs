//! Building the program in its shell: memory, descriptors, threads, signals, timers, and at the very end registers.
//!
//! What can fail is done before anybody is told that the program is there; what begins to run, timers and the program
//! itself, when it is let go.

use std::collections::BTreeMap;

use ckpt_trace::arch::{self, Interrupted};
use ckpt_trace::sys::Namespace;
use ckpt_trace::{Batch, PAGE, Registers, Stopped, begin_wait};
use rustix::process::{Pid, Signal, kill_process};

use super::fill::Runs;
use super::foreground::Place;
use super::index::ImageIndex;
use super::nest::{Nest, Plan};
use super::reopen::OpenFiles;
use super::shell::Shell;
use crate::Error;
use crate::proc::Status;
use crate::resource::memory::{self, Backing, MemoryState, Region};
use crate::resource::signals;
use crate::resource::threads::ThreadState;

/// A program that has been built and is held.
pub struct Built {
    shell: Shell,
    /// What the first thread gets at the very end, when it has worked for us for the last time.
    first: Registers,
    first_extended: Vec<u8>,
    /// The other threads, as they will go on.
    others: Vec<Stopped>,
    place: Place,
}

/// Builds the program.
///
/// # Errors
/// The first thing that could not be built. The shell is killed then.
pub fn build(
    index: &ImageIndex,
    runs: &mut dyn Runs,
    files: OpenFiles,
    nest: &Nest,
    plan: &Plan,
    detach: bool,
    notes: &mut Vec<String>,
) -> Result<Built, Error> {
    let state = &index.state;
    let memory = &index.layout.processes[0].memory;
    let pending = pending_signals(index);
    let trap = signals::trap_signal(0, 0, pending);
    let mut shell = Shell::take(nest.shell, memory, trap)?;

    // While the shell is empty: the kernel names no other executable as long as the present one is mapped, and a
    // program that restores itself runs from the very file that it will map again.
    let executable = (shell.capabilities()? != 0).then_some(files.executable);
    if executable.is_none() && plan.keeps_ids {
        notes.push("/proc/self/exe shows the restoring program instead of the restored one".to_owned());
    }
    shell.run(|batch| memory.rebuild_bounds(batch, executable))?;
    build_memory(&mut shell, index, runs, &files)?;
    files.seal()?;
    build_process(&mut shell, index, &files)?;
    // Once the program runs, nobody else may hold its pipes open.
    drop(files);
    let mut others = build_threads(&mut shell, index, plan)?;
    let ids = new_ids(&shell, index, &others)?;
    if !plan.keeps_ids {
        patch_ids(&shell, state.threads.as_slice(), &ids)?;
    }
    build_timers(&mut shell, index, &ids)?;
    // While the shell is ours: another user's limits take privilege to set.
    state.process.rebuild_outside(nest.shell, notes);
    let parent_stays = nest.init.is_some() || !detach;
    if !parent_stays && state.process.parent_death_signal != 0 {
        notes.push("the signal that the program asked for at its parent's end is not set: it has no parent".to_owned());
    }
    build_identity(&mut shell, index, plan, &mut others, parent_stays)?;
    let place = Place::prepare(index, nest, detach, &mut shell)?;
    for (thread, tid) in state.threads.iter().zip(std::iter::once(nest.shell).chain(others.iter().map(Stopped::tid))) {
        thread.rebuild_scheduling(tid, notes).map_err(Error::system("set how threads are scheduled"))?;
    }
    requeue_signals(&mut shell, index, &mut others, &ids)?;
    let (first, others) = begin_waits(&mut shell, &state.threads, others)?;
    shell.put_thread(first.thread);
    let mut extended = extended_states(index)?.into_iter();
    let first_extended = extended.next().unwrap_or_default();
    let others = others.into_iter().zip(extended).zip(&state.threads[1..]);
    let others = others
        .map(|((Ready { thread, registers }, extended), saved)| {
            thread.set_extended_state(&extended)?;
            thread.set_registers(&registers)?;
            thread.set_signal_mask(saved.signal_mask)?;
            Ok(thread)
        })
        .collect::<Result<_, Error>>()?;
    Ok(Built { shell, first: first.registers, first_extended, others, place })
}

/// The extended registers of all threads, as this processor lays them out.
fn extended_states(index: &ImageIndex) -> Result<Vec<Vec<u8>>, Error> {
    let components = index.layout.machine.xsave_components();
    let here = |thread: &ThreadState| {
        arch::relayout(&thread.extended, &components).ok_or_else(|| Error::Foreign {
            path: index.path.clone(),
            what: "the program's registers do not exist on this processor".to_owned(),
            advice: "restore it on a machine with the same processor features".to_owned(),
        })
    };
    index.state.threads.iter().map(here).collect()
}

/// The signals that are pending anywhere in the image, as a mask.
fn pending_signals(index: &ImageIndex) -> u64 {
    let state = &index.state;
    let infos = state.threads.iter().flat_map(|thread| &thread.pending).chain(&state.signals.pending);
    infos
        .filter_map(|info| hex::decode(info.get(..2)?).ok()?.first().copied())
        .filter(|signal| (1..=64).contains(signal))
        .fold(0, |mask, signal| mask | 1 << (signal - 1))
}

fn build_memory(shell: &mut Shell, index: &ImageIndex, runs: &mut dyn Runs, files: &OpenFiles) -> Result<(), Error> {
    let memory = &index.layout.processes[0].memory;
    if let Some((base, old)) = runs.vdso(index)? {
        let same = shell.vdso()?.is_some_and(|(at, code)| at == base && code == old);
        if !same {
            shell.redirect_vdso(base, &old, memory)?;
        }
    }
    map_shared(shell, memory)?;
    let plain = memory.regions.iter().filter(|region| !is_alias(region, memory));
    shell.run_each(
        plain,
        20,
        |_| 256,
        |batch, region| {
            let file = match region.backing {
                Backing::File { file, shared, may_write, .. } => {
                    files.mapped.get(&(file, shared && may_write)).copied()
                }
                _ => None,
            };
            region.rebuild(batch, file);
        },
    )?;
    runs.fill(shell, index, files.image)?;
    shell.run_each(&memory.regions, 8, |_| 0, |batch, region| region.rebuild_late(batch))?;
    shell.run_each(&memory.guards, 1, |_| 0, memory::rebuild_guard)
}

/// Whether a region shows a part of an object that others show too, or not from its beginning.
fn is_alias(region: &Region, memory: &MemoryState) -> bool {
    let Backing::Shared { object, offset } = region.backing else { return false };
    let is_same = |other: &&Region| matches!(other.backing, Backing::Shared { object: theirs, .. } if theirs == object);
    offset != 0 || memory.regions.iter().filter(is_same).count() > 1
}

/// Maps shared memory that appears in several places: as a whole somewhere first, then from there into each place
/// (`mremap(2)` with an old size of zero makes another mapping of the same memory).
fn map_shared(shell: &mut Shell, memory: &MemoryState) -> Result<(), Error> {
    let mut objects: BTreeMap<u64, Vec<(&Region, u64)>> = BTreeMap::new();
    for region in memory.regions.iter().filter(|region| is_alias(region, memory)) {
        if let Backing::Shared { object, offset } = region.backing {
            objects.entry(object).or_default().push((region, offset));
        }
    }
    for regions in objects.values() {
        let size = regions.iter().map(|(region, offset)| offset + region.size()).max().unwrap_or(PAGE);
        let scratch = shell.free_range(size)?;
        let whole = Region { start: scratch, end: scratch + size, traits: Vec::new(), ..regions[0].0.clone() };
        shell.run(|batch| whole.rebuild(batch, None))?;
        let flags = u64::from((libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED).unsigned_abs());
        shell.run_each(
            regions,
            20,
            |_| 256,
            |batch, (region, offset)| {
                batch.call("mremap", libc::SYS_mremap, &[scratch + offset, 0, region.size(), flags, region.start]);
                region.rebuild_traits(batch);
            },
        )?;
        shell.run(|batch| {
            batch.call("munmap", libc::SYS_munmap, &[scratch, size]);
        })?;
    }
    Ok(())
}

/// Directory, mask, actions, and descriptors under their numbers.
fn build_process(shell: &mut Shell, index: &ImageIndex, files: &OpenFiles) -> Result<(), Error> {
    let state = &index.state;
    shell.run(|batch| {
        state.process.rebuild_early(&files.directory, batch);
        state.signals.rebuild(batch);
    })?;
    let below = u64::from((files.base - 1).unsigned_abs());
    shell.run(|batch| {
        batch.call("close_range", libc::SYS_close_range, &[0, below, 0]);
    })?;
    shell.run_each(
        &files.descriptors,
        1,
        |_| 0,
        |batch, &(source, target, close_on_exec)| {
            let flags = if close_on_exec { u64::from(libc::O_CLOEXEC.unsigned_abs()) } else { 0 };
            let (source, target) = (u64::from(source.unsigned_abs()), u64::from(target.unsigned_abs()));
            batch.call("dup3", libc::SYS_dup3, &[source, target, flags]);
        },
    )?;
    shell.run(|batch| {
        batch.call("close_range", libc::SYS_close_range, &[below + 1, u64::from(u32::MAX), 0]);
        for (fd, epoll) in state.descriptors.epolls() {
            epoll.rebuild_watched(fd, batch);
        }
    })
}

/// Makes the other threads and lets each tell the kernel about itself.
fn build_threads(shell: &mut Shell, index: &ImageIndex, plan: &Plan) -> Result<Vec<Stopped>, Error> {
    let threads = &index.state.threads;
    let mut others = Vec::with_capacity(threads.len());
    for thread in &threads[1..] {
        let made = shell.make_thread(plan.keeps_ids.then_some(thread.tid))?;
        let mut batch = shell.injection.batch();
        thread.rebuild(&mut batch);
        let (made, outcome) = shell.injection.run(made, &shell.memory, batch)?;
        outcome.all()?;
        others.push(made);
    }
    shell.run(|batch| threads[0].rebuild(batch))?;
    Ok(others)
}

/// Old ids and the ids of now, as the program sees them.
fn new_ids(shell: &Shell, index: &ImageIndex, others: &[Stopped]) -> Result<BTreeMap<i32, i32>, Error> {
    let mut ids = BTreeMap::new();
    let tids = std::iter::once(shell.pid).chain(others.iter().map(Stopped::tid));
    for (thread, tid) in index.state.threads.iter().zip(tids) {
        let inner = Status::of_thread(shell.pid, tid)?.ns_pid.last().copied().unwrap_or(tid);
        ids.insert(thread.tid, inner);
    }
    Ok(ids)
}

/// Where ids have changed, writes the new ones over those that the C library keeps: at the address that it asked the
/// kernel to clear when the thread ends.
fn patch_ids(shell: &Shell, threads: &[ThreadState], ids: &BTreeMap<i32, i32>) -> Result<(), Error> {
    for thread in threads {
        let mut cached = [0; 4];
        let at = thread.clear_child_tid;
        let Some(new) = ids.get(&thread.tid) else { continue };
        if at != 0 && shell.memory.read(at, &mut cached).is_ok() && i32::from_le_bytes(cached) == thread.tid {
            shell.memory.write(at, &new.to_le_bytes())?;
        }
    }
    Ok(())
}

/// Without the kernel's help every lower id is given out and taken back first.
const MOST_TIMER_IDS_WITHOUT_HELP: i32 = 2000;

fn build_timers(shell: &mut Shell, index: &ImageIndex, ids: &BTreeMap<i32, i32>) -> Result<(), Error> {
    let timers = &index.state.timers;
    let new_tid = |tid: i32| ids.get(&tid).copied().unwrap_or(tid);
    let has_restore_ids = ckpt_trace::sys::has_timer_ids();
    if let Some(last) = timers.posix.last()
        && last.id > MOST_TIMER_IDS_WITHOUT_HELP
        && !has_restore_ids
    {
        let what = format!("the program has a timer with the id {}, which this kernel gives to no new one", last.id);
        return Err(Error::restore(what, "restore it on Linux 6.15 or newer"));
    }
    shell.run(|batch| timers.rebuild(batch, has_restore_ids, new_tid))
}

/// Who the program is, and what it may: from here on the shell has no more rights than the program had. User ids,
/// capabilities and "no new privileges" belong to each thread.
fn build_identity(
    shell: &mut Shell,
    index: &ImageIndex,
    plan: &Plan,
    others: &mut Vec<Stopped>,
    parent_stays: bool,
) -> Result<(), Error> {
    let state = &index.state;
    let takes_ids = rustix::process::geteuid().is_root() && !plan.namespaces.contains(&Namespace::User);
    let held = shell.capabilities()?;
    let take_ids = |batch: &mut Batch| {
        if takes_ids {
            state.credentials.rebuild_ids(batch);
        }
    };
    shell.run(take_ids)?;
    let held = held & shell.capabilities()?;
    let mut done = Vec::with_capacity(others.len());
    for thread in std::mem::take(others) {
        let mut batch = shell.injection.batch();
        take_ids(&mut batch);
        state.credentials.rebuild_capabilities(&mut batch, held);
        state.process.rebuild_no_new_privileges(&mut batch);
        let (thread, outcome) = shell.injection.run(thread, &shell.memory, batch)?;
        outcome.all()?;
        done.push(thread);
    }
    *others = done;
    shell.run(|batch| {
        state.credentials.rebuild_capabilities(batch, held);
        state.process.rebuild_late(parent_stays, batch);
        state.process.rebuild_no_new_privileges(batch);
    })
}

/// Sends pending signals again, each thread to itself and the first one to the process.
fn requeue_signals(
    shell: &mut Shell,
    index: &ImageIndex,
    others: &mut Vec<Stopped>,
    ids: &BTreeMap<i32, i32>,
) -> Result<(), Error> {
    // A program may have tens of thousands pending, more than a batch has room for.
    const AT_ONCE: usize = 1000;
    let state = &index.state;
    let id = |tid: i32| ids.get(&tid).copied().unwrap_or(tid);
    let pid = id(state.threads[0].tid);
    let mut done = Vec::with_capacity(others.len());
    for (thread, stopped) in state.threads[1..].iter().zip(std::mem::take(others)) {
        let mut stopped = stopped;
        stopped.set_signal_mask(u64::MAX)?;
        for part in thread.pending.chunks(AT_ONCE) {
            let mut batch = shell.injection.batch();
            signals::requeue(&mut batch, pid, Some(id(thread.tid)), part);
            let (after, outcome) = shell.injection.run(stopped, &shell.memory, batch)?;
            outcome.all()?;
            stopped = after;
        }
        done.push(stopped);
    }
    *others = done;
    shell.thread()?.set_signal_mask(u64::MAX)?;
    for part in state.threads[0].pending.chunks(AT_ONCE) {
        shell.run(|batch| signals::requeue(batch, pid, Some(pid), part))?;
    }
    for part in state.signals.pending.chunks(AT_ONCE) {
        shell.run(|batch| signals::requeue(batch, pid, None, part))?;
    }
    Ok(())
}

/// A thread with the registers with which it will go on.
struct Ready {
    thread: Stopped,
    registers: Registers,
}

/// Lets every thread that was waiting with a time limit begin that wait again, with the time that was left.
fn begin_waits(shell: &mut Shell, states: &[ThreadState], others: Vec<Stopped>) -> Result<(Ready, Vec<Ready>), Error> {
    let first = shell.take_thread()?;
    let mut ready = Vec::with_capacity(states.len());
    for (state, thread) in states.iter().zip(std::iter::once(first).chain(others)) {
        let words: [u64; arch::REGISTER_WORDS] = state
            .registers
            .as_slice()
            .try_into()
            .map_err(|_| Error::restore("a thread has not all registers", "take another image"))?;
        let mut registers = Registers::from_words(words);
        let thread = match &state.wait {
            Some(wait) if registers.interrupted() == Some(Interrupted::RestartBlock) => {
                let limit = shell.timespec(wait.remaining)?;
                let (thread, result) = begin_wait(thread, shell.syscall_at(), wait.call, wait.arguments(limit))?;
                if result == arch::RESTART_BLOCK {
                    registers.set_call_restart();
                } else {
                    registers.finish_call(result);
                }
                thread
            }
            None if registers.interrupted() == Some(Interrupted::RestartBlock) => {
                registers.set_call_again();
                thread
            }
            _ => thread,
        };
        ready.push(Ready { thread, registers });
    }
    let mut ready = ready.into_iter();
    let first = ready.next().ok_or_else(|| Error::restore("the program has no thread", "take another image"))?;
    Ok((first, ready.collect()))
}

impl Built {
    /// The last steps: timers run, our pages go, the first thread gets its registers and mask, and all threads are let go.
    /// Gives the program's place among processes and terminals.
    ///
    /// # Errors
    /// When it was killed meanwhile.
    pub fn go(self, index: &ImageIndex) -> Result<Place, Error> {
        let Self { mut shell, first: registers, first_extended, others, place } = self;
        let state = &index.state;
        let locks_future = index.layout.processes[0].memory.locks_future;
        shell.run(|batch: &mut Batch| {
            if locks_future {
                batch.call("mlockall", libc::SYS_mlockall, &[libc::MCL_FUTURE.unsigned_abs().into()]);
            }
            state.timers.start(batch);
        })?;
        let pid = shell.pid;
        let first = shell.release()?;
        first.set_extended_state(&first_extended)?;
        first.set_registers(&registers)?;
        first.set_signal_mask(state.threads[0].signal_mask)?;
        if let (Some(_), Some(pid)) = (state.signals.stopped_by, Pid::from_raw(pid)) {
            // Whichever signal stopped it, a stop is a stop; SIGSTOP cannot be blocked or ignored.
            kill_process(pid, Signal::STOP)
                .map_err(|error| Error::System { what: "stop the program again".to_owned(), source: error.into() })?;
        }
        place.enter();
        for thread in std::iter::once(first).chain(others) {
            thread.detach()?;
        }
        Ok(place)
    }
}
