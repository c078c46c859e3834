//! The harness of the end-to-end tests: real programs, the real `ckptctl`, a real kernel.
//!
//! A test starts a program from `tests/programs`, which observes itself, and compares what it prints
//! after checkpoint, kill and restore with what an undisturbed run prints. Every wait has a
//! deadline, every process is ended by its id when its [`Case`] goes, and each case runs as an
//! ordinary user and as root.

#![forbid(unsafe_code)]

mod capture;
mod case;
mod cast;
mod hosts;
mod picture;
mod program;
mod pty;
mod roundtrip;
mod running;
mod stage;
mod suite;

pub use capture::Capture;
pub use case::{Case, Detached, Finished};
pub use cast::Cast;
pub use hosts::{Copies, Copy, Host, Link, Network, Watch, keygen};
pub use picture::Picture;
pub use program::Program;
pub use pty::Terminal;
pub use roundtrip::Roundtrip;
pub use running::{Ending, Running};
pub use stage::{Stage, Who};
pub use suite::{Skip, Suite, Whos, skip};
