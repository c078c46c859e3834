//! Checkpoints that are made by themselves, and what a job looks like when one is made.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::connection::Writer;
use super::{Act, CHECKPOINT, Log, Place, Supervisor, checkpointing};
use crate::emulator::Emulator;
use crate::failure;
use crate::jobs::{self, History, Reason, Scene, Schedule};

/// How much of the log's end is taken for a picture of the screen.
const TAIL: u64 = 256 << 10;
/// How long to wait after a checkpoint that could not be made.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts the thread that saves the job when it is time.
pub fn start(supervisor: &Arc<Supervisor>) -> anyhow::Result<()> {
    let supervisor = Arc::clone(supervisor);
    let watching = move || {
        loop {
            let (schedule, act) = supervisor.wait_until_due();
            let saved = act.and_then(|act| supervisor.save_by_itself(schedule, Reason::Scheduled, act, None));
            if let Err(error) = saved {
                let mut state = supervisor.state();
                state.note(&format!("it could not be saved by schedule: {}", failure::line(&error)));
                drop(state);
                supervisor.tell_all();
                std::thread::sleep(PATIENCE);
            }
        }
    };
    std::thread::Builder::new().name("schedule".to_owned()).spawn(watching).context("no thread could be made")?;
    Ok(())
}

impl Supervisor {
    /// Sets or ends the schedule.
    pub fn schedule(&self, every: Option<u64>, keep: u64, before_move: bool) -> anyhow::Result<()> {
        let mut state = self.state();
        let Some(job) = &mut state.job else { return Err(self.failure("has no program yet")) };
        let is_any = every.is_some() || before_move;
        job.schedule = is_any.then(|| Schedule { every, keep, before_move, since: jobs::now() });
        self.store.put(job)?;
        drop(state);
        self.tell_all();
        Ok(())
    }

    /// Waits until a checkpoint is due of a program that is here and is not being moved or saved, and begins it.
    fn wait_until_due(self: &Arc<Self>) -> (Schedule, anyhow::Result<Act>) {
        let history = History::of(&self.directory);
        let mut state = self.state();
        loop {
            let schedule = state.job.as_ref().and_then(|job| job.schedule);
            let is_possible = matches!(state.place, Place::Here(_))
                && state.act.is_none()
                && state.moves.mover.is_none()
                && state.ending.is_none();
            let Some(schedule) = schedule.filter(|_| is_possible) else {
                state = self.wait(state);
                continue;
            };
            let Some(due) = schedule.due(&history.all().unwrap_or_default()) else {
                state = self.wait(state);
                continue;
            };
            let left = due.saturating_sub(jobs::now());
            if left == 0 {
                return (schedule, self.begin_in(&mut state, CHECKPOINT));
            }
            state = self.wait_for(state, Duration::from_secs(left));
        }
    }

    /// Saves the program into its history and removes what is not kept any more. Gives the report.
    pub fn save_by_itself(
        self: &Arc<Self>,
        schedule: Schedule,
        reason: Reason,
        act: Act,
        news: Option<&Writer>,
    ) -> anyhow::Result<serde_json::Value> {
        let report = checkpointing::save(self, &checkpointing::Wish::unasked(reason), act, news)?;
        let history = History::of(&self.directory);
        for number in schedule.superfluous(&history.all()?, jobs::now()) {
            history.remove(number)?;
        }
        Ok(report)
    }

    /// What the job looks like now.
    pub fn scene(&self, reason: Reason) -> Scene {
        let size = self.window_size();
        let state = self.state();
        let output = state.log.end();
        let tail = state.log.bytes(output.saturating_sub(TAIL).max(state.log.start()), output).unwrap_or_default();
        let cpu = if let Place::Here(here) = &state.place { jobs::cpu(here.process.pid) } else { None };
        drop(state);
        // What cannot be read is shown as by any program.
        let modes = Log::view(&self.directory).and_then(|log| log.modes()).unwrap_or_default();
        let mut terminal = Emulator::new(size.rows.max(1), size.columns.max(1), 0);
        terminal.process(&tail);
        let shown = terminal.screen();
        let screen = shown.rows(0, size.columns).map(|line| line.trim_end().to_owned()).collect();
        let picture = if modes.is_full_screen() { shown.contents_formatted() } else { Vec::new() };
        let terminal = modes.set_up() + &String::from_utf8_lossy(&picture);
        Scene { reason, output, cpu: cpu.unwrap_or_default(), screen, terminal }
    }
}
