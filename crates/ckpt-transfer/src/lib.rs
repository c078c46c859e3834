//! Reaching other machines, and moving programs to them.
//!
//! Everything that a move needs beyond the engine: how machines say things to each other ([`wire`], [`protocol`]), which there
//! are ([`hosts`]), and how they are reached ([`ssh`]).

#![forbid(unsafe_code)]

pub mod directories;
pub mod files;
pub mod frames;
pub mod hosts;
pub mod protocol;
pub mod send;
pub mod serve;
pub mod ssh;
pub mod store;
pub mod transaction;
pub mod wire;
