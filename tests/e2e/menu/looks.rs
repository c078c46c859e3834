//! The menu on terminals of all sizes, with the mouse, without colours, and as a user has configured it.

use anyhow::{Context, Result, ensure};
use ckpt_tests::{Case, Ending};

use super::{COLUMNS, Menu, ROWS, is_sane, start_job};

pub fn resize_storm(case: &Case) -> Result<()> {
    let mut menu = Menu::open(case, &[])?;
    menu.answers_keys()?;
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

/// Where there is little room it is used, and where there is too little that is said.
pub fn small_terminals(case: &Case) -> Result<()> {
    case.write("work/count.c", super::walk::SOURCE)?;
    start_job(case, "sim", &["/bin/sleep", "1000"])?;
    let mut menu = Menu::open_as(case, (60, 16), &[])?;
    menu.wait("> sim")?;
    menu.wait("q quit")?;
    menu.answers_keys()?;
    for (key, shows) in
        [("n", "count.c"), ("h", "local"), ("j", "> sim"), ("\r", "running on local"), ("c", "saved sim")]
    {
        menu.press(key)?;
        menu.wait(shows)?;
    }
    for shows in ["@1", "of memory", "q quit"] {
        menu.press("\t")?;
        menu.wait(shows)?;
    }
    menu.press("L")?;
    menu.wait("ckptctl checkpoint sim")?;
    menu.escape("ckptctl checkpoint sim")?;
    menu.quit()?;

    // What cannot be seen is not done; it goes on where it was.
    let mut menu = Menu::open(case, &[])?;
    menu.wait("> sim")?;
    menu.answers_keys()?;
    menu.resize(20, 5)?;
    menu.wait("This terminal is 20")?;
    for key in ["?", "\r", "c", "s", "y", "\r"] {
        menu.press(key)?;
    }
    menu.resize(60, 16)?;
    menu.wait("> sim")?;
    menu.wait("running")?;
    menu.press("\r")?;
    menu.wait("running on local")?;
    menu.wait("1 checkpoint")?;
    menu.resize(20, 5)?;
    menu.wait("q leaves")?;
    menu.quit()
}

/// What a job has printed before it was opened is above its screen; its boxes are lines.
pub fn scrollback(case: &Case) -> Result<()> {
    let script = r"seq 1 5000; printf '\033(0lqk\033(B\n'; exec cat";
    start_job(case, "long", &["/bin/sh", "-c", script])?;
    let mut menu = Menu::open(case, &[])?;
    menu.wait("> long")?;
    menu.press("\r")?;
    menu.wait("\u{250c}\u{2500}\u{2510}")?;
    menu.press("g")?;
    menu.wait_until("hundreds of lines", |lines| {
        lines.iter().any(|line| line.contains(" 9") && line.contains(" lines back"))
    })?;
    menu.wait_until("an early line", |lines| lines.iter().any(|line| line.starts_with("40")))?;
    menu.quit()
}

/// A program's terminal is as the program has set it, long before what is shown of its output.
pub fn modes(case: &Case) -> Result<()> {
    let script = r"printf '\033[?1h'; seq 1 5000; exec cat";
    start_job(case, "long", &["/bin/sh", "-c", script])?;
    let mut menu = Menu::open(case, &[])?;
    menu.wait("> long")?;
    menu.press("\r")?;
    menu.wait("4990")?;
    menu.press("t")?;
    menu.wait("keys go to the program")?;
    menu.press("\x1b[A")?;
    menu.wait("^[OA")?;
    menu.press("\x1d")?;
    menu.wait_gone("keys go to the program")?;
    menu.quit()
}

/// The wheel goes through what is shown, and a click into a program's terminal is as good as `t`.
pub fn mouse(case: &Case) -> Result<()> {
    for job in ["one", "three"] {
        start_job(case, job, &["/usr/bin/seq", "1", "200"])?;
    }
    start_job(case, "two", &["/bin/cat"])?;
    let mut menu = Menu::open(case, &[])?;
    menu.wait("3 jobs")?;
    menu.wait_until("two have ended", |lines| lines.iter().filter(|line| line.contains("  ended")).count() == 2)?;
    menu.wait("> one")?;
    menu.wheel(false)?;
    menu.wait("> three")?;
    menu.wheel(true)?;
    menu.wait("> one")?;
    menu.press("\r")?;
    menu.wait("ended on local")?;
    menu.wait_until("its last lines", |lines| lines.iter().any(|line| line == "200"))?;
    for told in ["1 line back", "2 lines back", "3 lines back"] {
        menu.wheel(true)?;
        menu.wait(told)?;
    }
    menu.wait_until("it went up", |lines| !lines.iter().any(|line| line == "200"))?;
    for _ in 1..=3 {
        menu.wheel(false)?;
    }
    menu.wait_gone("lines back")?;

    menu.press("j")?;
    menu.wait("> one")?;
    menu.press("G")?;
    menu.wait("> two")?;
    menu.press("\r")?;
    menu.wait("running on local")?;
    menu.click_into_pane()?;
    menu.press("heard\r")?;
    menu.wait_until("the echo and the answer", |lines| lines.iter().filter(|line| *line == "heard").count() == 2)?;
    menu.press("\x1d")?;
    menu.wait_gone("keys go to the program")?;
    menu.quit()
}

/// A click chooses a row of any list, another one opens it.
pub fn clicks(case: &Case) -> Result<()> {
    for job in ["one", "two", "three"] {
        start_job(case, job, &["/bin/true"])?;
    }
    for name in ["a.c", "b.c", "c.c"] {
        case.write(format!("work/{name}"), "int main(void) { return 0; }\n")?;
    }
    case.make_dir(".config")?;
    case.make_dir(".config/ckptctl")?;
    case.write(".config/ckptctl/hosts.toml", "[hosts.nodea]\n[hosts.nodeb]\n")?;
    let mut menu = Menu::open(case, &[])?;
    menu.wait("3 jobs")?;
    let lists: [(&str, &[&str]); 3] =
        [("j", &["two", "one", "three"]), ("h", &["nodeb", "local", "nodea"]), ("n", &["c.c", "a.c", "b.c"])];
    for (screen, rows) in lists {
        menu.press(screen)?;
        for row in rows {
            menu.click(&format!(" {row} "))?;
            menu.wait(&format!("> {row}"))?;
        }
    }
    menu.press("j")?;
    menu.wait("> ")?;
    menu.click(" two ")?;
    menu.wait("> two")?;
    menu.click(" two ")?;
    menu.wait(" on local, 0 checkpoints")?;
    menu.quit()
}

/// Keys and other sizes at the same moment: the last size counts.
pub fn resized_while_typing(case: &Case) -> Result<()> {
    let mut menu = Menu::open(case, &[])?;
    menu.answers_keys()?;
    for round in 0..50 {
        menu.resize(20, 5)?;
        menu.wait("This terminal is 20")?;
        // Those that come before the last size are not heard, those behind it are: either way the list of jobs is shown.
        menu.press("jjjjjjjj")?;
        menu.resize(COLUMNS, ROWS)?;
        menu.wait("q quit").with_context(|| format!("in round {round}"))?;
    }
    menu.quit()
}

impl Menu {
    /// Clicks where a text is.
    fn click(&mut self, text: &str) -> Result<()> {
        self.wait(text)?;
        let lines = self.lines();
        let found = lines.iter().enumerate().find_map(|(row, line)| Some((row + 1, line.find(text)? + 2)));
        let (row, column) = found.context("it is gone")?;
        self.press(&format!("\x1b[<0;{column};{row}M\x1b[<0;{column};{row}m"))
    }

    /// Clicks into the open job's terminal, again until it is connected.
    fn click_into_pane(&mut self) -> Result<()> {
        let (column, row) = (COLUMNS / 2, ROWS / 2);
        self.press(&format!("\x1b[<0;{column};{row}M\x1b[<0;{column};{row}m"))?;
        self.wait("keys go to the program")
    }

    /// Turns the wheel by a notch, in the middle of the screen.
    fn wheel(&mut self, is_up: bool) -> Result<()> {
        let (button, column, row) = (if is_up { 64 } else { 65 }, COLUMNS / 2, ROWS / 2);
        self.press(&format!("\x1b[<{button};{column};{row}M"))
    }
}

/// Neither the menu nor what it shows of a program has a colour; what is chosen is seen all the same.
pub fn no_color(case: &Case) -> Result<()> {
    start_job(
        case,
        "red",
        &["/usr/bin/printf", r"\033[31;44mred on blue\033[38;5;99m\033[48;2;1;2;3m and more\033[m"],
    )?;
    let mut menu = Menu::open_as(case, (COLUMNS, ROWS), &[("NO_COLOR", "1")])?;
    menu.wait("> red")?;
    let chosen = menu.lines().iter().position(|line| line.contains("> red")).context("nothing is chosen")?;
    ensure!(menu.picture.is_inverse(u16::try_from(chosen)?), "what is chosen does not stand out");
    menu.answers_keys()?;
    menu.press(":")?;
    menu.wait(" Commands ")?;
    menu.escape(" Commands ")?;
    for (key, shows) in [("h", "local"), ("n", "To be run"), ("j", "> red"), ("\r", "red on blue and more")] {
        menu.press(key)?;
        menu.wait(shows)?;
    }
    menu.wait("ended on local")?;
    menu.press("D")?;
    menu.wait("Remove red?")?;
    menu.escape("Remove red?")?;
    has_no_colour(&menu.terminal.screen().text())?;
    menu.quit()
}

/// No sequence for graphics sets a colour. Going back to the terminal's own (39, 49, 59) is no colour.
fn has_no_colour(output: &str) -> Result<()> {
    for sequence in output.split("\x1b[").skip(1) {
        let end = sequence.find(|c: char| c.is_ascii_alphabetic() || c == '~').unwrap_or(sequence.len());
        if !sequence[end..].starts_with('m') {
            continue;
        }
        let parameters = sequence[..end].split([';', ':']).filter_map(|parameter| parameter.parse::<u8>().ok());
        let is_colour = |code: &u8| matches!(code, 30..=38 | 40..=48 | 58 | 90..=97 | 100..=107);
        ensure!(parameters.filter(is_colour).count() == 0, "a colour: {:?}", &sequence[..=end]);
    }
    Ok(())
}

/// Keys and colours of the user's own.
pub fn own_keys(case: &Case) -> Result<()> {
    start_job(case, "sim", &["/bin/sleep", "1000"])?;
    case.make_dir(".config")?;
    case.make_dir(".config/ckptctl")?;
    case.write(".config/ckptctl/config.toml", "theme = \"none\"\n\n[keys]\nsave = [\"w\", \"f5\"]\nquit = [\"Q\"]\n")?;
    let mut menu = Menu::open(case, &[])?;
    menu.wait("> sim")?;
    menu.wait_until("the keys in the footer", |lines| {
        lines.last().is_some_and(|line| line.contains("w save") && line.contains("Q quit") && !line.contains("c save"))
    })?;
    // The old keys mean nothing any more.
    menu.press("cq")?;
    menu.answers_keys()?;
    menu.press("w")?;
    menu.wait("saved sim")?;
    menu.press("\r")?;
    menu.wait("1 checkpoint")?;
    menu.press("\x1b[15~")?;
    menu.wait("2 checkpoints")?;
    has_no_colour(&menu.terminal.screen().text())?;
    menu.press("Q")?;
    ensure!(menu.running.wait()? == Ending::Exited(0) && is_sane(&menu.running.stdout()), "{}", menu.running.streams());
    Ok(())
}

pub fn wrong_configuration(case: &Case) -> Result<()> {
    case.make_dir(".config")?;
    case.make_dir(".config/ckptctl")?;
    case.write(".config/ckptctl/config.toml", "theme = \"dark\"\n\ncolour = 1\n")?;
    let mut menu = Menu::open(case, &[])?;
    ensure!(menu.running.wait()? == Ending::Exited(2), "{}", menu.running.streams());
    let said = menu.running.stdout();
    ensure!(said.contains("config.toml: line 3") && said.contains("colour"), "{said:?}");
    Ok(())
}
