//! What this program says of itself: where things are, completions, manual pages.

use std::path::Path;

use anyhow::Context;
use ckpt_transfer::store::Store;
use clap::CommandFactory;
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
        ("logs", text::path(&jobs.root().join("JOB").join("log*"))),
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
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ckptctl", &mut text);
    output::print(&String::from_utf8_lossy(&text))?;
    Ok(0)
}

/// `man`: the manual pages, into a directory; without one the main page to standard output.
pub fn man(directory: Option<&Path>) -> anyhow::Result<i32> {
    let command = Cli::command();
    let Some(directory) = directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).context("the manual page cannot be made")?;
        output::print(&String::from_utf8_lossy(&page))?;
        return Ok(0);
    };
    let wrote = || format!("cannot write manual pages into {}", text::path(directory));
    std::fs::create_dir_all(directory).with_context(wrote)?;
    clap_mangen::generate_to(command, directory).with_context(wrote)?;
    Ok(0)
}
