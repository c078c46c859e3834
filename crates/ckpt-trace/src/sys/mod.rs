//! The tracer's own system calls that no library wraps as we need them.

mod mounts;
mod pagemap;
mod process;
mod signals;
mod spawn;
mod terminal;

pub use mounts::make_read_only;
pub use pagemap::{PageRange, PagemapScan};
pub use process::*;
pub use signals::{Caught, SignalWaiter};
pub use spawn::{ChildOf, Namespace, clone_process, close_range, exit_now, fork, pause_for_ever, unshare};
pub use terminal::{TerminalSettings, set_terminal_settings, terminal_settings};

use std::io;

/// The result of a raw call.
fn checked(result: libc::c_long) -> io::Result<u64> {
    u64::try_from(result).map_err(|_| io::Error::last_os_error())
}
