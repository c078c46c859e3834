//! The thread that moves output into the log and input to the program.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::Context;
use ckpt_transfer::protocol::Reply;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};

use super::{MOVE, Place, State, Supervisor};
use crate::keeper::Order;

/// How long to wait when the log cannot be written (a full disk) before it is tried again.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Starts it.
pub fn start(supervisor: &Arc<Supervisor>) -> anyhow::Result<()> {
    let supervisor = Arc::clone(supervisor);
    let pumping = move || {
        loop {
            let patience = supervisor.pump();
            let waited = supervisor.wait_for_work(patience);
            if let Err(error) = waited {
                // Nothing that poll can say comes true here; without it all would stand still.
                supervisor.state().note(&format!("output and input cannot be waited for: {error}"));
                return;
            }
        }
    };
    std::thread::Builder::new().name("pump".to_owned()).spawn(pumping).context("no thread could be made")?;
    Ok(())
}

impl Supervisor {
    /// Moves what can be moved. True when that must be tried again although nothing changes.
    fn pump(&self) -> bool {
        let mut state = self.state();
        let mut must_try_again = false;
        if !state.is_held_back() {
            let State { place, log, .. } = &mut *state;
            if let Place::Here(here) = place {
                let open = |fd| here.outlets.get(fd).is_some();
                let before = [open(1), open(2)];
                let moved = here.outlets.pump(&here.terminal, log);
                for (fd, was_open) in [(1, before[0]), (2, before[1])] {
                    if was_open && here.outlets.get(fd).is_none() {
                        here.keeper.tell(&Order::Close { fd });
                    }
                }
                must_try_again = moved.is_err();
                if moved.is_ok_and(|moved| moved > 0) {
                    self.changed.notify_all();
                }
            }
        }
        // A program that departs is given nothing any more: it goes after it.
        if state.moves.departing.is_none() && feed(&mut state) {
            // There is room for more input.
            self.changed.notify_all();
        }
        must_try_again
    }

    /// Waits until there is something to move.
    fn wait_for_work(&self, must_try_again: bool) -> io::Result<()> {
        let state = self.state();
        let mut watched: Vec<(Arc<OwnedFd>, PollFlags)> = Vec::new();
        if let Place::Here(here) = &state.place {
            let reading = if state.is_held_back() || must_try_again { PollFlags::empty() } else { PollFlags::IN };
            let is_fed = state.moves.departing.is_none();
            let writing = if state.keys.is_empty() || !is_fed { PollFlags::empty() } else { PollFlags::OUT };
            if !(reading | writing).is_empty() {
                watched.push((Arc::clone(&here.terminal.master), reading | writing));
            }
            if !reading.is_empty() {
                watched
                    .extend([1, 2].iter().filter_map(|fd| here.outlets.get(*fd)).map(|end| (Arc::clone(end), reading)));
            }
            if let Some(input) = here.outlets.get(0).filter(|_| is_fed) {
                // That nobody reads any more is told in any case.
                let writing = if state.piped.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
                watched.push((Arc::clone(input), writing));
            }
        }
        drop(state);
        let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN)];
        fds.extend(watched.iter().map(|(fd, flags)| PollFd::new(&**fd, *flags)));
        retry_on_intr(|| poll(&mut fds, must_try_again.then_some(&PATIENCE)))?;
        match rustix::io::read(&self.wake, &mut [0; 8]) {
            Err(error) if error != Errno::AGAIN => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// Gives the program its input. True when some has gone.
fn feed(state: &mut State) -> bool {
    let is_leaving = state.act == Some(MOVE);
    let State { place, keys, piped, piped_ended, clients, log, .. } = state;
    let Place::Here(here) = place else { return false };
    let mut has_moved = matches!(write_some(&here.terminal.master, keys), Ok(1..));
    if let Some(input) = here.outlets.get(0).cloned() {
        let is_read = match write_some(&input, piped) {
            Ok(count) => {
                has_moved |= count > 0;
                // A program that leaves is ended here, and goes on to read there.
                is_leaving || !has_lost_its_reader(&input)
            }
            Err(_) => is_leaving,
        };
        if !is_read || (*piped_ended && piped.is_empty()) {
            here.outlets.take(0);
            here.keeper.tell(&Order::Close { fd: 0 });
            if !is_read {
                piped.clear();
                for client in clients.values_mut() {
                    client.events.push_back((log.end(), Reply::InputClosed));
                }
            }
            has_moved = true;
        }
    }
    has_moved
}

fn has_lost_its_reader(pipe: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(pipe, PollFlags::empty())];
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::ERR)
}

/// Writes as much as goes without waiting.
fn write_some(to: &OwnedFd, bytes: &mut VecDeque<u8>) -> rustix::io::Result<usize> {
    let mut written = 0;
    while !bytes.is_empty() {
        match retry_on_intr(|| rustix::io::write(to, bytes.as_slices().0)) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(count) => {
                bytes.drain(..count);
                written += count;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
