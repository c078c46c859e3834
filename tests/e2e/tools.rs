//! The verbs beside the main job, and what scripts rely on: JSON, exit codes, what is left running.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use anyhow::{Context, Result, ensure};
use ckpt_tests::{Case, Ending, Finished, Roundtrip, Suite, Terminal, Whos};
use rustix::process::Signal;
use serde_json::Value;

pub fn add(suite: &mut Suite) {
    suite.add("tools::checkpoint_leaves_the_program_running", Whos::Both, leaves_running);
    suite.add("tools::checkpoint_json", Whos::Both, checkpoint_json);
    suite.add("tools::image_is_private_and_small", Whos::Both, private_and_small);
    suite.add("tools::restore_passes_the_status_through", Whos::Both, status_passes);
    suite.add("tools::restore_forwards_signals", Whos::Both, forwards_signals);
    suite.add("tools::restore_detached_tells_the_pid", Whos::Both, detached);
    suite.add("tools::recover_is_restore", Whos::User, recover);
    suite.add("tools::inspect_and_verify", Whos::Both, inspect_and_verify);
    suite.add("tools::export_opens_in_gdb", Whos::Both, export);
    suite.add("tools::doctor", Whos::Both, doctor);
    suite.add("tools::run_and_ps", Whos::Both, run_and_ps);
    suite.add("tools::run_passes_the_status_through", Whos::Both, run_status);
    suite.add("tools::help_and_version", Whos::User, help);
    suite.add("tools::man", Whos::User, man);
    suite.add("tools::cc_help", Whos::User, cc_help);
    suite.add("tools::info", Whos::User, info);
    suite.add("tools::dumb_terminal", Whos::User, dumb_terminal);
}

fn leaves_running(case: &Case) -> Result<()> {
    let mut program = Roundtrip::of("heap").start(case)?;
    let dir = case.make_dir("images")?;
    case.checkpoint(program.pid(), &dir.join("image"), &[])?;
    Case::expect_only(&dir, &["image"])?;
    case.go()?;
    ensure!(program.wait()? == Ending::Exited(0), "harmed: {}", program.streams());
    Ok(())
}

fn number(json: &Value, key: &str) -> Result<f64> {
    json[key].as_f64().with_context(|| format!("no number {key} in {json}"))
}

fn checkpoint_json(case: &Case) -> Result<()> {
    let program = Roundtrip::of("threads_load").start(case)?;
    let image = case.path("image");
    let json = case.checkpoint(program.pid(), &image, &["--json"])?.json()?;
    ensure!(json["pid"] == program.pid(), "{json}");
    ensure!(json["threads"] == 9, "{json}");
    ensure!(json["bytes"] == fs::metadata(&image)?.size(), "{json}");
    ensure!(json["path"] == image.display().to_string(), "{json}");
    let (pause, total) = (number(&json, "pause_seconds")?, number(&json, "total_seconds")?);
    ensure!(pause > 0.0 && pause <= total && total < 30.0, "{json}");
    Ok(())
}

fn private_and_small(case: &Case) -> Result<()> {
    let program = Roundtrip::of("crowd").start(case)?;
    let image = case.path("image");
    case.checkpoint(program.pid(), &image, &[])?;
    let metadata = fs::metadata(&image)?;
    let mode = metadata.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "mode {mode:o}");
    // The program itself has 300,000 bytes of its own.
    ensure!(metadata.size() < (1 << 20) + 300_000, "{} bytes", metadata.size());
    // Whoever writes over an older image gets the new one, or keeps the old one.
    case.checkpoint(program.pid(), &image, &["--self-contained"])?;
    ensure!(fs::metadata(&image)?.size() > metadata.size(), "not self-contained");
    Ok(())
}

fn status_passes(case: &Case) -> Result<()> {
    // `heap` fails with 1 once its go file says nothing; here the status is that of a signal and of a program.
    let mut program = Roundtrip::of("files").args(&["standard"]).start(case)?;
    let image = case.path("image");
    case.checkpoint(program.pid(), &image, &["--stop"])?;
    program.wait()?;
    case.go()?;
    let mut restored = case.restore(&image, &[])?;
    // Its input has ended, so that its own check fails.
    ensure!(restored.wait()? == Ending::Exited(1), "{}", restored.streams());
    Ok(())
}

fn forwards_signals(case: &Case) -> Result<()> {
    let program = Roundtrip::of("count").start(case)?;
    let image = case.path("image");
    case.checkpoint(program.pid(), &image, &["--stop"])?;
    let count = case.work().join("count");
    let mut restored = case.restore(&image, &[])?;
    let before = fs::read(&count)?;
    case.wait_until("it counts", || fs::read(&count).is_ok_and(|now| now != before))?;
    restored.signal(Signal::TERM)?;
    ensure!(restored.wait()? == Ending::Exited(128 + 15), "{}", restored.streams());
    Ok(())
}

fn detached(case: &Case) -> Result<()> {
    let program = Roundtrip::of("count").start(case)?;
    let image = case.path("image");
    case.checkpoint(program.pid(), &image, &["--stop"])?;
    let restored = case.restore_detached(&image, &[])?;
    let comm = fs::read_to_string(format!("/proc/{}/comm", restored.pid))?;
    ensure!(comm == "count\n", "{} is {comm}", restored.pid);
    // It can be had again by that number.
    case.checkpoint(restored.pid, &case.path("again"), &[])?;
    case.go()?;
    case.wait_until("it has finished", || restored.output().ends_with("as expected\n"))?;
    case.wait_until("it is gone", || Case::state(restored.pid).is_none_or(|s| s == 'Z'))
}

fn recover(case: &Case) -> Result<()> {
    let program = Roundtrip::of("crowd").start(case)?;
    let image = case.path("image");
    case.checkpoint(program.pid(), &image, &["--stop"])?;
    case.go()?;
    case.run(case.ckptctl(["recover"]).arg(&image))?.expect(0).map(drop)
}

fn both_forms(case: &Case, verb: &[&str]) -> Result<(Finished, Value)> {
    let people = case.run(case.ckptctl(verb.iter().copied()).env("COLUMNS", "100"))?.expect(0)?;
    ensure!(!people.stdout.is_empty(), "nothing for people: {people:?}");
    let json = case.run(case.ckptctl(verb.iter().copied()).arg("--json"))?.expect(0)?.json()?;
    Ok((people, json))
}

fn inspect_and_verify(case: &Case) -> Result<()> {
    let program = Roundtrip::of("threads_load").start(case)?;
    let image = case.path("image");
    case.checkpoint(program.pid(), &image, &[])?;
    let path = image.display().to_string();
    let (people, json) = both_forms(case, &["inspect", &path])?;
    let pid = program.pid().to_string();
    for text in [people.stdout, json.to_string()] {
        for name in [pid.as_str(), "threads_load", "stack"] {
            ensure!(text.contains(name), "no {name} in {text}");
        }
    }
    let (_, json) = both_forms(case, &["verify", &path])?;
    ensure!(json.is_object(), "{json}");
    Ok(())
}

fn export(case: &Case) -> Result<()> {
    let program = Roundtrip::of("for_gdb").start(case)?;
    let (image, core) = (case.path("image"), case.work().join("core"));
    case.checkpoint(program.pid(), &image, &["--stop"])?;
    case.run(case.ckptctl(["export"]).arg(&image).arg("--core").arg(&core))?.expect(0)?;
    let mode = fs::metadata(&core)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "mode {mode:o}: it holds a program's memory");
    let mut gdb = case.command("gdb");
    gdb.args(["--batch", "--nx", "-ex", "info threads", "-ex", "thread apply all bt"]);
    let said = case.run(gdb.arg(case.stage().program("for_gdb")?).arg(&core))?.expect(0)?.stdout;
    let count = |name: &str| said.lines().filter(|l| l.contains(name)).count();
    ensure!(count("LWP") >= 3, "not three threads: {said}");
    ensure!(count("worker_function") == 2 && count("middle_function") == 1, "{said}");
    ensure!(count("innermost_function") >= 3 && count(" main ") + count("main (") >= 1, "{said}");
    Ok(())
}

fn doctor(case: &Case) -> Result<()> {
    let (people, json) = both_forms(case, &["doctor"])?;
    ensure!(json.is_object() || json.is_array(), "{json}");
    for name in ["tracing", "namespace", "PAGEMAP_SCAN", "userfaultfd"] {
        ensure!(people.stdout.contains(name), "nothing of {name}: {people:?}");
    }
    Ok(())
}

fn run_and_ps(case: &Case) -> Result<()> {
    let mut command = case.ckptctl(["run", "--name", "my-job", "--"]);
    command.arg(case.stage().program("count")?);
    let mut job = case.start(&mut command)?;
    job.wait_for_text("ready\n")?;
    let (people, json) = both_forms(case, &["ps"])?;
    ensure!(people.stdout.contains("my-job"), "{people:?}");
    ensure!(json.to_string().contains("\"my-job\""), "{json}");
    case.go()?;
    ensure!(job.wait()? == Ending::Exited(0), "{}", job.streams());
    let later = case.run(&mut case.ckptctl(["ps"]))?.expect(0)?;
    let line = later.stdout.lines().find(|line| line.contains("my-job"));
    ensure!(line.is_none_or(|line| line.contains("ended")), "it is over: {later:?}");
    Ok(())
}

fn run_status(case: &Case) -> Result<()> {
    let run = |script: &str| case.run(&mut case.ckptctl(["run", "--", "sh", "-c", script]));
    let finished = run("echo out; echo err >&2; exit 42")?.expect(42)?;
    ensure!(finished.stdout == "out\n" && finished.stderr.contains("err\n"), "{finished:?}");
    run("kill -TERM $$")?.expect(128 + 15)?;
    let finished = case.run(&mut case.ckptctl(["run", "--", "/no/such/program"]))?;
    let failed = matches!(finished.ending, Ending::Exited(status) if status != 0);
    ensure!(failed && finished.stderr.contains("/no/such/program"), "{finished:?}");
    Ok(())
}

fn help(case: &Case) -> Result<()> {
    let said = case.run(&mut case.ckptctl(["--help"]))?.expect(0)?.stdout;
    for verb in ["checkpoint", "restore", "inspect", "verify", "export", "doctor", "run", "ps", "build"] {
        ensure!(said.contains(verb), "no {verb} in {said}");
        case.run(&mut case.ckptctl([verb, "--help"]))?.expect(0)?;
    }
    // The shells that are here take their completions.
    for shell in ["bash", "zsh", "fish"] {
        let written = case.run(&mut case.ckptctl(["completions", shell]))?.expect(0)?.stdout;
        let file = case.write(format!("completions.{shell}"), written)?;
        let check = format!("if command -v {shell} >/dev/null; then {shell} -n {}; fi", file.display());
        let checked = case.run(case.command("sh").args(["-c", &check]))?.expect(0)?;
        ensure!(checked.stderr.is_empty(), "{shell}: {checked:?}");
    }
    case.run(&mut case.ckptctl(["--version"]))?.expect(0).map(drop)
}

fn man(case: &Case) -> Result<()> {
    let page = |words: &[&str]| -> Result<String> {
        let mut command = case.ckptctl(["man"]);
        Ok(case.run(command.args(words).current_dir(case.work()))?.expect(0)?.stdout)
    };
    let own = page(&[])?;
    ensure!(own.contains(".TH ckptctl 1") && !own.contains("supervisor"), "{own}");
    ensure!(page(&["run"])?.contains(".TH ckptctl-run 1"), "{}", page(&["run"])?);
    let add = page(&["hosts", "add"])?;
    ensure!(add.contains(".TH ckptctl-hosts-add 1") && add.contains("\\-\\-key FILE"), "{add}");
    for unknown in [&["man", "walk"][..], &["man", "supervisor"], &["man", "hosts", "walk"]] {
        let refused = case.run(case.ckptctl(unknown).current_dir(case.work()))?;
        refused.expect_refusal(&[2], &["no verb", "--help"])?;
    }
    Case::expect_only(&case.work(), &[])?;
    page(&["--all", "pages"])?;
    ensure!(case.work().join("pages/ckptctl-hosts-add.1").exists(), "no page of hosts add");
    Ok(())
}

/// Both answer: whoever looks for ckptctl's own, and a configure script that looks for an option of the compiler.
fn cc_help(case: &Case) -> Result<()> {
    let said = case.run(&mut case.ckptctl(["cc", "--help"]))?.expect(0)?.stdout;
    ensure!(said.contains("make CC='ckptctl cc'") && said.contains("-pass-exit-codes"), "{said}");
    let version = case.run(&mut case.ckptctl(["cc", "--version"]))?.expect(0)?.stdout;
    ensure!(!version.contains("ckptctl"), "{version}");
    Ok(())
}

/// What is told of where things are is so.
fn info(case: &Case) -> Result<()> {
    case.run(&mut case.ckptctl(["run", "-d", "--name", "sim", "--", "echo", "out"]))?.expect(0)?;
    let (people, json) = both_forms(case, &["info"])?;
    let logs = json["logs"].as_str().context("no logs")?;
    ensure!(people.stdout.contains(logs), "{people:?}");
    let list = format!("cat {}", logs.replace("JOB", "sim"));
    let printed = || case.run(case.command("bash").args(["-c", &list])).and_then(|finished| finished.expect(0));
    case.wait_until("its output is there", || printed().is_ok_and(|printed| printed.stdout.contains("out\r\n")))
}

/// A terminal that the menu cannot be shown on gets the help, and nothing that it cannot show.
fn dumb_terminal(case: &Case) -> Result<()> {
    for (term, told) in [("TERM=dumb", "TERM is dumb"), ("--unset=TERM", "TERM is not set")] {
        let mut command = case.command("env");
        command.arg(term).arg(case.stage().ckptctl());
        let mut terminal = Terminal::open(case)?;
        let mut running = case.start_on(&mut terminal, &command)?;
        ensure!(running.wait()? == Ending::Exited(2), "{}", running.streams());
        let shown = running.stdout();
        ensure!(shown.contains("Usage: ckptctl") && shown.contains(told), "{shown}");
        ensure!(!shown.contains('\x1b'), "{shown:?}");
    }
    Ok(())
}
