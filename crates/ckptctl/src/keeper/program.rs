//! Starting a program in the foreground of the job's terminal.
//!
//! Between fork and exec only a program of its own can do things in safe code: ckptctl starts itself, takes the foreground and
//! then becomes the program.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;
use ckpt_core::Class;
use ckpt_core::resource::bytes::Bytes;
use ckpt_trace::sys::{self, SignalWaiter};
use rustix::process::{Pid, WaitOptions, getpgrp, waitpid};
use rustix::termios::tcsetpgrp;
use signal_hook::consts::SIGTTOU;

use crate::cli::ProgramArgs;
use crate::failure::Failure;
use crate::text;

/// Starts a program with these standard descriptors, in a process group of its own.
pub fn launch(command: &[Bytes], portable: bool, [input, output, error]: [OwnedFd; 3]) -> anyhow::Result<Pid> {
    let (mut failures, telling) = io::pipe().context("no pipe could be made")?;
    let mut ourselves = Command::new("/proc/self/exe");
    ourselves.arg0("ckptctl").arg("program").arg("--tell").arg(telling.as_raw_fd().to_string());
    if portable {
        ourselves.arg("--portable");
    }
    ourselves.arg("--").args(command.iter().map(|word| OsStr::from_bytes(&word.0)));
    ourselves.stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::from(error)).process_group(0);
    rustix::io::fcntl_setfd(&telling, rustix::io::FdFlags::empty()).context("a pipe cannot be passed on")?;
    let child = ourselves.spawn().context("no process could be made");
    drop((telling, ourselves));
    let pid = i32::try_from(child?.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("the kernel gave a process number out of range")?;
    let mut said = Vec::new();
    failures.read_to_end(&mut said).context("the new process cannot be listened to")?;
    if let Ok(errno) = said.as_slice().try_into() {
        let _ = waitpid(Some(pid), WaitOptions::empty());
        let program = command.first().map(|word| OsStr::from_bytes(&word.0)).unwrap_or_default();
        return Err(cannot_start(Path::new(program), &io::Error::from_raw_os_error(i32::from_ne_bytes(errno))).into());
    }
    Ok(pid)
}

/// The verb: becomes the program.
pub fn start(args: &ProgramArgs) -> anyhow::Result<i32> {
    // A descriptor of our own, closed when the program starts, in place of the one that was passed on.
    let mut tell = File::options().write(true).open(format!("/proc/self/fd/{}", args.tell))?;
    sys::close_range(args.tell, args.tell);
    if let Ok(terminal) = File::open("/dev/tty") {
        // We are in its background until this is done.
        let blocked = SignalWaiter::block(&[SIGTTOU]);
        // Without the foreground the program runs all the same; the terminal's keys do not reach it then.
        let _ = tcsetpgrp(&terminal, getpgrp());
        drop(blocked);
    }
    let (program, arguments) = args.command.split_first().context("no program was given")?;
    let mut command = Command::new(program);
    command.args(arguments);
    if args.portable {
        command.envs(ckpt_core::portable_environment());
    }
    let error = command.exec();
    // One without a number is about the arguments: a zero byte in them, which the command line cannot hold.
    let number = error.raw_os_error().unwrap_or(rustix::io::Errno::INVAL.raw_os_error());
    tell.write_all(&number.to_ne_bytes())?;
    Ok(1)
}

fn cannot_start(program: &Path, error: &io::Error) -> Failure {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => "check its path, or that it is in PATH",
        io::ErrorKind::PermissionDenied => "make it executable with chmod +x",
        _ => "see that it starts by itself",
    };
    Failure::new(Class::Failed, format!("cannot start {}: {error}; {advice}", text::path(program)))
}
