//! Moves: the choice of a host, and the dialog that shows how far one is.

use ckpt_transfer::protocol::MoveReport;
use ckpt_transfer::transaction::place;
use ratatui::crossterm::event::{KeyCode, KeyEvent};

use super::commands::{begin, current, is_living, refuses};
use super::count;
use super::job::{correct, open_job};
use crate::menu::effect::{Asker, Effect};
use crate::menu::keys::{Action, Key, Place};
use crate::menu::model::{Field, Layer, Model, Move};
use crate::text;

pub fn choose_host(model: &mut Model) -> Vec<Effect> {
    match current(model, is_living) {
        Ok(job) if refuses(model, &format!("ckptctl migrate {} HOST", text::quoted(&job))) => Vec::new(),
        // What is being moved is shown again.
        Ok(job) if moving(model, &job).is_some() => {
            model.layers.push(Layer::Move { job });
            Vec::new()
        }
        Ok(job) => {
            model.layers.push(Layer::Choose { job });
            vec![Effect::Hosts]
        }
        Err(why) => {
            model.tell(why, false);
            Vec::new()
        }
    }
}

/// Where a job is now.
pub fn where_is<'a>(model: &'a Model, job: &str) -> Option<&'a String> {
    model.jobs.rows.iter().flatten().find(|row| row.name == job).map(|row| &row.host)
}

/// Moves the job of the choice to the chosen host.
pub fn begin_move(model: &mut Model, job: String) -> Vec<Effect> {
    let Some(host) = model.hosts.chosen().map(|host| host.name.clone()) else { return Vec::new() };
    if where_is(model, &job) == Some(&host) {
        model.tell(format!("{job} is {} already", place(&host)), false);
        return Vec::new();
    }
    model.layers.pop();
    let effects = begin(model, Effect::Migrate { job: job.clone(), host: host.clone() });
    if !effects.is_empty() {
        model.moves.push(Move::new(job.clone(), host));
        model.layers.push(Layer::Move { job });
    }
    effects
}

/// The move of a job, if one is under way, or over and still shown.
pub fn moving<'a>(model: &'a mut Model, job: &str) -> Option<&'a mut Move> {
    model.moves.iter_mut().find(|current| current.job == job)
}

impl Move {
    fn new(job: String, host: String) -> Self {
        let (checks, progress, last, result) = (Vec::new(), None, None, None);
        Self { job, host, checks, progress, rate: 0.0, last, result, is_cancelled: false }
    }

    /// Whether it ended in this way because the user has given it up.
    pub fn is_given_up(&self, error: &str) -> bool {
        self.is_cancelled && error.contains("cancelled")
    }

    /// Whether it is the move of this job, and not over yet.
    pub fn is_going_on(&self, job: &str) -> bool {
        self.job == job && self.result.is_none()
    }

    /// Notes progress, and smooths the rate over about a second.
    pub fn advance(&mut self, (phase, done, total): (String, u64, u64), at: u64) {
        let is_same = self.progress.as_ref().is_some_and(|(old, ..)| *old == phase);
        match self.last {
            Some((before, bytes)) if is_same && at > before && done >= bytes => {
                let (bytes, millis) = (count(done - bytes), count(at - before));
                let (now, weight) = (bytes * 1000.0 / millis, (millis / 1000.0).min(1.0));
                self.rate = if self.rate > 0.0 { self.rate + (now - self.rate) * weight } else { now };
            }
            Some(_) if is_same => return,
            _ => self.rate = 0.0,
        }
        self.progress = Some((phase, done, total));
        self.last = Some((at, done));
    }
}

/// A move has come to its end.
pub fn on_moved(model: &mut Model, job: &str, result: Result<Box<MoveReport>, String>) -> Vec<Effect> {
    let told = match &result {
        Ok(report) => {
            // Ahead of the list's next reading.
            correct(model, &report.job, |row| (row.host, row.pid) = (report.to.clone(), Some(report.pid)));
            let downtime = text::took(std::time::Duration::from_secs_f64(report.downtime.max(0.0)));
            (format!("{} runs on {} now; it stood still for {downtime}", report.job, report.to), false)
        }
        // What was asked for is no error.
        Err(error) => {
            (format!("{job}: {error}"), !moving(model, job).is_some_and(|current| current.is_given_up(error)))
        }
    };
    // A question that nobody will answer any more.
    let asker = Asker::Move(job.to_owned());
    model
        .layers
        .retain(|layer| !matches!(layer, Layer::Line { field: Field::Answer { asker: who, .. }, .. } if *who == asker));
    if model.layers.iter().any(|layer| matches!(layer, Layer::Move { job: shown } if shown == job)) {
        if let Some(current) = moving(model, job) {
            current.result = Some(result);
        }
    } else {
        model.moves.retain(|current| current.job != job);
    }
    model.tell(told.0, told.1);
    Vec::new()
}

/// Esc closes the dialog, the move goes on; `x` gives the move up.
pub fn on_move_key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    let Some(Layer::Move { job }) = model.layers.last() else { return Vec::new() };
    let job = job.clone();
    let gives_up = Key::of(key).is_some_and(|key| model.keymap.action(key, Place::Job) == Some(Action::Cancel));
    match (key.code, moving(model, &job).and_then(|current| current.result.as_ref().map(Result::is_ok))) {
        (KeyCode::Esc | KeyCode::Enter, Some(has_moved)) => {
            model.layers.pop();
            model.moves.retain(|current| current.job != job);
            if has_moved { open_job(model, &job) } else { Vec::new() }
        }
        (KeyCode::Esc, None) => {
            model.layers.pop();
            Vec::new()
        }
        (_, None) if gives_up => give_up(model, &job),
        _ => Vec::new(),
    }
}

/// Asks for a move to be given up.
pub fn give_up(model: &mut Model, job: &str) -> Vec<Effect> {
    match moving(model, job).filter(|current| !current.is_cancelled) {
        Some(current) => {
            current.is_cancelled = true;
            vec![Effect::CancelMove { job: job.to_owned() }]
        }
        None => Vec::new(),
    }
}
