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
];

pub fn add(suite: &mut Suite) {
    add_roundtrips(suite, Whos::Both, ROUNDTRIPS);
    suite.add("timers::monotonic_clocks_do_not_see_the_time_on_disk", Whos::Both, clocks);
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
