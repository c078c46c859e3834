//! Putting this very program onto a host: once, under its hash, checked there by itself.
//!
//! Everything is done by two shell scripts and one `cat`: nothing is needed there but a POSIX shell and its usual tools.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

use super::channel::{Channel, Finished};
use super::{Session, SshError, SshFault};

const PIECE: usize = 128 << 10;
/// How long another process here may take to put the program onto the same host.
const PATIENCE: Duration = Duration::from_secs(600);

/// Says what the host is and what is there already. Arguments: hash, who we are, the directory or nothing.
const LOOK: &str = r#"
echo "system=$(uname -s) $(uname -m)"
case "$(uname -s) $(uname -m)" in "Linux x86_64" | "Linux amd64") ;; *) exit 0 ;; esac
if test -n "$3"; then base=$3/ckptctl
elif test -n "$XDG_CACHE_HOME"; then base=$XDG_CACHE_HOME/ckptctl
elif test -n "$HOME"; then base=$HOME/.cache/ckptctl
else echo "the user has no home directory" >&2; exit 1; fi
bin=$base/bin/$1
echo "base=$base"
umask 077
mkdir -p "$bin" || exit 1
test -w "$bin" || { echo "$bin cannot be written to" >&2; exit 1; }
if test -f "$bin/ckptctl"; then
  said=$("$bin/ckptctl" self-check 2>/dev/null) || said=
  case $said in *"\"hash\":\"$1\""*) echo "there=yes"; touch -c "$bin/ckptctl" 2>/dev/null || true ;; esac
fi
if test -f "$bin/partial.$2"; then echo "partial=$(wc -c <"$bin/partial.$2")"; fi
exit 0
"#;

/// Takes bytes at the end of what came before. Arguments: the partial file, how many bytes it must have.
const TAKE: &str = r#"
umask 077
if test "$2" = 0; then : >"$1" || exit 1; fi
test "$(wc -c <"$1")" -eq "$2" || { echo "$1 has changed meanwhile" >&2; exit 1; }
exec cat >>"$1"
"#;

/// Lets the program check itself, gives it its name, and clears old ones away that nobody has used for 30 days and nobody
/// runs. Arguments: directory of all, hash, who we are.
const SETTLE: &str = r#"
bin=$1/$2
new=$bin/partial.$3
chmod 700 "$new" || exit 1
said=$("$new" self-check 2>&1) || said="$said (status $?)"
case $said in
*"\"hash\":\"$2\""*) mv -f "$new" "$bin/ckptctl" || exit 1 ;;
*)
  echo "$said" >&2
  probe=$bin/probe.$3
  printf '#!/bin/sh\nexit 0\n' >"$probe"; chmod 700 "$probe"
  if "$probe"; then rm -f "$new"; echo "damaged"; else echo "not executed"; fi
  rm -f "$probe"
  exit 0 ;;
esac
echo "settled"
running=$(ls -l /proc/[0-9]*/exe 2>/dev/null) || true
for old in "$1"/*; do
  name=${old##*/}
  test "$name" = "$2" && continue
  test ${#name} -eq 64 || continue
  case $running in *"/bin/$name/"*) continue ;; esac
  test -z "$(find "$old" -mtime -30 2>/dev/null)" && rm -rf "$old"
done
exit 0
"#;

/// This program, on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Installed {
    /// Its absolute path there.
    pub path: String,
    /// Where ckptctl keeps things there: the parent of `bin`.
    pub base: String,
    /// Its BLAKE3 hash.
    pub hash: String,
    /// How many bytes were sent; none if it was there already.
    pub sent: u64,
}

/// This very program.
struct Own {
    hash: String,
    size: u64,
}

/// What [`LOOK`] found.
struct Found {
    base: String,
    is_there: bool,
    partial: u64,
}

impl Session {
    /// Puts this program into the host's cache directory (`$XDG_CACHE_HOME` or `~/.cache`, or the host's `directory`) under
    /// its hash, unless it is there. `progress` is told the bytes that are there and the total. An interrupted copy goes on.
    ///
    /// # Errors
    /// [`SshError`]: a machine of another kind, a disk that is full, a directory that nothing can be executed in.
    pub fn install(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Installed, SshError> {
        let own = own().map_err(|error| {
            let what = format!("this program cannot read itself (/proc/self/exe): {error}");
            SshError::new(SshFault::Install, &self.host.name, what, "see that /proc is mounted here")
        })?;
        let client = client();
        let mut found = self.look(own, &client)?;
        if found.is_there {
            return Ok(installed(&found, own, 0));
        }
        // Another process here may be at it: then it is there afterwards.
        let lock = Lock::take(&self.host.name, &own.hash)
            .map_err(|error| SshError::new(SshFault::Install, &self.host.name, error, "try again"))?;
        let (mut sent, mut damage) = (0, String::new());
        for _ in 0..3 {
            found = self.look(own, &client)?;
            if found.is_there {
                return Ok(installed(&found, own, sent));
            }
            let partial = format!("{}/bin/{}/partial.{client}", found.base, own.hash);
            sent += self.copy(own, &partial, found.partial, progress)?;
            match self.settle(&found, own, &client)? {
                None => {
                    drop(lock);
                    return Ok(installed(&found, own, sent));
                }
                Some(said) => damage = said,
            }
        }
        let what = format!("the copy in {} is damaged again and again: it says {damage}", found.base);
        Err(SshError::new(SshFault::Install, &self.host.name, what, "see that the disk there is sound"))
    }

    /// Runs a shell script with arguments, without input.
    fn script(&self, script: &str, arguments: &[&str]) -> Result<Finished, SshError> {
        self.start_script(script, arguments)?.finish()
    }

    fn start_script(&self, script: &str, arguments: &[&str]) -> Result<Channel, SshError> {
        let words: Vec<&str> = ["sh", "-c", script.trim(), "sh"].iter().chain(arguments).copied().collect();
        self.exec(&words)
    }

    fn look(&self, own: &Own, client: &str) -> Result<Found, SshError> {
        let directory =
            self.host.directory.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        let finished = self.script(LOOK, &[&own.hash, client, &directory])?;
        let output = String::from_utf8_lossy(&finished.output);
        let value = |key: &str| output.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let system = value("system").unwrap_or_default();
        if !["Linux x86_64", "Linux amd64"].contains(&system) {
            let what = if system.trim().is_empty() {
                format!("it does not say what machine it is (uname): {}", finished.said())
            } else {
                format!("it is a machine of the kind {system}")
            };
            return Err(SshError::new(
                SshFault::Foreign,
                &self.host.name,
                what,
                "programs move between Linux x86_64 machines only",
            ));
        }
        if finished.status != 0 || finished.signal.is_some() {
            return Err(self.not_installed(&finished.said()));
        }
        let base = value("base").unwrap_or_default().to_owned();
        if !base.starts_with('/') {
            return Err(self.not_installed(&format!("{base:?} is no absolute path")));
        }
        let is_there = value("there") == Some("yes");
        let partial = value("partial").and_then(|size| size.trim().parse().ok()).unwrap_or(0);
        Ok(Found { base, is_there, partial })
    }

    /// Sends what is missing; how many bytes that was.
    fn copy(&self, own: &Own, partial: &str, there: u64, progress: &mut dyn FnMut(u64, u64)) -> Result<u64, SshError> {
        // More than there can be is something else.
        let from = if there > own.size { 0 } else { there };
        progress(from, own.size);
        if from == own.size {
            return Ok(0);
        }
        let unreadable = |error: io::Error| self.not_installed(&format!("this program cannot read itself: {error}"));
        let mut file = File::open("/proc/self/exe").map_err(unreadable)?;
        file.seek(SeekFrom::Start(from)).map_err(unreadable)?;
        let mut channel = self.start_script(TAKE, &[partial, &from.to_string()])?;
        let mut buffer = vec![0; PIECE];
        let mut done = from;
        loop {
            let count = file.read(&mut buffer).map_err(unreadable)?;
            if count == 0 {
                break;
            }
            if let Err(error) = channel.write_all(&buffer[..count]) {
                if let Some(lost) = channel.why() {
                    return Err(lost.clone());
                }
                // It has ended before it took everything, and says why.
                let finished = channel.finish()?;
                return Err(self.not_installed(&format!("{} ({error})", finished.said())));
            }
            done += count as u64;
            progress(done, own.size);
        }
        let finished = channel.finish()?;
        if finished.status != 0 || finished.signal.is_some() {
            return Err(self.not_installed(&finished.said()));
        }
        Ok(done - from)
    }

    /// Gives the copy its name; what it says if it is damaged.
    fn settle(&self, found: &Found, own: &Own, client: &str) -> Result<Option<String>, SshError> {
        let all = format!("{}/bin", found.base);
        let finished = self.script(SETTLE, &[&all, &own.hash, client])?;
        let output = String::from_utf8_lossy(&finished.output);
        match output.lines().next() {
            Some("settled") => Ok(None),
            Some("damaged") => Ok(Some(finished.said())),
            Some("not executed") => Err(self.not_installed(&format!(
                "programs cannot be executed in {all} (is it mounted noexec?): {}",
                finished.said()
            ))),
            _ => Err(self.not_installed(&finished.said())),
        }
    }

    fn not_installed(&self, why: &str) -> SshError {
        let name = &self.host.name;
        let advice = format!(
            "free some space there, or name a directory that you may write to and execute in: ckptctl hosts edit {name} --directory DIRECTORY"
        );
        SshError::new(SshFault::Install, name, format!("ckptctl cannot be put there: {why}"), advice)
    }
}

fn installed(found: &Found, own: &Own, sent: u64) -> Installed {
    let path = format!("{}/bin/{}/ckptctl", found.base, own.hash);
    Installed { path, base: found.base.clone(), hash: own.hash.clone(), sent }
}

/// Hashed once: the file behind `/proc/self/exe` stays the one that runs, even if it is replaced.
fn own() -> io::Result<&'static Own> {
    static OWN: OnceLock<Own> = OnceLock::new();
    if let Some(own) = OWN.get() {
        return Ok(own);
    }
    let (hash, size) = own_hash()?;
    Ok(OWN.get_or_init(|| Own { hash, size }))
}

/// The BLAKE3 hash and the size of the program that runs.
///
/// # Errors
/// When `/proc/self/exe` cannot be read.
pub fn own_hash() -> io::Result<(String, u64)> {
    let mut file = File::open("/proc/self/exe")?;
    let mut hasher = blake3::Hasher::new();
    let size = io::copy(&mut file, &mut hasher)?;
    Ok((hasher.finalize().to_hex().to_string(), size))
}

/// Who we are: others put the same file there at the same time without disturbing us, and we find our own part again.
fn client() -> String {
    let machine = fs::read("/etc/machine-id").unwrap_or_default();
    let name = rustix::system::uname().nodename().to_bytes().to_vec();
    let user = rustix::process::getuid().as_raw().to_le_bytes();
    let hash = blake3::hash(&[machine.as_slice(), &name, &user].concat());
    hash.to_hex()[..16].to_owned()
}

/// The user's own cache directory; where that cannot be had, the one for temporary files.
fn cache() -> PathBuf {
    let given = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = given.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    let cache = cache.map(|cache| cache.join("ckptctl")).filter(|cache| fs::create_dir_all(cache).is_ok());
    cache.unwrap_or_else(std::env::temp_dir)
}

/// Held while the program is put onto a host.
struct Lock(#[expect(dead_code, reason = "locked as long as it is open")] File);

impl Lock {
    fn take(host: &str, hash: &str) -> Result<Self, String> {
        let uid = rustix::process::getuid().as_raw();
        let key = &blake3::hash(format!("{host} {hash}").as_bytes()).to_hex()[..16];
        let path = cache().join(format!("install-{uid}-{key}.lock"));
        let failed = |error: &dyn std::fmt::Display| format!("{} cannot be locked: {error}", path.display());
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(|error| failed(&error))?;
        let begun = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(file)),
                Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(error) => return Err(failed(&error)),
            }
        }
    }
}
