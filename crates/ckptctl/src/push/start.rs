//! Starting what was pushed: as a job there, whose output is relayed.

use std::io::{Read, Write};

use anyhow::Context;
use ckpt_core::Class;
use ckpt_transfer::ssh::Finished;
use serde_json::Value;

use super::{Arrived, Parcel, There};
use crate::failure::Failure;
use crate::text;

/// Starts it and gives the job's name there.
pub fn start(job: Option<&str>, parcel: &Parcel, there: &There, arrived: &Arrived) -> anyhow::Result<String> {
    let name = parcel.name();
    let program = format!("./{name}");
    let restores_itself = arrived.shown.is_empty() && parcel.is_linked;
    let mut command = vec!["run", "--detach", "--json", "--directory", there.directory.as_str()];
    // Else it would be called after the program that restores it.
    if let Some(job) = job.or_else(|| (!restores_itself).then_some(name.as_str())) {
        command.extend(["--name", job]);
    }
    command.push("--");
    let shown: Vec<String> = arrived.shown.iter().map(|shown| format!("{}={}", shown.path, shown.at)).collect();
    if restores_itself {
        command.extend([program.as_str(), "-r"]);
    } else {
        // As `-r` does, but with the files that lie elsewhere there.
        command.extend([there.ckptctl.as_str(), "restore", arrived.image.as_str()]);
        for (word, file) in shown.iter().zip(&arrived.shown) {
            command.extend([if file.read_only { "--show-read-only" } else { "--show" }, word.as_str()]);
        }
    }
    let said = ask(there, &command)?;
    let job = said.get("job").and_then(Value::as_str);
    Ok(job.context("ckptctl there does not say the job's name; please report this")?.to_owned())
}

/// Prints what the job prints until it ends, and gives its status.
pub fn follow(there: &There, job: &str) -> anyhow::Result<i32> {
    let words = there.words(&["logs", "--follow", job]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut channel = there.session()?.exec(&words)?;
    let mut stdout = std::io::stdout().lock();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = channel.read(&mut buffer).map_err(|error| lost(there, job, &error.to_string()))?;
        if count == 0 {
            break;
        }
        let printed = stdout.write_all(&buffer[..count]).and_then(|()| stdout.flush());
        printed.context("standard output cannot be written; the program runs on there")?;
    }
    let jobs = ask(there, &["ps", "--json"])?;
    let listed = jobs.get("jobs").and_then(Value::as_array).into_iter().flatten();
    let ended = listed.into_iter().find(|listed| listed.get("name").and_then(Value::as_str) == Some(job));
    let status = ended.and_then(|ended| ended.get("status")).and_then(Value::as_i64);
    match status.and_then(|status| i32::try_from(status).ok()) {
        Some(status) => Ok(status),
        None => Err(lost(there, job, "its output ended, and it has not").into()),
    }
}

fn lost(there: &There, job: &str, why: &str) -> Failure {
    let host = &there.host.name;
    Failure::new(Class::Remote, format!("{host}: {why}; the job {} may run on there: ckptctl ps", text::plain(job)))
}

/// Runs ckptctl there and gives the object that it prints.
fn ask(there: &There, words: &[&str]) -> anyhow::Result<Value> {
    let words = there.words(words);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let finished = there.session()?.exec(&words)?.finish()?;
    let Finished { output, status, .. } = &finished;
    match serde_json::from_slice::<Value>(output) {
        Ok(said) if *status == 0 => Ok(said),
        Ok(said) if said.get("error").is_some() => {
            let error = said.get("error").and_then(Value::as_str).unwrap_or_default();
            Err(Failure::of_exit(*status, format!("{}: {error}", there.host.name)).into())
        }
        _ => {
            Err(Failure::new(Class::Remote, format!("{}: ckptctl there said: {}", there.host.name, finished.said()))
                .into())
        }
    }
}
