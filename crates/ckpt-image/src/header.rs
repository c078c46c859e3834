//! The plain header at the front of every image.

use crate::ImageError;
use crate::codec::checksum;
use crate::fields::Fields;

/// The first bytes of every image.
pub const MAGIC: [u8; 8] = *b"CKPTIMG\n";
/// Length of the header in bytes.
pub const HEADER_LEN: usize = 64;
/// Major version of the format that this library writes, and the only one that it reads.
pub const MAJOR: u16 = 1;
/// Minor version of the format that this library writes.
pub const MINOR: u16 = 0;

/// `e_machine` (elf.h) of the machine that this library was built for.
#[cfg(target_arch = "x86_64")]
pub const HOST_ARCHITECTURE: u16 = 62;
/// `e_machine` (elf.h) of the machine that this library was built for.
#[cfg(target_arch = "aarch64")]
pub const HOST_ARCHITECTURE: u16 = 183;

const CHECKED: usize = HEADER_LEN - 8;
const RESERVED: usize = 32;

/// What an image says of itself before its first record.
///
/// The shape of the header is the same in every version of the format, so that any version can tell
/// damage, age and another machine apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// Major version of the format.
    pub major: u16,
    /// Minor version of the format.
    pub minor: u16,
    /// The processor that the program ran on, as an `e_machine` of elf.h.
    pub architecture: u16,
    /// Page size of the machine in bytes: every page run is made of whole ones.
    pub page_size: u32,
    /// What a reader must know of to read the image. None is defined yet, and a set one is refused.
    pub flags: u32,
}

impl FileHeader {
    /// The header of an image that this library writes.
    #[must_use]
    pub fn new(architecture: u16, page_size: u32) -> Self {
        Self { major: MAJOR, minor: MINOR, architecture, page_size, flags: 0 }
    }

    /// The bytes of the header.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.major.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.minor.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.architecture.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.page_size.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.flags.to_le_bytes());
        let sum = checksum(&bytes[..CHECKED]);
        bytes[CHECKED..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads a header from the first bytes of something; fewer than [`HEADER_LEN`] mean that there were no more.
    ///
    /// # Errors
    /// Every way of not being the header of an image that this version can read has its own.
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        if bytes.is_empty() {
            return Err(ImageError::Empty);
        }
        let magic = bytes.len().min(MAGIC.len());
        if bytes[..magic] != MAGIC[..magic] {
            return Err(ImageError::NotAnImage);
        }
        let truncated = || ImageError::Truncated { position: bytes.len() as u64 };
        let bytes = bytes.first_chunk::<HEADER_LEN>().ok_or_else(truncated)?;
        let (header, sum) = Self::fields(bytes).ok_or_else(truncated)?;
        if sum != checksum(&bytes[..CHECKED]) {
            return Err(ImageError::damaged(0, "the checksum of its header is wrong"));
        }
        header.check()?;
        Ok(header)
    }

    fn fields(bytes: &[u8; HEADER_LEN]) -> Option<(Self, u64)> {
        let mut fields = Fields(&bytes[MAGIC.len()..]);
        let (major, minor, architecture) = (fields.u16()?, fields.u16()?, fields.u16()?);
        fields.u16()?;
        let (page_size, flags) = (fields.u32()?, fields.u32()?);
        fields.array::<RESERVED>()?;
        Some((Self { major, minor, architecture, page_size, flags }, fields.u64()?))
    }

    fn check(&self) -> Result<(), ImageError> {
        if self.major > MAJOR {
            return Err(ImageError::Newer { major: self.major, minor: self.minor });
        }
        if self.major < MAJOR {
            return Err(ImageError::damaged(8, format!("there is no format version {}", self.major)));
        }
        if self.flags != 0 {
            return Err(ImageError::Unknown { position: 20, what: format!("header flags {:#x}", self.flags) });
        }
        if !is_page_size(self.page_size) {
            return Err(ImageError::damaged(16, format!("no machine has pages of {} bytes", self.page_size)));
        }
        Ok(())
    }
}

/// Linux has pages of 4, 16 or 64 KiB on the machines that there are (arch/*/include/asm/page.h).
pub(crate) fn is_page_size(size: u32) -> bool {
    size.is_power_of_two() && (4096..=65536).contains(&size)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test may panic

    use super::*;

    /// A header with some field changed and a checksum that fits again.
    fn forged(change: impl FnOnce(&mut FileHeader)) -> Result<FileHeader, ImageError> {
        let mut header = FileHeader::new(62, 4096);
        change(&mut header);
        FileHeader::decode(&header.encode())
    }

    #[test]
    fn bytes_are_as_documented() {
        let bytes = FileHeader::new(62, 4096).encode();
        assert_eq!(&bytes[..24], b"CKPTIMG\n\x01\0\0\0\x3e\0\0\0\0\x10\0\0\0\0\0\0");
        assert_eq!(bytes[24..56], [0; 32]);
        assert_eq!(bytes[56..], xxhash_rust::xxh3::xxh3_64(&bytes[..56]).to_le_bytes());
        assert_eq!(FileHeader::decode(&bytes).unwrap(), FileHeader::new(62, 4096));
    }

    #[test]
    fn a_newer_minor_version_is_read_and_a_newer_major_one_is_named() {
        assert_eq!(forged(|h| h.minor = 7).unwrap().minor, 7);
        let error = forged(|h| (h.major, h.minor) = (2, 3)).unwrap_err();
        assert!(error.to_string().contains("format 2.3"), "{error}");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(matches!(forged(|h| h.major = 0), Err(ImageError::Damaged { .. })));
        assert!(matches!(forged(|h| h.page_size = 4097), Err(ImageError::Damaged { .. })));
        assert!(matches!(forged(|h| h.page_size = 0), Err(ImageError::Damaged { .. })));
        assert!(matches!(forged(|h| h.flags = 4), Err(ImageError::Unknown { .. })));
        assert!(matches!(FileHeader::decode(b""), Err(ImageError::Empty)));
        assert!(matches!(FileHeader::decode(b"\x7fELF"), Err(ImageError::NotAnImage)));
        assert!(matches!(FileHeader::decode(b"CKPT"), Err(ImageError::Truncated { position: 4 })));
    }
}
