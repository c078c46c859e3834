//! What became of moves that came to this machine: decided once each, whoever is killed when.
//!
//! A program that has arrived may run only once `Ran` is written down under its move's name, and a mover that asks whether it
//! ran has `Refused` written down if nothing is: only one of the two can be there.

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use ckpt_core::Class;
use ckpt_transfer::protocol::Reply;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::jobs::{JobStore, ProcessId, read_json};
use crate::text;

/// After that nobody asks any more.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
const LONGEST_NAME: usize = 64;

/// What became of a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The program was let go.
    Ran {
        /// As which job.
        job: String,
        /// As which process.
        process: ProcessId,
    },
    /// It was not, and never will be.
    Refused,
}

/// Writes a fate down unless there is one; gives that which holds.
pub fn decide(store: &JobStore, txn: &str, wanted: &Fate) -> anyhow::Result<Fate> {
    let path = path(store, txn)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let write = || -> anyhow::Result<bool> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(&serde_json::to_vec(wanted)?)?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(&path) {
            Ok(_) => Ok(true),
            Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.error.into()),
        }
    };
    let is_ours = write().with_context(|| format!("cannot write {}", text::path(&path)))?;
    if is_ours {
        prune(directory);
        return Ok(wanted.clone());
    }
    read_json(&path)?.with_context(|| format!("{} has gone", text::path(&path)))
}

/// The answer to [`ckpt_transfer::protocol::Request::Outcome`].
pub fn outcome(store: &JobStore, txn: &str) -> anyhow::Result<Reply> {
    Ok(match decide(store, txn, &Fate::Refused)? {
        Fate::Refused => Reply::Outcome { ran: false, pid: None, ended: None },
        Fate::Ran { job, process } => {
            let ended = store.find(&job)?.and_then(|job| job.ending).map(crate::jobs::JobEnding::ending);
            Reply::Outcome { ran: true, pid: process.lives().then_some(process.pid), ended }
        }
    })
}

fn path(store: &JobStore, txn: &str) -> anyhow::Result<PathBuf> {
    if txn.is_empty() || txn.len() > LONGEST_NAME || !txn.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(Failure::new(Class::Usage, format!("{} is no name of a move", text::quoted(txn))).into());
    }
    Ok(store.moves().join(txn))
}

/// Forgets old ones. What stays is looked at the next time.
fn prune(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|stat| stat.modified()).ok().and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age > KEPT) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use super::*;

    #[test]
    fn a_fate_is_decided_once() {
        let directory = tempfile::tempdir().unwrap();
        let store = JobStore::at(directory.path().join("jobs"));
        let process = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let ran = Fate::Ran { job: "sim".to_owned(), process };
        assert_eq!(decide(&store, "1a", &ran).unwrap(), ran);
        assert_eq!(decide(&store, "1a", &Fate::Refused).unwrap(), ran);
        let told = outcome(&store, "1a").unwrap();
        assert_eq!(told, Reply::Outcome { ran: true, pid: Some(process.pid), ended: None });
        assert_eq!(outcome(&store, "2b").unwrap(), Reply::Outcome { ran: false, pid: None, ended: None });
        assert_eq!(decide(&store, "2b", &ran).unwrap(), Fate::Refused);
        for bad in ["", "..", "a/b", &"x".repeat(65)] {
            assert!(decide(&store, bad, &ran).is_err(), "{bad:?}");
        }
    }
}
