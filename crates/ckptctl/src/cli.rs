//! The command line: verbs, their options and their help.

use std::ffi::OsString;
use std::path::PathBuf;

use ckpt_core::{Codec, FilesPolicy, NestPolicy};
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser as _;
use clap::{Args, Parser, Subcommand};

use crate::compile::BuildArgs;

const EXIT_STATUSES: &str = "\
Exit status:
  0    done
  1    failed: anything not below, such as a full disk or a process that is not there
  2    wrong use of the command line
  3    the program cannot be checkpointed; the message names what it holds
  4    not permitted
  5    another host failed (no verb of this version reaches one)
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
  ckptctl checkpoint sim                             save the job `sim` to sim.ckpt")]
    Checkpoint(CheckpointArgs),
    /// Bring a program back from an image file
    #[command(
        visible_alias = "recover",
        after_long_help = "\
Examples:
  ckptctl restore sim.ckpt                     in the foreground, with this terminal
  ckptctl restore sim.ckpt --detach            in the background; prints its process id
  ckptctl restore sim.ckpt --files rollback    undo what was written to its files since

In the foreground signals are passed on to the program, and the exit status is the program's."
    )]
    Restore(RestoreArgs),
    /// Start a program in the foreground as a job with a name
    #[command(after_long_help = "\
Examples:
  ckptctl run -- ./sim --steps 1000
  ckptctl run --name sim -- python3 sim.py
  ckptctl checkpoint sim            from another terminal

The exit status is the program's, 128+N when signal N ended it.")]
    Run(RunArgs),
    /// List the jobs that were started with `run`
    Ps(PsArgs),
    /// Show what is in an image
    #[command(after_long_help = "\
Examples:
  ckptctl inspect sim.ckpt
  ckptctl inspect sim.ckpt --json | jq '.regions[] | select(.stored_bytes > 1000000)'

Only descriptions are read and checked, not the memory: `verify` checks everything.")]
    Inspect(InspectArgs),
    /// Check every byte of an image against its checksums
    Verify(VerifyArgs),
    /// Write an image's memory and registers as a core file for a debugger
    #[command(after_long_help = "\
Example:
  ckptctl export count.ckpt --core count.core
  gdb ./count count.core -ex 'thread apply all backtrace'")]
    Export(ExportArgs),
    /// Compile a C or C++ program so that Ctrl+C saves it and `-r` brings it back
    Build(BuildArgs),
    /// Be the C compiler in a Makefile: CC="ckptctl cc"
    Cc(CcArgs),
    /// Tell what this machine allows, what follows from it, and how to allow more
    Doctor(DoctorArgs),
    /// Build a small program, save it, bring it back, and check that nothing was lost
    Demo,
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
            Self::Run(_) | Self::Export(_) | Self::Build(_) | Self::Cc(_) | Self::Demo => false,
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
    /// The image file; for a job JOB.ckpt in the current directory if not given
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
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What to restore, and how.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The image file
    pub file: PathBuf,
    /// Let it run in the background and print its process id
    #[arg(long)]
    pub detach: bool,
    /// What to do about files that have changed since: fail and name them (a file that only grew is no reason), keep
    /// them as they are, or roll them back
    #[arg(long, default_value = "fail", value_parser = files_policy())]
    pub files: FilesPolicy,
    /// Whether the program gets private namespaces, in which its old process ids and clocks go on
    #[arg(long, default_value = "auto", value_parser = nest_policy())]
    pub nest: NestPolicy,
    /// Restore even if this processor lacks features of the one where the image was made; the program may then die of
    /// SIGILL
    #[arg(long)]
    pub ignore_cpu: bool,
    /// Print one JSON object: with --detach what was restored, in the foreground only an error
    #[arg(long)]
    pub json: bool,
}

/// What to run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The job's name; the program's name if not given, with a number where that is taken
    #[arg(long)]
    pub name: Option<String>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub command: Vec<OsString>,
}

/// How to list jobs.
#[derive(Debug, Args)]
pub struct PsArgs {
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

fn files_policy() -> impl clap::builder::TypedValueParser<Value = FilesPolicy> {
    PossibleValuesParser::new(["keep", "rollback", "fail"]).map(|name| match name.as_str() {
        "keep" => FilesPolicy::Keep,
        "rollback" => FilesPolicy::Rollback,
        _ => FilesPolicy::Fail,
    })
}

fn nest_policy() -> impl clap::builder::TypedValueParser<Value = NestPolicy> {
    PossibleValuesParser::new(["auto", "always", "never"]).map(|name| match name.as_str() {
        "always" => NestPolicy::Always,
        "never" => NestPolicy::Never,
        _ => NestPolicy::Auto,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use clap::CommandFactory;

    use super::*;

    fn parse(words: &[&str]) -> Result<Verb, clap::error::ErrorKind> {
        Cli::try_parse_from([&["ckptctl"], words].concat()).map(|cli| cli.verb.unwrap()).map_err(|error| error.kind())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
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
}
