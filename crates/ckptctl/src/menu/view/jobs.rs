//! The list of jobs.

use ckpt_transfer::protocol::{Ending, JobState, JobStatus};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Span;

use super::{empty, filter_line, heading, nothing_matches, table};
use crate::menu::model::{Model, state_word};
use crate::text;

/// Draws it.
pub fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let title = Rect { height: 1, ..area };
    let list = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    let Some(rows) = &model.jobs.rows else {
        let why = model.unlisted.as_deref().map(|why| text::wrap(&text::plain(why), usize::from(area.width)));
        let told = why.unwrap_or_else(|| vec!["Looking for jobs ...".to_owned()]);
        empty(model, frame, area, &told.iter().map(String::as_str).collect::<Vec<_>>());
        return;
    };
    let shown = model.jobs.shown();
    let count = super::count_of(&model.jobs, rows.len(), "job", "jobs");
    heading(frame, title, &filter_line(&model.jobs, &count), model.theme.dim);
    if rows.is_empty() {
        empty(
            model,
            frame,
            list,
            &["There is no job yet.", "", "n makes one: from a source file, a program or a command."],
        );
        return;
    }
    if shown.is_empty() {
        nothing_matches(model, frame, list);
        return;
    }
    let now = crate::jobs::now();
    let rows: Vec<Vec<Span<'_>>> = shown.iter().map(|job| row(model, job, now)).collect();
    let headings = ["NAME", "STATE", "HOST", "CPU", "MEMORY", "SAVED", "LAST LINE"];
    table(model, frame, list, &headings, &rows, model.jobs.selected);
}

fn row<'a>(model: &Model, job: &'a JobStatus, now: u64) -> Vec<Span<'a>> {
    let theme = model.theme;
    let (word, style) = state(model, job);
    let dash = || "-".to_owned();
    let saved = job.last_checkpoint.map_or_else(dash, |at| format!("{} ago", text::short_age(now.saturating_sub(at))));
    let last = if job.last_line.is_empty() { job.note.clone().unwrap_or_default() } else { job.last_line.clone() };
    vec![
        Span::raw(text::plain(&job.name)),
        Span::styled(word, style),
        Span::raw(text::plain(&job.host)),
        Span::raw(job.cpu.map_or_else(dash, text::short_age)),
        Span::raw(job.memory.map_or_else(dash, text::size)),
        Span::raw(saved),
        Span::styled(text::plain(&last), theme.dim),
    ]
}

/// A job's state in a word, with its style.
pub fn state(model: &Model, job: &JobStatus) -> (String, ratatui::style::Style) {
    let theme = model.theme;
    // While it is moved it may be stopped for a moment, here or there.
    if model.moves.iter().any(|current| current.is_going_on(&job.name)) {
        return (state_word(JobState::Moving).to_owned(), theme.warn);
    }
    let word = match (job.state, job.ending) {
        (JobState::Ended, Some(Ending::Exited(0))) => "ended".to_owned(),
        (JobState::Ended, Some(Ending::Exited(status))) => format!("ended ({status})"),
        (JobState::Ended, Some(Ending::Signaled(signal))) => format!("signal {signal}"),
        (state, _) => state_word(state).to_owned(),
    };
    let style = match (job.state, job.ending) {
        (JobState::Running, _) => theme.good,
        (JobState::Stopped | JobState::Moving, _) => theme.warn,
        (JobState::Ended, None | Some(Ending::Exited(0))) | (JobState::Saved, _) => theme.dim,
        (JobState::Ended, Some(_)) | (JobState::Unreachable, _) => theme.bad,
    };
    (word, style)
}
