//! `libckpt.a` and `ckpt.h`, which travel inside ckptctl, and the directory that they are unpacked to.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// Compressed by zstd.
const LIBRARY: &[u8] = include_bytes!(env!("CKPT_LIBRARY"));
const LIBRARY_SIZE: &str = env!("CKPT_LIBRARY_SIZE");
const HEADER: &[u8] = include_bytes!(env!("CKPT_HEADER"));
/// A hash of both: each version has a directory of its own.
const ID: &str = env!("CKPT_LIBRARY_ID");

/// The unpacked library and header.
#[derive(Debug)]
pub(super) struct Library {
    directory: PathBuf,
}

impl Library {
    /// Makes sure that both files are in the user's cache, whole and unchanged.
    ///
    /// # Errors
    /// When the directory cannot be made or written, or is someone else's.
    pub(super) fn unpack() -> Result<Self> {
        let uid = rustix::process::geteuid().as_raw();
        let own = root(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME"), uid);
        // A user without a home, as of a service, can still build: below the temporary directory.
        let in_own = Self::unpack_below(&own);
        in_own.or_else(|why| Self::unpack_below(&root(None, None, uid)).map_err(|_| why)).with_context(|| {
            format!("cannot unpack the library to {}; name another directory in XDG_CACHE_HOME", own.display())
        })
    }

    fn unpack_below(root: &Path) -> Result<Self> {
        let library = Self { directory: root.join(ID) };
        library.fill(root)?;
        Ok(library)
    }

    fn fill(&self, root: &Path) -> Result<()> {
        DirBuilder::new().recursive(true).mode(0o755).create(&self.directory)?;
        for directory in [root, &self.directory] {
            ensure_own(directory)?;
        }
        let archive = zstd::bulk::decompress(LIBRARY, LIBRARY_SIZE.parse()?)?;
        for (name, content) in [("libckpt.a", &archive[..]), ("ckpt.h", HEADER)] {
            let path = self.directory.join(name);
            // Compared, not only looked for: what is linked into the user's programs must be what ckptctl brought.
            if fs::read(&path).is_ok_and(|found| found == content) {
                continue;
            }
            // Compilers run side by side (make -j): each writes a file of its own, and the last rename holds.
            let temporary = self.directory.join(format!(".{name}.{}", std::process::id()));
            let written = write(&temporary, content).and_then(|()| fs::rename(&temporary, &path));
            if written.is_err() {
                let _ = fs::remove_file(&temporary);
            }
            written.with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Where `ckpt.h` is.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What links the library, for the end of a command line.
    pub(super) fn link_flags(&self) -> Vec<OsString> {
        let mut flags: Vec<OsString> =
            vec!["-Wl,-u,ckpt_runtime_anchor".into(), "-L".into(), self.directory.clone().into()];
        // With -l and not by path: after `-x c` a path would be taken for a source. The other libraries are parts of
        // libc since glibc 2.34, and are needed before it.
        let libraries = ["-lckpt", "-Wl,--push-state,--as-needed", "-lpthread", "-ldl", "-lm", "-Wl,--pop-state"];
        flags.extend(libraries.map(OsString::from));
        flags
    }
}

fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.write_all(content)
}

/// The cache directory; without a home, one below the temporary directory that is this user's own.
fn root(cache: Option<OsString>, home: Option<OsString>, uid: u32) -> PathBuf {
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    match (cache.and_then(absolute), home.and_then(absolute)) {
        (Some(cache), _) => cache.join("ckptctl"),
        (None, Some(home)) => home.join(".cache/ckptctl"),
        (None, None) => std::env::temp_dir().join(format!("ckptctl-{uid}")),
    }
}

/// Anyone can make a directory below /tmp beforehand, and would then choose what is linked.
fn ensure_own(directory: &Path) -> Result<()> {
    let metadata = fs::symlink_metadata(directory)?;
    let own =
        metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o022 == 0;
    ensure!(own, "{} is not a directory that only this user can write", directory.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_the_user_wants_it() {
        let path = |text: &str| Some(OsString::from(text));
        assert_eq!(root(path("/c"), path("/h"), 7), Path::new("/c/ckptctl"));
        assert_eq!(root(path("relative"), path("/h"), 7), Path::new("/h/.cache/ckptctl"));
        assert!(root(None, None, 7).ends_with("ckptctl-7"));
    }

    #[test]
    fn a_directory_of_others_is_refused() {
        assert!(ensure_own(Path::new("/tmp")).is_err());
        assert!(ensure_own(Path::new("/nonexistent")).is_err());
    }
}
