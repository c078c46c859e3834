//! Is it the right machine?

use serde::Serialize;

use super::known_hosts::{self, HostKey, KnownHosts, Verdict};
use super::{Prompter, SshError, SshFault};
use crate::hosts::{Host, HostKeyPolicy};

/// What libssh2 can check, best first. The names of signatures with RSA keys differ from the keys'.
const KINDS: [(&str, &str); 5] = [
    ("ssh-ed25519", "ssh-ed25519"),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"),
    ("ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384"),
    ("ecdsa-sha2-nistp521", "ecdsa-sha2-nistp521"),
    ("ssh-rsa", "rsa-sha2-512,rsa-sha2-256,ssh-rsa"),
];

/// A host's key, and why it was believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostKeyFact {
    /// `ssh-ed25519` and so on.
    pub algorithm: String,
    /// `SHA256:` and the rest, as `ssh-keygen -l` shows it.
    pub fingerprint: String,
    /// Whether it was known, or is new, and then where it was written.
    pub known: String,
    /// Whether it was not known before.
    pub is_new: bool,
}

/// What is known of a host's key before it is asked for it.
pub struct Expected {
    known: KnownHosts,
    name: String,
}

impl Expected {
    pub fn of(host: &Host) -> Result<Self, SshError> {
        let files = host.known_hosts.iter().chain(&host.system_known_hosts);
        let known = KnownHosts::read(files).map_err(|(file, error)| {
            let what = format!("known host keys cannot be read from {}: {error}", file.display());
            SshError::new(SshFault::HostKey, &host.name, what, "make the file readable for you, or remove it")
        })?;
        let name = host.host_key_alias.as_ref().map(|alias| alias.to_lowercase());
        let name = name.unwrap_or_else(|| known_hosts::name(&host.address, host.port));
        Ok(Self { known, name })
    }

    /// The methods to ask for: kinds that are known come first, so that another of the server's keys is not taken for a
    /// changed one.
    pub fn preference(&self) -> String {
        let known = &self.known.algorithms(&self.name);
        let methods = |is_known: bool| {
            KINDS.iter().filter(move |(key, _)| known.contains(key) == is_known).map(|(_, methods)| *methods)
        };
        methods(true).chain(methods(false)).collect::<Vec<&str>>().join(",")
    }

    /// Judges the key that came, and asks where that is to be decided by the user.
    pub fn check(&self, host: &Host, blob: &[u8], prompter: &mut dyn Prompter) -> Result<HostKeyFact, SshError> {
        let refuse = |what: String, advice: String| Err(SshError::new(SshFault::HostKey, &host.name, what, advice));
        let Some(key) = HostKey::of(blob) else {
            return refuse(
                "the server's key cannot be understood".to_owned(),
                "see that it is an SSH server".to_owned(),
            );
        };
        let shown = key.fingerprint();
        let fact = |known: String, is_new| HostKeyFact {
            algorithm: key.algorithm.clone(),
            fingerprint: shown.clone(),
            known,
            is_new,
        };
        // A key that is known without a port is good for every port of the host, as in ssh.
        let without_port = host.host_key_alias.is_none() && host.port != 22;
        let without_port = without_port.then(|| known_hosts::name(&host.address, 22));
        let verdict = match (self.known.judge(&self.name, &key), &without_port) {
            (Verdict::New(authority), Some(name)) => match self.known.judge(name, &key) {
                verdict @ (Verdict::Known | Verdict::Revoked(_)) => verdict,
                _ => Verdict::New(authority),
            },
            (verdict, _) => verdict,
        };
        match verdict {
            Verdict::Known => Ok(fact("known".to_owned(), false)),
            Verdict::Revoked(entry) => refuse(
                format!("the host key {} {shown} is revoked by {}:{}", key.algorithm, entry.file.display(), entry.line),
                "do not connect; ask whoever runs the host".to_owned(),
            ),
            Verdict::Changed(entry) => refuse(
                format!(
                    "the host key of {} has changed, and somebody may be listening: {}:{} has {} {}, the server shows {shown}",
                    self.name,
                    entry.file.display(),
                    entry.line,
                    key.algorithm,
                    entry.key.fingerprint()
                ),
                format!(
                    "if the host was installed anew, see that its key is {shown}, remove the old one with `ssh-keygen -R {}`, and try again",
                    if self.name.contains('[') { format!("'{}'", self.name) } else { self.name.clone() },
                ),
            ),
            Verdict::OtherKind(entry) => {
                let other = format!(
                    "{}:{} knows it by {} {}, which it does not show now",
                    entry.file.display(),
                    entry.line,
                    entry.key.algorithm,
                    entry.key.fingerprint()
                );
                // Not a host "that has none so far": accept-new does not cover it.
                self.decide(host, &key, &other, host.host_key == HostKeyPolicy::Refuse, prompter)
                    .map(|known| fact(known, true))
            }
            Verdict::New(_) if host.host_key == HostKeyPolicy::AcceptNew => Ok(fact(self.record(host, &key), true)),
            Verdict::New(authority) => {
                let about = authority.map_or_else(
                    || "it was never connected to before".to_owned(),
                    |entry| {
                        let place = format!("{}:{}", entry.file.display(), entry.line);
                        format!("{place} trusts keys that an authority has signed, which ckptctl cannot check")
                    },
                );
                self.decide(host, &key, &about, host.host_key == HostKeyPolicy::Refuse, prompter)
                    .map(|known| fact(known, true))
            }
        }
    }

    fn decide(
        &self,
        host: &Host,
        key: &HostKey,
        about: &str,
        is_refused: bool,
        prompter: &mut dyn Prompter,
    ) -> Result<String, SshError> {
        let what =
            format!("the host key of {} is not known: {} {}; {about}", self.name, key.algorithm, key.fingerprint());
        let refuse = |what: String, advice: &str| Err(SshError::new(SshFault::HostKey, &host.name, what, advice));
        if is_refused {
            return refuse(what, "the configuration refuses keys that are not known; add it to known_hosts yourself");
        }
        let question = format!("{}: {what}.\nIs this the right key, and are you sure to connect (yes/no)? ", host.name);
        let mut asked = question.as_str();
        loop {
            let Some(answer) = prompter.ask(asked, true) else {
                let advice = "connect once from a terminal (`ckptctl hosts test`) to see and accept it, or set host_key = \"accept-new\" for it";
                return refuse(format!("{what}; nobody has said that it is right"), advice);
            };
            match answer.trim().to_lowercase().as_str() {
                "yes" | "y" => return Ok(self.record(host, key)),
                "no" | "n" | "" => return refuse(what, "you said that it is not right"),
                // The fingerprint itself is an answer, too, as in ssh.
                _ if answer.trim() == key.fingerprint() => return Ok(self.record(host, key)),
                _ => asked = "Please type yes, no or the fingerprint: ",
            }
        }
    }

    /// Writes a key down, and says where.
    fn record(&self, host: &Host, key: &HostKey) -> String {
        let Some(file) = host.known_hosts.first() else {
            return "new, accepted this once: the configuration names no file to keep it in".to_owned();
        };
        match known_hosts::append(file, &self.name, key, host.hash_known_hosts) {
            Ok(()) => format!("new, added to {}", file.display()),
            Err(error) => format!("new, accepted this once: {} cannot be written: {error}", file.display()),
        }
    }
}
