//! What is linked into a user's program: Ctrl+C saves it, `PROGRAM -r` restores it, `ckpt.h` asks for a checkpoint.
//!
//! The library holds the whole engine, but the engine never runs inside the program that it saves. A constructor
//! decides, before `main`, which of three roles the process has (`role::Role`):
//!
//! * the program itself: a handler for SIGINT is installed, and `main` runs;
//! * a restore (`-r`, `--recover`): the image is brought back in the foreground, `main` is never reached;
//! * the engine: the handler started `/proc/self/exe` again, to save the process that it came from.
//!
//! Everything that is not ordinary Rust (the constructor, the handler, the C functions) is in `raw`.
#![deny(unsafe_code)]

mod engine;
#[allow(unsafe_code, reason = "the constructor, the signal handler and the functions that C calls")]
mod raw;
mod recover;
mod role;
mod settings;
