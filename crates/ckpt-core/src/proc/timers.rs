//! `/proc/PID/timers`: the timers of `timer_create(2)`.
//!
//! Printed by `fs/proc/base.c` (`show_timer`). When a timer goes off next is not
//! in it: that is only known by `timer_gettime(2)` in the process.

use super::text::{key_value, lines, number, split_once, unsigned};
use super::{Malformed, ProcError, read_as};

/// One timer of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PosixTimer {
    /// Its id in the process, `timer_t` of the kernel.
    pub id: i32,
    /// `sigev_signo`.
    pub signal: i32,
    /// `sigev_value`, as the pointer that it may be.
    pub value: u64,
    /// What it does when it goes off.
    pub notify: TimerNotify,
    /// Who is told, by the id that the reader of the file sees.
    pub target: TimerTarget,
    /// The clock of `timer_create`, negative for the CPU time of a process or thread.
    pub clock: i32,
}

/// What a timer does when it goes off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerNotify {
    /// `SIGEV_SIGNAL`: sends a signal.
    Signal,
    /// `SIGEV_NONE`: nothing.
    None,
    /// `SIGEV_THREAD`: as a signal; the C library makes a thread of it.
    Thread,
}

/// Whom a timer tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerTarget {
    /// The process.
    Process(i32),
    /// One thread of it, by `SIGEV_THREAD_ID`, also when it has ended.
    Thread(i32),
}

/// Reads the timers of `pid`, in the order of their ids.
///
/// # Errors
/// When the file cannot be read or understood.
pub fn timers(pid: i32) -> Result<Vec<PosixTimer>, ProcError> {
    read_as(format!("/proc/{pid}/timers"), parse)
}

/// The text of `timers`. The kernel prints the newest first; here they are in
/// the order of their ids, the one in which they can be made again.
///
/// # Errors
/// When a line is not as the kernel prints it.
pub fn parse(text: &[u8]) -> Result<Vec<PosixTimer>, Malformed> {
    let mut timers = Vec::new();
    let mut lines = lines(text).filter(|line| !line.is_empty());
    while let Some(first) = lines.next() {
        let timer = timer(first, &mut lines);
        timers.push(timer.ok_or_else(|| Malformed::new("no timer", first))?);
    }
    timers.sort_by_key(|timer: &PosixTimer| timer.id);
    Ok(timers)
}

/// The four lines of one timer.
fn timer<'t>(id: &[u8], rest: &mut impl Iterator<Item = &'t [u8]>) -> Option<PosixTimer> {
    let id = number(value(id, b"ID")?)?;
    let (signal, sigev_value) = split_once(value(rest.next()?, b"signal")?, b'/')?;
    let (notify, target) = split_once(value(rest.next()?, b"notify")?, b'/')?;
    Some(PosixTimer {
        id,
        signal: number(signal)?,
        value: unsigned(sigev_value, 16)?,
        notify: match notify {
            b"signal" => TimerNotify::Signal,
            b"none" => TimerNotify::None,
            b"thread" => TimerNotify::Thread,
            _ => return None,
        },
        target: match split_once(target, b'.')? {
            (b"pid", pid) => TimerTarget::Process(number(pid)?),
            (b"tid", tid) => TimerTarget::Thread(number(tid)?),
            _ => return None,
        },
        clock: number(value(rest.next()?, b"ClockID")?)?,
    })
}

fn value<'t>(line: &'t [u8], wanted: &[u8]) -> Option<&'t [u8]> {
    let (key, value) = key_value(line)?;
    (key == wanted).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_timers_of_linux_6_18() {
        let timers = parse(
            b"ID: 2\nsignal: 12/00000000deadbeef\nnotify: signal/tid.4809\nClockID: 1\n\
              ID: 1\nsignal: 0/0000000000000000\nnotify: none/pid.4809\nClockID: -6\n\
              ID: 0\nsignal: 14/ffffffffffffffff\nnotify: thread/pid.4809\nClockID: 0\n",
        )
        .unwrap();
        assert_eq!(timers.iter().map(|timer| timer.id).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(
            timers[2],
            PosixTimer {
                id: 2,
                signal: 12,
                value: 0xdead_beef,
                notify: TimerNotify::Signal,
                target: TimerTarget::Thread(4809),
                clock: 1,
            }
        );
        assert_eq!((timers[1].notify, timers[1].clock), (TimerNotify::None, -6));
        assert_eq!((timers[0].notify, timers[0].value), (TimerNotify::Thread, u64::MAX));
        assert_eq!(timers[0].target, TimerTarget::Process(4809));
    }

    #[test]
    fn none_and_half_a_timer() {
        assert_eq!(parse(b"").unwrap(), []);
        assert!(parse(b"ID: 2\nsignal: 12/00000000deadbeef\n").is_err());
        assert!(parse(b"ID: 2\nsignal: 1/2\nnotify: signal/gid.1\nClockID: 1\n").is_err());
    }
}
