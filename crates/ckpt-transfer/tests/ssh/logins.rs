//! Ways to log in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ckpt_transfer::hosts::Host;
use ckpt_transfer::ssh::{Nobody, Secrets, Session, SshFault};

use crate::Test;
use crate::server::{Answers, Guest, Server, output, there};

pub const TESTS: &[Test] = &[
    ("logins/key_files_of_every_kind", key_files),
    ("logins/encrypted_keys_ask", encrypted),
    ("logins/keys_that_cannot_be_used_are_told", unusable),
    ("logins/agent", agent),
    ("logins/password_and_keyboard_interactive", password),
    ("logins/too_many_attempts", too_many),
    ("logins/failure_tells_what_was_tried_and_offered", failure),
];

fn with_keys(server: &Server, names: &[&str]) -> impl FnOnce(&mut Host) + use<> {
    let keys = names.iter().map(|name| server.path(name)).collect();
    |host| (host.keys, host.keys_are_named) = (keys, true)
}

fn key_files() -> Result<(), String> {
    let server = Server::start()?;
    for (kind, bits) in [("ed25519", None), ("ecdsa", Some("256")), ("ecdsa", Some("521")), ("rsa", Some("3072"))] {
        for format in ["RFC4716", "PEM"] {
            if kind == "ed25519" && format == "PEM" {
                continue;
            }
            let name = format!("home/.ssh/{kind}-{}-{format}", bits.unwrap_or_default());
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", kind, "-N", "", "-m", format, "-f"]).arg(server.path(&name));
            if let Some(bits) = bits {
                keygen.args(["-b", bits]);
            }
            assert!(keygen.status().unwrap().success());
            server.allow(&name);
            let session = server.try_connect(with_keys(&server, &[&name]), &mut Nobody);
            let session = session.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(session.facts().login, format!("key {}", server.path(&name).display()));
            assert_eq!(session.facts().cipher, "chacha20-poly1305@openssh.com");
        }
    }
    Ok(())
}

fn encrypted() -> Result<(), String> {
    let server = Server::start()?;
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let name = format!("home/.ssh/locked_{kind}");
        server.keygen(kind, "open sesame", &name);
        server.allow(&name);
        let mut answers = Answers::of(&["wrong", "open sesame"]);
        assert!(server.try_connect(with_keys(&server, &[&name]), &mut answers).is_ok(), "{kind}");
        assert_eq!(answers.questions.len(), 2);
        assert!(answers.questions.iter().all(|(question, echo)| question.contains(&name) && !echo));
        let mut wrong = Answers::of(&["1", "2", "3", "4"]);
        let refused = server.try_connect(with_keys(&server, &[&name]), &mut wrong).err().unwrap().to_string();
        assert!(refused.contains("wrong passphrase") && wrong.questions.len() == 3, "{refused}");
        assert!(!refused.contains("sesame"));
        let refused = server.try_connect(with_keys(&server, &[&name]), &mut Nobody).err().unwrap().to_string();
        assert!(refused.contains("no passphrase was given"), "{refused}");
    }
    // A second session of the same act does not ask again.
    let hosts = server.hosts("");
    let mut host = there(&hosts);
    with_keys(&server, &["home/.ssh/locked_rsa"])(&mut host);
    let (mut secrets, mut answers) = (Secrets::new(), Answers::of(&["open sesame"]));
    for _ in 0..3 {
        assert!(Session::connect(&host, &hosts, &mut answers, &mut secrets).is_ok());
    }
    assert_eq!(answers.questions.len(), 1);
    Ok(())
}

fn unusable() -> Result<(), String> {
    let server = Server::start()?;
    let refused =
        |names: &[&str]| server.try_connect(with_keys(&server, names), &mut Nobody).err().unwrap().to_string();
    assert!(refused(&["home/.ssh/missing"]).contains("missing (there is no such file)"));
    fs::set_permissions(server.path("home/.ssh/id_ed25519"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refused(&["home/.ssh/id_ed25519"]).contains("others may read it, mode 0644; chmod 600"));
    assert!(refused(&["home/.ssh/id_ed25519.pub"]).contains("a public key"));
    fs::write(
        server.path("home/.ssh/noise"),
        "-----BEGIN RSA PRIVATE KEY-----\nnoise\n-----END RSA PRIVATE KEY-----\n",
    )
    .unwrap();
    fs::set_permissions(server.path("home/.ssh/noise"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(refused(&["home/.ssh/noise"]).contains("it cannot be used"));
    // Those that nobody named may be missing.
    fs::set_permissions(server.path("home/.ssh/id_ed25519"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(server.try_connect(|_| (), &mut Nobody).is_ok());
    Ok(())
}

/// An agent, and where it listens.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn agent() -> Result<(), String> {
    let server = Server::start()?;
    let socket = server.path("agent");
    let started = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn();
    let Ok(_agent) = started.map(Agent) else {
        return Err("ssh-agent is not there (Debian: openssh-client)".to_owned());
    };
    let begun = Instant::now();
    while !socket.exists() && begun.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let with_agent = |host: &mut Host| {
        host.agent = Some(socket.clone());
        host.keys.clear();
    };
    let refused = server.try_connect(with_agent, &mut Nobody).err().unwrap().to_string();
    assert!(refused.contains("the agent (it has no key for this host)"), "{refused}");
    for kind in ["ed25519", "rsa", "ecdsa"] {
        let name = format!("home/.ssh/agent_{kind}");
        server.keygen(kind, "", &name);
        let add = |key: &str| {
            // Those before it would be let in.
            for arguments in [vec!["-q", "-D"], vec!["-q", key]] {
                let mut add = Command::new("ssh-add");
                add.args(arguments)
                    .current_dir(server.directory.path())
                    .env("SSH_AUTH_SOCK", &socket)
                    .stderr(Stdio::null());
                assert!(add.status().unwrap().success());
            }
        };
        add(&name);
        let refused = server.try_connect(with_agent, &mut Nobody).err().unwrap().to_string();
        assert!(refused.contains("agent key") && refused.contains(&format!("key-{kind} (refused)")), "{refused}");
        server.allow(&name);
        let session = server.try_connect(with_agent, &mut Nobody).unwrap();
        assert!(
            session.facts().login.starts_with("agent key ") && session.facts().login.ends_with(&format!("key-{kind}"))
        );
    }
    // With IdentitiesOnly only keys of the agent count that are named.
    let only = |host: &mut Host| {
        with_agent(host);
        host.identities_only = true;
    };
    assert!(server.try_connect(only, &mut Nobody).is_err());
    let named = |host: &mut Host| {
        only(host);
        host.keys = vec![server.path("home/.ssh/agent_ecdsa")];
    };
    assert!(server.try_connect(named, &mut Nobody).unwrap().facts().login.contains("key-ecdsa"));
    let gone = |host: &mut Host| host.agent = Some(Path::new("/nonexistent/agent").to_owned());
    assert!(server.try_connect(gone, &mut Nobody).is_ok());
    Ok(())
}

fn password() -> Result<(), String> {
    let server = Server::start_with("PasswordAuthentication yes")?;
    let guest = Guest::new("open it")?;
    let as_guest = |host: &mut Host| {
        guest.name.clone_into(&mut host.user);
        host.keys.clear();
    };
    let mut answers = Answers::of(&["wrong", "open it"]);
    let session = server.try_connect(as_guest, &mut answers).unwrap();
    assert_eq!(session.facts().login, "password");
    assert!(
        answers.questions.iter().all(|(question, echo)| question.contains(&guest.name) && !echo),
        "{:?}",
        answers.questions
    );
    let mut wrong = Answers::of(&["secret-1", "secret-2", "secret-3", "secret-4"]);
    let refused = server.try_connect(as_guest, &mut wrong).err().unwrap();
    assert_eq!((refused.fault, wrong.questions.len()), (SshFault::Login, 3));
    assert!(refused.to_string().contains("password (wrong)") && !refused.to_string().contains("secret"), "{refused}");
    let refused = server.try_connect(as_guest, &mut Nobody).err().unwrap().to_string();
    assert!(refused.contains("password (none was given)"), "{refused}");

    let hosts = server.hosts("");
    let mut host = there(&hosts);
    as_guest(&mut host);
    let (mut secrets, mut answers) = (Secrets::new(), Answers::of(&["open it"]));
    for _ in 0..3 {
        assert!(Session::connect(&host, &hosts, &mut answers, &mut secrets).is_ok());
    }
    assert_eq!(answers.questions.len(), 1);
    assert!(!format!("{secrets:?}").contains("open it"));
    keyboard(&guest)
}

fn keyboard(guest: &Guest) -> Result<(), String> {
    let server = Server::start_with("UsePAM yes\nKbdInteractiveAuthentication yes")?;
    let as_guest = |host: &mut Host| {
        guest.name.clone_into(&mut host.user);
        host.keys.clear();
    };
    let mut answers = Answers::of(&["wrong", "open it"]);
    let session = server.try_connect(as_guest, &mut answers).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(session.facts().login, "keyboard-interactive");
    assert!(
        answers.questions.iter().all(|(question, echo)| question.contains("Password:") && !echo),
        "{:?}",
        answers.questions
    );
    let refused = server.try_connect(as_guest, &mut Nobody).err().unwrap().to_string();
    assert!(refused.contains("keyboard-interactive (no answer was given)"), "{refused}");
    Ok(())
}

fn too_many() -> Result<(), String> {
    let server = Server::start_with("MaxAuthTries 2")?;
    let names: Vec<String> = (0..4).map(|number| format!("home/.ssh/extra{number}")).collect();
    for name in &names {
        server.keygen("ed25519", "", name);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let refused = server.try_connect(with_keys(&server, &names), &mut Nobody).err().unwrap();
    assert_eq!(refused.fault, SshFault::Login);
    assert!(
        refused.to_string().contains("ended the connection") && refused.to_string().contains("IdentitiesOnly"),
        "{refused}"
    );
    Ok(())
}

fn failure() -> Result<(), String> {
    let server = Server::start_with("PasswordAuthentication yes\nKbdInteractiveAuthentication no")?;
    server.keygen("ed25519", "", "home/.ssh/stranger");
    let refused = server.try_connect(with_keys(&server, &["home/.ssh/stranger"]), &mut Nobody).err().unwrap();
    let said = refused.to_string();
    assert_eq!(refused.fault, SshFault::Login);
    assert!(said.contains("stranger (refused)") && said.contains("the server offers publickey, password"), "{said}");
    assert!(said.contains(&output("id", &["-un"])), "{said}");
    Ok(())
}
