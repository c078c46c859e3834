//! The files of known host keys, as sshd(8) describes them.
//!
//! Read here rather than by libssh2, which knows neither markers nor the lines that an error has to name.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::hosts::host_matches;

/// A host's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// `ssh-ed25519` and so on, as the key itself says.
    pub algorithm: String,
    /// As it goes over the wire.
    pub blob: Vec<u8>,
}

/// What the files say.
#[derive(Debug, Clone, Default)]
pub struct KnownHosts(Vec<Entry>);

/// A line of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    marker: Marker,
    names: String,
    /// The key.
    pub key: HostKey,
    /// The file.
    pub file: PathBuf,
    /// The line in it.
    pub line: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marker {
    None,
    Revoked,
    Authority,
}

/// What is to be thought of a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It is the host's.
    Known,
    /// It must not be used.
    Revoked(&'a Entry),
    /// The host has another one of this kind.
    Changed(&'a Entry),
    /// The host has keys of other kinds only.
    OtherKind(&'a Entry),
    /// Nothing is known of the host, except perhaps who signs its keys.
    New(Option<&'a Entry>),
}

impl HostKey {
    /// A key as it came over the wire.
    pub fn of(blob: &[u8]) -> Option<Self> {
        let length = u32::from_be_bytes(blob.get(..4)?.try_into().ok()?) as usize;
        let algorithm = std::str::from_utf8(blob.get(4..4_usize.checked_add(length)?)?).ok()?;
        let is_name = |c: char| c.is_ascii_graphic() && c != ',';
        (!algorithm.is_empty() && algorithm.chars().all(is_name))
            .then(|| Self { algorithm: algorithm.to_owned(), blob: blob.to_vec() })
    }

    /// As `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&self.blob)))
    }
}

/// The name under which a host's key is written.
pub fn name(address: &str, port: u16) -> String {
    let address = address.to_lowercase();
    if port == 22 { address } else { format!("[{address}]:{port}") }
}

impl KnownHosts {
    /// Reads files; one that is not there holds nothing.
    pub fn read<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Result<Self, (PathBuf, io::Error)> {
        let mut all = Self::default();
        for file in files {
            match fs::read(file) {
                Ok(bytes) => all.parse(file, &String::from_utf8_lossy(&bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err((file.clone(), error)),
            }
        }
        Ok(all)
    }

    /// Lines that cannot be understood are passed over, as ssh does: a newer version may have written them.
    fn parse(&mut self, file: &Path, text: &str) {
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split_whitespace().peekable();
            let marker = match words.peek() {
                None => continue,
                Some(word) if word.starts_with('#') => continue,
                Some(&"@revoked") => Marker::Revoked,
                Some(&"@cert-authority") => Marker::Authority,
                Some(word) if word.starts_with('@') => continue,
                Some(_) => Marker::None,
            };
            if marker != Marker::None {
                words.next();
            }
            let (Some(names), Some(algorithm), Some(blob)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let key = STANDARD.decode(blob).ok().and_then(|blob| HostKey::of(&blob));
            let Some(key) = key.filter(|key| key.algorithm == algorithm) else { continue };
            self.0.push(Entry { marker, names: names.to_owned(), key, file: file.to_owned(), line: index + 1 });
        }
    }

    /// The kinds of key that are known of a host, in order.
    pub fn algorithms(&self, name: &str) -> Vec<&str> {
        let entries = self.0.iter().filter(|entry| entry.marker == Marker::None && entry.is_of(name));
        entries.map(|entry| entry.key.algorithm.as_str()).collect()
    }

    /// Judges a key that a host has shown.
    pub fn judge(&self, name: &str, key: &HostKey) -> Verdict<'_> {
        let of_host = || self.0.iter().filter(|entry| entry.is_of(name));
        if let Some(revoked) = of_host().find(|entry| entry.marker == Marker::Revoked && entry.key == *key) {
            return Verdict::Revoked(revoked);
        }
        let mut plain = of_host().filter(|entry| entry.marker == Marker::None);
        if plain.clone().any(|entry| entry.key == *key) {
            return Verdict::Known;
        }
        if let Some(changed) = plain.clone().find(|entry| entry.key.algorithm == key.algorithm) {
            return Verdict::Changed(changed);
        }
        match plain.next() {
            Some(other) => Verdict::OtherKind(other),
            None => Verdict::New(of_host().find(|entry| entry.marker == Marker::Authority)),
        }
    }
}

impl Entry {
    fn is_of(&self, name: &str) -> bool {
        if let Some(hashed) = self.names.strip_prefix("|1|") {
            let Some((salt, hash)) = hashed.split_once('|') else { return false };
            let (Ok(salt), Ok(hash)) = (STANDARD.decode(salt), STANDARD.decode(hash)) else { return false };
            return hmac(&salt, name).is_some_and(|mac| mac.verify_slice(&hash).is_ok());
        }
        let patterns: Vec<String> = self.names.split(',').map(str::to_owned).collect();
        host_matches(&patterns, name)
    }
}

/// Adds a key to a file, which is made if it is not there, for the user alone.
pub fn append(file: &Path, name: &str, key: &HostKey, is_hashed: bool) -> io::Result<()> {
    if let Some(directory) = file.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let name = if is_hashed { hashed(name)? } else { name.to_owned() };
    let mut line = format!("{name} {} {}\n", key.algorithm, STANDARD.encode(&key.blob));
    let mut open = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(file)?;
    // The last line of a file that was edited by hand may not have an end.
    if open.seek(SeekFrom::End(0))? > 0 {
        let mut last = [0];
        open.seek(SeekFrom::End(-1))?;
        open.read_exact(&mut last)?;
        if last != *b"\n" {
            line.insert(0, '\n');
        }
    }
    // In one write: another ssh may be adding a line at the same time.
    open.write_all(line.as_bytes())
}

fn hashed(name: &str) -> io::Result<String> {
    let mut salt = [0; 20];
    fs::File::open("/dev/urandom")?.read_exact(&mut salt)?;
    let mac = hmac(&salt, name).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(format!("|1|{}|{}", STANDARD.encode(salt), STANDARD.encode(mac.finalize().into_bytes())))
}

fn hmac(salt: &[u8], name: &str) -> Option<Hmac<Sha1>> {
    let mut mac = Hmac::<Sha1>::new_from_slice(salt).ok()?;
    mac.update(name.as_bytes());
    Some(mac)
}

#[cfg(test)]
mod tests;
