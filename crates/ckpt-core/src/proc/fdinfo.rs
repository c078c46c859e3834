//! `/proc/PID/fdinfo/FD`: what the kernel says of an open file.
//!
//! Printed by `fs/proc/fd.c` (`seq_show`), the lines of each kind of file by
//! itself: `fs/eventfd.c`, `fs/eventpoll.c`, `fs/signalfd.c`, `fs/timerfd.c`,
//! `fs/notify/fdinfo.c`, `kernel/pid.c` and others.

use super::text::{key_value, lines, number, unsigned};
use super::{Malformed, ProcError, read_as};

/// An open file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FdInfo {
    /// Where the next read or write goes.
    pub pos: i64,
    /// The flags of open(2) and `O_CLOEXEC`. Without `O_CREAT` and the like, which
    /// are for the opening alone.
    pub flags: u32,
    /// The mount that it was opened in, as in mountinfo.
    pub mnt_id: u64,
    /// The inode. Since Linux 5.14.
    pub ino: Option<u64>,
    /// What follows `lock:` in each such line, in the format of /proc/locks.
    pub locks: Vec<String>,
    /// All other lines, which are of the file's own kind, such as
    /// `eventfd-count:                3`.
    pub extras: Vec<String>,
}

impl FdInfo {
    /// Reads what there is about descriptor `fd` of process `pid`.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn of(pid: i32, fd: i32) -> Result<Self, ProcError> {
        read_as(format!("/proc/{pid}/fdinfo/{fd}"), Self::parse)
    }

    /// The text of `fdinfo`.
    ///
    /// # Errors
    /// When `pos`, `flags` or `mnt_id` is missing or not a number.
    pub fn parse(text: &[u8]) -> Result<Self, Malformed> {
        let mut info = Self::default();
        let (mut pos, mut flags, mut mount) = (None, None, None);
        for line in lines(text).filter(|line| !line.is_empty()) {
            match key_value(line) {
                // The four come first; a kind's own line might have such a key too.
                Some((b"pos", value)) if pos.is_none() => pos = number(value),
                Some((b"flags", value)) if flags.is_none() => flags = unsigned(value, 8),
                Some((b"mnt_id", value)) if mount.is_none() => mount = number(value),
                Some((b"ino", value)) if info.ino.is_none() => info.ino = number(value),
                Some((b"lock", value)) => info.locks.push(owned(value)),
                _ => info.extras.push(owned(line)),
            }
        }
        let wrong = |what| Malformed::new(what, text);
        info.pos = pos.ok_or_else(|| wrong("no pos"))?;
        info.flags = flags.and_then(|flags| u32::try_from(flags).ok()).ok_or_else(|| wrong("no flags"))?;
        info.mnt_id = mount.ok_or_else(|| wrong("no mnt_id"))?;
        Ok(info)
    }

    /// The value of the first extra line whose key this is: `extra("eventfd-count")`.
    #[must_use]
    pub fn extra(&self, key: &str) -> Option<&str> {
        self.extras.iter().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            (found.trim_end() == key).then(|| value.trim())
        })
    }
}

fn owned(line: &[u8]) -> String {
    String::from_utf8_lossy(line).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_locks() {
        let info = FdInfo::parse(
            b"pos:\t17\nflags:\t02100002\nmnt_id:\t27\nino:\t10011458\n\
              lock:\t1: FLOCK  ADVISORY  WRITE 4809 fe:00:10011458 0 EOF\n\
              lock:\t2: POSIX  ADVISORY  WRITE 4809 fe:00:10011458 0 EOF\n",
        )
        .unwrap();
        assert_eq!((info.pos, info.flags, info.mnt_id), (17, 0o2_100_002, 27));
        assert_eq!(info.ino, Some(10_011_458));
        assert_eq!(info.locks.len(), 2);
        assert_eq!(info.locks[1], "2: POSIX  ADVISORY  WRITE 4809 fe:00:10011458 0 EOF");
        assert!(info.extras.is_empty());
    }

    #[test]
    fn an_eventfd() {
        let info = FdInfo::parse(
            b"pos:\t0\nflags:\t02000002\nmnt_id:\t17\nino:\t18\n\
              eventfd-count:                3\neventfd-id: 1\neventfd-semaphore: 0\n",
        )
        .unwrap();
        assert_eq!(info.extra("eventfd-count"), Some("3"));
        assert_eq!(info.extra("eventfd-semaphore"), Some("0"));
        assert_eq!(info.extra("sigmask"), None);
        assert_eq!(info.extras.len(), 3);
    }

    #[test]
    fn an_epoll_keeps_each_of_its_lines() {
        let info = FdInfo::parse(
            b"pos:\t0\nflags:\t02000002\nmnt_id:\t17\n\
              tfd:        4 events:       19 data:                4  pos:0 ino:12 sdev:10\n\
              tfd:        5 events:       19 data:                5  pos:0 ino:12 sdev:10\n",
        )
        .unwrap();
        assert_eq!((info.ino, info.extras.len()), (None, 2));
        assert!(info.extra("tfd").unwrap().starts_with("4 events:"));
    }

    #[test]
    fn what_every_file_has_must_be_there() {
        assert!(FdInfo::parse(b"").is_err());
        assert!(FdInfo::parse(b"pos:\t0\nflags:\t0\n").is_err());
        assert!(FdInfo::parse(b"pos:\t0\nflags:\t9\nmnt_id:\t1\n").is_err());
    }
}
