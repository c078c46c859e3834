//! OpenSSH's client configuration: what of it says how to reach a host.
//!
//! Read as `ssh_config(5)` says: the first value wins, `Host` and `Match` blocks, `Include` within them. Keywords that do not
//! concern a connection are passed over; a mistake in one that does is told with its file and line.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{HostsError, Place};

const DEEPEST_INCLUDE: usize = 16;

/// All files, as blocks in order.
#[derive(Debug, Clone)]
pub struct SshConfig {
    blocks: Vec<Block>,
}

/// What it says about one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params {
    pub host_name: Option<String>,
    pub port: Option<u16>,
    pub user: Option<String>,
    pub identity_files: Vec<String>,
    pub identities_only: Option<bool>,
    pub identity_agent: Option<String>,
    pub proxy_jump: Option<String>,
    pub proxy_command: Option<String>,
    pub connect_timeout: Option<u64>,
    pub server_alive_interval: Option<u64>,
    pub strict_host_key_checking: Option<String>,
    pub user_known_hosts: Option<Vec<String>>,
    pub global_known_hosts: Option<Vec<String>>,
    pub hash_known_hosts: Option<bool>,
    pub host_key_alias: Option<String>,
}

/// Settings that hold under all of some conditions.
#[derive(Debug, Clone)]
struct Block {
    conditions: Vec<Condition>,
    settings: Vec<Setting>,
    file: PathBuf,
    line: usize,
}

#[derive(Debug, Clone)]
struct Setting {
    keyword: String,
    arguments: Vec<String>,
    file: PathBuf,
    line: usize,
}

#[derive(Debug, Clone)]
enum Condition {
    Host(Vec<String>),
    Match(Vec<Criterion>),
}

#[derive(Debug, Clone)]
struct Criterion {
    is_negated: bool,
    keyword: String,
    argument: String,
}

impl SshConfig {
    pub fn read(files: &[&PathBuf], place: &Place) -> Result<Self, HostsError> {
        let mut config = Self { blocks: Vec::new() };
        for file in files {
            let is_the_users = **file == place.ssh_config;
            config.include(file, place, &[], is_the_users, 0, true)?;
        }
        Ok(config)
    }

    /// Every alias that is named in full, with where.
    pub fn aliases(&self) -> Vec<(String, PathBuf, usize)> {
        let mut found: Vec<(String, PathBuf, usize)> = Vec::new();
        for block in &self.blocks {
            let Some(Condition::Host(patterns)) = block.conditions.last() else { continue };
            for pattern in patterns {
                let is_name = !pattern.is_empty() && !pattern.starts_with(['!', '-']) && !pattern.contains(['*', '?']);
                if is_name && !found.iter().any(|(name, ..)| name == pattern) {
                    found.push((pattern.clone(), block.file.clone(), block.line));
                }
            }
        }
        found
    }

    /// Where a `Host` line means this name by more than `*`.
    pub fn mentions(&self, name: &str) -> Option<(PathBuf, usize)> {
        let says_so = |condition: &Condition| match condition {
            Condition::Host(patterns) => {
                host_matches(patterns, name)
                    && patterns.iter().any(|p| p != "*" && !p.starts_with('!') && wildcard(p, name))
            }
            Condition::Match(_) => false,
        };
        let block = self.blocks.iter().find(|block| block.conditions.iter().any(says_so))?;
        Some((block.file.clone(), block.line))
    }

    /// What holds for a host. `user` is who was asked for, `may_run` whether commands of `Match exec` are run.
    pub fn query(&self, name: &str, user: Option<&str>, place: &Place, may_run: bool) -> Result<Params, HostsError> {
        let mut params = Params { user: user.map(str::to_owned), ..Params::default() };
        for block in &self.blocks {
            if block.conditions.iter().all(|condition| condition.holds(name, &params, place, may_run)) {
                for setting in &block.settings {
                    setting.apply(&mut params)?;
                }
            }
        }
        Ok(params)
    }

    fn include(
        &mut self,
        file: &Path,
        place: &Place,
        outer: &[Condition],
        is_the_users: bool,
        depth: usize,
        may_be_missing: bool,
    ) -> Result<(), HostsError> {
        let text = match fs::read(file) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if may_be_missing && error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(HostsError::Read { file: file.to_owned(), source }),
        };
        if is_the_users {
            check_owner(file)?;
        }
        let begin =
            |conditions: Vec<Condition>, line| Block { conditions, settings: Vec::new(), file: file.to_owned(), line };
        let mut block = begin(outer.to_vec(), 1);
        for (index, text) in text.lines().enumerate() {
            let line = index + 1;
            let wrong = |what: String| HostsError::Line { file: file.to_owned(), line, what };
            let Some((keyword, arguments)) = split(text).map_err(|what| wrong(what.to_owned()))? else { continue };
            match keyword.as_str() {
                "host" | "match" => {
                    let condition = if keyword == "host" {
                        Condition::Host(arguments)
                    } else {
                        Condition::Match(criteria(&arguments).map_err(wrong)?)
                    };
                    let conditions = outer.iter().cloned().chain([condition]).collect();
                    self.blocks.push(std::mem::replace(&mut block, begin(conditions, line)));
                }
                "include" => {
                    if depth >= DEEPEST_INCLUDE {
                        return Err(wrong("files include each other too deeply".to_owned()));
                    }
                    let conditions = block.conditions.clone();
                    let next = begin(conditions.clone(), block.line);
                    self.blocks.push(std::mem::replace(&mut block, next));
                    let base = if is_the_users { place.home.join(".ssh") } else { PathBuf::from("/etc/ssh") };
                    for argument in &arguments {
                        for found in glob(&base.join(place.expand(argument))) {
                            self.include(&found, place, &conditions, is_the_users, depth + 1, true)?;
                        }
                    }
                }
                _ => block.settings.push(Setting { keyword, arguments, file: file.to_owned(), line }),
            }
        }
        self.blocks.push(block);
        Ok(())
    }
}

impl Condition {
    fn holds(&self, name: &str, params: &Params, place: &Place, may_run: bool) -> bool {
        match self {
            Self::Host(patterns) => host_matches(patterns, name),
            Self::Match(criteria) => {
                criteria.iter().all(|criterion| criterion.holds(name, params, place, may_run) != criterion.is_negated)
            }
        }
    }
}

impl Criterion {
    fn holds(&self, name: &str, params: &Params, place: &Place, may_run: bool) -> bool {
        let list = |text: &str| {
            let patterns: Vec<String> = self.argument.split(',').map(str::to_owned).collect();
            host_matches(&patterns, text)
        };
        let host = params.host_name.as_deref().unwrap_or(name);
        let user = params.user.as_deref().unwrap_or(&place.user);
        match self.keyword.as_str() {
            "all" => true,
            "host" => list(host),
            "originalhost" => list(name),
            "user" => list(user),
            "localuser" => list(&place.user),
            "exec" => {
                let port = params.port.unwrap_or(22).to_string();
                may_run && succeeds(&tokens(&self.argument, name, host, &port, user, place))
            }
            // `canonical` and `final` ask for a second reading, which is not done; the others for what only ssh itself has.
            _ => false,
        }
    }
}

impl Setting {
    fn apply(&self, params: &mut Params) -> Result<(), HostsError> {
        let wrong = |what: &str| HostsError::Line {
            file: self.file.clone(),
            line: self.line,
            what: format!("{} {what}", self.keyword),
        };
        let first = || self.arguments.first().cloned().ok_or_else(|| wrong("needs a value"));
        let yes = || match first()?.to_ascii_lowercase().as_str() {
            "yes" | "true" => Ok(true),
            "no" | "false" => Ok(false),
            _ => Err(wrong("must be yes or no")),
        };
        match self.keyword.as_str() {
            "hostname" => set(&mut params.host_name, first()?),
            "port" => {
                let port = first()?.parse().ok().filter(|port: &u16| *port > 0);
                set(&mut params.port, port.ok_or_else(|| wrong("must be a number from 1 to 65535"))?);
            }
            "user" => set(&mut params.user, first()?),
            "identityfile" => {
                let file = first()?;
                if !params.identity_files.contains(&file) {
                    params.identity_files.push(file);
                }
            }
            "identitiesonly" => set(&mut params.identities_only, yes()?),
            "identityagent" => set(&mut params.identity_agent, first()?),
            // Whichever comes first holds, and the other does not.
            "proxyjump" if params.proxy_command.is_none() => set(&mut params.proxy_jump, first()?),
            "proxycommand" if params.proxy_jump.is_none() => {
                first()?;
                set(&mut params.proxy_command, self.arguments.join(" "));
            }
            "connecttimeout" => {
                set(&mut params.connect_timeout, seconds(&first()?).ok_or_else(|| wrong("must be a time"))?);
            }
            "serveraliveinterval" => {
                set(&mut params.server_alive_interval, seconds(&first()?).ok_or_else(|| wrong("must be a time"))?);
            }
            "stricthostkeychecking" => {
                let value = first()?.to_ascii_lowercase();
                if !["yes", "no", "true", "false", "off", "ask", "accept-new"].contains(&value.as_str()) {
                    return Err(wrong("must be yes, no, ask, off or accept-new"));
                }
                set(&mut params.strict_host_key_checking, value);
            }
            "userknownhostsfile" => set(&mut params.user_known_hosts, self.arguments.clone()),
            "globalknownhostsfile" => set(&mut params.global_known_hosts, self.arguments.clone()),
            "hashknownhosts" => set(&mut params.hash_known_hosts, yes()?),
            "hostkeyalias" => set(&mut params.host_key_alias, first()?),
            _ => {}
        }
        Ok(())
    }
}

/// The first value that is found holds.
fn set<T>(place: &mut Option<T>, value: T) {
    place.get_or_insert(value);
}

/// What the tokens `%h` and so on stand for, as `ssh_config(5)` has them. Others stay as they are.
pub fn tokens(text: &str, name: &str, host: &str, port: &str, user: &str, place: &Place) -> String {
    let mut out = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match rest.next() {
            Some('%') | None => out.push('%'),
            Some('h') => out.push_str(host),
            Some('n' | 'k') => out.push_str(name),
            Some('p') => out.push_str(port),
            Some('r') => out.push_str(user),
            Some('u') => out.push_str(&place.user),
            Some('d') => out.push_str(&place.home.to_string_lossy()),
            Some('i') => out.push_str(&rustix::process::getuid().as_raw().to_string()),
            Some('l' | 'L') => {
                let local = rustix::system::uname();
                out.push_str(&local.nodename().to_string_lossy());
            }
            Some(other) => out.extend(['%', other]),
        }
    }
    out
}

/// Whether a list of patterns, some negated, means a name. Case does not matter.
pub fn host_matches(patterns: &[String], name: &str) -> bool {
    let mut is_meant = false;
    for pattern in patterns {
        match pattern.strip_prefix('!') {
            Some(negated) if wildcard(negated, name) => return false,
            Some(_) => {}
            None => is_meant |= wildcard(pattern, name),
        }
    }
    is_meant
}

/// Matches `*` and `?`, whatever the case.
pub fn wildcard(pattern: &str, name: &str) -> bool {
    matches(&pattern.to_lowercase(), &name.to_lowercase())
}

/// Matches `*` and `?` in time of pattern times name.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                back = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match back {
                Some((star, from)) => {
                    back = Some((star, from + 1));
                    p = star + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

fn criteria(arguments: &[String]) -> Result<Vec<Criterion>, String> {
    let mut words = arguments.iter();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let (is_negated, word) = word.strip_prefix('!').map_or((false, word.as_str()), |word| (true, word));
        let (word, given) = word.split_once('=').map_or((word, None), |(word, given)| (word, Some(given.to_owned())));
        let keyword = word.to_ascii_lowercase();
        let argument = match keyword.as_str() {
            "all" | "canonical" | "final" => String::new(),
            "host" | "originalhost" | "user" | "localuser" | "exec" | "localnetwork" | "tagged" | "command"
            | "version" | "sessiontype" => {
                given.or_else(|| words.next().cloned()).ok_or_else(|| format!("Match {keyword} needs a value"))?
            }
            _ => return Err(format!("Match knows no criterion {word:?}")),
        };
        found.push(Criterion { is_negated, keyword, argument });
    }
    if found.is_empty() { Err("Match needs a criterion".to_owned()) } else { Ok(found) }
}

/// A line as keyword and arguments; `None` where there is nothing on it.
fn split(line: &str) -> Result<Option<(String, Vec<String>)>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let end = line.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(line.len());
    let (keyword, rest) = line.split_at(end);
    let keyword = keyword.trim_matches('"').to_ascii_lowercase();
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    // These take the rest of the line as it is: a command.
    if keyword == "proxycommand"
        || keyword == "localcommand"
        || keyword == "remotecommand"
        || keyword == "knownhostscommand"
    {
        let arguments = if rest.is_empty() { Vec::new() } else { vec![rest.to_owned()] };
        return Ok(Some((keyword, arguments)));
    }
    Ok(Some((keyword, words(rest)?)))
}

/// Words with quotes and backslashes, up to a comment.
fn words(text: &str) -> Result<Vec<String>, &'static str> {
    let mut found = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => return Ok(found),
            (None, c) if c.is_whitespace() => found.extend(word.take()),
            (_, '\\')
                if matches!(rest.peek(), Some('"' | '\'' | '\\')) || (quote.is_none() && rest.peek() == Some(&' ')) =>
            {
                word.get_or_insert_default().extend(rest.next());
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    found.extend(word);
    if quote.is_some() { Err("a quote is not closed") } else { Ok(found) }
}

/// Seconds, or a time such as `1m30s`.
fn seconds(text: &str) -> Option<u64> {
    let mut total: u64 = 0;
    let mut number = String::new();
    for c in text.chars() {
        let unit = match c.to_ascii_lowercase() {
            '0'..='9' => {
                number.push(c);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            'w' => 604_800,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(unit)?)?;
        number.clear();
    }
    if number.is_empty() && !text.is_empty() { Some(total) } else { total.checked_add(number.parse().ok()?) }
}

/// The files that a path with `*` and `?` means, in order.
fn glob(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in path.components() {
        let text = part.as_os_str().to_string_lossy();
        if !text.contains(['*', '?']) {
            for path in &mut found {
                path.push(part);
            }
            continue;
        }
        let mut next = Vec::new();
        for directory in &found {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name());
            let mut names: Vec<_> = names
                .filter(|name| {
                    let name = name.to_string_lossy();
                    matches(&text, &name) && (text.starts_with('.') || !name.starts_with('.'))
                })
                .collect();
            names.sort();
            next.extend(names.into_iter().map(|name| directory.join(name)));
        }
        found = next;
    }
    found
}

/// What others can write may make us run their commands.
fn check_owner(file: &Path) -> Result<(), HostsError> {
    let meta = fs::metadata(file).map_err(|source| HostsError::Read { file: file.to_owned(), source })?;
    let is_ours = meta.uid() == 0 || meta.uid() == rustix::process::getuid().as_raw();
    if is_ours && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    let what = "others may write to this file, so it is not believed (nor by ssh); chmod go-w it, and see whose it is";
    Err(HostsError::Line { file: file.to_owned(), line: 1, what: what.to_owned() })
}

fn succeeds(command: &str) -> bool {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests;
