//! Stream sockets whose connection is over: reading ends, writing fails, and that is all there is to know of them.
//!
//! A connection to another machine cannot be taken along. On demand a TCP socket is saved as one whose peer has reset the
//! connection (RFC 9293, 3.5.2): programs know what to do then.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};

/// A socket without a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetSocket {
    /// What kind of address it has.
    pub family: Family,
    /// Whether the program has been told (ECONNRESET, once): then it reads the end of the stream.
    pub is_told: bool,
}

/// Families of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// TCP over IPv4.
    Ipv4,
    /// TCP over IPv6.
    Ipv6,
    /// A unix socket.
    Unix,
}

/// What a stream socket is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketState {
    /// It waits for connections.
    Listening,
    /// It has a connection, or is making one.
    Connected(Family),
    /// It has none any more, and nothing to be read.
    Over(ResetSocket),
    /// It never had one.
    Fresh,
}

impl SocketState {
    /// Looks at a socket, of which we hold a copy. `None` for one that is no stream of these families.
    #[must_use]
    pub fn of(fd: &OwnedFd) -> Option<Self> {
        let family = match (sockopt::socket_type(fd).ok()?, sockopt::socket_domain(fd).ok()?) {
            (SocketType::STREAM, AddressFamily::INET) => Family::Ipv4,
            (SocketType::STREAM, AddressFamily::INET6) => Family::Ipv6,
            (SocketType::STREAM, AddressFamily::UNIX) => Family::Unix,
            _ => return None,
        };
        if family != Family::Unix && sockopt::socket_protocol(fd).ok()?? != rustix::net::ipproto::TCP {
            return None;
        }
        if sockopt::socket_acceptconn(fd).ok()? {
            return Some(Self::Listening);
        }
        let events = events(fd, Duration::ZERO).ok()?;
        let is_over = events.contains(PollFlags::HUP | PollFlags::RDHUP);
        if is_over && rustix::io::ioctl_fionread(fd).ok()? == 0 && (family == Family::Unix || !has_peer(fd)) {
            return Some(Self::Over(ResetSocket { family, is_told: !events.contains(PollFlags::ERR) }));
        }
        let is_fresh = events.contains(PollFlags::HUP) && !events.contains(PollFlags::RDHUP) && !has_peer(fd);
        Some(if is_fresh { Self::Fresh } else { Self::Connected(family) })
    }
}

impl ResetSocket {
    /// What becomes of a connection.
    #[must_use]
    pub fn of(family: Family) -> Self {
        Self { family, is_told: false }
    }

    /// Makes one: a connection to ourselves that its other end resets. Where this machine has no loopback, the other end
    /// is a unix socket that is closed with something unread, which looks the same to reading, writing and waiting.
    ///
    /// # Errors
    /// EMFILE and the like.
    pub fn rebuild(self) -> io::Result<OwnedFd> {
        let socket = match self.family {
            Family::Ipv4 => reset_connection(Ipv4Addr::LOCALHOST.into()).or_else(|_| reset_pair()),
            Family::Ipv6 => reset_connection(Ipv6Addr::LOCALHOST.into()).or_else(|_| reset_pair()),
            Family::Unix => reset_pair(),
        }?;
        if !events(&socket, Duration::from_secs(2))?.contains(PollFlags::ERR | PollFlags::HUP) {
            return Err(io::Error::other("it was not reset"));
        }
        if self.is_told {
            // Asking for the error takes it.
            let _ = sockopt::socket_error(&socket)?;
        }
        Ok(socket)
    }
}

/// What a socket has to tell, within a time.
fn events(fd: impl AsFd, limit: Duration) -> io::Result<PollFlags> {
    let limit =
        Timespec { tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), tv_nsec: limit.subsec_nanos().into() };
    let fd = fd.as_fd();
    // Asked for nothing but the end: an error and a hang-up are told in any case.
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::RDHUP)];
    loop {
        match poll(&mut fds, Some(&limit)) {
            Ok(_) => return Ok(fds[0].revents()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn has_peer(fd: &OwnedFd) -> bool {
    rustix::net::getpeername(fd).is_ok()
}

fn reset_connection(host: IpAddr) -> io::Result<OwnedFd> {
    /// Others may connect to our port as well.
    const STRANGERS: usize = 100;
    let listener = TcpListener::bind(SocketAddr::new(host, 0))?;
    let socket = TcpStream::connect(listener.local_addr()?)?;
    let ours = socket.local_addr()?;
    for _ in 0..STRANGERS {
        let (peer, from) = listener.accept()?;
        if from == ours {
            // Closed without a moment to linger, it resets the connection (socket(7), SO_LINGER).
            sockopt::set_socket_linger(&peer, Some(Duration::ZERO))?;
            drop(peer);
            return Ok(socket.into());
        }
    }
    Err(io::Error::other("others connect to every port of ours"))
}

fn reset_pair() -> io::Result<OwnedFd> {
    let (socket, peer) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::io::write(&socket, b"unread")?;
    drop(peer);
    Ok(socket)
}

#[cfg(test)]
mod tests;
