//! Sessions with other machines over SSH.
//!
//! One session is one connection and one lock (libssh2's), so each thread that moves data has one of its own. Nothing but
//! exec channels is used: a server needs neither sftp nor scp.

mod channel;
mod connect;
mod error;
mod host_key;
mod install;
mod known_hosts;
mod link;
mod login;
mod pump;
mod secrets;
mod words;

pub use channel::{Channel, Finished};
pub use connect::Step;
pub use error::{SshError, SshFault};
pub use host_key::HostKeyFact;
pub use install::{Installed, own_hash};
pub use pump::Fate;
pub use secrets::{Nobody, Prompter, Secrets};

use std::time::Duration;

use serde::Serialize;

use self::link::Link;
use crate::hosts::Host;

/// A login on a host.
pub struct Session {
    link: Link,
    host: Host,
    facts: Facts,
}

/// What is known about a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The address that answered, with its port.
    pub address: String,
    /// How long that took.
    #[serde(serialize_with = "crate::hosts::as_seconds")]
    pub connected_in: Duration,
    /// What the server says it is: `SSH-2.0-OpenSSH_10.0`.
    pub server: String,
    /// Its host key.
    pub host_key: HostKeyFact,
    /// How the login succeeded: `agent key ...`, `key FILE`, `password`.
    pub login: String,
    /// The cipher from here to there.
    pub cipher: String,
}

impl Session {
    /// What is known about it.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Starts a program there, by its path or name and its arguments, whatever the login shell is. Any characters will do,
    /// except NUL, and newlines at a word's end. The first byte that is read is the program's: what rc files print is
    /// passed over.
    ///
    /// # Errors
    /// [`SshError`] when the connection is lost or the login shell does not run commands. A program that is not there is seen
    /// by its end: exit status 127.
    pub fn exec(&self, words: &[&str]) -> Result<Channel, SshError> {
        let marker = words::marker().map_err(|error| {
            let what = format!("/dev/urandom cannot be read: {error}");
            SshError::new(SshFault::Configuration, &self.host.name, what, "see that /dev is mounted")
        })?;
        let rate = self.host.limits.rate.map(|rate| rate / self.host.sessions.max(1) as u64);
        let command = words::command(words, &marker);
        Channel::start(self.link.clone(), &command, &marker, self.host.limits.login_timeout, rate)
    }
}
