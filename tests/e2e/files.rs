//! Open files, and what happens when they have changed since.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use ckpt_tests::{Case, Ending, Roundtrip, Suite, Whos};

use crate::{Plain, add_roundtrips};

const ROUNDTRIPS: &[Plain] = &[
    ("files::offsets_flags_and_sparse_numbers", "files", &["regular"]),
    ("files::copies_share_an_offset_and_openings_do_not", "files", &["sharing"]),
    ("files::directory_goes_on_where_it_was", "files", &["directory"]),
    ("files::null_zero_random_urandom_full", "files", &["devices"]),
    ("files::deleted_file_lives_on", "files", &["deleted"]),
    ("files::unnamed_file_lives_on", "files", &["unnamed"]),
    ("files::low_numbers_are_not_special", "files", &["closed"]),
];

pub fn add(suite: &mut Suite) {
    add_roundtrips(suite, Whos::Both, ROUNDTRIPS);
    suite.add("files::standard_streams_are_reconnected", Whos::Both, |case| {
        Roundtrip::of("files").args(&["standard"]).typing(b"typed").complaining("to stderr\n").run(case)
    });
    for change in CHANGES {
        suite.add(&format!("files::{}", change.name), Whos::User, |case| change.try_on(case));
    }
}

/// What is done to the file `log`, of which the program has written five lines, and what must come of it.
struct Change {
    name: &'static str,
    checkpoint: &'static [&'static str],
    restore: &'static [&'static str],
    make: fn(&Path) -> std::io::Result<()>,
    /// The file in the end; None when the restore must fail and leave the file as it is.
    becomes: Option<&'static str>,
}

const FIRST: &str = "line 1\nline 2\nline 3\nline 4\nline 5\n";
const ALL: &str = "line 1\nline 2\nline 3\nline 4\nline 5\nline 6\nline 7\nline 8\nline 9\nline 10\n";
const GROWN: &str = "line 1\nline 2\nline 3\nline 4\nline 5\nforeign\nline 6\nline 7\nline 8\nline 9\nline 10\n";
const MODIFIED: &str = "LINE 1\nline 2\nline 3\nline 4\nline 5\nline 6\nline 7\nline 8\nline 9\nline 10\n";

const CHANGES: &[Change] = &[
    Change { name: "grown_log_is_no_reason_to_fail", checkpoint: &[], restore: &[], make: grow, becomes: Some(GROWN) },
    Change {
        name: "grown_log_rolled_back",
        checkpoint: &[],
        restore: &["--files=rollback"],
        make: grow,
        becomes: Some(ALL),
    },
    Change {
        name: "grown_log_is_no_reason_to_fail_when_asked_to",
        checkpoint: &[],
        restore: &["--files=fail"],
        make: grow,
        becomes: Some(GROWN),
    },
    Change { name: "modified_file_is_told", checkpoint: &[], restore: &[], make: modify, becomes: None },
    Change {
        name: "modified_file_kept",
        checkpoint: &[],
        restore: &["--files=keep"],
        make: modify,
        becomes: Some(MODIFIED),
    },
    Change { name: "modified_file_refused", checkpoint: &[], restore: &["--files=fail"], make: modify, becomes: None },
    Change {
        name: "modified_file_rolled_back_when_carried",
        checkpoint: &["--carry-files"],
        restore: &["--files=rollback"],
        make: modify,
        becomes: Some(ALL),
    },
    Change { name: "truncated_file_is_told", checkpoint: &[], restore: &[], make: truncate, becomes: None },
    Change { name: "missing_file_is_told", checkpoint: &[], restore: &[], make: remove, becomes: None },
    Change {
        name: "missing_file_comes_back_when_carried",
        checkpoint: &["--carry-files"],
        restore: &["--files=rollback"],
        make: remove,
        becomes: Some(ALL),
    },
    Change { name: "replaced_by_an_equal_file", checkpoint: &[], restore: &[], make: replace, becomes: Some(ALL) },
];

fn grow(log: &Path) -> std::io::Result<()> {
    fs::write(log, format!("{FIRST}foreign\n"))
}

fn modify(log: &Path) -> std::io::Result<()> {
    fs::write(log, FIRST.replace("line 1", "LINE 1"))
}

fn truncate(log: &Path) -> std::io::Result<()> {
    fs::write(log, "line 1\n")
}

fn remove(log: &Path) -> std::io::Result<()> {
    fs::remove_file(log)
}

fn replace(log: &Path) -> std::io::Result<()> {
    let other = log.with_extension("new");
    fs::copy(log, &other)?;
    fs::rename(other, log)
}

impl Change {
    fn try_on(&self, case: &Case) -> Result<()> {
        let program = Roundtrip::of("appender").start(case)?;
        let image = case.path("image");
        case.checkpoint(program.pid(), &image, &[&["--stop"], self.checkpoint].concat())?;
        let log = case.work().join("log");
        (self.make)(&log)?;
        if log.exists() {
            case.give(&log)?;
        }
        let changed = fs::read_to_string(&log).ok();
        case.go()?;
        match self.becomes {
            Some(wanted) => {
                let mut restored = case.restore(&image, self.restore)?;
                ensure!(restored.wait()? == Ending::Exited(0), "{}", restored.streams());
                let found = fs::read_to_string(&log)?;
                ensure!(found == wanted, "the file holds {found:?}");
            }
            None => {
                let mut command = case.ckptctl(["restore"]);
                let path = log.display().to_string();
                let command = command.arg(&image).args(self.restore);
                case.run(command)?.expect_refusal(&[7], &[&path])?;
                let after = fs::read_to_string(&log).ok();
                ensure!(after == changed, "the failed restore has changed it to {after:?}");
            }
        }
        Ok(())
    }
}
