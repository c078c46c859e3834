//! A directory on tmpfs that is gone when the bench has ended, by Ctrl+C or a kill too.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::program;

/// Where tmpfs is mounted on every distribution.
const TMPFS: &str = "/dev/shm";

/// The directory. It may hold gigabytes of memory, so who removes it is a process of its own.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    sweeper: Child,
}

impl Scratch {
    /// Makes the directory and starts who will remove it.
    pub fn new() -> Result<Self> {
        let path = tempfile::Builder::new()
            .prefix("ckpt-bench-")
            .tempdir_in(TMPFS)
            .with_context(|| format!("make a directory in {TMPFS}"))?
            .keep();
        let sweeper = Command::new(program::own_executable()?)
            .arg("sweep")
            .arg(&path)
            .stdin(Stdio::piped())
            // Ctrl+C goes to the process group of the bench: the sweeper is to outlive it.
            .process_group(0)
            .spawn()
            .context("start the sweeper")?;
        Ok(Self { path, sweeper })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // `wait` closes the pipe first, which is the sweeper's signal.
        if let Err(error) = self.sweeper.wait() {
            eprintln!("{} could not be removed: {error}", self.path.display());
        }
    }
}

/// The sweeper: waits until the bench holds the other end of its standard input no more, then removes `dir`.
pub fn sweep(dir: &Path) -> Result<()> {
    io::stdin().read_to_end(&mut Vec::new()).context("wait for the bench")?;
    loop {
        match fs::remove_dir_all(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            // A ckptctl that ends later than a killed bench may still make a file.
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
            Err(error) => return Err(error).with_context(|| format!("remove {}", dir.display())),
        }
    }
}
