#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn keys_are_seen_for_what_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let error = |path: &Path| read_key(path).err().unwrap().to_string();
    assert!(error(&directory.path().join("none")).contains("no such file"));
    assert!(error(directory.path()).contains("no file with a key"));
    assert!(error(&file("a", "ssh-ed25519 AAAA me\n")).contains("public key"));
    assert!(error(&file("b", "PuTTY-User-Key-File-3: ssh-ed25519\n")).contains("PuTTY"));
    assert!(error(&file("c", "hello\n")).contains("no private key"));
    for body in ["", "AAAA", "b3BlbnNzaC1rZXktdjEA", "b3BlbnNzaC1rZXktdjEA/////w==", "!"] {
        let text = format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n");
        assert!(error(&file("d", &text)).contains("damaged"), "{body}");
    }
    let pem = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n";
    assert!(read_key(&file("e", pem)).unwrap().is_encrypted);
    assert!(!read_key(&file("f", "-----BEGIN EC PRIVATE KEY-----\n")).unwrap().is_encrypted);
    let open = file("g", pem);
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(error(&open).contains("mode 0644; chmod 600"));
}
