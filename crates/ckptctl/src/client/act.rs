//! Acts that a supervisor does for us: it may ask things, says how far it is, and can be told to give up.

use std::os::unix::net::UnixStream;

use anyhow::Context;
use ckpt_core::Class;
use ckpt_transfer::protocol::{Reply, Request};
use ckpt_transfer::ssh::Prompter as _;
use ckpt_transfer::wire;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::Failure;
use crate::prompt::TerminalPrompter;

/// Has an act done and gives the last answer. `meanwhile` gets what comes before it: progress, checks. Ctrl+C cancels the act.
pub fn perform(stream: &UnixStream, request: &Request, mut meanwhile: impl FnMut(&Reply)) -> anyhow::Result<Reply> {
    let cancel = stream.try_clone().context("no descriptor is left")?;
    let mut signals =
        Signals::new([SIGINT, SIGQUIT, SIGTERM, SIGHUP]).context("the signal handlers cannot be installed")?;
    let handle = signals.handle();
    let watching = std::thread::spawn(move || {
        for _ in signals.forever() {
            // An act that is over needs no cancelling.
            let _ = wire::send(&mut &cancel, &Request::Cancel, &[]);
        }
    });
    let result = follow(stream, request, &mut meanwhile);
    handle.close();
    // It does nothing that could fail.
    let _ = watching.join();
    result
}

/// The same, where signals are not ours.
pub fn follow(stream: &UnixStream, request: &Request, meanwhile: &mut impl FnMut(&Reply)) -> anyhow::Result<Reply> {
    wire::send(&mut &*stream, request, &[])?;
    loop {
        match wire::receive::<Reply>(&mut &*stream)? {
            Some((Reply::Failed { message, exit }, _)) => return Err(Failure::of_exit(exit, message).into()),
            Some((Reply::Ask { question, echo }, _)) => {
                let answer = TerminalPrompter.ask(&question, echo);
                wire::send(&mut &*stream, &Request::Answer { answer }, &[])?;
            }
            Some((reply @ (Reply::Check { .. } | Reply::Progress { .. }), _)) => meanwhile(&reply),
            Some((Reply::Heartbeat, _)) => {}
            Some((reply, _)) => return Ok(reply),
            None => {
                let message = "the job's supervisor was killed; `ckptctl ps` tells what has become of the job";
                return Err(Failure::new(Class::Failed, message).into());
            }
        }
    }
}
