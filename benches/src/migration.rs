//! Moves to a host on this machine, next to `scp` of the same image to the same server.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::ckptctl::Ckptctl;
use crate::measure::{median_ratio, median_seconds};
use crate::program::Contents;
use crate::server::{HOST, Server};

/// How often everything is measured.
const ROUNDS: u32 = 3;
const JOB: &str = "bench";

/// The figures of one program: medians over the rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Moved {
    /// Memory that the program filled.
    pub program_bytes: u64,
    /// With what.
    pub contents: Contents,
    /// Size of its image, not compressed.
    pub image_bytes: u64,
    /// `scp` of that image, from its start to its end.
    pub scp_seconds: f64,
    /// `ckptctl migrate`, from its start to its end.
    pub migrate_seconds: f64,
    /// From the freeze here until it ran there, as `ckptctl` tells.
    pub downtime_seconds: f64,
    /// Bytes per second of the move to those of `scp`, of the pairs that ran one after the other.
    pub migrate_to_scp: f64,
    /// The same with the downtime in place of the whole move.
    pub downtime_to_scp: f64,
}

/// Moves a program with `bytes` of memory to the server and home again, in turns with `scp`. `dir` is empty and on tmpfs.
pub fn measure(ckptctl: &Ckptctl, server: &Server, dir: &Path, bytes: u64, contents: Contents) -> Result<Moved> {
    let work = dir.join("work");
    fs::create_dir(&work).with_context(|| format!("make {}", work.display()))?;
    let job = ckptctl.job(server.home(), JOB);
    job.start(&work, bytes, contents)?;
    let (image, copy) = (dir.join("image"), dir.join("copy"));
    let image_bytes = job.checkpoint(&image)?;
    let (mut copies, mut moves, mut downtimes) = (Vec::new(), Vec::new(), Vec::new());
    // The first one puts ckptctl there, and does not count.
    for round in 0..=ROUNDS {
        let scp = server.scp(&image, &copy)?;
        fs::remove_file(&copy).with_context(|| format!("remove {}", copy.display()))?;
        let began = Instant::now();
        let downtime = job.migrate(HOST)?;
        let took = began.elapsed();
        job.migrate("local")?;
        if round > 0 {
            copies.push(scp);
            moves.push(took);
            downtimes.push(downtime);
        }
    }
    job.end()?;
    Ok(Moved {
        program_bytes: bytes,
        contents,
        image_bytes,
        scp_seconds: median_seconds(&copies),
        migrate_seconds: median_seconds(&moves),
        downtime_seconds: median_seconds(&downtimes),
        migrate_to_scp: median_ratio(&copies, &moves),
        downtime_to_scp: median_ratio(&copies, &downtimes),
    })
}
