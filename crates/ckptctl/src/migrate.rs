//! `migrate`: move a job's program to another machine, or home.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;

use anyhow::Context;
use ckpt_core::Class;
use ckpt_core::resource::bytes::Bytes;
use ckpt_transfer::protocol::{MoveOptions, MoveReport, Reply, Request};
use serde_json::json;

use crate::cli::MigrateArgs;
use crate::failure::Failure;
use crate::jobs::JobStore;
use crate::progress::Progress;
use crate::{client, output, text};

/// Moves a job and returns when it runs there.
pub fn migrate(args: &MigrateArgs) -> anyhow::Result<i32> {
    let store = JobStore::open()?;
    let job = store.living(&args.job)?;
    let options = MoveOptions {
        files: args.files,
        with: with(args)?,
        codec: args.codec.map(|codec| codec.to_string()),
        tcp_close: args.tcp.is_some(),
        ignore_cpu: args.ignore_cpu,
        keep: args.keep,
        overwrite: args.overwrite,
        dry_run: args.dry_run,
    };
    let stream = client::connect(&store, &job)?;
    let mut telling = Telling::new(args);
    let request = Request::Migrate { host: args.host.clone(), options };
    let answer = client::perform(&stream, &request, |news| telling.tell(news));
    telling.progress.clear();
    match answer? {
        Reply::MovedTo(report) => {
            if args.json {
                let mut object = serde_json::to_value(&report).context("the report does not fit JSON")?;
                object["checks"] = json!(telling.checks);
                output::print_json(&object)?;
            } else {
                output::print(&told(&report))?;
            }
            Ok(0)
        }
        Reply::Done if args.json => output::print_json(&json!({ "checks": telling.checks })).map(|()| 0),
        Reply::Done => output::print("it could be moved\n").map(|()| 0),
        _ => Err(Failure::new(Class::Failed, "the job's supervisor says something else than asked for").into()),
    }
}

/// The files that are to go along, by their absolute paths.
fn with(args: &MigrateArgs) -> anyhow::Result<Vec<Bytes>> {
    let absolute = |path: &std::path::PathBuf| {
        let whole = std::path::absolute(path).with_context(|| format!("there is no path {}", text::path(path)))?;
        Ok(Bytes(whole.as_os_str().as_bytes().to_vec()))
    };
    args.with.iter().map(absolute).collect()
}

/// Tells on standard error what is done.
struct Telling {
    is_quiet: bool,
    checks: Vec<serde_json::Value>,
    progress: Progress,
}

impl Telling {
    fn new(args: &MigrateArgs) -> Self {
        Self { is_quiet: args.json, checks: Vec::new(), progress: Progress::new(args.json) }
    }

    fn tell(&mut self, news: &Reply) {
        match news {
            Reply::Check { what, found, ok } => {
                self.checks.push(json!({ "what": what, "found": found, "ok": ok }));
                if !self.is_quiet {
                    self.progress.clear();
                    let mark = if *ok { "ok" } else { "NO" };
                    eprintln!("  {mark}  {what:<11} {}", text::plain(found));
                }
            }
            Reply::Progress { phase, done, total } => self.progress.show(phase, *done, *total),
            _ => {}
        }
    }
}

fn told(report: &MoveReport) -> String {
    let MoveReport { job, from, to, pid, bytes, file_bytes, downtime, parts, total, notes, .. } = report;
    let files = if *file_bytes > 0 { format!(" and {} of files", text::size(*file_bytes)) } else { String::new() };
    let mut out = format!(
        "{} moved from {} to {} (process {pid}): {}{files} in {total:.2} s\n",
        text::plain(job),
        text::plain(from),
        text::plain(to),
        text::size(*bytes),
    );
    let parts: Vec<String> = parts.iter().map(|(name, seconds)| format!("{name} {:.0}", seconds * 1e3)).collect();
    let _ = writeln!(out, "downtime {:.0} ms: {}", downtime * 1e3, parts.join(", "));
    for note in notes {
        let _ = writeln!(out, "note: {}", text::plain(note));
    }
    out
}
