//! Putting this very program onto a host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ckpt_transfer::ssh::{Installed, Nobody, Session, SshError, SshFault, own_hash};

use crate::Test;
use crate::server::Server;

pub const TESTS: &[Test] = &[
    ("install/once_and_checked", once),
    ("install/interrupted_copy_goes_on", resumed),
    ("install/damaged_copies_are_replaced", damaged),
    ("install/at_the_same_time", concurrent),
    ("install/directories", directories),
    ("install/full_and_noexec", full),
    ("install/other_machines", foreign),
    ("install/old_ones_are_cleared_away", old),
];

fn connect(server: &Server) -> Session {
    let cache = server.path("there");
    server.try_connect(|host| host.directory = Some(cache), &mut Nobody).unwrap()
}

fn install(server: &Server) -> Result<Installed, SshError> {
    connect(server).install(&mut |_, _| ())
}

fn bin(server: &Server) -> PathBuf {
    server.path("there/ckptctl/bin").join(own_hash().unwrap().0)
}

fn partial(server: &Server) -> Option<PathBuf> {
    let mut entries = fs::read_dir(bin(server)).ok()?.map(|entry| entry.unwrap().path());
    entries.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("partial."))
}

fn once() -> Result<(), String> {
    let server = Server::start()?;
    let (hash, size) = own_hash().unwrap();
    let mut told = Vec::new();
    let installed = connect(&server).install(&mut |done, total| told.push((done, total))).unwrap();
    assert_eq!((installed.sent, &installed.hash), (size, &hash));
    assert_eq!((told.first(), told.last()), (Some(&(0, size)), Some(&(size, size))));
    assert!(told.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    assert_eq!(Path::new(&installed.path), bin(&server).join("ckptctl"));
    assert_eq!(blake3::hash(&fs::read(&installed.path).unwrap()).to_hex().to_string(), hash);
    assert_eq!(fs::metadata(&installed.path).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(partial(&server).is_none());
    let again = install(&server).unwrap();
    assert_eq!(again, Installed { sent: 0, ..installed.clone() });
    let said = server.connect().exec(&[&installed.path, "self-check"]).unwrap().finish().unwrap();
    assert!(String::from_utf8(said.output).unwrap().contains(&hash));
    Ok(())
}

fn resumed() -> Result<(), String> {
    let server = Server::start()?;
    let (_, size) = own_hash().unwrap();
    // The connection is cut in the middle of it.
    let session = connect(&server);
    let mut cut = false;
    let broken = session.install(&mut |done, _| {
        if done > size / 3 && !cut {
            cut = true;
            for pid in server.serving() {
                crate::server::send(pid, "-KILL");
            }
        }
    });
    assert_eq!(broken.unwrap_err().fault, SshFault::Lost);
    drop(session);
    let there = fs::metadata(partial(&server).unwrap()).unwrap().len();
    assert!(there > 0 && there < size, "{there} of {size}");
    let mut first = None;
    let installed = connect(&server).install(&mut |done, _| _ = first.get_or_insert(done)).unwrap();
    // What was on its way may still have been written after we looked.
    assert!(first.unwrap() >= there && installed.sent <= size - there, "{first:?}, {installed:?}");
    Ok(())
}

fn damaged() -> Result<(), String> {
    let server = Server::start()?;
    let (_, size) = own_hash().unwrap();
    fs::create_dir_all(bin(&server)).unwrap();
    install(&server).unwrap();
    let file = bin(&server).join("ckptctl");
    // Cut short, as a full disk and a crash leave it.
    fs::File::options().write(true).open(&file).unwrap().set_len(size / 2).unwrap();
    assert_eq!(install(&server).unwrap().sent, size);
    // A part that is not the beginning of it.
    let name = connect_name(&server);
    fs::remove_file(&file).unwrap();
    fs::write(&name, vec![0x55; 100_000]).unwrap();
    let installed = install(&server).unwrap();
    assert_eq!(installed.sent, size - 100_000 + size, "sent once in vain");
    // And one that is too long.
    fs::remove_file(&file).unwrap();
    fs::write(&name, vec![0x55; usize::try_from(size).unwrap() + 1]).unwrap();
    assert_eq!(install(&server).unwrap().sent, size);
    Ok(())
}

/// The name of our own partial copy: seen when one is interrupted.
fn connect_name(server: &Server) -> PathBuf {
    let file = bin(server).join("ckptctl");
    let whole = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let session = connect(server);
    let mut name = None;
    let result = session.install(&mut |done, total| {
        if done > 0 && done < total && name.is_none() {
            name = partial(server);
        }
    });
    result.unwrap();
    assert_eq!(fs::read(&file).unwrap(), whole);
    name.unwrap()
}

fn concurrent() -> Result<(), String> {
    let server = Server::start()?;
    let (_, size) = own_hash().unwrap();
    let sent: Vec<u64> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| install(&server).unwrap().sent)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(sent.iter().sum::<u64>(), size, "{sent:?}");
    Ok(())
}

fn directories() -> Result<(), String> {
    let server = Server::start_with("")?;
    let home = server.path("there/home dir with 'quotes' and $signs");
    fs::create_dir(&home).unwrap();
    let at = home.display().to_string();
    let session = server.try_connect(|host| host.directory = Some(home), &mut Nobody).unwrap();
    let installed = session.install(&mut |_, _| ()).unwrap();
    assert!(installed.path.starts_with(&at));
    assert_eq!(session.exec(&[&installed.path, "self-check"]).unwrap().finish().unwrap().status, 0);
    // The user's own cache directory, by the environment there.
    let cache = server.path("there/cache");
    let other = Server::start_with(&format!("SetEnv XDG_CACHE_HOME={}", cache.display()))?;
    let installed = other.connect().install(&mut |_, _| ()).unwrap();
    assert_eq!(Path::new(&installed.base), cache.join("ckptctl"));
    let refused = server.try_connect(|host| host.directory = Some("/proc/nowhere".into()), &mut Nobody).unwrap();
    let refused = refused.install(&mut |_, _| ()).unwrap_err();
    assert_eq!(refused.fault, SshFault::Install);
    assert!(refused.to_string().contains("/proc/nowhere") && refused.to_string().contains("--directory"), "{refused}");
    Ok(())
}

/// A file system of its own, for as long as this lives.
struct Mount(PathBuf);

impl Mount {
    fn new(at: PathBuf, options: &str) -> Result<Self, String> {
        fs::create_dir_all(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            Ok(Self(at))
        } else {
            Err("file systems cannot be mounted here".to_owned())
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(&self.0).status();
    }
}

fn full() -> Result<(), String> {
    let server = Server::start()?;
    let refused = |directory: &Path| {
        let session = server.try_connect(|host| host.directory = Some(directory.to_owned()), &mut Nobody).unwrap();
        let refused = session.install(&mut |_, _| ()).unwrap_err();
        assert_eq!(refused.fault, SshFault::Install);
        refused.to_string()
    };
    let small = Mount::new(server.path("there/small"), "size=1m")?;
    let said = refused(&small.0);
    assert!(said.contains("No space left on device") && said.contains("--directory"), "{said}");
    let noexec = Mount::new(server.path("there/noexec"), "noexec")?;
    let said = refused(&noexec.0);
    assert!(said.contains("noexec") && said.contains("--directory"), "{said}");
    Ok(())
}

fn foreign() -> Result<(), String> {
    // Another uname comes first on the path of the commands there.
    for (said, expected) in [("Darwin arm64", "a machine of the kind Darwin arm64"), ("Linux aarch64", "Linux aarch64")]
    {
        let directory = tempfile::tempdir().unwrap();
        let (system, machine) = said.split_once(' ').unwrap();
        let fake = directory.path().join("uname");
        fs::write(&fake, format!("#!/bin/sh\ncase $1 in -s) echo {system};; *) echo {machine};; esac\n")).unwrap();
        fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
        let server = Server::start_with(&format!("SetEnv PATH={}:/usr/bin:/bin", directory.path().display()))?;
        let refused = install(&server).unwrap_err();
        assert_eq!(refused.fault, SshFault::Foreign);
        assert!(refused.to_string().contains(expected), "{refused}");
        assert!(!server.path("there/ckptctl").exists());
    }
    Ok(())
}

fn old() -> Result<(), String> {
    let server = Server::start()?;
    let all = server.path("there/ckptctl/bin");
    let make = |letter: &str, age: &str| {
        let directory = all.join(letter.repeat(64));
        fs::create_dir_all(&directory).unwrap();
        fs::copy("/bin/sleep", directory.join("ckptctl")).unwrap();
        for path in [directory.join("ckptctl"), directory.clone()] {
            assert!(Command::new("touch").args(["-d", age]).arg(path).status().unwrap().success());
        }
        directory
    };
    let (ancient, recent, used) = (make("a", "40 days ago"), make("b", "20 days ago"), make("c", "40 days ago"));
    let other = all.join("notes");
    fs::create_dir_all(&other).unwrap();
    let mut running = Command::new(used.join("ckptctl")).arg("100").spawn().unwrap();
    let result = install(&server);
    let _ = running.kill();
    let _ = running.wait();
    result.unwrap();
    assert!(!ancient.exists() && recent.exists() && used.exists() && other.exists());
    Ok(())
}
