#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use std::os::fd::{FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::*;
use crate::SeizeOptions;
use crate::tracee::{Shared, TRAP, Tracee, syscall_at, until, wait};

mod healing;

const LEN: u64 = 8 * PAGE;

fn map(thread: Stopped, memory: &Memory) -> (Stopped, Injection) {
    Injection::map(thread, memory, LEN, 0, syscall_at(), TRAP).unwrap()
}

fn getpid(batch: &mut Batch) -> usize {
    batch.call("getpid", libc::SYS_getpid, &[])
}

/// The whole array runs between one resume and one stop: the stop that the trap signal makes.
#[test]
fn a_batch_runs_many_calls_in_one_stop() {
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let (thread, injection) = map(tracee.stop(), &memory);
    let mut batch = injection.batch();
    let calls: Vec<usize> = (0..150).map(|_| getpid(&mut batch)).collect();
    let heal_at = injection.range().start + arch::batch_code().1;

    let InFlight { running, calls_at, .. } = injection.start(thread, &memory, batch).unwrap();
    let (thread, stop) = wait(running);
    assert_eq!((stop, thread.registers().unwrap().ip()), (Stop::Signal(TRAP), heal_at));
    for call in calls {
        let result = memory.read_u64(calls_at + (call * CALL_BYTES) as u64 + 56).unwrap();
        assert_eq!(result, u64::from(tracee.pid.unsigned_abs()));
    }
}

/// Arguments point into the scratch memory, and what calls wrote there is read back.
#[test]
fn results_errors_and_scratch_come_back() {
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let (thread, injection) = map(tracee.stop(), &memory);
    let mut batch = injection.batch();
    assert!(batch.is_empty());
    let pipe = batch.space(8);
    let text = batch.string(b"hello");
    let back = batch.space(6);
    let missing = batch.string(b"/no/such/file");
    assert!([pipe, text, back, missing].iter().all(|at| at.is_multiple_of(16)));
    let piped = batch.call("pipe2", libc::SYS_pipe2, &[pipe, 0]);
    let opened = batch.call("open", libc::SYS_open, &[missing, 0]);
    assert!(!batch.is_empty());
    let (thread, outcome) = injection.run(thread, &memory, batch).unwrap();
    outcome.result(piped).unwrap();
    let (reading, writing) = (outcome.half(pipe), outcome.half(pipe + 4));
    assert_eq!(outcome.word(pipe), u64::from(reading) | u64::from(writing) << 32);
    assert_eq!(outcome.raw(opened), -i64::from(libc::ENOENT));
    let error = outcome.all().unwrap_err();
    assert!(matches!(&error, TraceError::Remote { call: "open", tid, .. } if *tid == tracee.pid), "{error}");
    assert_eq!(error.errno(), Some(libc::ENOENT));

    let mut batch = injection.batch();
    let text = batch.string(b"hello");
    let back = batch.space(6);
    batch.call("write", libc::SYS_write, &[writing.into(), text, 6]);
    let read = batch.call("read", libc::SYS_read, &[reading.into(), back, 6]);
    let (_thread, outcome) = injection.run(thread, &memory, batch).unwrap();
    outcome.all().unwrap();
    assert_eq!((outcome.result(read).unwrap(), outcome.bytes(back, 6)), (6, b"hello\0".as_slice()));
}

/// All six arguments get there: `mmap` takes as many.
#[test]
fn a_call_has_six_arguments() {
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let fd = u64::from(std::os::fd::AsRawFd::as_raw_fd(&file).unsigned_abs());
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let (thread, injection) = map(tracee.stop(), &memory);
    let mut batch = injection.batch();
    let private = libc::MAP_PRIVATE.unsigned_abs().into();
    let mapped = batch.call("mmap", libc::SYS_mmap, &[0, PAGE, 1, private, fd, PAGE]);
    let (_thread, outcome) = injection.run(thread, &memory, batch).unwrap();
    let mut there = [0; 64];
    memory.read(outcome.result(mapped).unwrap(), &mut there).unwrap();
    let mut expected = [0; 64];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut expected, PAGE).unwrap();
    assert_eq!(there, expected);
}

#[test]
fn an_empty_batch_does_nothing() {
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let (thread, injection) = map(tracee.stop(), &memory);
    let (_thread, outcome) = injection.run(thread, &memory, injection.batch()).unwrap();
    outcome.all().unwrap();
    assert!(outcome.clones.is_empty());
}

/// A batch that is as full as `has_room` allows runs.
#[test]
fn a_full_batch_runs() {
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let (thread, injection) = map(tracee.stop(), &memory);
    let mut batch = injection.batch();
    let mut calls = Vec::new();
    while batch.has_room(1, 0) {
        calls.push(getpid(&mut batch));
    }
    let mut data = Vec::new();
    while batch.has_room(0, 100) {
        data.push(batch.data(&[u8::try_from(data.len()).unwrap(); 100]));
    }
    assert!(calls.len() > 200 && data.len() > 100, "{} {}", calls.len(), data.len());
    let (_thread, outcome) = injection.run(thread, &memory, batch).unwrap();
    assert!(calls.iter().all(|call| outcome.result(*call).unwrap() == u64::from(tracee.pid.unsigned_abs())));
    for (at, byte) in data.iter().zip(0..) {
        assert_eq!(outcome.bytes(*at, 100), [byte; 100]);
    }
}

/// What is asked for has to be the very place; another mapping is never replaced (`MAP_FIXED_NOREPLACE`).
#[test]
fn pages_go_where_they_are_wanted_or_nowhere() {
    const WANTED: u64 = 0x1234_5000;
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let before = tracee.proc("maps");
    let (thread, injection) = Injection::map(tracee.stop(), &memory, LEN, WANTED, syscall_at(), TRAP).unwrap();
    assert_eq!(injection.range(), WANTED..WANTED + LEN);
    let taken = Injection::map(thread, &memory, LEN, WANTED + PAGE, syscall_at(), TRAP).unwrap_err();
    assert_eq!(taken.errno(), Some(libc::EEXIST));

    let thread = tracee.stop();
    let (thread, second) = map(thread, &memory);
    let mut batch = second.batch();
    batch.call("munmap", libc::SYS_munmap, &[WANTED, LEN]);
    let (thread, outcome) = second.run(thread, &memory, batch).unwrap();
    outcome.all().unwrap();
    second.unmap(thread, &memory).unwrap();
    assert_eq!(tracee.proc("maps"), before);
}

/// Everything that a thread has, before and after: in its own code, in calls that the stop interrupted in each of the
/// ways that there are.
fn is_undisturbed(tracee: &Tracee, mask: u64) {
    let maps = tracee.proc("maps");
    let memory = tracee.memory();
    let thread = tracee.stop();
    thread.set_signal_mask(mask).unwrap();
    let mut extended = thread.extended_state().unwrap();
    // Of a part that is as at the beginning, AMD's processors say that it is not in use: another control word, other registers.
    extended[..2].copy_from_slice(&0x027f_u16.to_le_bytes());
    extended[160..416].fill(0x5a);
    extended[512] |= 3;
    thread.set_extended_state(&extended).unwrap();
    let seen = |thread: &Stopped| {
        (thread.registers().unwrap(), thread.signal_mask().unwrap(), thread.extended_state().unwrap())
    };
    let before = seen(&thread);
    assert_eq!((before.1, &before.2), (mask, &extended));

    let (mut thread, injection) = map(thread, &memory);
    assert!(seen(&thread) == before, "after map");
    for _ in 0..3 {
        let mut batch = injection.batch();
        let time = batch.space(16);
        batch.call("clock_gettime", libc::SYS_clock_gettime, &[1, time]);
        getpid(&mut batch);
        let (after, outcome) = injection.run(thread, &memory, batch).unwrap();
        outcome.all().unwrap();
        assert!(seen(&after) == before, "after run");
        thread = after;
    }
    let thread = injection.unmap(thread, &memory).unwrap();
    assert!(seen(&thread) == before, "after unmap");
    assert_eq!(tracee.proc("maps"), maps);
    thread.set_signal_mask(0).unwrap();
}

#[test]
fn a_thread_in_its_own_code_is_undisturbed() {
    let counter = Shared::new();
    let tracee = Tracee::counting(&counter);
    is_undisturbed(&tracee, 0);
    is_undisturbed(&tracee, 1 << (libc::SIGUSR1 - 1) | 1 << (libc::SIGURG - 1));
    let before = counter.get(0);
    until("it to count on", || counter.get(0) > before);
}

/// `pause`: ERESTARTNOHAND, `nanosleep`: the restart block, `read`: ERESTARTSYS, `epoll_wait`: EINTR.
#[test]
fn a_thread_in_a_call_is_undisturbed() {
    let time = libc::timespec { tv_sec: 1000, tv_nsec: 0 };
    let calls: [(i64, [u64; 4], i64); 4] = [
        (libc::SYS_pause, [0; 4], -514),
        (libc::SYS_nanosleep, [(&raw const time) as u64, 0, 0, 0], -516),
        (libc::SYS_read, [0; 4], -512),
        (libc::SYS_epoll_wait, [0, 0, 1, u64::MAX], -4),
    ];
    for (number, mut arguments, result) in calls {
        let mut pipe = [0; 2];
        // SAFETY: `pipe` is live.
        assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
        // SAFETY: takes only a flag.
        let epoll = unsafe { libc::epoll_create1(0) };
        let mut room = [0_u64; 2];
        if number == libc::SYS_read {
            arguments = [pipe[0].unsigned_abs().into(), room.as_mut_ptr() as u64, 1, 0];
        }
        if number == libc::SYS_epoll_wait {
            arguments[..2].copy_from_slice(&[epoll.unsigned_abs().into(), room.as_mut_ptr() as u64]);
        }
        let [a, b, c, d] = arguments;
        let tracee = Tracee::fork(|| {
            // SAFETY: the arguments point to what the fork has a copy of.
            unsafe { libc::syscall(number, a, b, c, d) };
            1
        });
        tracee.until_in_call(number);
        let thread = tracee.stop();
        assert_eq!(thread.registers().unwrap().result(), result, "call {number}");
        drop(thread);
        if number != libc::SYS_epoll_wait {
            is_undisturbed(&tracee, 1 << (libc::SIGUSR2 - 1));
        }
        for fd in [pipe[0], pipe[1], epoll] {
            // SAFETY: the descriptor is ours.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
}

/// A process that was stopped by a signal runs batches, and is stopped as before afterwards.
#[test]
fn a_stopped_process_stays_stopped() {
    let tracee = Tracee::waiting();
    tracee.kill(libc::SIGSTOP);
    until("its stop", || tracee.state() == 'T');
    let running = tracee.seize();
    running.interrupt().unwrap();
    let (thread, stop) = wait(running);
    assert_eq!(stop, Stop::Group(libc::SIGSTOP));
    let memory = tracee.memory();
    let (thread, injection) = map(thread, &memory);
    let mut batch = injection.batch();
    getpid(&mut batch);
    let (thread, outcome) = injection.run(thread, &memory, batch).unwrap();
    outcome.all().unwrap();
    injection.unmap(thread, &memory).unwrap().detach().unwrap();
    until("it to stay stopped", || tracee.state() == 'T');
}

/// A signal that comes while a batch runs waits: it is neither delivered in the middle of it nor lost.
#[test]
fn a_signal_during_a_batch_is_delivered_after_it() {
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let (thread, injection) = map(tracee.stop(), &memory);
    let mut batch = injection.batch();
    let time = batch.data(&[0_u64.to_le_bytes(), 50_000_000_u64.to_le_bytes()].concat());
    let slept = batch.call("nanosleep", libc::SYS_nanosleep, &[time, 0]);
    let in_flight = injection.start(thread, &memory, batch).unwrap();
    tracee.kill(libc::SIGUSR1);
    let (thread, outcome) = in_flight.finish(&memory).unwrap();
    assert_eq!(outcome.result(slept).unwrap(), 0);
    let running = injection.unmap(thread, &memory).unwrap().resume().unwrap();
    let (thread, stop) = wait(running);
    assert_eq!(stop, Stop::Signal(libc::SIGUSR1));
    drop(thread);
}

/// The end of the process in the middle of a batch is an error that says so.
#[test]
fn a_tracee_that_ends_during_a_batch_is_gone() {
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let (thread, injection) = map(tracee.stop(), &memory);
    let mut batch = injection.batch();
    getpid(&mut batch);
    batch.call("exit_group", libc::SYS_exit_group, &[3]);
    getpid(&mut batch);
    let error = injection.run(thread, &memory, batch).unwrap_err();
    assert!(matches!(error, TraceError::Gone { tid } if tid == tracee.pid), "{error}");
}

#[test]
fn a_tracee_that_is_killed_during_a_batch_is_gone() {
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let (thread, injection) = map(tracee.stop(), &memory);
    let mut batch = injection.batch();
    batch.call("pause", libc::SYS_pause, &[]);
    let in_flight = injection.start(thread, &memory, batch).unwrap();
    tracee.kill(libc::SIGKILL);
    assert!(in_flight.finish(&memory).unwrap_err().is_gone());
}

/// `PTRACE_O_TRACECLONE`: a thread that a batch makes is traced from its first instruction on, and stops before it.
#[test]
fn threads_that_a_batch_makes_are_reported() {
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let (thread, injection) = map(tracee.stop(), &memory);
    let flags = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
    let mut batch = injection.batch();
    let made: Vec<usize> =
        (0..3).map(|_| batch.call("clone", libc::SYS_clone, &[flags.unsigned_abs().into(), 0, 0, 0, 0])).collect();
    let (thread, outcome) = injection.run(thread, &memory, batch).unwrap();
    let tids: Vec<u64> = outcome.clones.iter().map(|tid| tid.unsigned_abs().into()).collect();
    assert_eq!(tids, made.iter().map(|call| outcome.result(*call).unwrap()).collect::<Vec<_>>());

    let mut stopped = Vec::new();
    for tid in &outcome.clones {
        let (new, stop) = wait(Running::attached(*tid, SeizeOptions::default()));
        assert_eq!((new.tid(), stop), (*tid, Stop::Interrupt));
        // Such a thread runs batches of its own in the same pages.
        let mut batch = injection.batch();
        let own = batch.call("gettid", libc::SYS_gettid, &[]);
        let (new, outcome) = injection.run(new, &memory, batch).unwrap();
        assert_eq!(outcome.result(own).unwrap(), u64::from(tid.unsigned_abs()));
        stopped.push(new);
    }
    for new in stopped {
        new.exit_thread(syscall_at()).unwrap();
    }
    let tasks = std::fs::read_dir(format!("/proc/{}/task", tracee.pid)).unwrap().count();
    assert_eq!(tasks, 1);
    injection.unmap(thread, &memory).unwrap().detach().unwrap();
}

fn timespec(tracee: &Memory, injection: &Injection, time: Duration) -> u64 {
    let bytes = [time.as_secs(), time.subsec_nanos().into()].map(u64::to_le_bytes).concat();
    let at = injection.batch().data(&bytes);
    tracee.write(at, &bytes).unwrap();
    at
}

/// A wait that is interrupted as soon as it begins leaves a restart block; the kernel goes on with it (`restart_syscall`)
/// for the time that is left, not from its beginning.
#[test]
fn a_wait_that_is_begun_goes_on() {
    const TIME: Duration = Duration::from_millis(400);
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let (thread, injection) = map(tracee.stop(), &memory);
    let at = timespec(&memory, &injection, TIME);
    let began = Instant::now();
    let (thread, result) = begin_wait(thread, syscall_at(), libc::SYS_nanosleep, [at, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!(result, arch::RESTART_BLOCK);
    assert!(began.elapsed() < TIME / 2, "it does not wait for it");
    std::thread::sleep(TIME / 2);

    let mut registers = thread.registers().unwrap();
    registers.set_call_restart();
    thread.set_registers(&registers).unwrap();
    let (thread, stop) = wait(thread.deliver_to_syscall(0).unwrap());
    assert_eq!(stop, Stop::Syscall);
    assert_eq!(thread.registers().unwrap().syscall().unwrap().0, libc::SYS_restart_syscall);
    let (thread, _) = wait(thread.deliver_to_syscall(0).unwrap());
    assert_eq!(thread.registers().unwrap().result(), 0);
    let took = began.elapsed();
    assert!((TIME..TIME * 2).contains(&took), "{took:?}");
    drop(thread);
}

/// A long one is still asleep, in the restarted call, when its tracer has let it go.
#[test]
fn a_long_wait_sleeps_on_after_the_detach() {
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let (thread, injection) = map(tracee.stop(), &memory);
    let at = timespec(&memory, &injection, Duration::from_secs(10));
    let (thread, result) = begin_wait(thread, syscall_at(), libc::SYS_nanosleep, [at, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!(result, -516);
    thread.detach().unwrap();
    tracee.until_in_call(libc::SYS_restart_syscall);
    tracee.kill(libc::SIGKILL);
}

/// `poll` and a timed futex use the restart block as well.
#[test]
fn other_waits_leave_a_restart_block() {
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let (thread, injection) = map(tracee.stop(), &memory);
    let (thread, result) = begin_wait(thread, syscall_at(), libc::SYS_poll, [0, 0, 10_000, 0, 0, 0]).unwrap();
    assert_eq!(result, -516);
    let at = timespec(&memory, &injection, Duration::from_secs(10));
    let word = at + 64;
    let futex = [word, 128, 0, at, 0, 0]; // FUTEX_WAIT_PRIVATE on a word that is 0
    let (thread, result) = begin_wait(thread, syscall_at(), libc::SYS_futex, futex).unwrap();
    assert_eq!(result, -516);
    tracee.kill(libc::SIGKILL);
    drop(thread);
}

/// A futex that has another value is nothing to wait for: EAGAIN.
#[test]
fn a_wait_for_nothing_ends_at_once() {
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let (thread, injection) = map(tracee.stop(), &memory);
    let at = timespec(&memory, &injection, Duration::from_secs(10));
    let futex = [at, 128, 1, at, 0, 0]; // FUTEX_WAIT_PRIVATE
    let (thread, result) = begin_wait(thread, syscall_at(), libc::SYS_futex, futex).unwrap();
    assert_eq!(result, -i64::from(libc::EAGAIN));
    tracee.kill(libc::SIGKILL);
    drop(thread);
}

/// Two threads work at once, each in pages of its own.
#[test]
fn two_batches_are_in_flight_at_once() {
    let (one, two) = (Tracee::waiting(), Tracee::waiting());
    let began = Instant::now();
    let start = |tracee: &Tracee| {
        let memory = tracee.memory();
        let (thread, injection) = map(tracee.stop(), &memory);
        let mut batch = injection.batch();
        let time = batch.data(&[0_u64.to_le_bytes(), 200_000_000_u64.to_le_bytes()].concat());
        batch.call("nanosleep", libc::SYS_nanosleep, &[time, 0]);
        (injection.start(thread, &memory, batch).unwrap(), memory)
    };
    for (in_flight, memory) in [start(&one), start(&two)] {
        in_flight.finish(&memory).unwrap().1.all().unwrap();
    }
    assert!(began.elapsed() < Duration::from_millis(390), "{:?}", began.elapsed());
}

/// SIGSTOP cannot be blocked: one that comes while a batch runs must not be lost.
#[test]
fn a_stop_during_a_batch_is_not_lost() {
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let (thread, injection) = map(tracee.stop(), &memory);
    let mut batch = injection.batch();
    batch.call("poll", libc::SYS_poll, &[0, 0, 50]);
    let in_flight = injection.start(thread, &memory, batch).unwrap();
    tracee.kill(libc::SIGSTOP);
    let (thread, outcome) = in_flight.finish(&memory).unwrap();
    outcome.all().unwrap();
    injection.unmap(thread, &memory).unwrap().detach().unwrap();
    until("its stop", || tracee.state() == 'T');
}

#[test]
fn a_stop_before_map_is_not_lost() {
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let thread = tracee.stop();
    tracee.kill(libc::SIGSTOP);
    let (thread, injection) = map(thread, &memory);
    injection.unmap(thread, &memory).unwrap().detach().unwrap();
    until("its stop", || tracee.state() == 'T');
}

#[test]
fn memory_forced_of_the_dead_is_gone() {
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    tracee.kill(libc::SIGKILL);
    until("its end", || tracee.state() == 'Z');
    let e = memory.read_forced(0x40_0000, &mut [0; 4]).unwrap_err();
    assert!(e.is_gone(), "{e}");
}

#[test]
fn a_hostile_layout_is_refused() {
    let from = [arch::XsaveComponent { bit: 2, offset: u32::MAX, size: 256 }];
    let mut s = vec![0; 1000];
    s[512] = 7;
    assert_eq!(arch::relayout(&s, &from), None);
    let from = [arch::XsaveComponent { bit: 200, offset: 600, size: 256 }];
    let _ = arch::relayout(&s, &from);
}

/// More than the pages hold is refused, and not written over the calls or past the end.
#[test]
fn a_batch_that_is_too_large_is_refused() {
    let tracee = Tracee::waiting();
    let memory = tracee.memory();
    let (thread, injection) = map(tracee.stop(), &memory);
    let mut batch = injection.batch();
    while batch.has_room(1, 0) {
        getpid(&mut batch);
    }
    getpid(&mut batch);
    let error = injection.run(thread, &memory, batch).unwrap_err();
    assert_eq!(error.errno(), Some(libc::E2BIG), "{error}");
    let mut batch = injection.batch();
    batch.space(8 * 4096);
    assert_eq!(injection.run(tracee.stop(), &memory, batch).unwrap_err().errno(), Some(libc::E2BIG));
}
