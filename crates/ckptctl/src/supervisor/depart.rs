//! The source of a move: the program is frozen, its image sent, and the program held until its fate is decided.

use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Context;
use ckpt_core::resource::bytes::Bytes;
use ckpt_core::{CheckpointReport, Class, DepartOptions, Departure, Survey};
use ckpt_transfer::files::{Asked, Departed, Hashes, manifest};
use ckpt_transfer::frames::FrameWriter;
use ckpt_transfer::protocol::{Departing, FileEntry, FilesPolicy, JobDescription, Reply, SurveyReport, TerminalEntry};
use ckpt_transfer::store::Store;
use ckpt_transfer::transaction::ABANDONED;

use super::connection::Writer;
use super::moves::{Decided, Decision, Leave};
use super::outlets::unread;
use super::{Place, Supervisor, checkpointing, link, mover};
use crate::failure::{self, Failure};
use crate::jobs::{History, Job, Moving, Phase, Reason, path_of};

/// The files as they were here when the program left, in the job's directory.
pub const DEPARTED: &str = "departed.json";

/// Says what the program holds and needs.
pub fn survey(
    supervisor: &Supervisor,
    policy: FilesPolicy,
    with: &[Bytes],
    tcp_close: bool,
) -> anyhow::Result<SurveyReport> {
    let pid = supervisor.pid()?;
    let options = DepartOptions { tcp_close, ..DepartOptions::default() };
    let survey = ckpt_core::survey(pid, &options)?;
    let (files, mut notes) = list(pid, &survey, policy, with)?;
    notes.extend(survey.notes);
    Ok(SurveyReport { machine: survey.machine, memory: survey.memory, threads: survey.threads, files, notes })
}

/// The files that go along, as they are now.
fn list(
    pid: i32,
    survey: &Survey,
    policy: FilesPolicy,
    with: &[Bytes],
) -> anyhow::Result<(Vec<FileEntry>, Vec<String>)> {
    let with: Vec<PathBuf> = with.iter().map(path_of).collect();
    let root = root_of(pid);
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let asked = Asked { policy, with: &with, root: &root, home: home.as_deref() };
    let mut hashes = Hashes::load(&Store::open()?);
    Ok(manifest(survey, &asked, &mut hashes)?)
}

/// Where the program's paths lead from.
pub fn root_of(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/root"))
}

/// Lets the program depart, in a thread of its own, which answers.
pub fn start(supervisor: &Arc<Supervisor>, departing: Departing, writer: Writer) -> anyhow::Result<()> {
    let act = supervisor.begin(super::MOVE)?;
    let (decide, decided) = mpsc::channel();
    supervisor.state().moves.departing = Some(Leave { txn: departing.txn.clone(), decide, sending: Vec::new() });
    let supervisor = Arc::clone(supervisor);
    let acting = move || {
        let result = Leaving { supervisor: &supervisor, departing: &departing, writer: &writer }.depart(&decided);
        supervisor.state().moves.departing = None;
        supervisor.drop_channels(&departing.txn);
        if let Err(error) = result {
            supervisor.log_move(&departing.txn, "source", "runs on");
            writer.fail(&error);
        }
        // Decided while it came to an end by itself.
        for Decided { what, answer } in decided.try_iter() {
            match (answer, supervisor.settled(&what)) {
                (Some(writer), Ok(reply)) => writer.tell(&reply),
                (Some(writer), Err(error)) => writer.fail(&error),
                (None, _) => {}
            }
        }
        drop(act);
    };
    // The name by which others know who traces the program.
    std::thread::Builder::new().name("ckptctl".to_owned()).spawn(acting).context("no thread could be made")?;
    Ok(())
}

struct Leaving<'a> {
    supervisor: &'a Arc<Supervisor>,
    departing: &'a Departing,
    writer: &'a Writer,
}

impl Leaving<'_> {
    fn depart(&self, decided: &mpsc::Receiver<Decided>) -> anyhow::Result<()> {
        let Self { supervisor, departing, writer } = self;
        let pid = supervisor.pid()?;
        if departing.keep && supervisor.state().job.as_ref().is_some_and(|job| job.visiting) {
            let what = "the image can only be kept where the job is at home: bring it home first, or leave out --keep";
            return Err(Failure::new(Class::Usage, what).into());
        }
        let channels = supervisor.take_channels(&departing.txn, departing.channels)?;
        let (outputs, guards): (Vec<File>, Vec<_>) =
            channels.into_iter().map(|channel| (File::from(channel.output), channel.guard)).unzip();
        let sending = outputs.iter().map(|output| Ok(output.try_clone()?.into())).collect::<std::io::Result<_>>()?;
        if let Some(leave) = &mut supervisor.state().moves.departing {
            leave.sending = sending;
        }
        let mut frames = FrameWriter::new(outputs).context("no thread could be made")?;
        let codec = departing
            .codec
            .parse()
            .map_err(|_| Failure::new(Class::Usage, format!("{:?} is no codec", departing.codec)))?;
        let options = DepartOptions {
            codec,
            tcp_close: departing.tcp_close,
            self_contained: departing.self_contained,
            carry_files: departing.carry_files,
            ..DepartOptions::default()
        };
        let watching = checkpointing::watch(&options.progress, writer)?;
        let paused = supervisor.pause_output();
        ckpt_core::cancel_flag().store(false, Ordering::Relaxed);
        let mut kept = departing.keep.then(|| Kept::begin(&supervisor.directory)).transpose()?;
        let (mut pending, mut failed, mut broken) = (Unread::default(), None, None);
        let began = Instant::now();
        let file = kept.as_mut().map(|kept| &mut kept.file);
        let sink = Tee { frames: &mut frames, file, broken: &mut broken };
        let result = ckpt_core::depart(pid, sink, &options, &mut |survey| {
            self.tell_frozen(pid, survey, &mut pending, began).map_err(|error| {
                failed = Some(error);
                ckpt_core::Error::Cancelled
            })
        });
        let cut_off = |error: std::io::Error| {
            let what = format!("the connection that memory was sent over broke ({error})");
            anyhow::Error::from(Failure::new(Class::Remote, what))
        };
        let failed = failed.or(broken.map(cut_off));
        let finished =
            result.map_err(|error| failed.unwrap_or_else(|| error.into())).and_then(|departure| {
                match frames.finish().map_err(cut_off) {
                    Ok(_) => Ok(departure),
                    Err(error) => {
                        departure.resume()?;
                        Err(error)
                    }
                }
            });
        drop(watching);
        if let Some(leave) = &mut supervisor.state().moves.departing {
            leave.sending.clear();
        }
        ckpt_core::cancel_flag().store(false, Ordering::Relaxed);
        let departure = finished.inspect_err(|_| {
            // It runs again. What cannot be put back was not taken by anybody else.
            let _ = pending.give_back(supervisor);
        })?;
        let report = departure.report().clone();
        if let Some(kept) = kept {
            kept.finish(supervisor, &departure)?;
        }
        writer.tell(&Reply::Sent { bytes: report.bytes, pages: report.pages, threads: report.threads });
        supervisor.log_move(&departing.txn, "source", "sent");
        let held =
            Held { supervisor, txn: &departing.txn, to: &departing.to, name_there: &departing.name_there, pending };
        let result = held.tend(departure, false, decided);
        drop((paused, guards));
        result
    }

    /// The program is frozen: takes what it has printed and what it has not read, and tells what goes along.
    fn tell_frozen(&self, pid: i32, survey: &Survey, pending: &mut Unread, began: Instant) -> anyhow::Result<()> {
        let Self { supervisor, departing, writer } = self;
        supervisor.log_move(&departing.txn, "source", "frozen");
        let (files, _) = list(pid, survey, departing.policy, &departing.with)?;
        supervisor.drain()?;
        pending.keys = supervisor.take_pending_input()?;
        let size = supervisor.window_size();
        let mut state = supervisor.state();
        pending.piped = std::mem::take(&mut state.piped).into();
        let job = state.job.as_ref().context("the job is not known")?;
        let reads_a_pipe = job.pipes.contains(&0);
        let mut piped = if reads_a_pipe { unread(pid).context("its input cannot be read")? } else { Vec::new() };
        piped.extend(&pending.piped);
        let description = JobDescription {
            name: job.name.clone(),
            command: job.command.clone(),
            directory: job.directory.clone(),
            started: job.started,
            output: state.log.end(),
            pipes: job.pipes.clone(),
            checkpoints: 0,
            piped: Bytes(piped),
            piped_ended: state.piped_ended,
        };
        let is_home = !job.visiting && job.host.is_none();
        drop(state);
        if is_home && departing.policy == FilesPolicy::Carry {
            Departed::new(files.clone()).save(&supervisor.directory.join(DEPARTED))?;
        }
        let terminal = Some(TerminalEntry { size, pending: Bytes(pending.keys.clone()) });
        let since = began.elapsed().as_secs_f64();
        writer.send(&Reply::Frozen { files, terminal, job: Box::new(description), since }, &[])?;
        Ok(())
    }
}

/// A departed program that is held until its fate is decided.
struct Held<'a> {
    supervisor: &'a Arc<Supervisor>,
    txn: &'a str,
    to: &'a str,
    name_there: &'a str,
    pending: Unread,
}

impl Held<'_> {
    fn tend(
        &self,
        mut departure: Departure,
        mut is_parked: bool,
        decided: &mpsc::Receiver<Decided>,
    ) -> anyhow::Result<()> {
        // Without a mover it is held for a while, if somebody else may run it.
        let mut abandoned = is_parked.then(Instant::now);
        loop {
            let left = abandoned.map_or(Duration::MAX, |since| ABANDONED.saturating_sub(since.elapsed()));
            let Decided { what, answer } = match decided.recv_timeout(left.min(Duration::from_secs(3600))) {
                Ok(decided) => decided,
                Err(RecvTimeoutError::Timeout) if abandoned.is_none() => continue,
                Err(_) => Decided { what: Decision::Save, answer: None },
            };
            let tell = |reply: &Reply| answer.iter().for_each(|writer| writer.tell(reply));
            if what != Decision::Lost {
                abandoned = None;
            }
            match what {
                Decision::Park if is_parked => tell(&Reply::Parked),
                Decision::Park => {
                    self.note(Some(Phase::Parked))?;
                    departure.park()?;
                    is_parked = true;
                    self.supervisor.log_move(self.txn, "source", "parked");
                    tell(&Reply::Parked);
                }
                Decision::Lost if is_parked => abandoned = Some(Instant::now()),
                Decision::Resume | Decision::Lost => {
                    self.pending.give_back(self.supervisor)?;
                    departure.resume()?;
                    self.note(None)?;
                    self.supervisor.log_move(self.txn, "source", "runs on");
                    tell(&Reply::Resumed);
                    return Ok(());
                }
                Decision::Discard { host, name, relay } => {
                    self.note(Some(Phase::Discarding { relay }))?;
                    departure.end()?;
                    self.supervisor.log_move(self.txn, "source", "discarded");
                    let (keys, piped, piped_ended) = go_away(self.supervisor, &host, &name, relay)?;
                    tell(&Reply::Discarded { keys: Bytes(keys), piped: Bytes(piped), piped_ended });
                    return Ok(());
                }
                Decision::Save => match self.save(&mut departure) {
                    Ok(report) => {
                        self.supervisor.log_move(self.txn, "source", "saved");
                        tell(&Reply::Saved { report });
                        return Ok(());
                    }
                    // It stays as it is: another try may find room.
                    Err(error) if answer.is_some() => {
                        if let Some(writer) = &answer {
                            writer.fail(&error);
                        }
                        abandoned = Some(Instant::now());
                    }
                    Err(error) => {
                        self.supervisor.state().note(&failure::line(&error));
                        abandoned = Some(Instant::now());
                    }
                },
            }
        }
    }

    /// Writes down how far the move is.
    fn note(&self, phase: Option<Phase>) -> anyhow::Result<()> {
        let moving = phase.map(|phase| self.moving(phase));
        self.supervisor.change_job(|job| job.moving = moving)
    }

    fn moving(&self, phase: Phase) -> Moving {
        let (txn, to, name_there) = (self.txn.to_owned(), self.to.to_owned(), self.name_there.to_owned());
        Moving { txn, to, name_there, phase }
    }

    /// Saves the program into the job's history and ends it.
    fn save(&self, departure: &mut Departure) -> anyhow::Result<serde_json::Value> {
        let history = History::of(&self.supervisor.directory);
        let number = history.next()?;
        let file = history.image(number);
        let report = departure.save(&file)?;
        history.enter(number, &report, true, self.supervisor.scene(Reason::Move))?;
        let doubt = format!(
            "it was saved to {} because nobody knows whether it runs on {}: look there before you restore it",
            file.display(),
            self.to
        );
        let moving = self.moving(Phase::Doubt);
        self.supervisor.change_job(|job| {
            // At home the host is asked again as soon as it can be.
            job.moving = Some(moving).filter(|_| !job.visiting);
            job.doubt = Some(doubt);
        })?;
        self.supervisor.saved(&Bytes(file.as_os_str().as_bytes().to_vec()))?;
        serde_json::to_value(&report).context("the report does not fit JSON")
    }
}

/// The program is gone here and runs elsewhere.
fn go_away(supervisor: &Arc<Supervisor>, host: &str, name: &str, relay: bool) -> anyhow::Result<Input> {
    if relay {
        let forward = link::start(supervisor, host, name)?;
        let (keys, piped, piped_ended) = supervisor.take_input();
        link::pass_on(&forward, &keys, &piped, piped_ended);
        supervisor.leave(host, name, forward)?;
        Ok(Input::default())
    } else {
        let input = supervisor.take_input();
        supervisor.leave_for_good(host);
        Ok(input)
    }
}

/// Input: typed, piped, and whether no more of that comes.
type Input = (Vec<u8>, Vec<u8>, bool);

/// Input that the program had not been given when it was frozen, and what it had not read of what was typed. What it had not
/// read of a pipe is in there.
#[derive(Debug, Default)]
struct Unread {
    keys: Vec<u8>,
    piped: Vec<u8>,
}

impl Unread {
    /// The program goes on here.
    fn give_back(&self, supervisor: &Supervisor) -> anyhow::Result<()> {
        let mut state = supervisor.state();
        self.piped.iter().rev().for_each(|byte| state.piped.push_front(*byte));
        drop(state);
        supervisor.give_pending_input(&self.keys)
    }
}

/// Takes up a move in whose middle an earlier supervisor was killed. The program is here, under its keeper.
pub fn take_up(supervisor: &Arc<Supervisor>, job: &Job, moving: Moving) -> anyhow::Result<()> {
    let act = supervisor.begin(super::MOVE)?;
    let (decide, decided) = mpsc::channel();
    let txn = moving.txn.clone();
    supervisor.state().moves.departing = Some(Leave { txn, decide: decide.clone(), sending: Vec::new() });
    let is_home = !job.visiting;
    let asking = (is_home && moving.phase == Phase::Parked).then(|| mover::ask_for_fate(supervisor, moving.clone()));
    if let Phase::Discarding { relay } = &moving.phase {
        let what = Decision::Discard { host: moving.to.clone(), name: moving.name_there.clone(), relay: *relay };
        // The receiver is ours.
        let _ = decide.send(Decided { what, answer: None });
    }
    let supervisor = Arc::clone(supervisor);
    let acting = move || {
        let held = Held {
            supervisor: &supervisor,
            txn: &moving.txn,
            to: &moving.to,
            name_there: &moving.name_there,
            pending: Unread::default(),
        };
        let result = held.take_up(&moving.phase, &decided);
        supervisor.state().moves.departing = None;
        if let Err(error) = result {
            supervisor.state().note(&failure::line(&error));
        }
        drop(act);
    };
    std::thread::Builder::new().name("ckptctl".to_owned()).spawn(acting).context("no thread could be made")?;
    asking.unwrap_or(Ok(()))
}

impl Held<'_> {
    fn take_up(&self, phase: &Phase, decided: &mpsc::Receiver<Decided>) -> anyhow::Result<()> {
        let pid = match &self.supervisor.state().place {
            Place::Here(here) => here.process.pid,
            _ => return Ok(()),
        };
        match Departure::adopt(pid) {
            Ok(departure) => self.tend(departure, true, decided),
            // It has been ended or let go already, and only that was not written down.
            Err(error) => {
                if let Phase::Discarding { relay } = phase {
                    return go_away(self.supervisor, self.to, self.name_there, *relay).map(drop);
                }
                self.note(None)?;
                self.supervisor.log_move(self.txn, "source", &format!("runs on ({error})"));
                Ok(())
            }
        }
    }
}

/// The image on its way, and into a file as well if that is wanted.
struct Tee<'a> {
    frames: &'a mut FrameWriter,
    file: Option<&'a mut File>,
    /// Why it cannot be sent any more.
    broken: &'a mut Option<std::io::Error>,
}

impl Write for Tee<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = match self.frames.write(bytes) {
            Ok(count) => count,
            Err(error) => {
                let kind = error.kind();
                *self.broken = Some(error);
                return Err(kind.into());
            }
        };
        if let Some(file) = &mut self.file {
            file.write_all(&bytes[..count])?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.frames.flush()
    }
}

/// An image that is written beside being sent.
struct Kept {
    file: File,
    number: u64,
    partial: PathBuf,
}

impl Kept {
    fn begin(directory: &Path) -> anyhow::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let history = History::of(directory);
        let number = history.next()?;
        let partial = history.image(number).with_extension("partial");
        let opened = File::options().write(true).create(true).truncate(true).mode(0o600).open(&partial);
        let file = opened.with_context(|| format!("cannot write {}", crate::text::path(&partial)))?;
        Ok(Self { file, number, partial })
    }

    /// It is complete.
    fn finish(self, supervisor: &Supervisor, departure: &Departure) -> anyhow::Result<()> {
        let history = History::of(&supervisor.directory);
        let image = history.image(self.number);
        let writing = || format!("cannot write {}", crate::text::path(&image));
        self.file.sync_all().with_context(writing)?;
        std::fs::rename(&self.partial, &image).with_context(writing)?;
        let report = departure.report();
        let pause = departure.frozen_for();
        let (bytes, pages, threads) = (report.bytes, report.pages, report.threads);
        let told = CheckpointReport { pid: report.pid, path: image, bytes, pages, threads, pause, total: pause };
        history.enter(self.number, &told, true, supervisor.scene(Reason::Move))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Renamed, or of no use.
        let _ = std::fs::remove_file(&self.partial);
    }
}
