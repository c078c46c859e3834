#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use super::*;
use crate::resource::tracee::{Tracee, Worker, calls};

fn timer(id: i32, clock: i32, setting: [u64; 4]) -> PosixTimerState {
    let signal = libc::SIGUSR1 + id % 2;
    PosixTimerState {
        id,
        clock,
        notify: 0,
        signal,
        value: 0x1234_5678_9abc + u64::from(id.unsigned_abs()),
        thread: None,
        setting,
    }
}

fn state(posix: Vec<PosixTimerState>) -> TimerState {
    TimerState { interval: vec![[0; 4]; 3], posix }
}

fn captured(tracee: &Tracee, worker: &mut Worker) -> TimerState {
    captured_as(tracee, worker, &BTreeMap::from([(tracee.pid, tracee.pid)])).unwrap()
}

fn captured_as(
    tracee: &Tracee,
    worker: &mut Worker,
    inner_ids: &BTreeMap<Tid, i32>,
) -> Result<TimerState, crate::Error> {
    let mut batch = worker.batch();
    let asked = ask(tracee.pid, &mut batch).unwrap();
    let outcome = worker.run(batch);
    outcome.all().unwrap();
    TimerState::capture(tracee.pid, &asked, &outcome, inner_ids)
}

fn rebuilt(state: &TimerState, has_restore_ids: bool) -> TimerState {
    let tracee = Tracee::new();
    let mut worker = tracee.worker();
    let mut batch = worker.batch();
    state.rebuild(&mut batch, has_restore_ids, |tid| tid);
    worker.run(batch).all().unwrap();
    captured(&tracee, &mut worker)
}

fn some() -> TimerState {
    let off = [0; 4];
    let mut posix = vec![timer(0, 1, off), timer(3, 0, off), timer(7, 7, off)];
    posix[1].notify = 1;
    posix[2].notify = 2;
    state(posix)
}

/// The kernel gives ids in ascending order and none twice: those in between are made and deleted.
#[test]
fn timers_get_their_ids_without_help_of_the_kernel() {
    let mut wanted = some();
    // SIGEV_NONE has no signal to show.
    let mut found = rebuilt(&wanted, false);
    for timers in [&mut wanted, &mut found] {
        timers.posix[1].signal = 0;
    }
    assert_eq!(found, wanted);
}

#[test]
fn timers_get_their_ids_with_help_of_the_kernel() {
    if !ckpt_trace::sys::has_timer_ids() {
        eprintln!("SKIPPED: PR_TIMER_CREATE_RESTORE_IDS needs Linux 6.15");
        return;
    }
    let mut wanted = some();
    wanted.posix.push(timer(1_000_000, 1, [0; 4]));
    let mut found = rebuilt(&wanted, true);
    for timers in [&mut wanted, &mut found] {
        timers.posix[1].signal = 0;
    }
    assert_eq!(found, wanted);
}

#[test]
fn how_many_calls_it_takes() {
    let tracee = Tracee::new();
    let worker = tracee.worker();
    let count = |state: &TimerState, has_restore_ids| {
        let mut batch = worker.batch();
        state.rebuild(&mut batch, has_restore_ids, |tid| tid);
        calls(&mut batch)
    };
    assert_eq!(count(&some(), true), 2 + 3);
    assert_eq!(count(&some(), false), 3 + 2 * (2 + 3));
    assert_eq!((count(&state(Vec::new()), true), count(&state(Vec::new()), false)), (0, 0));
}

/// A timer that tells one thread finds the thread's new id.
#[test]
fn a_timer_of_a_thread_follows_it() {
    let tracee = Tracee::new();
    let mut worker = tracee.worker();
    let mut wanted = state(vec![timer(0, 1, [0; 4])]);
    wanted.posix[0].thread = Some(77);
    let mut batch = worker.batch();
    wanted.rebuild(&mut batch, false, |tid| if tid == 77 { tracee.pid } else { 0 });
    worker.run(batch).all().unwrap();
    assert_eq!(captured(&tracee, &mut worker).posix[0].thread, Some(tracee.pid));
    // The kernel tells the id that we see; what is saved is the one that the program sees.
    let inner = captured_as(&tracee, &mut worker, &BTreeMap::from([(tracee.pid, 77)])).unwrap();
    assert_eq!(inner, wanted);
    let unknown = captured_as(&tracee, &mut worker, &BTreeMap::new());
    assert!(matches!(unknown, Err(crate::Error::Refused { .. })));
}

/// So does one that runs on a thread's or the process's processor time.
#[test]
fn a_clock_of_a_thread_follows_it() {
    let new_tid = |tid| if tid == 77 { 4_000_000 } else { tid };
    let clock = |tid: i32, bits: i32| !tid << 3 | bits;
    for bits in [2, 6] {
        assert_eq!(clock_of(clock(77, bits), new_tid), clock(4_000_000, bits));
        assert_eq!(clock_of(clock(0, bits), new_tid), clock(0, bits));
    }
    for clock in [libc::CLOCK_REALTIME, libc::CLOCK_MONOTONIC, libc::CLOCK_BOOTTIME_ALARM] {
        assert_eq!(clock_of(clock, new_tid), clock);
    }
}

/// Only those that were running run again, with the time that was left.
#[test]
fn running_timers_run_on() {
    let tracee = Tracee::new();
    let mut worker = tracee.worker();
    let mut wanted = state(vec![timer(0, 1, [0, 0, 1000, 0]), timer(1, 1, [5, 6, 2000, 0]), timer(2, 1, [0; 4])]);
    wanted.interval = vec![[0, 0, 3000, 0], [7, 8, 4000, 0], [0; 4]];
    let mut batch = worker.batch();
    wanted.rebuild(&mut batch, false, |tid| tid);
    wanted.start(&mut batch);
    worker.run(batch).all().unwrap();
    let found = captured(&tracee, &mut worker);
    let near = |found: [u64; 4], wanted: [u64; 4]| {
        found[..2] == wanted[..2] && (found == [0; 4]) == (wanted == [0; 4]) && wanted[2].saturating_sub(found[2]) <= 10
    };
    for (found, wanted) in found.posix.iter().zip(&wanted.posix) {
        assert!(near(found.setting, wanted.setting), "{found:?} {wanted:?}");
    }
    for (found, wanted) in found.interval.iter().zip(&wanted.interval) {
        assert!(near(*found, *wanted), "{found:?} {wanted:?}");
    }
}

/// A refusal leaves nothing of ours in the program.
#[test]
fn more_timers_than_can_be_saved_are_refused() {
    use crate::DepartOptions;
    use crate::capture::capture;
    let tracee = Tracee::new();
    let maps = || std::fs::read_to_string(format!("/proc/{}/maps", tracee.pid)).unwrap();
    let before = maps();
    let mut worker = tracee.worker();
    let mut batch = worker.batch();
    let id = batch.space(8);
    for _ in 0..1500 {
        batch.call("timer_create", libc::SYS_timer_create, &[0, 0, id]);
    }
    worker.run(batch).all().unwrap();
    worker.leave();
    let mut frozen = crate::freeze::Frozen::freeze(tracee.pid).unwrap();
    let result = capture(&mut frozen, &DepartOptions::default());
    assert!(matches!(result, Err(crate::Error::Refused { .. })));
    frozen.thaw().unwrap();
    assert_eq!(maps(), before);
}
