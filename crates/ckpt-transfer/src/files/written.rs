//! What a program wrote where it is or was: asked there, and brought home from there.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::home::conflicts;
use super::manifest::{self, Asked};
use super::place::lacking;
use super::{Departed, FilesError, Hashes, below, bring_home, is_plain};
use crate::protocol::{FileEntry, FileRole, FilesPolicy, Reply, Request};
use crate::send::SendError;
use crate::store::Store;
use crate::wire::{self, WireError};

/// Files could not be brought home.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A file here.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The other machine, or the connection to it.
    #[error(transparent)]
    There(#[from] SendError),
}

impl From<WireError> for FetchError {
    fn from(error: WireError) -> Self {
        Self::There(error.into())
    }
}

/// Where [`place`](super::place()) notes what it has placed into a directory.
pub(super) fn note_of(directory: &Path) -> PathBuf {
    directory.with_extension("json")
}

/// The files in a job's own directory as they are now: those that came along, and those that the program made in the
/// directories that came along as wholes. It may be running.
///
/// # Errors
/// When nothing came along, or it cannot be read.
pub fn written(directory: &Path, hashes: &mut Hashes) -> Result<Vec<FileEntry>, FilesError> {
    let placed = Departed::load(&note_of(directory))?;
    if placed.files().next().is_none() {
        let advice = "with --files=expect and --files=shared a program writes to the files of the host itself";
        return Err(FilesError::wrong(directory, "holds no files that came along", advice));
    }
    let asked = Asked { policy: FilesPolicy::Carry, with: &[], root: directory, home: None };
    let mut entries = BTreeMap::new();
    // What is left out (sockets, what cannot be read) was told when it left.
    let mut notes = Vec::new();
    let own = placed.files().filter(|file| file.role != FileRole::Code);
    for file in own {
        let is_listed = entries.contains_key(&file.path);
        if is_listed || fs::symlink_metadata(below(directory, &file.path)).is_err() {
            continue;
        }
        manifest::add_below(&mut entries, &file.path, &asked, hashes, &mut notes)?;
    }
    let roles: BTreeMap<&Path, FileRole> = placed.files().map(|file| (file.path.as_path(), file.role)).collect();
    hashes.save();
    Ok(entries
        .into_values()
        .map(|file: FileEntry| FileEntry { role: roles.get(file.path.as_path()).copied().unwrap_or(file.role), ..file })
        .collect())
}

/// What of it, and how.
pub struct Wanted<'a> {
    /// These files and what is in these directories; everything if empty.
    pub paths: &'a [PathBuf],
    /// Also over files that were changed here meanwhile.
    pub overwrite: bool,
}

/// Brings home what a job wrote, over a connection to an agent of the machine where it is. Gives the files that changed here.
///
/// # Errors
/// A file that was changed here meanwhile, unless that may be overwritten: nothing is changed then. A connection that breaks.
pub fn fetch(
    stream: &mut (impl Read + Write),
    job: &str,
    wanted: &Wanted<'_>,
    departed: &mut Departed,
    store: &Store,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<PathBuf>, FetchError> {
    wire::send(stream, &Request::Written { job: job.to_owned() }, &[])?;
    let (root, files) = match receive(stream)? {
        (Reply::Written { root, files }, _) => (PathBuf::from(std::ffi::OsStr::from_bytes(&root.0)), files),
        _ => return Err(nonsense()),
    };
    let is_wanted = |path: &Path| wanted.paths.is_empty() || wanted.paths.iter().any(|wanted| path.starts_with(wanted));
    let files: Vec<FileEntry> =
        files.into_iter().filter(|file| is_plain(&file.path) && is_wanted(&file.path)).collect();
    if let Some(path) = wanted.paths.iter().find(|wanted| !files.iter().any(|file| file.path.starts_with(wanted))) {
        let advice = "give the path of a file as the program knows it, or none for all";
        return Err(FilesError::wrong(path, "is no file that the program has there", advice).into());
    }
    let mut hashes = Hashes::load(store);
    let own = departed.changed(&files);
    if let (false, Some(path)) = (wanted.overwrite, conflicts(&own, departed, &mut hashes)?.first()) {
        return Err(super::home::conflict(path).into());
    }
    let lacking = lacking(&own, FilesPolicy::Carry, store, &mut hashes)?;
    let left = |index: usize, there: u64| own.get(index).map_or(0, |file: &FileEntry| file.size.saturating_sub(there));
    let total = lacking.iter().map(|(index, there)| left(*index, *there)).sum();
    let mut done = 0;
    for (index, there) in lacking {
        let Some((file, hash)) = own.get(index).and_then(|file| Some((file, file.hash.as_ref()?))) else { continue };
        let mut incoming = store.receive(hash, file.size, there).map_err(FilesError::from)?;
        let path = below(&root, &file.path);
        wire::send(stream, &Request::Read { path, offset: there, length: file.size - there }, &[])?;
        loop {
            match receive(stream)? {
                (Reply::Chunk, body) => {
                    incoming.write(&body).map_err(FilesError::from)?;
                    done += body.len() as u64;
                    progress(done, total);
                }
                (Reply::Done, _) => break,
                _ => return Err(nonsense()),
            }
        }
        incoming.finish().map_err(|error| {
            let what = format!("changed while it was fetched ({error})");
            FilesError::wrong(&file.path, what, "try again when the program writes less, or with other paths first")
        })?;
    }
    Ok(bring_home(&own, departed, store, &mut hashes, wanted.overwrite, false)?)
}

fn receive(stream: &mut impl Read) -> Result<(Reply, Vec<u8>), FetchError> {
    loop {
        match wire::receive::<Reply>(stream)? {
            Some((Reply::Failed { message, exit }, _)) => return Err(SendError::Refused { message, exit }.into()),
            Some((Reply::Heartbeat, _)) => {}
            Some(reply) => return Ok(reply),
            None => return Err(WireError::Cut.into()),
        }
    }
}

fn nonsense() -> FetchError {
    WireError::Nonsense("it answers something else than was asked for".to_owned()).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use std::os::unix::net::UnixStream;

    use ckpt_core::resource::bytes::Bytes;

    use super::super::place;
    use super::*;
    use crate::serve::serve;

    /// A job that left `home` with `work/`, and is in `job` on the other machine.
    struct Stage {
        directory: tempfile::TempDir,
        departed: Departed,
    }

    impl Stage {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let at = |name: &str| directory.path().join(name);
            fs::create_dir_all(at("work")).unwrap();
            fs::write(at("work/out"), "one\n").unwrap();
            fs::write(at("work/in"), "input").unwrap();
            let asked = Asked { policy: FilesPolicy::Carry, with: &[], root: Path::new("/"), home: None };
            let mut entries = BTreeMap::new();
            let mut hashes = Hashes::default();
            manifest::add_below(&mut entries, &at("work"), &asked, &mut hashes, &mut Vec::new()).unwrap();
            let files: Vec<FileEntry> = entries.into_values().collect();
            let there = Store::at(at("there"));
            for file in files.iter().filter(|file| file.hash.is_some()) {
                there.keep(&file.path, file.hash.as_ref().unwrap()).unwrap();
            }
            place(&files, FilesPolicy::Carry, &there, &mut hashes, &at("job/files")).unwrap();
            Self { departed: Departed::new(files), directory }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn there(&self, name: &str) -> PathBuf {
            below(&self.at("job/files"), &self.at(name))
        }

        fn fetch(&mut self, paths: &[PathBuf], overwrite: bool) -> Result<Vec<PathBuf>, String> {
            let (mut here, mut there) = UnixStream::pair().unwrap();
            let (store, files) = (Store::at(self.at("there")), self.at("job/files"));
            let serving = std::thread::spawn(move || {
                while let Ok(Some((request, _))) = wire::receive::<Request>(&mut there) {
                    if let Request::Written { job } = &request {
                        assert_eq!(job, "sim");
                        let root = Bytes(files.as_os_str().as_bytes().to_vec());
                        let files = written(&files, &mut Hashes::default()).unwrap();
                        wire::send(&mut there, &Reply::Written { root, files }, &[]).unwrap();
                    } else {
                        serve(&request, &mut there, &store).unwrap();
                    }
                }
            });
            let store = Store::at(self.at("cache"));
            let wanted = Wanted { paths, overwrite };
            let mut last = (0, 0);
            let result =
                fetch(&mut here, "sim", &wanted, &mut self.departed, &store, &mut |done, total| last = (done, total));
            assert_eq!(last.0, last.1, "all of it was told");
            drop(here);
            serving.join().unwrap();
            result.map_err(|error| error.to_string())
        }
    }

    #[test]
    fn what_was_written_there_comes_home_while_it_runs() {
        let mut stage = Stage::new();
        assert!(stage.fetch(&[], false).unwrap().is_empty());
        fs::write(stage.there("work/out"), "one\ntwo\n").unwrap();
        fs::create_dir(stage.there("work/new")).unwrap();
        fs::write(stage.there("work/new/file"), "new").unwrap();
        let only = [stage.at("work/new")];
        assert_eq!(stage.fetch(&only, false).unwrap(), [stage.at("work/new"), stage.at("work/new/file")]);
        assert_eq!(fs::read_to_string(stage.at("work/out")).unwrap(), "one\n");
        assert_eq!(stage.fetch(&[], false).unwrap(), [stage.at("work/out")]);
        assert_eq!(fs::read_to_string(stage.at("work/out")).unwrap(), "one\ntwo\n");
        // What came home once is what the next time is measured by.
        fs::write(stage.there("work/out"), "one\ntwo\nthree\n").unwrap();
        assert_eq!(stage.fetch(&[], false).unwrap(), [stage.at("work/out")]);
        assert!(stage.fetch(&[], false).unwrap().is_empty());
        let none = [stage.at("work/none")];
        assert!(stage.fetch(&none, false).unwrap_err().contains("no file that the program has"));
    }

    #[test]
    fn what_was_changed_here_is_named_before_anything_is_touched() {
        let mut stage = Stage::new();
        fs::write(stage.there("work/in"), "changed there").unwrap();
        fs::write(stage.there("work/out"), "changed there").unwrap();
        fs::write(stage.at("work/out"), "changed here").unwrap();
        let refused = stage.fetch(&[], false).unwrap_err();
        assert!(refused.contains("work/out") && refused.contains("--overwrite"), "{refused}");
        assert_eq!(fs::read_to_string(stage.at("work/in")).unwrap(), "input");
        assert_eq!(stage.fetch(&[], true).unwrap().len(), 2);
        assert_eq!(fs::read_to_string(stage.at("work/out")).unwrap(), "changed there");
    }

    #[test]
    fn a_job_without_files_of_its_own_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let error = written(&directory.path().join("files"), &mut Hashes::default()).unwrap_err().to_string();
        assert!(error.contains("--files=expect"), "{error}");
    }
}
