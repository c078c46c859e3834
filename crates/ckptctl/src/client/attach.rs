//! Being attached to a job: its output comes here, keys go there, until it ends or we detach.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use ckpt_core::Class;
use ckpt_core::resource::bytes::Bytes;
use ckpt_transfer::protocol::{Ending, Reply, Request, Stream, WindowSize};
use ckpt_transfer::wire;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{FileType, fstat};
use rustix::process::{Signal, getpgrp, getpid, getsid, kill_process, kill_process_group};
use rustix::termios::isatty;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;

use super::connect::connect;
use super::keys::{DetachKey, Keys};
use super::screen::{Screen, give_back};
use crate::failure::{self, Failure};
use crate::jobs::JobStore;
use crate::modes::Modes;
use crate::text;

/// How often a job's supervisor may be lost within [`CALM`] before we give up. One that is being killed is lost more than once:
/// its socket still takes connections.
const MOST_LOSSES: usize = 100;
const CALM: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);
/// How often we look whether a shell has put us into the foreground.
const BACKGROUND: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// How to be attached.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attaching {
    /// Keys, signals and sizes stay here.
    pub read_only: bool,
    /// Standard input is a pipe whose contents go to the program.
    pub pipes_input: bool,
    /// We have started the program: signals to us are for it, and what its terminal shows does not go into our pipes.
    pub is_launcher: bool,
    /// What is typed to leave it, before d.
    pub detach_key: DetachKey,
}

/// How it came to an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The program ended.
    Ended(Ending),
    /// It was ended when its image was complete.
    Saved(Bytes),
    /// The user has left, or the terminal has.
    Detached,
}

/// Everything that threads of an attached client share.
pub struct Session {
    screen: Option<Screen>,
    /// The connection; none while it is lost.
    connection: Mutex<Option<UnixStream>>,
    is_connected: Condvar,
    has_left: AtomicBool,
    /// The program is stopped, and so are we to be.
    is_stopped: AtomicBool,
    wake: OwnedFd,
}

impl Session {
    /// Finds the terminal, whose keys may be for others. From now on signals to us are handled.
    pub fn begin(only_shows: bool) -> anyhow::Result<(Arc<Self>, SignalsInfo<WithOrigin>)> {
        let all = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT, SIGTSTP];
        let signals = SignalsInfo::<WithOrigin>::new(all).context("the signal handlers cannot be installed")?;
        let session = Self {
            screen: Screen::find(only_shows),
            connection: Mutex::new(None),
            is_connected: Condvar::new(),
            has_left: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC).context("no eventfd could be made")?,
        };
        Ok((Arc::new(session), signals))
    }

    /// The user's terminal.
    pub fn screen(&self) -> Option<&Screen> {
        self.screen.as_ref()
    }

    /// Sends something to the supervisor; while that is being replaced, when there is a new one.
    fn send(&self, request: &Request, body: &[u8]) {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.has_left.load(Ordering::Relaxed) {
            match connection.take() {
                Some(stream) => {
                    if wire::send(&mut &stream, request, body).is_ok() {
                        *connection = Some(stream);
                        return;
                    }
                }
                None => connection = self.is_connected.wait(connection).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn connected(&self, stream: UnixStream) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        self.is_connected.notify_all();
    }

    /// Leaves the job to itself: the connection ends.
    fn leave(&self) {
        self.has_left.store(true, Ordering::Relaxed);
        if let Some(stream) = &*self.connection.lock().unwrap_or_else(PoisonError::into_inner) {
            // It may have ended by itself.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        self.is_connected.notify_all();
        self.wake();
    }

    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Takes the terminal (again), and tells the job its size unless it is only shown.
    fn take_terminal(&self, only_shows: bool) {
        if let Some(screen) = &self.screen {
            screen.lend();
            if let Some(size) = screen.size().filter(|_| !only_shows && screen.is_ours()) {
                self.send(&Request::Resize { size }, &[]);
            }
        }
    }
}

/// Stays attached to a job until it ends or is detached from. `first` is a connection that exists already and on which nothing
/// was asked for yet; `from` the output offset to begin with, none for what that connection was told to keep or a screenful.
pub fn attach(
    store: &JobStore,
    name: &str,
    (session, signals): (Arc<Session>, SignalsInfo<WithOrigin>),
    first: Option<UnixStream>,
    from: Option<u64>,
    attaching: Attaching,
) -> anyhow::Result<Outcome> {
    let mut viewer = Viewer::new(Arc::clone(&session), attaching, from, store.directory(name));
    let closing = signals.handle();
    {
        let session = Arc::clone(&session);
        std::thread::spawn(move || handle_signals(&session, signals, attaching));
    }
    if let Some(screen) = &session.screen
        && attaching.read_only
    {
        screen.lend();
    }
    if !attaching.read_only {
        if let Some(screen) = &session.screen {
            if isatty(rustix::stdio::stderr()) {
                eprintln!("ckptctl: attached to {name}; detach with {} d", attaching.detach_key);
            }
            screen.lend();
            let session = Arc::clone(&session);
            std::thread::spawn(move || send_keys(&session, attaching.detach_key));
        }
        if attaching.pipes_input {
            let session = Arc::clone(&session);
            std::thread::spawn(move || send_pipe(&session));
        }
    }
    let outcome = viewer.stay(store, name, first);
    if !matches!(outcome, Ok(Outcome::Ended(Ending::Exited(_)))) {
        // The program, which would do that itself, goes on or could not any more. A terminal that has gone needs nothing.
        let _ = io::stdout().lock().write_all(viewer.modes.undo().as_bytes());
    }
    give_back();
    closing.close();
    outcome
}

/// Who shows the output.
struct Viewer {
    session: Arc<Session>,
    attaching: Attaching,
    /// The offset of the next byte to be shown.
    next: Option<u64>,
    /// Which of our outputs nobody reads any more: 1, 2.
    closed: [bool; 3],
    /// What the user's terminal has been told.
    modes: Modes,
    /// Where the job's log is.
    directory: PathBuf,
}

impl Viewer {
    fn new(session: Arc<Session>, attaching: Attaching, from: Option<u64>, directory: PathBuf) -> Self {
        Self { session, attaching, next: from, closed: [false; 3], modes: Modes::default(), directory }
    }

    /// Shows what comes, also over the supervisor's death.
    fn stay(&mut self, store: &JobStore, name: &str, first: Option<UnixStream>) -> anyhow::Result<Outcome> {
        let mut losses: Vec<Instant> = Vec::new();
        let mut first = first;
        loop {
            let stream = match first.take() {
                Some(stream) => stream,
                None => match self.reach(store, name)? {
                    Ok(stream) => stream,
                    Err(outcome) => return Ok(outcome),
                },
            };
            if let Some(outcome) = self.follow(&stream)? {
                return Ok(outcome);
            }
            if self.session.has_left.load(Ordering::Relaxed) {
                return Ok(Outcome::Detached);
            }
            losses.retain(|at| at.elapsed() < CALM);
            losses.push(Instant::now());
            if losses.len() > MOST_LOSSES {
                let message = format!("the supervisor of {name} ends again and again; `ckptctl ps` tells what is left");
                return Err(Failure::new(Class::Failed, message).into());
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Connects again, or learns how it ended.
    fn reach(&mut self, store: &JobStore, name: &str) -> anyhow::Result<Result<UnixStream, Outcome>> {
        let job = store.job(name)?;
        match connect(store, &job) {
            Ok(stream) => Ok(Ok(stream)),
            Err(error) => {
                let job = store.job(name)?;
                self.show_rest(store, name)?;
                match (job.saved, job.ending) {
                    (Some(image), _) => Ok(Err(Outcome::Saved(image))),
                    (None, Some(ending)) => Ok(Err(Outcome::Ended(ending.ending()))),
                    (None, None) => Err(error),
                }
            }
        }
    }

    /// What is in the log of a job that has no supervisor any more.
    fn show_rest(&mut self, store: &JobStore, name: &str) -> anyhow::Result<()> {
        let log = crate::supervisor::Log::view(&store.directory(name)).context("the log cannot be read")?;
        for piece in log.pieces(self.next.unwrap_or(log.end()), log.end()) {
            let bytes = piece.bytes().context("the log cannot be read")?;
            self.show(piece.stream, piece.offset, &bytes)?;
        }
        Ok(())
    }

    /// Shows what comes over one connection; `None` when it was lost.
    fn follow(&mut self, stream: &UnixStream) -> anyhow::Result<Option<Outcome>> {
        let size = self.session.screen.as_ref().filter(|screen| screen.is_ours()).and_then(Screen::size);
        let size = size.filter(|_| !self.attaching.read_only);
        let asked = wire::send(&mut &*stream, &Request::Attach { from: self.next, follow: true, size }, &[]);
        if self.attaching.is_launcher && asked.is_ok() {
            // A connection that is lost here is found lost below.
            let _ = wire::send(&mut &*stream, &Request::Hold, &[]);
        }
        self.session.connected(stream.try_clone().context("no descriptor is left")?);
        loop {
            let Ok(Some((reply, body))) = wire::receive::<Reply>(&mut &*stream) else { return Ok(None) };
            match reply {
                Reply::Attached { from, .. } => {
                    if self.next.is_none() && size.is_some() && !self.attaching.is_launcher {
                        self.set_up();
                    }
                    self.next.get_or_insert(from);
                }
                Reply::Output { stream, offset } => self.show(stream, offset, &body)?,
                Reply::InputClosed => stop_reading(),
                Reply::Stopped => self.stop_too(),
                Reply::Moved { host, reached } => say(
                    &self.session,
                    &if reached {
                        format!("it runs on {host} now")
                    } else {
                        format!("the connection to {host} is lost; the program runs on there")
                    },
                ),
                Reply::Ended(ending) => return Ok(Some(Outcome::Ended(ending))),
                Reply::Left { image } => return Ok(Some(Outcome::Saved(image))),
                Reply::Failed { message, exit } => return Err(Failure::of_exit(exit, message).into()),
                _ => {}
            }
        }
    }

    /// Has the user's terminal as the program's is. One that shows itself on a screen of its own draws that anew when the size
    /// changes.
    fn set_up(&mut self) {
        let log = crate::supervisor::Log::view(&self.directory);
        // Without a log there is nothing to go by.
        let Ok(now) = log.and_then(|log| log.modes()) else { return };
        let set_up = now.set_up();
        // A terminal that has gone is found out by what comes.
        let _ = io::stdout().lock().write_all(set_up.as_bytes());
        self.modes.see(set_up.as_bytes());
        if let Some(size) = self.session.screen.as_ref().and_then(Screen::size).filter(|_| now.is_full_screen()) {
            let smaller = WindowSize { rows: size.rows.saturating_sub(1).max(1), ..size };
            for size in [smaller, size] {
                self.session.send(&Request::Resize { size }, &[]);
            }
        }
    }

    fn show(&mut self, stream: Stream, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        if let Some(gone) = self.next.and_then(|next| offset.checked_sub(next)).filter(|gone| *gone > 0) {
            say(&self.session, &format!("{} of output are gone: the log does not reach back so far", text::size(gone)));
        }
        self.next = Some(offset + bytes.len() as u64);
        let Some(fd) = self.output(stream) else { return Ok(()) };
        let index = usize::from(fd == 2) + 1;
        if self.closed[index] {
            return Ok(());
        }
        let is_raw = self.session.screen.as_ref().is_some_and(Screen::is_raw);
        let is_terminal = if fd == 2 { isatty(rustix::stdio::stderr()) } else { isatty(rustix::stdio::stdout()) };
        let shown =
            if stream != Stream::Terminal && is_raw && is_terminal { with_returns(bytes) } else { bytes.to_vec() };
        if is_terminal {
            self.modes.see(&shown);
        }
        let written = if fd == 2 {
            io::stderr().lock().write_all(&shown)
        } else {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&shown).and_then(|()| stdout.flush())
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && stream != Stream::Terminal => {
                self.closed[index] = true;
                self.session.send(&Request::OutputClosed { stream }, &[]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe || is_terminal => {
                // Nobody looks any more.
                self.session.leave();
                Ok(())
            }
            result => result.context("the output cannot be written; see where it leads to"),
        }
    }

    /// Which of our outputs a stream goes to.
    fn output(&self, stream: Stream) -> Option<i32> {
        match stream {
            Stream::Output => Some(1),
            Stream::Error => Some(2),
            Stream::Terminal if isatty(rustix::stdio::stdout()) => Some(1),
            Stream::Terminal if isatty(rustix::stdio::stderr()) => Some(2),
            // A program that was started with pipes only has written to its terminal by itself.
            Stream::Terminal => (!self.attaching.is_launcher).then_some(1),
        }
    }

    /// The program was stopped: where a shell can continue us, we stop too.
    fn stop_too(&self) {
        let has_shell = getsid(None).is_ok_and(|session| session != getpid());
        if self.attaching.read_only || !has_shell || !self.session.screen.as_ref().is_some_and(Screen::is_ours) {
            say(&self.session, "the program was stopped by a signal");
            return;
        }
        self.session.is_stopped.store(true, Ordering::Relaxed);
        // All of the pipeline, as the key would have done. What becomes of us: see the signals.
        let _ = kill_process_group(getpgrp(), Signal::TSTP);
    }
}

/// Says something beside the job's output; not into a file, which is the program's.
fn say(session: &Session, what: &str) {
    if fstat(rustix::stdio::stderr()).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile) {
        return;
    }
    let is_raw = session.screen.as_ref().is_some_and(Screen::is_raw);
    let end = if is_raw { "\r\n" } else { "\n" };
    // Where standard error leads nowhere, there is no other place.
    let _ = write!(io::stderr().lock(), "ckptctl: {}{end}", text::plain(what));
}

/// Nobody wants what is piped in: whoever writes it learns that.
fn stop_reading() {
    if let Ok(null) = std::fs::File::open("/dev/null") {
        // Where it stays open, the other side waits until the program ends.
        let _ = rustix::stdio::dup2_stdin(null);
    }
}

/// Lines of a pipe on a raw terminal need their returns.
fn with_returns(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 64);
    for byte in bytes {
        if *byte == b'\n' {
            out.push(b'\r');
        }
        out.push(*byte);
    }
    out
}

fn handle_signals(session: &Arc<Session>, mut signals: SignalsInfo<WithOrigin>, attaching: Attaching) {
    for origin in &mut signals {
        match origin.signal {
            SIGWINCH if !attaching.read_only => {
                if let Some(size) = session.screen.as_ref().filter(|screen| screen.is_ours()).and_then(Screen::size) {
                    session.send(&Request::Resize { size }, &[]);
                }
            }
            SIGWINCH => {}
            SIGTSTP => {
                give_back();
                // SIGSTOP cannot fail for ourselves. We go on here when somebody continues us.
                let _ = kill_process(getpid(), Signal::STOP);
            }
            SIGCONT => {
                session.take_terminal(attaching.read_only);
                if session.is_stopped.swap(false, Ordering::Relaxed) {
                    session.send(&Request::Continue, &[]);
                }
                session.wake();
            }
            SIGHUP if session.screen.as_ref().is_some_and(|screen| !screen.is_there()) => session.leave(),
            signal if !attaching.is_launcher => {
                // Whoever only looks on ends as usual, and the job goes on.
                give_back();
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
            signal if origin.process.is_some() => session.send(&Request::Signal { signal }, &[]),
            // A key of a terminal that is not raw.
            signal => session.send(&Request::SignalGroup { signal }, &[]),
        }
    }
}

/// Sends what is typed, whenever we are in the foreground.
fn send_keys(session: &Arc<Session>, detach_key: DetachKey) {
    let Some(screen) = &session.screen else { return };
    let mut keys = Keys::new(detach_key);
    let mut buffer = [0; 4096];
    let mut was_ours = screen.is_ours();
    while !session.has_left.load(Ordering::Relaxed) {
        let is_ours = screen.is_ours();
        if is_ours && !was_ours {
            session.take_terminal(false);
        }
        was_ours = is_ours;
        let wanted = if is_ours { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = [PollFd::new(screen, wanted), PollFd::new(&session.wake, PollFlags::IN)];
        match poll(&mut fds, (!is_ours).then_some(&BACKGROUND)) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        if !fds[1].revents().is_empty() {
            let _ = rustix::io::read(&session.wake, &mut [0; 8]);
            continue;
        }
        let (is_typed, is_gone) = (fds[0].revents().contains(PollFlags::IN), fds[0].revents().contains(PollFlags::HUP));
        if !is_gone && (!is_typed || !screen.is_ours()) {
            continue;
        }
        let Ok(count @ 1..) = screen.read(&mut buffer) else {
            // The terminal has gone.
            session.leave();
            return;
        };
        let (theirs, detach) = keys.sort(&buffer[..count]);
        if !theirs.is_empty() {
            session.send(&Request::Input, &theirs);
        }
        if detach {
            session.leave();
        }
    }
}

/// Sends what comes over the pipe that is standard input.
fn send_pipe(session: &Arc<Session>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match rustix::io::retry_on_intr(|| rustix::io::read(rustix::stdio::stdin().as_fd(), &mut buffer[..])) {
            Ok(count @ 1..) => session.send(&Request::Piped, &buffer[..count]),
            Ok(_) => return session.send(&Request::InputEnd, &[]),
            Err(error) => {
                let error = anyhow::Error::from(io::Error::from(error)).context("standard input cannot be read");
                say(session, &failure::line(&error));
                return session.send(&Request::InputEnd, &[]);
            }
        }
    }
}
