//! Taking a pending signal away from a stopped process without its knowledge.

use std::time::Duration;

use crate::{Event, Running, Stop, Stopped, TraceError};

/// By then a thread that has the signal to take has taken it.
const SOON: Duration = Duration::from_millis(200);

/// Lets a stopped thread take `signal`, which is pending for its process and not blocked by it, and discards it: the
/// thread stops as it is about to be delivered (ptrace(2), "Signal-delivery-stop"), before it executes an instruction. Says
/// whether the signal was there.
///
/// Signals that come first are delivered, as they are to a thread that runs on: their handlers begin, and execute nothing.
/// Should the tracer die meanwhile, the signal is delivered or, once it was taken, gone.
///
/// # Errors
/// [`TraceError::Gone`] when it ends.
pub fn take_signal(thread: Stopped, signal: i32) -> Result<(Stopped, bool), TraceError> {
    let tid = thread.tid();
    let mut running = thread.resume()?;
    let mut is_interrupted = false;
    loop {
        let event = match running.wait_for(if is_interrupted { Duration::MAX } else { SOON })? {
            Ok(event) => event,
            // Someone else took it away: the thread runs.
            Err(still) => {
                still.interrupt()?;
                is_interrupted = true;
                running = still;
                continue;
            }
        };
        running = match event {
            Event::Stopped(thread, Stop::Signal(found)) if found == signal => return Ok((thread, true)),
            Event::Stopped(thread, Stop::Signal(other)) => thread.deliver(other)?,
            Event::Stopped(thread, Stop::Interrupt | Stop::Group(_)) if is_interrupted => return Ok((thread, false)),
            Event::Stopped(thread, _) => thread.resume()?,
            Event::Ended(_) => return Err(TraceError::Gone { tid }),
        };
    }
}

impl Running {
    /// As [`Running::wait`], for a limited time; afterwards it is as it was.
    ///
    /// # Errors
    /// [`TraceError::Gone`] when it was reaped by someone else.
    fn wait_for(self, limit: Duration) -> Result<Result<Event, Self>, TraceError> {
        const PAUSE: Duration = Duration::from_micros(50);
        if limit == Duration::MAX {
            return self.wait().map(Ok);
        }
        let began = std::time::Instant::now();
        let mut running = self;
        loop {
            running = match running.poll()? {
                Ok(event) => return Ok(Ok(event)),
                Err(still) if began.elapsed() < limit => still,
                Err(still) => return Ok(Err(still)),
            };
            std::thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests;
