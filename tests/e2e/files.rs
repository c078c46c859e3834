//! Open files, and what happens when they have changed since.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use ckpt_tests::{Case, Ending, Roundtrip, Suite, Whos};

use crate::{Plain, add_roundtrips};

const ROUNDTRIPS: &[Plain] = &[
    ("files::offsets_flags_and_sparse_numbers", "files", &["regular"]),
    ("files::copies_share_an_offset_and_openings_do_not", "files", &["sharing"]),
    ("files::directory_goes_on_where_it_was", "files", &["directory"]),
    ("files::null_zero_random_urandom_full", "files", &["devices"]),
    ("files::deleted_file_lives_on", "files", &["deleted"]),
    ("files::unnamed_file_lives_on", "files", &["unnamed"]),
    ("files::pipes_keep_what_is_in_them", "pipes", &["contents"]),
    ("files::full_pipe_stays_full", "pipes", &["full"]),
    ("files::threads_wait_for_a_pipe", "pipes", &["blocked"]),
    ("files::eventfd_counts", "events", &["counters"]),
    ("files::epoll_watches_as_before", "events", &["watched"]),
    ("files::low_numbers_are_not_special", "files", &["closed"]),
];

pub fn add(suite: &mut Suite) {
    add_roundtrips(suite, Whos::Both, ROUNDTRIPS);
    suite.add("files::standard_streams_are_reconnected", Whos::Both, |case| {
        Roundtrip::of("files").args(&["standard"]).typing(b"typed").complaining("to stderr\n").run(case)
    });
    suite.add("files::thread_waits_in_epoll", Whos::Both, |case| {
        Roundtrip::of("events").args(&["blocked"]).checkpoints_before(1).generations(3).run(case)
    });
    for (program, mode) in [("pipes", "contents"), ("pipes", "blocked"), ("events", "counters"), ("events", "watched")]
    {
        suite.add(&format!("files::{program}_{mode}_over_three_generations"), Whos::User, move |case| {
            Roundtrip::of(program).args(&[mode]).checkpoints_before(1).generations(3).run(case)
        });
    }
    suite.add("files::executable_and_library_gone", Whos::Both, executable_and_library_gone);
    suite.add("files::image_and_program_with_raw_names", Whos::User, raw_image_name);
    for change in CHANGES {
        suite.add(&format!("files::{}", change.name), Whos::User, |case| change.try_on(case));
    }
}

/// A program with an executable and a C library of its own, both of which are gone when it is to be restored.
fn executable_and_library_gone(case: &Case) -> Result<()> {
    let program = case.work().join("own_program");
    let libraries = case.make_dir("libraries")?;
    fs::copy(case.stage().program("heap")?, &program)?;
    let shared = Roundtrip::of("heap").start(case)?;
    let maps = fs::read_to_string(format!("/proc/{}/maps", shared.pid()))?;
    let libc = maps.lines().find_map(|line| line.split_whitespace().last().filter(|path| path.ends_with("/libc.so.6")));
    let library = libraries.join("libc.so.6");
    fs::copy(libc.context("no libc.so.6 is mapped")?, &library)?;
    let mut running = case.start(case.command(&program).env("LD_LIBRARY_PATH", &libraries))?;
    running.wait_for_text("ready\n")?;
    let (by_reference, contained) = (case.path("by_reference"), case.path("contained"));
    case.checkpoint(running.pid(), &by_reference, &[])?;
    case.checkpoint(running.pid(), &contained, &["--self-contained", "--stop"])?;
    fs::remove_file(&library)?;
    let missing = library.display().to_string();
    case.run(case.ckptctl(["restore"]).arg(&by_reference))?.expect_refusal(&[7], &[&missing])?;
    fs::remove_file(&program)?;
    case.go()?;
    let mut restored = case.restore(&contained, &[])?;
    ensure!(restored.wait()? == Ending::Exited(0), "{}", restored.streams());
    ensure!(restored.stdout() == "as expected\n", "{}", restored.streams());
    Ok(())
}

/// All verbs take names that are no UTF-8, and say them in JSON somehow.
fn raw_image_name(case: &Case) -> Result<()> {
    let raw = |text: &str| OsString::from_vec([text.as_bytes(), b"\xff\xc3("].concat());
    let dir = case.path(raw("directory"));
    fs::create_dir(&dir)?;
    case.give(&dir)?;
    let program = dir.join(raw("program"));
    fs::copy(case.stage().program("heap")?, &program)?;
    let mut running = case.start(&mut case.command(&program))?;
    running.wait_for_text("ready\n")?;
    let image = dir.join(raw("image"));
    case.checkpoint(running.pid(), &image, &["--json", "--stop"])?.json()?;
    for verb in ["inspect", "verify"] {
        case.run(case.ckptctl([verb, "--json"]).arg(&image))?.expect(0)?.json()?;
        case.run(case.ckptctl([verb]).arg(&image))?.expect(0)?;
    }
    let core = dir.join(raw("core"));
    case.run(case.ckptctl(["export"]).arg(&image).arg("--core").arg(&core))?.expect(0)?;
    ensure!(core.exists(), "no core file");
    case.go()?;
    let mut restored = case.restore(&image, &[])?;
    ensure!(restored.wait()? == Ending::Exited(0), "{}", restored.streams());
    // The message names what is missing even so.
    fs::remove_file(&program)?;
    let refused = case.run(case.ckptctl(["restore"]).arg(&image))?;
    refused.expect_refusal(&[7], &["program"]).map(drop)
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
