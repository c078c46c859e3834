//! The engine's role: save the process that started this one, say how it went, and end.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ckpt_core::{After, CheckpointOptions, CheckpointReport, Class};
use rustix::fs::{Access, access};

use crate::raw::engine as process;
use crate::role::{Action, EngineArgs};
use crate::settings;

/// The status that tells the handler that Ctrl+C cancelled the checkpoint.
pub(crate) const CANCELLED: i32 = Class::Cancelled as i32;

/// The status of a program that Ctrl+C ended.
const INTERRUPTED: i32 = 130;

/// Saves, reports, and returns the exit status of the engine: 0, or the class of the error.
pub(crate) fn run(args: &EngineArgs) -> i32 {
    if rustix::process::getppid().map(|parent| parent.as_raw_nonzero().get()) != Some(args.guard) {
        eprintln!("ckpt: this command line is for the runtime alone; start the program under its own name");
        return Class::Usage as i32;
    }
    process::prepare(args.action);
    let file = choose(&args.files);
    let options = CheckpointOptions {
        after: if args.action == Action::End { After::Exit(INTERRUPTED) } else { After::Continue },
        ignored_child: Some(args.guard),
        ..CheckpointOptions::default()
    };
    match ckpt_core::checkpoint(args.pid, &file, &options) {
        Ok(report) => {
            if args.action != Action::Call {
                say(&saved(args, &report));
            }
            0
        }
        Err(error) if error.class() == Class::Cancelled => {
            if args.action == Action::Call {
                process::tell_caller(&error.to_string());
            }
            // SIGTERM and SIGQUIT reach the program by themselves; only Ctrl+C must not be lost.
            if process::was_interrupted() { CANCELLED } else { Class::Failed as i32 }
        }
        Err(error) => {
            match args.action {
                Action::Call => process::tell_caller(&error.to_string()),
                _ => say(&format!("not saved: {error}. The program goes on; Ctrl+C again within 2 seconds ends it")),
            }
            error.class() as i32
        }
    }
}

/// The first file whose directory can be written; if there is none, the first, so that the error names it.
fn choose(files: &[PathBuf]) -> PathBuf {
    let here = files.first().and_then(|file| file.file_name()).map(PathBuf::from);
    let directory = |file: &Path| match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    // A single file was named by the user: no other place will do. Otherwise the last resort is where the program is now.
    let resort = if files.len() > 1 { here } else { None };
    let usable = |file: &&PathBuf| access(directory(file), Access::WRITE_OK | Access::EXEC_OK).is_ok();
    files.iter().chain(resort.iter()).find(usable).or(files.first()).cloned().unwrap_or_default()
}

fn saved(args: &EngineArgs, report: &CheckpointReport) -> String {
    let path = std::path::absolute(&report.path).unwrap_or_else(|_| report.path.clone());
    let mut text = format!("saved {} ({}, paused for {})", path.display(), size(report.bytes), time(report.pause));
    if args.action == Action::Continue {
        text.push_str("; the program goes on");
        return text;
    }
    let _ = write!(text, "; go on with: {} -r", quoted(&args.program));
    let found_by_itself =
        std::env::var_os(settings::FILE).is_none_or(|name| name.is_empty()) && args.files.contains(&report.path);
    if !found_by_itself {
        let _ = write!(text, " {}", quoted(path.as_os_str()));
    }
    text
}

/// One line on stderr. After Ctrl+C the terminal shows `^C` on the line; the message starts on its own.
fn say(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let start = if stderr.is_terminal() { "\n" } else { "" };
    let _ = stderr.write_all(format!("{start}ckpt: {text}\n").as_bytes());
}

fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes {
        0..MIB => format!("{} KiB", bytes.div_ceil(1 << 10)),
        _ => format!("{}.{} MiB", bytes / MIB, bytes % MIB * 10 / MIB),
    }
}

fn time(pause: Duration) -> String {
    if pause < Duration::from_secs(1) {
        format!("{:.1} ms", pause.as_secs_f64() * 1e3)
    } else {
        format!("{:.1} s", pause.as_secs_f64())
    }
}

/// As a shell would have to be told it.
pub(crate) fn quoted(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_only_where_a_shell_needs_it() {
        assert_eq!(quoted(OsStr::new("./count")), "./count");
        assert_eq!(quoted(OsStr::new("./my prog")), "'./my prog'");
        assert_eq!(quoted(OsStr::new("it's")), r"'it'\''s'");
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(size(1), "1 KiB");
        assert_eq!(size((3 << 20) / 2), "1.5 MiB");
        assert_eq!(time(Duration::from_micros(1234)), "1.2 ms");
        assert_eq!(time(Duration::from_millis(2500)), "2.5 s");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_passed_over() {
        let good = std::env::temp_dir().join("x.ckpt");
        let bad = PathBuf::from("/nonexistent-directory/x.ckpt");
        assert_eq!(choose(&[bad.clone(), good.clone()]), good);
        assert_eq!(choose(std::slice::from_ref(&bad)), bad, "a named file has no substitute");
    }
}
