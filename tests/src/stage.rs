//! What all tests of one run share: the binary, the built programs, the ordinary user.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tempfile::TempDir;

use crate::program::{self, Program};
use crate::suite::Skip;
use crate::{case, hosts};

const USER: &str = "ckpt-test";
const PREFIX: &str = "ckpt-tests-";

/// Where the tools of the tests are looked for.
pub(crate) const TOOLS_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Who runs a test's program and `ckptctl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Somebody without any privilege.
    User,
    /// The superuser.
    Root,
}

/// One run of the tests: a directory that everybody may read, with copies of all executables in it.
pub struct Stage {
    base: TempDir,
    user: Option<(u32, u32)>,
    programs: Vec<Program>,
    host_root: OnceLock<Result<PathBuf, HostRootError>>,
}

/// Why there can be no hosts, for each test that wants one.
enum HostRootError {
    Skip(String),
    Failed(String),
}

impl Stage {
    /// Finds `ckptctl`, builds the programs, and makes the ordinary user when run as root.
    ///
    /// # Errors
    /// When `ckptctl` has not been built, a program does not compile, or no user can be made.
    pub fn set_up() -> Result<Self> {
        remove_abandoned()?;
        let user = if is_root() { Some(ordinary_user()?) } else { None };
        let base = tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir()?;
        // The checkout may lie where the ordinary user must not look.
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755))?;
        let bin = base.path().join("bin");
        fs::create_dir(&bin)?;
        let built = built_ckptctl()?;
        fs::copy(&built, bin.join("ckptctl")).with_context(|| format!("cannot copy {}", built.display()))?;
        let programs = program::build_all(&cache(), &bin)?;
        Ok(Self { base, user, programs, host_root: OnceLock::new() })
    }

    /// The directory of the executables.
    #[must_use]
    pub fn bin(&self) -> PathBuf {
        self.base.path().join("bin")
    }

    /// The `ckptctl` under test, where every user may execute it.
    #[must_use]
    pub fn ckptctl(&self) -> PathBuf {
        self.bin().join("ckptctl")
    }

    /// A built program by its name.
    ///
    /// # Errors
    /// A [`crate::Skip`] when this machine lacks what it is built with.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let program = self.programs.iter().find(|p| p.name == name);
        let program = program.with_context(|| format!("no program {name} in tests/programs"))?;
        match &program.missing {
            Some(reason) => crate::skip(reason.clone()),
            None => Ok(self.bin().join(name)),
        }
    }

    /// The file system that every host begins with; made when it is asked for first.
    ///
    /// # Errors
    /// A [`crate::Skip`] when this machine lacks what a host is made of.
    pub(crate) fn host_root(&self) -> Result<PathBuf> {
        let made = self.host_root.get_or_init(|| {
            let directory = self.base.path().join("host");
            hosts::make_root(&directory).map(|()| directory).map_err(|error| match error.downcast::<Skip>() {
                Ok(skip) => HostRootError::Skip(skip.to_string()),
                Err(error) => HostRootError::Failed(format!("{error:#}")),
            })
        });
        match made {
            Ok(directory) => Ok(directory.clone()),
            Err(HostRootError::Skip(reason)) => crate::skip(reason.clone()),
            Err(HostRootError::Failed(error)) => Err(anyhow!("{error}")),
        }
    }

    /// The uid and gid to run as, where they differ from the harness's own.
    pub(crate) fn identity(&self, who: Who) -> Option<(u32, u32)> {
        match who {
            Who::User => self.user,
            Who::Root => None,
        }
    }

    /// Whether this run can act as `who`.
    pub(crate) fn can_be(who: Who) -> bool {
        who == Who::User || is_root()
    }

    /// A fresh directory that `who` owns.
    pub(crate) fn directory(&self, who: Who) -> Result<TempDir> {
        let dir = tempfile::Builder::new().prefix("case-").tempdir_in(self.base.path())?;
        if let Some((uid, gid)) = self.identity(who) {
            chown(dir.path(), Some(uid), Some(gid))?;
        }
        Ok(dir)
    }
}

/// Where built programs and logs stay between runs: the build's own target directory.
pub(crate) fn cache() -> PathBuf {
    target_directory().join("ckpt-tests")
}

/// The workspace's directory.
pub(crate) fn workspace() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

fn built_ckptctl() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("CKPTCTL_BIN") {
        return Ok(given.into());
    }
    let built = target_directory().join("x86_64-unknown-linux-gnu/release/ckptctl");
    ensure!(built.exists(), "{} is missing; run `cargo build --release` first, or set CKPTCTL_BIN", built.display());
    Ok(built)
}

/// Whether a program of this name can be run.
pub(crate) fn has_tool(name: &str) -> bool {
    TOOLS_PATH.split(':').any(|place| Path::new(place).join(name).exists())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn ordinary_user() -> Result<(u32, u32)> {
    if id("-u").is_err() {
        let made = Command::new("useradd")
            .args(["--system", "--no-create-home", "--shell", "/usr/sbin/nologin", USER])
            .status()
            .context("cannot run useradd (package passwd)")?;
        ensure!(made.success(), "useradd could not make the user {USER}: {made}");
    }
    Ok((id("-u")?, id("-g")?))
}

fn id(what: &str) -> Result<u32> {
    let output = Command::new("id").args([what, USER]).output()?;
    if !output.status.success() {
        bail!("there is no user {USER}");
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// A run that was killed leaves its directory behind; its name holds the id of the run.
fn remove_abandoned() -> Result<()> {
    for entry in fs::read_dir(std::env::temp_dir())? {
        let entry = entry?;
        let name = entry.file_name();
        let owner = name.to_str().and_then(|n| n.strip_prefix(PREFIX)?.split('-').next());
        if let Some(owner) = owner
            && !Path::new("/proc").join(owner).exists()
        {
            case::end_marked(&entry.path());
            // Somebody else's leftovers cannot be removed, and do not matter.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}
