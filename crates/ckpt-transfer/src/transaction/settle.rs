//! What is done when something fails after the freeze: the program goes on where it was, or it is found out where it runs.

use std::time::Duration;

use ckpt_core::Class;
use ckpt_core::resource::bytes::Bytes;

use super::{Broken, Ends, Failed, Fault, Incoming, Mover, Outcome, PATIENCE, Side, TICK, Whereabouts};
use crate::protocol::{Reply, Request};

/// For how long a destination is asked whether it runs the program.
const DOUBT: Duration = Duration::from_secs(20);
/// What the source may not have answered yet when a move is called off: that it departs, and that a file is read.
const UNANSWERED: usize = 2;
/// How long the source waits for a mover before it saves a program whose fate it does not know.
pub const ABANDONED: Duration = Duration::from_secs(60);

impl<E: Ends> Mover<'_, E> {
    /// Why memory could not be sent: when the connection broke, the destination may have failed, as is heard in a moment.
    pub(super) fn cause(&mut self, fault: Fault) -> Fault {
        const MOMENT: Duration = Duration::from_secs(3);
        if !matches!(&fault, Fault::Failed(Side::Source, failed) if failed.exit == Class::Remote as i32) {
            return fault;
        }
        let until = self.ends.now() + MOMENT;
        while self.ends.now() < until {
            match self.hear(TICK) {
                Some(Incoming::Said(Side::Destination, Reply::Failed { message, exit }, _)) => {
                    return Fault::Failed(Side::Destination, Failed { message, exit });
                }
                Some(Incoming::Lost(side, why)) => return Fault::Lost(side, why),
                Some(Incoming::Cancelled) => return Fault::Cancelled,
                _ => {}
            }
        }
        fault
    }

    /// The destination was not told to let the program go: it goes on at the source.
    pub(super) fn call_off(&mut self, fault: Fault) -> Broken {
        let (message, exit) = self.told(fault);
        self.resume(&message, exit)
    }

    /// Lets the program go on at the source; the destination must not have it any more.
    fn resume(&mut self, message: &str, exit: i32) -> Broken {
        self.ends.close_channels();
        self.ends.leave(Side::Destination);
        self.ends.enter("resuming");
        let resumed = self.insist(&Request::Resume, UNANSWERED, |reply| match reply {
            Reply::Resumed => Ok(()),
            other => Err(other),
        });
        let from = &self.plan.from;
        let (message, whereabouts) = match resumed {
            Ok(()) => (format!("{message}; the program goes on {}", place(from)), Whereabouts::Source),
            Err(why) => (
                format!(
                    "{message}; {} could not be told to let the program run on ({why}): it does so by itself, or saves the program after a minute; see `ckptctl ps`",
                    place(from)
                ),
                Whereabouts::Parked,
            ),
        };
        self.ends.enter("resumed");
        self.ends.leave(Side::Source);
        Broken { message, exit, whereabouts }
    }

    /// Waits for the program to run at the destination; `None` when that is not known.
    pub(super) fn await_running(&mut self) -> Option<i32> {
        let until = self.ends.now() + PATIENCE;
        while self.ends.now() < until {
            match self.hear(TICK) {
                Some(Incoming::Said(Side::Destination, Reply::Running { pid }, _)) => return Some(pid),
                Some(Incoming::Said(Side::Destination, ..) | Incoming::Lost(Side::Destination, _)) => return None,
                // The source is asked again when it is needed; to give up it is too late.
                _ => {}
            }
        }
        None
    }

    /// The destination was told to let the program go and has not said that it runs. Gives its process if it does.
    pub(super) fn settle(&mut self) -> Result<i32, Broken> {
        self.ends.enter("in doubt");
        self.ends.leave(Side::Destination);
        let until = self.ends.now() + DOUBT;
        let (to, txn) = (self.plan.to.clone(), self.plan.txn.clone());
        loop {
            match self.ends.outcome(&txn) {
                Ok(Outcome::Ran { pid }) => return Ok(pid.unwrap_or_default()),
                Ok(Outcome::NotRan) => {
                    let message = format!("{} did not let the program run", place(&to));
                    return Err(self.resume(&message, Class::Remote as i32));
                }
                Ok(Outcome::Died) => return Err(self.save(&format!("the program was killed on {to} as it began"))),
                Err(_) if self.ends.now() < until => self.pause(),
                Err(failed) => {
                    let what =
                        format!("nobody knows whether the program runs on {to}, which cannot be asked ({failed})");
                    return Err(self.save(&what));
                }
            }
        }
    }

    /// Has the source save the program and end it.
    fn save(&mut self, what: &str) -> Broken {
        self.ends.enter("saving");
        let saved = self.insist(&Request::Save, 0, |reply| match reply {
            Reply::Saved { report } => Ok(report),
            other => Err(other),
        });
        let (from, to, job) = (place(&self.plan.from), &self.plan.to, &self.plan.job);
        let first = format!("look first whether it runs on {to}: ckptctl ps");
        let (message, whereabouts) = match saved {
            Ok(report) => {
                let image = report.get("path").and_then(|path| path.as_str()).unwrap_or_default().to_owned();
                let told = format!(
                    "{what}; it was saved to {image} {from} and ended there; {first}; if it does not: ckptctl restore {}",
                    if self.plan.relay { job } else { &image }
                );
                (told, Whereabouts::Saved { image: Bytes(image.into_bytes()) })
            }
            Err(why) => (
                format!(
                    "{what}; {from} it is stopped, and could not be told to save it ({why}): it saves it by itself within a minute; {first}"
                ),
                Whereabouts::Parked,
            ),
        };
        self.ends.enter("saved");
        self.ends.leave(Side::Source);
        Broken { message, exit: Class::Remote as i32, whereabouts }
    }

    /// Ends what the source has; false when it cannot be told.
    pub(super) fn discard(&mut self) -> bool {
        let discard =
            Request::Discard { host: self.plan.to.clone(), job: self.ends.name_there(), relay: self.plan.relay };
        let discarded = self.insist(&discard, 0, |reply| match reply {
            Reply::Discarded { keys, piped, piped_ended } => Ok((keys, piped, piped_ended)),
            other => Err(other),
        });
        if let Ok((keys, piped, piped_ended)) = &discarded {
            self.ends.pass_on(&keys.0, &piped.0, *piped_ended);
        }
        self.ends.close_channels();
        self.ends.leave(Side::Source);
        self.ends.leave(Side::Destination);
        discarded.is_ok()
    }

    /// Says something to the source until it answers, over new connections if need be, as long as it waits for a mover. As
    /// many failures as there may be `unanswered` requests may be the answers to those: then it is said again.
    fn insist<T>(
        &mut self,
        request: &Request,
        mut unanswered: usize,
        accept: impl Fn(Reply) -> Result<T, Reply>,
    ) -> Result<T, Failed> {
        let until = self.ends.now() + ABANDONED;
        self.early.clear();
        loop {
            self.say(Side::Source, request);
            let fault = loop {
                if let Some(why) = &self.lost[Side::Source.index()] {
                    break why.clone();
                }
                match self.hear(TICK) {
                    Some(Incoming::Said(Side::Source, Reply::Failed { .. }, _)) if unanswered > 0 => {
                        unanswered -= 1;
                        self.say(Side::Source, request);
                    }
                    Some(Incoming::Said(Side::Source, Reply::Failed { message, exit }, _)) => {
                        return Err(Failed { message, exit });
                    }
                    Some(Incoming::Said(Side::Source, reply, _)) => {
                        // What it said before it heard us is of no interest any more.
                        if let Ok(answer) = accept(reply) {
                            return Ok(answer);
                        }
                    }
                    _ if self.ends.now() >= until => break "it does not answer".to_owned(),
                    _ => {}
                }
            };
            loop {
                if self.ends.now() >= until {
                    return Err(Failed::new(Class::Remote, fault));
                }
                self.pause();
                if self.reach(Side::Source).is_ok() {
                    break;
                }
            }
        }
    }

    /// Waits a moment before something is tried again.
    fn pause(&mut self) {
        const MOMENT: Duration = Duration::from_millis(500);
        let until = self.ends.now() + MOMENT;
        while self.ends.now() < until {
            let _ = self.hear(MOMENT);
        }
    }
}

/// A machine's name in a sentence.
#[must_use]
pub fn place(name: &str) -> String {
    if name == "local" { "here".to_owned() } else { format!("on {name}") }
}
