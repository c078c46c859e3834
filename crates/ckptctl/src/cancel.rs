//! Ctrl+C during an act: it ends in good order.

use std::sync::atomic::Ordering;

use anyhow::Context;
use ckpt_core::Class;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::Failure;

/// From now on SIGINT, SIGTERM and SIGHUP set the engine's flag instead of ending this program, which would leave a half
/// made file behind.
pub fn watch() -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("the signal handlers cannot be installed")?;
    std::thread::spawn(move || {
        for _ in &mut signals {
            ckpt_core::cancel_flag().store(true, Ordering::Relaxed);
        }
    });
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
