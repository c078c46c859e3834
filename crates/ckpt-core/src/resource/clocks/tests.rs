#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use super::*;

fn now() -> ClockState {
    ClockState::capture(i32::try_from(std::process::id()).unwrap())
}

/// The lines as `time_namespaces(7)` wants them: clock, seconds, nanoseconds below a second and never negative.
fn parsed(text: &str) -> [i128; 2] {
    let mut lines = text.lines();
    let offsets = ["monotonic", "boottime"].map(|name| {
        let words: Vec<&str> = lines.next().unwrap().split(' ').collect();
        let [clock, seconds, nanos] = words.as_slice() else { panic!("{text}") };
        assert_eq!(*clock, name);
        let nanos: i128 = nanos.parse().unwrap();
        assert!((0..SECOND).contains(&nanos), "{text}");
        seconds.parse::<i128>().unwrap() * SECOND + nanos
    });
    assert_eq!((lines.next(), text.ends_with('\n')), (None, true));
    offsets
}

#[test]
fn clocks_that_are_right_need_no_offset() {
    for offset in parsed(&now().offsets()) {
        assert!((-SECOND..=0).contains(&offset), "{offset}: the program's time stood still since the capture");
    }
}

#[test]
fn offsets_lead_from_this_machines_clocks_to_the_programs() {
    // A machine that has been up for longer, and one for a shorter time: half a second each shows the borrowing.
    for shift in [86_400 * SECOND + SECOND / 2, -(SECOND / 2), -(3 * SECOND)] {
        let mut state = now();
        let shifted = |clock: i64| saturated(i128::from(clock) + shift);
        (state.monotonic, state.boottime) = (shifted(state.monotonic), shifted(state.boottime));
        for offset in parsed(&state.offsets()) {
            assert!((shift - SECOND..=shift).contains(&offset), "{offset} for {shift}");
        }
    }
}

#[test]
fn any_state_gives_well_formed_lines() {
    for extreme in [i64::MIN, -1, 0, i64::MAX] {
        parsed(&ClockState { monotonic: extreme, boottime: extreme, realtime: 0 }.offsets());
    }
}

#[test]
fn boot_time_is_not_behind_the_monotonic_clock() {
    let state = now();
    assert!(state.monotonic > 0 && state.boottime >= state.monotonic);
    assert!(state.realtime > 1_700_000_000 * 1_000_000_000);
    assert_eq!(saturated(i128::MAX), i64::MAX);
}
