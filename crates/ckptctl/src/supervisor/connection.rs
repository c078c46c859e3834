//! Connections of clients: what they ask, and the output that goes to those who are attached.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use ckpt_core::Class;
use ckpt_transfer::files::{FilesError, below};
use ckpt_transfer::protocol::{HEARTBEAT, Reply, Request, SILENCE, Stream, WindowSize};
use ckpt_transfer::serve::{ServeError, serve};
use ckpt_transfer::store::{Store, StoreError};
use ckpt_transfer::wire::{self, WireError};
use rustix::event::{PollFd, PollFlags, poll};

use super::log::Piece;
use super::moves::{DataChannel, Decided, Decision, Guard};
use super::{Client, MOST_INPUT, Place, State, Supervisor, UNSEEN, arrive, checkpointing, depart, mover};
use crate::door::{Door, LOOK};
use crate::failure;
use crate::jobs::Reason;
use crate::keeper::Order;
use crate::local::Receiver;

/// How much output goes in a message.
const PIECE: usize = 64 << 10;
/// How far back a screenful is looked for.
const SCREENFUL: u64 = 64 << 10;

/// Takes connections in a thread of its own.
pub fn listen(supervisor: &Arc<Supervisor>, mut door: Door) -> anyhow::Result<()> {
    let supervisor = Arc::clone(supervisor);
    let listening = move || {
        loop {
            let mut fds = [PollFd::new(&door.listener, PollFlags::IN)];
            if matches!(poll(&mut fds, Some(&LOOK)), Ok(0)) {
                door.look();
                continue;
            }
            let accepted = door.listener.accept().map_err(anyhow::Error::from);
            let started = accepted.and_then(|(stream, _)| Connection::new(&supervisor, stream)?.start());
            if let Err(error) = started {
                // Too many open files, say: the next client may be luckier, but not at once.
                supervisor.state().note(&failure::line(&error));
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        }
    };
    std::thread::Builder::new().name("listener".to_owned()).spawn(listening).context("no thread could be made")?;
    Ok(())
}

/// The sending half of a connection; messages of several threads do not mix.
#[derive(Debug, Clone)]
pub struct Writer(Arc<Mutex<UnixStream>>);

impl Writer {
    /// Of a socket.
    pub fn new(stream: UnixStream) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    /// Sends a reply.
    pub fn send(&self, reply: &Reply, body: &[u8]) -> Result<(), WireError> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wire::send(&mut *stream, reply, body)
    }

    /// Sends a reply that may come too late for anybody.
    pub fn tell(&self, reply: &Reply) {
        let _ = self.send(reply, &[]);
    }

    /// Says that it could not be done.
    pub fn fail(&self, error: &anyhow::Error) {
        self.tell(&Reply::Failed { message: failure::line(error), exit: failure::class(error) as i32 });
    }

    /// Lets the other side see that nothing more comes.
    pub fn close(&self) {
        // It may have closed it first.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).shutdown(Shutdown::Both);
    }
}

/// A client.
#[derive(Debug)]
pub struct Connection {
    /// The supervisor.
    pub supervisor: Arc<Supervisor>,
    /// What the client says; with some messages come descriptors.
    pub receiver: Receiver,
    /// To answer.
    pub writer: Writer,
    id: u64,
    /// An act that this client asked for is under way, and can be cancelled.
    is_acting: Arc<AtomicBool>,
    /// What ends when this connection does.
    tends: Option<Tends>,
    /// Says from time to time that we live.
    is_beating: bool,
}

/// A part of a move that a connection is responsible for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tends {
    /// The program departs, in this move.
    Departure(String),
    /// A program arrives.
    Arrival,
}

impl Connection {
    /// Counts a client in.
    pub fn new(supervisor: &Arc<Supervisor>, stream: UnixStream) -> io::Result<Self> {
        let writer = Writer::new(stream.try_clone()?);
        let mut state = supervisor.state();
        state.connections += 1;
        state.next_client += 1;
        let id = state.next_client;
        state.clients.insert(id, Client::default());
        drop(state);
        let is_acting = Arc::default();
        Ok(Self {
            supervisor: Arc::clone(supervisor),
            receiver: Receiver::new(stream),
            writer,
            id,
            is_acting,
            tends: None,
            is_beating: false,
        })
    }

    /// From now on output and events are kept for it, until it attaches.
    pub fn expect_to_attach(&self, holds: bool) {
        let mut state = self.supervisor.state();
        let end = state.log.end();
        if let Some(client) = state.clients.get_mut(&self.id) {
            client.position = Some(end);
            client.holds = holds;
        }
    }

    /// Serves it in a thread of its own.
    pub fn start(self) -> anyhow::Result<()> {
        std::thread::Builder::new()
            .name("client".to_owned())
            .spawn(move || self.serve())
            .context("no thread could be made")?;
        Ok(())
    }

    fn serve(mut self) {
        // A stream that breaks or says nonsense is the end of the connection.
        while let Ok(Some((request, body))) = self.receiver.receive::<Request>() {
            if let Err(error) = self.answer(request, &body) {
                self.writer.fail(&error);
            }
        }
    }

    fn answer(&mut self, request: Request, body: &[u8]) -> anyhow::Result<()> {
        match request {
            Request::Status => self.writer.send(&Reply::Status(Box::new(self.supervisor.status()?)), &[])?,
            Request::Attach { from, follow, size } => self.attach(from, follow, size)?,
            Request::Hold => self.change_client(|client| client.holds = true),
            Request::Input | Request::Piped => self.input(request, body),
            Request::InputEnd
            | Request::OutputClosed { .. }
            | Request::Resize { .. }
            | Request::Signal { .. }
            | Request::SignalGroup { .. }
            | Request::Continue => self.pass_on(request),
            Request::Checkpoint { file, stop, codec, self_contained, carry_files, tcp_close } => {
                let reason = Reason::Asked;
                let wish = checkpointing::Wish { file, stop, codec, self_contained, carry_files, tcp_close, reason };
                checkpointing::start(&self.supervisor, wish, self.writer.clone(), &self.is_acting)?;
            }
            Request::Schedule { every, keep, before_move } => {
                self.supervisor.schedule(every, keep, before_move)?;
                self.writer.send(&Reply::Done, &[])?;
            }
            Request::Lacking { .. } | Request::Grown { .. } | Request::Put { .. } | Request::Read { .. } => {
                self.serve_files(request)?;
            }
            Request::Place { files, policy } => {
                arrive::place_ahead(&self.supervisor, &files, policy)?;
                self.writer.send(&Reply::Done, &[])?;
            }
            Request::Survey { policy, with, tcp_close } => {
                let survey = depart::survey(&self.supervisor, policy, &with, tcp_close)?;
                self.writer.send(&Reply::Survey(Box::new(survey)), &[])?;
            }
            Request::Depart(departing) => {
                let txn = departing.txn.clone();
                depart::start(&self.supervisor, *departing, self.writer.clone())?;
                self.tends = Some(Tends::Departure(txn));
            }
            Request::Park | Request::Resume | Request::Discard { .. } | Request::Save => self.decide(request)?,
            Request::Arrive(arriving) => {
                arrive::start(&self.supervisor, *arriving, self.writer.clone())?;
                self.tends = Some(Tends::Arrival);
            }
            Request::Go => self.supervisor.let_go(self.writer.clone())?,
            Request::Data { txn, index, .. } => self.add_channel(txn, index)?,
            Request::Migrate { host, options } => {
                mover::start(&self.supervisor, &host, options, self.writer.clone(), self.id)?;
            }
            Request::Answer { answer } => {
                let state = self.supervisor.state();
                if let Some(mover) = state.moves.mover.as_ref().filter(|mover| mover.client == self.id) {
                    // A mover that has gone asks nothing more.
                    let _ = mover.answers.send(answer);
                }
            }
            Request::Cancel => {
                let state = self.supervisor.state();
                if let Some(mover) = state.moves.mover.as_ref().filter(|mover| mover.client == self.id) {
                    mover.cancel.store(true, Ordering::Relaxed);
                    let _ = mover.answers.send(None);
                }
                let is_saving = state.moves.mover.as_ref().is_some_and(|mover| mover.is_saving_for(self.id));
                drop(state);
                if is_saving || self.is_acting.load(Ordering::Relaxed) {
                    ckpt_core::cancel_flag().store(true, Ordering::Relaxed);
                }
            }
            Request::Heartbeat => self.beat()?,
            other => {
                let what = serde_json::to_value(&other).ok().and_then(|value| Some(value.get("request")?.to_string()));
                let what = what.unwrap_or_default();
                return Err(failure::Failure::new(Class::Usage, format!("a supervisor does not do {what}")).into());
            }
        }
        Ok(())
    }

    /// The other side says that it lives: so do we from now on, and notice when it does not any more.
    fn beat(&mut self) -> anyhow::Result<()> {
        if std::mem::replace(&mut self.is_beating, true) {
            return Ok(());
        }
        self.receiver.stream().set_read_timeout(Some(SILENCE))?;
        self.receiver.stream().set_write_timeout(Some(SILENCE))?;
        let writer = self.writer.clone();
        let beating = move || {
            while writer.send(&Reply::Heartbeat, &[]).is_ok() {
                std::thread::sleep(HEARTBEAT);
            }
        };
        std::thread::Builder::new().name("heartbeat".to_owned()).spawn(beating).context("no thread could be made")?;
        Ok(())
    }

    fn serve_files(&mut self, mut request: Request) -> anyhow::Result<()> {
        if let (Request::Read { path, .. }, Ok(pid)) = (&mut request, self.supervisor.pid()) {
            *path = below(&depart::root_of(pid), path);
        }
        let is_put = matches!(request, Request::Put { .. });
        let Self { receiver, writer, .. } = self;
        let served = serve(&request, &mut Both { receiver, writer }, &Store::open()?);
        let is_understood = matches!(&served, Err(ServeError::Files(FilesError::Store(StoreError::Damaged { .. }))));
        if let Err(error) = served {
            writer.fail(&error.into());
            if is_put && !is_understood {
                // What comes now is not understood any more.
                writer.close();
            }
        }
        Ok(())
    }

    /// What is decided about the departing program.
    fn decide(&mut self, request: Request) -> anyhow::Result<()> {
        let what = match request {
            Request::Park => Decision::Park,
            Request::Resume => Decision::Resume,
            Request::Discard { host, job, relay } => Decision::Discard { host, name: job, relay },
            _ => Decision::Save,
        };
        let txn = self.supervisor.state().moves.departing.as_ref().map(|leave| leave.txn.clone());
        self.tends = txn.map(Tends::Departure);
        if self.supervisor.decide(Decided { what: what.clone(), answer: Some(self.writer.clone()) }) {
            return Ok(());
        }
        self.writer.send(&self.supervisor.settled(&what)?, &[])?;
        Ok(())
    }

    /// A data channel has come.
    fn add_channel(&mut self, txn: String, index: usize) -> anyhow::Result<()> {
        let mut came = self.receiver.take_descriptors();
        let (Some(input), Some(output)) = (came.pop_front(), came.pop_front()) else {
            return Err(failure::Failure::new(Class::Usage, "a data channel comes with two descriptors").into());
        };
        let guard = Guard(Some(self.receiver.stream().try_clone()?));
        self.supervisor.add_channel(DataChannel { txn, index, input, output, guard });
        Ok(())
    }

    fn change_client(&self, change: impl FnOnce(&mut Client)) {
        let mut state = self.supervisor.state();
        state.clients.get_mut(&self.id).map(change);
        drop(state);
        self.supervisor.tell_all();
    }

    fn attach(&mut self, from: Option<u64>, follow: bool, size: Option<WindowSize>) -> anyhow::Result<()> {
        let mut state = self.supervisor.state();
        let rows = usize::from(size.unwrap_or(UNSEEN).rows.max(2) - 1);
        let end = state.log.end();
        let expected = state.clients.get(&self.id).and_then(|client| client.position);
        let from = match from.or(expected) {
            Some(from) => from.min(end),
            None => state.log.lines_back(rows, SCREENFUL).context("the log cannot be read")?,
        };
        let has_terminal = match &state.place {
            Place::Here(here) => (0..3).any(|fd| here.outlets.get(fd).is_none()),
            _ => state.job.as_ref().is_none_or(|job| job.pipes.len() < 3),
        };
        let now = state.what_is();
        if let Some(client) = state.clients.get_mut(&self.id) {
            client.position = Some(from);
            if expected.is_none() {
                client.events.extend(now.map(|what| (end, what)));
            }
        }
        drop(state);
        if let Some(size) = size {
            self.pass_on(Request::Resize { size });
        }
        self.writer.send(&Reply::Attached { from, terminal: has_terminal }, &[])?;
        let sending = Sending {
            supervisor: Arc::clone(&self.supervisor),
            writer: self.writer.clone(),
            id: self.id,
            until: if follow { None } else { Some(end) },
        };
        std::thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || sending.run())
            .context("no thread could be made")?;
        Ok(())
    }

    /// Typed and piped input waits until there is room for it.
    fn input(&self, request: Request, body: &[u8]) {
        let is_typed = request == Request::Input;
        let mut state = self.supervisor.state();
        loop {
            match &state.place {
                Place::Away(_) if state.moves.holds_input => {
                    state = self.supervisor.wait(state);
                    continue;
                }
                Place::Away(away) => {
                    // A link that has gone takes nothing; what is typed into a dead connection is lost in any terminal.
                    let _ = away.forward.send((request, body.to_vec()));
                    return;
                }
                Place::Nowhere | Place::Ended(_) | Place::Saved(_) => return,
                Place::Here(here) if !is_typed && here.outlets.get(0).is_none() => return,
                Place::Here(_) => {}
            }
            let queued = if is_typed { state.keys.len() } else { state.piped.len() };
            if queued < MOST_INPUT {
                break;
            }
            state = self.supervisor.wait(state);
        }
        if is_typed {
            state.keys.extend(body);
            let size = state.clients.get(&self.id).and_then(|client| client.size);
            if let (Some(size), Place::Here(here)) = (size, &state.place)
                && here.terminal.size() != size
            {
                // The terminal is as large as that of whoever types. One that cannot be resized stays as it is.
                let _ = here.terminal.set_size(size);
            }
        } else {
            state.piped.extend(body);
        }
        drop(state);
        self.supervisor.tell_all();
    }

    /// What is for the program, wherever it is.
    fn pass_on(&self, request: Request) {
        let mut state = self.supervisor.state();
        if let Request::Resize { size } = request
            && let Some(client) = state.clients.get_mut(&self.id)
        {
            client.size = Some(size);
        }
        let State { place, piped_ended, clients, log, .. } = &mut *state;
        match place {
            Place::Here(here) => match request {
                Request::InputEnd => *piped_ended = true,
                Request::OutputClosed { stream } => {
                    let fd = if stream == Stream::Error { 2 } else { 1 };
                    here.outlets.take(fd);
                    here.keeper.tell(&Order::Close { fd });
                }
                // A terminal that cannot be resized stays as it is.
                Request::Resize { size } => drop(here.terminal.set_size(size)),
                Request::Signal { signal } => here.signal(signal),
                Request::SignalGroup { signal } => here.signal_foreground(signal),
                Request::Continue if here.process.state() == Some('T') => {
                    here.resume();
                    let at = log.end();
                    for client in clients.values_mut() {
                        client.events.push_back((at, Reply::Continued));
                    }
                }
                _ => {}
            },
            Place::Away(away) => drop(away.forward.send((request, Vec::new()))),
            Place::Nowhere | Place::Ended(_) | Place::Saved(_) => {}
        }
        drop(state);
        self.supervisor.tell_all();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.writer.close();
        match &self.tends {
            Some(Tends::Departure(txn)) => self.supervisor.lost(txn),
            Some(Tends::Arrival) => self.supervisor.call_arrival_off(),
            None => {}
        }
        let mut state = self.supervisor.state();
        state.clients.remove(&self.id);
        state.connections -= 1;
        drop(state);
        self.supervisor.tell_all();
    }
}

impl State {
    /// What a client that comes now has to know.
    fn what_is(&self) -> Option<Reply> {
        match &self.place {
            Place::Here(here) if here.stopped && here.process.state() == Some('T') => Some(Reply::Stopped),
            Place::Away(away) => Some(Reply::Moved { host: away.host.clone(), reached: away.reached }),
            Place::Ended(ending) => Some(Reply::Ended(*ending)),
            Place::Saved(image) => Some(Reply::Left { image: image.clone() }),
            Place::Nowhere | Place::Here(_) => None,
        }
    }
}

/// Both halves of a connection.
struct Both<'a> {
    receiver: &'a mut Receiver,
    writer: &'a Writer,
}

impl io::Read for Both<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receiver.read(buffer)
    }
}

impl io::Write for Both<'_> {
    /// A whole message, so that those of other threads do not mix with it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What goes to an attached client.
struct Sending {
    supervisor: Arc<Supervisor>,
    writer: Writer,
    id: u64,
    /// Where it ends; for who does not follow.
    until: Option<u64>,
}

enum Next {
    Output(Piece),
    Event(Reply),
    Nothing,
}

impl Sending {
    fn run(self) {
        loop {
            let sent = match self.next() {
                Next::Output(piece) => self.output(&piece),
                Next::Event(event) => {
                    let is_last = matches!(event, Reply::Ended(_) | Reply::Left { .. });
                    let sent = self.writer.send(&event, &[]).map_err(anyhow::Error::from);
                    if is_last {
                        return;
                    }
                    sent
                }
                Next::Nothing => return,
            };
            if let Err(error) = sent {
                self.writer.fail(&error);
                self.writer.close();
                return;
            }
        }
    }

    fn output(&self, piece: &Piece) -> anyhow::Result<()> {
        let bytes = piece.bytes().context("the log cannot be read")?;
        self.writer.send(&Reply::Output { stream: piece.stream, offset: piece.offset }, &bytes)?;
        let mut state = self.supervisor.state();
        let Some(client) = state.clients.get_mut(&self.id) else { return Ok(()) };
        client.position = Some(piece.end());
        let holds = client.holds;
        drop(state);
        if holds {
            self.supervisor.tell_all();
        }
        Ok(())
    }

    fn next(&self) -> Next {
        let mut state = self.supervisor.state();
        loop {
            let State { clients, log, .. } = &mut *state;
            let Some(client) = clients.get_mut(&self.id) else { return Next::Nothing };
            let position = client.position.unwrap_or_else(|| log.end());
            if client.events.front().is_some_and(|(at, _)| *at <= position)
                && let Some((_, event)) = client.events.pop_front()
            {
                return Next::Event(event);
            }
            if self.until.is_some_and(|until| until <= position) {
                return Next::Event(Reply::Done);
            }
            // Not further than to what happened next.
            let next = client.events.front().map(|(at, _)| *at).into_iter().chain(self.until).min();
            let most = next.map_or(PIECE, |at| usize::try_from(at - position).unwrap_or(PIECE).min(PIECE));
            match log.piece(position, most) {
                Some(piece) => return Next::Output(piece),
                None => state = self.supervisor.wait(state),
            }
        }
    }
}
