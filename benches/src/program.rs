//! The program that is checkpointed and restored, and the bench's hold on it.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde::Serialize;

/// The program has filled its memory and runs.
const READY: &str = "ready";
/// Tells the program that it has been restored.
const GO: &str = "go";
/// What the restored program found: the clock (nanoseconds since the epoch) and its PID namespace, a line each.
const FIRST: &str = "first-instruction";

/// How long filling the memory may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the program's memory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Contents {
    /// No codec makes it smaller.
    Incompressible,
    /// Every word four times: as much as lz4 finds in ordinary data.
    Compressible,
}

impl Contents {
    /// Each word comes so often.
    fn repeats(self) -> usize {
        match self {
            Self::Incompressible => 1,
            Self::Compressible => 4,
        }
    }

    /// As it is given on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Incompressible => "incompressible",
            Self::Compressible => "compressible",
        }
    }
}

/// The program: holds memory and runs without a rest until it is told that it has been restored.
pub fn run(dir: &Path, bytes: u64, contents: Contents) -> Result<()> {
    // What the bench itself was started with (a pipe of make or cargo, say) is not the program's.
    ckpt_trace::sys::close_range(3, u32::MAX);
    // The bench may be killed; the program must not spin for ever.
    set_parent_process_death_signal(Some(Signal::KILL)).context("ask for the parent's death")?;
    let memory = filled(bytes, contents)?;
    let go = dir.join(GO);
    fs::write(dir.join(READY), "").context("say that the memory is filled")?;
    // In this order a restore into any place of the loop tells the truth: the clock is read after `go` was seen, and
    // `go` appears only after the checkpoint.
    while !go.exists() {}
    let now = since_epoch()?;
    let unfinished = dir.join("unfinished");
    fs::write(&unfinished, format!("{}\n{}\n", now.as_nanos(), pid_namespace()?))
        .context("tell the first instruction")?;
    fs::rename(&unfinished, dir.join(FIRST)).context("tell the first instruction")?;
    black_box(&memory);
    Ok(())
}

/// Memory that no codec makes smaller, every page of it touched.
pub fn incompressible(bytes: u64) -> Result<Vec<u8>> {
    filled(bytes, Contents::Incompressible)
}

/// Memory, every page of it touched (xorshift64, Marsaglia 2003).
fn filled(bytes: u64, contents: Contents) -> Result<Vec<u8>> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let bytes = usize::try_from(bytes).context("the size does not fit into memory")?;
    let mut memory = Vec::with_capacity(bytes);
    while memory.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        for _ in 0..contents.repeats() {
            let word = state.to_ne_bytes();
            memory.extend_from_slice(&word[..word.len().min(bytes - memory.len())]);
        }
    }
    Ok(memory)
}

/// This executable: the bench plays all parts itself.
pub fn own_executable() -> Result<PathBuf> {
    std::env::current_exe().context("find the bench's own executable")
}

/// The time of day, which no namespace changes.
pub fn since_epoch() -> Result<Duration> {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock is before 1970")
}

/// The bench's hold on the running program: it ends with this value.
#[derive(Debug)]
pub struct Program {
    child: Child,
    pid: Pid,
}

impl Program {
    /// Starts it, and waits until it has filled its memory.
    pub fn start(dir: &Path, bytes: u64, contents: Contents) -> Result<Self> {
        let child = Command::new(own_executable()?)
            .arg("program")
            .arg(dir)
            .arg(bytes.to_string())
            .arg(contents.name())
            // It is to begin with three plain descriptors and nothing of the bench's surroundings.
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the program")?;
        let pid = Pid::from_child(&child);
        let mut program = Self { child, pid };
        wait_until_ready(dir, || match program.child.try_wait().context("look at the program")? {
            Some(status) => bail!("the program ended before it was measured: {status}"),
            None => Ok(()),
        })?;
        Ok(program)
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Lets something else have the machine for itself.
    pub fn hold(&self) -> Result<()> {
        kill_process(self.pid, Signal::STOP).context("stop the program")
    }

    /// After [`Program::hold`].
    pub fn go_on(&self) -> Result<()> {
        kill_process(self.pid, Signal::CONT).context("let the program go on")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait().map(drop));
        if let Err(error) = ended {
            eprintln!("process {} could not be ended: {error}", self.pid());
        }
    }
}

/// Waits until the program in `dir` has filled its memory; `look` says that it still can.
pub fn wait_until_ready(dir: &Path, mut look: impl FnMut() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !dir.join(READY).exists() {
        look()?;
        if Instant::now() > deadline {
            bail!("the program did not fill its memory in {} s", PATIENCE.as_secs());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// From now on a restored program tells when it runs.
pub fn arm(dir: &Path) -> Result<()> {
    fs::write(dir.join(GO), "").context("tell the program that it is restored")
}

/// A restored program's first instruction.
#[derive(Debug, Clone, Copy)]
pub struct FirstInstruction {
    /// When it ran, since the epoch.
    pub at: Duration,
    /// Whether in a PID namespace of its own.
    pub is_in_nest: bool,
}

impl FirstInstruction {
    /// What the restored program told, once for every restore.
    pub fn take(dir: &Path) -> Result<Self> {
        let path = dir.join(FIRST);
        let text = fs::read_to_string(&path).context("the restored program did not run")?;
        fs::remove_file(&path).context("forget when the program ran")?;
        let (nanoseconds, namespace) = text.trim().split_once('\n').context("understand the restored program")?;
        let nanoseconds: u64 = nanoseconds.parse().context("understand the restored program")?;
        Ok(Self { at: Duration::from_nanos(nanoseconds), is_in_nest: namespace != pid_namespace()? })
    }
}

fn pid_namespace() -> Result<String> {
    let link = fs::read_link("/proc/self/ns/pid").context("ask for the PID namespace")?;
    Ok(link.to_string_lossy().into_owned())
}
