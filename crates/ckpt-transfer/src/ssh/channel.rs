//! A command that runs there: its input, output, standard error and end.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::link::{Link, Pulse, is_again};
use super::{Fate, SshError, SshFault, pump};

/// How much a host may send before we read: enough for 160 MB/s over a link of 100 ms.
const WINDOW: u32 = 16 << 20;
const PACKET: u32 = 32 << 10;
const MOST_BANNER: usize = 256 << 10;
const MOST_ERROR: usize = 16 << 10;
const MOST_OUTPUT: usize = 64 << 20;

/// A command that runs on a host: reads are its standard output, writes its standard input.
pub struct Channel {
    pub(super) link: Link,
    pub(super) ssh: ssh2::Channel,
    pub(super) stderr: StandardError,
    pub(super) rate: Option<u64>,
    /// Read already, but behind the marker.
    ahead: Vec<u8>,
    why: Option<SshError>,
}

/// The last part of what came on standard error.
#[derive(Debug, Default)]
pub struct StandardError(Vec<u8>);

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// What it printed and was not read before.
    pub output: Vec<u8>,
    /// Its exit status, unless a signal killed it.
    pub status: i32,
    /// The signal that killed it, without `SIG`.
    pub signal: Option<String>,
    /// The last part of its standard error.
    pub stderr: String,
}

impl Finished {
    /// Its standard error on one line, or how it ended if there is none.
    #[must_use]
    pub fn said(&self) -> String {
        let said = one_line(&self.stderr);
        if !said.is_empty() {
            return said;
        }
        match &self.signal {
            Some(signal) => format!("signal {signal} killed it"),
            None => format!("exit status {}", self.status),
        }
    }
}

impl Channel {
    /// Starts a command and reads up to the marker that it prints first.
    pub(super) fn start(
        link: Link,
        command: &str,
        marker: &str,
        limit: Duration,
        rate: Option<u64>,
    ) -> Result<Self, SshError> {
        let ssh =
            link.wait("opening a channel", Some(limit), || link.ssh.channel_open("session", WINDOW, PACKET, None))?;
        let mut channel = Self { link, ssh, stderr: StandardError::default(), rate, ahead: Vec::new(), why: None };
        let Self { link, ssh, .. } = &mut channel;
        link.wait("starting a command", Some(limit), || ssh.exec(command))?;
        channel.find(marker, limit)?;
        Ok(channel)
    }

    /// A way to another host, which is no command.
    pub(super) fn way(link: Link, ssh: ssh2::Channel) -> Self {
        Self { link, ssh, stderr: StandardError::default(), rate: None, ahead: Vec::new(), why: None }
    }

    fn find(&mut self, marker: &str, limit: Duration) -> Result<(), SshError> {
        let marker = format!("{marker}\n");
        let mut banner = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let count = self
                .receive(&mut buffer, Some(limit))
                .map_err(|error| self.link.failed("starting a command", &error))?;
            if count == 0 {
                break;
            }
            // The marker may have come in parts.
            let from = banner.len().saturating_sub(marker.len());
            banner.extend_from_slice(&buffer[..count]);
            let found = banner[from..].windows(marker.len()).position(|window| window == marker.as_bytes());
            if let Some(at) = found {
                self.ahead = banner.split_off(from + at + marker.len());
                return Ok(());
            }
            if banner.len() > MOST_BANNER {
                break;
            }
        }
        let host = self.link.host.clone();
        let endless = banner.len() > MOST_BANNER;
        let ended = self.end()?;
        let output = one_line(&String::from_utf8_lossy(&banner));
        let said = [output, ended.said()].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
        let what = if endless {
            "its login shell prints without end instead of running a command".to_owned()
        } else {
            format!("its login shell did not run a command, but said: {said}")
        };
        let advice =
            format!("see that `ssh {host} sh -c true` works there: the account may not be allowed to run commands");
        Err(SshError::new(SshFault::Command, &host, what, advice))
    }

    /// Reads what there is, waits for some if there is none; 0 at the end.
    fn receive(&mut self, buffer: &mut [u8], limit: Option<Duration>) -> Result<usize, String> {
        let link = self.link.clone();
        link.ssh.set_blocking(false);
        let mut pulse = Pulse::new(&link);
        let begun = std::time::Instant::now();
        loop {
            self.stderr.drain(&self.ssh).map_err(|error| error.to_string())?;
            match self.ssh.read(buffer) {
                Ok(0) if !self.ssh.eof() => {}
                Ok(count) => return Ok(count),
                Err(error) if is_again(&error) => {}
                Err(error) => return Err(error.to_string()),
            }
            let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(format!("no answer within {} s", limit.unwrap_or_default().as_secs()));
            }
            pulse.wait_for_ssh(left).map_err(|error| error.what)?;
        }
    }

    /// Ends its input, reads what is left of its output, and waits for its end.
    ///
    /// # Errors
    /// When the connection breaks, or it prints more than 64 MiB.
    pub fn finish(mut self) -> Result<Finished, SshError> {
        self.end_input()?;
        let mut output = std::mem::take(&mut self.ahead);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = self.receive(&mut buffer, None).map_err(|error| self.link.failed("reading", &error))?;
            if count == 0 {
                break;
            }
            output.extend_from_slice(&buffer[..count]);
            if output.len() > MOST_OUTPUT {
                return Err(self.link.failed("reading", "a command prints without end"));
            }
        }
        Ok(Finished { output, ..self.end()? })
    }

    /// No more input comes.
    pub(super) fn end_input(&mut self) -> Result<(), SshError> {
        let Self { link, ssh, .. } = self;
        match link.wait("writing", None, || ssh.send_eof()) {
            // It has ended already, and takes no input.
            Err(_) if ssh.eof() => Ok(()),
            result => result,
        }
    }

    /// Closes it and says how it ended.
    fn end(&mut self) -> Result<Finished, SshError> {
        const CLOSING: Option<Duration> = Some(Duration::from_secs(10));
        self.stderr.drain(&self.ssh).map_err(|error| self.link.failed("reading", &error.to_string()))?;
        let Self { link, ssh, .. } = self;
        link.wait("closing a channel", CLOSING, || ssh.close())?;
        self.stderr.drain(&self.ssh).map_err(|error| self.link.failed("reading", &error.to_string()))?;
        let signal = self.ssh.exit_signal().ok().and_then(|signal| signal.exit_signal);
        let status = self.ssh.exit_status().unwrap_or(-1);
        Ok(Finished { output: Vec::new(), status, signal, stderr: self.stderr.text() })
    }

    /// Moves it and its session into a thread that copies both ways until either end closes. The session must not be used
    /// for anything else from then on: one session is one lock.
    ///
    /// # Errors
    /// When no sockets or no thread can be had.
    pub fn pump(mut self) -> Result<(UnixStream, Fate), SshError> {
        let ahead = std::mem::take(&mut self.ahead);
        pump::start(self, ahead)
    }

    /// Why the last read or write failed, for an error that says more than [`io::Error`] can.
    #[must_use]
    pub fn why(&self) -> Option<&SshError> {
        self.why.as_ref()
    }

    fn broken(&mut self, what: &str, why: &str) -> io::Error {
        let error = self.link.failed(what, why);
        self.why = Some(error.clone());
        io::Error::new(io::ErrorKind::ConnectionAborted, error)
    }
}

/// Blocks, with an eye on whether the host lives.
impl Read for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buffer.len());
            buffer[..count].copy_from_slice(&self.ahead[..count]);
            self.ahead.drain(..count);
            return Ok(count);
        }
        self.receive(buffer, None).map_err(|why| self.broken("reading", &why))
    }
}

/// Blocks, with an eye on whether the host lives.
impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let link = self.link.clone();
        link.ssh.set_blocking(false);
        let mut pulse = Pulse::new(&link);
        loop {
            self.stderr.drain(&self.ssh)?;
            match self.ssh.write(bytes) {
                Ok(0) if bytes.is_empty() => return Ok(0),
                Ok(0) => {}
                Ok(count) => return Ok(count),
                Err(error) if is_again(&error) => {}
                Err(error) => return Err(self.broken("writing", &error.to_string())),
            }
            // The window may never open again when nobody reads there.
            if self.ssh.eof() {
                return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the command there has ended"));
            }
            pulse.wait_for_ssh(None).map_err(|error| self.broken("writing", &error.what))?;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // libssh2 closes a channel that goes, and may wait for the host to agree: not for long.
        self.link.ssh.set_blocking(true);
        self.link.ssh.set_timeout(1000);
    }
}

impl StandardError {
    /// Takes what has come, without waiting.
    pub fn drain(&mut self, channel: &ssh2::Channel) -> io::Result<()> {
        let mut stream = channel.stderr();
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => self.0.extend_from_slice(&buffer[..count]),
                Err(error) if is_again(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
            if self.0.len() > MOST_ERROR {
                self.0.drain(..self.0.len() - MOST_ERROR);
            }
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

/// Text from elsewhere as one line: its lines apart, the last ones if it is long, nothing that drives a terminal.
pub fn one_line(text: &str) -> String {
    const LONGEST: usize = 400;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line = lines.join(" / ");
    let line: String = line.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let count = line.chars().count();
    if count <= LONGEST { line } else { format!("... {}", line.chars().skip(count - LONGEST).collect::<String>()) }
}
