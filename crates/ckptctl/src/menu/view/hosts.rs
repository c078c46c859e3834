//! The machines that jobs can move to.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Wrap};

use super::{empty, filter_line, heading, table};
use crate::menu::model::{HostRow, Model};
use crate::text;

/// Draws them.
pub fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let title = Rect { height: 1, ..area };
    let rest = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    let Some(rows) = &model.hosts.rows else {
        empty(model, frame, area, &["Reading the hosts ..."]);
        return;
    };
    let count = text::count(u64::try_from(rows.len()).unwrap_or(u64::MAX), "host", "hosts");
    heading(frame, title, &filter_line(&model.hosts, &count), model.theme.dim);
    if rows.is_empty() {
        let lines = [
            "There is no host yet.",
            "",
            "ckptctl hosts add NAME USER@ADDRESS adds one;",
            "those of ~/.ssh/config are here by themselves.",
        ];
        empty(model, frame, rest, &lines);
        return;
    }
    let [list, found] = Layout::vertical([Constraint::Min(4), Constraint::Percentage(50)]).areas(rest);
    list_of(model, frame, list);
    if let Some(host) = model.hosts.chosen() {
        heading(frame, Rect { height: 1, ..found }, &format!(" {}", text::plain(&host.name)), model.theme.dim);
        let room = Rect { y: found.y + 1, height: found.height.saturating_sub(1), ..found };
        frame.render_widget(Paragraph::new(facts(model, host)).wrap(Wrap { trim: false }), room);
    }
}

/// The list alone, which is also the choice of where to move.
pub fn list_of(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let theme = model.theme;
    let rows: Vec<Vec<Span<'_>>> = model
        .hosts
        .shown()
        .iter()
        .map(|host| {
            let (word, style) = match (&host.tried, host.is_trying) {
                (_, true) => ("trying ...", theme.warn),
                (None, _) => ("not tried", theme.dim),
                (Some(Ok(_)), _) => ("ready", theme.good),
                (Some(Err(_)), _) => ("failed", theme.bad),
            };
            vec![Span::raw(text::plain(&host.name)), Span::styled(word, style), Span::raw(text::plain(&host.address))]
        })
        .collect();
    table(model, frame, area, &["NAME", "STATE", "ADDRESS"], &rows, model.hosts.selected);
}

fn facts<'a>(model: &Model, host: &'a HostRow) -> Vec<Line<'a>> {
    match &host.tried {
        _ if host.is_trying => vec![Line::raw(" trying the connection ...")],
        None => vec![Line::raw(" t tries the connection, and tells what is possible there.")],
        Some(Ok(facts)) => facts.iter().map(|fact| Line::raw(format!(" {}", text::plain(fact)))).collect(),
        Some(Err(error)) => vec![Line::styled(format!(" {}", text::plain(error)), model.theme.bad)],
    }
}
