//! The menu on a real terminal: the whole walk of a newcomer, and what must not disturb it.

mod walk;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ckpt_tests::{Case, Ending, Picture, Running, Suite, Terminal, Whos};
use rustix::process::Signal;

const COLUMNS: u16 = 100;
const ROWS: u16 = 30;

pub fn add(suite: &mut Suite) {
    suite.add("menu::walk", Whos::Both, walk::walk);
    suite.add("menu::unknown_host_key", Whos::User, walk::unknown_host_key);
    suite.add("menu::without_a_terminal", Whos::User, without_a_terminal);
    suite.add("menu::a_signal_leaves_the_terminal_sane", Whos::User, killed);
    suite.add("menu::resize_storm", Whos::User, resize_storm);
    suite.add("menu::a_job_that_prints_a_lot", Whos::User, loud);
    suite.add("menu::a_hundred_jobs", Whos::User, hundred_jobs);
    suite.add("menu::read_only", Whos::User, read_only);
    suite.add("menu::wrong_configuration", Whos::User, wrong_configuration);
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
        Self::start(case, |terminal| case.start_on(terminal, &case.ckptctl(arguments)))
    }

    /// Where paths are short and the machine has a name that people may see.
    fn open_at_home(case: &Case) -> Result<Self> {
        Self::start(case, |terminal| case.start_at_home_on(terminal, &case.ckptctl::<&str>([])))
    }

    fn start(case: &Case, start: impl FnOnce(&mut Terminal) -> Result<Running>) -> Result<Self> {
        let mut terminal = Terminal::open(case)?;
        terminal.resize(COLUMNS, ROWS)?;
        let running = start(&mut terminal)?;
        let picture = Picture::new(COLUMNS, ROWS);
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
        let lines = self.picture.lines(&self.terminal);
        let word = lines.iter().find_map(|line| line.split_once(text)?.1.split([' ', ',']).next().map(str::to_owned));
        word.with_context(|| format!("nothing behind {text:?}"))
    }

    fn wait_until(&mut self, what: &str, is_so: impl Fn(&[String]) -> bool) -> Result<()> {
        loop {
            let lines = self.picture.lines(&self.terminal);
            if is_so(&lines) {
                return Ok(());
            }
            if !self.running.is_running()? || Instant::now() > self.deadline {
                bail!("the screen never showed {what:?}:\n{}", lines.join("\n").trim_end());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        self.terminal.press(keys.as_bytes())
    }

    /// Presses Esc and waits for what it closes: with a key right behind it, it would be Alt with that key.
    fn escape(&mut self, closed: &str) -> Result<()> {
        self.press("\x1b")?;
        self.wait_gone(closed)
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

fn resize_storm(case: &Case) -> Result<()> {
    let mut menu = Menu::open(case, &[])?;
    menu.wait("New job")?;
    for step in 0..200_u16 {
        menu.terminal.resize(1 + step * 7 % 180, 1 + step * 5 % 60)?;
    }
    menu.terminal.resize(COLUMNS, ROWS)?;
    menu.wait_until("all of it again", |lines| {
        lines.last().is_some_and(|line| line.contains("q quit")) && lines[0].contains("New job")
    })?;
    menu.press("?")?;
    menu.wait("Keys (Esc closes")?;
    menu.escape("Keys (Esc closes")?;
    menu.quit()
}

fn start_job(case: &Case, name: &str, command: &[&str]) -> Result<()> {
    let mut run = case.ckptctl(["run", "--detach", "--name", name, "--"]);
    case.run(run.args(command))?.expect(0).map(drop)
}

fn loud(case: &Case) -> Result<()> {
    let script = "i=0; while :; do i=$((i+1)); echo $i 1234567890123456789012345678901234567890123456789012345678901234567890; done";
    start_job(case, "loud", &["/bin/sh", "-c", script])?;
    let mut menu = Menu::open(case, &[])?;
    menu.wait("loud")?;
    menu.press("\r")?;
    menu.wait("1234567890")?;
    // It stays usable: a key is answered in a moment.
    let began = Instant::now();
    menu.press("?")?;
    menu.wait("Keys (Esc closes")?;
    ensure!(began.elapsed() < Duration::from_secs(5), "a key was answered after {:?}", began.elapsed());
    menu.escape("Keys (Esc closes")?;
    menu.press("sy\r")?;
    menu.wait("was ended")?;
    menu.quit()
}

fn hundred_jobs(case: &Case) -> Result<()> {
    for number in 0..100 {
        start_job(case, &format!("job{number:03}"), &["/bin/true"])?;
    }
    let mut menu = Menu::open(case, &[])?;
    menu.wait("100 jobs")?;
    menu.press("/job042")?;
    menu.wait("> job042")?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", menu.running.pid()))?;
    let resident =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    ensure!(resident.is_some_and(|kib| kib < 50 << 10), "the menu took {resident:?} KiB");
    menu.escape("filter: ")?;
    menu.quit()
}

fn read_only(case: &Case) -> Result<()> {
    start_job(case, "sim", &["/bin/sleep", "1000"])?;
    let mut menu = Menu::open(case, &["--read-only"])?;
    menu.wait("sim")?;
    menu.press("c")?;
    menu.wait("the verb would be: ckptctl checkpoint sim")?;
    menu.quit()
}

fn wrong_configuration(case: &Case) -> Result<()> {
    case.make_dir(".config")?;
    case.make_dir(".config/ckptctl")?;
    case.write(".config/ckptctl/config.toml", "theme = \"dark\"\n\ncolour = 1\n")?;
    let mut menu = Menu::open(case, &[])?;
    ensure!(menu.running.wait()? == Ending::Exited(2), "{}", menu.running.streams());
    let said = menu.running.stdout();
    ensure!(said.contains("config.toml: line 3") && said.contains("colour"), "{said:?}");
    Ok(())
}
