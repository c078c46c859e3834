//! The role of `PROGRAM -r`: restore in the foreground, and end as the restored program ended.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use ckpt_core::{Class, Ending, Error, FilesPolicy, RestoreOptions};

use crate::engine::quoted;
use crate::raw;
use crate::settings::{FILES, Started};

/// Restores `file`, or the first image that is found where the program's images lie, and ends this process: with the
/// program's exit status, by the signal that ended the program, or with the class of the error.
pub(crate) fn run(file: Option<OsString>, started: &Started<'_>) -> ! {
    match restore(file, started) {
        Ok(Ending::Exited(status)) => raw::exit(status),
        Ok(Ending::Signaled(signal)) => raw::die_by(signal),
        Err(failure) => {
            eprintln!("ckpt: {}", failure.message);
            raw::exit(failure.status)
        }
    }
}

struct Failure {
    message: String,
    status: i32,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        // The engine names the option of ckptctl; here a variable of the environment says the same.
        let message = error.to_string().replace("--files=", &format!("{FILES}="));
        Self { message, status: error.class() as i32 }
    }
}

fn restore(file: Option<OsString>, started: &Started<'_>) -> Result<Ending, Failure> {
    let options =
        RestoreOptions { files: files_policy(std::env::var_os(FILES).as_deref())?, ..RestoreOptions::default() };
    let image = match file {
        Some(file) => PathBuf::from(file),
        None => find(started)?,
    };
    let restored = ckpt_core::restore(&image, &options)?;
    for note in &restored.report().notes {
        eprintln!("ckpt: {note}");
    }
    Ok(restored.wait()?)
}

fn files_policy(value: Option<&OsStr>) -> Result<FilesPolicy, Failure> {
    match value.map(OsStr::as_encoded_bytes) {
        None | Some(b"") => Ok(RestoreOptions::default().files),
        Some(b"keep") => Ok(FilesPolicy::Keep),
        Some(b"rollback") => Ok(FilesPolicy::Rollback),
        Some(b"fail") => Ok(FilesPolicy::Fail),
        Some(other) => Err(Failure {
            message: format!("{FILES}={}: expected keep, rollback or fail", String::from_utf8_lossy(other)),
            status: Class::Usage as i32,
        }),
    }
}

fn find(started: &Started<'_>) -> Result<PathBuf, Failure> {
    let places = started.restore_from();
    places.iter().find(|place| place.exists()).cloned().ok_or_else(|| Failure {
        message: format!(
            "nothing to restore: there is no {}; press Ctrl+C in the running program to make one, or name the file: {} -r FILE",
            places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(" or "),
            quoted(started.argv0)
        ),
        status: Class::RestoreFailed as i32,
    })
}
