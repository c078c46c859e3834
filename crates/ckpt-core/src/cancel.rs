//! A way for a signal handler or another thread to stop an act in good order.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::Error;

static CANCELLED: AtomicBool = AtomicBool::new(false);

/// Set it, and the act under way ends with [`Error::Cancelled`] at the next opportunity: the program runs on undisturbed
/// and no file is left.
#[must_use]
pub fn cancel_flag() -> &'static AtomicBool {
    &CANCELLED
}

pub(crate) fn check() -> Result<(), Error> {
    if CANCELLED.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
}
