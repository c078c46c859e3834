//! Attributes of a process as a whole: directory, limits, and what `prctl(2)` sets.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ckpt_trace::{Batch, Outcome, sys};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::proc::{self, Status};

const PR_SET_MDWE: u64 = 65;
const PR_GET_MDWE: u64 = 66;
const ARCH_GET_XCOMP_PERM: u64 = 0x1022;
const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
/// The AMX tile data component of XSAVE, the one that a process has to ask for.
const XFEATURE_XTILEDATA: u64 = 18;

/// The attributes.
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own in the kernel
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessAttributes {
    /// The working directory.
    #[serde(with = "super::bytes::path")]
    pub cwd: PathBuf,
    /// The file mode creation mask.
    pub umask: u32,
    /// Soft and hard limit of each resource; `u64::MAX` is unlimited.
    pub rlimits: Vec<(u64, u64)>,
    /// `personality(2)`.
    pub personality: u32,
    /// `PR_GET_DUMPABLE`.
    pub dumpable: u64,
    /// `PR_GET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// `PR_GET_CHILD_SUBREAPER`.
    pub child_subreaper: bool,
    /// `PR_GET_PDEATHSIG`.
    pub parent_death_signal: u32,
    /// `PR_GET_THP_DISABLE`.
    pub thp_disable: u64,
    /// `PR_GET_MDWE`.
    pub memory_deny_write_execute: u64,
    /// Whether AMX tiles were asked for (`ARCH_REQ_XCOMP_PERM`).
    pub has_tiles: bool,
    /// `/proc/PID/oom_score_adj`.
    pub oom_score_adj: i32,
    /// `/proc/PID/coredump_filter`.
    pub coredump_filter: Option<u32>,
    /// Whether it led its process group.
    pub leads_group: bool,
    /// Whether it led its session.
    pub leads_session: bool,
}

/// What was asked in a batch: indices of calls and addresses of answers.
pub struct Asked {
    dumpable: usize,
    subreaper: u64,
    death_signal: u64,
    thp_disable: usize,
    mdwe: usize,
    xcomp: (usize, u64),
    rlimits: u64,
}

/// Asks what only the process itself can tell.
pub fn ask(batch: &mut Batch) -> Asked {
    let prctl = |batch: &mut Batch, option: i32, argument: u64| {
        batch.call("prctl", libc::SYS_prctl, &[option.unsigned_abs().into(), argument, 0, 0, 0])
    };
    let subreaper = batch.space(8);
    let death_signal = batch.space(8);
    prctl(batch, libc::PR_GET_CHILD_SUBREAPER, subreaper);
    prctl(batch, libc::PR_GET_PDEATHSIG, death_signal);
    let rlimits = batch.space(16 * RLIMIT_NAMES.len());
    for resource in 0..RLIMIT_NAMES.len() as u64 {
        // Asked from outside, another user's limits take CAP_SYS_RESOURCE.
        batch.call("prlimit64", libc::SYS_prlimit64, &[0, resource, 0, rlimits + resource * 16]);
    }
    let permitted = batch.space(8);
    let xcomp = batch.call("arch_prctl", libc::SYS_arch_prctl, &[ARCH_GET_XCOMP_PERM, permitted]);
    Asked {
        dumpable: prctl(batch, libc::PR_GET_DUMPABLE, 0),
        subreaper,
        death_signal,
        thp_disable: prctl(batch, libc::PR_GET_THP_DISABLE, 0),
        mdwe: batch.call("prctl", libc::SYS_prctl, &[PR_GET_MDWE, 0, 0, 0, 0]),
        xcomp: (xcomp, permitted),
        rlimits,
    }
}

/// The working directory of a process.
///
/// # Errors
/// When it is gone, or the process is.
pub fn working_directory(pid: i32) -> Result<PathBuf, Error> {
    let directory = proc::tree::link(pid, "cwd")?;
    if directory.as_os_str().as_bytes().ends_with(b" (deleted)") {
        return Err(Error::refused(
            pid,
            format!("its working directory {} was removed", directory.display()),
            "let it change to a directory that exists",
        ));
    }
    Ok(directory)
}

impl ProcessAttributes {
    /// The attributes of a frozen process, with its answers to [`ask`].
    ///
    /// # Errors
    /// When its working directory is gone, or the process is.
    pub fn capture(pid: i32, status: &Status, asked: &Asked, answers: &Outcome) -> Result<Self, Error> {
        let rlimit = |index: u64| {
            let at = asked.rlimits + index * 16;
            (answers.word(at), answers.word(at + 8))
        };
        let own = status.ns_pid.last();
        Ok(Self {
            cwd: working_directory(pid)?,
            umask: status.umask.unwrap_or(0o022),
            rlimits: (0..RLIMIT_NAMES.len() as u64).map(rlimit).collect(),
            personality: proc::tree::personality(pid)?,
            dumpable: answers.result(asked.dumpable)?,
            no_new_privs: status.no_new_privs,
            child_subreaper: answers.half(asked.subreaper) != 0,
            parent_death_signal: answers.half(asked.death_signal),
            thp_disable: answers.result(asked.thp_disable).unwrap_or_default(),
            // Kernels before 6.3 do not know it, and nothing can be set then.
            memory_deny_write_execute: answers.result(asked.mdwe).unwrap_or_default(),
            has_tiles: answers.result(asked.xcomp.0).is_ok()
                && answers.word(asked.xcomp.1) & (1 << XFEATURE_XTILEDATA) != 0,
            oom_score_adj: proc::tree::oom_score_adj(pid)?,
            coredump_filter: proc::tree::coredump_filter(pid)?,
            leads_group: status.ns_pgid.last() == own,
            leads_session: status.ns_sid.last() == own,
        })
    }

    /// What the new process sets for itself early: nothing here hinders what is built after it. `directory` is where its
    /// working directory is to be found.
    pub fn rebuild_early(&self, directory: &Path, batch: &mut Batch) {
        let cwd = batch.string(directory.as_os_str().as_bytes());
        batch.call("chdir", libc::SYS_chdir, &[cwd]);
        batch.call("umask", libc::SYS_umask, &[self.umask.into()]);
        batch.call("personality", libc::SYS_personality, &[self.personality.into()]);
        if self.has_tiles {
            batch.call("arch_prctl", libc::SYS_arch_prctl, &[ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA]);
        }
    }

    /// What it sets when its memory and credentials are in place: things that forbid, and things that a change of
    /// credentials would reset. The signal for the parent's end is left out when the parent will not stay.
    pub fn rebuild_late(&self, parent_stays: bool, batch: &mut Batch) {
        let number = |option: i32| u64::from(option.unsigned_abs());
        let mut prctl = |name: &'static str, option: u64, arguments: [u64; 2]| {
            batch.call(name, libc::SYS_prctl, &[option, arguments[0], arguments[1], 0, 0]);
        };
        if self.child_subreaper {
            prctl("prctl(PR_SET_CHILD_SUBREAPER)", number(libc::PR_SET_CHILD_SUBREAPER), [1, 0]);
        }
        if self.thp_disable != 0 {
            // The answer is the flags of Linux 6.18 above the bit that says that it is disabled at all.
            let flags = self.thp_disable >> 1 << 1;
            prctl("prctl(PR_SET_THP_DISABLE)", number(libc::PR_SET_THP_DISABLE), [1, flags]);
        }
        if self.memory_deny_write_execute != 0 {
            prctl("prctl(PR_SET_MDWE)", PR_SET_MDWE, [self.memory_deny_write_execute, 0]);
        }
        prctl("prctl(PR_SET_DUMPABLE)", number(libc::PR_SET_DUMPABLE), [self.dumpable.min(1), 0]);
        if self.parent_death_signal != 0 && parent_stays {
            prctl("prctl(PR_SET_PDEATHSIG)", number(libc::PR_SET_PDEATHSIG), [self.parent_death_signal.into(), 0]);
        }
    }

    /// What each thread sets, when it needs no privileges any more.
    pub fn rebuild_no_new_privileges(&self, batch: &mut Batch) {
        if self.no_new_privs {
            let option = libc::PR_SET_NO_NEW_PRIVS.unsigned_abs().into();
            batch.call("prctl(PR_SET_NO_NEW_PRIVS)", libc::SYS_prctl, &[option, 1, 0, 0, 0]);
        }
    }

    /// Sets from outside what the process `pid` (as we see it) cannot set itself. What is not allowed is told in a note.
    pub fn rebuild_outside(&self, pid: i32, notes: &mut Vec<String>) {
        // What is shown and what is written differ in form for the filter.
        let mut write = |file: &str, shown: String, written: String| {
            let path = format!("/proc/{pid}/{file}");
            let is_set = fs::read_to_string(&path).is_ok_and(|now| now.trim_end() == shown);
            if !is_set && let Err(error) = fs::write(&path, written) {
                notes.push(format!("{file} {shown} could not be set ({error})"));
            }
        };
        let score = self.oom_score_adj.to_string();
        write("oom_score_adj", score.clone(), score);
        if let Some(filter) = self.coredump_filter {
            write("coredump_filter", format!("{filter:08x}"), format!("0x{filter:08x}"));
        }
        for (resource, (name, &(soft, hard))) in (0..).zip(RLIMIT_NAMES.iter().zip(&self.rlimits)) {
            if sys::rlimit(pid, resource).is_ok_and(|now| now == (soft, hard)) {
                continue;
            }
            if sys::set_rlimit(pid, resource, soft, hard).is_err() {
                // A higher hard limit takes privilege; what fits below ours is set.
                let highest = sys::rlimit(pid, resource).map_or(0, |(_, highest)| highest);
                let (soft, hard) = (soft.min(highest), hard.min(highest));
                let is_set = sys::set_rlimit(pid, resource, soft, hard).is_ok();
                let told = if is_set { format!("is {} now", limit(soft)) } else { "could not be set".to_owned() };
                notes.push(format!(
                    "the limit {name} {told}: a hard limit of {} takes privilege",
                    limit(self.rlimits[resource as usize].1)
                ));
            }
        }
    }
}

/// `RLIMIT_*` in the kernel's order (`include/uapi/asm-generic/resource.h`).
const RLIMIT_NAMES: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

/// A limit in words.
fn limit(value: u64) -> String {
    if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() }
}
