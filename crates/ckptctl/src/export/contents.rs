//! Fills a core's segments: from the files that are mapped, then from the image.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Context;
use ckpt_core::Error;
use ckpt_core::resource::Layout;
use ckpt_core::resource::files::{Change, FileKind, FileState};
use ckpt_core::resource::memory::{Backing, Region};
use ckpt_image::{Content, PageRange};

use super::plan::{Segment, aliases};
use crate::image;
use crate::{cancel, text};

/// Files are copied in pieces of this size, and pieces of zeros are left out.
const PIECE: usize = 64 * 1024;

/// Where the contents of mapped files are to be had.
pub struct Sources {
    /// Files that are on disk as they were.
    on_disk: BTreeMap<u64, File>,
    /// Files that the image carries.
    carried: Vec<u64>,
}

impl Sources {
    /// Looks for each file of the layout; `carried` are those that the image holds something of.
    pub fn find(layout: &Layout, carried: &BTreeMap<u64, u64>) -> Self {
        let mut sources = Self { on_disk: BTreeMap::new(), carried: Vec::new() };
        for file in &layout.files {
            if file.is_carried || carried.contains_key(&file.id) {
                sources.carried.push(file.id);
            } else if let Some(found) = unchanged(file) {
                sources.on_disk.insert(file.id, found);
            }
        }
        sources
    }

    /// Whether a file's contents are to be had.
    pub fn has(&self, file: u64) -> bool {
        self.on_disk.contains_key(&file) || self.carried.contains(&file)
    }
}

/// The file, if it is where it was and what it was at least to its old end.
fn unchanged(state: &FileState) -> Option<File> {
    // An image may claim anything of a path: what is not a regular file is not touched.
    let is_regular = std::fs::metadata(&state.path).is_ok_and(|stat| stat.is_file());
    if !is_regular || state.kind != FileKind::Linked || state.fingerprint.is_empty() {
        return None;
    }
    match state.compare(&state.path) {
        Ok(Change::Same | Change::Grown) => File::open(&state.path).ok(),
        _ => None,
    }
}

/// A core being written.
pub struct CoreWriter<'a> {
    /// The file.
    pub core: &'a File,
    /// The name that it will have, for messages.
    pub path: &'a Path,
    /// The regions of the process.
    pub regions: &'a [Region],
    /// The segments, ascending and with their places.
    pub segments: &'a [Segment],
}

impl CoreWriter<'_> {
    /// Writes what comes before the memory.
    pub fn put_head(&self, head: &[u8]) -> anyhow::Result<()> {
        self.write(head, 0)
    }

    /// Copies the mapped parts of files on disk.
    pub fn put_files(&self, sources: &Sources) -> anyhow::Result<()> {
        let mut buffer = vec![0; PIECE];
        for region in self.regions {
            let Backing::File { file, offset, .. } = region.backing else { continue };
            let Some(source) = sources.on_disk.get(&file) else { continue };
            let mut done = 0;
            while done < region.size() {
                cancel::check()?;
                let most = usize::try_from(region.size() - done).unwrap_or(PIECE).min(PIECE);
                // A mapping may reach beyond the end of its file; a file that cannot be read is as one that is gone.
                let Some(at) = offset.checked_add(done) else { break };
                let Ok(got @ 1..) = source.read_at(&mut buffer[..most], at) else { break };
                self.put(region.start + done, &buffer[..got])?;
                done += got as u64;
            }
        }
        Ok(())
    }

    /// Copies carried files and then pages out of the image: a page that the program has changed replaces the file's.
    pub fn put_image(&self, image: &Path) -> anyhow::Result<()> {
        let is_file = |content: &Content| matches!(content, Content::FileData { .. });
        each_record(image, is_file, |content, data| match content {
            Content::FileData { file, offset } => self.put_file_data(*file, *offset, data),
            _ => Ok(()),
        })?;
        let is_memory = |content: &Content| matches!(content, Content::Pages { process: 0, .. });
        each_record(image, is_memory, |content, mut data| {
            let Content::Pages { ranges, .. } = content else { return Ok(()) };
            for range in ranges {
                let length = usize::try_from(range.len).unwrap_or(usize::MAX).min(data.len());
                let (part, rest) = data.split_at(length);
                data = rest;
                self.put_pages(*range, part)?;
            }
            Ok(())
        })
    }

    fn put_file_data(&self, file: u64, offset: u64, data: &[u8]) -> anyhow::Result<()> {
        let end = offset + data.len() as u64;
        for region in self.regions {
            let Backing::File { file: mapped, offset: mapped_at, .. } = region.backing else { continue };
            let first = offset.max(mapped_at);
            let last = end.min(mapped_at.saturating_add(region.size()));
            if mapped == file && first < last {
                self.put(region.start + (first - mapped_at), part(data, first - offset, last - offset))?;
            }
        }
        Ok(())
    }

    fn put_pages(&self, range: PageRange, data: &[u8]) -> anyhow::Result<()> {
        self.write_memory(range.addr, data)?;
        for alias in aliases(self.regions, range) {
            self.write_memory(alias.at.addr, part(data, alias.from, alias.from + alias.at.len))?;
        }
        Ok(())
    }

    /// Writes a file's bytes where they are mapped; zeros are there already.
    fn put(&self, addr: u64, data: &[u8]) -> anyhow::Result<()> {
        if data.iter().all(|byte| *byte == 0) { Ok(()) } else { self.write_memory(addr, data) }
    }

    fn write_memory(&self, addr: u64, data: &[u8]) -> anyhow::Result<()> {
        let end = addr + data.len() as u64;
        let first = self.segments.partition_point(|segment| segment.end <= addr);
        for segment in self.segments[first..].iter().take_while(|segment| segment.start < end) {
            let (from, to) = (addr.max(segment.start), end.min(segment.end));
            if segment.file_size != 0 {
                self.write(part(data, from - addr, to - addr), segment.offset + (from - segment.start))?;
            }
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8], offset: u64) -> anyhow::Result<()> {
        let cannot = || format!("cannot write {}; see that its directory has room", text::path(self.path));
        self.core.write_all_at(bytes, offset).with_context(cannot)
    }
}

/// Hands the data of the records that are wanted to `take`, one after another.
fn each_record(
    image: &Path,
    is_wanted: impl Fn(&Content) -> bool,
    take: impl Fn(&Content, &[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let fault = |source| Error::Image { path: image.to_path_buf(), source };
    let mut reader = image::open(image)?;
    let mut data = Vec::new();
    while let Some(record) = reader.next_record().map_err(fault)? {
        cancel::check()?;
        if is_wanted(&record.content) {
            reader.read_data(&mut data).map_err(fault)?;
            take(&record.content, &data)?;
        } else {
            reader.skip_data().map_err(fault)?;
        }
    }
    Ok(())
}

/// A part of some bytes, as far as they reach.
fn part(data: &[u8], from: u64, to: u64) -> &[u8] {
    let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(data.len());
    &data[index(from)..index(to)]
}
