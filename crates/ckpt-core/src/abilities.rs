//! What this machine allows, found by trying.

use std::io;

use ckpt_trace::sys;
use serde::Serialize;

use crate::page_finder::PageFinder;
use crate::proc::Status;
use crate::resource::machine::Machine;

/// What this machine and user can do.
#[derive(Debug, Clone, Serialize)]
#[allow(clippy::struct_excessive_bools)] // each is found by a trial of its own
pub struct Abilities {
    /// The machine.
    pub machine: Machine,
    /// Whether a nest can be made: what it lacks, or why it cannot.
    pub nest: Result<Vec<String>, String>,
    /// `PAGEMAP_SCAN` (Linux 6.7): finding a large program's pages quickly.
    pub pagemap_scan: bool,
    /// `userfaultfd(2)` for user-mode faults.
    pub userfaultfd: bool,
    /// `PR_TIMER_CREATE_RESTORE_IDS` (Linux 6.15): timers get their ids without a detour.
    pub timer_ids: bool,
    /// `CAP_CHECKPOINT_RESTORE` or more: old ids without a nest, where they are free.
    pub checkpoint_capability: bool,
    /// Yama's `ptrace_scope`; `None` without Yama.
    pub ptrace_scope: Option<u32>,
}

/// Finds out.
#[must_use]
pub fn abilities() -> Abilities {
    const CAP_SYS_ADMIN: u32 = 21;
    const CAP_CHECKPOINT_RESTORE: u32 = 40;
    let us = rustix::process::getpid().as_raw_nonzero().get();
    let held = Status::of(us).map_or(0, |status| status.cap_eff);
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    Abilities {
        machine: Machine::this(),
        nest: crate::restore::try_nest(),
        pagemap_scan: has_pagemap_scan(us).unwrap_or(false),
        userfaultfd: sys::has_userfaultfd(),
        timer_ids: sys::has_timer_ids(),
        checkpoint_capability: held & (1 << CAP_SYS_ADMIN | 1 << CAP_CHECKPOINT_RESTORE) != 0,
        ptrace_scope: scope.ok().and_then(|text| text.trim().parse().ok()),
    }
}

fn has_pagemap_scan(pid: i32) -> io::Result<bool> {
    let mut finder = PageFinder::open(pid)?;
    finder.own_pages(0..ckpt_trace::PAGE)?;
    Ok(finder.has_scan())
}
