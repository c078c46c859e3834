//! What the menu asks to be done, outside of itself.

use std::path::PathBuf;

use ckpt_transfer::protocol::WindowSize;

/// Something to be done by the workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Give a verb, as the user could on a command line.
    Verb {
        /// What it is for.
        reason: Reason,
        /// Its words, without `ckptctl`.
        words: Vec<String>,
        /// Where it is given.
        directory: Option<PathBuf>,
        /// `NAME=VALUE` for it and what it starts.
        environment: Vec<(String, String)>,
    },
    /// Build a source.
    Build {
        /// The verb's words.
        words: Vec<String>,
        /// Where it is given.
        directory: PathBuf,
        /// The source.
        source: PathBuf,
        /// The program to come.
        program: PathBuf,
        /// Not if that is newer than its source.
        unless_newer: bool,
    },
    /// Save a job into its history.
    Save {
        /// The job.
        job: String,
    },
    /// Give an act up that is under way.
    Cancel(Reason),
    /// Show a job's terminal, of this size.
    Attach {
        /// The job.
        job: String,
        /// The size that its terminal gets; `None`: it stays as it is.
        size: Option<WindowSize>,
        /// Which attachment this is: what an earlier one still says is not about this job.
        number: u64,
    },
    /// Do not show it any more.
    Detach,
    /// Send keys to the attached program.
    Input(Vec<u8>),
    /// Its pane has another size.
    Resize(WindowSize),
    /// Move a job.
    Migrate {
        /// The job.
        job: String,
        /// Where to.
        host: String,
    },
    /// Answer a question.
    Answer {
        /// Whose.
        asker: Asker,
        /// What was typed; `None`: nothing.
        answer: Option<String>,
    },
    /// Give a move up.
    CancelMove {
        /// The job.
        job: String,
    },
    /// List a directory.
    List(PathBuf),
    /// Show the beginning of a file.
    Preview(PathBuf),
    /// Read what a job's program holds.
    Holds {
        /// The job.
        job: String,
    },
    /// Read when a job is saved by itself.
    Schedule {
        /// The job.
        job: String,
    },
    /// Read the hosts file.
    Hosts,
    /// Try the connections to hosts, a few at a time.
    Try(Vec<String>),
    /// Take the terminal again and draw everything.
    Redraw,
    /// Leave the menu.
    Quit,
}

/// What a verb is for: what to do with its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Build a source: what comes of it is a message of its own.
    Build,
    /// Run a program as a job.
    Run,
    /// Save a job.
    Save {
        /// The job.
        job: String,
    },
    /// Bring a job back.
    Restore {
        /// The job.
        job: String,
    },
    /// Start a second run beside the first.
    Branch {
        /// The job.
        job: String,
    },
    /// End a job.
    Stop {
        /// The job.
        job: String,
    },
    /// Forget a job.
    Remove {
        /// The job.
        job: String,
    },
    /// List a job's checkpoints.
    History {
        /// The job.
        job: String,
    },
    /// Set or end a job's schedule.
    Schedule {
        /// The job.
        job: String,
    },
    /// Change the hosts file.
    Hosts,
}

/// Who asks the user something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asker {
    /// The move of a job.
    Move(String),
    /// The trial of a host.
    Trial(String),
}

impl Reason {
    /// The job that it is about.
    pub fn job(&self) -> Option<&str> {
        match self {
            Self::Save { job }
            | Self::Restore { job }
            | Self::Branch { job }
            | Self::Stop { job }
            | Self::Remove { job }
            | Self::History { job }
            | Self::Schedule { job } => Some(job),
            Self::Build | Self::Run | Self::Hosts => None,
        }
    }

    /// Whether it changes something: these are shown in the log pane, and refused by `--read-only`.
    pub fn is_act(&self) -> bool {
        !matches!(self, Self::History { .. })
    }
}
