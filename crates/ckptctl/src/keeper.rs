//! The keeper: the process that a job's program is a child of, as it would be of a shell.
//!
//! It leads the session whose terminal is the job's, starts or restores the program, and waits for its end, which it writes
//! down. It also holds the supervisor's sides of the terminal and of the pipes, so that nothing is lost when the supervisor is
//! killed: whoever connects to its socket next gets them. One thread, because restoring forks.

mod arrival;
mod program;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::Context;
use ckpt_core::resource::bytes::Bytes;
use ckpt_core::{Class, Happening, Kept, RestoreOptions, Shown};
use ckpt_trace::sys::SignalWaiter;
use ckpt_transfer::protocol::Ending;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Signal, getpgid, kill_process};
use rustix::termios::tcsetpgrp;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2};

pub use arrival::Coming;
pub use program::start as start_program;

use crate::cli::{files_policy_of, nest_policy_of};
use crate::client;
use crate::door::{Door, LOOK};
use crate::failure::{self, Failure};
use crate::jobs::{Job, JobEnding, JobStore, ProcessId, path_of, write_ending};
use crate::local::{self, Receiver};
use crate::supervisor::{LOCK, Launch, LaunchKind, Log, Outlets, Terminal};

/// What a standard descriptor of a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdio {
    /// The job's terminal.
    Terminal,
    /// A pipe whose other end the supervisor has.
    Pipe,
    /// What the caller gave.
    Given,
    /// For standard error: the same pipe as standard output.
    Joined,
}

/// What a keeper is to do. With it come descriptors, in this order: both sides of the terminal, both ends of the spool (reading
/// first), and for each standard descriptor in turn: of a pipe the program's end and ours; what was given.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Keep {
    /// The job's directory.
    #[serde(with = "ckpt_core::resource::bytes::path")]
    pub directory: PathBuf,
    /// The job's name.
    pub name: String,
    /// Where to listen.
    pub doors: Vec<Bytes>,
    /// Standard input, output and error.
    pub stdio: [Stdio; 3],
    /// Where the program comes from.
    pub origin: Origin,
}

/// Where a program comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It is started.
    Command {
        /// The program and its arguments.
        command: Vec<Bytes>,
        /// As `ckptctl run --portable`.
        portable: bool,
    },
    /// It is restored from an image.
    Image {
        /// The file.
        #[serde(with = "ckpt_core::resource::bytes::path")]
        file: PathBuf,
        /// How.
        options: RestoreWords,
    },
    /// It comes from another machine. Its data channels come behind the other descriptors.
    Elsewhere(Coming),
}

/// [`RestoreOptions`] as the command line says them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RestoreWords {
    /// `--nest`.
    pub nest: String,
    /// `--files`.
    pub files: String,
    /// `--ignore-cpu`.
    pub ignore_cpu: bool,
    /// `--show`: the path, what is found there, whether only for reading.
    #[serde(default)]
    pub show: Vec<(Bytes, Bytes, bool)>,
}

/// What a keeper says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// To whoever connects: what it keeps. With it come the supervisor's sides: the terminal's two, the spool's two, and those
    /// of the pipes that are open.
    Holding {
        /// The program.
        process: ProcessId,
        /// Which of the pipes are open: 0, 1, 2.
        open: Vec<i32>,
        /// Whether a signal has stopped it.
        stopped: bool,
        /// How it ended, if it has.
        ended: Option<Ending>,
    },
    /// A program that comes from elsewhere is built, and waits for the word.
    Built {
        /// It.
        process: ProcessId,
        /// What differs from before, in sentences.
        notes: Vec<String>,
    },
    /// The program runs.
    Started {
        /// It.
        process: ProcessId,
        /// What differs from before, in sentences.
        notes: Vec<String>,
    },
    /// It could not be started or restored.
    Failed {
        /// Why.
        message: String,
        /// The exit status that it means.
        exit: i32,
    },
    /// A signal stopped it.
    Stopped,
    /// It ended.
    Ended(Ending),
}

/// What a keeper is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Close our end of a pipe: 0, 1, 2.
    Close {
        /// The program's descriptor.
        fd: i32,
    },
    /// Let the program that was built run.
    Go,
    /// The ending is known; the keeper is not needed any more.
    Quit,
}

/// The name of the socket of a job's keeper.
pub fn door_name(job: &str) -> String {
    format!("{job}{DOOR_END}")
}

const DOOR_END: &str = ".keeper";

/// The verb: keeps one program, told on standard input what.
pub fn keeper() -> anyhow::Result<i32> {
    let mut supervisor = Receiver::new(crate::supervisor::take_control()?);
    let Some((keep, _)) = supervisor.receive::<Keep>()? else { return Ok(1) };
    let came = supervisor.take_descriptors();
    match Keeper::begin(&keep, came, &mut supervisor) {
        Ok((mut keeper, notes)) => {
            let started = Report::Started { process: keeper.process, notes };
            // A supervisor that was killed meanwhile is followed by one that connects.
            let told = local::send(supervisor.stream(), &started, &[]);
            if told.is_ok() {
                keeper.supervisor = Some(supervisor);
            } else {
                keeper.lose_supervisor();
            }
            keeper.run()?;
            Ok(0)
        }
        Err(error) => {
            let failed = Report::Failed { message: failure::line(&error), exit: failure::class(&error) as i32 };
            local::send(supervisor.stream(), &failed, &[])?;
            Ok(1)
        }
    }
}

struct Keeper {
    directory: PathBuf,
    kept: Kept,
    process: ProcessId,
    terminal: Terminal,
    outlets: Outlets,
    door: Door,
    places: Vec<PathBuf>,
    door_name: String,
    supervisor: Option<Receiver>,
    /// One that we have started ourselves.
    called: Option<UnixStream>,
    signals: SignalWaiter,
    is_stopped: bool,
    ended: Option<Ending>,
}

/// How soon to look again whether a supervisor takes the ending.
const SOON: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Signals that others send to the keeper and mean the program.
const PASSED_ON: [i32; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

impl Keeper {
    /// Starts or restores the program. With what the user should know.
    fn begin(
        keep: &Keep,
        mut came: VecDeque<OwnedFd>,
        supervisor: &mut Receiver,
    ) -> anyhow::Result<(Self, Vec<String>)> {
        let mut next = || came.pop_front().context("the supervisor has sent too few descriptors");
        let terminal = Terminal::of(next()?, next()?)?;
        let mut outlets = Outlets::spooling(next()?, next()?);
        let mut standard: Vec<OwnedFd> = Vec::new();
        for (fd, stdio) in (0..).zip(keep.stdio) {
            standard.push(match stdio {
                Stdio::Terminal => terminal.slave.try_clone()?,
                Stdio::Given => next()?,
                Stdio::Joined => standard.last().context("nothing can be joined")?.try_clone()?,
                Stdio::Pipe => {
                    let theirs = next()?;
                    outlets.put(fd, next()?);
                    theirs
                }
            });
        }
        rustix::process::setsid().context("no session could be made")?;
        rustix::process::ioctl_tiocsctty(&*terminal.slave).context("the terminal could not be taken")?;
        let places: Vec<PathBuf> = keep.doors.iter().map(path_of).collect();
        let door_name = door_name(&keep.name);
        let door = Door::open(&places, &door_name)?;

        let mut all = PASSED_ON.to_vec();
        all.extend([SIGCHLD, SIGTSTP, SIGTTIN, SIGTTOU]);
        let [input, output, error] =
            <[OwnedFd; 3]>::try_from(standard).map_err(|_| anyhow::anyhow!("three are needed"))?;
        let (kept, signals, notes) = match &keep.origin {
            Origin::Command { command, portable } => {
                // Before the signals are blocked, or they would be in the program as well.
                let child = program::launch(command, *portable, [input, output, error])?;
                let signals = SignalWaiter::block(&all).context("the signals cannot be taken over")?;
                (Kept::child(child), signals, Vec::new())
            }
            Origin::Image { file, options } => {
                use_as_standard([&input, &output, &error])?;
                drop((input, output, error));
                let restored = ckpt_core::restore(file, &options.options()?)?;
                let notes = restored.report().notes.clone();
                let kept = restored.keep()?;
                use_as_standard([&null()?, &null()?, &null()?])?;
                let signals = SignalWaiter::block(&all).context("the signals cannot be taken over")?;
                if let Ok(group) = getpgid(Some(kept.pid())) {
                    // The engine gives it the foreground only with one of the terminal's descriptors. One that has ended
                    // this moment needs none.
                    let _ = tcsetpgrp(&*terminal.slave, group);
                }
                (kept, signals, notes)
            }
            Origin::Elsewhere(coming) => {
                use_as_standard([&input, &output, &error])?;
                drop((input, output, error));
                let channels = came.into_iter().collect();
                let kept = arrival::receive(&keep.name, coming, channels, supervisor)?.keep()?;
                use_as_standard([&null()?, &null()?, &null()?])?;
                // What differs was told when it was built.
                (kept, SignalWaiter::block(&all).context("the signals cannot be taken over")?, Vec::new())
            }
        };
        let process = ProcessId::of(kept.pid().as_raw_nonzero().get()).unwrap_or(ProcessId {
            // It has ended and been collected so soon that nobody can know.
            pid: kept.pid().as_raw_nonzero().get(),
            start_ticks: 0,
        });
        let keeper = Self {
            directory: keep.directory.clone(),
            kept,
            process,
            terminal,
            outlets,
            door,
            places,
            door_name,
            supervisor: None,
            called: None,
            signals,
            is_stopped: false,
            ended: None,
        };
        Ok((keeper, notes))
    }

    /// Waits for everything at once, until the program has ended and somebody knows.
    fn run(&mut self) -> anyhow::Result<()> {
        loop {
            // Before waiting: what happened before the signals were blocked is told by none.
            if self.ended.is_none()
                && let Some(happened) = self.kept.happened()
            {
                self.tell_what_happened(happened);
                continue;
            }
            if let Some(ending) = self.ended.filter(|_| self.supervisor.is_none())
                && self.finish_alone(ending)
            {
                return Ok(());
            }
            let (signalled, called, told) = self.wait()?;
            if signalled {
                self.pass_signals_on()?;
            }
            // In this order: what was ready is the connection that there was.
            if told && self.obey() {
                Door::close(&self.places, &self.door_name);
                return Ok(());
            }
            if called && let Ok((stream, _)) = self.door.listener.accept() {
                self.serve(stream);
            }
            self.door.look();
        }
    }

    /// Which are ready: signals, the listening socket, the supervisor's.
    fn wait(&self) -> io::Result<(bool, bool, bool)> {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.door.listener, PollFlags::IN)];
        if let Some(supervisor) = &self.supervisor {
            fds.push(PollFd::new(supervisor.stream(), PollFlags::IN));
        }
        let told = fds.len() - 1;
        if self.ended.is_none()
            && let Some(reports) = self.kept.reports()
        {
            fds.push(PollFd::from_borrowed_fd(reports, PollFlags::IN));
        }
        // A supervisor that is being started, and is killed as well, would leave the ending to us again.
        let must_finish = self.ended.is_some() && self.supervisor.is_none();
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(if must_finish { &SOON } else { &LOOK })))?;
        let is_ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        Ok((is_ready(0), is_ready(1), self.supervisor.is_some() && is_ready(told)))
    }

    fn pass_signals_on(&self) -> io::Result<()> {
        while let Some(caught) = self.signals.next()? {
            // What a key of the terminal sends goes to the program's group by itself.
            if PASSED_ON.contains(&caught.signal)
                && caught.from_process
                && self.ended.is_none()
                && let Some(signal) = Signal::from_named_raw(caught.signal)
            {
                // It may be ending this moment; not collected yet, its number is still its own.
                let _ = kill_process(self.kept.pid(), signal);
            }
        }
        Ok(())
    }

    fn tell_what_happened(&mut self, happened: Happening) {
        let report = match happened {
            Happening::Stopped => {
                self.is_stopped = true;
                Report::Stopped
            }
            Happening::Ended(ending) => {
                let ending = match ending {
                    ckpt_core::Ending::Exited(status) => Ending::Exited(status),
                    ckpt_core::Ending::Signaled(signal) => Ending::Signaled(signal),
                };
                self.ended = Some(ending);
                Report::Ended(ending)
            }
        };
        self.tell(&report);
    }

    fn tell(&mut self, report: &Report) {
        if let Some(supervisor) = &self.supervisor
            && local::send(supervisor.stream(), report, &[]).is_err()
        {
            self.lose_supervisor();
        }
    }

    /// The supervisor was killed. The next verb that needs one starts it, but a move in the middle is not left alone until then.
    fn lose_supervisor(&mut self) {
        self.supervisor = None;
        if self.ended.is_none() && self.job().is_ok_and(|job| job.is_some_and(|job| job.moving.is_some())) {
            let launch = Launch { name: self.name().to_owned(), kind: LaunchKind::Adopt };
            // Where none can be started, the next verb tries again.
            self.called = self.signals.lifted(|| client::begin(&launch, &[], None)).ok();
        }
    }

    fn name(&self) -> &str {
        self.door_name.trim_end_matches(DOOR_END)
    }

    /// What is written down of the job.
    fn job(&self) -> anyhow::Result<Option<Job>> {
        JobStore::open()?.find(self.name())
    }

    /// A supervisor has come: it gets everything.
    fn serve(&mut self, stream: UnixStream) {
        let open: Vec<i32> = (0..3).filter(|fd| self.outlets.get(*fd).is_some()).collect();
        let report = Report::Holding {
            process: self.process,
            open: open.clone(),
            stopped: self.is_stopped && self.process.state() == Some('T'),
            ended: self.ended,
        };
        let mut descriptors = vec![self.terminal.master.as_fd(), self.terminal.slave.as_fd()];
        descriptors.extend([self.outlets.spool.0.as_fd(), self.outlets.spool.1.as_fd()]);
        descriptors.extend(open.iter().filter_map(|fd| self.outlets.get(*fd).map(|outlet| outlet.as_fd())));
        if local::send(&stream, &report, &descriptors).is_ok() {
            self.supervisor = Some(Receiver::new(stream));
        }
    }

    /// Does what the supervisor says. True when that is to go.
    fn obey(&mut self) -> bool {
        let Some(supervisor) = &mut self.supervisor else { return false };
        match supervisor.receive::<Order>() {
            Ok(Some((Order::Close { fd }, _))) => self.outlets.take(fd),
            Ok(Some((Order::Quit, _))) => return true,
            // It runs already.
            Ok(Some((Order::Go, _))) => {}
            Ok(None) | Err(_) => self.lose_supervisor(),
        }
        false
    }

    /// Without a supervisor: what was printed last goes into the log, and then the ending is written down, unless a supervisor is
    /// just being started, or the job lives elsewhere. True when that is done.
    fn finish_alone(&mut self, ending: Ending) -> bool {
        let is_elsewhere = |job: Job| job.host.is_some() && job.moving.is_none();
        if self.job().is_ok_and(|job| job.is_none_or(is_elsewhere)) {
            Door::close(&self.places, &self.door_name);
            return true;
        }
        let Ok(lock) = File::create(self.directory.join(LOCK)) else { return true };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return false;
        }
        if let Ok(mut log) = Log::open(&self.directory) {
            while self.outlets.pump(&self.terminal, &mut log).is_ok_and(|moved| moved > 0) {}
        }
        // If that cannot be written, `ps` says that nobody saw how it ended.
        let _ = write_ending(&self.directory, self.process, JobEnding::now(ending));
        Door::close(&self.places, &self.door_name);
        true
    }
}

impl RestoreWords {
    /// As the engine wants them.
    pub fn options(&self) -> anyhow::Result<RestoreOptions> {
        let wrong = |what: &str| Failure::new(Class::Usage, format!("{what:?} is no policy"));
        Ok(RestoreOptions {
            view: self
                .show
                .iter()
                .map(|(path, source, read_only)| Shown {
                    path: path_of(path),
                    source: path_of(source),
                    read_only: *read_only,
                })
                .collect(),
            nest: nest_policy_of(&self.nest).ok_or_else(|| wrong(&self.nest))?,
            files: files_policy_of(&self.files).ok_or_else(|| wrong(&self.files))?,
            ignore_cpu: self.ignore_cpu,
            detach: false,
        })
    }
}

fn use_as_standard([input, output, error]: [&OwnedFd; 3]) -> io::Result<()> {
    rustix::stdio::dup2_stdin(input)?;
    rustix::stdio::dup2_stdout(output)?;
    rustix::stdio::dup2_stderr(error)?;
    Ok(())
}

fn null() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}
