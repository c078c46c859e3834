#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use super::*;

fn parse(text: &str) -> Result<HostsFile, HostsError> {
    HostsFile::parse(Path::new("hosts.toml"), text.to_owned())
}

fn mistake(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn the_example_is_read_and_says_everything() {
    let text = include_str!("../../../../../config/hosts.toml");
    let file = parse(text).unwrap();
    let host = file.get("nodeb").unwrap();
    let whole = HostSettings {
        line: host.line,
        address: Some("nodeb.example.org".to_owned()),
        port: Some(2222),
        user: Some("me".to_owned()),
        keys: Some(vec!["~/.ssh/id_ed25519".to_owned()]),
        jump: Some("gate".to_owned()),
        directory: Some(PathBuf::from("/scratch/me")),
        compression: Some("zstd".to_owned()),
        sessions: Some(4),
        host_key: Some("accept-new".to_owned()),
        rate: Some(50_000_000),
        memory: Some(8 << 30),
        connect_timeout: Some(10),
        login_timeout: Some(30),
        keepalive: Some(5),
    };
    assert_eq!(*host, whole);
    assert_eq!(text.lines().nth(host.line - 1), Some("[hosts.nodeb]"));
    assert_eq!(file.defaults().compression.as_deref(), Some("lz4"));
    assert!(file.has("nodea"));
    for key in KEYS.iter().chain(&LIMITS) {
        assert!(text.contains(&format!("{key} = ")) || text.contains(&format!(".{key}]")), "the example lacks {key}");
    }
}

#[test]
fn mistakes_are_named_with_their_line() {
    assert_eq!(mistake("[hosts.a]\n\nport = 0\n"), "hosts.toml:3: `port` must be a number from 1 to 65535");
    assert!(
        mistake("[hosts.a]\nadress = \"x\"\n")
            .starts_with("hosts.toml:2: `adress` is not known; a host has address, port")
    );
    assert!(mistake("\n[host.a]\n").starts_with("hosts.toml:2: `host` is not known"));
    assert!(mistake("[hosts.a]\naddress = \"x\n").starts_with("hosts.toml:2: "));
    assert!(mistake("[hosts.a]\n[hosts.a]\n").starts_with("hosts.toml:2: "));
    assert!(mistake("[hosts.local]\n").starts_with("hosts.toml:1: \"local\" stands for this machine"));
    assert!(mistake("[hosts.\"a b\"]\n").starts_with("hosts.toml:1: \"a b\" cannot be a host's name"));
    assert!(mistake("[hosts.a]\nuser = \"-oProxyCommand=x\"\n").starts_with("hosts.toml:2: `user` cannot be"));
    assert!(mistake("[hosts.a]\ncompression = \"gzip\"\n").contains("\"none\", \"lz4\", \"zstd\""));
    assert!(mistake("[hosts.a]\ndirectory = \"work\"\n").contains("absolute path"));
    assert!(mistake("[hosts.a]\nkey = \"x\"\nkeys = []\n").contains("two ways"));
    assert!(mistake("[hosts.a.limits]\nrate = \"fast\"\n").starts_with("hosts.toml:2: `rate` must be a size"));
    assert!(mistake("[hosts.a.limits]\nspeed = 1\n").starts_with("hosts.toml:2: `speed` is not known"));
    assert!(mistake("[defaults]\naddress = \"x\"\n").contains("cannot be a default"));
    assert!(mistake("hosts = 1\n").starts_with("hosts.toml:1: "));
}

#[test]
fn changes_keep_comments() {
    let text = "# mine\n[hosts.a] # first\naddress = \"x\" # there\n\n# the other\n[hosts.b]\nkeys = [\"k\"]\n";
    let mut file = parse(text).unwrap();
    let mut change = Change::default();
    change.text("address", "y");
    change.text("limits.rate", "1MB");
    file.edit("a", &change).unwrap();
    assert!(file.text.starts_with("# mine\n[hosts.a] # first\naddress = \"y\" # there\n"), "{}", file.text);
    assert!(file.text.contains("# the other\n[hosts.b]\n"), "{}", file.text);
    assert_eq!((file.get("a").unwrap().rate, file.get("a").unwrap().address.as_deref()), (Some(1_000_000), Some("y")));

    let mut change = Change::default();
    change.text("key", "new");
    change.unset("limits.rate");
    file.edit("b", &change).unwrap();
    assert_eq!(file.get("b").unwrap().keys, Some(vec!["new".to_owned()]));
    file.remove("b").unwrap();
    assert!(!file.has("b") && file.has("a"));

    let mut change = Change::default();
    change.unset("adress");
    assert!(file.edit("a", &change).unwrap_err().to_string().contains("there is no setting `adress`"));
    let mut change = Change::default();
    change.text("directory", "relative");
    assert!(matches!(file.edit("a", &change), Err(HostsError::Value(_))));
    assert!(matches!(file.add("a", &Change::default()), Err(HostsError::Exists { .. })));
    assert!(matches!(file.add("../x", &Change::default()), Err(HostsError::Value(_))));
}

#[test]
fn sizes_have_units() {
    assert_eq!(parse_size("50000000"), Some(50_000_000));
    assert_eq!(parse_size("1.5GiB"), Some(3 << 29));
    assert_eq!(parse_size("50 MB/s"), Some(50_000_000));
    assert_eq!(parse_size("4k"), Some(4096));
    assert_eq!(parse_size("2T"), Some(2 << 40));
    for wrong in ["", "MB", "1XB", "-1", "1.5.5", "99999999999T", "1MBit"] {
        assert_eq!(parse_size(wrong), None, "{wrong}");
    }
}

#[test]
fn a_link_to_the_file_stays_a_link() {
    let directory = tempfile::tempdir().unwrap();
    let (real, link) = (directory.path().join("real.toml"), directory.path().join("link.toml"));
    fs::write(&real, "[hosts.a]\n").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let mut file = HostsFile::read(&link).unwrap();
    file.add("b", &Change::default()).unwrap();
    file.write(&link).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(HostsFile::read(&real).unwrap().has("b"));
}
