//! Filling memory from a stream: pages are put into the new process as they come, and the end of the stream says whether
//! they were the right ones.
//!
//! What a restore has to know before it can map anything stands at the front; files that are carried are put aside.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use ckpt_image::{Content, ImageError, ImageReader, Record, Stored};
use ckpt_trace::Memory;
use rustix::fs::{MemfdFlags, Mode, OFlags};

use super::fill::{self, Reach, Runs};
use super::index::{Front, ImageIndex, PageRun, Pieces, check_architecture, damaged};
use super::seen::Seen;
use super::shell::Shell;
use crate::resource::memory::Region;
use crate::{Error, cancel};

/// What a stream is called in messages.
const NAME: &str = "the image that was being received";

/// An image that comes through a stream, whose front has been read.
pub struct Stream<R> {
    reader: ImageReader<R>,
    path: PathBuf,
    /// The page run that comes next. Its data has not been read.
    next: Option<PageRun>,
}

impl<R: Read> Stream<R> {
    /// Reads the front of an image: all but its pages.
    ///
    /// # Errors
    /// [`Error::Image`], [`Error::Foreign`].
    pub fn open(stream: R) -> Result<(Self, ImageIndex), Error> {
        let path = PathBuf::from(NAME);
        let failed = |source| Error::Image { path: PathBuf::from(NAME), source };
        let mut reader = ImageReader::in_channel(stream).map_err(failed)?;
        check_architecture(&path, &reader)?;
        let mut front = Front::default();
        let mut aside = Aside::default();
        let mut next = None;
        while let Some(record) = reader.next_record().map_err(failed)? {
            cancel::check()?;
            match record.content {
                Content::Layout | Content::State { .. } => front.take(&mut reader, &record).map_err(failed)?,
                Content::FileData { file, offset } => {
                    reader.read_stored(&mut aside.buffer).map_err(failed)?;
                    aside.put(file, offset, record.data)?;
                }
                Content::Pages { ranges, .. } => {
                    next = Some(PageRun { ranges, stored: record.data });
                    break;
                }
            }
        }
        if let Some(run) = &next
            && !front.is_complete()
        {
            let what =
                "memory comes before what it belongs to, as in images of older versions: write it to a file first";
            return Err(damaged(&path, run.stored.record_position, what));
        }
        let (file, pieces) = aside.finish()?;
        let index = front.index(&path, file, pieces)?;
        Ok((Self { reader, path, next }, index))
    }

    fn failed(&self) -> impl Fn(ImageError) -> Error + use<R> {
        let path = self.path.clone();
        move |source| Error::Image { path: path.clone(), source }
    }

    /// Reads the data of the next run, as it is stored, and goes on to the one after it. `None` at the end of the image,
    /// which is then known to be whole.
    fn take(&mut self, stored: &mut Vec<u8>) -> Result<Option<PageRun>, Error> {
        let Some(run) = self.next.take() else { return Ok(None) };
        cancel::check()?;
        self.reader.read_stored(stored).map_err(self.failed())?;
        self.next = match self.reader.next_record().map_err(self.failed())? {
            None => None,
            Some(Record { content: Content::Pages { ranges, .. }, data }) => Some(PageRun { ranges, stored: data }),
            Some(Record { data, .. }) => {
                let what = "something other than memory comes behind memory, which cannot be read from a stream";
                return Err(damaged(&self.path, data.record_position, what));
            }
        };
        Ok(Some(run))
    }
}

impl<R: Read> Runs for Stream<R> {
    fn vdso(&mut self, index: &ImageIndex) -> Result<Option<(u64, Vec<u8>)>, Error> {
        let memory = &index.layout.processes[0].memory;
        let (mut stored, mut data) = (Vec::new(), Vec::new());
        let mut found = None;
        while self.next.as_ref().is_some_and(|run| fill::shows_vdso(memory, run)) {
            if let Some(run) = self.take(&mut stored)? {
                run.stored.decode(&stored, &mut data).map_err(self.failed())?;
                fill::collect_vdso(memory, &run, &data, &mut found);
            }
        }
        if found.is_none() && memory.regions.iter().any(Region::is_vdso) {
            let position = self.next.as_ref().map_or(0, |run| run.stored.record_position);
            return Err(damaged(&self.path, position, "its vDSO is not the first of its memory"));
        }
        Ok(found)
    }

    fn fill(&mut self, shell: &mut Shell, index: &ImageIndex, _image: i32) -> Result<(), Error> {
        let memory = Memory::open(shell.pid)?;
        let crew = Crew::new(index, &memory);
        thread::scope(|scope| {
            // Without a helper the pages are put in place one by one as they are read.
            let has_helpers = (0..helpers())
                .map(|_| thread::Builder::new().spawn_scoped(scope, || crew.work()))
                .fold(false, |any, helper| any | helper.is_ok());
            let result = self.hand_out(index, &crew, has_helpers);
            crew.close();
            result
        })?;
        crew.result()
    }
}

impl<R: Read> Stream<R> {
    /// Reads run after run and hands them to the helpers.
    fn hand_out(&mut self, index: &ImageIndex, crew: &Crew<'_>, has_helpers: bool) -> Result<(), Error> {
        let mut seen = Seen::default();
        loop {
            let mut stored = crew.buffer();
            let Some(run) = self.take(&mut stored)? else { return Ok(()) };
            if fill::reach(index, &run)? == Reach::Kernel {
                continue;
            }
            // Of two runs for one address the last holds: the first has to be in place before.
            let mut is_again = false;
            for range in &run.ranges {
                is_again |= seen.add(range.addr, range.addr + range.len);
            }
            if is_again {
                crew.wait();
            }
            if !crew.take(Work { run, stored }, has_helpers) {
                return Ok(());
            }
        }
    }
}

/// How many threads put pages in place. The kernel's work for a fresh page is far more than ours for a byte.
fn helpers() -> usize {
    const MOST: usize = 4;
    thread::available_parallelism().map_or(1, usize::from).clamp(1, MOST)
}

/// A run with its data, as it is stored.
struct Work {
    run: PageRun,
    stored: Vec<u8>,
}

/// Threads that decode runs and put them in place, and what they share with the one that reads.
struct Crew<'a> {
    index: &'a ImageIndex,
    memory: &'a Memory,
    sender: Mutex<Option<SyncSender<Work>>>,
    receiver: Mutex<Receiver<Work>>,
    /// Buffers that are free again.
    free: (Sender<Vec<u8>>, Mutex<Receiver<Vec<u8>>>),
    /// How many runs have been handed out and are not in place yet.
    open: Mutex<usize>,
    done: Condvar,
    has_failed: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl<'a> Crew<'a> {
    fn new(index: &'a ImageIndex, memory: &'a Memory) -> Self {
        /// Runs that wait for a helper: what is in memory of the image at one time is a few of them.
        const WAITING: usize = 4;
        let (sender, receiver) = sync_channel(WAITING);
        let (free, freed) = channel();
        Self {
            index,
            memory,
            sender: Mutex::new(Some(sender)),
            receiver: Mutex::new(receiver),
            free: (free, Mutex::new(freed)),
            open: Mutex::new(0),
            done: Condvar::new(),
            has_failed: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    /// Works until all is handed out and in place. After a failure work is only thrown away, so that nobody waits in vain.
    fn work(&self) {
        let mut data = Vec::new();
        loop {
            let Ok(work) = lock(&self.receiver).recv() else { return };
            self.put(work, &mut data);
        }
    }

    fn put(&self, Work { run, stored }: Work, data: &mut Vec<u8>) {
        let failed = |source| Error::Image { path: self.index.path.clone(), source };
        if !self.has_failed.load(Ordering::Relaxed) {
            let result = run.stored.decode(&stored, data).map_err(failed);
            if let Err(error) = result.and_then(|()| fill::put(self.memory, &run, data)) {
                lock(&self.failure).get_or_insert(error);
                self.has_failed.store(true, Ordering::Relaxed);
            }
        }
        // The reader keeps the other end as long as anybody works.
        let _ = self.free.0.send(stored);
        *lock(&self.open) -= 1;
        self.done.notify_all();
    }

    /// Takes a run; false when there is no use in reading on.
    fn take(&self, work: Work, has_helpers: bool) -> bool {
        *lock(&self.open) += 1;
        let sender = lock(&self.sender).clone();
        match sender.filter(|_| has_helpers) {
            Some(sender) => {
                if sender.send(work).is_err() {
                    return false;
                }
            }
            None => self.put(work, &mut Vec::new()),
        }
        !self.has_failed.load(Ordering::Relaxed)
    }

    /// Waits until all that was handed out is in place.
    fn wait(&self) {
        let mut open = lock(&self.open);
        while *open > 0 {
            open = self.done.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn buffer(&self) -> Vec<u8> {
        lock(&self.free.1).try_recv().unwrap_or_default()
    }

    /// There is no more work.
    fn close(&self) {
        lock(&self.sender).take();
    }

    fn result(self) -> Result<(), Error> {
        self.failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A helper that panicked takes the whole act down with it at the end of the scope.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Contents of carried files, put aside in a file without a name until they are needed.
#[derive(Default)]
struct Aside {
    file: Option<File>,
    length: u64,
    pieces: Pieces,
    buffer: Vec<u8>,
}

impl Aside {
    /// Puts the buffer aside, a piece of a file as it is stored.
    fn put(&mut self, file: u64, offset: u64, stored: Stored) -> Result<(), Error> {
        let target = match &self.file {
            Some(target) => target,
            None => self.file.insert(nameless_file()?),
        };
        let directory = std::env::temp_dir();
        target.write_all_at(&self.buffer, self.length).map_err(Error::file("put carried files aside in", directory))?;
        self.pieces.entry(file).or_default().push((offset, Stored { position: self.length, ..stored }));
        self.length += stored.stored_len;
        Ok(())
    }

    fn finish(self) -> Result<(File, Pieces), Error> {
        let file = self.file.map_or_else(nameless_file, Ok)?;
        Ok((file, self.pieces))
    }
}

/// A file without a name, on disk where that is possible.
fn nameless_file() -> Result<File, Error> {
    let directory = std::env::temp_dir();
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let made = rustix::fs::open(&directory, flags, Mode::RUSR | Mode::WUSR)
        .or_else(|_| rustix::fs::memfd_create("carried files", MemfdFlags::CLOEXEC));
    made.map(File::from).map_err(|error| Error::file("make a file in", directory)(error.into()))
}

#[cfg(test)]
mod tests;
