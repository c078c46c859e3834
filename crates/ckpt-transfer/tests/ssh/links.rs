//! Connections, commands, and channels that are copied by a thread.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::time::{Duration, Instant};

use ckpt_transfer::hosts::{Host, Hosts};
use ckpt_transfer::ssh::{Nobody, Secrets, Session, SshError, SshFault};

use crate::Test;
use crate::server::{Answers, Server, send};

pub const TESTS: &[Test] = &[
    ("links/silent_host_is_noticed", silent),
    ("links/commands", commands),
    ("links/login_shells_and_banners", shells),
    ("links/servers_that_are_none", impostors),
    ("links/jump_hosts", jumps),
    ("links/proxy_command", proxy_command),
    ("links/ipv6", ipv6),
    ("links/pump_both_ways_at_once", both_ways),
    ("links/pump_half_closed_and_ended", half_closed),
    ("links/pump_tells_why_it_ended", why),
    ("links/pump_keeps_to_a_rate", rate),
    ("links/many_sessions", many),
    ("links/killed_server", killed),
];

const LIMIT: Duration = Duration::from_secs(60);

fn commands() -> Result<(), String> {
    let server = Server::start()?;
    let session = server.connect();
    let run = |words: &[&str]| session.exec(words).unwrap().finish().unwrap();
    let odd = ["printf", "[%s]", "a b", "it's", "$HOME", "\"", "\\", "!x", "a\nb", "", "100%", "é"];
    assert_eq!(String::from_utf8(run(&odd).output).unwrap(), "[a b][it's][$HOME][\"][\\][!x][a\nb][][100%][é]");
    let failed = run(&["sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!((failed.output.as_slice(), failed.stderr.as_str(), failed.status), (&b"out\n"[..], "err\n", 42));
    assert_eq!(run(&["/no/such/program"]).status, 127);
    assert_eq!(run(&["sh", "-c", "kill -TERM $$"]).signal.as_deref(), Some("TERM"));
    let large = run(&["sh", "-c", "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2"]);
    assert_eq!(large.output.len(), 3_000_000);

    let mut channel = session.exec(&["cat"]).unwrap();
    channel.write_all(&vec![7; 1 << 20]).unwrap();
    assert_eq!(channel.finish().unwrap().output, vec![7; 1 << 20]);
    let mut channel = session.exec(&["sh", "-c", "exec cat <&- >&-"]).unwrap();
    let mut refused = Ok(());
    for _ in 0..1000 {
        refused = channel.write_all(&[0; 1 << 16]);
        if refused.is_err() {
            break;
        }
    }
    assert!(refused.is_err(), "nobody reads there");
    Ok(())
}

fn shells() -> Result<(), String> {
    // ForceCommand stands for what a login shell and its rc files do.
    let banner = Server::start_with("ForceCommand echo Welcome; echo motd; eval \"$SSH_ORIGINAL_COMMAND\"")?;
    assert_eq!(banner.start_command(&["echo", "hello"]).finish().unwrap().output, b"hello\n");
    let mut channel = banner.start_command(&["cat"]);
    channel.write_all(b"x").unwrap();
    let mut byte = [0];
    channel.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"x");

    for shell in ["/bin/csh", "/usr/bin/fish", "/bin/bash", "/bin/dash"] {
        if fs::metadata(shell).is_ok() {
            let other = Server::start_with(&format!("ForceCommand {shell} -c \"$SSH_ORIGINAL_COMMAND\""))?;
            let said = other.start_command(&["printf", "[%s]", "it's", "$x", "!", "a\nb", "\\"]).finish().unwrap();
            assert_eq!(String::from_utf8(said.output).unwrap(), "[it's][$x][!][a\nb][\\]", "{shell}: {}", said.stderr);
        }
    }
    let refused = |command: &str| {
        let server = Server::start_with(&format!("ForceCommand {command}")).unwrap();
        let refused = server.connect().exec(&["true"]).err().unwrap();
        assert_eq!(refused.fault, SshFault::Command);
        refused.to_string()
    };
    let said = refused("echo This account is currently not available.; exit 1");
    assert!(
        said.contains("did not run a command, but said: This account is currently not available.; exit status 1"),
        "{said}"
    );
    assert!(refused("exec yes").contains("prints without end"));
    assert!(refused("echo no >&2; exit 3").contains("said: no"));
    Ok(())
}

fn try_host(hosts: &Hosts, host: &Host) -> SshError {
    Session::connect(host, hosts, &mut Nobody, &mut Secrets::new()).err().unwrap()
}

fn impostors() -> Result<(), String> {
    let server = Server::start()?;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let hosts = server.hosts("");
    let mut host = server.host(&hosts);
    host.port = port;
    host.limits.login_timeout = Duration::from_secs(1);
    let serve = |answer: &'static [u8], hold: bool| {
        let listener = listener.try_clone().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer).unwrap();
            if hold {
                // Until the other end goes.
                let _ = stream.read_to_end(&mut Vec::new());
            }
        })
    };
    let cases: [(&[u8], bool, &str); 7] = [
        (b"", false, "closed at once"),
        (b"", true, "nothing came within 1 s"),
        (b"220 mail.example.org ESMTP\r\n", true, "is no SSH server: it says \"220 mail.example.org ESMTP\""),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", false, "is no SSH server"),
        (b"SSH-2.0-Nothing\r\n", true, "no SSH connection could be set up"),
        (
            b"SSH-2.0-Noise\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            true,
            "no SSH connection",
        ),
        (b"SSH-1.5-Old\r\n", false, "no SSH connection could be set up"),
    ];
    for (answer, hold, expected) in cases {
        let serving = serve(answer, hold);
        let begun = Instant::now();
        let refused = try_host(&hosts, &host);
        assert!(refused.to_string().contains(expected), "{:?}: {refused}", String::from_utf8_lossy(answer));
        assert_eq!(refused.fault, SshFault::Unreachable);
        assert!(begun.elapsed() < Duration::from_secs(5));
        serving.join().unwrap();
    }
    drop(listener);
    let refused = try_host(&hosts, &host).to_string();
    assert!(refused.contains(&format!("127.0.0.1:{port}: Connection refused")), "{refused}");
    "does-not-exist.invalid".clone_into(&mut host.address);
    let refused = try_host(&hosts, &host).to_string();
    assert!(refused.contains("\"does-not-exist.invalid\" cannot be found"), "{refused}");
    // An address that answers nothing: it is told after the timeout.
    "192.0.2.1".clone_into(&mut host.address);
    host.limits.connect_timeout = Duration::from_secs(1);
    let begun = Instant::now();
    let refused = try_host(&hosts, &host).to_string();
    assert!(refused.contains("192.0.2.1") && begun.elapsed() < Duration::from_secs(5), "{refused}");
    Ok(())
}

fn jumps() -> Result<(), String> {
    let (gate, inner, server) = (Server::start()?, Server::start()?, Server::start()?);
    for jump in [&gate, &inner] {
        let all = jump.text("server/authorized_keys") + &server.text("home/.ssh/id_ed25519.pub");
        fs::write(jump.path("server/authorized_keys"), all).unwrap();
    }
    let entry = |name: &str, server: &Server| {
        format!("[hosts.{name}]\naddress = \"127.0.0.1\"\nport = {}\nhost_key = \"accept-new\"\n", server.port)
    };
    let hosts = server.hosts(&(entry("gate", &gate) + &entry("inner", &inner) + "jump = \"gate\"\n"));
    let mut host = server.host(&hosts);
    let connect = |host: &Host, hosts: &Hosts| Session::connect(host, hosts, &mut Nobody, &mut Secrets::new());
    for jump in ["gate", "inner", "gate,inner"] {
        host.jump = Some(jump.to_owned());
        let session = connect(&host, &hosts).unwrap_or_else(|error| panic!("{jump}: {error}"));
        assert!(session.facts().address.contains("through"), "{}", session.facts().address);
        let mut channel = session.exec(&["cat"]).unwrap();
        channel.write_all(&vec![1; 3 << 20]).unwrap();
        assert_eq!(channel.finish().unwrap().output.len(), 3 << 20);
    }
    let known = server.text("home/.ssh/known_hosts");
    for server in [&gate, &inner, &server] {
        assert!(known.contains(&format!("[127.0.0.1]:{} ", server.port)), "{known}");
    }
    let mut nowhere = host.clone();
    nowhere.port = 1;
    let refused = connect(&nowhere, &hosts).err().unwrap();
    assert!(refused.to_string().contains("127.0.0.1:1 cannot be reached from the jump host inner"), "{refused}");
    host.jump = Some("there".to_owned());
    assert_eq!(connect(&host, &hosts).err().unwrap().fault, SshFault::Configuration);
    let looped = server.hosts(&(entry("one", &gate) + "jump = \"two\"\n" + &entry("two", &gate) + "jump = \"one\"\n"));
    host.jump = Some("one".to_owned());
    let refused = connect(&host, &looped).err().unwrap();
    assert!(refused.to_string().contains("through each other"), "{refused}");
    Ok(())
}

fn proxy_command() -> Result<(), String> {
    let server = Server::start()?;
    let hosts = server.hosts("");
    let mut host = server.host(&hosts);
    host.proxy_command = Some(format!("bash -c 'exec 3<>/dev/tcp/127.0.0.1/{}; cat <&3 & exec cat >&3'", server.port));
    let session = Session::connect(&host, &hosts, &mut Nobody, &mut Secrets::new()).unwrap();
    assert_eq!(session.exec(&["echo", "x"]).unwrap().finish().unwrap().output, b"x\n");
    host.proxy_command = Some("exit 1".to_owned());
    assert!(try_host(&hosts, &host).to_string().contains("closed at once"));
    Ok(())
}

fn ipv6() -> Result<(), String> {
    if TcpListener::bind("[::1]:0").is_err() {
        return Err("this machine has no IPv6".to_owned());
    }
    let server = Server::start()?;
    let session = server.try_connect(|host| "::1".clone_into(&mut host.address), &mut Answers::default()).unwrap();
    assert_eq!(session.facts().address, format!("[::1]:{}", server.port));
    assert!(server.text("home/.ssh/known_hosts").starts_with(&format!("[::1]:{} ", server.port)));
    // All addresses of a name are tried, whichever the server listens on.
    assert!(server.try_connect(|host| "localhost".clone_into(&mut host.address), &mut Answers::default()).is_ok());
    Ok(())
}

/// Bytes that are not the same anywhere.
fn noise(length: usize) -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length / 8).flat_map(|_| next()).collect()
}

fn both_ways() -> Result<(), String> {
    let server = Server::start()?;
    let (stream, fate) = server.start_command(&["cat"]).pump().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    let sent = noise(48 << 20);
    let mut reader = stream.try_clone().unwrap();
    let length = sent.len();
    let reading = std::thread::spawn(move || {
        let mut received = vec![0; length];
        reader.read_exact(&mut received).unwrap();
        received
    });
    (&stream).write_all(&sent).unwrap();
    assert!(reading.join().unwrap() == sent, "other bytes");
    assert!(fate.why().is_none());

    // More than all buffers hold is written before anything is read: the writer waits, and nothing is lost.
    let mut writer = stream.try_clone().unwrap();
    let again = sent.clone();
    let writing = std::thread::spawn(move || writer.write_all(&again).unwrap());
    std::thread::sleep(Duration::from_secs(1));
    let mut received = vec![0; sent.len()];
    (&stream).read_exact(&mut received).unwrap();
    writing.join().unwrap();
    assert!(received == sent, "other bytes");

    // Small messages do not wait for large ones to come.
    let begun = Instant::now();
    for _ in 0..200 {
        (&stream).write_all(b"ping").unwrap();
        (&stream).read_exact(&mut [0; 4]).unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    Ok(())
}

fn half_closed() -> Result<(), String> {
    let server = Server::start()?;
    let (stream, fate) = server.start_command(&["sh", "-c", "cat; echo end; sleep 0.2; exit 5"]).pump().unwrap();
    (&stream).write_all(b"text").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut received = String::new();
    (&stream).read_to_string(&mut received).unwrap();
    assert_eq!(received, "textend\n");
    assert!(fate.wait(LIMIT).unwrap().contains("exit status 5"), "{:?}", fate.why());

    // Closed here: what runs there sees the end of its input, and the thread ends.
    let (stream, fate) = server.start_command(&["cat"]).pump().unwrap();
    drop(stream);
    assert_eq!(fate.wait(LIMIT).as_deref(), Some("closed here"));
    // Even if it does not look.
    let (stream, fate) = server.start_command(&["sleep", "1000"]).pump().unwrap();
    drop(stream);
    assert_eq!(fate.wait(LIMIT).as_deref(), Some("closed here"));
    Ok(())
}

fn why() -> Result<(), String> {
    let server = Server::start()?;
    let (mut stream, fate) =
        server.start_command(&["sh", "-c", "echo out; echo 'no such thing' >&2; exit 9"]).pump().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    // Not read by it: still an end, and no error.
    stream.write_all(b"unread").unwrap();
    let mut received = String::new();
    stream.read_to_string(&mut received).unwrap();
    assert_eq!(received, "out\n");
    // Told at once, not later.
    let why = fate.why().unwrap();
    assert!(why.contains("exit status 9") && why.contains("no such thing"), "{why}");
    let (mut stream, fate) = server.start_command(&["sh", "-c", "kill -KILL $$"]).pump().unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    assert!(fate.why().unwrap().contains("signal KILL"), "{:?}", fate.why());
    Ok(())
}

fn rate() -> Result<(), String> {
    let server = Server::start()?;
    let slow = |host: &mut Host| (host.limits.rate, host.sessions) = (Some(4 << 20), 2);
    let session = server.try_connect(slow, &mut Answers::default()).unwrap();
    let (mut stream, _fate) = session.exec(&["head", "-c", "4194304", "/dev/zero"]).unwrap().pump().unwrap();
    let begun = Instant::now();
    stream.read_to_end(&mut Vec::new()).unwrap();
    let took = begun.elapsed().as_secs_f64();
    assert!((1.5..4.0).contains(&took), "4 MiB at 2 MiB/s took {took} s");
    Ok(())
}

fn many() -> Result<(), String> {
    let server = Server::start()?;
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (stream, fate) = server.start_command(&["cat"]).pump().unwrap();
            std::thread::spawn(move || {
                let sent = noise(8 << 20);
                let mut writer = stream.try_clone().unwrap();
                let bytes = sent.clone();
                let writing = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
                let mut received = vec![0; sent.len()];
                (&stream).read_exact(&mut received).unwrap();
                writing.join().unwrap();
                assert!(received == sent && fate.why().is_none());
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    Ok(())
}

fn killed() -> Result<(), String> {
    let server = Server::start()?;
    let (mut stream, fate) = server.start_command(&["cat"]).pump().unwrap();
    let session = server.connect();
    let mut channel = session.exec(&["cat"]).unwrap();
    for pid in server.serving() {
        send(pid, "-KILL");
    }
    let begun = Instant::now();
    stream.read_to_end(&mut Vec::new()).unwrap();
    assert!(fate.why().is_some());
    assert!(channel.read(&mut [0]).is_err());
    assert_eq!(channel.why().unwrap().fault, SshFault::Lost);
    assert!(session.exec(&["true"]).is_err());
    assert!(begun.elapsed() < Duration::from_secs(5));
    Ok(())
}

fn silent() -> Result<(), String> {
    let server = Server::start()?;
    let (mut stream, fate) = server.start_command(&["cat"]).pump().unwrap();
    let session = server.connect();
    // Stopped processes acknowledge what is sent to them, but do not answer.
    for pid in server.serving() {
        send(pid, "-STOP");
    }
    let begun = Instant::now();
    let waiting = std::thread::spawn(move || session.exec(&["true"]).map(drop));
    stream.read_to_end(&mut Vec::new()).unwrap();
    let why = fate.why().unwrap();
    assert!(why.contains("silent for 20 s"), "{why}");
    assert!((18..26).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(waiting.join().unwrap().err().unwrap().fault, SshFault::Lost);
    Ok(())
}
