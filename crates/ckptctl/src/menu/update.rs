//! What happens to the model when something comes in, and what is to be done then. The only place where it changes.

use std::path::{Path, PathBuf};

use ckpt_transfer::protocol::{Ending, JobState, JobStatus, MoveReport, WindowSize};
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseEvent, MouseEventKind};
use serde_json::Value;
use tui_input::Input;
use tui_input::backend::crossterm::EventHandler;

use super::effect::{Effect, Reason};
use super::keys::{Action, COMMANDS, Command, Key};
use super::model::{
    Build, Checkpoint, Complaint, Field, FileKind, FileRow, HostRow, Layer, List, Model, Move, OpenJob, Running,
    Screen, Tab, matching,
};
use super::typing;
use super::view::layout;
use crate::text;

/// Lines of scrollback that a job's pane keeps.
const SCROLLBACK: usize = 1000;

/// Something that came in.
#[derive(Debug)]
pub enum Msg {
    /// A key, the mouse, a paste, another size.
    Event(Event),
    /// The jobs.
    Jobs(Vec<JobStatus>),
    /// The jobs could not be read.
    NoJobs(String),
    /// The open job printed something.
    Output(Vec<u8>),
    /// The open job's terminal is connected, or not any more.
    Attached(bool),
    /// The open job ended.
    Ended(Ending),
    /// A verb has come to its end.
    Did {
        /// What it was for.
        reason: Reason,
        /// Its JSON (or text), or the error.
        result: Result<Value, String>,
    },
    /// A directory's files.
    Listed(PathBuf, Result<Vec<FileRow>, String>),
    /// A file's beginning.
    Previewed(PathBuf, Vec<String>),
    /// What a job holds.
    Held(String, Result<Vec<(String, Vec<String>)>, String>),
    /// The hosts file.
    Hosts(Result<Vec<HostRow>, String>),
    /// A check before a move.
    Check(String, String, bool),
    /// How far a move is: phase, bytes, total, and when, in milliseconds.
    Progress(String, u64, u64, u64),
    /// A question of a move.
    Ask(String, bool),
    /// The end of a move.
    Moved(Result<Box<MoveReport>, String>),
    /// The terminal is gone, or somebody asked for the end.
    Quit,
}

/// Takes something in; gives what is to be done.
pub fn update(model: &mut Model, msg: Msg) -> Vec<Effect> {
    match msg {
        Msg::Event(Event::Key(key)) if key.kind != KeyEventKind::Release => on_key(model, key),
        Msg::Event(Event::Paste(text)) => on_paste(model, &text),
        Msg::Event(Event::Mouse(mouse)) => on_mouse(model, mouse),
        Msg::Event(Event::Resize(columns, rows)) => {
            model.size = (columns, rows);
            resized(model)
        }
        Msg::Event(_) => Vec::new(),
        Msg::Jobs(jobs) => on_jobs(model, jobs),
        Msg::NoJobs(error) => {
            if model.notice.as_ref().is_none_or(|notice| notice.text != error) {
                model.tell(error, true);
            }
            Vec::new()
        }
        Msg::Output(bytes) => {
            if let Some(job) = &mut model.job {
                job.screen.process(&bytes);
            }
            Vec::new()
        }
        Msg::Attached(is_attached) => {
            if let Some(job) = &mut model.job {
                job.is_attached = is_attached;
                job.is_typing &= is_attached;
            }
            Vec::new()
        }
        Msg::Ended(ending) => {
            if let Some(job) = &mut model.job {
                (job.is_attached, job.is_typing) = (false, false);
                let name = job.name.clone();
                correct(model, &name, |row| {
                    (row.state, row.ending, row.pid) = (JobState::Ended, Some(ending), None);
                });
                model.tell(format!("{name} {}", ending_words(ending)), false);
                // As long as somebody is connected, what supervised it stays, and it cannot be restored.
                return vec![Effect::Detach];
            }
            Vec::new()
        }
        Msg::Did { reason, result } => on_did(model, &reason, result),
        Msg::Listed(directory, result) => on_listed(model, directory, result),
        Msg::Previewed(path, lines) => {
            model.new.preview = Some((path, lines));
            Vec::new()
        }
        Msg::Held(name, held) => {
            if let Some(job) = model.job.as_mut().filter(|job| job.name == name) {
                job.holds = Some(held);
            }
            Vec::new()
        }
        Msg::Hosts(Ok(rows)) => {
            let old = model.hosts.rows.take().unwrap_or_default();
            let keep = |row: HostRow| old.iter().find(|known| known.name == row.name).cloned().unwrap_or(row);
            model.hosts.replace(rows.into_iter().map(keep).collect());
            Vec::new()
        }
        Msg::Hosts(Err(error)) => {
            model.hosts.rows.get_or_insert_default();
            model.tell(error, true);
            Vec::new()
        }
        Msg::Check(what, found, ok) => {
            if let Some(current) = moving(model) {
                current.checks.push((what, found, ok));
            }
            Vec::new()
        }
        Msg::Progress(phase, done, total, at) => {
            if let Some(current) = moving(model) {
                current.advance(phase, done, total, at);
            }
            Vec::new()
        }
        Msg::Ask(question, echo) => {
            model.layers.push(Layer::Line { title: question, typed: Input::default(), field: Field::Answer { echo } });
            Vec::new()
        }
        Msg::Moved(result) => on_moved(model, result),
        Msg::Quit => vec![Effect::Quit],
    }
}

fn moving(model: &mut Model) -> Option<&mut Move> {
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
    fn advance(&mut self, phase: String, done: u64, total: u64, at: u64) {
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

/// A count as a number to calculate with; beyond 2^53 the last digits do not matter.
#[allow(clippy::cast_precision_loss, reason = "a rate on a screen has three digits")]
pub fn count(number: u64) -> f64 {
    number as f64
}

fn on_jobs(model: &mut Model, jobs: Vec<JobStatus>) -> Vec<Effect> {
    let is_first = model.jobs.rows.is_none();
    let is_empty = jobs.is_empty();
    let before = model.current_job().map(|job| (job.checkpoints, job.state));
    model.jobs.replace(jobs);
    if is_first && is_empty && model.screen == Screen::Jobs {
        return go_new(model);
    }
    let now = model.current_job().map(|job| (job.checkpoints, job.state));
    match (&model.job, model.screen) {
        // A checkpoint that somebody else made, a job that was restored: what is shown of it is read again.
        (Some(job), Screen::Job) if before.is_some() && before != now => {
            let mut effects = vec![history(&job.name)];
            if !job.is_attached && now.is_some_and(|(_, state)| state == JobState::Running) {
                effects.push(attach(model));
            }
            effects
        }
        _ => Vec::new(),
    }
}

fn on_moved(model: &mut Model, result: Result<Box<MoveReport>, String>) -> Vec<Effect> {
    let told = match &result {
        Ok(report) => {
            let downtime = text::took(std::time::Duration::from_secs_f64(report.downtime.max(0.0)));
            (format!("{} runs on {} now; it stood still for {downtime}", report.job, report.to), false)
        }
        Err(error) => (error.clone(), true),
    };
    // A question that nobody will answer any more.
    model.layers.retain(|layer| !matches!(layer, Layer::Line { field: Field::Answer { .. }, .. }));
    if let Some(current) = moving(model) {
        current.result = Some(result);
    }
    model.tell(told.0, told.1);
    Vec::new()
}

fn on_did(model: &mut Model, reason: &Reason, result: Result<Value, String>) -> Vec<Effect> {
    model.acts.retain(|act| act.reason != *reason);
    match (reason, result) {
        (Reason::Build { source, program }, result) => built(model, source, program, result),
        (Reason::History { job }, result) => {
            let Some(open) = model.job.as_mut().filter(|open| open.name == *job) else { return Vec::new() };
            match result.and_then(|mut value| {
                let list = value.get_mut("checkpoints").map(Value::take).unwrap_or_default();
                serde_json::from_value::<Vec<Checkpoint>>(list).map_err(|error| error.to_string())
            }) {
                Ok(mut checkpoints) => {
                    checkpoints.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.number));
                    open.checkpoints.replace(checkpoints);
                }
                Err(error) => model.tell(error, true),
            }
            Vec::new()
        }
        (Reason::Test { host }, result) => {
            let found = result.map(|value| facts(&value, host));
            if let Some(row) = model.hosts.rows.iter_mut().flatten().find(|row| row.name == *host) {
                row.is_trying = false;
                row.tried = Some(found.clone());
            }
            if let Err(error) = found {
                model.tell(error, true);
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
        (Reason::Remove { job }, Ok(_)) => {
            model.tell(format!("{job} was removed"), false);
            if let Some(rows) = &mut model.jobs.rows {
                rows.retain(|row| row.name != *job);
            }
            if model.screen == Screen::Job { go_jobs(model) } else { Vec::new() }
        }
    }
}

/// Corrects what the list says of a job, ahead of its next reading.
fn correct(model: &mut Model, name: &str, change: impl FnOnce(&mut JobStatus)) {
    model.jobs.rows.iter_mut().flatten().find(|row| row.name == name).map(change);
}

fn refreshed(model: &Model, job: &str) -> Vec<Effect> {
    if model.job.as_ref().is_some_and(|open| open.name == job) { vec![history(job)] } else { Vec::new() }
}

/// What a trial of a host found, a line each.
fn facts(value: &Value, host: &str) -> Vec<String> {
    let hosts = value.get("hosts").and_then(Value::as_array).cloned().unwrap_or_else(|| vec![value.clone()]);
    let found =
        hosts.iter().find(|found| found.get("host").or(found.get("name")).and_then(Value::as_str) == Some(host));
    let Some(Value::Array(lines)) = found.or(hosts.first()).and_then(|found| found.get("facts")) else {
        return vec!["it answers".to_owned()];
    };
    let word = |fact: &Value, key: &str| fact.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    lines.iter().map(|fact| format!("{}: {}", word(fact, "what"), word(fact, "found"))).collect()
}

fn built(model: &mut Model, source: &Path, program: &Path, result: Result<Value, String>) -> Vec<Effect> {
    let outcome = match result {
        Ok(_) => {
            model.new.program = Some(program.to_path_buf());
            model.tell(format!("built {}; r runs it", text::path(program)), false);
            Ok(String::new())
        }
        Err(said) => {
            let complaint = complaint(&said, source);
            model.tell(format!("{} was not built: {}", text::path(source), complaint.message), true);
            Err(complaint)
        }
    };
    model.new.build = Some(Build { source: source.to_path_buf(), result: Some(outcome) });
    vec![Effect::List(model.new.directory.clone())]
}

/// Finds the first error in what a compiler said (`FILE:LINE:COLUMN: error: ...`), and the source around it.
fn complaint(said: &str, source: &Path) -> Complaint {
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

fn on_listed(model: &mut Model, directory: PathBuf, result: Result<Vec<FileRow>, String>) -> Vec<Effect> {
    match result {
        Ok(mut files) => {
            files.sort_by(|one, other| (one.kind, &one.name).cmp(&(other.kind, &other.name)));
            if directory != model.new.directory {
                model.new.files = List::default();
            }
            model.new.directory = directory;
            let is_new = model.new.files.rows.is_none();
            model.new.files.replace(files);
            if is_new {
                // The first source rather than the way up.
                model.new.files.selected = usize::from(model.new.files.shown().len() > 1);
            }
            preview(model)
        }
        Err(error) => {
            model.tell(error, true);
            Vec::new()
        }
    }
}

/// The chosen file's path and kind.
fn chosen_file(model: &Model) -> Option<(PathBuf, FileKind)> {
    let row = model.new.files.chosen()?;
    let path = match row.kind {
        FileKind::Parent => model.new.directory.parent()?.to_path_buf(),
        _ => model.new.directory.join(&row.name),
    };
    Some((path, row.kind))
}

fn preview(model: &mut Model) -> Vec<Effect> {
    let Some((path, FileKind::Source | FileKind::Program | FileKind::Other)) = chosen_file(model) else {
        model.new.preview = None;
        return Vec::new();
    };
    let is_shown = model.new.preview.as_ref().is_some_and(|(shown, _)| *shown == path);
    if is_shown { Vec::new() } else { vec![Effect::Preview(path)] }
}

// Keys.

fn on_key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    if model.layers.is_empty()
        && model.screen == Screen::Job
        && let Some(job) = model.job.as_mut().filter(|job| job.is_typing)
    {
        if key.code == KeyCode::Char(']') && key.modifiers.contains(KeyModifiers::CONTROL)
            || key.code == KeyCode::Char('5') && key.modifiers.contains(KeyModifiers::CONTROL)
        {
            job.is_typing = false;
            return Vec::new();
        }
        return typing::bytes(key, job.screen.screen().application_cursor()).map(Effect::Input).into_iter().collect();
    }
    model.notice = None;
    match model.layers.last_mut() {
        Some(Layer::Help { .. }) => on_help_key(model, key),
        Some(Layer::Palette { .. }) => on_palette_key(model, key),
        Some(Layer::Confirm { .. }) => on_confirm_key(model, key),
        Some(Layer::Line { .. }) => on_line_key(model, key),
        Some(Layer::Move(_)) => on_move_key(model, key),
        Some(Layer::Choose { .. }) | None => on_list_key(model, key),
    }
}

/// The list that a filter of the present screen is about.
fn filtered(model: &mut Model) -> Option<(&mut Input, &mut bool, &mut usize)> {
    fn parts<T>(list: &mut List<T>) -> (&mut Input, &mut bool, &mut usize) {
        (&mut list.filter, &mut list.is_filtering, &mut list.selected)
    }
    if let Some(Layer::Choose { .. }) = model.layers.last() {
        return Some(parts(&mut model.hosts));
    }
    match model.screen {
        Screen::Jobs => Some(parts(&mut model.jobs)),
        Screen::Hosts => Some(parts(&mut model.hosts)),
        Screen::New => Some(parts(&mut model.new.files)),
        Screen::Job => None,
    }
}

fn on_list_key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    if let Some((filter, is_filtering, selected)) = filtered(model)
        && *is_filtering
    {
        match key.code {
            KeyCode::Esc => {
                *filter = Input::default();
                *is_filtering = false;
            }
            KeyCode::Enter => *is_filtering = false,
            KeyCode::Up | KeyCode::Down => return step(model, if key.code == KeyCode::Up { -1 } else { 1 }),
            _ => {
                filter.handle_event(&Event::Key(key));
                *selected = 0;
            }
        }
        return if model.screen == Screen::New { preview(model) } else { Vec::new() };
    }
    let place = model.place();
    match Key::of(key).and_then(|key| model.keymap.action(key, place)) {
        Some(action) => act(model, action),
        None => Vec::new(),
    }
}

fn on_help_key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    if let Some(Layer::Help { scroll }) = model.layers.last_mut() {
        match key.code {
            KeyCode::Down => *scroll = scroll.saturating_add(1),
            KeyCode::PageDown => *scroll = scroll.saturating_add(10),
            KeyCode::Up => *scroll = scroll.saturating_sub(1),
            KeyCode::PageUp => *scroll = scroll.saturating_sub(10),
            KeyCode::Esc | KeyCode::Enter | KeyCode::Char('?' | 'q') => {
                model.layers.pop();
            }
            _ => {}
        }
    }
    Vec::new()
}

/// The commands that can be given here and match what was typed.
pub fn palette<'a>(model: &'a Model, typed: &str) -> Vec<&'a Command> {
    let place = match model.screen {
        Screen::Jobs => super::keys::Place::Jobs,
        Screen::Job => super::keys::Place::Job,
        Screen::Hosts => super::keys::Place::Hosts,
        Screen::New => super::keys::Place::New,
    };
    let here = COMMANDS.iter().filter(|command| command.places.contains(&place) && command.action != Action::Palette);
    matching(typed, here, |command| format!("{} {}", command.name, command.help))
}

fn on_palette_key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    let Some(Layer::Palette { typed, selected }) = model.layers.last_mut() else { return Vec::new() };
    match key.code {
        KeyCode::Esc => {
            model.layers.pop();
        }
        KeyCode::Up => *selected = selected.saturating_sub(1),
        KeyCode::Down => *selected = selected.saturating_add(1),
        KeyCode::Enter => {
            let (typed, selected) = (typed.value().to_owned(), *selected);
            let found = palette(model, &typed);
            let action = found.get(selected.min(found.len().saturating_sub(1))).map(|command| command.action);
            model.layers.pop();
            return action.map_or_else(Vec::new, |action| act(model, action));
        }
        _ => {
            typed.handle_event(&Event::Key(key));
            *selected = 0;
        }
    }
    Vec::new()
}

fn on_confirm_key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    let Some(Layer::Confirm { is_yes, .. }) = model.layers.last_mut() else { return Vec::new() };
    match key.code {
        KeyCode::Left | KeyCode::Right | KeyCode::Tab => *is_yes = !*is_yes,
        KeyCode::Char('y' | 'Y') => *is_yes = true,
        KeyCode::Char('n' | 'N') | KeyCode::Esc => {
            model.layers.pop();
        }
        KeyCode::Enter => {
            if let Some(Layer::Confirm { is_yes: true, effect, .. }) = model.layers.pop() {
                return begin(model, effect);
            }
        }
        _ => {}
    }
    Vec::new()
}

fn on_line_key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    let Some(Layer::Line { typed, field, .. }) = model.layers.last_mut() else { return Vec::new() };
    let (value, field) = (typed.value().to_owned(), *field);
    match key.code {
        KeyCode::Esc => {
            model.layers.pop();
            if matches!(field, Field::Answer { .. }) { vec![Effect::Answer(None)] } else { Vec::new() }
        }
        KeyCode::Enter => {
            model.layers.pop();
            match field {
                Field::Arguments => model.new.arguments = value,
                Field::Flags => model.new.flags = value,
                Field::Environment => model.new.environment = value,
                Field::Directory => model.new.run_in = value,
                Field::Answer { .. } => return vec![Effect::Answer(Some(value))],
            }
            Vec::new()
        }
        _ => {
            typed.handle_event(&Event::Key(key));
            Vec::new()
        }
    }
}

fn on_move_key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    let Some(Layer::Move(current)) = model.layers.last_mut() else { return Vec::new() };
    let is_over = current.result.is_some();
    let has_moved = matches!(current.result, Some(Ok(_)));
    match key.code {
        KeyCode::Esc | KeyCode::Enter if is_over => {
            let job = current.job.clone();
            model.layers.pop();
            if has_moved { open_job(model, &job) } else { Vec::new() }
        }
        KeyCode::Esc | KeyCode::Char('x') if !current.is_cancelled => {
            current.is_cancelled = true;
            vec![Effect::CancelMove]
        }
        _ => Vec::new(),
    }
}

fn on_paste(model: &mut Model, pasted: &str) -> Vec<Effect> {
    match model.layers.last_mut() {
        Some(Layer::Line { typed, .. } | Layer::Palette { typed, .. }) => {
            let value = format!("{}{}", typed.value(), pasted.lines().next().unwrap_or_default());
            *typed = Input::new(value);
        }
        Some(_) => {}
        None => {
            if let Some(job) = model.job.as_ref().filter(|job| job.is_typing && model.screen == Screen::Job) {
                let is_bracketed = job.screen.screen().bracketed_paste();
                return vec![Effect::Input(typing::paste(pasted, is_bracketed))];
            }
        }
    }
    Vec::new()
}

fn on_mouse(model: &mut Model, mouse: MouseEvent) -> Vec<Effect> {
    let pane = layout::pane(model);
    if let Some(job) = model.job.as_ref().filter(|job| job.is_typing && model.screen == Screen::Job) {
        return typing::mouse(mouse, pane, job.screen.screen()).map(Effect::Input).into_iter().collect();
    }
    match mouse.kind {
        MouseEventKind::ScrollUp => step(model, -1),
        MouseEventKind::ScrollDown => step(model, 1),
        MouseEventKind::Down(_) if model.layers.is_empty() => {
            if model.screen == Screen::Job
                && let Some(job) = &mut model.job
                && pane.contains((mouse.column, mouse.row).into())
            {
                job.is_typing = job.is_attached && job.tab == Tab::Terminal;
                return Vec::new();
            }
            match layout::row_at(model, mouse.column, mouse.row) {
                Some(row) => {
                    let was = filtered(model).map(|(_, _, selected)| std::mem::replace(selected, row));
                    if was == Some(row) { act(model, Action::Open) } else { preview_if_new(model) }
                }
                None => Vec::new(),
            }
        }
        _ => Vec::new(),
    }
}

fn preview_if_new(model: &mut Model) -> Vec<Effect> {
    if model.screen == Screen::New { preview(model) } else { Vec::new() }
}

fn step(model: &mut Model, by: isize) -> Vec<Effect> {
    match model.layers.last_mut() {
        Some(Layer::Choose { .. }) => {
            model.hosts.step(by);
            return Vec::new();
        }
        Some(_) => return Vec::new(),
        None => {}
    }
    match model.screen {
        Screen::Jobs => model.jobs.step(by),
        Screen::Hosts => model.hosts.step(by),
        Screen::New => model.new.files.step(by),
        Screen::Job => {
            if let Some(job) = &mut model.job {
                match job.tab {
                    Tab::Checkpoints => job.checkpoints.step(by),
                    Tab::Holds => {
                        job.scroll = job.scroll.saturating_add_signed(by.clamp(-100, 100).try_into().unwrap_or(0));
                    }
                    Tab::Terminal => {
                        let at = job.screen.screen().scrollback().saturating_add_signed(-by);
                        job.screen.screen_mut().set_scrollback(at);
                    }
                }
            }
        }
    }
    preview_if_new(model)
}

// Commands.

/// Does a command, or says why it is not possible now.
fn act(model: &mut Model, action: Action) -> Vec<Effect> {
    const PAGE: isize = 10;
    match action {
        Action::Up => step(model, -1),
        Action::Down => step(model, 1),
        Action::PageUp => step(model, -PAGE),
        Action::PageDown => step(model, PAGE),
        Action::First => step(model, isize::MIN / 2),
        Action::Last => step(model, isize::MAX / 2),
        Action::Open => open(model),
        Action::Back => back(model),
        Action::Quit => vec![Effect::Quit],
        Action::Help => {
            model.layers.push(Layer::Help { scroll: 0 });
            Vec::new()
        }
        Action::Palette => {
            model.layers.push(Layer::Palette { typed: Input::default(), selected: 0 });
            Vec::new()
        }
        Action::Filter => {
            if let Some((_, is_filtering, _)) = filtered(model) {
                *is_filtering = true;
            }
            Vec::new()
        }
        Action::Jobs => go_jobs(model),
        Action::Hosts => {
            let effects = leave_job(model);
            model.screen = Screen::Hosts;
            [effects, vec![Effect::Hosts]].concat()
        }
        Action::New => go_new(model),
        Action::Type => type_into(model),
        Action::NextTab => next_tab(model),
        Action::Run => run(model),
        Action::Arguments => ask(model, "Arguments of the program", Field::Arguments),
        Action::Flags => ask(model, "Flags for the compiler", Field::Flags),
        Action::Environment => ask(model, "Environment for the program (NAME=VALUE ...)", Field::Environment),
        Action::Directory => ask(model, "Directory in which the program runs", Field::Directory),
        Action::Save => on_job(model, is_living, |name| Effect::Verb {
            words: words(&["checkpoint", name, "--json"]),
            reason: Reason::Save { job: name.to_owned() },
            directory: None,
            environment: Vec::new(),
        }),
        Action::Migrate => choose_host(model),
        Action::Restore => restore(model, "restore"),
        Action::Branch => restore(model, "branch"),
        Action::Stop => confirm(model, is_living, "End", "What it has not saved is lost.", |name| {
            (words(&["stop", name, "--json"]), Reason::Stop { job: name.to_owned() })
        }),
        Action::Remove => {
            let ended = |job: &JobStatus| match job.state {
                JobState::Ended | JobState::Saved => Ok(()),
                _ => Err(format!("{} is {}: stop it first", job.name, super::model::state_word(job.state))),
            };
            confirm(model, ended, "Remove", "Its log and all its checkpoints are deleted.", |name| {
                (words(&["rm", name, "--json"]), Reason::Remove { job: name.to_owned() })
            })
        }
        Action::Test => test_host(model),
        Action::Log => {
            model.shows_log = !model.shows_log;
            resized(model)
        }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn is_living(job: &JobStatus) -> Result<(), String> {
    match job.state {
        JobState::Running | JobState::Stopped => Ok(()),
        JobState::Moving => Err(format!("{} is being moved; wait until it has arrived", job.name)),
        JobState::Ended | JobState::Saved => {
            Err(format!("{} has ended; R brings it back from its last checkpoint", job.name))
        }
        JobState::Unreachable => Err(format!("{} is on {}, which cannot be reached now", job.name, job.host)),
    }
}

/// Does something with the current job, if it is in a state for it.
fn on_job(
    model: &mut Model,
    allowed: impl Fn(&JobStatus) -> Result<(), String>,
    effect: impl Fn(&str) -> Effect,
) -> Vec<Effect> {
    match current(model, allowed) {
        Ok(name) => begin(model, effect(&name)),
        Err(why) => {
            model.tell(why, false);
            Vec::new()
        }
    }
}

fn current(model: &Model, allowed: impl Fn(&JobStatus) -> Result<(), String>) -> Result<String, String> {
    match (model.current_job(), &model.job) {
        (Some(job), _) => allowed(job).map(|()| job.name.clone()),
        // Just started: the list will know it in a moment.
        (None, Some(open)) if model.screen == Screen::Job => Ok(open.name.clone()),
        _ => Err("there is no job here; n makes one".to_owned()),
    }
}

fn confirm(
    model: &mut Model,
    allowed: impl Fn(&JobStatus) -> Result<(), String>,
    verb: &str,
    detail: &str,
    effect: impl Fn(&str) -> (Vec<String>, Reason),
) -> Vec<Effect> {
    match current(model, allowed) {
        Ok(name) => {
            let (words, reason) = effect(&name);
            let effect = Effect::Verb { words, reason, directory: None, environment: Vec::new() };
            let question = format!("{verb} {name}?");
            model.layers.push(Layer::Confirm { question, detail: detail.to_owned(), is_yes: false, effect });
        }
        Err(why) => model.tell(why, false),
    }
    Vec::new()
}

/// Starts an act: it is shown while it lasts, and in the log pane as the verb that it is.
fn begin(model: &mut Model, effect: Effect) -> Vec<Effect> {
    let (verb, reason) = match &effect {
        Effect::Verb { words, reason, .. } => (words.clone(), Some(reason.clone())),
        Effect::Migrate { job, host } => (words(&["migrate", job, host]), None),
        _ => return vec![effect],
    };
    let is_act = reason.as_ref().is_none_or(Reason::is_act);
    let shown: Vec<String> = verb.iter().filter(|word| *word != "--json").map(|word| text::quoted(word)).collect();
    let shown = format!("ckptctl {}", shown.join(" "));
    if is_act && model.read_only {
        model.tell(format!("this menu is read-only; the verb would be: {shown}"), false);
        return Vec::new();
    }
    if is_act {
        model.note(shown.clone(), false);
    }
    if let Some(reason) = reason {
        if model.acts.iter().any(|act| act.reason == reason) {
            model.tell("that is under way already", false);
            return Vec::new();
        }
        if is_act {
            model.acts.push(Running { reason, words: shown });
        }
    }
    vec![effect]
}

fn ask(model: &mut Model, title: &str, field: Field) -> Vec<Effect> {
    let value = match field {
        Field::Arguments => &model.new.arguments,
        Field::Flags => &model.new.flags,
        Field::Environment => &model.new.environment,
        Field::Directory => &model.new.run_in,
        Field::Answer { .. } => return Vec::new(),
    };
    model.layers.push(Layer::Line { title: title.to_owned(), typed: Input::new(value.clone()), field });
    Vec::new()
}

fn open(model: &mut Model) -> Vec<Effect> {
    if let Some(Layer::Choose { job }) = model.layers.last() {
        let job = job.clone();
        return match model.hosts.chosen().map(|host| host.name.clone()) {
            Some(host) => {
                model.layers.pop();
                let effects = begin(model, Effect::Migrate { job: job.clone(), host: host.clone() });
                if !effects.is_empty() {
                    model.layers.push(Layer::Move(Move::new(job, host)));
                }
                effects
            }
            None => Vec::new(),
        };
    }
    match model.screen {
        Screen::Jobs => match model.current_job().map(|job| job.name.clone()) {
            Some(name) => open_job(model, &name),
            None => Vec::new(),
        },
        Screen::Job if model.job.as_ref().is_some_and(|job| job.tab == Tab::Checkpoints) => restore(model, "restore"),
        Screen::Job => type_into(model),
        Screen::Hosts => test_host(model),
        Screen::New => open_file(model),
    }
}

fn open_file(model: &mut Model) -> Vec<Effect> {
    match chosen_file(model) {
        Some((path, FileKind::Parent | FileKind::Directory)) => vec![Effect::List(path)],
        Some((path, FileKind::Source)) => {
            let program = path.with_extension("");
            let mut verb = words(&["build"]);
            verb.push(path.to_string_lossy().into_owned());
            let flags = split(&model.new.flags);
            if !flags.is_empty() {
                verb.push("--".to_owned());
                verb.extend(flags);
            }
            model.new.build = Some(Build { source: path.clone(), result: None });
            let reason = Reason::Build { source: path, program };
            let directory = Some(model.new.directory.clone());
            begin(model, Effect::Verb { words: verb, reason, directory, environment: Vec::new() })
        }
        Some((path, FileKind::Program)) => {
            model.tell(format!("{} is chosen; r runs it", text::path(&path)), false);
            model.new.program = Some(path);
            Vec::new()
        }
        Some((path, FileKind::Other)) => {
            model.tell(format!("{} is neither C or C++ source nor executable", text::path(&path)), false);
            Vec::new()
        }
        None => Vec::new(),
    }
}

fn run(model: &mut Model) -> Vec<Effect> {
    let chosen = chosen_file(model).filter(|(_, kind)| *kind == FileKind::Program).map(|(path, _)| path);
    let Some(program) = chosen.or_else(|| model.new.program.clone()) else {
        model.tell("there is nothing to run yet: Enter builds a source or chooses a program", false);
        return Vec::new();
    };
    let mut verb = words(&["run", "--detach", "--json", "--"]);
    verb.push(program.to_string_lossy().into_owned());
    verb.extend(split(&model.new.arguments));
    let environment = split(&model.new.environment)
        .iter()
        .filter_map(|pair| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect();
    let directory = if model.new.run_in.is_empty() {
        model.new.directory.clone()
    } else {
        model.new.directory.join(&model.new.run_in)
    };
    begin(model, Effect::Verb { words: verb, reason: Reason::Run, directory: Some(directory), environment })
}

/// Splits a line into words: quotes keep words together, a backslash takes the next character as it is.
fn split(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut is_word) = (Vec::new(), String::new(), None, false);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') => (quote, is_word) = (Some(c), true),
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => {
                word.extend(chars.next());
                is_word = true;
            }
            (None, c) if c.is_whitespace() => {
                if std::mem::take(&mut is_word) {
                    words.push(std::mem::take(&mut word));
                }
            }
            (_, c) => {
                word.push(c);
                is_word = true;
            }
        }
    }
    if is_word {
        words.push(word);
    }
    words
}

fn back(model: &mut Model) -> Vec<Effect> {
    if model.layers.pop().is_some() {
        return Vec::new();
    }
    if let Some((filter, ..)) = filtered(model)
        && !filter.value().is_empty()
    {
        *filter = Input::default();
        return Vec::new();
    }
    if model.shows_log {
        model.shows_log = false;
        return resized(model);
    }
    match model.screen {
        Screen::Jobs => {
            model.tell("this is the first screen; q leaves the menu, jobs run on", false);
            Vec::new()
        }
        _ => go_jobs(model),
    }
}

fn leave_job(model: &mut Model) -> Vec<Effect> {
    if model.job.take().is_some() { vec![Effect::Detach] } else { Vec::new() }
}

fn go_jobs(model: &mut Model) -> Vec<Effect> {
    model.screen = Screen::Jobs;
    leave_job(model)
}

fn go_new(model: &mut Model) -> Vec<Effect> {
    let mut effects = leave_job(model);
    model.screen = Screen::New;
    effects.push(Effect::List(model.new.directory.clone()));
    effects
}

fn history(job: &str) -> Effect {
    Effect::Verb {
        words: words(&["history", job, "--json"]),
        reason: Reason::History { job: job.to_owned() },
        directory: None,
        environment: Vec::new(),
    }
}

fn open_job(model: &mut Model, name: &str) -> Vec<Effect> {
    let mut effects = leave_job(model);
    model.screen = Screen::Job;
    model.job = Some(OpenJob {
        screen: vt100::Parser::new(24, 80, SCROLLBACK),
        name: name.to_owned(),
        is_attached: false,
        is_typing: false,
        tab: Tab::Terminal,
        checkpoints: List::default(),
        holds: None,
        scroll: 0,
    });
    effects.push(attach(model));
    effects.push(history(name));
    effects
}

/// The size of the pane, which becomes the program's terminal size.
fn pane_size(model: &mut Model) -> WindowSize {
    let pane = layout::pane(model);
    let size = WindowSize { columns: pane.width.max(1), rows: pane.height.max(1) };
    if let Some(job) = &mut model.job {
        job.screen.screen_mut().set_size(size.rows, size.columns);
    }
    size
}

fn attach(model: &mut Model) -> Effect {
    let size = pane_size(model);
    // What was there comes again, from the log.
    let job = model.job.as_mut().map(|job| {
        job.screen = vt100::Parser::new(size.rows, size.columns, SCROLLBACK);
        job.name.clone()
    });
    Effect::Attach { job: job.unwrap_or_default(), size }
}

fn resized(model: &mut Model) -> Vec<Effect> {
    if model.screen != Screen::Job || model.job.is_none() {
        return Vec::new();
    }
    vec![Effect::Resize(pane_size(model))]
}

fn type_into(model: &mut Model) -> Vec<Effect> {
    let Some(job) = &mut model.job else { return Vec::new() };
    if job.tab != Tab::Terminal {
        return Vec::new();
    }
    if job.is_attached {
        job.is_typing = true;
        job.screen.screen_mut().set_scrollback(0);
    } else {
        let name = job.name.clone();
        model.tell(format!("{name} takes no keys now: it has ended or cannot be reached"), false);
    }
    Vec::new()
}

fn next_tab(model: &mut Model) -> Vec<Effect> {
    let pid = model.current_job().filter(|job| job.host == "local").and_then(|job| job.pid);
    let Some(job) = &mut model.job else { return Vec::new() };
    job.tab = job.tab.next();
    job.scroll = 0;
    let name = job.name.clone();
    match (job.tab, pid) {
        (Tab::Holds, Some(pid)) => vec![Effect::Holds { job: name, pid }],
        (Tab::Holds, None) => {
            job.holds = Some(Err("only what runs on this machine can be looked into from here".to_owned()));
            Vec::new()
        }
        (Tab::Checkpoints, _) => vec![history(&name)],
        (Tab::Terminal, _) => resized(model),
    }
}

fn choose_host(model: &mut Model) -> Vec<Effect> {
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

fn restore(model: &mut Model, verb: &str) -> Vec<Effect> {
    let is_branch = verb == "branch";
    let allowed = |job: &JobStatus| match job.state {
        _ if job.checkpoints == 0 => Err(format!("{} has no checkpoint yet; c makes one", job.name)),
        JobState::Ended | JobState::Saved => Ok(()),
        _ if is_branch => Ok(()),
        _ => Err(format!(
            "{} is {}: stop it first, or b starts a second run beside it",
            job.name,
            super::model::state_word(job.state)
        )),
    };
    let name = match current(model, allowed) {
        Ok(name) => name,
        Err(why) => {
            model.tell(why, false);
            return Vec::new();
        }
    };
    let number = model.job.as_ref().and_then(|job| job.checkpoints.chosen()).map(|checkpoint| checkpoint.number);
    let target = number.map_or_else(|| name.clone(), |number| format!("{name}@{number}"));
    let reason = if is_branch { Reason::Branch { job: name } } else { Reason::Restore { job: name } };
    let words = words(&[verb, &target, "--detach", "--json"]);
    begin(model, Effect::Verb { words, reason, directory: None, environment: Vec::new() })
}

fn test_host(model: &mut Model) -> Vec<Effect> {
    let Some(host) = model.hosts.chosen().map(|row| row.name.clone()) else { return Vec::new() };
    if let Some(row) = model.hosts.rows.iter_mut().flatten().find(|row| row.name == host) {
        row.is_trying = true;
    }
    let words = words(&["hosts", "test", &host, "--json"]);
    vec![Effect::Verb { words, reason: Reason::Test { host }, directory: None, environment: Vec::new() }]
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
