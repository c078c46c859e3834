//! `ps`: the jobs and what they are doing.

use std::path::Path;

use ckpt_core::proc;
use ckpt_core::resource::bytes::Bytes;
use ckpt_transfer::hosts::LOCAL;
use ckpt_transfer::protocol::{Ending, JobState, JobStatus};
use serde::Serialize;

use super::everywhere::everywhere;
use super::history::{Contents, History};
use super::store::{self, Job, JobStore, Phase};
use crate::cli::PsArgs;
use crate::supervisor::{Log, last_line};
use crate::this_machine::free_space;
use crate::{failure, output, text};

/// A job as it is listed.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    job: JobStatus,
    /// The exit status of one that has ended; 128+N when signal N ended it.
    status: Option<i32>,
    /// Seconds since it was started, until it ended.
    age: u64,
}

/// Lists the jobs.
pub fn ps(args: &PsArgs) -> anyhow::Result<i32> {
    let store = JobStore::open()?;
    let jobs = if args.local { statuses(&store)? } else { everywhere(&store)? };
    let listed: Vec<Listed> = jobs.into_iter().map(Listed::from).collect();
    if args.json {
        output::print_json(&serde_json::json!({ "jobs": listed }))?;
    } else {
        output::print(&table(&listed))?;
    }
    Ok(0)
}

/// What all jobs of this machine are doing.
pub fn statuses(store: &JobStore) -> anyhow::Result<Vec<JobStatus>> {
    let mut jobs: Vec<JobStatus> = store.all()?.iter().map(|job| status_of(store, job)).collect();
    jobs.extend(store.damaged()?.into_iter().map(|(name, why)| damaged(name, &why)));
    Ok(jobs)
}

/// A job of which only the name is known.
fn damaged(name: String, why: &anyhow::Error) -> JobStatus {
    JobStatus {
        name,
        state: JobState::Ended,
        host: LOCAL.to_owned(),
        pid: None,
        memory: None,
        cpu: None,
        checkpoints: 0,
        last_checkpoint: None,
        started: store::now(),
        command: Vec::new(),
        directory: Bytes::default(),
        ending: None,
        ended: None,
        last_line: String::new(),
        note: Some(crate::failure::line(why)),
    }
}

/// What a job is doing, as far as that can be seen from outside its supervisor.
pub fn status_of(store: &JobStore, job: &Job) -> JobStatus {
    let directory = store.directory(&job.name);
    let contents = History::of(&directory).contents();
    let state = job.state();
    let lives = matches!(state, JobState::Running | JobState::Stopped) && job.host.is_none();
    let pid = lives.then_some(job.pid);
    let note = [note(job, &directory, state, &contents), history_note(&job.name, &contents)].into_iter().flatten();
    let note = note.reduce(|one, other| format!("{one}; {other}"));
    let history = contents.map(|contents| contents.whole).unwrap_or_default();
    JobStatus {
        name: job.name.clone(),
        state,
        host: job.host.clone().unwrap_or_else(|| LOCAL.to_owned()),
        pid,
        memory: pid.and_then(resident),
        cpu: pid.and_then(cpu),
        checkpoints: u64::try_from(history.len()).unwrap_or(u64::MAX),
        last_checkpoint: history.last().map(|last| last.at),
        started: job.started,
        command: job.command.clone(),
        directory: job.directory.clone(),
        ending: job.ending.map(store::JobEnding::ending),
        ended: job.ending.map(|ending| ending.at),
        last_line: Log::view(&directory).map(|log| last_line(&log)).unwrap_or_default(),
        note,
    }
}

/// What of the history is not among its checkpoints, and why.
fn history_note(name: &str, contents: &anyhow::Result<Contents>) -> Option<String> {
    match contents {
        Err(error) => Some(failure::line(error)),
        Ok(contents) if contents.damaged.is_empty() => None,
        Ok(contents) => {
            let damaged = text::count(contents.damaged.len(), "damaged checkpoint", "damaged checkpoints");
            Some(format!("it has {damaged}: ckptctl history {name}"))
        }
    }
}

/// What the user should know, and can do.
fn note(job: &Job, directory: &Path, state: JobState, contents: &anyhow::Result<Contents>) -> Option<String> {
    let name = &job.name;
    let restore = match contents {
        Ok(contents) if job.saved.is_none() => restore(name, contents),
        _ => format!("bring it back with: ckptctl restore {name}"),
    };
    if let Some(moving) = &job.moving
        && moving.phase == Phase::Parked
    {
        return Some(format!("it is stopped in the middle of a move to {}, which is being settled", moving.to));
    }
    match state {
        JobState::Saved => Some(match &job.doubt {
            Some(doubt) => format!("{doubt}; {restore}"),
            None => restore,
        }),
        JobState::Ended if job.host.is_some() && job.ending.is_some() => {
            let host = job.host.as_deref().unwrap_or_default();
            Some(format!("it ended on {host}; what it wrote there is brought home with: ckptctl fetch {name}"))
        }
        JobState::Ended if job.ending.is_none() && job.is_of_another_boot() => {
            Some(format!("the machine was started again meanwhile; {restore}"))
        }
        JobState::Ended if job.ending.is_none() => Some(format!("nobody saw how it ended; {restore}")),
        JobState::Running | JobState::Stopped
            if job.host.is_none() && job.keeper.is_some_and(|keeper| !keeper.lives()) =>
        {
            Some("its keeper was killed: it runs on without a terminal".to_owned())
        }
        JobState::Running | JobState::Stopped
            if job.host.is_none() && free_space(directory).is_ok_and(|free| free == 0) =>
        {
            let place = text::path(directory);
            Some(format!("no space is left in {place}: what it prints waits until you free some"))
        }
        _ => None,
    }
}

/// What brings a job back from its history.
fn restore(name: &str, Contents { whole, damaged }: &Contents) -> String {
    match (whole.last(), damaged.last()) {
        (None, None) => "it has no checkpoint".to_owned(),
        (None, Some(_)) => "it has no whole checkpoint".to_owned(),
        (Some(last), Some(damaged)) if damaged.number > last.number => {
            format!("bring it back from its last whole checkpoint with: ckptctl restore {name}@{}", last.number)
        }
        (Some(_), _) => format!("bring it back with: ckptctl restore {name}"),
    }
}

/// Resident memory, the second number of `/proc/PID/statm`, which counts pages.
fn resident(pid: i32) -> Option<u64> {
    let text = proc::read(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = std::str::from_utf8(&text).ok()?.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(u64::try_from(rustix::param::page_size()).ok()?)
}

/// CPU time in seconds: `utime` and `stime` of `/proc/PID/stat`, the 14th and 15th fields.
pub fn cpu(pid: i32) -> Option<u64> {
    let text = proc::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut fields = text.rsplit_once(") ")?.1.split(' ').skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    ticks.checked_div(rustix::param::clock_ticks_per_second())
}

impl From<JobStatus> for Listed {
    fn from(job: JobStatus) -> Self {
        let until = job.ended.unwrap_or_else(store::now);
        Self { status: job.ending.map(store::status), age: until.saturating_sub(job.started), job }
    }
}

fn table(jobs: &[Listed]) -> String {
    let rows: Vec<Vec<String>> = jobs
        .iter()
        .map(|Listed { job, age, .. }| {
            let state = match (job.state, job.ending) {
                (JobState::Running, _) => "running".to_owned(),
                (JobState::Stopped, _) => "stopped".to_owned(),
                (JobState::Moving, _) => "moving".to_owned(),
                (JobState::Saved, _) => "saved".to_owned(),
                (JobState::Unreachable, _) => "unreachable".to_owned(),
                (JobState::Ended, Some(Ending::Exited(status))) => format!("ended ({status})"),
                (JobState::Ended, Some(Ending::Signaled(signal))) => format!("signal {signal}"),
                (JobState::Ended, None) => "ended".to_owned(),
            };
            let words: Vec<String> = job.command.iter().map(|word| text::quoted(&word.text())).collect();
            vec![
                job.name.clone(),
                state,
                job.host.clone(),
                job.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
                job.memory.map_or_else(|| "-".to_owned(), text::size),
                job.checkpoints.to_string(),
                text::age(*age),
                text::plain(&words.join(" ")),
            ]
        })
        .collect();
    let headings = ["NAME", "STATE", "HOST", "PID", "MEMORY", "CHECKPOINTS", "AGE", "COMMAND"];
    let mut out = text::table(&headings, &[false, false, false, true, true, true, true, false], &rows);
    for Listed { job, .. } in jobs {
        if let Some(note) = &job.note {
            out.push_str(&text::plain(&format!("{}: {note}", job.name)));
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use ckpt_core::resource::bytes::Bytes;

    use super::*;
    use crate::jobs::history::{Checkpoint, Damaged, Scene};

    #[test]
    fn what_is_damaged_in_a_history_is_noted_and_what_brings_the_job_back() {
        let whole = |number| {
            let scene = Scene::default();
            Checkpoint { number, at: 1, bytes: 1, pages: 1, threads: 1, pause: 0.0, ended: false, scene }
        };
        let damaged = |number| Damaged { number, image: "x".into(), what: "all of it".to_owned() };
        let contents = |whole: &[Checkpoint], damaged| Contents { whole: whole.to_vec(), damaged };
        let job = |contents| restore("sim", &contents);
        assert_eq!(job(contents(&[], vec![])), "it has no checkpoint");
        assert_eq!(job(contents(&[], vec![damaged(1)])), "it has no whole checkpoint");
        assert!(job(contents(&[whole(3)], vec![damaged(1)])).ends_with("ckptctl restore sim"));
        assert!(job(contents(&[whole(3)], vec![damaged(4)])).ends_with("ckptctl restore sim@3"));
        assert_eq!(history_note("sim", &Ok(contents(&[whole(3)], vec![]))), None);
        let note = history_note("sim", &Ok(contents(&[whole(3)], vec![damaged(4)])));
        assert_eq!(note.as_deref(), Some("it has 1 damaged checkpoint: ckptctl history sim"));
        assert_eq!(history_note("sim", &Err(anyhow::anyhow!("gone"))).as_deref(), Some("gone"));
    }

    #[test]
    fn a_row_tells_name_state_and_command_and_a_note_what_to_do() {
        let job = JobStatus {
            name: "sim".to_owned(),
            state: JobState::Ended,
            host: LOCAL.to_owned(),
            pid: None,
            memory: None,
            cpu: None,
            checkpoints: 2,
            last_checkpoint: Some(120),
            started: 100,
            command: vec![Bytes(b"./sim".to_vec()), Bytes(b"a b\x1b".to_vec())],
            directory: Bytes(b"/".to_vec()),
            ending: Some(Ending::Signaled(9)),
            ended: Some(160),
            last_line: String::new(),
            note: Some("bring it back with: ckptctl restore sim".to_owned()),
        };
        let table = table(&[Listed::from(job)]);
        let lines: Vec<&str> = table.lines().collect();
        let row: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(row, ["sim", "signal", "9", "local", "-", "-", "2", "1", "min", "./sim", "'a", "b\\u{1b}'"]);
        assert_eq!(lines[2], "sim: bring it back with: ckptctl restore sim");
    }
}
