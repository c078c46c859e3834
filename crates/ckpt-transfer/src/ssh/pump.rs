//! A channel as a socket: a thread copies both ways, and neither way waits for the other.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::channel::{Channel, one_line};
use super::link::{Pulse, is_again};
use super::{SshError, SshFault};

const PIECE: usize = 128 << 10;

/// What became of a channel that is copied by a thread.
#[derive(Debug, Clone, Default)]
pub struct Fate(Arc<(Mutex<Option<String>>, Condvar)>);

impl Fate {
    /// Why it ended, with the status and the standard error of what ran there; `None` while it goes on.
    #[must_use]
    pub fn why(&self) -> Option<String> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for its end.
    #[must_use]
    pub fn wait(&self, at_most: Duration) -> Option<String> {
        let why = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.0.1.wait_timeout_while(why, at_most, |why| why.is_none());
        result.map_or_else(|error| error.into_inner().0.clone(), |(why, _)| why.clone())
    }

    fn settle(&self, why: String) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.0.1.notify_all();
    }
}

pub fn start(channel: Channel, ahead: Vec<u8>) -> Result<(UnixStream, Fate), SshError> {
    let host = channel.link.host.clone();
    let failed = move |error: io::Error| {
        let what = format!("no socket or thread can be had here: {error}");
        SshError::new(SshFault::Configuration, &host, what, "close programs, or raise the limits of this user")
    };
    let (ours, theirs) = UnixStream::pair().map_err(&failed)?;
    ours.set_nonblocking(true).map_err(&failed)?;
    let fate = Fate::default();
    let told = fate.clone();
    let thread = std::thread::Builder::new().name(format!("ssh {}", channel.link.host));
    let copying = move || {
        let mut pump = Pump::new(channel, ours, ahead);
        // Told before the socket closes: who finds it closed asks why at once.
        told.settle(pump.run());
        pump.leave();
    };
    thread.spawn(copying).map_err(&failed)?;
    Ok((theirs, fate))
}

#[allow(clippy::struct_excessive_bools, reason = "each end and each direction closes on its own")]
struct Pump {
    channel: Channel,
    local: UnixStream,
    /// On its way there. libssh2 wants to see the same bytes again until it has taken them.
    outward: Piece,
    /// On its way here.
    inward: Piece,
    budget: Option<Budget>,
    /// No more comes from here.
    local_ended: bool,
    /// Nobody is there any more to read here.
    is_left: bool,
    end_is_sent: bool,
    remote_ended: bool,
}

/// Bytes on their way.
struct Piece {
    bytes: Vec<u8>,
    from: usize,
    until: usize,
}

impl Piece {
    fn new() -> Self {
        Self { bytes: vec![0; PIECE], from: 0, until: 0 }
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.from..self.until]
    }

    fn is_empty(&self) -> bool {
        self.from == self.until
    }

    fn fill(&mut self, from: &mut impl Read) -> io::Result<usize> {
        let count = from.read(&mut self.bytes)?;
        (self.from, self.until) = (0, count);
        Ok(count)
    }
}

enum Step {
    Moved,
    Nothing,
    End(String),
}

impl Pump {
    fn new(channel: Channel, local: UnixStream, ahead: Vec<u8>) -> Self {
        let mut inward = Piece::new();
        if !ahead.is_empty() {
            inward.until = ahead.len();
            inward.bytes = ahead;
            inward.bytes.resize(inward.until.max(PIECE), 0);
        }
        let budget = channel.rate.map(Budget::new);
        Self {
            channel,
            local,
            outward: Piece::new(),
            inward,
            budget,
            local_ended: false,
            is_left: false,
            end_is_sent: false,
            remote_ended: false,
        }
    }

    /// Copies until either end closes; why it ended.
    fn run(&mut self) -> String {
        let link = self.channel.link.clone();
        link.ssh.set_blocking(false);
        let mut pulse = Pulse::new(&link);
        loop {
            match self.step() {
                Ok(Step::Moved) => continue,
                Ok(Step::End(why)) => return why,
                Ok(Step::Nothing) => {}
                Err(error) => {
                    return link.failed("the connection", &format!("{error}{}", self.said())).to_string();
                }
            }
            let pause = self.budget.as_mut().and_then(Budget::pause);
            let mut ssh = PollFlags::empty();
            if !self.outward.is_empty() || !self.end_is_sent && self.local_ended {
                ssh |= link.events();
            }
            if self.inward.is_empty() && pause.is_none() {
                ssh |= PollFlags::IN;
            }
            let mut here = PollFlags::empty();
            here.set(PollFlags::IN, self.outward.is_empty() && !self.local_ended && pause.is_none());
            here.set(PollFlags::OUT, !self.inward.is_empty());
            let socket = link.socket();
            let local = self.local.as_fd();
            let mut fds = [PollFd::new(&socket, ssh), PollFd::new(&local, here)];
            // A socket that nobody holds any more would be ready for ever.
            let watched = if self.is_left { &mut fds[..1] } else { &mut fds[..] };
            if let Err(error) = pulse.wait(watched, ssh.contains(PollFlags::IN), pause) {
                return format!("{error}{}", self.said());
            }
            self.is_left |= fds[1].revents().intersects(PollFlags::HUP | PollFlags::ERR);
            if self.is_left && self.outward.is_empty() && self.local_ended {
                return "closed here".to_owned();
            }
        }
    }

    fn step(&mut self) -> io::Result<Step> {
        let mut moved = false;
        if self.outward.is_empty() && !self.local_ended && self.has_budget() {
            match self.outward.fill(&mut self.local) {
                Ok(0) => self.local_ended = true,
                Ok(_) => moved = true,
                Err(error) if is_again(&error) => {}
                Err(_) => self.local_ended = true,
            }
        }
        let mut is_shut = false;
        if !self.outward.is_empty() {
            is_shut = self.channel.ssh.write_window().remaining == 0;
            match self.channel.ssh.write(self.outward.rest()) {
                Ok(0) => {}
                Ok(count) => {
                    self.outward.from += count;
                    self.spend(count);
                    moved = true;
                }
                Err(error) if is_again(&error) => {}
                // It takes nothing any more; what it has said may still be read.
                Err(_) if self.channel.ssh.eof() => (self.outward.from, self.local_ended) = (self.outward.until, true),
                Err(error) => return Err(error),
            }
        }
        if self.local_ended && self.outward.is_empty() && !self.end_is_sent {
            match self.channel.ssh.send_eof().map_err(io::Error::from) {
                Ok(()) => (self.end_is_sent, moved) = (true, true),
                Err(error) if is_again(&error) => {}
                Err(_) if self.channel.ssh.eof() => self.end_is_sent = true,
                Err(error) => return Err(error),
            }
        }
        if let Some(end) = self.take_in(&mut moved)? {
            return Ok(Step::End(end));
        }
        // Reading may have brought leave to write.
        let is_open = is_shut && !self.outward.is_empty() && self.channel.ssh.write_window().remaining > 0;
        Ok(if moved || is_open { Step::Moved } else { Step::Nothing })
    }

    /// From there to here.
    fn take_in(&mut self, moved: &mut bool) -> io::Result<Option<String>> {
        self.channel.stderr.drain(&self.channel.ssh)?;
        if self.inward.is_empty() && !self.remote_ended && self.has_budget() {
            match self.inward.fill(&mut self.channel.ssh) {
                Ok(0) if self.channel.ssh.eof() => self.remote_ended = true,
                Ok(0) => {}
                Ok(count) => {
                    self.spend(count);
                    *moved = true;
                }
                Err(error) if is_again(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if !self.inward.is_empty() {
            match self.local.write(self.inward.rest()) {
                Ok(count) => {
                    self.inward.from += count;
                    *moved = true;
                }
                Err(error) if is_again(&error) => {}
                Err(_) => return Ok(Some("closed here".to_owned())),
            }
        }
        if self.remote_ended && self.inward.is_empty() {
            return Ok(Some(self.how_it_ended()));
        }
        Ok(None)
    }

    fn how_it_ended(&mut self) -> String {
        let limit = Some(Duration::from_secs(3));
        let Channel { link, ssh, .. } = &mut self.channel;
        // Its end is told whether or not its status comes.
        let closed = link.wait("closing a channel", limit, || ssh.close());
        let drained = self.channel.stderr.drain(&self.channel.ssh);
        let signal = self.channel.ssh.exit_signal().ok().and_then(|signal| signal.exit_signal);
        let how = match (closed, drained, signal) {
            (Ok(()), Ok(()), Some(signal)) => format!("signal {signal}"),
            (Ok(()), Ok(()), None) => format!("exit status {}", self.channel.ssh.exit_status().unwrap_or(-1)),
            _ => "its status did not come".to_owned(),
        };
        format!("{}: ended there with {how}{}", self.channel.link.host, self.said())
    }

    /// Closes the socket such that its other end finds an end and no error: what is not read yet would make it one.
    fn leave(mut self) {
        if self.local.shutdown(Shutdown::Both).is_ok() {
            while self.outward.fill(&mut self.local).is_ok_and(|count| count > 0) {}
        }
    }

    fn said(&self) -> String {
        let said = one_line(&self.channel.stderr.text());
        if said.is_empty() { said } else { format!("; it said: {said}") }
    }

    fn has_budget(&mut self) -> bool {
        self.budget.as_mut().is_none_or(|budget| budget.pause().is_none())
    }

    fn spend(&mut self, bytes: usize) {
        if let Some(budget) = &mut self.budget {
            budget.spend(bytes);
        }
    }
}

/// Bytes per second: what is not used within a quarter of a second is lost.
struct Budget {
    rate: f64,
    left: f64,
    counted: Instant,
}

impl Budget {
    const BURST: f64 = 0.25;

    #[allow(clippy::cast_precision_loss, reason = "a rate need not be exact to the byte")]
    fn new(rate: u64) -> Self {
        Self { rate: rate.max(1) as f64, left: 0.0, counted: Instant::now() }
    }

    /// How long to wait before anything may go.
    fn pause(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let gained = now.duration_since(self.counted).as_secs_f64() * self.rate;
        self.counted = now;
        self.left = (self.left + gained).min(self.rate * Self::BURST);
        (self.left < 0.0).then(|| Duration::from_secs_f64((-self.left / self.rate).min(1.0)))
    }

    #[allow(clippy::cast_precision_loss, reason = "a rate need not be exact to the byte")]
    fn spend(&mut self, bytes: usize) {
        self.left -= bytes as f64;
    }
}
