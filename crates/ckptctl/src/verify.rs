//! `verify`: read everything that an image holds, and check it.

use std::fs::File;
use std::path::Path;

use ckpt_core::resource::{Layout, ProcessState};
use ckpt_core::{Class, Error};
use ckpt_image::{Content, ImageError, ImageReader, Record, Summary};
use serde::Serialize;
use serde_json::{Map, json};

use crate::cli::VerifyArgs;
use crate::failure::Failure;
use crate::image::{self, STATE_NAME};
use crate::{output, text};

/// A record that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Damage {
    /// Where it begins in the image.
    position: u64,
    /// What kind of record it is.
    record: String,
    /// What is wrong with it.
    what: String,
}

/// Checks an image and says what it found.
pub fn verify(args: &VerifyArgs) -> anyhow::Result<i32> {
    let (summary, damages) = read(&args.file, image::open(&args.file)?)?;
    if damages.is_empty() {
        let Summary { id, bytes, records } = summary;
        if args.json {
            output::print_json(&json!({ "intact": true, "id": id, "bytes": bytes, "records": records }))?;
        } else {
            let (size, records) = (text::size(bytes), text::count(records, "record", "records"));
            output::print(&format!("{}: intact, {records}, {size}\nid {id}\n", text::path(&args.file)))?;
        }
        return Ok(0);
    }
    if !args.json {
        let lines = damages
            .iter()
            .map(|Damage { position, record, what }| format!("byte {position}: {record}: {}\n", text::plain(what)));
        output::print(&lines.collect::<String>())?;
    }
    let message = format!(
        "{}: the image is damaged in {} of its {}; take another copy or checkpoint again",
        text::path(&args.file),
        damages.len(),
        text::count(summary.records, "record", "records"),
    );
    let details = Map::from_iter([("intact".to_owned(), false.into()), ("damages".to_owned(), json!(damages))]);
    Err(Failure { class: Class::BadImage, message, details }.into())
}

/// Reads to the end. What is wrong within one record is noted, and reading goes on behind it.
fn read(path: &Path, mut reader: ImageReader<File>) -> Result<(Summary, Vec<Damage>), Error> {
    let fault = |source| Error::Image { path: path.to_path_buf(), source };
    let mut damages = Vec::new();
    let mut data = Vec::new();
    while let Some(record) = reader.next_record().map_err(fault)? {
        let read = match &record.content {
            Content::Layout => reader.read_json::<Layout>().map(drop),
            Content::State { name } if name == STATE_NAME => reader.read_json::<ProcessState>().map(drop),
            _ => reader.read_data(&mut data),
        };
        match read {
            Ok(()) => {}
            Err(ImageError::Damaged { position, what }) => {
                damages.push(Damage { position, record: describe(&record), what });
            }
            Err(ImageError::Json { position, source }) => {
                damages.push(Damage { position, record: describe(&record), what: format!("not understood: {source}") });
            }
            Err(error) => return Err(fault(error)),
        }
    }
    // The reader gave no more records, so it has met the end record and counted.
    let summary = reader.summary().ok_or_else(|| fault(ImageError::Truncated { position: 0 }))?;
    Ok((summary, damages))
}

fn describe(record: &Record) -> String {
    match &record.content {
        Content::Layout => "layout".to_owned(),
        Content::State { name } => format!("state {:?}", text::plain(name)),
        Content::Pages { ranges, .. } => match ranges.as_slice() {
            [first, .., last] => format!("pages {:#x} to {:#x}", first.addr, last.addr + last.len),
            [only] => format!("pages {:#x} to {:#x}", only.addr, only.addr + only.len),
            [] => "pages".to_owned(),
        },
        Content::FileData { file, offset } => format!("contents of file {file} at {offset}"),
    }
}
