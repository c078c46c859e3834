//! How fast `ckptctl` is, next to what the machine allows: see README.md beside this crate.

#![forbid(unsafe_code)]

mod ckptctl;
mod cli;
mod limit;
mod machine;
mod measure;
mod migration;
mod program;
mod report;
mod scratch;
mod server;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::ckptctl::Ckptctl;
use crate::cli::{Cli, Figures, Role};
use crate::machine::Machine;
use crate::measure::Measured;
use crate::migration::Moved;
use crate::program::Contents;
use crate::report::Report;
use crate::scratch::Scratch;
use crate::server::Server;

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.role {
        None => measure(&cli.figures),
        Some(Role::Program { dir, bytes, contents }) => program::run(&dir, bytes, contents),
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
    let largest = sizes.iter().copied().chain([figures.moved << 20]).max().context("name at least one size")?;
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
    let moved = moves(&ckptctl, scratch.path(), figures.moved << 20)?;
    drop(scratch);
    measured.reverse();
    let report = Report::new(machine, &ckptctl, figures.rounds, measured, moved)?;
    if figures.json { report.print_json() } else { report.print() }
}

/// Moves programs to a server on this machine, if it can have one.
fn moves(ckptctl: &Ckptctl, scratch: &Path, bytes: u64) -> Result<Vec<Moved>> {
    if bytes == 0 {
        return Ok(Vec::new());
    }
    let Some(server) = Server::start(scratch)? else {
        eprintln!("no program is moved: there is no sshd here; install openssh-server");
        return Ok(Vec::new());
    };
    let mut moved = Vec::new();
    for contents in [Contents::Incompressible, Contents::Compressible] {
        eprintln!("moving a program of {} MiB, {} ...", bytes >> 20, contents.name());
        let dir = scratch.join(contents.name());
        fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        moved.push(migration::measure(ckptctl, &server, &dir, bytes, contents)?);
        fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    Ok(moved)
}
