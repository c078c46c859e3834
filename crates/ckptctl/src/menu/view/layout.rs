//! Where everything is on the screen: the same for drawing and for the mouse.

use ratatui::layout::{Constraint, Layout, Rect};

use crate::menu::model::{Model, Screen};

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

/// The job screen: what is said of the job above, the tabs, and the pane below.
pub fn job(body: Rect) -> [Rect; 3] {
    Layout::vertical([Constraint::Length(1), Constraint::Length(1), Constraint::Min(1)]).areas(body)
}

/// The pane of the open job's terminal.
pub fn pane(model: &Model) -> Rect {
    job(parts(model).body)[2]
}

/// The new-job screen: the files, what is known of the chosen one, and the line of settings below.
pub fn new(body: Rect) -> [Rect; 3] {
    let [above, settings] = Layout::vertical([Constraint::Min(1), Constraint::Length(4)]).areas(body);
    let [files, preview] = Layout::horizontal([Constraint::Percentage(40), Constraint::Percentage(60)]).areas(above);
    [files, preview, settings]
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
    let (list, count, selected) = match model.screen {
        Screen::Jobs => (body, model.jobs.shown().len(), model.jobs.selected),
        Screen::Hosts => (body, model.hosts.shown().len(), model.hosts.selected),
        Screen::New => (new(body)[0], model.new.files.shown().len(), model.new.files.selected),
        Screen::Job => return None,
    };
    // The heading is no row.
    let list = Rect { y: list.y + 1, height: list.height.saturating_sub(1), ..list };
    if !list.contains((column, row).into()) {
        return None;
    }
    let at = first(selected, count, list.height) + usize::from(row - list.y);
    (at < count).then_some(at)
}
