//! How fast `ckptctl` is, next to what the machine allows: see README.md beside this crate.

#![forbid(unsafe_code)]

mod ckptctl;
mod cli;
mod limit;
mod machine;
mod measure;
mod program;
mod report;
mod scratch;

use std::fs;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::ckptctl::Ckptctl;
use crate::cli::{Cli, Figures, Role};
use crate::machine::Machine;
use crate::measure::Measured;
use crate::report::Report;
use crate::scratch::Scratch;

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.role {
        None => measure(&cli.figures),
        Some(Role::Program { dir, bytes }) => program::run(&dir, bytes),
        Some(Role::Write { file, bytes }) => limit::write_here(&file, bytes),
        Some(Role::Read { file }) => limit::read_here(&file),
        Some(Role::Sweep { dir }) => scratch::sweep(&dir),
    }
}

fn measure(figures: &Figures) -> Result<()> {
    let mut sizes: Vec<u64> = figures.sizes.iter().map(|mebibytes| mebibytes << 20).collect();
    // The largest first: a virtual machine that is fresh gets its memory from the host at the first touch, which is
    // several times slower, and that must not be counted for anybody.
    sizes.sort_unstable_by(|one, other| other.cmp(one));
    sizes.dedup();
    let machine = Machine::read()?;
    let largest = sizes.first().copied().context("name at least one size")?;
    let needed = largest.saturating_mul(5);
    ensure!(
        machine.available_bytes > needed,
        "{} MiB of memory are needed for a program of {} MiB, and {} MiB are available; free some, or name smaller --sizes",
        needed >> 20,
        largest >> 20,
        machine.available_bytes >> 20
    );
    let ckptctl = Ckptctl::find()?;
    let scratch = Scratch::new()?;
    let mut measured: Vec<Measured> = Vec::new();
    for bytes in sizes {
        eprintln!("measuring a program of {} MiB ...", bytes >> 20);
        let dir = scratch.path().join(bytes.to_string());
        fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        measured.push(measure::measure(&ckptctl, &dir, bytes, figures.rounds)?);
        fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    drop(scratch);
    measured.reverse();
    let report = Report::new(machine, &ckptctl, figures.rounds, measured)?;
    if figures.json { report.print_json() } else { report.print() }
}
