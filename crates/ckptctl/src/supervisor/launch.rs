//! How a supervisor begins: told on a socket that is its standard input, by whoever started it.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use ckpt_core::Class;
use ckpt_core::resource::bytes::Bytes;
use ckpt_core::resource::terminal::TerminalState;
use ckpt_trace::sys;
use ckpt_transfer::protocol::{Reply, Request, Stream, WindowSize};
use ckpt_transfer::transaction::Outcome;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::connection::Connection;
use super::{LOCK, Outlets, Supervisor, Terminal, UNSEEN, depart, keeper, mover};
use crate::door::Door;
use crate::failure::{self, Failure};
use crate::fate::{self, Fate};
use crate::jobs::{Job, JobStore, Moving, Phase, ProcessId};
use crate::keeper::{Keep, Origin, Stdio};
use crate::local::{self, Receiver};
use crate::text;

/// What a supervisor is started for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launch {
    /// The job.
    pub name: String,
    /// What is to be done first.
    pub kind: LaunchKind,
}

/// What a supervisor does first. The answer is [`Reply::Ready`] and [`Reply::Running`], [`Reply::Done`] when it has no program,
/// or [`Reply::Failed`]; then the connection is one like any other.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchKind {
    /// Start or restore the program. The name is claimed and its directory prepared.
    Program {
        /// Where it comes from.
        origin: Origin,
        /// Its standard descriptors; those that are given come with the message.
        standard: Standard,
        /// The program and its arguments.
        command: Vec<Bytes>,
        /// What is shown on its terminal first: of a full-screen program that is restored, its screen.
        shown: String,
    },
    /// Take over a program whose supervisor was killed.
    Adopt,
    /// Wait for a program that comes from elsewhere.
    Await,
}

/// A program's standard descriptors and terminal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Standard {
    /// What each of the three is.
    pub stdio: [Stdio; 3],
    /// The terminal's size.
    pub size: Option<WindowSize>,
    /// The terminal's settings.
    pub settings: Option<TerminalState>,
    /// Whoever started it will attach on the same connection, and the program waits for it rather than that output is lost.
    pub attaches: bool,
}

/// Takes the socket that is standard input. Nothing else that the caller had open stays open.
pub fn take_control() -> io::Result<UnixStream> {
    sys::close_range(3, u32::MAX);
    let control = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?);
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(control)
}

/// The verb: is a job's supervisor until it is not needed any more.
pub fn supervise() -> anyhow::Result<i32> {
    let mut control = Receiver::new(take_control()?);
    rustix::process::setsid().context("no session could be made")?;
    let Some((launch, _)) = control.receive::<Launch>()? else { return Ok(1) };
    let descriptors = control.take_descriptors();
    let answer = control.stream().try_clone()?;
    match begin(&launch, descriptors, control.stream().try_clone()?) {
        Ok((supervisor, door, first)) => {
            drop((control, answer));
            // Where it was started may be unmounted, as far as we are concerned. The root cannot be refused.
            let _ = std::env::set_current_dir("/");
            let (places, name) = (supervisor.store.doors(), door_name(&supervisor.name));
            supervisor.serve(door, first)?;
            Door::close(&places, &name);
            Ok(0)
        }
        Err(error) => {
            let failed = Reply::Failed { message: failure::line(&error), exit: failure::class(&error) as i32 };
            // Told already if the connection has got so far.
            let _ = local::send(&answer, &failed, &[]);
            Ok(1)
        }
    }
}

type Begun = (Arc<Supervisor>, Door, Connection);

fn begin(launch: &Launch, descriptors: VecDeque<OwnedFd>, control: UnixStream) -> anyhow::Result<Begun> {
    let store = JobStore::open()?;
    let places = store.doors();
    let lock = lock(&store.directory(&launch.name))?;
    let supervisor = Supervisor::new(store, &launch.name, lock)?;
    let door = Door::open(&places, &door_name(&launch.name))?;
    let first = Connection::new(&supervisor, control)?;
    let begun = match &launch.kind {
        LaunchKind::Program { origin, standard, command, shown } => {
            if standard.attaches {
                first.expect_to_attach(true);
            }
            if standard.stdio.contains(&Stdio::Terminal) {
                supervisor.show_first(shown).context("the log cannot be written")?;
            }
            start_program(&supervisor, &door, origin, standard, command, descriptors)
        }
        LaunchKind::Adopt => adopt(&supervisor, &door).map(|()| Vec::new()),
        LaunchKind::Await => Ok(Vec::new()),
    };
    let notes = begun.inspect_err(|error| first.writer.fail(error))?;
    if matches!(launch.kind, LaunchKind::Await) {
        first.writer.send(&Reply::Done, &[])?;
    } else {
        first.writer.send(&Reply::Ready { notes }, &[])?;
        // A program that has ended meanwhile is told as such to whoever attaches.
        let pid = supervisor.state().job.as_ref().map_or(0, |job| job.pid);
        first.writer.send(&Reply::Running { pid }, &[])?;
    }
    Ok((supervisor, door, first))
}

/// Makes sure that the job has one supervisor.
fn lock(directory: &Path) -> anyhow::Result<File> {
    const PATIENCE: Duration = Duration::from_secs(3);
    let path = directory.join(LOCK);
    let lock = File::create(&path).with_context(|| format!("cannot write {}", text::path(&path)))?;
    let until = Instant::now() + PATIENCE;
    while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > until {
            return Err(Failure::new(Class::Failed, "the job has a supervisor already").into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(lock)
}

/// The name of the socket of a job's supervisor.
pub fn door_name(job: &str) -> String {
    format!("{job}.sock")
}

impl Keep {
    /// What a keeper of this job is told.
    pub fn of(supervisor: &Supervisor, stdio: [Stdio; 3], origin: Origin) -> Self {
        let doors = supervisor.store.doors().iter().map(|place| bytes_of(place)).collect();
        let (directory, name) = (supervisor.directory.clone(), supervisor.name.clone());
        Self { directory, name, doors, stdio, origin }
    }
}

fn bytes_of(path: &Path) -> Bytes {
    Bytes(path.as_os_str().as_bytes().to_vec())
}

impl Supervisor {
    /// Has the terminal as an earlier program has not left it, and with this on it.
    fn show_first(&self, shown: &str) -> io::Result<()> {
        let log = &mut self.state().log;
        let text = log.modes()?.undo() + shown;
        log.append(Stream::Terminal, text.as_bytes())
    }
}

fn start_program(
    supervisor: &Arc<Supervisor>,
    door: &Door,
    origin: &Origin,
    standard: &Standard,
    command: &[Bytes],
    mut given: VecDeque<OwnedFd>,
) -> anyhow::Result<Vec<String>> {
    let terminal = Terminal::open(standard.size.unwrap_or(UNSEEN), standard.settings.as_ref())
        .context("no terminal could be made for the job; see that /dev/ptmx and /dev/pts are there")?;
    let mut outlets = Outlets::new().context("no pipe could be made")?;
    let mut theirs = Vec::new();
    for (fd, stdio) in (0..).zip(standard.stdio) {
        match stdio {
            Stdio::Terminal | Stdio::Joined => {}
            Stdio::Pipe => theirs.push(outlets.make_pipe(fd).context("no pipe could be made")?),
            Stdio::Given => theirs.push(given.pop_front().context("a descriptor that was announced has not come")?),
        }
    }
    let keep = Keep::of(supervisor, standard.stdio, origin.clone());
    let mut keeper = keeper::start(&keep, &terminal, &outlets, &theirs)?;
    drop(theirs);
    let notes = std::mem::take(&mut keeper.notes);
    let pipes = (0..)
        .zip(standard.stdio)
        .filter(|(_, stdio)| matches!(stdio, Stdio::Pipe | Stdio::Joined))
        .map(|(fd, _)| fd)
        .collect();
    let directory = std::env::current_dir().map(|path| Bytes(path.as_os_str().as_bytes().to_vec())).unwrap_or_default();
    let known = supervisor.store.find(&supervisor.name)?;
    let mut job = Job::new(&supervisor.name, keeper.process, command.to_vec(), directory);
    if let (Origin::Image { .. }, Some(known)) = (origin, known) {
        let Job { command, directory, started, schedule, .. } = known;
        job = Job { command, directory, started, schedule, ..job };
    }
    job.keeper = Some(keeper.handle.id);
    job.pipes = pipes;
    job.sockets = Some(bytes_of(door.place()));
    supervisor.settle(job, keeper, terminal, outlets)?;
    Ok(notes)
}

fn adopt(supervisor: &Arc<Supervisor>, door: &Door) -> anyhow::Result<()> {
    let mut job = supervisor.store.job(&supervisor.name)?;
    if job.is_over() {
        supervisor.be_over(job);
        return Ok(());
    }
    if let Some(moving) = job.moving.take() {
        return take_up(supervisor, door, job, moving);
    }
    if job.host.is_some() {
        return supervisor.be_away(job);
    }
    adopt_program(supervisor, door, job)
}

/// An earlier supervisor was killed in the middle of a move.
fn take_up(supervisor: &Arc<Supervisor>, door: &Door, mut job: Job, moving: Moving) -> anyhow::Result<()> {
    supervisor.log_move(&moving.txn, "supervisor", "takes up");
    match &moving.phase {
        Phase::Arriving { from, name } => {
            if matches!(fate::decide(&supervisor.store, &moving.txn, &Fate::Refused)?, Fate::Ran { .. }) {
                return adopt_program(supervisor, door, job);
            }
            if from.is_none() {
                let message = format!("the job {} has not come here", job.name);
                return Err(Failure::new(Class::Failed, message).into());
            }
            (job.host, job.name_there) = (from.clone(), name.clone());
            job.keeper = None;
            supervisor.be_away(job)
        }
        Phase::Elsewhere => {
            let source = (job.host.clone(), job.name_there.clone().unwrap_or_else(|| job.name.clone()));
            let told = match mover::outcome_of(supervisor, &moving) {
                Ok(Outcome::Ran { .. }) => {
                    job.host = Some(moving.to.clone());
                    job.name_there = Some(moving.name_there.clone());
                    Some(Request::Discard { host: moving.to.clone(), job: moving.name_there.clone(), relay: false })
                }
                Ok(Outcome::NotRan) => Some(Request::Resume),
                // The source saves it by itself when nobody says otherwise.
                Ok(Outcome::Died) | Err(_) => None,
            };
            if let (Some(host), Some(request)) = (source.0, told) {
                mover::tell_source(supervisor, host, source.1, request)?;
            }
            supervisor.be_away(job)
        }
        // Doubt is over when the job is: it was not saved.
        Phase::Doubt | Phase::Parked | Phase::Discarding { .. } => {
            if job.keeper.is_some_and(ProcessId::lives) {
                job.moving = Some(moving.clone());
                adopt_program(supervisor, door, job.clone())?;
                return depart::take_up(supervisor, &job, moving);
            }
            if let Phase::Discarding { relay: true } = moving.phase {
                job.host = Some(moving.to.clone());
                job.name_there = Some(moving.name_there.clone());
                return supervisor.be_away(job);
            }
            adopt_program(supervisor, door, job)
        }
    }
}

fn adopt_program(supervisor: &Arc<Supervisor>, door: &Door, mut job: Job) -> anyhow::Result<()> {
    let Some(id) = job.keeper.filter(|keeper| keeper.lives()) else {
        let message = format!("the job {} has no keeper any more: it cannot be attached to", job.name);
        return Err(Failure::new(Class::Failed, message).into());
    };
    let (keeper, terminal, outlets) = keeper::adopt(&supervisor.store.doors_of(&job), &job.name, id)?;
    job.sockets = Some(bytes_of(door.place()));
    supervisor.settle(job, keeper, terminal, outlets)
}
