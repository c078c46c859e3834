//! Host keys.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ckpt_transfer::hosts::{Host, HostKeyPolicy};
use ckpt_transfer::ssh::{Nobody, SshFault};

use crate::Test;
use crate::server::{Answers, Server, output};

pub const TESTS: &[Test] = &[
    ("keys/unknown_is_asked_about_and_written_down", unknown),
    ("keys/unknown_is_refused_where_nobody_is", unattended),
    ("keys/changed_is_refused", changed),
    ("keys/known_kind_is_asked_for", known_kind),
    ("keys/other_kind_only_is_asked_about", other_kind),
    ("keys/revoked_is_refused", revoked),
    ("keys/hashed_names_are_openssh_s", hashed),
];

fn ask(host: &mut Host) {
    host.host_key = HostKeyPolicy::Ask;
}

fn unknown() -> Result<(), String> {
    let server = Server::start()?;
    let mut no = Answers::of(&["perhaps", "no"]);
    let refused = server.try_connect(ask, &mut no).err().unwrap();
    assert_eq!(refused.fault, SshFault::HostKey);
    assert!(!server.path("home/.ssh/known_hosts").exists());
    let fingerprint = server.fingerprint("server/host_ed25519");
    assert!(no.questions[0].0.contains(&fingerprint) && no.questions[0].1, "{:?}", no.questions);
    assert_eq!(no.questions.len(), 2);

    let session = server.try_connect(ask, &mut Answers::of(&["yes"])).unwrap();
    assert!(session.facts().host_key.is_new && session.facts().host_key.fingerprint == fingerprint);
    let file = server.path("home/.ssh/known_hosts");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let expected = format!("[127.0.0.1]:{} {}\n", server.port, two_words(&server.text("server/host_ed25519.pub")));
    assert_eq!(server.text("home/.ssh/known_hosts"), expected);

    let mut silent = Answers::default();
    assert!(!server.try_connect(ask, &mut silent).unwrap().facts().host_key.is_new);
    assert!(silent.questions.is_empty());
    // The fingerprint is an answer, too.
    fs::remove_file(file).unwrap();
    assert!(server.try_connect(ask, &mut Answers::of(&[&fingerprint])).is_ok());
    Ok(())
}

fn unattended() -> Result<(), String> {
    let server = Server::start()?;
    let refused = server.try_connect(ask, &mut Nobody).err().unwrap();
    assert!(
        refused.to_string().contains("nobody has said that it is right") && refused.to_string().contains("accept-new"),
        "{refused}"
    );
    let refused =
        server.try_connect(|host| host.host_key = HostKeyPolicy::Refuse, &mut Answers::of(&["yes"])).err().unwrap();
    assert_eq!(refused.fault, SshFault::HostKey);
    assert!(server.try_connect(|_| (), &mut Nobody).is_ok());
    Ok(())
}

fn changed() -> Result<(), String> {
    let server = Server::start()?;
    server.keygen("ed25519", "", "server/other");
    let name = format!("[127.0.0.1]:{}", server.port);
    let known = format!("# one\nelsewhere {0}\n{name} {0}\n", two_words(&server.text("server/other.pub")));
    fs::write(server.path("home/.ssh/known_hosts"), &known).unwrap();
    // Not even accept-new, and not even if somebody would say yes.
    let mut yes = Answers::of(&["yes"]);
    let refused = server.try_connect(|_| (), &mut yes).err().unwrap();
    let said = refused.to_string();
    assert_eq!(refused.fault, SshFault::HostKey);
    for part in [
        format!("{}:3", server.path("home/.ssh/known_hosts").display()),
        server.fingerprint("server/other"),
        server.fingerprint("server/host_ed25519"),
        format!("ssh-keygen -R '{name}'"),
    ] {
        assert!(said.contains(&part), "no {part} in {said}");
    }
    assert!(yes.questions.is_empty());
    assert_eq!(server.text("home/.ssh/known_hosts"), known);
    Ok(())
}

fn known_kind() -> Result<(), String> {
    let server = Server::start()?;
    for (kind, algorithm) in [("ecdsa", "ecdsa-sha2-nistp256"), ("rsa", "ssh-rsa"), ("ed25519", "ssh-ed25519")] {
        let key = two_words(&server.text(&format!("server/host_{kind}.pub")));
        fs::write(server.path("home/.ssh/known_hosts"), format!("[127.0.0.1]:{} {key}\n", server.port)).unwrap();
        let session = server.try_connect(ask, &mut Nobody).unwrap();
        assert_eq!((session.facts().host_key.algorithm.as_str(), session.facts().host_key.is_new), (algorithm, false));
    }
    Ok(())
}

fn other_kind() -> Result<(), String> {
    let lacking = Server::start_with("HostKeyAlgorithms ssh-ed25519")?;
    let key = two_words(&lacking.text("server/host_ecdsa.pub"));
    fs::write(lacking.path("home/.ssh/known_hosts"), format!("[127.0.0.1]:{} {key}\n", lacking.port)).unwrap();
    let refused = lacking.try_connect(|_| (), &mut Nobody).err().unwrap().to_string();
    assert!(refused.contains(":1 knows it by ecdsa-sha2-nistp256") && refused.contains("does not show"), "{refused}");
    assert!(lacking.try_connect(|_| (), &mut Answers::of(&["yes"])).is_ok());
    Ok(())
}

fn revoked() -> Result<(), String> {
    let server = Server::start()?;
    let key = two_words(&server.text("server/host_ed25519.pub"));
    let known = format!("@revoked * {key}\n[127.0.0.1]:{} {key}\n", server.port);
    fs::write(server.path("home/.ssh/known_hosts"), known).unwrap();
    let refused = server.try_connect(|_| (), &mut Answers::of(&["yes"])).err().unwrap().to_string();
    assert!(refused.contains("is revoked by") && refused.contains("known_hosts:1"), "{refused}");
    Ok(())
}

fn hashed() -> Result<(), String> {
    let server = Server::start()?;
    let hash = |host: &mut Host| host.hash_known_hosts = true;
    assert!(server.try_connect(hash, &mut Nobody).unwrap().facts().host_key.is_new);
    let known = server.text("home/.ssh/known_hosts");
    assert!(known.starts_with("|1|") && !known.contains("127.0.0.1"), "{known}");
    assert!(!server.try_connect(hash, &mut Nobody).unwrap().facts().host_key.is_new);
    let file = server.path("home/.ssh/known_hosts");
    let found = output("ssh-keygen", &["-F", &format!("[127.0.0.1]:{}", server.port), "-f", path(&file)]);
    assert!(found.contains("line 1"), "{found}");
    // And what ssh-keygen hashes is found here.
    let plain = format!("[127.0.0.1]:{} {}\n", server.port, two_words(&server.text("server/host_rsa.pub")));
    fs::write(&file, plain).unwrap();
    output("ssh-keygen", &["-q", "-H", "-f", path(&file)]);
    assert!(server.text("home/.ssh/known_hosts").starts_with("|1|"));
    assert_eq!(server.try_connect(ask, &mut Nobody).unwrap().facts().host_key.algorithm, "ssh-rsa");
    Ok(())
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A public key without its comment.
fn two_words(public: &str) -> String {
    public.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}
