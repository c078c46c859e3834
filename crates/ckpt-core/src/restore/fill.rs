//! Filling memory from an image file: the new process reads its pages itself, on two of its threads, while we check them.
//!
//! Pages that it cannot read by itself, because they are compressed or not writable, are put there from outside.

use std::sync::atomic::{AtomicUsize, Ordering};

use ckpt_image::{Codec, PageRange};
use ckpt_trace::{Batch, InFlight, Memory, Outcome, Span, usize_of};

use super::index::{ImageIndex, PageRun, damaged};
use super::shell::Shell;
use crate::Error;
use crate::resource::memory::{Backing, MemoryState, Region};

/// From how many bytes on a second thread is worth its making.
const WORTH_TWO: u64 = 8 << 20;
/// How much one batch reads at most, so that two threads finish about together.
const BATCH_BYTES: u64 = 32 << 20;

/// How the pages of an image come to a new process.
pub trait Runs {
    /// The code of the program's vDSO and its place, if the image has it. It is asked for first.
    ///
    /// # Errors
    /// When the image is damaged.
    fn vdso(&mut self, index: &ImageIndex) -> Result<Option<(u64, Vec<u8>)>, Error>;

    /// Fills the mapped regions of the shell. `image` is the descriptor of the index's file there.
    ///
    /// # Errors
    /// [`Error::Image`] when the image is damaged; when the process ends.
    fn fill(&mut self, shell: &mut Shell, index: &ImageIndex, image: i32) -> Result<(), Error>;
}

/// The page runs of an image file.
pub struct FileRuns(pub Vec<PageRun>);

impl Runs for FileRuns {
    fn vdso(&mut self, index: &ImageIndex) -> Result<Option<(u64, Vec<u8>)>, Error> {
        let memory = &index.layout.processes[0].memory;
        let (mut buffer, mut data) = (Vec::new(), Vec::new());
        let mut found = None;
        for run in self.0.iter().filter(|run| shows_vdso(memory, run)) {
            index.read(&run.stored, &mut buffer, &mut data)?;
            collect_vdso(memory, run, &data, &mut found);
        }
        Ok(found)
    }

    fn fill(&mut self, shell: &mut Shell, index: &ImageIndex, image: i32) -> Result<(), Error> {
        fill_from_file(shell, index, &self.0, image)
    }
}

fn is_vdso(memory: &MemoryState, range: &PageRange) -> bool {
    memory.region_at(range.addr).is_some_and(Region::is_vdso)
}

/// Whether there is something of the program's vDSO in a run.
pub fn shows_vdso(memory: &MemoryState, run: &PageRun) -> bool {
    run.ranges.iter().any(|range| is_vdso(memory, range))
}

/// Adds what a run has of the vDSO to what was found of it.
pub fn collect_vdso(memory: &MemoryState, run: &PageRun, data: &[u8], found: &mut Option<(u64, Vec<u8>)>) {
    for (range, bytes) in parts(run, data).filter(|(range, _)| is_vdso(memory, range)) {
        let region = memory.region_at(range.addr).map_or(range.addr..range.addr, |r| r.start..r.end);
        let code = found.get_or_insert_with(|| (region.start, vec![0; usize_of(region.end - region.start)]));
        let at = usize_of(range.addr - code.0);
        let end = (at + bytes.len()).min(code.1.len());
        code.1[at..end].copy_from_slice(&bytes[..end - at]);
    }
}

fn fill_from_file(shell: &mut Shell, index: &ImageIndex, runs: &[PageRun], image: i32) -> Result<(), Error> {
    let mut direct = Vec::new();
    let mut indirect = Vec::new();
    let is_simple = is_ascending(runs);
    for run in runs {
        match reach(index, run)? {
            Reach::Kernel => {}
            Reach::Itself if is_simple && run.stored.codec == Codec::None => direct.push(run),
            Reach::Itself | Reach::Tracer => indirect.push(run),
        }
    }
    let outside = Memory::open(shell.pid)?;
    // Where an address is stored more than once the last run holds: then they are taken in order, by one.
    let helpers = if is_simple { 2 } else { 1 };
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut buffer, mut data) = (Vec::new(), Vec::new());
        loop {
            let taken = next.fetch_add(1, Ordering::Relaxed);
            if let Some(run) = indirect.get(taken) {
                index.read(&run.stored, &mut buffer, &mut data)?;
                put(&outside, run, &data)?;
            } else if let Some(run) = direct.get(taken - indirect.len()) {
                index.read_verified(&run.stored, &mut buffer)?;
            } else {
                return Ok::<_, Error>(());
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
        let result = read_directly(shell, &direct, image);
        workers.into_iter().fold(result, |result, worker| {
            let theirs = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result.and(theirs)
        })
    })
}

/// Who can put a run's pages where they belong.
#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
pub enum Reach {
    /// Nobody: they are the kernel's own.
    Kernel,
    /// The process itself.
    Itself,
    /// Its tracer.
    Tracer,
}

/// Who can put a run's pages where they belong.
///
/// # Errors
/// [`Error::Image`] when a range is in no region that can hold pages, or the kernel's pages are mixed with others.
pub fn reach(index: &ImageIndex, run: &PageRun) -> Result<Reach, Error> {
    reach_in(&index.layout.processes[0].memory, run)
        .ok_or_else(|| damaged(&index.path, run.stored.record_position, "a page run lies outside all regions"))
}

fn reach_in(memory: &MemoryState, run: &PageRun) -> Option<Reach> {
    let mut all: Option<Reach> = None;
    for range in &run.ranges {
        let mut at = range.addr;
        while at < range.addr + range.len {
            let region = memory.region_at(at).filter(|region| region.has_pages())?;
            let this = match region.backing {
                Backing::Kernel(_) => Reach::Kernel,
                _ if region.is_writable_at_first() => Reach::Itself,
                _ => Reach::Tracer,
            };
            if all.is_some_and(|all| (all == Reach::Kernel) != (this == Reach::Kernel)) {
                return None;
            }
            all = all.max(Some(this));
            at = region.end;
        }
    }
    all
}

/// Whether every address is stored at most once.
fn is_ascending(runs: &[PageRun]) -> bool {
    let mut ranges: Vec<&PageRange> = runs.iter().flat_map(|run| &run.ranges).collect();
    ranges.sort_unstable_by_key(|range| range.addr);
    ranges.windows(2).all(|pair| pair[0].addr + pair[0].len <= pair[1].addr)
}

/// Puts a run's pages into a process from outside.
///
/// # Errors
/// When the process has ended.
pub fn put(memory: &Memory, run: &PageRun, data: &[u8]) -> Result<(), Error> {
    let spans: Vec<Span> = run.ranges.iter().map(|range| Span { addr: range.addr, len: range.len }).collect();
    if memory.scatter(data, &spans).is_ok() {
        return Ok(());
    }
    parts(run, data).try_for_each(|(range, bytes)| Ok(memory.write_forced(range.addr, bytes)?))
}

fn parts<'a>(run: &'a PageRun, data: &'a [u8]) -> impl Iterator<Item = (&'a PageRange, &'a [u8])> {
    let mut rest = data;
    run.ranges.iter().map(move |range| {
        let (part, after) = rest.split_at(usize_of(range.len).min(rest.len()));
        rest = after;
        (range, part)
    })
}

/// Lets the process read runs from its descriptor of the image.
fn read_directly(shell: &mut Shell, runs: &[&PageRun], image: i32) -> Result<(), Error> {
    let total: u64 = runs.iter().map(|run| run.stored.raw_len).sum();
    if total < WORTH_TWO {
        let mut rest = runs;
        while !rest.is_empty() {
            let (batch, expected) = read_batch(shell.injection.batch(), &mut rest, image);
            let outcome = shell.run_batch(batch)?;
            check(&outcome, &expected)?;
        }
        return Ok(());
    }
    let second = shell.make_thread(None)?;
    let (second, injection) = shell.second_injection(second)?;
    let mut second = Some(second);
    let mut rest = runs;
    while !rest.is_empty() {
        let (batch, expected) = read_batch(shell.injection.batch(), &mut rest, image);
        let first_in_flight = shell.start(batch)?;
        let mut second_in_flight: Option<(InFlight, Vec<u64>)> = None;
        if !rest.is_empty()
            && let Some(thread) = second.take()
        {
            let (batch, expected) = read_batch(injection.batch(), &mut rest, image);
            second_in_flight = Some((injection.start(thread, &shell.memory, batch)?, expected));
        }
        let (thread, outcome) = first_in_flight.finish(&shell.memory)?;
        shell.put_thread(thread);
        check(&outcome, &expected)?;
        if let Some((in_flight, expected)) = second_in_flight {
            let (thread, outcome) = in_flight.finish(&shell.memory)?;
            check(&outcome, &expected)?;
            second = Some(thread);
        }
    }
    if let Some(thread) = second {
        shell.end_thread(&injection, thread)?;
    }
    Ok(())
}

/// A batch that reads as many runs as fit, with the number of bytes that each call must give.
fn read_batch(mut batch: Batch, rest: &mut &[&PageRun], image: i32) -> (Batch, Vec<u64>) {
    let mut expected = Vec::new();
    let mut bytes = 0;
    while let Some((run, after)) = rest.split_first() {
        let vector: Vec<u8> =
            run.ranges.iter().flat_map(|range| [range.addr.to_le_bytes(), range.len.to_le_bytes()].concat()).collect();
        if !batch.has_room(1, vector.len()) || bytes >= BATCH_BYTES {
            break;
        }
        let at = batch.data(&vector);
        let descriptor = u64::from(image.unsigned_abs());
        batch.call("preadv", libc::SYS_preadv, &[descriptor, at, run.ranges.len() as u64, run.stored.position, 0]);
        expected.push(run.stored.raw_len);
        bytes += run.stored.raw_len;
        *rest = after;
    }
    (batch, expected)
}

fn check(outcome: &Outcome, expected: &[u64]) -> Result<(), Error> {
    for (call, wanted) in expected.iter().enumerate() {
        let got = outcome.result(call)?;
        if got != *wanted {
            return Err(Error::restore(
                format!("only {got} of {wanted} bytes could be read from the image"),
                "it may be changing, or on a failing disk; take another copy of it",
            ));
        }
    }
    Ok(())
}
