//! `checkpoint`: save a process or a job.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use ckpt_core::resource::bytes::Bytes;
use ckpt_core::{After, CheckpointOptions, Class, Codec};
use ckpt_transfer::protocol::{Reply, Request};
use serde_json::Value;

use crate::cli::CheckpointArgs;
use crate::failure::Failure;
use crate::jobs::{Job, JobStore};
use crate::progress::{Progress, Watching};
use crate::{cancel, client, output, text};

/// Saves what the arguments name, and tells how it went.
pub fn checkpoint(args: &CheckpointArgs) -> anyhow::Result<i32> {
    let (report, restore) = match (&args.job, args.pid) {
        (Some(name), _) => {
            let store = JobStore::open()?;
            let job = store.living_or(name, "`ckptctl ps` lists the jobs, and --pid takes any process")?;
            if job.keeper.is_some() || job.host.is_some() {
                by_supervisor(&store, &job, args)?
            } else {
                let file = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.ckpt")));
                process(job.pid, &file, args)?
            }
        }
        (None, Some(pid)) => {
            let file = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{pid}.ckpt")));
            process(pid, &file, args)?
        }
        (None, None) => return Err(Failure::new(Class::Usage, "name a job, or a process with --pid").into()),
    };
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&summary(&report, &restore, args.stop))?;
    }
    Ok(0)
}

/// Saves a process. Gives the report and what to restore it by.
fn process(pid: i32, file: &Path, args: &CheckpointArgs) -> anyhow::Result<(Value, String)> {
    cancel::watch()?;
    let options = CheckpointOptions {
        after: if args.stop { After::Kill } else { After::Continue },
        codec: args.codec,
        self_contained: args.self_contained,
        carry_files: args.carry_files,
        tcp_close: args.tcp == "close",
        ..CheckpointOptions::default()
    };
    let mut progress = Progress::new(args.json);
    let watching =
        Watching::start(Arc::clone(&options.progress), move |done, total| progress.show("memory", done, total))?;
    let report = ckpt_core::checkpoint(pid, file, &options);
    watching.end();
    let report = report?;
    Ok((serde_json::to_value(&report).context("the report does not fit JSON; please report this")?, text::path(file)))
}

/// What a supervisor is asked for, to save its job into the history as without any option.
pub fn into_history() -> Request {
    let (stop, self_contained, carry_files, tcp_close) = (false, false, false, false);
    Request::Checkpoint {
        file: None,
        stop,
        codec: Codec::default().to_string(),
        self_contained,
        carry_files,
        tcp_close,
    }
}

/// Has a job's supervisor save it.
fn by_supervisor(store: &JobStore, job: &Job, args: &CheckpointArgs) -> anyhow::Result<(Value, String)> {
    let file =
        args.output.as_ref().map(std::path::absolute).transpose().context("the current directory is not known")?;
    let request = Request::Checkpoint {
        file: file.map(|file| Bytes(file.as_os_str().as_bytes().to_vec())),
        stop: args.stop,
        codec: args.codec.to_string(),
        self_contained: args.self_contained,
        carry_files: args.carry_files,
        tcp_close: args.tcp == "close",
    };
    let stream = client::connect(store, job)?;
    let mut progress = Progress::new(args.json);
    let answer = client::perform(&stream, &request, |news| {
        if let Reply::Progress { phase, done, total } = news {
            progress.show(phase, *done, *total);
        }
    });
    drop(progress);
    let Reply::Saved { mut report } = answer? else {
        return Err(Failure::new(Class::Failed, "the job's supervisor answers something else than was asked").into());
    };
    // As it was named here.
    if let (Some(output), Some(object)) = (&args.output, report.as_object_mut()) {
        object.insert("path".to_owned(), output.to_string_lossy().into());
    }
    let restore = match (&args.output, report["number"].as_u64()) {
        (Some(output), _) => text::path(output),
        (None, Some(number)) => format!("{}@{number}", job.name),
        (None, None) => job.name.clone(),
    };
    Ok((report, restore))
}

fn summary(report: &Value, restore: &str, is_ended: bool) -> String {
    let number = |key: &str| report[key].as_u64().unwrap_or_default();
    let took = |key: &str| {
        let seconds = report[key].as_f64().unwrap_or_default();
        text::took(std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default())
    };
    format!(
        "saved process {} to {}: {} ({}, {}), paused for {}, took {}; it {}\nbring it back with: ckptctl restore {}\n",
        number("pid"),
        text::plain(report["path"].as_str().unwrap_or(restore)),
        text::size(number("bytes")),
        text::count(number("pages"), "page", "pages"),
        text::count(number("threads"), "thread", "threads"),
        took("pause_seconds"),
        took("total_seconds"),
        if is_ended { "was ended" } else { "runs on" },
        text::quoted(restore),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use std::time::Duration;

    use ckpt_core::CheckpointReport;

    use super::*;

    #[test]
    fn the_summary_says_what_to_do_next() {
        let report = CheckpointReport {
            pid: 7,
            path: PathBuf::from("my sim.ckpt"),
            bytes: 200 << 10,
            pages: 41,
            threads: 1,
            pause: Duration::from_millis(3),
            total: Duration::from_millis(8),
        };
        let report = serde_json::to_value(&report).unwrap();
        let text = summary(&report, "my sim.ckpt", true);
        assert!(text.contains("200 KiB (41 pages, 1 thread), paused for 3.0 ms, took 8.0 ms; it was ended"), "{text}");
        assert!(text.ends_with("bring it back with: ckptctl restore 'my sim.ckpt'\n"), "{text}");
    }
}
