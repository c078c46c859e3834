//! What must not be too much for the menu: deaths, floods, crowds, and hours in which nothing happens.

use std::fs;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use ckpt_tests::Case;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Signal, kill_process};

use super::{Menu, start_counting, start_job};

/// What the menu may take at most, in bytes.
const MOST_MEMORY: u64 = 50 << 20;

/// The supervisor of the open job is killed: the program goes on, and so does what is shown of it.
pub fn supervisor_killed(case: &Case) -> Result<()> {
    start_counting(case)?;
    let mut menu = Menu::open(case, &[])?;
    menu.wait("> count")?;
    menu.press("\r")?;
    menu.wait_for_count(3)?;
    kill_process(supervisor(case, "count")?, Signal::KILL)?;
    menu.answers_keys()?;
    menu.wait_for_count(20)?;
    menu.press("t")?;
    menu.wait("keys go to the program")?;
    menu.press("still there?\r")?;
    menu.wait("you said: still there?")?;
    menu.press("\x1d")?;
    menu.wait_gone("keys go to the program")?;
    menu.quit()
}

/// The process that listens on a job's socket.
fn supervisor(case: &Case, job: &str) -> Result<Pid> {
    let places = fs::read_dir(case.path("run/ckptctl"))?.flatten();
    let mut streams = places.filter_map(|place| UnixStream::connect(place.path().join(format!("{job}.sock"))).ok());
    let stream = streams.next().with_context(|| format!("nobody listens for {job}"))?;
    Ok(socket_peercred(&stream)?.pid)
}

/// A program that prints as fast as it can, for ten seconds: the menu takes no more memory for it, and answers keys.
pub fn loud(case: &Case) -> Result<()> {
    start_job(case, "loud", &["/usr/bin/yes", "123456789 123456789 123456789 123456789 123456789"])?;
    let mut menu = Menu::open(case, &[])?;
    menu.wait("loud")?;
    menu.press("\r")?;
    menu.wait("123456789")?;
    let (until, mut slowest, mut count) = (Instant::now() + Duration::from_secs(10), Duration::ZERO, 0);
    while Instant::now() < until {
        slowest = slowest.max(menu.answers_keys()?);
        count += 1;
    }
    let most = menu.most_memory()?;
    case.note(&format!("{count} keys, the slowest after {slowest:?}, {} MiB", most >> 20));
    ensure!(most < MOST_MEMORY, "the menu took {} MiB", most >> 20);
    menu.press("sy\r")?;
    menu.wait("was ended")?;
    menu.quit()
}

pub fn hundred_ended_jobs(case: &Case) -> Result<()> {
    hundred_jobs(case, &["/bin/true"], "ended on local")
}

pub fn hundred_living_jobs(case: &Case) -> Result<()> {
    hundred_jobs(case, &["/bin/sleep", "1000"], "running on local")
}

fn hundred_jobs(case: &Case, command: &[&str], state: &str) -> Result<()> {
    let names: Vec<String> = (0..100).map(|number| format!("job{number:03}")).collect();
    for some in names.chunks(8) {
        thread::scope(|scope| {
            let started: Vec<_> = some.iter().map(|name| scope.spawn(move || start_job(case, name, command))).collect();
            started.into_iter().try_for_each(|one| one.join().unwrap_or_else(|_| Err(anyhow!("panicked"))))
        })?;
    }
    let mut menu = Menu::open(case, &[])?;
    menu.wait("100 jobs")?;
    menu.answers_keys()?;
    menu.press("/job099")?;
    menu.wait("> job099")?;
    menu.press("\r\r")?;
    menu.wait(state)?;
    menu.wait(" job099 ")?;
    let most = menu.most_memory()?;
    case.note(&format!("{} MiB", most >> 20));
    ensure!(most < MOST_MEMORY, "the menu took {} MiB", most >> 20);
    menu.quit()
}

/// Nothing is written to the terminal while nothing changes.
pub fn silence(case: &Case) -> Result<()> {
    start_job(case, "idle", &["/bin/sleep", "1000"])?;
    let mut menu = Menu::open(case, &[])?;
    menu.wait("> idle")?;
    is_silent(case, &mut menu)?;
    menu.press("\r")?;
    menu.wait("running on local")?;
    is_silent(case, &mut menu)?;
    menu.quit()
}

/// Requires that nothing is written for three seconds, once nothing has been written for one.
fn is_silent(case: &Case, menu: &mut Menu) -> Result<()> {
    const SETTLED: Duration = Duration::from_secs(1);
    const SILENT: Duration = Duration::from_secs(3);
    let (mut since, mut written) = (Instant::now(), menu.picture.seen());
    let screen = menu.terminal.screen();
    case.wait_until("the screen has settled", || {
        let now = screen.arrivals().last().map_or(0, |(bytes, _)| *bytes);
        if now != written {
            (since, written) = (Instant::now(), now);
        }
        since.elapsed() > SETTLED
    })?;
    let begun = Instant::now();
    case.wait_until("three seconds have passed", || begun.elapsed() > SILENT)?;
    let more = screen.bytes_from(written);
    ensure!(
        more.is_empty(),
        "{} bytes were written while nothing changed: {:?}",
        more.len(),
        String::from_utf8_lossy(&more)
    );
    Ok(())
}

/// What is restored without a choice is what was saved last.
pub fn last_checkpoint(case: &Case) -> Result<()> {
    start_job(case, "sim", &["/bin/sleep", "1000"])?;
    let mut menu = Menu::open(case, &[])?;
    menu.wait("> sim")?;
    menu.press("\r")?;
    menu.wait("running on local")?;
    for number in 1..=3 {
        menu.press("c")?;
        menu.wait(&format!("{number} checkpoint"))?;
    }
    menu.press("\t")?;
    menu.wait("> @3")?;
    menu.press("\t\t")?;
    menu.press("sy\r")?;
    menu.wait(" on local, 3 checkpoints")?;
    menu.press("R")?;
    menu.wait("runs again")?;
    menu.press("L")?;
    menu.wait("ckptctl restore sim@3")?;
    menu.quit()
}
