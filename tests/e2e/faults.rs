//! Whatever is killed or cut, at whichever step of a move: afterwards the program lives exactly once, or not at all and its image is
//! complete and named.
//!
//! The steps are those that an undisturbed move writes into `moves.log`, here and there, so that none can be forgotten.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ckpt_tests::{Case, Ending, Host, Link, Network, Running, Suite, Terminal, Whos};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Signal, kill_process};

use crate::journey::{Journey, Transcript, done};

/// Each way takes so long that a step can be seen before it is over.
const DELAY: Duration = Duration::from_millis(15);
/// After so long everything has been decided: a connection is given up after 30 s, a source waits 60 s for whoever moves it.
const DECIDED: Duration = Duration::from_secs(120);
/// Jobs that are moved at the same time where one waits most of the time, and where it does not.
const AT_ONCE: (usize, usize) = (8, 2);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// `ckptctl migrate` is killed.
    Client,
    /// The job's supervisor here is.
    Source,
    /// The job's supervisor there is.
    Destination,
    /// What SSH has started there is.
    Agents,
    /// All connections are closed.
    Reset,
    /// The cable is cut.
    Cable,
}

/// Whose log of moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Here,
    There,
}

/// A step of a move: the line of a log.
type Step = (Side, usize, String);

pub fn add(suite: &mut Suite) {
    for (name, fault) in [
        ("client", Fault::Client),
        ("source", Fault::Source),
        ("destination", Fault::Destination),
        ("agents", Fault::Agents),
        ("reset", Fault::Reset),
        ("cable", Fault::Cable),
    ] {
        suite.add_long(&format!("faults::{name}"), Whos::User, move |case| every_step(case, fault));
    }
    suite.add_long("faults::cable_of_the_host", Whos::Root, cable_of_the_host);
}

/// The fault at every step of a move, each with a job of its own.
fn every_step(case: &Case, fault: Fault) -> Result<()> {
    let network = Network::make(case)?;
    let plans = plans(&network)?;
    introduce(case, &network, &plans)?;
    let steps = steps_of_a_move(case, &network, &plans[0])?;
    case.note(&format!("{steps:#?}"));
    ensure!(steps.len() < plans.len(), "a move has {} steps", steps.len());
    let at_once = if matches!(fault, Fault::Cable | Fault::Reset) { AT_ONCE.0 } else { AT_ONCE.1 };
    let tries: Vec<(&Plan<'_>, &Step)> = plans[1..].iter().zip(&steps).collect();
    let mut failed = Vec::new();
    for some in tries.chunks(at_once) {
        thread::scope(|scope| {
            let network = &network;
            let running: Vec<_> = some
                .iter()
                .map(|&(plan, step)| (step, scope.spawn(move || one(case, network, plan, fault, step))))
                .collect();
            for (step, one) in running {
                match one.join().unwrap_or_else(|_| Err(anyhow!("panicked"))) {
                    Ok(outcome) => case.note(&format!("== {fault:?} at {step:?}: {outcome}")),
                    Err(error) => failed.push(format!("{fault:?} at {step:?}: {error:#}")),
                }
            }
        });
    }
    ensure!(failed.is_empty(), "{} of {}:\n{}", failed.len(), steps.len(), failed.join("\n"));
    Ok(())
}

/// A job, the host that it goes to, and its own cable to that, under its own name.
struct Plan<'a> {
    job: String,
    name: String,
    host: &'a Host,
    link: Link,
}

impl Plan<'_> {
    fn log(&self, case: &Case, side: Side) -> PathBuf {
        let home = if side == Side::Here { case.dir().to_owned() } else { self.host.home() };
        home.join(".local/state/ckptctl/jobs").join(&self.job).join("moves.log")
    }

    /// The process that listens on the job's socket.
    fn supervisor(&self, case: &Case, side: Side) -> Result<Pid> {
        let places = match side {
            Side::Here => case.path("run/ckptctl"),
            Side::There => self.host.path("/tmp/ckptctl-4242"),
        };
        let name = format!("{}.sock", self.job);
        for place in fs::read_dir(&places)?.flatten() {
            if let Ok(stream) = UnixStream::connect(place.path().join(&name)) {
                return Ok(socket_peercred(&stream)?.pid);
            }
        }
        bail!("nobody listens on {name} in {}", places.display());
    }

    fn logs(&self, case: &Case) -> String {
        let log = |side| fs::read_to_string(self.log(case, side)).unwrap_or_default();
        format!("here {:?}, there {:?}", log(Side::Here), log(Side::There))
    }
}

fn plans(network: &Network) -> Result<Vec<Plan<'_>>> {
    let hosts = [&network.alpha, &network.beta];
    let plan = |number: usize| {
        let host = hosts[number % hosts.len()];
        let (job, name) = (format!("trip{number}"), format!("host{number}"));
        Ok(Plan { job, name, host, link: Link::to(host.address, DELAY)? })
    };
    (0..64).map(plan).collect()
}

fn introduce(case: &Case, network: &Network, plans: &[Plan<'_>]) -> Result<()> {
    let entries: Vec<_> =
        plans.iter().map(|plan| network.entry(&plan.name, plan.host.user, plan.link.address())).collect();
    let known = |plan: &Plan<'_>| format!("[127.0.0.1]:{} {}\n", plan.link.address().port(), plan.host.host_key());
    let known: Vec<_> = plans.iter().map(known).collect();
    network.introduce_as(case, &entries.concat(), &known.concat())
}

/// What a move that nobody disturbs writes, here and there.
fn steps_of_a_move(case: &Case, network: &Network, plan: &Plan<'_>) -> Result<Vec<Step>> {
    let journey = Journey::start_as(case, network, &plan.job, ("traveller", &[]))?;
    done(case, &["migrate", &plan.job, &plan.name])?;
    journey.see_it_count(10)?;
    let mut steps = Vec::new();
    for side in [Side::Here, Side::There] {
        let log = plan.log(case, side);
        let lines = fs::read_to_string(&log).with_context(|| format!("no {}", log.display()))?;
        ensure!(lines.lines().count() >= 3, "{lines:?} in {}", log.display());
        steps.extend(lines.lines().enumerate().map(|(index, line)| (side, index, line.to_owned())));
    }
    journey.end("quit 0\n", Ending::Exited(0))?;
    Ok(steps)
}

/// One job, one fault at one step; says what became of it.
fn one(case: &Case, network: &Network, plan: &Plan<'_>, fault: Fault, step: &Step) -> Result<String> {
    let (side, line, _) = step;
    let journey = Journey::start_as(case, network, &plan.job, ("traveller", &[]))?;
    let source = plan.supervisor(case, Side::Here)?;
    let mut client = case.start(&mut journey.verb(&["migrate", &plan.job, &plan.name]))?;
    let is_late = wait_for_line(case, &plan.log(case, *side), *line, &mut client)?;
    match fault {
        Fault::Client => client.signal(Signal::KILL)?,
        Fault::Source => end(source)?,
        // It may be over before we are there.
        Fault::Destination => drop(plan.supervisor(case, Side::There).and_then(end)),
        Fault::Agents => agents(plan.host).into_iter().try_for_each(end)?,
        Fault::Reset => plan.link.reset(),
        Fault::Cable => plan.link.cut(),
    }
    let begun = Instant::now();
    let said = said_at_the_end(case, &mut client)?;
    let outcome = settled(case, &journey, &said).with_context(|| format!("{said}, the logs {}", plan.logs(case)))?;
    let took = begun.elapsed();
    plan.link.mend();
    let stays = stays(case, journey, &plan.name, &outcome, &said);
    stays.with_context(|| format!("{outcome:?} after {took:?}: {said}, the logs {}", plan.logs(case)))?;
    Ok(format!("{outcome:?} after {took:?}{}", if is_late { ", too late" } else { "" }))
}

/// The processes on a host that SSH has started for other machines.
pub fn agents(host: &Host) -> Vec<Pid> {
    let is_agent = |pid: &i32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut arguments = arguments.split(|byte| *byte == 0);
        arguments.next().is_some_and(|first| first.ends_with(b"ckptctl")) && arguments.next() == Some(b"agent")
    };
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let there = pids.filter(is_agent).filter(|pid| namespace(*pid) == namespace(host.pid));
    there.filter_map(Pid::from_raw).collect()
}

/// What became of the program.
#[derive(Debug)]
enum Outcome {
    /// It lives on this host.
    Lives(String),
    /// It is in this image.
    Saved(PathBuf),
}

/// Waits until a log has a line; true when the move is over before.
fn wait_for_line(case: &Case, log: &Path, line: usize, client: &mut Running) -> Result<bool> {
    let mut is_over = false;
    case.wait_until(&format!("line {line} of {}", log.display()), || {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(20) {
            if fs::read_to_string(log).is_ok_and(|text| text.matches('\n').count() > line) {
                return true;
            }
            thread::sleep(Duration::from_micros(200));
        }
        is_over = !client.is_running().unwrap_or(false);
        is_over
    })?;
    Ok(is_over)
}

/// Waits for the end of `migrate`; gives everything that it said.
fn said_at_the_end(case: &Case, client: &mut Running) -> Result<String> {
    case.wait_within(DECIDED, "migrate has ended", || !client.is_running().unwrap_or(false))?;
    client.wait()?;
    Ok(client.streams())
}

/// Waits until either one process of the program is left, which counts, or none and an image is named.
fn settled(case: &Case, journey: &Journey<'_>, said: &str) -> Result<Outcome> {
    let mut outcome = None;
    let waited = case.wait_within(DECIDED, "it is decided where the program is", || {
        outcome = look(journey, said);
        outcome.is_some()
    });
    waited.with_context(|| format!("{:?}, {:?}", journey.copies(), journey.status()))?;
    outcome.context("no outcome")
}

fn look(journey: &Journey<'_>, said: &str) -> Option<Outcome> {
    let before = journey.copies();
    match &before.0[..] {
        [] => image_named(journey, said).map(Outcome::Saved),
        [only] if only.runs() => {
            thread::sleep(Duration::from_millis(200));
            let after = journey.copies();
            let counts = after.0.len() == 1 && after.0[0].pid == only.pid && after.0[0].name != only.name;
            counts.then(|| Outcome::Lives(only.host.clone()))
        }
        _ => None,
    }
}

/// The image that `ps` names, or that `migrate` has named.
fn image_named(journey: &Journey<'_>, said: &str) -> Option<PathBuf> {
    let told = format!("{} {said}", journey.status().ok()?["note"].as_str().unwrap_or_default());
    let words = told.split(|c: char| c.is_whitespace() || "'`\",;:()".contains(c));
    words
        .map(PathBuf::from)
        .find(|path| path.is_absolute() && path.extension().is_some_and(|end| end == "ckpt") && path.is_file())
}

/// Whatever it was decided to be, it stays; and nothing was lost or done twice. `name` is what the other host is called here.
fn stays(case: &Case, mut journey: Journey<'_>, name: &str, outcome: &Outcome, said: &str) -> Result<()> {
    let directory = journey.directory();
    match outcome {
        // It was handed over, but the answer was lost for longer than home waits: the program runs there, and home has named
        // its own image and where to look before that is restored.
        Outcome::Lives(host) if said.contains("nobody knows whether") => {
            let image = image_named(&journey, said).context("no image is named")?;
            done(case, &["verify", &image.display().to_string()])?;
            ensure!(said.contains("ckptctl ps") && said.contains("restore"), "{said:?}");
            ensure!(journey.copies().running_on() == [host.as_str()], "{:?}", journey.copies());
            is_found_again(case, journey, name)
        }
        Outcome::Lives(host) => {
            let job = journey.job.clone();
            journey.see_it_count(20)?;
            ensure!(journey.copies().running_on() == [host.as_str()], "{:?}", journey.copies());
            if host != "local" {
                // Also its files can be had again.
                done(case, &["migrate", &job, "local"])?;
                journey.see_it_count(5)?;
            }
            let transcript = journey.end("quit 6\n", Ending::Exited(6))?;
            ensure!(transcript.others == ["as expected"], "{:?}", transcript.others);
            is_same_trail(&directory, &transcript)
        }
        Outcome::Saved(image) => {
            let job = journey.job.clone();
            ensure!(
                said.contains("restore") || journey.status()?.to_string().contains("restore"),
                "no command is named"
            );
            done(case, &["verify", &image.display().to_string()])?;
            journey.run.wait()?;
            let mut terminal = Terminal::open(case)?;
            let restored = case.start_on(&mut terminal, &case.ckptctl(["restore", &job]))?;
            let shown = terminal.screen();
            case.wait_until("it counts again", || shown.text().matches("\na ").count() > 20)?;
            ensure!(journey.copies().running_on() == ["local"], "{:?}", journey.copies());
            terminal.press(b"quit 6\n")?;
            let mut restored = restored;
            ensure!(restored.wait()? == Ending::Exited(6), "{}", restored.streams());
            journey.was_never_two()?;
            let all = done(case, &["logs", &job])?.stdout;
            is_same_trail(&directory, &Transcript::of(&all)?)
        }
    }
}

/// The host can be asked again: the job runs there, its image is not restored beside it, and it goes on as any that was moved.
fn is_found_again(case: &Case, mut journey: Journey<'_>, name: &str) -> Result<()> {
    let (job, directory) = (journey.job.clone(), journey.directory());
    let runs_there = || journey.status().is_ok_and(|status| status["state"] == "running" && status["host"] == name);
    case.wait_within(DECIDED, "ps says where it runs", runs_there)
        .with_context(|| format!("{:?}", journey.status()))?;
    case.run(&mut case.ckptctl(["restore", &job]))?.expect_refusal(&[1], &[&job, &format!("on {name}")])?;
    // The terminal that it was started in was told that it has ended.
    journey.run.wait()?;
    let mut terminal = Terminal::open(case)?;
    let mut attached = case.start_on(&mut terminal, &case.ckptctl(["attach", &job]))?;
    let shown = terminal.screen();
    let see_it_count = || {
        let before = shown.text().matches("\na ").count();
        case.wait_until("it counts again", || shown.text().matches("\na ").count() > before + 20)
    };
    see_it_count()?;
    done(case, &["migrate", &job, "local"])?;
    see_it_count()?;
    ensure!(journey.copies().running_on() == ["local"], "{:?}", journey.copies());
    terminal.press(b"quit 6\n")?;
    ensure!(attached.wait()? == Ending::Exited(6), "{}", attached.streams());
    journey.was_never_two()?;
    let all = done(case, &["logs", &job])?.stdout;
    is_same_trail(&directory, &Transcript::of(&all)?)
}

/// The file that it wrote has the lines that it printed.
fn is_same_trail(directory: &Path, transcript: &Transcript) -> Result<()> {
    let trail = fs::read_to_string(directory.join("trail"))?;
    let same = trail.lines().eq(transcript.lines.iter().map(String::as_str));
    ensure!(same, "{} lines in its file, {} printed", trail.lines().count(), transcript.lines.len());
    Ok(())
}

pub fn end(pid: Pid) -> Result<()> {
    match kill_process(pid, Signal::KILL) {
        // It has done its part this moment.
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot kill {pid:?}")),
    }
}

/// The host's own cable, pulled in the middle of the image and plugged in again when all is decided.
fn cable_of_the_host(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    network.introduce(case)?;
    let journey = Journey::start_as(case, &network, "trip", ("traveller", &["memory=200"]))?;
    let mut client = case.start(&mut journey.verb(&["migrate", "trip", "alpha"]))?;
    let held = || journey.copies().0.iter().any(|copy| !copy.runs());
    case.wait_until("it is frozen", held)?;
    network.alpha.cut()?;
    let said = said_at_the_end(case, &mut client)?;
    let outcome = settled(case, &journey, &said)?;
    network.alpha.mend()?;
    stays(case, journey, "alpha", &outcome, &said).with_context(|| format!("{outcome:?}: {said}"))
}
