//! Moves: the choice of a host, and the dialog that shows how far one is.

use ckpt_transfer::protocol::MoveReport;
use ckpt_transfer::transaction::place;
use ratatui::crossterm::event::{KeyCode, KeyEvent};

use super::commands::{begin, current, is_living};
use super::count;
use super::job::correct;
use crate::menu::effect::{Asker, Effect};
use crate::menu::model::{Field, Layer, Model, Move};
use crate::text;

pub fn choose_host(model: &mut Model) -> Vec<Effect> {
    match current(model, is_living) {
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
        model.layers.push(Layer::Move(Move::new(job, host)));
    }
    effects
}

pub fn moving(model: &mut Model) -> Option<&mut Move> {
    model.layers.iter_mut().find_map(|layer| match layer {
        Layer::Move(current) => Some(current),
        _ => None,
    })
}

impl Move {
    fn new(job: String, host: String) -> Self {
        let (checks, progress, last, result) = (Vec::new(), None, None, None);
        Self { job, host, checks, progress, rate: 0.0, last, result, is_cancelled: false }
    }

    /// Notes progress, and smooths the rate over about a second.
    pub fn advance(&mut self, phase: String, done: u64, total: u64, at: u64) {
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

pub fn on_moved(model: &mut Model, result: Result<Box<MoveReport>, String>) -> Vec<Effect> {
    let told = match &result {
        Ok(report) => {
            // Ahead of the list's next reading.
            correct(model, &report.job, |row| (row.host, row.pid) = (report.to.clone(), Some(report.pid)));
            let downtime = text::took(std::time::Duration::from_secs_f64(report.downtime.max(0.0)));
            (format!("{} runs on {} now; it stood still for {downtime}", report.job, report.to), false)
        }
        Err(error) => (error.clone(), true),
    };
    // A question that nobody will answer any more.
    model.layers.retain(|layer| !matches!(layer, Layer::Line { field: Field::Answer { asker: Asker::Move, .. }, .. }));
    if let Some(current) = moving(model) {
        current.result = Some(result);
    }
    model.tell(told.0, told.1);
    Vec::new()
}

pub fn on_move_key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    let Some(Layer::Move(current)) = model.layers.last_mut() else { return Vec::new() };
    let is_over = current.result.is_some();
    let has_moved = matches!(current.result, Some(Ok(_)));
    match key.code {
        KeyCode::Esc | KeyCode::Enter if is_over => {
            let job = current.job.clone();
            model.layers.pop();
            if has_moved { super::job::open_job(model, &job) } else { Vec::new() }
        }
        KeyCode::Esc | KeyCode::Char('x') if !current.is_cancelled => {
            current.is_cancelled = true;
            vec![Effect::CancelMove]
        }
        _ => Vec::new(),
    }
}
