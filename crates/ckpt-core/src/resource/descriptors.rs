//! Open descriptors, and which of them share an open file description.

use std::cmp::Ordering;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ckpt_trace::sys::{self, Shared};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde::{Deserialize, Serialize};

use super::events::{Epoll, EventCounter};
use super::file_table::FileTable;
use super::pipes::Pipe;
use super::sockets::{Family, ResetSocket, SocketState};
use super::terminal::TerminalState;
use crate::Error;
use crate::proc::{self, FdInfo};

/// All descriptors of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorState {
    /// The open file descriptions.
    pub descriptions: Vec<Description>,
    /// The descriptors, in ascending order.
    pub descriptors: Vec<Descriptor>,
}

/// A descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Its number.
    pub fd: i32,
    /// Index of its open file description.
    pub description: usize,
    /// `FD_CLOEXEC`.
    pub close_on_exec: bool,
}

/// An open file description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// What is open.
    pub opened: Opened,
    /// `O_*` as `F_GETFL` tells them.
    pub flags: u32,
    /// The file offset.
    pub offset: u64,
}

/// What can be open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Opened {
    /// A regular file or a directory: its number in the file table.
    File(u64),
    /// One of the devices that any machine has, such as `/dev/null`.
    Device(#[serde(with = "super::bytes::path")] PathBuf),
    /// A terminal; reconnected to that of the restoring process.
    Terminal {
        /// The path by which it was opened.
        #[serde(with = "super::bytes::path")]
        path: PathBuf,
        /// Settings and size.
        state: TerminalState,
    },
    /// A pipe within the process: one of its ends.
    Pipe(Pipe),
    /// An eventfd.
    EventCounter(EventCounter),
    /// An epoll instance.
    Epoll(Epoll),
    /// A socket whose connection is over, or was given up for the checkpoint.
    ResetSocket(ResetSocket),
    /// A pipe or socket that the launching shell gave as standard input, output or error; reconnected to those of the
    /// restoring process.
    Inherited(Inherited),
}

/// What the launching shell gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inherited {
    /// A pipe.
    Pipe,
    /// A socket.
    Socket,
}

/// The memory devices (major 1), which have no state of their own.
const DEVICES: &[(u32, &str)] =
    &[(3, "/dev/null"), (5, "/dev/zero"), (7, "/dev/full"), (8, "/dev/random"), (9, "/dev/urandom")];
/// `/dev/ptmx`.
const PTMX: (u32, u32) = (5, 2);
const STANDARD: std::ops::RangeInclusive<i32> = 0..=2;

/// A descriptor of the process, with our own copy of it.
struct Found {
    fd: i32,
    info: FdInfo,
    path: PathBuf,
    copy: OwnedFd,
    stat: rustix::fs::Stat,
}

impl DescriptorState {
    /// The descriptors of a process, which is frozen or only looked at; files are entered into the table. With
    /// `tcp_close` connected TCP sockets become such that their peers have reset.
    ///
    /// # Errors
    /// What cannot be saved is refused by its number and kind.
    pub fn capture(pid: i32, files: &mut FileTable, tcp_close: bool) -> Result<Self, Error> {
        let mut state = Self { descriptions: Vec::new(), descriptors: Vec::new() };
        let mut seen: Vec<Seen> = Vec::new();
        let all = find_all(pid)?;
        for found in &all {
            let (fd, info) = (found.fd, &found.info);
            let key = (found.stat.st_dev, found.stat.st_ino, info.flags & !CLOEXEC, info.pos);
            let description = if let Some(description) = find_twin(pid, fd, key, &seen)? {
                description
            } else {
                state.descriptions.push(Description {
                    opened: opened(pid, found, &all, files, tcp_close)?,
                    flags: info.flags & !CLOEXEC,
                    offset: u64::try_from(info.pos).unwrap_or_default(),
                });
                state.descriptions.len() - 1
            };
            seen.push(Seen { fd, key, description });
            let close_on_exec = info.flags & CLOEXEC != 0;
            state.descriptors.push(Descriptor { fd, description, close_on_exec });
        }
        Ok(state)
    }

    /// The epoll instances, each with a number of it.
    pub fn epolls(&self) -> impl Iterator<Item = (i32, &Epoll)> {
        (0..).zip(&self.descriptions).filter_map(|(index, description)| match &description.opened {
            Opened::Epoll(epoll) => {
                let descriptor = self.descriptors.iter().find(|descriptor| descriptor.description == index)?;
                Some((descriptor.fd, epoll))
            }
            _ => None,
        })
    }

    /// The highest descriptor.
    #[must_use]
    pub fn highest(&self) -> i32 {
        self.descriptors.iter().map(|descriptor| descriptor.fd).max().unwrap_or(2)
    }
}

const CLOEXEC: u32 = libc::O_CLOEXEC.unsigned_abs();
type Key = (u64, u64, u32, i64);

struct Seen {
    fd: i32,
    key: Key,
    description: usize,
}

/// The description that a descriptor shares with an earlier one. Only those that look the same are compared.
fn find_twin(pid: i32, fd: i32, key: Key, seen: &[Seen]) -> Result<Option<usize>, Error> {
    for other in seen.iter().filter(|other| other.key == key) {
        let order = sys::kcmp(pid, pid, Shared::File(fd, other.fd))
            .map_err(Error::system(format!("compare descriptors {fd} and {} of process {pid}", other.fd)))?;
        if order == Ordering::Equal {
            return Ok(Some(other.description));
        }
    }
    Ok(None)
}

fn find_all(pid: i32) -> Result<Vec<Found>, Error> {
    let looking = |fd: i32| {
        move |error: rustix::io::Errno| Error::System {
            what: format!("look at descriptor {fd} of process {pid}"),
            source: error.into(),
        }
    };
    let target = Pid::from_raw(pid).ok_or(Error::NoProcess { pid })?;
    let pidfd = pidfd_open(target, PidfdFlags::empty())
        .map_err(|error| Error::System { what: format!("open process {pid}"), source: error.into() })?;
    let found = proc::tree::fds(pid)?.into_iter().map(|fd| {
        let info = FdInfo::of(pid, fd)?;
        let copy = pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty()).map_err(looking(fd))?;
        let stat = rustix::fs::fstat(&copy).map_err(looking(fd))?;
        Ok(Found { fd, info, path: proc::tree::fd_target(pid, fd)?, copy, stat })
    });
    found.collect()
}

fn opened(pid: i32, found: &Found, all: &[Found], files: &mut FileTable, tcp_close: bool) -> Result<Opened, Error> {
    let Found { fd, info, path, copy, stat } = found;
    let named = |what: &str| format!("descriptor {fd} ({}) is {what}", path.display());
    let refuse = |what: &str, advice: &str| Err(Error::refused(pid, named(what), advice));
    // What is closed again after a moment, as a rule.
    let hold = |what: &str, advice: &str| Err(Error::held(pid, named(what), advice));
    if info.flags & libc::O_ASYNC.unsigned_abs() != 0 {
        return refuse("set to send signals (O_ASYNC), which cannot be saved", "let the program switch that off");
    }
    if let Some(lock) = info.locks.first() {
        let kind = lock.split_whitespace().nth(1).unwrap_or("a lock").to_owned();
        return hold(&format!("locked ({kind}), and locks cannot be saved"), "checkpoint while it is not locked");
    }
    let advice = "let the program close it before the checkpoint";
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG | libc::S_IFDIR if is_of_proc(copy) => {
            hold("a file of /proc, which belongs to a process that will be gone", advice)
        }
        libc::S_IFREG | libc::S_IFDIR => Ok(Opened::File(files.descriptor(pid, *fd, path, copy)?)),
        libc::S_IFCHR => {
            let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            let known = DEVICES.iter().find(|(number, _)| major == 1 && *number == minor);
            if let Some((_, device)) = known {
                return Ok(Opened::Device(PathBuf::from(device)));
            }
            if (major, minor) == PTMX {
                return refuse("the controlling side of a terminal of its own, which cannot be saved", advice);
            }
            match TerminalState::capture(copy) {
                Some(state) => Ok(Opened::Terminal { path: path.clone(), state }),
                None => refuse(&format!("the device {major}:{minor}, which cannot be saved"), advice),
            }
        }
        libc::S_IFIFO if is_own_pipe(found, all) => match Pipe::capture(stat.st_ino, copy, is_reading(info)) {
            Ok(pipe) => Ok(Opened::Pipe(pipe)),
            Err(error) => refuse(&format!("a pipe whose data cannot be read ({error})"), advice),
        },
        libc::S_IFIFO if STANDARD.contains(fd) => Ok(Opened::Inherited(Inherited::Pipe)),
        libc::S_IFSOCK if STANDARD.contains(fd) => Ok(Opened::Inherited(Inherited::Socket)),
        libc::S_IFIFO => refuse(
            "a pipe to another process, which cannot be saved",
            "let the program close it before the checkpoint, or start it without (such as with 3>&- in a shell)",
        ),
        libc::S_IFSOCK => match SocketState::of(copy) {
            Some(SocketState::Over(socket)) => Ok(Opened::ResetSocket(socket)),
            Some(SocketState::Connected(family)) if family != Family::Unix && tcp_close => {
                Ok(Opened::ResetSocket(ResetSocket::of(family)))
            }
            Some(SocketState::Connected(family)) if family != Family::Unix => refuse(
                "a TCP socket with a connection, which cannot be saved",
                "let the program close it, or give it up with --tcp=close: the program then finds it reset by its peer",
            ),
            Some(SocketState::Listening) => {
                refuse(&format!("{} that waits for connections, which cannot be saved", socket_kind(copy)), advice)
            }
            _ => refuse(&format!("{}, which cannot be saved", socket_kind(copy)), advice),
        },
        _ => {
            let kind = anonymous_kind(path);
            let known = match kind.as_str() {
                "an eventfd" => EventCounter::capture(info).map(Opened::EventCounter),
                "an epoll instance" => Epoll::capture(info).filter(|epoll| is_plain(epoll, all)).map(Opened::Epoll),
                _ => None,
            };
            known.map_or_else(|| refuse(&format!("{kind}, which cannot be saved"), advice), Ok)
        }
    }
}

/// Whether a file is one of `/proc` (`PROC_SUPER_MAGIC`).
fn is_of_proc(fd: &OwnedFd) -> bool {
    const PROC_SUPER_MAGIC: u64 = 0x9fa0;
    rustix::fs::fstatfs(fd).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(PROC_SUPER_MAGIC))
}

/// Whether a descriptor of a pipe is for reading.
fn is_reading(info: &FdInfo) -> bool {
    info.flags & libc::O_ACCMODE.unsigned_abs() == libc::O_RDONLY.unsigned_abs()
}

/// Whether both ends of a pipe are in the process. One with packets (`O_DIRECT`) is left to others.
fn is_own_pipe(found: &Found, all: &[Found]) -> bool {
    let has_end = |reading: bool| {
        all.iter().any(|other| other.stat.st_ino == found.stat.st_ino && is_reading(&other.info) == reading)
    };
    let is_anonymous = found.path.as_os_str().as_bytes().starts_with(b"pipe:[");
    is_anonymous && found.info.flags & libc::O_DIRECT.unsigned_abs() == 0 && has_end(true) && has_end(false)
}

/// Whether an epoll instance watches only descriptors that still mean the same file, and no other epoll instance.
fn is_plain(epoll: &Epoll, all: &[Found]) -> bool {
    epoll.watched.iter().all(|watched| {
        all.iter().any(|found| {
            found.fd == watched.fd
                && found.stat.st_ino == watched.inode
                && !found.path.as_os_str().as_bytes().ends_with(b"[eventpoll]")
        })
    })
}

fn socket_kind(fd: &OwnedFd) -> &'static str {
    use rustix::net::{AddressFamily, SocketType, sockopt};
    match (sockopt::socket_domain(fd), sockopt::socket_type(fd)) {
        (Ok(AddressFamily::UNIX), _) => "a unix socket",
        (Ok(AddressFamily::INET | AddressFamily::INET6), Ok(SocketType::STREAM)) => "a TCP socket",
        (Ok(AddressFamily::INET | AddressFamily::INET6), Ok(SocketType::DGRAM)) => "a UDP socket",
        (Ok(AddressFamily::NETLINK), _) => "a netlink socket",
        _ => "a socket",
    }
}

/// `anon_inode:[eventpoll]` and its like, in words.
fn anonymous_kind(path: &Path) -> String {
    let name = path.as_os_str().as_bytes();
    let inner = name.strip_prefix(b"anon_inode:").unwrap_or(name);
    let inner = String::from_utf8_lossy(inner);
    match inner.trim_matches(['[', ']']) {
        "eventpoll" => "an epoll instance".to_owned(),
        "eventfd" => "an eventfd".to_owned(),
        "timerfd" => "a timerfd".to_owned(),
        "signalfd" => "a signalfd".to_owned(),
        "inotify" => "an inotify instance".to_owned(),
        "io_uring" => "an io_uring".to_owned(),
        "pidfd" => "a pidfd".to_owned(),
        "userfaultfd" => "a userfaultfd".to_owned(),
        other => format!("an object of kind {other:?}"),
    }
}
