//! What a supervisor holds of moves under way: data channels, and whom to tell what is decided.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ckpt_core::Class;
use ckpt_core::resource::bytes::Bytes;
use ckpt_transfer::protocol::Reply;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::connection::Writer;
use super::link::Link;
use super::mover::Control;
use super::{Place, Supervisor};
use crate::failure::Failure;
use crate::jobs::ProcessId;
use crate::remote::Machine;

/// How long to wait for the data channels of a move.
const PATIENCE: Duration = Duration::from_secs(30);
const LOG: &str = "moves.log";

/// Moves under way.
#[derive(Debug, Default)]
pub struct Moves {
    /// Data channels that have come and were not taken yet.
    pub channels: Vec<DataChannel>,
    /// The program departs.
    pub departing: Option<Leave>,
    /// A program arrives.
    pub arriving: Option<Arriving>,
    /// The mover that works here.
    pub mover: Option<Control>,
    /// Machines that were reached, with the secrets that it took.
    pub machines: Vec<(String, Arc<Mutex<Machine>>)>,
    /// The program, elsewhere, is about to be frozen: input for it waits.
    pub holds_input: bool,
    /// The link to the host where the program is, or was last.
    pub link: Option<Arc<Link>>,
}

/// A program that departs.
#[derive(Debug)]
pub struct Leave {
    /// The move.
    pub txn: String,
    /// To tell what is decided.
    pub decide: mpsc::Sender<Decided>,
    /// What its image is being written into.
    pub sending: Vec<OwnedFd>,
}

/// To the thread that holds a departing program.
#[derive(Debug)]
pub struct Decided {
    /// What is to be done.
    pub what: Decision,
    /// Who wants to know that it is done.
    pub answer: Option<Writer>,
}

/// What is to be done with a departing program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may not run by itself any more.
    Park,
    /// It goes on here.
    Resume,
    /// It runs elsewhere.
    Discard {
        /// On this host.
        host: String,
        /// Under this name.
        name: String,
        /// The job stays here.
        relay: bool,
    },
    /// Nobody knows.
    Save,
    /// The connection to the mover was lost.
    Lost,
}

/// A program that arrives.
#[derive(Debug)]
pub struct Arriving {
    /// Lets it go.
    pub go: mpsc::Sender<Writer>,
    /// What builds it.
    pub keeper: Option<ProcessId>,
}

/// A data channel of a move.
#[derive(Debug)]
pub struct DataChannel {
    /// The move.
    pub txn: String,
    /// Which of them.
    pub index: usize,
    /// To read from.
    pub input: OwnedFd,
    /// To write into.
    pub output: OwnedFd,
    /// Closed when it is not needed any more: then whoever brought it lets go of it.
    pub guard: Guard,
}

/// Keeps a data channel's bringer waiting.
#[derive(Debug)]
pub struct Guard(pub Option<UnixStream>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(stream) = &self.0 {
            // It may have closed it first.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Supervisor {
    /// Has a data channel.
    pub fn add_channel(&self, channel: DataChannel) {
        self.state().moves.channels.push(channel);
        self.tell_all();
    }

    /// Waits for all data channels of a move and takes them, in order.
    pub fn take_channels(&self, txn: &str, count: usize) -> anyhow::Result<Vec<DataChannel>> {
        let until = Instant::now() + PATIENCE;
        let mut state = self.state();
        loop {
            let there = state.moves.channels.iter().filter(|channel| channel.txn == txn).count();
            if there >= count && count > 0 {
                let all = std::mem::take(&mut state.moves.channels);
                let (mut ours, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|channel| channel.txn == txn);
                state.moves.channels = others;
                ours.sort_by_key(|channel| channel.index);
                return Ok(ours);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let message =
                    format!("only {there} of {count} data channels have come; see the connection, and try again");
                return Err(Failure::new(Class::Remote, message).into());
            }
            state = self.wait_for(state, left);
        }
    }

    /// Tells the thread that holds a departing program what is decided; false when there is none.
    pub fn decide(&self, decided: Decided) -> bool {
        let state = self.state();
        let Some(leave) = &state.moves.departing else { return false };
        if matches!(decided.what, Decision::Lost | Decision::Resume) && !leave.sending.is_empty() {
            // It is still being sent.
            ckpt_core::cancel_flag().store(true, Ordering::Relaxed);
            leave.sending.iter().for_each(break_off);
        }
        leave.decide.send(decided).is_ok()
    }

    /// The answer to what is decided about a program that departs no more, if just that has been done.
    pub fn settled(&self, what: &Decision) -> anyhow::Result<Reply> {
        match (what, &self.state().place) {
            (Decision::Resume, Place::Here(_)) => Ok(Reply::Resumed),
            (Decision::Discard { .. }, Place::Nowhere | Place::Away(_)) => {
                Ok(Reply::Discarded { keys: Bytes::default(), piped: Bytes::default(), piped_ended: false })
            }
            (Decision::Save, Place::Saved(image)) => {
                Ok(Reply::Saved { report: serde_json::json!({ "path": image.text() }) })
            }
            _ => Err(Failure::new(Class::Failed, "no program departs from here").into()),
        }
    }

    /// The connection that a departure was asked for over is lost. Another departure since is none of its business.
    pub fn lost(&self, txn: &str) {
        let is_current = self.state().moves.departing.as_ref().is_some_and(|leave| leave.txn == txn);
        if is_current {
            self.decide(Decided { what: Decision::Lost, answer: None });
        }
    }

    /// Drops the data channels of a move that were not taken.
    pub fn drop_channels(&self, txn: &str) {
        self.state().moves.channels.retain(|channel| channel.txn != txn);
    }

    /// Writes a line into the job's log of moves.
    pub fn log_move(&self, txn: &str, role: &str, state: &str) {
        log_move(&self.directory, txn, role, state);
    }
}

/// Makes that nobody waits any more to write into this.
fn break_off(channel: &OwnedFd) {
    if rustix::net::shutdown(channel, rustix::net::Shutdown::Both) != Err(Errno::NOTSOCK) {
        return;
    }
    // Of a pipe the other end is opened, and what is in it thrown away for as long as somebody writes.
    let path = format!("/proc/self/fd/{}", channel.as_raw_fd());
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let Ok(pipe) = File::options().read(true).custom_flags(flags).open(path) else { return };
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match (&pipe).read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    });
}

/// Writes a line into a job's log of moves: time, move, role, state.
fn log_move(directory: &Path, txn: &str, role: &str, state: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let line = format!("{}.{:03} {txn} {role}: {state}\n", now.as_secs(), now.subsec_millis());
    let file = File::options().append(true).create(true).mode(0o600).open(directory.join(LOG));
    // It helps to understand what happened; without it all goes on.
    let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
}
