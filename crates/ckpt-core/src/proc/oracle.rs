//! The same process seen by these parsers and by the `procfs` crate.
//!
//! A process that sleeps is compared, because this one changes while it is read.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use procfs::process::{MMPermissions, Process};

use super::{Auxv, FdInfo, Stat, Status, SyscallState, VmaKind, maps, tree};

/// `sleep`, ended when dropped.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        let sleeper = Self(Command::new("sleep").arg("1000").spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        let waits = |state| matches!(state, SyscallState::Blocked { nr: libc::SYS_clock_nanosleep, .. });
        while !waits(SyscallState::of(sleeper.pid(), sleeper.pid()).unwrap()) {
            assert!(Instant::now() < deadline, "sleep does not sleep");
            std::thread::yield_now();
        }
        sleeper
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    fn seen_by_oracle(&self) -> Process {
        Process::new(self.pid()).unwrap()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn the_mappings_agree() {
    let sleeper = Sleeper::start();
    let ours = maps::smaps(sleeper.pid()).unwrap();
    let theirs = sleeper.seen_by_oracle().smaps().unwrap();
    assert_eq!(ours.len(), theirs.len());
    for (vma, map) in ours.iter().zip(theirs) {
        assert_eq!((vma.start, vma.end), map.address);
        assert_eq!((vma.offset, vma.inode), (map.offset, map.inode));
        assert_eq!(vma.dev.0, u32::try_from(map.dev.0).unwrap());
        assert_eq!(vma.dev.1, u32::try_from(map.dev.1).unwrap());
        for (has, permission) in [
            (vma.perms.read, MMPermissions::READ),
            (vma.perms.write, MMPermissions::WRITE),
            (vma.perms.exec, MMPermissions::EXECUTE),
            (vma.perms.shared, MMPermissions::SHARED),
        ] {
            assert_eq!(has, map.perms.contains(permission));
        }
        let size = |key| map.extension.map.get(key).copied().unwrap_or(0);
        assert_eq!(vma.size(), size("Size"));
        assert_eq!(vma.kernel_page_size, size("KernelPageSize"));
        assert_eq!((vma.rss, vma.swap, vma.locked), (size("Rss"), size("Swap"), size("Locked")));
        let flags = map.extension.vm_flags;
        assert_eq!(vma.flags.grows_down(), flags.contains(procfs::process::VmFlags::GD));
        assert_eq!(vma.flags.is_accounted(), flags.contains(procfs::process::VmFlags::AC));
    }
    for kind in [VmaKind::Heap, VmaKind::Stack, VmaKind::Vdso, VmaKind::Vvar] {
        assert!(ours.iter().any(|vma| vma.kind() == kind), "{kind:?} in {ours:?}");
    }
}

#[test]
fn status_and_stat_agree() {
    let sleeper = Sleeper::start();
    let (ours, theirs) = (Status::of(sleeper.pid()).unwrap(), sleeper.seen_by_oracle().status().unwrap());
    assert_eq!(Status::of_thread(sleeper.pid(), sleeper.pid()).unwrap(), ours);
    assert_eq!(ours.name, theirs.name.as_bytes());
    assert_eq!(
        (ours.tgid, ours.pid, ours.ppid, ours.tracer_pid),
        (theirs.tgid, theirs.pid, theirs.ppid, theirs.tracerpid)
    );
    assert_eq!(ours.uid, [theirs.ruid, theirs.euid, theirs.suid, theirs.fuid]);
    assert_eq!(ours.gid, [theirs.rgid, theirs.egid, theirs.sgid, theirs.fgid]);
    assert_eq!(ours.groups, theirs.groups);
    assert_eq!(Some(ours.ns_pid), theirs.nspid);
    assert_eq!(Some(ours.ns_sid), theirs.nssid);
    assert_eq!(ours.umask, theirs.umask);
    assert_eq!(u64::from(ours.threads), theirs.threads);
    assert_eq!((ours.sig_blk, ours.sig_ign, ours.sig_cgt), (theirs.sigblk, theirs.sigign, theirs.sigcgt));
    assert_eq!((ours.cap_prm, Some(ours.cap_bnd), Some(ours.cap_amb)), (theirs.capprm, theirs.capbnd, theirs.capamb));
    assert_eq!(Some(ours.seccomp), theirs.seccomp);

    let (ours, theirs) = (Stat::of(sleeper.pid()).unwrap(), sleeper.seen_by_oracle().stat().unwrap());
    assert_eq!(Stat::of_thread(sleeper.pid(), sleeper.pid()).unwrap().starttime, ours.starttime);
    assert_eq!(ours.comm, theirs.comm.as_bytes());
    assert_eq!((ours.state, ours.ppid, ours.pgrp), (theirs.state, theirs.ppid, theirs.pgrp));
    assert_eq!((ours.session, ours.tty_nr, ours.tpgid), (theirs.session, theirs.tty_nr, theirs.tpgid));
    assert_eq!((ours.flags, ours.starttime), (theirs.flags, theirs.starttime));
    assert_eq!(
        (ours.start_code, ours.end_code, ours.start_stack),
        (theirs.startcode, theirs.endcode, theirs.startstack)
    );
    assert_eq!((Some(ours.start_data), Some(ours.end_data)), (theirs.start_data, theirs.end_data));
    assert_eq!(Some(ours.start_brk), theirs.start_brk);
    assert_eq!(Some(ours.exit_signal), theirs.exit_signal);
    assert_eq!(Some(ours.exit_code), theirs.exit_code);
    let edges = [ours.arg_start, ours.arg_end, ours.env_start, ours.env_end].map(Some);
    let expected = [theirs.arg_start, theirs.arg_end, theirs.env_start, theirs.env_end];
    assert_eq!(edges, expected);
}

#[test]
fn auxv_descriptors_and_links_agree() {
    let sleeper = Sleeper::start();
    let theirs = sleeper.seen_by_oracle();
    let auxv = Auxv::of(sleeper.pid()).unwrap();
    let expected = theirs.auxv().unwrap();
    assert_eq!(auxv.entries().len(), expected.len());
    assert!(expected.iter().all(|(&key, &value)| auxv.get(key) == Some(value)));

    let mut expected: Vec<i32> = theirs.fd().unwrap().map(|fd| fd.unwrap().fd).collect();
    expected.sort_unstable();
    let fds = tree::fds(sleeper.pid()).unwrap();
    assert_eq!(fds, expected);
    for fd in fds {
        FdInfo::of(sleeper.pid(), fd).unwrap();
    }
    assert_eq!(tree::link(sleeper.pid(), "exe").unwrap(), theirs.exe().unwrap());
    assert_eq!(tree::link(sleeper.pid(), "cwd").unwrap(), theirs.cwd().unwrap());
    for (kind, namespace) in theirs.namespaces().unwrap().0 {
        let kind = kind.to_str().unwrap();
        assert_eq!(tree::namespace(sleeper.pid(), kind).unwrap(), namespace.identifier, "{kind}");
    }
    let me = i32::try_from(std::process::id()).unwrap();
    assert!(tree::children(me).unwrap().contains(&sleeper.pid()));
}
