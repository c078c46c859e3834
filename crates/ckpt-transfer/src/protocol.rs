//! What supervisors, agents and their clients say to each other.
//!
//! The first request on a connection gives it its purpose. To a job's supervisor the same is said on its socket and, through
//! an agent ([`Request::Join`]), from another machine.

use std::path::PathBuf;

use ckpt_core::resource::bytes::{self, Bytes};
use ckpt_core::resource::machine::Machine;
use serde::{Deserialize, Serialize};

/// Grows with every change that an older side would misunderstand. Both ends of a move are the same program, so this only
/// tells a supervisor that was started by another version.
pub const VERSION: u32 = 1;

/// What is asked of an agent or a supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    // Of any machine.
    /// What is this machine, and what does it allow? → [`Reply::Machine`].
    Probe,
    /// Which jobs are here? → [`Reply::Jobs`].
    Jobs,
    /// What does the program of a job hold? → [`Reply::Holds`].
    Holds {
        /// The job's name there.
        job: String,
    },
    /// Which of these contents are not here, neither under their paths nor in the store? → [`Reply::Lacking`].
    Lacking {
        /// What will be needed.
        files: Vec<FileEntry>,
        /// What to do about files.
        policy: FilesPolicy,
    },
    /// Takes contents, in [`Request::Chunk`]s that follow, until `size` → [`Reply::Stored`].
    Put {
        /// Where they go.
        target: Target,
        /// Their size in bytes, all in all.
        size: u64,
        /// From where on they come: an interrupted copy goes on.
        offset: u64,
    },
    /// What of it is there already? → [`Reply::Lacking`]: nothing when it is there whole, else `(0, bytes)`.
    Has {
        /// Where it would go.
        target: Target,
        /// Its size in bytes.
        size: u64,
    },
    /// These contents may begin as those do that are there already: so much of them need not be sent. If that is wrong they are
    /// found to be damaged when they have come → [`Reply::Done`], also when nothing was done.
    Grown {
        /// The hash of what is wanted.
        hash: String,
        /// The hash of what is there.
        from: String,
    },
    /// A part of what was announced: the body.
    Chunk,
    /// Gives a file's bytes from an offset to its end → [`Reply::Chunk`]s, then [`Reply::Done`].
    Read {
        /// The file.
        #[serde(with = "bytes::path")]
        path: PathBuf,
        /// From where on.
        offset: u64,
        /// How many bytes at most.
        length: u64,
    },
    /// From now on this connection is one to a job's supervisor → [`Reply::Joined`].
    Join {
        /// The job.
        job: String,
        /// Start a supervisor that has no program yet, of this name or one like it.
        create: bool,
    },
    /// What became of a move that came here? From then on it is decided: one that had not been let go never is →
    /// [`Reply::Outcome`].
    Outcome {
        /// The move.
        txn: String,
    },
    /// Which files has the program of a job, running or ended, that may be written to and went along? → [`Reply::Written`].
    Written {
        /// The job.
        job: String,
    },
    /// Remove all that is known of a job that has ended here after it came from elsewhere → [`Reply::Done`].
    Forget {
        /// The job.
        job: String,
    },

    // Of a job's supervisor.
    /// What is it doing? → [`Reply::Status`].
    Status,
    /// Everything it prints from an output offset on, and what happens to it, until the connection closes → [`Reply::Attached`],
    /// then [`Reply::Output`], [`Reply::Moved`], [`Reply::Stopped`], [`Reply::Continued`], [`Reply::Ended`].
    Attach {
        /// From which output offset on; `None`: a screenful back.
        from: Option<u64>,
        /// Whether to stay for what comes.
        follow: bool,
        /// The size of the terminal that is attached, if it is to be the program's.
        size: Option<WindowSize>,
    },
    /// Typed input: the body.
    Input,
    /// Input for a program whose standard input is a pipe: the body.
    Piped,
    /// No more input comes from a pipe or file.
    InputEnd,
    /// Nobody reads this pipe of the program any more.
    OutputClosed {
        /// [`Stream::Output`] or [`Stream::Error`].
        stream: Stream,
    },
    /// From now on the program waits for this client rather than that output is lost to it. Sent before
    /// [`Request::Attach`].
    Hold,
    /// The attached terminal has another size.
    Resize {
        /// The new one.
        size: WindowSize,
    },
    /// Send the program a signal.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// Send the program's process group a signal, as a key of its terminal would.
    SignalGroup {
        /// Its number.
        signal: i32,
    },
    /// The attached shell has put the stopped program into the foreground again.
    Continue,
    /// Save it → [`Reply::Progress`], [`Reply::Saved`].
    Checkpoint {
        /// Into this file; `None`: into the job's history.
        file: Option<Bytes>,
        /// End it when its image is complete.
        stop: bool,
        /// `none`, `lz4` or `zstd`.
        codec: String,
        /// As `ckptctl checkpoint --self-contained`.
        self_contained: bool,
        /// As `ckptctl checkpoint --carry-files`.
        carry_files: bool,
        /// As `ckptctl checkpoint --tcp=close`.
        #[serde(default)]
        tcp_close: bool,
    },
    /// Save it by itself from now on, or not any more → [`Reply::Done`].
    Schedule {
        /// How often, in seconds; `None`: not because time has passed.
        every: Option<u64>,
        /// How many of the latest are kept.
        keep: u64,
        /// Also before each move. Neither this nor `every`: not any more.
        #[serde(default)]
        before_move: bool,
    },
    /// Move it → [`Reply::Ask`], [`Reply::Check`], [`Reply::Progress`], [`Reply::MovedTo`].
    Migrate {
        /// The host's name, or `local`.
        host: String,
        /// How.
        options: MoveOptions,
    },
    /// The answer to [`Reply::Ask`]; `None`: there is nobody to ask, or they gave up.
    Answer {
        /// What was typed.
        answer: Option<String>,
    },
    /// Give up the act that this connection asked for, if it is not decided yet.
    Cancel,

    // Of the source of a move.
    /// What does the program hold and need? Nothing is stopped → [`Reply::Survey`].
    Survey {
        /// What is carried.
        policy: FilesPolicy,
        /// More files or directories to carry.
        with: Vec<Bytes>,
        /// As `--tcp=close`.
        tcp_close: bool,
    },
    /// Freeze it and send its image over the data channels → [`Reply::Frozen`], [`Reply::Sent`].
    Depart(Box<Departing>),
    /// Make sure that it cannot run even if its supervisor is killed → [`Reply::Parked`].
    Park,
    /// Let it run on: the move is off → [`Reply::Resumed`].
    Resume,
    /// It runs elsewhere: end it here → [`Reply::Discarded`].
    Discard {
        /// Where it runs, for those who ask here.
        host: String,
        /// The job's name there.
        job: String,
        /// Whoever is attached here stays so: this supervisor relays from there. Else it ends.
        relay: bool,
    },
    /// Nobody knows whether it runs elsewhere: save it and end it → [`Reply::Saved`].
    Save,

    // Of the destination of a move.
    /// Put these files, as far as their contents are here, where the program that comes is to find them: it does not wait for
    /// that then → [`Reply::Done`], also when nothing was done.
    Place {
        /// What it will have.
        files: Vec<FileEntry>,
        /// What to do about files.
        policy: FilesPolicy,
    },
    /// Take a program whose image comes over the data channels → [`Reply::Ready`].
    Arrive(Box<Arriving>),
    /// Let it run → [`Reply::Running`].
    Go,

    // Of both.
    /// With it come two descriptors of a data channel of a move: to read from and to write into. The connection stays open as
    /// long as they are needed.
    Data {
        /// The move.
        txn: String,
        /// Which of them, from 0.
        index: usize,
    },
    /// Nothing, but the other side lives. Sent every [`HEARTBEAT`]; silence for [`SILENCE`] is the end of the connection.
    Heartbeat,
}

/// How often each side of a move says that it lives.
pub const HEARTBEAT: std::time::Duration = std::time::Duration::from_secs(5);
/// After how long a silent side counts as gone.
pub const SILENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// What comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// It could not be done.
    Failed {
        /// What happened, to what, what to do.
        message: String,
        /// The exit status that it means.
        exit: i32,
    },
    /// It is done.
    Done,
    /// A machine.
    Machine(Box<MachineReport>),
    /// The jobs of a machine.
    Jobs {
        /// All of them.
        jobs: Vec<JobStatus>,
    },
    /// What a program holds, for people.
    Holds {
        /// Lines under headings.
        groups: Vec<(String, Vec<String>)>,
    },
    /// Contents that are not there, with how many bytes of each have come already.
    Lacking {
        /// Index into the question's files, and the bytes that are there.
        files: Vec<(usize, u64)>,
    },
    /// The files that went along and may have been written to, as they are now.
    Written {
        /// Below which directory they are there.
        root: Bytes,
        /// The files.
        files: Vec<FileEntry>,
    },
    /// Contents came whole, and are what they should be.
    Stored,
    /// A part of a file: the body.
    Chunk,
    /// The connection leads to the job's supervisor.
    Joined {
        /// The job's name here.
        job: String,
        /// The [`VERSION`] of its supervisor.
        version: u32,
    },
    /// What a job is doing.
    Status(Box<JobStatus>),
    /// What comes next is output from this offset on.
    Attached {
        /// The offset.
        from: u64,
        /// Whether the program has a terminal.
        terminal: bool,
    },
    /// Output: the body.
    Output {
        /// Where it comes from.
        stream: Stream,
        /// The output offset of its first byte.
        offset: u64,
    },
    /// The program no longer reads its standard input, a pipe.
    InputClosed,
    /// A signal stopped it.
    Stopped,
    /// It goes on.
    Continued,
    /// It runs on another machine now, or the connection to that was lost or found again.
    Moved {
        /// Where it is.
        host: String,
        /// Whether it can be reached.
        reached: bool,
    },
    /// It ended.
    Ended(Ending),
    /// It was ended when its image was complete.
    Left {
        /// The image.
        image: Bytes,
    },
    /// A question to the user.
    Ask {
        /// The question.
        question: String,
        /// Whether what is typed may be seen.
        echo: bool,
    },
    /// One of the checks before a move.
    Check {
        /// What was looked at.
        what: String,
        /// What was found.
        found: String,
        /// Whether it stands in the way.
        ok: bool,
    },
    /// How far an act is.
    Progress {
        /// What is being done: `files`, `memory` ...
        phase: String,
        /// Bytes done.
        done: u64,
        /// Of so many, as far as known.
        total: u64,
    },
    /// A checkpoint is complete.
    Saved {
        /// The engine's report, as `ckptctl checkpoint --json` prints it.
        report: serde_json::Value,
    },
    /// A move is complete.
    MovedTo(Box<MoveReport>),
    /// What the program holds and needs.
    Survey(Box<SurveyReport>),
    /// The program is frozen; these are its files now.
    Frozen {
        /// All that go along, as they are now.
        files: Vec<FileEntry>,
        /// Its terminal.
        terminal: Option<TerminalEntry>,
        /// Who the job is.
        job: Box<JobDescription>,
        /// For how long it has been frozen, in seconds.
        since: f64,
    },
    /// The image has been sent whole.
    Sent {
        /// Its bytes.
        bytes: u64,
        /// Pages of memory in it.
        pages: u64,
        /// Threads in it.
        threads: usize,
    },
    /// It cannot run here any more, but is there.
    Parked,
    /// It runs here again.
    Resumed,
    /// It is gone here. What was typed or sent to it meanwhile goes after it.
    Discarded {
        /// Typed.
        keys: Bytes,
        /// For its standard input, a pipe.
        piped: Bytes,
        /// Whether no more of that comes.
        piped_ended: bool,
    },
    /// It is built, checked, and could run.
    Ready {
        /// What differs from before, in sentences.
        notes: Vec<String>,
    },
    /// It runs here.
    Running {
        /// The process, as this machine sees it.
        pid: i32,
    },
    /// What became of a move.
    Outcome {
        /// It came and was let go.
        ran: bool,
        /// Its process, if it is there.
        pid: Option<i32>,
        /// How it ended, if it has and that is known.
        ended: Option<Ending>,
    },
    /// Nothing, but the other side lives.
    Heartbeat,
}

/// Where contents go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Into the store, under their BLAKE3 hash, which is checked.
    Store(String),
    /// Into a file, with this mode.
    File {
        /// Its path, absolute or from the directory that the agent was started in.
        path: Bytes,
        /// Permission bits.
        mode: u32,
        /// BLAKE3 of its contents, which is checked.
        hash: String,
    },
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// Where output comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// The job's terminal.
    Terminal,
    /// Standard output that is a pipe.
    Output,
    /// Standard error that is a pipe.
    Error,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It exited with this status.
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
}

/// What to do about the program's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilesPolicy {
    /// They go along: what is mapped where the host lacks it, what is open, and the working directory.
    #[default]
    Carry,
    /// They are there already, with the same contents; or it is refused.
    Expect,
    /// Both machines see the same file system.
    Shared,
}

/// How to move.
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own on the command line")]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveOptions {
    /// What to do about files.
    pub files: FilesPolicy,
    /// More files or directories to carry.
    pub with: Vec<Bytes>,
    /// `none`, `lz4`, `zstd`, or what the hosts file says.
    pub codec: Option<String>,
    /// Connected TCP sockets become reset ones.
    pub tcp_close: bool,
    /// Also where the processor lacks features.
    pub ignore_cpu: bool,
    /// Write an image file into the job's history as well.
    pub keep: bool,
    /// Over files at home that have changed meanwhile.
    pub overwrite: bool,
    /// Only the checks.
    pub dry_run: bool,
}

/// What a file is to a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileRole {
    /// Its executable, a library, or another file that is only mapped for reading.
    Code,
    /// Open for reading, or found in its working directory.
    Input,
    /// Open or mapped for writing.
    Output,
}

/// A file that goes along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its path, as the program knows it; absolute.
    #[serde(with = "bytes::path")]
    pub path: PathBuf,
    /// What it is to the program.
    pub role: FileRole,
    /// Type and permission bits (`st_mode`).
    pub mode: u32,
    /// Bytes; 0 for a directory.
    pub size: u64,
    /// Last modification, in nanoseconds since 1970.
    pub modified: i64,
    /// BLAKE3 of its contents; `None` for what has none (directories, symbolic links).
    pub hash: Option<String>,
    /// The build id of an ELF file.
    pub build_id: Option<String>,
    /// Where a symbolic link leads.
    pub link: Option<Bytes>,
}

impl FileEntry {
    /// The kind of a directory.
    pub const DIRECTORY: u32 = 0o040_000;
    /// The kind of a symbolic link.
    pub const LINK: u32 = 0o120_000;

    /// What kind of file it is: the type bits of its mode (`S_IFMT`).
    #[must_use]
    pub fn kind(&self) -> u32 {
        self.mode & 0o170_000
    }
}

/// A job's terminal, as it is when the program is frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalEntry {
    /// Its size.
    pub size: WindowSize,
    /// What was typed and not read yet.
    pub pending: Bytes,
}

/// Who a job is, wherever it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobDescription {
    /// Its name.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<Bytes>,
    /// Where it was started.
    pub directory: Bytes,
    /// When, in seconds since 1970.
    pub started: u64,
    /// How many bytes it has printed so far.
    pub output: u64,
    /// Which of its standard descriptors are pipes that its supervisor relays: 0, 1, 2.
    pub pipes: Vec<i32>,
    /// How many checkpoints it has.
    pub checkpoints: u64,
    /// Input for a standard input that is a pipe, which has not reached it yet.
    pub piped: Bytes,
    /// Whether no more comes behind that.
    pub piped_ended: bool,
}

/// A program that leaves.
#[allow(clippy::struct_excessive_bools, reason = "each is a question of its own")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departing {
    /// The move.
    pub txn: String,
    /// Where it goes.
    pub to: String,
    /// The job's name there.
    pub name_there: String,
    /// What to do about files.
    pub policy: FilesPolicy,
    /// More files or directories to carry.
    pub with: Vec<Bytes>,
    /// How memory is compressed.
    pub codec: String,
    /// As `--tcp=close`.
    pub tcp_close: bool,
    /// The image carries the executable, libraries and other mapped files as well.
    pub self_contained: bool,
    /// The image carries the contents of all open files.
    pub carry_files: bool,
    /// How many data channels there are.
    pub channels: usize,
    /// Write the image into the job's history as well.
    pub keep: bool,
}

/// A program that comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arriving {
    /// The move.
    pub txn: String,
    /// Who it is.
    pub job: JobDescription,
    /// Its terminal.
    pub terminal: Option<TerminalEntry>,
    /// The files that go along, all of whose contents are here.
    pub files: Vec<FileEntry>,
    /// What to do about files.
    pub policy: FilesPolicy,
    /// How many data channels there are.
    pub channels: usize,
    /// Also where the processor lacks features.
    pub ignore_cpu: bool,
    /// Over files at home that have changed meanwhile.
    pub overwrite: bool,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineReport {
    /// What programs depend on.
    pub machine: Machine,
    /// `doctor`'s findings, as `ckptctl doctor --json` prints them.
    pub doctor: serde_json::Value,
    /// Whether a nest can be made: why not.
    pub nest: Result<(), String>,
    /// Free memory, in bytes (`MemAvailable`).
    pub memory: u64,
    /// Free disk space where jobs and files are kept, in bytes.
    pub disk: u64,
    /// Load average over a minute.
    pub load: f64,
    /// Its clock, in nanoseconds since 1970.
    pub clock: i64,
    /// The user there.
    pub user: u32,
    /// The home directory there.
    pub home: Bytes,
}

/// What a program holds and needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SurveyReport {
    /// The machine it is on, with the processor features that it may use.
    pub machine: Machine,
    /// Bytes of memory to be sent, about.
    pub memory: u64,
    /// Threads.
    pub threads: usize,
    /// The files that go along.
    pub files: Vec<FileEntry>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It runs, or waits for something.
    Running,
    /// A signal or a debugger holds it.
    Stopped,
    /// It is being moved.
    Moving,
    /// It ended.
    Ended,
    /// It was ended when its image was complete, and can be restored.
    Saved,
    /// It runs on another machine that cannot be reached now.
    Unreachable,
}

/// A job as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: JobState,
    /// Where it is; `local` for this machine.
    pub host: String,
    /// Its process there; none when it has ended.
    pub pid: Option<i32>,
    /// Resident memory in bytes.
    pub memory: Option<u64>,
    /// CPU time used, in seconds.
    pub cpu: Option<u64>,
    /// How many checkpoints are in its history.
    pub checkpoints: u64,
    /// When the last one was made, in seconds since 1970.
    pub last_checkpoint: Option<u64>,
    /// When it was started, in seconds since 1970.
    pub started: u64,
    /// The program and its arguments.
    pub command: Vec<Bytes>,
    /// Where it was started.
    pub directory: Bytes,
    /// How it ended.
    pub ending: Option<Ending>,
    /// When, in seconds since 1970.
    pub ended: Option<u64>,
    /// The last line that it printed.
    pub last_line: String,
    /// What the user should know: how to restore it, why it cannot be reached.
    pub note: Option<String>,
}

/// How a move went. Times in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MoveReport {
    /// The job.
    pub job: String,
    /// Where it was.
    pub from: String,
    /// Where it is.
    pub to: String,
    /// Its process there.
    pub pid: i32,
    /// Bytes of the image.
    pub bytes: u64,
    /// Pages in it.
    pub pages: u64,
    /// Bytes of files that were sent.
    pub file_bytes: u64,
    /// From the freeze until it ran there.
    pub downtime: f64,
    /// Parts of the downtime, in order: name and seconds.
    pub parts: Vec<(String, f64)>,
    /// From the request to the end.
    pub total: f64,
    /// What differs from before, in sentences.
    pub notes: Vec<String>,
}
