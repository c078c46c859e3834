#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use super::*;
use crate::sys;
use crate::tracee::{Shared, Tracee, until};

/// SIGSTOP cannot be blocked, and the process is not stopped by it.
#[test]
fn a_pending_stop_is_taken_away_unseen() {
    let counter = Shared::new();
    let tracee = Tracee::counting(&counter);
    let thread = tracee.stop();
    let before = counter.get(0);
    tracee.kill(libc::SIGSTOP);
    let registers = thread.registers().unwrap();
    let (thread, was_there) = take_signal(thread, libc::SIGSTOP).unwrap();
    assert!(was_there);
    assert_eq!((counter.get(0), thread.registers().unwrap()), (before, registers), "it has executed nothing");
    assert!(!tracee.proc("status").contains("ShdPnd:\t0000000000040000"));
    thread.detach().unwrap();
    until("counting", || counter.get(0) > before);
    assert_ne!(tracee.state(), 'T');
}

/// A call that the stop interrupted goes on as if nothing had happened.
#[test]
fn a_thread_in_a_call_stays_in_it() {
    let tracee = Tracee::waiting();
    let thread = tracee.stop();
    tracee.kill(libc::SIGSTOP);
    let (thread, was_there) = take_signal(thread, libc::SIGSTOP).unwrap();
    assert!(was_there);
    thread.detach().unwrap();
    tracee.until_in_call(libc::SYS_pause);
}

#[test]
fn what_is_not_there_is_not_waited_for() {
    let counter = Shared::new();
    let tracee = Tracee::counting(&counter);
    let (thread, was_there) = take_signal(tracee.stop(), libc::SIGSTOP).unwrap();
    assert!(!was_there);
    let before = counter.get(0);
    thread.detach().unwrap();
    until("counting", || counter.get(0) > before);
}

/// Lower numbers come first, and are the program's.
#[test]
fn other_signals_are_delivered() {
    let tracee = Tracee::waiting();
    let thread = tracee.stop();
    tracee.kill(libc::SIGSTOP);
    tracee.kill(libc::SIGTERM);
    assert!(take_signal(thread, libc::SIGSTOP).unwrap_err().is_gone(), "the SIGTERM came first");
    assert!(tracee.pid > 0);
}

/// A tracer that dies with the signal in its hands takes it along: the code of a stop that was waited for is gone
/// (`kernel/exit.c`, `wait_task_stopped`).
#[test]
fn it_is_gone_with_its_tracer() {
    let counter = Shared::new();
    let tracee = Tracee::counting(&counter);
    let pid = tracee.pid;
    let tracer = Tracee::fork(|| {
        let Ok(running) = Running::seize(pid, crate::SeizeOptions::default()) else { return 1 };
        let Ok(()) = running.interrupt() else { return 2 };
        let Ok(Event::Stopped(thread, Stop::Interrupt)) = running.wait() else { return 3 };
        // SAFETY: takes only integers.
        unsafe { libc::kill(pid, libc::SIGSTOP) };
        match take_signal(thread, libc::SIGSTOP) {
            // Without running destructors: as if it had been killed.
            Ok((_thread, true)) => sys::exit_now(0),
            _ => 4,
        }
    });
    assert_eq!(tracer.end(), 0);
    let before = counter.get(0);
    until("counting", || counter.get(0) > before);
}
