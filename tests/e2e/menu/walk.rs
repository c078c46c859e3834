//! The whole walk, from an empty home directory to a program that has been on another machine and back. It is also what
//! `docs/session.cast` and `docs/pictures` are recorded from.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ckpt_tests::{Capture, Case, Cast, Network, Who};
use rustix::process::{Pid, Signal, kill_process};

use super::{COLUMNS, Menu, ROWS};
use crate::journey::done;

/// Names the directory, from that of the sources, that the recording and the pictures are written to.
const RECORD: &str = "CKPT_TESTS_RECORD";

/// Counts, and answers what is typed.
pub const SOURCE: &str = r#"#include <poll.h>
#include <stdio.h>
#include <unistd.h>

int main(void)
{
    char line[80], host[80];
    int n = 0;
    for (;;) {
        gethostname(host, sizeof host);
        printf("number %d on %s\n", ++n, host);
        fflush(stdout);
        struct pollfd typed = { .fd = 0, .events = POLLIN };
        if (poll(&typed, 1, 200) == 1 && fgets(line, sizeof line, stdin))
            printf("you said: %s", line);
    }
}
"#;

pub fn walk(case: &Case) -> Result<()> {
    let network = Network::make(case)?;
    let hosts = [("nodea", &network.alpha), ("nodeb", &network.beta)];
    for (name, host) in hosts {
        host.run(case, &format!("hostname {name}"))?.expect(0)?;
    }
    let entries = hosts.map(|(name, host)| network.entry(name, host.user, host.address));
    network.introduce_as(case, &entries.concat(), &hosts.map(|(_, host)| host.known()).concat())?;
    case.write("work/count.c", SOURCE.replace("int n = 0;", "int n = 0"))?;
    let mut menu = Menu::open_at_home(case)?;
    let mut recording = Recording::asked(case);

    let saved_at = on_this_machine(case, &mut menu, &mut recording)?;
    there_and_back(&mut menu, &mut recording)?;

    // End it; No is the default.
    menu.press("s")?;
    menu.wait("What it has not saved is lost")?;
    menu.press("\r")?;
    menu.wait_gone("What it has not saved is lost")?;
    menu.press("s")?;
    menu.wait("What it has not saved is lost")?;
    recording.hold(&menu, 1000);
    menu.press("y\r")?;
    menu.wait("was ended")?;
    menu.press("L")?;
    menu.wait("ckptctl stop count")?;
    recording.hold(&menu, 3000);
    menu.escape("What was done, as verbs")?;
    menu.press("j")?;
    menu.wait("1 job")?;
    recording.hold(&menu, 2000);
    let screen = menu.terminal.screen();
    menu.quit()?;
    recording.write(&screen)?;
    is_without_gap(&done(case, &["logs", "count"])?.stdout, saved_at)
}

/// Built, mended, run, typed into, saved, killed, brought back. Gives the last number that was saved.
fn on_this_machine(case: &Case, menu: &mut Menu, recording: &mut Recording) -> Result<u64> {
    // The picker, at the source.
    menu.wait("#include <poll.h>")?;
    menu.wait("Enter build")?;
    recording.hold(menu, 2000);
    // Build with an error, which is shown at its line.
    menu.press("\r")?;
    menu.wait("was not built")?;
    menu.wait("int n = 0")?;
    recording.picture(menu, "build", "ckptctl: a source that was not built")?;
    recording.hold(menu, 3000);
    case.write("work/count.c", SOURCE)?;
    menu.press("\r")?;
    menu.wait("r runs it")?;
    recording.hold(menu, 2000);
    menu.press("r")?;
    menu.wait("number 5 on laptop")?;
    recording.hold(menu, 1000);
    say(menu, "hello")?;
    recording.hold(menu, 1000);
    // Save: pause and size are told.
    menu.press("c")?;
    menu.wait("iB, it stood still for")?;
    recording.hold(menu, 2000);
    // The timeline has a picture of the screen.
    menu.press("\t")?;
    menu.wait("The screen at @1")?;
    let lines = menu.picture.lines(&menu.terminal);
    let saved_at = counts(&lines).last().map(|(number, _)| *number).context("no number was saved")?;
    recording.hold(menu, 2500);
    menu.press("\t\t")?;
    // It goes on, and is killed by somebody else.
    menu.wait(&format!("number {} on laptop", saved_at + 8))?;
    let pid = menu.word_after("process ")?.parse().ok().and_then(Pid::from_raw).context("no process id")?;
    kill_process(pid, Signal::KILL)?;
    menu.wait("was ended by signal 9")?;
    recording.hold(menu, 2500);
    menu.press("R")?;
    menu.wait("runs again")?;
    menu.wait(&format!("number {} on laptop", saved_at + 5))?;
    recording.hold(menu, 1000);
    Ok(saved_at)
}

/// To another machine and home again.
fn there_and_back(menu: &mut Menu, recording: &mut Recording) -> Result<()> {
    menu.choose_host("count", "nodea")?;
    recording.hold(menu, 1500);
    menu.press("\r")?;
    menu.wait("It runs on nodea")?;
    menu.wait("Downtime")?;
    recording.picture(menu, "move", "ckptctl: moved to another machine")?;
    recording.hold(menu, 4000);
    menu.press("\r")?;
    menu.wait("running on nodea")?;
    menu.wait_until("it counts there", |lines| counts(lines).last().is_some_and(|(_, host)| host == "nodea"))?;
    say(menu, "hello from afar")?;
    recording.hold(menu, 1500);
    // What it holds there.
    menu.press("\t\t")?;
    menu.wait("1 thread")?;
    menu.wait("of memory")?;
    recording.hold(menu, 2500);
    menu.press("\t")?;
    menu.wait_gone("of memory")?;
    menu.press("c")?;
    menu.wait("iB, it stood still for")?;
    recording.hold(menu, 1500);

    menu.choose_host("count", "local")?;
    recording.hold(menu, 1000);
    menu.press("\r")?;
    menu.wait("It runs on local")?;
    recording.hold(menu, 3000);
    menu.press("\r")?;
    menu.wait("running on local")?;
    menu.wait_until("it counts here", |lines| counts(lines).last().is_some_and(|(_, host)| host == "laptop"))?;
    menu.press("c")?;
    menu.wait("iB, it stood still for")?;
    menu.press("\t")?;
    menu.wait("@3")?;
    menu.press("g")?;
    menu.wait("The screen at @3")?;
    recording.picture(menu, "timeline", "ckptctl: what can be gone back to")?;
    recording.hold(menu, 3000);
    menu.press("\t\t")?;
    menu.wait_gone("The screen at @")
}

/// Types a line, which the program answers, and comes back.
fn say(menu: &mut Menu, line: &str) -> Result<()> {
    const TYPING: &str = "keys go to the program";
    menu.press("t")?;
    menu.wait(TYPING)?;
    for key in line.chars() {
        menu.press(&key.to_string())?;
    }
    menu.press("\r")?;
    menu.wait(&format!("you said: {line}"))?;
    menu.press("\x1d")?;
    menu.wait_gone(TYPING)
}

/// The numbers that lines hold, with the machine that they were printed on.
pub fn counts<S: AsRef<str>>(lines: &[S]) -> Vec<(u64, String)> {
    let of = |line: &str| {
        let (number, host) = line.rsplit_once("number ")?.1.split_once(" on ")?;
        Some((number.parse().ok()?, host.to_owned()))
    };
    lines.iter().filter_map(|line| of(line.as_ref())).collect()
}

/// The log has every number once and in order, but for the one return to what was saved; it was there and came back.
fn is_without_gap(log: &str, saved_at: u64) -> Result<()> {
    let lines: Vec<&str> = log.lines().collect();
    let counted = counts(&lines);
    let returns: Vec<_> = counted.windows(2).filter(|two| two[1].0 != two[0].0 + 1).collect();
    ensure!(counted.first().is_some_and(|(number, _)| *number == 1), "{log}");
    ensure!(matches!(returns[..], [two] if two[1].0 == saved_at + 1), "saved at {saved_at}: {returns:?}: {log}");
    let mut hosts: Vec<&str> = counted.iter().map(|(_, host)| host.as_str()).collect();
    hosts.dedup();
    ensure!(hosts == ["laptop", "nodea", "laptop"], "{hosts:?}");
    let said: Vec<&&str> = lines.iter().filter(|line| line.starts_with("you said: ")).collect();
    ensure!(said == [&"you said: hello", &"you said: hello from afar"], "{said:?}");
    Ok(())
}

/// What is recorded of the walk, if that was asked for.
struct Recording {
    directory: Option<PathBuf>,
    cast: Cast,
}

impl Recording {
    fn asked(case: &Case) -> Self {
        let directory = std::env::var_os(RECORD).filter(|_| case.who == Who::User);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(""));
        Self { directory: directory.map(|directory| root.join(directory)), cast: Cast::default() }
    }

    /// Whoever watches has so long to read what is shown now.
    fn hold(&mut self, menu: &Menu, millis: u64) {
        self.cast.hold(menu.picture.seen(), Duration::from_millis(millis));
    }

    fn picture(&self, menu: &Menu, name: &str, title: &str) -> Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let pictures = directory.join("pictures");
        fs::create_dir_all(&pictures)?;
        fs::write(pictures.join(format!("{name}.svg")), menu.picture.svg(title)).map_err(Into::into)
    }

    fn write(&self, screen: &Capture) -> Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let text =
            self.cast.text(screen, COLUMNS, ROWS, "ckptctl: build, run, save, kill, restore, move there and back");
        fs::write(directory.join("session.cast"), text).map_err(Into::into)
    }
}
