//! Another process's memory: `process_vm_readv(2)` where its protection allows, `/proc/PID/mem` where not.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::{Tid, TraceError};

/// A range of addresses in another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first address.
    pub addr: u64,
    /// How many bytes.
    pub len: u64,
}

/// The kernel takes at most this many ranges at once (`UIO_MAXIOV`).
const IOV_MAX: usize = 1024;

/// A process's memory, to be read and written from outside.
#[derive(Debug)]
pub struct Memory {
    pid: Tid,
    mem: File,
}

impl Memory {
    /// Opens the memory of a process that we may trace.
    ///
    /// # Errors
    /// When `/proc/PID/mem` cannot be opened.
    pub fn open(pid: Tid) -> Result<Self, TraceError> {
        let mem = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))
            .map_err(|source| TraceError::from_io("open /proc/PID/mem", pid, source))?;
        Ok(Self { pid, mem })
    }

    /// Reads the spans one after the other into `buffer`, which must be exactly as long as they are together.
    ///
    /// # Errors
    /// EFAULT when a span is not mapped readable: see [`Memory::read_forced`].
    pub fn gather(&self, spans: &[Span], buffer: &mut [u8]) -> Result<(), TraceError> {
        let mut filled = 0;
        for group in spans.chunks(IOV_MAX) {
            let want: usize = group.iter().map(|span| usize_of(span.len)).sum();
            let part = &mut buffer[filled..filled + want];
            let got = self.vm_readv(group, part)?;
            if got != want {
                return Err(self.fault(group, got));
            }
            filled += want;
        }
        Ok(())
    }

    fn vm_readv(&self, spans: &[Span], buffer: &mut [u8]) -> Result<usize, TraceError> {
        let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let remote: Vec<libc::iovec> = spans.iter().map(iovec_of).collect();
        // SAFETY: `local` is a live exclusive slice; the remote ranges are only addresses in another process.
        let got =
            unsafe { libc::process_vm_readv(self.pid, &raw const local, 1, remote.as_ptr(), remote.len() as u64, 0) };
        usize::try_from(got).map_err(|_| self.fault(spans, 0))
    }

    /// The error for a transfer that stopped after `done` bytes of `spans`.
    fn fault(&self, spans: &[Span], done: usize) -> TraceError {
        let source = io::Error::last_os_error();
        if done == 0 && source.raw_os_error() == Some(libc::ESRCH) {
            return TraceError::Gone { tid: self.pid };
        }
        let mut left = done as u64;
        let addr = spans
            .iter()
            .find_map(|span| {
                if left < span.len {
                    return Some(span.addr + left);
                }
                left -= span.len;
                None
            })
            .unwrap_or_default();
        let source = if done == 0 { source } else { io::Error::from_raw_os_error(libc::EFAULT) };
        TraceError::Memory { tid: self.pid, addr, source }
    }

    /// Reads `buffer.len()` bytes at `addr`.
    ///
    /// # Errors
    /// EFAULT when it is not mapped readable.
    pub fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), TraceError> {
        self.gather(&[Span { addr, len: buffer.len() as u64 }], buffer)
    }

    /// Reads a little-endian word.
    ///
    /// # Errors
    /// EFAULT when it is not mapped readable.
    pub fn read_u64(&self, addr: u64) -> Result<u64, TraceError> {
        let mut bytes = [0; 8];
        self.read(addr, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes `bytes` at `addr`, which must be mapped writable.
    ///
    /// # Errors
    /// EFAULT when it is not.
    pub fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), TraceError> {
        self.scatter(bytes, &[Span { addr, len: bytes.len() as u64 }])
    }

    /// Writes `buffer` to the spans one after the other; they must be mapped writable.
    ///
    /// # Errors
    /// EFAULT when one is not.
    pub fn scatter(&self, buffer: &[u8], spans: &[Span]) -> Result<(), TraceError> {
        let mut done = 0;
        for group in spans.chunks(IOV_MAX) {
            let want: usize = group.iter().map(|span| usize_of(span.len)).sum();
            let part = &buffer[done..done + want];
            let local = libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
            let remote: Vec<libc::iovec> = group.iter().map(iovec_of).collect();
            // SAFETY: `local` is only read; the remote ranges are addresses in another process.
            let put = unsafe {
                libc::process_vm_writev(self.pid, &raw const local, 1, remote.as_ptr(), remote.len() as u64, 0)
            };
            let put = usize::try_from(put).map_err(|_| self.fault(group, 0))?;
            if put != want {
                return Err(self.fault(group, put));
            }
            done += want;
        }
        Ok(())
    }

    /// Reads memory whatever its protection (`PROT_NONE` too), as a tracer may (`FOLL_FORCE`, `fs/proc/base.c`).
    ///
    /// # Errors
    /// EIO when nothing is mapped there.
    pub fn read_forced(&self, addr: u64, buffer: &mut [u8]) -> Result<(), TraceError> {
        self.mem.read_exact_at(buffer, addr).map_err(|source| self.forced(addr, source))
    }

    /// Writes private memory whatever its protection; untouched pages of a file are copied first, as by a debugger.
    ///
    /// # Errors
    /// EIO when nothing is mapped there, or the mapping is shared and not writable.
    pub fn write_forced(&self, addr: u64, bytes: &[u8]) -> Result<(), TraceError> {
        self.mem.write_all_at(bytes, addr).map_err(|source| self.forced(addr, source))
    }

    /// A process that has ended has no memory, and its file no bytes (`fs/proc/base.c`, `mem_rw`).
    fn forced(&self, addr: u64, source: io::Error) -> TraceError {
        match source.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::WriteZero => TraceError::Gone { tid: self.pid },
            _ => TraceError::Memory { tid: self.pid, addr, source },
        }
    }
}

fn iovec_of(span: &Span) -> libc::iovec {
    libc::iovec { iov_base: std::ptr::without_provenance_mut(usize_of(span.addr)), iov_len: usize_of(span.len) }
}

/// A length or an index of a 64-bit machine as Rust counts them: the crate does not compile for smaller machines (see `arch`).
#[allow(clippy::cast_possible_truncation)] // usize is 64 bits wide on every supported architecture
#[must_use]
pub fn usize_of(value: u64) -> usize {
    value as usize
}

#[cfg(test)]
mod tests;
