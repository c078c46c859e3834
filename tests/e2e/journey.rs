//! A job that is moved about, and what is checked of it: what its terminal showed, where it ran, what it wrote.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use ckpt_tests::{Case, Copies, Ending, Finished, Network, Running, Terminal, Watch};
use serde_json::Value;

/// The name of the job in all tests.
pub const JOB: &str = "trip";
/// How wide and high its terminal is at first.
pub const SIZE: (u16, u16) = (100, 30);
/// Records in the file that the program reads, of 8 bytes each.
const RECORDS: usize = 500;

/// A job in a terminal of an ordinary shell, with the programs of tests/programs that count.
pub struct Journey<'a> {
    pub case: &'a Case,
    pub network: &'a Network,
    /// The name of the job.
    pub job: String,
    /// Where it was started; its keys and its screen.
    pub terminal: Terminal,
    /// The `ckptctl run` in it.
    pub run: Running,
    /// The word among the program's arguments by which its processes are found.
    pub mark: String,
    /// More options of `migrate`.
    pub with: Vec<String>,
    watch: Watch,
}

/// A program of tests/programs and its arguments behind the mark.
pub type Traveller<'t> = (&'static str, &'t [&'t str]);

impl<'a> Journey<'a> {
    /// Starts the program as a job, and waits until it counts.
    pub fn start(case: &'a Case, network: &'a Network, traveller: Traveller<'_>) -> Result<Self> {
        network.introduce(case)?;
        Self::start_as(case, network, JOB, traveller)
    }

    /// The same under another name, which is also that of its directory; the hosts file is as it is.
    pub fn start_as(case: &'a Case, network: &'a Network, job: &str, traveller: Traveller<'_>) -> Result<Self> {
        let (program, arguments) = traveller;
        let directory = case.make_dir(job)?;
        case.write(format!("{job}/input"), input())?;
        case.make_dir(&format!("{job}/modules"))?;
        for number in 0..4 {
            case.write(format!("{job}/modules/later{number}.py"), "answer = 42\n")?;
        }
        let mark = case.path(format!("mark-{job}")).display().to_string();
        let mut command = case.ckptctl(["run", "--name", job, "--"]);
        command.arg(case.stage().program(program)?).arg(&mark).args(arguments).current_dir(directory);
        let mut terminal = Terminal::open(case)?;
        terminal.resize(SIZE.0, SIZE.1)?;
        let watch = network.watch(&mark);
        let run = case.start_on(&mut terminal, &command)?;
        let journey = Self { case, network, job: job.to_owned(), terminal, run, mark, with: Vec::new(), watch };
        journey.see_it_count(10)?;
        Ok(journey)
    }

    /// The directory that it was started in.
    pub fn directory(&self) -> PathBuf {
        self.case.path(&self.job)
    }

    /// A verb about the job.
    pub fn verb(&self, arguments: &[&str]) -> Command {
        self.case.ckptctl(arguments)
    }

    /// Moves it, sees that it is there and nowhere else, and that it goes on. Gives the report.
    pub fn migrate(&self, host: &str) -> Result<Value> {
        let mut migrate = self.verb(&["migrate", &self.job, host, "--json"]);
        let moved = self.case.run(migrate.args(&self.with))?.expect(0)?.json()?;
        ensure!(moved["to"] == host, "{moved}");
        self.is_only_on(host)?;
        self.see_it_count(10)?;
        Ok(moved)
    }

    /// Requires that it runs there and nowhere else, and that `ps` says so.
    pub fn is_only_on(&self, host: &str) -> Result<()> {
        let copies = self.copies();
        ensure!(copies.running_on() == [host] && copies.0.len() == 1, "not only on {host}: {copies:?}");
        let job = self.status()?;
        ensure!(job["host"] == host && job["state"] == "running", "{job}");
        Ok(())
    }

    /// Its processes on all machines.
    pub fn copies(&self) -> Copies {
        self.network.copies(&self.mark)
    }

    /// What `ps --json` says of it.
    pub fn status(&self) -> Result<Value> {
        let listed = self.case.run(&mut self.verb(&["ps", "--json"]))?.expect(0)?.json()?;
        let jobs = listed["jobs"].as_array().with_context(|| format!("no jobs: {listed}"))?;
        let job = jobs.iter().find(|job| job["name"] == *self.job);
        Ok(job.with_context(|| format!("no {} in {listed}", self.job))?.clone())
    }

    /// Waits until its terminal shows more lines.
    pub fn see_it_count(&self, lines: usize) -> Result<()> {
        let wanted = self.counted() + lines;
        let counted = self.case.wait_until("it goes on counting", || self.counted() >= wanted);
        counted.with_context(|| {
            let shown = self.terminal.screen().text();
            format!("{:?}, the last lines {:?}, {}", self.copies(), tail(&shown), self.moves())
        })
    }

    /// What was written down of moves, here and there.
    pub fn moves(&self) -> String {
        let hosts = [&self.network.alpha, &self.network.beta];
        let homes = hosts.map(|host| (host.name.as_str(), host.home()));
        let mut told = String::new();
        for (name, home) in [("local", self.case.dir().to_owned())].into_iter().chain(homes) {
            let jobs = fs::read_dir(home.join(".local/state/ckptctl/jobs")).into_iter().flatten().flatten();
            for job in jobs.filter(|job| job.file_name().to_string_lossy().contains(&self.job)) {
                let log = fs::read_to_string(job.path().join("moves.log")).unwrap_or_default();
                told += &format!("{name}, {}:\n{log}", job.file_name().display());
            }
        }
        told
    }

    /// Waits until its terminal shows a text.
    pub fn see(&self, text: &str) -> Result<()> {
        let screen = self.terminal.screen();
        self.case.wait_until(&format!("its terminal shows {text:?}"), || screen.text().contains(text))
    }

    /// How many lines its terminal has shown.
    fn counted(&self) -> usize {
        self.terminal.screen().text().matches("\r\na ").count()
    }

    /// Types something.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        self.terminal.press(keys.as_bytes())
    }

    /// Ends it by what is typed, and requires how `run` ends; no two copies may have lived at any time. Gives what the terminal
    /// has shown.
    pub fn end(mut self, keys: &str, ending: Ending) -> Result<Transcript> {
        self.press(keys)?;
        self.ended(ending)
    }

    /// The same without typing.
    pub fn ended(mut self, ending: Ending) -> Result<Transcript> {
        let ended = self.run.wait()?;
        let shown = self.terminal.screen().text();
        let failed: Vec<&str> = shown.lines().filter(|line| line.contains("FAIL ")).take(3).collect();
        ensure!(ended == ending, "{ended:?} and not {ending:?}: {failed:?} {}", tail(&shown));
        let left = self.copies();
        ensure!(left.0.is_empty(), "still there: {left:?}");
        let counted = self.watch.finish()?;
        self.case.note(&format!("it counted as {counted:?}"));
        Transcript::of(&shown)
    }

    /// Stops watching: no two copies may have lived at any time.
    pub fn was_never_two(self) -> Result<()> {
        let counted = self.watch.finish()?;
        self.case.note(&format!("it counted as {counted:?}"));
        Ok(())
    }
}

/// What the programs read.
pub fn input() -> String {
    let records: Vec<String> = (0..RECORDS).map(|number| format!("{number:07}\n")).collect();
    records.concat()
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// What a program that counts has printed.
#[derive(Debug, Default)]
pub struct Transcript {
    /// The hosts where it was, in this order, each as often as it came there.
    pub hosts: Vec<String>,
    /// The lines of its first thread.
    pub lines: Vec<String>,
    /// What it said about typed lines.
    pub typed: Vec<String>,
    /// What it said about its window.
    pub windows: Vec<String>,
    /// The names of its threads.
    pub threads: String,
    /// Anything else.
    pub others: Vec<String>,
}

impl Transcript {
    /// Reads it; every thread's numbers must have neither gap nor repeat, and nothing may have been found wrong.
    pub fn of(shown: &str) -> Result<Self> {
        let mut transcript = Self::default();
        let mut counted: BTreeMap<String, u64> = BTreeMap::new();
        for line in without_notices(shown).lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["typed:", ..] => transcript.typed.push(line.replacen("typed: ", "", 1)),
                ["window", size] => transcript.windows.push(size.to_owned()),
                [name, number, host, _] if name.len() == 1 && number.parse::<u64>().is_ok() => {
                    let before = counted.entry(name.to_owned()).or_default();
                    let number: u64 = number.parse()?;
                    ensure!(number == *before + 1, "{name} printed {number} after {before}");
                    *before = number;
                    if name == "a" {
                        transcript.lines.push(line.to_owned());
                        if transcript.hosts.last().is_none_or(|last| last != host) {
                            transcript.hosts.push(host.to_owned());
                        }
                    }
                }
                _ => transcript.others.push(line.to_owned()),
            }
        }
        if transcript.others.iter().any(|line| line.starts_with("FAIL")) {
            bail!("{:?}", transcript.others);
        }
        transcript.threads = counted.into_keys().collect();
        Ok(transcript)
    }
}

/// What `ckptctl` itself says comes between whatever the program prints.
fn without_notices(shown: &str) -> String {
    let mut rest = shown.replace('\r', "");
    while let Some(at) = rest.find("ckptctl: ") {
        let end = rest[at..].find('\n').map_or(rest.len(), |length| at + length + 1);
        rest.replace_range(at..end, "");
    }
    rest
}

/// The name that this machine calls itself by.
pub fn this_machine() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned())
}

/// Runs a verb that must succeed.
pub fn done(case: &Case, arguments: &[&str]) -> Result<Finished> {
    case.run(&mut case.ckptctl(arguments))?.expect(0)
}
