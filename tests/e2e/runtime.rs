//! Programs that `ckptctl build` has linked with the runtime: Ctrl+C saves them, `-r` brings them back.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use ckpt_tests::{Case, Ending, Running, Suite, Terminal, Whos};

/// What the terminal sends for Ctrl+C.
const INTERRUPT: &[u8] = b"\x03";

pub fn add(suite: &mut Suite) {
    suite.add("runtime::no_number_is_lost_or_repeated", Whos::Both, no_number_lost);
    suite.add("runtime::restored_program_can_be_saved_again", Whos::Both, saved_again);
    suite.add("runtime::second_ctrl_c_ends_it_and_leaves_no_half_file", Whos::Both, second_interrupt);
    suite.add("runtime::on_interrupt_continue", Whos::Both, interrupt_and_continue);
    suite.add("runtime::on_interrupt_off", Whos::User, interrupt_off);
    suite.add("runtime::arguments_reach_the_program", Whos::User, arguments);
    suite.add("runtime::restore_without_an_image", Whos::User, without_image);
    suite.add("runtime::own_handler_is_kept", Whos::User, |case| own_handler(case, &[]));
    suite.add("runtime::blocked_signal_is_the_programs", Whos::User, |case| own_handler(case, &["wait"]));
    suite.add("runtime::program_asks_with_hooks", Whos::Both, asks);
    suite.add("runtime::hold_keeps_ctrl_c_waiting", Whos::User, holds);
    suite.add("runtime::recover_option_and_named_file", Whos::User, named_file);
    suite.add("runtime::several_sources_of_two_languages", Whos::User, two_languages);
    suite.add("runtime::any_thread_may_be_interrupted", Whos::Both, threads);
    suite.add("runtime::objects_are_made_once", Whos::User, objects);
    suite.add("runtime::cc_in_a_makefile", Whos::User, makefile);
    suite.add("runtime::compiler_errors_pass_through", Whos::User, compiler_error);
}

fn source(case: &Case, name: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/linked").join(name);
    case.write(Path::new("work").join(name), fs::read(&path)?)
}

/// `ckptctl build NAME.c -o NAME` in the case's directory.
fn build(case: &Case, name: &str) -> Result<PathBuf> {
    source(case, &format!("{name}.c"))?;
    let mut command = case.ckptctl(["build", &format!("{name}.c"), "-o", name, "--", "-O2", "-Wall"]);
    case.run(&mut command)?.expect(0)?;
    Ok(case.work().join(name))
}

/// Starts `./NAME ARGS` as one does from a shell.
fn start(case: &Case, terminal: &mut Terminal, name: &str, args: &[&str]) -> Result<Running> {
    case.start_on(terminal, case.command(format!("./{name}")).args(args))
}

/// The numbers that stand alone on a line.
fn numbers(screen: &str) -> Vec<u32> {
    screen.lines().filter_map(|line| line.trim().trim_start_matches("^C").parse().ok()).collect()
}

fn is_complete(case: &Case, image: &Path) -> Result<()> {
    let mode = fs::metadata(image).with_context(|| format!("no {}", image.display()))?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "mode {mode:o}");
    case.run(case.ckptctl(["verify"]).arg(image))?.expect(0).map(drop)
}

fn until(mut count: Running, terminal: &mut Terminal, number: u32) -> Result<Vec<u32>> {
    count.wait_for_text(&format!("\n{number}\r\n"))?;
    terminal.press(INTERRUPT)?;
    let ending = count.wait()?;
    let said = count.stdout();
    ensure!(!said.contains("over"), "it was not ended: {ending:?}, {said:?}");
    ensure!(said.contains("-r"), "does not tell how to go on: {said:?}");
    Ok(numbers(&said))
}

fn no_number_lost(case: &Case) -> Result<()> {
    build(case, "count")?;
    let mut first = Terminal::open(case)?;
    let count = start(case, &mut first, "count", &[])?;
    let mut seen = until(count, &mut first, 30)?;
    is_complete(case, &case.work().join("count.ckpt"))?;
    Case::expect_only(&case.work(), &["count", "count.c", "count.ckpt"])?;
    let mut second = Terminal::open(case)?;
    let mut restored = start(case, &mut second, "count", &["-r"])?;
    restored.wait_for_text("over")?;
    ensure!(restored.wait()? == Ending::Exited(3), "its own status: {}", restored.streams());
    seen.extend(numbers(&restored.stdout()));
    ensure!(seen == (1..=400).collect::<Vec<_>>(), "{seen:?}");
    Ok(())
}

fn saved_again(case: &Case) -> Result<()> {
    build(case, "count")?;
    let mut seen = Vec::new();
    for generation in 0..4 {
        let mut terminal = Terminal::open(case)?;
        let args = if generation == 0 { &[][..] } else { &["-r"] };
        let count = start(case, &mut terminal, "count", args)?;
        seen.extend(until(count, &mut terminal, 30 + generation * 40)?);
    }
    let mut terminal = Terminal::open(case)?;
    let mut restored = start(case, &mut terminal, "count", &["-r"])?;
    ensure!(restored.wait()? == Ending::Exited(3), "its own status: {}", restored.streams());
    seen.extend(numbers(&restored.stdout()));
    ensure!(seen == (1..=400).collect::<Vec<_>>(), "{seen:?}");
    Ok(())
}

fn second_interrupt(case: &Case) -> Result<()> {
    build(case, "large")?;
    let mut terminal = Terminal::open(case)?;
    let mut large = start(case, &mut terminal, "large", &[])?;
    large.wait_for_text("ready")?;
    terminal.press(INTERRUPT)?;
    terminal.press(INTERRUPT)?;
    large.wait()?;
    let image = case.work().join("large.ckpt");
    Case::expect_only(&case.work(), &["large", "large.c", "large.ckpt"])?;
    // The second one may have come when the image was just complete.
    if image.exists() { is_complete(case, &image) } else { Ok(()) }
}

fn interrupt_and_continue(case: &Case) -> Result<()> {
    build(case, "count")?;
    let mut terminal = Terminal::open(case)?;
    let mut command = case.command("./count");
    command.env("CKPT_ON_INTERRUPT", "continue");
    let mut count = case.start_on(&mut terminal, &command)?;
    count.wait_for_text("\n30\r\n")?;
    terminal.press(INTERRUPT)?;
    let image = case.work().join("count.ckpt");
    case.wait_until("there is an image", || image.exists())?;
    is_complete(case, &image)?;
    ensure!(count.wait()? == Ending::Exited(3), "{}", count.streams());
    let seen = numbers(&count.stdout());
    ensure!(seen == (1..=400).collect::<Vec<_>>(), "{seen:?}");
    let mut second = Terminal::open(case)?;
    let mut restored = start(case, &mut second, "count", &["-r"])?;
    ensure!(restored.wait()? == Ending::Exited(3), "{}", restored.streams());
    let again = numbers(&restored.stdout());
    ensure!(again.first().is_some_and(|n| *n > 30), "{again:?}");
    ensure!(again == (again[0]..=400).collect::<Vec<_>>(), "{again:?}");
    Ok(())
}

fn interrupt_off(case: &Case) -> Result<()> {
    build(case, "count")?;
    let mut terminal = Terminal::open(case)?;
    let mut command = case.command("./count");
    command.env("CKPT_ON_INTERRUPT", "off");
    let mut count = case.start_on(&mut terminal, &command)?;
    count.wait_for_text("\n10\r\n")?;
    terminal.press(INTERRUPT)?;
    ensure!(count.wait()? == Ending::Signaled(2), "{}", count.streams());
    Case::expect_only(&case.work(), &["count", "count.c"])
}

fn arguments(case: &Case) -> Result<()> {
    build(case, "arguments")?;
    let run =
        |args: &[&str], recover: &str| case.run(case.command("./arguments").env("CKPT_RECOVER", recover).args(args));
    let said = run(&["-v", "two words", "", "-r", "--recover", "--", "x"], "")?.expect(8)?.stdout;
    let wanted = "[-v]\n[two words]\n[]\n[-r]\n[--recover]\n[--]\n[x]\n";
    ensure!(said == wanted, "{said:?}");
    // Reserved for the program.
    let said = run(&["-r"], "off")?.expect(2)?.stdout;
    ensure!(said == "[-r]\n", "{said:?}");
    Ok(())
}

fn without_image(case: &Case) -> Result<()> {
    build(case, "count")?;
    let finished = case.run(case.command("./count").arg("-r"))?;
    let failed = matches!(finished.ending, Ending::Exited(status) if status != 0);
    ensure!(failed && finished.stdout.is_empty(), "main has run: {finished:?}");
    ensure!(finished.stderr.lines().count() == 1 && finished.stderr.contains("count.ckpt"), "{finished:?}");
    let foreign = case.write("work/foreign", "not an image")?;
    let finished = case.run(case.command("./count").arg("-r").arg(&foreign))?;
    ensure!(finished.ending == Ending::Exited(6) && finished.stderr.contains("foreign"), "{finished:?}");
    Ok(())
}

fn own_handler(case: &Case, args: &[&str]) -> Result<()> {
    build(case, "own_handler")?;
    let mut terminal = Terminal::open(case)?;
    let mut program = start(case, &mut terminal, "own_handler", args)?;
    program.wait_for_text("ready")?;
    case.wait_until("it sleeps", || Case::state(program.pid()) == Some('S'))?;
    terminal.press(INTERRUPT)?;
    program.wait_for_text("caught by the program")?;
    ensure!(program.wait()? == Ending::Exited(5), "{}", program.streams());
    Case::expect_only(&case.work(), &["own_handler", "own_handler.c"])
}

fn asks(case: &Case) -> Result<()> {
    build(case, "asks")?;
    let hooks = "before two\nbefore one\n";
    let first = case.run(&mut case.command("./asks"))?.expect(10)?;
    let wanted = format!("{hooks}after one, restored 0\nafter two, restored 0\nsaved, kept 42\n");
    ensure!(first.stdout == wanted, "{first:?}");
    is_complete(case, &case.work().join("asks.ckpt"))?;
    for _ in 0..3 {
        // Its output was a file, and restored it goes on there; so it is started on pipes here.
        let mut saver = case.start(case.command("./asks").arg("named.ckpt"))?;
        ensure!(saver.wait()? == Ending::Exited(10), "{}", saver.streams());
        let mut restored = case.start(case.command("./asks").args(["-r", "named.ckpt"]))?;
        ensure!(restored.wait()? == Ending::Exited(20), "{}", restored.streams());
        let wanted = "after one, restored 1\nafter two, restored 1\nrestored, kept 42\n";
        ensure!(restored.stdout() == wanted, "{}", restored.streams());
    }
    Ok(())
}

fn holds(case: &Case) -> Result<()> {
    build(case, "holds")?;
    let mut terminal = Terminal::open(case)?;
    let mut program = start(case, &mut terminal, "holds", &[])?;
    program.wait_for_text("held\r\n")?;
    terminal.press(INTERRUPT)?;
    program.wait()?;
    let said = program.stdout();
    ensure!(said.contains("still held") && said.contains("once more"), "not held: {said:?}");
    ensure!(!said.contains("released"), "Ctrl+C was forgotten: {said:?}");
    let mut second = Terminal::open(case)?;
    let mut restored = start(case, &mut second, "holds", &["-r"])?;
    ensure!(restored.wait()? == Ending::Exited(6), "{}", restored.streams());
    let said = restored.stdout();
    ensure!(said.contains("released") && !said.contains("once more"), "{said:?}");
    Ok(())
}

fn named_file(case: &Case) -> Result<()> {
    build(case, "count")?;
    let mut terminal = Terminal::open(case)?;
    let mut command = case.command("./count");
    command.env("CKPT_FILE", "elsewhere.ckpt");
    let mut count = case.start_on(&mut terminal, &command)?;
    count.wait_for_text("\n10\r\n")?;
    terminal.press(INTERRUPT)?;
    count.wait()?;
    is_complete(case, &case.work().join("elsewhere.ckpt"))?;
    let mut second = Terminal::open(case)?;
    let mut restored = start(case, &mut second, "count", &["--recover", "elsewhere.ckpt"])?;
    ensure!(restored.wait()? == Ending::Exited(3), "{}", restored.streams());
    Ok(())
}

fn two_languages(case: &Case) -> Result<()> {
    source(case, "parts_main.c")?;
    source(case, "parts_other.cpp")?;
    let mut command = case.ckptctl(["build", "parts_main.c", "parts_other.cpp", "-o", "parts"]);
    case.run(&mut command)?.expect(0)?;
    let said = case.run(&mut case.command("./parts"))?.expect(0)?.stdout;
    ensure!(said == "21\n", "{said:?}");
    Ok(())
}

fn threads(case: &Case) -> Result<()> {
    build(case, "threads")?;
    for args in [&["150"][..], &["-r"], &["-r"]] {
        let mut terminal = Terminal::open(case)?;
        let mut running = start(case, &mut terminal, "threads", args)?;
        running.wait_for_text("line ")?;
        terminal.press(INTERRUPT)?;
        running.wait()?;
        let said = running.stdout();
        ensure!(!said.contains("complete"), "{args:?} has run to its end: {}", running.streams());
    }
    let mut terminal = Terminal::open(case)?;
    let mut restored = start(case, &mut terminal, "threads", &["-r"])?;
    ensure!(restored.wait()? == Ending::Exited(0), "{}", restored.streams());
    ensure!(restored.stdout().contains("complete"), "{}", restored.streams());
    Ok(())
}

/// What C++ makes before `main` is made in the first process alone, and unmade in the last.
fn objects(case: &Case) -> Result<()> {
    source(case, "objects.cpp")?;
    case.run(&mut case.ckptctl(["build", "objects.cpp", "-o", "objects"]))?.expect(0)?;
    let mut first = Terminal::open(case)?;
    let mut program = start(case, &mut first, "objects", &["20"])?;
    program.wait_for_text("line 5\r\n")?;
    first.press(INTERRUPT)?;
    program.wait()?;
    let said = program.stdout();
    ensure!(said.matches("constructed").count() == 1 && !said.contains("destroyed"), "{said:?}");
    let mut second = Terminal::open(case)?;
    let mut restored = start(case, &mut second, "objects", &["-r"])?;
    ensure!(restored.wait()? == Ending::Exited(0), "{}", restored.streams());
    let said = restored.stdout();
    ensure!(!said.contains("constructed") && said.matches("destroyed").count() == 1, "{said:?}");
    ensure!(said.contains("line 20") && !said.contains("line 5\r"), "{said:?}");
    Ok(())
}

fn makefile(case: &Case) -> Result<()> {
    source(case, "count.c")?;
    source(case, "Makefile")?;
    let cc = format!("CC={} cc", case.stage().ckptctl().display());
    case.run(case.command("make").arg(&cc))?.expect(0)?;
    let mut terminal = Terminal::open(case)?;
    let count = start(case, &mut terminal, "count", &[])?;
    let seen = until(count, &mut terminal, 10)?;
    ensure!(!seen.is_empty(), "nothing was counted");
    is_complete(case, &case.work().join("count.ckpt"))?;
    let size = fs::metadata(case.work().join("count.ckpt"))?.size();
    ensure!(size < 1 << 20, "an image of {size} bytes for a small program");
    Ok(())
}

fn compiler_error(case: &Case) -> Result<()> {
    case.write("work/wrong.c", "int main(void) { return nothing_of_that_name; }\n")?;
    let finished = case.run(&mut case.ckptctl(["build", "wrong.c"]))?;
    if finished.ending == Ending::Exited(0) {
        bail!("built: {finished:?}");
    }
    ensure!(finished.stderr.contains("nothing_of_that_name"), "{finished:?}");
    Case::expect_only(&case.work(), &["wrong.c"])
}
