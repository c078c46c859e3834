//! The notes of a core: registers of each thread, and what debuggers ask of the process
//! (`include/linux/elfcore.h`, `fs/binfmt_elf.c`).

use std::os::unix::ffi::OsStrExt;

use ckpt_core::resource::memory::Backing;
use ckpt_core::resource::threads::ThreadState;
use ckpt_core::resource::{Layout, ProcessLayout, ProcessState};

use super::elf::Note;

const CORE: &str = "CORE";
const NT_PRSTATUS: u32 = 1;
const NT_FPREGSET: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_SIGINFO: u32 = 0x5349_4749;
const NT_FILE: u32 = 0x4649_4c45;
const NT_X86_XSTATE: u32 = 0x202;
/// The x87 and SSE part at the front of an XSAVE area: `struct user_i387_struct`.
const FXSAVE: usize = 512;
/// `sizeof(siginfo_t)`.
const SIGINFO: usize = 128;
const PAGE: u64 = 4096;

/// The notes of the image's first process. Its first thread comes first; what follows a thread's `NT_PRSTATUS` is that
/// thread's.
pub fn notes(layout: &Layout, state: &ProcessState) -> Vec<Note> {
    let process = &layout.processes[0];
    let core = |kind, contents| Note { owner: CORE, kind, contents };
    let mut notes = Vec::new();
    for (index, thread) in state.threads.iter().enumerate() {
        notes.push(core(NT_PRSTATUS, prstatus(process, state, thread)));
        if index == 0 {
            notes.push(core(NT_PRPSINFO, prpsinfo(process, state)));
            // No signal ended the program.
            notes.push(core(NT_SIGINFO, vec![0; SIGINFO]));
            notes.push(core(NT_AUXV, auxv(process)));
            notes.push(core(NT_FILE, mapped_files(layout, process)));
        }
        if let Some(legacy) = thread.extended.get(..FXSAVE) {
            notes.push(core(NT_FPREGSET, legacy.to_vec()));
            let contents = without_unused_tiles(thread.extended.clone(), &layout.machine.xsave);
            notes.push(Note { owner: "LINUX", kind: NT_X86_XSTATE, contents });
        }
    }
    notes
}

/// An XSAVE area without the components that came after PKRU (bit 9), when the thread uses none of them: debuggers that do
/// not know them (gdb 13 does not know AMX) distrust an area that is longer than they expect. `components` are bit, offset
/// and size of each.
fn without_unused_tiles(mut area: Vec<u8>, components: &[(u32, u32, u32)]) -> Vec<u8> {
    /// Where Linux notes which components the area has (`xcr0`), in bytes that the processor leaves to software.
    const HAS: usize = 464;
    /// `XSTATE_BV`: which of them are not in their initial state.
    const IN_USE: usize = 512;
    const LAST_KNOWN: u32 = 9;
    const KNOWN: u64 = (1 << (LAST_KNOWN + 1)) - 1;
    let word =
        |area: &[u8], at: usize| area.get(at..at + 8).and_then(|word| word.try_into().ok()).map(u64::from_le_bytes);
    let ends =
        components.iter().filter(|(bit, ..)| *bit <= LAST_KNOWN).map(|(_, offset, size)| offset.saturating_add(*size));
    let (Some(has), Some(in_use), Some(end)) = (word(&area, HAS), word(&area, IN_USE), ends.max()) else { return area };
    let end = usize::try_from(end).unwrap_or(usize::MAX);
    if in_use & !KNOWN == 0 && has & !KNOWN != 0 && (IN_USE + 8..area.len()).contains(&end) {
        area.truncate(end);
        area[HAS..HAS + 8].copy_from_slice(&(has & KNOWN).to_le_bytes());
    }
    area
}

/// `struct elf_prstatus`.
fn prstatus(process: &ProcessLayout, state: &ProcessState, thread: &ThreadState) -> Vec<u8> {
    const REGISTERS: usize = 27;
    let mut out = vec![0; 16]; // siginfo and current signal: none
    put(&mut out, &[pending(state, thread), thread.signal_mask]);
    // The thread, its parent, its group and its session: what the image does not know stays 0.
    let group = if state.process.leads_group { process.pid } else { 0 };
    let session = if state.process.leads_session { process.pid } else { 0 };
    for id in [thread.tid, 0, group, session] {
        out.extend_from_slice(&id.to_le_bytes());
    }
    put(&mut out, &[0; 8]); // four times
    let mut registers = thread.registers.clone();
    registers.resize(REGISTERS, 0);
    put(&mut out, &registers);
    put(&mut out, &[1]); // pr_fpvalid, and padding
    out
}

/// The signals that wait for a thread or its process, bit n-1 for signal n.
fn pending(state: &ProcessState, thread: &ThreadState) -> u64 {
    let numbers = state.signals.pending.iter().chain(&thread.pending).filter_map(|info| hex::decode(info).ok());
    let bits = numbers.filter_map(|info| match info.first() {
        Some(signal @ 1..=64) => Some(1 << (signal - 1)),
        _ => None,
    });
    bits.fold(0, |set: u64, bit: u64| set | bit)
}

/// `struct elf_prpsinfo`.
fn prpsinfo(process: &ProcessLayout, state: &ProcessState) -> Vec<u8> {
    const NAME: usize = 16;
    const ARGUMENTS: usize = 80;
    let nice = state.threads.first().and_then(|thread| i8::try_from(thread.scheduling.nice).ok()).unwrap_or_default();
    let mut out = vec![0, b'R', 0, nice.to_le_bytes()[0], 0, 0, 0, 0];
    put(&mut out, &[0]); // flags
    for id in [state.credentials.uid, state.credentials.gid] {
        out.extend_from_slice(&id.to_le_bytes());
    }
    for id in [process.pid, 0, 0, 0] {
        out.extend_from_slice(&id.to_le_bytes());
    }
    let words: Vec<&[u8]> = process.command.iter().map(|word| word.0.as_slice()).collect();
    for (text, room) in [(process.name.0.clone(), NAME), (words.join(&b' '), ARGUMENTS)] {
        let mut text = text;
        text.truncate(room - 1);
        text.resize(room, 0);
        out.extend_from_slice(&text);
    }
    out
}

fn auxv(process: &ProcessLayout) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, value) in process.memory.auxv.iter().chain([&(0, 0)]) {
        put(&mut out, &[*kind, *value]);
    }
    out
}

/// Which file is mapped where: count, page size, then start, end and offset (in pages) of each, then their names.
fn mapped_files(layout: &Layout, process: &ProcessLayout) -> Vec<u8> {
    let mut extents = Vec::new();
    let mut names = Vec::new();
    for region in &process.memory.regions {
        let Backing::File { file, offset, .. } = &region.backing else { continue };
        let Some(file) = layout.files.iter().find(|known| known.id == *file) else { continue };
        extents.extend_from_slice(&[region.start, region.end, offset / PAGE]);
        names.extend_from_slice(file.path.as_os_str().as_bytes());
        names.push(0);
    }
    let mut out = Vec::new();
    put(&mut out, &[extents.len() as u64 / 3, PAGE]);
    put(&mut out, &extents);
    out.extend_from_slice(&names);
    out
}

fn put(out: &mut Vec<u8>, words: &[u64]) {
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_left_out_only_when_they_are_not_in_use() {
        let components = [(2, 576, 256), (9, 2688, 8), (17, 2752, 64), (18, 2816, 8192)];
        let mut area = vec![0; 11008];
        area[464..472].copy_from_slice(&0x602e7_u64.to_le_bytes());
        let short = without_unused_tiles(area.clone(), &components);
        assert_eq!((short.len(), &short[464..468]), (2696, &[0xe7, 2, 0, 0][..]));
        area[514] = 4;
        assert_eq!(without_unused_tiles(area.clone(), &components), area);
        assert_eq!(without_unused_tiles(vec![0; 512], &components).len(), 512);
    }
}
