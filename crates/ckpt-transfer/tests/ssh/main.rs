//! Sessions with a real OpenSSH server on a port of this machine.
//!
//! The server runs as whoever runs the tests, with keys, configuration and home directory of its own in a temporary directory. What cannot
//! be tried here (no sshd, no root) is said to be skipped, and counted as such.

#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

mod install;
mod keys;
mod links;
mod logins;
mod server;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

const WORKERS: usize = 4;

/// A test: its name and what it does; an error is why it is skipped.
pub type Test = (&'static str, fn() -> Result<(), String>);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    // What `install` asks of the copy that it has made.
    if first.as_deref() == Some("self-check") {
        let (hash, _) = ckpt_transfer::ssh::own_hash().unwrap();
        println!("{{\"hash\":\"{hash}\"}}");
        return ExitCode::SUCCESS;
    }
    let filters: Vec<String> = first.into_iter().chain(arguments).filter(|word| !word.starts_with('-')).collect();
    let is_meant =
        |(name, _): &&Test| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let tests: Vec<&Test> =
        [links::TESTS, keys::TESTS, logins::TESTS, install::TESTS].into_iter().flatten().filter(is_meant).collect();
    let (passed, failed, skipped) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let next = AtomicUsize::new(0);
    let output = Mutex::new(());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some((name, test)) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begun = Instant::now();
                    let result = catch_unwind(AssertUnwindSafe(test));
                    let _alone = output.lock().unwrap_or_else(PoisonError::into_inner);
                    let (count, said) = match result {
                        Ok(Ok(())) => (&passed, format!("ok ({:.1} s)", begun.elapsed().as_secs_f64())),
                        Ok(Err(reason)) => (&skipped, format!("SKIPPED: {reason}")),
                        Err(_) => (&failed, "FAILED".to_owned()),
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                    println!("test {name} ... {said}");
                }
            });
        }
    });
    let counts = [passed, failed, skipped].map(AtomicUsize::into_inner);
    let [passed, failed, skipped] = counts;
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed; {skipped} ignored; 0 measured; 0 filtered out");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
