//! What happens to the model when something comes in, and what is to be done then. The only place where it changes.

mod answers;
mod commands;
mod hosts;
mod input;
mod job;
mod moves;
mod new;

use std::path::PathBuf;

use ckpt_transfer::protocol::{Ending, JobState, JobStatus, MoveReport};
use ratatui::crossterm::event::{Event, KeyEventKind};
use serde_json::Value;
use tui_input::Input;

use super::effect::{Asker, Effect, Reason};
use super::model::{Complaint, Field, FileRow, HostRow, Layer, Model, Screen};
use super::view::layout;
use crate::jobs::Schedule;

pub use input::palette;
pub use job::SCROLLBACK;
pub use moves::where_is;

/// Something that came in.
#[derive(Debug)]
pub enum Msg {
    /// A key, the mouse, a paste, another size.
    Event(Event),
    /// The jobs.
    Jobs(Vec<JobStatus>),
    /// Why they cannot be listed.
    Unlisted(String),
    /// Something went wrong that stays as it is: it is told once.
    Wrong(String),
    /// Something of the open job's terminal, from the attachment of this number.
    Terminal(u64, Shown),
    /// A verb has come to its end.
    Did {
        /// What it was for.
        reason: Reason,
        /// Its JSON (or text), or the error.
        result: Result<Value, String>,
    },
    /// A build has come to its end: the program, and what was wrong.
    Built(PathBuf, Result<(), Complaint>),
    /// How far an act is: what is being done, bytes, total.
    Doing(Reason, String, u64, u64),
    /// A directory's files.
    Listed(PathBuf, Result<Vec<FileRow>, String>),
    /// A file's beginning.
    Previewed(PathBuf, Vec<String>),
    /// What a job holds.
    Held(String, Result<Vec<(String, Vec<String>)>, String>),
    /// The hosts file.
    Hosts(Result<Vec<HostRow>, String>),
    /// Something that the trial of a host has found: the host, what, and how it is.
    Fact(String, String, String),
    /// The end of a host's trial: all that was found, as `hosts test --json` tells it.
    Tried(String, Value),
    /// When a job is saved by itself.
    Schedule(String, Option<Schedule>),
    /// A check before a job's move.
    Check(String, (String, String, bool)),
    /// How far a job's move is: phase, bytes, total, and when, in milliseconds.
    Progress(String, (String, u64, u64), u64),
    /// A question; may the answer be seen?
    Ask(Asker, String, bool),
    /// The end of a job's move.
    Moved(String, Result<Box<MoveReport>, String>),
    /// The menu was stopped, and goes on: the terminal may be in any state.
    Continued,
    /// The terminal is gone, or somebody asked for the end.
    Quit,
}

/// What comes from a job's terminal.
#[derive(Debug)]
pub enum Shown {
    /// It printed something.
    Output(Vec<u8>),
    /// It is connected, or not any more.
    Attached(bool),
    /// The program ended.
    Ended(Ending),
}

/// Takes something in; gives what is to be done.
pub fn update(model: &mut Model, msg: Msg) -> Vec<Effect> {
    match msg {
        Msg::Event(event @ (Event::Key(_) | Event::Paste(_) | Event::Mouse(_))) if layout::is_too_small(model) => {
            input::on_unseen(model, &event)
        }
        Msg::Event(Event::Key(key)) if key.kind != KeyEventKind::Release => input::on_key(model, key),
        Msg::Event(Event::Paste(text)) => input::on_paste(model, &text),
        Msg::Event(Event::Mouse(mouse)) => input::on_mouse(model, mouse),
        Msg::Event(Event::Resize(columns, rows)) => {
            model.size = (columns, rows);
            job::resized(model)
        }
        Msg::Jobs(jobs) => on_jobs(model, jobs),
        Msg::Unlisted(error) => {
            model.unlisted = Some(error.clone());
            model.tell(error, true);
            Vec::new()
        }
        Msg::Wrong(error) => {
            if model.notice.as_ref().is_none_or(|notice| notice.text != error) {
                model.tell(error, true);
            }
            Vec::new()
        }
        Msg::Terminal(number, shown) if model.job.as_ref().is_some_and(|job| job.attachment == number) => {
            job::on_shown(model, shown)
        }
        // The focus; a terminal that was attached before.
        Msg::Event(_) | Msg::Terminal(..) => Vec::new(),
        Msg::Doing(reason, what, done, total) => {
            if let Some(act) = model.acts.iter_mut().find(|act| act.reason == reason) {
                act.progress = Some((what, done, total));
            }
            Vec::new()
        }
        Msg::Built(program, result) => answers::built(model, &program, result),
        Msg::Did { reason, result } => answers::on_did(model, &reason, result),
        Msg::Listed(directory, result) => new::on_listed(model, directory, result),
        Msg::Previewed(path, lines) => new::on_previewed(model, path, lines),
        Msg::Held(name, held) => {
            if let Some(job) = model.job.as_mut().filter(|job| job.name == name) {
                job.holds = Some(held);
            }
            Vec::new()
        }
        Msg::Hosts(result) => hosts::on_hosts(model, result),
        Msg::Fact(host, what, found) => hosts::on_fact(model, &host, (what, found)),
        Msg::Tried(host, found) => hosts::on_tried(model, &host, &found),
        Msg::Schedule(job, schedule) => commands::ask_schedule(model, &job, schedule),
        Msg::Check(job, check) => {
            if let Some(current) = moves::moving(model, &job) {
                current.checks.push(check);
            }
            Vec::new()
        }
        Msg::Progress(job, progress, at) => {
            if let Some(current) = moves::moving(model, &job) {
                current.advance(progress, at);
            }
            Vec::new()
        }
        Msg::Ask(asker, title, echo) => {
            let field = Field::Answer { asker, echo };
            model.layers.push(Layer::Line { title, typed: Input::default(), field });
            Vec::new()
        }
        Msg::Moved(job, result) => moves::on_moved(model, &job, result),
        Msg::Continued => vec![Effect::Redraw],
        Msg::Quit => vec![Effect::Quit],
    }
}

/// A count as a number to calculate with; beyond 2^53 the last digits do not matter.
#[allow(clippy::cast_precision_loss, reason = "a rate on a screen has three digits")]
pub fn count(number: u64) -> f64 {
    number as f64
}

fn on_jobs(model: &mut Model, jobs: Vec<JobStatus>) -> Vec<Effect> {
    let is_first = model.jobs.rows.is_none();
    let is_empty = jobs.is_empty();
    let before = model.current_job().map(|job| (job.checkpoints, job.state));
    model.unlisted = None;
    model.jobs.replace(jobs);
    if is_first && is_empty && model.screen == Screen::Jobs {
        return commands::go_new(model);
    }
    let now = model.current_job().map(|job| (job.checkpoints, job.state));
    if let (Some(job), Screen::Job, Some(_), None) = (&model.job, model.screen, before, now) {
        let gone = format!("the job {} was removed", job.name);
        model.tell(gone, false);
        return commands::go_jobs(model);
    }
    match (&model.job, model.screen) {
        // A checkpoint that somebody else made, a job that was restored: what is shown of it is read again.
        (Some(job), Screen::Job) if before.is_some() && before != now => {
            let mut effects = vec![job::history(&job.name)];
            if !job.is_attached && now.is_some_and(|(_, state)| state == JobState::Running) {
                effects.push(job::attach(model));
            }
            effects
        }
        _ => Vec::new(),
    }
}

/// How a program ended, in words.
pub fn ending_words(ending: Ending) -> String {
    match ending {
        Ending::Exited(0) => "has ended".to_owned(),
        Ending::Exited(status) => format!("has ended with status {status}"),
        Ending::Signaled(signal) => format!("was ended by signal {signal}"),
    }
}

#[cfg(test)]
mod tests;
