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
mod error;
mod freeze;
mod page_finder;
mod pages;
pub mod proc;
pub mod resource;
mod restore;
mod waits;

pub use abilities::{Abilities, abilities};
pub use cancel::cancel_flag;
pub use checkpoint::{After, CheckpointOptions, CheckpointReport, checkpoint};
pub use ckpt_image::Codec;
pub use error::{Class, Error};
pub use resource::files::FilesPolicy;
pub use restore::{Ending, NestKind, NestPolicy, RestoreOptions, RestoreReport, Restored, restore};
