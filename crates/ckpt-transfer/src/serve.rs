//! What any machine does for another one: take contents in, give files out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::files::{FilesError, Hashes, lacking};
use crate::protocol::{Reply, Request, Target};
use crate::store::{Store, StoreError};
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

/// Answers one of [`Request::Lacking`], [`Request::Put`] and [`Request::Read`]; false for any other.
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
                Target::Store(hash) => put_into_store(stream, store, hash, *size, *offset)?,
                Target::File { path, mode } => {
                    let path = PathBuf::from(std::ffi::OsStr::from_bytes(&path.0));
                    put_into_file(stream, &path, *mode, *size, *offset)?;
                }
            }
            wire::send(stream, &Reply::Stored, &[])?;
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

fn put_into_store(stream: &mut impl Read, store: &Store, hash: &str, size: u64, offset: u64) -> Result<(), ServeError> {
    let mut incoming = store.receive(hash, size, offset)?;
    while !incoming.is_whole() {
        incoming.write(&next_chunk(stream)?)?;
    }
    incoming.finish()?;
    Ok(())
}

/// Takes a file in beside its place, and puts it there when it is whole.
fn put_into_file(stream: &mut impl Read, path: &Path, mode: u32, size: u64, offset: u64) -> Result<(), ServeError> {
    let partial = partial(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io_error("make the directory", parent))?;
    }
    let mut options = OpenOptions::new();
    let opened = options.write(true).create(true).truncate(false).mode(0o600).open(&partial);
    let mut file = opened.map_err(io_error("write", &partial))?;
    file.set_len(offset).map_err(io_error("write", &partial))?;
    file.seek(SeekFrom::Start(offset)).map_err(io_error("write", &partial))?;
    let mut got = offset;
    while got < size {
        let chunk = next_chunk(stream)?;
        file.write_all(&chunk).map_err(io_error("write", &partial))?;
        got += chunk.len() as u64;
    }
    file.set_permissions(fs::Permissions::from_mode(mode & 0o777)).map_err(io_error("write", &partial))?;
    file.sync_all().map_err(io_error("write", &partial))?;
    fs::rename(&partial, path).map_err(io_error("write", path))
}

/// Where a file is while it comes.
#[must_use]
pub fn partial(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".partial");
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

    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn files_go_in_and_out() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().join("cache"));
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let path = directory.path().join("new/file");
        let target =
            Target::File { path: ckpt_core::resource::bytes::Bytes(path.as_os_str().as_bytes().to_vec()), mode: 0o750 };
        for part in [b"hello".as_slice(), b" world"] {
            wire::send(&mut here, &Request::Chunk, part).unwrap();
        }
        let request = Request::Put { target, size: 11, offset: 0 };
        assert!(serve(&request, &mut there, &store).unwrap());
        assert_eq!(wire::receive::<Reply>(&mut here).unwrap().unwrap().0, Reply::Stored);
        assert_eq!(fs::read(&path).unwrap(), b"hello world");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o750);

        assert!(serve(&Request::Read { path: path.clone(), offset: 6, length: 3 }, &mut there, &store).unwrap());
        assert_eq!(wire::receive::<Reply>(&mut here).unwrap().unwrap(), (Reply::Chunk, b"wor".to_vec()));
        assert_eq!(wire::receive::<Reply>(&mut here).unwrap().unwrap().0, Reply::Done);

        let missing = Request::Read { path: directory.path().join("none"), offset: 0, length: 1 };
        assert!(serve(&missing, &mut there, &store).unwrap_err().to_string().contains("none"));
        assert!(!serve(&Request::Probe, &mut there, &store).unwrap());
    }
}
