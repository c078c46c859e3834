//! What goes to standard output. A reader that has gone away (`| head`) is no error.

use std::io::{self, Write};

use anyhow::Context;
use serde::Serialize;

/// Prints text as it is.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("standard output cannot be written; see where it leads to"),
    }
}

/// Prints one JSON object on a line.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string(value).context("the answer does not fit JSON; please report this")? + "\n"))
}
