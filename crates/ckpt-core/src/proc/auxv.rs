//! `/proc/PID/auxv`: what the kernel told the program at its start, getauxval(3).
//!
//! Written by `create_elf_tables` in `fs/binfmt_elf.c`, kept by the kernel and
//! replaced whole by `PR_SET_MM_AUXV` or `PR_SET_MM_MAP`.

use super::{Malformed, ProcError, read_as};

/// The auxiliary vector of a 64-bit process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Auxv(Vec<(u64, u64)>);

const AT_NULL: u64 = 0;

impl Auxv {
    /// Reads that of `pid`. A zombie has none: ESRCH on Linux 6.18, empty before.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn of(pid: i32) -> Result<Self, ProcError> {
        read_as(format!("/proc/{pid}/auxv"), Self::parse)
    }

    /// The bytes of `auxv`: pairs of 64-bit words of this machine up to `AT_NULL`.
    ///
    /// # Errors
    /// When a pair is cut.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut entries = Vec::new();
        let mut rest = bytes;
        while let Some((&kind, after)) = rest.split_first_chunk() {
            let kind = u64::from_ne_bytes(kind);
            if kind == AT_NULL {
                return Ok(Self(entries));
            }
            let Some((&value, after)) = after.split_first_chunk() else {
                break;
            };
            entries.push((kind, u64::from_ne_bytes(value)));
            rest = after;
        }
        if rest.is_empty() { Ok(Self(entries)) } else { Err(Malformed::new("a pair is cut", rest)) }
    }

    /// The value for a key such as `AT_SYSINFO_EHDR`.
    #[must_use]
    pub fn get(&self, key: u64) -> Option<u64> {
        let entry = self.0.iter().find(|&&(kind, _)| kind == key);
        entry.map(|&(_, value)| value)
    }

    /// All keys and values, without the closing `AT_NULL`.
    #[must_use]
    pub fn entries(&self) -> &[(u64, u64)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn ends_at_null() {
        let auxv = Auxv::parse(&bytes(&[33, 0x7fff_0000, 6, 4096, 0, 0, 9, 9])).unwrap();
        assert_eq!(auxv.entries(), [(33, 0x7fff_0000), (6, 4096)]);
        assert_eq!((auxv.get(6), auxv.get(9)), (Some(4096), None));
    }

    #[test]
    fn empty_and_cut() {
        assert_eq!(Auxv::parse(b"").unwrap().entries(), []);
        assert!(Auxv::parse(&bytes(&[33])).is_err());
        assert!(Auxv::parse(b"abc").is_err());
    }
}
