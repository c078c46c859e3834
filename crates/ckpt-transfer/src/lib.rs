//! Reaching other machines, and moving programs to them.
//!
//! Everything that a move needs beyond the engine: how machines say things to each other ([`wire`], [`protocol`]).

#![forbid(unsafe_code)]

pub mod frames;
pub mod protocol;
pub mod wire;
