//! What can be wrong with an image.

use std::io;

/// Why an image could not be written or read. Positions are in bytes from the start of the image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The first bytes are not those of an image.
    #[error("this is not a checkpoint image: it does not begin with CKPTIMG; give the file that a checkpoint wrote")]
    NotAnImage,
    /// There is not a single byte.
    #[error("the image is empty; take another copy or checkpoint again")]
    Empty,
    /// Written in a format whose meaning this version cannot know.
    #[error(
        "the image is of format {major}.{minor} and this program reads up to {}.x; use a newer ckptctl",
        crate::MAJOR
    )]
    Newer {
        /// Major format version of the image.
        major: u16,
        /// Minor format version of the image.
        minor: u16,
    },
    /// The bytes ended before the end record.
    #[error(
        "the image ends at byte {position}, before its end record: it is incomplete; take another copy or checkpoint again"
    )]
    Truncated {
        /// Where the bytes ended.
        position: u64,
    },
    /// Something in it cannot be as it was written.
    #[error("the image is damaged at byte {position}: {what}; take another copy or checkpoint again")]
    Damaged {
        /// Where the damaged part begins.
        position: u64,
        /// What is wrong there.
        what: String,
    },
    /// Something that only a newer version knows, and that it did not mark as ignorable.
    #[error("the image has {what} at byte {position}, which this version does not know; use a newer ckptctl")]
    Unknown {
        /// Where it stands.
        position: u64,
        /// What it is.
        what: String,
    },
    /// More than the format allows, so that it cannot be believed (reading) or said (writing).
    #[error("{what} at byte {position} of the image has {size} bytes, and at most {limit} are allowed; {}", advice(*.writing))]
    TooLarge {
        /// Where it stands or would stand.
        position: u64,
        /// What is too large.
        what: &'static str,
        /// How large it says it is.
        size: u64,
        /// How large it may be.
        limit: u64,
        /// Whether it was to be written.
        writing: bool,
    },
    /// A record that the format cannot express was to be written.
    #[error(
        "a record cannot be written: {what}; this is a fault in the program that writes the image, please report it"
    )]
    Unwritable {
        /// What does not fit the format.
        what: String,
    },
    /// Reading or writing failed in the system.
    #[error(
        "the image could not be {action} at byte {position}: {source}; see to the disk or connection and try again"
    )]
    Io {
        /// "read" or "written".
        action: &'static str,
        /// How far it had come.
        position: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A layout or state record whose JSON does not have the expected shape.
    #[error(
        "the description at byte {position} of the image is not understood: {source}; use the ckptctl that wrote it, or a newer one"
    )]
    Json {
        /// Where the record begins.
        position: u64,
        /// What the JSON parser said.
        source: serde_json::Error,
    },
}

impl ImageError {
    pub(crate) fn damaged(position: u64, what: impl Into<String>) -> Self {
        Self::Damaged { position, what: what.into() }
    }

    pub(crate) fn unwritable(what: impl Into<String>) -> Self {
        Self::Unwritable { what: what.into() }
    }

    pub(crate) fn read(position: u64, source: io::Error) -> Self {
        Self::Io { action: "read", position, source }
    }

    pub(crate) fn written(position: u64, source: io::Error) -> Self {
        Self::Io { action: "written", position, source }
    }
}

fn advice(writing: bool) -> &'static str {
    if writing {
        "this program is too large for one image, please report it"
    } else {
        "take another copy or checkpoint again"
    }
}
