//! `/proc/PID/status`: ids, signal masks, capabilities of a process or thread.
//!
//! Printed by `fs/proc/array.c` (`proc_pid_status`). Signal masks have bit N-1
//! for signal N.

use super::text::{key_value, kilobytes, lines, number, unsigned, words};
use super::{Malformed, ProcError, read_as};

/// The fields of `status` that matter to a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// `Name`: the thread's name, up to 15 bytes, as it is.
    pub name: Vec<u8>,
    /// `State`: the letter, `R` `S` `D` `T` `t` `Z` `X` `I`.
    pub state: char,
    /// `Tgid`: the process.
    pub tgid: i32,
    /// `Pid`: the thread.
    pub pid: i32,
    /// `PPid`: 0 when the parent is outside the reader's pid namespace.
    pub ppid: i32,
    /// `TracerPid`: 0 when there is none.
    pub tracer_pid: i32,
    /// `Uid`: real, effective, saved, file system.
    pub uid: [u32; 4],
    /// `Gid`: real, effective, saved, file system.
    pub gid: [u32; 4],
    /// `Groups`: supplementary groups.
    pub groups: Vec<u32>,
    /// `NStgid`: the process's id in each pid namespace, from the reader's inwards.
    pub ns_tgid: Vec<i32>,
    /// `NSpid`: the thread's id likewise.
    pub ns_pid: Vec<i32>,
    /// `NSpgid`: the process group's id likewise.
    pub ns_pgid: Vec<i32>,
    /// `NSsid`: the session's id likewise.
    pub ns_sid: Vec<i32>,
    /// `Umask`. Absent from a zombie.
    pub umask: Option<u32>,
    /// `Threads`: how many the process has. 0 from a process that is being reaped.
    pub threads: u32,
    /// `VmLck`: locked memory in bytes.
    pub locked: u64,
    /// `SigPnd`: pending for the thread.
    pub sig_pnd: u64,
    /// `ShdPnd`: pending for the process.
    pub shd_pnd: u64,
    /// `SigBlk`: blocked.
    pub sig_blk: u64,
    /// `SigIgn`: ignored.
    pub sig_ign: u64,
    /// `SigCgt`: caught by a handler.
    pub sig_cgt: u64,
    /// `CapInh`: inheritable capabilities.
    pub cap_inh: u64,
    /// `CapPrm`: permitted capabilities.
    pub cap_prm: u64,
    /// `CapEff`: effective capabilities.
    pub cap_eff: u64,
    /// `CapBnd`: the bounding set.
    pub cap_bnd: u64,
    /// `CapAmb`: ambient capabilities.
    pub cap_amb: u64,
    /// `NoNewPrivs`.
    pub no_new_privs: bool,
    /// `Seccomp`: 0 none, 1 strict, 2 filter. 0 where the kernel has no seccomp.
    pub seccomp: u32,
    /// `Seccomp_filters`: how many. 0 before Linux 5.9.
    pub seccomp_filters: u32,
    /// `THP_enabled`: false after `PR_SET_THP_DISABLE`. Absent from what has no memory.
    pub thp_enabled: Option<bool>,
    /// `Kthread`: since Linux 6.8; [`super::Stat::is_kernel_thread`] is always there.
    pub kthread: Option<bool>,
    /// `x86_Thread_features`: such as `shstk`, `wrss`. Empty where there are none
    /// or the kernel has no user shadow stacks (Linux 6.6).
    pub x86_features: Vec<String>,
}

impl Status {
    /// Reads the status of a process, which is that of its first thread.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn of(pid: i32) -> Result<Self, ProcError> {
        read_as(format!("/proc/{pid}/status"), Self::parse)
    }

    /// Reads the status of one thread.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn of_thread(pid: i32, tid: i32) -> Result<Self, ProcError> {
        read_as(format!("/proc/{pid}/task/{tid}/status"), Self::parse)
    }

    /// The text of `status`. A field that is not there stays at its default,
    /// except those without which a process cannot be told: `State`, `Tgid`, `Pid`.
    ///
    /// # Errors
    /// When a known field has a value that the kernel does not print.
    pub fn parse(text: &[u8]) -> Result<Self, Malformed> {
        let mut status = Self::default();
        for line in lines(text) {
            if let Some(escaped) = line.strip_prefix(b"Name:\t") {
                // Spaces around it are its own.
                status.name = name(escaped);
            } else if let Some((key, value)) = key_value(line) {
                let known = status
                    .set_identity(key, value)
                    .or_else(|| status.set_masks(key, value))
                    .or_else(|| status.set_switches(key, value));
                if known == Some(Field::Wrong) {
                    return Err(Malformed::new("no such value is known", line));
                }
            }
        }
        if status.state == '\0' || status.tgid <= 0 || status.pid <= 0 {
            return Err(Malformed::new("State, Tgid or Pid is missing", text));
        }
        Ok(status)
    }

    /// Takes one of the fields that say who the process is.
    fn set_identity(&mut self, key: &[u8], value: &[u8]) -> Option<Field> {
        Some(match key {
            b"State" => put(&mut self.state, value.first().map(|&state| char::from(state))),
            b"Tgid" => put(&mut self.tgid, number(value)),
            b"Pid" => put(&mut self.pid, number(value)),
            b"PPid" => put(&mut self.ppid, number(value)),
            b"TracerPid" => put(&mut self.tracer_pid, number(value)),
            b"Uid" => put(&mut self.uid, list(value).and_then(|ids| ids.try_into().ok())),
            b"Gid" => put(&mut self.gid, list(value).and_then(|ids| ids.try_into().ok())),
            b"Groups" => put(&mut self.groups, list(value)),
            b"NStgid" => put(&mut self.ns_tgid, list(value)),
            b"NSpid" => put(&mut self.ns_pid, list(value)),
            b"NSpgid" => put(&mut self.ns_pgid, list(value)),
            b"NSsid" => put(&mut self.ns_sid, list(value)),
            b"Threads" => put(&mut self.threads, number(value)),
            b"VmLck" => put(&mut self.locked, kilobytes(value)),
            _ => return None,
        })
    }

    /// Takes one of the sets that are printed as 16 hexadecimal digits.
    fn set_masks(&mut self, key: &[u8], value: &[u8]) -> Option<Field> {
        let mask = match key {
            b"SigPnd" => &mut self.sig_pnd,
            b"ShdPnd" => &mut self.shd_pnd,
            b"SigBlk" => &mut self.sig_blk,
            b"SigIgn" => &mut self.sig_ign,
            b"SigCgt" => &mut self.sig_cgt,
            b"CapInh" => &mut self.cap_inh,
            b"CapPrm" => &mut self.cap_prm,
            b"CapEff" => &mut self.cap_eff,
            b"CapBnd" => &mut self.cap_bnd,
            b"CapAmb" => &mut self.cap_amb,
            _ => return None,
        };
        Some(put(mask, unsigned(value, 16)))
    }

    /// Takes one of the settings.
    fn set_switches(&mut self, key: &[u8], value: &[u8]) -> Option<Field> {
        Some(match key {
            b"Umask" => {
                let umask = unsigned(value, 8).and_then(|umask| u32::try_from(umask).ok());
                put(&mut self.umask, umask.map(Some))
            }
            b"NoNewPrivs" => put(&mut self.no_new_privs, switch(value)),
            b"Seccomp" => put(&mut self.seccomp, number(value)),
            b"Seccomp_filters" => put(&mut self.seccomp_filters, number(value)),
            b"THP_enabled" => put(&mut self.thp_enabled, switch(value).map(Some)),
            b"Kthread" => put(&mut self.kthread, switch(value).map(Some)),
            b"x86_Thread_features" => {
                let features = words(value).map(|word| String::from_utf8_lossy(word).into_owned());
                put(&mut self.x86_features, Some(features.collect()))
            }
            _ => return None,
        })
    }
}

/// What became of the value of a known field.
#[derive(PartialEq, Eq)]
enum Field {
    Set,
    Wrong,
}

fn put<T>(place: &mut T, value: Option<T>) -> Field {
    match value {
        Some(value) => {
            *place = value;
            Field::Set
        }
        None => Field::Wrong,
    }
}

fn list<T: TryFrom<i128>>(value: &[u8]) -> Option<Vec<T>> {
    words(value).map(number).collect()
}

fn switch(value: &[u8]) -> Option<bool> {
    match value {
        b"0" => Some(false),
        b"1" => Some(true),
        _ => None,
    }
}

/// The name with the two escapes undone that `proc_task_name` makes.
fn name(value: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.as_slice().first() {
                Some(b'n') => {
                    bytes.next();
                    b'\n'
                }
                Some(b'\\') => {
                    bytes.next();
                    b'\\'
                }
                _ => byte,
            },
            _ => byte,
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "\
Name:\ta\\\\b\\nc 
Umask:\t0027
State:\tt (tracing stop)
Tgid:\t3348
Ngid:\t0
Pid:\t3350
PPid:\t3346
TracerPid:\t77
Uid:\t1000\t0\t1001\t4294967294
Gid:\t1\t2\t3\t4
FDSize:\t256
Groups:\t4 24 1000 
NStgid:\t3348\t7
NSpid:\t3350\t9
NSpgid:\t3346\t0
NSsid:\t2233\t0
Kthread:\t0
VmPeak:\t    3060 kB
THP_enabled:\t1
Threads:\t12
SigQ:\t0/96365
SigPnd:\t0000000000000001
ShdPnd:\t0000000000000200
SigBlk:\tfffffffe7ffbfeff
SigIgn:\t0000000000001000
SigCgt:\t0000000180004002
CapInh:\t0000000000000000
CapPrm:\t000001fffeffffff
CapEff:\t000001fffefffff0
CapBnd:\t000001fffeffff00
CapAmb:\t0000000000000008
NoNewPrivs:\t1
Seccomp:\t2
Seccomp_filters:\t3
Cpus_allowed_list:\t0-1
x86_Thread_features:\tshstk wrss 
x86_Thread_features_locked:\t
";

    #[test]
    fn every_field() {
        let status = Status::parse(STATUS.as_bytes()).unwrap();
        let expected = Status {
            name: b"a\\b\nc ".to_vec(),
            state: 't',
            tgid: 3348,
            pid: 3350,
            ppid: 3346,
            tracer_pid: 77,
            uid: [1000, 0, 1001, 4_294_967_294],
            gid: [1, 2, 3, 4],
            groups: vec![4, 24, 1000],
            ns_tgid: vec![3348, 7],
            ns_pid: vec![3350, 9],
            ns_pgid: vec![3346, 0],
            ns_sid: vec![2233, 0],
            umask: Some(0o27),
            threads: 12,
            locked: 0,
            sig_pnd: 1,
            shd_pnd: 0x200,
            sig_blk: 0xffff_fffe_7ffb_feff,
            sig_ign: 0x1000,
            sig_cgt: 0x1_8000_4002,
            cap_inh: 0,
            cap_prm: 0x1ff_feff_ffff,
            cap_eff: 0x1ff_feff_fff0,
            cap_bnd: 0x1ff_feff_ff00,
            cap_amb: 8,
            no_new_privs: true,
            seccomp: 2,
            seccomp_filters: 3,
            thp_enabled: Some(true),
            kthread: Some(false),
            x86_features: vec!["shstk".to_owned(), "wrss".to_owned()],
        };
        assert_eq!(status, expected);
    }

    #[test]
    fn a_zombie_has_few_fields() {
        let status = Status::parse(b"Name:\tx\nState:\tZ (zombie)\nTgid:\t5\nPid:\t5\nGroups:\t \n");
        let status = status.unwrap();
        assert_eq!((status.state, status.umask, status.kthread), ('Z', None, None));
        assert!(status.groups.is_empty() && status.x86_features.is_empty());
    }

    #[test]
    fn wrong_values_are_refused() {
        assert!(Status::parse(b"").is_err());
        for (from, to) in [
            ("Uid:\t1000\t", "Uid:\t"),
            ("Threads:\t12", "Threads:\t"),
            ("Umask:\t0027", "Umask:\t0029"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t2"),
            ("SigBlk:\tf", "SigBlk:\tff"),
            ("Pid:\t3350", "Pid:\t-1"),
        ] {
            let text = STATUS.replacen(from, to, 1);
            assert!(Status::parse(text.as_bytes()).is_err(), "{to}");
        }
    }

    #[test]
    fn an_escape_that_the_kernel_does_not_make_stays() {
        assert_eq!(name(b"a\\tb\\"), b"a\\tb\\");
    }
}
