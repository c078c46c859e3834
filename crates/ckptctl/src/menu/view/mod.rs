//! Drawing: the model on the screen, and nothing else.

mod dialog;
mod hosts;
mod job;
mod jobs;
pub mod layout;
mod new;

use ckpt_transfer::protocol::{JobState, JobStatus};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Paragraph, Wrap};

use super::keys::{Action, COMMANDS, Command, Place};
use super::model::{FileKind, Layer, List, Model, Move, Named, Running, Screen};
use crate::text;

/// Draws everything.
pub fn draw(model: &Model, frame: &mut Frame<'_>) {
    let parts = layout::parts(model);
    if layout::is_too_small(model) {
        let ((columns, rows), (least_columns, least_rows)) = (model.size, layout::SMALLEST);
        let left = model.keymap.hint(Action::Quit, "leaves it").unwrap_or_default();
        let told =
            format!("This terminal is {columns} x {rows}; the menu needs {least_columns} x {least_rows}. {left}");
        frame.render_widget(Paragraph::new(told).wrap(Wrap { trim: true }), frame.area());
        return;
    }
    header(model, frame, parts.header);
    match model.screen {
        Screen::Jobs => jobs::draw(model, frame, parts.body),
        Screen::Job => job::draw(model, frame, parts.body),
        Screen::Hosts => hosts::draw(model, frame, parts.body),
        Screen::New => new::draw(model, frame, parts.body),
    }
    log(model, frame, parts.log);
    notice(model, frame, parts.notice);
    footer(model, frame, parts.footer);
    for layer in &model.layers {
        dialog::draw(model, layer, frame);
    }
}

fn header(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let theme = model.theme;
    let mut spans =
        vec![Span::styled(" ckptctl ", theme.accent.add_modifier(ratatui::style::Modifier::BOLD)), Span::raw(" ")];
    for (screen, title, _) in layout::screens(model) {
        let style = if screen == model.screen { theme.selected } else { theme.dim };
        spans.extend([Span::styled(title, style), Span::raw(" ")]);
    }
    if model.read_only {
        spans.push(Span::styled("read-only", theme.warn));
    }
    frame.render_widget(Line::from(spans), area);
}

/// What was told last; or else what is under way. What does not fit into its line lies over what is above.
fn notice(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let theme = model.theme;
    let (mark, text, style) = match (&model.notice, under_way(model)) {
        (Some(notice), _) if notice.is_error => (" ! ", notice.text.clone(), theme.bad),
        (Some(notice), _) => ("   ", notice.text.clone(), Style::new()),
        (None, Some(act)) => ("   ", act, theme.warn),
        (None, None) => return,
    };
    let lines = text::wrap(&text, usize::from(area.width.saturating_sub(4)));
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).min(area.y);
    let place = Rect { y: area.bottom() - height, height, ..area };
    let line = |(index, line)| Line::styled(format!("{}{line}", if index == 0 { mark } else { "   " }), style);
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines.into_iter().enumerate().map(line).collect::<Vec<_>>()), place);
}

/// What is under way for the current job, else what was begun last, in words, with how far it is and what gives it up.
fn under_way(model: &Model) -> Option<String> {
    let acts = || model.acts.iter().rev();
    let moves = || model.moves.iter().rev().filter(|current| current.result.is_none());
    let own_move = moves().find(|current| model.current_name() == Some(&current.job));
    if let Some(act) = acts().find(|act| model.is_about_this(act)) {
        Some(act_under_way(model, act, true))
    } else if let Some(current) = own_move {
        Some(move_under_way(model, current, true))
    } else {
        let act = acts().next().map(|act| act_under_way(model, act, false));
        act.or_else(|| moves().next().map(|current| move_under_way(model, current, false)))
    }
}

fn act_under_way(model: &Model, act: &Running, is_own: bool) -> String {
    if act.is_cancelled {
        return format!("giving up: {}", act.words);
    }
    let given_up = model.keymap.hint(Action::Cancel, "gives it up").filter(|_| is_own);
    format!("under way: {}{}{}", act.words, how_far(act.progress.as_ref()), hints([given_up]))
}

fn move_under_way(model: &Model, Move { job, host, progress, is_cancelled, .. }: &Move, is_own: bool) -> String {
    if *is_cancelled {
        return format!("giving up: ckptctl migrate {job} {host}");
    }
    let shown = model.keymap.hint(Action::Migrate, "in the job shows it");
    let given_up = model.keymap.hint(Action::Cancel, "gives it up").filter(|_| is_own);
    format!("under way: ckptctl migrate {job} {host}{}{}", how_far(progress.as_ref()), hints([shown, given_up]))
}

fn how_far(progress: Option<&(String, u64, u64)>) -> String {
    progress.map_or_else(String::new, |(what, done, total)| {
        format!(", {what}: {} of {}", text::size(*done), text::size(*total))
    })
}

/// Those hints that there are, in parentheses.
fn hints<const N: usize>(hints: [Option<String>; N]) -> String {
    let hints: Vec<String> = hints.into_iter().flatten().collect();
    if hints.is_empty() { String::new() } else { format!("  ({})", hints.join(", ")) }
}

fn footer(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let theme = model.theme;
    if model.job.as_ref().is_some_and(|job| job.is_typing) && model.screen == Screen::Job {
        let spans = vec![
            Span::raw(" "),
            Span::styled(model.detach_key.to_string(), theme.key),
            Span::raw(" back to the menu; all other keys go to the program"),
        ];
        frame.render_widget(Line::from(spans), area);
        return;
    }
    let given_up = model.keymap.key_of(Action::Cancel).map(|key| key.to_string()).unwrap_or_default();
    let hints: &[(&str, &str)] = match model.layers.last() {
        None | Some(Layer::Choose { .. }) => &[],
        Some(Layer::Help { .. }) => &[("Esc", "close")],
        Some(Layer::Palette { .. }) => &[("Enter", "do it"), ("Esc", "close")],
        Some(Layer::Confirm { .. }) => &[("Left/Right", "choose"), ("Enter", "take it"), ("Esc", "no")],
        Some(Layer::Line { .. }) => &[("Enter", "accept"), ("Esc", "leave")],
        Some(Layer::Move { job }) => {
            let is_over = model.moves.iter().any(|current| current.job == *job && current.result.is_some());
            if is_over { &[("Enter", "close")] } else { &[(&given_up, "give it up"), ("Esc", "close, it goes on")] }
        }
    };
    let mut spans = vec![Span::raw(" ")];
    if !hints.is_empty() {
        for (key, label) in hints {
            spans.push(Span::styled(*key, theme.key));
            spans.push(Span::raw(format!(" {label}  ")));
        }
        frame.render_widget(Line::from(spans), area);
        return;
    }
    let place = model.place();
    let mut room = usize::from(area.width).saturating_sub(1);
    // Help and quit are always there, whatever else there is no room for.
    let is_last = |name: &str| matches!(name, "help" | "quit");
    let label = |command: &Command| if command.action == Action::Open { what_opens(model) } else { command.label };
    let shown = COMMANDS.iter().filter(|command| command.places.contains(&place) && !label(command).is_empty());
    let shown: Vec<_> = shown.filter(|command| is_for_now(model, command.action)).collect();
    let width = |command: &Command| {
        let key = model.keymap.keys_of(command).first().map(ToString::to_string).unwrap_or_default();
        key.chars().count() + 1 + label(command).chars().count() + 2
    };
    let reserved: usize = shown.iter().filter(|command| is_last(command.name)).map(|command| width(command)).sum();
    room = room.saturating_sub(reserved);
    for command in shown {
        let Some(key) = model.keymap.keys_of(command).first() else { continue };
        let needed = width(command);
        if !is_last(command.name) {
            if needed > room {
                continue;
            }
            room -= needed;
        }
        spans.push(Span::styled(key.to_string(), theme.key));
        spans.push(Span::raw(format!(" {}  ", label(command))));
    }
    frame.render_widget(Line::from(spans), area);
}

/// Whether a command can do something with the present job, as far as that is known.
fn is_for_now(model: &Model, action: Action) -> bool {
    let is_over = |job: &JobStatus| matches!(job.state, JobState::Ended | JobState::Saved);
    if matches!(action, Action::Restore | Action::Branch) && model.current_job().is_some_and(|job| job.checkpoints == 0)
    {
        return false;
    }
    match (action, model.current_job().map(is_over)) {
        (Action::Type | Action::Save | Action::Migrate | Action::Schedule | Action::Stop, Some(true))
        | (Action::Restore | Action::Remove, Some(false)) => false,
        _ => !(model.read_only && action.is_act()),
    }
}

/// What "open" means now; nothing where another key of the footer says the same.
fn what_opens(model: &Model) -> &'static str {
    match model.place() {
        Place::Jobs => "open",
        Place::Job | Place::Hosts => "",
        Place::Choose => "move it there",
        Place::New => match model.new.files.chosen().map(|row| row.kind) {
            Some(FileKind::Source | FileKind::Program) if model.read_only => "",
            Some(FileKind::Source) => "build",
            Some(FileKind::Program) => "choose",
            _ => "open",
        },
    }
}

fn log(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let theme = model.theme;
    let Some(rows) = area.height.checked_sub(1).filter(|_| model.shows_log) else { return };
    let back = match model.log_scroll {
        0 => String::new(),
        lines => format!(" ({} back)", text::count(lines, "line", "lines")),
    };
    let title = format!(" What was done, as verbs; and what went wrong{back}");
    heading(frame, Rect { height: 1, ..area }, &title, theme.dim);
    let mut lines: Vec<Line<'_>> = Vec::new();
    let wanted = usize::from(rows) + model.log_scroll;
    for line in model.log.iter().rev().take(wanted) {
        let style = if line.is_error { theme.bad } else { Style::new() };
        let wrapped = layout::wrapped(line, area.width);
        for (index, part) in wrapped.into_iter().enumerate().rev() {
            let at = if index == 0 { text::clock(line.at) } else { String::new() };
            lines.push(Line::from(vec![Span::styled(format!(" {at:8}  "), theme.dim), Span::styled(part, style)]));
        }
    }
    lines.truncate(wanted);
    let mut lines = lines.split_off(model.log_scroll.min(lines.len()));
    lines.reverse();
    frame.render_widget(Paragraph::new(lines), Rect { y: area.y + 1, height: rows, ..area });
}

/// A line with a rule after it.
fn heading(frame: &mut Frame<'_>, area: Rect, title: &str, style: Style) {
    let rest = usize::from(area.width).saturating_sub(title.chars().count() + 1);
    frame.render_widget(Line::styled(format!("{title} {}", "\u{2500}".repeat(rest)), style), area);
}

/// How many rows there are, and how many of them are shown.
fn count_of<T: Named>(list: &List<T>, all: usize, one: &str, many: &str) -> String {
    let count = text::count(all, one, many);
    if list.filter.value().is_empty() { count } else { format!("{} of {count}", list.shown().len()) }
}

/// The line above a list: what it shows, or the filter.
fn filter_line<T: Named>(list: &List<T>, title: &str) -> String {
    let cursor = if list.is_filtering { "\u{2588}" } else { "" };
    match (list.is_filtering, list.filter.value()) {
        (false, "") => format!(" {title}"),
        (_, typed) => format!(" {title}, filter: {typed}{cursor}"),
    }
}

/// A table: columns as wide as their longest cell, the last one takes what is left. The chosen row is marked by `>` too.
fn table(model: &Model, frame: &mut Frame<'_>, area: Rect, headings: &[&str], rows: &[Vec<Span<'_>>], selected: usize) {
    let theme = model.theme;
    let last = headings.len().saturating_sub(1);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(Span::width).max().unwrap_or_default();
        cells.max(headings[column].len())
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let pad = |content: &str, column: usize| {
        let missing = widths[column].saturating_sub(Span::raw(content.to_owned()).width());
        if column == last { content.to_owned() } else { format!("{content}{}  ", " ".repeat(missing)) }
    };
    let head: String = headings.iter().enumerate().map(|(column, heading)| pad(heading, column)).collect();
    frame.render_widget(Line::styled(format!("  {head}"), theme.dim), Rect { height: 1, ..area });
    let body = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    let first = layout::first(selected, rows.len(), body.height);
    for ((at, row), y) in rows.iter().enumerate().skip(first).zip(body.y..body.bottom()) {
        let is_chosen = at == selected.min(rows.len().saturating_sub(1));
        let mut spans = vec![Span::raw(if is_chosen { "> " } else { "  " })];
        spans.extend(row.iter().enumerate().map(|(column, cell)| Span::styled(pad(&cell.content, column), cell.style)));
        let line = Line::from(spans).style(if is_chosen { theme.selected } else { Style::new() });
        let place = Rect { y, height: 1, ..body };
        frame.buffer_mut().set_style(place, line.style);
        frame.render_widget(line, place);
    }
}

/// Text in the middle of an empty area.
fn empty(model: &Model, frame: &mut Frame<'_>, area: Rect, lines: &[&str]) {
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let y = area.y + area.height.saturating_sub(height) / 2;
    let lines: Vec<Line<'_>> = lines.iter().map(|line| Line::raw((*line).to_owned()).centered()).collect();
    let place = Rect { y, height: height.min(area.bottom().saturating_sub(y)), ..area };
    frame.render_widget(Paragraph::new(lines).style(model.theme.dim), place);
}

/// Where a filter has left nothing of a list.
fn nothing_matches(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let cleared = model.keymap.hint(Action::Back, "clears the filter").map(|hint| format!("; {hint}"));
    empty(model, frame, area, &[&format!("nothing matches{}", cleared.unwrap_or_default())]);
}

#[cfg(test)]
mod tests;
