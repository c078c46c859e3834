//! `/proc/PID/task/TID/sched`: what the scheduler knows of a thread.
//!
//! Printed by `kernel/sched/debug.c` (`proc_sched_show_task`); only there when the
//! kernel was built with its debugging of the scheduler, as all common ones are.

use super::text::{key_value, lines, unsigned};
use super::{Malformed, ProcError, read_as};

/// Reads when the thread was last given or charged CPU time: `se.exec_start`, in
/// nanoseconds of the CPU's own clock. It only changes when the thread has run.
/// `None` when this kernel does not say.
///
/// # Errors
/// When the file is there but cannot be read or understood.
pub fn exec_start(pid: i32, tid: i32) -> Result<Option<u64>, ProcError> {
    match read_as(format!("/proc/{pid}/task/{tid}/sched"), parse_exec_start) {
        Err(error) if error.is_gone() && is_alive(pid, tid) => Ok(None),
        other => other,
    }
}

fn is_alive(pid: i32, tid: i32) -> bool {
    std::fs::exists(format!("/proc/{pid}/task/{tid}")).unwrap_or(false)
}

/// `se.exec_start` in the text of `sched`, which prints milliseconds with six
/// digits after the point.
///
/// # Errors
/// When the line is there but holds no such number.
pub fn parse_exec_start(text: &[u8]) -> Result<Option<u64>, Malformed> {
    for line in lines(text) {
        if let Some((b"se.exec_start", value)) = key_value(line) {
            let nanos = nanoseconds(value).ok_or_else(|| Malformed::new("no time", line))?;
            return Ok(Some(nanos));
        }
    }
    Ok(None)
}

fn nanoseconds(value: &[u8]) -> Option<u64> {
    let (fraction, before) = value.split_last_chunk::<6>().map(|(a, b)| (b, a))?;
    let millis = unsigned(before.strip_suffix(b".")?, 10)?;
    millis.checked_mul(1_000_000)?.checked_add(unsigned(fraction, 10)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_taken_to_the_nanosecond() {
        let text = b"head (3354, #threads: 1)\n\
            -------------------------------------------------------------------\n\
            se.exec_start                                :        993906.012256\n\
            se.vruntime                                  :            78.699777\n";
        assert_eq!(parse_exec_start(text).unwrap(), Some(993_906_012_256));
    }

    #[test]
    fn none_and_nonsense() {
        assert_eq!(parse_exec_start(b"se.vruntime : 1.000000\n").unwrap(), None);
        assert!(parse_exec_start(b"se.exec_start : 1.5\n").is_err());
        assert!(parse_exec_start(b"se.exec_start : 99999999999999999999.000000\n").is_err());
    }

    #[test]
    fn own_thread() {
        let pid = i32::try_from(std::process::id()).unwrap();
        if let Some(nanos) = exec_start(pid, pid).unwrap() {
            assert!(nanos > 0);
        }
    }
}
