use libc::{SIGCHLD, SIGCONT, SIGURG, SIGWINCH};

use super::*;

fn bits(signals: &[i32]) -> u64 {
    signals.iter().fold(0, |mask, signal| mask | 1 << (signal - 1))
}

#[test]
fn the_trap_signal_is_one_that_does_nothing() {
    let all = bits(&[SIGURG, SIGWINCH, SIGCHLD, SIGCONT]);
    for (caught, blocked, pending, expected) in [
        (0, 0, 0, SIGURG),
        // A handler would run if the tracer died.
        (bits(&[SIGURG]), 0, 0, SIGWINCH),
        (bits(&[SIGURG, SIGWINCH]), 0, 0, SIGCHLD),
        (bits(&[SIGURG, SIGWINCH, SIGCHLD]), 0, 0, SIGCONT),
        // A pending one of the program's own would be taken for ours.
        (0, 0, bits(&[SIGURG]), SIGWINCH),
        // One that is blocked would stay pending if the tracer died; better so than caught.
        (0, bits(&[SIGURG, SIGWINCH]), 0, SIGCHLD),
        (0, all, 0, SIGURG),
        (0, u64::MAX, 0, SIGURG),
        (bits(&[SIGURG]), u64::MAX, bits(&[SIGCHLD]), SIGWINCH),
        (u64::MAX, u64::MAX, u64::MAX, SIGCONT),
    ] {
        assert_eq!(trap_signal(caught, blocked, pending), expected, "{caught:x} {blocked:x} {pending:x}");
    }
}
