//! The nest: private namespaces in which a restored program has its old ids and its clocks go on.
//!
//! A helper process makes the namespaces and ends; the nest's init, its first process, is made as our own child. Init
//! makes the shell process under the program's old id, tells how it ends, and collects what is orphaned in the nest.
//! Without a pid namespace there is no init, and the shell is our child.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use ckpt_trace::Tid;
use ckpt_trace::sys::{self, ChildOf, Namespace};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait, waitpid};
use serde::Serialize;

use crate::resource::clocks::ClockState;
use crate::resource::credentials::Credentials;

/// What a nest is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The namespaces.
    pub namespaces: Vec<Namespace>,
    /// Whether the old ids are given.
    pub keeps_ids: bool,
}

/// How a restored program is set apart, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NestKind {
    /// Namespaces of its own: ids and clocks are as they were.
    Nest,
    /// The machine's own ids, which were free, and a time namespace.
    Machine,
    /// No namespaces; other ids if the old ones could not be had.
    None,
}

/// A nest with its shell process.
#[derive(Debug)]
pub struct Nest {
    /// The process that will become the program, as we see it.
    pub shell: Tid,
    /// The nest's init, our child; `None` where the shell is.
    pub init: Option<Tid>,
    /// Init's reports of what happens to the program.
    pub reports: Option<File>,
    /// What could not be had.
    pub notes: Vec<String>,
}

/// What a helper tells us over its pipe.
enum Message {
    /// The id of the nest's init, as we see it.
    Init(Tid),
    /// The id of the shell process, as we see it.
    Shell(Tid),
    /// Something that is done without.
    Note(String),
    /// What failed.
    Failed(String),
}

impl Plan {
    fn has(&self, namespace: Namespace) -> bool {
        self.namespaces.contains(&namespace)
    }

    /// What it comes to.
    pub fn kind(&self) -> NestKind {
        match self.namespaces.as_slice() {
            [] => NestKind::None,
            [Namespace::Time] => NestKind::Machine,
            _ => NestKind::Nest,
        }
    }

    /// Makes the namespaces and the shell process, which does nothing until it is traced.
    ///
    /// # Errors
    /// What could not be made, in words.
    pub fn make(&self, pid: Tid, credentials: &Credentials, clocks: &ClockState) -> Result<Nest, String> {
        let (reading, writing) = pipe().map_err(|error| error.to_string())?;
        let (reports, reporting) = pipe().map_err(|error| error.to_string())?;
        let Some(helper) = sys::fork().map_err(|error| format!("no process could be made: {error}"))? else {
            drop((reading, reports));
            self.be_helper(pid, credentials, clocks, &File::from(writing), &File::from(reporting));
        };
        drop((writing, reporting));
        let mut nest = Nest { shell: 0, init: None, reports: None, notes: Vec::new() };
        let mut failed = None;
        let mut shell = None;
        let mut reading = File::from(reading);
        while let Some(message) = Message::receive(&mut reading) {
            match message {
                Message::Init(tid) => nest.init = Some(tid),
                Message::Shell(tid) => shell = Some(tid),
                Message::Note(note) => nest.notes.push(note),
                Message::Failed(what) => failed = Some(what),
            }
        }
        if let Some(helper) = Pid::from_raw(helper) {
            // It has said all that it had to say.
            let _ = waitpid(Some(helper), WaitOptions::empty());
        }
        match (failed, shell) {
            (None, Some(shell)) => {
                nest.shell = shell;
                nest.reports = nest.init.map(|_| File::from(reports));
                Ok(nest)
            }
            (failed, _) => {
                nest.init.or(shell).into_iter().for_each(end_child);
                Err(failed.unwrap_or_else(|| "the helper process was killed".to_owned()))
            }
        }
    }

    fn be_helper(&self, pid: Tid, credentials: &Credentials, clocks: &ClockState, tell: &File, reporting: &File) -> ! {
        let result = self.make_namespaces(credentials, clocks).and_then(|()| {
            if self.has(Namespace::Pid) {
                match sys::clone_process(None, ChildOf::Parent) {
                    Ok(Some(init)) => {
                        Message::Init(init).send(tell);
                        Ok(())
                    }
                    Ok(None) => be_init(pid, self.has(Namespace::Mount), tell, reporting),
                    Err(error) => Err(format!("the nest's first process could not be made: {error}")),
                }
            } else {
                let id = self.keeps_ids.then_some(pid);
                match sys::clone_process(id, ChildOf::Parent) {
                    Ok(Some(shell)) => {
                        Message::Shell(shell).send(tell);
                        Ok(())
                    }
                    Ok(None) => be_shell(tell),
                    Err(error) => Err(format!("process id {pid} could not be had: {error}")),
                }
            }
        });
        if let Err(what) = result {
            Message::Failed(what).send(tell);
        }
        sys::exit_now(0)
    }

    /// Puts the helper into new namespaces, with the program's user id and clocks.
    fn make_namespaces(&self, credentials: &Credentials, clocks: &ClockState) -> Result<(), String> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let refused = |error: io::Error| format!("namespaces are not allowed here: {error}");
        if !self.namespaces.is_empty() {
            sys::unshare(&self.namespaces).map_err(refused)?;
        }
        let write = |file: &str, text: &str| {
            fs::write(format!("/proc/self/{file}"), text).map_err(|error| format!("/proc/self/{file}: {error}"))
        };
        if self.has(Namespace::User) {
            write("setgroups", "deny")?;
            write("uid_map", &format!("{} {uid} 1", credentials.uid))?;
            write("gid_map", &format!("{} {gid} 1", credentials.gid))?;
        }
        if self.has(Namespace::Time) {
            write("timens_offsets", &clocks.offsets())?;
        }
        Ok(())
    }
}

/// The nest's init: makes the shell, then only waits.
fn be_init(pid: Tid, has_mounts: bool, tell: &File, reporting: &File) -> ! {
    let shell = match make_shell(pid, tell) {
        Ok(shell) => shell,
        Err(error) => {
            Message::Failed(format!("process id {pid} could not be had in the nest: {error}")).send(tell);
            sys::exit_now(1)
        }
    };
    if has_mounts && let Err(error) = mount_proc() {
        let note = format!("the program sees the machine's process numbers in /proc ({error})");
        Message::Note(note).send(tell);
    }
    let Ok(reporting) = rustix::io::fcntl_dupfd_cloexec(reporting, 0) else { sys::exit_now(1) };
    let mut reporting = File::from(reporting);
    leave_descriptors(&reporting);
    loop {
        match wait(WaitOptions::UNTRACED) {
            Ok(Some((child, status))) if child.as_raw_nonzero().get() == shell => {
                if let Some(happened) = Happened::from_status(status) {
                    happened.send(&mut reporting);
                }
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // No children are left: the nest is empty.
            Err(_) => sys::exit_now(0),
        }
    }
}

/// Makes the shell, and returns when it has told by which id it is known outside: `/proc` still shows that.
fn make_shell(pid: Tid, tell: &File) -> io::Result<Tid> {
    let (told, telling) = pipe()?;
    if let Some(shell) = sys::clone_process(Some(pid), ChildOf::Caller)? {
        drop(telling);
        // Ends when the shell has closed its end.
        File::from(told).read_to_end(&mut Vec::new())?;
        return Ok(shell);
    }
    match fs::read_link("/proc/self").ok().and_then(|link| link.to_str()?.parse().ok()) {
        Some(outside) => Message::Shell(outside).send(tell),
        None => Message::Failed("/proc does not show the new process".to_owned()).send(tell),
    }
    drop((told, telling));
    be_shell(tell)
}

/// A fresh `/proc` that shows the nest's own ids, once the shell has looked itself up in the old one.
fn mount_proc() -> rustix::io::Result<()> {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("proc", "/proc", "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
}

/// Init lives as long as the program. It must not hold open what the program's readers wait to be closed.
fn leave_descriptors(keep: &File) {
    use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        // A descriptor that cannot be replaced stays what it is; nothing depends on it.
        let _ = (dup2_stdin(&null), dup2_stdout(&null), dup2_stderr(&null));
    }
    let keep = keep.as_raw_fd().unsigned_abs();
    sys::close_range(3, keep - 1);
    sys::close_range(keep + 1, u32::MAX);
}

/// What the program will be: a process that only waits to be traced.
fn be_shell(tell: &File) -> ! {
    // As long as it were open here, our reader would wait for more.
    let number = tell.as_raw_fd().unsigned_abs();
    sys::close_range(number, number);
    sys::pause_for_ever()
}

/// Kills a child of ours (and with an init its whole nest) and collects it.
fn end_child(tid: Tid) {
    if let Some(pid) = Pid::from_raw(tid) {
        // It may be gone already, which is as good.
        let _ = kill_process(pid, Signal::KILL);
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
}

impl Nest {
    /// Ends everything in it.
    pub fn destroy(self) {
        // We may be the shell's tracer: then nobody else can collect it, and init waits for that.
        end_child(self.shell);
        self.init.into_iter().for_each(end_child);
    }
}

/// What happened to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// It was stopped.
    Stopped,
    /// It exited with this status.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
}

impl Happened {
    /// From what `waitpid` said; `None` when it goes on.
    pub fn from_status(status: WaitStatus) -> Option<Self> {
        if status.stopped() {
            return Some(Self::Stopped);
        }
        status.exit_status().map(Self::Exited).or_else(|| status.terminating_signal().map(Self::Killed))
    }

    /// Reads init's next report; `None` when init is gone.
    pub fn receive(reports: &mut File) -> Option<Self> {
        let mut bytes = [0; 5];
        reports.read_exact(&mut bytes).ok()?;
        let [kind, number @ ..] = bytes;
        let number = i32::from_ne_bytes(number);
        Some(match kind {
            0 => Self::Stopped,
            1 => Self::Exited(number),
            _ => Self::Killed(number),
        })
    }

    fn send(self, to: &mut File) {
        let (kind, number) = match self {
            Self::Stopped => (0, 0),
            Self::Exited(status) => (1, status),
            Self::Killed(signal) => (2, signal),
        };
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&number.to_ne_bytes());
        // Nobody may be listening any more, which is as good.
        let _ = to.write_all(&bytes);
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

impl Message {
    fn send(&self, mut to: &File) {
        let (kind, text) = match self {
            Self::Init(tid) => (0, tid.to_string()),
            Self::Shell(tid) => (1, tid.to_string()),
            Self::Note(text) => (2, text.clone()),
            Self::Failed(text) => (3, text.clone()),
        };
        let text = &text.as_bytes()[..text.len().min(u8::MAX.into())];
        let mut bytes = vec![kind, u8::try_from(text.len()).unwrap_or(u8::MAX)];
        bytes.extend_from_slice(text);
        // Without a reader there is nobody to tell.
        let _ = to.write_all(&bytes);
    }

    fn receive(from: &mut File) -> Option<Self> {
        let mut head = [0; 2];
        from.read_exact(&mut head).ok()?;
        let mut text = vec![0; head[1].into()];
        from.read_exact(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Some(match head[0] {
            0 => Self::Init(text.parse().ok()?),
            1 => Self::Shell(text.parse().ok()?),
            2 => Self::Note(text),
            _ => Self::Failed(text),
        })
    }
}
