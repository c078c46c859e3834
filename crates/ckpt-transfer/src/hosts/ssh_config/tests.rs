#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use std::os::unix::fs::PermissionsExt;

use super::*;

struct Files(tempfile::TempDir);

impl Files {
    fn new(config: &str) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        fs::create_dir(files.0.path().join(".ssh")).unwrap();
        files.write("config", config);
        files
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(".ssh").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn place(&self) -> Place {
        Place::in_home(self.0.path())
    }

    fn read(&self) -> Result<SshConfig, HostsError> {
        let place = self.place();
        SshConfig::read(&[&place.ssh_config, &place.system_config], &place)
    }

    fn query(&self, name: &str) -> Params {
        self.read().unwrap().query(name, None, &self.place(), true).unwrap()
    }
}

#[test]
fn the_first_value_wins_and_keys_add_up() {
    let files = Files::new(
        "Port 2200\nHost a\n  HostName=a.example.org\n  Port 1\n  User \"me too\" # comment\n  IdentityFile ~/.ssh/one\n\
         Host *\n  User other\n  IdentityFile ~/.ssh/two\n  ServerAliveInterval 1m30s\n",
    );
    let a = files.query("A");
    assert_eq!(
        (a.port, a.host_name.as_deref(), a.user.as_deref()),
        (Some(2200), Some("a.example.org"), Some("me too"))
    );
    assert_eq!(a.identity_files, ["~/.ssh/one", "~/.ssh/two"]);
    assert_eq!(a.server_alive_interval, Some(90));
    assert_eq!(files.query("b").user.as_deref(), Some("other"));
    assert_eq!(files.read().unwrap().aliases().iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn patterns_and_negations() {
    let files = Files::new("Host *.example.org !gate.example.org\n  ProxyJump gate\nHost gate.example.org\n  Port 3\n");
    assert_eq!(files.query("x.example.org").proxy_jump.as_deref(), Some("gate"));
    assert_eq!(files.query("gate.example.org").proxy_jump, None);
    let config = files.read().unwrap();
    assert!(config.mentions("x.example.org").is_some() && config.mentions("x.example.com").is_none());
    assert!(wildcard("a*b?c", "aXXbYc") && !wildcard("a*b?c", "abc") && wildcard("*", "") && wildcard("**", "x"));
}

#[test]
fn includes_stand_where_they_are_included() {
    let files = Files::new("Include conf.d/*.conf\nHost a\n  Include only-a\n  User last\nHost b\n  Port 5\n");
    files.write("conf.d/1.conf", "Host a b\n  Port 1\n");
    files.write("conf.d/2.conf", "Host a\n  Port 2\n");
    files.write("conf.d/ignored", "Port 9\n");
    files.write("only-a", "User first\nHost b\n  User never\n");
    let (a, b) = (files.query("a"), files.query("b"));
    assert_eq!((a.port, a.user.as_deref()), (Some(1), Some("first")));
    assert_eq!((b.port, b.user), (Some(1), None));
    files.write("config", "Include config\n");
    assert!(files.read().unwrap_err().to_string().contains("include each other"));
}

#[test]
fn match_blocks() {
    let files = Files::new(
        "Match originalhost a exec \"test %h = a\"\n  Port 7\nMatch user root\n  Port 8\nMatch !host b,c all\n  User x\n\
         Match final\n  Port 9\n",
    );
    assert_eq!(files.query("a").port, Some(7));
    let (config, place) = (files.read().unwrap(), files.place());
    assert_eq!(config.query("a", None, &place, false).unwrap().port, None);
    assert_eq!(config.query("b", Some("root"), &place, true).unwrap().port, Some(8));
    assert_eq!((files.query("b").user, files.query("d").user.as_deref()), (None, Some("x")));
    files.write("config", "Match nonsense x\n");
    assert!(files.read().unwrap_err().to_string().contains("config:1: Match knows no criterion \"nonsense\""));
}

#[test]
fn mistakes_are_named_with_file_and_line() {
    let mistake = |text: &str| {
        let files = Files::new(text);
        let read = files.read().and_then(|config| config.query("a", None, &files.place(), true));
        read.unwrap_err().to_string()
    };
    assert!(mistake("Host a\n  Port x\n").ends_with("config:2: port must be a number from 1 to 65535"));
    assert!(mistake("Host a\n  IdentitiesOnly perhaps\n").contains("config:2: identitiesonly must be yes or no"));
    assert!(mistake("User\n").contains("config:1: user needs a value"));
    assert!(mistake("User \"x\n").contains("config:1: a quote is not closed"));
    assert!(mistake("StrictHostKeyChecking maybe\n").contains("config:1: "));
}

#[test]
fn a_file_that_others_may_write_to_is_not_believed() {
    let files = Files::new("User x\n");
    let path = files.0.path().join(".ssh/config");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(files.read().unwrap_err().to_string().contains("chmod go-w"));
}

#[test]
fn commands_are_taken_as_they_are() {
    let files = Files::new("Host a\n  ProxyCommand nc -x \"a b\" %h %p\nHost b\n  ProxyJump none\n  ProxyCommand x\n");
    let a = files.query("a");
    assert_eq!(a.proxy_command.as_deref(), Some("nc -x \"a b\" %h %p"));
    assert_eq!(tokens(&a.proxy_command.unwrap(), "a", "h", "22", "me", &files.place()), "nc -x \"a b\" h 22");
    let b = files.query("b");
    assert_eq!((b.proxy_jump.as_deref(), b.proxy_command), (Some("none"), None));
}

#[test]
fn never_panics() {
    for text in [
        "\"",
        "=",
        "Host",
        "Match",
        "Match !",
        "Include",
        "Port =",
        "%",
        "\\",
        "Host \\",
        "User '",
        "Include [",
        "\u{fffd}=x",
    ] {
        let files = Files::new(text);
        let _ = files.read().and_then(|config| config.query("a", None, &files.place(), true));
    }
    assert_eq!(tokens("%", "", "", "", "", &Files::new("").place()), "%");
    assert_eq!(
        (seconds(""), seconds("5"), seconds("1h1m"), seconds("x"), seconds("99999999999999999999")),
        (None, Some(5), Some(3660), None, None)
    );
}
