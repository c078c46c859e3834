//! End-to-end tests with a machine that is really another: an older kernel, another vDSO, no `PAGEMAP_SCAN`, a lesser processor.
//!
//! `tests/vm [FILTER ...]` makes what it boots from and starts them.

#![forbid(unsafe_code)]

mod guest;
mod moves;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use ckpt_tests::{Case, Suite, Whos};

use crate::guest::Processor;

fn main() -> ExitCode {
    // What is emulated is slow, the more so on a busy machine.
    let mut suite = Suite::with_limit(Duration::from_secs(250));
    suite.add("vm::it_is_another_machine", Whos::User, another);
    moves::add(&mut suite);
    suite.run(std::env::args().skip(1))
}

/// What the other tests build on.
fn another(case: &Case) -> Result<()> {
    let guest = Processor::Max.guest(case)?;
    let said = guest.run(case, "uname -r; id -u; ls -a; command -v ckptctl python3 gcc")?;
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut lines = said.stdout.lines();
    ensure!(lines.next().is_some_and(|there| there != kernel), "the same kernel, {kernel}: {said:?}");
    ensure!(lines.next() == Some("1234"), "not an ordinary user: {said:?}");
    ensure!(!said.stdout.contains('/'), "something is installed: {said:?}");
    Ok(())
}
