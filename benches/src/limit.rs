//! The limits: what a single thread needs to move as many bytes, with nothing else to do.
//!
//! Each is a process of its own, so that its memory is fresh, and times only the moving.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::buffer::spare_capacity;
use rustix::io::{read, write};
use rustix::thread::disable_transparent_huge_pages;

use crate::program::{incompressible, own_executable};

/// How long a plain write of `bytes` from memory to a new file takes.
pub fn plain_write(file: &Path, bytes: u64) -> Result<Duration> {
    let took = ask(Command::new(own_executable()?).arg("write").arg(file).arg(bytes.to_string()))?;
    fs::remove_file(file).with_context(|| format!("remove {}", file.display()))?;
    Ok(took)
}

/// How long a plain read of `file` into fresh anonymous memory of 4 KiB pages takes.
pub fn plain_read(file: &Path) -> Result<Duration> {
    ask(Command::new(own_executable()?).arg("read").arg(file))
}

/// Runs one of the two below, which prints its nanoseconds.
fn ask(command: &mut Command) -> Result<Duration> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("measure a limit")?;
    ensure!(output.status.success(), "measuring a limit failed: {}", output.status);
    let text = String::from_utf8(output.stdout).context("read a limit")?;
    Ok(Duration::from_nanos(text.trim().parse().context("read a limit")?))
}

/// The child of [`plain_write`].
pub fn write_here(file: &Path, bytes: u64) -> Result<()> {
    let memory = incompressible(bytes)?;
    let began = Instant::now();
    let target = File::create_new(file).with_context(|| format!("create {}", file.display()))?;
    let mut rest = memory.as_slice();
    while !rest.is_empty() {
        let written = write(&target, rest).with_context(|| format!("write {}", file.display()))?;
        rest = &rest[written..];
    }
    println!("{}", began.elapsed().as_nanos());
    Ok(())
}

/// The child of [`plain_read`].
pub fn read_here(file: &Path) -> Result<()> {
    disable_transparent_huge_pages(true).context("refuse huge pages")?;
    let source = File::open(file).with_context(|| format!("open {}", file.display()))?;
    let bytes = usize::try_from(source.metadata().context("ask for the size")?.len())?;
    let began = Instant::now();
    // Nothing was freed in this process, and malloc maps what is this large: no page of it exists yet.
    let mut memory: Vec<u8> = Vec::with_capacity(bytes);
    while memory.len() < bytes {
        let got = read(&source, spare_capacity(&mut memory)).with_context(|| format!("read {}", file.display()))?;
        ensure!(got > 0, "{} became shorter", file.display());
    }
    println!("{}", began.elapsed().as_nanos());
    Ok(())
}
