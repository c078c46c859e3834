//! What the menu knows: everything that is drawn, and nothing that is done.

use std::path::PathBuf;

use ckpt_transfer::protocol::{JobState, JobStatus, MoveReport};
use serde::Deserialize;
use tui_input::Input;

use super::effect::{Asker, Effect, Reason};
use super::keys::{Keymap, Place};
use super::theme::Theme;
use crate::client::DetachKey;
use crate::emulator::Emulator;
use crate::holds::Groups;
use crate::jobs::Schedule;
use crate::text;

/// All of it.
pub struct Model {
    /// Colours.
    pub theme: Theme,
    /// Keys.
    pub keymap: Keymap,
    /// The key that brings keys back from a program to the menu.
    pub detach_key: DetachKey,
    /// Whether acts are refused.
    pub read_only: bool,
    /// Columns and rows of the terminal.
    pub size: (u16, u16),
    /// What is shown under all layers.
    pub screen: Screen,
    /// What lies over it, topmost last.
    pub layers: Vec<Layer>,
    /// The list of jobs.
    pub jobs: List<JobStatus>,
    /// Why they cannot be listed.
    pub unlisted: Option<String>,
    /// The job that is open.
    pub job: Option<OpenJob>,
    /// How often a job's terminal was attached.
    pub attachments: u64,
    /// The hosts.
    pub hosts: List<HostRow>,
    /// The making of a new job.
    pub new: NewJob,
    /// The directory that the menu was started in.
    pub started_in: PathBuf,
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// What was done, and what went wrong.
    pub log: Vec<LogLine>,
    /// Whether that is shown.
    pub shows_log: bool,
    /// How many lines of it are below what is shown.
    pub log_scroll: usize,
    /// The last thing to be told, in the line above the footer.
    pub notice: Option<Notice>,
    /// Verbs under way.
    pub acts: Vec<Running>,
    /// Moves under way, and one that is over and still shown.
    pub moves: Vec<Move>,
    /// The options of a verb that were typed last: they are asked for again when they are wrong.
    pub options: Option<(String, Field, String)>,
}

/// The screens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    /// All jobs.
    Jobs,
    /// One job.
    Job,
    /// The hosts.
    Hosts,
    /// A new job.
    New,
}

/// A list with a choice and a filter.
pub struct List<T> {
    /// All rows; `None` until they are known.
    pub rows: Option<Vec<T>>,
    /// The chosen one, among those that are shown.
    pub selected: usize,
    /// The name of one that is chosen as soon as it is there.
    pub wanted: Option<String>,
    /// What is typed into the filter.
    pub filter: Input,
    /// Whether keys go into the filter.
    pub is_filtering: bool,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { rows: None, selected: 0, wanted: None, filter: Input::default(), is_filtering: false }
    }
}

/// Something that can be found by a filter.
pub trait Named {
    /// What the filter is compared with.
    fn name(&self) -> String;
}

impl<T: Named> List<T> {
    /// The rows that match the filter, the best first where there is one.
    pub fn shown(&self) -> Vec<&T> {
        let rows = self.rows.as_deref().unwrap_or_default();
        matching(self.filter.value(), rows.iter(), Named::name)
    }

    /// The chosen row.
    pub fn chosen(&self) -> Option<&T> {
        let shown = self.shown();
        shown.get(self.selected.min(shown.len().saturating_sub(1))).copied()
    }

    /// New rows: the choice stays with the row of the same name, unless one that was waited for is there.
    pub fn replace(&mut self, rows: Vec<T>) {
        let name = self.chosen().map(Named::name);
        self.rows = Some(rows);
        let same = name.and_then(|name| self.position(&name));
        self.selected = same.unwrap_or(self.selected).min(self.shown().len().saturating_sub(1));
        if let Some(wanted) = self.wanted.take() {
            self.choose(wanted);
        }
    }

    /// Chooses the row of this name, now or as soon as it is there.
    pub fn choose(&mut self, name: String) {
        match self.position(&name) {
            Some(at) => (self.selected, self.wanted) = (at, None),
            None => self.wanted = Some(name),
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.shown().iter().position(|row| row.name() == name)
    }

    /// Moves the choice.
    pub fn step(&mut self, by: isize) {
        let last = self.shown().len().saturating_sub(1);
        self.wanted = None;
        self.selected = self.selected.min(last).saturating_add_signed(by).min(last);
    }
}

/// The items whose text matches what was typed, fuzzily, the best first; all in their order when nothing was typed.
pub fn matching<'a, T>(typed: &str, items: impl Iterator<Item = &'a T>, text: impl Fn(&T) -> String) -> Vec<&'a T> {
    use nucleo_matcher::pattern::{CaseMatching, Normalization, Pattern};
    use nucleo_matcher::{Config, Matcher, Utf32Str};
    if typed.is_empty() {
        return items.collect();
    }
    let pattern = Pattern::parse(typed, CaseMatching::Smart, Normalization::Smart);
    let mut matcher = Matcher::new(Config::DEFAULT.match_paths());
    let mut buffer = Vec::new();
    let mut found: Vec<(u32, &T)> = items
        .filter_map(|item| Some((pattern.score(Utf32Str::new(&text(item), &mut buffer), &mut matcher)?, item)))
        .collect();
    found.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
    found.into_iter().map(|(_, item)| item).collect()
}

impl Named for JobStatus {
    fn name(&self) -> String {
        self.name.clone()
    }
}

/// A machine that jobs can move to.
#[derive(Debug, Clone, PartialEq)]
pub struct HostRow {
    /// Its name.
    pub name: String,
    /// Where it is, as the hosts file says.
    pub address: String,
    /// What is known of the way there.
    pub state: HostState,
    /// What a trial has found so far: what, and how it is.
    pub facts: Vec<(String, String)>,
    /// By what it lets the user in.
    pub login: Option<String>,
    /// Its load average over a minute.
    pub load: Option<f64>,
    /// Its available memory in bytes.
    pub memory: Option<u64>,
}

/// What is known of the way to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostState {
    /// Nothing.
    Untried,
    /// It is being tried.
    Trying,
    /// Programs can be moved there.
    Ready,
    /// They cannot.
    Failed,
}

impl HostRow {
    /// One that was not tried.
    pub fn new(name: impl Into<String>, address: impl Into<String>) -> Self {
        let (name, address, state) = (name.into(), address.into(), HostState::Untried);
        Self { name, address, state, facts: Vec::new(), login: None, load: None, memory: None }
    }
}

impl Named for HostRow {
    fn name(&self) -> String {
        self.name.clone()
    }
}

/// The job that is open.
pub struct OpenJob {
    /// Its name.
    pub name: String,
    /// Its terminal.
    pub screen: Emulator,
    /// The number of its attachment.
    pub attachment: u64,
    /// Whether it can be typed into: connected to its supervisor.
    pub is_attached: bool,
    /// Whether keys go to the program.
    pub is_typing: bool,
    /// What is shown of it.
    pub tab: Tab,
    /// Its checkpoints, the newest first.
    pub checkpoints: List<Checkpoint>,
    /// How many more there are that are damaged.
    pub damaged: usize,
    /// When it is saved by itself, if it is.
    pub schedule: Option<Schedule>,
    /// What it holds, in lines under headings.
    pub holds: Option<Result<Groups, String>>,
    /// How far down that is scrolled.
    pub scroll: u16,
}

/// The views of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tab {
    /// Its terminal.
    Terminal,
    /// Its checkpoints.
    Checkpoints,
    /// Threads, files, memory.
    Holds,
}

impl Tab {
    /// All, in order, with their headings.
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Terminal, "Terminal"), (Self::Checkpoints, "Checkpoints"), (Self::Holds, "Holds")];

    /// The next one.
    pub fn next(self) -> Self {
        match self {
            Self::Terminal => Self::Checkpoints,
            Self::Checkpoints => Self::Holds,
            Self::Holds => Self::Terminal,
        }
    }
}

/// A checkpoint in a job's history, as `ckptctl history --json` tells it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Checkpoint {
    /// Its number.
    pub number: u64,
    /// When, in seconds since 1970.
    pub at: u64,
    /// Bytes of its image.
    pub bytes: u64,
    /// Pages of memory in it.
    pub pages: u64,
    /// How long the program could not run, in seconds.
    pub pause: f64,
    /// Why it was made: `asked`, `scheduled`, `move`.
    #[serde(default)]
    pub reason: String,
    /// What changed since the one before, in words.
    #[serde(default)]
    pub change: String,
    /// The terminal's screen as it was.
    #[serde(default)]
    pub screen: Vec<String>,
}

impl Named for Checkpoint {
    fn name(&self) -> String {
        self.number.to_string()
    }
}

/// The making of a new job.
pub struct NewJob {
    /// The directory that is shown.
    pub directory: PathBuf,
    /// What is in it.
    pub files: List<FileRow>,
    /// The beginning of the chosen file.
    pub preview: Option<(PathBuf, Vec<String>)>,
    /// What the compiler said last.
    pub build: Option<Build>,
    /// The program that `r` runs.
    pub program: Option<PathBuf>,
    /// The command line that was run last, as typed.
    pub command: String,
    /// The program's arguments, as typed.
    pub arguments: String,
    /// Flags for the compiler.
    pub flags: String,
    /// `NAME=VALUE` ...
    pub environment: String,
    /// Where it runs; the shown directory if empty.
    pub run_in: String,
}

/// A file in the picker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRow {
    /// Its name, for people.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub kind: FileKind,
    /// Its size.
    pub size: u64,
}

/// What a file is to the picker; in the order in which they are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    /// The directory above.
    Parent,
    /// C or C++ source.
    Source,
    /// Something that can be run.
    Program,
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

impl Named for FileRow {
    fn name(&self) -> String {
        self.name.clone()
    }
}

/// A build.
pub struct Build {
    /// The source.
    pub source: PathBuf,
    /// The compiler's flags, as typed.
    pub flags: String,
    /// Whether the program is run when it is built.
    pub then_run: bool,
    /// How it went.
    pub result: Option<Result<(), Complaint>>,
}

/// What a compiler did not like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// All that it said.
    pub text: String,
    /// Where its first error is: the file, as the compiler calls it, and the line, from 1.
    pub at: Option<(String, usize)>,
    /// The first error.
    pub message: String,
    /// The source around it: line numbers and lines.
    pub around: Vec<(usize, String)>,
}

/// What lies over the screen.
pub enum Layer {
    /// All keys.
    Help {
        /// How far down.
        scroll: u16,
    },
    /// Commands by name.
    Palette {
        /// What is typed.
        typed: Input,
        /// The chosen one.
        selected: usize,
    },
    /// A question with No as its default.
    Confirm {
        /// The question, with the object's name.
        question: String,
        /// What would be lost.
        detail: String,
        /// Whether yes is chosen.
        is_yes: bool,
        /// What yes does.
        effect: Effect,
    },
    /// A line to be typed.
    Line {
        /// What is asked.
        title: String,
        /// What is typed.
        typed: Input,
        /// What it is for.
        field: Field,
    },
    /// The choice of a host.
    Choose {
        /// The job.
        job: String,
    },
    /// A move, under way or done.
    Move {
        /// The job.
        job: String,
    },
}

/// What a typed line is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// The program's arguments.
    Arguments,
    /// The compiler's flags.
    Flags,
    /// The program's environment.
    Environment,
    /// The program's directory.
    Directory,
    /// A command line that is run.
    Command,
    /// The rest of a verb.
    Verb {
        /// Its first words.
        words: Vec<String>,
        /// What it is for.
        reason: Reason,
    },
    /// The answer to a question.
    Answer {
        /// Who asks.
        asker: Asker,
        /// Whether what is typed may be seen.
        echo: bool,
    },
}

/// A move under way or done.
pub struct Move {
    /// The job.
    pub job: String,
    /// Where to.
    pub host: String,
    /// What was looked at before: what, what was found, whether it stands in the way.
    pub checks: Vec<(String, String, bool)>,
    /// What is being done, and bytes done of a total.
    pub progress: Option<(String, u64, u64)>,
    /// Bytes a second, smoothed.
    pub rate: f64,
    /// When the last progress came, in milliseconds, and its bytes.
    pub last: Option<(u64, u64)>,
    /// How it ended.
    pub result: Option<Result<Box<MoveReport>, String>>,
    /// Whether the user has asked to give it up.
    pub is_cancelled: bool,
}

/// A line of the log pane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When, in seconds since 1970.
    pub at: u64,
    /// The verb, as one could type it; or what went wrong.
    pub text: String,
    /// Whether it went wrong.
    pub is_error: bool,
}

/// Something to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What.
    pub text: String,
    /// Whether it went wrong.
    pub is_error: bool,
}

/// A verb under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// What for.
    pub reason: Reason,
    /// In words, for the screen.
    pub words: String,
    /// What is being done, and bytes done of a total.
    pub progress: Option<(String, u64, u64)>,
    /// Whether the user has asked to give it up.
    pub is_cancelled: bool,
}

impl Model {
    /// The menu as it begins in a directory.
    pub fn new(theme: Theme, keymap: Keymap, read_only: bool, directory: PathBuf) -> Self {
        Self {
            theme,
            keymap,
            detach_key: DetachKey::default(),
            read_only,
            size: (80, 24),
            screen: Screen::Jobs,
            layers: Vec::new(),
            jobs: List::default(),
            unlisted: None,
            job: None,
            attachments: 0,
            hosts: List::default(),
            started_in: directory.clone(),
            home: None,
            new: NewJob {
                directory,
                files: List::default(),
                preview: None,
                build: None,
                program: None,
                command: String::new(),
                arguments: String::new(),
                flags: String::new(),
                environment: String::new(),
                run_in: String::new(),
            },
            log: Vec::new(),
            shows_log: false,
            log_scroll: 0,
            notice: None,
            acts: Vec::new(),
            moves: Vec::new(),
            options: None,
        }
    }

    /// Where commands are given now.
    pub fn place(&self) -> Place {
        match (self.layers.last(), self.screen) {
            (Some(Layer::Choose { .. }), _) => Place::Choose,
            (_, Screen::Jobs) => Place::Jobs,
            (_, Screen::Job) => Place::Job,
            (_, Screen::Hosts) => Place::Hosts,
            (_, Screen::New) => Place::New,
        }
    }

    /// The job that acts are about: the open or the chosen one.
    pub fn current_job(&self) -> Option<&JobStatus> {
        match self.screen {
            Screen::Jobs => self.jobs.chosen(),
            Screen::Job => {
                let name = &self.job.as_ref()?.name;
                self.jobs.rows.as_ref()?.iter().find(|job| job.name == *name)
            }
            Screen::Hosts | Screen::New => None,
        }
    }

    /// The name of that job; also of one that was just started, which the list will know in a moment.
    pub fn current_name(&self) -> Option<&str> {
        match (self.screen, &self.job) {
            (Screen::Job, Some(open)) => Some(&open.name),
            _ => self.current_job().map(|job| job.name.as_str()),
        }
    }

    /// Whether an act is about what is shown: the current job, or what is made on this screen.
    pub fn is_about_this(&self, act: &Running) -> bool {
        match (self.screen, act.reason.job()) {
            (Screen::Jobs | Screen::Job, Some(job)) => self.current_name() == Some(job),
            (Screen::Hosts, None) => act.reason == Reason::Hosts,
            (Screen::New, None) => act.reason != Reason::Hosts,
            _ => false,
        }
    }

    /// Tells something, in the line above the footer; what went wrong stays in the log pane.
    pub fn tell(&mut self, text: impl Into<String>, is_error: bool) {
        let text = text::plain(&text.into());
        if is_error {
            self.note(text.clone(), true);
        }
        self.notice = Some(Notice { text, is_error });
    }

    /// Adds a line to the log pane.
    pub fn note(&mut self, text: String, is_error: bool) {
        const MOST: usize = 1000;
        if self.log.len() == MOST {
            self.log.remove(0);
        }
        self.log.push(LogLine { at: crate::jobs::now(), text, is_error });
    }
}

/// A state in a word.
pub fn state_word(state: JobState) -> &'static str {
    match state {
        JobState::Running => "running",
        JobState::Stopped => "stopped",
        JobState::Moving => "moving",
        JobState::Ended => "ended",
        JobState::Saved => "saved",
        JobState::Unreachable => "unreachable",
    }
}
