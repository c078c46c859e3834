//! The menu on a real terminal: the whole walk of a newcomer, and what must not disturb it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use ckpt_tests::{Case, Ending, Picture, Running, Suite, Terminal, Whos};
use rustix::process::Signal;

const COLUMNS: u16 = 100;
const ROWS: u16 = 30;

pub fn add(suite: &mut Suite) {
    suite.add("menu::walk", Whos::Both, walk);
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
        let mut terminal = Terminal::open(case)?;
        terminal.resize(COLUMNS, ROWS)?;
        let running = case.start_on(&mut terminal, &case.ckptctl(arguments))?;
        let picture = Picture::new(COLUMNS, ROWS);
        Ok(Self { terminal, picture, running, deadline: Instant::now() + Duration::from_secs(90) })
    }

    /// Waits until a line of the screen holds the text.
    fn wait(&mut self, text: &str) -> Result<()> {
        self.wait_until(text, |lines| lines.iter().any(|line| line.contains(text)))
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
        self.wait_until("it closed", |lines| !lines.iter().any(|line| line.contains(closed)))
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

const BROKEN: &str = "#include <stdio.h>\n#include <unistd.h>\n\nint main(void)\n{\n    int n = 0\n    char line[80];\n    for (;;) {\n        printf(\"number %d\\n\", ++n);\n        fflush(stdout);\n        usleep(50000);\n    }\n}\n";

fn walk(case: &Case) -> Result<()> {
    case.write("work/count.c", BROKEN)?;
    let mut menu = Menu::open(case, &[])?;
    // The picker, at the source.
    menu.wait("count.c")?;
    menu.wait("Enter build")?;
    // Build with an error, which is shown at its line.
    menu.press("\r")?;
    menu.wait("was not built")?;
    menu.wait("int n = 0")?;
    case.write("work/count.c", BROKEN.replace("int n = 0", "int n = 0;").replace("    char line[80];\n", ""))?;
    menu.press("\r")?;
    menu.wait("r runs it")?;
    menu.press("r")?;
    menu.wait("number 10")?;
    // Save: pause and size are told.
    menu.press("c")?;
    menu.wait("it stood still for")?;
    // The timeline has a picture of the screen.
    menu.press("\t")?;
    menu.wait("@1")?;
    menu.wait("The screen at @1")?;
    menu.press("\t\t")?;
    // Type into it: Ctrl+\ ends the program.
    menu.press("t")?;
    menu.wait("keys go to the program")?;
    menu.press("\x1c")?;
    menu.wait("was ended by signal 3")?;
    // Bring it back.
    menu.wait_until("R restore", |lines| {
        lines.iter().any(|line| line.contains(" ended") || line.contains("signal 3"))
    })?;
    menu.press("R")?;
    menu.wait("runs again")?;
    menu.wait_until("more numbers", |lines| lines.iter().any(|line| line.starts_with("number ")))?;
    // End it; No is the default.
    menu.press("s")?;
    menu.wait("What it has not saved is lost")?;
    menu.press("\r")?;
    menu.press("sy\r")?;
    menu.wait("was ended")?;
    menu.press("L")?;
    menu.wait("ckptctl stop count")?;
    menu.escape("What was done, as verbs")?;
    menu.press("j")?;
    menu.wait("1 job")?;
    menu.quit()
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
