//! The throw-away host: OpenSSH's server, started as the ordinary user who runs the demonstration.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::demo::verbs::{Verbs, private_directory};
use crate::demo::{HOST, cancelled};
use crate::{cancel, text};

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The user there, where it has users of its own.
const USER: &str = "guest";

/// What is needed from OpenSSH.
pub struct Tools {
    sshd: PathBuf,
    keygen: PathBuf,
}

impl Tools {
    /// Finds it, or says what to install.
    pub fn find() -> Result<Self, &'static str> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut directories: Vec<PathBuf> = std::env::split_paths(&path).filter(|path| path.is_absolute()).collect();
        directories.extend(["/usr/sbin", "/usr/local/sbin", "/sbin", "/usr/bin"].map(PathBuf::from));
        let find = |name| directories.iter().map(|directory| directory.join(name)).find(|path| path.is_file());
        let sshd = find("sshd").ok_or("OpenSSH's server (Debian, Ubuntu: apt install openssh-server)")?;
        let keygen = find("ssh-keygen").ok_or("ssh-keygen (Debian, Ubuntu: apt install openssh-client)")?;
        Ok(Self { sshd, keygen })
    }
}

/// The host. It is gone when this is dropped, with every process on it.
pub struct Host {
    server: Child,
    /// As long as this is open, the host is kept.
    keeping: Option<ChildStdin>,
    port: u16,
    user: String,
    key: PathBuf,
    /// Why it has no namespaces of its own.
    shared: Option<String>,
}

impl Host {
    /// Makes keys and a configuration, starts the server, and waits until it answers.
    pub fn make(verbs: &Verbs, tools: &Tools) -> anyhow::Result<Self> {
        let there = verbs.directory().join("there");
        let home = there.join("home");
        for directory in [&home, &there.join("run")] {
            private_directory(directory)?;
        }
        let key = verbs.home().join(".ssh/one-time-key");
        let login = make_key(verbs, tools, &key)?;
        let identity = make_key(verbs, tools, &there.join("host-key"))?;
        // Free now, and taken by the server before long.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let port = port.context("no port of 127.0.0.1 can be had")?.port();
        write(&there.join("authorized-keys"), &format!("{login}\n"))?;
        write(&there.join("passwd"), &users(&home))?;
        write(&there.join("sshd-config"), &configuration(&there, port))?;
        write(&verbs.home().join(".ssh/known_hosts"), &format!("[127.0.0.1]:{port} {identity}\n"))?;

        let mut command = verbs.verb(&["throw-away-host"]);
        command.arg(&tools.sshd).arg(&there).arg(verbs.here());
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = command.spawn().context("the throw-away host cannot be started")?;
        let keeping = server.stdin.take();
        let mut first = String::new();
        if let Some(stdout) = server.stdout.take() {
            BufReader::new(stdout).read_line(&mut first).context("the throw-away host does not answer")?;
        }
        let shared = Some(first.trim().to_owned()).filter(|reason| !reason.is_empty());
        let user = if shared.is_some() { user_here()? } else { USER.to_owned() };
        let mut host = Self { server, keeping, port, user, key, shared };
        host.wait_until_it_answers(&there.join("log"))?;
        Ok(host)
    }

    /// What it is, for the user.
    pub fn describe(&self) -> String {
        let port = self.port;
        match &self.shared {
            None => format!(
                "{HOST}, an sshd on 127.0.0.1:{port}\n   with a user, a home directory, process numbers, mounts and a clock of its \
                 own; it lacks the program, and ckptctl"
            ),
            Some(reason) => {
                format!("an sshd on 127.0.0.1:{port} with a home directory of its own\n   ({})", text::plain(reason))
            }
        }
    }

    /// The words that make it known.
    pub fn add(&self) -> [String; 6] {
        let destination = format!("{}@127.0.0.1:{}", self.user, self.port);
        let key = self.key.to_string_lossy().into_owned();
        ["hosts".to_owned(), "add".to_owned(), HOST.to_owned(), destination, "--key".to_owned(), key]
    }

    fn wait_until_it_answers(&mut self, log: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        while !greets(address) {
            if cancel::is_cancelled() {
                return Err(cancelled());
            }
            let ended = self.server.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(log).unwrap_or_default();
                bail!("the throw-away host's sshd does not answer; it says: {}", text::plain(log.trim()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It ends when its input does, and everything on it.
        self.keeping = None;
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.server.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Makes a key pair, and gives its public half.
fn make_key(verbs: &Verbs, tools: &Tools, file: &Path) -> anyhow::Result<String> {
    let mut keygen = verbs.command(&tools.keygen);
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(file);
    let made = keygen.output().context("ssh-keygen cannot be started")?;
    ensure!(made.status.success(), "ssh-keygen made no key: {}", String::from_utf8_lossy(&made.stderr).trim());
    let public = file.with_extension("pub");
    let public = fs::read_to_string(&public).with_context(|| format!("cannot read {}", text::path(&public)))?;
    Ok(public.trim().to_owned())
}

/// The host's `/etc/passwd`: whoever runs this is somebody else there. The server of the superuser wants a user of its own.
fn users(home: &Path) -> String {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    format!("{USER}:*:{uid}:{gid}::{}:/bin/sh\nsshd:*:65533:65534::/run/sshd:/bin/false\n", home.display())
}

/// The server's configuration. Nothing of the machine's own is used.
fn configuration(there: &Path, port: u16) -> String {
    let file = |name: &str| format!("\"{}\"", there.join(name).display());
    let mut text = format!("ListenAddress 127.0.0.1\nPort {port}\nPidFile none\nHostKey {}\n", file("host-key"));
    let _ = writeln!(text, "AuthorizedKeysFile {}", file("authorized-keys"));
    let _ = writeln!(text, "SetEnv \"HOME={0}/home\" \"XDG_RUNTIME_DIR={0}/run\"", there.display());
    text.push_str("PasswordAuthentication no\nKbdInteractiveAuthentication no\nPubkeyAuthentication yes\nUsePAM no\n");
    // The directory lies in one that everybody may write to; nobody else may enter it.
    text.push_str("StrictModes no\nPermitUserRC no\nPrintMotd no\nPermitRootLogin prohibit-password\n");
    text
}

/// The name of the user who runs this, where the host has no users of its own.
fn user_here() -> anyhow::Result<String> {
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = passwd.lines().find(|line| line.split(':').nth(2) == Some(&uid));
    let name = entry.and_then(|line| line.split(':').next()).map(str::to_owned);
    name.or_else(|| std::env::var("USER").ok()).with_context(|| format!("the user {uid} has no name"))
}

fn write(path: &Path, contents: &str) -> anyhow::Result<()> {
    fs::write(path, contents).with_context(|| format!("cannot write {}", text::path(path)))
}

fn greets(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    let mut greeting = [0; 4];
    let waits = stream.set_read_timeout(Some(Duration::from_secs(2)));
    waits.is_ok() && stream.read_exact(&mut greeting).is_ok() && greeting == *b"SSH-"
}
