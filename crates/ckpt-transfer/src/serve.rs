//! What any machine does for another one: take contents in, give files out.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::files::{FilesError, Hashes, lacking};
use crate::protocol::{Reply, Request, Target};
use crate::store::{Extent, Incoming, Store, StoreError};
use crate::wire::{self, MOST_BODY, WireError};

/// Why what was asked for could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The connection broke; nobody can be told.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A file.
    #[error(transparent)]
    Files(#[from] FilesError),
}

impl From<StoreError> for ServeError {
    fn from(error: StoreError) -> Self {
        Self::Files(error.into())
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ServeError {
    let path = path.to_path_buf();
    move |source| ServeError::Files(FilesError::Io { what, path, source })
}

/// Answers one of [`Request::Lacking`], [`Request::Grown`], [`Request::Has`], [`Request::Put`] and [`Request::Read`]; false for any other.
///
/// # Errors
/// What is to be told to the other side. After a [`Request::Put`] that failed nothing more of the stream is understood: close it.
pub fn serve(request: &Request, stream: &mut (impl Read + Write), store: &Store) -> Result<bool, ServeError> {
    match request {
        Request::Lacking { files, policy } => {
            let files = lacking(files, *policy, store, &mut Hashes::load(store))?;
            wire::send(stream, &Reply::Lacking { files }, &[])?;
        }
        Request::Put { target, size, offset } => {
            match target {
                Target::Store(hash) => take(stream, store.receive(hash, *size, *offset)?)?,
                Target::File { path, mode, hash } => {
                    let path = Path::new(std::ffi::OsStr::from_bytes(&path.0));
                    take(stream, file(path, *mode, hash, Extent { size: *size, offset: *offset })?)?;
                }
            }
            wire::send(stream, &Reply::Stored, &[])?;
        }
        Request::Grown { hash, from } => {
            store.grow(hash, from)?;
            wire::send(stream, &Reply::Done, &[])?;
        }
        Request::Has { target, size } => {
            let files = match target {
                Target::Store(hash) if store.find(hash)?.is_some() => Vec::new(),
                Target::Store(hash) => vec![(0, store.partial_size(hash)?.min(*size))],
                Target::File { path, hash, .. } => {
                    let path = Path::new(std::ffi::OsStr::from_bytes(&path.0));
                    let is_there = fs::metadata(path).is_ok_and(|stat| stat.is_file() && stat.len() == *size)
                        && Hashes::load(store).of(path).is_ok_and(|here| here == *hash);
                    let came = || fs::symlink_metadata(partial(path, hash)).map_or(0, |stat| stat.len());
                    if is_there { Vec::new() } else { vec![(0, came().min(*size))] }
                }
            };
            wire::send(stream, &Reply::Lacking { files }, &[])?;
        }
        Request::Read { path, offset, length } => {
            send_file(stream, path, *offset, *length)?;
            wire::send(stream, &Reply::Done, &[])?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn next_chunk(stream: &mut impl Read) -> Result<Vec<u8>, ServeError> {
    loop {
        match wire::receive::<Request>(stream)? {
            Some((Request::Chunk, body)) => return Ok(body),
            Some((Request::Heartbeat, _)) => {}
            Some(_) => return Err(WireError::Nonsense("something else came in the middle of a file".to_owned()).into()),
            None => return Err(WireError::Cut.into()),
        }
    }
}

/// Takes contents in until all have come.
fn take(stream: &mut impl Read, mut incoming: Incoming) -> Result<(), ServeError> {
    while !incoming.is_whole() {
        incoming.write(&next_chunk(stream)?)?;
    }
    incoming.finish()?;
    Ok(())
}

/// Begins to take a file in beside its place.
fn file(path: &Path, mode: u32, hash: &str, extent: Extent) -> Result<Incoming, ServeError> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(io_error("make the directory", parent))?;
    }
    if path.is_dir() {
        let source = io::ErrorKind::IsADirectory.into();
        return Err(io_error("write", path)(source));
    }
    Ok(Incoming::open(path.to_path_buf(), &partial(path, hash), hash, extent, mode & 0o777)?)
}

/// Where a file is while it comes: another content is another copy.
fn partial(path: &Path, hash: &str) -> PathBuf {
    const ENOUGH: usize = 16;
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.partial", hash.chars().filter(char::is_ascii_hexdigit).take(ENOUGH).collect::<String>()));
    path.with_file_name(name)
}

fn send_file(stream: &mut impl Write, path: &Path, offset: u64, length: u64) -> Result<(), ServeError> {
    let reading = || io_error("read", path);
    let mut file = File::open(path).map_err(reading())?;
    file.seek(SeekFrom::Start(offset)).map_err(reading())?;
    let mut file = file.take(length);
    let mut buffer = vec![0; MOST_BODY];
    loop {
        match file.read(&mut buffer).map_err(reading())? {
            0 => return Ok(()),
            count => wire::send(stream, &Reply::Chunk, &buffer[..count])?,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use ckpt_core::resource::bytes::Bytes;

    use super::*;

    struct Stage {
        directory: tempfile::TempDir,
        here: UnixStream,
        there: UnixStream,
    }

    impl Stage {
        fn new() -> Self {
            let (here, there) = UnixStream::pair().unwrap();
            Self { directory: tempfile::tempdir().unwrap(), here, there }
        }

        fn store(&self) -> Store {
            Store::at(self.directory.path().join("cache"))
        }

        fn target(&self, name: &str, content: &str) -> Target {
            let path = Bytes(self.directory.path().join(name).as_os_str().as_bytes().to_vec());
            Target::File { path, mode: 0o4750, hash: blake3::hash(content.as_bytes()).to_hex().to_string() }
        }

        fn serve(&mut self, request: &Request) -> Result<bool, ServeError> {
            let store = self.store();
            serve(request, &mut self.there, &store)
        }

        fn ask(&mut self, request: &Request, chunks: &[&str]) -> Result<Reply, String> {
            for chunk in chunks {
                wire::send(&mut self.here, &Request::Chunk, chunk.as_bytes()).unwrap();
            }
            assert!(self.serve(request).map_err(|error| error.to_string())?);
            Ok(wire::receive::<Reply>(&mut self.here).unwrap().unwrap().0)
        }
    }

    #[test]
    fn files_go_in_and_out() {
        let mut stage = Stage::new();
        let path = stage.directory.path().join("new/file");
        let (target, size) = (stage.target("new/file", "hello world"), 11);
        let has = Request::Has { target: target.clone(), size };
        assert_eq!(stage.ask(&has, &[]).unwrap(), Reply::Lacking { files: vec![(0, 0)] });
        let request = Request::Put { target, size, offset: 0 };
        assert_eq!(stage.ask(&request, &["hello", " world"]).unwrap(), Reply::Stored);
        assert_eq!(fs::read(&path).unwrap(), b"hello world");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o750);
        assert_eq!(stage.ask(&has, &[]).unwrap(), Reply::Lacking { files: Vec::new() });

        let read = Request::Read { path: path.clone(), offset: 6, length: 3 };
        assert!(stage.serve(&read).unwrap());
        assert_eq!(wire::receive::<Reply>(&mut stage.here).unwrap().unwrap(), (Reply::Chunk, b"wor".to_vec()));
        assert_eq!(wire::receive::<Reply>(&mut stage.here).unwrap().unwrap().0, Reply::Done);

        let missing = Request::Read { path: path.with_file_name("none"), offset: 0, length: 1 };
        assert!(stage.ask(&missing, &[]).unwrap_err().contains("none"));
        assert!(!stage.serve(&Request::Probe).unwrap());
    }

    #[test]
    fn an_interrupted_copy_of_a_file_goes_on_and_an_old_file_stays_until_then() {
        let mut stage = Stage::new();
        let path = stage.directory.path().join("file");
        fs::write(&path, "what was there").unwrap();
        let (target, size) = (stage.target("file", "hello world"), 11);
        wire::send(&mut stage.here, &Request::Chunk, b"hello").unwrap();
        stage.here.shutdown(std::net::Shutdown::Write).unwrap();
        let put = |offset| Request::Put { target: target.clone(), size, offset };
        assert!(stage.ask(&put(0), &[]).unwrap_err().contains("middle"));
        (stage.here, stage.there) = UnixStream::pair().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"what was there");
        let has = Request::Has { target: target.clone(), size };
        assert_eq!(stage.ask(&has, &[]).unwrap(), Reply::Lacking { files: vec![(0, 5)] });
        let other = Request::Has { target: stage.target("file", "hello there"), size };
        assert_eq!(stage.ask(&other, &[]).unwrap(), Reply::Lacking { files: vec![(0, 0)] }, "of another content");
        assert_eq!(stage.ask(&put(5), &[" world"]).unwrap(), Reply::Stored);
        assert_eq!(fs::read(&path).unwrap(), b"hello world");
        let names: Vec<_> =
            fs::read_dir(stage.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!names.iter().any(|name| name.to_string_lossy().ends_with("partial")), "{names:?}");
    }

    #[test]
    fn a_file_that_is_damaged_on_the_way_does_not_replace_anything() {
        let mut stage = Stage::new();
        let path = stage.directory.path().join("file");
        fs::write(&path, "what was there").unwrap();
        let put = Request::Put { target: stage.target("file", "hello"), size: 5, offset: 0 };
        let error = stage.ask(&put, &["hellO"]).unwrap_err();
        assert!(error.contains("file arrived damaged"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"what was there");
        fs::create_dir(stage.directory.path().join("taken")).unwrap();
        let put = Request::Put { target: stage.target("taken", "hello"), size: 5, offset: 0 };
        assert!(stage.ask(&put, &["hello"]).unwrap_err().contains("taken"));
    }
}
