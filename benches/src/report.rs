//! The figures as a table or as JSON, with what was promised beside them.

use std::fmt::Write as _;
use std::io::{Write as _, stdout};
use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use crate::ckptctl::Ckptctl;
use crate::machine::Machine;
use crate::measure::Measured;
use crate::migration::Moved;
use crate::program::Contents;

const SMALL: u64 = 1 << 20;
const LARGE: u64 = 1 << 30;

/// Everything that one run found.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    ckptctl: PathBuf,
    /// Whether this was root, who needs no user namespace.
    is_root: bool,
    rounds: u32,
    programs: Vec<Measured>,
    moves: Vec<Moved>,
    targets: Vec<Target>,
}

/// One promise, and whether it was kept.
#[derive(Debug, Serialize)]
struct Target {
    what: String,
    measured: f64,
    limit: f64,
    unit: Unit,
    is_met: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Unit {
    Seconds,
    Ratio,
    Bytes,
    /// A ratio that is the better the larger it is.
    Speed,
}

impl Report {
    /// Compares the figures with the targets.
    pub fn new(
        machine: Machine,
        ckptctl: &Ckptctl,
        rounds: u32,
        programs: Vec<Measured>,
        moves: Vec<Moved>,
    ) -> Result<Self> {
        let targets = programs.iter().flat_map(targets).chain(moves.iter().map(move_target)).collect();
        let is_root = rustix::process::geteuid().is_root();
        Ok(Self { machine, ckptctl: ckptctl.path().canonicalize()?, is_root, rounds, programs, moves, targets })
    }

    /// One JSON object.
    pub fn print_json(&self) -> Result<()> {
        let mut out = stdout().lock();
        serde_json::to_writer_pretty(&mut out, self)?;
        Ok(writeln!(out)?)
    }

    /// For people.
    pub fn print(&self) -> Result<()> {
        Ok(stdout().lock().write_all(self.text().as_bytes())?)
    }

    fn text(&self) -> String {
        let Machine { cpu, cores, kernel, memory_bytes, load, .. } = &self.machine;
        let user = if self.is_root { "root" } else { "an ordinary user" };
        let mut lines = vec![
            format!(
                "machine   {cpu}, {cores} cores, {} memory, {kernel}, load {load:.2}",
                bytes(as_f64(*memory_bytes))
            ),
            format!("ckptctl   {}, as {user}", self.ckptctl.display()),
            format!(
                "method    image on tmpfs, incompressible memory, median of {} rounds after one to warm up",
                self.rounds
            ),
            String::new(),
        ];
        let mut row = |name: &str, value: &dyn Fn(&Measured) -> String| {
            let mut line = format!("{name:<40}");
            for one in &self.programs {
                let _ = write!(line, "{:>12}", value(one));
            }
            lines.push(line);
        };
        row("memory of the program", &|one| bytes(as_f64(one.program_bytes)));
        row("checkpoint", &|one| seconds(one.checkpoint_seconds));
        row("  of which the program is paused", &|one| seconds(one.pause_seconds));
        row("  plain write of as many bytes", &|one| seconds(one.write_seconds));
        row("  checkpoint / write", &|one| format!("{:.2}", one.checkpoint_to_write));
        row("restore to the first instruction", &|one| seconds(one.restore_seconds));
        row("  plain read into fresh 4 KiB pages", &|one| seconds(one.read_seconds));
        row("  restore / read", &|one| format!("{:.2}", one.restore_to_read));
        row("  with a nest", &|one| if one.is_in_nest { "yes" } else { "no" }.to_owned());
        row("peak memory of ckptctl checkpoint", &|one| bytes(as_f64(one.peak_bytes)));
        row("image beyond the program's memory", &|one| bytes(overhead(one)));
        lines.extend(self.move_lines());
        lines.push(String::new());
        lines.extend(self.targets.iter().map(Target::line));
        lines.join("\n") + "\n"
    }
}

impl Report {
    fn move_lines(&self) -> Vec<String> {
        if self.moves.is_empty() {
            return Vec::new();
        }
        let mut lines = vec![String::new()];
        let mut row = |name: &str, value: &dyn Fn(&Moved) -> String| {
            let mut line = format!("{name:<40}");
            for one in &self.moves {
                let _ = write!(line, "{:>18}", value(one));
            }
            lines.push(line);
        };
        row("migrate to sshd on loopback, memory", &|one| bytes(as_f64(one.program_bytes)));
        row("  which is", &|one| one.contents.name().to_owned());
        row("migrate, from its start to its end", &|one| seconds(one.migrate_seconds));
        row("  of which the program stood still", &|one| seconds(one.downtime_seconds));
        row("  scp of its image", &|one| seconds(one.scp_seconds));
        row("  bytes per second, migrate / scp", &|one| format!("{:.2}", one.migrate_to_scp));
        row("  the same of the downtime alone", &|one| format!("{:.2}", one.downtime_to_scp));
        lines
    }
}

/// What is promised for a move.
fn move_target(one: &Moved) -> Target {
    let limit = match one.contents {
        Contents::Incompressible => 1.0,
        Contents::Compressible => 1.5,
    };
    let size = bytes(as_f64(one.program_bytes));
    Target {
        what: format!("{size}, {}: bytes/s, migrate / scp", one.contents.name()),
        measured: one.migrate_to_scp,
        limit,
        unit: Unit::Speed,
        is_met: one.migrate_to_scp >= limit,
    }
}

/// What is promised for a program of this size.
fn targets(one: &Measured) -> Vec<Target> {
    let size = bytes(as_f64(one.program_bytes));
    let target = |what: &str, measured: f64, limit: f64, unit: Unit| Target {
        what: format!("{size}: {what}"),
        measured,
        limit,
        unit,
        // A ratio is allowed to reach its limit, anything else stays below.
        is_met: measured < limit || (unit == Unit::Ratio && measured <= limit),
    };
    let mut all = Vec::new();
    if one.program_bytes == SMALL {
        all.push(target("checkpoint", one.checkpoint_seconds, 0.015, Unit::Seconds));
        all.push(target("restore to the first instruction", one.restore_seconds, 0.025, Unit::Seconds));
        all.push(target("image beyond the program's memory", overhead(one), as_f64(1 << 20), Unit::Bytes));
    }
    if one.program_bytes == LARGE {
        all.push(target("checkpoint / plain write", one.checkpoint_to_write, 1.0, Unit::Ratio));
        all.push(target("restore / plain read", one.restore_to_read, 1.0, Unit::Ratio));
    }
    all.push(target("peak memory of ckptctl checkpoint", as_f64(one.peak_bytes), as_f64(64 << 20), Unit::Bytes));
    all
}

impl Target {
    fn line(&self) -> String {
        let (measured, limit) = match self.unit {
            Unit::Seconds => (seconds(self.measured), format!("under {}", seconds(self.limit))),
            Unit::Bytes => (bytes(self.measured), format!("under {}", bytes(self.limit))),
            Unit::Ratio => (format!("{:.2}", self.measured), format!("at most {:.2}", self.limit)),
            Unit::Speed => (format!("{:.2}", self.measured), format!("at least {:.2}", self.limit)),
        };
        let verdict = if self.is_met { "met" } else { "MISSED" };
        format!("target  {:<46}{limit:>18}{measured:>12}   {verdict}", self.what)
    }
}

/// Size of the image without the memory that the program filled.
fn overhead(one: &Measured) -> f64 {
    as_f64(one.image_bytes) - as_f64(one.program_bytes)
}

#[expect(clippy::cast_precision_loss, reason = "for people; sizes are far below 2^53 bytes")]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

fn seconds(seconds: f64) -> String {
    if seconds < 0.1 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

fn bytes(bytes: f64) -> String {
    const STEP: f64 = 1024.0;
    let (value, unit) = match bytes {
        bytes if bytes < STEP * STEP => (bytes / STEP, "KiB"),
        bytes if bytes < STEP * STEP * STEP => (bytes / STEP / STEP, "MiB"),
        bytes => (bytes / STEP / STEP / STEP, "GiB"),
    };
    let digits = usize::from(value.fract() > 0.05 && value < 100.0);
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(program_bytes: u64) -> Measured {
        Measured {
            program_bytes,
            image_bytes: program_bytes + (300 << 10),
            checkpoint_seconds: 0.0149,
            pause_seconds: 0.001,
            write_seconds: 0.001,
            checkpoint_to_write: 1.0,
            restore_seconds: 0.0251,
            read_seconds: 0.001,
            restore_to_read: 1.001,
            peak_bytes: 9 << 20,
            is_in_nest: true,
        }
    }

    fn verdicts(program_bytes: u64) -> Vec<bool> {
        targets(&measured(program_bytes)).iter().map(|target| target.is_met).collect()
    }

    #[test]
    fn targets_are_of_their_own_size() {
        assert_eq!(verdicts(SMALL), [true, false, true, true]);
        assert_eq!(verdicts(16 << 20), [true]);
        assert_eq!(verdicts(LARGE), [true, false, true]);
    }

    #[test]
    fn a_move_must_be_faster_where_memory_can_be_compressed() {
        let moved = |contents, migrate_to_scp| Moved {
            program_bytes: LARGE,
            contents,
            image_bytes: LARGE,
            scp_seconds: 1.0,
            migrate_seconds: 1.0,
            downtime_seconds: 1.0,
            migrate_to_scp,
            downtime_to_scp: 1.0,
        };
        assert!(move_target(&moved(Contents::Incompressible, 1.0)).is_met);
        assert!(!move_target(&moved(Contents::Compressible, 1.4)).is_met);
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(bytes(1_048_576.0), "1 MiB");
        assert_eq!(bytes(307_200.0), "300 KiB");
        assert_eq!(bytes(25_276_000_000.0), "23.5 GiB");
        assert_eq!(seconds(0.0149), "14.9 ms");
        assert_eq!(seconds(1.234), "1.23 s");
    }
}
