//! `/proc/PID/stat`: one line of numbers, printed by `fs/proc/array.c` (`do_task_stat`).

use super::text::{number, words};
use super::{Malformed, ProcError, read_as};

/// The fields of `stat` that matter to a checkpoint, under the names of proc(5).
///
/// To a reader that may not trace the process, every address is shown as 0 or 1
/// and the exit code as 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// The process or thread (1).
    pub pid: i32,
    /// The thread's name (2), with nothing escaped.
    pub comm: Vec<u8>,
    /// The letter of its state (3).
    pub state: char,
    /// Its parent (4).
    pub ppid: i32,
    /// Its process group (5).
    pub pgrp: i32,
    /// Its session (6).
    pub session: i32,
    /// The device number of its controlling terminal (7), 0 when it has none.
    pub tty_nr: i32,
    /// The foreground process group of that terminal (8), -1 when it has none.
    pub tpgid: i32,
    /// The kernel's flags `PF_*` (9).
    pub flags: u32,
    /// When it started (22): clock ticks since boot, in the reader's time namespace.
    pub starttime: u64,
    /// Where its code begins (26).
    pub start_code: u64,
    /// Where its code ends (27).
    pub end_code: u64,
    /// The bottom of its stack (28).
    pub start_stack: u64,
    /// The signal that its end sends to its parent (38), -1 for a thread.
    pub exit_signal: i32,
    /// The processor that it last ran on (39).
    pub processor: u32,
    /// Where its initialized data begins (45).
    pub start_data: u64,
    /// Where its data ends (46).
    pub end_data: u64,
    /// Where the brk area begins (47). Where it ends is only known by brk(2).
    pub start_brk: u64,
    /// Where its arguments begin (48).
    pub arg_start: u64,
    /// Where its arguments end (49).
    pub arg_end: u64,
    /// Where its environment begins (50).
    pub env_start: u64,
    /// Where its environment ends (51).
    pub env_end: u64,
    /// Its status as of waitpid (52), when it is a zombie.
    pub exit_code: i32,
}

impl Stat {
    /// Reads the stat of a process.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn of(pid: i32) -> Result<Self, ProcError> {
        read_as(format!("/proc/{pid}/stat"), Self::parse)
    }

    /// Reads the stat of one thread.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn of_thread(pid: i32, tid: i32) -> Result<Self, ProcError> {
        read_as(format!("/proc/{pid}/task/{tid}/stat"), Self::parse)
    }

    /// The line of `stat`.
    ///
    /// # Errors
    /// When a field is missing or not a number.
    pub fn parse(text: &[u8]) -> Result<Self, Malformed> {
        fields(text).ok_or_else(|| Malformed::new("a field is missing or wrong", text))
    }

    /// Whether it is a thread of the kernel, `PF_KTHREAD` of `include/linux/sched.h`.
    #[must_use]
    pub const fn is_kernel_thread(&self) -> bool {
        const PF_KTHREAD: u32 = 0x0020_0000;
        self.flags & PF_KTHREAD != 0
    }
}

fn fields(text: &[u8]) -> Option<Stat> {
    // A name may hold anything, parentheses and spaces and newlines too; what
    // follows it may not.
    let open = text.iter().position(|&byte| byte == b'(')?;
    let close = text.iter().rposition(|&byte| byte == b')')?;
    let after: Vec<&[u8]> = words(text.get(close + 1..)?.trim_ascii_end()).collect();
    // `at` counts as proc(5) does, where the state is field 3.
    let at = |field: usize| after.get(field - 3).copied();
    let &[state] = at(3)? else { return None };
    Some(Stat {
        pid: number(text.get(..open)?.trim_ascii_end())?,
        comm: text.get(open + 1..close)?.to_vec(),
        state: char::from(state),
        ppid: number(at(4)?)?,
        pgrp: number(at(5)?)?,
        session: number(at(6)?)?,
        tty_nr: number(at(7)?)?,
        tpgid: number(at(8)?)?,
        flags: number(at(9)?)?,
        starttime: number(at(22)?)?,
        start_code: number(at(26)?)?,
        end_code: number(at(27)?)?,
        start_stack: number(at(28)?)?,
        exit_signal: number(at(38)?)?,
        processor: number(at(39)?)?,
        start_data: number(at(45)?)?,
        end_data: number(at(46)?)?,
        start_brk: number(at(47)?)?,
        arg_start: number(at(48)?)?,
        arg_end: number(at(49)?)?,
        env_start: number(at(50)?)?,
        env_end: number(at(51)?)?,
        exit_code: number(at(52)?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: &str = "R 3346 3345 2233 34816 -1 4194304 99 0 0 0 0 0 0 0 20 0 1 0 99394 3133440 \
        360 18446744073709551615 94650210443264 94650210463145 140722204497136 0 0 0 0 0 0 0 0 0 17 \
        1 0 0 0 0 0 94650210479152 94650210480768 94650282487808 140722204502754 140722204502774 \
        140722204502775 140722204504043 256\n";

    #[test]
    fn every_field_is_in_its_place() {
        let stat = Stat::parse(format!("3349 (cat) {AFTER}").as_bytes()).unwrap();
        assert_eq!((stat.pid, stat.comm.as_slice(), stat.state), (3349, &b"cat"[..], 'R'));
        assert_eq!((stat.ppid, stat.pgrp, stat.session), (3346, 3345, 2233));
        assert_eq!((stat.tty_nr, stat.tpgid, stat.flags), (34816, -1, 4_194_304));
        assert_eq!((stat.starttime, stat.exit_signal, stat.processor), (99394, 17, 1));
        assert_eq!((stat.start_code, stat.end_code), (94_650_210_443_264, 94_650_210_463_145));
        assert_eq!(stat.start_stack, 140_722_204_497_136);
        assert_eq!((stat.start_data, stat.end_data), (94_650_210_479_152, 94_650_210_480_768));
        assert_eq!(stat.start_brk, 94_650_282_487_808);
        assert_eq!((stat.arg_start, stat.arg_end), (140_722_204_502_754, 140_722_204_502_774));
        assert_eq!((stat.env_start, stat.env_end), (140_722_204_502_775, 140_722_204_504_043));
        assert_eq!(stat.exit_code, 256);
        assert!(!stat.is_kernel_thread());
    }

    #[test]
    fn a_name_may_hold_anything() {
        for name in ["", ") R 1 (", "a b", "a\nb", "((", "))"] {
            let stat = Stat::parse(format!("3349 ({name}) {AFTER}").as_bytes()).unwrap();
            assert_eq!(stat.comm, name.as_bytes());
            assert_eq!(stat.exit_code, 256);
        }
    }

    #[test]
    fn a_kernel_thread() {
        let after = AFTER.replace("4194304", "2129984");
        let stat = Stat::parse(format!("2 (kthreadd) {after}").as_bytes()).unwrap();
        assert!(stat.is_kernel_thread());
    }

    #[test]
    fn a_short_line_is_refused() {
        assert!(Stat::parse(b"").is_err());
        assert!(Stat::parse(b"1 )(").is_err());
        assert!(Stat::parse(b"1 (a) R 1 2 3").is_err());
    }
}
