//! Copying a frozen process's pages into an image, on as many threads as help.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;

use ckpt_image::{Codec, Encoder, ImageError, ImageWriter, MAX_RANGES, MAX_RUN, PageRange};
use ckpt_trace::{Memory, PAGE, Span, usize_of};

use crate::capture::SharedPages;
use crate::page_finder::PageFinder;
use crate::resource::file_table::Contents;
use crate::resource::files;
use crate::resource::memory::{Backing, Region};
use crate::{Error, Progress, cancel};

/// The size of a page in an image.
pub const PAGE_SIZE: u32 = 4096;
/// The page tables of so many bytes are scanned at once, more where they are empty: nothing is copied before the first scan
/// has ended.
const LOOK_AHEAD: u64 = 32 << 20;
const ZEROS: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];

/// Where a checkpoint goes.
pub struct Sink<'a, W> {
    /// The image so far.
    pub writer: ImageWriter<W>,
    /// Its path, for messages.
    pub path: &'a Path,
    /// How runs are compressed.
    pub codec: Codec,
    /// Counts the memory that is in it.
    pub progress: &'a Progress,
}

impl<W: Write + Send> Sink<'_, W> {
    fn failed(&self) -> impl Fn(ImageError) -> Error + Sync + use<'_, W> {
        |source| Error::Image { path: self.path.to_path_buf(), source }
    }

    /// Writes the program's own pages of all regions, those of the vDSO first, and says how many there were.
    ///
    /// A restore from a stream has to know the vDSO before it can map anything.
    ///
    /// # Errors
    /// When the image cannot be written, the process ends, or the user cancels.
    pub fn put_pages(
        self,
        pid: i32,
        memory: &Memory,
        regions: &[Region],
        shared: &SharedPages,
    ) -> Result<(Self, u64), Error> {
        let Sink { writer, path, codec, progress } = self;
        let (first, rest): (Vec<_>, Vec<_>) =
            regions.iter().partition(|region| matches!(region.backing, Backing::Kernel(_)));
        let runs = |regions| {
            let finder = PageFinder::open(pid).map_err(Error::system(format!("open the page tables of {pid}")))?;
            let found = VecDeque::new();
            Ok::<_, Error>(Mutex::new(Runs { finder, regions, shared, region: 0, at: 0, ahead: LOOK_AHEAD, found }))
        };
        let (first, rest) = (runs(first)?, runs(rest)?);
        let writer = Mutex::new(writer);
        let pages = AtomicU64::new(0);
        let failed = |source| Error::Image { path: path.to_path_buf(), source };
        let work = |runs: &Mutex<Runs<'_>>| -> Result<(), Error> {
            let mut encoder = Encoder::new(PAGE_SIZE, codec).map_err(failed)?;
            let mut run = Run::default();
            let mut data = Vec::new();
            while lock(runs).next(&mut run)? {
                cancel::check()?;
                run.read(memory, &mut data)?;
                let read = data.len() as u64;
                run.leave_out_zeros(&mut data);
                if !run.ranges.is_empty() {
                    let encoded = encoder.pages(0, &run.ranges, &data).map_err(failed)?;
                    lock_soon(&writer).append(&encoded).map_err(failed)?;
                    pages.fetch_add(data.len() as u64 / PAGE, Ordering::Relaxed);
                }
                // Pages of zeros are done as well.
                progress.add(read);
            }
            Ok(())
        };
        work(&first)?;
        thread::scope(|scope| {
            let helpers: Vec<_> = (1..workers(codec))
                .filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, || work(&rest)).ok())
                .collect();
            let own = work(&rest);
            helpers.into_iter().fold(own, |result, helper| {
                let theirs = helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                result.and(theirs)
            })
        })?;
        let writer = writer.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok((Sink { writer, path, codec, progress }, pages.into_inner()))
    }

    /// Writes the contents of carried files.
    ///
    /// # Errors
    /// When a file cannot be read, or the image not written.
    pub fn put_files(&mut self, memory: &Memory, contents: &BTreeMap<u64, Contents>) -> Result<(), Error> {
        let mut encoder = Encoder::new(PAGE_SIZE, self.codec).map_err(self.failed())?;
        let mut buffer = vec![0; usize_of(MAX_RUN)];
        for (&id, source) in contents {
            match source {
                Contents::File(file) => {
                    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
                    let name = std::fs::read_link(&link).unwrap_or_else(|_| link.into());
                    let reading = || Error::file("read, to carry its contents,", name.clone());
                    let mut file = file.try_clone().map_err(reading())?;
                    let size = file.metadata().map_err(reading())?.len();
                    let mut stretches = Vec::new();
                    files::each_stretch(&mut file, size, |start, length| {
                        stretches.push((start, length));
                        Ok::<_, std::io::Error>(())
                    })
                    .map_err(reading())?;
                    for (offset, part) in stretches.into_iter().flat_map(|(start, length)| pieces(start, length)) {
                        cancel::check()?;
                        let data = &mut buffer[..usize_of(part)];
                        files::read_stretch(&mut file, offset, data).map_err(reading())?;
                        let encoded = encoder.file_data(id, offset, data).map_err(self.failed())?;
                        let result = self.writer.append(&encoded);
                        result.map_err(self.failed())?;
                    }
                }
                Contents::Memory(parts) => {
                    for &(at, span) in parts {
                        for (offset, part) in pieces(at, span.len) {
                            cancel::check()?;
                            let data = &mut buffer[..usize_of(part)];
                            memory.read_forced(span.addr + (offset - at), data)?;
                            let encoded = encoder.file_data(id, offset, data).map_err(self.failed())?;
                            let result = self.writer.append(&encoded);
                            result.map_err(self.failed())?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// How many threads copy. Only one can write at a time: uncompressed, another is always ready when it has written, and a
/// third would only wait.
fn workers(codec: Codec) -> usize {
    const MOST: usize = 8;
    match codec {
        Codec::None => 2,
        Codec::Lz4 | Codec::Zstd => thread::available_parallelism().map_or(1, usize::from).clamp(2, MOST),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A worker that panicked takes the whole act down with it when it is joined.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As [`lock`], for what is free again in a moment. Who sleeps until then is woken too late: for as long as that takes,
/// nobody writes, which would make a checkpoint a fifth slower.
fn lock_soon<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    /// Somewhat longer than a run takes to write into memory; the wait for a disk is long, and then sleep is right.
    const TRIES: u32 = 1000;
    for _ in 0..TRIES {
        match mutex.try_lock() {
            Ok(guard) => return guard,
            Err(TryLockError::Poisoned(error)) => return error.into_inner(),
            Err(TryLockError::WouldBlock) => thread::yield_now(),
        }
    }
    lock(mutex)
}

/// Cuts a stretch into runs: offset and length of each.
fn pieces(start: u64, length: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = start + length;
    (start..end).step_by(usize_of(MAX_RUN)).map(move |at| (at, (end - at).min(MAX_RUN)))
}

/// Pages that are copied together.
#[derive(Default)]
struct Run {
    ranges: Vec<PageRange>,
    access: Access,
}

/// What the program may do with pages, and what is behind them: those of one run are alike, so that a restore can fill them in one call.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
struct Access {
    is_readable: bool,
    is_writable: bool,
    behind: Behind,
}

/// What shows where the image holds no page.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Behind {
    /// Zeros.
    #[default]
    Nothing,
    /// A file: pages of zeros that the program made matter.
    File,
    /// The kernel's own.
    Kernel,
}

impl Run {
    fn read(&self, memory: &Memory, data: &mut Vec<u8>) -> Result<(), Error> {
        data.resize(usize_of(self.ranges.iter().map(|range| range.len).sum()), 0);
        if self.access.is_readable {
            let spans: Vec<Span> = self.ranges.iter().map(|range| Span { addr: range.addr, len: range.len }).collect();
            return Ok(memory.gather(&spans, data)?);
        }
        let mut rest = data.as_mut_slice();
        for range in &self.ranges {
            let (part, after) = rest.split_at_mut(usize_of(range.len));
            memory.read_forced(range.addr, part)?;
            rest = after;
        }
        Ok(())
    }

    /// Takes out pages of zeros where what is not in the image is zero.
    fn leave_out_zeros(&mut self, data: &mut Vec<u8>) {
        let page = ZEROS.len();
        if self.access.behind != Behind::Nothing || !data.chunks_exact(page).any(|bytes| bytes == ZEROS) {
            return;
        }
        let mut kept: Vec<PageRange> = Vec::new();
        let (mut from, mut to) = (0, 0);
        for range in &self.ranges {
            for addr in (range.addr..range.addr + range.len).step_by(page) {
                if data[from..from + page] != ZEROS {
                    data.copy_within(from..from + page, to);
                    to += page;
                    match kept.last_mut() {
                        Some(last) if last.addr + last.len == addr => last.len += PAGE,
                        _ => kept.push(PageRange { addr, len: PAGE }),
                    }
                }
                from += page;
            }
        }
        data.truncate(to);
        self.ranges = kept;
    }
}

/// The runs of a process, found as they are asked for: the page tables of a large one are not kept in memory.
struct Runs<'a> {
    finder: PageFinder,
    regions: Vec<&'a Region>,
    shared: &'a SharedPages,
    region: usize,
    at: u64,
    ahead: u64,
    found: VecDeque<(PageRange, Access)>,
}

impl Runs<'_> {
    /// Puts the next run into `run`; false when there are no more.
    fn next(&mut self, run: &mut Run) -> Result<bool, Error> {
        run.ranges.clear();
        let mut room = MAX_RUN;
        while room > 0 && run.ranges.len() < MAX_RANGES {
            let Some((range, access)) = self.found.front_mut() else {
                if self.look_further()? {
                    continue;
                }
                break;
            };
            if run.ranges.is_empty() {
                run.access = *access;
            } else if run.access != *access {
                break;
            }
            let len = range.len.min(room);
            run.ranges.push(PageRange { addr: range.addr, len });
            room -= len;
            range.addr += len;
            range.len -= len;
            if range.len == 0 {
                self.found.pop_front();
            }
        }
        Ok(!run.ranges.is_empty())
    }

    /// Looks for pages a bit further on; false at the end.
    fn look_further(&mut self) -> Result<bool, Error> {
        let Some(region) = self.regions.get(self.region) else { return Ok(false) };
        let access = Access {
            is_readable: region.is_readable(),
            is_writable: region.is_writable_at_first(),
            behind: match region.backing {
                Backing::Anonymous(_) | Backing::Shared { .. } => Behind::Nothing,
                Backing::File { .. } => Behind::File,
                Backing::Kernel(_) => Behind::Kernel,
            },
        };
        let start = self.at.max(region.start);
        let mut reached = region.end;
        let mut push =
            |start: u64, end: u64| self.found.push_back((PageRange { addr: start, len: end - start }, access));
        if let Some(pages) = self.shared.get(&region.start) {
            for &(start, end) in pages {
                push(start, end);
            }
        } else if access.behind == Behind::Kernel && region.has_pages() {
            // The vDSO: its pages are the kernel's, and needed on another one.
            push(region.start, region.end);
        } else if region.has_pages() {
            let ahead = region.end.min(start.saturating_add(self.ahead));
            let (pages, end) = self.finder.own_pages(start..ahead).map_err(Error::system("scan the page tables"))?;
            self.ahead = if pages.is_empty() { self.ahead.saturating_mul(2) } else { LOOK_AHEAD };
            for range in &pages {
                push(range.start, range.end);
            }
            reached = end;
        }
        self.at = reached;
        if reached >= region.end {
            self.region += 1;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
