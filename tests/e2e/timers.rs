//! Timers and clocks go on from where they were.

use std::time::Duration;

use anyhow::{Result, ensure};
use ckpt_tests::{Case, Ending, Roundtrip, Suite, Whos};

use crate::{Plain, add_roundtrips};

const ROUNDTRIPS: &[Plain] = &[
    ("timers::interval_timers", "timers", &["interval"]),
    ("timers::posix_timers_with_ids_and_remaining_time", "timers", &["posix"]),
    ("timers::timer_on_processor_time", "timers", &["cpu"]),
    ("timers::timer_for_one_thread", "timers", &["thread"]),
    ("timers::timers_for_each_kind_of_target", "timers", &["targets"]),
];

pub fn add(suite: &mut Suite) {
    add_roundtrips(suite, Whos::Both, ROUNDTRIPS);
    // One that was restored lives in a nest, where its threads have other ids than those that we see.
    for mode in ["targets", "thread", "posix", "cpu"] {
        for generations in [2, 3] {
            suite.add(&format!("timers::{mode}_over_{generations}_generations"), Whos::Both, move |case| {
                Roundtrip::of("timers").args(&[mode]).checkpoints_before(1).generations(generations).run(case)
            });
        }
    }
    // Another id: a clock that names the thread is not its any more.
    suite.add("timers::processor_time_under_another_id", Whos::Both, |case| {
        Roundtrip::of("timers").args(&["cpu"]).restore_flags(&["--nest", "never"]).run(case)
    });
    suite.add("timers::timer_of_a_thread_that_has_ended", Whos::User, timer_without_thread);
    suite.add("timers::monotonic_clocks_do_not_see_the_time_on_disk", Whos::Both, clocks);
}

/// It is refused, and the program goes on.
fn timer_without_thread(case: &Case) -> Result<()> {
    Roundtrip::of("timers").args(&["orphan"]).undergo(case, |pid| {
        let refused = case.run(&mut case.checkpoint_command(pid, &case.path("image"), &["--stop"]))?;
        refused.expect_refusal(&[3], &["POSIX timer 0", "thread that has ended"]).map(drop)
    })
}

fn clocks(case: &Case) -> Result<()> {
    let program = Roundtrip::of("timers").args(&["clocks", "disturbed"]).start(case)?;
    let image = case.path("image");
    case.checkpoint(program.pid(), &image, &["--stop"])?;
    // This time on disk is the test's subject.
    std::thread::sleep(Duration::from_secs(3));
    let mut restored = case.restore(&image, &["--nest", "always"])?;
    case.go()?;
    ensure!(restored.wait()? == Ending::Exited(0), "{}", restored.streams());
    Ok(())
}
