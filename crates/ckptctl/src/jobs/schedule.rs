//! `schedule`: checkpoints that are made by themselves, and which of them are kept.

use std::collections::BTreeSet;

use ckpt_transfer::protocol::Request;
use serde::{Deserialize, Serialize};

use super::history::{Checkpoint, Reason};
use super::store::JobStore;
use crate::cli::ScheduleArgs;
use crate::{client, output, text};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// For how long one checkpoint of each hour is kept, and one of each day.
const HOURLY: u64 = DAY;
const DAILY: u64 = 30 * DAY;

/// When a job is saved by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// How often, in seconds.
    pub every: u64,
    /// How many of the latest are kept.
    pub keep: u64,
    /// Since when, in seconds since 1970.
    pub since: u64,
}

impl Schedule {
    /// When the next checkpoint is due, in seconds since 1970.
    pub fn due(&self, history: &[Checkpoint]) -> u64 {
        let last = history.iter().filter(|one| one.scene.reason == Reason::Scheduled).map(|one| one.at).max();
        last.unwrap_or(0).max(self.since).saturating_add(self.every)
    }

    /// The numbers of those that are not kept: of the scheduled ones all but the latest, one an hour for a day and one a day for
    /// a month.
    pub fn superfluous(&self, history: &[Checkpoint], now: u64) -> Vec<u64> {
        let scheduled: Vec<&Checkpoint> =
            history.iter().filter(|one| one.scene.reason == Reason::Scheduled && !one.ended).collect();
        let keep = usize::try_from(self.keep.max(1)).unwrap_or(usize::MAX);
        let latest = scheduled.len().saturating_sub(keep);
        let mut periods = BTreeSet::new();
        let mut superfluous: Vec<u64> = scheduled[..latest]
            .iter()
            .rev()
            .filter(|one| {
                let age = now.saturating_sub(one.at);
                let is_first_of = |length: u64, most: u64, periods: &mut BTreeSet<(u64, u64)>| {
                    age < most && periods.insert((length, one.at / length))
                };
                let (hour, day) = (is_first_of(HOUR, HOURLY, &mut periods), is_first_of(DAY, DAILY, &mut periods));
                !hour && !day
            })
            .map(|one| one.number)
            .collect();
        superfluous.reverse();
        superfluous
    }
}

/// The verb: sets, shows or ends a job's schedule.
pub fn schedule(args: &ScheduleArgs) -> anyhow::Result<i32> {
    let store = JobStore::open()?;
    let job = store.living(&args.job)?;
    if args.every.is_some() || args.off {
        let stream = client::connect(&store, &job)?;
        client::perform(&stream, &Request::Schedule { every: args.every, keep: args.keep }, |_| ())?;
    }
    let schedule = store.job(&args.job)?.schedule;
    if args.json {
        output::print_json(&serde_json::json!({ "job": job.name, "schedule": schedule }))?;
    } else {
        output::print(&match schedule {
            Some(schedule) => format!(
                "{} is saved every {}; the last {} are kept, and one an hour and a day\n",
                job.name,
                text::age(schedule.every),
                schedule.keep
            ),
            None => format!("{} is not saved by itself\n", job.name),
        })?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::history::Scene;

    fn checkpoint(number: u64, at: u64, reason: Reason) -> Checkpoint {
        let scene = Scene { reason, ..Scene::default() };
        Checkpoint { number, at, bytes: 1, pages: 1, threads: 1, pause: 0.0, ended: false, scene }
    }

    #[test]
    fn the_latest_are_kept_and_one_an_hour_and_a_day() {
        let schedule = Schedule { every: 600, keep: 3, since: 0 };
        let now = 100 * DAY;
        // Every ten minutes for two days.
        let history: Vec<Checkpoint> =
            (0..288).map(|n| checkpoint(n + 1, now - (288 - n) * 600, Reason::Scheduled)).collect();
        let gone = schedule.superfluous(&history, now);
        let kept: Vec<&Checkpoint> = history.iter().filter(|one| !gone.contains(&one.number)).collect();
        assert!(kept.iter().rev().take(3).map(|one| one.number).eq([288, 287, 286]));
        // A day by hours, the day before by its last one.
        assert!((26..=29).contains(&kept.len()), "{}", kept.len());
        assert_eq!(schedule.superfluous(&history[..3], now), [0_u64; 0]);
        let asked = [checkpoint(1, 0, Reason::Asked), checkpoint(2, 1, Reason::Move)];
        assert!(schedule.superfluous(&asked, now).is_empty());
    }

    #[test]
    fn the_next_one_is_due_after_the_last() {
        let schedule = Schedule { every: 60, keep: 3, since: 1000 };
        assert_eq!(schedule.due(&[]), 1060);
        assert_eq!(schedule.due(&[checkpoint(1, 2000, Reason::Scheduled), checkpoint(2, 2050, Reason::Asked)]), 2060);
    }
}
