//! The restore: look, open, make a nest, build, let go.

mod build;
mod fill;
mod foreground;
mod index;
mod keep;
mod nest;
mod reopen;
mod shell;

use std::path::Path;

use ckpt_trace::sys::Namespace;
use serde::Serialize;

pub use foreground::Ending;
use index::ImageIndex;
pub use keep::{Happening, Kept};
pub use nest::NestKind;
use nest::{Nest, Plan};

use crate::Error;
use crate::proc::Status;
use crate::resource::clocks::ClockState;
use crate::resource::credentials::Credentials;
use crate::resource::files::FilesPolicy;
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
#[derive(Debug, Clone, Copy, Default)]
pub struct RestoreOptions {
    /// Namespaces.
    pub nest: NestPolicy,
    /// What to do about files that have changed.
    pub files: FilesPolicy,
    /// Restore even where the processor lacks features that the old one had.
    pub ignore_cpu: bool,
    /// The program will not be waited for: it leads a session of its own if it did before.
    pub detach: bool,
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

/// Brings a program back from an image file. It runs when this returns.
///
/// # Errors
/// See [`Error`]; nothing of the program is left then.
pub fn restore(image: &Path, options: &RestoreOptions) -> Result<Restored, Error> {
    crate::raise_descriptor_limit();
    let index = ImageIndex::open(image)?;
    let mut notes = Vec::new();
    check_machine(&index, options.ignore_cpu)?;
    let files = reopen::open_all(&index, options.files, &mut notes)?;
    let (nest, plan) = make_nest(&index, options.nest, &mut notes)?;
    let built = build::build(&index, files, &nest, &plan, options.detach, &mut notes);
    let place = match built {
        Ok(place) => place,
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
    Ok(Restored { report, nest, place })
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
    let mut nest = plan.make(ANY_ID, &credentials, &ClockState::capture(us))?;
    let notes = std::mem::take(&mut nest.notes);
    nest.destroy();
    Ok(notes)
}

/// Refuses a machine on which the program could not go on.
fn check_machine(index: &ImageIndex, ignore_cpu: bool) -> Result<(), Error> {
    let here = Machine::this();
    let missing = index.layout.machine.missing_from(&here);
    if !missing.is_empty() && !ignore_cpu {
        return Err(Error::Foreign {
            path: index.path.clone(),
            what: format!("the program may use processor features that this machine lacks: {}", missing.join(" ")),
            advice: "restore it on a machine that has them, or try --ignore-cpu if you know that it does not use them"
                .to_owned(),
        });
    }
    let larger = index.layout.machine.larger_state(&here);
    if !larger.is_empty() && !ignore_cpu {
        return Err(Error::Foreign {
            path: index.path.clone(),
            what: format!(
                "this processor has more registers (XSAVE components {larger:?}) than the program made room for when it bound its libraries"
            ),
            advice: format!(
                "restore it on a machine like {}, or try --ignore-cpu if it is static or was started with LD_BIND_NOW=1",
                index.layout.machine.cpu
            ),
        });
    }
    Ok(())
}

/// All namespaces: an ordinary user gets the others by one of users.
fn full_plan(is_root: bool) -> Plan {
    let mut namespaces = vec![Namespace::Pid, Namespace::Time, Namespace::Mount];
    if !is_root {
        namespaces.push(Namespace::User);
    }
    Plan { namespaces, keeps_ids: true }
}

fn make_nest(index: &ImageIndex, policy: NestPolicy, notes: &mut Vec<String>) -> Result<(Nest, Plan), Error> {
    let pid = index.layout.processes[0].pid;
    let is_root = rustix::process::geteuid().is_root();
    let ids_are_free = index.state.threads.iter().all(|thread| shell::is_free(thread.tid));
    let full = full_plan(is_root);
    let machine = |namespaces: &[Namespace]| Plan { namespaces: namespaces.to_vec(), keeps_ids: true };
    let none = Plan { namespaces: Vec::new(), keeps_ids: false };
    let is_init = index.state.threads.iter().any(|thread| thread.tid == 1);
    let plans = match policy {
        NestPolicy::Auto if is_root && ids_are_free => vec![machine(&[Namespace::Time]), full, machine(&[]), none],
        NestPolicy::Auto if is_init => vec![none],
        NestPolicy::Auto => vec![full, none],
        NestPolicy::Always => vec![full],
        NestPolicy::Never if is_root && ids_are_free => vec![machine(&[]), none],
        NestPolicy::Never => vec![none],
    };
    let mut failures: Vec<String> = Vec::new();
    for plan in plans {
        match plan.make(pid, &index.state.credentials, &index.state.clocks) {
            Ok(mut nest) => {
                notes.append(&mut nest.notes);
                if !plan.keeps_ids {
                    let exe = if is_root { "" } else { "; /proc/self/exe shows the restoring program" };
                    let why = failures.first().map(|why| format!(" ({why})")).unwrap_or_default();
                    notes.push(format!(
                        "the program has new process and thread ids and the machine's clocks{why}: what it remembered of them no longer holds{exe}"
                    ));
                }
                return Ok((nest, plan));
            }
            Err(why) => failures.push(why),
        }
    }
    Err(Error::restore(
        format!("no place for the program could be made: {}", failures.join("; ")),
        "`ckptctl doctor` tells what this machine allows; --nest=auto goes on without namespaces",
    ))
}
