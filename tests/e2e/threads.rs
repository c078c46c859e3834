//! Threads with all that is their own, whatever they are doing.

use ckpt_tests::{Roundtrip, Suite, Whos};

use crate::{Plain, add_roundtrips};

const ROUNDTRIPS: &[Plain] = &[
    ("threads::eight_under_load_lose_nothing", "threads_load", &[]),
    ("threads::ids_names_masks_stacks_tls_rseq_join", "thread_state", &[]),
    ("threads::robust_mutex_tells_of_a_dead_owner", "robust", &[]),
    ("threads::policy_nice_affinity_slack_io_priority", "scheduling", &[]),
];

/// Waits that end by themselves: never too early, never with an error.
const TIMED: &[&str] = &[
    "nanosleep",
    "nanosleep-rem",
    "nanosleep-same",
    "clock_nanosleep",
    "clock_nanosleep-boot",
    "clock_nanosleep-abs",
    "poll",
    "ppoll",
    "select",
    "pselect",
    "epoll",
    "epoll_pwait",
    "epoll_pwait2",
    "futex-rel",
    "cond-real",
    "cond-monotonic",
    "sem",
    "sigtimedwait",
];

/// Waits that a signal sent after the restore ends.
const SIGNALLED: &[&str] = &["pause", "sigwait", "sigsuspend"];

/// Waits for input that comes after the restore.
const READING: &[&str] = &["read", "poll-stdin", "select-stdin"];

pub fn add(suite: &mut Suite) {
    add_roundtrips(suite, Whos::Both, ROUNDTRIPS);
    for mode in TIMED.iter().chain(SIGNALLED) {
        suite.add(&format!("threads::blocked_in_{mode}"), Whos::User, move |case| {
            Roundtrip::of("blocked").args(&[mode]).asleep().run(case)
        });
    }
    for mode in READING {
        suite.add(&format!("threads::blocked_in_{mode}"), Whos::User, move |case| {
            Roundtrip::of("blocked").args(&[mode]).asleep().typing(b"abc").run(case)
        });
    }
    suite.add("threads::blocked_in_everything_at_once", Whos::Both, |case| {
        Roundtrip::of("blocked").args(TIMED).asleep().run(case)
    });
    // A checkpoint turns a wait into one that the kernel has restarted, and looks different to the next one.
    suite.add("threads::checkpointed_before_in_everything_at_once", Whos::Both, |case| {
        let modes = [&["5000"], TIMED].concat();
        Roundtrip::of("blocked").args(&modes).asleep().checkpoints_before(2).run(case)
    });
    suite.add("threads::sleep_over_three_generations", Whos::User, |case| {
        Roundtrip::of("blocked").args(&["nanosleep", "poll", "cond-monotonic"]).asleep().generations(3).run(case)
    });
}
