//! Programs on a terminal come back on the terminal where they are restored.

use anyhow::{Result, ensure};
use ckpt_tests::{Case, Ending, Suite, Terminal, Whos};

pub fn add(suite: &mut Suite) {
    suite.add("terminal::settings_come_back", Whos::Both, |case| on_another(case, "raw", b""));
    suite.add("terminal::waiting_for_a_line", Whos::Both, |case| on_another(case, "reads", b"hello\r"));
    suite.add("terminal::dev_tty_and_the_foreground", Whos::Both, |case| on_another(case, "job", b""));
}

fn on_another(case: &Case, mode: &str, keys: &[u8]) -> Result<()> {
    let mut program = case.program("terminal")?;
    program.arg(mode);
    let mut first = Terminal::open(case)?;
    let mut running = case.start_on(&mut first, &program)?;
    running.wait_for_text("ready")?;
    case.wait_until("it sleeps", || Case::state(running.pid()) == Some('S'))?;
    let image = case.path("image");
    case.checkpoint(running.pid(), &image, &["--stop"])?;
    running.wait()?;
    let mut second = Terminal::open(case)?;
    let mut restore = case.ckptctl(["restore"]);
    restore.arg(&image);
    let mut restored = case.start_on(&mut second, &restore)?;
    case.go()?;
    second.press(keys)?;
    restored.wait_for_text("as expected")?;
    ensure!(restored.wait()? == Ending::Exited(0), "{}", restored.streams());
    let said = restored.stdout();
    ensure!(mode != "reads" || said.contains("read: hello"), "{said:?}");
    Ok(())
}
