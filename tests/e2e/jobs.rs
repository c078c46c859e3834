//! Jobs: programs that live without the terminal that they were started from.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ckpt_tests::{Case, Ending, Running, Suite, Terminal, Whos};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::bad_input::Small;

pub fn add(suite: &mut Suite) {
    suite.add("jobs::keys_act_through_the_terminal", Whos::Both, keys);
    suite.add("jobs::stop_key_and_fg", Whos::Both, stop_key);
    suite.add("jobs::window_size_follows", Whos::Both, resize);
    suite.add("jobs::pipes_are_byte_exact", Whos::Both, pipes);
    suite.add("jobs::joined_pipe_keeps_its_order", Whos::User, joined);
    suite.add("jobs::a_closed_pipe_ends_the_program", Whos::User, closed_pipe);
    suite.add("jobs::files_are_inherited", Whos::User, files);
    suite.add("jobs::programs_that_exit_at_once", Whos::Both, at_once);
    suite.add("jobs::signals_are_passed_on", Whos::User, signals);
    suite.add("jobs::only_the_standard_descriptors", Whos::Both, descriptors);
    suite.add("jobs::detach_and_attach", Whos::Both, detach);
    suite.add("jobs::another_detach_key", Whos::User, detach_key);
    suite.add("jobs::two_are_attached", Whos::User, two_attached);
    suite.add("jobs::terminal_goes_away", Whos::User, hangup);
    suite.add("jobs::supervisor_killed_on_a_terminal", Whos::Both, |case| supervisor_killed(case, true));
    suite.add("jobs::supervisor_killed_with_pipes", Whos::Both, |case| supervisor_killed(case, false));
    suite.add("jobs::ended_while_nobody_looked", Whos::Both, ended_alone);
    suite.add("jobs::keeper_killed", Whos::Both, keeper_killed);
    suite.add("jobs::a_hundred_megabytes", Whos::User, much_output);
    suite.add("jobs::checkpoint_and_restore", Whos::Both, checkpoint_and_restore);
    suite.add("jobs::branch_of_a_job_that_has_ended", Whos::Both, branch);
    suite.add("jobs::damaged_history", Whos::User, damaged_history);
    suite.add("jobs::restored_on_another_terminal", Whos::Both, restored_on_terminal);
    suite.add("jobs::full_screen", Whos::User, full_screen);
    suite.add("jobs::full_disk", Whos::Root, full_disk);
    suite.add("jobs::stop", Whos::Both, stop);
    suite.add("jobs::rm_and_names", Whos::User, rm);
    suite.add("jobs::after_a_reboot", Whos::User, reboot);
    suite.add("jobs::portable", Whos::User, portable);
    suite.add("jobs::idle_costs_nothing", Whos::User, idle);
}

fn shell(case: &Case, name: &str, script: &str) -> Command {
    case.ckptctl(["run", "--name", name, "--", "sh", "-c", script])
}

/// A job in the background.
fn start_detached(case: &Case, name: &str, script: &str) -> Result<()> {
    let mut command = case.ckptctl(["run", "-d", "--name", name, "--", "sh", "-c", script]);
    let finished = case.run(&mut command)?.expect(0)?;
    ensure!(finished.stdout == format!("{name}\n"), "{finished:?}");
    Ok(())
}

fn job(case: &Case, name: &str) -> Result<Value> {
    let json = case.run(&mut case.ckptctl(["ps", "--json"]))?.expect(0)?.json()?;
    let jobs = json["jobs"].as_array().context("no jobs")?;
    jobs.iter().find(|job| job["name"] == name).cloned().with_context(|| format!("no {name} in {json}"))
}

fn description(case: &Case, name: &str) -> PathBuf {
    case.path(format!(".local/state/ckptctl/jobs/{name}/job.json"))
}

fn keeper(case: &Case, name: &str) -> Result<Pid> {
    let job: Value = serde_json::from_slice(&fs::read(description(case, name))?)?;
    let pid = job["keeper"]["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    pid.with_context(|| format!("no keeper in {job}"))
}

/// Who holds the lock of a job: as /proc/locks tells it, by the file's inode.
fn supervisor(case: &Case, name: &str) -> Result<Pid> {
    use std::os::unix::fs::MetadataExt;
    let lock = description(case, name).with_file_name("supervisor.lock");
    let inode = fs::metadata(lock)?.ino().to_string();
    let locks = fs::read_to_string("/proc/locks")?;
    let found = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut found = found.filter(|words| words.get(5).is_some_and(|at| at.rsplit(':').next() == Some(&inode)));
    let pid = found.next().and_then(|words| Pid::from_raw(words.get(4)?.parse().ok()?));
    pid.with_context(|| format!("no supervisor of {name}"))
}

fn kill_supervisor(case: &Case, name: &str) -> Result<()> {
    let mut found = None;
    case.wait_until("it has a supervisor", || {
        // Among locks that come and go, one that stays may be missing from a look.
        found = supervisor(case, name).ok();
        found.is_some()
    })?;
    let pid = found.context("no supervisor")?;
    kill_process(pid, Signal::KILL)?;
    case.wait_until("it is gone", || Case::state(pid.as_raw_nonzero().get()).is_none_or(|state| state == 'Z'))
}

fn on_terminal(case: &Case, command: &Command) -> Result<(Running, Terminal)> {
    let mut terminal = Terminal::open(case)?;
    let running = case.start_on(&mut terminal, command)?;
    Ok((running, terminal))
}

fn keys(case: &Case) -> Result<()> {
    let script = "trap 'echo interrupted' INT; echo ready; while [ ! -e \"$CKPT_TEST_GO\" ]; do sleep 0.02; done; read line; echo \"read: $line\"; cat";
    let (mut running, mut terminal) = on_terminal(case, &shell(case, "keys", script))?;
    running.wait_for_text("detach with Ctrl+] d")?;
    running.wait_for_text("ready\r\n")?;
    terminal.press(b"\x03")?;
    running.wait_for_text("^Cinterrupted\r\n")?;
    case.go()?;
    terminal.press(b"x\x7fone\r")?;
    running.wait_for_text("read: one\r\n")?;
    // Another quits `cat`, and the shell that waits for it with it.
    terminal.press(b"\x1c")?;
    ensure!(running.wait()? == Ending::Exited(128 + 3), "{}", running.streams());
    Ok(())
}

fn stop_key(case: &Case) -> Result<()> {
    let mut bash = case.command("bash");
    bash.args(["--norc", "--noprofile", "-i"]);
    let (mut running, mut terminal) = on_terminal(case, &bash)?;
    // Without children: one that is stopped between vfork and exec holds its shell up.
    let count = "i=0; while [ ! -e \"$CKPT_TEST_GO\" ]; do i=$((i+1)); [ $i -gt 3 ] || echo n$i; done; read line; echo got $line; exit 5";
    let ckptctl = case.stage().ckptctl();
    terminal.press(format!("PS1=; {} run --name z -- sh -c '{count}'\r", ckptctl.display()).as_bytes())?;
    running.wait_for_text("n3\r\n")?;
    terminal.press(b"\x1a")?;
    running.wait_for_text("Stopped")?;
    ensure!(job(case, "z")?["state"] == "stopped", "{}", job(case, "z")?);
    // The shell has its terminal back, with echo.
    terminal.press(b"echo back $((6*7))\r")?;
    running.wait_for_text("back 42\r\n")?;
    case.go()?;
    terminal.press(b"fg\r")?;
    case.wait_until("it runs", || job(case, "z").is_ok_and(|job| job["state"] == "running"))?;
    terminal.press(b"typed\r")?;
    // With the prompt of the shell: what is typed before belongs to the job.
    running.wait_for_text("got typed\r\n\u{1b}[?2004h")?;
    terminal.press(b"echo status $?; exit\r")?;
    running.wait_for_text("status 5\r\n")?;
    ensure!(running.wait()? == Ending::Exited(0), "{}", running.streams());
    Ok(())
}

fn resize(case: &Case) -> Result<()> {
    let mut terminal = Terminal::open(case)?;
    terminal.resize(91, 31)?;
    let script = "trap 'stty size' WINCH; stty size; while [ ! -e \"$CKPT_TEST_GO\" ]; do sleep 0.02; done";
    let mut running = case.start_on(&mut terminal, &shell(case, "size", script))?;
    running.wait_for_text("31 91\r\n")?;
    terminal.resize(120, 40)?;
    running.wait_for_text("40 120\r\n")?;
    case.go()?;
    ensure!(running.wait()? == Ending::Exited(0), "{}", running.streams());
    Ok(())
}

fn pipes(case: &Case) -> Result<()> {
    let sent: Vec<u8> =
        (0..400_000_u32).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap_or(0)).collect();
    let (input, output) = (case.write("input", &sent)?, case.path("output"));
    let script = format!(
        "cat {} | {} run --name pipe -- sh -c 'cat; echo done >&2; exit 9' 2> {} | cat > {}; echo ${{PIPESTATUS[1]}}",
        input.display(),
        case.stage().ckptctl().display(),
        case.path("errors").display(),
        output.display()
    );
    let finished = case.run(case.command("bash").args(["-c", &script]))?.expect(0)?;
    ensure!(finished.stdout == "9\n", "{finished:?}");
    ensure!(fs::read(&output)? == sent, "{} bytes have become {}", sent.len(), fs::metadata(&output)?.len());
    ensure!(fs::read_to_string(case.path("errors"))? == "done\n", "{:?}", fs::read_to_string(case.path("errors")));
    // The same through the harness's own pipes, both of them.
    let mut running = case.start_with_stdin(shell(case, "pipe", "cat; echo bye >&2").stdin(Stdio::piped()))?;
    running.write(b"line\n")?;
    running.wait_for_text("line\n")?;
    running.close_stdin();
    ensure!(running.wait()? == Ending::Exited(0), "{}", running.streams());
    ensure!((running.stdout(), running.stderr()) == ("line\n".into(), "bye\n".into()), "{}", running.streams());
    Ok(())
}

fn joined(case: &Case) -> Result<()> {
    let program = "i=0; while [ $i -lt 2000 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done";
    let ckptctl = case.stage().ckptctl();
    let script = format!("{} run -- sh -c '{program}' 2>&1 | cat", ckptctl.display());
    let finished = case.run(case.command("sh").args(["-c", &script]))?.expect(0)?;
    let expected: String = (0..2000).map(|i| format!("o{i}\ne{i}\n")).collect();
    ensure!(finished.stdout == expected, "not in order");
    Ok(())
}

fn closed_pipe(case: &Case) -> Result<()> {
    let script = format!("{} run -- yes | head -n 1; echo ${{PIPESTATUS[0]}}", case.stage().ckptctl().display());
    let finished = case.run(case.command("bash").args(["-c", &script]))?.expect(0)?;
    ensure!(finished.stdout == "y\n141\n", "{finished:?}");
    let script = format!("yes | {} run -- head -n 1", case.stage().ckptctl().display());
    let finished = case.run(case.command("bash").args(["-c", &script]))?.expect(0)?;
    ensure!(finished.stdout == "y\n", "{finished:?}");
    let script = format!(
        "yes | {} run -- sh -c 'exec <&-; while [ ! -e \"$CKPT_TEST_GO\" ]; do sleep 0.02; done'; echo ${{PIPESTATUS[0]}}",
        case.stage().ckptctl().display()
    );
    let mut running = case.start(case.command("bash").args(["-c", &script]))?;
    case.wait_until("it runs", || job(case, "sh").is_ok())?;
    case.go()?;
    ensure!(running.wait()? == Ending::Exited(0), "{}", running.streams());
    ensure!(running.stdout() == "141\n", "{}", running.streams());
    Ok(())
}

fn files(case: &Case) -> Result<()> {
    let input = case.write("work/input", "from a file\n")?;
    let output = case.path("work/output");
    let script = format!(
        "{} run -- sh -c 'readlink /proc/self/fd/0; cat; readlink /proc/$$/fd/1; echo err >&2' < {} > {}",
        case.stage().ckptctl().display(),
        input.display(),
        output.display()
    );
    let finished = case.run(case.command("sh").args(["-c", &script]))?.expect(0)?;
    let said = fs::read_to_string(&output)?;
    let (input, output) = (input.display(), output.display());
    ensure!(said == format!("{input}\nfrom a file\n{output}\n"), "{said:?}");
    ensure!(finished.stderr == "err\n", "{finished:?}");
    Ok(())
}

fn at_once(case: &Case) -> Result<()> {
    for round in 0..15 {
        let finished =
            case.run(&mut case.ckptctl(["run", "--name", "quick", "--", "sh", "-c", "exit 3"]))?.expect(3)?;
        ensure!(finished.stdout.is_empty() && finished.stderr.is_empty(), "{finished:?}");
        let mut running = case.start(&mut shell(case, "quick", &format!("echo {round}")))?;
        ensure!(running.wait()? == Ending::Exited(0), "{}", running.streams());
        ensure!(running.stdout() == format!("{round}\n"), "{}", running.streams());
    }
    ensure!(job(case, "quick")?["state"] == "ended", "{}", job(case, "quick")?);
    let logs = case.run(&mut case.ckptctl(["logs", "quick"]))?.expect(0)?;
    ensure!(logs.stdout == "14\n", "{logs:?}");
    // Nothing of it is left.
    case.wait_until("its supervisor is gone", || supervisor(case, "quick").is_err())
}

fn signals(case: &Case) -> Result<()> {
    let script = "trap 'echo one' USR1; trap 'echo hangup' HUP; echo ready; while :; do sleep 0.02; done";
    let mut running = case.start(&mut shell(case, "sig", script))?;
    running.wait_for_text("ready\n")?;
    running.signal(Signal::USR1)?;
    running.wait_for_text("one\n")?;
    running.signal(Signal::HUP)?;
    running.wait_for_text("hangup\n")?;
    running.signal(Signal::TERM)?;
    ensure!(running.wait()? == Ending::Exited(128 + 15), "{}", running.streams());
    Ok(())
}

fn descriptors(case: &Case) -> Result<()> {
    let script = format!("exec 7<. 8</dev/null; {} run -- ls -l /proc/self/fd", case.stage().ckptctl().display());
    let finished = case.run(case.command("bash").args(["-c", &script]))?.expect(0)?;
    let numbers: Vec<&str> =
        finished.stdout.lines().filter_map(|line| line.split(" -> ").next()?.rsplit(' ').next()).collect();
    // The last one is the directory that `ls` reads.
    ensure!(numbers[1..] == ["0", "1", "2", "3"], "{finished:?}");
    // It leads a group of its own in the foreground of the job's terminal, with the keeper's session.
    let script = "ps -o pid=,pgid=,tpgid= -p $$";
    let finished = case.run(&mut case.ckptctl(["run", "--", "sh", "-c", script]))?.expect(0)?;
    let words: Vec<&str> = finished.stdout.split_whitespace().collect();
    ensure!(words.len() == 3 && words[0] == words[1] && words[1] == words[2], "{finished:?}");
    Ok(())
}

fn detach(case: &Case) -> Result<()> {
    let script = "echo begun; while [ ! -e \"$CKPT_TEST_GO\" ]; do sleep 0.02; done; echo went on; read line; echo \"read: $line\"; exit 4";
    let (mut running, mut terminal) = on_terminal(case, &shell(case, "away", script))?;
    running.wait_for_text("begun\r\n")?;
    terminal.press(b"\x1dd")?;
    ensure!(running.wait()? == Ending::Exited(0), "{}", running.streams());
    ensure!(running.stdout().contains("ckptctl attach away"), "{}", running.streams());
    ensure!(job(case, "away")?["state"] == "running", "{}", job(case, "away")?);
    case.go()?;
    case.wait_until("it has gone on", || job(case, "away").is_ok_and(|job| job["last_line"] == "went on"))?;
    // What was missed is shown, and it can be typed into.
    let (mut again, mut terminal) = on_terminal(case, &case.ckptctl(["attach", "away"]))?;
    again.wait_for_text("begun\r\nwent on\r\n")?;
    // Only looking does no harm.
    let (mut looking, mut other) = on_terminal(case, &case.ckptctl(["attach", "--read-only", "away"]))?;
    looking.wait_for_text("went on\r\n")?;
    other.press(b"wrong\r")?;
    terminal.press(b"right\r")?;
    again.wait_for_text("read: right\r\n")?;
    for running in [&mut again, &mut looking] {
        ensure!(running.wait()? == Ending::Exited(4), "{}", running.streams());
    }
    let logs = case.run(&mut case.ckptctl(["logs", "away"]))?.expect(0)?;
    ensure!(logs.stdout == "begun\nwent on\nright\nread: right\n", "{logs:?}");
    Ok(())
}

/// The key of the configuration file; a mistake in that is told before anything is started, and only where it is read.
fn detach_key(case: &Case) -> Result<()> {
    case.make_dir(".config/ckptctl")?;
    let config = ".config/ckptctl/config.toml";
    case.write(config, "theme = \"dark\"\ndetach_key = \"ctrl+1\"\n")?;
    let refused = case.run(&mut shell(case, "keyed", "echo begun"))?;
    refused.expect_refusal(&[2], &["config.toml", "line 2", "ctrl+1"])?;
    ensure!(job(case, "keyed").is_err(), "it was started all the same");
    start_detached(case, "keyed", "stty -echo; echo begun; read line; printf '%s' \"$line\" | od -An -tx1; read line")?;
    case.run(&mut case.ckptctl(["logs", "keyed"]))?.expect(0)?;
    let refused = case.run(&mut case.ckptctl(["attach", "keyed"]))?;
    refused.expect_refusal(&[2], &["config.toml", "line 2"])?;
    case.write(config, "detach_key = \"ctrl+a\"\n")?;
    let (mut running, mut terminal) = on_terminal(case, &case.ckptctl(["attach", "keyed"]))?;
    running.wait_for_text("detach with Ctrl+A d")?;
    running.wait_for_text("begun\r\n")?;
    terminal.press(b"\x1dd\x01\x01\r")?;
    running.wait_for_text(" 1d 64 01\r\n")?;
    terminal.press(b"\x01d")?;
    ensure!(running.wait()? == Ending::Exited(0), "{}", running.streams());
    ensure!(job(case, "keyed")?["state"] == "running", "{}", job(case, "keyed")?);
    case.run(&mut case.ckptctl(["stop", "keyed"]))?.expect(0).map(drop)
}

fn two_attached(case: &Case) -> Result<()> {
    start_detached(case, "both", "stty -echo; echo ready; while read line; do echo \"<$line>\"; stty size; done")?;
    let (mut one, mut first) = (Terminal::open(case)?, Terminal::open(case)?);
    one.resize(70, 20)?;
    first.resize(90, 30)?;
    let mut left = case.start_on(&mut one, &case.ckptctl(["attach", "both"]))?;
    left.wait_for_text("ready\r\n")?;
    let mut right = case.start_on(&mut first, &case.ckptctl(["attach", "both"]))?;
    right.wait_for_text("ready\r\n")?;
    one.press(b"a\r")?;
    left.wait_for_text("<a>\r\n20 70\r\n")?;
    right.wait_for_text("<a>\r\n20 70\r\n")?;
    first.press(b"b\r")?;
    left.wait_for_text("<b>\r\n30 90\r\n")?;
    right.wait_for_text("<b>\r\n30 90\r\n")?;
    first.press(b"\x04")?;
    for running in [&mut left, &mut right] {
        ensure!(running.wait()? == Ending::Exited(0), "{}", running.streams());
    }
    Ok(())
}

fn hangup(case: &Case) -> Result<()> {
    let (mut running, terminal) = on_terminal(
        case,
        &shell(
            case,
            "hung",
            "trap 'echo hangup' HUP; echo begun; while [ ! -e \"$CKPT_TEST_GO\" ]; do sleep 0.02; done; echo end",
        ),
    )?;
    running.wait_for_text("begun\r\n")?;
    running.hang_up(terminal)?;
    ensure!(job(case, "hung")?["state"] == "running", "{}", job(case, "hung")?);
    case.go()?;
    case.wait_until("it has ended", || job(case, "hung").is_ok_and(|job| job["state"] == "ended"))?;
    let logs = case.run(&mut case.ckptctl(["logs", "hung"]))?.expect(0)?;
    ensure!(logs.stdout == "begun\nend\n", "{logs:?}");
    Ok(())
}

/// All that it printed would be long.
fn wait_for_number(running: &mut Running, number: u32) -> Result<()> {
    let shown = running.wait_for_text(&format!("\n{number}"));
    let (said, errors) = (running.stdout(), running.stderr());
    let tail = said.get(said.len().saturating_sub(300)..).unwrap_or_default();
    ensure!(shown.is_ok(), "not {number}, but {tail:?}, stderr {errors:?}");
    Ok(())
}

fn supervisor_killed(case: &Case, has_terminal: bool) -> Result<()> {
    let script = "i=0; while [ ! -e \"$CKPT_TEST_GO\" ]; do i=$((i+1)); echo $i; done; exit 6";
    let command = &mut shell(case, "orphan", script);
    // The terminal must stay open as long as what runs on it.
    let (mut running, _terminal) = if has_terminal {
        let (running, terminal) = on_terminal(case, command)?;
        (running, Some(terminal))
    } else {
        (case.start(command)?, None)
    };
    for round in 1..=4 {
        wait_for_number(&mut running, round * 500)?;
        kill_supervisor(case, "orphan")?;
    }
    wait_for_number(&mut running, 3000)?;
    case.go()?;
    ensure!(running.wait()? == Ending::Exited(6), "{:?}", running.stderr());
    let said = running.stdout();
    let numbers: Vec<u64> = said.lines().filter_map(|line| line.trim_end().parse().ok()).collect();
    let gap = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1);
    ensure!(numbers.first() == Some(&1) && gap.is_none(), "lost or repeated: {gap:?}");
    let logs = case.run(&mut case.ckptctl(["logs", "orphan"]))?.expect(0)?;
    let logged = logs.stdout.lines().count();
    ensure!(logged == numbers.len(), "{} lines were shown, and {logged} are in the log", numbers.len());
    Ok(())
}

fn ended_alone(case: &Case) -> Result<()> {
    start_detached(case, "alone", "while [ ! -e \"$CKPT_TEST_GO\" ]; do sleep 0.02; done; echo last words; exit 7")?;
    kill_supervisor(case, "alone")?;
    case.go()?;
    case.wait_until("it has ended", || job(case, "alone").is_ok_and(|job| job["state"] == "ended"))?;
    let known = job(case, "alone")?;
    ensure!(known["status"] == 7 && known["last_line"] == "last words", "{known}");
    case.wait_until("its keeper is gone", || {
        keeper(case, "alone").is_ok_and(|pid| Case::state(pid.as_raw_nonzero().get()).is_none_or(|state| state == 'Z'))
    })
}

fn keeper_killed(case: &Case) -> Result<()> {
    let mut running = case.start(&mut shell(case, "kept", "echo ready; while :; do sleep 0.02; done"))?;
    running.wait_for_text("ready\n")?;
    let image = case.run(&mut case.ckptctl(["checkpoint", "kept", "--json"]));
    drop(image);
    kill_process(keeper(case, "kept")?, Signal::KILL)?;
    ensure!(running.wait()? == Ending::Exited(128 + 1), "{}", running.streams());
    let people = case.run(&mut case.ckptctl(["ps"]))?.expect(0)?;
    ensure!(people.stdout.contains("signal 1 "), "{people:?}");
    Ok(())
}

fn much_output(case: &Case) -> Result<()> {
    const BYTES: u64 = 100 << 20;
    let script = format!("head -c {BYTES} /dev/zero | tr '\\0' 'x'; echo; echo end");
    // In the background nobody reads: it is not held up.
    start_detached(case, "much", &script)?;
    case.wait_until("it has ended", || job(case, "much").is_ok_and(|job| job["state"] == "ended"))?;
    ensure!(job(case, "much")?["last_line"] == "end", "{}", job(case, "much")?);
    let logs = case.run(&mut case.ckptctl(["logs", "much", "-n", "1"]))?.expect(0)?;
    ensure!(logs.stdout == "end\n", "{logs:?}");
    let kept: u64 = fs::read_dir(description(case, "much").with_file_name(""))?
        .filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()))
        .sum();
    ensure!((8 << 20..40 << 20).contains(&kept), "{kept} bytes are kept");
    // In the foreground nothing is lost, however slow the reader.
    let pipe = format!("{} run -- sh -c \"{script}\" | (sleep 1; wc -c)", case.stage().ckptctl().display());
    let finished = case.run(case.command("sh").args(["-c", &pipe]))?.expect(0)?;
    ensure!(finished.stdout.trim() == (BYTES + 5).to_string(), "{finished:?}");
    Ok(())
}

fn checkpoint_and_restore(case: &Case) -> Result<()> {
    let mut command = case.ckptctl(["run", "--name", "sim", "--"]);
    command.arg(case.stage().program("count")?);
    let mut running = case.start(&mut command)?;
    running.wait_for_text("ready\n")?;
    let first = case.run(&mut case.ckptctl(["checkpoint", "sim"]))?.expect(0)?;
    ensure!(first.stdout.contains("ckptctl restore sim@1"), "{first:?}");
    let json = case.run(&mut case.ckptctl(["checkpoint", "sim", "--json", "--codec", "lz4"]))?.expect(0)?.json()?;
    ensure!(json["number"] == 2 && json["threads"] == 1 && json["pause_seconds"].is_number(), "{json}");
    let file = case.work().join("own.ckpt");
    case.run(case.ckptctl(["checkpoint", "sim", "-o", "own.ckpt"]).current_dir(case.work()))?.expect(0)?;
    ensure!(file.exists(), "no {}", file.display());
    let history = case.run(&mut case.ckptctl(["history", "sim", "--json"]))?.expect(0)?.json()?;
    ensure!(history["checkpoints"].as_array().is_some_and(|all| all.len() == 2), "{history}");
    ensure!(job(case, "sim")?["checkpoints"] == 2, "{}", job(case, "sim")?);
    let refused = case.run(&mut case.ckptctl(["restore", "sim"]))?;
    refused.expect_refusal(&[1], &["sim", "runs"])?;
    let refused = case.run(&mut case.ckptctl(["checkpoint", "sim", "-o", "/no/such/directory/x"]))?;
    refused.expect_refusal(&[1], &["/no/such/directory/x"])?;
    case.run(&mut case.ckptctl(["schedule", "sim", "--every", "1d"]))?.expect(0)?;
    // With its last one it is ended, and that is told to whoever is attached.
    let stopped = case.run(&mut case.ckptctl(["checkpoint", "sim", "--stop"]))?.expect(0)?;
    ensure!(stopped.stdout.contains("it was ended"), "{stopped:?}");
    ensure!(running.wait()? == Ending::Exited(128 + 9), "{}", running.streams());
    ensure!(running.stderr().contains("saved"), "{}", running.streams());
    let known = job(case, "sim")?;
    ensure!(known["state"] == "saved" && known["note"].to_string().contains("ckptctl restore sim"), "{known}");

    let mut restored = case.start(&mut case.ckptctl(["restore", "sim"]))?;
    case.wait_until("it is a job again", || job(case, "sim").is_ok_and(|job| job["state"] == "running"))?;
    let schedule = case.run(&mut case.ckptctl(["schedule", "sim", "--json"]))?.expect(0)?.json()?;
    ensure!(schedule["schedule"]["every"] == 86_400, "{schedule}");
    let again = case.run(&mut case.ckptctl(["checkpoint", "sim", "--json"]))?.expect(0)?.json()?;
    ensure!(again["number"] == 4, "{again}");
    // Also its supervisor can be killed.
    kill_supervisor(case, "sim")?;
    case.go()?;
    ensure!(restored.wait()? == Ending::Exited(0), "{}", restored.streams());
    ensure!(restored.stdout().ends_with("as expected\n"), "{}", restored.streams());
    let logs = case.run(&mut case.ckptctl(["logs", "sim"]))?.expect(0)?;
    ensure!(logs.stdout.starts_with("ready\n") && logs.stdout.ends_with("as expected\n"), "{logs:?}");

    // From an earlier one, in the background.
    let _ = fs::remove_file(case.path("go"));
    case.run(&mut case.ckptctl(["restore", "sim@2", "-d", "--files", "keep"]))?.expect(0)?;
    case.go()?;
    case.wait_until("it has ended", || job(case, "sim").is_ok_and(|job| job["state"] == "ended"))?;
    let refused = case.run(&mut case.ckptctl(["restore", "sim@9"]))?;
    refused.expect_refusal(&[1], &["sim", "9"])?;
    Ok(())
}

/// It is a job of its own, and the old one is as it was: with its log, its checkpoints and its schedule.
fn branch(case: &Case) -> Result<()> {
    start_detached(case, "new", "while read line; do :; done")?;
    case.run(&mut case.ckptctl(["branch", "new"]))?.expect_refusal(&[1], &["new", "no checkpoint"])?;
    ensure!(!case.path(".local/state/ckptctl/jobs/new-2").exists(), "something is left of what was refused");
    case.run(&mut case.ckptctl(["stop", "new"]))?.expect(0)?;
    let mut command = case.ckptctl(["run", "--name", "sim", "--"]);
    command.arg(case.stage().program("heap")?);
    let mut running = case.start(&mut command)?;
    running.wait_for_text("ready\n")?;
    case.run(&mut case.ckptctl(["checkpoint", "sim"]))?.expect(0)?;
    case.run(&mut case.ckptctl(["schedule", "sim", "--every", "1d"]))?.expect(0)?;
    case.go()?;
    ensure!(running.wait()? == Ending::Exited(0), "{}", running.streams());
    let known = |name: &str| -> Result<(Value, String, Value)> {
        let logs = case.run(&mut case.ckptctl(["logs", name]))?.expect(0)?.stdout;
        let history = case.run(&mut case.ckptctl(["history", name, "--json"]))?.expect(0)?.json()?;
        let written = serde_json::from_slice(&fs::read(description(case, name))?)?;
        Ok((history, logs, written))
    };
    let before = known("sim")?;
    ensure!(before.1.ends_with("as expected\n") && before.2["schedule"]["every"] == 86_400, "{before:?}");
    let refused = case.run(&mut case.ckptctl(["branch", "sim", "--name", "sim", "-d"]))?;
    refused.expect_refusal(&[2], &["another name"])?;

    for (words, name) in [(&["sim"][..], "sim-2"), (&["sim@1"], "sim-3"), (&["sim", "--name", "trial"], "trial")] {
        fs::remove_file(case.path("go"))?;
        let branched = case.run(case.ckptctl(["branch", "-d", "--json"]).args(words))?.expect(0)?.json()?;
        ensure!(branched["job"] == name, "{branched}");
        ensure!(job(case, name)?["state"] == "running" && job(case, "sim")?["state"] == "ended", "{name}");
        ensure!(known("sim")? == before, "{:?} was {before:?}", known("sim")?);
        case.go()?;
        case.wait_until("it has ended", || job(case, name).is_ok_and(|job| job["state"] == "ended"))?;
        let (history, logs, written) = known(name)?;
        ensure!(logs == "as expected\n", "{logs}");
        ensure!(history["checkpoints"].as_array().is_some_and(Vec::is_empty), "{history}");
        ensure!(written["schedule"].is_null(), "{written}");
    }
    ensure!(known("sim")? == before, "{:?} was {before:?}", known("sim")?);
    Ok(())
}

/// One broken description hides nothing but itself.
fn damaged_history(case: &Case) -> Result<()> {
    let mut command = case.ckptctl(["run", "-d", "--name", "sim", "--"]);
    case.run(command.arg(case.stage().program("heap")?))?.expect(0)?;
    case.wait_until("it is ready", || job(case, "sim").is_ok_and(|job| job["last_line"] == "ready"))?;
    for _ in 0..3 {
        case.run(&mut case.ckptctl(["checkpoint", "sim"]))?.expect(0)?;
    }
    case.run(&mut case.ckptctl(["stop", "sim"]))?.expect(0)?;
    let listed = case.run(&mut case.ckptctl(["ps"]))?.expect(0)?.stdout;
    ensure!(listed.lines().any(|line| line.contains("sim") && line.contains("signal 15")), "{listed}");
    let entry = description(case, "sim").with_file_name("history").join("2.json");
    fs::write(&entry, &fs::read(&entry)?[..20])?;
    let json = case.run(&mut case.ckptctl(["history", "sim", "--json"]))?.expect(0)?.json()?;
    let numbers: Vec<_> = json["checkpoints"].as_array().context("no list")?.iter().map(|one| &one["number"]).collect();
    ensure!(numbers == [1, 3] && json["damaged"][0]["number"] == 2, "{json}");
    let advice = json["damaged"][0]["damaged"].as_str().context("no advice")?.to_owned();
    ensure!(advice.contains("2.json is damaged"), "{json}");
    let told = case.run(&mut case.ckptctl(["history", "sim"]))?.expect(0)?.stdout;
    ensure!(told.lines().count() == 5 && told.ends_with(&format!("2: {advice}\n")), "{told}");
    let known = job(case, "sim")?;
    ensure!(known["checkpoints"] == 2 && known["note"].to_string().contains("1 damaged checkpoint"), "{known}");
    let refused = case.run(&mut case.ckptctl(["restore", "sim@2"]))?;
    refused.expect_refusal(&[1], &["checkpoint 2 of the job sim", "2.json"])?;
    // As is advised, its image can be had.
    let image = advice.rsplit(' ').next().context("no image")?.to_owned();
    case.go()?;
    case.run(&mut case.ckptctl(["verify", &image]))?.expect(0)?;
    case.run(&mut case.ckptctl(["restore", "sim"]))?.expect(0).map(drop)
}

/// Shows itself on the other screen, with keys of its own.
const FULL_SCREEN: &str =
    "printf '\\033[?1049h\\033[?1h\\033[2;3Hfull screen'; while read line; do echo got $line; done";

/// The terminal is not left in the modes of a program that goes on without it, and has them again with the program.
fn full_screen(case: &Case) -> Result<()> {
    let mut terminal = Terminal::open(case)?;
    let mut run = case.start_on(&mut terminal, &shell(case, "full", FULL_SCREEN))?;
    run.wait_for_text("full screen")?;
    terminal.press(b"\x1dd")?;
    ensure!(run.wait()? == Ending::Exited(0), "{}", run.streams());
    let shown = terminal.screen();
    let undone = "\x1b[?1049l\x1b[?1l\x1b[m\r\nckptctl: detached";
    case.wait_until("the modes are off", || shown.text().contains(undone)).with_context(|| shown.text())?;

    let mut terminal = Terminal::open(case)?;
    terminal.resize(80, 24)?;
    let mut attached = case.start_on(&mut terminal, &case.ckptctl(["attach", "full"]))?;
    attached.wait_for_text("full screen")?;
    let shown = terminal.screen().text();
    ensure!(shown.contains("\x1b[?1h\x1b[?1049h"), "{shown:?}");
    terminal.press(b"\x1dd")?;
    ensure!(attached.wait()? == Ending::Exited(0), "{}", attached.streams());

    case.run(&mut case.ckptctl(["checkpoint", "full", "--stop"]))?.expect(0)?;
    let mut terminal = Terminal::open(case)?;
    let mut restored = case.start_on(&mut terminal, &case.ckptctl(["restore", "full"]))?;
    restored.wait_for_text("full screen")?;
    let shown = terminal.screen().text();
    let (modes, _) = shown.split_once("full screen").context("no screen")?;
    ensure!(modes.contains("\x1b[?1h\x1b[?1049h"), "{shown:?}");
    terminal.press(b"one\n")?;
    restored.wait_for_text("got one")?;
    restored.kill()?;
    case.run(&mut case.ckptctl(["stop", "full"]))?.expect(0).map(drop)
}

fn restored_on_terminal(case: &Case) -> Result<()> {
    for (mode, keys) in [("raw", &b""[..]), ("reads", b"hello\r"), ("job", b"")] {
        let mut command = case.ckptctl(["run", "--name", mode, "--"]);
        command.arg(case.stage().program("terminal")?).arg(mode);
        let (mut running, _first) = on_terminal(case, &command)?;
        running.wait_for_text("ready")?;
        let pid = i32::try_from(job(case, mode)?["pid"].as_i64().context("no pid")?)?;
        case.wait_until("it sleeps", || Case::state(pid) == Some('S'))?;
        case.run(&mut case.ckptctl(["checkpoint", mode, "--stop"]))?.expect(0)?;
        ensure!(running.wait()? == Ending::Exited(128 + 9), "{}", running.streams());
        let (mut restored, mut second) = on_terminal(case, &case.ckptctl(["restore", mode]))?;
        case.go()?;
        restored.wait_for_text("attached")?;
        second.press(keys)?;
        restored.wait_for_text("as expected")?;
        ensure!(restored.wait()? == Ending::Exited(0), "{}", restored.streams());
        ensure!(mode != "reads" || restored.stdout().contains("read: hello"), "{}", restored.streams());
        fs::remove_file(case.path("go"))?;
    }
    Ok(())
}

/// What must be written down of a job can be, although the disk where that is has become full.
fn full_disk(case: &Case) -> Result<()> {
    let small = Small::make(case, 1024)?;
    let verb = |arguments: &[&str]| {
        let mut command = case.ckptctl(arguments);
        command.env("XDG_STATE_HOME", &small.0);
        command
    };
    case.run(&mut verb(&["run", "-d", "--name", "full", "--", "sh", "-c", "while read line; do :; done"]))?
        .expect(0)?;
    let mut filler = fs::File::create(small.0.join("filler"))?;
    while filler.write_all(&[1; 1024]).is_ok() {}
    for _ in 0..3 {
        case.run(&mut verb(&["schedule", "full", "--every", "1h"]))?.expect(0)?;
        while filler.write_all(&[1; 1024]).is_ok() {}
        drop(filler);
        // As much as a user frees; it is kept again.
        fs::remove_file(small.0.join("filler"))?;
        case.run(&mut verb(&["schedule", "full", "--off"]))?.expect(0)?;
        filler = fs::File::create(small.0.join("filler"))?;
        while filler.write_all(&[1; 1024]).is_ok() {}
    }
    case.run(&mut verb(&["stop", "full"]))?.expect(0)?;

    drop(filler);
    // What is printed, 350 KiB, waits for room; that is told.
    fs::write(small.0.join("filler"), vec![1; 800 << 10])?;
    let words = ["run", "-d", "--name", "loud", "--", "sh", "-c", "seq 1 60000; while read line; do :; done"];
    case.run(&mut verb(&words))?.expect(0)?;
    let note = || {
        let listed = case.run(&mut verb(&["ps", "--json"])).and_then(|said| said.json()).unwrap_or_default();
        let jobs = listed["jobs"].as_array().cloned().unwrap_or_default();
        jobs.iter().find(|job| job["name"] == "loud").map_or(Value::Null, |job| job["note"].clone()).to_string()
    };
    case.wait_until("it is told that its output waits", || note().contains("what it prints waits until"))?;
    fs::remove_file(small.0.join("filler"))?;
    case.wait_until("it goes on", || !note().contains("waits"))?;
    let logged = || case.run(&mut verb(&["logs", "loud"])).is_ok_and(|said| said.stdout.lines().count() == 60_000);
    case.wait_until("nothing is lost", logged)?;
    case.run(&mut verb(&["stop", "loud"]))?.expect(0).map(drop)
}

fn stop(case: &Case) -> Result<()> {
    start_detached(case, "meek", "echo ready; while :; do sleep 0.02; done")?;
    let stopped = case.run(&mut case.ckptctl(["stop", "meek"]))?.expect(0)?;
    ensure!(stopped.stdout.contains("signal 15"), "{stopped:?}");
    ensure!(job(case, "meek")?["status"] == 143, "{}", job(case, "meek")?);
    start_detached(case, "stubborn", "trap '' TERM; echo ready; while :; do sleep 0.02; done")?;
    case.wait_until("it ignores it", || job(case, "stubborn").is_ok_and(|job| job["last_line"] == "ready"))?;
    let stopped = case.run(&mut case.ckptctl(["stop", "stubborn", "--timeout", "1", "--json"]))?.expect(0)?.json()?;
    ensure!(stopped["killed"] == true && stopped["status"] == 137, "{stopped}");
    start_detached(case, "polite", "trap 'exit 12' INT; echo ready; while :; do sleep 0.02; done")?;
    case.wait_until("it is ready", || job(case, "polite").is_ok_and(|job| job["last_line"] == "ready"))?;
    let stopped = case.run(&mut case.ckptctl(["stop", "polite", "-s", "INT"]))?.expect(0)?;
    ensure!(stopped.stdout.contains("status 12"), "{stopped:?}");
    let refused = case.run(&mut case.ckptctl(["stop", "polite"]))?;
    refused.expect_refusal(&[1], &["polite"])?;
    Ok(())
}

fn rm(case: &Case) -> Result<()> {
    start_detached(case, "old", "while [ ! -e \"$CKPT_TEST_GO\" ]; do sleep 0.02; done")?;
    let refused = case.run(&mut case.ckptctl(["rm", "old"]))?;
    refused.expect_refusal(&[1], &["old", "stop"])?;
    let refused = case.run(&mut shell(case, "old", "true"))?;
    refused.expect_refusal(&[1], &["old", "running"])?;
    case.go()?;
    case.wait_until("it has ended", || job(case, "old").is_ok_and(|job| job["state"] == "ended"))?;
    case.run(&mut case.ckptctl(["rm", "old"]))?.expect(0)?;
    ensure!(job(case, "old").is_err(), "it is still there");
    for verb in ["attach", "logs", "stop", "rm", "history", "checkpoint"] {
        let refused = case.run(&mut case.ckptctl([verb, "old"]))?;
        refused.expect_refusal(&[1], &["old"])?;
    }
    let elsewhere = case.make_dir("elsewhere")?;
    let mut command = case.ckptctl(["run", "--directory"]);
    let finished = case.run(command.arg(&elsewhere).args(["--", "pwd"]))?.expect(0)?;
    ensure!(finished.stdout.trim() == elsewhere.display().to_string(), "{finished:?}");
    Ok(())
}

fn reboot(case: &Case) -> Result<()> {
    let mut command = case.ckptctl(["run", "-d", "--name", "before", "--"]);
    case.run(command.arg(case.stage().program("heap")?))?.expect(0)?;
    case.wait_until("it is ready", || job(case, "before").is_ok_and(|job| job["last_line"] == "ready"))?;
    case.run(&mut case.ckptctl(["checkpoint", "before"]))?.expect(0)?;
    let path = description(case, "before");
    let mut known: Value = serde_json::from_slice(&fs::read(&path)?)?;
    case.run(&mut case.ckptctl(["stop", "before", "-s", "KILL"]))?.expect(0)?;
    // As it would have been found after the machine was started again.
    known["boot"] = "another".into();
    fs::write(&path, serde_json::to_vec(&known)?)?;
    let found = job(case, "before")?;
    ensure!(found["state"] == "ended" && found["note"].to_string().contains("ckptctl restore before"), "{found}");
    case.run(&mut case.ckptctl(["restore", "before", "-d"]))?.expect(0)?;
    case.go()?;
    case.wait_until("it has ended", || job(case, "before").is_ok_and(|job| job["state"] == "ended"))?;
    let found = job(case, "before")?;
    let logs = case.run(&mut case.ckptctl(["logs", "before"]))?.expect(0)?;
    ensure!(found["status"] == 0, "{found}, {logs:?}");
    Ok(())
}

fn portable(case: &Case) -> Result<()> {
    let finished = case.run(&mut case.ckptctl(["run", "--portable", "--", "env"]))?.expect(0)?;
    let has = |name: &str| finished.stdout.lines().any(|line| line.starts_with(name));
    ensure!(has("GLIBC_TUNABLES=") && has("LD_BIND_NOW=1") && has("TERM=xterm"), "{finished:?}");
    let finished = case.run(&mut case.ckptctl(["run", "--", "env"]))?.expect(0)?;
    ensure!(!finished.stdout.contains("GLIBC_TUNABLES"), "{finished:?}");
    Ok(())
}

fn idle(case: &Case) -> Result<()> {
    start_detached(case, "idle", "while [ ! -e \"$CKPT_TEST_GO\" ]; do sleep 0.5; done")?;
    let (supervisor, keeper) = (supervisor(case, "idle")?, keeper(case, "idle")?);
    let used = |pid: Pid| -> Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
        let fields: Vec<&str> = stat.rsplit_once(") ").context("no stat")?.1.split(' ').collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    };
    let before = used(supervisor)? + used(keeper)?;
    // There is nothing to wait for but time.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let after = used(supervisor)? + used(keeper)?;
    ensure!(after == before, "{} ticks in two seconds", after - before);
    for pid in [supervisor, keeper] {
        let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
        let size: u64 = line.trim().trim_end_matches(" kB").parse()?;
        ensure!(size < 4096, "{size} KiB of memory of its own");
    }
    case.go()
}
