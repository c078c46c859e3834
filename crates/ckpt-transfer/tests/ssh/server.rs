//! A server, a client's home directory, and somebody who answers questions.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ckpt_transfer::hosts::{Host, Hosts, Place};
use ckpt_transfer::ssh::{Channel, Prompter, Secrets, Session, SshError};
use tempfile::TempDir;

const SSHD: &str = "/usr/sbin/sshd";

/// A server with its own keys, and a client's home directory beside it.
pub struct Server {
    pub directory: TempDir,
    pub port: u16,
    user: String,
    daemon: Option<Child>,
    config: String,
}

/// Answers questions in turn, and remembers them.
#[derive(Default)]
pub struct Answers {
    answers: Vec<String>,
    pub questions: Vec<(String, bool)>,
}

impl Answers {
    pub fn of(answers: &[&str]) -> Self {
        Self { answers: answers.iter().rev().map(|answer| (*answer).to_owned()).collect(), questions: Vec::new() }
    }
}

impl Prompter for Answers {
    fn ask(&mut self, question: &str, echo: bool) -> Option<String> {
        self.questions.push((question.to_owned(), echo));
        self.answers.pop()
    }
}

impl Server {
    /// A server that lets this user in by the keys of the client's home directory.
    pub fn start() -> Result<Self, String> {
        Self::start_with("")
    }

    /// With more lines in its configuration.
    pub fn start_with(more: &str) -> Result<Self, String> {
        if !Path::new(SSHD).exists() {
            return Err(format!("{SSHD} is not there (Debian: apt install openssh-server)"));
        }
        let directory = tempfile::Builder::new().prefix("ckptctl-ssh-").tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let user = output("id", &["-un"]);
        let mut server = Self { directory, port: 0, user, daemon: None, config: String::new() };
        for place in ["server", "home/.ssh", "there"] {
            fs::create_dir_all(server.path(place)).unwrap();
        }
        fs::set_permissions(server.path("home/.ssh"), fs::Permissions::from_mode(0o700)).unwrap();
        for kind in ["ed25519", "ecdsa", "rsa"] {
            server.keygen(kind, "", &format!("server/host_{kind}"));
        }
        server.keygen("ed25519", "", "home/.ssh/id_ed25519");
        server.allow("home/.ssh/id_ed25519");
        server.listen(more);
        Ok(server)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub fn keygen(&self, kind: &str, passphrase: &str, file: &str) {
        let path = self.path(file);
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", kind, "-N", passphrase, "-C", &format!("key-{kind}"), "-f"]).arg(path);
        assert!(keygen.status().unwrap().success());
    }

    /// Lets a key in.
    pub fn allow(&self, key: &str) {
        let all = self.text("server/authorized_keys") + &self.text(&format!("{key}.pub"));
        fs::write(self.path("server/authorized_keys"), all).unwrap();
    }

    /// The fingerprint of a key, as `ssh-keygen` shows it.
    pub fn fingerprint(&self, key: &str) -> String {
        let said = output("ssh-keygen", &["-l", "-f", self.path(key).to_str().unwrap()]);
        said.split_whitespace().nth(1).unwrap().to_owned()
    }

    /// Starts the daemon, on a port that is free.
    fn listen(&mut self, more: &str) {
        more.clone_into(&mut self.config);
        for _ in 0..5 {
            self.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let at = self.directory.path().display();
            // The first value of a keyword holds: what a test says wins.
            let config = format!(
                "{more}\nPort {}\nListenAddress 127.0.0.1\nListenAddress ::1\nHostKey {at}/server/host_ed25519\nHostKey {at}/server/host_ecdsa\n\
                 HostKey {at}/server/host_rsa\nPidFile none\nAuthorizedKeysFile {at}/server/authorized_keys\nStrictModes no\n\
                 UsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel INFO\n\
                 MaxStartups 100\n",
                self.port
            );
            fs::write(self.path("server/config"), config).unwrap();
            if rustix::process::geteuid().is_root() {
                fs::create_dir_all("/run/sshd").unwrap();
            }
            let log = fs::File::create(self.path("server/log")).unwrap();
            let mut daemon = Command::new(SSHD);
            daemon.args(["-D", "-e", "-f"]).arg(self.path("server/config")).stdin(Stdio::null()).stderr(log);
            let mut daemon = daemon.env("HOME", self.path("there")).spawn().unwrap();
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(10) {
                if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                    self.daemon = Some(daemon);
                    return;
                }
                if daemon.try_wait().unwrap().is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        panic!("sshd does not start: {}", self.text("server/log"));
    }

    /// The hosts that this client knows: `there` is the server. More lines of `hosts.toml` follow `there`'s own.
    pub fn hosts(&self, more: &str) -> Hosts {
        let text = format!(
            "[hosts.there]\naddress = \"127.0.0.1\"\nport = {}\nuser = \"{}\"\nhost_key = \"accept-new\"\n{more}\n",
            self.port, self.user
        );
        // Several threads may be about to read it.
        let whole = tempfile::NamedTempFile::new_in(self.path("home")).unwrap();
        fs::write(&whole, text).unwrap();
        whole.persist(self.path("home/hosts.toml")).unwrap();
        Hosts::load_from(self.place()).unwrap()
    }

    pub fn place(&self) -> Place {
        let home = self.path("home");
        Place {
            hosts_file: home.join("hosts.toml"),
            ssh_config: home.join(".ssh/config"),
            system_config: home.join("none"),
            home,
            user: self.user.clone(),
        }
    }

    pub fn try_connect(
        &self,
        change: impl FnOnce(&mut Host),
        prompter: &mut dyn Prompter,
    ) -> Result<Session, SshError> {
        let hosts = self.hosts("");
        let mut host = there(&hosts);
        change(&mut host);
        Session::connect(&host, &hosts, prompter, &mut Secrets::new())
    }

    pub fn connect(&self) -> Session {
        self.try_connect(|_| (), &mut Answers::default()).unwrap()
    }

    pub fn start_command(&self, words: &[&str]) -> Channel {
        self.connect().exec(words).unwrap()
    }

    /// The processes of the server that serve connections now.
    pub fn serving(&self) -> Vec<i32> {
        let daemon = self.daemon.as_ref().unwrap().id();
        descendants(daemon)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            for pid in descendants(daemon.id()) {
                send(pid, "-KILL");
            }
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// The server as a host, without this machine's agent and known hosts.
pub fn there(hosts: &Hosts) -> Host {
    let mut host = hosts.find("there").unwrap();
    host.agent = None;
    host.system_known_hosts.clear();
    host
}

/// All processes below one, the nearest first.
fn descendants(pid: u32) -> Vec<i32> {
    let mut found: Vec<i32> = Vec::new();
    let mut next = vec![pid.to_string()];
    while let Some(parent) = next.pop() {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        for child in children.split_whitespace() {
            found.extend(child.parse::<i32>());
            next.push(child.to_owned());
        }
    }
    found
}

/// Sends a signal to a process; one that has gone meanwhile needs none.
pub fn send(pid: i32, signal: &str) {
    let _ = Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status();
}

pub fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A user who is there only for a test that types passwords. One at a time: `useradd` locks its files.
pub struct Guest {
    pub name: String,
}

static GUESTS: Mutex<()> = Mutex::new(());

impl Guest {
    pub fn new(password: &str) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can make a user with a password".to_owned());
        }
        let _alone = GUESTS.lock();
        let name = format!("ckptguest{}", std::process::id() % 100_000);
        // One that a killed run has left.
        let _ = Command::new("userdel").arg(&name).stderr(Stdio::null()).status();
        let made =
            Command::new("useradd").args(["--no-create-home", "--home-dir", "/", "--shell", "/bin/sh", &name]).status();
        if !made.is_ok_and(|status| status.success()) {
            return Err("useradd cannot make a user here".to_owned());
        }
        let guest = Self { name };
        let mut set = Command::new("chpasswd").stdin(Stdio::piped()).spawn().unwrap();
        writeln!(set.stdin.take().unwrap(), "{}:{password}", guest.name).unwrap();
        assert!(set.wait().unwrap().success());
        Ok(guest)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = Command::new("userdel").arg(&self.name).stderr(Stdio::null()).status();
    }
}
