//! What the verbs have answered.

use std::path::Path;

use ckpt_transfer::protocol::JobState;
use serde::Deserialize;
use serde_json::Value;

use super::commands::go_jobs;
use super::job::{correct, history, open_job};
use super::new::run_program;
use crate::jobs::Schedule;
use crate::menu::effect::{Effect, Reason};
use crate::menu::model::{Build, Checkpoint, Complaint, Model, Screen};
use crate::text;

/// What `history --json` tells.
#[derive(Deserialize)]
struct History {
    schedule: Option<Schedule>,
    checkpoints: Vec<Checkpoint>,
}

pub fn on_did(model: &mut Model, reason: &Reason, result: Result<Value, String>) -> Vec<Effect> {
    let act = model.acts.iter().position(|act| act.reason == *reason).map(|at| model.acts.remove(at));
    if let Some(act) = act.filter(|act| act.is_cancelled && result.is_err()) {
        model.tell(format!("given up: {}", act.words), false);
        if let Reason::Build { .. } = reason {
            model.new.build = None;
        }
        return Vec::new();
    }
    match (reason, result) {
        (Reason::Build { source, program }, result) => built(model, source, program, result),
        (Reason::History { job }, result) => {
            let Some(open) = model.job.as_mut().filter(|open| open.name == *job) else { return Vec::new() };
            match result.and_then(|value| History::deserialize(value).map_err(|error| error.to_string())) {
                Ok(mut history) => {
                    history.checkpoints.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.number));
                    open.checkpoints.replace(history.checkpoints);
                    open.schedule = history.schedule;
                }
                Err(error) => model.tell(error, true),
            }
            Vec::new()
        }
        (_, Err(error)) => {
            model.tell(error, true);
            Vec::new()
        }
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

fn built(model: &mut Model, source: &Path, program: &Path, result: Result<Value, String>) -> Vec<Effect> {
    let then_run = model.new.build.as_ref().is_some_and(|build| build.then_run);
    let mut effects = vec![Effect::List(model.new.directory.clone())];
    let result = match result {
        Ok(_) => {
            model.new.program = Some(program.to_path_buf());
            if then_run {
                effects.extend(run_program(model, program));
            } else {
                model.tell(format!("built {}; r runs it", text::path(program)), false);
            }
            Ok(())
        }
        Err(said) => {
            let complaint = complaint(&said, source);
            model.tell(format!("{} was not built: {}", text::path(source), complaint.message), true);
            Err(complaint)
        }
    };
    model.new.build = Some(Build { source: source.to_path_buf(), then_run: false, result: Some(result) });
    effects
}

/// Finds the first error in what a compiler said (`FILE:LINE:COLUMN: error: ...`), and the source around it.
pub fn complaint(said: &str, source: &Path) -> Complaint {
    let errors = ["error:", "undefined reference"];
    let first = said.lines().find(|line| errors.iter().any(|word| line.contains(word)));
    let message = first.or_else(|| said.lines().next()).unwrap_or_default();
    let name = source.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let line = message.split_once(&format!("{name}:")).and_then(|(_, rest)| rest.split(':').next()?.parse().ok());
    let message = message.split_once("error: ").map_or(message, |(_, message)| message);
    let lines = std::fs::read_to_string(source).unwrap_or_default();
    let around = line.map_or_else(Vec::new, |line: usize| {
        (1_usize..)
            .zip(lines.lines())
            .filter(|(number, _)| number.abs_diff(line) <= 3)
            .map(|(n, l)| (n, l.to_owned()))
            .collect()
    });
    Complaint { text: said.to_owned(), line, message: message.to_owned(), around }
}
