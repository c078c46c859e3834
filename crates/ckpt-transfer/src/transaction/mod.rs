//! A move as a transaction between two ends: at every point exactly one of them owns the program, and both know which.
//!
//! The mover goes through states, each a type that holds what is known in it; the only ways between them are the functions
//! here. Until [`Parked`] the source owns the program and goes on with it when anything fails; with [`Request::Go`] the
//! destination may own it, and when nobody can say, the source saves it. `docs/migration.md` has the table of states.

mod checks;
mod copy;
mod settle;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use ckpt_core::Class;
use ckpt_core::resource::bytes::Bytes;

use checks::checks;
use copy::by_path;
pub use settle::{ABANDONED, place};

use crate::protocol::{
    Arriving, Departing, FileEntry, JobDescription, MachineReport, MoveOptions, MoveReport, Reply, Request,
    SurveyReport, TerminalEntry,
};

/// How long an end may take for an act of its own that moves no bytes.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long nothing of the program's output may get home before the move is called off, and how often that is looked at.
const UNREAD: Duration = Duration::from_secs(10);
const MOMENT: Duration = Duration::from_millis(5);
/// How often the mover looks up when nothing comes.
const TICK: Duration = Duration::from_millis(200);

/// Which end of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where the program is.
    Source,
    /// Where it goes.
    Destination,
}

impl Side {
    /// Its place among both.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

/// What comes to the mover.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// An end has said something.
    Said(Side, Reply, Vec<u8>),
    /// The connection to it was lost, or it was silent for too long.
    Lost(Side, String),
    /// The user wants to give up.
    Cancelled,
}

/// What became of a move, asked of the destination's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was let go there, and lives or has ended as programs do.
    Ran {
        /// Its process, if it lives.
        pid: Option<i32>,
    },
    /// It was let go there and then died with its keeper.
    Died,
    /// It was not let go, and will not be.
    NotRan,
}

/// Something cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failed {
    /// What happened, to what, what to do.
    pub message: String,
    /// The exit status that it means.
    pub exit: i32,
}

impl Failed {
    /// Of a class.
    #[must_use]
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { message: message.into(), exit: class as i32 }
    }
}

/// How the mover reaches the two ends. It says heartbeats by itself, and takes silence for a loss.
pub trait Ends {
    /// Connects to the supervisor at an end, for the first time or again. At the destination, one is made the first time.
    ///
    /// # Errors
    /// Why not.
    fn reach(&mut self, side: Side) -> Result<(), Failed>;
    /// Closes the connection to an end.
    fn leave(&mut self, side: Side);
    /// Says something; that it does not get there comes as [`Incoming::Lost`].
    fn say(&mut self, side: Side, request: &Request, body: &[u8]);
    /// What comes next; `None` when nothing came for so long.
    fn next(&mut self, at_most: Duration) -> Option<Incoming>;
    /// Saves the program before it is moved, if that is wanted. It runs on.
    ///
    /// # Errors
    /// Why not: then it is not moved.
    fn save(&mut self) -> Result<(), Failed>;
    /// Connects the data channels, and says how many there are.
    ///
    /// # Errors
    /// Why not.
    fn open_channels(&mut self, txn: &str) -> Result<usize, Failed>;
    /// Closes them.
    fn close_channels(&mut self);
    /// Asks the destination's machine what became of the move, on a new connection. From then on that is decided.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn outcome(&mut self, txn: &str) -> Result<Outcome, Failed>;
    /// A machine, which was reached.
    fn machine(&self, side: Side) -> Option<&MachineReport>;
    /// How far the destination's clock is ahead, in seconds, and how exactly that is known.
    fn clock_ahead(&self) -> Option<(f64, f64)>;
    /// The job's name at the destination.
    fn name_there(&self) -> String;
    /// Up to where the program's output is at home, in bytes; everything counts as there when it is at home itself.
    fn output(&self) -> u64;
    /// Has what was typed or sent to the program meanwhile go after it.
    fn pass_on(&mut self, keys: &[u8], piped: &[u8], piped_ended: bool);
    /// Tells the user something: a check, progress.
    fn tell(&mut self, news: Reply);
    /// Notes that the move is in another state.
    fn enter(&mut self, state: &str);
    /// Time since any beginning.
    fn now(&self) -> Duration;
}

/// What is to be moved, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The move's own name, which no other ever has.
    pub txn: String,
    /// The job.
    pub job: String,
    /// Where it is.
    pub from: String,
    /// Where it goes.
    pub to: String,
    /// How.
    pub options: MoveOptions,
    /// How memory is compressed.
    pub codec: String,
    /// The most memory that a program may have there.
    pub most_memory: Option<u64>,
    /// The source's supervisor stays, and relays what its clients ask.
    pub relay: bool,
}

/// Where the program is after a move that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// Where it was, and runs as if nothing had happened.
    Source,
    /// Where it was, in an image; it has ended.
    Saved {
        /// The file.
        image: Bytes,
    },
    /// Where it was, stopped; it will be settled there without us.
    Parked,
}

/// A move that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// What happened, where the program is now, what to do.
    pub message: String,
    /// The exit status that it means.
    pub exit: i32,
    /// Where the program is.
    pub whereabouts: Whereabouts,
}

/// Why a state could not be left as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    Lost(Side, String),
    Failed(Side, Failed),
    Cancelled,
}

/// The mover, with what it has heard ahead of its time.
struct Mover<'a, E> {
    ends: &'a mut E,
    plan: &'a Plan,
    early: VecDeque<(Side, Reply, Vec<u8>)>,
    /// Which connections are lost, and why: that is heard once, and counts until the end is reached again.
    lost: [Option<String>; 2],
    began: Duration,
    file_bytes: u64,
}

/// The source owns the program, which runs; what it needs is known and would be there.
pub struct Surveyed<'a, E> {
    mover: Mover<'a, E>,
    survey: SurveyReport,
    lacking: Vec<(usize, u64)>,
}

/// The source owns the program, which runs; its files are there, and the data channels are open.
pub struct Prepared<'a, E> {
    mover: Mover<'a, E>,
    survey: SurveyReport,
    channels: usize,
}

/// The source owns the program, which is frozen, and lets it run on when the mover goes.
pub struct Frozen<'a, E> {
    mover: Mover<'a, E>,
    times: Times,
    channels: usize,
    files: Vec<FileEntry>,
    known: Vec<FileEntry>,
    terminal: Option<TerminalEntry>,
    job: JobDescription,
}

/// The source owns the program, which is frozen; the destination has built and checked it, and lets go of it when the mover
/// goes.
pub struct Built<'a, E> {
    mover: Mover<'a, E>,
    times: Times,
    notes: Vec<String>,
    bytes: u64,
    pages: u64,
}

/// The source owns the program and cannot let it run but by word of the mover.
pub struct Parked<'a, E>(Built<'a, E>);

/// The destination owns the program, which runs there; what the source has is to be ended.
pub struct Running<'a, E> {
    built: Built<'a, E>,
    pid: i32,
}

/// When what was done.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    /// Since when it is frozen.
    frozen: Duration,
    told: Duration,
    files: Duration,
    sent: Duration,
    ready: Duration,
    parked: Duration,
    running: Duration,
}

/// Moves a program; `None` when only the checks were asked for.
///
/// # Errors
/// [`Broken`], with where the program is now.
pub fn run<E: Ends>(ends: &mut E, plan: &Plan) -> Result<Option<MoveReport>, Broken> {
    let surveyed = survey(ends, plan)?;
    if plan.options.dry_run {
        return Ok(None);
    }
    let running = surveyed.prepare()?.freeze()?.build()?.park()?.go()?;
    Ok(Some(running.finish()))
}

/// Reaches both ends and looks whether the program could go on at the destination. Nothing is changed anywhere.
///
/// # Errors
/// [`Broken`]: the program runs on where it is.
pub fn survey<'a, E: Ends>(ends: &'a mut E, plan: &'a Plan) -> Result<Surveyed<'a, E>, Broken> {
    let began = ends.now();
    let mut mover = Mover { ends, plan, early: VecDeque::new(), lost: [None, None], began, file_bytes: 0 };
    match mover.survey() {
        Ok((survey, lacking)) => Ok(Surveyed { mover, survey, lacking }),
        Err(fault) => Err(mover.untouched(fault)),
    }
}

impl<'a, E: Ends> Surveyed<'a, E> {
    /// Saves the program if that is wanted, sends the files that the destination lacks, has them put in place there, and
    /// connects the data channels.
    ///
    /// # Errors
    /// [`Broken`]: the program runs on where it is.
    pub fn prepare(mut self) -> Result<Prepared<'a, E>, Broken> {
        let lacking = std::mem::take(&mut self.lacking);
        let saved = self.mover.ends.save().map_err(|failed| Fault::Failed(Side::Source, failed));
        let copied = saved.and_then(|()| self.mover.copy(&self.survey.files, &lacking, false));
        let placed = copied.and_then(|()| self.mover.place(&self.survey.files));
        let prepared = placed.and_then(|()| {
            let opened = self.mover.ends.open_channels(&self.mover.plan.txn);
            opened.map_err(|failed| Fault::Failed(Side::Destination, failed))
        });
        match prepared {
            Ok(channels) => {
                self.mover.ends.enter("prepared");
                Ok(Prepared { mover: self.mover, survey: self.survey, channels })
            }
            Err(fault) => Err(self.mover.untouched(fault)),
        }
    }
}

impl<'a, E: Ends> Prepared<'a, E> {
    /// Freezes the program: from here on it does not run, and its image is on its way.
    ///
    /// # Errors
    /// [`Broken`]: the program runs on where it is.
    pub fn freeze(mut self) -> Result<Frozen<'a, E>, Broken> {
        let plan = self.mover.plan;
        let departing = Departing {
            txn: plan.txn.clone(),
            to: plan.to.clone(),
            name_there: self.mover.ends.name_there(),
            policy: plan.options.files,
            with: plan.options.with.clone(),
            codec: plan.codec.clone(),
            tcp_close: plan.options.tcp_close,
            self_contained: false,
            carry_files: false,
            channels: self.channels,
            keep: plan.options.keep,
        };
        self.mover.say(Side::Source, &Request::Depart(Box::new(departing)));
        let frozen = self.mover.expect(Side::Source, None, |reply| match reply {
            Reply::Frozen { files, terminal, job, since } => Ok((files, terminal, job, since)),
            other => Err(other),
        });
        match frozen {
            Ok((files, terminal, job, since)) => {
                let told = self.mover.ends.now();
                let frozen = told.saturating_sub(Duration::try_from_secs_f64(since).unwrap_or_default());
                self.mover.ends.enter("frozen");
                let times = Times { frozen, told, ..Times::default() };
                let known = self.survey.files;
                Ok(Frozen { mover: self.mover, times, channels: self.channels, files, known, terminal, job: *job })
            }
            Err(fault) => Err(self.mover.call_off(fault)),
        }
    }
}

impl<'a, E: Ends> Frozen<'a, E> {
    /// Has the destination build the program from what comes, up to the last step.
    ///
    /// # Errors
    /// [`Broken`]: the program runs on where it is.
    pub fn build(mut self) -> Result<Built<'a, E>, Broken> {
        match self.try_build() {
            Ok((notes, bytes, pages)) => {
                self.mover.ends.enter("built");
                Ok(Built { mover: self.mover, times: self.times, notes, bytes, pages })
            }
            Err(fault) => Err(self.mover.call_off(fault)),
        }
    }

    fn try_build(&mut self) -> Result<(Vec<String>, u64, u64), Fault> {
        let plan = self.mover.plan;
        let known = by_path(&self.known);
        let is_known = |file: &FileEntry| known.get(file.path.as_path()).is_some_and(|known| *known == file);
        let changed: Vec<FileEntry> = self.files.iter().filter(|file| !is_known(file)).cloned().collect();
        if !changed.is_empty() {
            self.mover.tell_grown(&changed, &self.known)?;
            let lacking = self.mover.lacking(&changed)?;
            self.mover.copy(&changed, &lacking, true)?;
        }
        self.times.files = self.mover.ends.now();
        let arriving = Arriving {
            txn: plan.txn.clone(),
            job: self.job.clone(),
            terminal: self.terminal.clone(),
            files: std::mem::take(&mut self.files),
            policy: plan.options.files,
            channels: self.channels,
            ignore_cpu: plan.options.ignore_cpu,
            overwrite: plan.options.overwrite,
        };
        self.mover.say(Side::Destination, &Request::Arrive(Box::new(arriving)));
        let sent = |reply| match reply {
            Reply::Sent { bytes, pages, .. } => Ok((bytes, pages)),
            other => Err(other),
        };
        let sent = self.mover.expect(Side::Source, None, sent);
        let (bytes, pages) = sent.map_err(|fault| self.mover.cause(fault))?;
        self.times.sent = self.mover.ends.now();
        let ready = |reply| match reply {
            Reply::Ready { notes } => Ok(notes),
            other => Err(other),
        };
        let notes = self.mover.expect(Side::Destination, None, ready)?;
        self.mover.await_output(self.job.output)?;
        self.times.ready = self.mover.ends.now();
        Ok((notes, bytes, pages))
    }
}

impl<'a, E: Ends> Built<'a, E> {
    /// Takes from the source the right to let the program run by itself.
    ///
    /// # Errors
    /// [`Broken`]: the program runs on where it is, or is settled there.
    pub fn park(mut self) -> Result<Parked<'a, E>, Broken> {
        let park = |reply| if reply == Reply::Parked { Ok(()) } else { Err(reply) };
        self.mover.ends.enter("parking");
        self.mover.say(Side::Source, &Request::Park);
        match self.mover.expect(Side::Source, Some(PATIENCE), park) {
            Ok(()) => {
                self.times.parked = self.mover.ends.now();
                self.mover.ends.enter("parked");
                Ok(Parked(self))
            }
            Err(fault) => Err(self.mover.call_off(fault)),
        }
    }
}

impl<'a, E: Ends> Parked<'a, E> {
    /// Gives the program to the destination.
    ///
    /// # Errors
    /// [`Broken`]: it does not run there, and runs on where it was or is saved there.
    pub fn go(self) -> Result<Running<'a, E>, Broken> {
        let Self(mut built) = self;
        built.mover.ends.enter("going");
        built.mover.say(Side::Destination, &Request::Go);
        let pid = match built.mover.await_running() {
            Some(pid) => pid,
            None => built.mover.settle()?,
        };
        built.times.running = built.mover.ends.now();
        built.mover.ends.enter("running");
        Ok(Running { built, pid })
    }
}

impl<E: Ends> Running<'_, E> {
    /// Ends what the source still has. Whatever happens to that: the program runs at the destination.
    #[must_use]
    pub fn finish(self) -> MoveReport {
        let Self { built: Built { mut mover, times, mut notes, bytes, pages }, pid } = self;
        if !mover.discard() {
            notes.push(format!(
                "{} could not be told that the program runs on {}: it keeps the stopped program for a minute and then an image of it, which is not needed",
                mover.plan.from, mover.plan.to
            ));
        }
        mover.ends.enter("moved");
        let seconds = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64();
        let parts = [
            ("read its state", times.frozen, times.told),
            ("changed files", times.told, times.files),
            ("send memory", times.files, times.sent),
            ("finish building", times.sent, times.ready),
            ("commit", times.ready, times.parked),
            ("let it go", times.parked, times.running),
        ];
        MoveReport {
            job: mover.plan.job.clone(),
            from: mover.plan.from.clone(),
            to: mover.plan.to.clone(),
            pid,
            bytes,
            pages,
            file_bytes: mover.file_bytes,
            downtime: seconds(times.frozen, times.running),
            parts: parts.into_iter().map(|(name, from, to)| (name.to_owned(), seconds(from, to))).collect(),
            total: seconds(mover.began, mover.ends.now()),
            notes,
        }
    }
}

impl<E: Ends> Mover<'_, E> {
    fn survey(&mut self) -> Result<(SurveyReport, Vec<(usize, u64)>), Fault> {
        for side in [Side::Source, Side::Destination] {
            self.reach(side)?;
            self.check_cancelled()?;
        }
        let options = &self.plan.options;
        let question =
            Request::Survey { policy: options.files, with: options.with.clone(), tcp_close: options.tcp_close };
        self.say(Side::Source, &question);
        let survey = self.expect(Side::Source, None, |reply| match reply {
            Reply::Survey(survey) => Ok(*survey),
            other => Err(other),
        })?;
        let lacking = self.lacking(&survey.files);
        let found = checks(&survey, self.ends.machine(Side::Destination), self.plan, &lacking, self.ends.clock_ahead());
        let mut refusal = None;
        for check in found {
            if !check.ok && refusal.is_none() {
                refusal = Some(Failed { message: check.refusal(), exit: check.exit });
            }
            self.ends.tell(Reply::Check { what: check.what.to_owned(), found: check.found, ok: check.ok });
        }
        if let Some(refusal) = refusal {
            return Err(Fault::Failed(Side::Destination, refusal));
        }
        let lacking = lacking?;
        self.ends.enter("surveyed");
        Ok((survey, lacking))
    }

    /// Connects to an end, for the first time or again. What it said before is of no interest any more.
    fn reach(&mut self, side: Side) -> Result<(), Fault> {
        self.early.retain(|(from, ..)| *from != side);
        self.ends.reach(side).map_err(|failed| Fault::Failed(side, failed))?;
        self.lost[side.index()] = None;
        Ok(())
    }

    fn say(&mut self, side: Side, request: &Request) {
        self.ends.say(side, request, &[]);
    }

    fn check_cancelled(&mut self) -> Result<(), Fault> {
        let said = self.listen(Duration::ZERO)?;
        self.early.extend(said);
        Ok(())
    }

    /// The next thing that is neither progress nor a sign of life.
    fn hear(&mut self, at_most: Duration) -> Option<Incoming> {
        match self.ends.next(at_most)? {
            Incoming::Said(_, Reply::Heartbeat, _) => None,
            Incoming::Said(_, news @ Reply::Progress { .. }, _) => {
                self.ends.tell(news);
                None
            }
            Incoming::Lost(side, why) => {
                self.lost[side.index()] = Some(why.clone());
                Some(Incoming::Lost(side, why))
            }
            other => Some(other),
        }
    }

    /// The next thing that an end says, unless one has failed or is lost, or the user gives up.
    fn listen(&mut self, at_most: Duration) -> Result<Option<(Side, Reply, Vec<u8>)>, Fault> {
        match self.hear(at_most) {
            Some(Incoming::Said(from, Reply::Failed { message, exit }, _)) => {
                Err(Fault::Failed(from, Failed { message, exit }))
            }
            Some(Incoming::Said(from, reply, body)) => Ok(Some((from, reply, body))),
            Some(Incoming::Lost(from, why)) => Err(Fault::Lost(from, why)),
            Some(Incoming::Cancelled) => Err(Fault::Cancelled),
            None => Ok(None),
        }
    }

    /// Waits for an end's answer. What the other one says meanwhile is kept, unless it has failed.
    fn expect<T>(
        &mut self,
        side: Side,
        limit: Option<Duration>,
        accept: impl Fn(Reply) -> Result<T, Reply>,
    ) -> Result<T, Fault> {
        self.expect_body(side, limit, |reply, _| accept(reply))
    }

    fn expect_body<T>(
        &mut self,
        side: Side,
        limit: Option<Duration>,
        accept: impl Fn(Reply, Vec<u8>) -> Result<T, Reply>,
    ) -> Result<T, Fault> {
        let until = limit.map(|limit| self.ends.now() + limit);
        let answer = |reply, body| {
            accept(reply, body).map_err(|other| match other {
                Reply::Failed { message, exit } => Fault::Failed(side, Failed { message, exit }),
                other => Fault::Lost(side, format!("it answered something else: {other:?}")),
            })
        };
        if let Some(at) = self.early.iter().position(|(from, ..)| *from == side)
            && let Some((_, reply, body)) = self.early.remove(at)
        {
            return answer(reply, body);
        }
        loop {
            if let Some(why) = &self.lost[side.index()] {
                return Err(Fault::Lost(side, why.clone()));
            }
            match self.listen(TICK)? {
                Some((from, reply, body)) if from == side => return answer(reply, body),
                said => self.early.extend(said),
            }
            if until.is_some_and(|until| self.ends.now() >= until) {
                return Err(Fault::Lost(side, "it does not answer".to_owned()));
            }
        }
    }

    /// Waits until all that the program has printed at the source is at home: what is left there then is not asked for any more.
    fn await_output(&mut self, end: u64) -> Result<(), Fault> {
        let (mut since, mut there) = (self.ends.now(), self.ends.output());
        while there < end {
            let said = self.listen(MOMENT)?;
            self.early.extend(said);
            let (now, before) = (self.ends.now(), std::mem::replace(&mut there, self.ends.output()));
            if there > before {
                since = now;
            } else if now.saturating_sub(since) > UNREAD {
                let what = format!(
                    "{} bytes that it printed on {} do not get here; see whether they are read where the job is shown, and move it again",
                    end - there,
                    self.plan.from
                );
                return Err(Fault::Failed(Side::Source, Failed::new(Class::Failed, what)));
            }
        }
        Ok(())
    }

    /// What the fault was, for people.
    fn told(&self, fault: Fault) -> (String, i32) {
        let name = |side| if side == Side::Source { &self.plan.from } else { &self.plan.to };
        match fault {
            Fault::Lost(side, why) => {
                let what = if name(side) == "local" { "the supervisor here".to_owned() } else { name(side).clone() };
                (format!("the connection to {what} was lost: {why}"), Class::Remote as i32)
            }
            Fault::Failed(_, failed) => (failed.message, failed.exit),
            Fault::Cancelled => ("cancelled".to_owned(), Class::Cancelled as i32),
        }
    }

    /// Before anything was frozen.
    fn untouched(&mut self, fault: Fault) -> Broken {
        let (message, exit) = self.told(fault);
        self.ends.close_channels();
        self.ends.leave(Side::Destination);
        self.ends.leave(Side::Source);
        self.ends.enter("refused");
        Broken { message, exit, whereabouts: Whereabouts::Source }
    }
}
