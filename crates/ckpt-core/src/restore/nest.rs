//! The nest: private namespaces in which a restored program has its old ids and its clocks go on.
//!
//! A helper process makes the namespaces and the view and ends; the nest's init, its first process, is made as our own
//! child. We open the program's files below its root directory and pass them to it. Then it makes the shell process under
//! the program's old id, which inherits them, tells how it ends, and collects what is orphaned in the nest. Without a pid
//! namespace there is no init: the helper does its part, and the shell is our child.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use ckpt_trace::Tid;
use ckpt_trace::sys::{self, ChildOf, Namespace};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait, waitpid};
use serde::Serialize;

use super::control::{self, Control, Report, Request};
use super::view::{self, Owner, View};
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
    /// The machine's own ids, which were free, and namespaces for clocks and files.
    Machine,
    /// Other ids, and namespaces for clocks and files.
    Files,
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

/// A nest that has no shell yet. Dropped, it is taken down.
#[derive(Debug)]
pub struct Prepared {
    helper: Option<Tid>,
    init: Option<Tid>,
    control: Control,
    reports: Option<File>,
    root: Option<OwnedFd>,
    notes: Vec<String>,
}

/// What a nest is made for.
#[derive(Debug, Clone, Copy)]
pub struct Tenant<'a> {
    /// The program's process id.
    pub pid: Tid,
    /// Its user and group.
    pub credentials: &'a Credentials,
    /// Its clocks.
    pub clocks: &'a ClockState,
    /// What it finds at other paths.
    pub view: &'a View,
    /// Paths that it is likely to look for.
    pub known: &'a [PathBuf],
}

impl Plan {
    fn has(&self, namespace: Namespace) -> bool {
        self.namespaces.contains(&namespace)
    }

    /// What it comes to.
    pub fn kind(&self) -> NestKind {
        match (self.namespaces.is_empty(), self.has(Namespace::Pid), self.keeps_ids) {
            (true, ..) => NestKind::None,
            (false, true, _) => NestKind::Nest,
            (false, false, true) => NestKind::Machine,
            (false, false, false) => NestKind::Files,
        }
    }

    /// Whether the program finds files at other paths than the machine has them.
    pub fn shows_files(&self) -> bool {
        self.has(Namespace::Mount)
    }

    /// Makes the namespaces and the view in them.
    ///
    /// # Errors
    /// What could not be made, in words.
    pub fn prepare(&self, tenant: &Tenant<'_>) -> Result<Prepared, String> {
        let (control, theirs) = Control::pair().map_err(|error| error.to_string())?;
        let (reports, reporting) = pipe().map_err(|error| error.to_string())?;
        let Some(helper) = sys::fork().map_err(|error| format!("no process could be made: {error}"))? else {
            drop((control, reports));
            self.be_helper(tenant, &theirs, &File::from(reporting));
        };
        drop((theirs, reporting));
        let reports = Some(File::from(reports));
        let mut prepared =
            Prepared { helper: Some(helper), init: None, control, reports, root: None, notes: Vec::new() };
        match prepared.next()? {
            Report::Ready(root) => {
                prepared.root = self.shows_files().then_some(root);
                Ok(prepared)
            }
            _ => Err(UNEXPECTED.to_owned()),
        }
    }

    fn be_helper(&self, tenant: &Tenant<'_>, control: &Control, reporting: &File) -> ! {
        let result = File::open("/proc").map_err(|error| format!("/proc: {error}")).and_then(|proc| {
            self.make_namespaces(tenant, control)?;
            if self.has(Namespace::Pid) {
                match sys::clone_process(None, ChildOf::Parent) {
                    Ok(Some(_)) => return Ok(()),
                    Ok(None) => be_init(tenant.pid, self.shows_files(), &proc, control, reporting),
                    Err(error) => return Err(format!("the nest's first process could not be made: {error}")),
                }
            }
            serve(control)?;
            let id = self.keeps_ids.then_some(tenant.pid);
            match sys::clone_process(id, ChildOf::Parent) {
                Ok(Some(shell)) => {
                    tell(control, &Report::Shell(shell));
                    Ok(())
                }
                Ok(None) => be_shell(control),
                Err(error) => Err(format!("process id {} could not be had: {error}", tenant.pid)),
            }
        });
        if let Err(what) = result {
            tell(control, &Report::Failed(what));
        }
        sys::exit_now(0)
    }

    /// Puts the helper into new namespaces, with the program's user id and clocks, and what it finds at other paths.
    fn make_namespaces(&self, tenant: &Tenant<'_>, control: &Control) -> Result<(), String> {
        let Tenant { credentials, clocks, view, known, .. } = *tenant;
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
        if self.has(Namespace::Mount) && !view.is_empty() {
            let owner =
                if self.has(Namespace::User) { Owner::Ourselves } else { Owner::Of(credentials.uid, credentials.gid) };
            view.make(owner, known)?.into_iter().for_each(|note| tell(control, &Report::Note(note)));
        }
        Ok(())
    }
}

const UNEXPECTED: &str = "the helper process was killed";

impl Prepared {
    /// The root directory that the program will have, where it has one of its own.
    pub fn root(&self) -> Option<BorrowedFd<'_>> {
        self.root.as_ref().map(AsFd::as_fd)
    }

    /// Passes descriptors on to the shell. Gives the numbers that they will have in it, none below `base`.
    ///
    /// # Errors
    /// What stands in the way, in words.
    pub fn pass(&mut self, files: &[OwnedFd], base: i32) -> Result<Vec<i32>, String> {
        let mut numbers = Vec::with_capacity(files.len());
        for some in files.chunks(control::MOST_DESCRIPTORS) {
            let some: Vec<_> = some.iter().map(AsFd::as_fd).collect();
            self.control.give(base, &some).map_err(|error| format!("they cannot be passed on: {error}"))?;
            match self.next()? {
                Report::Taken(taken) if taken.len() == some.len() => numbers.extend(taken),
                Report::Taken(_) => return Err("too many open files".to_owned()),
                _ => return Err(UNEXPECTED.to_owned()),
            }
        }
        Ok(numbers)
    }

    /// Makes the shell process, which does nothing until it is traced.
    ///
    /// # Errors
    /// What could not be made, in words.
    pub fn make_shell(mut self) -> Result<Nest, String> {
        self.control.ask_for_shell().map_err(|_| UNEXPECTED)?;
        let Report::Shell(shell) = self.next()? else { return Err(UNEXPECTED.to_owned()) };
        self.helper.take().into_iter().for_each(collect);
        let init = self.init.take();
        let reports = self.reports.take().filter(|_| init.is_some());
        Ok(Nest { shell, init, reports, notes: std::mem::take(&mut self.notes) })
    }

    /// The next message that is no mere notice.
    fn next(&mut self) -> Result<Report, String> {
        loop {
            match self.control.next_report() {
                Some(Report::Init(init)) => {
                    self.init = Some(init);
                    // It has said all that it had to say.
                    self.helper.take().into_iter().for_each(collect);
                }
                Some(Report::Note(note)) => self.notes.push(note),
                Some(Report::Failed(what)) => return Err(what),
                Some(message) => return Ok(message),
                None => return Err(UNEXPECTED.to_owned()),
            }
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        self.init.take().into_iter().chain(self.helper.take()).for_each(end_child);
    }
}

/// Tells the engine something. When it is gone, the next wait for it ends this process.
fn tell(control: &Control, report: &Report) {
    let _ = control.report(report);
}

/// Does what the engine asks, until the shell is to be made.
fn serve(control: &Control) -> Result<(), String> {
    let root = view::root().map_err(|error| format!("the root directory: {error}"))?;
    control.report(&Report::Ready(root)).map_err(|error| format!("the root directory: {error}"))?;
    loop {
        match control.next_request() {
            Some(Request::Take(base, files)) => {
                let numbers = control::take(base, files).map_err(|error| error.to_string())?;
                tell(control, &Report::Taken(numbers));
            }
            Some(Request::MakeShell) => return Ok(()),
            // The engine is gone, and nobody waits for this nest.
            _ => sys::exit_now(1),
        }
    }
}

/// The nest's init: makes the shell, then only waits. `proc` is the `/proc` that the engine sees.
fn be_init(pid: Tid, has_mounts: bool, proc: &File, control: &Control, reporting: &File) -> ! {
    let shell = outside(proc).and_then(|init| {
        // Before anything else of ours, so that the engine knows whom to end.
        tell(control, &Report::Init(init));
        if has_mounts && let Err(error) = mount_proc() {
            let note = format!("the program sees the machine's process numbers in /proc ({error})");
            tell(control, &Report::Note(note));
        }
        serve(control)?;
        let refused = |error| format!("process id {pid} could not be had in the nest: {error}");
        make_shell(pid, proc, control).map_err(refused)
    });
    let shell = match shell {
        Ok(shell) => shell,
        Err(what) => {
            tell(control, &Report::Failed(what));
            sys::exit_now(1)
        }
    };
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

/// Makes the shell, which tells by which id it is known outside.
fn make_shell(pid: Tid, proc: &File, control: &Control) -> io::Result<Tid> {
    if let Some(shell) = sys::clone_process(Some(pid), ChildOf::Caller)? {
        return Ok(shell);
    }
    tell(control, &outside(proc).map_or_else(Report::Failed, Report::Shell));
    be_shell(control)
}

/// The id by which the caller is known to the engine.
fn outside(proc: &File) -> Result<Tid, String> {
    let link = rustix::fs::readlinkat(proc, "self", Vec::new()).ok();
    link.and_then(|link| link.to_str().ok()?.parse().ok())
        .ok_or_else(|| "/proc does not show the new process".to_owned())
}

/// A fresh `/proc` that shows the nest's own ids.
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
fn be_shell(control: &Control) -> ! {
    // As long as it were open here, the engine would wait for more.
    let number = control.number();
    sys::close_range(number, number);
    sys::pause_for_ever()
}

/// Kills a child of ours (and with an init its whole nest) and collects it.
fn end_child(tid: Tid) {
    if let Some(pid) = Pid::from_raw(tid) {
        // It may be gone already, which is as good.
        let _ = kill_process(pid, Signal::KILL);
        collect(tid);
    }
}

/// Collects a child of ours that has ended or is about to.
fn collect(tid: Tid) {
    if let Some(pid) = Pid::from_raw(tid) {
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
