//! The hosts that a program can be moved to: those of `hosts.toml`, and every alias of `~/.ssh/config`.
//!
//! An entry of `hosts.toml` is to `~/.ssh/config` what options on the command line are to it: what the entry does not say is
//! looked up there under the entry's address (its name, if it gives none), as `ssh ADDRESS` would.

mod error;
mod resolve;
mod settings;
mod ssh_config;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ckpt_core::Codec;
use serde::Serialize;

pub use error::HostsError;
pub use resolve::Destination;
pub use settings::{Change, parse_size, text_of};
pub(crate) use ssh_config::host_matches;

use self::settings::HostsFile;
use self::ssh_config::SshConfig;

/// The name that stands for this machine, and so for no host.
pub const LOCAL: &str = "local";

/// A machine that is reached over SSH, with everything that is known about how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    /// What it is called here.
    pub name: String,
    /// Its host name or IP address.
    pub address: String,
    /// The port of its SSH server.
    pub port: u16,
    /// Who to log in as.
    pub user: String,
    /// Files of private keys to log in with, in order. Those that ssh would try if none is named.
    pub keys: Vec<PathBuf>,
    /// Whether the keys were named by the user: then one that is missing is an error, and is told.
    pub keys_are_named: bool,
    /// Whether keys of the agent count only if they are among `keys`.
    pub identities_only: bool,
    /// The socket of the agent that holds keys; none if there is none.
    pub agent: Option<PathBuf>,
    /// The hosts that the connection goes through, in order, with commas in between, each as ssh's `ProxyJump` has it.
    pub jump: Option<String>,
    /// A command whose input and output are the connection, as ssh's `ProxyCommand` has it, with the tokens replaced.
    pub proxy_command: Option<String>,
    /// Where the host keeps what ckptctl puts there, and where programs work; its own cache and state directories if not given.
    pub directory: Option<PathBuf>,
    /// How memory is compressed on the way.
    #[serde(serialize_with = "as_text")]
    pub compression: Codec,
    /// How many sessions carry one move.
    pub sessions: usize,
    /// What to do about a host key that is not known.
    pub host_key: HostKeyPolicy,
    /// Where the user knows host keys from; the first is where new ones go.
    pub known_hosts: Vec<PathBuf>,
    /// Where the machine knows host keys from.
    pub system_known_hosts: Vec<PathBuf>,
    /// Whether names in it are written as hashes.
    pub hash_known_hosts: bool,
    /// The name under which its host key is looked up, if it is not its address.
    pub host_key_alias: Option<String>,
    /// What it must not exceed.
    pub limits: Limits,
    /// Where it was found.
    pub source: Source,
}

/// What to do about a host key that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostKeyPolicy {
    /// Ask; refuse where nobody answers.
    #[default]
    Ask,
    /// Accept a key of a host that has none so far.
    AcceptNew,
    /// Refuse.
    Refuse,
}

/// What a host, and the way to it, must not exceed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Bytes per second that a move may send to or fetch from it, all sessions together.
    pub rate: Option<u64>,
    /// The most memory in bytes that a program may have that moves there.
    pub memory: Option<u64>,
    /// How long to wait for the connection, each address.
    #[serde(serialize_with = "as_seconds")]
    pub connect_timeout: Duration,
    /// How long to wait for each step of the login.
    #[serde(serialize_with = "as_seconds")]
    pub login_timeout: Duration,
    /// How often to see whether a silent connection lives.
    #[serde(serialize_with = "as_seconds")]
    pub keepalive: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rate: None,
            memory: None,
            connect_timeout: Duration::from_secs(10),
            login_timeout: Duration::from_secs(30),
            keepalive: Duration::from_secs(5),
        }
    }
}

/// Where a host was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// In `hosts.toml`.
    HostsFile {
        /// The file.
        file: PathBuf,
        /// The line where its entry begins.
        line: usize,
    },
    /// In a configuration file of ssh.
    SshConfig {
        /// The file.
        file: PathBuf,
        /// The line of its alias.
        line: usize,
    },
    /// On the command line or as a jump host.
    Given,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostsFile { file, line } | Self::SshConfig { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Given => f.write_str("command line"),
        }
    }
}

/// All hosts that are known by name.
#[derive(Debug)]
pub struct Hosts {
    file: HostsFile,
    config: SshConfig,
    place: Place,
    all: Vec<Host>,
}

/// Where hosts are read from.
#[derive(Debug, Clone)]
pub struct Place {
    /// `hosts.toml`.
    pub hosts_file: PathBuf,
    /// `~/.ssh/config`.
    pub ssh_config: PathBuf,
    /// `/etc/ssh/ssh_config`.
    pub system_config: PathBuf,
    /// The home directory.
    pub home: PathBuf,
    /// Who logs in if nothing says otherwise.
    pub user: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn as_text<S: serde::Serializer>(codec: &Codec, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(codec)
}

pub(crate) fn as_seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

impl Hosts {
    /// Reads `$XDG_CONFIG_HOME/ckptctl/hosts.toml` and ssh's configuration. Files that are not there hold nothing.
    ///
    /// # Errors
    /// [`HostsError`] names the file and the line.
    pub fn load() -> Result<Self, HostsError> {
        Self::load_from(Place::of_this_user()?)
    }

    /// As [`Self::load`], from other places.
    ///
    /// # Errors
    /// As there.
    pub fn load_from(place: Place) -> Result<Self, HostsError> {
        let file = HostsFile::read(&place.hosts_file)?;
        let config = SshConfig::read(&[&place.ssh_config, &place.system_config], &place)?;
        let mut hosts = Self { file, config, place, all: Vec::new() };
        hosts.all = hosts.resolve_all()?;
        Ok(hosts)
    }

    /// All of them, by name.
    pub fn all(&self) -> impl Iterator<Item = &Host> {
        self.all.iter()
    }

    /// A host by its name, or as `[USER@]ADDRESS[:PORT]` where that has a user or matches a pattern of ssh's configuration.
    ///
    /// # Errors
    /// [`HostsError::NoHost`] names those that there are.
    pub fn find(&self, name: &str) -> Result<Host, HostsError> {
        self.resolve(name)
    }

    /// Where they were read from.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Adds an entry to `hosts.toml`, which is made if it is not there.
    ///
    /// # Errors
    /// When there is one of that name already, the name or a value is not possible, or the file cannot be written.
    pub fn add(&mut self, name: &str, change: &Change) -> Result<(), HostsError> {
        self.changed(|file| file.add(name, change))
    }

    /// Changes an entry of `hosts.toml`; one of `~/.ssh/config` gets an entry for what is changed.
    ///
    /// # Errors
    /// As [`Self::add`], and when there is no such host.
    pub fn edit(&mut self, name: &str, change: &Change) -> Result<(), HostsError> {
        let known = self.file.has(name) || self.all.iter().any(|host| host.name == name);
        if !known {
            return Err(self.no_host(name));
        }
        self.changed(|file| file.edit(name, change))
    }

    /// Removes an entry from `hosts.toml`.
    ///
    /// # Errors
    /// When there is none of that name in it, or the file cannot be written.
    pub fn remove(&mut self, name: &str) -> Result<(), HostsError> {
        if !self.file.has(name) {
            if let Some(Host { source: Source::SshConfig { file, line }, .. }) =
                self.all.iter().find(|h| h.name == name)
            {
                return Err(HostsError::Elsewhere { name: name.to_owned(), file: file.clone(), line: *line });
            }
            return Err(self.no_host(name));
        }
        self.changed(|file| file.remove(name))
    }

    /// Makes a change, and sees that the result can be read, before the file is written.
    fn changed(&mut self, act: impl FnOnce(&mut HostsFile) -> Result<(), HostsError>) -> Result<(), HostsError> {
        let before = self.file.clone();
        let result = act(&mut self.file).and_then(|()| self.resolve_all()).and_then(|all| {
            self.file.write(&self.place.hosts_file)?;
            Ok(all)
        });
        match result {
            Ok(all) => self.all = all,
            Err(error) => {
                self.file = before;
                return Err(error);
            }
        }
        Ok(())
    }

    fn no_host(&self, name: &str) -> HostsError {
        let known: Vec<&str> = self.all.iter().map(|host| host.name.as_str()).collect();
        let known =
            if known.is_empty() { "there is none yet".to_owned() } else { format!("there are: {}", known.join(", ")) };
        HostsError::NoHost { name: name.to_owned(), known, file: self.place.hosts_file.clone() }
    }
}

impl Place {
    /// The places of the user who runs this.
    ///
    /// # Errors
    /// [`HostsError::NoHome`].
    pub fn of_this_user() -> Result<Self, HostsError> {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let home = home.or_else(|| own_field(&passwd, 5).map(PathBuf::from)).ok_or(HostsError::NoHome)?;
        let configuration = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let configuration = configuration.unwrap_or_else(|| home.join(".config"));
        Ok(Self {
            hosts_file: configuration.join("ckptctl/hosts.toml"),
            ssh_config: home.join(".ssh/config"),
            system_config: PathBuf::from("/etc/ssh/ssh_config"),
            user: local_user(&passwd),
            home,
        })
    }

    /// The places of a test's user, in a home directory of its own.
    #[cfg(test)]
    fn in_home(home: &Path) -> Self {
        Self {
            hosts_file: home.join("hosts.toml"),
            ssh_config: home.join(".ssh/config"),
            system_config: home.join("none"),
            home: home.to_owned(),
            user: "here".to_owned(),
        }
    }

    /// A path with `~` for the home directory.
    fn expand(&self, path: &str) -> PathBuf {
        match path.strip_prefix('~') {
            Some("") => self.home.clone(),
            Some(rest) if rest.starts_with('/') => self.home.join(rest.trim_start_matches('/')),
            _ => Path::new(path).to_path_buf(),
        }
    }
}

/// The name of the user who runs this, as `/etc/passwd` has it; else as the environment does.
fn local_user(passwd: &str) -> String {
    let given = || ["LOGNAME", "USER"].iter().find_map(|name| std::env::var(name).ok());
    let number = || rustix::process::getuid().as_raw().to_string();
    own_field(passwd, 0).map(str::to_owned).or_else(given).unwrap_or_else(number)
}

/// A field of this user's line in `/etc/passwd`. The C library would load modules for that, which a static program has to do
/// without.
fn own_field(passwd: &str, field: usize) -> Option<&str> {
    let uid = rustix::process::getuid().as_raw().to_string();
    let entry = passwd.lines().find(|line| line.split(':').nth(2) == Some(uid.as_str()))?;
    entry.split(':').nth(field).filter(|text| !text.is_empty())
}
