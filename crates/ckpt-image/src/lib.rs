//! The image: the bytes of one checkpoint, a stream of records.
//!
//! An image begins with a plain [header](FileHeader), goes on with records that each carry a length and
//! checksums, and closes with an end record that names the whole. It is written once from front to back and
//! read the same way, so it may be a file, a pipe or a network channel. What every byte means is in
//! `docs/image-format.md`; what the JSON of layout and state records means is for the engine to say.
//!
//! Writing: each worker thread has an [`Encoder`], which turns page runs into [`Encoded`] records
//! without copying them; one [`ImageWriter`] appends what the workers hand it.
//!
//! Reading: [`ImageReader::next_record`] gives one [`Record`] after another without its data, which is then
//! read, skipped or got in another way (its [place](Stored) in the stream is known) and checked by any thread.
//!
//! Every reader here expects hostile input: lengths are bounded before they are believed, and nothing panics.

#![forbid(unsafe_code)]

mod codec;
mod error;
mod fields;
mod header;
mod identity;
mod reader;
mod record;
mod writer;

pub use codec::{Codec, checksum};
pub use error::ImageError;
pub use header::{FileHeader, HEADER_LEN, HOST_ARCHITECTURE, MAGIC, MAJOR, MINOR};
pub use identity::{ImageId, Summary};
pub use reader::ImageReader;
pub use record::{ALIGN, Content, MAX_JSON, MAX_NAME, MAX_RANGES, MAX_RUN, PAD_FROM, PageRange, Record, Stored};
pub use writer::{Encoded, Encoder, ImageWriter};
