//! Checkpoints of a program that is on another host: it departs from there into a file of ours, and then goes on there.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use ckpt_core::{CheckpointReport, Class};
use ckpt_transfer::frames::FrameReader;
use ckpt_transfer::protocol::{Departing, FilesPolicy, HEARTBEAT, Reply, Request, SILENCE};
use ckpt_transfer::ssh::Nobody;
use ckpt_transfer::wire;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Supervisor;
use super::checkpointing::Wish;
use super::connection::Writer;
use super::mover::new_txn;
use crate::failure::Failure;
use crate::fetch;
use crate::remote::Agent;
use crate::text;

/// How often it is looked whether the act was cancelled.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// How much is copied at once.
const PIECE: usize = 256 << 10;

/// Saves the program into a file here; `news` hears how far that is. With [`Wish::stop`] it is ended there when the image is
/// complete.
pub fn save(
    supervisor: &Arc<Supervisor>,
    wish: &Wish,
    file: &Path,
    news: Option<&Writer>,
) -> anyhow::Result<CheckpointReport> {
    let began = Instant::now();
    let (host, name) = supervisor.whereabouts()?;
    let txn = new_txn()?;
    let machine = supervisor.machine(&host)?;
    let (control, data) = {
        let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
        let control = machine.agent(&[], &mut Nobody, &mut |_, _| ())?;
        control.ask(&Request::Join { job: name.clone(), create: false })?;
        (control, machine.agent(&["--data", &name, &txn, "0"], &mut Nobody, &mut |_, _| ())?)
    };
    let Reply::Status(status) = control.ask(&Request::Status)? else {
        return Err(Failure::new(Class::Remote, "the supervisor there says something else than asked for").into());
    };
    let beating = Beating::start(&control)?;
    let departing = Departing {
        txn,
        to: "an image".to_owned(),
        name_there: String::new(),
        policy: FilesPolicy::Shared,
        with: Vec::new(),
        codec: wish.codec.clone(),
        tcp_close: wish.tcp_close,
        self_contained: wish.self_contained,
        carry_files: wish.carry_files,
        channels: 1,
        keep: false,
    };
    control.stream.set_read_timeout(Some(SILENCE))?;
    say(&control, &Request::Depart(Box::new(departing)))?;
    let listening = Listening { control: &control, news, can_cancel: true };
    let since = listening.hear(|reply| if let Reply::Frozen { since, .. } = reply { Some(since) } else { None })?;
    let frozen = Instant::now();
    let partial = Partial::begin(file)?;
    // Whatever fails from here on: the program goes on when the connection closes.
    let (bytes, pages, threads) = listening.receive(&data.stream, &partial.file, file)?;
    partial.finish(file)?;
    let listening = Listening { can_cancel: false, ..listening };
    if wish.stop {
        // What it has written there would go with it.
        let agent = {
            let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
            machine.agent(&[], &mut Nobody, &mut |_, _| ())?
        };
        bring_home(supervisor, &agent, news)?;
        say(&control, &Request::Discard { host: "an image".to_owned(), job: String::new(), relay: false })?;
        listening.hear(|reply| matches!(reply, Reply::Discarded { .. }).then_some(()))?;
        supervisor.change_job(|job| (job.host, job.name_there) = (None, None))?;
    } else {
        say(&control, &Request::Resume)?;
        listening.hear(|reply| (reply == Reply::Resumed).then_some(()))?;
    }
    let pause = frozen.elapsed() + Duration::try_from_secs_f64(since).unwrap_or_default();
    drop(beating);
    Ok(CheckpointReport {
        pid: status.pid.unwrap_or_default(),
        path: file.to_path_buf(),
        bytes,
        pages,
        threads,
        pause,
        total: began.elapsed(),
    })
}

/// Brings what the program wrote there to where it belongs here.
fn bring_home(supervisor: &Supervisor, agent: &Agent, news: Option<&Writer>) -> anyhow::Result<()> {
    let mut coming = |done, total| {
        if let Some(writer) = news {
            writer.tell(&Reply::Progress { phase: "files".to_owned(), done, total });
        }
    };
    let job = supervisor.store.job(&supervisor.name)?;
    let all = fetch::Wanted { is_final: true, ..fetch::Wanted::default() };
    fetch::bring(agent, &supervisor.store, &job, &all, &mut coming).map(drop)
}

fn say(agent: &Agent, request: &Request) -> anyhow::Result<()> {
    wire::send(&mut &agent.stream, request, &[]).map_err(|error| agent.lost(&error.to_string()))
}

/// Hears what the supervisor there says.
#[derive(Clone, Copy)]
struct Listening<'a> {
    control: &'a Agent,
    /// Hears how far it is.
    news: Option<&'a Writer>,
    /// Nothing is decided yet.
    can_cancel: bool,
}

impl Listening<'_> {
    /// The first reply that is wanted.
    fn hear<T>(&self, wanted: impl Fn(Reply) -> Option<T>) -> anyhow::Result<T> {
        let Self { control, news, can_cancel } = self;
        let mut heard = Instant::now();
        loop {
            if *can_cancel && ckpt_core::cancel_flag().load(Ordering::Relaxed) {
                return Err(ckpt_core::Error::Cancelled.into());
            }
            let mut fds = [PollFd::new(&control.stream, PollFlags::IN)];
            if matches!(poll(&mut fds, Some(&TICK)), Ok(0)) && heard.elapsed() < SILENCE {
                continue;
            }
            heard = Instant::now();
            match wire::receive::<Reply>(&mut &control.stream) {
                Ok(Some((Reply::Failed { message, exit }, _))) => return Err(Failure::of_exit(exit, message).into()),
                Ok(Some((reply @ Reply::Progress { .. }, _))) => news.iter().for_each(|writer| writer.tell(&reply)),
                Ok(Some((reply, _))) => {
                    if let Some(found) = wanted(reply) {
                        return Ok(found);
                    }
                }
                Ok(None) => return Err(control.lost("it closed the connection")),
                Err(error) => return Err(control.lost(&error.to_string())),
            }
        }
    }

    /// Takes the image, which comes beside what is said, and gives its bytes, pages and threads.
    fn receive(&self, data: &UnixStream, image: &File, path: &Path) -> anyhow::Result<(u64, u64, usize)> {
        let mut frames = FrameReader::new(vec![data.try_clone()?.into()]);
        std::thread::scope(|scope| {
            let copying = scope.spawn(|| {
                let copied = copy(&mut frames, image);
                if copied.is_err() {
                    // It need not be sent any more.
                    shut(data);
                }
                if let Err(Broken::Writing(_)) = copied {
                    // Nothing more is waited for.
                    shut(&self.control.stream);
                }
                copied
            });
            let sent = self.hear(|reply| match reply {
                Reply::Sent { bytes, pages, threads } => Some((bytes, pages, threads)),
                _ => None,
            });
            if sent.is_err() {
                shut(data);
            }
            let copied = copying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match (copied, sent) {
                (Err(Broken::Writing(error)), _) => {
                    Err(anyhow::Error::new(error).context(format!("cannot write {}", text::path(path))))
                }
                (_, Err(error)) => Err(error),
                (Err(Broken::Reading(error)), Ok(_)) => Err(self.control.lost(&error.to_string())),
                (Ok(()), Ok(sent)) => Ok(sent),
            }
        })
    }
}

/// Which side of a copy has failed.
enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

fn copy(from: &mut impl Read, mut to: &File) -> Result<(), Broken> {
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&buffer[..count]).map_err(Broken::Writing)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Broken::Reading(error)),
        }
    }
}

fn shut(stream: &UnixStream) {
    // It may be closed already.
    let _ = stream.shutdown(Shutdown::Both);
}

/// Says that we live, as long as it is there. What is said beside it is short and in one piece.
struct Beating(Arc<AtomicBool>);

impl Beating {
    fn start(agent: &Agent) -> anyhow::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let (stream, over) = (agent.stream.try_clone()?, Arc::clone(&is_over));
        let beating = move || {
            while !over.load(Ordering::Relaxed) && wire::send(&mut &stream, &Request::Heartbeat, &[]).is_ok() {
                std::thread::sleep(HEARTBEAT);
            }
        };
        std::thread::Builder::new().name("heartbeat".to_owned()).spawn(beating).context("no thread could be made")?;
        Ok(Self(is_over))
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An image that is not complete yet.
struct Partial {
    file: File,
    path: std::path::PathBuf,
}

impl Partial {
    fn begin(image: &Path) -> anyhow::Result<Self> {
        let path = image.with_extension("partial");
        let opened = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = opened.with_context(|| format!("cannot write {}", text::path(&path)))?;
        Ok(Self { file, path })
    }

    fn finish(self, image: &Path) -> anyhow::Result<()> {
        let publish = || -> io::Result<()> {
            self.file.sync_all()?;
            fs::rename(&self.path, image)
        };
        publish()
            .map_err(|error| Failure::new(Class::Failed, format!("cannot write {}: {error}", text::path(image))).into())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Renamed, or of no use.
        let _ = fs::remove_file(&self.path);
    }
}
