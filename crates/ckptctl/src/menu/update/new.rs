//! The making of a new job: files, building, running.

use std::ffi::OsStr;
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
            let mut effects = preview(model);
            // What is shown already may have been changed meanwhile.
            effects.extend(model.new.preview.as_ref().map(|(path, _)| Effect::Preview(path.clone())));
            effects
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
    Some((row.path.clone(), row.kind))
}

pub fn preview(model: &mut Model) -> Vec<Effect> {
    let chosen = chosen_file(model).map(|(path, _)| path);
    if model.new.preview.as_ref().is_some_and(|(shown, _)| Some(shown) == chosen.as_ref()) {
        return Vec::new();
    }
    model.new.preview = None;
    chosen.map(Effect::Preview).into_iter().collect()
}

/// A file was read; meanwhile another one may be chosen.
pub fn on_previewed(model: &mut Model, path: PathBuf, lines: Vec<String>) -> Vec<Effect> {
    if chosen_file(model).is_some_and(|(chosen, _)| chosen == path) {
        model.new.preview = Some((path, lines));
    }
    Vec::new()
}

pub fn preview_if_new(model: &mut Model) -> Vec<Effect> {
    if model.screen == Screen::New { preview(model) } else { Vec::new() }
}

pub fn open_file(model: &mut Model) -> Vec<Effect> {
    match chosen_file(model) {
        Some((path, FileKind::Parent | FileKind::Directory)) => vec![Effect::List(path)],
        Some((path, FileKind::Source)) => build(model, path, false, false),
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

/// Builds a source, `unless_newer` its program is, and `then_run`s that.
fn build(model: &mut Model, source: PathBuf, unless_newer: bool, then_run: bool) -> Vec<Effect> {
    let Some(name) = source.file_name().and_then(OsStr::to_str) else {
        model.tell(
            format!("the name {} is not UTF-8; ckptctl build builds it from a shell", text::path(&source)),
            false,
        );
        return Vec::new();
    };
    let mut verb = words(&["build"]);
    // It is built where it is: what the compiler says is short then.
    verb.push(if name.starts_with('-') { format!("./{name}") } else { name.to_owned() });
    let flags = match split(&model.new.flags) {
        Ok(flags) => flags,
        Err(why) => return refused(model, &format!("compiler flags: {why}; f changes them")),
    };
    if !flags.is_empty() {
        verb.push("--".to_owned());
        verb.extend(flags);
    }
    let (directory, program) = (model.new.directory.clone(), source.with_extension(""));
    let effects = begin(model, Effect::Build { words: verb, directory, source: source.clone(), program, unless_newer });
    if !effects.is_empty() {
        model.new.build = Some(Build { source, flags: model.new.flags.clone(), then_run, result: None });
    }
    effects
}

fn refused(model: &mut Model, why: &str) -> Vec<Effect> {
    model.tell(why, true);
    Vec::new()
}

/// Runs what is chosen: a program, a source when it is built, else what was chosen or built last.
pub fn run(model: &mut Model) -> Vec<Effect> {
    if let Some(build) = model.new.build.as_mut().filter(|build| build.result.is_none()) {
        build.then_run = true;
        model.tell("it is run as soon as it is built", false);
        return Vec::new();
    }
    match (chosen_file(model), model.new.program.clone()) {
        (Some((path, FileKind::Source)), _) => {
            let is_built =
                |build: &Build| build.source == path && build.flags == model.new.flags && build.result == Some(Ok(()));
            let unless_newer = model.new.build.as_ref().is_some_and(is_built);
            build(model, path, unless_newer, true)
        }
        (Some((path, FileKind::Program)), _) | (_, Some(path)) => run_program(model, &path),
        _ => {
            model.tell("there is nothing to run yet: Enter builds a source or chooses a program", false);
            Vec::new()
        }
    }
}

/// Runs a program with its arguments as a job.
pub fn run_program(model: &mut Model, program: &Path) -> Vec<Effect> {
    let Some(program) = program.to_str() else {
        let why = format!("the name {} is not UTF-8; ckptctl run runs it from a shell", text::path(program));
        return refused(model, &why);
    };
    match split(&model.new.arguments) {
        Ok(arguments) => run_words(model, std::iter::once(program.to_owned()).chain(arguments)),
        Err(why) => refused(model, &format!("arguments: {why}; a changes them")),
    }
}

/// Runs a command line as a job.
pub fn run_command(model: &mut Model) -> Vec<Effect> {
    match split(&model.new.command) {
        Ok(command) if command.is_empty() => Vec::new(),
        Ok(command) => run_words(model, command),
        Err(why) => refused(model, &format!("{why}; ! changes it")),
    }
}

fn run_words(model: &mut Model, command: impl IntoIterator<Item = String>) -> Vec<Effect> {
    let mut verb = words(&["run", "--detach", "--json", "--"]);
    verb.extend(command);
    let pairs = match split(&model.new.environment) {
        Ok(pairs) => pairs,
        Err(why) => return refused(model, &format!("environment: {why}; e changes it")),
    };
    if let Some(wrong) = pairs.iter().find(|pair| !pair.contains('=') || pair.starts_with('=')) {
        return refused(model, &format!("{wrong} in the environment is not of the form NAME=VALUE; e changes it"));
    }
    let pair = |pair: &String| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let environment = pairs.iter().filter_map(pair).collect();
    // What is typed may be relative to the directory that is shown; joined with nothing it is that itself.
    let typed = Path::new(&model.new.run_in);
    let directory = match (typed.strip_prefix("~"), &model.home) {
        (Ok(rest), Some(home)) => Some(home.join(rest)),
        _ => Some(model.new.directory.join(typed)),
    };
    begin(model, Effect::Verb { words: verb, reason: Reason::Run, directory, environment })
}

/// Splits a line into words: quotes keep words together, a backslash takes the next character as it is.
pub fn split(line: &str) -> Result<Vec<String>, String> {
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
    if let Some(open) = quote {
        return Err(format!("there is a {open} without its second one"));
    }
    if is_word {
        words.push(word);
    }
    Ok(words)
}
