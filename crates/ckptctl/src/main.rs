//! `ckptctl`: the verbs of the command line.
//!
//! One module per verb, each with a function that does it and returns the exit status; [`cli`] says what they are called
//! and [`failure`] how an error becomes one line and an exit status.

#![forbid(unsafe_code)]

mod about;
mod agent;
mod cancel;
mod checkpoint;
mod cli;
mod client;
mod compile;
mod config;
mod demo;
mod doctor;
mod door;
mod emulator;
mod export;
mod failure;
mod fate;
mod fetch;
mod holds;
mod hosts;
mod image;
mod inspect;
mod jobs;
mod keeper;
mod local;
mod manual;
mod menu;
mod migrate;
mod modes;
mod output;
mod progress;
mod prompt;
mod push;
mod remote;
mod restore;
mod supervisor;
mod text;
mod this_machine;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use ckpt_core::Class;
use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Verb};

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let Cli { verb, read_only } = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(error) => return exit(failure::tell_usage(&error, cli::asks_for_json(&words))),
    };
    let json = verb.as_ref().is_some_and(Verb::prints_json);
    let result = match verb {
        None => show_menu(read_only),
        Some(_) if read_only => Err(cli::read_only_with_a_verb().into()),
        Some(verb) => run(verb),
    };
    let status = result.unwrap_or_else(|error| failure::tell(&error, json));
    exit(status)
}

fn exit(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}

/// The menu; without a terminal that it can be shown on, the help.
fn show_menu(read_only: bool) -> anyhow::Result<i32> {
    let has_terminal = menu::has_terminal();
    if has_terminal == Ok(true) {
        return menu::menu(&config::load()?, read_only);
    }
    eprintln!("{}", Cli::command().render_long_help());
    if let Err(what) = has_terminal {
        eprintln!("ckptctl: {what}");
    }
    Ok(Class::Usage as i32)
}

fn run(verb: Verb) -> anyhow::Result<i32> {
    match verb {
        Verb::Checkpoint(args) => checkpoint::checkpoint(&args),
        Verb::Restore(args) => restore::restore(&args),
        Verb::Run(args) => jobs::run(&args),
        Verb::Attach(args) => jobs::attach(&args),
        Verb::Logs(args) => jobs::logs(&args),
        Verb::Ps(args) => jobs::ps(&args),
        Verb::Stop(args) => jobs::stop(&args),
        Verb::Rm(args) => jobs::rm(&args),
        Verb::History(args) => jobs::history(&args),
        Verb::Branch(args) => jobs::branch(&args),
        Verb::Schedule(args) => jobs::schedule(&args),
        Verb::Info(args) => about::info(&args),
        Verb::Completions(args) => about::completions(args.shell),
        Verb::Man(args) => manual::man(&args),
        Verb::Inspect(args) => inspect::inspect(&args),
        Verb::Verify(args) => verify::verify(&args),
        Verb::Export(args) => export::export(&args),
        Verb::Build(args) => compile::build(&args),
        Verb::Cc(args) => compile::cc(&args.args),
        Verb::Doctor(args) => doctor::doctor(&args),
        Verb::Push(args) => push::push(&args),
        Verb::Hosts(args) => hosts::hosts(&args),
        Verb::SelfCheck => hosts::self_check(),
        Verb::Demo => demo::demo(),
        Verb::Agent(args) => agent::agent(&args),
        Verb::Fetch(args) => fetch::fetch(&args),
        Verb::Migrate(args) => migrate::migrate(&args),
        Verb::Supervisor => supervisor::supervise(),
        Verb::Keeper => keeper::keeper(),
        Verb::Program(args) => keeper::start_program(&args),
        Verb::ThrowAwayHost(args) => demo::throw_away_host(&args),
    }
}
