//! The mover: moves the job's program between this machine and others, or from one other to another.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use ckpt_core::{Class, Codec};
use ckpt_transfer::hosts::LOCAL;
use ckpt_transfer::protocol::{HEARTBEAT, MachineReport, MoveOptions, Reply, Request, SILENCE};
use ckpt_transfer::ssh::{Fate, Nobody, Prompter};
use ckpt_transfer::transaction::{self, Ends, Failed, Incoming, Outcome, Plan, Side};
use ckpt_transfer::wire;

use super::connection::{Connection, Writer};
use super::moves::{DataChannel, Decided, Decision, Guard};
use super::{CHECKPOINT, Place, Supervisor, link};
use crate::failure::{self, Failure};
use crate::fate;
use crate::jobs::{Moving, Phase, Reason};
use crate::remote::{Agent, Machine};
use crate::text;
use crate::this_machine::{Clock, clock};

/// How many messages may wait for the mover.
const INBOX: usize = 16;
/// Progress is not told more often.
const TICK: Duration = Duration::from_millis(50);
/// How long a question at the user's may stay unanswered.
const PATIENCE: Duration = Duration::from_secs(300);

/// What others can do to a mover.
#[derive(Debug)]
pub struct Control {
    /// The connection of the client that asked for the move.
    pub client: u64,
    /// Gives the move up, if it is not decided.
    pub cancel: Arc<AtomicBool>,
    /// Answers questions.
    pub answers: mpsc::Sender<Option<String>>,
    /// The program is being saved before it is moved.
    is_saving: Arc<AtomicBool>,
}

impl Control {
    /// Whether a checkpoint is under way because this client asked for the move.
    pub fn is_saving_for(&self, client: u64) -> bool {
        self.client == client && self.is_saving.load(Ordering::Relaxed)
    }
}

/// Moves the program in a thread of its own, which answers.
pub fn start(
    supervisor: &Arc<Supervisor>,
    host: &str,
    options: MoveOptions,
    writer: Writer,
    client: u64,
) -> anyhow::Result<()> {
    supervisor.source_of_move(host)?;
    let (answers, answered) = mpsc::channel();
    let (cancel, is_saving) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    {
        let mut state = supervisor.state();
        if state.moves.mover.is_some() {
            let message = format!("the job {} is being moved already", supervisor.name);
            return Err(Failure::new(Class::Failed, message).into());
        }
        state.moves.mover =
            Some(Control { client, cancel: Arc::clone(&cancel), answers, is_saving: Arc::clone(&is_saving) });
    }
    let (supervisor, host) = (Arc::clone(supervisor), host.to_owned());
    let moving = move || {
        let asker = Asker::new(writer.clone(), answered);
        let result = supervisor
            .wait_to_move(&host, &cancel, &writer)
            .and_then(|from| move_it(&supervisor, from, &host, options, asker, (cancel, is_saving)));
        {
            let mut state = supervisor.state();
            state.moves.mover = None;
            state.moves.holds_input = false;
        }
        match result {
            Ok(reply) => writer.tell(&reply),
            Err(error) => writer.fail(&error),
        }
        supervisor.tell_all();
    };
    std::thread::Builder::new().name("mover".to_owned()).spawn(moving).context("no thread could be made")?;
    Ok(())
}

fn move_it(
    supervisor: &Arc<Supervisor>,
    (from, name_at_source): (String, String),
    to: &str,
    options: MoveOptions,
    asker: Asker,
    (cancel, is_saving): (Arc<AtomicBool>, Arc<AtomicBool>),
) -> anyhow::Result<Reply> {
    let txn = new_txn()?;
    let source = Spot::new(supervisor, &from, &name_at_source)?;
    let destination = Spot::new(supervisor, to, &supervisor.name)?;
    let host = destination.with(|machine| machine.host().cloned());
    let other = source.with(|machine| machine.host().cloned());
    let compression = host.as_ref().or(other.as_ref()).map_or(Codec::default(), |host| host.compression);
    let sessions = [&host, &other].into_iter().flatten().map(|host| host.sessions).min().unwrap_or(1).max(1);
    let plan = Plan {
        txn: txn.clone(),
        job: supervisor.name.clone(),
        from: from.clone(),
        to: to.to_owned(),
        codec: options.codec.clone().unwrap_or_else(|| compression.to_string()),
        options,
        most_memory: host.as_ref().and_then(|host| host.limits.memory),
        relay: from == LOCAL,
    };
    let (sender, inbox) = mpsc::sync_channel(INBOX);
    let mut road = Road {
        supervisor,
        txn: txn.clone(),
        spots: [source, destination],
        lines: [None, None],
        generations: Arc::default(),
        sender,
        inbox,
        channels: Vec::new(),
        sessions,
        asker,
        cancel,
        is_saving,
        told: None,
        began: Instant::now(),
        left_over: (Vec::new(), Vec::new(), false),
    };
    if from != LOCAL {
        let moving = Moving {
            txn: txn.clone(),
            to: to.to_owned(),
            name_there: supervisor.name.clone(),
            phase: Phase::Elsewhere,
        };
        supervisor.change_job(|job| job.moving = Some(moving))?;
    }
    let result = transaction::run(&mut road, &plan);
    let name_there = road.name_there();
    let left_over = std::mem::take(&mut road.left_over);
    road.hang_up();
    if from != LOCAL && to != LOCAL {
        match &result {
            Ok(Some(_)) => supervisor.retarget(to, &name_there)?,
            _ => supervisor.change_job(|job| job.moving = None)?,
        }
    } else if from != LOCAL && !matches!(result, Ok(Some(_))) {
        supervisor.change_job(|job| job.moving = None)?;
    }
    supervisor.send_after(&left_over);
    match result {
        Ok(Some(report)) => Ok(Reply::MovedTo(Box::new(report))),
        Ok(None) => Ok(Reply::Done),
        Err(broken) => Err(Failure::of_exit(broken.exit, broken.message).into()),
    }
}

/// A name that no other move has.
pub fn new_txn() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("no random bytes")?;
    Ok(hex::encode(bytes))
}

impl Supervisor {
    /// Has input go after the program, before what waits to be sent to it.
    fn send_after(&self, (keys, piped, piped_ended): &(Vec<u8>, Vec<u8>, bool)) {
        let mut state = self.state();
        state.moves.holds_input = false;
        if let Place::Away(away) = &state.place {
            link::pass_on(&away.forward, keys, piped, *piped_ended);
        } else {
            state.keys.extend(keys);
            state.piped.extend(piped);
            state.piped_ended |= piped_ended;
        }
        drop(state);
        self.tell_all();
    }

    /// Where the program is that is to be moved to a host.
    fn source_of_move(&self, host: &str) -> anyhow::Result<(String, String)> {
        let from = self.whereabouts()?;
        if from.0 == host {
            let message = format!("the job {} is {} already", self.name, transaction::place(host));
            return Err(Failure::new(Class::Usage, message).into());
        }
        Ok(from)
    }

    /// Waits for a checkpoint under way: no other begins as long as there is a mover. Gives where the program is then.
    fn wait_to_move(&self, host: &str, cancel: &AtomicBool, writer: &Writer) -> anyhow::Result<(String, String)> {
        let tell = |act: &str| {
            let found = format!("{act} under way is waited for");
            writer.tell(&Reply::Check { what: "wait".to_owned(), found, ok: true });
        };
        if self.wait_for_act(|| cancel.load(Ordering::Relaxed), tell) {
            self.source_of_move(host)
        } else {
            Err(Failure::new(Class::Cancelled, "cancelled; the job is not moved").into())
        }
    }

    /// Where the program is: the host, and the job's name there.
    pub fn whereabouts(&self) -> anyhow::Result<(String, String)> {
        let state = self.state();
        match (&state.place, &state.job) {
            (Place::Here(_), _) => Ok((LOCAL.to_owned(), self.name.clone())),
            (Place::Away(away), Some(job)) => {
                Ok((away.host.clone(), job.name_there.clone().unwrap_or_else(|| self.name.clone())))
            }
            _ => Err(Failure::new(Class::Failed, format!("the job {} has no running program", self.name)).into()),
        }
    }
}

/// Asks the client that asked for the move.
#[derive(Clone)]
struct Asker {
    writer: Writer,
    answered: Arc<Mutex<Receiver<Option<String>>>>,
    /// Nobody waits for what it is asked for any more.
    is_given_up: Arc<AtomicBool>,
}

impl Asker {
    fn new(writer: Writer, answered: Receiver<Option<String>>) -> Self {
        Self { writer, answered: Arc::new(Mutex::new(answered)), is_given_up: Arc::default() }
    }
}

impl Prompter for Asker {
    fn ask(&mut self, question: &str, echo: bool) -> Option<String> {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        // What was answered too late to an earlier question.
        while answered.try_recv().is_ok() {}
        if self.is_given_up.load(Ordering::Relaxed) {
            return None;
        }
        self.writer.send(&Reply::Ask { question: question.to_owned(), echo }, &[]).ok()?;
        answered.recv_timeout(PATIENCE).ok().flatten()
    }
}

/// An end of the move.
struct Spot {
    name: String,
    machine: Arc<Mutex<Machine>>,
    is_local: bool,
    /// The job's name there.
    job: String,
    report: Option<MachineReport>,
    clock: Option<(f64, f64)>,
    was_reached: bool,
    /// The program has begun to arrive there.
    is_arriving: bool,
}

impl Spot {
    fn new(supervisor: &Arc<Supervisor>, name: &str, job: &str) -> anyhow::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            machine: supervisor.machine(name)?,
            is_local: name == LOCAL,
            job: job.to_owned(),
            report: None,
            clock: None,
            was_reached: false,
            is_arriving: false,
        })
    }

    fn with<T>(&self, what: impl FnOnce(&mut Machine) -> T) -> T {
        what(&mut self.machine.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks the machine what it is.
    fn probe(&mut self, agent: &Agent) -> anyhow::Result<()> {
        let asked = clock();
        let Reply::Machine(report) = agent.ask(&Request::Probe)? else {
            return Err(Failure::new(Class::Remote, "the agent says something else than asked for").into());
        };
        let Clock { ahead, within } = Clock::compare(asked, report.clock, clock());
        self.clock = Some((ahead, within));
        self.report = Some(*report);
        Ok(())
    }
}

/// A connection to the supervisor at an end.
struct Line {
    stream: UnixStream,
    writer: Arc<Mutex<UnixStream>>,
}

/// How the mover reaches both ends.
struct Road<'a> {
    supervisor: &'a Arc<Supervisor>,
    txn: String,
    spots: [Spot; 2],
    lines: [Option<Line>; 2],
    /// Which connection to each end counts: what an earlier one said is dropped.
    generations: Arc<[AtomicU64; 2]>,
    sender: SyncSender<(u64, Incoming)>,
    inbox: Receiver<(u64, Incoming)>,
    /// Our ends of the data channels.
    channels: Vec<UnixStream>,
    sessions: usize,
    asker: Asker,
    cancel: Arc<AtomicBool>,
    is_saving: Arc<AtomicBool>,
    told: Option<Instant>,
    began: Instant,
    /// Input that is to go after the program.
    left_over: (Vec<u8>, Vec<u8>, bool),
}

fn failed(error: &anyhow::Error) -> Failed {
    Failed { message: failure::line(error), exit: failure::class(error) as i32 }
}

impl Road<'_> {
    /// A connection to an end's supervisor.
    fn connect(&mut self, side: Side) -> anyhow::Result<(UnixStream, Option<Fate>)> {
        let Self { supervisor, spots, .. } = self;
        let spot = &mut spots[side.index()];
        if spot.is_local {
            if side == Side::Destination && spot.report.is_none() {
                let agent = spot.with(|machine| machine.agent(&[], &mut Nobody, &mut |_, _| ()))?;
                spot.probe(&agent)?;
            }
            let (ours, theirs) = UnixStream::pair().context("no socket could be made")?;
            Connection::new(supervisor, theirs)?.start()?;
            return Ok((ours, None));
        }
        let agent = self.agent(side)?;
        let spot = &mut self.spots[side.index()];
        if spot.report.is_none() {
            spot.probe(&agent)?;
        }
        // As long as nothing has arrived there, what was made there for it goes when its connection does.
        let create = side == Side::Destination && !spot.is_arriving;
        match agent.ask(&Request::Join { job: spot.job.clone(), create })? {
            Reply::Joined { job, version } if version == ckpt_transfer::protocol::VERSION => spot.job = job,
            Reply::Joined { .. } => {
                let message = format!("the job's supervisor on {} is of another version of ckptctl", spot.name);
                return Err(Failure::new(Class::Remote, message).into());
            }
            _ => return Err(Failure::new(Class::Remote, "the agent says something else than asked for").into()),
        }
        spot.was_reached = true;
        Ok((agent.stream, agent.fate))
    }

    /// Logs in at an end. The first time that can be given up at any moment: then nobody waits for how it ends.
    fn agent(&self, side: Side) -> anyhow::Result<Agent> {
        let spot = &self.spots[side.index()];
        let (machine, mut asker) = (Arc::clone(&spot.machine), self.asker.clone());
        let mut connect = move || {
            let writer = asker.writer.clone();
            let mut uploading =
                |done, total| writer.tell(&Reply::Progress { phase: "ckptctl".to_owned(), done, total });
            let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
            machine.agent(&[], &mut asker, &mut uploading)
        };
        if spot.was_reached {
            return connect();
        }
        let (done, result) = mpsc::channel();
        let connecting = move || drop(done.send(connect()));
        std::thread::Builder::new().name("login".to_owned()).spawn(connecting).context("no thread could be made")?;
        loop {
            match result.recv_timeout(TICK) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout) if self.cancel.load(Ordering::Relaxed) => {
                    self.asker.is_given_up.store(true, Ordering::Relaxed);
                    return Err(Failure::new(Class::Cancelled, "cancelled").into());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the login came to no end; try again"),
            }
        }
    }

    fn listen(&mut self, side: Side, stream: UnixStream, fate: Option<Fate>) -> anyhow::Result<()> {
        let generation = self.generations[side.index()].fetch_add(1, Ordering::Relaxed) + 1;
        let writer = Arc::new(Mutex::new(stream.try_clone()?));
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        let (mut reading, sender) = (stream.try_clone()?, self.sender.clone());
        let listening = move || {
            loop {
                let said = wire::receive::<Reply>(&mut reading);
                let (incoming, is_last) = match said {
                    Ok(Some((reply, body))) => (Incoming::Said(side, reply, body), false),
                    Ok(None) => (Incoming::Lost(side, why(fate.as_ref(), "it closed the connection")), true),
                    Err(error) => (Incoming::Lost(side, why(fate.as_ref(), &error.to_string())), true),
                };
                if sender.send((generation, incoming)).is_err() || is_last {
                    return;
                }
            }
        };
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        thread("end").spawn(listening).context("no thread could be made")?;
        let (beat, generations) = (Arc::clone(&writer), Arc::clone(&self.generations));
        let beating = move || {
            while generations[side.index()].load(Ordering::Relaxed) == generation {
                let mut writer = beat.lock().unwrap_or_else(PoisonError::into_inner);
                if wire::send(&mut *writer, &Request::Heartbeat, &[]).is_err() {
                    return;
                }
                drop(writer);
                std::thread::sleep(HEARTBEAT);
            }
        };
        thread("heartbeat").spawn(beating).context("no thread could be made")?;
        self.lines[side.index()] = Some(Line { stream, writer });
        Ok(())
    }

    /// An end's data channel.
    fn data_agent(&mut self, side: Side, number: usize) -> anyhow::Result<Agent> {
        let Self { spots, asker, txn, .. } = self;
        let spot = &mut spots[side.index()];
        let job = spot.job.clone();
        spot.with(|machine| machine.agent(&["--data", &job, txn, &number.to_string()], asker, &mut |_, _| ()))
    }

    fn connect_data(&mut self) -> anyhow::Result<()> {
        for number in 0..self.sessions {
            match (self.spots[0].is_local, self.spots[1].is_local) {
                (true, true) => anyhow::bail!("a program is not moved from here to here"),
                (true, false) => {
                    let agent = self.data_agent(Side::Destination, number)?;
                    self.use_here(number, agent.stream)?;
                }
                (false, true) => {
                    let agent = self.data_agent(Side::Source, number)?;
                    self.use_here(number, agent.stream)?;
                }
                (false, false) => {
                    let source = self.data_agent(Side::Source, number)?.stream;
                    let destination = self.data_agent(Side::Destination, number)?.stream;
                    self.channels.extend([source.try_clone()?, destination.try_clone()?]);
                    let copying = move || copy(source, destination);
                    let thread = std::thread::Builder::new().name("copy".to_owned());
                    thread.spawn(copying).context("no thread could be made")?;
                }
            }
        }
        Ok(())
    }

    /// Gives a data channel to the end that is here.
    fn use_here(&mut self, number: usize, stream: UnixStream) -> anyhow::Result<()> {
        let duplicate = || stream.try_clone().context("no descriptor is left");
        let (input, output): (OwnedFd, OwnedFd) = (duplicate()?.into(), duplicate()?.into());
        self.supervisor.add_channel(DataChannel {
            txn: self.txn.clone(),
            index: number,
            input,
            output,
            guard: Guard(None),
        });
        self.channels.push(stream);
        Ok(())
    }

    /// The move is over.
    fn hang_up(&mut self) {
        self.close_channels();
        self.leave(Side::Source);
        self.leave(Side::Destination);
        self.supervisor.drop_channels(&self.txn);
    }
}

/// Why a connection ended.
fn why(fate: Option<&Fate>, otherwise: &str) -> String {
    const MOMENT: Duration = Duration::from_secs(1);
    fate.and_then(|fate| fate.wait(MOMENT)).unwrap_or_else(|| otherwise.to_owned())
}

/// Copies from one host to another.
fn copy(mut from: UnixStream, mut to: UnixStream) {
    const PIECE: usize = 512 << 10;
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
            Ok(count) => {
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
        }
    }
    // One that is broken at one end is at the other.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

impl Ends for Road<'_> {
    fn reach(&mut self, side: Side) -> Result<(), Failed> {
        self.leave(side);
        let (stream, fate) = self.connect(side).map_err(|error| failed(&error))?;
        self.listen(side, stream, fate).map_err(|error| failed(&error))
    }

    fn leave(&mut self, side: Side) {
        self.generations[side.index()].fetch_add(1, Ordering::Relaxed);
        if let Some(line) = self.lines[side.index()].take() {
            // It may be closed already.
            let _ = line.stream.shutdown(Shutdown::Both);
        }
    }

    fn say(&mut self, side: Side, request: &Request, body: &[u8]) {
        self.spots[side.index()].is_arriving |= matches!(request, Request::Arrive(_));
        let Some(line) = &self.lines[side.index()] else { return };
        let mut writer = line.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if wire::send(&mut *writer, request, body).is_err() {
            // Whoever listens on it says that it is lost.
            let _ = line.stream.shutdown(Shutdown::Both);
        }
    }

    fn next(&mut self, at_most: Duration) -> Option<Incoming> {
        if self.cancel.swap(false, Ordering::Relaxed) {
            return Some(Incoming::Cancelled);
        }
        let until = Instant::now() + at_most;
        loop {
            let (generation, incoming) = match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(came) => came,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            };
            let side = match &incoming {
                Incoming::Said(side, ..) | Incoming::Lost(side, _) => *side,
                Incoming::Cancelled => return Some(incoming),
            };
            if self.generations[side.index()].load(Ordering::Relaxed) == generation {
                return Some(incoming);
            }
        }
    }

    fn save(&mut self) -> Result<(), Failed> {
        let schedule = self.supervisor.state().job.as_ref().and_then(|job| job.schedule);
        let Some(schedule) = schedule.filter(|schedule| schedule.before_move) else { return Ok(()) };
        self.is_saving.store(true, Ordering::Relaxed);
        let act = self.supervisor.begin(CHECKPOINT);
        let saved =
            act.and_then(|act| self.supervisor.save_by_itself(schedule, Reason::Move, act, Some(&self.asker.writer)));
        self.is_saving.store(false, Ordering::Relaxed);
        let report = saved.map_err(|error| {
            let name = &self.supervisor.name;
            let exit = failure::class(&error) as i32;
            let why = failure::line(&error);
            if exit == Class::Cancelled as i32 {
                return Failed { message: why, exit };
            }
            let off = schedule.without_moves(name);
            let message = format!(
                "{name} is not moved because it could not be saved before: {why}; `{off}` has it moved without"
            );
            Failed { message, exit }
        })?;
        let pause = Duration::try_from_secs_f64(report["pause_seconds"].as_f64().unwrap_or_default());
        let found = format!(
            "@{}, {}, it stood still for {}",
            report["number"],
            text::size(report["bytes"].as_u64().unwrap_or_default()),
            text::took(pause.unwrap_or_default())
        );
        self.tell(Reply::Check { what: "saved".to_owned(), found, ok: true });
        Ok(())
    }

    fn open_channels(&mut self, _txn: &str) -> Result<usize, Failed> {
        self.connect_data().map_err(|error| failed(&error))?;
        Ok(self.sessions)
    }

    fn close_channels(&mut self) {
        for channel in self.channels.drain(..) {
            // It may be closed already.
            let _ = channel.shutdown(Shutdown::Both);
        }
    }

    fn outcome(&mut self, txn: &str) -> Result<Outcome, Failed> {
        let spot = &self.spots[Side::Destination.index()];
        let asked = if spot.is_local {
            fate::outcome(&self.supervisor.store, txn)
        } else {
            let asker = &mut self.asker;
            spot.with(|machine| machine.agent(&[], asker, &mut |_, _| ()))
                .and_then(|agent| agent.ask(&Request::Outcome { txn: txn.to_owned() }))
        };
        asked.map_err(|error| failed(&error)).and_then(|reply| understood(&reply))
    }

    fn machine(&self, side: Side) -> Option<&MachineReport> {
        self.spots[side.index()].report.as_ref()
    }

    fn clock_ahead(&self) -> Option<(f64, f64)> {
        let ahead = |side: Side| self.spots[side.index()].clock;
        match (ahead(Side::Source), ahead(Side::Destination)) {
            (Some((source, within)), Some((destination, more))) => Some((destination - source, within + more)),
            (Some((source, within)), None) => Some((-source, within)),
            (None, destination) => destination,
        }
    }

    fn name_there(&self) -> String {
        self.spots[Side::Destination.index()].job.clone()
    }

    fn output(&self) -> u64 {
        if self.spots[Side::Source.index()].is_local { u64::MAX } else { self.supervisor.state().log.end() }
    }

    fn pass_on(&mut self, keys: &[u8], piped: &[u8], piped_ended: bool) {
        self.left_over = (keys.to_vec(), piped.to_vec(), piped_ended);
    }

    fn tell(&mut self, news: Reply) {
        if let Reply::Progress { done, total, .. } = &news {
            if done < total && self.told.is_some_and(|told| told.elapsed() < TICK) {
                return;
            }
            self.told = Some(Instant::now());
        }
        self.asker.writer.tell(&news);
    }

    fn enter(&mut self, state: &str) {
        if state == "prepared" && !self.spots[0].is_local {
            self.supervisor.state().moves.holds_input = true;
        }
        self.supervisor.log_move(&self.txn, "mover", state);
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

fn understood(reply: &Reply) -> Result<Outcome, Failed> {
    match reply {
        Reply::Outcome { ran: false, .. } => Ok(Outcome::NotRan),
        Reply::Outcome { ran: true, pid: None, ended: None } => Ok(Outcome::Died),
        Reply::Outcome { ran: true, pid, .. } => Ok(Outcome::Ran { pid: *pid }),
        _ => Err(Failed::new(Class::Remote, "the agent says something else than asked for")),
    }
}

/// Finds out, unattended, what became of a move in whose middle an earlier supervisor was killed.
pub fn ask_for_fate(supervisor: &Arc<Supervisor>, moving: Moving) -> anyhow::Result<()> {
    const TRY_AGAIN: Duration = Duration::from_secs(2);
    let supervisor = Arc::clone(supervisor);
    let asking = move || {
        let until = Instant::now() + transaction::ABANDONED;
        while Instant::now() < until {
            let what = match outcome_of(&supervisor, &moving) {
                Ok(Outcome::NotRan) => Decision::Resume,
                Ok(Outcome::Died) => Decision::Save,
                Ok(Outcome::Ran { .. }) => {
                    let (host, name) = (moving.to.clone(), moving.name_there.clone());
                    Decision::Discard { host, name, relay: true }
                }
                Err(_) => {
                    std::thread::sleep(TRY_AGAIN);
                    continue;
                }
            };
            supervisor.decide(Decided { what, answer: None });
            return;
        }
    };
    std::thread::Builder::new().name("fate".to_owned()).spawn(asking).context("no thread could be made")?;
    Ok(())
}

/// Says to the source of a move, another host, what an earlier supervisor of ours could not say any more.
pub fn tell_source(supervisor: &Arc<Supervisor>, host: String, name: String, request: Request) -> anyhow::Result<()> {
    let supervisor = Arc::clone(supervisor);
    let telling = move || {
        let tell = || -> anyhow::Result<()> {
            let machine = supervisor.machine(&host)?;
            let agent = {
                let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
                machine.agent(&[], &mut Nobody, &mut |_, _| ())?
            };
            agent.ask(&Request::Join { job: name, create: false })?;
            agent.ask(&request).map(drop)
        };
        if let Err(error) = tell() {
            supervisor.log_move("-", "supervisor", &failure::line(&error));
        }
    };
    std::thread::Builder::new().name("source".to_owned()).spawn(telling).context("no thread could be made")?;
    Ok(())
}

/// Asks the destination of a move what became of it.
pub fn outcome_of(supervisor: &Supervisor, moving: &Moving) -> Result<Outcome, Failed> {
    let asked = if moving.to == LOCAL {
        fate::outcome(&supervisor.store, &moving.txn)
    } else {
        supervisor.machine(&moving.to).and_then(|machine| {
            let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
            machine.agent(&[], &mut Nobody, &mut |_, _| ())?.ask(&Request::Outcome { txn: moving.txn.clone() })
        })
    };
    asked.map_err(|error| failed(&error)).and_then(|reply| understood(&reply))
}
