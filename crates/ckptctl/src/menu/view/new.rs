//! The making of a new job: files, the beginning of the chosen one or what the compiler said, and what it is run with.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Wrap};

use super::{filter_line, heading, layout, nothing_matches, table};
use crate::menu::model::{Build, Complaint, FileKind, FileRow, Model};
use crate::text;

/// Draws it.
pub fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let [files, right, settings] = layout::new(area);
    draw_files(model, frame, files);
    let right = Rect { x: right.x + 1, width: right.width.saturating_sub(1), ..right };
    // What the compiler said is about one file.
    let is_chosen = |build: &Build| model.new.files.chosen().is_some_and(|row| row.path == build.source);
    match &model.new.build {
        Some(build) if !matches!(build.result, Some(Ok(()))) && is_chosen(build) => {
            draw_build(model, build, frame, right);
        }
        _ => draw_preview(model, frame, right),
    }
    draw_settings(model, frame, settings);
}

fn draw_files(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let theme = model.theme;
    let title = filter_line(&model.new.files, &text::path(&model.new.directory));
    heading(frame, Rect { height: 1, ..area }, &title, theme.dim);
    let list = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    let cell = |row: &&FileRow| {
        let name = text::plain(&row.name);
        match row.kind {
            FileKind::Parent => vec![Span::styled("..", theme.accent), Span::raw("")],
            FileKind::Directory => vec![Span::styled(format!("{name}/"), theme.accent), Span::raw("")],
            FileKind::Source => vec![Span::raw(name), Span::styled("source", theme.good)],
            FileKind::Program => vec![Span::raw(name), Span::styled("program", theme.warn)],
            FileKind::Other => vec![Span::styled(name, theme.dim), Span::raw("")],
        }
    };
    let rows: Vec<Vec<Span<'_>>> = model.new.files.shown().iter().map(cell).collect();
    if rows.is_empty() && !model.new.files.filter.value().is_empty() {
        nothing_matches(model, frame, list);
        return;
    }
    table(model, frame, list, &["FILE", ""], &rows, model.new.files.selected);
}

fn draw_preview(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let Some((path, lines)) = &model.new.preview else {
        heading(frame, Rect { height: 1, ..area }, " ", model.theme.dim);
        return;
    };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    heading(frame, Rect { height: 1, ..area }, &format!(" {}", text::plain(&name)), model.theme.dim);
    let room = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    let lines: Vec<Line<'_>> =
        lines.iter().map(|line| Line::raw(format!(" {}", text::plain(&line.replace('\t', "    "))))).collect();
    frame.render_widget(Paragraph::new(lines), room);
}

fn draw_build(model: &Model, build: &Build, frame: &mut Frame<'_>, area: Rect) {
    let theme = model.theme;
    let name = build.source.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = text::plain(&name);
    let room = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    let Some(Err(complaint)) = &build.result else {
        heading(frame, Rect { height: 1, ..area }, &format!(" building {name} ..."), theme.warn);
        return;
    };
    heading(frame, Rect { height: 1, ..area }, &format!(" {name} was not built"), theme.bad);
    let at = complaint.at.as_ref().map(|(file, line)| format!("{file}:{line}: ")).unwrap_or_default();
    let first = format!(" {}{}", text::plain(&at), text::plain(&complaint.message));
    let mut lines = vec![Line::styled(first, theme.bad), Line::raw("")];
    lines.extend(around(model, complaint));
    lines.push(Line::raw(""));
    lines.extend(complaint.text.lines().map(|line| Line::styled(format!(" {}", text::plain(line)), theme.dim)));
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), room);
}

/// The source around the first error.
fn around<'a>(model: &Model, complaint: &'a Complaint) -> impl Iterator<Item = Line<'a>> {
    let theme = model.theme;
    complaint.around.iter().map(move |(number, line)| {
        let is_it = complaint.at.as_ref().is_some_and(|(_, line)| line == number);
        let mark = if is_it { ">" } else { " " };
        let style = if is_it { theme.selected } else { ratatui::style::Style::new() };
        Line::styled(format!("{mark}{number:>5}  {}", text::plain(&line.replace('\t', "    "))), style)
    })
}

fn draw_settings(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let theme = model.theme;
    let new = &model.new;
    heading(frame, Rect { height: 1, ..area }, " To be run", theme.dim);
    let program = new.program.as_ref().map_or_else(
        || Span::styled("nothing yet: Enter builds a source or chooses a program", theme.dim),
        |program| Span::raw(format!("{} {}", text::path(program), text::plain(&new.arguments))),
    );
    let or = |value: &str, otherwise: &str| {
        if value.is_empty() { Span::styled(otherwise.to_owned(), theme.dim) } else { Span::raw(text::plain(value)) }
    };
    let lines = vec![
        Line::from(vec![Span::raw(" program      "), program]),
        Line::from(vec![
            Span::raw(" in           "),
            or(&new.run_in, &text::path(&new.directory)),
            Span::raw("   compiler flags "),
            or(&new.flags, "none"),
        ]),
        Line::from(vec![Span::raw(" environment  "), or(&new.environment, "as here")]),
    ];
    let room = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    frame.render_widget(Paragraph::new(lines), room);
}
