//! Signals to the engine itself, taken synchronously.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caught {
    /// Its number.
    pub signal: i32,
    /// Whether a process sent it (else the kernel did: a key of the terminal, a timer).
    pub from_process: bool,
}

/// Blocks signals and reads them from a descriptor; the mask is given back at the end.
#[derive(Debug)]
pub struct SignalWaiter {
    fd: OwnedFd,
    before: libc::sigset_t,
}

impl SignalWaiter {
    /// Takes these signals for the calling thread (and the threads that it makes from now on).
    ///
    /// # Errors
    /// EMFILE and the like.
    pub fn block(signals: &[i32]) -> io::Result<Self> {
        // SAFETY: a zeroed sigset_t is a valid object for sigemptyset to fill.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        let mut before = set;
        // SAFETY: `set` and `before` are live; signalfd takes them by pointer and keeps nothing.
        let fd = unsafe {
            libc::sigemptyset(&raw mut set);
            for signal in signals {
                libc::sigaddset(&raw mut set, *signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before);
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nothing else owns.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, before })
    }

    /// Does something with the mask as it was before: what is started then does not inherit ours.
    pub fn lifted<T>(&self, what: impl FnOnce() -> T) -> T {
        // SAFETY: a zeroed sigset_t is a valid object for pthread_sigmask to fill.
        let mut ours: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: both masks are live.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, &raw mut ours) };
        let done = what();
        // SAFETY: `ours` is the mask that was just read.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const ours, std::ptr::null_mut()) };
        done
    }

    /// The next signal, if one has arrived.
    ///
    /// # Errors
    /// None but those of `read(2)`.
    pub fn next(&self) -> io::Result<Option<Caught>> {
        // SAFETY: a zeroed signalfd_siginfo is valid plain data.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: reads at most `size` bytes into `info`.
        let got = unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut info).cast(), size) };
        if got < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
        }
        let signal = i32::try_from(info.ssi_signo).unwrap_or_default();
        Ok(Some(Caught { signal, from_process: info.ssi_code <= 0 }))
    }
}

impl AsFd for SignalWaiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SignalWaiter {
    fn drop(&mut self) {
        // SAFETY: `before` is the mask that `block` read.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }
}
