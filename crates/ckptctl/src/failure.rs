//! How an error ends the program: one line on stderr, an exit status, and with `--json` an object on stdout.

use std::fmt;

use ckpt_core::Class;
use ckpt_transfer::hosts::HostsError;
use ckpt_transfer::ssh::SshError;
use serde_json::{Map, Value, json};

use crate::{output, text};

/// An error of the command line's own, with its class.
#[derive(Debug)]
pub struct Failure {
    /// Which kind of failure it is.
    pub class: Class,
    /// What happened, to what, and what to do.
    pub message: String,
    /// More members for the JSON object.
    pub details: Map<String, Value>,
}

impl Failure {
    /// A failure without more details.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), details: Map::new() }
    }

    /// A failure that another process has told, with the exit status that it means.
    pub fn of_exit(exit: i32, message: impl Into<String>) -> Self {
        let class = CLASSES.into_iter().find(|class| *class as i32 == exit).unwrap_or(Class::Failed);
        Self::new(class, message)
    }
}

const CLASSES: [Class; 8] = [
    Class::Failed,
    Class::Usage,
    Class::CannotCheckpoint,
    Class::NotPermitted,
    Class::Remote,
    Class::BadImage,
    Class::RestoreFailed,
    Class::Cancelled,
];

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Tells an error and gives the exit status.
pub fn tell(error: &anyhow::Error, json: bool) -> i32 {
    let class = class(error);
    let message = text::plain(&line(error));
    eprintln!("ckptctl: {message}");
    if json {
        let details = error.downcast_ref::<Failure>().map(|failure| failure.details.clone());
        print_object(message, class, details.unwrap_or_default());
    }
    class as i32
}

/// Tells what the command line was answered with (wrong usage, or help that was asked for) and gives the exit status.
pub fn tell_usage(error: &clap::Error, json: bool) -> i32 {
    // Without a place to tell it, the status tells it.
    let _ = error.print();
    if json && error.exit_code() == Class::Usage as i32 {
        print_object(text::plain(&usage_line(error)), Class::Usage, Map::new());
    }
    error.exit_code()
}

/// What was wrong with the command line, without the help that follows it.
fn usage_line(error: &clap::Error) -> String {
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "more has to be said; --help tells what".to_owned();
    }
    let told = error.to_string();
    let what = told.lines().map(str::trim).take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    what.strip_prefix("error: ").map_or_else(|| what.clone(), str::to_owned)
}

fn print_object(message: String, class: Class, details: Map<String, Value>) {
    let mut object = Map::new();
    object.insert("error".to_owned(), message.into());
    object.insert("class".to_owned(), name(class).into());
    object.insert("exit".to_owned(), json!(class as i32));
    object.extend(details);
    // The error was told on stderr already, and there is no third place.
    let _ = output::print_json(&object);
}

/// An error with its causes. One of the engine or of ours tells its own causes.
pub fn line(error: &anyhow::Error) -> String {
    let mut words = Vec::new();
    for cause in error.chain() {
        words.push(cause.to_string());
        let tells_its_causes = cause.is::<ckpt_core::Error>() || cause.is::<HostsError>();
        if tells_its_causes || cause.is::<Failure>() {
            break;
        }
    }
    words.join(": ")
}

/// The class of an error: that of the engine's error or of ours in its chain, else [`Class::Failed`].
pub fn class(error: &anyhow::Error) -> Class {
    error
        .chain()
        .find_map(|cause| {
            let engine = cause.downcast_ref::<ckpt_core::Error>().map(ckpt_core::Error::class);
            let remote = cause.is::<SshError>().then_some(Class::Remote);
            engine.or(remote).or_else(|| cause.downcast_ref::<Failure>().map(|failure| failure.class))
        })
        .unwrap_or(Class::Failed)
}

/// The class as scripts read it in the JSON object.
fn name(class: Class) -> &'static str {
    match class {
        Class::Failed => "failed",
        Class::Usage => "usage",
        Class::CannotCheckpoint => "cannot_checkpoint",
        Class::NotPermitted => "not_permitted",
        Class::Remote => "remote",
        Class::BadImage => "bad_image",
        Class::RestoreFailed => "restore_failed",
        Class::Cancelled => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_is_found_under_context() {
        let engine = anyhow::Error::new(ckpt_core::Error::NoProcess { pid: 7 });
        assert_eq!(class(&engine), Class::Failed);
        let cancelled = anyhow::Error::new(ckpt_core::Error::Cancelled).context("while saving");
        assert_eq!(class(&cancelled), Class::Cancelled);
        assert_eq!(line(&cancelled), format!("while saving: {}", ckpt_core::Error::Cancelled));
        let ours = anyhow::Error::new(Failure::new(Class::BadImage, "damaged"));
        assert_eq!(class(&ours), Class::BadImage);
        assert_eq!(class(&anyhow::anyhow!("anything")), Class::Failed);
    }

    #[test]
    fn wrong_usage_is_one_line() {
        use clap::Parser;
        let line = |words: &[&str]| usage_line(&crate::cli::Cli::try_parse_from(words).expect_err("it is wrong"));
        assert_eq!(line(&["ckptctl", "ps", "--what"]), "unexpected argument '--what' found");
        let every = line(&["ckptctl", "schedule", "sim", "--every", "0s"]);
        assert_eq!(every, "invalid value '0s' for '--every <TIME>': give a time such as 90s, 15m or 2h");
        let missing = line(&["ckptctl", "stop", "--json"]);
        assert_eq!(missing, "the following required arguments were not provided: <JOB>");
        assert_eq!(line(&["ckptctl", "hosts"]), "more has to be said; --help tells what");
    }

    #[test]
    fn exit_statuses_are_those_of_the_documentation() {
        let documented = [
            (Class::Failed, 1),
            (Class::Usage, 2),
            (Class::CannotCheckpoint, 3),
            (Class::NotPermitted, 4),
            (Class::Remote, 5),
            (Class::BadImage, 6),
            (Class::RestoreFailed, 7),
            (Class::Cancelled, 130),
        ];
        for (class, status) in documented {
            assert_eq!(class as i32, status, "{}", name(class));
        }
    }
}
