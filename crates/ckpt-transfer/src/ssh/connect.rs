//! From a host to a connection with its SSH server: directly, through other hosts, or by a command.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv, sockopt};
use ssh2::MethodType;

use super::channel::{Channel, one_line};
use super::host_key::Expected;
use super::link::Link;
use super::{Facts, Fate, HostKeyFact, Prompter, Secrets, Session, SshError, SshFault, login};
use crate::hosts::{Host, Hosts};

/// How long data may stay without an answer before the connection counts as broken, in milliseconds.
const USER_TIMEOUT: u32 = 15_000;
const MOST_HOPS: usize = 8;

/// AES-GCM comes late: libssh2 calls the cipher once per 16 bytes there.
const CIPHERS: &str =
    "chacha20-poly1305@openssh.com,aes128-ctr,aes192-ctr,aes256-ctr,aes128-gcm@openssh.com,aes256-gcm@openssh.com";

/// A connection, before anything was said on it.
struct Carrier {
    socket: OwnedFd,
    /// What answered.
    address: String,
    took: Duration,
    /// What carries it, if that is not TCP.
    below: Option<Fate>,
}

impl Session {
    /// Connects and logs in. What is typed is remembered in `secrets`, for further sessions.
    ///
    /// # Errors
    /// [`SshError`] says at what it failed, and what to do.
    pub fn connect(
        host: &Host,
        hosts: &Hosts,
        prompter: &mut dyn Prompter,
        secrets: &mut Secrets,
    ) -> Result<Self, SshError> {
        Self::connect_telling(host, hosts, prompter, secrets, &mut |_| ())
    }

    /// As [`Self::connect`], and tells each step as it is done.
    ///
    /// # Errors
    /// As there.
    pub fn connect_telling(
        host: &Host,
        hosts: &Hosts,
        prompter: &mut dyn Prompter,
        secrets: &mut Secrets,
        tell: &mut dyn FnMut(Step<'_>),
    ) -> Result<Self, SshError> {
        Connecting { hosts, prompter, secrets, hops: 0 }.connect(host, tell)
    }
}

/// A step on the way to a host.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// A server answered.
    Reached {
        /// Its address and port.
        address: &'a str,
        /// How long the connection took.
        took: Duration,
    },
    /// Its key is the right one.
    Known(&'a HostKeyFact),
    /// It let us in.
    LoggedIn(&'a Facts),
}

struct Connecting<'a> {
    hosts: &'a Hosts,
    prompter: &'a mut dyn Prompter,
    secrets: &'a mut Secrets,
    hops: usize,
}

impl Connecting<'_> {
    fn connect(&mut self, host: &Host, tell: &mut dyn FnMut(Step<'_>)) -> Result<Session, SshError> {
        let carrier = match (&host.jump, &host.proxy_command) {
            (Some(jump), _) => self.through(host, &jump.clone())?,
            (None, Some(command)) => by_command(host, command)?,
            (None, None) => directly(host)?,
        };
        let first = first_words(host, &carrier)?;
        tell(Step::Reached { address: &carrier.address, took: carrier.took });
        let expected = Expected::of(host)?;
        let ssh = handshake(host, &carrier, &expected, &first)?;
        let host_key = check_key(host, &ssh, &expected, self.prompter)?;
        tell(Step::Known(&host_key));
        let method = login::log_in(host, &ssh, self.prompter, self.secrets)?;
        let socket = carrier.socket.try_clone().map_err(|error| {
            SshError::new(
                SshFault::Configuration,
                &host.name,
                format!("no more descriptors: {error}"),
                "close programs",
            )
        })?;
        let facts = Facts {
            address: carrier.address,
            connected_in: carrier.took,
            server: ssh.banner_bytes().map(|text| one_line(&String::from_utf8_lossy(text))).unwrap_or_default(),
            host_key,
            login: method,
            cipher: ssh.methods(MethodType::CryptCs).unwrap_or_default().to_owned(),
        };
        tell(Step::LoggedIn(&facts));
        let link = Link::new(ssh, socket, &host.name, host.limits.keepalive, carrier.below);
        Ok(Session { link, host: host.clone(), facts })
    }

    /// Through the last of the hosts before it, which is reached through those before that.
    fn through(&mut self, host: &Host, jump: &str) -> Result<Carrier, SshError> {
        let wrong = |what: String| SshError::new(SshFault::Configuration, &host.name, what, "mend its jump hosts");
        self.hops += 1;
        if self.hops > MOST_HOPS {
            return Err(wrong(format!("its jump hosts lead through each other: {jump}")));
        }
        let (before, last) = jump.rsplit_once(',').map_or((None, jump), |(before, last)| (Some(before), last));
        let mut gate = self.hosts.jump(last.trim()).map_err(|error| wrong(error.to_string()))?;
        if let Some(before) = before {
            gate.jump = Some(before.to_owned());
            gate.proxy_command = None;
        }
        // A host that would be its own way there.
        if gate.name == host.name && gate.address == host.address && gate.port == host.port {
            return Err(wrong(format!("it is its own jump host: {jump}")));
        }
        let begun = Instant::now();
        let session = self.connect(&gate, &mut |_| ())?;
        let link = session.link;
        let limit = host.limits.connect_timeout + Duration::from_secs(2);
        let open = || link.ssh.channel_direct_tcpip(&host.address, host.port, None);
        let channel = link.wait("opening a way", Some(limit), open).map_err(|error| {
            let target = format!("{}:{}", host.address, host.port);
            let what = format!("{target} cannot be reached from the jump host {}: {}", gate.name, error.what);
            SshError::new(
                SshFault::Unreachable,
                &host.name,
                what,
                "see that its SSH server is up, and reached from there",
            )
        })?;
        let (stream, fate) = Channel::way(link, channel).pump()?;
        let address = format!("{}:{} through {}", host.address, host.port, gate.name);
        Ok(Carrier { socket: stream.into(), address, took: begun.elapsed(), below: Some(fate) })
    }
}

/// By each of its addresses in turn.
fn directly(host: &Host) -> Result<Carrier, SshError> {
    let limit = host.limits.connect_timeout;
    let unreachable = |what: String, advice: &str| SshError::new(SshFault::Unreachable, &host.name, what, advice);
    let addresses = resolve(&host.address, host.port, limit).map_err(|error| {
        let what = format!("the address {:?} cannot be found: {error}", host.address);
        unreachable(what, "see that it is written right, and that names can be looked up here")
    })?;
    let mut tries = Vec::new();
    for address in &addresses {
        let begun = Instant::now();
        match TcpStream::connect_timeout(address, limit) {
            Ok(stream) => {
                let took = begun.elapsed();
                prepare(&stream).map_err(|error| unreachable(format!("{address}: {error}"), "please report this"))?;
                return Ok(Carrier { socket: stream.into(), address: address.to_string(), took, below: None });
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                tries.push(format!("{address}: no answer within {} s", limit.as_secs()));
            }
            Err(error) => tries.push(format!("{address}: {error}")),
        }
    }
    let what = if tries.is_empty() { format!("{:?} has no address", host.address) } else { tries.join(", ") };
    Err(unreachable(
        format!("cannot connect: {what}"),
        "see that the host is up, the port right, and an SSH server running there",
    ))
}

/// Looks a name up. The C library takes its own time for that, so it is left behind when it takes too long.
fn resolve(address: &str, port: u16, limit: Duration) -> io::Result<Vec<SocketAddr>> {
    let (sender, found) = mpsc::channel();
    let name = address.to_owned();
    std::thread::Builder::new().spawn(move || {
        let addresses = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        // Nobody listens any more after the limit.
        let _ = sender.send(addresses);
    })?;
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", limit.as_secs()));
    found.recv_timeout(limit).map_err(|_| late())?
}

/// A cut link is noticed soon, and small messages are not held back.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(5))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(5))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT)?;
    Ok(())
}

/// By a command whose input and output are the connection.
fn by_command(host: &Host, command: &str) -> Result<Carrier, SshError> {
    let failed = |error: io::Error| {
        let what = format!("its ProxyCommand {command:?} cannot be started: {error}");
        SshError::new(SshFault::Unreachable, &host.name, what, "mend it in ssh's configuration")
    };
    let begun = Instant::now();
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let output = theirs.try_clone().map_err(failed)?;
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(format!("exec {command}")).stdin(OwnedFd::from(theirs)).stdout(OwnedFd::from(output));
    let mut child = shell.stderr(Stdio::null()).spawn().map_err(failed)?;
    // It ends when the connection is closed; somebody has to wait for it.
    std::thread::Builder::new().spawn(move || child.wait()).map_err(failed)?;
    Ok(Carrier { socket: ours.into(), address: format!("by {command}"), took: begun.elapsed(), below: None })
}

/// What the server says first, without taking it away; an error if that is nothing.
fn first_words(host: &Host, carrier: &Carrier) -> Result<String, SshError> {
    let refuse = |what: String, advice: &str| {
        let below = carrier.below.as_ref().and_then(Fate::why).map(|why| format!(" ({why})")).unwrap_or_default();
        Err(SshError::new(SshFault::Unreachable, &host.name, format!("{}: {what}{below}", carrier.address), advice))
    };
    let limit = host.limits.login_timeout;
    let timeout = Timespec::try_from(limit).ok();
    let ready = poll(&mut [PollFd::new(&carrier.socket.as_fd(), PollFlags::IN)], timeout.as_ref());
    if ready.is_ok_and(|count| count == 0) {
        let what = format!("the connection was accepted, but nothing came within {} s", limit.as_secs());
        return refuse(what, "see that it is an SSH server, and that the machine is not overloaded or suspended");
    }
    let mut buffer = [0; 255];
    match recv(&carrier.socket, &mut buffer[..], RecvFlags::PEEK) {
        Ok((0, _)) => refuse(
            "the connection was closed at once".to_owned(),
            "see that an SSH server listens there, and that it does not refuse this machine (its log says why)",
        ),
        Ok((count, _)) => Ok(String::from_utf8_lossy(&buffer[..count]).into_owned()),
        Err(error) => refuse(format!("the connection broke at once: {error}"), "see that an SSH server listens there"),
    }
}

fn handshake(host: &Host, carrier: &Carrier, expected: &Expected, first: &str) -> Result<ssh2::Session, SshError> {
    let failed = |error: &ssh2::Error| {
        let what = if first.starts_with("SSH-") {
            format!("{}: no SSH connection could be set up: {}", carrier.address, error.message())
        } else {
            format!("{} is no SSH server: it says {:?}", carrier.address, one_line(first))
        };
        SshError::new(
            SshFault::Unreachable,
            &host.name,
            what,
            "see that address and port are right; its log may say more",
        )
    };
    let socket = carrier.socket.try_clone().map_err(|error| {
        SshError::new(SshFault::Configuration, &host.name, format!("no more descriptors: {error}"), "close programs")
    })?;
    let mut ssh = ssh2::Session::new().map_err(|error| failed(&error))?;
    ssh.set_timeout(milliseconds(host.limits.login_timeout));
    ssh.set_compress(false);
    let preferences =
        [(MethodType::CryptCs, CIPHERS), (MethodType::CryptSc, CIPHERS), (MethodType::HostKey, &expected.preference())];
    for (kind, methods) in preferences {
        ssh.method_pref(kind, methods).map_err(|error| failed(&error))?;
    }
    ssh.set_tcp_stream(socket);
    ssh.handshake().map_err(|error| failed(&error))?;
    Ok(ssh)
}

fn check_key(
    host: &Host,
    ssh: &ssh2::Session,
    expected: &Expected,
    prompter: &mut dyn Prompter,
) -> Result<HostKeyFact, SshError> {
    let blob = ssh.host_key().map(|(blob, _)| blob.to_vec()).unwrap_or_default();
    expected.check(host, &blob, prompter)
}

pub fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1)
}
