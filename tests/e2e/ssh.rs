//! `ckptctl hosts`: the hosts file, and a test of a host by a server of this machine's own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ckpt_tests::{Case, Ending, Finished, Running, Suite, Terminal, Whos, skip};

const SSHD: &str = "/usr/sbin/sshd";

pub fn add(suite: &mut Suite) {
    suite.add("ssh::hosts_are_added_changed_and_removed", Whos::User, hosts_file);
    suite.add("ssh::mistakes_are_named_by_line", Whos::User, mistakes);
    suite.add("ssh::hosts_test", Whos::Root, hosts_test);
    suite.add("ssh::hosts_test_asks_on_the_terminal", Whos::Root, asks);
    suite.add("ssh::an_account_that_runs_no_commands", Whos::User, no_commands);
    suite.add("ssh::a_host_that_cannot_be_reached", Whos::User, unreachable);
}

/// `ckptctl hosts` where nobody can be asked.
pub fn hosts(case: &Case, args: &[&str]) -> Result<Finished> {
    let mut command = case.command("setsid");
    command.arg("-w").arg(case.stage().ckptctl()).arg("hosts").args(args);
    case.run(&mut command)
}

fn hosts_file(case: &Case) -> Result<()> {
    let said = hosts(case, &["list"])?.expect(0)?.stdout;
    ensure!(said.contains("ckptctl hosts add"), "{said}");
    hosts(case, &["add", "b", "me@b.example.org:2222", "--jump", "gate", "--directory", "/scratch", "--accept-new"])?
        .expect(0)?;
    let file = case.path(".config/ckptctl/hosts.toml");
    fs::write(&file, format!("# my hosts\n\n{}", fs::read_to_string(&file)?))?;
    hosts(case, &["edit", "b", "--compression", "zstd", "--unset", "jump", "--key", "~/.ssh/k"])?.expect(0)?;
    let text = fs::read_to_string(&file)?;
    ensure!(text.starts_with("# my hosts\n\n[hosts.b]\n"), "{text}");
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600, "others can read it");
    let json = hosts(case, &["list", "--json"])?.expect(0)?.json()?;
    let host = &json["hosts"][0];
    let expected = [
        ("name", "b".into()),
        ("address", "b.example.org".into()),
        ("port", 2222.into()),
        ("user", "me".into()),
        ("jump", serde_json::Value::Null),
        ("directory", "/scratch".into()),
        ("compression", "zstd".into()),
        ("host_key", "accept-new".into()),
        ("keys", vec![case.path(".ssh/k").display().to_string()].into()),
    ];
    for (key, value) in expected {
        ensure!(host[key] == value, "{key}: {json}");
    }
    hosts(case, &["add", "b", "x"])?.expect_refusal(&[1], &["\"b\" already", "hosts.toml:3"])?;
    hosts(case, &["edit", "c", "--directory", "/x"])?
        .expect_refusal(&[1], &["there is no host \"c\"", "there are: b"])?;
    hosts(case, &["edit", "b"])?.expect_refusal(&[2], &["nothing to change"])?;
    hosts(case, &["edit", "b", "--directory", "x"])?.expect_refusal(&[1], &["absolute path"])?;
    hosts(case, &["add", "c", "c:port"])?.expect_refusal(&[2], &["c:port"])?;
    hosts(case, &["remove", "c"])?.expect_refusal(&[1], &["there is no host \"c\""])?;
    hosts(case, &["remove", "b"])?.expect(0)?;
    let left = fs::read_to_string(&file)?;
    ensure!(left.trim() == "# my hosts", "{left}");
    Ok(())
}

fn mistakes(case: &Case) -> Result<()> {
    fs::create_dir_all(case.path(".config/ckptctl"))?;
    case.write(".config/ckptctl/hosts.toml", "[hosts.a]\naddress = \"a\"\nprot = 22\n")?;
    hosts(case, &["list"])?.expect_refusal(&[1], &["hosts.toml:3: `prot` is not known"])?;
    case.write(".config/ckptctl/hosts.toml", b"[hosts.a]\naddress = \"\xe4\"\n")?;
    hosts(case, &["list"])?.expect_refusal(&[1], &["hosts.toml:2: this is not text in UTF-8"])?;
    case.write(".config/ckptctl/hosts.toml", "")?;
    fs::create_dir_all(case.path(".ssh"))?;
    case.write(".ssh/config", "Host a\n  Port none\n")?;
    hosts(case, &["list"])?.expect_refusal(&[1], &[".ssh/config:2: port must be a number"])?;
    case.write(".ssh/config", "Host a b\n  HostName x.example.org\nHost *.lan\n")?;
    let said = hosts(case, &["list"])?.expect(0)?.stdout;
    ensure!(said.lines().count() == 3 && said.contains("x.example.org") && said.contains(".ssh/config:1"), "{said}");
    Ok(())
}

/// A server that runs as the case's user and lets that user in by a key.
pub struct Server {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    _daemon: Running,
    fingerprint: String,
}

impl Server {
    /// Starts it, with a key for this user.
    pub fn start(case: &Case) -> Result<Self> {
        if !Path::new(SSHD).exists() {
            return skip(format!("{SSHD} is not there (Debian: apt install openssh-server)"));
        }
        let at = case.make_dir("server")?;
        let home = case.make_dir(".ssh")?;
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700))?;
        for key in [at.join("host"), home.join("id_ed25519")] {
            let mut keygen = case.command("ssh-keygen");
            case.run(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key))?.expect(0)?;
        }
        let said = case.run(case.command("ssh-keygen").arg("-lf").arg(at.join("host.pub")))?.expect(0)?.stdout;
        let fingerprint = said.split_whitespace().nth(1).context("no fingerprint")?.to_owned();
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nPidFile none\nAuthorizedKeysFile {1}/id_ed25519.pub\n\
             StrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             SetEnv XDG_CACHE_HOME={2}\n",
            at.display(),
            home.display(),
            case.dir().join("there").display()
        );
        case.write("server/config", config)?;
        fs::create_dir_all("/run/sshd")
            .or_else(|error| if Path::new("/run/sshd").exists() { Ok(()) } else { Err(error) })?;
        let mut command: Command = case.command(SSHD);
        let daemon = case.start(command.args(["-D", "-e", "-f"]).arg(at.join("config")))?;
        case.wait_until("sshd answers", || TcpStream::connect(("127.0.0.1", port)).is_ok())?;
        Ok(Self { port, _daemon: daemon, fingerprint })
    }
}

fn hosts_test(case: &Case) -> Result<()> {
    let server = Server::start(case)?;
    hosts(case, &["add", "there", &format!("127.0.0.1:{}", server.port)])?.expect(0)?;
    let refused = hosts(case, &["test", "there"])?.expect(5)?.stdout;
    ensure!(refused.contains("is not known") && refused.contains(&server.fingerprint), "{refused}");
    hosts(case, &["edit", "there", "--accept-new"])?.expect(0)?;
    let said = hosts(case, &["test"])?.expect(0)?.stdout;
    let key = case.path(".ssh/id_ed25519").display().to_string();
    for part in [
        "there\n  reached   127.0.0.1:",
        &server.fingerprint,
        "new, added to",
        &format!("by key {key}"),
        "chacha20-poly1305",
        " sent\n",
        "  memory    ",
        " available\n",
        "  disk      ",
        "  clock     as here",
        "  doctor    ",
    ] {
        ensure!(said.contains(part), "no {part:?} in {said}");
    }
    let json = hosts(case, &["test", "there", "--json"])?.expect(0)?.json()?;
    let host = &json["hosts"][0];
    ensure!(host["ok"] == true && host["host_key"]["is_new"] == false && host["ckptctl"]["sent"] == 0, "{json}");
    ensure!(host["doctor"]["findings"].is_array() && host["memory"].as_u64() > Some(0), "{json}");
    ensure!(host["clock"]["ahead"].as_f64().is_some_and(|ahead| ahead.abs() < 1.0), "{json}");
    let path = host["ckptctl"]["path"].as_str().context("no path")?;
    ensure!(path.starts_with(&case.path("there/ckptctl/bin").display().to_string()), "{path}");
    ensure!(fs::read(path)? == fs::read(case.stage().ckptctl())?, "another program");

    // One that works and one that does not.
    hosts(case, &["add", "gone", "127.0.0.1:1"])?.expect(0)?;
    let json = hosts(case, &["test", "--json"])?.expect(5)?.json()?;
    ensure!(json["hosts"][0]["fault"] == "unreachable" && json["hosts"][1]["ok"] == true, "{json}");
    Ok(())
}

fn asks(case: &Case) -> Result<()> {
    let server = Server::start(case)?;
    hosts(case, &["add", "there", &format!("127.0.0.1:{}", server.port)])?.expect(0)?;
    let key = case.path(".ssh/id_ed25519");
    let mut keygen = case.command("ssh-keygen");
    case.run(keygen.args(["-q", "-p", "-P", "", "-N", "open sesame", "-f"]).arg(&key))?.expect(0)?;
    let mut terminal = Terminal::open(case)?;
    let mut testing = case.start_on(&mut terminal, &case.ckptctl(["hosts", "test", "there"]))?;
    testing.wait_for_text("(yes/no)?")?;
    ensure!(testing.stdout().contains(&server.fingerprint), "{}", testing.streams());
    terminal.press(b"yes\n")?;
    testing.wait_for_text("Passphrase for the key")?;
    terminal.press(b"wrong\x7f\x7f-wrong\n")?;
    testing.wait_for_text("That was not it.")?;
    terminal.press(b"open sesamr\x7fe\r")?;
    ensure!(testing.wait()? == Ending::Exited(0), "{}", testing.streams());
    let screen = testing.stdout();
    ensure!(!screen.contains("sesam") && !screen.contains("wrong"), "{screen}");
    ensure!(fs::read_to_string(case.path(".ssh/known_hosts"))?.lines().count() == 1, "not written down");

    let mut terminal = Terminal::open(case)?;
    let mut testing = case.start_on(&mut terminal, &case.ckptctl(["hosts", "test", "there"]))?;
    testing.wait_for_text("Passphrase for the key")?;
    terminal.press(b"\x03")?;
    ensure!(testing.wait()? == Ending::Exited(5), "{}", testing.streams());
    ensure!(testing.stdout().contains("no passphrase was given"), "{}", testing.streams());
    Ok(())
}

/// The tests' ordinary user has nologin as its login shell.
fn no_commands(case: &Case) -> Result<()> {
    let server = Server::start(case)?;
    let user = case.run(case.command("id").arg("-un"))?.expect(0)?.stdout;
    let shell = case.run(case.command("getent").args(["passwd", user.trim()]))?.expect(0)?.stdout;
    if !shell.trim().ends_with("/nologin") {
        return skip("the user who runs the tests has a login shell");
    }
    hosts(case, &["add", "there", &format!("127.0.0.1:{}", server.port), "--accept-new"])?.expect(0)?;
    let said = hosts(case, &["test", "there"])?.expect(5)?.stdout;
    ensure!(
        said.contains("its login shell did not run a command, but said: This account is currently not available"),
        "{said}"
    );
    Ok(())
}

fn unreachable(case: &Case) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let closing = std::thread::spawn(move || listener.accept().map(drop));
    hosts(case, &["add", "there", &format!("127.0.0.1:{port}")])?.expect(0)?;
    let said = hosts(case, &["test", "there"])?.expect(5)?.stdout;
    ensure!(said.contains("closed at once"), "{said}");
    ensure!(closing.join().is_ok(), "the listener");
    let said = hosts(case, &["test", "there"])?.expect(5)?.stdout;
    ensure!(said.contains(&format!("127.0.0.1:{port}: Connection refused")), "{said}");
    hosts(case, &["test", "nobody"])?.expect_refusal(&[1], &["there is no host \"nobody\"", "there are: there"])?;
    Ok(())
}
