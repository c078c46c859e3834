//! Reaching other machines, and moving programs to them.
//!
//! Everything that a move needs beyond the engine: how machines say things to each other ([`wire`], [`protocol`]).

#![forbid(unsafe_code)]

pub mod files;
pub mod frames;
pub mod protocol;
pub mod serve;
pub mod store;
pub mod wire;
