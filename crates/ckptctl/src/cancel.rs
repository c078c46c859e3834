//! Ctrl+C during an act: it ends in good order.

use std::sync::atomic::Ordering;

use anyhow::Context;
use ckpt_core::Class;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::failure::Failure;

/// From now on SIGINT, SIGQUIT, SIGTERM and SIGHUP set the engine's flag instead of ending this program, which would leave a
/// half made file behind. SIGXFSZ does nothing: the write that it comes with fails, and that is told.
pub fn watch() -> anyhow::Result<()> {
    const FAILED: &str = "the signal handlers cannot be installed";
    let mut signals = Signals::new([SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGXFSZ]).context(FAILED)?;
    let watching = move || {
        for _ in signals.forever().filter(|signal| *signal != SIGXFSZ) {
            ckpt_core::cancel_flag().store(true, Ordering::Relaxed);
        }
    };
    std::thread::Builder::new().spawn(watching).context(FAILED)?;
    Ok(())
}

/// An error when the user has cancelled an act that makes a file.
pub fn check() -> anyhow::Result<()> {
    if is_cancelled() {
        return Err(Failure::new(Class::Cancelled, "cancelled; no file was left").into());
    }
    Ok(())
}

/// Whether the user has cancelled.
pub fn is_cancelled() -> bool {
    ckpt_core::cancel_flag().load(Ordering::Relaxed)
}
