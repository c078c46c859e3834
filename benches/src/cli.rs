//! The command line, and the parts that this program plays for itself as a child.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::program::Contents;

/// Measures how long ckptctl takes to checkpoint, restore and migrate, next to plain writes and reads, and scp, of as many bytes.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(flatten)]
    pub figures: Figures,
    #[command(subcommand)]
    pub role: Option<Role>,
}

/// What to measure.
#[derive(Debug, Args)]
pub struct Figures {
    /// Print one JSON object in place of the table
    #[arg(long)]
    pub json: bool,
    /// Memory of the measured programs, in MiB
    #[arg(long, value_delimiter = ',', default_value = "1,16,1024", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub sizes: Vec<u64>,
    /// Memory of the programs that are moved, in MiB; 0 moves none
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(0..=1 << 20))]
    pub moved: u64,
    /// How often everything is measured; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
}

/// What the bench starts itself for: nothing else is needed on the machine, and each measurement has a fresh process.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// The program that is checkpointed and restored
    #[command(hide = true)]
    Program { dir: PathBuf, bytes: u64, contents: Contents },
    /// The limit of a checkpoint
    #[command(hide = true)]
    Write { file: PathBuf, bytes: u64 },
    /// The limit of a restore
    #[command(hide = true)]
    Read { file: PathBuf },
    /// Removes the directory when the bench has ended, however it ended
    #[command(hide = true)]
    Sweep { dir: PathBuf },
}
