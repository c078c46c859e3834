//! Reading an image's descriptions: all that it says but the contents of memory and files.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use ckpt_core::Error;
use ckpt_core::resource::memory::Region;
use ckpt_core::resource::{Layout, ProcessState};
use ckpt_image::{Content, FileHeader, ImageError, ImageReader, PageRange, Summary};
use serde::Serialize;

/// The name of the state record that holds a [`ProcessState`].
pub const STATE_NAME: &str = "process";

/// Opens an image and reads its header.
pub fn open(path: &Path) -> Result<ImageReader<File>, Error> {
    let file = File::open(path).map_err(|source| Error::File { what: "open", path: path.to_path_buf(), source })?;
    if file.metadata().is_ok_and(|stat| stat.is_dir()) {
        let source = std::io::ErrorKind::IsADirectory.into();
        return Err(Error::File { what: "read", path: path.to_path_buf(), source });
    }
    ImageReader::new(file).map_err(|source| Error::Image { path: path.to_path_buf(), source })
}

/// What an image says.
pub struct Descriptions {
    /// Its header.
    pub header: FileHeader,
    /// Machine, files, regions.
    pub layout: Layout,
    /// The processes' state, in the order of the layout.
    pub states: Vec<ProcessState>,
    /// How many bytes of memory it holds of each region, in the order of the layout's regions; one list per process.
    pub held: Vec<Vec<u64>>,
    /// How many bytes of contents it holds of each carried file.
    pub carried: BTreeMap<u64, u64>,
    /// Memory, as it was and as it is stored.
    pub pages: Amount,
    /// Contents of files, as they were and as they are stored.
    pub files: Amount,
    /// The image in short.
    pub summary: Summary,
}

/// Bytes before and after compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Amount {
    /// As they were.
    pub bytes: u64,
    /// As they are stored.
    pub stored_bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64, stored_bytes: u64) {
        self.bytes += bytes;
        self.stored_bytes += stored_bytes;
    }
}

/// Reads the descriptions of an image. Contents are skipped, and each range of pages is shown to `found`.
pub fn describe(path: &Path, mut found: impl FnMut(&PageRange)) -> Result<Descriptions, Error> {
    let fault = |source| Error::Image { path: path.to_path_buf(), source };
    let mut reader = open(path)?;
    let mut layout: Option<Layout> = None;
    let mut states = Vec::new();
    let mut held: Vec<Vec<u64>> = Vec::new();
    let mut carried = BTreeMap::new();
    let (mut pages, mut files) = (Amount::default(), Amount::default());
    while let Some(record) = reader.next_record().map_err(fault)? {
        let (position, raw, stored) = (record.data.record_position, record.data.raw_len, record.data.stored_len);
        match record.content {
            Content::Layout => {
                let read: Layout = reader.read_json().map_err(fault)?;
                check(&read).map_err(|what| fault(ImageError::Damaged { position, what }))?;
                held = read.processes.iter().map(|process| vec![0; process.memory.regions.len()]).collect();
                layout = Some(read);
            }
            Content::State { name } if name == STATE_NAME => states.push(reader.read_json().map_err(fault)?),
            Content::State { .. } => reader.skip_data().map_err(fault)?,
            Content::Pages { process, ranges } => {
                pages.add(raw, stored);
                let index = usize::try_from(process).unwrap_or(usize::MAX);
                let described = layout.as_ref().and_then(|layout| layout.processes.get(index));
                if let (Some(described), Some(held)) = (described, held.get_mut(index)) {
                    for range in &ranges {
                        tally(&described.memory.regions, range, held);
                    }
                }
                ranges.iter().for_each(&mut found);
                reader.skip_data().map_err(fault)?;
            }
            Content::FileData { file, .. } => {
                files.add(raw, stored);
                *carried.entry(file).or_default() += raw;
                reader.skip_data().map_err(fault)?;
            }
        }
    }
    let lacks = |what: &str| fault(ImageError::Damaged { position: 0, what: format!("it has no {what}") });
    let summary = reader.summary().ok_or_else(|| lacks("end record"))?;
    let layout = layout.ok_or_else(|| lacks("layout"))?;
    if states.len() != layout.processes.len() || states.is_empty() {
        return Err(lacks("state for each of its processes"));
    }
    Ok(Descriptions { header: *reader.header(), layout, states, held, carried, pages, files, summary })
}

/// Whether what follows may rely on the regions: ascending, apart from each other, none without an extent.
fn check(layout: &Layout) -> Result<(), String> {
    for process in &layout.processes {
        let mut free_from = 0;
        for Region { start, end, .. } in &process.memory.regions {
            if *start < free_from || start >= end {
                return Err(format!("the region {start:#x} to {end:#x} is out of order"));
            }
            free_from = *end;
        }
    }
    Ok(())
}

/// Adds a range's bytes to the regions that it lies in.
fn tally(regions: &[Region], range: &PageRange, held: &mut [u64]) {
    for index in overlapping(regions, range.addr, range.addr + range.len) {
        let region = &regions[index];
        held[index] += (range.addr + range.len).min(region.end) - range.addr.max(region.start);
    }
}

/// The indices of the regions that share addresses with `start..end`.
pub fn overlapping(regions: &[Region], start: u64, end: u64) -> std::ops::Range<usize> {
    let first = regions.partition_point(|region| region.end <= start);
    let last = regions.partition_point(|region| region.start < end);
    first..last.max(first)
}

#[cfg(test)]
pub mod tests {
    use ckpt_core::resource::memory::Backing;

    use super::*;

    pub fn region(start: u64, end: u64) -> Region {
        Region {
            start,
            end,
            protection: 3,
            backing: Backing::Anonymous(None),
            traits: Vec::new(),
            page_size: 4096,
            protection_key: 0,
        }
    }

    #[test]
    fn a_range_is_shared_out_to_the_regions_that_it_crosses() {
        let regions = [region(0x1000, 0x3000), region(0x3000, 0x4000), region(0x8000, 0x9000)];
        let mut held = vec![0; 3];
        tally(&regions, &PageRange { addr: 0x2000, len: 0x2000 }, &mut held);
        tally(&regions, &PageRange { addr: 0x8000, len: 0x1000 }, &mut held);
        tally(&regions, &PageRange { addr: 0x5000, len: 0x1000 }, &mut held);
        assert_eq!(held, [0x1000, 0x1000, 0x1000]);
        assert_eq!(overlapping(&regions, 0, 0x1000), 0..0);
        assert_eq!(overlapping(&regions, 0, u64::MAX), 0..3);
    }
}
