//! Bad images, processes that cannot be had, disks that are full: one clear line, nothing left behind, nobody harmed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ckpt_image::{FileHeader, HEADER_LEN, MAJOR};
use ckpt_tests::{Case, Ending, Roundtrip, Running, Suite, Who, Whos, skip};
use rustix::process::{Pid, Signal, kill_process};

use crate::image_edit::Edit;

pub fn add(suite: &mut Suite) {
    suite.add("bad_image::truncated_anywhere", Whos::User, truncated);
    suite.add("bad_image::any_byte_corrupted", Whos::User, corrupted);
    suite.add("bad_image::empty_foreign_missing_directory", Whos::Both, not_an_image);
    suite.add("bad_image::newer_version", Whos::User, newer_version);
    suite.add("bad_image::other_architecture", Whos::User, other_architecture);
    suite.add("bad_process::gone", Whos::Both, gone);
    suite.add("bad_process::of_somebody_else", Whos::Root, of_somebody_else);
    suite.add("bad_process::kernel_thread", Whos::Both, kernel_thread);
    suite.add("bad_process::zombie", Whos::Both, zombie);
    suite.add("bad_process::already_traced", Whos::Both, traced);
    suite.add("bad_process::under_gdb", Whos::Both, under_gdb);
    suite.add("bad_process::dies_during_the_checkpoint", Whos::Both, dies);
    suite.add("bad_process::itself_and_nonsense", Whos::Both, nonsense);
    suite.add("bad_usage::is_told_as_json", Whos::User, usage_as_json);
    suite.add("bad_usage::read_only_and_a_verb", Whos::User, read_only);
    suite.add("bad_usage::unknown_jobs", Whos::User, unknown_jobs);
    suite.add("bad_usage::configuration", Whos::User, configuration);
    suite.add("bad_target::full_disk", Whos::Root, full_disk);
    suite.add("bad_target::unwritable_or_missing_directory", Whos::Both, unwritable);
    suite.add("bad_target::engine_killed_at_any_moment", Whos::Both, engine_killed);
    suite.add("bad_target::engine_killed_at_every_ptrace_call", Whos::Both, engine_killed_at_every_call);
}

/// A sound image of a small program that has been ended.
fn image(case: &Case) -> Result<PathBuf> {
    let program = Roundtrip::of("crowd").start(case)?;
    let image = case.path("image");
    case.checkpoint(program.pid(), &image, &["--stop"])?;
    Ok(image)
}

fn restore(case: &Case, image: &Path) -> Command {
    let mut command = case.ckptctl(["restore"]);
    command.arg(image);
    command
}

fn is_refused(case: &Case, image: &Path, what: &str) -> Result<()> {
    let path = image.display().to_string();
    for verb in ["verify", "restore"] {
        let finished = case.run(case.ckptctl([verb]).arg(image))?;
        finished.expect_refusal(&[6], &[&path, what]).with_context(|| verb.to_owned())?;
    }
    Ok(())
}

fn truncated(case: &Case) -> Result<()> {
    let bytes = fs::read(image(case)?)?;
    let mut lengths = vec![1, 10, HEADER_LEN - 1, HEADER_LEN, HEADER_LEN + 1, bytes.len() - 1];
    lengths.extend((1..12).map(|n| bytes.len() * n / 12));
    for length in lengths {
        let cut = case.write("cut", &bytes[..length])?;
        is_refused(case, &cut, "").with_context(|| format!("{length} of {}", bytes.len()))?;
    }
    Ok(())
}

fn corrupted(case: &Case) -> Result<()> {
    let bytes = fs::read(image(case)?)?;
    case.go()?;
    let count = 60;
    for n in 0..=count {
        let mut bad = bytes.clone();
        let at = (bytes.len() - 1) * n / count;
        bad[at] ^= 0x10;
        let file = case.write("corrupted", &bad)?;
        // Alignment between records means nothing: either the damage is found or it does none.
        let verified = case.run(case.ckptctl(["verify"]).arg(&file))?;
        if verified.ending == Ending::Exited(0) {
            let finished = case.run(&mut restore(case, &file))?.expect(0)?;
            ensure!(finished.stdout.ends_with("as expected\n"), "byte {at}: {finished:?}");
        } else {
            is_refused(case, &file, "").with_context(|| format!("byte {at}"))?;
        }
    }
    Ok(())
}

fn not_an_image(case: &Case) -> Result<()> {
    is_refused(case, &case.write("empty", "")?, "empty")?;
    is_refused(case, &case.write("text", "CKPT, but not at all an image\n".repeat(10))?, "not")?;
    is_refused(case, &case.write("elf", fs::read("/bin/true")?)?, "not")?;
    is_refused(case, &case.write("zeros", [0; 100_000])?, "not")?;
    for path in [case.path("missing"), case.make_dir("directory")?] {
        let name = path.display().to_string();
        case.run(&mut restore(case, &path))?.expect_refusal(&[1, 6], &[&name])?;
    }
    Ok(())
}

fn newer_version(case: &Case) -> Result<()> {
    let mut bytes = fs::read(image(case)?)?;
    let header = FileHeader::decode(&bytes)?;
    let newer = FileHeader { major: MAJOR + 1, ..header };
    bytes[..HEADER_LEN].copy_from_slice(&newer.encode());
    is_refused(case, &case.write("newer", bytes)?, "version|newer")
}

/// A sound image that says that it comes from another kind of machine.
fn other_architecture(case: &Case) -> Result<()> {
    const AARCH64: u16 = 183;
    let foreign = case.write("foreign", "")?;
    let edit = Edit { architecture: AARCH64, ..Edit::default() };
    edit.copy(&image(case)?, &foreign)?;
    let path = foreign.display().to_string();
    let names = [&path, "aarch64|architecture|processor"];
    case.run(&mut restore(case, &foreign))?.expect_refusal(&[6], &names).map(drop)
}

/// A checkpoint that must fail in this way and leave nothing.
fn fails(case: &Case, pid: i32, statuses: &[i32], names: &[&str]) -> Result<()> {
    let images = case.make_dir("images")?;
    let mut command = case.checkpoint_command(pid, &images.join("image"), &["--stop"]);
    case.run(&mut command)?.expect_refusal(statuses, names)?;
    Case::expect_only(&images, &[])
}

fn gone(case: &Case) -> Result<()> {
    let mut program = Roundtrip::of("crowd").start(case)?;
    let pid = program.pid();
    program.kill()?;
    fails(case, pid, &[1], &[&pid.to_string()])
}

/// The ordinary user must not have root's program; the program does not notice.
fn of_somebody_else(case: &Case) -> Result<()> {
    let mut program = Roundtrip::of("count").start(case)?;
    let pid = program.pid().to_string();
    let images = case.make_dir("images")?;
    fs::set_permissions(&images, fs::Permissions::from_mode(0o777))?;
    let mut command = case.command_as(Who::User, case.stage().ckptctl());
    command.args(["checkpoint", "--stop", "--pid", &pid, "-o"]).arg(images.join("image"));
    case.run(&mut command)?.expect_refusal(&[4], &[&pid])?;
    Case::expect_only(&images, &[])?;
    goes_on_counting(case, &mut program)
}

fn kernel_thread(case: &Case) -> Result<()> {
    if fs::read_to_string("/proc/2/comm").ok().as_deref() != Some("kthreadd\n") {
        return skip("no kernel threads are seen here (a container)");
    }
    fails(case, 2, &[3, 4], &["2", "kernel|not permitted|belongs|another user"])
}

fn zombie(case: &Case) -> Result<()> {
    let program = Roundtrip::of("zombie").start(case)?;
    let said = program.stdout();
    let child = said.split_whitespace().nth(1).context("no zombie")?;
    fails(case, child.parse()?, &[3], &[child, "zombie|ended|dead"])
}

fn traced(case: &Case) -> Result<()> {
    let mut program = Roundtrip::of("count").start(case)?;
    let tracer = Roundtrip::of("traced").args(&[&program.pid().to_string()]).start(case)?;
    let (pid, by) = (program.pid().to_string(), tracer.pid().to_string());
    fails(case, program.pid(), &[3], &[&pid, &by, "trace|debug|gdb"])?;
    goes_on_counting(case, &mut program)
}

/// The real debugger, with the program that it has started.
fn under_gdb(case: &Case) -> Result<()> {
    let mut command = case.command("gdb");
    // Without a shell in between, so that the program is the debugger's own child.
    command.args(["--batch", "--nx", "-ex", "set startup-with-shell off", "-ex", "run", "--args"]);
    let mut gdb = case.start(command.arg(case.stage().program("count")?))?;
    gdb.wait_for_text("ready\n")?;
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", gdb.pid()))?;
    let child = children.split_whitespace().next().context("gdb has no child")?;
    fails(case, child.parse()?, &[3], &[child, &gdb.pid().to_string(), "trace|debug|gdb"])?;
    case.go()?;
    ensure!(gdb.wait()? == Ending::Exited(0), "{}", gdb.streams());
    ensure!(gdb.stdout().contains("exited normally"), "harmed: {}", gdb.streams());
    Ok(())
}

fn dies(case: &Case) -> Result<()> {
    let images = case.make_dir("images")?;
    let image = images.join("image");
    for round in 0..20u64 {
        let mut program = Roundtrip::of("count").start(case)?;
        let mut engine = case.start(&mut case.checkpoint_command(program.pid(), &image, &[]))?;
        // The moment is the test's subject; over the rounds it wanders through the checkpoint.
        std::thread::sleep(Duration::from_micros(round * 700));
        program.kill()?;
        let ending = engine.wait()?;
        if ending == Ending::Exited(0) {
            Case::expect_only(&images, &["image"])?;
            case.run(case.ckptctl(["verify"]).arg(&image))?.expect(0)?;
            fs::remove_file(&image)?;
        } else {
            let said = engine.stderr();
            let known = matches!(ending, Ending::Exited(1 | 3));
            ensure!(known && said.lines().count() == 1, "round {round}: {ending:?}, {said:?}");
            Case::expect_only(&images, &[])?;
        }
    }
    Ok(())
}

fn nonsense(case: &Case) -> Result<()> {
    for arguments in [
        &["checkpoint", "--pid", "0", "-o", "image"][..],
        &["checkpoint", "--pid", "-5", "-o", "image"],
        &["checkpoint", "--pid", "99999999", "-o", "image"],
        &["checkpoint", "--pid", "x", "-o", "image"],
        &["checkpoint", "--pid", "1"],
        &["restore"],
        &["restore", "a", "--nest", "perhaps"],
        &["nosuchverb"],
    ] {
        let finished = case.run(&mut case.ckptctl(arguments))?;
        let known = matches!(finished.ending, Ending::Exited(1 | 2));
        ensure!(known && !finished.stderr.contains("panicked"), "{arguments:?}: {finished:?}");
        ensure!(!finished.stderr.is_empty(), "{arguments:?}: nothing said");
    }
    Case::expect_only(&case.work(), &[])
}

fn usage_as_json(case: &Case) -> Result<()> {
    for (arguments, names) in [
        (&["schedule", "sim", "--every", "0s", "--json"][..], &["0s", "90s"][..]),
        (&["schedule", "sim", "--every", "1h", "--keep", "0", "--json"], &["--keep", "at least 1"]),
        (&["ps", "--json", "--what"], &["--what"]),
        (&["stop", "--json"], &["JOB"]),
        (&["nosuchverb", "--json"], &["nosuchverb"]),
    ] {
        let finished = case.run(&mut case.ckptctl(arguments))?.expect(2)?;
        ensure!(finished.stderr.starts_with("error: "), "{arguments:?}: {finished:?}");
        let json = finished.json()?;
        ensure!(json["class"] == "usage" && json["exit"] == 2, "{json}");
        let error = json["error"].as_str().context("no error")?;
        ensure!(names.iter().all(|name| error.contains(name)) && !error.contains('\n'), "{arguments:?}: {json}");
    }
    // That is another program's.
    let silent = case.run(&mut case.ckptctl(["run", "--what", "--", "true", "--json"]))?.expect(2)?;
    ensure!(silent.stdout.is_empty(), "{silent:?}");
    let help = case.run(&mut case.ckptctl(["ps", "--json", "--help"]))?.expect(0)?;
    ensure!(help.stdout.contains("Usage: ckptctl ps") && !help.stdout.contains("\"exit\""), "{help:?}");
    Ok(())
}

/// Nothing is done as if the switch were not there.
fn read_only(case: &Case) -> Result<()> {
    for verb in [&["run", "-d", "--name", "sim", "--", "sleep", "100"][..], &["stop", "sim"], &["rm", "sim"], &["ps"]] {
        let refused = case.run(case.ckptctl(["--read-only"]).args(verb))?;
        refused.expect_refusal(&[2], &["--read-only belongs to the menu"])?;
    }
    let jobs = case.run(&mut case.ckptctl(["ps", "--json"]))?.expect(0)?.json()?;
    ensure!(jobs["jobs"].as_array().is_some_and(Vec::is_empty), "{jobs}");
    let json = case.run(&mut case.ckptctl(["--read-only", "ps", "--json"]))?.expect(2)?.json()?;
    ensure!(json["class"] == "usage", "{json}");
    Ok(())
}

/// Only what the verb has is advised.
fn unknown_jobs(case: &Case) -> Result<()> {
    for verb in [&["stop", "sim"][..], &["attach", "sim"], &["migrate", "sim", "local"], &["schedule", "sim"]] {
        let refused = case.run(&mut case.ckptctl(verb))?.expect_refusal(&[1], &["no job sim", "ckptctl ps"])?;
        ensure!(!refused.stderr.contains("--pid"), "{refused:?}");
    }
    let refused = case.run(&mut case.ckptctl(["checkpoint", "sim"]))?;
    refused.expect_refusal(&[1], &["no job sim", "--pid takes any process"]).map(drop)
}

fn configuration(case: &Case) -> Result<()> {
    case.make_dir(".config/ckptctl")?;
    for (content, names) in [
        (&b"\xff"[..], &["line 1", "UTF-8"][..]),
        (b"theme = \"dark\"\n# gr\xfcn\n", &["line 2", "UTF-8"]),
        (b"\ndetach_key = \"ctrl+m\"\n", &["line 2", "ctrl+m", "Enter"]),
        (b"detach_key = \"ctrl+c\"\n", &["line 1", "ctrl+c", "ends programs"]),
    ] {
        case.write(".config/ckptctl/config.toml", content)?;
        let refused = case.run(&mut case.ckptctl(["run", "--", "true"]))?;
        refused.expect_refusal(&[2], &[&["config.toml"], names].concat())?;
    }
    Ok(())
}

/// A small file system; unmounted when the test is over.
pub struct Small(pub PathBuf);

impl Small {
    /// Mounts one of so many KiB.
    pub fn make(case: &Case, size: usize) -> Result<Self> {
        let dir = case.make_dir("small")?;
        let size = format!("size={size}k");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&dir).status()?;
        if mounted.success() { Ok(Self(dir)) } else { skip("no file system may be mounted here") }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn full_disk(case: &Case) -> Result<()> {
    let small = Small::make(case, 1024)?;
    let mut program = Roundtrip::of("count").start(case)?;
    let image = small.0.join("image");
    for flags in [&[][..], &["--stop"]] {
        let mut command = case.checkpoint_command(program.pid(), &image, flags);
        case.run(&mut command)?.expect_refusal(&[1], &["space|full", &image.display().to_string()])?;
        Case::expect_only(&small.0, &[])?;
    }
    goes_on_counting(case, &mut program)
}

fn unwritable(case: &Case) -> Result<()> {
    let mut program = Roundtrip::of("count").start(case)?;
    let mut targets = vec![case.path("missing/image"), PathBuf::from("/proc/image")];
    if case.who == Who::User {
        let dir = case.make_dir("closed")?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o555))?;
        targets.push(dir.join("image"));
    }
    for target in targets {
        let parent = target.parent().context("no parent")?.display().to_string();
        let mut command = case.checkpoint_command(program.pid(), &target, &["--stop"]);
        case.run(&mut command)?.expect_refusal(&[1, 4], &[&parent])?;
    }
    goes_on_counting(case, &mut program)
}

fn engine_killed(case: &Case) -> Result<()> {
    let mut program = Roundtrip::of("count").start(case)?;
    let image = case.path("image");
    for round in 0..50u64 {
        let mut engine = case.start(&mut case.checkpoint_command(program.pid(), &image, &["--stop"]))?;
        // The moment is the test's subject; over the rounds it wanders through the checkpoint.
        std::thread::sleep(Duration::from_micros(round * 180));
        if let Some(pid) = Pid::from_raw(engine.pid()) {
            let _ = kill_process(pid, Signal::KILL);
        }
        if engine.wait()? == Ending::Exited(0) {
            case.note(&format!("round {round}: the checkpoint was faster"));
            program.wait()?;
            fs::remove_file(&image)?;
            program = Roundtrip::of("count").start(case)?;
            continue;
        }
        if !program.is_running()? {
            let ending = program.wait()?;
            // It was killed after it had ended the program: then the image is complete.
            let complete = image.exists() && ending == Ending::Signaled(9);
            ensure!(complete, "round {round}: harmed: {ending:?}, {}", program.streams());
            case.run(case.ckptctl(["verify"]).arg(&image))?.expect(0)?;
            fs::remove_file(&image)?;
            program = Roundtrip::of("count").start(case)?;
            continue;
        }
        counts(case, &program).with_context(|| format!("round {round}"))?;
    }
    case.checkpoint(program.pid(), &image, &[])?;
    goes_on_counting(case, &mut program)
}

/// strace kills the engine at its first ptrace call, then at its second, and so on until one run comes through: the
/// threads of the program, which check themselves, notice nothing of any.
fn engine_killed_at_every_call(case: &Case) -> Result<()> {
    let mut program = Roundtrip::of("robust").start(case)?;
    let image = case.path("image");
    let pid = program.pid().to_string();
    let mut calls = 0;
    loop {
        let mut command = case.command("strace");
        let when = format!("inject=ptrace:signal=KILL:when={}", calls + 1);
        command.args(["-qq", "-o", "/dev/null", "-e", "trace=ptrace", "-e", &when]).arg(case.stage().ckptctl());
        command.args(["checkpoint", "--pid", &pid, "-o"]).arg(&image);
        let finished = case.run(&mut command)?;
        ensure!(program.is_running()?, "harmed at call {}: {}", calls + 1, program.streams());
        case.wait_until("it is not left stopped", || !matches!(Case::state(program.pid()), Some('t' | 'T')))?;
        if finished.ending == Ending::Exited(0) {
            break;
        }
        ensure!(finished.ending == Ending::Signaled(9), "call {}: {finished:?}", calls + 1);
        calls += 1;
    }
    ensure!(calls > 20, "a checkpoint takes more than {calls} ptrace calls");
    case.go()?;
    ensure!(program.wait()? == Ending::Exited(0), "harmed: {}", program.streams());
    case.run(case.ckptctl(["verify"]).arg(&image))?.expect(0).map(drop)
}

/// The number in the file that the program keeps mapped.
fn counted(case: &Case) -> Result<u64> {
    let bytes = fs::read(case.work().join("count"))?;
    Ok(u64::from_le_bytes(*bytes.first_chunk().context("no number")?))
}

fn counts(case: &Case, program: &Running) -> Result<()> {
    let before = counted(case)?;
    case.wait_until("the program counts on", || counted(case).is_ok_and(|n| n > before + 3))
        .with_context(|| format!("its state is {:?}", Case::state(program.pid())))
}

fn goes_on_counting(case: &Case, program: &mut Running) -> Result<()> {
    counts(case, program)?;
    case.go()?;
    ensure!(program.wait()? == Ending::Exited(0), "harmed: {}", program.streams());
    Ok(())
}
