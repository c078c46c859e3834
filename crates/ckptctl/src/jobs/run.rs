//! `run`: start a program as a job, in the foreground or not.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Context;
use ckpt_core::Class;
use ckpt_core::resource::bytes::Bytes;
use rustix::fs::{FileType, fstat};
use rustix::stdio;
use rustix::termios::isatty;

use super::store::{JobStore, status};
use crate::cli::RunArgs;
use crate::client::{self, Attaching, Outcome, Screen, Session};
use crate::config::{self, Config};
use crate::failure::Failure;
use crate::keeper::{Origin, Stdio};
use crate::supervisor::{Launch, LaunchKind, Standard};
use crate::{output, text};

/// Runs a program to its end and gives its status; with `--detach` only starts it.
pub fn run(args: &RunArgs) -> anyhow::Result<i32> {
    let program = args.command.first().context("no program was given")?;
    if let Some(directory) = args.directory.as_deref().filter(|directory| !directory.is_dir()) {
        let message = format!("{} is no directory to start the program in", text::path(directory));
        return Err(Failure::new(Class::Usage, message).into());
    }
    let Config { detach_key, .. } = if args.detach { Config::default() } else { config::load()? };
    let store = JobStore::open()?;
    let claim = store.claim(args.name.as_deref(), Path::new(program))?;
    claim.prepare()?;
    let name = claim.name().to_owned();
    // Before the program starts: from then on a signal to us is one to it.
    let session = (!args.detach).then(|| Session::begin(false)).transpose()?;
    let (standard, given) = standard(session.as_ref().map(|(session, _)| &**session));
    let command: Vec<Bytes> = args.command.iter().map(|word| Bytes(word.as_bytes().to_vec())).collect();
    let origin = Origin::Command { command: command.clone(), portable: args.portable };
    let pipes_input = standard.stdio[0] == Stdio::Pipe;
    let kind = LaunchKind::Program { origin, standard, command, shown: String::new() };
    let launch = Launch { name: name.clone(), kind };
    let launched = client::launch(&launch, &given, args.directory.as_deref());
    let launched = launched.inspect_err(|_| store.drop_unused(&name))?;
    drop(claim);
    match session {
        None => {
            if args.json {
                output::print_json(&serde_json::json!({ "job": name, "pid": launched.pid }))?;
            } else {
                output::print(&format!("{name}\n"))?;
            }
            Ok(0)
        }
        Some(session) => {
            let stream = launched.receiver.stream().try_clone()?;
            let attaching = Attaching { read_only: false, pipes_input, is_launcher: true, detach_key };
            Ok(finish(&name, &client::attach(&store, &name, session, Some(stream), None, attaching)?))
        }
    }
}

/// What to say at the end of being attached, and with which status to end.
pub fn finish(name: &str, outcome: &Outcome) -> i32 {
    use std::io::Write as _;
    const KILLED: i32 = 137;
    let say = |what: &str| {
        // The terminal may have gone.
        let _ = writeln!(std::io::stderr(), "ckptctl: {what}");
    };
    match outcome {
        Outcome::Ended(ending) => status(*ending),
        Outcome::Saved(image) => {
            say(&format!("{name} was saved to {} and ended", text::plain(&image.text())));
            KILLED
        }
        Outcome::Detached => {
            say(&format!("detached; it runs on: ckptctl attach {name}"));
            0
        }
    }
}

/// What the program's standard descriptors are to be, by what ours are; and those that it gets itself. Without a session it gets
/// a terminal of its own.
pub fn standard(session: Option<&Session>) -> (Standard, Vec<BorrowedFd<'static>>) {
    let Some(session) = session else {
        let stdio = [Stdio::Terminal; 3];
        return (Standard { stdio, size: None, settings: None, attaches: false }, Vec::new());
    };
    let ours = [stdio::stdin(), stdio::stdout(), stdio::stderr()];
    let mut kinds = ours.map(kind);
    if kinds[1] == Stdio::Pipe && kinds[2] == Stdio::Pipe && are_same(ours[1], ours[2]) {
        kinds[2] = Stdio::Joined;
    }
    let given = (0..3).filter(|index| kinds[*index] == Stdio::Given).map(|index| ours[index]).collect();
    let screen = session.screen();
    let (size, settings) = (screen.and_then(Screen::size), screen.and_then(Screen::settings));
    (Standard { stdio: kinds, size, settings, attaches: true }, given)
}

fn kind(fd: BorrowedFd<'_>) -> Stdio {
    if isatty(fd) {
        return Stdio::Terminal;
    }
    match fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        Ok(FileType::Fifo | FileType::Socket) => Stdio::Pipe,
        _ => Stdio::Given,
    }
}

fn are_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    match (fstat(one.as_fd()), fstat(other.as_fd())) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}
