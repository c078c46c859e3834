//! Where everything is on the screen: the same for drawing and for the mouse.

use ratatui::layout::{Constraint, Layout, Rect};

use crate::menu::model::{LogLine, Model, Screen, Tab};
use crate::text;

/// The smallest terminal in which the menu is of use.
pub const SMALLEST: (u16, u16) = (60, 16);

/// Whether nothing but that is said.
pub fn is_too_small(model: &Model) -> bool {
    model.size.0 < SMALLEST.0 || model.size.1 < SMALLEST.1
}

/// The parts of the screen.
pub struct Parts {
    /// The name of the program and the screens.
    pub header: Rect,
    /// What the screen is about.
    pub body: Rect,
    /// The log pane; empty when it is not shown.
    pub log: Rect,
    /// What is to be told.
    pub notice: Rect,
    /// Keys.
    pub footer: Rect,
}

/// The parts for a terminal of this size.
pub fn parts(model: &Model) -> Parts {
    let area = Rect::new(0, 0, model.size.0, model.size.1);
    let log = if model.shows_log { (area.height / 3).clamp(3, 12) } else { 0 };
    let rows = [
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(log),
        Constraint::Length(1),
        Constraint::Length(1),
    ];
    let [header, body, log, notice, footer] = Layout::vertical(rows).areas(area);
    Parts { header, body, log, notice, footer }
}

/// A line of the log pane, behind its time.
pub fn wrapped(line: &LogLine, width: u16) -> Vec<String> {
    text::wrap(&line.text, usize::from(width).saturating_sub(12))
}

/// How many lines there are above what the log pane shows at its end.
pub fn log_above(model: &Model) -> usize {
    let area = parts(model).log;
    let lines: usize = model.log.iter().map(|line| wrapped(line, area.width).len()).sum();
    lines.saturating_sub(usize::from(area.height.saturating_sub(1)))
}

/// A title at its place: what it is for, its text, its first column.
pub type Title<T> = (T, String, u16);

/// The names of the screens, in the header.
pub fn screens(model: &Model) -> Vec<Title<Screen>> {
    let job = model.job.as_ref().map(|job| text::plain(&job.name)).unwrap_or_default();
    let names = [
        (Screen::Jobs, "Jobs".to_owned()),
        (Screen::Job, job),
        (Screen::Hosts, "Hosts".to_owned()),
        (Screen::New, "New job".to_owned()),
    ];
    // Behind the name of the program.
    row(names.into_iter().filter(|(_, name)| !name.is_empty()), 10)
}

/// The names of a job's views.
pub fn tabs() -> Vec<Title<Tab>> {
    row(Tab::ALL.into_iter().map(|(tab, name)| (tab, name.to_owned())), 1)
}

/// Titles with a space on either side, and one column between two.
fn row<T>(titles: impl Iterator<Item = (T, String)>, first: u16) -> Vec<Title<T>> {
    let mut column = first;
    let place = |(what, name): (T, String)| {
        let title = format!(" {name} ");
        let at = column;
        column += u16::try_from(title.chars().count()).unwrap_or(u16::MAX).saturating_add(1);
        (what, title, at)
    };
    titles.map(place).collect()
}

/// The title in a column.
pub fn under<T>(titles: &[Title<T>], column: u16) -> Option<&Title<T>> {
    titles
        .iter()
        .find(|(_, title, at)| (*at..*at + u16::try_from(title.chars().count()).unwrap_or(0)).contains(&column))
}

/// The job screen: what is said of the job above, the tabs, and the pane below.
pub fn job(body: Rect) -> [Rect; 3] {
    Layout::vertical([Constraint::Length(1), Constraint::Length(1), Constraint::Min(1)]).areas(body)
}

/// The pane of the open job's terminal.
pub fn pane(model: &Model) -> Rect {
    job(parts(model).body)[2]
}

/// A job's checkpoints: what is said of them, the list, and the picture of the chosen one.
pub fn checkpoints(pane: Rect) -> [Rect; 3] {
    const WIDE: u16 = 100;
    let [above, area] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(pane);
    let halves = [Constraint::Percentage(45), Constraint::Percentage(55)];
    let [list, picture] = if area.width >= WIDE {
        Layout::horizontal(halves).spacing(1).areas(area)
    } else {
        Layout::vertical(halves).areas(area)
    };
    [above, list, picture]
}

/// The new-job screen: the files, what is known of the chosen one, and the line of settings below.
pub fn new(body: Rect) -> [Rect; 3] {
    let [above, settings] = Layout::vertical([Constraint::Min(1), Constraint::Length(4)]).areas(body);
    let [files, preview] = Layout::horizontal([Constraint::Percentage(40), Constraint::Percentage(60)]).areas(above);
    [files, preview, settings]
}

/// The hosts screen below its heading: the list of so many, and what was found out about the chosen one, which gets the room
/// that the list does not need.
pub fn hosts(body: Rect, count: usize) -> [Rect; 2] {
    let area = below(body);
    let most = (area.height / 2).max(4);
    // With its headings.
    let list = u16::try_from(count).unwrap_or(u16::MAX).saturating_add(1).min(most);
    Layout::vertical([Constraint::Length(list), Constraint::Min(0)]).areas(area)
}

/// What is below the first line.
fn below(area: Rect) -> Rect {
    Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area }
}

/// The first of `count` rows to be shown in a window of `height` rows, so that the chosen one is in it.
pub fn first(selected: usize, count: usize, height: u16) -> usize {
    let height = usize::from(height.max(1));
    let most = count.saturating_sub(height);
    selected.saturating_sub(height / 2).min(most)
}

/// Which row of the present screen's list is at a place.
pub fn row_at(model: &Model, column: u16, row: u16) -> Option<usize> {
    let body = parts(model).body;
    let all_hosts = model.hosts.rows.as_ref().map_or(0, Vec::len);
    let (list, count, selected) = match (model.screen, &model.job) {
        (Screen::Jobs, _) => (below(body), model.jobs.shown().len(), model.jobs.selected),
        (Screen::Hosts, _) => (hosts(body, all_hosts)[0], model.hosts.shown().len(), model.hosts.selected),
        (Screen::New, _) => (below(new(body)[0]), model.new.files.shown().len(), model.new.files.selected),
        (Screen::Job, Some(job)) if job.tab == Tab::Checkpoints => {
            (checkpoints(pane(model))[1], job.checkpoints.shown().len(), job.checkpoints.selected)
        }
        (Screen::Job, _) => return None,
    };
    // The heading is no row.
    let list = below(list);
    if !list.contains((column, row).into()) {
        return None;
    }
    let at = first(selected, count, list.height) + usize::from(row - list.y);
    (at < count).then_some(at)
}
