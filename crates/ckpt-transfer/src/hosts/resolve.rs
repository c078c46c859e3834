//! From a name to everything that is known about how to reach it.

use std::path::PathBuf;
use std::time::Duration;

use ckpt_core::Codec;

use super::settings::HostSettings;
use super::ssh_config::{Params, tokens};
use super::{Host, HostKeyPolicy, Hosts, HostsError, Limits, Source};

const DEFAULT_SESSIONS: usize = 2;
const DEFAULT_KEYS: [&str; 3] = ["~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"];
const DEFAULT_KNOWN_HOSTS: [&str; 2] = ["~/.ssh/known_hosts", "~/.ssh/known_hosts2"];
const SYSTEM_KNOWN_HOSTS: [&str; 2] = ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"];

/// `[USER@]ADDRESS[:PORT]`, or an `ssh://` URI of these; an IPv6 address with a port stands in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Who to log in as.
    pub user: Option<String>,
    /// Host name, alias or IP address.
    pub address: String,
    /// Port.
    pub port: Option<u16>,
}

impl Destination {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("{text:?} is not [USER@]ADDRESS[:PORT]: {what}"));
        let rest = text.strip_prefix("ssh://").map_or(text, |rest| rest.trim_end_matches('/'));
        let (user, rest) = rest.rsplit_once('@').map_or((None, rest), |(user, rest)| (Some(user.to_owned()), rest));
        let (address, port) = if let Some(rest) = rest.strip_prefix('[') {
            match rest.split_once(']') {
                Some((address, "")) => (address, None),
                Some((address, port)) if port.starts_with(':') => (address, Some(&port[1..])),
                _ => return wrong("a bracket is not closed, or something but a port follows it"),
            }
        } else if rest.matches(':').count() == 1 {
            rest.split_once(':').map_or((rest, None), |(address, port)| (address, Some(port)))
        } else {
            (rest, None)
        };
        let port = match port {
            None => None,
            Some(port) => match port.parse::<u16>() {
                Ok(port) if port > 0 => Some(port),
                _ => return wrong("a port is a number from 1 to 65535"),
            },
        };
        let is_word = |word: &str| !word.is_empty() && !word.starts_with('-') && !word.contains(char::is_whitespace);
        if !is_word(address) || user.as_deref().is_some_and(|user| !is_word(user)) {
            return wrong("a name is missing, begins with `-` or holds a space");
        }
        Ok(Self { user, address: address.to_owned(), port })
    }
}

impl Hosts {
    pub(super) fn resolve_all(&self) -> Result<Vec<Host>, HostsError> {
        let mut all = Vec::new();
        for name in self.file.names() {
            all.push(self.from_file(name, false)?);
        }
        for (name, file, line) in self.config.aliases() {
            if !self.file.has(&name) && name != super::LOCAL {
                let source = Source::SshConfig { file, line };
                all.push(self.host(&name, &HostSettings::default(), None, source, false)?);
            }
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    pub(super) fn resolve(&self, name: &str) -> Result<Host, HostsError> {
        if self.file.has(name) {
            return self.from_file(name, true);
        }
        if let Some((file, line)) = self.config.mentions(name) {
            return self.host(name, &HostSettings::default(), None, Source::SshConfig { file, line }, true);
        }
        if name.contains('@') {
            return self.jump(name);
        }
        Err(self.no_host(name))
    }

    /// A host that the connection to another goes through: by its name here, or as ssh would find it.
    ///
    /// # Errors
    /// When it is no destination, or its configuration is wrong.
    pub(crate) fn jump(&self, given: &str) -> Result<Host, HostsError> {
        if self.file.has(given) {
            return self.from_file(given, true);
        }
        let destination = Destination::parse(given).map_err(HostsError::Value)?;
        if destination.user.is_none() && destination.port.is_none() && self.file.has(&destination.address) {
            return self.from_file(&destination.address, true);
        }
        let settings = HostSettings { port: destination.port, user: destination.user, ..HostSettings::default() };
        let mut host = self.host(&destination.address, &settings, None, Source::Given, true)?;
        given.clone_into(&mut host.name);
        Ok(host)
    }

    #[allow(clippy::wrong_self_convention, reason = "it is from hosts.toml, not a conversion")]
    fn from_file(&self, name: &str, may_run: bool) -> Result<Host, HostsError> {
        let settings = self.file.get(name).ok_or_else(|| self.no_host(name))?;
        let source = Source::HostsFile { file: self.place.hosts_file.clone(), line: settings.line };
        self.host(name, settings, settings.address.as_deref(), source, may_run)
    }

    /// Puts together what `hosts.toml`, its defaults and ssh's configuration say, in this order.
    fn host(
        &self,
        name: &str,
        own: &HostSettings,
        address: Option<&str>,
        source: Source,
        may_run: bool,
    ) -> Result<Host, HostsError> {
        let defaults = self.file.defaults();
        let place = &self.place;
        // What ssh would be told on its command line.
        let alias = address.unwrap_or(name);
        let asked = own.user.as_deref();
        let params = self.config.query(alias, asked, place, may_run)?;
        let user = params.user.clone().or_else(|| defaults.user.clone()).unwrap_or_else(|| place.user.clone());
        let port = own.port.or(params.port).unwrap_or(22);
        let address = params.host_name.as_deref().unwrap_or(alias);
        let address = tokens(address, alias, alias, &port.to_string(), &user, place);
        let told = |text: &str| tokens(text, alias, &address, &port.to_string(), &user, place);
        let path = |text: &String| place.expand(&told(text));

        let named = own.keys.clone().or_else(|| Some(params.identity_files.clone()).filter(|files| !files.is_empty()));
        let named = named.or_else(|| defaults.keys.clone());
        let keys_are_named = named.is_some();
        let keys = named.unwrap_or_else(|| DEFAULT_KEYS.map(str::to_owned).to_vec());
        let keys = keys.iter().filter(|key| *key != "none").map(path).collect();

        let compression = own.compression.as_ref().or(defaults.compression.as_ref());
        let compression = compression.and_then(|name| name.parse::<Codec>().ok()).unwrap_or(Codec::Lz4);
        let jump = own.jump.clone().or_else(|| params.proxy_jump.clone());
        // ssh's ProxyCommand stands in the way of our default only: what the entry itself says wins.
        let proxy_command = params.proxy_command.as_ref().filter(|_| own.jump.is_none());
        let jump = jump.or_else(|| defaults.jump.clone().filter(|_| proxy_command.is_none()));
        let is_some = |text: &String| !text.eq_ignore_ascii_case("none");
        Ok(Host {
            name: name.to_owned(),
            keys,
            keys_are_named,
            identities_only: params.identities_only.unwrap_or(false),
            agent: agent(&params, &told, place),
            jump: jump.filter(is_some),
            proxy_command: proxy_command.filter(|text| is_some(text)).map(|text| told(text)),
            directory: own.directory.clone().or_else(|| defaults.directory.clone()),
            compression,
            sessions: own.sessions.or(defaults.sessions).unwrap_or(DEFAULT_SESSIONS),
            host_key: policy(own, defaults, &params),
            known_hosts: known_hosts(params.user_known_hosts.as_deref(), &DEFAULT_KNOWN_HOSTS, path),
            system_known_hosts: known_hosts(params.global_known_hosts.as_deref(), &SYSTEM_KNOWN_HOSTS, path),
            hash_known_hosts: params.hash_known_hosts.unwrap_or(false),
            host_key_alias: params.host_key_alias.clone(),
            limits: limits(own, defaults, &params),
            source,
            address,
            port,
            user,
        })
    }
}

fn agent(params: &Params, told: &dyn Fn(&str) -> String, place: &super::Place) -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    match params.identity_agent.as_deref() {
        None | Some("SSH_AUTH_SOCK") => from("SSH_AUTH_SOCK"),
        Some("none") => None,
        Some(given) => given.strip_prefix('$').map_or_else(|| Some(place.expand(&told(given))), from),
    }
}

fn policy(own: &HostSettings, defaults: &HostSettings, params: &Params) -> HostKeyPolicy {
    let strict = match params.strict_host_key_checking.as_deref() {
        // `no` also lets a changed key pass in ssh, with a warning. Here a changed key is always a refusal.
        Some("accept-new" | "no" | "off" | "false") => Some("accept-new"),
        Some("yes" | "true") => Some("refuse"),
        Some("ask") => Some("ask"),
        _ => None,
    };
    match own.host_key.as_deref().or(strict).or(defaults.host_key.as_deref()) {
        Some("accept-new") => HostKeyPolicy::AcceptNew,
        Some("refuse") => HostKeyPolicy::Refuse,
        _ => HostKeyPolicy::Ask,
    }
}

fn known_hosts(given: Option<&[String]>, default: &[&str], path: impl Fn(&String) -> PathBuf) -> Vec<PathBuf> {
    let given = given.map_or_else(|| default.iter().map(|file| (*file).to_owned()).collect(), <[String]>::to_vec);
    given.iter().filter(|file| !file.eq_ignore_ascii_case("none")).map(path).collect()
}

fn limits(own: &HostSettings, defaults: &HostSettings, params: &Params) -> Limits {
    let standard = Limits::default();
    let time = |own: Option<u64>, params: Option<u64>, default: Option<u64>, standard| {
        own.or(params).or(default).map_or(standard, Duration::from_secs)
    };
    // ssh's 0 is "never"; a link that is never looked at would be noticed too late.
    let alive = params.server_alive_interval.filter(|seconds| *seconds >= 2);
    let connect = params.connect_timeout.filter(|seconds| *seconds > 0);
    Limits {
        rate: own.rate.or(defaults.rate),
        memory: own.memory.or(defaults.memory),
        connect_timeout: time(own.connect_timeout, connect, defaults.connect_timeout, standard.connect_timeout),
        login_timeout: time(own.login_timeout, None, defaults.login_timeout, standard.login_timeout),
        keepalive: time(own.keepalive, alive, defaults.keepalive, standard.keepalive),
    }
}

#[cfg(test)]
mod tests;
