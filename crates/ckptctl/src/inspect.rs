//! `inspect`: what is in an image, for people and as JSON.

mod report;

use std::path::Path;

use ckpt_core::resource::memory::{Backing, Region};
use ckpt_core::resource::{Layout, ProcessState};
use ckpt_image::ImageId;
use serde::Serialize;

use crate::cli::InspectArgs;
use crate::image::{self, Amount, Descriptions};
use crate::output;

/// Shows what is in an image.
pub fn inspect(args: &InspectArgs) -> anyhow::Result<i32> {
    let descriptions = image::describe(&args.file, |_| ())?;
    if args.json {
        output::print_json(&Everything::of(&args.file, &descriptions))?;
    } else {
        output::print(&report::report(&args.file, &descriptions))?;
    }
    Ok(0)
}

/// The JSON object.
#[derive(Serialize)]
struct Everything<'a> {
    #[serde(serialize_with = "ckpt_core::resource::bytes::path::serialize")]
    file: &'a Path,
    id: ImageId,
    format: String,
    architecture: u16,
    page_size: u32,
    bytes: u64,
    records: u64,
    pages: Amount,
    file_contents: Amount,
    regions: Vec<RegionSize>,
    layout: &'a Layout,
    state: &'a [ProcessState],
}

/// A region in short.
#[derive(Serialize)]
struct RegionSize {
    process: usize,
    start: String,
    end: String,
    bytes: u64,
    /// How much of it the image holds, before compression.
    stored_bytes: u64,
    protection: String,
    kind: &'static str,
    /// As `/proc/PID/maps` would name it.
    name: String,
}

impl<'a> Everything<'a> {
    fn of(file: &'a Path, descriptions: &'a Descriptions) -> Self {
        let Descriptions { header, layout, states, held, pages, files, summary, .. } = descriptions;
        let mut regions = Vec::new();
        for (process, held) in held.iter().enumerate() {
            let described = &layout.processes[process].memory.regions;
            regions.extend(described.iter().zip(held).map(|(region, held)| RegionSize {
                process,
                start: format!("{:#x}", region.start),
                end: format!("{:#x}", region.end),
                bytes: region.size(),
                stored_bytes: *held,
                protection: protection(region),
                kind: kind(layout, process, region),
                name: name(layout, process, region),
            }));
        }
        Self {
            file,
            id: summary.id,
            format: format!("{}.{}", header.major, header.minor),
            architecture: header.architecture,
            page_size: header.page_size,
            bytes: summary.bytes,
            records: summary.records,
            pages: *pages,
            file_contents: *files,
            regions,
            layout,
            state: states,
        }
    }
}

/// `rwx` and, after it, `s` for shared and `p` for private, as `/proc/PID/maps` shows it.
fn protection(region: &Region) -> String {
    let shared = matches!(region.backing, Backing::Shared { .. } | Backing::File { shared: true, .. });
    let bit = |bit: u32, letter| if region.protection & bit != 0 { letter } else { '-' };
    [bit(1, 'r'), bit(2, 'w'), bit(4, 'x'), if shared { 's' } else { 'p' }].iter().collect()
}

/// What kind of memory a region is.
fn kind(layout: &Layout, process: usize, region: &Region) -> &'static str {
    let memory = &layout.processes[process].memory;
    let bounds = &memory.bounds;
    match &region.backing {
        Backing::Anonymous(_) if region.start < bounds.brk && bounds.start_brk < region.end => "heap",
        Backing::Anonymous(_) if (region.start..region.end).contains(&bounds.start_stack) => "stack",
        Backing::Anonymous(_) => "anonymous",
        Backing::Shared { .. } => "shared",
        Backing::File { file, .. } if *file == memory.executable => "executable",
        Backing::File { .. } => "file",
        Backing::Kernel(_) => "kernel",
    }
}

/// The name of a region: that of its file, of the kernel, or the one that the program gave it.
fn name(layout: &Layout, process: usize, region: &Region) -> String {
    match &region.backing {
        Backing::Anonymous(Some(name)) => name.text(),
        Backing::Anonymous(None) => match kind(layout, process, region) {
            "heap" => "[heap]".to_owned(),
            "stack" => "[stack]".to_owned(),
            _ => String::new(),
        },
        Backing::Shared { object, .. } => format!("object {object}"),
        Backing::File { file, .. } => match layout.files.iter().find(|known| known.id == *file) {
            Some(known) => known.path.to_string_lossy().into_owned(),
            None => format!("file {file}"),
        },
        Backing::Kernel(name) => name.clone(),
    }
}
