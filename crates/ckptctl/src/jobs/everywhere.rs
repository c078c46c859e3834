//! Jobs on all machines: those of here, with what the hosts where they run say of them, and those that were started there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ckpt_transfer::hosts::{Hosts, LOCAL, Source};
use ckpt_transfer::protocol::{JobState, JobStatus, Reply, Request};
use ckpt_transfer::ssh::Nobody;

use super::doubt::settle_all;
use super::list::statuses;
use super::store::JobStore;
use crate::failure;
use crate::remote::Machine;

/// How long to wait for hosts.
const PATIENCE: Duration = Duration::from_secs(4);

/// What all jobs are doing, on hosts as far as these answer soon.
pub fn everywhere(store: &JobStore) -> anyhow::Result<Vec<JobStatus>> {
    settle_all(store, PATIENCE)?;
    let mut jobs = statuses(store)?;
    let here = store.all()?;
    let ours: BTreeSet<String> = here.iter().filter(|job| !job.is_over()).filter_map(|job| job.host.clone()).collect();
    let mut names = ours.clone();
    // A hosts file that is not understood is for those verbs to complain about that need it.
    if let Ok(hosts) = Hosts::load() {
        names.extend(
            hosts.all().filter(|host| matches!(host.source, Source::HostsFile { .. })).map(|host| host.name.clone()),
        );
    }
    names.remove(LOCAL);
    let mut answers = ask_all(names, &ours);
    let mut known = Vec::new();
    for (job, status) in here.iter().zip(&mut jobs) {
        let Some(host) = &job.host else { continue };
        let name = job.name_there.as_ref().unwrap_or(&job.name);
        match answers.get_mut(host) {
            Some(Ok(there)) => {
                if let Some(at) = there.iter().position(|other| other.name == *name) {
                    let there = there.remove(at);
                    if !job.is_over() {
                        take_over(status, &there);
                    }
                    known.push(there);
                }
            }
            _ if job.is_over() => {}
            Some(Err(why)) => {
                status.state = JobState::Unreachable;
                status.note = Some(format!("{host} cannot be asked ({why}); the program runs on there"));
            }
            None => {
                status.state = JobState::Unreachable;
                status.note = Some(format!("{host} does not answer; the program runs on there"));
            }
        }
    }
    for (host, there) in answers {
        for mut job in there.unwrap_or_default() {
            if job.host == LOCAL && !known.iter().any(|one| is_same(one, &job)) {
                known.push(job.clone());
                job.host.clone_from(&host);
                // What it advises to do is to be done there.
                job.note = job.note.map(|note| format!("on {host}: {note}"));
                jobs.push(job);
            }
        }
    }
    Ok(jobs)
}

/// Whether two hosts tell of one job: they are one machine under two names.
fn is_same(one: &JobStatus, other: &JobStatus) -> bool {
    let identity = |job: &JobStatus| {
        (job.name.clone(), job.pid, job.started, job.ended, job.command.clone(), job.directory.clone())
    };
    identity(one) == identity(other)
}

/// What the host says of a job of ours.
fn take_over(ours: &mut JobStatus, there: &JobStatus) {
    if matches!(ours.state, JobState::Running | JobState::Stopped) {
        ours.state = there.state;
    }
    ours.pid = there.pid;
    ours.memory = there.memory;
    ours.cpu = there.cpu;
    ours.ending = ours.ending.or(there.ending);
    ours.ended = ours.ended.or(there.ended);
}

/// Asks hosts at the same time; those that do not answer in time are left out. Where there are jobs of ours, our copy is put
/// again if this is another version.
fn ask_all(names: BTreeSet<String>, ours: &BTreeSet<String>) -> BTreeMap<String, Result<Vec<JobStatus>, String>> {
    let (answered, answers) = mpsc::channel();
    let count = names.len();
    for name in names {
        let (answered, has_ours) = (answered.clone(), ours.contains(&name));
        // One that still waits when we have gone is gone with us.
        std::thread::spawn(move || {
            let jobs = ask(&name, has_ours).map_err(|error| failure::line(&error));
            answered.send((name, jobs))
        });
    }
    let until = Instant::now() + PATIENCE;
    let next = |_| answers.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
    (0..count).map_while(next).collect()
}

fn ask(name: &str, has_ours: bool) -> anyhow::Result<Vec<JobStatus>> {
    let mut machine = Machine::of(name)?;
    let agent =
        if has_ours { machine.agent(&[], &mut Nobody, &mut |_, _| ())? } else { machine.agent_that_is_there()? };
    match agent.ask(&Request::Jobs)? {
        Reply::Jobs { jobs } => Ok(jobs),
        _ => anyhow::bail!("it answers something else than asked for"),
    }
}
