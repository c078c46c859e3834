//! `stop` and `rm`: the end of a job, and of what is known of it.

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::Context;
use ckpt_core::Class;
use ckpt_transfer::protocol::{Ending, Reply, Request};
use ckpt_transfer::wire;
use signal_hook::consts::SIGKILL;

use super::store::{JobStore, status};
use crate::cli::{RmArgs, StopArgs};
use crate::failure::{self, Failure};
use crate::prompt::TerminalPrompter;
use crate::remote::Machine;
use crate::{client, output, text};

/// Ends a job's program and returns when it has ended.
pub fn stop(args: &StopArgs) -> anyhow::Result<i32> {
    let store = JobStore::open()?;
    let job = store.living(&args.job)?;
    let stream = client::connect(&store, &job)?;
    // Only what happens, not what it printed before.
    wire::send(&mut &stream, &Request::Attach { from: Some(u64::MAX), follow: true, size: None }, &[])?;
    wire::send(&mut &stream, &Request::Signal { signal: args.signal }, &[])?;
    if args.signal != SIGKILL {
        // One that is stopped would not notice.
        wire::send(&mut &stream, &Request::Continue, &[])?;
    }
    let (mut ending, mut was_killed) = (wait(&stream, Duration::from_secs(args.timeout))?, false);
    if ending.is_none() {
        was_killed = true;
        stream.set_read_timeout(None)?;
        wire::send(&mut &stream, &Request::Signal { signal: SIGKILL }, &[])?;
        ending = wait(&stream, Duration::MAX)?;
    }
    let ending = ending.context("the program does not end, although it was killed")?;
    if args.json {
        output::print_json(&serde_json::json!({ "job": args.job, "status": status(ending), "killed": was_killed }))?;
    } else {
        let how = match ending {
            Ending::Exited(status) => format!("ended with status {status}"),
            Ending::Signaled(signal) => format!("was ended by signal {signal}"),
        };
        let why = if was_killed {
            format!(" (it had not ended after {})", text::count(args.timeout, "second", "seconds"))
        } else {
            String::new()
        };
        output::print(&format!("{} {how}{why}\n", args.job))?;
    }
    Ok(0)
}

/// Waits for the end; `None` when it does not come in time.
fn wait(stream: &UnixStream, limit: Duration) -> anyhow::Result<Option<Ending>> {
    let until = Instant::now().checked_add(limit);
    loop {
        if let Some(until) = until {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            stream.set_read_timeout(Some(left))?;
        }
        match wire::receive::<Reply>(&mut &*stream) {
            Ok(Some((Reply::Ended(ending), _))) => return Ok(Some(ending)),
            Ok(Some((Reply::Left { .. }, _))) => return Ok(Some(Ending::Signaled(SIGKILL))),
            Ok(Some((Reply::Failed { message, exit }, _))) => return Err(Failure::of_exit(exit, message).into()),
            Ok(Some(_)) => {}
            Err(wire::WireError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
            Ok(None) | Err(_) => {
                let message = "the job's supervisor was killed; `ckptctl ps` tells what has become of the job";
                return Err(Failure::new(Class::Failed, message).into());
            }
        }
    }
}

/// What is kept of it on the host where it ended goes as well.
fn forget_there(host: &str, name: &str) -> anyhow::Result<()> {
    let forget = || -> anyhow::Result<()> {
        let agent = Machine::of(host)?.agent(&[], &mut TerminalPrompter, &mut |_, _| ())?;
        agent.ask(&Request::Forget { job: name.to_owned() }).map(drop)
    };
    forget().with_context(|| format!("what is left of it on {host}, where it ended, cannot be removed"))
}

/// Forgets a job that has ended.
pub fn rm(args: &RmArgs) -> anyhow::Result<i32> {
    let store = JobStore::open()?;
    let job = store.job(&args.job)?;
    if !job.is_over() {
        let message = format!("the job {} runs; end it first with `ckptctl stop {}`", job.name, job.name);
        return Err(Failure::new(Class::Failed, message).into());
    }
    if let Some(host) = &job.host
        && let Err(error) = forget_there(host, job.name_there.as_ref().unwrap_or(&job.name))
    {
        eprintln!("ckptctl: note: {}", text::plain(&failure::line(&error)));
    }
    let directory = store.directory(&job.name);
    fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", text::path(&directory)))?;
    if args.json {
        output::print_json(&serde_json::json!({ "job": job.name }))?;
    }
    Ok(0)
}
