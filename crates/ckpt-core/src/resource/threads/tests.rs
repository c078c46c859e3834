use super::*;

const ARGS: [u64; 6] = [1, 2, 3, 4, 5, 6];

fn arguments(call: i64, remaining: u64) -> [u64; 6] {
    Wait { call, args: ARGS, remaining }.arguments(0x5000)
}

#[test]
fn a_wait_goes_on_with_the_time_that_was_left() {
    assert_eq!(arguments(libc::SYS_nanosleep, 7), [0x5000, 2, 3, 4, 5, 6]);
    assert_eq!(arguments(libc::SYS_clock_nanosleep, 7), [1, 2, 0x5000, 4, 5, 6]);
    assert_eq!(arguments(libc::SYS_futex, 7), [1, 2, 3, 0x5000, 5, 6]);
    assert_eq!(arguments(libc::SYS_pause, 7), ARGS);
}

/// `poll` counts milliseconds; a wait may become longer by a part of one, and never shorter.
#[test]
fn a_poll_is_rounded_up() {
    for (nanoseconds, milliseconds) in
        [(0, 0), (1, 1), (999_999, 1), (1_000_000, 1), (1_000_001, 2), (u64::MAX, 18_446_744_073_710)]
    {
        assert_eq!(arguments(libc::SYS_poll, nanoseconds), [1, 2, milliseconds, 4, 5, 6]);
    }
}
