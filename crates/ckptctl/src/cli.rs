//! The command line: verbs, their options and their help.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use ckpt_core::{Class, Codec, FilesPolicy, NestPolicy, Shown};
use clap::builder::TypedValueParser as _;
use clap::builder::{OsStringValueParser, PossibleValuesParser};
use clap::{Args, CommandFactory, Parser, Subcommand};
use signal_hook::consts::{
    SIGABRT, SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGQUIT, SIGSTOP, SIGTERM, SIGUSR1, SIGUSR2,
};

use crate::compile::BuildArgs;
use crate::demo::ThrowAwayHostArgs;
use crate::failure::Failure;
use crate::hosts::HostsArgs;

const EXIT_STATUSES: &str = "\
Exit status:
  0    done
  1    failed: anything not below, such as a full disk or a process that is not there
  2    wrong use of the command line
  3    the program cannot be checkpointed; the message names what it holds
  4    not permitted
  5    another host failed: it cannot be reached, does not let you in, or lacks something
  6    the image is damaged, or for another machine
  7    the image is good but could not be restored here
  130  cancelled
`run` and a restore in the foreground end with the program's own status, 128+N when signal N ended it.";

/// Stops a running program, saves all of it, and starts it again from that point.
///
/// Works on any program of the same user, as an ordinary user, with address space randomization on.
///
/// Without a verb it shows the menu: choose a source file, build, run, save, move.
#[derive(Debug, Parser)]
#[command(name = "ckptctl", version, after_long_help = EXIT_STATUSES)]
pub struct Cli {
    /// Let the menu only look
    #[arg(long)]
    pub read_only: bool,
    /// What to do.
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Save a running program into an image file
    #[command(after_long_help = "\
Examples:
  ckptctl checkpoint --pid 1234 -o sim.ckpt          save it; it runs on
  ckptctl checkpoint --pid 1234 -o sim.ckpt --stop   save it and end it
  ckptctl checkpoint sim                             save the job `sim` into its history
  ckptctl checkpoint sim -o sim.ckpt                 ... into a file instead
  ckptctl history sim                                list what was saved")]
    Checkpoint(CheckpointArgs),
    /// Bring a program back from an image file
    #[command(
        visible_alias = "recover",
        after_long_help = "\
Examples:
  ckptctl restore sim.ckpt                     in the foreground, with this terminal
  ckptctl restore sim.ckpt --detach            in the background; prints its process id
  ckptctl restore sim.ckpt --files rollback    undo what was written to its files since
  ckptctl restore sim.ckpt --show /data/in=./in    it finds ./in at its old path /data/in
  ckptctl restore sim                          the job `sim` from its last checkpoint, as that job again
  ckptctl restore sim@2 --detach               ... from its second, in the background

In the foreground signals are passed on to the program, and the exit status is the program's."
    )]
    Restore(RestoreArgs),
    /// Start a program as a job with a name, which outlives this terminal
    #[command(after_long_help = "\
Examples:
  ckptctl run -- ./sim --steps 1000
  ckptctl run --name sim -- python3 sim.py
  ckptctl run -d -- ./sim           in the background; prints the job's name
  ckptctl run -- ./sim | tee out    pipes and files work as without ckptctl
  ckptctl checkpoint sim            from another terminal

Keys: Ctrl+] d leaves the program running in the background (`ckptctl attach` comes back), Ctrl+] twice sends one. All
others are the program's. Another key than Ctrl+] is `detach_key` in config.toml, which `ckptctl info` names.

The exit status is the program's, 128+N when signal N ended it.")]
    Run(RunArgs),
    /// Show a job's terminal here and type into it
    #[command(after_long_help = "\
Examples:
  ckptctl attach sim
  ckptctl attach sim --read-only    only look

Ctrl+] d detaches: the job runs on. Another key than Ctrl+] is `detach_key` in config.toml. Several terminals can be attached at once; the job's terminal is as large as that of
whoever typed last. The exit status is the program's, 128+N when signal N ended it.")]
    Attach(AttachArgs),
    /// Print what a job has printed
    #[command(after_long_help = "\
Examples:
  ckptctl logs sim
  ckptctl logs sim -f -n 20         the last 20 lines, and what comes
  ckptctl logs sim > sim.log        lines end as the program wrote them")]
    Logs(LogsArgs),
    /// List the jobs on all hosts, and what they are doing
    #[command(after_long_help = "\
Examples:
  ckptctl ps
  ckptctl ps --local                does not ask the hosts
  ckptctl ps --json | jq '.jobs[] | select(.state == \"running\") | .name'")]
    Ps(PsArgs),
    /// End a job's program
    #[command(after_long_help = "\
Examples:
  ckptctl stop sim                  SIGTERM, and SIGKILL if it has not ended after 10 seconds
  ckptctl stop sim --signal INT --timeout 60")]
    Stop(StopArgs),
    /// Forget a job that has ended, with its log and its checkpoints
    #[command(after_long_help = "\
Example:
  ckptctl rm sim")]
    Rm(RmArgs),
    /// List a job's checkpoints
    #[command(after_long_help = "\
Examples:
  ckptctl history sim
  ckptctl restore sim@2             bring it back from the second")]
    History(HistoryArgs),
    /// Move a job's program to another machine, or home
    #[command(after_long_help = "\
Examples:
  ckptctl migrate sim nodeb         a host of `ckptctl hosts list`
  ckptctl migrate sim local         home again, with the files that it wrote
  ckptctl migrate sim nodeb --dry-run          only look whether it could go on there
  ckptctl migrate sim nodeb --files expect     its files are there already, the same as here
  ckptctl migrate sim nodeb --with ~/data      more that it will open by and by

Nothing needs to be installed there. The program's output goes on to come here, `ckptctl attach` works as before, and
Ctrl+C gives the move up until it is decided. A program that is no job is saved with `ckptctl checkpoint --pid`.")]
    Migrate(MigrateArgs),
    /// Start a second run of a job from one of its checkpoints, beside the first
    #[command(after_long_help = "\
Examples:
  ckptctl branch sim                    from its last checkpoint, as the job sim-2
  ckptctl branch sim@3 --name trial     from its third, as the job `trial`

Both runs use the same files: one that writes should run in another directory, or on another host.")]
    Branch(BranchArgs),
    /// Save a job by itself, every so often or before each move
    #[command(after_long_help = "\
Examples:
  ckptctl schedule sim --every 15m            save it every quarter of an hour
  ckptctl schedule sim --every 1h --keep 3    ... and keep the last three, one an hour, one a day
  ckptctl schedule sim --before-move          save it before each move
  ckptctl schedule sim --every 1h --before-move    both
  ckptctl schedule sim                        show what is set
  ckptctl schedule sim --off                  not any more

What is given replaces what was set before. A move whose checkpoint cannot be made is refused; the program runs on.")]
    Schedule(ScheduleArgs),
    /// Tell where configuration, jobs, logs and caches are
    #[command(after_long_help = "\
Example:
  ckptctl info")]
    Info(InfoArgs),
    /// Write completions for a shell
    #[command(after_long_help = "\
Examples:
  ckptctl completions bash >~/.local/share/bash-completion/completions/ckptctl
  ckptctl completions fish >~/.config/fish/completions/ckptctl.fish")]
    Completions(CompletionsArgs),
    /// Print a manual page, or write all of them into a directory
    #[command(after_long_help = "\
Examples:
  ckptctl man | man -l -                      the page of ckptctl itself
  ckptctl man hosts add | man -l -            ... of a verb
  ckptctl man --all ~/.local/share/man/man1   all of them, into a directory")]
    Man(ManArgs),
    /// Bring home the files that a job's program writes on another machine
    #[command(after_long_help = "\
Examples:
  ckptctl fetch sim                 all that went along and has changed there; the program runs on
  ckptctl fetch sim results.csv     only this one, or a directory
  ckptctl fetch sim --overwrite     also over files that have changed here meanwhile

`ckptctl migrate sim local` brings the program home, with all its files.")]
    Fetch(FetchArgs),
    /// Show what is in an image
    #[command(after_long_help = "\
Examples:
  ckptctl inspect sim.ckpt
  ckptctl inspect sim.ckpt --json | jq '.regions[] | select(.stored_bytes > 1000000)'

Only descriptions are read and checked, not the memory: `verify` checks everything.")]
    Inspect(InspectArgs),
    /// Check every byte of an image against its checksums
    #[command(after_long_help = "\
Examples:
  ckptctl verify sim.ckpt
  ckptctl verify sim.ckpt --json | jq .intact")]
    Verify(VerifyArgs),
    /// Write an image's memory and registers as a core file for a debugger
    #[command(after_long_help = "\
Example:
  ckptctl export count.ckpt --core count.core
  gdb ./count count.core -ex 'thread apply all backtrace'")]
    Export(ExportArgs),
    /// Compile a C or C++ program so that Ctrl+C saves it and `-r` brings it back
    #[command(after_long_help = "\
Examples:
  ckptctl build count.c                       makes ./count
  ckptctl build main.c part.c -o sim -- -O3 -lm

`./count` is then saved by Ctrl+C into count.ckpt, and `./count -r` goes on from there. The source is not edited.")]
    Build(BuildArgs),
    /// Be the C compiler in a Makefile: CC="ckptctl cc"
    #[command(after_long_help = "\
Examples:
  make CC='ckptctl cc'
  ckptctl cc -O2 -c part.c
  ckptctl cc -O2 -o sim main.c part.o -lm
  ckptctl cc g++ -o sim main.cc         the compiler can be named; else it is $CKPT_CC, or cc

All options are the compiler's. `--help` alone shows this first.")]
    Cc(CcArgs),
    /// Tell what this machine allows, what follows from it, and how to allow more
    #[command(after_long_help = "\
Examples:
  ckptctl doctor
  ckptctl doctor --json")]
    Doctor(DoctorArgs),
    /// Copy a program and its image to a host, and start it there if wanted
    #[command(after_long_help = "\
Examples:
  ckptctl push ./count nodeb            ./count and ./count.ckpt, which Ctrl+C made; then `./count -r` there
  ckptctl push sim nodeb --start        the last checkpoint of the job `sim`, and start it there

An interrupted copy goes on where it stopped when the command is given again. Files that the image refers to go along where
the host lacks them, into NAME.files beside the program. With --start the program becomes a job there, and what it prints is
shown here until it ends; Ctrl+C leaves it running. The exit status is then the program's. To move a job with all that
belongs to it, terminal included, use `ckptctl migrate`.")]
    Push(PushArgs),
    /// List, add, change and test the hosts that programs can be moved to
    #[command(after_long_help = "\
Examples:
  ckptctl hosts add nodeb me@nodeb.example.org    then `ckptctl hosts test nodeb`
  ckptctl hosts add gpu 10.0.0.7:2222 --jump nodeb --directory /scratch/me
  ckptctl hosts edit gpu --compression zstd --unset jump
  ckptctl hosts test                              all of them, those of ~/.ssh/config too

They stand in $XDG_CONFIG_HOME/ckptctl/hosts.toml (~/.config/ckptctl/hosts.toml); every Host of ~/.ssh/config can be
used by its name as well.")]
    Hosts(HostsArgs),
    /// What ckptctl asks its copy on another host
    #[command(hide = true)]
    SelfCheck,
    /// Serve another machine (started over SSH)
    #[command(hide = true)]
    Agent(AgentArgs),
    /// Be a job's supervisor (started by other verbs)
    #[command(hide = true)]
    Supervisor,
    /// Be a job's keeper (started by its supervisor)
    #[command(hide = true)]
    Keeper,
    /// Become a job's program (started by its keeper)
    #[command(hide = true)]
    Program(ProgramArgs),
    /// Build a small program, save it, bring it back, move it to another host and home, and check that nothing was lost
    #[command(after_long_help = "\
Example:
  ckptctl demo

The other host is made on this machine for the occasion, by OpenSSH's sshd. Nothing is left behind.")]
    Demo,
    /// Be the host that the demonstration moves its program to
    #[command(hide = true)]
    ThrowAwayHost(ThrowAwayHostArgs),
}

/// Whether words ask for JSON, whatever else they say: what follows `--` is for another program.
pub fn asks_for_json(words: &[OsString]) -> bool {
    words.iter().take_while(|word| *word != "--").any(|word| word == "--json")
}

/// The help of a verb.
pub fn help_of(verb: &str) -> String {
    let mut command = Cli::command();
    command.build();
    command.find_subcommand_mut(verb).map(|verb| format!("{}\n", verb.render_long_help())).unwrap_or_default()
}

/// What is wrong with `--read-only` before a verb.
pub fn read_only_with_a_verb() -> Failure {
    let message = "--read-only belongs to the menu, which is `ckptctl` without a verb; `ckptctl attach JOB --read-only` looks at a job";
    Failure::new(Class::Usage, message)
}

impl Verb {
    /// Whether the user asked for JSON.
    pub fn prints_json(&self) -> bool {
        match self {
            Self::Checkpoint(args) => args.json,
            Self::Restore(args) => args.json,
            Self::Ps(args) => args.json,
            Self::Inspect(args) => args.json,
            Self::Verify(args) => args.json,
            Self::Doctor(args) => args.json,
            Self::Migrate(args) => args.json,
            Self::Fetch(args) => args.json,
            Self::Run(args) => args.json,
            Self::Attach(args) => args.json,
            Self::Logs(args) => args.json,
            Self::Stop(args) => args.json,
            Self::Rm(args) => args.json,
            Self::History(args) => args.json,
            Self::Branch(args) => args.restore.json,
            Self::Schedule(args) => args.json,
            Self::Info(args) => args.json,
            Self::Hosts(args) => args.prints_json(),
            Self::Push(args) => args.json,
            Self::Export(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::Build(_)
            | Self::Cc(_)
            | Self::SelfCheck
            | Self::Demo
            | Self::Agent(_)
            | Self::ThrowAwayHost(_)
            | Self::Supervisor
            | Self::Keeper
            | Self::Program(_) => false,
        }
    }
}

/// What to save, and how.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own on the command line")]
pub struct CheckpointArgs {
    /// The job to save, by its name
    #[arg(required_unless_present = "pid", conflicts_with = "pid")]
    pub job: Option<String>,
    /// The process to save, by its number
    #[arg(long, value_name = "N")]
    pub pid: Option<i32>,
    /// The image file; for a job its history if not given
    #[arg(short, long, value_name = "FILE", required_unless_present = "job")]
    pub output: Option<PathBuf>,
    /// End the program when its image is complete
    #[arg(long)]
    pub stop: bool,
    /// How to compress memory
    #[arg(long, default_value = "none", value_parser = PossibleValuesParser::new(["none", "lz4", "zstd"]).try_map(|name| name.parse::<Codec>()))]
    pub codec: Codec,
    /// Carry the executable, libraries and other mapped files in the image, so that it needs none of them
    #[arg(long)]
    pub self_contained: bool,
    /// Carry the contents of open files in the image, so that a restore can undo changes
    #[arg(long)]
    pub carry_files: bool,
    /// What to do about connected TCP sockets: refuse, or close them, so that the restored program finds them reset by
    /// their peers
    #[arg(long, value_name = "HOW", default_value = "refuse", value_parser = PossibleValuesParser::new(["refuse", "close"]))]
    pub tcp: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What to restore, and how.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The image file; or a job that has ended, with @N for its checkpoint N instead of its last one
    #[arg(value_name = "FILE|JOB[@N]")]
    pub file: PathBuf,
    /// Let it run in the background and print its process id
    #[arg(short, long)]
    pub detach: bool,
    /// What to do about files that have changed since: fail and name them (a file that only grew is no reason), keep
    /// them as they are, or roll them back
    #[arg(long, default_value = "fail", value_parser = files_policy())]
    pub files: FilesPolicy,
    /// Whether the program gets private namespaces, in which its old process ids and clocks go on
    #[arg(long, default_value = "auto", value_parser = nest_policy())]
    pub nest: NestPolicy,
    /// Let the program find the file or directory NEW of this machine at the path OLD, for itself alone: for an image
    /// whose files lie elsewhere here. Can be given several times
    #[arg(long, value_name = "OLD=NEW", value_parser = OsStringValueParser::new().try_map(|text| shown(&text)))]
    pub show: Vec<Shown>,
    /// The same, but the program cannot write there
    #[arg(long, value_name = "OLD=NEW", value_parser = OsStringValueParser::new().try_map(|text| shown(&text)))]
    pub show_read_only: Vec<Shown>,
    /// Restore even if this processor lacks features of the one where the image was made; the program may then die of
    /// SIGILL
    #[arg(long)]
    pub ignore_cpu: bool,
    /// Print one JSON object: with --detach what was restored, in the foreground only an error
    #[arg(long)]
    pub json: bool,
}

/// Which checkpoint to start a second run from, and how.
#[derive(Debug, Args)]
pub struct BranchArgs {
    /// The new job's name; the old one with a number if not given
    #[arg(long)]
    pub name: Option<String>,
    /// What is restored.
    #[command(flatten)]
    pub restore: RestoreArgs,
}

/// When a job is saved by itself.
#[derive(Debug, Args)]
pub struct ScheduleArgs {
    /// The job
    pub job: String,
    /// How often it is saved: 90s, 15m, 2h
    #[arg(long, value_name = "TIME", value_parser = interval, conflicts_with = "off")]
    pub every: Option<u64>,
    /// Save it before each move, too, wherever it is then; if that fails it is not moved
    #[arg(long, conflicts_with = "off")]
    pub before_move: bool,
    /// How many of the latest automatic checkpoints are kept; of older ones one an hour is kept for a day, and one a day for
    /// a month. Those that were made by hand are kept
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one)]
    pub keep: u64,
    /// Do not save it by itself any more
    #[arg(long)]
    pub off: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// For which shell to write completions.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Which manual pages to write.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The verb whose page is printed; the page of ckptctl itself if not given
    pub verb: Option<String>,
    /// A verb below it, as of `hosts`
    #[arg(value_name = "SUBVERB")]
    pub below: Option<String>,
    /// Write all pages into this directory instead
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "verb")]
    pub all: Option<PathBuf>,
}

/// How to tell where things are.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What to run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The job's name; the program's name if not given, with a number where that is taken
    #[arg(long)]
    pub name: Option<String>,
    /// Let it run in the background, with a terminal of its own, and print the job's name
    #[arg(short, long)]
    pub detach: bool,
    /// Let it use only what any x86-64 processor of the last ten years has, so that it can be moved to one that has less
    #[arg(long)]
    pub portable: bool,
    /// Where it is started
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Print one JSON object: with --detach what was started, in the foreground only an error
    #[arg(long)]
    pub json: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub command: Vec<OsString>,
}

/// Which program to become.
#[derive(Debug, Args)]
pub struct ProgramArgs {
    /// The descriptor on which to tell a failure
    #[arg(long)]
    pub tell: u32,
    /// As for `run`
    #[arg(long)]
    pub portable: bool,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// What to copy, and where to.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// A job, or the path of a program with its image (PROGRAM.ckpt) beside it
    #[arg(value_name = "JOB|PROGRAM")]
    pub job: String,
    /// The host
    pub host: String,
    /// Start it there
    #[arg(long)]
    pub start: bool,
    /// The job's name there, with --start; the program's if not given
    #[arg(long, requires = "start")]
    pub name: Option<String>,
    /// Where to put it there; the directory that the hosts file says, or the home directory, if not given
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Print one JSON object; with --start do not wait for the program's end
    #[arg(long)]
    pub json: bool,
}

/// Which job to attach to.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The job
    pub job: String,
    /// Only look: keys, signals and the window's size stay here
    #[arg(long)]
    pub read_only: bool,
    /// Print an error as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What to print of a job's output.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The job
    pub job: String,
    /// Go on with what it prints from now on, until it ends
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N lines
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
    /// Print one JSON object for each piece: offset, stream, text
    #[arg(long)]
    pub json: bool,
}

/// How to end a job.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// The job
    pub job: String,
    /// The signal to send, by its name or number
    #[arg(short, long, default_value = "TERM", value_parser = signal_of)]
    pub signal: i32,
    /// After how many seconds to kill it
    #[arg(short, long, default_value_t = 10, value_name = "SECONDS")]
    pub timeout: u64,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Which job to forget.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// The job
    pub job: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Whose checkpoints to list.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The job
    pub job: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// How to list jobs.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Only those of this machine: no host is asked
    #[arg(long)]
    pub local: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Which image to show.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The image file
    pub file: PathBuf,
    /// Print one JSON object with everything but the memory's contents
    #[arg(long)]
    pub json: bool,
}

/// Which image to check.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The image file
    pub file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What to export.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The image file
    pub file: PathBuf,
    /// The ELF core file to write
    #[arg(long, value_name = "OUT")]
    pub core: PathBuf,
}

/// What the compiler is told.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct CcArgs {
    /// Arguments of the C compiler, all passed on
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub args: Vec<OsString>,
}

/// How to tell what the machine allows.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

const FILES: [(&str, FilesPolicy); 3] =
    [("keep", FilesPolicy::Keep), ("rollback", FilesPolicy::Rollback), ("fail", FilesPolicy::Fail)];
const NESTS: [(&str, NestPolicy); 3] =
    [("auto", NestPolicy::Auto), ("always", NestPolicy::Always), ("never", NestPolicy::Never)];

/// The policy of a name.
pub fn files_policy_of(name: &str) -> Option<FilesPolicy> {
    FILES.iter().find(|(known, _)| *known == name).map(|(_, policy)| *policy)
}

/// The name of a policy.
pub fn files_policy_name(policy: FilesPolicy) -> &'static str {
    FILES.iter().find(|(_, known)| *known == policy).map_or("fail", |(name, _)| name)
}

/// The policy of a name.
pub fn nest_policy_of(name: &str) -> Option<NestPolicy> {
    NESTS.iter().find(|(known, _)| *known == name).map(|(_, policy)| *policy)
}

/// The name of a policy.
pub fn nest_policy_name(policy: NestPolicy) -> &'static str {
    NESTS.iter().find(|(_, known)| *known == policy).map_or("auto", |(name, _)| name)
}

/// A time such as `90s`, `15m` or `2h`, in seconds.
fn interval(text: &str) -> Result<u64, String> {
    const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let unit = text.chars().last().and_then(|last| UNITS.iter().find(|(letter, _)| *letter == last));
    let (number, factor) = match unit {
        Some((_, factor)) => (&text[..text.len() - 1], *factor),
        None => (text, 60),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    seconds.filter(|seconds| *seconds > 0).ok_or_else(|| "give a time such as 90s, 15m or 2h".to_owned())
}

fn at_least_one(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "give a number, at least 1".to_owned())
}

fn files_policy() -> impl clap::builder::TypedValueParser<Value = FilesPolicy> {
    PossibleValuesParser::new(FILES.map(|(name, _)| name)).map(|name| files_policy_of(&name).unwrap_or_default())
}

/// `agent`: serve another machine.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Be a data channel: the job, the move, and which of its channels
    #[arg(long, num_args = 3)]
    pub data: Option<Vec<String>>,
}

/// `fetch`: bring files home.
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// The job
    pub job: String,
    /// These files or directories only, by their paths here
    pub paths: Vec<PathBuf>,
    /// Replace files that were changed here meanwhile
    #[arg(long)]
    pub overwrite: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `migrate`: move a job's program.
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The job
    pub job: String,
    /// The host, or `local`
    pub host: String,
    /// What to do about the files that it uses: they go along, are expected to be there, or both machines share them
    #[arg(long, value_name = "POLICY", default_value = "carry", value_parser = move_files())]
    pub files: ckpt_transfer::protocol::FilesPolicy,
    /// Another file or directory that goes along
    #[arg(long, value_name = "PATH")]
    pub with: Vec<PathBuf>,
    /// How memory is compressed on the way; the hosts file says if this does not
    #[arg(long, value_parser = PossibleValuesParser::new(["none", "lz4", "zstd"]).try_map(|name| name.parse::<Codec>()))]
    pub codec: Option<Codec>,
    /// What becomes of connected TCP sockets: `close` makes them ones that the peer has reset
    #[arg(long, value_name = "WHAT", value_parser = ["close"])]
    pub tcp: Option<String>,
    /// Also write the image into the job's history
    #[arg(long)]
    pub keep: bool,
    /// Move it also where the processor lacks features that it may use
    #[arg(long)]
    pub ignore_cpu: bool,
    /// At home, replace files that were changed here meanwhile
    #[arg(long)]
    pub overwrite: bool,
    /// Only look whether it could be moved
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn move_files() -> impl clap::builder::TypedValueParser<Value = ckpt_transfer::protocol::FilesPolicy> {
    use ckpt_transfer::protocol::FilesPolicy as Policy;
    PossibleValuesParser::new(["carry", "expect", "shared"]).map(|name| match name.as_str() {
        "expect" => Policy::Expect,
        "shared" => Policy::Shared,
        _ => Policy::Carry,
    })
}

fn nest_policy() -> impl clap::builder::TypedValueParser<Value = NestPolicy> {
    PossibleValuesParser::new(NESTS.map(|(name, _)| name)).map(|name| nest_policy_of(&name).unwrap_or_default())
}

/// A signal by its number or its name, with or without SIG.
fn signal_of(word: &str) -> Result<i32, String> {
    const NAMES: [(&str, i32); 12] = [
        ("HUP", SIGHUP),
        ("INT", SIGINT),
        ("QUIT", SIGQUIT),
        ("ABRT", SIGABRT),
        ("KILL", SIGKILL),
        ("USR1", SIGUSR1),
        ("USR2", SIGUSR2),
        ("PIPE", SIGPIPE),
        ("ALRM", SIGALRM),
        ("TERM", SIGTERM),
        ("CONT", SIGCONT),
        ("STOP", SIGSTOP),
    ];
    let upper = word.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    let number = named.or_else(|| name.parse().ok().filter(|number| (1..=31).contains(number)));
    number.ok_or_else(|| format!("there is no signal {word:?}; use a number from 1 to 31 or a name such as INT"))
}

impl RestoreArgs {
    /// All that the program is to find at other paths.
    pub fn view(&self) -> Vec<Shown> {
        let read_only = self.show_read_only.iter().cloned().map(|shown| Shown { read_only: true, ..shown });
        self.show.iter().cloned().chain(read_only).collect()
    }
}

/// The two paths of `OLD=NEW`.
fn shown(text: &OsStr) -> Result<Shown, String> {
    let mut paths = text.as_bytes().splitn(2, |byte| *byte == b'=').map(|path| PathBuf::from(OsStr::from_bytes(path)));
    match (paths.next(), paths.next()) {
        (Some(path), Some(source)) if path.is_absolute() && !source.as_os_str().is_empty() => {
            Ok(Shown { path, source, read_only: false })
        }
        _ => Err("give the absolute path that the program knows, `=`, and what it is to find there".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use std::path::Path;

    use super::*;

    fn parse(words: &[&str]) -> Result<Verb, clap::error::ErrorKind> {
        Cli::try_parse_from([&["ckptctl"], words].concat()).map(|cli| cli.verb.unwrap()).map_err(|error| error.kind())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    /// All verbs that users see, and the verbs below them, each with the words that it is called by.
    fn visible(command: &clap::Command, path: &str) -> Vec<(String, clap::Command)> {
        let shown = command.get_subcommands().filter(|verb| !verb.is_hide_set());
        let with_path = |verb: &clap::Command| {
            let own = format!("{path} {}", verb.get_name());
            let below = visible(verb, &own);
            std::iter::once((own, verb.clone())).chain(below).collect::<Vec<_>>()
        };
        shown.flat_map(with_path).collect()
    }

    /// The words of an example as a shell sees them: up to a pipe, a redirection or what is said about it.
    fn words(example: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
        let mut rest = example.chars().peekable();
        while let Some(letter) = rest.next() {
            match (quote, letter) {
                (Some(open), close) if open == close => quote = None,
                (None, '\'' | '"') => quote = Some(letter),
                (None, '|' | '>' | '<') => break,
                (None, ' ') => {
                    words.push(std::mem::take(&mut word));
                    if rest.peek() == Some(&' ') {
                        break;
                    }
                }
                (_, letter) => word.push(letter),
            }
        }
        words.push(word);
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn every_verb_has_examples_that_are_right_as_typed() {
        let verbs = visible(&Cli::command(), "ckptctl");
        assert!(verbs.iter().any(|(path, _)| path == "ckptctl hosts add"));
        for (path, verb) in verbs {
            let help = verb.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            let own =
                help.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| line.starts_with("ckptctl"));
            let examples: Vec<&str> = own.collect();
            assert!(examples.iter().any(|example| example.starts_with(&path)), "{path} has no example of its own");
            assert!(help.starts_with("Example"), "{path}: {help}");
            for example in examples {
                let parsed = Cli::try_parse_from(words(example));
                assert!(parsed.is_ok(), "{path}: {example:?} as {:?}: {}", words(example), parsed.unwrap_err());
            }
        }
    }

    #[test]
    fn an_example_is_split_as_by_a_shell() {
        assert_eq!(words("a 'b  c' \"d\"  said"), ["a", "b  c", "d"]);
        assert_eq!(words("a b | c"), ["a", "b"]);
        assert_eq!(words("a >b"), ["a"]);
    }

    #[test]
    fn a_process_needs_a_file_and_a_job_does_not() {
        assert!(parse(&["checkpoint"]).is_err());
        assert!(parse(&["checkpoint", "--pid", "1"]).is_err());
        assert!(parse(&["checkpoint", "--pid", "1", "-o", "x", "sim"]).is_err());
        assert!(parse(&["checkpoint", "--pid", "1", "-o", "x"]).is_ok());
        assert!(parse(&["checkpoint", "sim"]).is_ok());
        assert!(parse(&["checkpoint", "sim", "--codec", "gzip"]).is_err());
    }

    #[test]
    fn recover_is_restore() {
        let Verb::Restore(args) = parse(&["recover", "x.ckpt", "--files=keep", "--nest", "never"]).unwrap() else {
            panic!("not a restore")
        };
        assert_eq!((args.files, args.nest), (FilesPolicy::Keep, NestPolicy::Never));
    }

    #[test]
    fn what_is_shown_is_split_at_the_first_sign() {
        let show = |text: &str| parse(&["restore", "x.ckpt", "--show", text]);
        let Verb::Restore(args) = show("/a b=../c=d").unwrap() else { panic!("not a restore") };
        let paths: Vec<_> = args.show.iter().map(|shown| (shown.path.as_path(), shown.source.as_path())).collect();
        assert_eq!(paths, [(Path::new("/a b"), Path::new("../c=d"))]);
        for wrong in ["", "/a", "/a=", "a=/b", "=/b"] {
            assert!(show(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_compiler_gets_all_its_arguments() {
        let Verb::Cc(args) = parse(&["cc", "--help", "-O2", "-o", "x", "--", "x.c"]).unwrap() else {
            panic!("not a compiler")
        };
        assert_eq!(args.args, ["--help", "-O2", "-o", "x", "--", "x.c"]);
    }

    #[test]
    fn a_program_keeps_its_options() {
        let Verb::Run(args) = parse(&["run", "--name", "a", "--", "prog", "--name", "b"]).unwrap() else {
            panic!("not a run")
        };
        assert_eq!((args.name.as_deref(), args.command.len()), (Some("a"), 3));
        assert!(parse(&["run", "--"]).is_err());
    }

    #[test]
    fn json_is_asked_for_before_the_program_begins() {
        let asks = |line: &str| asks_for_json(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert!(asks("ckptctl schedule sim --every 0s --json") && asks("ckptctl --json"));
        assert!(!asks("ckptctl run -- prog --json") && !asks("ckptctl ps"));
    }

    #[test]
    fn one_checkpoint_is_kept_at_least() {
        for (keep, is_right) in [("1", true), ("0", false), ("-1", false), ("x", false)] {
            assert_eq!(parse(&["schedule", "sim", "--every", "1h", "--keep", keep]).is_ok(), is_right, "{keep}");
        }
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (word, number) in [("TERM", 15), ("sigint", 2), ("9", 9), ("USR1", 10)] {
            assert_eq!(signal_of(word), Ok(number), "{word}");
        }
        assert!(signal_of("0").is_err() && signal_of("SIGWHAT").is_err());
    }
}
