//! The list of jobs, read again and again: what this machine knows at once, what other hosts say of ours now and then.

use std::collections::HashMap;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ckpt_transfer::hosts::LOCAL;
use ckpt_transfer::protocol::{JobState, JobStatus};

use super::update::Msg;
use super::work::{lock, spawn};
use crate::failure;
use crate::jobs::{self, JobStore};

/// How often the list is read, at most.
const REFRESH: Duration = Duration::from_secs(1);
/// Reading takes one part in so many of the time, whatever the number of jobs.
const SHARE: u32 = 400;
/// How often other hosts are asked: each time is a connection and a login.
const ASK: Duration = Duration::from_secs(60);

/// What hosts have said of jobs of ours, by the jobs' names.
type Heard = Arc<Mutex<HashMap<String, JobStatus>>>;

/// Starts reading. The list is sent when it has changed.
pub fn start(sender: SyncSender<Msg>) -> anyhow::Result<()> {
    spawn("jobs", move || {
        let heard = Heard::default();
        let mut last = None;
        let mut asked: Option<Instant> = None;
        loop {
            let began = Instant::now();
            let listed = JobStore::open().and_then(|store| jobs::statuses(&store));
            let took = began.elapsed();
            let listed = listed.map(|listed| with_heard(listed, &heard)).map_err(|error| failure::line(&error));
            let is_away = |job: &JobStatus| job.host != LOCAL && job.ending.is_none();
            if listed.as_ref().is_ok_and(|jobs| jobs.iter().any(is_away))
                && asked.is_none_or(|asked| asked.elapsed() > ASK)
            {
                asked = Some(Instant::now());
                let heard = Arc::clone(&heard);
                // Where no thread can be had the list is less full, and it is tried again.
                let _ = spawn("elsewhere", move || hear(&heard));
            }
            if last.as_ref() != Some(&listed) {
                last = Some(listed.clone());
                if sender.send(listed.map_or_else(Msg::Unlisted, Msg::Jobs)).is_err() {
                    return;
                }
            }
            thread::sleep(REFRESH.max(took * SHARE));
        }
    })
}

/// Asks all hosts. What is not known any more is forgotten.
fn hear(heard: &Heard) {
    let all = JobStore::open().and_then(|store| jobs::everywhere(&store)).unwrap_or_default();
    let all = all.into_iter().filter(|job| job.host != LOCAL).map(|job| (job.name.clone(), job)).collect();
    *lock(heard) = all;
}

/// The jobs that are away, with what was heard of them there.
fn with_heard(mut jobs: Vec<JobStatus>, heard: &Heard) -> Vec<JobStatus> {
    let heard = lock(heard);
    for job in &mut jobs {
        // A job that has gone on meanwhile is somewhere else.
        let Some(there) = heard.get(&job.name).filter(|there| there.host == job.host) else { continue };
        (job.pid, job.memory, job.cpu) = (there.pid, there.memory, there.cpu);
        if job.state == JobState::Running {
            job.state = there.state;
            job.note = job.note.take().or_else(|| there.note.clone());
        }
    }
    jobs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_holds_as_long_as_the_job_is_there() {
        let job = |host: &str| JobStatus {
            name: "sim".to_owned(),
            state: JobState::Running,
            host: host.to_owned(),
            pid: None,
            memory: None,
            cpu: None,
            checkpoints: 0,
            last_checkpoint: None,
            started: 0,
            command: Vec::new(),
            directory: ckpt_core::resource::bytes::Bytes::default(),
            ending: None,
            ended: None,
            last_line: String::new(),
            note: None,
        };
        let heard = Heard::default();
        let there = JobStatus { state: JobState::Unreachable, memory: Some(7), ..job("nodeb") };
        lock(&heard).insert("sim".to_owned(), there);
        let shown = with_heard(vec![job("nodeb"), job(LOCAL)], &heard);
        assert_eq!((shown[0].state, shown[0].memory), (JobState::Unreachable, Some(7)));
        assert_eq!((shown[1].state, shown[1].memory), (JobState::Running, None));
    }
}
