//! Programs that are moved to the other machine and back, and observe themselves all the while.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::PoisonError;

use anyhow::{Context, Result, ensure};
use ckpt_tests::{Case, Ending, Running, Suite, Whos};

use crate::guest::{Guest, Processor, USER};

/// What the other machine is called in the hosts file.
const VM: &str = "vm";
/// The job's name.
const JOB: &str = "traveller";

/// A test's name, its program in tests/programs, and the program's arguments.
type Plain = (&'static str, &'static str, &'static [&'static str]);

/// These check their own state from inside and print as an undisturbed run does.
const SAME_OUTPUT: &[Plain] = &[
    ("vm::clocks_by_vdso", "clocks", &[]),
    ("vm::threads_load", "threads_load", &[]),
    ("vm::thread_state", "thread_state", &[]),
    ("vm::heap", "heap", &[]),
    ("vm::timers", "timers", &["posix"]),
    ("vm::python_checks_itself", "python", &[]),
];

pub fn add(suite: &mut Suite) {
    suite.add("vm::counting_c", Whos::User, |case| numbers(case, "numbers", &["1"], "a"));
    suite.add("vm::threads", Whos::User, |case| numbers(case, "numbers", &["6"], "abcdef"));
    suite.add("vm::python", Whos::User, |case| numbers(case, "numbers_python", &[], "ab"));
    suite.add("vm::what_the_host_says", Whos::User, host_test);
    suite.add("vm::avx2_is_refused", Whos::User, avx2_is_refused);
    for (name, program, arguments) in SAME_OUTPUT {
        suite.add(name, Whos::User, |case| same_output(case, program, arguments));
    }
}

/// The lines of every thread are numbered without a gap or a repeat, and go on there and here again.
fn numbers(case: &Case, program: &str, arguments: &[&str], names: &str) -> Result<()> {
    let mut trip = Trip::start(case, Processor::Max, true, program, arguments)?;
    trip.see_it_count(10)?;
    trip.migrate(VM)?;
    trip.see_it_count(10)?;
    trip.migrate("local")?;
    trip.see_it_count(10)?;
    case.go()?;
    let printed = trip.end()?;
    let (last, lines) =
        printed.lines().collect::<Vec<_>>().split_last().map(|(l, r)| (*l, r.to_vec())).unwrap_or_default();
    ensure!(last == "as expected", "{printed}");
    let mut counted = BTreeMap::new();
    for line in lines {
        let (name, number) = line.split_once(' ').with_context(|| format!("{line:?} in {printed}"))?;
        let before: &mut u64 = counted.entry(name).or_default();
        ensure!(number.parse() == Ok(*before + 1), "{name}: {number} after {before}: {printed}");
        *before += 1;
    }
    ensure!(counted.keys().copied().collect::<String>() == names, "not every thread printed: {printed}");
    Ok(())
}

/// The program finds everything as it was, and prints what it prints when nobody disturbs it.
fn same_output(case: &Case, program: &str, arguments: &[&str]) -> Result<()> {
    case.go()?;
    let expected = case.run(case.program(program)?.args(arguments))?.expect(0)?.stdout;
    case.reset()?;
    let mut trip = Trip::start(case, Processor::Max, true, program, arguments)?;
    trip.job.wait_for_text("ready\n")?;
    trip.migrate(VM)?;
    trip.migrate("local")?;
    case.go()?;
    let printed = trip.end()?;
    ensure!(printed == expected, "{printed:?} and not {expected:?}");
    Ok(())
}

/// Which kernel it is, and what it lacks, is told.
fn host_test(case: &Case) -> Result<()> {
    let guest = Processor::Max.guest(case)?;
    introduce(case, guest)?;
    let kernel = guest.run(case, "uname -r")?.expect(0)?.stdout;
    let told = case.run(&mut ckptctl(case, &["hosts", "test", VM])?)?.expect(0)?.stdout;
    for part in [kernel.trim(), "no PAGEMAP_SCAN"] {
        ensure!(told.contains(part), "nothing of {part:?} in {told}");
    }
    Ok(())
}

/// A processor that lacks what the program may use: that is said before the program is touched.
fn avx2_is_refused(case: &Case) -> Result<()> {
    let mut trip = Trip::start(case, Processor::Qemu64, false, "avx2", &[])?;
    trip.see_it_count(10)?;
    let before = programs_here(case);
    let refused = case.run(&mut ckptctl(case, &["migrate", JOB, VM])?)?;
    let refused = refused.expect(3)?;
    let message = refused.stderr.lines().last().unwrap_or_default();
    let named = ["processor", " avx2 ", "--portable"].iter().all(|name| message.contains(name));
    ensure!(message.starts_with("ckptctl: ") && named, "{refused:?}");
    ensure!(programs_here(case) == before && before.len() == 1, "{before:?}, then {:?}", programs_here(case));
    let left = trip.guest.run(case, &format!("ls -d /proc/[0-9]* | wc -l; ls -A /home/{USER}"))?;
    trip.see_it_count(10)?;
    case.go()?;
    let printed = trip.end()?;
    let expected: String = (1..printed.lines().count()).map(|number| format!("a {number}\n")).collect();
    ensure!(printed == expected + "as expected\n", "{printed}");
    case.note(&format!("left there: {left:?}"));
    Ok(())
}

/// A job and the machine that it can go to.
struct Trip<'a> {
    case: &'a Case,
    guest: &'static Guest,
    job: Running,
}

impl<'a> Trip<'a> {
    /// Starts the program as a job here, and waits until it has printed something.
    fn start(case: &'a Case, processor: Processor, portable: bool, program: &str, arguments: &[&str]) -> Result<Self> {
        let guest = processor.guest(case)?;
        introduce(case, guest)?;
        let mut run = ckptctl(case, &["run", "--name", JOB])?;
        if portable {
            // What is emulated lacks AVX-512, which the C library would choose its code by.
            run.arg("--portable");
        }
        run.arg("--").arg(case.stage().program(program)?).args(arguments);
        let mut job = case.start(&mut run)?;
        job.wait_for_text("\n")?;
        Ok(Self { case, guest, job })
    }

    /// Moves it, and sees that it is there and nowhere else.
    fn migrate(&mut self, host: &str) -> Result<()> {
        let report = self.case.run(&mut ckptctl(self.case, &["migrate", JOB, host, "--json"])?)?.expect(0)?.json()?;
        let pid = report["pid"].as_i64().with_context(|| format!("no pid in {report}"))?;
        let status = format!("grep -E '^(Uid|State|TracerPid):' /proc/{pid}/status");
        let there = self.guest.run(self.case, &status)?.stdout;
        let (is_there, here) =
            (there.contains("\t1234\t") && there.contains("TracerPid:\t0"), programs_here(self.case));
        let as_told = if host == VM { is_there && here.is_empty() } else { !is_there && here.len() == 1 };
        ensure!(as_told, "moved to {host}: process {pid} there {there:?}, here {here:?}");
        Ok(())
    }

    /// Waits for more lines to be printed.
    fn see_it_count(&mut self, lines: usize) -> Result<()> {
        let before = self.job.stdout().lines().count();
        self.case.wait_until("it goes on counting", || self.job.stdout().lines().count() >= before + lines)
    }

    /// Everything that it printed, when it has ended well.
    fn end(&mut self) -> Result<String> {
        let ending = self.job.wait()?;
        ensure!(ending == Ending::Exited(0), "{}", self.job.streams());
        Ok(self.job.stdout())
    }
}

/// The machine becomes a host of the case's user.
fn introduce(case: &Case, guest: &Guest) -> Result<()> {
    let ssh = case.make_dir(".ssh")?;
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o700))?;
    case.write(".ssh/known_hosts", format!("{}\n", guest.known_host))?;
    let destination = format!("{USER}@127.0.0.1:{}", guest.port);
    let mut add = ckptctl(case, &["hosts", "add", VM, &destination, "--key"])?;
    case.run(add.arg(&guest.key))?.expect(0)?;
    // One case puts `ckptctl` there, and the others wait for it: with runtime directories of their own they know nothing of
    // each other.
    let mut has_ckptctl = guest.has_ckptctl.lock().unwrap_or_else(PoisonError::into_inner);
    if !*has_ckptctl {
        case.run(&mut ckptctl(case, &["hosts", "test", VM])?)?.expect(0)?;
        *has_ckptctl = true;
    }
    Ok(())
}

/// A verb, with a runtime directory of the case's own.
fn ckptctl(case: &Case, arguments: &[&str]) -> Result<Command> {
    let runtime = case.make_dir("run")?;
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700))?;
    let mut command = case.ckptctl(arguments);
    command.env("XDG_RUNTIME_DIR", runtime);
    Ok(command)
}

/// The case's processes on this machine that are no part of `ckptctl`.
fn programs_here(case: &Case) -> Vec<u32> {
    let mark = format!("CKPT_TEST_GO={}", case.path("go").display());
    let has_mark = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    let is_program = |pid: &u32| {
        let executable = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        executable.file_name().is_some_and(|name| name != "ckptctl")
    };
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(has_mark).filter(is_program).collect()
}
