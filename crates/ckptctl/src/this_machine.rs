//! What this machine has free, and its clock.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;

/// Available memory in bytes, of what `/proc/meminfo` says.
pub fn available_memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kilobytes.unwrap_or_default().saturating_mul(1024)
}

/// Load average over a minute, of what `/proc/loadavg` says.
pub fn load(loadavg: &str) -> f64 {
    loadavg.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

/// Bytes that this user may still write to the file system of a directory.
///
/// # Errors
/// When it is not there.
pub fn free_space(directory: &Path) -> anyhow::Result<u64> {
    let there =
        rustix::fs::statvfs(directory).with_context(|| format!("{} cannot be looked at", directory.display()))?;
    Ok(there.f_bavail.saturating_mul(there.f_frsize))
}

/// The clock, in nanoseconds since 1970.
pub fn clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// How far another machine's clock is from ours, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// How much it is ahead; negative when it is behind.
    pub ahead: f64,
    /// How exactly that is known: half of the time until the answer came.
    pub within: f64,
}

impl Clock {
    /// What it said, between the moments of question and answer by our clock.
    #[allow(clippy::cast_precision_loss, reason = "shown in milliseconds")]
    pub fn compare(asked: i64, there: i64, answered: i64) -> Self {
        let within = (answered - asked) as f64 / 2e9;
        Self { ahead: (there - asked) as f64 / 1e9 - within, within }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_is_available() {
        assert_eq!(available_memory("MemTotal: 9 kB\nMemAvailable:   12 kB\n"), 12 * 1024);
        assert_eq!(available_memory("nothing"), 0);
    }
}
