//! Interval timers (`setitimer(2)`) and POSIX timers (`timer_create(2)`).
//!
//! The kernel tells how much time is left, not whether it was given as an instant: a timer of the wall clock goes off
//! later by as long as the program was away.

use std::collections::BTreeMap;

use ckpt_trace::{Batch, Outcome, Tid};
use serde::{Deserialize, Serialize};

use crate::proc::{self, PosixTimer, TimerNotify, TimerTarget};

/// `ITIMER_REAL`, `ITIMER_VIRTUAL`, `ITIMER_PROF`.
const INTERVAL_TIMERS: u64 = 3;
/// `prctl(PR_TIMER_CREATE_RESTORE_IDS)`, Linux 6.15: `timer_create` takes the id that it shall give.
const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;

/// All timers of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerState {
    /// Real, virtual and profiling: interval and remaining time as seconds and microseconds; all 0 when off.
    pub interval: Vec<[u64; 4]>,
    /// POSIX timers in the order of their ids.
    pub posix: Vec<PosixTimerState>,
}

/// A POSIX timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PosixTimerState {
    /// Its id.
    pub id: i32,
    /// Its clock.
    pub clock: i32,
    /// `SIGEV_SIGNAL` 0, `SIGEV_NONE` 1, `SIGEV_THREAD` 2.
    pub notify: u32,
    /// Which signal it sends.
    pub signal: i32,
    /// The value that goes with the signal.
    pub value: u64,
    /// The thread that it tells, if one alone (`SIGEV_THREAD_ID`), by the id that the program sees.
    pub thread: Option<i32>,
    /// Interval and remaining time, as seconds and nanoseconds; all 0 when off.
    pub setting: [u64; 4],
}

/// What was asked in a batch.
pub struct Asked {
    interval: u64,
    posix: Vec<(PosixTimer, u64)>,
}

/// Asks how much time is left of every timer of process `pid`.
///
/// # Errors
/// When `/proc/PID/timers` cannot be read.
pub fn ask(pid: i32, batch: &mut Batch) -> Result<Asked, crate::Error> {
    let interval = batch.space(32 * 3);
    for which in 0..INTERVAL_TIMERS {
        batch.call("getitimer", libc::SYS_getitimer, &[which, interval + which * 32]);
    }
    let mut posix = Vec::new();
    for timer in proc::timers::timers(pid)? {
        if !batch.has_room(1, 32) {
            return Err(crate::Error::refused(
                pid,
                "it has more POSIX timers than can be saved",
                "let it delete some before the checkpoint",
            ));
        }
        let setting = batch.space(32);
        batch.call("timer_gettime", libc::SYS_timer_gettime, &[u64::from(timer.id.unsigned_abs()), setting]);
        posix.push((timer, setting));
    }
    Ok(Asked { interval, posix })
}

impl TimerState {
    /// The answers of process `pid`. `inner_ids` tells of each of its threads, by the id that we see, the id that the program
    /// sees.
    ///
    /// # Errors
    /// [`crate::Error::Refused`] for a timer that tells a thread which the process does not have.
    pub fn capture(
        pid: i32,
        asked: &Asked,
        answers: &Outcome,
        inner_ids: &BTreeMap<Tid, i32>,
    ) -> Result<Self, crate::Error> {
        let words = |at: u64| [0, 8, 16, 24].map(|offset| answers.word(at + offset));
        let interval = (0..INTERVAL_TIMERS).map(|which| words(asked.interval + which * 32)).collect();
        let mut posix = Vec::with_capacity(asked.posix.len());
        for (timer, setting) in &asked.posix {
            posix.push(PosixTimerState {
                id: timer.id,
                clock: timer.clock,
                notify: match timer.notify {
                    TimerNotify::Signal => 0,
                    TimerNotify::None => 1,
                    TimerNotify::Thread => 2,
                },
                signal: timer.signal,
                value: timer.value,
                thread: match timer.target {
                    TimerTarget::Thread(tid) => Some(*inner_ids.get(&tid).ok_or_else(|| without_thread(pid, timer))?),
                    TimerTarget::Process(_) => None,
                },
                setting: words(*setting),
            });
        }
        Ok(Self { interval, posix })
    }

    /// Makes the POSIX timers again with their ids, not yet running. `new_tid` tells a thread's id of now.
    pub fn rebuild(&self, batch: &mut Batch, has_restore_ids: bool, new_tid: impl Fn(i32) -> i32) {
        const SIGEV_THREAD_ID: u32 = 4;
        let switch = |batch: &mut Batch, on: u64| {
            batch.call(
                "prctl(PR_TIMER_CREATE_RESTORE_IDS)",
                libc::SYS_prctl,
                &[PR_TIMER_CREATE_RESTORE_IDS, on, 0, 0, 0],
            );
        };
        if self.posix.is_empty() {
            return;
        }
        if has_restore_ids {
            switch(batch, 1);
        }
        let mut next = 0;
        for timer in &self.posix {
            let mut event = [0; 64];
            event[..8].copy_from_slice(&timer.value.to_le_bytes());
            event[8..12].copy_from_slice(&timer.signal.to_le_bytes());
            let notify = timer.notify | if timer.thread.is_some() { SIGEV_THREAD_ID } else { 0 };
            event[12..16].copy_from_slice(&notify.to_le_bytes());
            event[16..20].copy_from_slice(&timer.thread.map_or(0, &new_tid).to_le_bytes());
            let event = batch.data(&event);
            let id = batch.data(&timer.id.to_le_bytes());
            let clock = i64::from(clock_of(timer.clock, &new_tid)).cast_unsigned();
            // Without the prctl ids are given in ascending order: those in between are made and deleted.
            while !has_restore_ids && next < timer.id {
                batch.call("timer_create", libc::SYS_timer_create, &[0, 0, id]);
                batch.call("timer_delete", libc::SYS_timer_delete, &[u64::from(next.unsigned_abs())]);
                next += 1;
            }
            let wanted = batch.data(&timer.id.to_le_bytes());
            batch.call("timer_create", libc::SYS_timer_create, &[clock, event, wanted]);
            next += 1;
        }
        if has_restore_ids {
            switch(batch, 0);
        }
    }

    /// Lets the timers go on: the last act before the program runs.
    pub fn start(&self, batch: &mut Batch) {
        let bytes = |setting: &[u64; 4]| setting.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        for (which, setting) in self.interval.iter().enumerate().filter(|(_, setting)| **setting != [0; 4]) {
            let mut setting = *setting;
            // One that has gone off begins again when its signal is taken (`posixtimer_rearm_itimer`), and until then has no
            // time left. Set to that it would be off; set to the least, it goes off into the signal that is pending.
            if setting[2..] == [0; 2] {
                setting[3] = 1;
            }
            let at = batch.data(&bytes(&setting));
            batch.call("setitimer", libc::SYS_setitimer, &[which as u64, at, 0]);
        }
        for timer in self.posix.iter().filter(|timer| timer.setting != [0; 4]) {
            let at = batch.data(&bytes(&timer.setting));
            batch.call("timer_settime", libc::SYS_timer_settime, &[u64::from(timer.id.unsigned_abs()), 0, at, 0]);
        }
    }
}

/// A clock of `timer_create` after the restore: that of a process or thread names it by the id that it had
/// (`include/linux/posix-timers_types.h`, `MAKE_PROCESS_CPUCLOCK`), or by 0 for the caller.
fn clock_of(clock: i32, new_tid: impl Fn(i32) -> i32) -> i32 {
    const BELOW_ID: u32 = 3;
    let id = !(clock >> BELOW_ID);
    if clock >= 0 || id == 0 {
        return clock;
    }
    !new_tid(id) << BELOW_ID | clock & ((1 << BELOW_ID) - 1)
}

fn without_thread(pid: i32, timer: &PosixTimer) -> crate::Error {
    crate::Error::refused(
        pid,
        format!("its POSIX timer {} tells a thread that has ended, and such a timer cannot be made again", timer.id),
        "let it delete the timer before the checkpoint",
    )
}

#[cfg(test)]
mod tests;
