//! Why something with another machine did not work.

use std::fmt;

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SshFault {
    /// The configuration asks for something that cannot be.
    Configuration,
    /// No connection.
    Unreachable,
    /// The host's key is not the right one, or not known.
    HostKey,
    /// The server does not let the user in.
    Login,
    /// A command there did not start or failed.
    Command,
    /// The machine is of another kind.
    Foreign,
    /// ckptctl could not be put there.
    Install,
    /// The connection was lost.
    Lost,
}

/// Why something with another machine did not work: what happened, to which host, what to do.
#[derive(Debug, Clone)]
pub struct SshError {
    /// What kind of failure it is.
    pub fault: SshFault,
    /// The host's name.
    pub host: String,
    /// What happened.
    pub what: String,
    /// What to do.
    pub advice: String,
}

impl SshError {
    pub(crate) fn new(fault: SshFault, host: &str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { fault, host: host.to_owned(), what: what.into(), advice: advice.into() }
    }
}

impl fmt::Display for SshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.host, self.what, self.advice)
    }
}

impl std::error::Error for SshError {}
