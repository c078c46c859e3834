//! What cannot be saved is refused by name, and the program is none the worse for it.

use anyhow::{Context, Result, ensure};
use ckpt_tests::{Case, Ending, Roundtrip, Suite, Whos};

/// What the program holds, and what the message must name beside the pid (alternatives between bars).
const REFUSED: &[(&str, &[&str])] = &[
    ("tcp", &["77", "tcp|socket"]),
    ("unix", &["77", "unix|socket"]),
    ("pipe", &["77", "pipe to another process"]),
    ("timerfd", &["77", "timerfd"]),
    ("inotify", &["77", "inotify"]),
    ("ptmx", &["77", "ptmx|terminal|pty"]),
    ("shm", &["system v|sysv|shared memory"]),
    ("seccomp", &["seccomp"]),
];

pub fn add(suite: &mut Suite) {
    for (what, names) in REFUSED {
        suite.add(&format!("refusals::{what}"), Whos::Both, |case| refused(case, what, names));
    }
    suite.add("refusals::kmsg", Whos::Root, |case| refused(case, "kmsg", &["77", "kmsg"]));
    suite.add("refusals::child_process", Whos::Both, |case| refused(case, "child", &["child"]));
}

fn refused(case: &Case, what: &str, names: &[&str]) -> Result<()> {
    let mut program = Roundtrip::of("refused").args(&[what]).start(case)?;
    let pid = program.pid().to_string();
    let mut names = [&[pid.as_str()], names].concat();
    let said = program.stdout();
    if what == "child" {
        names.push(said.split_whitespace().nth(1).context("no child")?);
    }
    let images = case.make_dir("images")?;
    for flags in [&[][..], &["--stop"]] {
        let mut command = case.checkpoint_command(program.pid(), &images.join("image"), flags);
        case.run(&mut command)?.expect_refusal(&[3], &names)?;
        Case::expect_only(&images, &[])?;
        ensure!(program.is_running()?, "it has ended");
    }
    case.go()?;
    ensure!(program.wait()? == Ending::Exited(0), "harmed: {}", program.streams());
    Ok(())
}
