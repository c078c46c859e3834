//! `man`: the manual pages, made of what the command line knows.

use std::io;
use std::path::Path;

use anyhow::Context;
use ckpt_core::Class;
use clap::{Arg, ArgAction, Command, CommandFactory};
use clap_mangen::Man;

use crate::cli::{Cli, ManArgs};
use crate::failure::Failure;
use crate::{output, text};

/// Prints the page of a verb, or writes all pages into a directory.
pub fn man(args: &ManArgs) -> anyhow::Result<i32> {
    let mut whole = Cli::command().disable_help_subcommand(true);
    whole.build();
    if let Some(directory) = &args.all {
        let wrote = || format!("cannot write manual pages into {}", text::path(directory));
        std::fs::create_dir_all(directory).with_context(wrote)?;
        write(&whole, directory).with_context(wrote)?;
        return Ok(0);
    }
    let words: Vec<&str> = args.verb.iter().chain(&args.below).map(String::as_str).collect();
    let mut page = Vec::new();
    manual(find(&whole, &words)?).render(&mut page).context("the manual page cannot be made")?;
    output::print(&String::from_utf8_lossy(&page))?;
    Ok(0)
}

/// The verb that words name, or ckptctl itself.
fn find<'a>(whole: &'a Command, words: &[&str]) -> anyhow::Result<&'a Command> {
    let below = |command: &'a Command, word: &&str| command.find_subcommand(word).filter(|below| !below.is_hide_set());
    words.iter().try_fold(whole, below).ok_or_else(|| {
        let verb = text::plain(&text::quoted(&words.join(" ")));
        Failure::new(Class::Usage, format!("there is no verb {verb}; `ckptctl --help` lists them")).into()
    })
}

fn write(command: &Command, directory: &Path) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write(below, directory)?;
    }
    manual(command).generate_to(directory).map(drop)
}

fn manual(command: &Command) -> Man {
    let source = concat!("ckptctl ", env!("CARGO_PKG_VERSION"));
    Man::new(command.clone().override_usage(synopsis(command))).source(source)
}

/// How a verb is called, with the values of its options, which `clap_mangen` leaves out.
fn synopsis(command: &Command) -> String {
    let (positionals, options): (Vec<&Arg>, Vec<&Arg>) =
        command.get_arguments().filter(|arg| !arg.is_hide_set()).partition(|arg| arg.is_positional());
    let verbs = if !command.has_subcommands() {
        None
    } else if command.is_subcommand_required_set() {
        Some("<VERB>".to_owned())
    } else {
        Some("[VERB]".to_owned())
    };
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
    let words = options.into_iter().map(option).chain(positionals.into_iter().map(positional));
    std::iter::once(name).chain(words).chain(verbs).collect::<Vec<_>>().join(" ")
}

fn option(arg: &Arg) -> String {
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let names = short.into_iter().chain(long).collect::<Vec<_>>().join("|");
    let value = if arg.get_action().takes_values() { format!(" {}", value(arg)) } else { String::new() };
    let again = if matches!(arg.get_action(), ArgAction::Append) { "..." } else { "" };
    if arg.is_required_set() { format!("{names}{value}{again}") } else { format!("[{names}{value}]{again}") }
}

fn positional(arg: &Arg) -> String {
    let last = if arg.is_last_set() { "-- " } else { "" };
    let again = if arg.get_num_args().is_some_and(|number| number.max_values() > 1) { "..." } else { "" };
    let (open, close) = if arg.is_required_set() { ('<', '>') } else { ('[', ']') };
    match last {
        "" => format!("{open}{}{close}{again}", value(arg)),
        last if arg.is_required_set() => format!("{last}<{}>{again}", value(arg)),
        last => format!("[{last}<{}>{again}]", value(arg)),
    }
}

fn value(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    names.iter().map(clap::builder::Str::as_str).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use super::*;

    fn whole() -> Command {
        let mut whole = Cli::command().disable_help_subcommand(true);
        whole.build();
        whole
    }

    #[test]
    fn every_verb_has_a_manual_page() {
        let directory = tempfile::tempdir().unwrap();
        let args = ManArgs { verb: None, below: None, all: Some(directory.path().join("man1")) };
        assert_eq!(man(&args).unwrap(), 0);
        let page = |name: &str| std::fs::read_to_string(directory.path().join("man1").join(name));
        let mut verbs: Vec<(String, Command)> = Vec::new();
        for verb in whole().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let name = format!("ckptctl-{}", verb.get_name());
            let below = verb.get_subcommands().map(|below| (format!("{name}-{}", below.get_name()), below.clone()));
            verbs.extend(below);
            verbs.push((name, verb.clone()));
        }
        for (name, verb) in verbs {
            let page = page(&format!("{name}.1")).unwrap();
            assert!(page.contains("Example"), "{name} has no examples");
            let synopsis = page.split(".SH ").find(|section| section.starts_with("SYNOPSIS")).unwrap();
            for named in verb.get_opts().map(option) {
                assert!(synopsis.replace("\\-", "-").contains(&named), "{name}: {named} is not in {synopsis}");
            }
        }
        assert!(page("ckptctl.1").unwrap().contains("[VERB]"));
        assert!(page("ckptctl-supervisor.1").is_err());
    }

    #[test]
    fn a_synopsis_shows_values() {
        let whole = whole();
        let line = |words: &[&str]| synopsis(find(&whole, words).unwrap());
        assert_eq!(
            line(&["schedule"]),
            "ckptctl schedule [--every TIME] [--before-move] [--keep N] [--off] [--json] [-h|--help] <JOB>"
        );
        assert_eq!(
            line(&["run"]),
            "ckptctl run [--name NAME] [-d|--detach] [--portable] [--directory DIR] [--json] [-h|--help] -- <PROGRAM>..."
        );
        assert_eq!(line(&["export"]), "ckptctl export --core OUT [-h|--help] <FILE>");
        assert!(line(&["restore"]).contains("[--show OLD=NEW]... "), "{}", line(&["restore"]));
        assert!(
            line(&["hosts", "add"]).starts_with("ckptctl hosts add [--key FILE]... "),
            "{}",
            line(&["hosts", "add"])
        );
        assert_eq!(line(&["hosts"]), "ckptctl hosts [-h|--help] <VERB>");
        assert_eq!(line(&["recover"]), line(&["restore"]));
        for unknown in [&["walk"][..], &["supervisor"], &["hosts", "walk"], &["ps", "add"]] {
            let error = find(&whole, unknown).unwrap_err();
            assert_eq!(crate::failure::class(&error), Class::Usage, "{error}");
        }
    }
}
