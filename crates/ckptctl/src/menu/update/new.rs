//! The making of a new job: files, building, running.

use std::path::{Path, PathBuf};

use super::commands::{begin, words};
use crate::menu::effect::{Effect, Reason};
use crate::menu::model::{Build, FileKind, FileRow, List, Model, Screen};
use crate::text;

pub fn on_listed(model: &mut Model, directory: PathBuf, result: Result<Vec<FileRow>, String>) -> Vec<Effect> {
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

pub fn preview(model: &mut Model) -> Vec<Effect> {
    let Some((path, FileKind::Source | FileKind::Program | FileKind::Other)) = chosen_file(model) else {
        model.new.preview = None;
        return Vec::new();
    };
    let is_shown = model.new.preview.as_ref().is_some_and(|(shown, _)| *shown == path);
    if is_shown { Vec::new() } else { vec![Effect::Preview(path)] }
}

pub fn preview_if_new(model: &mut Model) -> Vec<Effect> {
    if model.screen == Screen::New { preview(model) } else { Vec::new() }
}

pub fn open_file(model: &mut Model) -> Vec<Effect> {
    match chosen_file(model) {
        Some((path, FileKind::Parent | FileKind::Directory)) => vec![Effect::List(path)],
        Some((path, FileKind::Source)) => {
            let program = path.with_extension("");
            let mut verb = words(&["build"]);
            // It is built where it is: what the compiler says is short then.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            verb.push(if name.starts_with('-') { format!("./{name}") } else { name.into_owned() });
            let flags = split(&model.new.flags);
            if !flags.is_empty() {
                verb.push("--".to_owned());
                verb.extend(flags);
            }
            let effects = begin(model, Effect::Build { words: verb, directory: model.new.directory.clone(), program });
            if !effects.is_empty() {
                model.new.build = Some(Build { source: path, then_run: false, result: None });
            }
            effects
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

pub fn run(model: &mut Model) -> Vec<Effect> {
    if let Some(build) = model.new.build.as_mut().filter(|build| build.result.is_none()) {
        build.then_run = true;
        model.tell("it is run as soon as it is built", false);
        return Vec::new();
    }
    let chosen = chosen_file(model).filter(|(_, kind)| *kind == FileKind::Program).map(|(path, _)| path);
    let Some(program) = chosen.or_else(|| model.new.program.clone()) else {
        model.tell("there is nothing to run yet: Enter builds a source or chooses a program", false);
        return Vec::new();
    };
    run_program(model, &program)
}

/// Runs a program with its arguments as a job.
pub fn run_program(model: &mut Model, program: &Path) -> Vec<Effect> {
    let arguments = split(&model.new.arguments);
    run_words(model, std::iter::once(program.to_string_lossy().into_owned()).chain(arguments))
}

/// Runs a command line as a job.
pub fn run_command(model: &mut Model) -> Vec<Effect> {
    let command = split(&model.new.command);
    if command.is_empty() { Vec::new() } else { run_words(model, command) }
}

fn run_words(model: &mut Model, command: impl IntoIterator<Item = String>) -> Vec<Effect> {
    let mut verb = words(&["run", "--detach", "--json", "--"]);
    verb.extend(command);
    let pairs = split(&model.new.environment);
    if let Some(wrong) = pairs.iter().find(|pair| !pair.contains('=') || pair.starts_with('=')) {
        model.tell(format!("{wrong} in the environment is not of the form NAME=VALUE; e changes it"), true);
        return Vec::new();
    }
    let pair = |pair: &String| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let environment = pairs.iter().filter_map(pair).collect();
    // What is typed may be relative to the directory that is shown; joined with nothing it is that itself.
    let directory = Some(model.new.directory.join(&model.new.run_in));
    begin(model, Effect::Verb { words: verb, reason: Reason::Run, directory, environment })
}

/// Splits a line into words: quotes keep words together, a backslash takes the next character as it is.
pub fn split(line: &str) -> Vec<String> {
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
