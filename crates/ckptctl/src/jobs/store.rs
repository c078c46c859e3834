//! Where jobs are written down. Only this module knows that it is a directory.
//!
//! A job has a directory of its own in `$XDG_STATE_HOME/ckptctl/jobs` (by default `~/.local/state`), with its
//! description in `job.json`. An ended job stays on the list until its name is taken again.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use ckpt_core::Class;
use ckpt_core::proc::Stat;
use ckpt_core::resource::bytes::Bytes;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::text;

const DESCRIPTION: &str = "job.json";
const LOCK: &str = ".lock";
const LONGEST_NAME: usize = 64;

/// A job as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// The process.
    pub pid: i32,
    /// When the process started, in clock ticks since boot: another process of the same number started later.
    pub start_ticks: u64,
    /// Which boot of the machine that was.
    pub boot: String,
    /// The program and its arguments.
    pub command: Vec<Bytes>,
    /// Where it was started.
    pub directory: Bytes,
    /// When, in seconds since 1970.
    pub started: u64,
    /// How it ended, if `run` saw it.
    pub ending: Option<JobEnding>,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEnding {
    /// Its exit status; 128+N when signal N ended it.
    pub status: i32,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It runs, or waits for something.
    Running,
    /// A signal or a debugger holds it.
    Stopped,
    /// There is no such process any more.
    Ended,
}

impl Job {
    /// Describes the process `pid`, which was just started.
    pub fn describe(name: &str, pid: i32, command: Vec<Bytes>, directory: Bytes) -> anyhow::Result<Self> {
        let stat =
            Stat::of(pid).context("the program that was started cannot be looked at; see that /proc is mounted")?;
        Ok(Self {
            name: name.to_owned(),
            pid,
            start_ticks: stat.starttime,
            boot: boot(),
            command,
            directory,
            started: now(),
            ending: None,
        })
    }

    /// What it is doing now.
    pub fn state(&self) -> JobState {
        if self.ending.is_some() || self.boot != boot() {
            return JobState::Ended;
        }
        match Stat::of(self.pid) {
            Ok(stat) if stat.starttime != self.start_ticks => JobState::Ended,
            Ok(stat) if matches!(stat.state, 'Z' | 'X') => JobState::Ended,
            Ok(stat) if matches!(stat.state, 'T' | 't') => JobState::Stopped,
            Ok(_) => JobState::Running,
            Err(_) => JobState::Ended,
        }
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// All jobs of a user.
pub struct JobStore {
    root: PathBuf,
}

/// A name that nobody else can take until this is dropped.
pub struct Claim<'a> {
    store: &'a JobStore,
    name: String,
    /// Locked as long as it is open.
    _lock: File,
}

impl JobStore {
    /// The user's jobs.
    pub fn open() -> anyhow::Result<Self> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
        let state = state.context("there is no directory for jobs; set HOME or XDG_STATE_HOME")?;
        Ok(Self { root: state.join("ckptctl/jobs") })
    }

    /// All jobs, by name.
    pub fn all(&self) -> anyhow::Result<Vec<Job>> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("cannot read {}", text::path(&self.root)))?,
        };
        let mut jobs = Vec::new();
        for entry in entries {
            let name = entry.with_context(|| format!("cannot read {}", text::path(&self.root)))?.file_name();
            if let Some(name) = name.to_str().filter(|name| is_name(name)) {
                jobs.extend(self.find(name)?);
            }
        }
        jobs.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(jobs)
    }

    /// The job of a name, which has not ended.
    pub fn living(&self, name: &str) -> anyhow::Result<Job> {
        let fail = |what: &str| {
            let message =
                format!("{what} {}; `ckptctl ps` lists the jobs, and --pid takes any process", text::quoted(name));
            Err(Failure::new(Class::Failed, message).into())
        };
        match is_name(name).then(|| self.find(name)).transpose()?.flatten() {
            None => fail("there is no job"),
            Some(job) if job.state() == JobState::Ended => fail("there is no running job"),
            Some(job) => Ok(job),
        }
    }

    /// Claims the wanted name, or one made of the program's that no living job has.
    pub fn claim(&self, wanted: Option<&str>, program: &Path) -> anyhow::Result<Claim<'_>> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .with_context(|| format!("cannot make the directory {} for jobs", text::path(&self.root)))?;
        let path = self.root.join(LOCK);
        let lock = File::create(&path).with_context(|| format!("cannot write {}", text::path(&path)))?;
        flock(&lock, FlockOperation::LockExclusive).with_context(|| format!("cannot lock {}", text::path(&path)))?;
        let name = match wanted {
            Some(name) => {
                self.check(name)?;
                name.to_owned()
            }
            None => self.unique(&name_of(program))?,
        };
        Ok(Claim { store: self, name, _lock: lock })
    }

    fn check(&self, name: &str) -> anyhow::Result<()> {
        if !is_name(name) {
            let rule = "letters, digits, '.', '_' and '-', at most 64, and begins with a letter or digit";
            return Err(Failure::new(
                Class::Usage,
                format!("{} is no name for a job; one has {rule}", text::quoted(name)),
            )
            .into());
        }
        match self.find(name)?.filter(|job| job.state() != JobState::Ended) {
            Some(job) => {
                let message =
                    format!("the job {name} is running already (process {}); choose another name with --name", job.pid);
                Err(Failure::new(Class::Failed, message).into())
            }
            None => Ok(()),
        }
    }

    fn unique(&self, base: &str) -> anyhow::Result<String> {
        let numbered = (2..).map(|number| format!("{base}-{number}"));
        for name in std::iter::once(base.to_owned()).chain(numbered) {
            if self.find(&name)?.is_none_or(|job| job.state() == JobState::Ended) {
                return Ok(name);
            }
        }
        Ok(base.to_owned())
    }

    fn find(&self, name: &str) -> anyhow::Result<Option<Job>> {
        let path = self.root.join(name).join(DESCRIPTION);
        let text = match fs::read(&path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            text => text.with_context(|| format!("cannot read {}", text::path(&path)))?,
        };
        let job = serde_json::from_slice(&text);
        job.map(Some).with_context(|| format!("{} is not understood; remove it", text::path(&path)))
    }

    fn put(&self, job: &Job) -> anyhow::Result<()> {
        let directory = self.root.join(&job.name);
        let write = || -> anyhow::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
            let mut file = tempfile::NamedTempFile::new_in(&directory)?;
            file.write_all(&serde_json::to_vec_pretty(job)?)?;
            file.persist(directory.join(DESCRIPTION))?;
            Ok(())
        };
        write().with_context(|| format!("cannot write down the job in {}", text::path(&directory)))
    }

    /// Writes down how a job ended, unless its name was taken again meanwhile.
    pub fn ended(&self, job: &Job, status: i32) -> anyhow::Result<()> {
        let is_ours = |known: Job| (known.pid, known.start_ticks) == (job.pid, job.start_ticks);
        if self.find(&job.name)?.is_some_and(is_ours) {
            self.put(&Job { ending: Some(JobEnding { status, at: now() }), ..job.clone() })?;
        }
        Ok(())
    }
}

impl Claim<'_> {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes the job down under the name.
    pub fn register(self, job: &Job) -> anyhow::Result<()> {
        self.store.put(job)
    }
}

fn is_name(name: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    name.len() <= LONGEST_NAME && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(is_allowed)
}

/// A job's name made of the name of its program.
fn name_of(program: &Path) -> String {
    const ROOM_FOR_NUMBER: usize = 8;
    let file = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let cleaned: String =
        file.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
    let cleaned = cleaned.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let cleaned: String = cleaned.chars().take(LONGEST_NAME - ROOM_FOR_NUMBER).collect();
    if cleaned.is_empty() { "job".to_owned() } else { cleaned }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use super::*;

    fn store() -> (tempfile::TempDir, JobStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = JobStore { root: directory.path().join("state/jobs") };
        (directory, store)
    }

    fn this_process(name: &str) -> Job {
        let pid = i32::try_from(std::process::id()).unwrap();
        Job::describe(name, pid, vec![Bytes(b"prog".to_vec())], Bytes(b"/tmp/\xff".to_vec())).unwrap()
    }

    #[test]
    fn a_living_job_keeps_its_name_and_an_ended_one_gives_it_back() {
        let (_directory, store) = store();
        assert!(store.all().unwrap().is_empty());
        let job = this_process("sim");
        store.claim(Some("sim"), Path::new("/bin/sim")).unwrap().register(&job).unwrap();
        assert_eq!(store.living("sim").unwrap(), job);
        let refused = store.claim(Some("sim"), Path::new("/bin/sim")).err().unwrap();
        assert!(refused.to_string().contains("running already"), "{refused}");
        assert_eq!(store.claim(None, Path::new("/bin/sim")).unwrap().name(), "sim-2");

        store.ended(&job, 137).unwrap();
        assert_eq!(store.all().unwrap()[0].ending.unwrap().status, 137);
        assert!(store.living("sim").is_err());
        assert_eq!(store.claim(Some("sim"), Path::new("/bin/sim")).unwrap().name(), "sim");
    }

    #[test]
    fn another_process_of_the_same_number_is_not_the_job() {
        let job = this_process("sim");
        assert_ne!(job.state(), JobState::Ended);
        assert_eq!(Job { start_ticks: job.start_ticks + 1, ..job.clone() }.state(), JobState::Ended);
        assert_eq!(Job { boot: "another".to_owned(), ..job.clone() }.state(), JobState::Ended);
        assert_eq!(Job { pid: i32::MAX, ..job }.state(), JobState::Ended);
    }

    #[test]
    fn the_end_of_a_job_does_not_overwrite_its_successor() {
        let (_directory, store) = store();
        let old = this_process("sim");
        let new = Job { start_ticks: old.start_ticks + 1, ..old.clone() };
        store.claim(Some("sim"), Path::new("sim")).unwrap().register(&new).unwrap();
        store.ended(&old, 0).unwrap();
        assert_eq!(store.all().unwrap(), [new]);
    }

    #[test]
    fn names_stay_within_the_directory() {
        for bad in ["", "..", ".hidden", "a/b", "-x", "a b", &"x".repeat(65), "\u{e9}"] {
            assert!(!is_name(bad), "{bad:?}");
        }
        for good in ["sim", "a.out", "x86_64-linux", "3"] {
            assert!(is_name(good), "{good:?}");
        }
        for program in ["/usr/bin/python3", "./a b", "..", "/", "-", "\u{e9}"] {
            assert!(is_name(&name_of(Path::new(program))), "{program:?}");
        }
        assert_eq!(name_of(Path::new("./a b")), "a_b");
        assert_eq!(name_of(Path::new("/")), "job");
    }
}
