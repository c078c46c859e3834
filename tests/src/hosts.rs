//! Hosts to migrate to: OpenSSH's server in namespaces of its own, with a file system of its own.
//!
//! A [`Network`] belongs to one case. It is made of three network namespaces: `home`, where the case's commands run, and one for
//! each of the hosts `alpha` and `beta`. A host has other names, users, home directories, clocks and process ids than this machine,
//! and none of its libraries or files. Nothing outside these namespaces is changed, and all of it goes with the processes that
//! hold it: each of them ends when its standard input does, so not even tests that are killed leave anything behind.

mod copies;
mod link;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub use copies::{Copies, Copy, Watch};
pub use link::Link;

use crate::case::{Case, Finished};
use crate::stage::{self, Who};

/// What makes a host, and the Debian packages that it comes from.
const TOOLS: &[(&str, &str)] = &[
    ("sshd", "openssh-server"),
    ("ssh-keygen", "openssh-client"),
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("busybox", "busybox-static"),
];
/// The status by which a script says that this machine lacks something.
const SKIP: i32 = 77;
/// By how many days each host has been up for longer than this machine.
const UPTIMES: [(&str, u32); 2] = [("alpha", 100), ("beta", 3)];

/// Makes the file system that all hosts of a run begin with.
///
/// # Errors
/// A skip when this machine cannot be a host.
pub(crate) fn make_root(directory: &Path) -> Result<()> {
    for (tool, package) in TOOLS {
        if !stage::has_tool(tool) {
            return crate::skip(format!("there is no {tool} here: install {package}"));
        }
    }
    fs::create_dir(directory)?;
    let made = Command::new(script("root")).arg(directory).output().context("cannot make a host's file system")?;
    if made.status.code() == Some(SKIP) {
        return crate::skip(String::from_utf8_lossy(&made.stdout).trim());
    }
    ensure!(made.status.success(), "cannot make a host's file system: {made:?}");
    Ok(())
}

/// This case's hosts. While it is there, the thread that made it, and everything that it starts, is on its network.
pub struct Network {
    /// A host whose clocks are months ahead.
    pub alpha: Host,
    /// Another one.
    pub beta: Host,
    key: PathBuf,
    _home: AtHome,
}

impl Network {
    /// Makes hosts that only a new key of this case's user can log in to.
    ///
    /// # Errors
    /// A skip where it takes root; else when that did not work.
    pub fn make(case: &Case) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return crate::skip("hosts are made by root only");
        }
        let key = make_key(case)?;
        let home = AtHome::enter()?;
        // Both at a time.
        let [alpha, beta] = UPTIMES.map(|(name, days)| Starting::begin(case, name, days, &key));
        Ok(Self { alpha: alpha?.finish(case)?, beta: beta?.finish(case)?, key, _home: home })
    }

    /// The user's private key.
    #[must_use]
    pub fn key(&self) -> &Path {
        &self.key
    }

    /// Writes a hosts file and `known_hosts` with both hosts in them.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn introduce(&self, case: &Case) -> Result<()> {
        let entries = [&self.alpha, &self.beta].map(|host| self.entry(&host.name, host.user, host.address));
        self.introduce_as(case, &entries.concat(), &[&self.alpha, &self.beta].map(Host::known).concat())
    }

    /// Writes these files with other contents.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn introduce_as(&self, case: &Case, hosts: &str, known_hosts: &str) -> Result<()> {
        case.make_dir(".config")?;
        case.make_dir(".config/ckptctl")?;
        case.write(".config/ckptctl/hosts.toml", hosts)?;
        case.write(".ssh/known_hosts", known_hosts).map(drop)
    }

    /// A hosts file's entry.
    #[must_use]
    pub fn entry(&self, name: &str, user: &str, at: SocketAddr) -> String {
        let (address, port, key) = (at.ip(), at.port(), self.key.display());
        format!("[hosts.{name}]\naddress = \"{address}\"\nport = {port}\nuser = \"{user}\"\nkey = \"{key}\"\n\n")
    }

    /// All processes, here and there, that have this word among their arguments.
    #[must_use]
    pub fn copies(&self, word: &str) -> Copies {
        Copies::of(word, &[&self.alpha, &self.beta].map(|host| (host.name.clone(), host.pid)))
    }

    /// Watches the same processes until told to stop.
    #[must_use]
    pub fn watch(&self, word: &str) -> Watch {
        Watch::begin(word, [&self.alpha, &self.beta].map(|host| (host.name.clone(), host.pid)).to_vec())
    }
}

/// A host.
pub struct Host {
    /// Its name, which is also what it calls itself.
    pub name: String,
    /// Who the case's user is there.
    pub user: &'static str,
    /// Where its sshd listens.
    pub address: SocketAddr,
    /// Its first process, as this machine numbers it.
    pub pid: i32,
    known_key: String,
    log: PathBuf,
    held: Held,
}

impl Host {
    /// A file there, seen from here.
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        PathBuf::from(format!("/proc/{}/root", self.pid)).join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The home directory there of the case's user, seen from here.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.path(format!("/export/{}", self.user))
    }

    /// Its line for `known_hosts`.
    #[must_use]
    pub fn known(&self) -> String {
        format!("{} {}\n", self.address.ip(), self.known_key)
    }

    /// Its host key: type and base64.
    #[must_use]
    pub fn host_key(&self) -> &str {
        &self.known_key
    }

    /// Pulls its cable: from now on nothing reaches it and nothing comes from it.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn cut(&self) -> Result<()> {
        ip(&["link", "set", &self.name, "down"])
    }

    /// Plugs the cable in again.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn mend(&self) -> Result<()> {
        ip(&["link", "set", &self.name, "up"])
    }

    /// Runs a shell command there, as root, without SSH.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn run(&self, case: &Case, command: &str) -> Result<Finished> {
        let pid = self.pid.to_string();
        let mut enter = case.command_as(Who::Root, "nsenter");
        enter.args(["--target", &pid, "--all", "--root", "--wdns=/", "/bin/sh", "-c", command]);
        enter.env("PATH", "/usr/bin:/usr/sbin");
        case.run(&mut enter)
    }

    /// What its sshd said.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it, as when its power fails.
    pub fn end(&mut self) {
        self.held.end();
    }
}

/// A host that is about to come up.
struct Starting {
    host: Host,
    home_address: String,
}

impl Starting {
    fn begin(case: &Case, name: &str, days: u32, key: &Path) -> Result<Self> {
        let root = case.stage().host_root()?;
        let mount_point = case.path(format!("{name}.root"));
        fs::create_dir(&mount_point)?;
        let number = if name == "alpha" { 1 } else { 2 };
        let (home_address, address) = (format!("10.77.{number}.1/24"), format!("10.77.{number}.2"));
        let log = case.path(format!("{name}.log"));
        let offset = format!("{}", u64::from(days) * 24 * 3600);
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--time"]);
        command.args(["--boottime", &offset, "--monotonic", &offset]).arg(script("start")).arg(&root);
        command.arg(&mount_point).arg(name).arg(format!("{address}/24"));
        let host_key = case.path(format!("{name}.key"));
        keygen(&host_key)?;
        command
            .env_clear()
            .env("PATH", stage::TOOLS_PATH)
            .env("HOST_KEY", &host_key)
            .env("AUTHORIZED_KEYS", public(key));
        let held = Held::start(command.stdout(Stdio::piped()).stderr(File::create(&log)?))?;
        let host = Host {
            name: name.to_owned(),
            user: if case.who == Who::User { "bob" } else { "root" },
            address: format!("{address}:22").parse()?,
            pid: 0,
            known_key: first_words(&public(&host_key), 2)?,
            log,
            held,
        };
        Ok(Self { host, home_address })
    }

    fn finish(self, case: &Case) -> Result<Host> {
        let mut host = self.host;
        let unshare = host.held.pid();
        host.held.wait_for_own_network(case)?;
        let peer = unshare.to_string();
        ip(&["link", "add", &host.name, "type", "veth", "peer", "name", "eth0", "netns", &peer])?;
        ip(&["address", "add", &self.home_address, "dev", &host.name])?;
        ip(&["link", "set", &host.name, "up"])?;
        host.held.say("plugged in\n")?;
        host.held.wait_for_a_line().with_context(|| format!("{}: {}", host.name, host.log()))?;
        let up = case.wait_until("sshd listens", || {
            TcpStream::connect_timeout(&host.address, Duration::from_millis(50)).is_ok()
        });
        up.with_context(|| format!("{}: {}", host.name, host.log()))?;
        let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"))?;
        host.pid = children.trim().parse().with_context(|| format!("{}: {children:?}: {}", host.name, host.log()))?;
        Ok(host)
    }
}

/// The calling thread is in the network namespace `home`.
struct AtHome {
    _held: Held,
}

impl AtHome {
    fn enter() -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up; echo up; cat >/dev/null"]).stdout(Stdio::piped());
        let mut held = Held::start(&mut command)?;
        held.wait_for_a_line()?;
        let namespace = File::open(format!("/proc/{}/ns/net", held.pid()))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).context("cannot go home")?;
        Ok(Self { _held: held })
    }
}

impl Drop for AtHome {
    fn drop(&mut self) {
        let machine = File::open("/proc/self/ns/net")
            .context("no namespace")
            .and_then(|namespace| Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?));
        // The next case of this thread would find itself without a network: it must not run.
        assert!(machine.is_ok(), "the thread is lost in the network of its case: {machine:?}");
    }
}

/// A process that holds namespaces until its standard input ends.
struct Held {
    child: Child,
    input: Option<ChildStdin>,
}

impl Held {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).spawn().with_context(|| format!("cannot start {command:?}"))?;
        let input = child.stdin.take();
        Ok(Self { child, input })
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn say(&mut self, text: &str) -> Result<()> {
        Ok(self.input.as_mut().context("no input")?.write_all(text.as_bytes())?)
    }

    fn wait_for_a_line(&mut self) -> Result<()> {
        use std::io::{BufRead, BufReader};
        let output = self.child.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(!line.is_empty(), "no namespace could be made: {:?}", self.child.wait());
        Ok(())
    }

    fn wait_for_own_network(&self, case: &Case) -> Result<()> {
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
        let (mine, machine) = (of("thread-self"), of("self"));
        case.wait_until("the host has a network of its own", || {
            let its = of(&self.pid().to_string());
            its.is_some() && its != mine && its != machine
        })
    }

    fn end(&mut self) {
        drop(self.input.take());
        // It may be deaf where something went wrong; the kernel then ends what it holds.
        let limit = std::time::Instant::now() + Duration::from_secs(2);
        while matches!(self.child.try_wait(), Ok(None)) {
            if std::time::Instant::now() > limit {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.end();
    }
}

/// A key pair of the case's user, made for this case.
fn make_key(case: &Case) -> Result<PathBuf> {
    let ssh = case.make_dir(".ssh")?;
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o700))?;
    let key = ssh.join("id_test");
    keygen(&key)?;
    case.give(&key)?;
    case.give(&public(&key))?;
    Ok(key)
}

/// Makes a key pair without a passphrase.
///
/// # Errors
/// When OpenSSH cannot.
pub fn keygen(key: &Path) -> Result<()> {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"]).arg(key);
    let made = command.stdin(Stdio::null()).output().context("cannot run ssh-keygen (package openssh-client)")?;
    ensure!(made.status.success(), "no key could be made: {made:?}");
    Ok(())
}

fn public(key: &Path) -> PathBuf {
    key.with_file_name(format!("{}.pub", key.file_name().unwrap_or_default().display()))
}

fn first_words(file: &Path, count: usize) -> Result<String> {
    let text = fs::read_to_string(file)?;
    Ok(text.split_whitespace().take(count).collect::<Vec<_>>().join(" "))
}

/// `ip`, in the network namespace of this thread.
fn ip(arguments: &[&str]) -> Result<()> {
    let ran = Command::new("ip").args(arguments).output().context("cannot run ip (package iproute2)")?;
    ensure!(ran.status.success(), "ip {arguments:?}: {ran:?}");
    Ok(())
}

fn script(name: impl AsRef<OsStr>) -> PathBuf {
    stage::workspace().join("tests/hosts").join(name.as_ref())
}
