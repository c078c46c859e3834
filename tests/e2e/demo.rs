//! The demonstration, as the README starts it, and that nothing of it is left however it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use ckpt_tests::{Case, Ending, Suite, Whos};
use rustix::process::Signal;

pub fn add(suite: &mut Suite) {
    suite.add("demo::whole", Whos::Both, whole);
    suite.add("demo::without_namespaces", Whos::Root, without_namespaces);
    suite.add("demo::without_sshd", Whos::Root, without_sshd);
    // What is printed when a step is done, and so while the next one is being done.
    for (name, printed) in [
        ("demo::cancelled_while_it_counts", "2. "),
        ("demo::cancelled_when_it_is_saved", "3. "),
        ("demo::cancelled_while_a_host_is_made", "none repeated"),
        ("demo::cancelled_when_the_host_is_there", "5. "),
        ("demo::cancelled_while_it_moves", "6. "),
        ("demo::cancelled_while_it_is_away", "7. "),
        ("demo::cancelled_when_it_is_home", "8. "),
    ] {
        suite.add(name, Whos::User, |case| cancelled(case, printed));
    }
}

fn whole(case: &Case) -> Result<()> {
    let (mut demo, temporary) = demo(case)?;
    let said = case.run(&mut demo)?.expect(0)?;
    ensure!(said.stderr.is_empty(), "{said:?}");
    ensure!(said.stdout.matches("no number lost, none repeated").count() == 2, "{said:?}");
    for part in ["ckptctl migrate count throwaway", "count is on throwaway", "ckptctl migrate count local"] {
        ensure!(said.stdout.contains(part), "nothing of {part:?}: {said:?}");
    }
    nothing_is_left(case, &temporary)
}

/// As the ordinary user of the tests, who must have a shell for it: the host has no users of its own then.
fn without_namespaces(case: &Case) -> Result<()> {
    const BECOME: &str = r#"mount --bind passwd /etc/passwd && chown ckpt-test "$TMPDIR" && rm passwd &&
        exec setpriv --reuid ckpt-test --regid ckpt-test --clear-groups "$@""#;
    let (demo, temporary) = demo(case)?;
    let passwd = fs::read_to_string("/etc/passwd")?;
    let with_shell = |line: &str| match line.strip_prefix("ckpt-test:").and_then(|_| line.rsplit_once(':')) {
        Some((rest, _)) => format!("{rest}:/bin/sh\n"),
        None => format!("{line}\n"),
    };
    case.write("work/passwd", passwd.lines().map(with_shell).collect::<String>())?;
    fs::set_permissions(case.dir(), fs::Permissions::from_mode(0o755))?;
    let mut without = case.command("unshare");
    without.args(["--mount", "sh", "-c", BECOME, "sh"]).arg(case.stage().program("no_user_namespaces")?);
    without.arg(demo.get_program()).args(demo.get_args());
    let said = case.run(without.env("TMPDIR", &temporary))?.expect(0)?;
    ensure!(said.stdout.matches("no number lost, none repeated").count() == 2, "{said:?}");
    ensure!(said.stdout.contains("namespaces cannot be had here"), "{said:?}");
    nothing_is_left(case, &temporary)
}

fn without_sshd(case: &Case) -> Result<()> {
    let (demo, temporary) = demo(case)?;
    let hide = "mount --bind /dev/null /usr/sbin/sshd && exec \"$0\" \"$@\"";
    let mut without = case.command("unshare");
    without.args(["--mount", "sh", "-c", hide]).arg(demo.get_program()).args(demo.get_args());
    let said = case.run(without.env("TMPDIR", &temporary))?.expect(0)?;
    ensure!(said.stdout.matches("no number lost, none repeated").count() == 1, "{said:?}");
    ensure!(said.stdout.contains("apt install openssh-server"), "{said:?}");
    nothing_is_left(case, &temporary)
}

fn cancelled(case: &Case, printed: &str) -> Result<()> {
    let (mut demo, temporary) = demo(case)?;
    let mut demo = case.start(&mut demo)?;
    demo.wait_for_text(printed)?;
    demo.signal(Signal::INT)?;
    let ending = demo.wait()?;
    ensure!(ending == Ending::Exited(130), "{}", demo.streams());
    ensure!(demo.stderr() == "ckptctl: cancelled; everything was ended and removed\n", "{}", demo.streams());
    nothing_is_left(case, &temporary)
}

/// The command, and the directory that it makes its own one in.
fn demo(case: &Case) -> Result<(Command, PathBuf)> {
    // A short name: paths of sockets must not be long.
    let temporary = case.make_dir("t")?;
    let mut command = case.ckptctl(["demo"]);
    command.env("TMPDIR", &temporary);
    Ok((command, temporary))
}

/// No process, and no file: neither where it worked nor in the home directory.
fn nothing_is_left(case: &Case, temporary: &PathBuf) -> Result<()> {
    let mark = format!("CKPT_TEST_GO={}", case.path("go").display());
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
            left.push(fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " "));
        }
    }
    ensure!(left.is_empty(), "processes were left: {left:?}");
    Case::expect_only(temporary, &[])?;
    Case::expect_only(case.dir(), &["work", "t", "run"])?;
    Case::expect_only(&case.work(), &[])
}
