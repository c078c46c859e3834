//! Giving files to another machine's agent: what is there already is not sent, an interrupted copy goes on.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::protocol::{Reply, Request, Target};
use crate::wire::{self, MOST_BODY, WireError};

/// How much is sent at once: small enough that the progress moves on a slow link.
const PIECE: usize = 256 << 10;
const _: () = assert!(PIECE <= MOST_BODY);

/// A file could not be given to another machine.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The other machine says why.
    #[error("{message}")]
    Refused {
        /// What it says.
        message: String,
        /// The exit status that it means.
        exit: i32,
    },
    /// The connection.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The file here.
    #[error("read {}: {source}; see to it and try again", path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// It became shorter on the way.
    #[error("{} was changed while it was sent; try again when nothing writes to it", path.display())]
    Changed {
        /// Its path.
        path: PathBuf,
    },
}

/// How many bytes of a file are there already; `None` when it is there whole.
///
/// # Errors
/// [`SendError::Refused`], [`SendError::Wire`].
pub fn has(stream: &mut (impl Read + Write), target: &Target, size: u64) -> Result<Option<u64>, SendError> {
    wire::send(stream, &Request::Has { target: target.clone(), size }, &[])?;
    match answer(stream)? {
        Reply::Lacking { files } => Ok(files.first().map(|(_, there)| (*there).min(size))),
        _ => Err(nonsense()),
    }
}

/// Sends a file from `offset` on; `progress` is told each time how many bytes have gone.
///
/// # Errors
/// [`SendError`].
pub fn put(
    stream: &mut (impl Read + Write),
    path: &Path,
    target: &Target,
    size: u64,
    offset: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<(), SendError> {
    let reading = |source| SendError::Io { path: path.to_path_buf(), source };
    let mut file = File::open(path).map_err(reading)?;
    file.seek(SeekFrom::Start(offset)).map_err(reading)?;
    let mut sent = wire::send(stream, &Request::Put { target: target.clone(), size, offset }, &[]);
    let mut left = size - offset;
    let mut buffer = vec![0; PIECE];
    while left > 0 && sent.is_ok() {
        let wanted = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let count = match file.read(&mut buffer[..wanted]) {
            Ok(0) => return Err(SendError::Changed { path: path.to_path_buf() }),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result.map_err(reading)?,
        };
        sent = wire::send(stream, &Request::Chunk, &buffer[..count]);
        left -= count as u64;
        progress(count as u64);
    }
    // Who refuses what comes says why before it closes the connection.
    match (answer(stream), sent) {
        (Err(refused @ SendError::Refused { .. }), _) => Err(refused),
        (_, Err(broken)) => Err(broken.into()),
        (Ok(Reply::Stored), Ok(())) => Ok(()),
        (Ok(_), Ok(())) => Err(nonsense()),
        (Err(error), Ok(())) => Err(error),
    }
}

fn answer(stream: &mut impl Read) -> Result<Reply, SendError> {
    loop {
        match wire::receive::<Reply>(stream)? {
            Some((Reply::Failed { message, exit }, _)) => return Err(SendError::Refused { message, exit }),
            Some((Reply::Heartbeat, _)) => {}
            Some((reply, _)) => return Ok(reply),
            None => return Err(WireError::Cut.into()),
        }
    }
}

fn nonsense() -> SendError {
    WireError::Nonsense("it answers something else than was asked for".to_owned()).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::UnixStream;

    use ckpt_core::resource::bytes::Bytes;

    use super::*;
    use crate::serve::serve;
    use crate::store::Store;

    /// An agent on the other end, until the stream closes.
    fn agent(root: &Path) -> (UnixStream, std::thread::JoinHandle<()>) {
        let (here, mut there) = UnixStream::pair().unwrap();
        let store = Store::at(root.join("cache"));
        let serving = std::thread::spawn(move || {
            while let Ok(Some((request, _))) = wire::receive::<Request>(&mut there) {
                if let Err(error) = serve(&request, &mut there, &store) {
                    let _ = wire::send(&mut there, &Reply::Failed { message: error.to_string(), exit: 1 }, &[]);
                    break;
                }
            }
        });
        (here, serving)
    }

    fn target(path: &Path, content: &[u8]) -> Target {
        let hash = blake3::hash(content).to_hex().to_string();
        Target::File { path: Bytes(path.as_os_str().as_bytes().to_vec()), mode: 0o755, hash }
    }

    #[test]
    fn a_file_goes_over_once_and_goes_on_where_it_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let (source, copy) = (directory.path().join("source"), directory.path().join("there/copy"));
        let content: Vec<u8> = (0..3 * PIECE + 5).map(|at| u8::try_from(at % 251).unwrap()).collect();
        std::fs::write(&source, &content).unwrap();
        let (target, size) = (target(&copy, &content), content.len() as u64);

        let (mut stream, serving) = agent(directory.path());
        assert_eq!(has(&mut stream, &target, size).unwrap(), Some(0));
        wire::send(&mut stream, &Request::Put { target: target.clone(), size, offset: 0 }, &[]).unwrap();
        wire::send(&mut stream, &Request::Chunk, &content[..PIECE]).unwrap();
        drop(stream);
        serving.join().unwrap();

        let (mut stream, _serving) = agent(directory.path());
        let there = has(&mut stream, &target, size).unwrap().unwrap();
        assert_eq!(there, PIECE as u64);
        let mut gone = 0;
        put(&mut stream, &source, &target, size, there, &mut |count| gone += count).unwrap();
        assert_eq!((gone, std::fs::read(&copy).unwrap()), (size - there, content));
        assert_eq!(has(&mut stream, &target, size).unwrap(), None);
    }

    #[test]
    fn who_refuses_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        std::fs::write(&source, vec![7; 40 * PIECE]).unwrap();
        let (mut stream, _serving) = agent(directory.path());
        let target = target(&directory.path().join("source/below/a/file"), b"");
        let error = put(&mut stream, &source, &target, 40 * PIECE as u64, 0, &mut |_| ()).unwrap_err();
        assert!(matches!(&error, SendError::Refused { message, .. } if message.contains("source/below/a")), "{error}");
        let (mut stream, _serving) = agent(directory.path());
        let target = self::target(&directory.path().join("copy"), b"");
        let error = put(&mut stream, &source, &target, 41 * PIECE as u64, 0, &mut |_| ()).unwrap_err();
        assert!(matches!(error, SendError::Changed { .. }), "{error}");
    }
}
