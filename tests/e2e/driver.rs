//! This program under the name `driver`: departures and arrivals by hand, with nothing between the two but a pipe.
//!
//! It has no other threads: what makes processes must not.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ckpt_core::{Codec, DepartOptions, Departure, Ending, RestoreOptions, arrive, depart, survey};

/// The name by which this program is the driver.
pub const NAME: &str = "driver";

/// Does what the arguments say if this program was called as the driver.
pub fn main() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().collect();
    let name = Path::new(arguments.first()?).file_name()?;
    if name != NAME {
        return None;
    }
    let words: Vec<&str> = arguments[1..].iter().map(String::as_str).collect();
    Some(match drive(&words) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("driver: {error:#}");
            ExitCode::FAILURE
        }
    })
}

fn drive(words: &[&str]) -> Result<u8> {
    match words {
        ["move", pid] => bring_over(pid),
        ["send", pid] => send(pid.parse()?),
        ["depart", pid, steps @ ..] => {
            let departure = depart(pid.parse()?, io::sink(), &DepartOptions::default(), &mut |_| Ok(()))?;
            take(departure, steps)
        }
        ["adopt", pid, steps @ ..] => take(Departure::adopt(pid.parse()?)?, steps),
        ["survey", pid] => {
            println!("{:#?}", survey(pid.parse()?, &options())?);
            Ok(0)
        }
        ["arrive", file] => {
            let arrival = arrive(File::open(file)?, &RestoreOptions::default())?;
            Ok(status(arrival.go()?.wait()?))
        }
        ["hold", file] => {
            let arrival = arrive(File::open(file)?, &RestoreOptions::default())?;
            println!("held {}", arrival.report().pid);
            io::stdout().flush()?;
            // Whoever says nothing lets it go to pieces.
            if io::stdin().read(&mut [0])? == 0 {
                return Ok(0);
            }
            Ok(status(arrival.go()?.wait()?))
        }
        ["write", pid, file] => {
            let departure = depart(pid.parse()?, File::create(file)?, &options(), &mut |_| Ok(()))?;
            departure.resume()?;
            Ok(0)
        }
        ["pipe", pid] => measure(pid.parse()?),
        other => bail!("{other:?} is nothing that the driver can do"),
    }
}

fn options() -> DepartOptions {
    let codec = std::env::var("DRIVER_CODEC").ok().and_then(|name| name.parse().ok()).unwrap_or(Codec::Lz4);
    DepartOptions { codec, tcp_close: std::env::var_os("DRIVER_TCP_CLOSE").is_some(), ..DepartOptions::default() }
}

/// What is done with a frozen program, step by step.
fn take(mut departure: Departure, steps: &[&str]) -> Result<u8> {
    for step in steps {
        match step.split_once('=').unwrap_or((step, "")) {
            ("park", _) => departure.park()?,
            ("wait", milliseconds) => std::thread::sleep(Duration::from_millis(milliseconds.parse()?)),
            ("say", word) => {
                println!("{word}");
                io::stdout().flush()?;
            }
            // Whoever wants the answer writes a line, or kills us.
            ("hang", _) => drop(io::stdin().read(&mut [0])?),
            ("save", file) => drop(departure.save(Path::new(file))?),
            ("drop", _) => return Ok(0),
            ("resume", _) => {
                departure.resume()?;
                return Ok(0);
            }
            ("end", _) => {
                departure.end()?;
                return Ok(0);
            }
            other => bail!("{other:?} is no step"),
        }
    }
    Ok(0)
}

/// The source: sends, parks, and does what is said on standard input.
fn send(pid: i32) -> Result<u8> {
    let mut frozen = None;
    let mut stdout = File::from(rustix::io::dup(rustix::stdio::stdout())?);
    let mut departure = depart(pid, &mut stdout, &options(), &mut |survey| {
        frozen = Some(survey.clone());
        Ok(())
    })?;
    let frozen = frozen.context("nobody was told of the freeze")?;
    ensure!(frozen.threads == departure.report().threads, "{frozen:?} {:?}", departure.report());
    departure.park()?;
    let mut said = String::new();
    io::stdin().read_to_string(&mut said)?;
    match said.as_str() {
        "end" => departure.end()?,
        // The other side is gone.
        "" => departure.resume()?,
        other => bail!("{other:?}"),
    }
    Ok(0)
}

struct Source(Child);

impl Source {
    fn of(pid: &str) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        // The name tells what it is to be.
        std::os::unix::process::CommandExt::arg0(&mut command, NAME);
        let child = command.args(["send", pid]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        Ok(Self(child))
    }

    fn tell(mut self, word: &str) -> Result<()> {
        if let Some(mut stdin) = self.0.stdin.take() {
            stdin.write_all(word.as_bytes())?;
        }
        let status = self.0.wait()?;
        ensure!(status.success(), "the source: {status}");
        Ok(())
    }
}

/// Both sides of a move.
fn bring_over(pid: &str) -> Result<u8> {
    let mut source = Source::of(pid)?;
    let stream = source.0.stdout.take().context("no pipe")?;
    let mut exact = Exact { stream, asked_at_end: false };
    let arrived = arrive(&mut exact, &RestoreOptions::default());
    let arrival = match arrived {
        Ok(arrival) => arrival,
        Err(error) => {
            drop(exact);
            source.tell("")?;
            return Err(error.into());
        }
    };
    ensure!(!exact.asked_at_end, "more was asked for than the image");
    for note in &arrival.report().notes {
        eprintln!("driver: {note}");
    }
    source.tell("end")?;
    Ok(status(arrival.go()?.wait()?))
}

/// A stream that remembers whether anybody waited for its end, which on a channel never comes.
struct Exact<R> {
    stream: R,
    asked_at_end: bool,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The other side closes only after it was told what to do: a read for more would wait for ever, so this asks first.
        let got = self.stream.read(buffer)?;
        self.asked_at_end |= got == 0 && !buffer.is_empty();
        Ok(got)
    }
}

fn status(ending: Ending) -> u8 {
    let status = match ending {
        Ending::Exited(status) => status,
        Ending::Signaled(signal) => 128 + signal,
    };
    u8::try_from(status).unwrap_or(u8::MAX)
}

/// How fast it comes over: says seconds and bytes, and ends what came.
fn measure(pid: i32) -> Result<u8> {
    let mut source = Source::of(&pid.to_string())?;
    let stream = source.0.stdout.take().context("no pipe")?;
    let mut counted = Counted { stream, bytes: 0 };
    let began = std::time::Instant::now();
    let arrival = arrive(&mut counted, &RestoreOptions::default())?;
    println!("{:.3} s, {} bytes", began.elapsed().as_secs_f64(), counted.bytes);
    drop(arrival);
    source.tell("")?;
    Ok(0)
}

struct Counted<R> {
    stream: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.stream.read(buffer)?;
        self.bytes += got as u64;
        Ok(got)
    }
}
