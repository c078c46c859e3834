//! `/proc/PID/task/TID/syscall`: the system call that a thread is in.
//!
//! Printed by `fs/proc/base.c` (`proc_pid_syscall`) from `lib/syscall.c`. Reading it
//! takes the right to trace the thread.

use super::text::{number, prefixed_hex, words};
use super::{Malformed, ProcError, read_as};

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyscallState {
    /// It runs, or is about to.
    Running,
    /// It waits in a system call.
    Blocked {
        /// The number of the call.
        nr: i64,
        /// Its arguments.
        args: [u64; 6],
        /// The stack pointer.
        sp: u64,
        /// The instruction after the call.
        pc: u64,
    },
    /// It waits, but not in a system call: stopped, or in a page fault.
    NotInSyscall {
        /// The stack pointer.
        sp: u64,
        /// The next instruction.
        pc: u64,
    },
}

impl SyscallState {
    /// Reads what thread `tid` of `pid` does.
    ///
    /// # Errors
    /// When the file cannot be read (EPERM without the right to trace it) or understood.
    pub fn of(pid: i32, tid: i32) -> Result<Self, ProcError> {
        read_as(format!("/proc/{pid}/task/{tid}/syscall"), Self::parse)
    }

    /// The line of `syscall`.
    ///
    /// # Errors
    /// When it is not as the kernel prints it.
    pub fn parse(text: &[u8]) -> Result<Self, Malformed> {
        state(text.trim_ascii()).ok_or_else(|| Malformed::new("no system call", text))
    }
}

fn state(line: &[u8]) -> Option<SyscallState> {
    if line == b"running" {
        return Some(SyscallState::Running);
    }
    let mut words = words(line);
    let nr: i64 = number(words.next()?)?;
    let values: Vec<u64> = words.map(prefixed_hex).collect::<Option<_>>()?;
    let (before, &[sp, pc]) = values.split_last_chunk()?;
    match before {
        [] if nr == -1 => Some(SyscallState::NotInSyscall { sp, pc }),
        args if nr >= 0 => Some(SyscallState::Blocked { nr, args: args.try_into().ok()?, sp, pc }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_states() {
        assert_eq!(SyscallState::parse(b"running\n").unwrap(), SyscallState::Running);
        assert_eq!(
            SyscallState::parse(b"230 0x1 0x1 0x7f2885002c40 0x0 0x0 0x5 0x7f2885002c00 0x7f28856ed545\n").unwrap(),
            SyscallState::Blocked {
                nr: 230,
                args: [1, 1, 0x7f28_8500_2c40, 0, 0, 5],
                sp: 0x7f28_8500_2c00,
                pc: 0x7f28_856e_d545,
            }
        );
        assert_eq!(SyscallState::parse(b"-1 0x10 0x20\n").unwrap(), SyscallState::NotInSyscall { sp: 16, pc: 32 });
    }

    #[test]
    fn other_lines_are_refused() {
        for line in ["", "runnin", "1 0x2", "-1 0x1 0x2 0x3", "1 2 3 4 5 6 7 8 9"] {
            assert!(SyscallState::parse(line.as_bytes()).is_err(), "{line}");
        }
    }
}
