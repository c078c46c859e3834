//! `run`: start a program in the foreground and give it a name.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use anyhow::Context;
use ckpt_core::Class;
use ckpt_core::resource::bytes::Bytes;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;

use super::store::{Job, JobStore};
use crate::cli::RunArgs;
use crate::failure::{self, Failure};
use crate::text;

/// Runs a program to its end and gives its status.
pub fn run(args: &RunArgs) -> anyhow::Result<i32> {
    let (program, arguments) = args.command.split_first().context("no program was given")?;
    let store = JobStore::open()?;
    let claim = store.claim(args.name.as_deref(), Path::new(program))?;
    // Before the program starts: from then on a signal to us is one to it.
    let signals = SignalsInfo::<WithOrigin>::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2])
        .context("the signal handlers cannot be installed")?;
    let mut child =
        Command::new(program).args(arguments).spawn().map_err(|error| cannot_start(Path::new(program), &error))?;
    let pid = i32::try_from(child.id()).context("the kernel gave a process number out of range")?;
    let target = Pid::from_raw(pid).context("the kernel gave a process number out of range")?;
    // Our own child's number is not reused before we have waited for it.
    let handle = pidfd_open(target, PidfdFlags::empty()).context("the program that was started cannot be held")?;
    std::thread::spawn(move || pass_on(signals, &handle));

    let command = args.command.iter().map(|word| Bytes(word.as_bytes().to_vec())).collect();
    let directory = std::env::current_dir().map(|path| Bytes(path.as_os_str().as_bytes().to_vec())).unwrap_or_default();
    // Without its entry the program runs all the same; it can be saved by its number.
    let job = Job::describe(claim.name(), pid, command, directory)
        .and_then(|job| claim.register(&job).map(|()| job))
        .inspect_err(|error| {
            eprintln!("ckptctl: note: {}; it runs as process {pid}", text::plain(&failure::line(error)));
        });

    let status = status(child.wait().context("the program cannot be waited for")?);
    if let Ok(job) = job
        && let Err(error) = store.ended(&job, status)
    {
        eprintln!("ckptctl: note: {}", text::plain(&failure::line(&error)));
    }
    Ok(status)
}

/// Passes signals on to the program. Those that come from a key of the terminal have reached it already: it is in the
/// same process group.
fn pass_on(mut signals: SignalsInfo<WithOrigin>, program: &OwnedFd) {
    for origin in &mut signals {
        if origin.process.is_some()
            && let Some(signal) = Signal::from_named_raw(origin.signal)
        {
            // It may have ended just now, and then the signal comes too late for anybody.
            let _ = pidfd_send_signal(program, signal);
        }
    }
}

fn status(ending: ExitStatus) -> i32 {
    ending.code().or_else(|| ending.signal().map(|signal| 128 + signal)).unwrap_or(1)
}

fn cannot_start(program: &Path, error: &io::Error) -> Failure {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => "check its path, or that it is in PATH",
        io::ErrorKind::PermissionDenied => "make it executable with chmod +x",
        _ => "see that it starts by itself",
    };
    Failure::new(Class::Failed, format!("cannot start {}: {error}; {advice}", text::path(program)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_counts_from_128() {
        assert_eq!(status(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(status(ExitStatus::from_raw(9)), 137);
    }
}
