//! The tracer dies in the middle of a batch: the tracee gets back by itself what it had.

use std::arch::asm;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::sys;

/// Words of the shared page.
const TRACEE: usize = 0;
const STARTED: usize = 1;
const GO: usize = 2;
const DONE: usize = 3;
const RESULT: usize = 4;
const MASK: usize = 5;
const READY: usize = 6;

/// Signal 64 is the highest.
const BLOCKED: u64 = 1 << (libc::SIGUSR1 - 1) | 1 << (libc::SIGURG - 1) | 1 << 63;

/// Forks a tracer, which forks the tracee itself (a tracer may trace its descendants everywhere), begins a batch in it
/// that sleeps 50 ms, and is killed as soon as the batch runs. Then sets [`GO`].
fn tracer_is_killed(shared: &Shared, in_tracee: impl FnOnce() -> u64) {
    let tracer = Tracee::fork(|| {
        let Ok(pid) = sys::fork() else { return 1 };
        let Some(pid) = pid else {
            set_mask(BLOCKED);
            let result = in_tracee();
            shared.set(MASK, mask());
            shared.set(RESULT, result);
            shared.set(DONE, 1);
            sys::pause_for_ever();
        };
        shared.set(TRACEE, pid.unsigned_abs().into());
        while shared.get(READY) == 0 {
            std::thread::yield_now();
        }
        // Until it is in its call.
        std::thread::sleep(Duration::from_millis(20));
        let _ = begin_batch(pid, shared.word(STARTED));
        1
    });
    until("the batch to run", || shared.get(STARTED) != 0);
    tracer.kill(libc::SIGKILL);
    drop(tracer);
    shared.set(GO, 1);
}

/// Begins a batch whose first call tells that it runs: it reads a random number into the shared page.
fn begin_batch(pid: Tid, started: &AtomicU64) -> Result<(), TraceError> {
    let running = Running::seize(pid, SeizeOptions::default())?;
    running.interrupt()?;
    let Event::Stopped(thread, _) = running.wait()? else { return Err(TraceError::Gone { tid: pid }) };
    let memory = Memory::open(pid)?;
    let (thread, injection) = Injection::map(thread, &memory, LEN, 0, syscall_at(), TRAP)?;
    let mut batch = injection.batch();
    batch.call("getrandom", libc::SYS_getrandom, &[started.as_ptr() as u64, 8, 0]);
    // Not nanosleep, which forgets the thread's restart block as soon as it begins.
    batch.call("poll", libc::SYS_poll, &[0, 0, 50]);
    let _in_flight = injection.start(thread, &memory, batch)?;
    sys::pause_for_ever()
}

fn set_mask(mask: u64) {
    let none = std::ptr::null_mut::<u64>();
    // SAFETY: `mask` is live and 8 bytes long, as the kernel's masks are.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, none, 8) };
}

fn mask() -> u64 {
    let mut mask = 0_u64;
    let none = std::ptr::null::<u64>();
    // SAFETY: `mask` is live and 8 bytes long, as the kernel's masks are.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, none, &raw mut mask, 8) };
    mask
}

/// Waits until the tracee is done, ends it, checks its mask and gives its result.
fn result(shared: &Shared) -> u64 {
    let pid = Tid::try_from(shared.get(TRACEE)).unwrap();
    until("the tracee to go on", || {
        assert!(std::path::Path::new(&format!("/proc/{pid}/exe")).exists(), "it crashed");
        shared.get(DONE) != 0
    });
    // SAFETY: takes only integers; the process waits for this.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    assert_eq!(shared.get(MASK), BLOCKED);
    shared.get(RESULT)
}

/// Fills every register that a loop does not need, waits for `go`, and counts those that have changed.
fn hold_registers(ready: &AtomicU64, go: &AtomicU64) -> u64 {
    let changed: u64;
    // SAFETY: reads `go` and writes `ready` only; rbx and rbp, which cannot be operands, are given back.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "mov rbx, 0x1111",
            "mov rcx, 0x2222",
            "mov rdx, 0x3333",
            "mov rbp, 0x4444",
            "mov r8, 0x5555",
            "mov r9, 0x6666",
            "mov r10, 0x7777",
            "mov r11, 0x8888",
            "mov r12, 0x9999",
            "mov r13, 0xaaaa",
            "mov r14, 0xbbbb",
            "mov r15, 0xcccc",
            "movq xmm7, r15",
            "mov qword ptr [rdi], 1",
            // The carry stays set throughout, so that a loss of the flags shows.
            "stc",
            "2:",
            "jnc 3f",
            "pause",
            "mov rax, [rsi]",
            "dec rax", // leaves the carry alone
            "jnz 2b",
            "jmp 4f",
            "3: mov eax, 100",
            "4:",
            "cmp rbx, 0x1111",
            "je 5f",
            "inc eax",
            "5: cmp rcx, 0x2222",
            "je 5f",
            "inc eax",
            "5: cmp rdx, 0x3333",
            "je 5f",
            "inc eax",
            "5: cmp rbp, 0x4444",
            "je 5f",
            "inc eax",
            "5: cmp r8, 0x5555",
            "je 5f",
            "inc eax",
            "5: cmp r9, 0x6666",
            "je 5f",
            "inc eax",
            "5: cmp r10, 0x7777",
            "je 5f",
            "inc eax",
            "5: cmp r11, 0x8888",
            "je 5f",
            "inc eax",
            "5: cmp r12, 0x9999",
            "je 5f",
            "inc eax",
            "5: cmp r13, 0xaaaa",
            "je 5f",
            "inc eax",
            "5: cmp r14, 0xbbbb",
            "je 5f",
            "inc eax",
            "5: cmp r15, 0xcccc",
            "je 5f",
            "inc eax",
            "5: movq rcx, xmm7",
            "cmp rcx, 0xcccc",
            "je 5f",
            "inc eax",
            "5:",
            "pop rbp",
            "pop rbx",
            in("rdi") ready.as_ptr(),
            in("rsi") go.as_ptr(),
            out("rax") changed,
            out("rcx") _, out("rdx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _, out("xmm7") _,
        );
    }
    changed
}

#[test]
fn a_thread_in_its_own_code_keeps_registers_and_mask() {
    let shared = Shared::new();
    let (ready, go) = (shared.word(READY), shared.word(GO));
    tracer_is_killed(&shared, || hold_registers(ready, go));
    assert_eq!(result(&shared), 0, "registers that have changed");
}

/// A call that the freeze interrupted is made again by the healing code, as the kernel would have.
#[test]
fn a_blocked_read_goes_on() {
    let shared = Shared::new();
    let mut pipe = [0; 2];
    // SAFETY: `pipe` is live.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    let ready = shared.word(READY);
    tracer_is_killed(&shared, || {
        let mut byte = 0_u8;
        ready.store(1, Ordering::SeqCst);
        // SAFETY: `byte` is live.
        let got = unsafe { libc::read(pipe[0], (&raw mut byte).cast(), 1) };
        u64::from(byte) << 8 | u64::from(got == 1)
    });
    // SAFETY: writes one live byte.
    assert_eq!(unsafe { libc::write(pipe[1], b"x".as_ptr().cast(), 1) }, 1);
    assert_eq!(result(&shared), u64::from(b'x') << 8 | 1);
    for fd in pipe {
        // SAFETY: the descriptor is ours.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

/// So is a sleep, with the time that is left: neither cut short nor begun anew.
#[test]
fn a_sleep_goes_on() {
    const TIME: Duration = Duration::from_millis(500);
    let shared = Shared::new();
    let ready = shared.word(READY);
    tracer_is_killed(&shared, || {
        let time = libc::timespec { tv_sec: 0, tv_nsec: 500_000_000 };
        let none = std::ptr::null_mut::<u64>();
        ready.store(1, Ordering::SeqCst);
        let began = Instant::now();
        // SAFETY: `time` is live.
        let result = unsafe { libc::syscall(libc::SYS_nanosleep, &raw const time, none) };
        if result == 0 { u64::try_from(began.elapsed().as_millis()).unwrap_or(0) } else { 0 }
    });
    let slept = Duration::from_millis(result(&shared));
    assert!((TIME..TIME * 2).contains(&slept), "{slept:?}");
}
