//! Signals: what is set, what waits, what is being handled.

use std::time::Duration;

use anyhow::{Result, ensure};
use ckpt_tests::{Case, Roundtrip, Suite, Whos};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Plain, add_roundtrips};

const ROUNDTRIPS: &[Plain] = &[
    ("signals::dispositions_of_all_64", "dispositions", &[]),
    ("signals::defaults_stay_defaults", "defaults", &[]),
    ("signals::interval_timer_with_its_signal_pending", "alarm_pending", &[]),
    ("signals::pending_with_values_in_order", "pending", &[]),
    ("signals::in_the_middle_of_nested_handlers", "handler", &[]),
];

pub fn add(suite: &mut Suite) {
    add_roundtrips(suite, Whos::Both, ROUNDTRIPS);
    suite.add("signals::stopped_program_comes_back_stopped", Whos::Both, comes_back_stopped);
}

fn comes_back_stopped(case: &Case) -> Result<()> {
    let mut program = Roundtrip::of("stopped").start(case)?;
    program.signal(Signal::STOP)?;
    case.wait_until("it is stopped", || Case::state(program.pid()) == Some('T'))?;
    let image = case.path("image");
    case.checkpoint(program.pid(), &image, &[])?;
    ensure!(Case::state(program.pid()) == Some('T'), "the checkpoint has let it run");
    program.kill()?;
    let restored = case.restore_detached(&image, &[])?;
    case.wait_until("it is there, stopped", || Case::state(restored.pid) == Some('T'))?;
    case.go()?;
    // It must not run on by itself: there is nothing to wait for but time.
    std::thread::sleep(Duration::from_millis(100));
    ensure!(Case::state(restored.pid) == Some('T'), "it runs");
    if let Some(pid) = Pid::from_raw(restored.pid) {
        kill_process(pid, Signal::CONT)?;
    }
    case.wait_until("it has finished", || restored.output().contains("as expected"))
}
