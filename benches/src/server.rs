//! OpenSSH's server on a loopback port, with its defaults, for whoever runs the bench.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const SERVERS: [&str; 2] = ["/usr/sbin/sshd", "/usr/local/sbin/sshd"];
/// The host's name in the hosts file.
pub const HOST: &str = "loopback";

/// The server, and the home directory of those who use it. It ends with this value.
#[derive(Debug)]
pub struct Server {
    child: Child,
    home: PathBuf,
    port: u16,
}

impl Server {
    /// Starts it; `None` where OpenSSH's server is not installed. Everything it needs is made in `dir`.
    pub fn start(dir: &Path) -> Result<Option<Self>> {
        let Some(sshd) = SERVERS.iter().map(Path::new).find(|path| path.exists()) else { return Ok(None) };
        let (home, there) = (dir.join("home"), dir.join("there"));
        for made in [&home, &there, &home.join(".ssh"), &home.join(".config/ckptctl")] {
            fs::create_dir_all(made).with_context(|| format!("make {}", made.display()))?;
        }
        let (host_key, key) = (dir.join("host_key"), home.join(".ssh/id_ed25519"));
        for made in [&host_key, &key] {
            keygen(made)?;
        }
        if rustix::process::geteuid().is_root() {
            // As its service does: it will not start as root without.
            fs::create_dir_all("/run/sshd").context("make /run/sshd")?;
        }
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let config = dir.join("sshd_config");
        let text = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}.pub\nPidFile none\nStrictModes no\n\
             UsePAM no\nSubsystem sftp internal-sftp\nSetEnv HOME={there}\n",
            host_key.display(),
            key.display(),
            there = there.display()
        );
        fs::write(&config, text).context("write the server's configuration")?;
        let public = fs::read_to_string(host_key.with_extension("pub")).context("read the host key")?;
        fs::write(home.join(".ssh/known_hosts"), format!("[127.0.0.1]:{port} {public}"))
            .context("write known_hosts")?;
        let entry = format!("[hosts.{HOST}]\naddress = \"127.0.0.1\"\nport = {port}\nkey = \"{}\"\n", key.display());
        fs::write(home.join(".config/ckptctl/hosts.toml"), entry).context("write the hosts file")?;
        let log = dir.join("sshd.log");
        let said = File::create(&log).context("make the server's log")?;
        let mut command = Command::new(sshd);
        command.arg("-D").arg("-e").arg("-f").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        let child = command.spawn().context("start sshd")?;
        let mut server = Self { child, home, port };
        server.wait_until_it_listens(&log)?;
        Ok(Some(server))
    }

    /// Where the files of its users are, who have a configuration by which they reach it.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Copies a file there with `scp`, as OpenSSH does it by default.
    pub fn scp(&self, file: &Path, to: &Path) -> Result<Duration> {
        let mut scp = Command::new("scp");
        scp.args(["-q", "-F", "none", "-o", "BatchMode=yes", "-P", &self.port.to_string()]);
        scp.arg("-o").arg(format!("UserKnownHostsFile={}", self.home.join(".ssh/known_hosts").display()));
        scp.arg("-i").arg(self.home.join(".ssh/id_ed25519")).arg(file).arg(format!("127.0.0.1:{}", to.display()));
        let began = Instant::now();
        let output = scp.stdin(Stdio::null()).output().context("run scp (package openssh-client)")?;
        let took = began.elapsed();
        ensure!(output.status.success(), "scp failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(took)
    }

    fn wait_until_it_listens(&mut self, log: &Path) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(10);
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if let Some(status) = self.child.try_wait().context("look at sshd")? {
                bail!("sshd ended ({status}): {}", fs::read_to_string(log).context("read what sshd said")?.trim());
            }
            ensure!(Instant::now() < deadline, "sshd does not listen after {} s", PATIENCE.as_secs());
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait().map(drop));
        if let Err(error) = ended {
            eprintln!("sshd (process {}) could not be ended: {error}", self.child.id());
        }
    }
}

fn keygen(key: &Path) -> Result<()> {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key);
    let output = command.stdin(Stdio::null()).output().context("run ssh-keygen (package openssh-client)")?;
    ensure!(output.status.success(), "ssh-keygen failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
