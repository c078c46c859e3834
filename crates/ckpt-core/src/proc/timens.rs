//! `/proc/PID/timens_offsets`: how far a time namespace's clocks are from the
//! machine's. See `time_namespaces(7)`; printed by `kernel/time/namespace.c`.

use super::text::{lines, number, words};
use super::{Malformed, ProcError, read_as};

/// The offsets of the time namespace that the children of a process are born in
/// (`time_for_children`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimensOffsets {
    /// Added to `CLOCK_MONOTONIC`.
    pub monotonic: TimeOffset,
    /// Added to `CLOCK_BOOTTIME`.
    pub boottime: TimeOffset,
}

/// A difference of time: seconds of either sign, and nanoseconds to be added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeOffset {
    /// Whole seconds.
    pub secs: i64,
    /// Nanoseconds from 0 to 999,999,999.
    pub nanos: i64,
}

impl TimensOffsets {
    /// Reads those of `pid`. ENOENT means that the kernel has no time namespaces.
    /// Of a zombie, which has left its own, the file is empty and not understood.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn of(pid: i32) -> Result<Self, ProcError> {
        read_as(format!("/proc/{pid}/timens_offsets"), Self::parse)
    }

    /// The text of `timens_offsets`.
    ///
    /// # Errors
    /// When a line is not a clock that is known and two numbers, or a clock is missing.
    pub fn parse(text: &[u8]) -> Result<Self, Malformed> {
        let (mut monotonic, mut boottime) = (None, None);
        for line in lines(text).filter(|line| !line.is_empty()) {
            let mut words = words(line);
            let clock = match words.next() {
                Some(b"monotonic") => &mut monotonic,
                Some(b"boottime") => &mut boottime,
                _ => return Err(Malformed::new("no known clock", line)),
            };
            let (secs, nanos) = (words.next().and_then(number), words.next().and_then(number));
            let (Some(secs), Some(nanos)) = (secs, nanos) else {
                return Err(Malformed::new("no offset", line));
            };
            *clock = Some(TimeOffset { secs, nanos });
        }
        monotonic
            .zip(boottime)
            .map(|(monotonic, boottime)| Self { monotonic, boottime })
            .ok_or_else(|| Malformed::new("a clock is missing", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks() {
        let offsets = TimensOffsets::parse(b"monotonic       -5  999999999\nboottime       600         1\n");
        assert_eq!(
            offsets.unwrap(),
            TimensOffsets {
                monotonic: TimeOffset { secs: -5, nanos: 999_999_999 },
                boottime: TimeOffset { secs: 600, nanos: 1 },
            }
        );
    }

    #[test]
    fn damaged_lines_are_refused() {
        assert!(TimensOffsets::parse(b"").is_err());
        assert!(TimensOffsets::parse(b"monotonic 0 0\n").is_err());
        assert!(TimensOffsets::parse(b"realtime 0 0\n").is_err());
        assert!(TimensOffsets::parse(b"monotonic 0\n").is_err());
        assert!(TimensOffsets::parse(b"monotonic a 0\n").is_err());
    }
}
