#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use proptest::prelude::*;

use super::*;
use crate::proc::{VmaKind, maps};

/// The code of the vDSO that this process has.
fn running() -> Vec<u8> {
    let us = i32::try_from(std::process::id()).unwrap();
    let vmas = maps::maps(us).unwrap();
    let vma = vmas.iter().find(|vma| vma.kind() == VmaKind::Vdso).expect("this kernel gives processes a vDSO");
    let mut code = vec![0; usize::try_from(vma.size()).unwrap()];
    ckpt_trace::Memory::open(us).unwrap().read(vma.start, &mut code).unwrap();
    code
}

fn names(vdso: &[u8]) -> Vec<String> {
    functions(vdso).into_keys().map(|name| String::from_utf8(name).unwrap()).collect()
}

/// `arch/x86/entry/vdso/vdso.lds.S`.
#[test]
fn the_running_kernels_functions_are_found() {
    let vdso = running();
    let names = names(&vdso);
    for name in ["__vdso_clock_gettime", "__vdso_gettimeofday", "__vdso_time", "__vdso_getcpu"] {
        assert!(names.iter().any(|found| found == name), "{name} in {names:?}");
    }
    assert!(functions(&vdso).values().all(|offset| *offset < vdso.len() as u64));
    let at = usize::try_from(syscall_offset(&vdso).unwrap()).unwrap();
    assert_eq!(vdso[at..at + 2], SYSCALL_INSTRUCTION);
}

#[test]
fn every_function_jumps_to_its_namesake() {
    const BASE: u64 = 0x7ffe_1234_0000;
    let vdso = running();
    let found = functions(&vdso);
    let patches = redirections(&vdso, &vdso, BASE).unwrap();
    // Two names may share one place (`clock_gettime` and `__vdso_clock_gettime`).
    let places: std::collections::BTreeSet<u64> = found.values().copied().collect();
    assert_eq!(patches.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), places.into_iter().collect::<Vec<_>>());
    for (offset, code) in &patches {
        assert_eq!((&code[..2], &code[10..]), ([0x48, 0xb8].as_slice(), [0xff, 0xe0].as_slice()));
        assert_eq!(u64::from_le_bytes(code[2..10].try_into().unwrap()), BASE + offset);
    }
    for pair in patches.windows(2) {
        assert!(pair[0].0 + pair[0].1.len() as u64 <= pair[1].0, "one jump overwrites the next");
    }
}

/// Kernels differ in the functions of their vDSO; each of those that we know stands for a system call.
#[test]
fn a_missing_function_is_a_system_call_or_named() {
    let old = running();
    // The newer kernel knows it by another name.
    let place = old.windows(21).position(|name| name == b"__vdso_clock_gettime\0").unwrap();
    let mut new = old.clone();
    new[place + 7] = b'C';
    let at = functions(&old)[b"__vdso_clock_gettime".as_slice()];
    let patches = redirections(&old, &new, 0).unwrap();
    let (_, code) = patches.iter().find(|(offset, _)| *offset == at).unwrap();
    assert_eq!(code, &[0xb8, 228, 0, 0, 0, 0x0f, 0x05, 0xc3]);
    // `clock_gettime`, another name of it, is the end of the same string.
    assert!(redirections(&new, &old, 0).unwrap_err().ends_with("Clock_gettime"));
    assert_eq!(redirections(&old, b"no vDSO", 0).unwrap().len(), patches.len());
    assert_eq!(redirections(b"no vDSO", &old, 0).unwrap(), []);
}

#[test]
fn the_first_system_call_instruction_counts() {
    assert_eq!(syscall_offset(&[0x0f, 0x90, 0x0f, 0x05, 0x0f, 0x05]), Some(2));
    assert_eq!(syscall_offset(&[0x0f]), None);
    assert_eq!(syscall_offset(&[]), None);
}

proptest! {
    #[test]
    fn any_bytes_are_looked_at(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut elf = bytes.clone();
        let _ = (functions(&bytes), redirections(&bytes, &bytes, u64::MAX / 2));
        let head = [0x7f, b'E', b'L', b'F', 2, 1, 1];
        for (byte, wanted) in elf.iter_mut().zip(head) {
            *byte = wanted;
        }
        let _ = functions(&elf);
    }

    #[test]
    fn a_damaged_vdso_is_looked_at(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40), cut: prop::sample::Index) {
        let old = running();
        let mut new = old.clone();
        for (at, byte) in changes {
            // Most of what can be wrong is in the headers.
            let at = at.index(1 << 10).min(at.index(new.len()));
            new[at] = byte;
        }
        let _ = functions(&new);
        let _ = (redirections(&old, &new, 1 << 40), redirections(&new, &old, 1 << 40));
        let _ = functions(&old[..cut.index(old.len())]);
    }
}
