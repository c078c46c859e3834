//! `checkpoint`: save a process or a job.

use std::path::PathBuf;

use ckpt_core::{After, CheckpointOptions, CheckpointReport, Class};

use crate::cli::CheckpointArgs;
use crate::failure::Failure;
use crate::jobs::JobStore;
use crate::{cancel, output, text};

/// Saves what the arguments name, and tells how it went.
pub fn checkpoint(args: &CheckpointArgs) -> anyhow::Result<i32> {
    let (pid, file) = target(args)?;
    cancel::watch()?;
    let options = CheckpointOptions {
        after: if args.stop { After::Kill } else { After::Continue },
        codec: args.codec,
        self_contained: args.self_contained,
        carry_files: args.carry_files,
        tcp_close: args.tcp == "close",
        ..CheckpointOptions::default()
    };
    let report = ckpt_core::checkpoint(pid, &file, &options)?;
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&summary(&report, args.stop))?;
    }
    Ok(0)
}

/// Which process to save, and where to.
fn target(args: &CheckpointArgs) -> anyhow::Result<(i32, PathBuf)> {
    let (pid, default) = match (&args.job, args.pid) {
        (Some(name), _) => (JobStore::open()?.living(name)?.pid, format!("{name}.ckpt")),
        (None, Some(pid)) => (pid, format!("{pid}.ckpt")),
        (None, None) => return Err(Failure::new(Class::Usage, "name a job, or a process with --pid").into()),
    };
    Ok((pid, args.output.clone().unwrap_or_else(|| PathBuf::from(default))))
}

fn summary(report: &CheckpointReport, is_ended: bool) -> String {
    let file = text::path(&report.path);
    format!(
        "saved process {} to {file}: {} ({}, {}), paused for {}, took {}; it {}\nbring it back with: ckptctl restore {}\n",
        report.pid,
        text::size(report.bytes),
        text::count(report.pages, "page", "pages"),
        text::count(u64::try_from(report.threads).unwrap_or(u64::MAX), "thread", "threads"),
        text::took(report.pause),
        text::took(report.total),
        if is_ended { "was ended" } else { "runs on" },
        text::quoted(&file),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        let text = summary(&report, true);
        assert!(text.contains("200 KiB (41 pages, 1 thread), paused for 3.0 ms, took 8.0 ms; it was ended"), "{text}");
        assert!(text.ends_with("bring it back with: ckptctl restore 'my sim.ckpt'\n"), "{text}");
    }
}
