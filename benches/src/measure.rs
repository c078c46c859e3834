//! All figures of one size: limit and verb in turns, after one round that does not count.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::ckptctl::Ckptctl;
use crate::limit::{plain_read, plain_write};
use crate::program::{self, Contents, Program};

/// How often the peak memory is read; the highest counts.
const PEAKS: u32 = 3;

/// The figures of one program: medians over the rounds, seconds and bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Memory that the program filled.
    pub program_bytes: u64,
    /// Size of its image.
    pub image_bytes: u64,
    /// `ckptctl checkpoint`, from its start to its end.
    pub checkpoint_seconds: f64,
    /// How long the program could not run.
    pub pause_seconds: f64,
    /// A plain write of as many bytes as the image has.
    pub write_seconds: f64,
    /// Checkpoint to write, of the pairs that ran one after the other.
    pub checkpoint_to_write: f64,
    /// `ckptctl restore`, from its start to the first instruction of the program.
    pub restore_seconds: f64,
    /// A plain read of the image into fresh memory.
    pub read_seconds: f64,
    /// Restore to read, of the pairs that ran one after the other.
    pub restore_to_read: f64,
    /// The most memory that `ckptctl checkpoint` had at once.
    pub peak_bytes: u64,
    /// Whether the restore made a nest (an ordinary user's does, root's only when an old id is taken).
    pub is_in_nest: bool,
}

/// Measures a program with `bytes` of memory. `dir` is empty and on tmpfs.
pub fn measure(ckptctl: &Ckptctl, dir: &Path, bytes: u64, rounds: u32) -> Result<Measured> {
    let image = dir.join("image");
    let plain = dir.join("plain");
    let running = Program::start(dir, bytes, Contents::Incompressible)?;

    let image_bytes = ckptctl.checkpoint(running.pid(), &image)?.image_bytes;
    running.hold()?;
    plain_write(&plain, image_bytes)?;
    running.go_on()?;
    let (mut writes, mut checkpoints, mut pauses) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        remove(&image)?;
        running.hold()?;
        writes.push(plain_write(&plain, image_bytes)?);
        running.go_on()?;
        let checkpoint = ckptctl.checkpoint(running.pid(), &image)?;
        checkpoints.push(checkpoint.took);
        pauses.push(checkpoint.pause);
    }
    let mut peak_bytes = 0;
    for _ in 0..PEAKS {
        remove(&image)?;
        peak_bytes = peak_bytes.max(ckptctl.peak_memory(running.pid(), &image)?);
    }
    drop(running);

    program::arm(dir)?;
    let is_in_nest = ckptctl.restore(&image, dir)?.is_in_nest;
    plain_read(&image)?;
    let (mut reads, mut restores) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        reads.push(plain_read(&image)?);
        restores.push(ckptctl.restore(&image, dir)?.took);
    }
    Ok(Measured {
        program_bytes: bytes,
        image_bytes,
        checkpoint_seconds: median_seconds(&checkpoints),
        pause_seconds: median_seconds(&pauses),
        write_seconds: median_seconds(&writes),
        checkpoint_to_write: median_ratio(&checkpoints, &writes),
        restore_seconds: median_seconds(&restores),
        read_seconds: median_seconds(&reads),
        restore_to_read: median_ratio(&restores, &reads),
        peak_bytes,
        is_in_nest,
    })
}

fn remove(image: &Path) -> Result<()> {
    std::fs::remove_file(image).with_context(|| format!("remove {}", image.display()))
}

/// The median, in seconds.
pub fn median_seconds(durations: &[Duration]) -> f64 {
    median(durations.iter().map(Duration::as_secs_f64).collect())
}

/// The median of the ratios of pairs.
pub fn median_ratio(ours: &[Duration], limits: &[Duration]) -> f64 {
    median(ours.iter().zip(limits).map(|(our, limit)| our.as_secs_f64() / limit.as_secs_f64()).collect())
}

/// The one in the middle; of an even number the mean of the two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_not_moved_by_one_slow_round() {
        assert!((median(vec![1.0, 900.0, 3.0, 2.0, 4.0]) - 3.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 2.0, 900.0]) - 3.0).abs() < f64::EPSILON);
    }

    #[test]
    fn the_ratio_is_taken_pair_by_pair() {
        let seconds = |values: [u64; 3]| values.map(Duration::from_secs);
        // The machine was twice as slow in the second round, and three times in the third: the ratio stays.
        assert!((median_ratio(&seconds([2, 4, 6]), &seconds([1, 2, 3])) - 2.0).abs() < f64::EPSILON);
    }
}
