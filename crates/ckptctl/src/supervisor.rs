//! The supervisor: one process for each job on a machine, which outlives the terminal that it was started from.
//!
//! It owns the job's terminal, log, control socket and history, and is an ancestor of the program, so that it may trace it. What
//! it knows is in one place behind one lock ([`State`]); a thread moves output and input, one listens to the keeper,
//! and each connection has one or two. It never forks without exec.

mod arrive;
mod away;
mod checkpointing;
mod connection;
mod depart;
mod keeper;
mod launch;
mod link;
mod log;
mod mover;
mod moves;
mod outlets;
mod pump;
mod scheduling;
mod status;
mod terminal;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use anyhow::Context;
use ckpt_core::Class;
use ckpt_core::resource::bytes::Bytes;
use ckpt_transfer::protocol::{Ending, Reply, Request, Stream, WindowSize};
use rustix::process::{Pid, PidfdFlags, Signal, getpgid, kill_process_group, pidfd_open, pidfd_send_signal};
use rustix::termios::tcgetpgrp;

pub use arrive::FILES;
pub use connection::Connection;
pub use depart::DEPARTED;
pub use keeper::KeeperHandle;
pub use launch::{Launch, LaunchKind, Standard, door_name, supervise, take_control};
pub use log::Log;
use moves::Moves;
pub use outlets::Outlets;
pub use status::last_line;
pub use terminal::{Terminal, UNSEEN};

use crate::door::Door;
use crate::failure::{self, Failure};
use crate::jobs::{Job, JobEnding, JobStore, ProcessId};
use crate::text;

/// Held by a job's supervisor as long as it lives, below the job's directory.
pub const LOCK: &str = "supervisor.lock";
/// The act of moving the program.
const MOVE: &str = "a move";
/// The act of saving it.
const CHECKPOINT: &str = "a checkpoint";
/// How much input may wait for a program that does not read.
const MOST_INPUT: usize = 64 << 10;
/// How far a client that the program waits for may be behind.
const MOST_BEHIND: u64 = 2 << 20;

/// A job's supervisor.
#[derive(Debug)]
pub struct Supervisor {
    /// Where jobs are written down.
    pub store: JobStore,
    /// The job's name.
    pub name: String,
    /// The job's directory.
    pub directory: PathBuf,
    state: Mutex<State>,
    /// Something in the state has changed.
    changed: Condvar,
    /// Wakes the thread that moves output and input.
    wake: OwnedFd,
    _lock: File,
}

/// What a supervisor knows.
#[derive(Debug)]
pub struct State {
    /// As it is written down; none before a program has come.
    pub job: Option<Job>,
    /// Where the program is.
    pub place: Place,
    /// What it has printed.
    pub log: Log,
    clients: BTreeMap<u64, Client>,
    connections: usize,
    next_client: u64,
    keys: VecDeque<u8>,
    piped: VecDeque<u8>,
    piped_ended: bool,
    act: Option<&'static str>,
    paused: usize,
    /// How the program ended, while an act is still to say what that means.
    ending: Option<Ending>,
    /// Moves under way.
    pub moves: Moves,
    /// The program has left for good, and nothing of the job is to stay.
    is_over: bool,
}

/// Where the program is.
#[derive(Debug)]
pub enum Place {
    /// None has come yet.
    Nowhere,
    /// Here.
    Here(Here),
    /// On another host.
    Away(Away),
    /// It ended.
    Ended(Ending),
    /// It was ended when its image was complete.
    Saved(Bytes),
}

/// A program that is here.
#[derive(Debug)]
pub struct Here {
    /// What keeps it.
    pub keeper: KeeperHandle,
    /// It.
    pub process: ProcessId,
    /// A handle of it, which never means another process; none when it has ended already.
    pub pidfd: Option<Arc<OwnedFd>>,
    /// Its terminal.
    pub terminal: Terminal,
    /// Its pipes.
    pub outlets: Outlets,
    /// Whether a signal has stopped it.
    pub stopped: bool,
}

/// A program that is on another host.
#[derive(Debug)]
pub struct Away {
    /// The host.
    pub host: String,
    /// Whether it can be reached now.
    pub reached: bool,
    /// Takes what clients ask of the program: input, sizes, signals.
    pub forward: mpsc::Sender<(Request, Vec<u8>)>,
}

/// Somebody who is attached or may be soon.
#[derive(Debug, Default)]
struct Client {
    /// The output offset that it has got to; none when it does not follow.
    position: Option<u64>,
    /// The program waits for it rather than that output is lost to it.
    holds: bool,
    /// The size of its terminal.
    size: Option<WindowSize>,
    /// What happened, and at which output offset.
    events: VecDeque<(u64, Reply)>,
}

impl Supervisor {
    /// With the state of a job whose program is not known yet.
    fn new(store: JobStore, name: &str, lock: File) -> anyhow::Result<Arc<Self>> {
        let directory = store.directory(name);
        let log =
            Log::open(&directory).with_context(|| format!("cannot open the log in {}", text::path(&directory)))?;
        let wake =
            rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK)
                .context("no eventfd could be made")?;
        let state = State {
            job: None,
            place: Place::Nowhere,
            log,
            clients: BTreeMap::new(),
            connections: 0,
            next_client: 0,
            keys: VecDeque::new(),
            piped: VecDeque::new(),
            piped_ended: false,
            act: None,
            paused: 0,
            ending: None,
            moves: Moves::default(),
            is_over: false,
        };
        Ok(Arc::new(Self {
            store,
            name: name.to_owned(),
            directory,
            state: Mutex::new(state),
            changed: Condvar::new(),
            wake,
            _lock: lock,
        }))
    }

    /// All that it knows. Whoever changes it calls [`Self::tell_all`] after letting go.
    pub fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panicked while holding it has left it as good as it was between two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change.
    pub fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change, but not for longer.
    pub fn wait_for<'a>(&self, state: MutexGuard<'a, State>, at_most: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, at_most).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Changes what is written down of the job.
    pub fn change_job(&self, change: impl FnOnce(&mut Job)) -> anyhow::Result<()> {
        let mut state = self.state();
        let Some(job) = &mut state.job else { return Ok(()) };
        change(job);
        self.store.put(job)
    }

    /// Makes all threads look at the state again.
    pub fn tell_all(&self) {
        self.changed.notify_all();
        // It counts how often; a full counter wakes as well.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// The program's process, when it is here and has not ended.
    pub fn pid(&self) -> anyhow::Result<i32> {
        match &self.state().place {
            Place::Here(here) => Ok(here.process.pid),
            Place::Away(away) => Err(self.failure(&format!("runs on {}", away.host))),
            Place::Nowhere | Place::Ended(_) | Place::Saved(_) => Err(self.failure("has no running program")),
        }
    }

    fn failure(&self, what: &str) -> anyhow::Error {
        Failure::new(Class::Failed, format!("the job {} {what}", self.name)).into()
    }

    /// Begins an act that only one at a time can be: a checkpoint, a move. It lasts until the guard is dropped, and only then
    /// an ending of the program that came meanwhile is told, if the act has not given it another meaning.
    pub fn begin(self: &Arc<Self>, what: &'static str) -> anyhow::Result<Act> {
        self.begin_in(&mut self.state(), what)
    }

    /// The same with what is known now.
    fn begin_in(self: &Arc<Self>, state: &mut State, what: &'static str) -> anyhow::Result<Act> {
        if let Some(other) = state.act {
            return Err(self.busy(other));
        }
        state.act = Some(what);
        // Whatever was cancelled earlier is over.
        ckpt_core::cancel_flag().store(false, Ordering::Relaxed);
        Ok(Act { supervisor: Arc::clone(self) })
    }

    /// Begins a checkpoint that somebody asked for. While the job is being moved there is none but the mover's own.
    pub fn begin_checkpoint(self: &Arc<Self>) -> anyhow::Result<Act> {
        let mut state = self.state();
        if state.moves.mover.is_some() {
            return Err(self.busy(MOVE));
        }
        self.begin_in(&mut state, CHECKPOINT)
    }

    fn busy(&self, act: &str) -> anyhow::Error {
        self.failure(&format!("is busy: {act} is under way; try again when that is done"))
    }

    /// Waits for the end of an act under way, of which `tell` hears; false when that was given up.
    fn wait_for_act(&self, is_given_up: impl Fn() -> bool, tell: impl FnOnce(&str)) -> bool {
        const TICK: Duration = Duration::from_millis(50);
        let act = self.state().act;
        act.map(tell);
        let mut state = self.state();
        while state.act.is_some() {
            if is_given_up() {
                return false;
            }
            state = self.wait_for(state, TICK);
        }
        true
    }

    /// Stops moving output into the log, until the guard is dropped.
    pub fn pause_output(self: &Arc<Self>) -> Paused {
        self.state().paused += 1;
        Paused { supervisor: Arc::clone(self) }
    }

    /// Moves all that the program has printed into the log; it is frozen or has ended.
    pub fn drain(&self) -> anyhow::Result<()> {
        let mut state = self.state();
        let result = drain(&mut state);
        drop(state);
        self.tell_all();
        result.context("the program's last output cannot be read")
    }

    /// Takes what was typed and not read yet, here and in the terminal. The program is frozen.
    pub fn take_pending_input(&self) -> anyhow::Result<Vec<u8>> {
        let mut state = self.state();
        let Place::Here(here) = &state.place else { return Ok(Vec::new()) };
        let mut pending =
            here.terminal.take_pending_input().context("the terminal's input cannot be taken out of it")?;
        pending.extend(state.keys.drain(..));
        Ok(pending)
    }

    /// Takes the input that waits here: typed, piped, and whether no more of that comes.
    pub fn take_input(&self) -> (Vec<u8>, Vec<u8>, bool) {
        let mut state = self.state();
        (std::mem::take(&mut state.keys).into(), std::mem::take(&mut state.piped).into(), state.piped_ended)
    }

    /// Puts input that was taken (elsewhere perhaps) into the terminal. The program is frozen or not running yet.
    pub fn give_pending_input(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut state = self.state();
        let Place::Here(here) = &state.place else { return Ok(()) };
        let rest = here.terminal.give_pending_input(bytes).context("the terminal does not take its input back")?;
        rest.iter().rev().for_each(|byte| state.keys.push_front(*byte));
        drop(state);
        self.tell_all();
        Ok(())
    }

    /// The terminal's size.
    pub fn window_size(&self) -> WindowSize {
        let state = self.state();
        let here = if let Place::Here(here) = &state.place { Some(here.terminal.size()) } else { None };
        here.or_else(|| state.clients.values().find_map(|client| client.size)).unwrap_or(UNSEEN)
    }

    /// The size of a terminal that somebody is attached with.
    pub fn client_size(&self) -> Option<WindowSize> {
        self.state().clients.values().find_map(|client| client.size)
    }

    /// Output that comes from another host: goes into the log and to the clients. What is there already is passed over.
    pub fn relay_output(&self, stream: Stream, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let mut state = self.state();
        while state.clients.values().any(|client| client.is_far_behind(state.log.end())) {
            state = self.wait(state);
        }
        let known = usize::try_from(state.log.end().saturating_sub(offset)).unwrap_or(usize::MAX);
        let result = state.log.skip_to(offset).and_then(|()| match bytes.get(known..) {
            Some(new) => state.log.append(stream, new),
            None => Ok(()),
        });
        drop(state);
        self.tell_all();
        result.context("output cannot be written to the log")
    }

    /// Tells all clients what happened, behind the output so far.
    pub fn tell_clients(&self, what: &Reply) {
        self.state().tell_clients(what);
        self.tell_all();
    }

    /// Has a program that a keeper has started here, or holds.
    pub fn settle(
        self: &Arc<Self>,
        job: Job,
        keeper: keeper::Started,
        terminal: Terminal,
        outlets: Outlets,
    ) -> anyhow::Result<()> {
        let keeper::Started { handle, reports, process, stopped, ended, .. } = keeper;
        self.store.put(&job)?;
        // One that has ended already has none, and the keeper says how it ended.
        let pidfd = Pid::from_raw(process.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let pidfd = pidfd.filter(|_| process.state().is_some()).map(Arc::new);
        let mut state = self.state();
        state.job = Some(job);
        state.ending = None;
        let id = handle.id;
        state.place = Place::Here(Here { keeper: handle, process, pidfd, terminal, outlets, stopped });
        drop(state);
        keeper::watch(self, id, reports)?;
        if let Some(ending) = ended {
            self.ended(ending);
        }
        self.tell_all();
        Ok(())
    }

    /// The program has left for another host: the keeper goes, and clients stay attached here. The act goes on.
    pub fn leave(&self, host: &str, name_there: &str, forward: mpsc::Sender<(Request, Vec<u8>)>) -> anyhow::Result<()> {
        let mut state = self.state();
        let here =
            std::mem::replace(&mut state.place, Place::Away(Away { host: host.to_owned(), reached: true, forward }));
        state.ending = None;
        if let Some(job) = &mut state.job {
            job.host = Some(host.to_owned());
            job.name_there = Some(name_there.to_owned());
            job.moving = None;
            job.keeper = None;
            // What the keeper writes down of its end is not the job's.
            (job.pid, job.start_ticks) = (0, 0);
            self.store.put(job)?;
        }
        state.tell_clients(&Reply::Moved { host: host.to_owned(), reached: true });
        drop(state);
        if let Place::Here(here) = here {
            here.keeper.quit();
        }
        self.tell_all();
        Ok(())
    }

    /// The program has left for another host, and nobody asks here any more.
    pub fn leave_for_good(&self, host: &str) {
        let mut state = self.state();
        state.ending = None;
        state.is_over = true;
        state.job = None;
        state.tell_clients(&Reply::Moved { host: host.to_owned(), reached: true });
        state.tell_clients(&Reply::Done);
        let place = std::mem::replace(&mut state.place, Place::Nowhere);
        drop(state);
        if let Place::Here(here) = place {
            here.keeper.quit();
        }
        self.tell_all();
    }

    /// Whether the other host can be reached now.
    pub fn set_reached(&self, now: bool) {
        let mut state = self.state();
        if let Place::Away(away) = &mut state.place
            && away.reached != now
        {
            away.reached = now;
            let told = Reply::Moved { host: away.host.clone(), reached: now };
            state.tell_clients(&told);
        }
        drop(state);
        self.tell_all();
    }

    /// The program has ended, here or elsewhere; an act under way may give it another meaning first.
    pub fn ended(&self, ending: Ending) {
        let mut state = self.state();
        if let Err(error) = drain(&mut state) {
            state.note(&format!("the program's last output cannot be read: {error}"));
        }
        state.ending.get_or_insert(ending);
        drop(state);
        self.conclude_if_ended();
    }

    /// The program was ended when its image was complete.
    pub fn saved(&self, image: &Bytes) -> anyhow::Result<()> {
        let mut state = self.state();
        let drained = drain(&mut state);
        let place = std::mem::replace(&mut state.place, Place::Saved(image.clone()));
        state.ending = None;
        if let Some(job) = &mut state.job {
            job.saved = Some(image.clone());
            self.store.put(job)?;
        }
        state.tell_clients(&Reply::Left { image: image.clone() });
        drop(state);
        if let Place::Here(here) = place {
            here.keeper.quit();
        }
        self.tell_all();
        drained.context("the program's last output cannot be read")
    }

    /// As [`Self::ended`], said by a keeper. One whose program has left meanwhile says nothing about it.
    fn ended_under(&self, keeper: ProcessId, ending: Ending) {
        let is_ours = matches!(&self.state().place, Place::Here(here) if here.keeper.id == keeper);
        if is_ours {
            self.ended(ending);
        }
    }

    fn conclude_if_ended(&self) {
        let mut state = self.state();
        if state.act.is_some() {
            return;
        }
        let Some(ending) = state.ending.take() else { return };
        let place = std::mem::replace(&mut state.place, Place::Ended(ending));
        if let Some(job) = &mut state.job {
            job.ending = Some(JobEnding::now(ending));
            // The keeper has written it down as well.
            let written = self.store.put(job);
            if let Err(error) = written {
                state.note(&failure::line(&error));
            }
        }
        state.tell_clients(&Reply::Ended(ending));
        drop(state);
        if let Place::Here(here) = place {
            here.keeper.quit();
        }
        self.tell_all();
    }

    /// Serves until the program has ended and nobody is connected any more.
    fn serve(self: &Arc<Self>, door: Door, first: Connection) -> anyhow::Result<()> {
        pump::start(self)?;
        scheduling::start(self)?;
        first.start()?;
        connection::listen(self, door)?;
        let mut state = self.state();
        while state.connections > 0
            || state.act.is_some()
            || state.moves.mover.is_some()
            || matches!(state.place, Place::Here(_) | Place::Away(_))
        {
            state = self.wait(state);
        }
        if state.is_over || state.job.is_none() {
            // It was only here for a program that has gone on, or has never come.
            let removed = std::fs::remove_dir_all(&self.directory);
            removed.with_context(|| format!("cannot remove {}", text::path(&self.directory)))?;
        }
        Ok(())
    }
}

impl Here {
    /// Sends the program a signal.
    pub fn signal(&self, signal: i32) {
        if let (Some(pidfd), Some(signal)) = (&self.pidfd, Signal::from_named_raw(signal)) {
            // It may have ended this moment; then the signal comes too late for anybody.
            let _ = pidfd_send_signal(pidfd, signal);
        }
    }

    /// Sends the terminal's foreground a signal, as one of its keys would.
    pub fn signal_foreground(&self, signal: i32) {
        let group = tcgetpgrp(&self.terminal.master).ok().filter(|_| self.process.lives());
        if let (Some(group), Some(signal)) = (group, Signal::from_named_raw(signal)) {
            let _ = kill_process_group(group, signal);
        }
    }

    /// Lets a stopped program go on, and what it has started in its group.
    pub fn resume(&mut self) {
        self.stopped = false;
        let group = Pid::from_raw(self.process.pid).and_then(|pid| getpgid(Some(pid)).ok());
        match group.filter(|_| self.process.lives()) {
            Some(group) => drop(kill_process_group(group, Signal::CONT)),
            None => self.signal(Signal::CONT.as_raw()),
        }
    }
}

impl State {
    /// Tells all clients what happened, behind the output so far.
    pub fn tell_clients(&mut self, what: &Reply) {
        let at = self.log.end();
        for client in self.clients.values_mut().filter(|client| client.position.is_some()) {
            client.events.push_back((at, what.clone()));
        }
    }

    /// Output must wait: an act wants that, or a client that it must not be lost to is far behind.
    fn is_held_back(&self) -> bool {
        self.paused > 0 || self.clients.values().any(|client| client.is_far_behind(self.log.end()))
    }

    /// Says something to whoever reads the log.
    fn note(&mut self, text: &str) {
        // If the log takes nothing, there is nobody to tell.
        let _ = self.log.append(Stream::Error, format!("ckptctl: {}\r\n", text::plain(text)).as_bytes());
    }
}

impl Client {
    fn is_far_behind(&self, end: u64) -> bool {
        self.holds && self.position.is_some_and(|position| end.saturating_sub(position) > MOST_BEHIND)
    }
}

fn drain(state: &mut State) -> std::io::Result<()> {
    if let Place::Here(here) = &mut state.place {
        while here.outlets.pump(&here.terminal, &mut state.log)? > 0 {}
    }
    Ok(())
}

/// An act under way.
#[derive(Debug)]
pub struct Act {
    supervisor: Arc<Supervisor>,
}

impl Drop for Act {
    fn drop(&mut self) {
        self.supervisor.state().act = None;
        self.supervisor.conclude_if_ended();
        self.supervisor.tell_all();
    }
}

/// Output that is not moved into the log for now.
#[derive(Debug)]
pub struct Paused {
    supervisor: Arc<Supervisor>,
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.supervisor.state().paused -= 1;
        self.supervisor.tell_all();
    }
}
