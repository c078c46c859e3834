//! Waiting on a session that does not block, and noticing that it is dead.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, ErrorCode};

use super::{Fate, SshError, SshFault};

/// How long nothing may come although the server was asked whether it lives.
pub const SILENCE: Duration = Duration::from_secs(20);

/// `LIBSSH2_ERROR_EAGAIN`.
const AGAIN: ErrorCode = ErrorCode::Session(-37);

/// A session, with what is needed to wait on it.
#[derive(Clone)]
pub struct Link {
    pub ssh: ssh2::Session,
    /// The same socket as libssh2's, to poll.
    socket: Arc<OwnedFd>,
    pub host: String,
    keepalive: Duration,
    /// What the connection goes through, and why that ended.
    below: Option<Fate>,
}

impl Link {
    pub fn new(ssh: ssh2::Session, socket: OwnedFd, host: &str, keepalive: Duration, below: Option<Fate>) -> Self {
        let seconds = u32::try_from(keepalive.as_secs()).unwrap_or(u32::MAX);
        ssh.set_keepalive(true, seconds.max(2));
        Self { ssh, socket: Arc::new(socket), host: host.to_owned(), keepalive, below }
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Does `act` until it does not want to wait any more.
    pub fn wait<T>(
        &self,
        what: &str,
        limit: Option<Duration>,
        mut act: impl FnMut() -> Result<T, ssh2::Error>,
    ) -> Result<T, SshError> {
        self.ssh.set_blocking(false);
        let begun = Instant::now();
        let mut pulse = Pulse::new(self);
        loop {
            match act() {
                Err(error) if error.code() == AGAIN => {}
                Err(error) => return Err(self.failed(what, &error.to_string())),
                Ok(value) => return Ok(value),
            }
            let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
            if left.is_some_and(|left| left.is_zero()) {
                let seconds = limit.unwrap_or_default().as_secs();
                return Err(self.failed(what, &format!("no answer within {seconds} s")));
            }
            pulse.wait_for_ssh(left)?;
        }
    }

    /// What libssh2 waits for.
    pub fn events(&self) -> PollFlags {
        match self.ssh.block_directions() {
            BlockDirections::Outbound => PollFlags::OUT,
            BlockDirections::Both => PollFlags::IN | PollFlags::OUT,
            BlockDirections::Inbound | BlockDirections::None => PollFlags::IN,
        }
    }

    /// The error for a connection that does not work any more.
    pub fn failed(&self, what: &str, why: &str) -> SshError {
        let below =
            self.below.as_ref().and_then(Fate::why).map(|why| format!(" (the way to it: {why})")).unwrap_or_default();
        let what = format!("{what} failed: {why}{below}");
        SshError::new(SshFault::Lost, &self.host, what, "see that the host and the network are up, and try again")
    }
}

/// Sees to it that a silent server is asked, and that its silence is noticed.
pub struct Pulse<'a> {
    link: &'a Link,
    heard: Instant,
    asked: Instant,
}

impl<'a> Pulse<'a> {
    pub fn new(link: &'a Link) -> Self {
        let now = Instant::now();
        Self { link, heard: now, asked: now }
    }

    /// Waits for what libssh2 waits for.
    pub fn wait_for_ssh(&mut self, limit: Option<Duration>) -> Result<(), SshError> {
        let events = self.link.events();
        self.wait(&mut [PollFd::new(&*self.link.socket, events)], events.contains(PollFlags::IN), limit)
    }

    /// Waits for events; the first descriptor is the session's socket. Silence counts only while it is listened to.
    pub fn wait(&mut self, fds: &mut [PollFd<'_>], listens: bool, limit: Option<Duration>) -> Result<(), SshError> {
        let timeout = limit.map_or(self.link.keepalive, |limit| limit.min(self.link.keepalive));
        let timeout = Timespec::try_from(timeout.max(Duration::from_millis(1))).ok();
        let waited = Instant::now();
        match poll(fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(self.link.failed("waiting", &error.to_string())),
        }
        let now = Instant::now();
        let heard = fds.first().is_some_and(|fd| !fd.revents().is_empty());
        if heard || !listens {
            self.heard = now;
            return Ok(());
        }
        // Suspended, or starved of the processor: that says nothing about the server.
        if now.duration_since(waited) > self.link.keepalive + SILENCE {
            self.heard = now;
        }
        if now.duration_since(self.heard) >= SILENCE {
            return Err(self
                .link
                .failed("the connection", &format!("the host has been silent for {} s", SILENCE.as_secs())));
        }
        if now.duration_since(self.heard.max(self.asked)) >= self.link.keepalive && self.has_room() {
            self.asked = now;
            self.link.ssh.keepalive_send().map_err(|error| self.link.failed("the connection", error.message()))?;
        }
        Ok(())
    }

    /// Whether the socket takes a whole message: libssh2 cannot go on with half a keepalive.
    fn has_room(&self) -> bool {
        let mut fds = [PollFd::new(&*self.link.socket, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let writable = poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::OUT);
        writable && !matches!(self.link.ssh.block_directions(), BlockDirections::Outbound | BlockDirections::Both)
    }
}

/// Whether an error only says that nothing can be done right now.
pub fn is_again(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
