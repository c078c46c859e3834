//! The verbs, called as a user calls them, in an environment of the demonstration's own.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::demo::{PATIENCE, cancelled};
use crate::{cancel, text};

/// What every process of the demonstration has in its environment, with a path in its directory.
const MARK: &str = "XDG_RUNTIME_DIR";

/// A place with a home directory and all that ckptctl keeps there, so that nothing of the user's is read or changed.
/// When it is dropped, every process that was started there, or on the throw-away host, is ended.
pub struct Verbs {
    this: PathBuf,
    directory: PathBuf,
}

impl Verbs {
    /// Makes the place in a directory.
    pub fn in_directory(directory: &Path) -> anyhow::Result<Self> {
        let this = std::env::current_exe().context("this program cannot find its own file")?;
        let verbs = Self { this, directory: directory.to_owned() };
        for made in [verbs.work(), verbs.home().join(".ssh"), verbs.runtime()] {
            private_directory(&made)?;
        }
        Ok(verbs)
    }

    /// Where all of it is, here and on the throw-away host.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the throw-away host does not have.
    pub fn here(&self) -> PathBuf {
        self.directory.join("here")
    }

    /// Where the program is.
    pub fn work(&self) -> PathBuf {
        self.here().join("work")
    }

    /// The home directory.
    pub fn home(&self) -> PathBuf {
        self.here().join("home")
    }

    fn runtime(&self) -> PathBuf {
        self.here().join("run")
    }

    /// A command in this environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.work()).env("HOME", self.home()).env(MARK, self.runtime());
        for name in ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "SSH_AUTH_SOCK"] {
            command.env_remove(name);
        }
        command
    }

    /// A verb.
    pub fn verb(&self, words: &[&str]) -> Command {
        let mut command = self.command(&self.this);
        command.args(words);
        command
    }

    /// Runs a verb to its end, and gives what it printed. When the user cancels, so does it.
    pub fn run<S: AsRef<str>>(&self, words: &[S]) -> anyhow::Result<String> {
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        let name = words.first().copied().unwrap_or_default();
        let mut command = self.verb(&words);
        // Ctrl+C on the terminal is for the demonstration, which passes it on.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("`ckptctl {name}` cannot be started"))?;
        let (stdout, stderr) = (reader(child.stdout.take()), reader(child.stderr.take()));
        let deadline = Instant::now() + PATIENCE;
        let mut interrupted = false;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if cancel::is_cancelled() && !interrupted {
                signal(&child, Signal::INT);
                interrupted = true;
            }
            if Instant::now() > deadline {
                signal(&child, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let (said, complained) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
        if cancel::is_cancelled() {
            return Err(cancelled());
        }
        if !status.success() {
            let complained = complained.trim().trim_start_matches("ckptctl: ");
            bail!("`ckptctl {}` did not work ({status}): {complained}", words.join(" "));
        }
        Ok(said)
    }

    /// The same for a verb that prints JSON; and how long it took.
    pub fn run_json(&self, words: &[&str]) -> anyhow::Result<(Value, Duration)> {
        let began = Instant::now();
        let said = self.run(words)?;
        let took = began.elapsed();
        let what = || format!("`ckptctl {}` printed no JSON: {}", words.join(" "), text::plain(said.trim()));
        Ok((serde_json::from_str(&said).with_context(what)?, took))
    }

    /// The processes that were started here or on the throw-away host.
    fn processes(&self) -> Vec<Pid> {
        let mark = [MARK.as_bytes(), b"=", self.directory.as_os_str().as_bytes(), b"/"].concat();
        let is_ours = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(&mark))
        };
        let entries = fs::read_dir("/proc").into_iter().flatten();
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(is_ours).filter_map(Pid::from_raw).collect()
    }
}

impl Drop for Verbs {
    fn drop(&mut self) {
        // A few rounds: what was killed may have just started another one.
        for _ in 0..20 {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            for pid in left {
                // It may have ended meanwhile, which is as good.
                let _ = kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Makes a directory that only its owner may enter.
pub fn private_directory(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot make {}", text::path(path)))
}

fn signal(child: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended meanwhile.
        let _ = kill_process(pid, signal);
    }
}

fn reader(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut said = Vec::new();
        // What was read before an error is what there is to tell.
        let _ = stream.map(|mut stream| stream.read_to_end(&mut said));
        String::from_utf8_lossy(&said).into_owned()
    })
}
