//! The link of a job that runs on another host: its output comes here, and what clients ask goes there.
//!
//! When the connection drops the program goes on there, its output is kept there, and the link takes it up from where it was
//! as soon as the host is reached again.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use anyhow::Context;
use ckpt_core::Class;
use ckpt_core::resource::bytes::Bytes;
use ckpt_transfer::protocol::{Ending, HEARTBEAT, Reply, Request, SILENCE};
use ckpt_transfer::ssh::Nobody;
use ckpt_transfer::wire;
use rustix::process::Signal;

use super::{Away, Place, Supervisor};
use crate::failure::Failure;
use crate::jobs::{Job, JobEnding};
use crate::remote::{Agent, Machine};

/// The first wait before a lost host is tried again, and the longest.
const WAITS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(20)];
/// How long to wait for the rest of the output of a program that has gone on.
const REST: Duration = Duration::from_secs(5);

/// A link.
#[derive(Debug, Default)]
pub struct Link {
    current: Mutex<Option<UnixStream>>,
    changed: Condvar,
    /// The program is not there any more.
    is_over: AtomicBool,
    /// Nothing more comes from there.
    is_finished: AtomicBool,
}

/// Takes what is to go there.
pub type Forward = mpsc::Sender<(Request, Vec<u8>)>;

/// Links to a job on another host.
pub fn start(supervisor: &Arc<Supervisor>, host: &str, name: &str) -> anyhow::Result<Forward> {
    let machine = supervisor.machine(host)?;
    let link = Arc::new(Link::default());
    let before = supervisor.state().moves.link.replace(Arc::clone(&link));
    let (forward, outgoing) = mpsc::channel();
    let sending = Arc::clone(&link);
    let beating = Arc::clone(&link);
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    thread("forward").spawn(move || sending.forward(&outgoing)).context("no thread could be made")?;
    thread("heartbeat").spawn(move || beating.beat()).context("no thread could be made")?;
    let (supervisor, name) = (Arc::clone(supervisor), name.to_owned());
    let linking = move || {
        if let Some(before) = before {
            before.await_rest();
        }
        link.stay(&supervisor, &machine, &name);
    };
    thread("link").spawn(linking).context("no thread could be made")?;
    Ok(forward)
}

/// Sends input there.
pub fn pass_on(forward: &Forward, keys: &[u8], piped: &[u8], piped_ended: bool) {
    const PIECE: usize = 64 << 10;
    let pieces = |request: &Request, bytes: &[u8]| {
        // A link that has gone takes nothing: then the program is not there either.
        bytes.chunks(PIECE).for_each(|piece| drop(forward.send((request.clone(), piece.to_vec()))));
    };
    pieces(&Request::Input, keys);
    pieces(&Request::Piped, piped);
    if piped_ended {
        let _ = forward.send((Request::InputEnd, Vec::new()));
    }
}

impl Supervisor {
    /// A machine, with the secrets that it took to reach it before.
    pub fn machine(&self, name: &str) -> anyhow::Result<Arc<Mutex<Machine>>> {
        let mut state = self.state();
        let known = state.moves.machines.iter().find(|(known, _)| known == name);
        if let Some((_, machine)) = known {
            return Ok(Arc::clone(machine));
        }
        let machine = Arc::new(Mutex::new(Machine::of(name)?));
        state.moves.machines.push((name.to_owned(), Arc::clone(&machine)));
        Ok(machine)
    }

    /// The program is on another host, and an earlier supervisor of ours was killed.
    pub fn be_away(self: &Arc<Self>, job: Job) -> anyhow::Result<()> {
        let host = job.host.clone().context("the job is on no other host")?;
        let name = job.name_there.clone().unwrap_or_else(|| job.name.clone());
        self.store.put(&job)?;
        self.state().job = Some(job);
        let forward = start(self, &host, &name)?;
        self.state().place = Place::Away(Away { host, reached: false, forward });
        self.tell_all();
        Ok(())
    }

    /// The program has ended: what it has printed and how it ended is told to who asks.
    pub fn be_over(&self, job: Job) {
        let unknown = Ending::Signaled(Signal::KILL.as_raw());
        let mut state = self.state();
        state.place = match (&job.saved, job.ending) {
            (Some(image), _) => Place::Saved(image.clone()),
            (None, ending) => Place::Ended(ending.map_or(unknown, JobEnding::ending)),
        };
        state.job = Some(job);
    }

    /// The program has gone on from one other host to another.
    pub fn retarget(self: &Arc<Self>, host: &str, name: &str) -> anyhow::Result<()> {
        let forward = start(self, host, name)?;
        let mut state = self.state();
        if let Place::Away(away) = &mut state.place {
            *away = Away { host: host.to_owned(), reached: true, forward };
        }
        if let Some(job) = &mut state.job {
            job.host = Some(host.to_owned());
            job.name_there = Some(name.to_owned());
            job.moving = None;
            self.store.put(job)?;
        }
        state.tell_clients(&Reply::Moved { host: host.to_owned(), reached: true });
        drop(state);
        self.tell_all();
        Ok(())
    }
}

/// Why a connection was left.
enum End {
    /// The program has gone on, or ended.
    Over,
    /// It was lost.
    Lost,
}

impl Link {
    fn current(&self) -> MutexGuard<'_, Option<UnixStream>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing more comes over it.
    fn await_rest(&self) {
        let current = self.current();
        let is_finished = |_: &mut Option<UnixStream>| !self.is_finished.load(Ordering::Relaxed);
        // After that time it has lost what it has not said.
        drop(self.changed.wait_timeout_while(current, REST, is_finished));
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Sends what is to go there, in order, as soon as there is a connection.
    fn forward(&self, outgoing: &mpsc::Receiver<(Request, Vec<u8>)>) {
        for (request, body) in outgoing {
            let mut current = self.current();
            while !self.is_over() {
                if let Some(stream) = &mut *current {
                    if wire::send(stream, &request, &body).is_ok() {
                        break;
                    }
                    *current = None;
                }
                current = self.changed.wait(current).unwrap_or_else(PoisonError::into_inner);
            }
        }
        // The program is somewhere else, and the supervisor lets go of us.
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(stream) = &*self.current() {
            // What still comes does so soon.
            let _ = stream.set_read_timeout(Some(REST));
        }
        self.changed.notify_all();
    }

    fn stay(&self, supervisor: &Arc<Supervisor>, machine: &Mutex<Machine>, name: &str) {
        let mut wait = WAITS[0];
        while !self.is_over() {
            match self.follow(supervisor, machine, name) {
                Ok(End::Over) => break,
                Ok(End::Lost) => wait = WAITS[0],
                Err(error) => {
                    supervisor.log_move("-", "link", &crate::failure::line(&error));
                }
            }
            *self.current() = None;
            if self.is_over() {
                break;
            }
            supervisor.set_reached(false);
            let current = self.current();
            drop(self.changed.wait_timeout_while(current, wait, |_| !self.is_over()));
            wait = (wait * 2).min(WAITS[1]);
        }
        let mut current = self.current();
        *current = None;
        self.is_over.store(true, Ordering::Relaxed);
        self.is_finished.store(true, Ordering::Relaxed);
        drop(current);
        self.changed.notify_all();
    }

    /// Connects, and takes what comes until the connection ends.
    fn follow(&self, supervisor: &Arc<Supervisor>, machine: &Mutex<Machine>, name: &str) -> anyhow::Result<End> {
        let agent = {
            let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
            machine.agent(&[], &mut Nobody, &mut |_, _| ())?
        };
        let joined = agent.ask(&Request::Join { job: name.to_owned(), create: false })?;
        if !matches!(joined, Reply::Joined { .. }) {
            return Err(Failure::new(Class::Remote, "the agent says something else than asked for").into());
        }
        let from = supervisor.state().log.end();
        let size = supervisor.client_size();
        for request in [Request::Heartbeat, Request::Hold, Request::Attach { from: Some(from), follow: true, size }] {
            wire::send(&mut &agent.stream, &request, &[])?;
        }
        agent.stream.set_read_timeout(Some(if self.is_over() { REST } else { SILENCE }))?;
        *self.current() = Some(agent.stream.try_clone()?);
        self.changed.notify_all();
        supervisor.set_reached(true);
        let end = take(supervisor, &agent);
        // It may be closed already.
        let _ = agent.stream.shutdown(Shutdown::Both);
        end
    }

    /// Says that we live.
    fn beat(&self) {
        let mut current = self.current();
        while !self.is_over() {
            // One that is lost is found lost by who reads from it.
            let _ = current.as_mut().map(|stream| wire::send(stream, &Request::Heartbeat, &[]));
            current = self.changed.wait_timeout(current, HEARTBEAT).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Takes what comes.
fn take(supervisor: &Arc<Supervisor>, agent: &Agent) -> anyhow::Result<End> {
    loop {
        let Ok(Some((reply, body))) = wire::receive::<Reply>(&mut &agent.stream) else { return Ok(End::Lost) };
        match reply {
            Reply::Output { stream, offset } => supervisor.relay_output(stream, offset, &body)?,
            Reply::Stopped | Reply::Continued | Reply::InputClosed => supervisor.tell_clients(&reply),
            Reply::Done => return Ok(End::Over),
            Reply::Ended(ending) => {
                supervisor.ended(ending);
                return Ok(End::Over);
            }
            Reply::Left { image } => {
                supervisor.saved_there(&image)?;
                return Ok(End::Over);
            }
            Reply::Failed { message, exit } => return Err(Failure::of_exit(exit, message).into()),
            _ => {}
        }
    }
}

impl Supervisor {
    /// The program was saved and ended on the other host.
    fn saved_there(&self, image: &Bytes) -> anyhow::Result<()> {
        let host = match &self.state().place {
            Place::Away(away) => away.host.clone(),
            _ => return Ok(()),
        };
        let image = Bytes([host.as_bytes(), b":", &image.0].concat());
        let advice = format!("it was saved on {host}, in {}; restore it there", image.text());
        self.change_job(|job| job.doubt = Some(advice))?;
        self.saved(&image)
    }
}
