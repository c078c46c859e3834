//! The other machine: emulated by qemu, booted once for each processor that tests ask for, and gone with this program.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ckpt_tests::{Case, Finished, skip};

/// The ordinary user there.
pub const USER: &str = "mover";
/// How long it may take until sshd answers. It is about 5 s on an idle machine.
const BOOT: Duration = Duration::from_secs(80);

/// A processor that the other machine can have.
#[derive(Clone, Copy, Debug)]
pub enum Processor {
    /// Whatever qemu can emulate: AVX2, but not AVX-512.
    Max,
    /// One without AVX.
    Qemu64,
}

/// A booted machine.
pub struct Guest {
    /// Where its sshd is reached, on 127.0.0.1.
    pub port: u16,
    /// The private key that lets an ordinary user of this machine in.
    pub key: PathBuf,
    /// A line for a `known_hosts` file.
    pub known_host: String,
    /// Whether `ckptctl` has been put there.
    pub has_ckptctl: Mutex<bool>,
}

impl Processor {
    fn name(self) -> &'static str {
        match self {
            Self::Max => "max",
            Self::Qemu64 => "qemu64",
        }
    }

    /// The machine with this processor; it is booted if it is not there yet.
    pub fn guest(self, case: &Case) -> Result<&'static Guest> {
        static MAX: OnceLock<Result<Guest, String>> = OnceLock::new();
        static QEMU64: OnceLock<Result<Guest, String>> = OnceLock::new();
        if let Ok(reason) = std::env::var("CKPT_GUEST_MISSING") {
            return skip(reason);
        }
        let machine = match self {
            Self::Max => &MAX,
            Self::Qemu64 => &QEMU64,
        };
        let booted = machine.get_or_init(|| Guest::boot(case, self.name()).map_err(|error| format!("{error:#}")));
        booted.as_ref().map_err(|error| anyhow!("the other machine: {error}"))
    }
}

impl Guest {
    fn boot(case: &Case, processor: &str) -> Result<Self> {
        let made = std::env::var_os("CKPT_GUEST").context("start these tests with tests/vm")?;
        let stage = case.stage().bin();
        let dir = stage.parent().context("no stage")?.join(format!("guest-{processor}"));
        fs::create_dir(&dir)?;
        let owner = fs::metadata(case.dir())?;
        chown(&dir, Some(owner.uid()), Some(owner.gid()))?;

        let (key, host_key) = (make_key(&dir.join("key"))?, make_key(&dir.join("host_key"))?);
        chown(dir.join("key"), Some(owner.uid()), Some(owner.gid()))?;
        fs::copy(Path::new(&made).join("kernel"), dir.join("kernel"))?;
        let mut initrd =
            fs::read(Path::new(&made).join("initrd")).context("no initrd; start these tests with tests/vm")?;
        // An archive begins at a multiple of four bytes.
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        initrd.extend(keys_archive(&dir, &key)?);
        fs::write(dir.join("initrd"), initrd)?;

        let mut machine = Machine::start(case, &dir, processor)?;
        let port = machine.port;
        machine.wait_for_sshd()?;
        Ok(Self {
            port,
            key: dir.join("key"),
            known_host: format!("[127.0.0.1]:{port} {host_key}"),
            has_ckptctl: Mutex::new(false),
        })
    }

    /// Runs a script there, by the system's own ssh, and gives what it says.
    pub fn run(&self, case: &Case, script: &str) -> Result<Finished> {
        let known_hosts = case.path("known_hosts_of_the_test");
        fs::write(&known_hosts, format!("{}\n", self.known_host))?;
        let mut ssh = case.command("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o"]);
        ssh.arg(format!("UserKnownHostsFile={}", known_hosts.display()));
        ssh.arg("-i").arg(&self.key).args(["-p", &self.port.to_string(), &format!("{USER}@127.0.0.1"), script]);
        case.run(&mut ssh)
    }
}

/// Makes a key pair and gives the public half, without its comment.
fn make_key(path: &Path) -> Result<String> {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(path).status();
    ensure!(made.context("cannot run ssh-keygen (package openssh-client)")?.success(), "ssh-keygen made no key");
    Ok(fs::read_to_string(path.with_extension("pub"))?.trim().to_owned())
}

/// What this boot adds to the initial RAM file system: a second archive behind the first.
fn keys_archive(dir: &Path, key: &str) -> Result<Vec<u8>> {
    let root = dir.join("root");
    let ssh = format!("home/{USER}/.ssh");
    fs::create_dir_all(root.join("etc/ssh"))?;
    fs::create_dir_all(root.join(&ssh))?;
    fs::copy(dir.join("host_key"), root.join("etc/ssh/host_key"))?;
    fs::set_permissions(root.join("etc/ssh/host_key"), fs::Permissions::from_mode(0o600))?;
    fs::write(root.join(&ssh).join("authorized_keys"), format!("{key}\n"))?;
    let mut cpio = Command::new("busybox");
    cpio.args(["cpio", "-o", "-H", "newc", "-R", "0:0"]).current_dir(&root);
    cpio.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut cpio = cpio.spawn().context("cannot run busybox (package busybox-static)")?;
    let names = format!("etc\netc/ssh\netc/ssh/host_key\nhome\nhome/{USER}\n{ssh}\n{ssh}/authorized_keys\n");
    // A few names and keys: they fit the pipes.
    cpio.stdin.take().context("no pipe")?.write_all(names.as_bytes())?;
    let archive = cpio.wait_with_output()?;
    ensure!(archive.status.success() && !archive.stdout.is_empty(), "busybox cpio made no archive");
    Ok(archive.stdout)
}

/// A running qemu. It is killed when this program ends in whatever way: it is tied to a thread that waits for it.
struct Machine {
    port: u16,
    console: PathBuf,
    said: PathBuf,
    ended: mpsc::Receiver<String>,
}

impl Machine {
    fn start(case: &Case, dir: &Path, processor: &str) -> Result<Self> {
        // Free now, and taken by qemu before long.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (console, said) = (dir.join("console"), dir.join("qemu-said"));
        let mut qemu = case.command("setpriv");
        qemu.current_dir(dir).args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", processor, "-m", "1024", "-smp", "2"]);
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "file:console"]);
        qemu.args(["-kernel", "kernel", "-initrd", "initrd", "-append", "console=ttyS0 panic=1 quiet"]);
        // `restrict`: nothing there reaches the network.
        qemu.args(["-netdev", &format!("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22")]);
        qemu.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
        // It outlives the case that it is booted in, which ends all that carry its mark.
        qemu.env_remove("CKPT_TEST_GO");
        qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&said)?);
        let (sender, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let how = match qemu.spawn().and_then(|mut child: Child| child.wait()) {
                Ok(status) => format!("qemu ended: {status}"),
                Err(error) => format!("setpriv and qemu cannot be run: {error}"),
            };
            // Nobody may be interested any more.
            let _ = sender.send(how);
        });
        Ok(Self { port, console, said, ended })
    }

    /// Waits for the first line that an sshd says.
    fn wait_for_sshd(&mut self) -> Result<()> {
        let deadline = Instant::now() + BOOT;
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let wait = Duration::from_millis(100);
        while !greets(address) {
            match self.ended.recv_timeout(wait) {
                Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(_) => bail!("sshd did not answer within {} s; {}", BOOT.as_secs(), self.story()),
                Ok(how) => bail!("{how}; {}", self.story()),
            }
        }
        Ok(())
    }

    fn story(&self) -> String {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        format!("qemu said {:?}, the console {:?}", read(&self.said), read(&self.console))
    }
}

/// Whether an sshd answers. qemu itself takes the connection, and closes it while nobody listens in the guest.
fn greets(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    let mut greeting = [0; 4];
    let waits = stream.set_read_timeout(Some(Duration::from_secs(10)));
    waits.is_ok() && stream.read_exact(&mut greeting).is_ok() && greeting == *b"SSH-"
}
