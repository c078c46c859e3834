//! The supervisor's view of the keeper: starting one, finding one that is there, and listening to it.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::Context;
use ckpt_core::Class;
use ckpt_transfer::protocol::{Ending, Reply};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, WaitOptions, waitpid};
use signal_hook::consts::SIGHUP;

use super::{Outlets, Place, Supervisor, Terminal};
use crate::door;
use crate::failure::Failure;
use crate::jobs::ProcessId;
use crate::keeper::{Keep, Order, Report, door_name};
use crate::local::{self, Receiver};

/// A keeper that can be told things.
#[derive(Debug)]
pub struct KeeperHandle {
    /// The process.
    pub id: ProcessId,
    stream: UnixStream,
}

/// A keeper and its program.
#[derive(Debug)]
pub struct Started {
    /// To tell the keeper things.
    pub handle: KeeperHandle,
    /// What it says.
    pub reports: Receiver,
    /// The program.
    pub process: ProcessId,
    /// Whether a signal has stopped it.
    pub stopped: bool,
    /// How it ended, if it has.
    pub ended: Option<Ending>,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl KeeperHandle {
    /// Tells it something. One that is gone needs no telling.
    pub fn tell(&self, order: &Order) {
        let _ = local::send(&self.stream, order, &[]);
    }

    /// Ends it: the program has ended, or left.
    pub fn quit(&self) {
        self.tell(&Order::Quit);
    }
}

/// Starts a keeper, without waiting for what it says. With it go the program's standard descriptors that are not the terminal,
/// in order, and more behind them.
pub fn spawn(
    keep: &Keep,
    terminal: &Terminal,
    outlets: &Outlets,
    standard: &[OwnedFd],
) -> anyhow::Result<(KeeperHandle, Receiver)> {
    let (ours, theirs) = UnixStream::pair().context("no socket could be made")?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("ckptctl").arg("keeper").stdin(Stdio::from(OwnedFd::from(theirs)));
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("no keeper could be started")?;
    drop(command);
    let id = ProcessId::of(i32::try_from(child.id()).context("the kernel gave a process number out of range")?)?;
    let mut descriptors = vec![terminal.master.as_fd(), terminal.slave.as_fd()];
    descriptors.extend([outlets.spool.0.as_fd(), outlets.spool.1.as_fd()]);
    let mut given = standard.iter();
    for (fd, stdio) in (0..).zip(keep.stdio) {
        use crate::keeper::Stdio;
        if matches!(stdio, Stdio::Pipe | Stdio::Given) {
            descriptors.extend(given.next().map(AsFd::as_fd));
        }
        if stdio == Stdio::Pipe {
            descriptors.extend(outlets.get(fd).map(|end| end.as_fd()));
        }
    }
    descriptors.extend(given.map(AsFd::as_fd));
    local::send(&ours, keep, &descriptors).context("the keeper has gone")?;
    let reports = Receiver::new(ours.try_clone().context("no descriptor is left")?);
    Ok((KeeperHandle { id, stream: ours }, reports))
}

/// Starts a keeper and waits until its program runs.
pub fn start(keep: &Keep, terminal: &Terminal, outlets: &Outlets, standard: &[OwnedFd]) -> anyhow::Result<Started> {
    let (handle, mut reports) = spawn(keep, terminal, outlets, standard)?;
    match reports.receive::<Report>() {
        Ok(Some((Report::Started { process, notes }, _))) => {
            Ok(Started { handle, reports, process, stopped: false, ended: None, notes })
        }
        Ok(Some((Report::Failed { message, exit }, _))) => {
            collect(handle.id);
            Err(Failure::of_exit(exit, message).into())
        }
        other => {
            collect(handle.id);
            let why = other.err().map(|error| format!(" ({error})")).unwrap_or_default();
            Err(Failure::new(Class::Failed, format!("the program's keeper was killed before it ran{why}")).into())
        }
    }
}

/// Finds the keeper that a killed supervisor has left, with everything that it holds.
pub fn adopt(places: &[PathBuf], job: &str, id: ProcessId) -> anyhow::Result<(Started, Terminal, Outlets)> {
    let stream = door::knock(places, &door_name(job))
        .with_context(|| format!("the program's keeper (process {}) does not answer", id.pid))?;
    let mut reports = Receiver::new(stream.try_clone().context("no descriptor is left")?);
    let Some((Report::Holding { process, open, stopped, ended }, _)) = reports.receive::<Report>()? else {
        return Err(Failure::new(Class::Failed, "the program's keeper says something else than what it holds").into());
    };
    let mut came = reports.take_descriptors();
    let mut next = || came.pop_front().context("the program's keeper has sent too few descriptors");
    let terminal = Terminal::of(next()?, next()?).context("the terminal cannot be used")?;
    let mut outlets = Outlets::spooling(next()?, next()?);
    for fd in open {
        outlets.put(fd, next()?);
    }
    let handle = KeeperHandle { id, stream };
    Ok((Started { handle, reports, process, stopped, ended, notes: Vec::new() }, terminal, outlets))
}

/// Listens to a keeper until it goes.
pub fn watch(supervisor: &Arc<Supervisor>, id: ProcessId, mut reports: Receiver) -> anyhow::Result<()> {
    let supervisor = Arc::clone(supervisor);
    let listening = move || {
        while let Ok(Some((report, _))) = reports.receive::<Report>() {
            match report {
                Report::Stopped => supervisor.stopped(),
                Report::Ended(ending) => supervisor.ended_under(id, ending),
                Report::Holding { .. } | Report::Built { .. } | Report::Started { .. } | Report::Failed { .. } => {}
            }
        }
        collect(id);
        supervisor.keeper_has_gone(id);
    };
    std::thread::Builder::new().name("keeper".to_owned()).spawn(listening).context("no thread could be made")?;
    Ok(())
}

impl Supervisor {
    fn stopped(&self) {
        let mut state = self.state();
        if let Place::Here(here) = &mut state.place {
            here.stopped = true;
            state.tell_clients(&Reply::Stopped);
        }
        drop(state);
        self.tell_all();
    }

    /// The keeper has gone, told to or not.
    fn keeper_has_gone(&self, gone: ProcessId) {
        let state = self.state();
        let Place::Here(here) = &state.place else { return };
        if state.ending.is_some() || here.keeper.id != gone {
            return;
        }
        let pidfd = here.pidfd.clone();
        drop(state);
        // It was killed, which hangs the terminal up, as when a shell is killed. A program that does not care runs on.
        if let Some(pidfd) = pidfd {
            let _ = rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&*pidfd, PollFlags::IN)], None));
        }
        self.state().note("the program's keeper was killed: its terminal was hung up, and how it ended is not known");
        self.ended(Ending::Signaled(SIGHUP));
    }
}

/// Collects a keeper that has ended, if it is a child of ours.
pub fn collect(id: ProcessId) {
    if let Some(pid) = Pid::from_raw(id.pid) {
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
}
