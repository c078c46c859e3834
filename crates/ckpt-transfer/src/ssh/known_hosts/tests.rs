#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use std::os::unix::fs::PermissionsExt;

use super::*;

fn key(algorithm: &str, rest: &[u8]) -> HostKey {
    let length = u32::try_from(algorithm.len()).unwrap().to_be_bytes();
    HostKey::of(&[&length[..], algorithm.as_bytes(), rest].concat()).unwrap()
}

fn line(names: &str, key: &HostKey) -> String {
    format!("{names} {} {}\n", key.algorithm, STANDARD.encode(&key.blob))
}

fn known(text: &str) -> KnownHosts {
    let mut known = KnownHosts::default();
    known.parse(Path::new("known_hosts"), text);
    known
}

#[test]
fn keys_are_known_changed_of_another_kind_or_new() {
    let (one, two, other) = (key("ssh-ed25519", b"1"), key("ssh-ed25519", b"2"), key("ssh-rsa", b"3"));
    let known = known(&format!("# comment\n\n{}", line("a.example.org,10.0.0.1", &one)));
    assert_eq!(known.judge("a.example.org", &one), Verdict::Known);
    assert_eq!(known.judge("10.0.0.1", &one), Verdict::Known);
    assert!(matches!(known.judge("a.example.org", &two), Verdict::Changed(entry) if entry.line == 3));
    assert!(matches!(known.judge("a.example.org", &other), Verdict::OtherKind(entry) if entry.line == 3));
    assert_eq!(known.judge("b.example.org", &one), Verdict::New(None));
    assert_eq!(known.algorithms("10.0.0.1"), ["ssh-ed25519"]);
}

#[test]
fn several_keys_of_a_kind_are_all_good() {
    let (one, two) = (key("ssh-rsa", b"1"), key("ssh-rsa", b"2"));
    let known = known(&(line("a", &one) + &line("a", &two)));
    assert_eq!((known.judge("a", &one), known.judge("a", &two)), (Verdict::Known, Verdict::Known));
}

#[test]
fn ports_patterns_and_negations() {
    let one = key("ssh-ed25519", b"1");
    assert_eq!(name("A.example.org", 22), "a.example.org");
    assert_eq!(name("A", 2222), "[a]:2222");
    let known = known(&(line("[a]:2222", &one) + &line("*.lan,!bad.lan", &one)));
    assert_eq!(known.judge("[a]:2222", &one), Verdict::Known);
    assert_eq!(known.judge("a", &one), Verdict::New(None));
    assert_eq!(known.judge("x.lan", &one), Verdict::Known);
    assert_eq!(known.judge("bad.lan", &one), Verdict::New(None));
}

#[test]
fn hashed_names_are_those_of_openssh() {
    // `ssh-keygen -F '[127.0.0.1]:22022'` finds it.
    let text = "|1|M/4lo2NAasE4gbfj4iVBe6wZTTk=|m7bU/iD2/HLmGWXXjrj4qWMmV2Y= ssh-ed25519 \
                AAAAC3NzaC1lZDI1NTE5AAAAIAQWyl7AMbrSVnpBJn0Fw48VpciCGtLfYgvxSgGRq/Fk\n";
    let known = known(text);
    assert_eq!(known.algorithms("[127.0.0.1]:22022"), ["ssh-ed25519"]);
    assert!(known.algorithms("127.0.0.1").is_empty());
    let entry = &known.0[0];
    assert_eq!(entry.key.fingerprint(), "SHA256:l0CT2XuVcakiaLTJsMQoO1a6BhsWo6mUcCO30VTIbLQ");
}

#[test]
fn markers() {
    let (one, two) = (key("ssh-ed25519", b"1"), key("ssh-ed25519", b"2"));
    let text =
        format!("@revoked * {}@cert-authority *.lan {}@other * x y\n", &line("", &one)[1..], &line("", &two)[1..]);
    let known = known(&text);
    assert!(matches!(known.judge("x.lan", &one), Verdict::Revoked(entry) if entry.line == 1));
    assert!(matches!(known.judge("x.lan", &two), Verdict::New(Some(entry)) if entry.line == 2));
    assert!(known.algorithms("x.lan").is_empty());
}

#[test]
fn nonsense_is_passed_over() {
    let one = key("ssh-ed25519", b"1");
    let text = format!(
        "a\na b\na ssh-rsa !!!\na ssh-rsa AAAA\n|1|x|y ssh-rsa {0}\n|1| ssh-rsa {0}\n{1}",
        STANDARD.encode(&one.blob),
        line("a", &one)
    );
    let known = known(&text);
    assert_eq!(known.judge("a", &one), Verdict::Known);
    for blob in [&b""[..], b"\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x05ssh", b"\0\0\0\0", b"\0\0\0\x02a\n"] {
        assert_eq!(HostKey::of(blob), None);
    }
}

#[test]
fn a_key_is_added_on_a_line_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("new/.ssh/known_hosts");
    let (one, two) = (key("ssh-ed25519", b"1"), key("ssh-rsa", b"2"));
    append(&file, "a", &one, false).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.trim_end()).unwrap();
    append(&file, "[b]:3", &two, true).unwrap();
    let known = KnownHosts::read([&file]).unwrap();
    assert_eq!((known.judge("a", &one), known.judge("[b]:3", &two)), (Verdict::Known, Verdict::Known));
    assert!(!fs::read_to_string(&file).unwrap().contains("[b]"));
    assert!(KnownHosts::read([&directory.path().join("none")]).unwrap().0.is_empty());
    assert!(KnownHosts::read([&directory.path().to_path_buf()]).is_err());
}
