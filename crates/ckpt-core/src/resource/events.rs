//! Descriptors that wake threads: eventfd and epoll.

use std::os::fd::OwnedFd;

use ckpt_trace::Batch;
use rustix::event::EventfdFlags;
use serde::{Deserialize, Serialize};

use crate::proc::FdInfo;

/// An eventfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCounter {
    /// Its count.
    pub count: u64,
    /// `EFD_SEMAPHORE`.
    pub is_semaphore: bool,
}

/// An epoll instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoll {
    /// What it watches.
    pub watched: Vec<Watched>,
}

/// A descriptor that an epoll instance watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// Its number.
    pub fd: i32,
    /// `EPOLL*`.
    pub events: u32,
    /// What goes with an event.
    pub data: u64,
    /// The inode, by which it is known whether the number still means the same file.
    pub inode: u64,
}

impl EventCounter {
    /// From `/proc/PID/fdinfo` (`fs/eventfd.c`, `eventfd_show_fdinfo`). Before Linux 6.5 it does not tell a semaphore.
    #[must_use]
    pub fn capture(info: &FdInfo) -> Option<Self> {
        let count = u64::from_str_radix(info.extra("eventfd-count")?.trim(), 16).ok()?;
        let is_semaphore = info.extra("eventfd-semaphore").is_some_and(|text| text.trim() == "1");
        Some(Self { count, is_semaphore })
    }

    /// Makes it again.
    ///
    /// # Errors
    /// EMFILE and the like.
    pub fn rebuild(self) -> std::io::Result<OwnedFd> {
        let flags = if self.is_semaphore { EventfdFlags::SEMAPHORE } else { EventfdFlags::empty() };
        let fd = rustix::event::eventfd(0, flags | EventfdFlags::CLOEXEC)?;
        if self.count != 0 {
            rustix::io::write(&fd, &self.count.to_ne_bytes())?;
        }
        Ok(fd)
    }
}

impl Epoll {
    /// From `/proc/PID/fdinfo` (`fs/eventpoll.c`, `ep_show_fdinfo`): `tfd: 4 events: 19 data: 4 pos:0 ino:3f sdev:10`.
    #[must_use]
    pub fn capture(info: &FdInfo) -> Option<Self> {
        let watched = info.extras.iter().filter(|line| line.starts_with("tfd:")).map(|line| {
            let spaced = line.replace(':', " ");
            let words: Vec<&str> = spaced.split_whitespace().collect();
            let after =
                |key: &str| words.iter().position(|word| *word == key).and_then(|at| words.get(at + 1).copied());
            Some(Watched {
                fd: after("tfd")?.parse().ok()?,
                events: u32::from_str_radix(after("events")?, 16).ok()?,
                data: u64::from_str_radix(after("data")?, 16).ok()?,
                inode: u64::from_str_radix(after("ino")?, 16).ok()?,
            })
        });
        Some(Self { watched: watched.collect::<Option<_>>()? })
    }

    /// Makes an empty one.
    ///
    /// # Errors
    /// EMFILE and the like.
    pub fn rebuild() -> std::io::Result<OwnedFd> {
        Ok(rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC)?)
    }

    /// Lets the instance `fd` of the new process watch what it watched, when all descriptors are there.
    pub fn rebuild_watched(&self, fd: i32, batch: &mut Batch) {
        const EPOLL_CTL_ADD: u64 = 1;
        for watched in &self.watched {
            // struct epoll_event is packed on x86.
            let event = batch.data(&[watched.events.to_le_bytes().as_slice(), &watched.data.to_le_bytes()].concat());
            let (fd, target) = (u64::from(fd.unsigned_abs()), u64::from(watched.fd.unsigned_abs()));
            batch.call("epoll_ctl", libc::SYS_epoll_ctl, &[fd, EPOLL_CTL_ADD, target, event]);
        }
    }
}
