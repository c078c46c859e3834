//! Logging in: agent, key files, keyboard-interactive, password, as far as the server offers them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ssh2::{ErrorCode, KeyboardInteractivePrompt, Prompt};
use zeroize::Zeroizing;

use super::channel::one_line;
use super::known_hosts::HostKey;
use super::{Prompter, Secrets, SshError, SshFault};
use crate::hosts::Host;

const TRIES: usize = 3;
const MOST_KEY: u64 = 1 << 20;
/// Somebody types meanwhile; the server's patience ends before this.
const TYPING: u32 = 600_000;

/// A server that has had enough of us has closed the connection: `LIBSSH2_ERROR_SOCKET_*`, `..._TIMEOUT`.
const GONE: [i32; 5] = [-7, -9, -13, -30, -43];
/// `LIBSSH2_ERROR_AUTHENTICATION_FAILED` and `..._PUBLICKEY_UNVERIFIED`: the server said no.
const REFUSED: [i32; 2] = [-18, -19];

/// Logs in and says how.
pub fn log_in(
    host: &Host,
    ssh: &ssh2::Session,
    prompter: &mut dyn Prompter,
    secrets: &mut Secrets,
) -> Result<String, SshError> {
    let mut login = Login { host, ssh, prompter, secrets, tried: Vec::new(), seen: Vec::new(), is_given_up: false };
    let offered = match ssh.auth_methods(&host.user) {
        Ok(_) if ssh.authenticated() => return Ok("without any proof".to_owned()),
        Ok(methods) => methods.to_owned(),
        Err(error) => return Err(login.broken(&error)),
    };
    let offers = |method: &str| offered.split(',').any(|offer| offer == method);
    for method in ["publickey", "keyboard-interactive", "password"] {
        if !offers(method) || login.is_given_up {
            continue;
        }
        let how = match method {
            "publickey" => match login.by_agent()? {
                None => login.by_files()?,
                how => how,
            },
            "password" => login.by_password()?,
            _ => login.by_questions()?,
        };
        if ssh.authenticated() {
            return Ok(how.unwrap_or_else(|| method.to_owned()));
        }
    }
    Err(login.failed(&offered))
}

struct Login<'a> {
    host: &'a Host,
    ssh: &'a ssh2::Session,
    prompter: &'a mut dyn Prompter,
    secrets: &'a mut Secrets,
    /// What was tried, for the error.
    tried: Vec<String>,
    /// Public keys that the server has refused already.
    seen: Vec<Vec<u8>>,
    /// Nobody answers, or somebody does not want to.
    is_given_up: bool,
}

impl Login<'_> {
    fn by_agent(&mut self) -> Result<Option<String>, SshError> {
        let Some(socket) = &self.host.agent else {
            self.tried.push("the agent (there is none: SSH_AUTH_SOCK is not set)".to_owned());
            return Ok(None);
        };
        let listed = self.ssh.agent().and_then(|mut agent| {
            agent.set_identity_path(socket)?;
            agent.connect()?;
            agent.list_identities()?;
            let identities = agent.identities()?;
            Ok((agent, identities))
        });
        let (agent, identities) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                self.tried.push(format!("the agent at {} (it does not answer: {})", socket.display(), error.message()));
                return Ok(None);
            }
        };
        let named: Vec<Vec<u8>> = self.host.keys.iter().filter_map(|file| public_key(file)).collect();
        let is_named = |blob: &[u8]| named.iter().any(|key| key == blob);
        // Keys that the configuration names come first: a server does not let us try many.
        let (first, others): (Vec<_>, Vec<_>) = identities.iter().partition(|identity| is_named(identity.blob()));
        let others = if self.host.identities_only { Vec::new() } else { others };
        if first.is_empty() && others.is_empty() {
            self.tried.push("the agent (it has no key for this host)".to_owned());
        }
        for identity in first.into_iter().chain(others) {
            let name = format!("agent key {} {}", kind(identity.blob()), one_line(identity.comment()));
            match agent.userauth(&self.host.user, identity) {
                Ok(()) if self.ssh.authenticated() => return Ok(Some(name)),
                Ok(()) => self.tried.push(format!("{name} (accepted, but not enough)")),
                Err(error) if is_gone(&error) => {
                    self.tried.push(name);
                    return Err(self.broken(&error));
                }
                Err(error) if is_refused(&error) => self.tried.push(format!("{name} (refused)")),
                Err(error) => self.tried.push(format!("{name} ({})", error.message())),
            }
            self.seen.push(identity.blob().to_vec());
        }
        Ok(None)
    }

    fn by_files(&mut self) -> Result<Option<String>, SshError> {
        for file in &self.host.keys {
            let key = match read_key(file) {
                Ok(key) => key,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.host.keys_are_named => continue,
                Err(error) => {
                    self.tried.push(format!("key {} ({error})", file.display()));
                    continue;
                }
            };
            if key.public.as_ref().is_some_and(|public| self.seen.contains(public)) {
                self.tried.push(format!("key {} (refused already, as the agent's)", file.display()));
                continue;
            }
            if let Some(name) = self.by_file(file, &key)? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    fn by_file(&mut self, file: &Path, key: &PrivateKey) -> Result<Option<String>, SshError> {
        let name = format!("key {}", file.display());
        let secret = format!("passphrase of {}", file.display());
        let mut recalled = self.secrets.recall(&secret);
        for turn in 0..TRIES {
            let was_recalled = recalled.is_some();
            let passphrase = match (key.is_encrypted, recalled.take()) {
                (false, _) => None,
                (true, Some(passphrase)) => Some(passphrase),
                (true, None) => {
                    let again = if turn == 0 { "" } else { "That was not it. " };
                    let asked =
                        self.prompter.ask(&format!("{again}Passphrase for the key {}: ", file.display()), false);
                    let Some(passphrase) = asked.filter(|answer| !answer.is_empty()) else {
                        self.tried.push(format!("{name} (no passphrase was given)"));
                        return Ok(None);
                    };
                    Some(Zeroizing::new(passphrase))
                }
            };
            let given = passphrase.as_ref().map(|passphrase| passphrase.as_str());
            match self.ssh.userauth_pubkey_file(&self.host.user, None, file, given) {
                Ok(()) if self.ssh.authenticated() => {
                    if let Some(passphrase) = passphrase {
                        self.secrets.remember(&secret, passphrase);
                    }
                    return Ok(Some(name));
                }
                Ok(()) => {
                    self.tried.push(format!("{name} (accepted, but not enough)"));
                    return Ok(None);
                }
                Err(error) if is_gone(&error) => {
                    self.tried.push(name);
                    return Err(self.broken(&error));
                }
                Err(error) if is_refused(&error) => {
                    // The passphrase was right: the key could be used.
                    if let Some(passphrase) = passphrase {
                        self.secrets.remember(&secret, passphrase);
                    }
                    self.tried.push(format!("{name} (refused)"));
                    return Ok(None);
                }
                Err(error) if !key.is_encrypted => {
                    self.tried.push(format!("{name} (it cannot be used: {})", error.message()));
                    return Ok(None);
                }
                Err(_) if was_recalled => self.secrets.forget(&secret),
                Err(_) => {}
            }
        }
        self.tried.push(format!("{name} (wrong passphrase)"));
        Ok(None)
    }

    fn by_questions(&mut self) -> Result<Option<String>, SshError> {
        let secret = format!("answer for {}@{}:{}", self.host.user, self.host.address, self.host.port);
        self.ssh.set_timeout(TYPING);
        let mut outcome = "refused";
        for turn in 0..TRIES {
            let mut questions = Questions {
                host: self.host,
                prompter: &mut *self.prompter,
                recalled: if turn == 0 { self.secrets.recall(&secret) } else { None },
                given: None,
                asked: false,
                is_given_up: false,
            };
            let result = self.ssh.userauth_keyboard_interactive(&self.host.user, &mut questions);
            let Questions { given, asked, is_given_up, .. } = questions;
            match result {
                Ok(()) => {
                    if let Some(given) = given {
                        self.secrets.remember(&secret, given);
                    }
                    break;
                }
                Err(error) if is_gone(&error) => {
                    self.tried.push("keyboard-interactive".to_owned());
                    return Err(self.broken(&error));
                }
                Err(_) if is_given_up => {
                    self.is_given_up = true;
                    outcome = "no answer was given";
                    break;
                }
                // It asks nothing, and refuses.
                Err(_) if !asked => break,
                Err(_) => {
                    self.secrets.forget(&secret);
                    outcome = "wrong answers";
                }
            }
        }
        self.ssh.set_timeout(super::connect::milliseconds(self.host.limits.login_timeout));
        self.tried.push(format!("keyboard-interactive ({outcome})"));
        Ok(Some("keyboard-interactive".to_owned()))
    }

    fn by_password(&mut self) -> Result<Option<String>, SshError> {
        let (user, address) = (&self.host.user, &self.host.address);
        let secret = format!("password of {user}@{address}:{}", self.host.port);
        let mut recalled = self.secrets.recall(&secret);
        for turn in 0..TRIES {
            let password = recalled.take().or_else(|| {
                let again = if turn == 0 { "" } else { "That was not it. " };
                self.prompter.ask(&format!("{again}Password for {user}@{address}: "), false).map(Zeroizing::new)
            });
            let Some(password) = password else {
                self.is_given_up = true;
                self.tried.push("password (none was given)".to_owned());
                return Ok(None);
            };
            match self.ssh.userauth_password(user, &password) {
                Ok(()) => {
                    self.secrets.remember(&secret, password);
                    return Ok(Some("password".to_owned()));
                }
                Err(error) if is_gone(&error) => {
                    self.tried.push("password".to_owned());
                    return Err(self.broken(&error));
                }
                Err(_) => self.secrets.forget(&secret),
            }
        }
        self.tried.push("password (wrong)".to_owned());
        Ok(None)
    }

    fn failed(&self, offered: &str) -> SshError {
        let advice = if self.is_given_up {
            "try it from a terminal, or add a key that needs no passphrase to the agent (ssh-add)"
        } else {
            "see that the user is right and has your public key in ~/.ssh/authorized_keys there (ssh-copy-id)"
        };
        let what = format!("{}; the server offers {}", self.what(), one_line(offered).replace(',', ", "));
        SshError::new(SshFault::Login, &self.host.name, what, advice)
    }

    fn broken(&self, error: &ssh2::Error) -> SshError {
        let what = format!("{}; the server ended the connection ({})", self.what(), one_line(error.message()));
        let advice = "it may allow fewer attempts, or not this user: name one key for the host (key, with IdentitiesOnly yes in ~/.ssh/config); its log says why";
        SshError::new(SshFault::Login, &self.host.name, what, advice)
    }

    fn what(&self) -> String {
        let tried = if self.tried.is_empty() { "nothing".to_owned() } else { self.tried.join(", ") };
        format!("cannot log in as {}: tried {tried}", self.host.user)
    }
}

/// Passes a server's questions on.
struct Questions<'a> {
    host: &'a Host,
    prompter: &'a mut dyn Prompter,
    recalled: Option<Zeroizing<String>>,
    /// The answer to the one question that was asked, if it was a secret.
    given: Option<Zeroizing<String>>,
    asked: bool,
    is_given_up: bool,
}

impl KeyboardInteractivePrompt for Questions<'_> {
    fn prompt(&mut self, _username: &str, instructions: &str, prompts: &[Prompt<'_>]) -> Vec<String> {
        let mut answers = Vec::new();
        for prompt in prompts {
            self.asked = true;
            let is_only_secret = prompts.len() == 1 && !prompt.echo;
            if let Some(recalled) = self.recalled.take().filter(|_| is_only_secret) {
                answers.push(recalled.to_string());
                self.given = Some(recalled);
                continue;
            }
            // A server chooses these words, so they say who asks.
            let words = [one_line(instructions), one_line(&prompt.text)].join(" ");
            let question =
                format!("{} ({}@{}) asks: {} ", self.host.name, self.host.user, self.host.address, words.trim());
            let answer = if self.is_given_up { None } else { self.prompter.ask(&question, prompt.echo) };
            self.is_given_up |= answer.is_none();
            let answer = answer.unwrap_or_default();
            self.given = is_only_secret.then(|| Zeroizing::new(answer.clone()));
            answers.push(answer);
        }
        answers
    }
}

/// What can be seen of a private key without its passphrase.
struct PrivateKey {
    is_encrypted: bool,
    public: Option<Vec<u8>>,
}

fn read_key(file: &Path) -> io::Result<PrivateKey> {
    let told = |what: String| Err(io::Error::other(what));
    let meta = match fs::metadata(file) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(io::Error::new(io::ErrorKind::NotFound, "there is no such file"));
        }
        Err(error) => return Err(error),
    };
    if !meta.is_file() || meta.len() > MOST_KEY {
        return told("it is no file with a key".to_owned());
    }
    let text = Zeroizing::new(fs::read_to_string(file)?);
    if text.contains("PuTTY-User-Key-File") {
        return told("a key of PuTTY; convert it: puttygen KEY -O private-openssh".to_owned());
    }
    if text.starts_with("ssh-") || text.starts_with("ecdsa-") {
        return told("a public key; name the private one".to_owned());
    }
    let is_ours = meta.uid() == rustix::process::geteuid().as_raw();
    if is_ours && meta.mode() & 0o077 != 0 {
        return told(format!("others may read it, mode {:04o}; chmod 600 it", meta.mode() & 0o7777));
    }
    let Some((_, body)) = text.split_once("-----BEGIN OPENSSH PRIVATE KEY-----") else {
        if !text.contains("PRIVATE KEY-----") {
            return told("it holds no private key".to_owned());
        }
        let is_encrypted = text.contains("BEGIN ENCRYPTED") || text.contains("Proc-Type: 4,ENCRYPTED");
        return Ok(PrivateKey { is_encrypted, public: public_key(file) });
    };
    let body: Zeroizing<String> =
        Zeroizing::new(body.split("-----END").next().unwrap_or_default().split_whitespace().collect());
    let Some((cipher, public)) =
        STANDARD.decode(body.as_bytes()).ok().map(Zeroizing::new).and_then(|body| openssh_head(&body))
    else {
        return told("it is damaged".to_owned());
    };
    let kind = kind(&public);
    if kind.starts_with("sk-") {
        return told(format!("a key of the kind {kind}, which needs its hardware: add it to the agent (ssh-add)"));
    }
    Ok(PrivateKey { is_encrypted: cipher != "none", public: Some(public) })
}

/// The cipher and the public key of an OpenSSH private key: `PROTOCOL.key` of OpenSSH.
fn openssh_head(body: &[u8]) -> Option<(String, Vec<u8>)> {
    let mut rest = body.strip_prefix(b"openssh-key-v1\0")?;
    let cipher = String::from_utf8(field(&mut rest)?.to_vec()).ok()?;
    let _kdf = field(&mut rest)?;
    let _kdf_options = field(&mut rest)?;
    let _count = rest.split_off(..4)?;
    Some((cipher, field(&mut rest)?.to_vec()))
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = rest.split_off(..4)?;
    rest.split_off(..u32::from_be_bytes(length.try_into().ok()?) as usize)
}

/// The public key that belongs to a file, by the file beside it or by itself.
fn public_key(file: &Path) -> Option<Vec<u8>> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".pub");
    let from_text = |text: String| STANDARD.decode(text.split_whitespace().nth(1)?).ok();
    if let Some(public) = fs::read_to_string(beside).ok().and_then(from_text) {
        return Some(public);
    }
    let text = Zeroizing::new(fs::read_to_string(file).ok()?);
    let (_, body) = text.split_once("-----BEGIN OPENSSH PRIVATE KEY-----")?;
    let body: Zeroizing<String> = Zeroizing::new(body.split("-----END").next()?.split_whitespace().collect());
    let body = Zeroizing::new(STANDARD.decode(body.as_bytes()).ok()?);
    openssh_head(&body).map(|(_, public)| public)
}

fn kind(blob: &[u8]) -> String {
    HostKey::of(blob).map_or_else(|| "of an unknown kind".to_owned(), |key| key.algorithm)
}

/// Whether the connection has ended. libssh2 tells that of a server that ends it instead of answering as if the key were
/// refused; only its words differ (`userauth.c`: "Waiting for publickey USERAUTH response").
fn is_gone(error: &ssh2::Error) -> bool {
    is_any(error, &GONE) || is_any(error, &REFUSED) && error.message().starts_with("Waiting for ")
}

/// Whether the server said no.
fn is_refused(error: &ssh2::Error) -> bool {
    is_any(error, &REFUSED) && !is_gone(error)
}

fn is_any(error: &ssh2::Error, codes: &[i32]) -> bool {
    matches!(error.code(), ErrorCode::Session(code) if codes.contains(&code))
}

#[cfg(test)]
mod tests;
