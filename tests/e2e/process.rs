//! What the kernel knows of the process.

use ckpt_tests::{Roundtrip, Suite, Whos};

use crate::{Plain, add_roundtrips};

const ROUNDTRIPS: &[Plain] = &[
    ("process::ids_names_limits_settings", "process", &[]),
    ("process::overwritten_command_line", "process", &["overwritten"]),
    ("process::policy_for_memory_failures", "process", &["memory-failure"]),
    ("process::removed_executable", "replaced_exe", &["removed"]),
    ("process::replaced_executable", "replaced_exe", &["replaced"]),
    ("process::names_that_are_no_utf8", "raw_names", &[]),
];

pub fn add(suite: &mut Suite) {
    add_roundtrips(suite, Whos::Both, ROUNDTRIPS);
    // Nobody but root may look into it.
    suite.add("process::not_dumpable", Whos::Root, |case| Roundtrip::of("process").args(&["not-dumpable"]).run(case));
    suite.add("process::personality_of_setarch", Whos::Both, |case| {
        Roundtrip::of("process").under(&["setarch", "-R"]).run(case)
    });
    suite.add("process::what_passes_in_a_moment", Whos::Both, |case| {
        Roundtrip::of("passing").checkpoints_before(20).run(case)
    });
    suite.add("process::ids_in_a_nest", Whos::Both, |case| {
        Roundtrip::of("process").restore_flags(&["--nest", "always"]).run(case)
    });
}
