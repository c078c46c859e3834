//! `hosts.toml`: read strictly, with the line of every mistake, and changed without losing comments.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use toml_edit::{Array, Document, DocumentMut, Item, Table, Value};

use super::HostsError;

const KEYS: [&str; 11] =
    ["address", "port", "user", "key", "keys", "jump", "directory", "compression", "sessions", "host_key", "limits"];
const LIMITS: [&str; 5] = ["rate", "memory", "connect_timeout", "login_timeout", "keepalive"];
const LONGEST_NAME: usize = 255;

/// What an entry of `hosts.toml` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostSettings {
    /// The line where it begins; 0 for none.
    pub line: usize,
    /// Host name or IP address.
    pub address: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Who to log in as.
    pub user: Option<String>,
    /// Files of private keys.
    pub keys: Option<Vec<String>>,
    /// Jump hosts.
    pub jump: Option<String>,
    /// Working directory there.
    pub directory: Option<PathBuf>,
    /// `none`, `lz4`, `zstd`.
    pub compression: Option<String>,
    /// How many sessions carry a move.
    pub sessions: Option<usize>,
    /// `ask`, `accept-new`, `refuse`.
    pub host_key: Option<String>,
    /// Bytes per second.
    pub rate: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Seconds.
    pub connect_timeout: Option<u64>,
    /// Seconds.
    pub login_timeout: Option<u64>,
    /// Seconds.
    pub keepalive: Option<u64>,
}

/// A change to an entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    set: Vec<(String, New)>,
    unset: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum New {
    Text(String),
    Number(i64),
    List(Vec<String>),
}

impl Change {
    /// Whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.unset.is_empty()
    }

    /// Sets a key to a text; `limits.rate` and the like for one of the limits.
    pub fn text(&mut self, key: &str, value: impl Into<String>) {
        self.set.push((key.to_owned(), New::Text(value.into())));
    }

    /// Sets a key to a number.
    pub fn number(&mut self, key: &str, value: u32) {
        self.set.push((key.to_owned(), New::Number(value.into())));
    }

    /// Sets a key to a list.
    pub fn list(&mut self, key: &str, value: Vec<String>) {
        self.set.push((key.to_owned(), New::List(value)));
    }

    /// Takes a key away: the value is as if it had never been given.
    pub fn unset(&mut self, key: impl Into<String>) {
        self.unset.push(key.into());
    }
}

/// The text of a configuration file.
///
/// # Errors
/// The line that is none, and what is wrong with it.
pub fn text_of(content: &[u8]) -> Result<&str, (usize, &'static str)> {
    std::str::from_utf8(content).map_err(|error| {
        let line = content[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
        (line, "this is not text in UTF-8")
    })
}

/// The file.
#[derive(Debug, Clone)]
pub struct HostsFile {
    path: PathBuf,
    text: String,
    defaults: HostSettings,
    hosts: BTreeMap<String, HostSettings>,
}

impl HostsFile {
    pub fn read(path: &Path) -> Result<Self, HostsError> {
        let content = match fs::read(path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(HostsError::Read { file: path.to_owned(), source }),
        };
        let text = text_of(&content).map_err(|(line, what)| HostsError::Line {
            file: path.to_owned(),
            line,
            what: what.to_owned(),
        })?;
        Self::parse(path, text.to_owned())
    }

    pub fn parse(path: &Path, text: String) -> Result<Self, HostsError> {
        let reading = Reading { path, text: &text };
        let document = Document::parse(text.as_str()).map_err(|error| {
            let line = error.span().map_or(1, |span| reading.line(Some(&span)));
            HostsError::Line { file: path.to_owned(), line, what: error.message().trim().replace('\n', ", ") }
        })?;
        let mut defaults = HostSettings::default();
        let mut hosts = BTreeMap::new();
        for (key, item) in document.as_table() {
            match key {
                "defaults" => defaults = reading.settings(item, true)?,
                "hosts" => {
                    let table = item.as_table_like();
                    let table =
                        table.ok_or_else(|| reading.wrong(item.span(), "`hosts` must be a table: [hosts.NAME]"))?;
                    for (name, entry) in table.iter() {
                        let begins = table.key(name).and_then(toml_edit::Key::span).or_else(|| entry.span());
                        check_name(name).map_err(|what| reading.wrong(begins, &what))?;
                        hosts.insert(name.to_owned(), reading.settings(entry, false)?);
                    }
                }
                other => {
                    let what = format!("`{other}` is not known; there are [defaults] and [hosts.NAME]");
                    let span = document.as_table().key(other).and_then(toml_edit::Key::span);
                    return Err(reading.wrong(span.or_else(|| item.span()), &what));
                }
            }
        }
        Ok(Self { path: path.to_owned(), defaults, hosts, text })
    }

    pub fn has(&self, name: &str) -> bool {
        self.hosts.contains_key(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.hosts.keys().map(String::as_str)
    }

    pub fn get(&self, name: &str) -> Option<&HostSettings> {
        self.hosts.get(name)
    }

    pub fn defaults(&self) -> &HostSettings {
        &self.defaults
    }

    pub fn add(&mut self, name: &str, change: &Change) -> Result<(), HostsError> {
        if let Some(there) = self.hosts.get(name) {
            return Err(HostsError::Exists { name: name.to_owned(), file: self.path.clone(), line: there.line });
        }
        self.edit(name, change)
    }

    pub fn edit(&mut self, name: &str, change: &Change) -> Result<(), HostsError> {
        check_name(name).map_err(HostsError::Value)?;
        self.rewrite(|hosts| {
            let entry = hosts.entry(name).or_insert_with(|| Item::Table(Table::new()));
            let what = || HostsError::Value(format!("the entry {name:?} is not a table"));
            let entry = entry.as_table_like_mut().ok_or_else(what)?;
            for (key, value) in &change.set {
                let value = match value {
                    New::Text(text) => Value::from(text.as_str()),
                    New::Number(number) => Value::from(*number),
                    New::List(list) => Value::Array(list.iter().map(String::as_str).collect::<Array>()),
                };
                if key == "key" || key == "keys" {
                    entry.remove("key");
                    entry.remove("keys");
                }
                put(entry, key, value)?;
            }
            for key in &change.unset {
                take(entry, key)?;
            }
            Ok(())
        })
    }

    pub fn remove(&mut self, name: &str) -> Result<(), HostsError> {
        let mut above = String::new();
        self.rewrite(|hosts| {
            let removed = hosts.remove(name);
            // A comment right above the entry goes with it; one that a blank line sets apart is about something else.
            let comment = removed.as_ref().and_then(Item::as_table).and_then(|table| table.decor().prefix()?.as_str());
            let apart = comment.and_then(|comment| comment.rsplit_once("\n\n"));
            let Some((apart, _)) = apart.filter(|(apart, _)| !apart.trim().is_empty()) else { return Ok(()) };
            apart.clone_into(&mut above);
            Ok(())
        })?;
        if !above.is_empty() {
            // At the beginning, where such a comment usually stood.
            let text = format!("{}\n\n{}", above.trim(), self.text.trim_start());
            *self = Self::parse(&self.path, text)?;
        }
        Ok(())
    }

    /// Changes the text, and sees that it can be read.
    fn rewrite(
        &mut self,
        act: impl FnOnce(&mut dyn toml_edit::TableLike) -> Result<(), HostsError>,
    ) -> Result<(), HostsError> {
        let mut document: DocumentMut = self.text.parse().map_err(|error: toml_edit::TomlError| {
            HostsError::Value(format!("{}: {}", self.path.display(), error.message()))
        })?;
        let hosts = document.entry("hosts").or_insert_with(|| {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        });
        let table = hosts.as_table_like_mut();
        act(table.ok_or_else(|| HostsError::Value("`hosts` is not a table".to_owned()))?)?;
        *self = Self::parse(&self.path, document.to_string()).map_err(|error| match error {
            // The line would be one of a file that is never written.
            HostsError::Line { what, .. } => HostsError::Value(what),
            other => other,
        })?;
        Ok(())
    }

    /// Writes the file under its name when it is whole; through a symbolic link, with the mode that it has.
    pub fn write(&self, path: &Path) -> Result<(), HostsError> {
        let failed = |source| HostsError::Write { file: path.to_owned(), source };
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let directory = real.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory).map_err(failed)?;
        let mode = fs::metadata(&real).map_or(0o600, |there| there.permissions().mode() & 0o7777);
        let mut new = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
        new.write_all(self.text.as_bytes()).map_err(failed)?;
        new.as_file().set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
        new.as_file().sync_all().map_err(failed)?;
        new.persist(&real).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

fn put(entry: &mut dyn toml_edit::TableLike, key: &str, value: Value) -> Result<(), HostsError> {
    match key.split_once('.') {
        None => {
            match entry.get_mut(key).and_then(Item::as_value_mut) {
                // What stands around the old value, a comment behind it, stays.
                Some(old) => {
                    let decor = old.decor().clone();
                    *old = value;
                    *old.decor_mut() = decor;
                }
                None => drop(entry.insert(key, Item::Value(value))),
            }
            Ok(())
        }
        Some((outer, inner)) => {
            let within = entry.entry(outer).or_insert_with(|| Item::Table(Table::new()));
            let what = || HostsError::Value(format!("`{outer}` is not a table"));
            put(within.as_table_like_mut().ok_or_else(what)?, inner, value)
        }
    }
}

fn take(entry: &mut dyn toml_edit::TableLike, key: &str) -> Result<(), HostsError> {
    let (outer, inner) = key.split_once('.').map_or((key, None), |(outer, inner)| (outer, Some(inner)));
    let known = match inner {
        None => KEYS.contains(&outer),
        Some(inner) => outer == "limits" && LIMITS.contains(&inner),
    };
    if !known {
        let what = format!(
            "there is no setting `{key}`; there are {} and limits.{}",
            KEYS.join(", "),
            LIMITS.join(", limits.")
        );
        return Err(HostsError::Value(what));
    }
    match inner {
        None if outer == "key" || outer == "keys" => {
            entry.remove("key");
            entry.remove("keys");
        }
        None => drop(entry.remove(outer)),
        Some(inner) => {
            if let Some(table) = entry.get_mut(outer).and_then(Item::as_table_like_mut) {
                table.remove(inner);
            }
        }
    }
    Ok(())
}

/// A name can stand on a command line, in a message and in a file name.
fn check_name(name: &str) -> Result<(), String> {
    let is_possible = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name == super::LOCAL {
        return Err(format!("{name:?} stands for this machine; give the host another name"));
    }
    if name.is_empty() || name.len() > LONGEST_NAME || name.starts_with(['-', '.']) || !name.chars().all(is_possible) {
        return Err(format!(
            "{name:?} cannot be a host's name: letters, digits, `.`, `_` and `-` can, with a letter first"
        ));
    }
    Ok(())
}

struct Reading<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reading<'_> {
    fn line(&self, span: Option<&Range<usize>>) -> usize {
        let until = span.map_or(0, |span| span.start).min(self.text.len());
        self.text.get(..until).map_or(1, |before| before.matches('\n').count() + 1)
    }

    #[allow(clippy::needless_pass_by_value, reason = "every span there is comes as a value")]
    fn wrong(&self, span: Option<Range<usize>>, what: &str) -> HostsError {
        HostsError::Line { file: self.path.to_owned(), line: self.line(span.as_ref()), what: what.to_owned() }
    }

    fn settings(&self, item: &Item, are_defaults: bool) -> Result<HostSettings, HostsError> {
        let table =
            item.as_table_like().ok_or_else(|| self.wrong(item.span(), "a host must be a table: [hosts.NAME]"))?;
        let mut settings = HostSettings { line: self.line(item.span().as_ref()), ..HostSettings::default() };
        for (key, item) in table.iter() {
            let begins = table.key(key).and_then(toml_edit::Key::span).or_else(|| item.span());
            if are_defaults && ["address", "port"].contains(&key) {
                return Err(self.wrong(begins, &format!("`{key}` cannot be a default: it belongs to one host")));
            }
            match key {
                "address" => settings.address = Some(self.word(key, item)?),
                "port" => settings.port = Some(self.number(key, item, 1, 65535)?),
                "user" => settings.user = Some(self.word(key, item)?),
                "key" => settings.keys = Some(vec![self.text(key, item)?]),
                "keys" => settings.keys = Some(self.list(key, item)?),
                "jump" => settings.jump = Some(self.word(key, item)?),
                "directory" => settings.directory = Some(self.directory(item)?),
                "compression" => settings.compression = Some(self.one_of(key, item, &["none", "lz4", "zstd"])?),
                "sessions" => settings.sessions = Some(self.number(key, item, 1, 8)?),
                "host_key" => settings.host_key = Some(self.one_of(key, item, &["ask", "accept-new", "refuse"])?),
                "limits" => self.limits(item, &mut settings)?,
                other => {
                    let what = format!("`{other}` is not known; a host has {}", KEYS.join(", "));
                    return Err(self.wrong(begins, &what));
                }
            }
        }
        if table.contains_key("key") && table.contains_key("keys") {
            return Err(self.wrong(item.span(), "`key` and `keys` are two ways to say one thing: keep one of them"));
        }
        Ok(settings)
    }

    fn limits(&self, item: &Item, settings: &mut HostSettings) -> Result<(), HostsError> {
        let table = item.as_table_like();
        let table =
            table.ok_or_else(|| self.wrong(item.span(), "`limits` must be a table: limits = { rate = \"50MiB\" }"))?;
        for (key, item) in table.iter() {
            match key {
                "rate" => settings.rate = Some(self.size(key, item)?),
                "memory" => settings.memory = Some(self.size(key, item)?),
                "connect_timeout" => settings.connect_timeout = Some(self.number(key, item, 1, 3600)?),
                "login_timeout" => settings.login_timeout = Some(self.number(key, item, 1, 3600)?),
                "keepalive" => settings.keepalive = Some(self.number(key, item, 2, 3600)?),
                other => {
                    let span = table.key(other).and_then(toml_edit::Key::span).or_else(|| item.span());
                    let what = format!("`{other}` is not known; limits are {}", LIMITS.join(", "));
                    return Err(self.wrong(span, &what));
                }
            }
        }
        Ok(())
    }

    fn text(&self, key: &str, item: &Item) -> Result<String, HostsError> {
        let text = item.as_str().filter(|text| !text.is_empty() && !text.contains(['\0', '\n']));
        text.map(str::to_owned).ok_or_else(|| self.wrong(item.span(), &format!("`{key}` must be a text in quotes")))
    }

    /// A text that reaches servers and other programs as one word.
    fn word(&self, key: &str, item: &Item) -> Result<String, HostsError> {
        let text = self.text(key, item)?;
        if text.starts_with('-') || text.contains(char::is_whitespace) || text.contains(char::is_control) {
            return Err(
                self.wrong(item.span(), &format!("`{key}` cannot be {text:?}: no spaces, and no `-` at the beginning"))
            );
        }
        Ok(text)
    }

    fn list(&self, key: &str, item: &Item) -> Result<Vec<String>, HostsError> {
        let wrong = || self.wrong(item.span(), &format!("`{key}` must be a list of texts: [\"~/.ssh/id_ed25519\"]"));
        let array = item.as_array().ok_or_else(wrong)?;
        array.iter().map(|value| value.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
    }

    fn directory(&self, item: &Item) -> Result<PathBuf, HostsError> {
        let directory = PathBuf::from(self.text("directory", item)?);
        if !directory.is_absolute() {
            return Err(self.wrong(item.span(), "`directory` must be an absolute path on that host"));
        }
        Ok(directory)
    }

    fn one_of(&self, key: &str, item: &Item, possible: &[&str]) -> Result<String, HostsError> {
        let text = item.as_str().filter(|text| possible.contains(text));
        let what = || self.wrong(item.span(), &format!("`{key}` must be one of \"{}\"", possible.join("\", \"")));
        text.map(str::to_owned).ok_or_else(what)
    }

    fn number<T: TryFrom<i64>>(&self, key: &str, item: &Item, least: i64, most: i64) -> Result<T, HostsError> {
        let number = item.as_integer().filter(|number| (least..=most).contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| self.wrong(item.span(), &format!("`{key}` must be a number from {least} to {most}")))
    }

    /// A number of bytes, or a text with a unit.
    fn size(&self, key: &str, item: &Item) -> Result<u64, HostsError> {
        let number = item.as_integer().and_then(|number| u64::try_from(number).ok());
        let size = number.or_else(|| parse_size(item.as_str()?)).filter(|size| *size > 0);
        let what = || self.wrong(item.span(), &format!("`{key}` must be a size: 50000000, \"50MB\", \"1.5GiB\""));
        size.ok_or_else(what)
    }
}

/// A size with a unit: `k`, `M`, `G`, `T` with `iB` or alone for powers of 1024, with `B` for powers of 1000.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().trim_end_matches("/s").to_ascii_lowercase();
    let power = match unit.chars().next() {
        None | Some('b') => 0,
        Some('k') => 1,
        Some('m') => 2,
        Some('g') => 3,
        Some('t') => 4,
        Some(_) => return None,
    };
    let base: u64 = match unit.get(1..).unwrap_or_default() {
        "" | "ib" => 1024,
        "b" => 1000,
        _ => return None,
    };
    // Tenths and so on without floats: both parts are whole numbers.
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let scale = base.checked_pow(power)?;
    let whole: u64 = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let part = match part {
        "" => 0,
        digits => {
            let divisor = 10_u128.checked_pow(u32::try_from(digits.len()).ok()?)?;
            u64::try_from(digits.parse::<u64>().ok().map(u128::from)? * u128::from(scale) / divisor).ok()?
        }
    };
    whole.checked_add(part)
}

#[cfg(test)]
mod tests;
