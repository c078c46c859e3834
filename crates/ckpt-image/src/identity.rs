//! What names a whole image.

use std::fmt;

use serde::{Serialize, Serializer};

/// Names an image by all that it holds: blake3 over its header and the checksums of its records.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageId(pub [u8; 32]);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageId({self})")
    }
}

impl Serialize for ImageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A complete image in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Its name.
    pub id: ImageId,
    /// Its length in bytes, header and end record included.
    pub bytes: u64,
    /// How many records it has, the end record not counted.
    pub records: u64,
}

/// Gathers what the end record says of all that came before it.
pub(crate) struct Tally {
    hasher: blake3::Hasher,
    pub(crate) records: u64,
}

impl Tally {
    pub(crate) fn new(header: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(header);
        Self { hasher, records: 0 }
    }

    /// Counts a record by its seal, which covers the checksum of its data too.
    pub(crate) fn add(&mut self, seal: u64) {
        self.hasher.update(&seal.to_le_bytes());
        self.records += 1;
    }

    pub(crate) fn id(&self) -> ImageId {
        ImageId(*self.hasher.finalize().as_bytes())
    }
}
