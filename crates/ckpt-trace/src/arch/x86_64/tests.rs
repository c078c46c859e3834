#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use super::*;

fn in_call(result: i64) -> Registers {
    let mut words = [7; REGISTER_WORDS];
    words[ORIG_RAX] = libc::SYS_nanosleep.cast_unsigned();
    words[RAX] = result.cast_unsigned();
    words[RIP] = 0x1002;
    Registers::from_words(words)
}

/// `include/linux/errno.h`: what the kernel leaves in the result register of a call that it will make again.
#[test]
fn how_a_call_was_interrupted() {
    for (result, expected) in [
        (-512, Some(Interrupted::Again)),        // ERESTARTSYS
        (-513, Some(Interrupted::Again)),        // ERESTARTNOINTR
        (-514, Some(Interrupted::Again)),        // ERESTARTNOHAND
        (-516, Some(Interrupted::RestartBlock)), // ERESTART_RESTARTBLOCK
        (-4, Some(Interrupted::Eintr)),
        (-515, None), // ENOIOCTLCMD
        (-517, None),
        (-11, None),
        (0, None),
        (5, None),
    ] {
        assert_eq!(in_call(result).interrupted(), expected, "{result}");
    }
    let mut words = in_call(-512).to_words();
    words[ORIG_RAX] = u64::MAX;
    assert_eq!(Registers::from_words(words).interrupted(), None, "no call, no interruption");
}

#[test]
fn an_interrupted_call_is_made_again_restarted_or_ended() {
    let mut registers = in_call(-4);
    registers.set_call_again();
    assert_eq!((registers.result(), registers.interrupted()), (-513, Some(Interrupted::Again)));
    registers.set_call_restart();
    assert_eq!((registers.result(), registers.interrupted()), (-516, Some(Interrupted::RestartBlock)));
    registers.finish_call(3);
    assert_eq!((registers.result(), registers.interrupted(), registers.syscall()), (3, None, None));
}

/// What the kernel would do on the way out (`arch/x86/kernel/signal.c`, `arch_do_signal_or_restart`).
#[test]
fn healed_registers_are_those_after_the_kernels_restart() {
    for again in [-512, -513, -514] {
        let words = in_call(again).healed();
        assert_eq!((words[RAX], words[RIP]), (libc::SYS_nanosleep.cast_unsigned(), 0x1000));
    }
    let words = in_call(-516).healed();
    assert_eq!((words[RAX], words[RIP]), (libc::SYS_restart_syscall.cast_unsigned(), 0x1000));
    for as_is in [in_call(-4), in_call(0), Registers::from_words([u64::MAX; REGISTER_WORDS])] {
        assert_eq!(as_is.healed(), as_is.to_words());
    }
}

#[test]
fn a_call_is_put_into_the_registers() {
    let before = in_call(-512);
    let call = before.for_call(0x5000, 9, [1, 2, 3, 4, 5, 6]);
    assert_eq!((call.ip(), call.result(), call.syscall()), (0x5000, 9, None));
    let words = call.to_words();
    assert_eq!([RDI, RSI, RDX, R10, R8, R9].map(|register| words[register]), [1, 2, 3, 4, 5, 6]);
    for untouched in [RBX, RBP, R12, R13, RSP, CS] {
        assert_eq!(words[untouched], 7);
    }
}

#[test]
fn the_injected_code_fits_its_place() {
    let calls = |code: &[u8]| code.windows(2).filter(|pair| *pair == SYSCALL_INSTRUCTION).count();
    let (code, heal) = batch_code();
    assert!(heal < code.len() as u64 && code.len() < 2048, "the guard may have to stand behind it");
    assert_eq!(calls(code), 4);
    let (code, trap, heal) = guard_code();
    assert!(trap < heal && heal < code.len() as u64 && guard_bytes() <= 1024);
    assert_eq!(calls(code), 6);
    assert!(is_guard(&[code, &[0; 8]].concat()) && !is_guard(&code[1..]));
}

/// A state as a machine with the components `layout` would save it: each filled with its bit's number.
fn state(layout: &[XsaveComponent]) -> Vec<u8> {
    let end = layout.iter().map(|c| c.offset + c.size).max().unwrap_or(576);
    let mut state = vec![0xee; 576];
    state.resize(end as usize, 0);
    let in_use = layout.iter().fold(3_u64, |bits, c| bits | 1 << c.bit);
    state[512..520].copy_from_slice(&in_use.to_le_bytes());
    for c in layout {
        state[c.offset as usize..(c.offset + c.size) as usize].fill(u8::try_from(c.bit).unwrap());
    }
    state
}

#[test]
fn components_move_to_where_this_machine_has_them() {
    let here = xsave_layout();
    let elsewhere: Vec<XsaveComponent> = here.iter().map(|c| XsaveComponent { offset: c.offset + 128, ..*c }).collect();
    let saved = state(&elsewhere);
    let moved = relayout(&saved, &elsewhere).unwrap();
    let mut expected = state(&here);
    // The software bytes say what the area holds: XCR0.
    let features = here.iter().fold(3_u64, |bits, c| bits | 1 << c.bit);
    if here != elsewhere {
        expected[464..472].copy_from_slice(&features.to_le_bytes());
    }
    assert_eq!(moved, expected);
    assert_eq!(relayout(&saved, &here).unwrap(), saved, "the same layout: as it is");
}

#[test]
fn a_component_that_is_in_use_and_does_not_exist_here_is_refused() {
    let strange = XsaveComponent { bit: 62, offset: 4096, size: 64 };
    let from: Vec<XsaveComponent> = xsave_layout().into_iter().chain([strange]).collect();
    let mut saved = state(&from);
    assert_eq!(relayout(&saved, &from), None);
    // Not in use, it does not matter.
    saved[519] = 0;
    assert!(relayout(&saved, &from).is_some());
}

#[test]
fn a_component_of_another_size_is_refused() {
    let Some(first) = xsave_layout().first().copied() else {
        eprintln!("SKIPPED: this processor has no extended components");
        return;
    };
    let from = [XsaveComponent { size: first.size + 8, ..first }];
    assert_eq!(relayout(&state(&from), &from), None);
}

#[test]
fn a_short_state_is_left_alone() {
    let from = [XsaveComponent { bit: 2, offset: 600, size: 256 }];
    assert_eq!(relayout(&[1, 2, 3], &from), Some(vec![1, 2, 3]));
    // It says that it uses a component and ends before it.
    let mut cut = state(&from);
    cut.truncate(700);
    assert_eq!(relayout(&cut, &from), None);
}
