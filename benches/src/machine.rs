//! Which machine the figures are of.

use std::fs;
use std::thread::available_parallelism;

use anyhow::{Context, Result};
use serde::Serialize;

/// The machine, and how busy it was.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's model.
    pub cpu: String,
    /// Processors that the bench may use.
    pub cores: usize,
    /// Kernel name and release.
    pub kernel: String,
    /// All memory.
    pub memory_bytes: u64,
    /// Memory that could be had at the start.
    pub available_bytes: u64,
    /// The load average of the minute before the start: above a half, others were at work too.
    pub load: f64,
}

impl Machine {
    /// This machine, now.
    pub fn read() -> Result<Self> {
        let cpus = read("/proc/cpuinfo")?;
        let memory = read("/proc/meminfo")?;
        let load = read("/proc/loadavg")?;
        let system = rustix::system::uname();
        Ok(Self {
            cpu: field(&cpus, "model name").unwrap_or("unknown processor").to_owned(),
            cores: available_parallelism().context("count the processors")?.get(),
            kernel: format!("{} {}", system.sysname().to_string_lossy(), system.release().to_string_lossy()),
            memory_bytes: kibibytes(&memory, "MemTotal")?,
            available_bytes: kibibytes(&memory, "MemAvailable")?,
            load: load.split(' ').next().and_then(|load| load.parse().ok()).context("understand /proc/loadavg")?,
        })
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {path}"))
}

/// The value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn kibibytes(text: &str, name: &str) -> Result<u64> {
    let value = field(text, name).and_then(|value| value.strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(value.with_context(|| format!("find {name} in /proc/meminfo"))? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "MemTotal:       24683520 kB\nMemFree:        20361216 kB\n";
        assert_eq!(kibibytes(text, "MemTotal").ok(), Some(24_683_520 << 10));
        assert!(kibibytes(text, "Mem").is_err());
        assert_eq!(field("model\t\t: 167\nmodel name\t: Some CPU\n", "model name"), Some("Some CPU"));
    }
}
