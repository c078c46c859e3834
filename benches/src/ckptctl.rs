//! The `ckptctl` binary as a user calls it: a child process, timed from its start.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::program::{self, Contents, FirstInstruction};

/// Names another binary than the workspace's release build.
const BINARY: &str = "CKPTCTL_BIN";

/// The binary.
#[derive(Debug)]
pub struct Ckptctl {
    path: PathBuf,
}

/// One checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct Checkpoint {
    /// From the start of `ckptctl` to its end.
    pub took: Duration,
    /// How long the program could not run, as `ckptctl` tells.
    pub pause: Duration,
    /// Size of the image.
    pub image_bytes: u64,
}

/// One restore.
#[derive(Debug, Clone, Copy)]
pub struct Restore {
    /// From the start of `ckptctl` to the first instruction of the program.
    pub took: Duration,
    /// Whether a nest was made for it.
    pub is_in_nest: bool,
}

impl Ckptctl {
    /// The binary that `CKPTCTL_BIN` names, else the one beside this executable.
    pub fn find() -> Result<Self> {
        let path = match std::env::var_os(BINARY) {
            Some(path) => PathBuf::from(path),
            None => program::own_executable()?.with_file_name("ckptctl"),
        };
        ensure!(
            path.is_file(),
            "{} is not there; build it with `cargo build --release -p ckptctl`, or name it in {BINARY}",
            path.display()
        );
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checkpoints the process into `image`, which it leaves there.
    pub fn checkpoint(&self, pid: i32, image: &Path) -> Result<Checkpoint> {
        let mut command = self.checkpoint_command(pid, image);
        let began = Instant::now();
        let output = command.output();
        let took = began.elapsed();
        let report = json(&output.context("run ckptctl")?)?;
        let pause = report["pause_seconds"].as_f64().context("the checkpoint's report has no pause")?;
        let image_bytes = report["bytes"].as_u64().context("the checkpoint's report has no size")?;
        Ok(Checkpoint { took, pause: Duration::from_secs_f64(pause), image_bytes })
    }

    /// The most memory that `ckptctl` has at once in a checkpoint, in bytes.
    ///
    /// Read from `/proc` until it ends. What `wait4(2)` tells would count the bench's own memory, which a child has
    /// until it executes something.
    pub fn peak_memory(&self, pid: i32, image: &Path) -> Result<u64> {
        let mut child = self.checkpoint_command(pid, image).spawn().context("run ckptctl")?;
        let status = PathBuf::from(format!("/proc/{}/status", child.id()));
        let mut peak = None;
        while child.try_wait().context("look at ckptctl")?.is_none() {
            // A process that is ending has no memory any more, and its status no such line.
            let text = fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            peak = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).or(peak);
        }
        json(&child.wait_with_output().context("wait for ckptctl")?)?;
        peak.map(|kibibytes| kibibytes << 10).context("ckptctl ended before its memory could be read")
    }

    fn checkpoint_command(&self, pid: i32, image: &Path) -> Command {
        let mut command = Command::new(&self.path);
        command.args(["checkpoint", "--json", "--pid", &pid.to_string(), "-o"]).arg(image);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Restores in the foreground, and waits for the program's end. The program must be armed.
    pub fn restore(&self, image: &Path, dir: &Path) -> Result<Restore> {
        let mut command = Command::new(&self.path);
        command.arg("restore").arg(image).stdin(Stdio::null());
        let began = program::since_epoch()?;
        let output = command.output().context("run ckptctl")?;
        ensure!(output.status.success(), "the restore failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        let first = FirstInstruction::take(dir)?;
        let took = first.at.checked_sub(began).context("the machine's clock was set back during a restore")?;
        Ok(Restore { took, is_in_nest: first.is_in_nest })
    }
}

/// A job of a user whose home directory is elsewhere.
#[derive(Debug)]
pub struct Job<'a> {
    ckptctl: &'a Ckptctl,
    home: &'a Path,
    name: &'a str,
}

impl Ckptctl {
    /// The job of that name.
    pub fn job<'a>(&'a self, home: &'a Path, name: &'a str) -> Job<'a> {
        Job { ckptctl: self, home, name }
    }
}

impl Job<'_> {
    /// Starts the measured program as the job, and waits until it has filled its memory.
    pub fn start(&self, dir: &Path, bytes: u64, contents: Contents) -> Result<()> {
        let program = program::own_executable()?;
        let mut run = self.command(&["run", "--detach", "--json", "--name", self.name, "--"]);
        run.arg(program).arg("program").arg(dir).arg(bytes.to_string()).arg(contents.name()).current_dir(dir);
        json(&run.output().context("run ckptctl")?)?;
        program::wait_until_ready(dir, || Ok(()))
    }

    /// Checkpoints it into `image`, not compressed; gives the size.
    pub fn checkpoint(&self, image: &Path) -> Result<u64> {
        let mut checkpoint = self.command(&["checkpoint", self.name, "--json", "-o"]);
        let report = json(&checkpoint.arg(image).output().context("run ckptctl")?)?;
        report["bytes"].as_u64().context("the checkpoint's report has no size")
    }

    /// Moves it; gives the downtime.
    pub fn migrate(&self, host: &str) -> Result<Duration> {
        let report = json(&self.command(&["migrate", self.name, host, "--json"]).output().context("run ckptctl")?)?;
        let downtime = report["downtime"].as_f64().context("the move's report has no downtime")?;
        Ok(Duration::from_secs_f64(downtime))
    }

    /// Ends it, and forgets it.
    pub fn end(&self) -> Result<()> {
        for verb in [&["stop", self.name, "--json"][..], &["rm", self.name, "--json"]] {
            json(&self.command(verb).output().context("run ckptctl")?)?;
        }
        Ok(())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.ckptctl.path);
        command.args(arguments).env_clear().env("HOME", self.home).env("PATH", "/usr/bin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        // Where the bench fails, the program must not spin for ever; most often there is none any more.
        let _ = self.command(&["stop", self.name, "--signal", "KILL"]).output();
    }
}

fn json(output: &Output) -> Result<Value> {
    if !output.status.success() {
        let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        bail!("ckptctl failed ({}): {}", output.status, String::from_utf8_lossy(&said).trim());
    }
    serde_json::from_slice(&output.stdout).context("understand what ckptctl printed")
}
