use super::*;

#[test]
fn calls_that_any_stop_ends_and_that_can_be_made_again() {
    for call in [libc::SYS_epoll_wait, libc::SYS_epoll_pwait2, libc::SYS_semtimedop, libc::SYS_rt_sigtimedwait] {
        assert!(is_never_restarted(call), "{call}");
    }
    // Made again by the kernel itself, or not to be made again: what they did is done.
    for call in
        [libc::SYS_nanosleep, libc::SYS_futex, libc::SYS_poll, libc::SYS_pause, libc::SYS_close, libc::SYS_connect]
    {
        assert!(!is_never_restarted(call), "{call}");
    }
}

#[test]
fn of_which_waits_only_the_kernel_knows_the_rest() {
    const WAIT_PRIVATE: u64 = 128;
    const WAIT_BITSET_PRIVATE: u64 = 9 | 128;
    for (call, args, expected) in [
        (libc::SYS_nanosleep, [1, 0, 0, 0, 0, 0], true),
        (libc::SYS_nanosleep, [1, 2, 0, 0, 0, 0], false),
        (libc::SYS_clock_nanosleep, [1, 0, 1, 0, 0, 0], true),
        (libc::SYS_clock_nanosleep, [1, 0, 1, 2, 0, 0], false),
        (libc::SYS_poll, [0, 0, 500, 0, 0, 0], true),
        (libc::SYS_poll, [0, 0, 0, 0, 0, 0], false),
        // An int: -1 is for ever, and what stands above the int does not count.
        (libc::SYS_poll, [0, 0, 0xffff_ffff, 0, 0, 0], false),
        (libc::SYS_poll, [0, 0, u64::MAX, 0, 0, 0], false),
        (libc::SYS_poll, [0, 0, 0x7_0000_0001, 0, 0, 0], true),
        (libc::SYS_futex, [1, WAIT_PRIVATE, 0, 1, 0, 0], true),
        (libc::SYS_futex, [1, WAIT_PRIVATE, 0, 0, 0, 0], false),
        // Until an instant: that needs no rest.
        (libc::SYS_futex, [1, WAIT_BITSET_PRIVATE, 0, 1, 0, 0], false),
        (libc::SYS_read, [1, 1, 1, 1, 1, 1], false),
    ] {
        assert_eq!(has_hidden_rest(call, &args), expected, "{call} {args:x?}");
    }
}
