//! What an image holds and where: read once, without the memory's contents.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ckpt_image::{Content, ImageError, ImageReader, PageRange, Record, Stored};
use ckpt_trace::arch;

use crate::Error;
use crate::resource::descriptors::{Description, Descriptor, Opened};
use crate::resource::memory::{Backing, Bounds, MemoryState};
use crate::resource::timers::PosixTimerState;
use crate::resource::{Layout, ProcessState};

/// An opened image, or the front of one that comes through a stream.
pub struct ImageIndex {
    /// Its path, for messages.
    pub path: PathBuf,
    /// The file itself; of a stream, what was put aside of it.
    pub file: File,
    /// Its layout.
    pub layout: Layout,
    /// Its state.
    pub state: ProcessState,
    /// The pieces of carried files, by file: offset and where.
    pub pieces: Pieces,
}

/// Pages that are stored together.
pub struct PageRun {
    /// Which pages.
    pub ranges: Vec<PageRange>,
    /// Where their bytes are.
    pub stored: Stored,
}

/// Layout and state, as they are met.
#[derive(Default)]
pub struct Front {
    layout: Option<Layout>,
    state: Option<ProcessState>,
}

impl Front {
    /// Takes the data of a record that is one of them.
    ///
    /// # Errors
    /// [`ImageError::Unknown`] for state of another name, and those of reading.
    pub fn take<R: Read>(&mut self, reader: &mut ImageReader<R>, record: &Record) -> Result<(), ImageError> {
        match &record.content {
            Content::Layout => self.layout = Some(reader.read_json()?),
            Content::State { name } if name == "process" => self.state = Some(reader.read_json()?),
            Content::State { name } => {
                let what = format!("state named {name:?}");
                return Err(ImageError::Unknown { position: record.data.record_position, what });
            }
            Content::Pages { .. } | Content::FileData { .. } => {}
        }
        Ok(())
    }

    /// Whether both have been met.
    pub fn is_complete(&self) -> bool {
        self.layout.is_some() && self.state.is_some()
    }

    /// What an image with this front holds, if that makes sense.
    ///
    /// # Errors
    /// [`Error::Image`].
    pub fn index(self, path: &Path, file: File, pieces: Pieces) -> Result<ImageIndex, Error> {
        let damaged = |what: String| damaged(path, 0, what);
        let layout = self.layout.ok_or_else(|| damaged("it has no layout".to_owned()))?;
        let state = self.state.ok_or_else(|| damaged("it has no state".to_owned()))?;
        let index = ImageIndex { path: path.to_path_buf(), file, layout, state, pieces };
        index.check().map_err(damaged)?;
        Ok(index)
    }
}

/// The pieces of carried files, by file: offset and where.
pub type Pieces = BTreeMap<u64, Vec<(u64, Stored)>>;

/// Something in an image that cannot be.
pub fn damaged(path: &Path, position: u64, what: impl Into<String>) -> Error {
    Error::Image { path: path.to_path_buf(), source: ImageError::Damaged { position, what: what.into() } }
}

/// Refuses an image of another architecture.
///
/// # Errors
/// [`Error::Foreign`].
pub fn check_architecture<R: Read>(path: &Path, reader: &ImageReader<R>) -> Result<(), Error> {
    let architecture = reader.header().architecture;
    if architecture == arch::ELF_MACHINE {
        return Ok(());
    }
    Err(Error::Foreign {
        path: path.to_path_buf(),
        what: format!("it was made on another architecture (ELF machine {architecture})"),
        advice: "restore it on such a machine".to_owned(),
    })
}

impl ImageIndex {
    /// Opens an image and reads all but its data, of which only the place is noted. Gives its page runs as well.
    ///
    /// # Errors
    /// [`Error::Image`], [`Error::Foreign`] for another architecture.
    pub fn open(path: &Path) -> Result<(Self, Vec<PageRun>), Error> {
        let failed = |source| Error::Image { path: path.to_path_buf(), source };
        let file = File::open(path).map_err(Error::file("read", path))?;
        if file.metadata().is_ok_and(|stat| stat.is_dir()) {
            return Err(Error::file("read", path)(std::io::ErrorKind::IsADirectory.into()));
        }
        let mut reader = ImageReader::new(BufReader::new(&file)).map_err(failed)?;
        check_architecture(path, &reader)?;
        let mut front = Front::default();
        let (mut runs, mut pieces) = (Vec::new(), Pieces::new());
        while let Some(record) = reader.next_record().map_err(failed)? {
            front.take(&mut reader, &record).map_err(failed)?;
            match record.content {
                Content::Layout | Content::State { .. } => continue,
                Content::Pages { ranges, .. } => runs.push(PageRun { ranges, stored: record.data }),
                Content::FileData { file, offset } => pieces.entry(file).or_default().push((offset, record.data)),
            }
            reader.skip_data().map_err(failed)?;
        }
        drop(reader);
        Ok((front.index(path, file, pieces)?, runs))
    }

    /// Whether what the JSON says makes sense together: it may have been written by anyone.
    fn check(&self) -> Result<(), String> {
        let [process] = self.layout.processes.as_slice() else {
            return Err(format!("it holds {} processes and not one", self.layout.processes.len()));
        };
        let files = self.layout.files.len() as u64;
        if self.layout.files.iter().zip(0..).any(|(file, id)| file.id != id) {
            return Err("its files are not numbered in order".to_owned());
        }
        if process.memory.executable >= files {
            return Err("its executable is not in its table of files".to_owned());
        }
        let mut end = 0;
        for region in &process.memory.regions {
            let is_whole = [region.start, region.end].iter().all(|addr| addr % ckpt_trace::PAGE == 0);
            if !is_whole || region.start < end || region.end <= region.start || region.end > arch::USER_END {
                return Err(format!("the region at {:#x} cannot be", region.start));
            }
            end = region.end;
            match &region.backing {
                Backing::File { file, .. } if *file >= files => {
                    return Err(format!("the region at {:#x} shows a file that is not in the table", region.start));
                }
                Backing::Shared { offset, .. }
                    if offset % ckpt_trace::PAGE != 0
                        || offset.checked_add(region.size()).is_none_or(|end| end > arch::USER_END) =>
                {
                    return Err(format!("the region at {:#x} cannot be", region.start));
                }
                _ => {}
            }
        }
        Self::check_memory(&process.memory)?;
        let state = &self.state;
        if state.threads.is_empty() || state.threads[0].tid != process.pid {
            return Err("its first thread is not the process".to_owned());
        }
        if state.threads.iter().any(|thread| thread.registers.len() != arch::REGISTER_WORDS) {
            return Err("a thread has not all registers".to_owned());
        }
        let descriptions = state.descriptors.descriptions.len();
        let is_wrong = |d: &Descriptor| d.description >= descriptions || !(0..1 << 20).contains(&d.fd);
        if state.descriptors.descriptors.iter().any(is_wrong) {
            return Err("a descriptor has no open file".to_owned());
        }
        let is_missing = |d: &Description| matches!(d.opened, Opened::File(file) if file >= files);
        if state.descriptors.descriptions.iter().any(is_missing) {
            return Err("an open file is not in the table".to_owned());
        }
        let ids = state.timers.posix.iter().map(|timer| timer.id);
        if ids.clone().any(|id| id < 0) || !ids.is_sorted_by(|one, next| one < next) {
            return Err("its timers are not in the order of their ids".to_owned());
        }
        let is_of_no_thread = |timer: &&PosixTimerState| {
            timer.thread.is_some_and(|tid| state.threads.iter().all(|thread| thread.tid != tid))
        };
        if let Some(timer) = state.timers.posix.iter().find(is_of_no_thread) {
            return Err(format!("its timer {} tells a thread that is not in it", timer.id));
        }
        Ok(())
    }

    /// Whether what is told of memory beside its regions lies within it.
    fn check_memory(memory: &MemoryState) -> Result<(), String> {
        const VDSO_MOST: u64 = 1 << 20;
        let is_within =
            |&(start, end): &(u64, u64)| start < end && memory.region_at(start).is_some_and(|region| end <= region.end);
        if !memory.guards.iter().all(is_within) {
            return Err("a guard is not in a region".to_owned());
        }
        let Bounds { start_brk, brk, .. } = memory.bounds;
        if start_brk > brk || brk > arch::USER_END {
            return Err("its heap cannot be".to_owned());
        }
        let mut vdsos = memory.regions.iter().filter(|region| region.is_vdso());
        if vdsos.next().is_some_and(|region| region.size() > VDSO_MOST) || vdsos.next().is_some() {
            return Err("its vDSO cannot be".to_owned());
        }
        Ok(())
    }

    /// Reads, checks and decodes stored data; `buffer` and `out` keep their memory between calls.
    ///
    /// # Errors
    /// [`Error::Image`] when it is damaged.
    pub fn read(&self, stored: &Stored, buffer: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), Error> {
        self.read_verified(stored, buffer)?;
        stored.decode(buffer, out).map_err(|source| Error::Image { path: self.path.clone(), source })
    }

    /// Reads and checks stored data.
    ///
    /// # Errors
    /// [`Error::Image`] when it is damaged.
    pub fn read_verified(&self, stored: &Stored, buffer: &mut Vec<u8>) -> Result<(), Error> {
        buffer.resize(usize::try_from(stored.stored_len).unwrap_or_default(), 0);
        self.file.read_exact_at(buffer, stored.position).map_err(Error::file("read", &self.path))?;
        stored.verify(buffer).map_err(|source| Error::Image { path: self.path.clone(), source })
    }
}

#[cfg(test)]
pub(super) mod tests;
