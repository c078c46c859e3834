//! What this program says of itself: where things are, and completions.

use anyhow::Context;
use ckpt_transfer::store::Store;
use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::cli::{Cli, InfoArgs};
use crate::jobs::JobStore;
use crate::{config, door, output, text};

/// `info`: where configuration, jobs, logs and caches are.
pub fn info(args: &InfoArgs) -> anyhow::Result<i32> {
    let jobs = JobStore::open()?;
    let hosts = ckpt_transfer::hosts::Place::of_this_user()?;
    let sockets = door::places(jobs.root());
    let executable = std::env::current_exe().context("this program cannot find its own file")?;
    let lines = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("program", text::path(&executable)),
        ("configuration", text::path(&config::path()?)),
        ("hosts", text::path(&hosts.hosts_file)),
        ("jobs", text::path(jobs.root())),
        ("logs", text::path(&jobs.root().join("JOB").join("{output,streams}.*"))),
        ("sockets", sockets.first().map(|place| text::path(place)).unwrap_or_default()),
        ("cache", text::path(Store::open()?.root())),
    ];
    if args.json {
        let object: serde_json::Map<String, serde_json::Value> =
            lines.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        output::print_json(&object)?;
    } else {
        let rows: Vec<String> = lines.iter().map(|(name, value)| format!("{name:<14} {value}\n")).collect();
        output::print(&rows.concat())?;
    }
    Ok(0)
}

/// `completions`: for a shell.
pub fn completions(shell: Shell) -> anyhow::Result<i32> {
    output::print(&completion(shell))?;
    Ok(0)
}

fn completion(shell: Shell) -> String {
    let whole = Cli::command();
    let visible = whole.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned();
    // What is only for ckptctl itself would be offered as well.
    let mut command = Command::new("ckptctl").version(env!("CARGO_PKG_VERSION")).args(whole.get_arguments().cloned());
    command = command.subcommands(visible);
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "ckptctl", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use super::*;

    /// All verbs and the verbs below them that users see, by their words.
    fn verbs() -> Vec<Vec<String>> {
        let name = |command: &Command| command.get_name().to_owned();
        let command = Cli::command();
        let visible = command.get_subcommands().filter(|verb| !verb.is_hide_set());
        visible
            .flat_map(|verb| {
                let below = verb.get_subcommands().map(|below| vec![name(verb), name(below)]);
                std::iter::once(vec![name(verb)]).chain(below).collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn completions_know_all_verbs_and_none_of_ours() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = completion(shell);
            for verb in verbs() {
                assert!(verb.iter().all(|word| text.contains(word.as_str())), "{shell}: {verb:?}");
            }
            assert!(text.contains("before-move"), "{shell}");
            assert!(!text.contains("supervisor") && !text.contains("throw-away-host"), "{shell}");
        }
    }
}
