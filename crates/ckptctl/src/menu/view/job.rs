//! One job: its terminal, its checkpoints, what it holds.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use tui_term::widget::{Cursor, PseudoTerminal};

use super::jobs::state;
use super::{empty, heading, layout, table};
use crate::menu::keys::Action;
use crate::menu::model::{Model, OpenJob, Tab};
use crate::text;

/// Draws it.
pub fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let [about, tabs, pane] = layout::job(area);
    let Some(job) = &model.job else { return };
    draw_about(model, frame, about);
    draw_tabs(model, job, frame, tabs);
    match job.tab {
        Tab::Terminal => draw_terminal(model, job, frame, pane),
        Tab::Checkpoints => draw_checkpoints(model, job, frame, pane),
        Tab::Holds => draw_holds(model, job, frame, pane),
    }
}

fn draw_about(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let Some(job) = model.current_job() else { return };
    let (word, style) = state(model, job);
    let mut spans =
        vec![Span::raw(" "), Span::styled(word, style), Span::raw(format!(" on {}", text::plain(&job.host)))];
    if let Some(pid) = job.pid {
        spans.push(Span::raw(format!(", process {pid}")));
    }
    if let Some(memory) = job.memory {
        spans.push(Span::raw(format!(", {}", text::size(memory))));
    }
    spans.push(Span::raw(format!(", {}", text::count(job.checkpoints, "checkpoint", "checkpoints"))));
    let command: Vec<String> = job.command.iter().map(|word| text::quoted(&word.text())).collect();
    spans.push(Span::styled(format!("  {}", text::plain(&command.join(" "))), model.theme.dim));
    if let Some(note) = &job.note {
        spans = vec![Span::raw(" "), Span::styled(text::plain(note), model.theme.warn)];
    }
    frame.render_widget(Line::from(spans), area);
}

fn draw_tabs(model: &Model, job: &OpenJob, frame: &mut Frame<'_>, area: Rect) {
    let theme = model.theme;
    let mut spans = vec![Span::styled("\u{2500}", theme.dim)];
    let mut width = 1;
    for (tab, title, _) in layout::tabs() {
        let style = if tab == job.tab { theme.selected } else { theme.dim };
        width += title.len() + 1;
        spans.extend([Span::styled(title, style), Span::styled("\u{2500}", theme.dim)]);
    }
    if job.is_typing {
        let told = " keys go to the program ";
        spans.push(Span::styled(told, theme.warn));
        width += told.len();
    }
    spans.push(Span::styled("\u{2500}".repeat(usize::from(area.width).saturating_sub(width)), theme.dim));
    frame.render_widget(Line::from(spans), area);
}

fn draw_terminal(model: &Model, job: &OpenJob, frame: &mut Frame<'_>, area: Rect) {
    let screen = job.screen.screen();
    let cursor = Cursor::default().visibility(job.is_typing && !screen.hide_cursor());
    frame.render_widget(PseudoTerminal::new(screen).cursor(cursor), area);
    if model.theme.is_plain() {
        // NO_COLOR is about us as well as about what we show.
        for cell in &mut frame.buffer_mut().content {
            cell.fg = ratatui::style::Color::Reset;
            cell.bg = ratatui::style::Color::Reset;
        }
    }
    if screen.scrollback() > 0 {
        let told = format!(" {} back ", text::count(screen.scrollback(), "line", "lines"));
        let width = u16::try_from(told.len()).unwrap_or(area.width).min(area.width);
        let place = Rect { x: area.right() - width, width, height: 1, ..area };
        frame.render_widget(Span::styled(told, model.theme.selected), place);
    }
}

fn draw_checkpoints(model: &Model, job: &OpenJob, frame: &mut Frame<'_>, area: Rect) {
    let Some(rows) = &job.checkpoints.rows else {
        empty(model, frame, area, &["Reading the history ..."]);
        return;
    };
    if rows.is_empty() && job.damaged == 0 {
        empty(model, frame, area, &["No checkpoint yet.", "", "c saves the program; it runs on."]);
        return;
    }
    let [above, list, picture] = layout::checkpoints(area);
    let damaged = match job.damaged {
        0 => String::new(),
        damaged => {
            let more = text::count(damaged, "more is damaged", "more are damaged");
            format!(" {more}: ckptctl history {};", text::quoted(&job.name))
        }
    };
    let (saved, what) = match job.schedule {
        None => (" no automatic checkpoints".to_owned(), "sets them"),
        Some(schedule) => (format!(" saved {}", schedule.told()), "changes that"),
    };
    let key = model.keymap.hint(Action::Schedule, what).map(|key| format!("; {key}")).unwrap_or_default();
    let saved = saved + &key;
    let lines = vec![Span::styled(damaged, model.theme.warn), Span::styled(saved, model.theme.dim)];
    frame.render_widget(Line::from(lines), above);
    let now = crate::jobs::now();
    let cells: Vec<Vec<Span<'_>>> = rows
        .iter()
        .map(|checkpoint| {
            let pause = std::time::Duration::from_secs_f64(checkpoint.pause.max(0.0));
            vec![
                Span::raw(format!("@{}", checkpoint.number)),
                Span::raw(format!("{} ago", text::short_age(now.saturating_sub(checkpoint.at)))),
                Span::raw(text::size(checkpoint.bytes)),
                Span::raw(text::took(pause)),
                Span::styled(text::plain(&checkpoint.reason), model.theme.dim),
                Span::styled(text::plain(&checkpoint.change), model.theme.dim),
            ]
        })
        .collect();
    let headings = ["NO", "AGE", "SIZE", "PAUSE", "WHY", "CHANGED"];
    table(model, frame, list, &headings, &cells, job.checkpoints.selected);
    if let Some(checkpoint) = job.checkpoints.chosen() {
        let mut title = format!(" The screen at @{}", checkpoint.number);
        if !checkpoint.change.is_empty() {
            title = format!("{title}; since the one before: {}", text::plain(&checkpoint.change));
        }
        heading(frame, Rect { height: 1, ..picture }, &title, model.theme.dim);
        let room = Rect { y: picture.y + 1, height: picture.height.saturating_sub(1), ..picture };
        // Its end matters most where not all fits.
        let used = checkpoint.screen.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |last| last + 1);
        let skipped = used.saturating_sub(usize::from(room.height));
        let lines: Vec<Line<'_>> =
            checkpoint.screen[skipped..used].iter().map(|line| Line::raw(text::plain(line))).collect();
        frame.render_widget(Paragraph::new(lines), room);
    }
}

fn draw_holds(model: &Model, job: &OpenJob, frame: &mut Frame<'_>, area: Rect) {
    match &job.holds {
        None => empty(model, frame, area, &["Looking at the process ..."]),
        Some(Err(error)) => empty(model, frame, area, &[error]),
        Some(Ok(groups)) => {
            let mut lines = Vec::new();
            for (title, items) in groups {
                lines.push(Line::styled(format!(" {title}"), model.theme.accent));
                lines.extend(items.iter().map(|item| Line::raw(format!("   {}", text::plain(item)))));
                lines.push(Line::raw(""));
            }
            frame.render_widget(Paragraph::new(lines).scroll((job.scroll, 0)), area);
        }
    }
}
