#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::super::{Change, Place};
use super::*;

struct Home(tempfile::TempDir);

impl Home {
    fn new(hosts: &str, config: &str) -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        let place = home.place();
        fs::create_dir(home.0.path().join(".ssh")).unwrap();
        fs::write(&place.hosts_file, hosts).unwrap();
        fs::write(&place.ssh_config, config).unwrap();
        fs::set_permissions(&place.ssh_config, fs::Permissions::from_mode(0o600)).unwrap();
        home
    }

    fn place(&self) -> Place {
        Place::in_home(self.0.path())
    }

    fn hosts(&self) -> Hosts {
        Hosts::load_from(self.place()).unwrap()
    }
}

#[test]
fn an_entry_comes_before_ssh_and_ssh_before_the_defaults() {
    let home = Home::new(
        "[defaults]\nuser = \"default\"\nsessions = 3\njump = \"gate\"\nhost_key = \"accept-new\"\n\
         [hosts.a]\naddress = \"alias\"\nport = 5\n[hosts.b]\nuser = \"own\"\njump = \"none\"\n",
        "Host alias\n  HostName %h.example.org\n  Port 4\n  User config\n  IdentityFile ~/k-%r\n  ProxyCommand c %h %p\n\
         Host b\n  ProxyJump other\n  StrictHostKeyChecking yes\n",
    );
    let hosts = home.hosts();
    let a = hosts.find("a").unwrap();
    assert_eq!((a.address.as_str(), a.port, a.user.as_str()), ("alias.example.org", 5, "config"));
    assert_eq!(a.keys, [home.0.path().join("k-config")]);
    assert_eq!((a.jump, a.proxy_command.as_deref()), (None, Some("c alias.example.org 5")));
    assert_eq!((a.sessions, a.host_key), (3, HostKeyPolicy::AcceptNew));
    let b = hosts.find("b").unwrap();
    assert_eq!((b.address.as_str(), b.user.as_str(), b.jump, b.host_key), ("b", "own", None, HostKeyPolicy::Refuse));
    assert_eq!(hosts.all().map(|host| host.name.as_str()).collect::<Vec<_>>(), ["a", "alias", "b"]);
    assert_eq!(hosts.find("alias").unwrap().user, "config");
}

#[test]
fn standards() {
    let hosts = Home::new("[hosts.a]\n", "").hosts();
    let a = hosts.find("a").unwrap();
    assert_eq!((a.port, a.user.as_str(), a.compression, a.keys_are_named), (22, "here", Codec::Lz4, false));
    assert_eq!(a.keys.len(), 3);
    assert_eq!(a.limits, Limits::default());
}

#[test]
fn names_that_are_not_there_are_refused_with_those_that_are() {
    let hosts = Home::new("[hosts.a]\n[hosts.b]\n", "Host *\n  User x\nHost *.lan\n  Port 3\n").hosts();
    let error = hosts.find("c").unwrap_err().to_string();
    assert!(error.contains("there is no host \"c\"") && error.contains("there are: a, b"), "{error}");
    assert_eq!(hosts.find("x.lan").unwrap().port, 3);
    let given = hosts.find("me@10.0.0.1:77").unwrap();
    assert_eq!((given.user.as_str(), given.address.as_str(), given.port), ("me", "10.0.0.1", 77));
    assert!(hosts.find("-oProxyCommand=x@y").is_err());
}

#[test]
fn jump_hosts_are_found_by_their_names() {
    let hosts = Home::new("[hosts.gate]\naddress = \"g.example.org\"\nport = 9\n", "Host inner\n  User in\n").hosts();
    assert_eq!(hosts.jump("gate").unwrap().port, 9);
    let inner = hosts.jump("you@inner:8").unwrap();
    assert_eq!((inner.user.as_str(), inner.address.as_str(), inner.port), ("you", "inner", 8));
    assert_eq!(hosts.jump("inner").unwrap().user, "in");
}

#[test]
fn destinations() {
    let parse = |text: &str| Destination::parse(text).map(|d| (d.user, d.address, d.port));
    let of = |user: Option<&str>, address: &str, port| Ok((user.map(str::to_owned), address.to_owned(), port));
    assert_eq!(parse("a"), of(None, "a", None));
    assert_eq!(parse("me@a:1"), of(Some("me"), "a", Some(1)));
    assert_eq!(parse("me@x@a"), of(Some("me@x"), "a", None));
    assert_eq!(parse("::1"), of(None, "::1", None));
    assert_eq!(parse("[fe80::1]:22"), of(None, "fe80::1", Some(22)));
    assert_eq!(parse("me@[::1]"), of(Some("me"), "::1", None));
    assert_eq!(parse("ssh://me@a:7/"), of(Some("me"), "a", Some(7)));
    for wrong in ["", "@a", "a:0", "a:x", "[::1", "[::1]x", "-a", "a b", "a:99999"] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn changes_are_seen_at_once_and_written() {
    let home = Home::new("", "Host alias\n  Port 4\n");
    let mut hosts = home.hosts();
    let mut change = Change::default();
    change.text("address", "x.example.org");
    hosts.add("x", &change).unwrap();
    assert_eq!(home.hosts().find("x").unwrap().address, "x.example.org");
    let mut change = Change::default();
    change.text("directory", "/scratch");
    hosts.edit("alias", &change).unwrap();
    let alias = home.hosts().find("alias").unwrap();
    assert_eq!((alias.port, alias.directory), (4, Some(PathBuf::from("/scratch"))));
    assert!(matches!(hosts.edit("nobody", &change), Err(HostsError::NoHost { .. })));
    hosts.remove("alias").unwrap();
    assert!(matches!(hosts.remove("alias"), Err(HostsError::Elsewhere { .. })));
    assert!(matches!(hosts.remove("nobody"), Err(HostsError::NoHost { .. })));
    assert_eq!(hosts.all().count(), 2);
}
