//! What a running program has printed so far.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};

/// A growing copy of a stream, filled by its own thread.
#[derive(Clone, Default)]
pub struct Capture(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    bytes: Vec<u8>,
    /// How many bytes there were at which moment.
    arrivals: Vec<(usize, Instant)>,
    ended: bool,
}

impl Inner {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.arrivals.push((self.bytes.len(), Instant::now()));
    }
}

impl Capture {
    /// Reads `stream` to its end in a thread of its own.
    pub fn of(mut stream: impl Read + Send + 'static) -> Self {
        let capture = Self::default();
        let filled = capture.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A pty whose last user has gone gives EIO: that is its end of file.
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                filled.lock().add(&buffer[..n]);
            }
            filled.lock().ended = true;
        });
        capture
    }

    /// Reads a terminal until its last user has gone, or the other end of the pipe `until` is closed.
    pub(crate) fn of_terminal(mut terminal: File, until: OwnedFd) -> Self {
        let capture = Self::default();
        let filled = capture.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let mut fds = [PollFd::new(&terminal, PollFlags::IN), PollFd::new(&until, PollFlags::empty())];
                if poll(&mut fds, None).is_err() || !fds[1].revents().is_empty() {
                    break;
                }
                let Ok(n @ 1..) = terminal.read(&mut buffer) else { break };
                filled.lock().add(&buffer[..n]);
            }
            drop(terminal);
            filled.lock().ended = true;
        });
        capture
    }

    /// Of a stream that is not captured.
    pub(crate) fn nothing() -> Self {
        Self::of(std::io::empty())
    }

    /// Everything read so far, with what is not UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    /// What was read so far, from an offset on.
    #[must_use]
    pub fn bytes_from(&self, offset: usize) -> Vec<u8> {
        self.lock().bytes.get(offset..).unwrap_or_default().to_vec()
    }

    /// How many bytes had been read at which moment, each time that some were.
    #[must_use]
    pub fn arrivals(&self) -> Vec<(usize, Instant)> {
        self.lock().arrivals.clone()
    }

    /// True when the last writer has closed the stream.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.lock().ended
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
