//! What the environment asks for, and where the program's image is.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// What Ctrl+C does; `CKPT_ON_INTERRUPT`.
pub(crate) const ON_INTERRUPT: &str = "CKPT_ON_INTERRUPT";
/// The image's path, instead of `PROGRAM.ckpt`.
pub(crate) const FILE: &str = "CKPT_FILE";
/// `off` leaves `-r` and `--recover` to the program.
pub(crate) const RECOVER: &str = "CKPT_RECOVER";
/// What a restore does about files that changed since: `keep`, `rollback` or `fail`.
pub(crate) const FILES: &str = "CKPT_FILES";

/// What Ctrl+C does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnInterrupt {
    /// Save, then end the program.
    Save,
    /// Save, and the program goes on.
    Continue,
    /// Nothing of ours: no handler is installed.
    Off,
}

impl OnInterrupt {
    /// Reads the variable's value; an unknown one is an error that names those that are known.
    pub(crate) fn parse(value: Option<&OsStr>) -> Result<Self, String> {
        match value.map(OsStr::as_encoded_bytes) {
            None | Some(b"" | b"save") => Ok(Self::Save),
            Some(b"continue") => Ok(Self::Continue),
            Some(b"off") => Ok(Self::Off),
            Some(other) => {
                Err(format!("{ON_INTERRUPT}={}: expected save, continue or off", String::from_utf8_lossy(other)))
            }
        }
    }
}

/// How the program was started: all that decides where its image lies.
pub(crate) struct Started<'a> {
    /// `argv[0]`.
    pub(crate) argv0: &'a OsStr,
    /// The current directory at the start.
    pub(crate) cwd: &'a Path,
    /// What `/proc/self/exe` points to.
    pub(crate) exe: &'a Path,
    /// `CKPT_FILE`.
    pub(crate) named: Option<&'a OsStr>,
}

impl Started<'_> {
    /// Where to save, in order of preference: beside the program as it was started, then the directory that it was
    /// started from. A program that was found through PATH is installed software: its directory is no place for data.
    pub(crate) fn save_to(&self) -> Vec<PathBuf> {
        if let Some(named) = self.named.filter(|named| !named.is_empty()) {
            return vec![self.cwd.join(named)];
        }
        let mut files = Vec::new();
        if self.argv0.as_encoded_bytes().contains(&b'/')
            && let Some(directory) = Path::new(self.argv0).parent()
        {
            files.push(tidy(&self.cwd.join(directory)).join(self.image_name()));
        }
        files.push(self.cwd.join(self.image_name()));
        files.dedup();
        files
    }

    /// Where to look for an image to restore: where it would have been saved, then beside the executable.
    pub(crate) fn restore_from(&self) -> Vec<PathBuf> {
        let mut files = self.save_to();
        if self.named.is_none_or(OsStr::is_empty)
            && let Some(directory) = self.exe.parent()
        {
            let beside = directory.join(self.image_name());
            if !files.contains(&beside) {
                files.push(beside);
            }
        }
        files
    }

    fn image_name(&self) -> OsString {
        let name = Path::new(self.argv0).file_name().or_else(|| self.exe.file_name());
        let mut name = name.unwrap_or(OsStr::new("program")).to_owned();
        name.push(".ckpt");
        name
    }
}

/// Without the `./` that `./prog` brings along; `..` stays, it may go through a symbolic link.
fn tidy(path: &Path) -> PathBuf {
    path.components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started<'a>(argv0: &'a str, named: Option<&'a str>) -> Started<'a> {
        Started {
            argv0: OsStr::new(argv0),
            cwd: Path::new("/home/u/work"),
            exe: Path::new("/opt/bin/count"),
            named: named.map(OsStr::new),
        }
    }

    fn paths(files: &[PathBuf]) -> Vec<&str> {
        files.iter().filter_map(|file| file.to_str()).collect()
    }

    #[test]
    fn the_image_lies_beside_the_program_as_it_was_started() {
        assert_eq!(paths(&started("./count", None).save_to()), ["/home/u/work/count.ckpt"]);
        assert_eq!(
            paths(&started("bin/count.x", None).save_to()),
            ["/home/u/work/bin/count.x.ckpt", "/home/u/work/count.x.ckpt"]
        );
        assert_eq!(
            paths(&started("/opt/bin/count", None).save_to()),
            ["/opt/bin/count.ckpt", "/home/u/work/count.ckpt"]
        );
        assert_eq!(paths(&started("count", None).save_to()), ["/home/u/work/count.ckpt"]);
    }

    #[test]
    fn a_named_file_is_the_only_one() {
        assert_eq!(paths(&started("./count", Some("a/b.ckpt")).save_to()), ["/home/u/work/a/b.ckpt"]);
        assert_eq!(paths(&started("./count", Some("/x")).restore_from()), ["/x"]);
        assert_eq!(started("./count", Some("")).save_to().len(), 1);
    }

    #[test]
    fn a_restore_looks_beside_the_executable_last() {
        assert_eq!(paths(&started("count", None).restore_from()), ["/home/u/work/count.ckpt", "/opt/bin/count.ckpt"]);
    }

    #[test]
    fn an_unknown_wish_is_named() {
        assert_eq!(OnInterrupt::parse(Some(OsStr::new("continue"))), Ok(OnInterrupt::Continue));
        assert_eq!(OnInterrupt::parse(None), Ok(OnInterrupt::Save));
        assert!(OnInterrupt::parse(Some(OsStr::new("no"))).is_err_and(|e| e.contains("CKPT_ON_INTERRUPT=no")));
    }
}
