//! A job that was saved because nobody knew whether it runs elsewhere: the host is asked as soon as it can be.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use ckpt_transfer::protocol::{Reply, Request};
use ckpt_transfer::ssh::Nobody;

use super::store::{Job, JobEnding, JobStore, Moving, Phase};
use crate::remote::Machine;

/// Finds out where a job is that is in doubt, and writes it down; as long as its host cannot be asked it stays as it is.
pub fn settle(store: &JobStore, job: Job) -> anyhow::Result<Job> {
    let Some(moving) = job.moving.clone().filter(|moving| moving.phase == Phase::Doubt) else { return Ok(job) };
    let Ok(outcome) = ask(&moving) else { return Ok(job) };
    let job = known(job, moving, &outcome);
    store.put(&job)?;
    Ok(job)
}

/// The same of all jobs, for so long at most.
pub fn settle_all(store: &JobStore, at_most: Duration) -> anyhow::Result<()> {
    let (done, results) = mpsc::channel();
    let is_in_doubt = |job: &Job| job.moving.as_ref().is_some_and(|moving| moving.phase == Phase::Doubt);
    let doubtful: Vec<Job> = store.all()?.into_iter().filter(is_in_doubt).collect();
    let count = doubtful.len();
    for job in doubtful {
        let (store, done) = (store.clone(), done.clone());
        // One that still waits when we have gone is gone with us.
        std::thread::spawn(move || done.send(settle(&store, job).map(drop)));
    }
    let until = Instant::now() + at_most;
    for _ in 0..count {
        let Ok(result) = results.recv_timeout(until.saturating_duration_since(Instant::now())) else { break };
        result?;
    }
    Ok(())
}

fn ask(moving: &Moving) -> anyhow::Result<Reply> {
    let agent = Machine::of(&moving.to)?.agent(&[], &mut Nobody, &mut |_, _| ())?;
    agent.ask(&Request::Outcome { txn: moving.txn.clone() })
}

/// The job, with what its host says.
fn known(job: Job, moving: Moving, outcome: &Reply) -> Job {
    match outcome {
        Reply::Outcome { ran: true, pid, ended } if pid.is_some() || ended.is_some() => Job {
            host: Some(moving.to),
            name_there: Some(moving.name_there),
            ending: ended.filter(|_| pid.is_none()).map(JobEnding::now),
            saved: None,
            moving: None,
            doubt: None,
            ..job
        },
        // What was saved is what there is.
        Reply::Outcome { .. } => Job { moving: None, doubt: None, ..job },
        _ => job,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use ckpt_core::resource::bytes::Bytes;
    use ckpt_transfer::protocol::{Ending, JobState};

    use super::super::store::ProcessId;
    use super::*;

    #[test]
    fn what_the_host_says_holds() {
        let process = ProcessId { pid: 0, start_ticks: 0 };
        let mut job = Job::new("sim", process, Vec::new(), Bytes::default());
        let moving =
            Moving { txn: "1".to_owned(), to: "a".to_owned(), name_there: "sim-2".to_owned(), phase: Phase::Doubt };
        job.saved = Some(Bytes(b"/jobs/sim/history/1.ckpt".to_vec()));
        job.doubt = Some("it may run on a".to_owned());
        job.moving = Some(moving.clone());
        let after = |ran, pid, ended| known(job.clone(), moving.clone(), &Reply::Outcome { ran, pid, ended });

        let runs = after(true, Some(7), None);
        assert_eq!((runs.state(), runs.host.as_deref()), (JobState::Running, Some("a")));
        assert_eq!((runs.name_there.as_deref(), &runs.moving, &runs.doubt), (Some("sim-2"), &None, &None));
        let ended = after(true, None, Some(Ending::Exited(3)));
        assert_eq!((ended.state(), ended.ending.unwrap().status), (JobState::Ended, 3));
        for saved in [after(false, None, None), after(true, None, None)] {
            assert_eq!((saved.state(), saved.host, saved.doubt), (JobState::Saved, None, None));
        }
        assert_eq!(known(job.clone(), moving.clone(), &Reply::Done), job);
    }
}
