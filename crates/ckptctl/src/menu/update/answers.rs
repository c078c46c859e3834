//! What the verbs have answered.

use std::path::Path;

use ckpt_transfer::protocol::JobState;
use serde::Deserialize;
use serde_json::Value;

use super::commands::{ask_again, go_jobs};
use super::hosts;
use super::job::{correct, history, open_job};
use super::new::run_program;
use crate::jobs::Schedule;
use crate::menu::effect::{Effect, Reason};
use crate::menu::model::{Build, Checkpoint, Complaint, Model, Running, Screen};
use crate::text;

/// What `history --json` tells.
#[derive(Deserialize)]
struct History {
    schedule: Option<Schedule>,
    checkpoints: Vec<Checkpoint>,
    damaged: Vec<Value>,
}

pub fn on_did(model: &mut Model, reason: &Reason, result: Result<Value, String>) -> Vec<Effect> {
    let act = finish(model, reason);
    if result.is_ok() && matches!(reason, Reason::Hosts | Reason::Schedule { .. }) {
        let options = model.options.take();
        if let Some(added) = options.and_then(|(_, field, typed)| hosts::added(&field, &typed)) {
            model.hosts.choose(added);
        }
    }
    let given_up = act.filter(|act| act.is_cancelled);
    match (reason, result) {
        // What was asked for is no error.
        (Reason::Save { job }, Err(error)) if given_up.is_some() => {
            model.tell(format!("{job}: {error}"), !error.contains("cancelled"));
            Vec::new()
        }
        (_, Err(_)) if let Some(act) = &given_up => {
            model.tell(format!("given up: {}", act.words), false);
            Vec::new()
        }
        (Reason::History { job }, result) => {
            let Some(open) = model.job.as_mut().filter(|open| open.name == *job) else { return Vec::new() };
            match result.and_then(|value| History::deserialize(value).map_err(|error| error.to_string())) {
                Ok(mut history) => {
                    history.checkpoints.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.number));
                    // Who looks at the newest looks at the new one then.
                    let is_newest = open.checkpoints.selected == 0;
                    open.checkpoints.replace(history.checkpoints);
                    if is_newest {
                        open.checkpoints.selected = 0;
                    }
                    open.schedule = history.schedule;
                    open.damaged = history.damaged.len();
                }
                Err(error) => {
                    open.checkpoints.rows.get_or_insert_default();
                    model.tell(error, true);
                }
            }
            Vec::new()
        }
        (Reason::Hosts | Reason::Schedule { .. }, Err(error)) => {
            model.tell(error, true);
            ask_again(model);
            Vec::new()
        }
        (_, Err(error)) => {
            model.tell(error, true);
            Vec::new()
        }
        // It has a message of its own.
        (Reason::Build, Ok(_)) => Vec::new(),
        (Reason::Run, Ok(value)) => {
            let name = value.get("job").and_then(Value::as_str).unwrap_or_default().to_owned();
            model.tell(format!("{name} is running"), false);
            if name.is_empty() { Vec::new() } else { open_job(model, &name) }
        }
        (Reason::Save { job }, Ok(value)) => {
            let bytes = value.get("bytes").and_then(Value::as_u64).unwrap_or_default();
            let pause = value.get("pause_seconds").and_then(Value::as_f64).unwrap_or_default().max(0.0);
            let pause = text::took(std::time::Duration::from_secs_f64(pause));
            correct(model, job, |row| {
                row.checkpoints += 1;
                row.last_checkpoint = Some(crate::jobs::now());
            });
            model.tell(format!("saved {job}: {}, it stood still for {pause}", text::size(bytes)), false);
            refreshed(model, job)
        }
        (Reason::Restore { job }, Ok(_)) => {
            correct(model, job, |row| (row.state, row.ending) = (JobState::Running, None));
            model.tell(format!("{job} runs again"), false);
            open_job(model, job)
        }
        (Reason::Branch { job }, Ok(value)) => {
            let name = value.get("job").and_then(Value::as_str).unwrap_or_default().to_owned();
            model.tell(format!("{name} runs beside {job}"), false);
            if name.is_empty() { Vec::new() } else { open_job(model, &name) }
        }
        (Reason::Stop { job }, Ok(_)) => {
            model.tell(format!("{job} was ended"), false);
            Vec::new()
        }
        (Reason::Schedule { job }, Ok(value)) => {
            let is_set = value.get("schedule").is_some_and(|schedule| !schedule.is_null());
            let now = if is_set { "is saved by itself now" } else { "is not saved by itself any more" };
            model.tell(format!("{job} {now}"), false);
            refreshed(model, job)
        }
        (Reason::Hosts, Ok(_)) => {
            model.tell("the hosts file is changed; t tries a host", false);
            vec![Effect::Hosts]
        }
        (Reason::Remove { job }, Ok(_)) => {
            model.tell(format!("{job} was removed"), false);
            if let Some(rows) = &mut model.jobs.rows {
                rows.retain(|row| row.name != *job);
            }
            if model.screen == Screen::Job { go_jobs(model) } else { Vec::new() }
        }
    }
}

fn refreshed(model: &Model, job: &str) -> Vec<Effect> {
    if model.job.as_ref().is_some_and(|open| open.name == job) { vec![history(job)] } else { Vec::new() }
}

/// A build has come to its end.
pub fn built(model: &mut Model, program: &Path, result: Result<(), Complaint>) -> Vec<Effect> {
    let Some(build) = model.new.build.take() else { return Vec::new() };
    let act = finish(model, &Reason::Build);
    if act.is_some_and(|act| act.is_cancelled) && result.is_err() {
        model.tell("the build was given up", false);
        return Vec::new();
    }
    let mut effects = vec![Effect::List(model.new.directory.clone())];
    match &result {
        Ok(()) => {
            model.new.program = Some(program.to_path_buf());
            if build.then_run {
                effects.extend(run_program(model, program));
            } else {
                model.tell(format!("built {}; r runs it", text::path(program)), false);
            }
        }
        Err(complaint) => {
            model.tell(format!("{} was not built: {}", text::path(&build.source), complaint.message), true);
        }
    }
    model.new.build = Some(Build { then_run: false, result: Some(result), ..build });
    effects
}

/// An act is over.
fn finish(model: &mut Model, reason: &Reason) -> Option<Running> {
    let at = model.acts.iter().position(|act| act.reason == *reason)?;
    Some(model.acts.remove(at))
}
