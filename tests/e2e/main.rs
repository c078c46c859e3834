//! End-to-end tests: every promise of the README, tried on real programs as an ordinary user and as root.
//!
//! `cargo test -p ckpt-tests --test e2e -- FILTER ...` runs those whose names contain a filter; `-- --list` names all.

#![forbid(unsafe_code)]

mod bad_input;
mod demo;
mod departure;
mod driver;
mod faults;
mod files;
mod hosts;
mod identity;
mod image_edit;
mod jobs;
mod journey;
mod languages;
mod logins;
mod memory;
mod menu;
mod migrate;
mod other_kernel;
mod process;
mod push;
mod refusals;
mod registers;
mod repeat;
mod runtime;
mod signals;
mod ssh;
mod terminal;
mod threads;
mod timers;
mod tools;
mod view;

use std::process::ExitCode;

use ckpt_tests::{Roundtrip, Suite, Whos};

/// A test's name, its program in tests/programs, and the program's arguments.
type Plain = (&'static str, &'static str, &'static [&'static str]);

/// Adds tests that compare a checkpointed, killed and restored run with an undisturbed one.
fn add_roundtrips(suite: &mut Suite, whos: Whos, tests: &'static [Plain]) {
    for (name, program, args) in tests {
        suite.add(name, whos, |case| Roundtrip::of(program).args(args).run(case));
    }
}

fn main() -> ExitCode {
    if let Some(status) = driver::main() {
        return status;
    }
    let mut suite = Suite::default();
    memory::add(&mut suite);
    menu::add(&mut suite);
    registers::add(&mut suite);
    threads::add(&mut suite);
    signals::add(&mut suite);
    timers::add(&mut suite);
    process::add(&mut suite);
    files::add(&mut suite);
    hosts::add(&mut suite);
    logins::add(&mut suite);
    migrate::add(&mut suite);
    faults::add(&mut suite);
    terminal::add(&mut suite);
    languages::add(&mut suite);
    identity::add(&mut suite);
    other_kernel::add(&mut suite);
    repeat::add(&mut suite);
    refusals::add(&mut suite);
    bad_input::add(&mut suite);
    tools::add(&mut suite);
    view::add(&mut suite);
    jobs::add(&mut suite);
    runtime::add(&mut suite);
    departure::add(&mut suite);
    push::add(&mut suite);
    ssh::add(&mut suite);
    demo::add(&mut suite);
    suite.run(std::env::args().skip(1))
}
