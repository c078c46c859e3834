//! The sockets of supervisors and keepers: where they are, and that they stay there.
//!
//! They are in the user's runtime directory. That goes when the user's last login ends, and jobs outlive logins: then they
//! move to the other place, below `/tmp`, and clients look in both.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use ckpt_core::Class;

use crate::failure::Failure;
use crate::text;

/// How long the path of a socket may be (`sun_path`).
const LONGEST: usize = 107;
/// How often a listener looks whether it is still found.
pub const LOOK: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };

/// Where the sockets of the jobs of one directory may be, best first: below the runtime directory, and below `/tmp`.
pub fn places(jobs: &Path) -> Vec<PathBuf> {
    let identity = blake3::hash(jobs.as_os_str().as_bytes()).to_hex();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = runtime.filter(|path| path.is_absolute() && is_ours(path)).map(|path| path.join("ckptctl"));
    let other = PathBuf::from(format!("/tmp/ckptctl-{}", rustix::process::geteuid().as_raw()));
    runtime.into_iter().chain([other]).map(|base| base.join(&identity[..8])).collect()
}

/// A listening socket.
#[derive(Debug)]
pub struct Door {
    /// To accept from.
    pub listener: UnixListener,
    places: Vec<PathBuf>,
    name: String,
    path: PathBuf,
}

impl Door {
    /// Listens in the first place where that can be. What is there under the name was left by a process that is gone.
    pub fn open(places: &[PathBuf], name: &str) -> anyhow::Result<Self> {
        let mut failed = None;
        for place in places {
            match listen(place, name) {
                Ok((listener, path)) => {
                    return Ok(Self { listener, places: places.to_vec(), name: name.to_owned(), path });
                }
                Err(error) => failed = Some((place, error)),
            }
        }
        let why = failed.map(|(place, error)| format!(" in {}: {error}", text::path(place))).unwrap_or_default();
        let message = format!("no socket could be made{why}; see that the directory is yours and has mode 0700");
        Err(Failure::new(Class::Failed, message).into())
    }

    /// Where it is.
    pub fn place(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Listens again where it is found if it was removed.
    pub fn look(&mut self) {
        if !self.path.exists()
            && let Ok(again) = Self::open(&self.places, &self.name)
        {
            *self = again;
        }
    }

    /// Removes it, and its directory when it was the last one.
    pub fn close(places: &[PathBuf], name: &str) {
        for place in places {
            // What is not there needs no removing, and a directory that others use stays.
            let _ = fs::remove_file(place.join(name));
            let _ = fs::remove_dir(place);
        }
    }
}

/// Connects to a socket in the first of some places where it answers.
pub fn knock(places: &[PathBuf], name: &str) -> io::Result<UnixStream> {
    let mut failed = io::ErrorKind::NotFound.into();
    for place in places {
        match UnixStream::connect(place.join(name)) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn listen(place: &Path, name: &str) -> io::Result<(UnixListener, PathBuf)> {
    const TRIES: usize = 3;
    let path = place.join(name);
    if path.as_os_str().len() > LONGEST {
        return Err(io::Error::other("its path is too long for a socket"));
    }
    let mut tries = 0;
    loop {
        DirBuilder::new().recursive(true).mode(0o700).create(place)?;
        if !is_ours(place) || !place.parent().is_some_and(is_ours) {
            return Err(io::Error::other("it belongs to somebody else or is open to others"));
        }
        let _ = fs::remove_file(&path);
        match UnixListener::bind(&path) {
            // Somebody has just removed the empty directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => tries += 1,
            Err(error) => return Err(error),
            Ok(listener) => {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
                return Ok((listener, path));
            }
        }
    }
}

/// Whether a directory is ours alone.
fn is_ours(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|stat| {
        stat.is_dir() && stat.uid() == rustix::process::geteuid().as_raw() && stat.mode() & 0o777 == 0o700
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use super::*;

    #[test]
    fn a_socket_moves_when_its_directory_goes() {
        let directory = tempfile::tempdir().unwrap();
        let places = [directory.path().join("one/x"), directory.path().join("two/x")];
        for place in &places {
            DirBuilder::new().mode(0o700).create(place.parent().unwrap()).unwrap();
        }
        let mut door = Door::open(&places, "sim.sock").unwrap();
        assert_eq!(door.place(), places[0]);
        knock(&places, "sim.sock").unwrap();
        // As when the last login ends: the runtime directory cannot be made again.
        fs::remove_dir_all(places[0].parent().unwrap()).unwrap();
        fs::write(places[0].parent().unwrap(), "").unwrap();
        door.look();
        assert_eq!(door.place(), places[1]);
        knock(&places, "sim.sock").unwrap();
        Door::close(&places, "sim.sock");
        assert!(!places[1].exists());
        assert!(knock(&places, "sim.sock").is_err());
    }

    #[test]
    fn a_directory_that_others_may_enter_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("open");
        fs::create_dir(&place).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
        let error = Door::open(&[place], "sim.sock").unwrap_err().to_string();
        assert!(error.contains("open to others"), "{error}");
    }
}
