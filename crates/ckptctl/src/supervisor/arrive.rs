//! The destination of a move: the program is built as its image comes, and let go by word of the mover.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use ckpt_core::resource::bytes::Bytes;
use ckpt_core::{Class, Shown};
use ckpt_transfer::files::{self, Departed, Hashes, bring_home};
use ckpt_transfer::hosts::LOCAL;
use ckpt_transfer::protocol::{Arriving, FileEntry, FileRole, FilesPolicy, Reply};
use ckpt_transfer::store::Store;
use rustix::process::{Pid, Signal, kill_process};

use super::connection::Writer;
use super::depart::DEPARTED;
use super::keeper::{self, KeeperHandle, Started};
use super::moves;
use super::{Outlets, Place, Supervisor, Terminal};
use crate::failure::Failure;
use crate::jobs::{Job, Moving, Phase, ProcessId};
use crate::keeper::{Coming, Keep, Order, Origin, Report, Stdio};
use crate::local::Receiver;

/// How long to wait for what the program printed elsewhere before it left.
const LAST_OUTPUT: Duration = Duration::from_secs(5);
/// Files that came along, in the job's directory.
pub const FILES: &str = "files";

/// Takes a program in a thread of its own, which answers.
pub fn start(supervisor: &Arc<Supervisor>, arriving: Arriving, writer: Writer) -> anyhow::Result<()> {
    let act = supervisor.begin(super::MOVE)?;
    let (go, told) = mpsc::channel();
    supervisor.state().moves.arriving = Some(moves::Arriving { go, keeper: None });
    let supervisor = Arc::clone(supervisor);
    let acting = move || {
        let coming = Arrival { supervisor: &supervisor, arriving: &arriving, writer: &writer };
        let result = coming.take(&told);
        supervisor.state().moves.arriving = None;
        supervisor.drop_channels(&arriving.txn);
        if let Err(error) = result {
            supervisor.log_move(&arriving.txn, "destination", "has nothing");
            writer.fail(&error);
        }
        drop(act);
    };
    std::thread::Builder::new().name("arrival".to_owned()).spawn(acting).context("no thread could be made")?;
    Ok(())
}

/// Puts files in place for a program that will come as a guest. At home they are the user's own, and wait for the program.
pub fn place_ahead(supervisor: &Supervisor, files: &[FileEntry], policy: FilesPolicy) -> anyhow::Result<()> {
    if !matches!(supervisor.state().place, Place::Nowhere) {
        return Ok(());
    }
    let store = Store::open()?;
    let directory = supervisor.directory.join(FILES);
    Ok(files::place_ahead(files, policy, &store, &mut Hashes::load(&store), &directory)?)
}

impl Supervisor {
    /// Lets the program go that was built here.
    pub fn let_go(&self, writer: Writer) -> anyhow::Result<()> {
        let mut state = self.state();
        let sent = state.moves.arriving.as_mut().is_some_and(|arriving| {
            // Whatever becomes of the mover now: it may run.
            arriving.keeper = None;
            arriving.go.send(writer).is_ok()
        });
        if sent { Ok(()) } else { Err(Failure::new(Class::Failed, "no program waits here to be let go").into()) }
    }

    /// The mover has gone: what was being built here is ended, unless it was let go.
    pub fn call_arrival_off(&self) {
        let arriving = self.state().moves.arriving.take();
        kill(arriving.and_then(|arriving| arriving.keeper));
    }
}

fn kill(keeper: Option<ProcessId>) {
    let pid = keeper.filter(|keeper| keeper.lives()).and_then(|keeper| Pid::from_raw(keeper.pid));
    if let Some(pid) = pid {
        // It may end this moment by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
}

struct Arrival<'a> {
    supervisor: &'a Arc<Supervisor>,
    arriving: &'a Arriving,
    writer: &'a Writer,
}

impl Arrival<'_> {
    fn take(&self, told: &mpsc::Receiver<Writer>) -> anyhow::Result<()> {
        let Self { supervisor, arriving, writer } = self;
        let home = self.home()?;
        let (view, mut notes) = self.place_files(home.is_some())?;
        let size = arriving.terminal.as_ref().map_or(super::UNSEEN, |terminal| terminal.size);
        let terminal = Terminal::open(size, None).context("no terminal could be made for the job")?;
        let mut outlets = Outlets::new().context("no pipe could be made")?;
        let (keep, theirs, guards) = self.prepare(&view, &mut outlets)?;
        let (handle, mut reports) = keeper::spawn(&keep, &terminal, &outlets, &theirs)?;
        drop(theirs);
        self.supervisor.log_move(&arriving.txn, "destination", "building");
        let is_off = {
            let mut state = supervisor.state();
            state.moves.arriving.as_mut().map(|arriving| arriving.keeper = Some(handle.id)).is_none()
        };
        if is_off {
            kill(Some(handle.id));
        }
        let (process, told_notes) = built(&handle, &mut reports)?;
        drop(guards);
        notes.extend(told_notes);
        let left = match &arriving.terminal {
            Some(entry) => terminal.give_pending_input(&entry.pending.0).context("the terminal takes no input")?,
            None => Vec::new(),
        };
        if home.is_some() {
            self.await_output();
        }
        self.supervisor.log_move(&arriving.txn, "destination", "built");
        writer.send(&Reply::Ready { notes }, &[])?;
        let Ok(answer) = told.recv() else {
            kill(Some(handle.id));
            return Err(failed(&handle, None));
        };
        let mut job = self.job(home.as_ref(), process, handle.id);
        // From here on it may run even if we are killed.
        supervisor.store.put(&job)?;
        handle.tell(&Order::Go);
        let process = match started(&handle, &mut reports, process) {
            Ok(process) => process,
            Err(error) => {
                home.iter().try_for_each(|home| supervisor.store.put(home))?;
                return Err(error);
            }
        };
        self.supervisor.log_move(&arriving.txn, "destination", "running");
        let started = Started { handle, reports, process, stopped: false, ended: None, notes: Vec::new() };
        job.moving = None;
        self.settle(job, started, terminal, outlets, &left)?;
        answer.tell(&Reply::Running { pid: process.pid });
        Ok(())
    }

    /// The job, when it comes home; none when it is a guest.
    fn home(&self) -> anyhow::Result<Option<Job>> {
        let state = self.supervisor.state();
        match &state.place {
            Place::Nowhere => Ok(None),
            Place::Away(_) => Ok(state.job.clone()),
            Place::Here(_) | Place::Ended(_) | Place::Saved(_) => {
                let message = format!("the job {} is here already", self.supervisor.name);
                Err(Failure::new(Class::Failed, message).into())
            }
        }
    }

    /// Puts the files that came along where the program finds them.
    fn place_files(&self, is_home: bool) -> anyhow::Result<(Vec<Shown>, Vec<String>)> {
        let Arriving { files, policy, overwrite, .. } = self.arriving;
        let store = Store::open()?;
        let mut hashes = Hashes::load(&store);
        let directory = self.supervisor.directory.join(FILES);
        let placed = if is_home && *policy == FilesPolicy::Carry {
            let path = self.supervisor.directory.join(DEPARTED);
            let mut departed = Departed::load(&path)?;
            let brought = bring_home(files, &mut departed, &store, &mut hashes, *overwrite, true);
            departed.save(&path)?;
            brought?;
            // What it made elsewhere, outside of what went along, and programs that are others here now.
            let strange: Vec<FileEntry> = files.iter().filter(|file| is_strange(file, &mut hashes)).cloned().collect();
            files::place(&strange, *policy, &store, &mut hashes, &directory)?
        } else {
            files::place(files, *policy, &store, &mut hashes, &directory)?
        };
        Ok((placed.shown, placed.notes))
    }

    /// What the keeper is told, what goes with it, and what keeps the data channels open.
    fn prepare(
        &self,
        view: &[Shown],
        outlets: &mut Outlets,
    ) -> anyhow::Result<(Keep, Vec<OwnedFd>, Vec<moves::Guard>)> {
        let Self { supervisor, arriving, .. } = self;
        let mut theirs = Vec::new();
        let mut stdio = [Stdio::Terminal; 3];
        for (fd, kind) in (0..).zip(&mut stdio) {
            if arriving.job.pipes.contains(&fd) {
                *kind = Stdio::Pipe;
                theirs.push(outlets.make_pipe(fd).context("no pipe could be made")?);
            }
        }
        let channels = supervisor.take_channels(&arriving.txn, arriving.channels)?;
        let count = channels.len();
        let (inputs, guards): (Vec<OwnedFd>, Vec<_>) =
            channels.into_iter().map(|channel| (channel.input, channel.guard)).unzip();
        theirs.extend(inputs);
        let bytes = |path: &Path| Bytes(path.as_os_str().as_bytes().to_vec());
        let view = view.iter().map(|shown| (bytes(&shown.path), bytes(&shown.source), shown.read_only)).collect();
        let coming = Coming { txn: arriving.txn.clone(), channels: count, view, ignore_cpu: arriving.ignore_cpu };
        Ok((Keep::of(supervisor, stdio, Origin::Elsewhere(coming)), theirs, guards))
    }

    /// What it printed elsewhere comes over the link before what it prints here.
    fn await_output(&self) {
        let until = Instant::now() + LAST_OUTPUT;
        let mut state = self.supervisor.state();
        while state.log.end() < self.arriving.job.output && Instant::now() < until {
            state = self.supervisor.wait_for(state, until.saturating_duration_since(Instant::now()));
        }
    }

    /// What is written down of it here.
    fn job(&self, home: Option<&Job>, process: ProcessId, keeper: ProcessId) -> Job {
        let Self { supervisor, arriving, .. } = self;
        let description = &arriving.job;
        let mut job = Job::new(&supervisor.name, process, description.command.clone(), description.directory.clone());
        job.started = description.started;
        job.keeper = Some(keeper);
        job.pipes.clone_from(&description.pipes);
        job.visiting = home.is_none_or(|home| home.visiting);
        job.sockets = supervisor.store.doors().first().map(|place| Bytes(place.as_os_str().as_bytes().to_vec()));
        let phase = Phase::Arriving {
            from: home.and_then(|home| home.host.clone()),
            name: home.and_then(|home| home.name_there.clone()),
        };
        let name_there = supervisor.name.clone();
        job.moving = Some(Moving { txn: arriving.txn.clone(), to: LOCAL.to_owned(), name_there, phase });
        job
    }

    fn settle(
        &self,
        mut job: Job,
        keeper: Started,
        terminal: Terminal,
        outlets: Outlets,
        keys: &[u8],
    ) -> anyhow::Result<()> {
        let Self { supervisor, arriving, .. } = self;
        let description = &arriving.job;
        {
            let mut state = supervisor.state();
            // One that comes home is saved as it was meanwhile.
            job.schedule = state.job.as_ref().and_then(|job| job.schedule);
            state.log.skip_to(description.output).context("the log cannot be written")?;
            state.keys.extend(keys);
            state.piped.extend(&description.piped.0);
            state.piped_ended |= description.piped_ended;
        }
        supervisor.settle(job, keeper, terminal, outlets)
    }
}

/// Waits until the program is built.
fn built(handle: &KeeperHandle, reports: &mut Receiver) -> anyhow::Result<(ProcessId, Vec<String>)> {
    match reports.receive::<Report>() {
        Ok(Some((Report::Built { process, notes }, _))) => Ok((process, notes)),
        other => Err(failed(handle, other.ok().flatten().map(|(report, _)| report))),
    }
}

/// Waits until it runs.
fn started(handle: &KeeperHandle, reports: &mut Receiver, built: ProcessId) -> anyhow::Result<ProcessId> {
    match reports.receive::<Report>() {
        // One that ended at once has no start any more.
        Ok(Some((Report::Started { process, .. }, _))) => Ok(if process.start_ticks == 0 { built } else { process }),
        other => Err(failed(handle, other.ok().flatten().map(|(report, _)| report))),
    }
}

/// The keeper has failed, or has been killed.
fn failed(handle: &KeeperHandle, report: Option<Report>) -> anyhow::Error {
    keeper::collect(handle.id);
    match report {
        Some(Report::Failed { message, exit }) => Failure::of_exit(exit, message).into(),
        _ => Failure::new(Class::Failed, "what was building the program was killed").into(),
    }
}

/// Whether what the program knows under this path is not what this machine has there.
fn is_strange(file: &FileEntry, hashes: &mut Hashes) -> bool {
    match &file.hash {
        Some(hash) => !hashes.of(&file.path).is_ok_and(|here| here == *hash),
        None => file.role != FileRole::Code && std::fs::symlink_metadata(&file.path).is_err(),
    }
}
