//! `ckptctl push`: a program and its image go to a host by a server of this machine's own, and go on there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ckpt_tests::{Case, Ending, Suite, Terminal, Whos};

use crate::ssh::{Server, hosts};

pub fn add(suite: &mut Suite) {
    suite.add("push::a_program_goes_on_there", Whos::Root, goes_on);
    suite.add("push::what_cannot_be_pushed", Whos::User, refusals);
}

/// Counts to 60 in 3 seconds, then exits with 3.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <unistd.h>
int main(void)
{
    for (int i = 1; i <= 60; i++) {
        printf("%d\n", i);
        fflush(stdout);
        usleep(50000);
    }
    return 3;
}
"#;

fn numbers(text: &str) -> Vec<u32> {
    text.lines().filter_map(|line| line.trim().trim_start_matches("^C").parse().ok()).collect()
}

/// Builds the program, lets it count to 5, and saves it with Ctrl+C. Gives what it printed.
fn saved(case: &Case) -> Result<Vec<u32>> {
    case.write("work/count.c", PROGRAM)?;
    case.run(&mut case.ckptctl(["build", "count.c", "-o", "count"]))?.expect(0)?;
    let mut terminal = Terminal::open(case)?;
    let mut counting = case.start_on(&mut terminal, &case.command("./count"))?;
    counting.wait_for_text("5\r\n")?;
    terminal.press(b"\x03")?;
    ensure!(counting.wait()? == Ending::Exited(130), "{}", counting.streams());
    Ok(numbers(&counting.stdout()))
}

fn goes_on(case: &Case) -> Result<()> {
    let server = Server::start(case)?;
    let there = case.path("host");
    let directory = there.to_str().context("a path that is no text")?;
    let address = format!("127.0.0.1:{}", server.port);
    hosts(case, &["add", "there", &address, "--accept-new", "--directory", directory])?.expect(0)?;
    let before = saved(case)?;

    let said = case.run(&mut case.ckptctl(["push", "./count", "there"]))?.expect(0)?.stdout;
    ensure!(said.contains(&format!("go on there with: cd {directory} && ./count -r")), "{said}");
    for (name, mode) in [("count", 0o755), ("count.ckpt", 0o600)] {
        let copy = there.join(name);
        ensure!(fs::read(&copy)? == fs::read(case.work().join(name))?, "{name} is another one there");
        let permissions = fs::metadata(&copy)?.permissions().mode() & 0o777;
        ensure!(permissions & 0o700 == mode & 0o700, "{name}: {permissions:o}");
    }
    let again = case.run(&mut case.ckptctl(["push", "./count", "there", "--json"]))?.expect(0)?.json()?;
    ensure!(again["sent"] == 0, "{again}");

    // What was interrupted goes on: the copy lacks all but its first half.
    let image = fs::read(case.work().join("count.ckpt"))?;
    let half = image.len() / 2;
    fs::remove_file(there.join("count.ckpt"))?;
    let hash = blake3::hash(&image).to_hex().to_string();
    fs::write(there.join(format!(".count.ckpt.{}.partial", &hash[..16])), &image[..half])?;
    let rest = case.run(&mut case.ckptctl(["push", "./count", "there", "--json"]))?.expect(0)?.json()?;
    ensure!(rest["sent"] == image.len() - half, "{rest}");

    let started =
        case.run(&mut case.ckptctl(["push", "./count", "there", "--start", "--name", "pushed"]))?.expect(3)?;
    ensure!(started.stderr.contains("pushed runs on there as a job"), "{}", started.stderr);
    let all = [before, numbers(&started.stdout)].concat();
    ensure!(all == (1..=60).collect::<Vec<_>>(), "{all:?}");
    Ok(())
}

fn refusals(case: &Case) -> Result<()> {
    hosts(case, &["add", "there", "127.0.0.1:1"])?.expect(0)?;
    let push = |words: &[&str]| case.run(&mut case.ckptctl([&["push"], words].concat()));
    push(&["./none", "there"])?.expect_refusal(&[1], &["no job and no program ./none"])?;
    let program: PathBuf = case.write("work/prog", "no program")?;
    push(&["./prog", "there"])?.expect_refusal(&[1], &["./prog.ckpt"])?;
    fs::write(Path::new(&program).with_extension("ckpt"), "no image")?;
    push(&["./prog", "there"])?.expect_refusal(&[6], &["prog.ckpt"])?;
    case.run(&mut case.ckptctl(["run", "-d", "--name", "sleeper", "--", "sleep", "60"]))?.expect(0)?;
    push(&["sleeper", "there"])?.expect_refusal(&[1], &["ckptctl checkpoint sleeper"])?;
    case.run(&mut case.ckptctl(["checkpoint", "sleeper"]))?.expect(0)?;
    push(&["sleeper", "there", "--start"])?.expect_refusal(&[1], &["still runs here", "ckptctl migrate sleeper"])?;
    push(&["sleeper", "there"])?.expect_refusal(&[5], &["Connection refused"])?;
    case.run(&mut case.ckptctl(["stop", "sleeper"]))?.expect(0)?;
    Ok(())
}
