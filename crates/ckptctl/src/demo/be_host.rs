//! Being the throw-away host: a tree of processes in namespaces of its own, with OpenSSH's server as the first.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use ckpt_trace::sys::{self, ChildOf, Namespace};
use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};

use crate::demo::HOST;
use crate::output;

/// How much longer it has been up than this machine, in seconds.
const UPTIME: u32 = 10 * 24 * 3600;

/// What a throw-away host is made of.
#[derive(Debug, Args)]
pub struct ThrowAwayHostArgs {
    /// OpenSSH's server
    pub sshd: PathBuf,
    /// The directory of its configuration
    pub directory: PathBuf,
    /// A directory that it does not have
    pub hidden: PathBuf,
}

/// Is the host until standard input ends or its server does. Prints one line at first: why it has no namespaces of its own, or
/// an empty one.
pub fn throw_away_host(args: &ThrowAwayHostArgs) -> anyhow::Result<i32> {
    let (server, shared) = match start_apart(args)? {
        Ok(server) => (server, String::new()),
        Err(reason) => {
            let server = command(args).spawn().context("sshd cannot be started")?;
            let server = i32::try_from(server.id()).ok().and_then(Pid::from_raw);
            (server.context("sshd has no process number")?, reason)
        }
    };
    output::print(&format!("{}\n", shared.replace('\n', " ")))?;
    let ended = pidfd_open(server, PidfdFlags::empty()).context("the host cannot be watched")?;
    let stdin = std::io::stdin();
    let mut watched = [PollFd::new(&ended, PollFlags::IN), PollFd::new(&stdin, PollFlags::IN)];
    while let Err(rustix::io::Errno::INTR) = poll(&mut watched, None) {}
    // With the first process of its namespace everything in that ends.
    let _ = kill_process(server, Signal::KILL);
    let _ = waitpid(Some(server), WaitOptions::empty());
    Ok(0)
}

fn command(args: &ThrowAwayHostArgs) -> Command {
    let mut sshd = Command::new(&args.sshd);
    sshd.args(["-D", "-f"]).arg(args.directory.join("sshd-config")).arg("-E").arg(args.directory.join("log"));
    sshd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    sshd
}

/// Starts the server in namespaces of its own; or says why that cannot be.
fn start_apart(args: &ThrowAwayHostArgs) -> anyhow::Result<Result<Pid, String>> {
    let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("no pipe can be had")?;
    let (mut reading, mut writing) = (File::from(reading), File::from(writing));
    let Some(helper) = sys::fork().context("no process can be had")? else {
        drop(reading);
        // The helper makes the namespaces, which its child is born into: a child of ours.
        match make_namespaces().and_then(|()| sys::clone_process(None, ChildOf::Parent).map_err(|e| e.to_string())) {
            Ok(Some(child)) => tell(&mut writing, format!("child {child}\n").as_bytes()),
            Ok(None) => {
                let reason = make_mounts(args).err().unwrap_or_else(|| command(args).exec().to_string());
                tell(&mut writing, reason.as_bytes());
                sys::exit_now(1)
            }
            Err(reason) => tell(&mut writing, reason.as_bytes()),
        }
        sys::exit_now(0)
    };
    drop(writing);
    let mut told = String::new();
    // Ends when the server has become another program, or could not.
    reading.read_to_string(&mut told).context("the host's processes say nothing")?;
    let _ = Pid::from_raw(helper).map(|helper| waitpid(Some(helper), WaitOptions::empty()));
    let mut child = None;
    let mut reason = String::new();
    for line in told.lines() {
        match line.strip_prefix("child ").and_then(|number| number.parse().ok()).and_then(Pid::from_raw) {
            Some(pid) => child = Some(pid),
            None => line.clone_into(&mut reason),
        }
    }
    Ok(match child {
        Some(child) if reason.is_empty() => Ok(child),
        child => {
            let _ = child.map(|child| waitpid(Some(child), WaitOptions::empty()));
            Err(format!("namespaces cannot be had here: {reason}"))
        }
    })
}

fn tell(pipe: &mut File, text: &[u8]) {
    // The reader waits for the end of the pipe in any case.
    let _ = pipe.write_all(text);
}

/// Puts the calling process into namespaces in which the user is the same one; an ordinary user can have them all.
fn make_namespaces() -> Result<(), String> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let mut namespaces = vec![Namespace::Mount, Namespace::Pid, Namespace::Time, Namespace::Uts];
    if !uid.is_root() {
        namespaces.push(Namespace::User);
    }
    sys::unshare(&namespaces).map_err(|error| error.to_string())?;
    let write = |file: &str, text: &str| {
        fs::write(format!("/proc/self/{file}"), text).map_err(|error| format!("/proc/self/{file}: {error}"))
    };
    if !uid.is_root() {
        write("setgroups", "deny")?;
        write("uid_map", &format!("{0} {0} 1", uid.as_raw()))?;
        write("gid_map", &format!("{0} {0} 1", gid.as_raw()))?;
    }
    write("timens_offsets", &format!("monotonic {UPTIME} 0\nboottime {UPTIME} 0\n"))
}

/// Makes the host's own view: its name, its processes, its users, and nothing of what the demonstration has here.
fn make_mounts(args: &ThrowAwayHostArgs) -> Result<(), String> {
    let at = |what: &Path| {
        let what = what.display().to_string();
        move |error: rustix::io::Errno| format!("{what}: {error}")
    };
    rustix::system::sethostname(HOST.as_bytes()).map_err(at(Path::new("host name")))?;
    let (root, proc, passwd) = (Path::new("/"), Path::new("/proc"), Path::new("/etc/passwd"));
    mount_change(root, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(at(root))?;
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", proc, "proc", plain, None).map_err(at(proc))?;
    mount_bind(args.directory.join("passwd"), passwd).map_err(at(passwd))?;
    mount("hidden", &args.hidden, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None).map_err(at(&args.hidden))?;
    if rustix::process::geteuid().is_root() {
        // Where the server of the superuser confines itself before a login.
        let run = Path::new("/run");
        mount("run", run, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755")).map_err(at(run))?;
        fs::create_dir("/run/sshd").map_err(|error| format!("/run/sshd: {error}"))?;
    }
    Ok(())
}
