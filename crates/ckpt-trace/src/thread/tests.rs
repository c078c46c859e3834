#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use std::sync::atomic::Ordering;

use super::*;
use crate::tracee::{Shared, Tracee, syscall_at, until, wait};
use crate::{Memory, sys};

/// ptrace(2), `PTRACE_SEIZE`: the tracee is not stopped. `PTRACE_INTERRUPT`: it is, and goes on at a detach.
#[test]
fn a_seized_thread_runs_until_it_is_interrupted() {
    let counter = Shared::new();
    let tracee = Tracee::counting(&counter);
    let running = tracee.seize();
    let before = counter.get(0);
    until("counting while seized", || counter.get(0) > before);

    running.interrupt().unwrap();
    let (thread, stop) = wait(running);
    assert_eq!((stop, tracee.state()), (Stop::Interrupt, 't'));
    let registers = thread.registers().unwrap();
    assert!(registers.is_64_bit());
    assert_eq!(registers.syscall(), None, "it was in its own code");
    let mut code = [0; 2];
    tracee.memory().read(registers.ip(), &mut code).unwrap();

    let stopped_at = counter.get(0);
    thread.detach().unwrap();
    until("counting after the detach", || counter.get(0) > stopped_at);
}

/// What is not detached explicitly is let go all the same.
#[test]
fn a_users_thread_runs_on_when_its_stop_is_dropped() {
    let counter = Shared::new();
    let tracee = Tracee::counting(&counter);
    drop(tracee.stop());
    let before = counter.get(0);
    until("counting after the drop", || counter.get(0) > before);
    assert_eq!(tracee.proc("status").lines().find(|line| line.starts_with("TracerPid")), Some("TracerPid:\t0"));
}

/// `PTRACE_O_EXITKILL` is for the tracer's end; a dropped stop of a process of our own making ends it as well.
#[test]
fn a_process_of_ours_is_killed_when_its_stop_is_dropped() {
    let tracee = Tracee::waiting();
    let running = Running::seize(tracee.pid, SeizeOptions { kill_on_exit: true }).unwrap();
    running.interrupt().unwrap();
    let (thread, _) = wait(running);
    drop(thread);
    let status = tracee.end();
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL);
}

/// A thread has one tracer: EPERM.
#[test]
fn a_traced_thread_cannot_be_seized_again() {
    let tracee = Tracee::waiting();
    let _held = tracee.seize();
    let again = Running::seize(tracee.pid, SeizeOptions::default());
    assert!(matches!(again, Err(TraceError::Denied { tid }) if tid == tracee.pid));
}

#[test]
fn a_thread_that_does_not_exist_is_gone() {
    const ABOVE_PID_MAX: Tid = 1 << 23;
    let seized = Running::seize(ABOVE_PID_MAX, SeizeOptions::default());
    assert!(seized.unwrap_err().is_gone());
}

/// SIGKILL takes a thread out of a ptrace stop; every request on it fails with ESRCH from then on.
#[test]
fn a_tracee_that_is_killed_while_stopped_is_gone() {
    let tracee = Tracee::waiting();
    let thread = tracee.stop();
    tracee.kill(libc::SIGKILL);
    until("its end", || thread.registers().is_err());
    let error = thread.registers().unwrap_err();
    assert!(error.is_gone() && error.errno() == Some(libc::ESRCH));
    assert!(thread.set_signal_mask(0).unwrap_err().is_gone());
    assert!(thread.resume().unwrap_err().is_gone());
}

/// The exit of another's child is reported as such, with its status.
#[test]
fn an_end_is_an_event() {
    let go = Shared::new();
    let word = go.word(0);
    let tracee = Tracee::fork(|| {
        while word.load(Ordering::SeqCst) == 0 {
            std::hint::spin_loop();
        }
        7
    });
    let running = tracee.seize();
    go.set(0, 1);
    let Event::Ended(status) = running.wait().unwrap() else { panic!("it stopped") };
    assert_eq!(libc::WEXITSTATUS(status), 7);
}

/// Signal-delivery-stop: the tracer sees a signal before the program does, and decides whether it does.
#[test]
fn a_real_time_signal_stops_before_it_is_delivered() {
    let signal = libc::SIGRTMIN() + 3;
    let tracee = Tracee::waiting();
    let running = tracee.seize();
    tracee.kill(signal);
    let (thread, stop) = wait(running);
    assert_eq!(stop, Stop::Signal(signal));
    // Not delivered: the default action, which is to end the process, does not happen.
    let running = thread.resume().unwrap();
    running.interrupt().unwrap();
    let (thread, stop) = wait(running);
    assert_eq!(stop, Stop::Interrupt);

    let running = thread.resume().unwrap();
    tracee.kill(signal);
    let (thread, _) = wait(running);
    let Event::Ended(status) = thread.deliver(signal).unwrap().wait().unwrap() else { panic!("it stopped") };
    assert_eq!(libc::WTERMSIG(status), signal);
}

/// Group-stop under `PTRACE_SEIZE`: first the signal, then `PTRACE_EVENT_STOP` with it.
#[test]
fn a_stop_signal_gives_a_group_stop() {
    let tracee = Tracee::waiting();
    let running = tracee.seize();
    tracee.kill(libc::SIGSTOP);
    let (thread, stop) = wait(running);
    assert_eq!(stop, Stop::Signal(libc::SIGSTOP));
    let (thread, stop) = wait(thread.deliver(libc::SIGSTOP).unwrap());
    assert_eq!(stop, Stop::Group(libc::SIGSTOP));
    thread.detach().unwrap();
    until("it to stay stopped", || tracee.state() == 'T');
}

/// A process that was stopped before is seen as such at once, and is stopped again when it is let go.
#[test]
fn a_stopped_process_is_in_group_stop_when_seized() {
    for signal in [libc::SIGSTOP, libc::SIGTSTP] {
        let tracee = Tracee::waiting();
        tracee.kill(signal);
        until("its stop", || tracee.state() == 'T');
        let running = tracee.seize();
        running.interrupt().unwrap();
        let (thread, stop) = wait(running);
        assert_eq!(stop, Stop::Group(signal));
        thread.detach().unwrap();
        until("it to stay stopped", || tracee.state() == 'T');
    }
}

/// `ptrace_getsigmask`, `ptrace_setsigmask`: SIGKILL and SIGSTOP are never blocked.
#[test]
fn the_signal_mask_is_read_and_set() {
    let tracee = Tracee::waiting();
    let thread = tracee.stop();
    thread.set_signal_mask(0x1234).unwrap();
    assert_eq!(thread.signal_mask().unwrap(), 0x1234);
    thread.set_signal_mask(u64::MAX).unwrap();
    let unblockable = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);
    assert_eq!(thread.signal_mask().unwrap(), !unblockable);
}

/// `PTRACE_PEEKSIGINFO` gives 32 at most here: more are asked for. They are left pending, in order.
#[test]
fn pending_signals_are_listed_in_order_and_left() {
    let signal = libc::SIGRTMIN() + 1;
    let tracee = Tracee::waiting();
    let thread = tracee.stop();
    thread.set_signal_mask(u64::MAX).unwrap();
    let values: Vec<i32> = (0..70).collect();
    for value in &values {
        let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(usize::try_from(*value).unwrap()) };
        // SAFETY: takes only integers.
        assert_eq!(unsafe { libc::sigqueue(tracee.pid, signal, value) }, 0);
    }
    // SAFETY: takes only integers.
    assert_eq!(unsafe { libc::syscall(libc::SYS_tgkill, tracee.pid, tracee.pid, libc::SIGUSR2) }, 0);

    for _ in 0..2 {
        let to_process = thread.pending_signals(SigQueue::Process).unwrap();
        // struct siginfo: signal, errno, code, padding, pid, uid, value.
        let int = |info: &SigInfo, at: usize| i32::from_le_bytes(info[at..at + 4].try_into().unwrap());
        assert!(to_process.iter().all(|info| int(info, 0) == signal && int(info, 8) == libc::SI_QUEUE));
        assert_eq!(to_process.iter().map(|info| int(info, 24)).collect::<Vec<_>>(), values);
        let to_thread = thread.pending_signals(SigQueue::Thread).unwrap();
        assert_eq!(to_thread.iter().map(|info| int(info, 0)).collect::<Vec<_>>(), [libc::SIGUSR2]);
    }
    thread.set_signal_mask(0).unwrap();
    tracee.kill(libc::SIGKILL);
}

/// The extended state is taken back byte by byte: here with all of the sixteen XMM registers of the legacy area.
#[test]
fn the_extended_state_is_set_and_read_back() {
    let tracee = Tracee::waiting();
    let thread = tracee.stop();
    let mut state = thread.extended_state().unwrap();
    for (byte, value) in state[160..416].iter_mut().zip((0_u8..=255).cycle()) {
        *byte = value;
    }
    state[512] |= 3;
    thread.set_extended_state(&state).unwrap();
    assert_eq!(thread.extended_state().unwrap(), state);
    assert!(thread.set_extended_state(&state[..state.len() / 2]).is_err(), "half a state is refused");
}

#[test]
fn registers_are_set_and_read_back() {
    let tracee = Tracee::waiting();
    let thread = tracee.stop();
    let before = thread.registers().unwrap();
    let (call, _) = before.syscall().unwrap();
    assert_eq!(call, libc::SYS_pause);
    let mut words = before.to_words();
    words[0] = 0x1122_3344_5566_7788;
    let changed = Registers::from_words(words);
    thread.set_registers(&changed).unwrap();
    assert_eq!(thread.registers().unwrap(), changed);
    thread.set_registers(&before).unwrap();
}

/// One instruction at a time: a jump to itself stays where it is.
#[test]
fn a_step_executes_one_instruction() {
    let counter = Shared::new();
    let tracee = Tracee::counting(&counter);
    let mut thread = tracee.stop();
    let mut places = std::collections::BTreeSet::new();
    for _ in 0..64 {
        places.insert(thread.registers().unwrap().ip());
        let (next, stop) = wait(thread.step(0).unwrap());
        assert_eq!(stop, Stop::Signal(libc::SIGTRAP));
        thread = next;
    }
    assert!(places.len() > 1, "it goes from instruction to instruction: {places:x?}");
}

/// The process ends with the status that we choose, and executes nothing of its own before.
#[test]
fn a_process_is_made_to_exit_without_running_on() {
    let counter = Shared::new();
    let tracee = Tracee::counting(&counter);
    let thread = tracee.stop();
    let at = counter.get(0);
    thread.exit_process(syscall_at(), 42).unwrap();
    let status = tracee.end();
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 42);
    assert_eq!(counter.get(0), at);
}

/// Such a process's other threads need not be resumed: they end with it.
#[test]
fn a_stopped_thread_waits_for_its_end() {
    let tracee = Tracee::waiting();
    let thread = tracee.stop();
    tracee.kill(libc::SIGKILL);
    thread.wait_for_end();
    assert!(Memory::open(tracee.pid).is_err(), "it has been collected");
}

/// glibc registers restartable sequences for every thread (2.35); a forked one keeps them.
#[test]
fn restartable_sequences_are_told() {
    let tracee = Tracee::waiting();
    let thread = tracee.stop();
    let mut rseq = thread.rseq().unwrap();
    if let Some((area, length, signature)) = rseq.take() {
        assert!(area.is_multiple_of(32) && length >= 32);
        assert_eq!(signature, 0x5305_3053, "glibc's RSEQ_SIG");
    }
    assert!(!thread.has_syscall_dispatch().unwrap());
}

/// `kcmp(2)`: the order of two is the opposite one the other way round.
#[test]
fn descriptors_are_compared() {
    let us = Tid::try_from(std::process::id()).unwrap();
    let one = std::fs::File::open("/dev/null").unwrap();
    let same = one.try_clone().unwrap();
    let other = std::fs::File::open("/dev/null").unwrap();
    let fd = |file: &std::fs::File| std::os::fd::AsRawFd::as_raw_fd(file);
    let compare = |a, b| sys::kcmp(us, us, sys::Shared::File(fd(a), fd(b))).unwrap();
    assert!(compare(&one, &same).is_eq());
    assert!(compare(&one, &other).is_ne());
    assert_eq!(compare(&one, &other), compare(&other, &one).reverse());
}
