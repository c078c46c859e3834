//! The menu on a real terminal: the whole walk of a newcomer, and what must not disturb it.

mod hosts;
mod looks;
mod strain;
mod walk;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ckpt_tests::{Case, Ending, Picture, Running, Suite, Terminal, Whos};
use rustix::process::Signal;

const COLUMNS: u16 = 100;
const ROWS: u16 = 30;

pub fn add(suite: &mut Suite) {
    suite.add("menu::walk", Whos::Both, walk::walk);
    suite.add("menu::without_a_terminal", Whos::User, without_a_terminal);
    suite.add("menu::a_signal_leaves_the_terminal_sane", Whos::User, killed);
    suite.add("menu::stopped", Whos::User, stopped);
    suite.add("menu::read_only", Whos::User, read_only);
    suite.add("menu::unknown_host_key", Whos::User, hosts::unknown_host_key);
    suite.add("menu::hosts_that_hang", Whos::User, hosts::hosts_that_hang);
    suite.add("menu::supervisor_killed", Whos::User, strain::supervisor_killed);
    suite.add("menu::a_job_that_prints_a_lot", Whos::User, strain::loud);
    suite.add("menu::a_hundred_ended_jobs", Whos::User, strain::hundred_ended_jobs);
    suite.add("menu::a_hundred_living_jobs", Whos::User, strain::hundred_living_jobs);
    suite.add("menu::silence", Whos::User, strain::silence);
    suite.add("menu::resize_storm", Whos::User, looks::resize_storm);
    suite.add("menu::small_terminals", Whos::User, looks::small_terminals);
    suite.add("menu::mouse", Whos::User, looks::mouse);
    suite.add("menu::scrollback", Whos::User, looks::scrollback);
    suite.add("menu::modes", Whos::User, looks::modes);
    suite.add("menu::clicks", Whos::User, looks::clicks);
    suite.add("menu::last_checkpoint", Whos::User, strain::last_checkpoint);
    suite.add("menu::resized_while_typing", Whos::User, looks::resized_while_typing);
    suite.add("menu::no_color", Whos::User, looks::no_color);
    suite.add("menu::own_keys", Whos::User, looks::own_keys);
    suite.add("menu::wrong_configuration", Whos::User, looks::wrong_configuration);
}

/// The menu on a terminal.
struct Menu {
    terminal: Terminal,
    picture: Picture,
    running: Running,
    deadline: Instant,
}

impl Menu {
    fn open(case: &Case, arguments: &[&str]) -> Result<Self> {
        Self::start((COLUMNS, ROWS), case, |terminal| case.start_on(terminal, &case.ckptctl(arguments)))
    }

    /// On a terminal of another size, with something in the environment.
    fn open_as(case: &Case, size: (u16, u16), environment: &[(&str, &str)]) -> Result<Self> {
        let mut command = case.ckptctl::<&str>([]);
        command.envs(environment.iter().copied());
        Self::start(size, case, |terminal| case.start_on(terminal, &command))
    }

    /// Where paths are short and the machine has a name that people may see.
    fn open_at_home(case: &Case) -> Result<Self> {
        Self::start((COLUMNS, ROWS), case, |terminal| case.start_at_home_on(terminal, &case.ckptctl::<&str>([])))
    }

    fn start(
        (columns, rows): (u16, u16),
        case: &Case,
        start: impl FnOnce(&mut Terminal) -> Result<Running>,
    ) -> Result<Self> {
        let mut terminal = Terminal::open(case)?;
        terminal.resize(columns, rows)?;
        let running = start(&mut terminal)?;
        let picture = Picture::new(columns, rows);
        Ok(Self { terminal, picture, running, deadline: Instant::now() + Duration::from_secs(90) })
    }

    /// Waits until a line of the screen holds the text.
    fn wait(&mut self, text: &str) -> Result<()> {
        self.wait_until(text, |lines| lines.iter().any(|line| line.contains(text)))
    }

    /// Waits until no line of the screen holds the text any more.
    fn wait_gone(&mut self, text: &str) -> Result<()> {
        self.wait_until(&format!("{text} gone"), |lines| !lines.iter().any(|line| line.contains(text)))
    }

    /// The word behind a text on the screen.
    fn word_after(&mut self, text: &str) -> Result<String> {
        self.wait(text)?;
        let lines = self.lines();
        let word = lines.iter().find_map(|line| line.split_once(text)?.1.split([' ', ',']).next().map(str::to_owned));
        word.with_context(|| format!("nothing behind {text:?}"))
    }

    fn wait_until(&mut self, what: &str, is_so: impl Fn(&[String]) -> bool) -> Result<()> {
        loop {
            let lines = self.lines();
            if is_so(&lines) {
                return Ok(());
            }
            if !self.running.is_running()? || Instant::now() > self.deadline {
                bail!("the screen never showed {what:?}:\n{}", lines.join("\n").trim_end());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn resize(&mut self, columns: u16, rows: u16) -> Result<()> {
        self.picture.resize(columns, rows);
        self.terminal.resize(columns, rows)
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        self.terminal.press(keys.as_bytes())
    }

    /// Presses Esc and waits for what it closes: with a key right behind it, it would be Alt with that key.
    fn escape(&mut self, closed: &str) -> Result<()> {
        self.press("\x1b")?;
        self.wait_gone(closed)
    }

    /// Opens the choice of a host for a job and goes to one.
    fn choose_host(&mut self, job: &str, host: &str) -> Result<()> {
        self.press("m")?;
        self.wait(&format!("Move {job} to"))?;
        self.wait("local ")?;
        self.press("g")?;
        self.wait("> local")?;
        while !self.lines().iter().any(|line| line.contains(&format!("> {host}"))) {
            let chosen = |lines: &[String]| lines.iter().rfind(|line| line.contains("> ")).cloned();
            let before = chosen(&self.lines());
            self.press("\x1b[B")?;
            self.wait_until("the next host is chosen", |lines| chosen(lines) != before)?;
        }
        Ok(())
    }

    fn lines(&mut self) -> Vec<String> {
        self.picture.lines(&self.terminal)
    }

    /// Requires that a key has its effect in a moment, whatever else goes on. Gives how long it took.
    fn answers_keys(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        self.press("?")?;
        self.wait("Keys (Esc closes")?;
        let took = begun.elapsed();
        ensure!(took < Duration::from_secs(3), "a key was answered after {took:?}");
        self.escape("Keys (Esc closes")?;
        Ok(took)
    }

    /// Waits until the program has counted so much further than the screen shows now.
    fn wait_for_count(&mut self, further: u64) -> Result<()> {
        let last = |lines: &[String]| walk::counts(lines).last().map_or(0, |(number, _)| *number);
        let before = last(&self.lines());
        self.wait_until("it goes on counting", |lines| last(lines) >= before + further)
    }

    /// The most memory that the menu has had, in bytes.
    fn most_memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.running.pid()))?;
        let most =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        most.map(|kib: u64| kib << 10).context("no VmHWM")
    }

    fn quit(mut self) -> Result<()> {
        self.press("q")?;
        ensure!(self.running.wait().is_ok_and(|ending| ending == Ending::Exited(0)), "the menu did not end well");
        ensure!(is_sane(&self.running.stdout()), "the terminal was left in the menu's state");
        Ok(())
    }
}

/// Whether what was switched on (alternate screen, mouse, bracketed paste, hidden cursor) was switched off at the end.
fn is_sane(output: &str) -> bool {
    let last = |on: &str, off: &str| output.rfind(off) > output.rfind(on);
    [
        ("\x1b[?1049h", "\x1b[?1049l"),
        ("\x1b[?1000h", "\x1b[?1000l"),
        ("\x1b[?2004h", "\x1b[?2004l"),
        ("\x1b[?25l", "\x1b[?25h"),
    ]
    .iter()
    .all(|(on, off)| !output.contains(on) || last(on, off))
}

fn without_a_terminal(case: &Case) -> Result<()> {
    let finished = case.run(&mut case.ckptctl::<&str>([]))?.expect(2)?;
    ensure!(finished.stderr.contains("Usage: ckptctl"), "{finished:?}");
    Ok(())
}

fn killed(case: &Case) -> Result<()> {
    for signal in [Signal::TERM, Signal::HUP] {
        let mut menu = Menu::open(case, &[])?;
        menu.wait("ckptctl")?;
        menu.running.signal(signal)?;
        menu.running.wait()?;
        ensure!(is_sane(&menu.running.stdout()), "{signal:?} left the terminal in the menu's state");
    }
    Ok(())
}

/// Stopped, and continued on a screen that others have used meanwhile.
fn stopped(case: &Case) -> Result<()> {
    let mut menu = Menu::open(case, &[])?;
    menu.wait("ckptctl")?;
    menu.running.signal(Signal::STOP)?;
    let pid = menu.running.pid();
    case.wait_until("it is stopped", || Case::state(pid) == Some('T'))?;
    let before = menu.running.stdout().len();
    menu.running.signal(Signal::CONT)?;
    let running = &menu.running;
    case.wait_until("all is drawn again", || running.stdout()[before..].contains("ckptctl"))?;
    menu.quit()
}

fn start_job(case: &Case, name: &str, command: &[&str]) -> Result<()> {
    let mut run = case.ckptctl(["run", "--detach", "--name", name, "--"]);
    case.run(run.args(command))?.expect(0).map(drop)
}

fn read_only(case: &Case) -> Result<()> {
    start_job(case, "sim", &["/bin/sleep", "1000"])?;
    let mut menu = Menu::open(case, &["--read-only"])?;
    menu.wait("sim")?;
    menu.press("c")?;
    menu.wait("the verb would be: ckptctl checkpoint sim")?;
    menu.quit()
}

/// The program of the walk, as the job `count`.
fn start_counting(case: &Case) -> Result<()> {
    case.write("work/count.c", walk::SOURCE)?;
    case.run(&mut case.ckptctl(["build", "count.c"]))?.expect(0)?;
    start_job(case, "count", &["./count"])
}
