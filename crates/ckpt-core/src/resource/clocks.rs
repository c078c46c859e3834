//! The clocks that go on from where they were: monotonic and boot time (`time_namespaces(7)`).

use rustix::time::{ClockId, Timespec, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::proc::{TimeOffset, TimensOffsets};

const SECOND: i128 = 1_000_000_000;

/// The program's clocks at the freeze, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockState {
    /// `CLOCK_MONOTONIC`.
    pub monotonic: i64,
    /// `CLOCK_BOOTTIME`.
    pub boottime: i64,
    /// `CLOCK_REALTIME`, for people.
    pub realtime: i64,
}

impl ClockState {
    /// What the clocks show to process `pid`, which may have offsets of its own.
    #[must_use]
    pub fn capture(pid: i32) -> Self {
        // Without time namespaces there is no such file, and no offset.
        let theirs = TimensOffsets::of(pid).unwrap_or_default();
        let ours = TimensOffsets::of(rustix::process::getpid().as_raw_nonzero().get()).unwrap_or_default();
        let shown = |clock, theirs: TimeOffset, ours: TimeOffset| {
            saturated(nanos(clock_gettime(clock)) + offset(theirs) - offset(ours))
        };
        Self {
            monotonic: shown(ClockId::Monotonic, theirs.monotonic, ours.monotonic),
            boottime: shown(ClockId::Boottime, theirs.boottime, ours.boottime),
            realtime: saturated(nanos(clock_gettime(ClockId::Realtime))),
        }
    }

    /// The lines for `/proc/self/timens_offsets` of a new time namespace in which the clocks go on. Offsets count from
    /// the machine's own clocks, so those of the namespace that we are in ourselves are taken off first.
    #[must_use]
    pub fn offsets(&self) -> String {
        let ours = TimensOffsets::of(rustix::process::getpid().as_raw_nonzero().get()).unwrap_or_default();
        let line = |name, clock, saved: i64, ours| {
            let needed = i128::from(saved) - (nanos(clock_gettime(clock)) - offset(ours));
            format!("{name} {} {}\n", needed.div_euclid(SECOND), needed.rem_euclid(SECOND))
        };
        line("monotonic", ClockId::Monotonic, self.monotonic, ours.monotonic)
            + &line("boottime", ClockId::Boottime, self.boottime, ours.boottime)
    }
}

fn nanos(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * SECOND + i128::from(time.tv_nsec)
}

fn offset(offset: TimeOffset) -> i128 {
    i128::from(offset.secs) * SECOND + i128::from(offset.nanos)
}

fn saturated(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
