//! Where jobs are written down. Only this module knows that it is a directory.
//!
//! A job has a directory of its own in `$XDG_STATE_HOME/ckptctl/jobs` (by default `~/.local/state`), with its
//! description in `job.json`. An ended job stays on the list until its name is taken again.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use ckpt_core::Class;
use ckpt_core::proc::Stat;
use ckpt_core::resource::bytes::Bytes;
use ckpt_transfer::directories;
use ckpt_transfer::protocol::{Ending, JobState};
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::schedule::Schedule;
use crate::failure::Failure;
use crate::supervisor::Log;
use crate::{door, text};

const DESCRIPTION: &str = "job.json";
const ENDING: &str = "ending.json";
const LOCK: &str = ".lock";
/// Keeps room for a description where the disk becomes full.
const SPARE: &str = "spare";
const ROOM: usize = 16 << 10;
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
    /// How it ended, if that was seen.
    pub ending: Option<JobEnding>,
    /// What keeps it; none for one that was started by a version without keepers.
    #[serde(default)]
    pub keeper: Option<ProcessId>,
    /// Which of its standard descriptors are pipes that the supervisor relays.
    #[serde(default)]
    pub pipes: Vec<i32>,
    /// The directory of its sockets.
    #[serde(default)]
    pub sockets: Option<Bytes>,
    /// The other host where it runs.
    #[serde(default)]
    pub host: Option<String>,
    /// Its name there.
    #[serde(default)]
    pub name_there: Option<String>,
    /// Whether it came from elsewhere: another machine has the job, and this one only its program.
    #[serde(default)]
    pub visiting: bool,
    /// What the user should know before it is restored.
    #[serde(default)]
    pub doubt: Option<String>,
    /// A move under way that may not be forgotten.
    #[serde(default)]
    pub moving: Option<Moving>,
    /// The image that was complete when it was ended.
    #[serde(default)]
    pub saved: Option<Bytes>,
    /// When it is saved by itself.
    #[serde(default)]
    pub schedule: Option<Schedule>,
}

/// A move that a program is in the middle of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// The move.
    pub txn: String,
    /// Where it goes.
    pub to: String,
    /// The job's name there.
    pub name_there: String,
    /// How far it is.
    pub phase: Phase,
}

/// How far a move is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The program here may not run any more until it is known that it does not run there.
    Parked,
    /// It runs there; what is left here is to be ended.
    Discarding {
        /// Whether the job stays here.
        relay: bool,
    },
    /// It is built here and may have been let go.
    Arriving {
        /// Where it was, if this is its home.
        from: Option<String>,
        /// Its name there.
        name: Option<String>,
    },
    /// The program moves between two other machines, from `host`.
    Elsewhere,
    /// It was saved here because nobody knew whether it runs there.
    Doubt,
}

/// A process that is not taken for a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEnding {
    /// Its exit status; 128+N when signal N ended it.
    pub status: i32,
    /// The signal, if one ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// When, in seconds since 1970.
    pub at: u64,
}

impl Job {
    /// A job whose program was just started.
    pub fn new(name: &str, process: ProcessId, command: Vec<Bytes>, directory: Bytes) -> Self {
        Self {
            name: name.to_owned(),
            pid: process.pid,
            start_ticks: process.start_ticks,
            boot: boot(),
            command,
            directory,
            started: now(),
            ending: None,
            keeper: None,
            pipes: Vec::new(),
            sockets: None,
            host: None,
            name_there: None,
            visiting: false,
            doubt: None,
            moving: None,
            saved: None,
            schedule: None,
        }
    }

    /// Whether nothing of it runs any more, anywhere.
    pub fn is_over(&self) -> bool {
        matches!(self.state(), JobState::Ended | JobState::Saved)
    }

    /// The job as it is when what was left of it here has been ended, because it runs elsewhere, and only that was not written
    /// down: its end is not the job's. `None`: it was only a guest here.
    fn unless_discarded(self) -> Option<Self> {
        let process = ProcessId { pid: self.pid, start_ticks: self.start_ticks };
        match &self.moving {
            Some(Moving { phase: Phase::Discarding { relay }, to, name_there, .. })
                if self.is_of_another_boot() || !process.lives() =>
            {
                let (host, name_there) = (Some(to.clone()), Some(name_there.clone()));
                let away = Self { host, name_there, moving: None, ending: None, keeper: None, ..self.clone() };
                relay.then_some(Self { pid: 0, start_ticks: 0, ..away })
            }
            _ => Some(self),
        }
    }

    /// Whether the machine was started again since.
    pub fn is_of_another_boot(&self) -> bool {
        self.boot != boot()
    }

    /// What it is doing now.
    pub fn state(&self) -> JobState {
        if self.saved.is_some() {
            return JobState::Saved;
        }
        if self.ending.is_some() {
            return JobState::Ended;
        }
        if self.host.is_some() {
            return JobState::Running;
        }
        if self.is_of_another_boot() {
            return JobState::Ended;
        }
        match (ProcessId { pid: self.pid, start_ticks: self.start_ticks }.state()) {
            // As long as its keeper lives, it is about to tell how it ended.
            None | Some('Z' | 'X') if self.keeper.is_some_and(ProcessId::lives) => JobState::Running,
            None | Some('Z' | 'X') => JobState::Ended,
            Some('T' | 't') => JobState::Stopped,
            Some(_) => JobState::Running,
        }
    }
}

impl ProcessId {
    /// Of a process that runs now.
    pub fn of(pid: i32) -> anyhow::Result<Self> {
        let stat =
            Stat::of(pid).with_context(|| format!("process {pid} cannot be looked at; see that /proc is mounted"))?;
        Ok(Self { pid, start_ticks: stat.starttime })
    }

    /// Its state letter, as `/proc` tells it; `None` when it is gone.
    pub fn state(self) -> Option<char> {
        Stat::of(self.pid).ok().filter(|stat| stat.starttime == self.start_ticks).map(|stat| stat.state)
    }

    /// Whether it is there and no zombie.
    pub fn lives(self) -> bool {
        self.state().is_some_and(|state| !matches!(state, 'Z' | 'X'))
    }
}

/// As a shell tells how a program ended.
pub fn status(ending: Ending) -> i32 {
    match ending {
        Ending::Exited(status) => status,
        Ending::Signaled(signal) => 128 + signal,
    }
}

/// An ending as the keeper writes it down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct WrittenEnding {
    process: ProcessId,
    ending: JobEnding,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

impl JobEnding {
    /// An ending just now.
    pub fn now(ending: Ending) -> Self {
        let signal = if let Ending::Signaled(signal) = ending { Some(signal) } else { None };
        Self { status: status(ending), signal, at: now() }
    }

    /// How it ended.
    pub fn ending(self) -> Ending {
        self.signal.map_or(Ending::Exited(self.status), Ending::Signaled)
    }
}

/// All jobs of a user.
#[derive(Debug, Clone)]
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
        let state = directories::base("XDG_STATE_HOME", ".local/state");
        let state = state.context("there is no directory for jobs; set HOME or XDG_STATE_HOME")?;
        Ok(Self { root: state.join("ckptctl/jobs") })
    }

    /// That in a directory.
    #[cfg(test)]
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where the fates of moves are written down.
    pub fn moves(&self) -> PathBuf {
        self.root.with_file_name("moves")
    }

    /// The directory of all.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All jobs, by name, but for those of [`Self::damaged`].
    pub fn all(&self) -> anyhow::Result<Vec<Job>> {
        Ok(self.names()?.iter().filter_map(|name| self.find(name).ok().flatten()).collect())
    }

    /// The names of jobs that cannot be read, and why.
    pub fn damaged(&self) -> anyhow::Result<Vec<(String, anyhow::Error)>> {
        let damaged = |name: String| self.find(&name).err().map(|why| (name, why));
        Ok(self.names()?.into_iter().filter_map(damaged).collect())
    }

    fn names(&self) -> anyhow::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("cannot read {}", text::path(&self.root)))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.with_context(|| format!("cannot read {}", text::path(&self.root)))?.file_name();
            names.extend(name.to_str().filter(|name| is_name(name)).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// The job of a name, which has not ended.
    pub fn living(&self, name: &str) -> anyhow::Result<Job> {
        self.living_or(name, "`ckptctl ps` lists the jobs")
    }

    /// The job of a name, which has not ended, or what to do instead.
    pub fn living_or(&self, name: &str, advice: &str) -> anyhow::Result<Job> {
        let fail = |what: &str| {
            let message = format!("{what} {}; {advice}", text::quoted(name));
            Err(Failure::new(Class::Failed, message).into())
        };
        match is_name(name).then(|| self.find(name)).transpose()?.flatten() {
            None => fail("there is no job"),
            Some(job) if job.is_over() => fail("there is no running job"),
            Some(job) => Ok(job),
        }
    }

    /// The job of a name, in whatever state it is.
    pub fn job(&self, name: &str) -> anyhow::Result<Job> {
        is_name(name).then(|| self.find(name)).transpose()?.flatten().ok_or_else(|| {
            Failure::new(Class::Failed, format!("there is no job {}; `ckptctl ps` lists the jobs", text::quoted(name)))
                .into()
        })
    }

    /// The job of a word, if it names one.
    pub fn known(&self, word: &str) -> anyhow::Result<Option<Job>> {
        if is_name(word) { self.find(word) } else { Ok(None) }
    }

    /// Where all that belongs to a job is kept.
    pub fn directory(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Removes what was prepared for a job of which nothing came: it has neither a description nor checkpoints.
    pub fn drop_unused(&self, name: &str) {
        let directory = self.directory(name);
        if !directory.join(DESCRIPTION).exists() && !directory.join("history").exists() {
            // What cannot be removed is no job either, without its description.
            let _ = fs::remove_dir_all(&directory);
        }
    }

    /// Where the sockets of jobs may be.
    pub fn doors(&self) -> Vec<PathBuf> {
        door::places(&self.root)
    }

    /// Where those of a job may be: where they were, and where they go when that place goes.
    pub fn doors_of(&self, job: &Job) -> Vec<PathBuf> {
        let mut places: Vec<PathBuf> = job.sockets.iter().map(path_of).collect();
        places.extend(self.doors());
        places.dedup();
        places
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

    /// Claims a name that this machine knows nothing of, for a job that comes from elsewhere or begins beside another: the given
    /// one, or one like it.
    pub fn claim_unknown(&self, name: &str) -> anyhow::Result<Claim<'_>> {
        if !is_name(name) {
            return Err(Failure::new(Class::Usage, format!("{} is no name for a job", text::quoted(name))).into());
        }
        let base = name_of(Path::new(name));
        let numbered = (2..).map(|number| format!("{base}-{number}"));
        let free = std::iter::once(name.to_owned()).chain(numbered).find(|name| !self.root.join(name).exists());
        self.claim(Some(&free.unwrap_or_else(|| name.to_owned())), Path::new(name))
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
        match self.find(name)?.filter(|job| !job.is_over()) {
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
            if self.find(&name)?.is_none_or(|job| job.is_over()) {
                return Ok(name);
            }
        }
        Ok(base.to_owned())
    }

    /// The job of a name, if there is one.
    pub fn find(&self, name: &str) -> anyhow::Result<Option<Job>> {
        let directory = self.root.join(name);
        let Some(mut job) = read_json::<Job>(&directory.join(DESCRIPTION))? else { return Ok(None) };
        if job.ending.is_none()
            && let Some(written) = read_json::<WrittenEnding>(&directory.join(ENDING))?
            && written.process == (ProcessId { pid: job.pid, start_ticks: job.start_ticks })
        {
            job.ending = Some(written.ending);
        }
        Ok(job.unless_discarded())
    }

    /// Writes a job down, also on a full disk: room for that is kept.
    pub fn put(&self, job: &Job) -> anyhow::Result<()> {
        let directory = self.root.join(&job.name);
        let spare = directory.join(SPARE);
        let result = match write_json(&directory, DESCRIPTION, job) {
            Err(error) if is_full(&error) && fs::remove_file(&spare).is_ok() => {
                write_json(&directory, DESCRIPTION, job)
            }
            result => result,
        };
        if !spare.exists() && fs::write(&spare, [0; ROOM]).is_err() {
            // Half of it would only be in the way. It is made when there is room again.
            let _ = fs::remove_file(&spare);
        }
        result
    }
}

/// Whether a disk had no room.
fn is_full(error: &anyhow::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    kinds.into_iter().any(|kind| matches!(kind, StorageFull | QuotaExceeded))
}

/// A path that was written down.
pub fn path_of(bytes: &Bytes) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(&bytes.0))
}

/// Writes down how the program of the job of a directory ended. Only keepers do that.
pub fn write_ending(directory: &Path, process: ProcessId, ending: JobEnding) -> anyhow::Result<()> {
    write_json(directory, ENDING, &WrittenEnding { process, ending })
}

/// Reads a JSON file; `None` when it is not there.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let text = match fs::read(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        text => text.with_context(|| format!("cannot read {}", text::path(path)))?,
    };
    let value = serde_json::from_slice(&text);
    value.map(Some).with_context(|| format!("{} is not understood; remove it", text::path(path)))
}

/// Writes a JSON file that is there whole or not at all.
pub fn write_json(directory: &Path, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
    let write = || -> anyhow::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(&serde_json::to_vec_pretty(value)?)?;
        file.persist(directory.join(name))?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {} in {}", name, text::path(directory)))
}

impl Claim<'_> {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the name's directory, and forgets the job that had the name before, but for its checkpoints.
    pub fn prepare(&self) -> anyhow::Result<PathBuf> {
        let directory = self.store.directory(&self.name);
        let prepare = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
            for name in [DESCRIPTION, ENDING] {
                match fs::remove_file(directory.join(name)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            Log::remove(&directory)
        };
        prepare().with_context(|| format!("cannot prepare {}", text::path(&directory)))?;
        Ok(directory)
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
        let process = ProcessId::of(pid).unwrap();
        Job::new(name, process, vec![Bytes(b"prog".to_vec())], Bytes(b"/tmp/\xff".to_vec()))
    }

    #[test]
    fn a_living_job_keeps_its_name_and_an_ended_one_gives_it_back() {
        let (_directory, store) = store();
        assert!(store.all().unwrap().is_empty());
        let job = this_process("sim");
        store.claim(Some("sim"), Path::new("/bin/sim")).unwrap().prepare().unwrap();
        store.put(&job).unwrap();
        assert_eq!(store.living("sim").unwrap(), job);
        let refused = store.claim(Some("sim"), Path::new("/bin/sim")).err().unwrap();
        assert!(refused.to_string().contains("running already"), "{refused}");
        assert_eq!(store.claim(None, Path::new("/bin/sim")).unwrap().name(), "sim-2");

        let process = ProcessId { pid: job.pid, start_ticks: job.start_ticks };
        let ending = JobEnding::now(Ending::Signaled(9));
        write_ending(&store.directory("sim"), process, ending).unwrap();
        assert_eq!(store.all().unwrap()[0].ending.unwrap().status, 137);
        assert_eq!(store.job("sim").unwrap().ending.unwrap().ending(), Ending::Signaled(9));
        let refused = store.living("sim").unwrap_err().to_string();
        assert_eq!(refused, "there is no running job sim; `ckptctl ps` lists the jobs");
        let claim = store.claim(Some("sim"), Path::new("/bin/sim")).unwrap();
        assert_eq!(claim.name(), "sim");
        claim.prepare().unwrap();
        assert!(store.job("sim").is_err());
    }

    #[test]
    fn a_name_that_nothing_is_known_of() {
        let (_directory, store) = store();
        let ended = Job { pid: i32::MAX, ..this_process("sim") };
        store.put(&ended).unwrap();
        assert_eq!(store.claim(None, Path::new("sim")).unwrap().name(), "sim");
        assert_eq!(store.claim_unknown("sim").unwrap().name(), "sim-2");
        fs::create_dir(store.directory("sim-2")).unwrap();
        assert_eq!(store.claim_unknown("sim").unwrap().name(), "sim-3");
        assert_eq!(store.claim_unknown("other").unwrap().name(), "other");
        let longest = "x".repeat(LONGEST_NAME);
        fs::create_dir(store.directory(&longest)).unwrap();
        assert!(is_name(store.claim_unknown(&longest).unwrap().name()));
    }

    #[test]
    fn a_damaged_job_hides_no_other() {
        let (_directory, store) = store();
        store.put(&this_process("sim")).unwrap();
        fs::create_dir_all(store.directory("bad")).unwrap();
        fs::write(store.directory("bad").join(DESCRIPTION), "{\"name\": ").unwrap();
        assert_eq!(store.all().unwrap().len(), 1);
        let damaged = store.damaged().unwrap();
        assert!(damaged.len() == 1 && damaged[0].0 == "bad" && format!("{:#}", damaged[0].1).contains("job.json"));
    }

    #[test]
    fn what_was_ended_because_it_runs_elsewhere_has_not_ended() {
        let (_directory, store) = store();
        let phase = |relay| Phase::Discarding { relay };
        let moving =
            |relay| Moving { txn: "1".into(), to: "a".into(), name_there: "sim-2".into(), phase: phase(relay) };
        let mut job = Job { moving: Some(moving(true)), ..this_process("sim") };
        store.put(&job).unwrap();
        assert_eq!(store.job("sim").unwrap(), job, "it is still there");

        job.start_ticks += 1;
        store.put(&job).unwrap();
        let process = ProcessId { pid: job.pid, start_ticks: job.start_ticks };
        write_ending(&store.directory("sim"), process, JobEnding::now(Ending::Signaled(9))).unwrap();
        let away = store.job("sim").unwrap();
        assert_eq!((away.state(), away.host.as_deref()), (JobState::Running, Some("a")));
        assert_eq!((away.name_there.as_deref(), away.moving, away.ending), (Some("sim-2"), None, None));

        store.put(&Job { moving: Some(moving(false)), ..job }).unwrap();
        assert!(store.job("sim").is_err(), "a guest has left");
    }

    #[test]
    fn a_job_of_the_first_version_is_still_read() {
        let (_directory, store) = store();
        let old = r#"{"name":"sim","pid":7,"start_ticks":8,"boot":"b","command":["sim"],"directory":"/","started":9,"ending":{"status":3,"at":10}}"#;
        fs::create_dir_all(store.directory("sim")).unwrap();
        fs::write(store.directory("sim").join(DESCRIPTION), old).unwrap();
        let job = store.job("sim").unwrap();
        assert_eq!((job.state(), job.keeper, job.ending.unwrap().ending()), (JobState::Ended, None, Ending::Exited(3)));
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
    fn the_end_of_a_job_is_not_that_of_its_successor() {
        let (_directory, store) = store();
        let job = this_process("sim");
        store.put(&job).unwrap();
        let earlier = ProcessId { pid: job.pid, start_ticks: job.start_ticks + 1 };
        write_ending(&store.directory("sim"), earlier, JobEnding::now(Ending::Exited(0))).unwrap();
        assert_eq!(store.all().unwrap(), [job]);
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
