#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;

use ckpt_core::Machine;

use super::*;
use crate::protocol::{FileRole, FilesPolicy};

/// What goes wrong with a message, or when an end is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The connection is cut before the message gets there.
    CutBefore,
    /// The connection is cut before the answer comes back.
    CutAfter,
    /// The message gets there only when all seems to be over.
    Late,
    /// The connection to the other end is cut before the message gets there.
    OtherCut,
    /// The end says that it failed, and where it understands nothing more then, closes the connection.
    Fails,
    /// The end's supervisor is killed before the message is read.
    KilledBefore,
    /// The end's supervisor is killed before it answers.
    KilledAfter,
    /// The user cancels.
    Cancelled,
}

const FAULTS: [Fault; 8] = [
    Fault::CutBefore,
    Fault::CutAfter,
    Fault::OtherCut,
    Fault::Late,
    Fault::Fails,
    Fault::KilledBefore,
    Fault::KilledAfter,
    Fault::Cancelled,
];

/// How long an end cannot be reached after a fault.
const OUTAGES: [Duration; 3] = [Duration::ZERO, Duration::from_secs(10), Duration::from_secs(1_000_000)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Runs,
    Frozen,
    Parked,
    Ended,
    Saved,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Destination {
    Nothing,
    Built,
    Ran,
}

#[derive(Debug, Clone, Copy)]
struct Trouble {
    step: usize,
    fault: Fault,
    outage: Duration,
}

/// Both ends, as far as they matter.
struct World {
    now: Duration,
    source: Source,
    destination: Destination,
    is_refused: bool,
    /// The source is sending memory.
    is_sending: bool,
    /// Since when the source has no mover.
    abandoned: Option<Duration>,
    is_connected: [bool; 2],
    down_until: [Duration; 2],
    inbox: VecDeque<Incoming>,
    late: Vec<(Side, Request)>,
    step: usize,
    /// The step in which the destination begins to build.
    arrives_at: usize,
    troubles: Vec<Trouble>,
    machine: MachineReport,
    told: Vec<Reply>,
    states: Vec<String>,
    put: Option<u64>,
    got: Vec<u8>,
    typed: Vec<u8>,
    /// How much the program has printed, and how much of that is at home.
    printed: (u64, u64),
    /// How much of it gets there in a moment.
    relayed: u64,
}

fn machine() -> MachineReport {
    let machine = Machine {
        host: "there".to_owned(),
        kernel: "6.18".to_owned(),
        cpu: "some".to_owned(),
        cpu_features: BTreeSet::new(),
        xsave: Vec::new(),
        measured_state: true,
    };
    MachineReport {
        machine,
        doctor: serde_json::Value::Null,
        nest: Ok(()),
        memory: 8 << 30,
        disk: 8 << 30,
        load: 0.0,
        clock: 0,
        user: 1000,
        home: Bytes(b"/home/u".to_vec()),
    }
}

fn file() -> FileEntry {
    FileEntry {
        path: PathBuf::from("/work/input"),
        role: FileRole::Input,
        mode: 0o100_644,
        size: 3,
        modified: 7,
        hash: Some("hash".to_owned()),
        build_id: None,
        link: None,
    }
}

fn job() -> JobDescription {
    JobDescription {
        name: "sim".to_owned(),
        command: Vec::new(),
        directory: Bytes(b"/work".to_vec()),
        started: 0,
        output: 0,
        pipes: Vec::new(),
        checkpoints: 0,
        piped: Bytes::default(),
        piped_ended: false,
    }
}

impl World {
    fn new(troubles: &[Trouble]) -> Self {
        Self {
            now: Duration::from_secs(1),
            source: Source::Runs,
            destination: Destination::Nothing,
            is_refused: false,
            is_sending: false,
            abandoned: None,
            is_connected: [false; 2],
            down_until: [Duration::ZERO; 2],
            inbox: VecDeque::new(),
            late: Vec::new(),
            step: 0,
            arrives_at: 0,
            troubles: troubles.to_vec(),
            machine: machine(),
            told: Vec::new(),
            states: Vec::new(),
            put: None,
            got: Vec::new(),
            typed: Vec::new(),
            printed: (1000, 0),
            relayed: 100,
        }
    }

    fn running(&self) -> usize {
        usize::from(self.source == Source::Runs) + usize::from(self.destination == Destination::Ran)
    }

    /// Never two.
    fn check(&self) {
        assert!(self.running() <= 1, "two copies run: {:?}, {:?}", self.states, self.troubles);
    }

    fn trouble(&mut self, side: Side) -> Option<Fault> {
        self.step += 1;
        let trouble = self.troubles.iter().find(|trouble| trouble.step == self.step).copied()?;
        if trouble.fault != Fault::Fails && trouble.fault != Fault::Cancelled {
            let down = if trouble.fault == Fault::OtherCut { other(side) } else { side };
            self.down_until[down.index()] = self.now + trouble.outage;
        }
        Some(trouble.fault)
    }

    /// The connection to an end is lost, and it notices.
    fn lose(&mut self, side: Side) {
        self.is_sending &= side != Side::Source;
        if std::mem::replace(&mut self.is_connected[side.index()], false) {
            match side {
                Side::Source if self.source == Source::Frozen => self.source = Source::Runs,
                Side::Source if self.source == Source::Parked => self.abandoned = Some(self.now),
                Side::Destination if self.destination == Destination::Built => {
                    self.destination = Destination::Nothing;
                }
                _ => {}
            }
        }
        self.check();
    }

    /// The channels break while memory is sent: the program runs on, and the source's departure has failed.
    fn break_channels(&mut self) {
        if std::mem::replace(&mut self.is_sending, false) && self.source == Source::Frozen {
            self.source = Source::Runs;
            let message = "the connection broke while memory was sent over it".to_owned();
            self.answer(Side::Source, Reply::Failed { message, exit: Class::Remote as i32 }, &[]);
        }
    }

    fn cut(&mut self, side: Side) {
        self.lose(side);
        if side == Side::Destination {
            self.break_channels();
        }
        self.inbox.push_back(Incoming::Lost(side, "cut".to_owned()));
    }

    fn answer(&mut self, side: Side, reply: Reply, body: &[u8]) {
        if self.is_connected[side.index()] {
            self.inbox.push_back(Incoming::Said(side, reply, body.to_vec()));
        }
    }

    /// What an end does with a message.
    fn act(&mut self, side: Side, request: &Request, body: &[u8]) {
        let replies = match (side, request) {
            (Side::Source, Request::Survey { .. }) => vec![Reply::Survey(Box::new(SurveyReport {
                machine: self.machine.machine.clone(),
                memory: 1 << 20,
                threads: 1,
                files: vec![file()],
                notes: Vec::new(),
            }))],
            (Side::Source, Request::Depart(_)) => {
                assert_eq!(self.source, Source::Runs);
                self.source = Source::Frozen;
                self.is_sending = true;
                vec![
                    Reply::Frozen {
                        files: vec![file()],
                        terminal: None,
                        job: Box::new(JobDescription { output: self.printed.0, ..job() }),
                        since: 0.001,
                    },
                    Reply::Progress { phase: "memory".to_owned(), done: 1, total: 2 },
                ]
            }
            (Side::Source, Request::Read { .. }) => {
                self.answer(side, Reply::Chunk, b"abc");
                vec![Reply::Heartbeat, Reply::Done]
            }
            (Side::Source, request) => self.decide(request),
            (Side::Destination, Request::Lacking { files, .. }) => {
                vec![Reply::Lacking { files: if files.is_empty() { Vec::new() } else { vec![(0, 0)] } }]
            }
            (Side::Destination, Request::Grown { .. }) => vec![Reply::Done],
            (Side::Destination, Request::Place { .. }) => {
                assert_eq!(self.source, Source::Runs, "it would wait for it");
                vec![Reply::Done]
            }
            (Side::Destination, Request::Put { size, .. }) => {
                self.put = Some(*size);
                self.got.clear();
                Vec::new()
            }
            (Side::Destination, Request::Chunk) => {
                self.got.extend_from_slice(body);
                if self.put == Some(self.got.len() as u64) { vec![Reply::Stored] } else { Vec::new() }
            }
            (Side::Destination, Request::Arrive(_)) => {
                self.destination = Destination::Built;
                self.arrives_at = self.step;
                vec![Reply::Ready { notes: Vec::new() }]
            }
            (Side::Destination, Request::Go) if self.destination == Destination::Built && !self.is_refused => {
                self.destination = Destination::Ran;
                vec![Reply::Running { pid: 9 }]
            }
            (Side::Destination, Request::Go) => {
                self.destination = Destination::Nothing;
                vec![Reply::Failed { message: "called off".to_owned(), exit: 130 }]
            }
            other => panic!("{other:?}"),
        };
        for reply in replies {
            self.answer(side, reply, &[]);
        }
        self.check();
    }

    /// What the source does with the program that departs.
    fn decide(&mut self, request: &Request) -> Vec<Reply> {
        let failed = || vec![Reply::Failed { message: "no program departs".to_owned(), exit: 1 }];
        self.abandoned = None;
        match (request, self.source) {
            (Request::Park, Source::Frozen | Source::Parked) => {
                self.source = Source::Parked;
                vec![Reply::Parked]
            }
            (Request::Resume, Source::Frozen | Source::Parked | Source::Runs) => {
                self.source = Source::Runs;
                vec![Reply::Resumed]
            }
            (Request::Discard { .. }, Source::Frozen | Source::Parked | Source::Ended) => {
                self.source = Source::Ended;
                vec![Reply::Discarded { keys: Bytes(b"typed".to_vec()), piped: Bytes::default(), piped_ended: false }]
            }
            (Request::Save, Source::Frozen | Source::Parked | Source::Saved) => {
                self.source = Source::Saved;
                vec![Reply::Saved { report: serde_json::json!({ "path": "/jobs/sim/1.ckpt" }) }]
            }
            _ => failed(),
        }
    }

    /// What an end has said does not arrive.
    fn forget_replies(&mut self, side: Side) {
        self.inbox.retain(|incoming| !matches!(incoming, Incoming::Said(from, ..) if *from == side));
    }

    fn kill(&mut self, side: Side) {
        // Who traces the program goes, and with it every connection.
        self.cut(side);
    }

    fn settle(&mut self) {
        for (side, request) in std::mem::take(&mut self.late) {
            // What was on its way on a connection that was given up.
            if side == Side::Destination && request == Request::Go && self.destination == Destination::Built {
                self.act(side, &request, &[]);
            }
        }
        self.check();
        if self.abandoned.is_some_and(|since| self.now >= since + ABANDONED) && self.source == Source::Parked {
            self.source = Source::Saved;
        }
    }
}

fn other(side: Side) -> Side {
    if side == Side::Source { Side::Destination } else { Side::Source }
}

impl Ends for World {
    fn reach(&mut self, side: Side) -> Result<(), Failed> {
        self.leave(side);
        match self.trouble(side) {
            None => {}
            Some(Fault::Cancelled) => self.inbox.push_back(Incoming::Cancelled),
            Some(_) => return Err(Failed::new(Class::Remote, "cannot be reached")),
        }
        if self.down_until[side.index()] > self.now {
            // What is tried in vain takes time.
            self.now += Duration::from_secs(1);
            return Err(Failed::new(Class::Remote, "cannot be reached"));
        }
        self.is_connected[side.index()] = true;
        Ok(())
    }

    fn leave(&mut self, side: Side) {
        self.inbox.retain(|incoming| match incoming {
            Incoming::Said(from, ..) | Incoming::Lost(from, _) => *from != side,
            Incoming::Cancelled => true,
        });
        self.lose(side);
    }

    fn say(&mut self, side: Side, request: &Request, body: &[u8]) {
        if !self.is_connected[side.index()] {
            return;
        }
        match self.trouble(side) {
            None => self.act(side, request, body),
            Some(Fault::CutBefore) => self.cut(side),
            Some(Fault::Late) => {
                self.late.push((side, request.clone()));
                // The end has not noticed yet.
                self.is_connected[side.index()] = false;
                self.inbox.push_back(Incoming::Lost(side, "silent".to_owned()));
                if side == Side::Source {
                    self.is_connected[0] = true;
                    self.lose(side);
                }
            }
            Some(Fault::KilledBefore) => self.kill(side),
            Some(Fault::CutAfter) => {
                self.act(side, request, body);
                self.forget_replies(side);
                self.cut(side);
            }
            Some(Fault::KilledAfter) => {
                self.act(side, request, body);
                self.forget_replies(side);
                self.kill(side);
            }
            Some(Fault::Fails) => {
                // An act that fails leaves the program as it was, and a program that could not be let go is not there any more.
                match (side, request) {
                    (Side::Source, Request::Depart(_)) => self.source = Source::Runs,
                    (Side::Destination, Request::Arrive(_) | Request::Go) => {
                        self.destination = Destination::Nothing;
                        self.break_channels();
                    }
                    _ => {}
                }
                self.answer(side, Reply::Failed { message: "the disk is full".to_owned(), exit: 1 }, &[]);
                if matches!(request, Request::Put { .. }) {
                    self.cut(side);
                }
            }
            Some(Fault::OtherCut) => {
                self.cut(other(side));
                self.act(side, request, body);
            }
            Some(Fault::Cancelled) => {
                self.inbox.push_back(Incoming::Cancelled);
                self.act(side, request, body);
            }
        }
    }

    fn next(&mut self, at_most: Duration) -> Option<Incoming> {
        if let Some(incoming) = self.inbox.pop_front() {
            return Some(incoming);
        }
        if std::mem::replace(&mut self.is_sending, false) {
            self.answer(Side::Source, Reply::Sent { bytes: 5, pages: 1, threads: 1 }, &[]);
        }
        self.now += at_most;
        self.printed.1 = self.printed.0.min(self.printed.1 + self.relayed);
        self.settle();
        None
    }

    fn save(&mut self) -> Result<(), Failed> {
        match self.trouble(Side::Source) {
            None => Ok(()),
            Some(Fault::Cancelled) => {
                self.inbox.push_back(Incoming::Cancelled);
                Ok(())
            }
            Some(_) => Err(Failed::new(Class::Failed, "the disk is full")),
        }
    }

    fn open_channels(&mut self, _txn: &str) -> Result<usize, Failed> {
        match self.trouble(Side::Destination) {
            None => Ok(2),
            Some(Fault::Cancelled) => {
                self.inbox.push_back(Incoming::Cancelled);
                Ok(2)
            }
            Some(_) => Err(Failed::new(Class::Remote, "no channel")),
        }
    }

    fn close_channels(&mut self) {
        self.break_channels();
    }

    fn outcome(&mut self, _txn: &str) -> Result<Outcome, Failed> {
        let trouble = self.trouble(Side::Destination);
        if trouble.is_some() || self.down_until[1] > self.now {
            self.now += Duration::from_secs(1);
            return Err(Failed::new(Class::Remote, "cannot be reached"));
        }
        let outcome = if self.destination == Destination::Ran {
            Outcome::Ran { pid: Some(9) }
        } else {
            self.is_refused = true;
            Outcome::NotRan
        };
        Ok(outcome)
    }

    fn machine(&self, _side: Side) -> Option<&MachineReport> {
        Some(&self.machine)
    }

    fn clock_ahead(&self) -> Option<(f64, f64)> {
        Some((0.2, 0.001))
    }

    fn name_there(&self) -> String {
        "sim".to_owned()
    }

    fn output(&self) -> u64 {
        self.printed.1
    }

    fn pass_on(&mut self, keys: &[u8], _piped: &[u8], _piped_ended: bool) {
        self.typed.extend_from_slice(keys);
    }

    fn tell(&mut self, news: Reply) {
        self.told.push(news);
    }

    fn enter(&mut self, state: &str) {
        self.states.push(state.to_owned());
        self.check();
    }

    fn now(&self) -> Duration {
        self.now
    }
}

fn plan() -> Plan {
    Plan {
        txn: "1".to_owned(),
        job: "sim".to_owned(),
        from: "local".to_owned(),
        to: "there".to_owned(),
        options: MoveOptions { files: FilesPolicy::Carry, ..MoveOptions::default() },
        codec: "lz4".to_owned(),
        most_memory: None,
        relay: true,
    }
}

/// Moves with these troubles, and requires that the program is somewhere, once, and that the user is told so.
fn try_move(troubles: &[Trouble]) -> (World, Result<Option<MoveReport>, Broken>) {
    let mut world = World::new(troubles);
    let result = run(&mut world, &plan());
    // The mover goes, and time goes on.
    world.leave(Side::Source);
    world.leave(Side::Destination);
    world.settle();
    world.now += Duration::from_secs(600);
    world.settle();
    let World { source, destination, .. } = &world;
    let context = format!("{troubles:?}: {source:?}, {destination:?}, {:?}, {result:?}", world.states);
    match &result {
        Ok(_) => assert_eq!(*destination, Destination::Ran, "{context}"),
        Err(broken) => match &broken.whereabouts {
            Whereabouts::Source => assert_eq!((*source, world.running()), (Source::Runs, 1), "{context}"),
            Whereabouts::Saved { image } => {
                assert_eq!(*source, Source::Saved, "{context}");
                assert!(broken.message.contains(&image.text()) && broken.message.contains("restore"), "{context}");
            }
            Whereabouts::Parked => {
                assert!(broken.message.contains("ckptctl ps"), "{context}");
            }
        },
    }
    assert!(world.running() == 1 || *source == Source::Saved, "lost: {context}");
    (world, result)
}

#[test]
fn an_undisturbed_move_goes_through_all_states() {
    let (world, result) = try_move(&[]);
    let report = result.unwrap().unwrap();
    assert_eq!((report.pid, report.bytes, report.file_bytes), (9, 5, 3));
    assert_eq!((world.source, world.got.as_slice()), (Source::Ended, &b"abc"[..]));
    let states = ["surveyed", "prepared", "frozen", "built", "parking", "parked", "going", "running", "moved"];
    assert_eq!(world.states, states);
    assert!(world.told.iter().any(|news| matches!(news, Reply::Progress { phase, .. } if phase == "memory")));
    assert!(report.notes.is_empty());
    assert_eq!(world.typed, b"typed");
    assert!(report.downtime > 0.0);
}

#[test]
fn whatever_happens_once_the_program_is_somewhere_once() {
    let steps = try_move(&[]).0.step;
    for step in 1..=steps {
        for fault in FAULTS {
            for outage in OUTAGES {
                let _ = try_move(&[Trouble { step, fault, outage }]);
            }
        }
    }
}

#[test]
fn whatever_happens_twice_the_program_is_somewhere_once() {
    // The second may hit what is done about the first, which takes a few steps. All pairs take minutes.
    const NEAR: usize = 4;
    let steps = try_move(&[]).0.step + NEAR;
    for first in 1..steps {
        for second in first + 1..=steps.min(first + NEAR) {
            for one in FAULTS {
                for other in FAULTS {
                    for outage in OUTAGES {
                        let trouble = |step, fault, outage| Trouble { step, fault, outage };
                        let _ = try_move(&[trouble(first, one, outage), trouble(second, other, OUTAGES[0])]);
                        let _ = try_move(&[trouble(first, one, OUTAGES[0]), trouble(second, other, outage)]);
                    }
                }
            }
        }
    }
}

#[test]
fn it_is_cancelled_until_it_is_parked() {
    let world = try_move(&[]).0;
    let park = (1..=world.step).find(|step| {
        let trouble = Trouble { step: *step, fault: Fault::Cancelled, outage: Duration::ZERO };
        try_move(&[trouble]).1.is_ok()
    });
    // All before end with 130 and a running source; all after go through.
    for step in 1..=world.step {
        let trouble = Trouble { step, fault: Fault::Cancelled, outage: Duration::ZERO };
        match try_move(&[trouble]).1 {
            Ok(_) => assert!(Some(step) >= park, "{step}"),
            Err(broken) => {
                assert!(Some(step) < park, "{step}: {broken:?}");
                assert_eq!((broken.exit, broken.whereabouts), (130, Whereabouts::Source));
            }
        }
    }
}

/// What the source says of its broken channels neither answers that it shall go on, nor tells what went wrong.
#[test]
fn given_up_while_memory_is_sent() {
    let step = try_move(&[]).0.arrives_at;
    let lost = "the connection to there was lost: cut";
    for (fault, exit, what) in [
        (Fault::Cancelled, 130, "cancelled"),
        (Fault::Fails, 1, "the disk is full"),
        (Fault::CutBefore, 5, lost),
        (Fault::KilledAfter, 5, lost),
    ] {
        let (world, result) = try_move(&[Trouble { step, fault, outage: OUTAGES[0] }]);
        let broken = result.unwrap_err();
        assert_eq!((broken.message, broken.exit), (format!("{what}; the program goes on here"), exit), "{fault:?}");
        assert_eq!(broken.whereabouts, Whereabouts::Source);
        assert_eq!(world.states.last().map(String::as_str), Some("resumed"));
    }
}

/// The destination does not let it go before all that it has printed is at home.
#[test]
fn output_is_brought_home_first() {
    let (world, result) = try_move(&[]);
    assert_eq!((world.printed, result.is_ok()), ((1000, 1000), true));
    let mut world = World { relayed: 0, ..World::new(&[]) };
    let broken = run(&mut world, &plan()).unwrap_err();
    let message = "1000 bytes that it printed on local do not get here; see whether they are read where the job is shown, and \
                   move it again; the program goes on here";
    assert_eq!((broken.message.as_str(), broken.exit), (message, 1));
    assert_eq!((broken.whereabouts, world.source), (Whereabouts::Source, Source::Runs));
}

#[test]
fn a_machine_that_lacks_something_is_refused_before_the_freeze() {
    let try_on = |change: &dyn Fn(&mut World), options: MoveOptions| {
        let mut world = World::new(&[]);
        change(&mut world);
        let result = run(&mut world, &Plan { options, most_memory: Some(1 << 30), ..plan() });
        assert_eq!(world.source == Source::Runs, result.as_ref().is_err() || result.as_ref().unwrap().is_none());
        (world, result)
    };
    let small = |world: &mut World| world.machine.memory = 1 << 20;
    let (world, result) = try_on(&small, MoveOptions::default());
    let broken = result.unwrap_err();
    assert_eq!(broken.exit, Class::Remote as i32);
    assert!(broken.message.contains("1.0 MiB available on there"), "{}", broken.message);
    let bad: Vec<_> = world.told.iter().filter(|news| matches!(news, Reply::Check { ok: false, .. })).collect();
    assert_eq!(bad.len(), 1, "{bad:?}");

    let full = |world: &mut World| world.machine.disk = 1 << 20;
    assert!(try_on(&full, MoveOptions::default()).1.unwrap_err().message.contains("free some space"));
    let (world, result) = try_on(&|_| {}, MoveOptions { dry_run: true, ..MoveOptions::default() });
    assert_eq!((result, world.destination), (Ok(None), Destination::Nothing));
}
