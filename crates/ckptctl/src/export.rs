//! `export`: an image as an ELF core file, which debuggers open.
//!
//! The core is sparse: memory that the image does not hold takes no space.

mod contents;
mod elf;
mod notes;
mod plan;

use std::path::Path;

use anyhow::Context;
use ckpt_core::Error;
use ckpt_image::{HOST_ARCHITECTURE, PageRange};

use crate::cli::ExportArgs;
use crate::image::{self, Descriptions};
use crate::{cancel, output, text};

/// Writes the core file.
pub fn export(args: &ExportArgs) -> anyhow::Result<i32> {
    cancel::watch()?;
    let mut ranges = Vec::new();
    let image = image::describe(&args.file, |range| ranges.push(*range))?;
    if image.header.architecture != HOST_ARCHITECTURE {
        return Err(Error::Foreign {
            path: args.file.clone(),
            what: format!("the image is of another architecture (ELF machine {})", image.header.architecture),
            advice: "export it with the ckptctl of a machine of that kind".to_owned(),
        }
        .into());
    }
    let size = write(&args.file, &args.core, &image, ranges)?;
    let program = image.layout.files.iter().find(|file| file.id == image.layout.processes[0].memory.executable);
    let program = program.map_or_else(|| "PROGRAM".to_owned(), |file| text::quoted(&text::path(&file.path)));
    let core = text::path(&args.core);
    output::print(&format!(
        "wrote {core} ({})\nopen it with: gdb {program} {}\n",
        text::size(size),
        text::quoted(&core)
    ))?;
    Ok(0)
}

/// Writes the core under its name only when it is complete, for its owner alone. Gives its size.
fn write(from: &Path, core: &Path, image: &Descriptions, ranges: Vec<PageRange>) -> anyhow::Result<u64> {
    let cannot =
        || format!("cannot write {}; see that its directory is there, writable and has room", text::path(core));
    let process = &image.layout.processes[0];
    let regions = &process.memory.regions;
    let sources = contents::Sources::find(&image.layout, &image.carried);
    let notes = notes::notes(&image.layout, &image.states[0]);
    let segments = plan::segments(regions, &plan::shown(regions, ranges), |file| sources.has(file));
    let (head, segments) = elf::head(image.header.architecture, &notes, segments);

    // A symbolic link is followed; what is no file is not replaced by one, nor the image by its own core.
    let core = &std::fs::canonicalize(core).unwrap_or_else(|_| core.to_path_buf());
    let is_other = std::fs::metadata(core).is_ok_and(|stat| !stat.is_file());
    anyhow::ensure!(!is_other, "{} is not a regular file; name another for the core", text::path(core));
    let is_image = std::fs::canonicalize(from).is_ok_and(|image| image == *core);
    anyhow::ensure!(!is_image, "{} is the image itself; name another file for the core", text::path(core));
    let directory = core.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new().prefix(".ckptctl-core-").tempfile_in(directory).with_context(cannot)?;
    let size = segments.iter().map(|segment| segment.offset + segment.file_size).max().unwrap_or_default();
    file.as_file().set_len(size.max(head.len() as u64)).with_context(cannot)?;
    let writer = contents::CoreWriter { core: file.as_file(), path: core, regions, segments: &segments };
    writer.put_head(&head)?;
    writer.put_files(&sources)?;
    writer.put_image(from)?;
    file.as_file().sync_all().with_context(cannot)?;
    file.persist(core).with_context(cannot)?;
    Ok(size)
}
