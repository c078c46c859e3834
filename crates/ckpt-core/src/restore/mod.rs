//! The restore: look, open, make a nest, build, let go; from a file, or from a stream as it comes.

mod build;
mod control;
mod fill;
mod foreground;
mod index;
mod keep;
mod nest;
mod reopen;
mod seen;
mod shell;
mod stream;
mod view;

use std::io::Read;
use std::path::{Path, PathBuf};

use build::Built;
use ckpt_trace::sys::Namespace;
use fill::{FileRuns, Runs};
use serde::Serialize;
use stream::Stream;

pub use foreground::Ending;
use index::ImageIndex;
pub use keep::{Happening, Kept};
pub use nest::NestKind;
use nest::{Nest, Plan, Tenant};
use reopen::{Checked, OpenFiles};
pub use view::Shown;
use view::View;

use crate::Error;
use crate::proc::Status;
use crate::resource::clocks::ClockState;
use crate::resource::credentials::Credentials;
use crate::resource::files::{FileKind, FileState, FilesPolicy};
use crate::resource::machine::Machine;

/// Whether a restored program gets namespaces of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NestPolicy {
    /// Where they are needed and allowed.
    #[default]
    Auto,
    /// Or it is not restored.
    Always,
    /// Not in any case; its ids then change unless root restores it and they are free.
    Never,
}

/// How to restore.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// Namespaces.
    pub nest: NestPolicy,
    /// What to do about files that have changed.
    pub files: FilesPolicy,
    /// Restore even where the processor lacks features that the old one had.
    pub ignore_cpu: bool,
    /// The program will not be waited for: it leads a session of its own if it did before.
    pub detach: bool,
    /// Files and directories of this machine that the program finds at other paths, those it had before.
    pub view: Vec<Shown>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoreReport {
    /// The process, as the caller sees it.
    pub pid: i32,
    /// Its id as it knows it itself.
    pub inner_pid: i32,
    /// The id that it had.
    pub old_pid: i32,
    /// How it is set apart.
    pub nest: NestKind,
    /// How many threads it has.
    pub threads: usize,
    /// What differs from before, in sentences.
    pub notes: Vec<String>,
}

/// A restored program, running.
#[derive(Debug)]
pub struct Restored {
    report: RestoreReport,
    nest: Nest,
    place: foreground::Place,
}

/// A program that has arrived: rebuilt from an image that was read to its end and verified, and not running yet. Dropped,
/// or when this process dies, nothing is left of it.
pub struct Arrival {
    report: RestoreReport,
    index: ImageIndex,
    built: Option<Built>,
    nest: Option<Nest>,
}

/// Brings a program back from an image file. It runs when this returns.
///
/// # Errors
/// See [`Error`]; nothing of the program is left then.
pub fn restore(image: &Path, options: &RestoreOptions) -> Result<Restored, Error> {
    crate::raise_descriptor_limit();
    let (index, runs) = ImageIndex::open(image)?;
    prepare(index, &mut FileRuns(runs), options)?.go()
}

/// Builds a program from an image that comes through a stream, up to the last step. Not a byte beyond the image is asked for.
///
/// It makes processes first: no other thread may be in the caller's process. The caller's thread is the program's tracer
/// until [`Arrival::go`].
///
/// # Errors
/// See [`Error`]; nothing of the program is left then. [`Error::Cancelled`] by [`cancel_flag`](crate::cancel_flag).
pub fn arrive<R: Read>(stream: R, options: &RestoreOptions) -> Result<Arrival, Error> {
    crate::raise_descriptor_limit();
    let us = rustix::process::getpid().as_raw_nonzero().get();
    if crate::proc::tree::threads(us)?.len() > 1 {
        let source = std::io::Error::other("there are other threads in this process");
        return Err(Error::System { what: "make the processes of a nest".to_owned(), source });
    }
    let (mut stream, index) = Stream::open(stream)?;
    prepare(index, &mut stream, options)
}

/// Does everything up to the last step.
fn prepare(index: ImageIndex, runs: &mut dyn Runs, options: &RestoreOptions) -> Result<Arrival, Error> {
    let mut notes = Vec::new();
    check_machine(&index, options.ignore_cpu)?;
    let view = View::new(&options.view, directories(&index))?;
    let checked = reopen::check_all(&index, options.files, &view, &mut notes)?;
    let (nest, plan, files) = make_nest(&index, options.nest, &checked, &mut notes)?;
    let built = match build::build(&index, runs, files, &nest, &plan, options.detach, &mut notes) {
        Ok(built) => built,
        Err(error) => {
            nest.destroy();
            return Err(error.while_restoring());
        }
    };
    let inner = Status::of(nest.shell).ok().and_then(|status| status.ns_pid.last().copied());
    let old_pid = index.layout.processes[0].pid;
    let report = RestoreReport {
        pid: nest.shell,
        inner_pid: inner.unwrap_or(old_pid),
        old_pid,
        nest: plan.kind(),
        threads: index.state.threads.len(),
        notes,
    };
    Ok(Arrival { report, index, built: Some(built), nest: Some(nest) })
}

impl Arrival {
    /// What was done.
    #[must_use]
    pub fn report(&self) -> &RestoreReport {
        &self.report
    }

    /// Lets the program run.
    ///
    /// # Errors
    /// [`Error::Restore`] when it was killed meanwhile; nothing of it is left.
    pub fn go(mut self) -> Result<Restored, Error> {
        let (Some(built), Some(nest)) = (self.built.take(), self.nest.take()) else {
            return Err(Error::Died { pid: self.report.pid }.while_restoring());
        };
        match built.go(&self.index) {
            Ok(place) => Ok(Restored { report: self.report.clone(), nest, place }),
            Err(error) => {
                nest.destroy();
                Err(error.while_restoring())
            }
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        // Its threads first: they die with what traces them.
        drop(self.built.take());
        if let Some(nest) = self.nest.take() {
            nest.destroy();
        }
    }
}

impl std::fmt::Debug for Arrival {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Arrival").field("report", &self.report).finish_non_exhaustive()
    }
}

impl Restored {
    /// The process, as the caller sees it.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.report.pid
    }

    /// What was done.
    #[must_use]
    pub fn report(&self) -> &RestoreReport {
        &self.report
    }

    /// Stays with the program as a shell would: passes signals on, lets it use the terminal, and says how it ended.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn wait(self) -> Result<Ending, Error> {
        foreground::wait(self.nest, &self.place)
    }

    /// Leaves the program to itself.
    pub fn detach(self) {}
}

/// Whether a nest can be made here: it is tried, with a process that is ended at once. With what it lacks, in sentences.
///
/// # Errors
/// Why not.
pub fn try_nest() -> Result<Vec<String>, String> {
    const ANY_ID: i32 = 1000;
    let us = rustix::process::getpid().as_raw_nonzero().get();
    let status = Status::of(us).map_err(|error| error.to_string())?;
    let credentials = Credentials::capture(us, &status).map_err(|error| error.to_string())?;
    let plan = full_plan(rustix::process::geteuid().is_root());
    let (clocks, view) = (ClockState::capture(us), View::default());
    let tenant = Tenant { pid: ANY_ID, credentials: &credentials, clocks: &clocks, view: &view, known: &[] };
    let mut nest = plan.prepare(&tenant)?.make_shell()?;
    let notes = std::mem::take(&mut nest.notes);
    nest.destroy();
    Ok(notes)
}

/// The directories that the program is in or has open.
fn directories(index: &ImageIndex) -> impl Iterator<Item = &Path> {
    let is_directory = |file: &&FileState| file.kind == FileKind::Linked && file.mode & libc::S_IFMT == libc::S_IFDIR;
    let open = index.layout.files.iter().filter(is_directory).map(|file| file.path.as_path());
    open.chain([index.state.process.cwd.as_path()])
}

/// Refuses a machine on which the program could not go on.
fn check_machine(index: &ImageIndex, ignore_cpu: bool) -> Result<(), Error> {
    match index.layout.machine.unfit(&Machine::this()) {
        Some((what, advice)) if !ignore_cpu => Err(Error::Foreign { path: index.path.clone(), what, advice }),
        _ => Ok(()),
    }
}

/// All namespaces: an ordinary user gets the others by one of users.
fn full_plan(is_root: bool) -> Plan {
    let mut namespaces = vec![Namespace::Pid, Namespace::Time, Namespace::Mount];
    if !is_root {
        namespaces.push(Namespace::User);
    }
    Plan { namespaces, keeps_ids: true }
}

/// The ways to set the program apart that are worth trying, the best first.
fn plans(index: &ImageIndex, policy: NestPolicy, view: &View) -> Vec<Plan> {
    let is_root = rustix::process::geteuid().is_root();
    let ids_are_free = index.state.threads.iter().all(|thread| shell::is_free(thread.tid));
    let is_init = index.state.threads.iter().any(|thread| thread.tid == 1);
    let full = full_plan(is_root);
    let mounts = (!view.is_empty()).then_some(Namespace::Mount);
    let machine = |namespaces: &[Namespace]| Plan { namespaces: namespaces.to_vec(), keeps_ids: true };
    let clocks: Vec<Namespace> = mounts.into_iter().chain([Namespace::Time]).collect();
    let none = Plan { namespaces: Vec::new(), keeps_ids: false };
    let files = mounts.map(|_| Plan {
        namespaces: full.namespaces.iter().copied().filter(|namespace| *namespace != Namespace::Pid).collect(),
        keeps_ids: false,
    });
    match policy {
        NestPolicy::Auto if is_root && ids_are_free => {
            [Some(machine(&clocks)), Some(full), files, Some(machine(&[])), Some(none)].into_iter().flatten().collect()
        }
        NestPolicy::Auto if is_init => files.into_iter().chain([none]).collect(),
        NestPolicy::Auto => [Some(full), files, Some(none)].into_iter().flatten().collect(),
        NestPolicy::Always => vec![full],
        NestPolicy::Never if is_root && ids_are_free => vec![machine(&[]), none],
        NestPolicy::Never => vec![none],
    }
}

/// Makes the best nest that can be had, and opens the program's files in it.
fn make_nest(
    index: &ImageIndex,
    policy: NestPolicy,
    checked: &Checked<'_>,
    notes: &mut Vec<String>,
) -> Result<(Nest, Plan, OpenFiles), Error> {
    let files = index.layout.files.iter().map(|file| &file.path);
    let known: Vec<PathBuf> = files.chain([&index.state.process.cwd]).cloned().collect();
    let tenant = Tenant {
        pid: index.layout.processes[0].pid,
        credentials: &index.state.credentials,
        clocks: &index.state.clocks,
        view: checked.view,
        known: &known,
    };
    let mut failures: Vec<String> = Vec::new();
    for plan in plans(index, policy, checked.view) {
        let mut prepared = match plan.prepare(&tenant) {
            Ok(prepared) => prepared,
            Err(why) => {
                failures.push(why);
                continue;
            }
        };
        let files = reopen::open_all(index, checked, &mut prepared)?;
        match prepared.make_shell() {
            Ok(mut nest) => {
                notes.append(&mut nest.notes);
                notes.extend(what_differs(&plan, checked.view, failures.first()));
                return Ok((nest, plan, files));
            }
            Err(why) => failures.push(why),
        }
    }
    Err(Error::restore(
        format!("no place for the program could be made: {}", failures.join("; ")),
        "`ckptctl doctor` tells what this machine allows; --nest=auto goes on without namespaces",
    ))
}

/// What the program may notice of a nest that is not the best one; `failure` says why it is not.
fn what_differs(plan: &Plan, view: &View, failure: Option<&String>) -> Vec<String> {
    let why = failure.map(|why| format!(" ({why})")).unwrap_or_default();
    let mut notes = Vec::new();
    if !plan.keeps_ids {
        let clocks = if plan.kind() == NestKind::None { " and the machine's clocks" } else { "" };
        let exe = if plan.kind() != NestKind::None || rustix::process::geteuid().is_root() {
            ""
        } else {
            "; /proc/self/exe shows the restoring program"
        };
        notes.push(format!(
            "the program has new process and thread ids{clocks}{why}: what it remembered of them no longer holds{exe}"
        ));
    }
    if !view.is_empty() && !plan.shows_files() {
        let why = if plan.keeps_ids { why } else { String::new() };
        notes.push(format!(
            "the program will not find {} by name{why}: only what it has open or mapped leads to what was to be shown there",
            view.named()
        ));
    }
    notes
}
