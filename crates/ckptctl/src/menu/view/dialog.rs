//! What lies over the screens: help, palette, questions, the move.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Gauge, Paragraph, Wrap};
use tui_input::Input;

use super::hosts;
use crate::menu::keys::{Action, COMMANDS, Place};
use crate::menu::model::{Field, Layer, Model, Move};
use crate::menu::update::{count, palette, where_is};
use crate::text;

/// Draws a layer.
pub fn draw(model: &Model, layer: &Layer, frame: &mut Frame<'_>) {
    match layer {
        Layer::Help { scroll } => help(model, *scroll, frame),
        Layer::Palette { typed, selected } => draw_palette(model, typed, *selected, frame),
        Layer::Confirm { question, detail, is_yes, .. } => confirm(model, question, detail, *is_yes, frame),
        Layer::Line { title, typed, field } => line(model, title, typed, field, frame),
        Layer::Choose { job } => {
            let room = window(model, frame, &format!(" Move {} to ", text::plain(job)), 70, 18);
            hosts::list_of(model, frame, room, where_is(model, job).map(String::as_str));
        }
        Layer::Move { job } => {
            if let Some(current) = model.moves.iter().find(|current| current.job == *job) {
                draw_move(model, current, frame);
            }
        }
    }
}

/// An empty window in the middle, of at most this size; gives its inside.
fn window(model: &Model, frame: &mut Frame<'_>, title: &str, width: u16, height: u16) -> Rect {
    let area = frame.area();
    let (width, height) = (width.min(area.width.saturating_sub(2)), height.min(area.height.saturating_sub(2)));
    let place = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    let block = Block::bordered().title(title.to_owned()).border_style(model.theme.accent);
    let inside = block.inner(place);
    frame.render_widget(block, place);
    inside
}

fn help(model: &Model, scroll: u16, frame: &mut Frame<'_>) {
    let theme = model.theme;
    let mut lines = Vec::new();
    let mut groups = [
        (Place::Jobs, "In the list of jobs"),
        (Place::Job, "In a job"),
        (Place::New, "When making a new job"),
        (Place::Hosts, "Among the hosts"),
    ];
    // Those of the present screen first.
    groups.sort_by_key(|(place, _)| *place != model.place());
    for (place, title) in groups {
        lines.push(Line::styled(title, theme.accent));
        for command in COMMANDS.iter().filter(|command| command.places.contains(&place)) {
            let keys: Vec<String> = model.keymap.keys_of(command).iter().map(ToString::to_string).collect();
            let keys = keys.join(", ");
            lines.push(Line::from(vec![Span::styled(format!("  {keys:<12}"), theme.key), Span::raw(command.help)]));
        }
        lines.push(Line::raw(""));
    }
    lines.push(Line::raw(format!("While keys go to a program, {} brings them back to the menu.", model.detach_key)));
    let most = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let room = window(model, frame, " Keys (Esc closes, up and down scroll) ", 84, most.saturating_add(2));
    let scroll = scroll.min(most.saturating_sub(room.height));
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).scroll((scroll, 0)), room);
}

fn draw_palette(model: &Model, typed: &Input, selected: usize, frame: &mut Frame<'_>) {
    let found = palette(model, typed.value());
    let room = window(model, frame, " Commands ", 70, 16);
    let [entry, list] = Layout::vertical([Constraint::Length(2), Constraint::Min(1)]).areas(room);
    typed_line(model, frame, entry, typed, true);
    let selected = selected.min(found.len().saturating_sub(1));
    let first = super::layout::first(selected, found.len(), list.height);
    let lines: Vec<Line<'_>> = found
        .iter()
        .enumerate()
        .skip(first)
        .take(usize::from(list.height))
        .map(|(at, command)| {
            let key = model.keymap.keys_of(command).first().map(ToString::to_string).unwrap_or_default();
            let style = if at == selected { model.theme.selected } else { Style::new() };
            let is_here = command.places.contains(&model.place());
            let (name, help) = if is_here {
                (Style::new(), command.help.to_owned())
            } else {
                (model.theme.dim, format!("not here: {}", command.elsewhere()))
            };
            Line::from(vec![
                Span::styled(format!("{:<12}", command.name), name),
                Span::styled(format!("{key:<8}"), model.theme.key),
                Span::styled(help, model.theme.dim),
            ])
            .style(style)
        })
        .collect();
    frame.render_widget(Paragraph::new(lines), list);
}

fn typed_line(model: &Model, frame: &mut Frame<'_>, area: Rect, typed: &Input, echo: bool) {
    let room = usize::from(area.width.saturating_sub(3));
    let scroll = typed.visual_scroll(room);
    let shown: String = if echo { typed.value().chars().skip(scroll).collect() } else { String::new() };
    frame.render_widget(Line::from(vec![Span::styled("> ", model.theme.key), Span::raw(shown)]), area);
    let column = if echo { typed.visual_cursor().saturating_sub(scroll) } else { 0 };
    frame.set_cursor_position((area.x + 2 + u16::try_from(column).unwrap_or_default(), area.y));
}

fn confirm(model: &Model, question: &str, detail: &str, is_yes: bool, frame: &mut Frame<'_>) {
    let theme = model.theme;
    let room = window(model, frame, " Sure? ", 56, 8);
    let button = |name: &str, is_chosen: bool| {
        let style = if is_chosen { theme.selected } else { theme.dim };
        let (open, close) = if is_chosen { ("[ ", " ]") } else { ("  ", "  ") };
        Span::styled(format!("{open}{name}{close}"), style)
    };
    let lines = vec![
        Line::styled(text::plain(question), theme.accent),
        Line::raw(""),
        Line::raw(detail.to_owned()),
        Line::raw(""),
        Line::from(vec![button("No", !is_yes), Span::raw("   "), button("Yes", is_yes)]),
    ];
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), room);
}

fn line(model: &Model, title: &str, typed: &Input, field: &Field, frame: &mut Frame<'_>) {
    const WIDTH: u16 = 72;
    // Where a line is broken between words it is a little shorter.
    const BROKEN: usize = 60;
    let (heading, echo) = match field {
        Field::Answer { echo, .. } => (" A question ", *echo),
        _ => (" Enter accepts, Esc leaves it as it was ", true),
    };
    let lines: Vec<String> = title.lines().map(text::plain).collect();
    let height: usize = lines.iter().map(|line| line.chars().count().div_ceil(BROKEN)).sum();
    let height = u16::try_from(height).unwrap_or(u16::MAX).saturating_add(4);
    let question = Paragraph::new(lines.join("\n")).wrap(Wrap { trim: false });
    let room = window(model, frame, heading, WIDTH, height);
    let [above, entry] = Layout::vertical([Constraint::Min(1), Constraint::Length(1)]).areas(room);
    frame.render_widget(question, above);
    typed_line(model, frame, entry, typed, echo);
}

/// Checks before a move, lines of its bar with one above and below, and lines for how it has ended.
const USUAL: u16 = 6;
const BAR: u16 = 3;
const BELOW: u16 = 6;

fn draw_move(model: &Model, current: &Move, frame: &mut Frame<'_>) {
    const WIDTH: u16 = 76;
    let title = format!(" Moving {} to {} ", text::plain(&current.job), text::plain(&current.host));
    let inside = usize::from(WIDTH.min(model.size.0.saturating_sub(2)).saturating_sub(2));
    let mut lines = checks(model, current, inside);
    if lines.is_empty() && current.progress.is_none() && current.result.is_none() {
        // Who is brought home is asked for where it is.
        let is_home = current.host == ckpt_transfer::hosts::LOCAL;
        let host = where_is(model, &current.job).filter(|_| is_home).unwrap_or(&current.host);
        lines.push(Line::styled(format!("connecting to {} ...", text::plain(host)), model.theme.dim));
    }
    let count = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    // As large from the first moment on as it is with the usual checks.
    let room = window(model, frame, &title, WIDTH, count.max(USUAL).saturating_add(BAR + BELOW + 2));
    // The end of it must be seen whole; of many checks the last.
    let shown = count.min(room.height.saturating_sub(BAR + BELOW));
    let rows = [Constraint::Length(shown), Constraint::Length(BAR), Constraint::Min(BELOW)];
    let [above, bar, below] = Layout::vertical(rows).areas(room);
    frame.render_widget(Paragraph::new(lines).scroll((count - shown, 0)), above);
    if let (Some((phase, done, total)), None) = (&current.progress, &current.result) {
        draw_progress(model, frame, bar, (phase, *done, *total), current.rate);
    }
    frame.render_widget(Paragraph::new(outcome(model, current)).wrap(Wrap { trim: false }), below);
}

/// What was looked at before the move, in lines that are at most so wide.
fn checks<'a>(model: &Model, current: &Move, width: usize) -> Vec<Line<'a>> {
    let theme = model.theme;
    let mut lines = Vec::new();
    for (what, found, ok) in &current.checks {
        let (mark, style) = if *ok { ("ok ", theme.good) } else { ("no ", theme.bad) };
        let what = format!("{what}: ");
        let wrapped = text::wrap(&format!("{what}{}", text::plain(found)), width.saturating_sub(mark.len()));
        for (index, line) in wrapped.into_iter().enumerate() {
            let mark = if index == 0 { Span::styled(mark, style) } else { Span::raw("   ") };
            match line.strip_prefix(&what).filter(|_| index == 0) {
                Some(rest) => {
                    let rest = Span::styled(rest.to_owned(), theme.dim);
                    lines.push(Line::from(vec![mark, Span::raw(what.clone()), rest]));
                }
                None => lines.push(Line::from(vec![mark, Span::styled(line, theme.dim)])),
            }
        }
    }
    lines
}

fn draw_progress(model: &Model, frame: &mut Frame<'_>, area: Rect, (phase, done, total): (&str, u64, u64), rate: f64) {
    // Never quite full: it is verified only when the move is complete.
    const MOST: f64 = 0.99;
    let ratio = if total == 0 { 0.0 } else { (count(done) / count(total)).clamp(0.0, MOST) };
    let left = if rate > 1.0 && total > done {
        format!(", {} left", text::took(std::time::Duration::from_secs_f64((count(total - done) / rate).min(1e6))))
    } else {
        String::new()
    };
    let speed = if rate > 1.0 { format!(", {}/s", text::size(round(rate))) } else { String::new() };
    let label = format!("{phase}: {} of {}{speed}{left}", text::size(done), text::size(total));
    let gauge = Gauge::default().ratio(ratio).label(label).gauge_style(model.theme.accent);
    frame.render_widget(gauge, Rect { y: area.y + 1, height: 1, ..area });
}

/// A rate as a whole number.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is positive and far below 2^63")]
fn round(rate: f64) -> u64 {
    rate.clamp(0.0, 1e18) as u64
}

fn outcome<'a>(model: &Model, current: &'a Move) -> Vec<Line<'a>> {
    let theme = model.theme;
    match &current.result {
        None if current.is_cancelled => {
            vec![Line::styled("Giving it up; the program runs on where it is.", theme.warn)]
        }
        None => {
            let key = model.keymap.hint(Action::Cancel, "gives it up").unwrap_or_default();
            let given_up = format!("{key}: until the program is handed over it runs on where it is.");
            vec![Line::styled(given_up, theme.dim), Line::styled("Esc closes this; the move goes on.", theme.dim)]
        }
        Some(Err(error)) => {
            let style = if current.is_given_up(error) { theme.warn } else { theme.bad };
            vec![Line::styled(text::plain(error), style), Line::styled("Enter or Esc closes this.", theme.dim)]
        }
        Some(Ok(report)) => {
            let seconds = |seconds: f64| text::took(std::time::Duration::from_secs_f64(seconds.max(0.0)));
            let parts: Vec<String> =
                report.parts.iter().map(|(name, took)| format!("{name} {}", seconds(*took))).collect();
            let mut lines = vec![
                Line::styled(
                    format!("It runs on {} (process {}). Downtime {}", report.to, report.pid, seconds(report.downtime)),
                    theme.good,
                ),
                Line::styled(format!("of which {}", parts.join(", ")), theme.dim),
            ];
            lines.extend(report.notes.iter().map(|note| Line::styled(text::plain(note), theme.warn)));
            lines.push(Line::styled("Enter shows it running there.", theme.dim));
            lines
        }
    }
}
