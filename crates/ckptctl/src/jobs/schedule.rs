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
    /// How often, in seconds; `None`: not because time has passed.
    pub every: Option<u64>,
    /// How many of the latest are kept.
    pub keep: u64,
    /// Also before each move.
    #[serde(default)]
    pub before_move: bool,
    /// Since when, in seconds since 1970.
    pub since: u64,
}

impl Schedule {
    /// When the next checkpoint is due, in seconds since 1970; `None`: never.
    pub fn due(&self, history: &[Checkpoint]) -> Option<u64> {
        let every = self.every?;
        let last = history.iter().filter(|one| one.scene.reason == Reason::Scheduled).map(|one| one.at).max();
        Some(last.unwrap_or(0).max(self.since).saturating_add(every))
    }

    /// When it is saved, in words.
    pub fn told(&self) -> String {
        let every = self.every.map(|every| format!("every {}", text::age(every)));
        let before_move = self.before_move.then(|| "before each move".to_owned());
        every.into_iter().chain(before_move).collect::<Vec<_>>().join(" and ")
    }

    /// The options that set it.
    pub fn options(&self) -> String {
        let every = self.every.map(|every| format!("--every {every}s "));
        let before_move = if self.before_move { " --before-move" } else { "" };
        format!("{}--keep {}{before_move}", every.unwrap_or_default(), self.keep)
    }

    /// What ends the checkpoints before moves, and only these.
    pub fn without_moves(&self, job: &str) -> String {
        let job = text::quoted(job);
        match self.every {
            Some(_) => format!("ckptctl schedule {job} {}", Self { before_move: false, ..*self }.options()),
            None => format!("ckptctl schedule {job} --off"),
        }
    }

    /// The numbers of those that are not kept: of those that were made by themselves all but the latest, one an hour for a day and one a day for
    /// a month.
    pub fn superfluous(&self, history: &[Checkpoint], now: u64) -> Vec<u64> {
        // What a move itself has left is what the program was ended with.
        let is_ours = |one: &&Checkpoint| one.scene.reason != Reason::Asked && !one.ended;
        let ours: Vec<&Checkpoint> = history.iter().filter(is_ours).collect();
        let keep = usize::try_from(self.keep.max(1)).unwrap_or(usize::MAX);
        let latest = ours.len().saturating_sub(keep);
        let mut periods = BTreeSet::new();
        let mut superfluous: Vec<u64> = ours[..latest]
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
    if args.every.is_some() || args.before_move || args.off {
        let stream = client::connect(&store, &job)?;
        let (every, keep, before_move) = (args.every, args.keep, args.before_move);
        client::perform(&stream, &Request::Schedule { every, keep, before_move }, |_| ())?;
    }
    let schedule = store.job(&args.job)?.schedule;
    if args.json {
        output::print_json(&serde_json::json!({ "job": job.name, "schedule": schedule }))?;
    } else {
        output::print(&match schedule {
            Some(schedule) => format!(
                "{} is saved {}; the last {} are kept, and one an hour and a day\n",
                job.name,
                schedule.told(),
                schedule.keep
            ),
            None => format!("{} is not saved by itself\n", job.name),
        })?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use super::*;
    use crate::jobs::history::Scene;

    fn checkpoint(number: u64, at: u64, reason: Reason) -> Checkpoint {
        let scene = Scene { reason, ..Scene::default() };
        Checkpoint { number, at, bytes: 1, pages: 1, threads: 1, pause: 0.0, ended: false, scene }
    }

    #[test]
    fn the_latest_are_kept_and_one_an_hour_and_a_day() {
        let schedule = Schedule { every: Some(600), keep: 3, before_move: true, since: 0 };
        let now = 100 * DAY;
        // Every ten minutes for two days, some of them before moves.
        let reason = |n| if n % 7 == 0 { Reason::Move } else { Reason::Scheduled };
        let history: Vec<Checkpoint> = (0..288).map(|n| checkpoint(n + 1, now - (288 - n) * 600, reason(n))).collect();
        let gone = schedule.superfluous(&history, now);
        let kept: Vec<&Checkpoint> = history.iter().filter(|one| !gone.contains(&one.number)).collect();
        assert!(kept.iter().rev().take(3).map(|one| one.number).eq([288, 287, 286]));
        // A day by hours, the day before by its last one.
        assert!((26..=29).contains(&kept.len()), "{}", kept.len());
        assert_eq!(schedule.superfluous(&history[..3], now), [0_u64; 0]);
        // What somebody asked for stays, and what a move has left when the program was ended.
        let others: Vec<Checkpoint> = (0..9)
            .map(|n| checkpoint(n, n, if n < 5 { Reason::Asked } else { Reason::Move }))
            .map(|one| Checkpoint { ended: one.scene.reason == Reason::Move, ..one })
            .collect();
        assert!(schedule.superfluous(&others, now).is_empty());
    }

    #[test]
    fn the_next_one_is_due_after_the_last() {
        let schedule = Schedule { every: Some(60), keep: 3, before_move: false, since: 1000 };
        assert_eq!(schedule.due(&[]), Some(1060));
        let history = [checkpoint(1, 2000, Reason::Scheduled), checkpoint(2, 2050, Reason::Asked)];
        assert_eq!(schedule.due(&history), Some(2060));
        assert_eq!(Schedule { every: None, ..schedule }.due(&history), None);
    }

    #[test]
    fn what_earlier_versions_have_written_is_read() {
        let read: Schedule = serde_json::from_str(r#"{"every":900,"keep":5,"since":7}"#).unwrap();
        assert_eq!(read, Schedule { every: Some(900), keep: 5, before_move: false, since: 7 });
    }

    #[test]
    fn it_is_told_in_words_and_how_to_end_it() {
        let both = Schedule { every: Some(900), keep: 5, before_move: true, since: 0 };
        assert_eq!(both.told(), "every 15 min and before each move");
        assert_eq!(both.without_moves("sim"), "ckptctl schedule sim --every 900s --keep 5");
        let moves = Schedule { every: None, ..both };
        assert_eq!(moves.told(), "before each move");
        assert_eq!(moves.without_moves("sim"), "ckptctl schedule sim --off");
    }
}
