//! The engine: checkpoint a process into an image, and restore it from one.
//!
//! It works from outside, by ptrace, on any program of the same user. [`checkpoint`] freezes the process, reads
//! everything that it holds ([`resource`], one file per kind) and copies its pages; [`restore`] builds a new process of
//! the same state in private namespaces of its own.

#![forbid(unsafe_code)]

mod abilities;
mod cancel;
mod capture;
mod checkpoint;
mod depart;
mod error;
mod freeze;
mod page_finder;
mod pages;
mod park;
pub mod proc;
mod progress;
pub mod resource;
mod restore;
mod survey;
mod waits;

pub use abilities::{Abilities, abilities};
pub use cancel::cancel_flag;
pub use checkpoint::{After, CheckpointOptions, CheckpointReport, checkpoint};
pub use ckpt_image::Codec;
pub use depart::{DepartOptions, DepartReport, Departure, depart};
pub use error::{Class, Error};
pub use progress::Progress;
pub use resource::files::FilesPolicy;
pub use resource::machine::{Machine, portable_environment};
pub use restore::{
    Arrival, Ending, Happening, Kept, NestKind, NestPolicy, RestoreOptions, RestoreReport, Restored, Shown, arrive,
    restore,
};
pub use survey::{Survey, SurveyedFile, Uses, survey};

/// Lets this process open as many files as it may at all: one that has many open itself takes as many here.
fn raise_descriptor_limit() {
    const RLIMIT_NOFILE: u32 = 7;
    let us = rustix::process::getpid().as_raw_nonzero().get();
    if let Ok((soft, hard)) = ckpt_trace::sys::rlimit(us, RLIMIT_NOFILE)
        && soft < hard
    {
        // Where that is not allowed, the limit tells by itself when it is reached.
        let _ = ckpt_trace::sys::set_rlimit(us, RLIMIT_NOFILE, hard, hard);
    }
}
