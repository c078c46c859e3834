//! Compression and checksums of a record's data.

use std::fmt;
use std::io;
use std::str::FromStr;

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;
use zstd::bulk;

/// Fast enough not to hold up a checkpoint; higher levels gain little on memory pages.
const ZSTD_LEVEL: i32 = 1;

/// How the data of page runs and carried files is stored. Each record says its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// As it is: no time spent, and restore can read it straight into place.
    #[default]
    None,
    /// LZ4 block format: fast.
    Lz4,
    /// A zstd frame: small.
    Zstd,
}

impl Codec {
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        [Self::None, Self::Lz4, Self::Zstd].into_iter().find(|codec| codec.to_byte() == byte)
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

impl FromStr for Codec {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "none" => Ok(Self::None),
            "lz4" => Ok(Self::Lz4),
            "zstd" => Ok(Self::Zstd),
            _ => Err(format!("there is no codec {name:?}; use none, lz4 or zstd")),
        }
    }
}

/// The checksum of all that an image holds: XXH3, 64 bits, seed 0.
///
/// It finds accidents, not attacks.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// One thread's means of compressing, kept from one call to the next.
pub(crate) struct Compressor {
    method: Method,
    packed: Vec<u8>,
}

enum Method {
    None,
    Lz4(Box<CompressTable>),
    Zstd(bulk::Compressor<'static>),
}

impl Compressor {
    pub(crate) fn new(codec: Codec) -> io::Result<Self> {
        let method = match codec {
            Codec::None => Method::None,
            Codec::Lz4 => Method::Lz4(Box::new(CompressTable::large())),
            Codec::Zstd => Method::Zstd(bulk::Compressor::new(ZSTD_LEVEL)?),
        };
        Ok(Self { method, packed: Vec::new() })
    }

    /// What to store for `data`, and how it is coded: `data` itself where compression does not make it smaller.
    pub(crate) fn compress<'a>(&'a mut self, data: &'a [u8]) -> (Codec, &'a [u8]) {
        let (codec, length) = match &mut self.method {
            Method::None => return (Codec::None, data),
            Method::Lz4(table) => {
                // lz4_flex asks for room for the worst case.
                self.packed.resize(get_maximum_output_size(data.len()), 0);
                (Codec::Lz4, compress_into_with_table(data, &mut self.packed, table).ok())
            }
            Method::Zstd(context) => {
                // With less room than the data takes, zstd itself gives up early on what does not shrink.
                self.packed.resize(data.len().saturating_sub(1), 0);
                (Codec::Zstd, context.compress_to_buffer(data, &mut self.packed[..]).ok())
            }
        };
        match length {
            Some(length) if length < data.len() => (codec, &self.packed[..length]),
            _ => (Codec::None, data),
        }
    }
}

/// Fills `out` with what `stored` holds, or says why it cannot: it must come to exactly `raw_len` bytes.
pub(crate) fn decompress(codec: Codec, stored: &[u8], raw_len: u64, out: &mut Vec<u8>) -> Result<(), String> {
    let failed = |error: &dyn fmt::Display| format!("its {codec} data cannot be decompressed: {error}");
    let room = usize::try_from(raw_len).map_err(|error| failed(&error))?;
    let length = match codec {
        Codec::None => {
            out.clear();
            out.extend_from_slice(stored);
            stored.len()
        }
        Codec::Lz4 => {
            out.resize(room, 0);
            decompress_into(stored, out).map_err(|error| failed(&error))?
        }
        Codec::Zstd => {
            out.resize(room, 0);
            bulk::decompress_to_buffer(stored, &mut out[..]).map_err(|error| failed(&error))?
        }
    };
    if length != room {
        return Err(format!("its {codec} data is of {length} bytes and not of {raw_len}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test may panic

    use super::*;

    const ALL: [Codec; 3] = [Codec::None, Codec::Lz4, Codec::Zstd];

    #[test]
    fn names_go_both_ways() {
        for codec in ALL {
            assert_eq!(codec.to_string().parse::<Codec>().unwrap(), codec);
            assert_eq!(serde_json::to_string(&codec).unwrap(), format!("\"{codec}\""));
        }
        assert!("gzip".parse::<Codec>().unwrap_err().contains("gzip"));
    }

    #[test]
    fn data_goes_both_ways_and_only_shrinks() {
        let noise: Vec<u8> = (0..8192u64).map(|i| checksum(&i.to_le_bytes()).to_le_bytes()[0]).collect();
        for codec in ALL {
            let mut compressor = Compressor::new(codec).unwrap();
            for data in [&b""[..], b"x", &[7; 5000], &noise] {
                let (used, stored) = compressor.compress(data);
                assert!(stored.len() <= data.len());
                assert!(used == Codec::None || used == codec);
                let mut out = Vec::new();
                decompress(used, stored, data.len() as u64, &mut out).unwrap();
                assert_eq!(out, data);
            }
        }
    }

    #[test]
    fn another_length_than_announced_is_an_error() {
        for codec in ALL {
            let mut compressor = Compressor::new(codec).unwrap();
            let (used, stored) = compressor.compress(&[7; 5000]);
            for length in [0, 4999, 5001] {
                assert!(decompress(used, stored, length, &mut Vec::new()).is_err());
            }
        }
    }
}
