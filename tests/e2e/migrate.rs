//! Moving running programs to other machines and home again: the walk, the terminal, files, and what cannot move.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ckpt_tests::{Case, Ending, Link, Network, Running, Suite, Terminal, Who, Whos};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

use crate::faults::{agents, end};
use crate::journey::{JOB, Journey, SIZE, Transcript, Traveller, done, input, this_machine};

/// Name, program and arguments, and the names of its threads.
const TRAVELLERS: [(&str, Traveller<'static>, &str); 3] = [
    ("counting_c", ("traveller", &[]), "a"),
    ("threads", ("traveller", &["threads=6"]), "abcdef"),
    ("python", ("traveller_python", &[]), "ab"),
];

pub fn add(suite: &mut Suite) {
    for (name, traveller, threads) in TRAVELLERS {
        suite.add(&format!("migrate::{name}"), Whos::Both, move |case| walk(case, traveller, threads));
    }
    suite.add("migrate::into_closed_directories", Whos::User, into_closed_directories);
    suite.add("migrate::at_home", Whos::Both, at_home);
    suite.add("migrate::death_by_signal", Whos::User, death_by_signal);
    suite.add("migrate::timers_over_two_moves", Whos::Both, timers_over_two_moves);
    suite.add("migrate::unread_input", Whos::Both, unread_input);
    suite.add("migrate::one_host_of_two_names", Whos::User, two_names);
    suite.add("migrate::output_into_a_file", Whos::User, output_into_a_file);
    suite.add("migrate::slow_reader", Whos::User, slow_reader);
    suite.add("migrate::detach_and_attach", Whos::User, detach_and_attach);
    suite.add("migrate::connection_drops", Whos::User, connection_drops);
    suite.add("migrate::pipes", Whos::User, pipes);
    suite.add("migrate::connected_socket", Whos::Both, connected_socket);
    suite.add("migrate::device", Whos::Both, device);
    suite.add("migrate::copying_goes_on", Whos::User, copying_goes_on);
    suite.add("migrate::what_has_grown", Whos::User, what_has_grown);
    suite.add("migrate::thousands_of_files", Whos::User, thousands_of_files);
    suite.add("migrate::no_room_for_files", Whos::User, no_room_for_files);
    suite.add("migrate::saved_before_each_move", Whos::User, saved_before_each_move);
    suite.add("migrate::cancelled_while_memory_is_sent", Whos::User, cancelled_while_memory_is_sent);
    suite.add("migrate::waits_for_a_checkpoint", Whos::User, waits_for_a_checkpoint);
    suite.add("migrate::saved_by_schedule_all_the_time", Whos::User, saved_by_schedule_all_the_time);
    suite.add("migrate::checkpoint_is_cancelled", Whos::User, checkpoint_is_cancelled);
}

/// The walk of the issue: there, on to another one, and home, seen from the terminal that it was started in.
fn walk(case: &Case, traveller: Traveller<'_>, threads: &str) -> Result<()> {
    let network = Network::make(case)?;
    let (program, arguments) = traveller;
    // What it has not opened yet: in its directory, and elsewhere, which has to be said.
    let library = case.make_dir("library")?;
    for number in 0..4 {
        case.write(format!("library/other{number}.py"), "answer = 42\n")?;
    }
    let (with, argument) = (library.display().to_string(), format!("library={}", library.display()));
    let arguments: Vec<&str> = arguments.iter().copied().chain([argument.as_str()]).collect();
    let mut journey = Journey::start(case, &network, (program, &arguments))?;
    journey.with = vec!["--with".to_owned(), with];
    journey.press("here\n")?;
    journey.see("typed: here")?;

    journey.migrate("alpha")?;
    journey.press("at alpha\n")?;
    journey.see("typed: at alpha")?;
    journey.terminal.resize(SIZE.0 + 7, SIZE.1)?;
    journey.see(&format!("window {}x{}", SIZE.0 + 7, SIZE.1))?;
    // What it has written is brought back while it goes on there.
    done(case, &["fetch", JOB])?;
    let fetched = fs::read_to_string(journey.directory().join("trail"))?;
    ensure!(fetched.contains(" alpha "), "fetched: {fetched}");
    journey.see_it_count(5)?;

    journey.migrate("beta")?;
    journey.terminal.resize(SIZE.0, SIZE.1 + 3)?;
    journey.see(&format!("window {}x{}", SIZE.0, SIZE.1 + 3))?;
    journey.press("at beta\n")?;
    journey.see("typed: at beta")?;

    let report = journey.migrate("local")?;
    ensure!(report["from"] == "beta" && report["downtime"].as_f64().is_some_and(|time| time < 30.0), "{report}");
    journey.press("home\n")?;
    journey.see("typed: home")?;
    let directory = journey.directory();
    let transcript = journey.end("quit 7\n", Ending::Exited(7))?;
    let machine = this_machine()?;
    ensure!(transcript.hosts == [&machine, "alpha", "beta", &machine], "{:?}", transcript.hosts);
    ensure!(transcript.typed == ["here", "at alpha", "at beta", "home"], "{:?}", transcript.typed);
    ensure!(transcript.threads == threads, "{:?}", transcript.threads);
    ensure!(transcript.others == ["as expected"], "{:?}", transcript.others);
    is_all_at_home(&directory, &transcript)
}

/// Where the program and its directory were, the hosts have directories of somebody else's that nobody else may search.
fn into_closed_directories(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    let journey = Journey::start(case, &network, ("traveller", &[]))?;
    let executable = case.stage().program("traveller")?;
    let close = |directory: &Path| {
        let directory = directory.display();
        format!("mkdir -p {directory} && echo theirs > {directory}/input && chmod 700 {directory}")
    };
    let programs = executable.parent().context("no directory of programs")?;
    for (host, directory) in [(&network.alpha, case.dir()), (&network.beta, &*journey.directory())] {
        host.run(case, &close(directory))?.expect(0)?;
        host.run(case, &close(programs))?.expect(0)?;
    }
    for host in ["alpha", "beta", "alpha", "local"] {
        journey.migrate(host)?;
    }
    let directory = journey.directory();
    let transcript = journey.end("quit 7\n", Ending::Exited(7))?;
    let machine = this_machine()?;
    ensure!(transcript.hosts == [&machine, "alpha", "beta", "alpha", &machine], "{:?}", transcript.hosts);
    ensure!(transcript.others == ["as expected"], "{:?}", transcript.others);
    is_all_at_home(&directory, &transcript)
}

/// The programs themselves find nothing wrong when they stay where they are.
fn at_home(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    for (_, traveller, threads) in TRAVELLERS {
        let mut journey = Journey::start(case, &network, traveller)?;
        journey.is_only_on("local")?;
        journey.terminal.resize(SIZE.0 + 1, SIZE.1)?;
        journey.see(&format!("window {}x{}", SIZE.0 + 1, SIZE.1))?;
        journey.press("hello\n")?;
        journey.see("typed: hello")?;
        let directory = journey.directory();
        let transcript = journey.end("quit 9\n", Ending::Exited(9))?;
        ensure!(transcript.others == ["as expected"] && transcript.threads == threads, "{transcript:?}");
        is_all_at_home(&directory, &transcript)?;
        fs::remove_dir_all(&directory)?;
    }
    Ok(())
}

/// Everything that it wrote, wherever it was then.
fn is_all_at_home(directory: &Path, transcript: &Transcript) -> Result<()> {
    let trail = fs::read_to_string(directory.join("trail"))?;
    let lines: Vec<&str> = trail.lines().collect();
    ensure!(lines == transcript.lines, "{} lines in the file, {} shown", lines.len(), transcript.lines.len());
    for host in &transcript.hosts {
        let note = directory.join(format!("was-on-{host}"));
        let contents = fs::read_to_string(&note).with_context(|| format!("no {}", note.display()))?;
        ensure!(contents == "here\n", "{}: {contents:?}", note.display());
    }
    let identity = fs::metadata(directory)?;
    for entry in fs::read_dir(directory)? {
        let metadata = entry?.metadata()?;
        ensure!(metadata.uid() == identity.uid(), "it belongs to {}", metadata.uid());
    }
    Ok(())
}

fn death_by_signal(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    let journey = Journey::start(case, &network, ("traveller", &[]))?;
    journey.migrate("alpha")?;
    let transcript = journey.end("die 10\n", Ending::Exited(128 + 10))?;
    ensure!(transcript.hosts.last().is_some_and(|host| host == "alpha"), "{:?}", transcript.hosts);
    // And the status of one that ends there by itself.
    let journey = Journey::start(case, &network, ("traveller", &[]))?;
    journey.migrate("beta")?;
    let transcript = journey.end("quit 3\n", Ending::Exited(3))?;
    ensure!(transcript.others == ["as expected"], "{:?}", transcript.others);
    Ok(())
}

/// Timers that tell a thread, by the ids that it has in the nest that it lives in since the first move.
fn timers_over_two_moves(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    let mut journey = Journey::start(case, &network, ("traveller", &["timers=all", "threads=2"]))?;
    for host in ["alpha", "beta", "local"] {
        journey.migrate(host)?;
    }
    journey.press("quit 0\n")?;
    let transcript = journey.ended(Ending::Exited(0))?;
    ensure!(transcript.others == ["as expected"], "{:?}", transcript.others);
    Ok(())
}

/// What was typed and not read yet goes along, also half a line.
fn unread_input(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    let mut journey = Journey::start(case, &network, ("traveller", &[]))?;
    journey.press("deaf\n")?;
    journey.see("typed: deaf")?;
    journey.press("one\ntwo\nthr")?;
    journey.see_it_count(20)?;
    journey.migrate("alpha")?;
    journey.see("typed: two")?;
    journey.press("ee\n")?;
    journey.see("typed: three")?;
    let transcript = journey.end("quit 0\n", Ending::Exited(0))?;
    ensure!(transcript.typed == ["deaf", "one", "two", "three"], "{:?}", transcript.typed);
    Ok(())
}

/// Attached again, a terminal shows what was missed meanwhile.
fn detach_and_attach(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    let mut journey = Journey::start(case, &network, ("traveller", &["threads=2"]))?;
    journey.press("\x1dd")?;
    ensure!(journey.run.wait()? == Ending::Exited(0), "{}", journey.run.streams());
    let before = journey.terminal.screen().text();
    for host in ["alpha", "beta", "local"] {
        done(case, &["migrate", JOB, host])?;
        journey.is_only_on(host)?;
        let mut terminal = Terminal::open(case)?;
        terminal.resize(SIZE.0, SIZE.1)?;
        let mut attached = case.start_on(&mut terminal, &journey.verb(&["attach", JOB]))?;
        attached.wait_for_text("attached to")?;
        terminal.press(format!("{host}\n").as_bytes())?;
        attached.wait_for_text(&format!("typed: {host}\r\n"))?;
        terminal.press(b"\x1dd")?;
        ensure!(attached.wait()? == Ending::Exited(0), "{}", attached.streams());
    }
    // The log has all of it, from the first line to the last.
    done(case, &["stop", JOB])?;
    let printed = done(case, &["logs", JOB])?.stdout;
    let transcript = Transcript::of(&printed)?;
    let machine = this_machine()?;
    ensure!(transcript.hosts == [&machine, "alpha", "beta", &machine], "{:?}", transcript.hosts);
    ensure!(transcript.typed == ["alpha", "beta", "local"], "{:?}", transcript.typed);
    let shown = Transcript::of(before.rsplit_once("\r\n").map_or("", |(shown, _)| shown))?;
    ensure!(transcript.lines.starts_with(&shown.lines), "the terminal showed what the log does not have");
    journey.was_never_two()
}

/// The cable is pulled while it prints: it goes on there, and all of it is shown when the cable is back.
fn connection_drops(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    let journey = Journey::start(case, &network, ("traveller", &[]))?;
    journey.migrate("alpha")?;
    network.alpha.cut()?;
    let number = || journey.copies().0.first().map(|copy| copy.name.clone());
    let before = number();
    case.wait_until("it goes on there", || number() != before)?;
    network.alpha.mend()?;
    journey.see_it_count(20)?;
    let transcript = journey.end("quit 0\n", Ending::Exited(0))?;
    ensure!(transcript.hosts == [this_machine()?.as_str(), "alpha"], "{:?}", transcript.hosts);
    Ok(())
}

/// A program between pipes, as in a script.
fn pipes(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    network.introduce(case)?;
    case.write("work/input", input())?;
    let mark = case.path("mark").display().to_string();
    let mut command = case.ckptctl(["run", "--name", JOB, "--"]);
    command.arg(case.stage().program("traveller")?).arg(&mark).stdin(std::process::Stdio::piped());
    let mut run = case.start_with_stdin(&mut command)?;
    run.wait_for_text("\na 10 ")?;
    for host in ["alpha", "local"] {
        run.write(format!("before {host}\n").as_bytes()).with_context(|| run.streams())?;
        done(case, &["migrate", JOB, host])?;
        ensure!(network.copies(&mark).running_on() == [host], "{:?}", network.copies(&mark));
        run.write(format!("at {host}\n").as_bytes())?;
        run.wait_for_text(&format!("typed: at {host}\n"))?;
    }
    // What it has not read goes along; also when nothing more comes.
    run.write(b"deaf\n")?;
    run.wait_for_text("typed: deaf\n")?;
    run.write(b"unread\nquit 5\n")?;
    run.close_stdin();
    let program = network.copies(&mark).0.first().context("it is gone")?.pid;
    case.wait_until("its input has ended", || has_ended(program).unwrap_or(false))?;
    done(case, &["migrate", JOB, "alpha"])?;
    ensure!(run.wait()? == Ending::Exited(5), "{}", run.streams());
    let transcript = Transcript::of(&run.stdout())?;
    let machine = this_machine()?;
    ensure!(transcript.hosts == [&machine, "alpha", &machine, "alpha"], "{:?}", transcript.hosts);
    let typed = ["before alpha", "at alpha", "before local", "at local", "deaf", "unread"];
    ensure!(transcript.typed == typed, "{:?}", transcript.typed);
    Ok(())
}

/// A program on a machine that is known under two names is listed once.
fn two_names(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    let host = &network.alpha;
    let entries: Vec<_> = ["alpha", "other"].iter().map(|name| network.entry(name, host.user, host.address)).collect();
    let known = format!("{} {}\n", host.address.ip(), host.host_key());
    network.introduce_as(case, &entries.concat(), &known)?;
    let journey = Journey::start_as(case, &network, JOB, ("traveller", &[]))?;
    journey.migrate("alpha")?;
    let listed = case.run(&mut journey.verb(&["ps", "--json"]))?.expect(0)?.json()?;
    ensure!(listed["jobs"].as_array().is_some_and(|jobs| jobs.len() == 1), "{listed}");
    journey.end("quit 0\n", Ending::Exited(0)).map(drop)
}

/// What it prints goes into a file, which is its own: nothing else is written into that, and it comes home.
fn output_into_a_file(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    network.introduce(case)?;
    case.write("work/input", input())?;
    let mark = case.path("mark").display().to_string();
    let program = case.stage().program("traveller")?;
    let script =
        format!("{} run --name {JOB} -- {} {mark} > all 2>&1", case.stage().ckptctl().display(), program.display());
    let mut run =
        case.start_with_stdin(case.command("sh").args(["-c", &script]).stdin(std::process::Stdio::piped()))?;
    let all = case.path("work/all");
    let lines = || fs::read_to_string(&all).unwrap_or_default().matches("\na ").count();
    case.wait_until("it counts", || lines() > 10)?;
    for host in ["alpha", "local"] {
        done(case, &["migrate", JOB, host])?;
        ensure!(network.copies(&mark).running_on() == [host], "{:?}", network.copies(&mark));
    }
    run.write(b"quit 5\n")?;
    ensure!(run.wait()? == Ending::Exited(5), "{}", run.streams());
    let transcript = Transcript::of(&fs::read_to_string(&all)?)?;
    let machine = this_machine()?;
    ensure!(transcript.hosts == [&machine, "alpha", &machine], "{:?}", transcript.hosts);
    ensure!(transcript.others == ["as expected"], "{:?}", transcript.others);
    Ok(())
}

/// Reads slowly what should be numbers in order, and says how many there were.
const SLOW_READER: &str = "
import os, time
rest, last = b'', 0
while piece := os.read(0, 65536):
    *lines, rest = (rest + piece).split(b'\\n')
    for line in lines:
        assert int(line) == last + 1, (last, line)
        last += 1
    time.sleep(0.004)
assert rest == b'' and last > 0, (rest, last)
print('all', last)
";

/// Whoever reads the output is slower than the program prints it, which therefore waits: nothing is lost on the way.
fn slow_reader(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    network.introduce(case)?;
    let reader = case.write("reader.py", SLOW_READER)?;
    let (mark, program) = (case.path("mark").display().to_string(), case.stage().program("much")?);
    let script = format!(
        "{{ {} run --name {JOB} -- {} {mark}; echo status $? >&2; }} | python3 {}",
        case.stage().ckptctl().display(),
        program.display(),
        reader.display()
    );
    let mut run =
        case.start_with_stdin(case.command("sh").args(["-c", &script]).stdin(std::process::Stdio::piped()))?;
    case.wait_until("it runs", || network.copies(&mark).running_on() == ["local"])?;
    for host in ["alpha", "beta", "local", "beta"] {
        done(case, &["migrate", JOB, host])?;
        ensure!(network.copies(&mark).running_on() == [host], "{:?}", network.copies(&mark));
    }
    run.close_stdin();
    ensure!(run.wait()? == Ending::Exited(0), "{}", run.streams());
    ensure!(run.stdout().starts_with("all ") && run.stderr().contains("status 17"), "{}", run.streams());
    Ok(())
}

/// Whether nobody writes any more into the pipe that is a program's standard input.
fn has_ended(pid: i32) -> Result<bool> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let pipe = fs::File::options().read(true).custom_flags(flags).open(format!("/proc/{pid}/fd/0"))?;
    let mut fds = [PollFd::new(&pipe, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(fds[0].revents().contains(PollFlags::HUP))
}

/// The connection to another machine cannot move: that is said, or it becomes one that its peer has reset.
fn connected_socket(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = format!("port={}", listener.local_addr()?.port());
    network.introduce(case)?;
    let journey = Journey::start_as(case, &network, JOB, ("traveller", &[&port]))?;
    let _peer = listener.accept()?;
    let refused = case.run(&mut journey.verb(&["migrate", JOB, "alpha"]))?;
    refused.expect_refusal(&[3], &["tcp", "--tcp=close"])?;
    journey.is_only_on("local")?;
    journey.see_it_count(10)?;
    done(case, &["migrate", JOB, "alpha", "--tcp=close"])?;
    journey.is_only_on("alpha")?;
    journey.see("typed: Connection reset by peer")?;
    let transcript = journey.end("quit 0\n", Ending::Exited(0))?;
    ensure!(transcript.typed == ["Connection reset by peer"], "{:?}", transcript.typed);
    Ok(())
}

/// An open device cannot move, and nothing is stopped to find that out.
fn device(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    let path = case.path("fuse");
    let made = case.run(case.command_as(Who::Root, "mknod").arg(&path).args(["c", "10", "229"]))?;
    case.give(&path)?;
    if made.ending != Ending::Exited(0) || fs::File::open(&path).is_err() {
        return ckpt_tests::skip("this kernel has no FUSE, whose device is the example");
    }
    network.introduce(case)?;
    let argument = format!("device={}", path.display());
    let journey = Journey::start_as(case, &network, JOB, ("traveller", &[&argument]))?;
    let pid = journey.copies().0[0].pid;
    let refused = case.run(&mut journey.verb(&["migrate", JOB, "alpha"]))?;
    refused.expect_refusal(&[3], &["fuse", "device"])?;
    let jobs = network.alpha.home().join(".local/state/ckptctl/jobs");
    case.wait_until("nothing is left of it there", || !jobs.join(JOB).exists())?;
    ensure!(journey.copies().0[0].pid == pid, "{:?}", journey.copies());
    journey.end("quit 0\n", Ending::Exited(0)).map(drop)
}

/// The cable is pulled in the middle of a large file: the next try sends the rest of it only.
fn copying_goes_on(case: &Case) -> Result<()> {
    const SIZE: u64 = 60 << 20;
    let network = Network::make(case)?;
    let link = Link::to(network.alpha.address, Duration::ZERO)?;
    let known = format!("[127.0.0.1]:{} {}\n", link.address().port(), network.alpha.host_key());
    network.introduce_as(case, &network.entry("alpha", network.alpha.user, link.address()), &known)?;
    let mut journey = Journey::start_as(case, &network, JOB, ("traveller", &[]))?;
    let mut noise = vec![0; usize::try_from(SIZE)?];
    fs::File::open("/dev/urandom")?.read_exact(&mut noise)?;
    case.write(format!("{JOB}/large"), &noise)?;
    // What is there already does not count below.
    done(case, &["hosts", "test", "alpha"])?;
    link.cut_after(SIZE / 2);
    let mut first = case.start(&mut journey.verb(&["migrate", JOB, "alpha"]))?;
    case.wait_until("half of it has gone", || link.is_cut())?;
    link.reset();
    link.mend();
    ensure!(first.wait()? != Ending::Exited(0), "{}", first.streams());
    journey.is_only_on("local")?;
    journey.see_it_count(10)?;
    let before = link.sent();
    let report = journey.migrate("alpha")?;
    let sent = link.sent() - before;
    ensure!(sent < SIZE * 3 / 4, "{sent} bytes were sent to copy the rest of {SIZE}: {report}");
    let copied = report["file_bytes"].as_u64().context("no file_bytes")?;
    ensure!((SIZE / 4..SIZE * 3 / 4).contains(&copied), "{report}");
    journey.press("quit 0\n")?;
    journey.ended(Ending::Exited(0)).map(drop)
}

/// Of a file that has only grown since the move began, what is new is sent; of one that is not what it was, all.
fn what_has_grown(case: &Case) -> Result<()> {
    const LARGE: u64 = 8 << 20;
    let network = Network::make(case)?;
    network.introduce(case)?;
    // Half of that is the file itself once, and what else goes along.
    for (job, output, most) in [("grows", "output=grows", LARGE * 2), ("anew", "output=anew", LARGE * 3)] {
        let journey = Journey::start_as(case, &network, job, ("traveller", &[output]))?;
        for host in ["alpha", "local", "beta", "local"] {
            let report = journey.migrate(host)?;
            let sent = report["file_bytes"].as_u64().context("no file_bytes")?;
            ensure!(sent < most, "{sent} bytes of files went to {host}: {report}");
        }
        let transcript = journey.end("quit 0\n", Ending::Exited(0))?;
        ensure!(transcript.others == ["as expected"], "{:?}", transcript.others);
        // It is home, with its last line.
        let end = fs::metadata(case.path(format!("{job}/large")))?.len();
        ensure!(end == LARGE + 4096 * u64::try_from(transcript.lines.len())?, "{end}, {}", transcript.lines.len());
    }
    Ok(())
}

/// They are put in place before the freeze, also where as many have just been removed.
fn thousands_of_files(case: &Case) -> Result<()> {
    const COUNT: usize = 4000;
    let network = Network::make(case)?;
    let many = case.make_dir(&format!("{JOB}/many"))?;
    for number in 0..COUNT {
        case.write(format!("{JOB}/many/{number}"), number.to_string())?;
    }
    let journey = Journey::start(case, &network, ("traveller", &[]))?;
    for host in ["alpha", "local", "alpha"] {
        let report = journey.migrate(host)?;
        let parts: Vec<(String, f64)> = serde_json::from_value(report["parts"].clone())?;
        let building = parts.iter().find(|(name, _)| name == "finish building").context("no such part")?.1;
        case.note(&format!("built on {host} in {building} s"));
        ensure!(building < 1.0, "it was frozen for {building} s while files were put in place: {report}");
        let seen = below(journey.copies().0[0].pid, &many);
        for number in 0..COUNT {
            ensure!(fs::read_to_string(seen.join(number.to_string()))? == number.to_string(), "{number} on {host}");
        }
    }
    journey.end("quit 0\n", Ending::Exited(0)).map(drop)
}

/// A path as a process sees it.
fn below(pid: i32, path: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/root{}", path.display()))
}

/// The disk there has room for ckptctl, and none for the program's files.
fn no_room_for_files(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    network.introduce_as(case, &network.entry("narrow", "narrow", network.alpha.address), &network.alpha.known())?;
    let journey = Journey::start_as(case, &network, JOB, ("traveller", &[]))?;
    let mut noise = vec![0; 40 << 20];
    fs::File::open("/dev/urandom")?.read_exact(&mut noise)?;
    case.write(format!("{JOB}/large"), &noise)?;
    let pid = journey.copies().0[0].pid;
    let refused = case.run(&mut journey.verb(&["migrate", JOB, "narrow", "--json"]))?;
    let told = refused.json()?["error"].as_str().unwrap_or_default().to_lowercase();
    ensure!(refused.ending != Ending::Exited(0) && (told.contains("disk") || told.contains("space")), "{refused:?}");
    journey.see_it_count(10)?;
    ensure!(journey.copies().0.len() == 1 && journey.copies().0[0].pid == pid, "{:?}", journey.copies());
    let transcript = journey.end("quit 0\n", Ending::Exited(0))?;
    ensure!(transcript.hosts == [this_machine()?], "{:?}", transcript.hosts);
    Ok(())
}

/// With `schedule --before-move` it is saved first, wherever it is, or not moved.
fn saved_before_each_move(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    let journey = Journey::start(case, &network, ("traveller", &[]))?;
    let set = done(case, &["schedule", JOB, "--before-move", "--keep", "2"])?;
    ensure!(set.stdout.contains("before each move"), "{set:?}");
    let moved = done(case, &["migrate", JOB, "alpha"])?;
    ensure!(moved.stderr.contains("saved       @1, ") && moved.stderr.contains("it stood still for"), "{moved:?}");
    journey.is_only_on("alpha")?;
    let looked = done(case, &["migrate", JOB, "beta", "--dry-run"])?;
    ensure!(!looked.stderr.contains("saved  "), "{looked:?}");
    journey.migrate("beta")?;
    let report = journey.migrate("local")?;
    let checks = report["checks"].as_array().context("no checks")?;
    ensure!(checks.iter().any(|check| check["what"] == "saved" && check["ok"] == true), "{report}");
    // The first one is an hour's, the others the last two.
    let history = done(case, &["history", JOB, "--json"])?.json()?;
    let saved = history["checkpoints"].as_array().context("no checkpoints")?;
    ensure!(saved.len() == 3 && saved.iter().all(|one| one["reason"] == "move" && one["ended"] == false), "{history}");
    let shown = done(case, &["history", JOB])?.stdout;
    ensure!(shown.matches("before a move").count() == 3, "{shown}");

    // Without a place for it nothing is disturbed.
    let place = case.path(format!(".local/state/ckptctl/jobs/{JOB}/history"));
    let aside = case.path("aside");
    fs::rename(&place, &aside)?;
    fs::write(&place, "in the way")?;
    let pid = journey.copies().0[0].pid;
    let refused = case.run(&mut journey.verb(&["migrate", JOB, "alpha", "--json"]))?.expect(1)?;
    let told = refused.json()?["error"].to_string();
    ensure!(told.contains("is not moved") && told.contains("ckptctl schedule trip --off"), "{refused:?}");
    ensure!(journey.copies().0[0].pid == pid, "{:?}", journey.copies());
    journey.see_it_count(5)?;
    fs::remove_file(&place)?;
    fs::rename(&aside, &place)?;
    let both = done(case, &["schedule", JOB, "--every", "2h", "--before-move", "--json"])?.json()?;
    ensure!(both["schedule"]["every"] == 7200 && both["schedule"]["before_move"] == true, "{both}");
    done(case, &["schedule", JOB, "--off"])?;
    let moved = done(case, &["migrate", JOB, "alpha"])?;
    ensure!(!moved.stderr.contains("saved  "), "{moved:?}");
    let transcript = journey.end("quit 0\n", Ending::Exited(0))?;
    ensure!(transcript.others == ["as expected"], "{:?}", transcript.others);
    Ok(())
}

/// A long checkpoint says how far it is; Ctrl+C ends it, the program goes on and nothing is left, wherever it is.
fn checkpoint_is_cancelled(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    let journey = Journey::start(case, &network, ("traveller", &["memory=512"]))?;
    let pid = journey.copies().0[0].pid.to_string();
    let image = case.path("alone.ckpt").display().to_string();
    is_cancelled(case, &journey, &["checkpoint", "--pid", &pid, "-o", &image, "--codec", "zstd"])?;
    is_cancelled(case, &journey, &["checkpoint", JOB, "--codec", "zstd"])?;
    journey.migrate("alpha")?;
    is_cancelled(case, &journey, &["checkpoint", JOB, "--codec", "zstd"])?;
    journey.is_only_on("alpha")?;
    // What was cancelled does not stand in the way of the next one.
    let saved = done(case, &["checkpoint", JOB, "--codec", "lz4", "--json"])?.json()?;
    ensure!(saved["number"] == 1 && saved["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{saved}");
    let transcript = journey.end("quit 0\n", Ending::Exited(0))?;
    ensure!(transcript.others == ["as expected"], "{:?}", transcript.others);
    Ok(())
}

fn is_cancelled(case: &Case, journey: &Journey<'_>, words: &[&str]) -> Result<()> {
    let mut terminal = Terminal::open(case)?;
    terminal.resize(SIZE.0, SIZE.1)?;
    let mut saving = case.start_on(&mut terminal, &journey.verb(words))?;
    saving.wait_for_text(" MiB of 51")?;
    terminal.press(b"\x03")?;
    ensure!(saving.wait()? == Ending::Exited(130), "{words:?}: {}", saving.streams());
    ensure!(!saving.stdout().contains("100%") && saving.stdout().contains("cancelled"), "{}", saving.streams());
    let history = case.path(format!(".local/state/ckptctl/jobs/{JOB}/history"));
    let left = [history.as_path(), case.dir()].map(|place| fs::read_dir(place).into_iter().flatten().flatten());
    let left: Vec<_> = left.into_iter().flatten().map(|entry| entry.file_name()).collect();
    let is_image = |name: &std::ffi::OsString| {
        ["ckpt", "unfinished", "partial"].iter().any(|word| name.to_string_lossy().contains(word))
    };
    ensure!(!left.iter().any(is_image), "{words:?} has left {left:?}");
    journey.see_it_count(10)
}

/// A move that is given up, and one whose destination dies, while memory is on its way: the program goes on, and that is what is
/// said.
fn cancelled_while_memory_is_sent(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    network.introduce(case)?;
    let mut journey = Journey::start(case, &network, ("traveller", &["memory=600"]))?;
    let pid = journey.copies().0[0].pid;
    let goes_on = |journey: &Journey<'_>| {
        ensure!(journey.copies().0.len() == 1 && journey.copies().0[0].pid == pid, "{:?}", journey.copies());
        journey.is_only_on("local")?;
        let log = fs::read_to_string(case.path(format!(".local/state/ckptctl/jobs/{JOB}/moves.log")))?;
        ensure!(log.lines().rev().take(3).any(|line| line.ends_with("source: runs on")), "{log}");
        journey.see_it_count(10)
    };
    for host in ["alpha", "beta"] {
        let (mut terminal, mut moving) = while_memory_is_sent(case, &journey, host)?;
        terminal.press(b"\x03")?;
        ensure!(moving.wait()? == Ending::Exited(130), "{}", moving.streams());
        ensure!(moving.stdout().contains("cancelled; the program goes on here"), "{}", moving.streams());
        goes_on(&journey)?;
    }
    let (_terminal, mut moving) = while_memory_is_sent(case, &journey, "alpha")?;
    agents(&network.alpha).into_iter().try_for_each(end)?;
    ensure!(moving.wait()? == Ending::Exited(5), "{}", moving.streams());
    let said = moving.stdout();
    ensure!(said.contains("the connection to alpha") && said.contains("the program goes on here"), "{said}");
    goes_on(&journey)?;
    journey.migrate("alpha")?;
    journey.press("quit 0\n")?;
    let transcript = journey.ended(Ending::Exited(0))?;
    ensure!(transcript.others == ["as expected"], "{:?}", transcript.others);
    Ok(())
}

/// A move in a terminal of its own, when its memory is being sent.
fn while_memory_is_sent(case: &Case, journey: &Journey<'_>, host: &str) -> Result<(Terminal, Running)> {
    let mut terminal = Terminal::open(case)?;
    terminal.resize(SIZE.0, SIZE.1)?;
    let mut moving = case.start_on(&mut terminal, &journey.verb(&["migrate", JOB, host]))?;
    moving.wait_for_text(" MiB of 60")?;
    Ok((terminal, moving))
}

/// A move waits for a checkpoint that was asked for, unless it is cancelled, which the checkpoint does not notice.
fn waits_for_a_checkpoint(case: &Case) -> Result<()> {
    const WAITS: &str = "a checkpoint under way is waited for";
    let network = Network::make(case)?;
    let journey = Journey::start(case, &network, ("traveller", &["memory=512"]))?;
    // Here, and where it was moved to.
    for host in ["alpha", "local"] {
        let mut terminal = Terminal::open(case)?;
        terminal.resize(SIZE.0, SIZE.1)?;
        let mut saving = case.start_on(&mut terminal, &journey.verb(&["checkpoint", JOB, "--codec", "zstd"]))?;
        saving.wait_for_text(" MiB of 51")?;
        let mut cancelled = Terminal::open(case)?;
        let mut moving = case.start_on(&mut cancelled, &journey.verb(&["migrate", JOB, host]))?;
        moving.wait_for_text(WAITS)?;
        cancelled.press(b"\x03")?;
        ensure!(moving.wait()? == Ending::Exited(130), "{}", moving.streams());
        ensure!(moving.stdout().contains("cancelled"), "{}", moving.streams());
        let moved = done(case, &["migrate", JOB, host])?;
        ensure!(moved.stderr.contains(WAITS), "{moved:?}");
        journey.is_only_on(host)?;
        ensure!(saving.wait()? == Ending::Exited(0), "{}", saving.streams());
        journey.see_it_count(10)?;
    }
    let history = done(case, &["history", JOB, "--json"])?.json()?;
    ensure!(history["checkpoints"].as_array().is_some_and(|all| all.len() == 2), "{history}");
    let transcript = journey.end("quit 0\n", Ending::Exited(0))?;
    ensure!(transcript.others == ["as expected"], "{:?}", transcript.others);
    Ok(())
}

/// Neither stands in the other's way, whenever it is that the program is to be saved.
fn saved_by_schedule_all_the_time(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    let journey = Journey::start(case, &network, ("traveller", &["memory=100"]))?;
    let saved = || -> Result<u64> {
        let history = done(case, &["history", JOB, "--json"])?.json()?;
        Ok(history["checkpoints"].as_array().and_then(|all| all.last()?["number"].as_u64()).unwrap_or_default())
    };
    done(case, &["schedule", JOB, "--every", "1s", "--keep", "1"])?;
    for host in ["alpha", "local", "beta", "local"] {
        let before = saved()?;
        if host != "local" {
            case.wait_until("it is saved", || saved().is_ok_and(|number| number > before))?;
        }
        done(case, &["migrate", JOB, host])?;
        ensure!(journey.status()?["host"] == host && journey.copies().0.len() == 1, "{:?}", journey.copies());
        journey.see_it_count(10)?;
    }
    let before = saved()?;
    case.wait_until("it is saved again", || saved().is_ok_and(|number| number > before))?;
    let transcript = journey.end("quit 0\n", Ending::Exited(0))?;
    ensure!(transcript.others == ["as expected"], "{:?}", transcript.others);
    let log = done(case, &["logs", JOB])?.stdout;
    ensure!(!log.contains("could not be saved"), "{log}");
    Ok(())
}
