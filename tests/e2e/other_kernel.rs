//! Images from another kernel, whose vDSO is not this one's: what libc has taken from it still works.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use ckpt_image::PageRange;
use ckpt_tests::{Case, Ending, Roundtrip, Suite, Whos};
use object::elf::{FileHeader64, SHT_DYNSYM, STT_FUNC};
use object::read::elf::{FileHeader, Sym};
use serde_json::Value;

use crate::departure::drive;
use crate::image_edit::Edit;

pub fn add(suite: &mut Suite) {
    suite.add("other_kernel::vdso_of_the_same_size", Whos::Both, |case| restored(case, true));
    suite.add("other_kernel::vdso_with_fewer_data_pages", Whos::Both, |case| restored(case, false));
}

/// Takes an image, makes its vDSO another kernel's, and restores it; then again from an image of that.
fn restored(case: &Case, same_layout: bool) -> Result<()> {
    let program = Roundtrip::of("clocks").start(case)?;
    let (image, foreign) = (case.path("image"), case.write("foreign", "")?);
    case.checkpoint(program.pid(), &image, &["--stop"])?;
    make_foreign(&image, &foreign, same_layout)?;
    let mut images = vec![foreign];
    for generation in ["second", "third"] {
        let restored = case.restore(&images[images.len() - 1], &[])?;
        let image = case.path(generation);
        case.checkpoint(case.restored_pid(&restored)?, &image, &["--stop"])?;
        images.push(image);
    }
    case.go()?;
    for image in images {
        let mut restored = case.restore(&image, &[])?;
        let ending = restored.wait()?;
        let is_right = ending == Ending::Exited(0) && restored.stdout() == "as expected\n";
        ensure!(is_right, "{}: {ending:?}, {}", image.display(), restored.streams());
        let mut arrived = case.start(&mut drive(case, &["arrive", &image.display().to_string()])?)?;
        let ending = arrived.wait()?;
        let is_right = ending == Ending::Exited(0) && arrived.stdout() == "as expected\n";
        ensure!(is_right, "{}, by a stream: {ending:?}, {}", image.display(), arrived.streams());
    }
    Ok(())
}

/// The vDSO in the copy has another build id, and each of its functions begins with a trap: whoever calls one that was
/// not redirected dies.
fn make_foreign(image: &Path, foreign: &PathBuf, same_layout: bool) -> Result<()> {
    let edited = std::cell::Cell::new(None);
    let layout = |layout: &mut Value| {
        let Some(regions) = layout["processes"][0]["memory"]["regions"].as_array_mut() else { return };
        if !same_layout {
            // As Linux before 6.12, which had one region of data less.
            regions.retain(|region| region["backing"]["kernel"] != "[vvar_vclock]");
        }
        let vdso = regions.iter().find(|region| region["backing"]["kernel"] == "[vdso]");
        edited.set(vdso.and_then(|vdso| Some((vdso["start"].as_u64()?, vdso["end"].as_u64()?))));
    };
    let changed = std::cell::Cell::new(0);
    let pages = |ranges: &[PageRange], data: &mut [u8]| {
        let Some((start, end)) = edited.get() else { return };
        let mut at = 0;
        for range in ranges {
            let length = usize::try_from(range.len).unwrap_or(usize::MAX);
            if range.addr == start && range.addr + range.len == end {
                changed.set(spoil(&mut data[at..at + length]).unwrap_or_default());
            }
            at += length;
        }
    };
    Edit { layout: &layout, pages: &pages, ..Edit::default() }.copy(image, foreign)?;
    if changed.get() < 4 {
        bail!("the vDSO {:x?} was not found whole in the image, or has few functions", edited.get());
    }
    Ok(())
}

/// Gives the number of functions that now trap.
fn spoil(vdso: &mut [u8]) -> Result<usize> {
    const TRAP: u8 = 0xcc;
    let elf = FileHeader64::<object::Endianness>::parse(&*vdso)?;
    let endian = elf.endian()?;
    let symbols = elf.sections(endian, &*vdso)?.symbols(endian, &*vdso, SHT_DYNSYM)?;
    let functions = symbols.iter().filter(|symbol| symbol.st_type() == STT_FUNC && symbol.st_value(endian) != 0);
    let offsets: Vec<usize> = functions.filter_map(|symbol| symbol.st_value(endian).try_into().ok()).collect();
    for offset in &offsets {
        *vdso.get_mut(*offset).context("a function outside")? = TRAP;
    }
    // The note of the build id is named GNU; its 20 bytes follow.
    let note = vdso.windows(8).position(|bytes| bytes == b"\x03\0\0\0GNU\0").context("no build id")?;
    vdso[note + 8] ^= 0xff;
    Ok(offsets.len())
}
