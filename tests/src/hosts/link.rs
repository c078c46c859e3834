//! A long cable: a relay on this machine that passes on what it gets a little later, and can be cut at any byte.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// How much one direction of a connection holds at most, in bytes.
const WINDOW: usize = 8 << 20;

/// A relay to a host's sshd. It ends when this is dropped, and with it its connections.
pub struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    to: SocketAddr,
    delay: Duration,
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes that have come from here.
    sent: AtomicU64,
}

#[derive(Default)]
struct State {
    is_cut: bool,
    /// Cuts itself after so many bytes in all from here.
    cut_after: Option<u64>,
    is_over: bool,
    open: Vec<TcpStream>,
}

impl Link {
    /// Starts a relay in the network of this thread that delays everything by `delay`, each way.
    ///
    /// # Errors
    /// When there is no port to be had.
    pub fn to(address: SocketAddr, delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let local = listener.local_addr()?;
        let shared = Arc::new(Shared {
            to: address,
            delay,
            state: Mutex::default(),
            changed: Condvar::new(),
            sent: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for incoming in listener.incoming() {
                if accepting.lock().is_over {
                    return;
                }
                if let (Ok(near), Ok(far)) = (incoming, TcpStream::connect(accepting.to)) {
                    // What fails here shows as a connection that closes.
                    let _ = accepting.relay(&near, &far);
                }
            }
        });
        Ok(Self { address: local, shared })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing comes through, in either direction. Nobody is told.
    pub fn cut(&self) {
        self.shared.lock().is_cut = true;
    }

    /// It cuts itself when so many more bytes have gone to the host.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.lock().cut_after = Some(self.sent() + bytes);
    }

    /// Whether it is cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.shared.lock().is_cut
    }

    /// What was held back goes on its way.
    pub fn mend(&self) {
        let mut state = self.shared.lock();
        (state.is_cut, state.cut_after) = (false, None);
        self.shared.changed.notify_all();
    }

    /// How many bytes have gone to the host.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Closes all connections, as when either machine's kernel restarts.
    pub fn reset(&self) {
        for stream in self.shared.lock().open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_all();
        self.reset();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn relay(self: &Arc<Self>, near: &TcpStream, far: &TcpStream) -> Result<()> {
        for (from, to, counts) in [(near, far, true), (far, near, false)] {
            from.set_nodelay(true)?;
            self.lock().open.push(from.try_clone()?);
            let pipe = Arc::new(Pipe::default());
            let (mut from, filling, shared) = (from.try_clone()?, Arc::clone(&pipe), Arc::clone(self));
            thread::spawn(move || shared.fill(&mut from, &filling, counts));
            let (mut to, shared) = (to.try_clone()?, Arc::clone(self));
            thread::spawn(move || shared.drain(&pipe, &mut to));
        }
        Ok(())
    }

    fn fill(&self, from: &mut TcpStream, pipe: &Pipe, counts: bool) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = from.read(&mut buffer).unwrap_or(0);
            if counts {
                let sent = self.sent.fetch_add(count as u64, Ordering::Relaxed) + count as u64;
                let mut state = self.lock();
                if state.cut_after.is_some_and(|limit| sent >= limit) {
                    state.is_cut = true;
                }
            }
            // The end is passed on as an empty piece.
            if !pipe.put(Instant::now() + self.delay, &buffer[..count]) || count == 0 {
                return;
            }
        }
    }

    fn drain(&self, pipe: &Pipe, to: &mut TcpStream) {
        loop {
            let (due, bytes) = pipe.take();
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let mut state = self.lock();
            while state.is_cut && !state.is_over {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            if bytes.is_empty() || to.write_all(&bytes).is_err() {
                let _ = to.shutdown(Shutdown::Write);
                pipe.close();
                return;
            }
        }
    }
}

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Held {
    pieces: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    is_closed: bool,
}

impl Pipe {
    /// False when nobody takes anything any more.
    fn put(&self, due: Instant, bytes: &[u8]) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while held.bytes > WINDOW && !held.is_closed {
            held = self.changed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        held.bytes += bytes.len();
        held.pieces.push_back((due, bytes.to_vec()));
        self.changed.notify_all();
        !held.is_closed
    }

    fn take(&self) -> (Instant, Vec<u8>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some((due, bytes)) = held.pieces.pop_front() {
                held.bytes -= bytes.len();
                self.changed.notify_all();
                return (due, bytes);
            }
            held = self.changed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn close(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        self.changed.notify_all();
    }
}
