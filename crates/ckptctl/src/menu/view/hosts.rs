//! The machines that jobs can move to.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Wrap};

use super::{empty, filter_line, heading, layout, nothing_matches, table};
use crate::menu::model::{HostRow, HostState, Model};
use crate::text;

/// Draws them.
pub fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let title = Rect { height: 1, ..area };
    let rest = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    let Some(rows) = &model.hosts.rows else {
        empty(model, frame, area, &["Reading the hosts ..."]);
        return;
    };
    let count = super::count_of(&model.hosts, rows.len(), "host", "hosts");
    heading(frame, title, &filter_line(&model.hosts, &count), model.theme.dim);
    if rows.is_empty() {
        let lines = ["There is no host yet.", "", "a adds one;", "those of ~/.ssh/config are here by themselves."];
        empty(model, frame, rest, &lines);
        return;
    }
    let [list, found] = layout::hosts(area, rows.len());
    list_of(model, frame, list, None);
    if let Some(host) = model.hosts.chosen() {
        heading(frame, Rect { height: 1, ..found }, &format!(" {}", text::plain(&host.name)), model.theme.dim);
        let room = Rect { y: found.y + 1, height: found.height.saturating_sub(1), ..found };
        frame.render_widget(Paragraph::new(facts(model, host)).wrap(Wrap { trim: false }), room);
    }
}

/// The list alone, which is also the choice of where to move what is `here` now.
pub fn list_of(model: &Model, frame: &mut Frame<'_>, area: Rect, here: Option<&str>) {
    let theme = model.theme;
    let dash = || "-".to_owned();
    let row = |host: &&HostRow| {
        let (word, style) = match host.state {
            _ if here == Some(&host.name) => ("it is here", theme.dim),
            HostState::Trying => ("trying ...", theme.warn),
            HostState::Untried => ("not tried", theme.dim),
            HostState::Ready => ("ready", theme.good),
            HostState::Failed => ("failed", theme.bad),
        };
        vec![
            Span::raw(text::plain(&host.name)),
            Span::styled(word, style),
            Span::raw(host.load.map_or_else(dash, |load| format!("{load:.2}"))),
            Span::raw(host.memory.map_or_else(dash, text::size)),
            Span::raw(host.login.as_deref().map_or_else(dash, text::plain)),
            Span::raw(text::plain(&host.address)),
        ]
    };
    let rows: Vec<Vec<Span<'_>>> = model.hosts.shown().iter().map(row).collect();
    if rows.is_empty() && !model.hosts.filter.value().is_empty() {
        nothing_matches(model, frame, area);
        return;
    }
    table(model, frame, area, &["NAME", "STATE", "LOAD", "FREE", "LOGIN BY", "ADDRESS"], &rows, model.hosts.selected);
}

fn facts<'a>(model: &Model, host: &'a HostRow) -> Vec<Line<'a>> {
    let theme = model.theme;
    let line = |(what, found): &'a (String, String)| {
        let style = if what == "failed" { theme.bad } else { Style::new() };
        let what = Span::styled(format!(" {:<10}", text::plain(what)), theme.dim);
        Line::from(vec![what, Span::styled(text::plain(found), style)])
    };
    let mut lines: Vec<Line<'_>> = host.facts.iter().map(line).collect();
    match host.state {
        HostState::Trying => lines.push(Line::styled(" trying ...", theme.warn)),
        HostState::Untried => lines.push(Line::raw(" t tries the connection, and tells what is possible there.")),
        HostState::Ready | HostState::Failed => {}
    }
    lines
}
