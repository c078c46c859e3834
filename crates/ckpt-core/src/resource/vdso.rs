//! The vDSO: code of the kernel in user space that the program calls at addresses it remembers.
//!
//! On the kernel that the image was made on, the new process's vDSO is moved to where the old one was. On another, the
//! old code is mapped as ordinary memory and each of its functions begins with a jump to the new kernel's function of
//! the same name: found by symbol, never by size or position.

use std::collections::BTreeMap;

use ckpt_trace::arch::{self, SYSCALL_INSTRUCTION};
use object::elf::{FileHeader64, STT_FUNC};
use object::read::elf::{FileHeader, Sym};

/// The functions of a vDSO and where they begin in it.
#[must_use]
pub fn functions(vdso: &[u8]) -> BTreeMap<Vec<u8>, u64> {
    read_functions(vdso).unwrap_or_default()
}

fn read_functions(vdso: &[u8]) -> object::read::Result<BTreeMap<Vec<u8>, u64>> {
    let elf = FileHeader64::<object::Endianness>::parse(vdso)?;
    let endian = elf.endian()?;
    let symbols = elf.sections(endian, vdso)?.symbols(endian, vdso, object::elf::SHT_DYNSYM)?;
    let mut functions = BTreeMap::new();
    for symbol in symbols.iter().filter(|symbol| symbol.st_type() == STT_FUNC && symbol.st_value(endian) != 0) {
        functions.insert(symbol.name(endian, symbols.strings())?.to_vec(), symbol.st_value(endian));
    }
    Ok(functions)
}

/// Where the first system call instruction stands in some code.
#[must_use]
pub fn syscall_offset(code: &[u8]) -> Option<u64> {
    code.windows(2).position(|pair| pair == SYSCALL_INSTRUCTION).map(|at| at as u64)
}

/// Where a guard fits: in the padding behind the last section, which nobody uses. One that a killed tracer left there
/// will do.
#[must_use]
pub fn guard_offset(vdso: &[u8]) -> Option<u64> {
    const ALIGN: usize = 16;
    let length = usize::try_from(arch::guard_bytes()).ok()?;
    let at = vdso.len().checked_sub(length.next_multiple_of(ALIGN))?;
    // Some zeros before it may be the last section's own.
    let before = at.checked_sub(ALIGN)?;
    let is_free = vdso[before..].iter().all(|byte| *byte == 0);
    (is_free || arch::is_guard(&vdso[at..])).then_some(at as u64)
}

/// What to write over the functions of the old vDSO so that they jump to the new one mapped at `new_base`: offset in the
/// old one, and code. `None` names a function that the new kernel does not have.
///
/// # Errors
/// The name of a function that is missing.
pub fn redirections(old: &[u8], new: &[u8], new_base: u64) -> Result<Vec<(u64, Vec<u8>)>, String> {
    let new = functions(new);
    let mut patches: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (name, offset) in functions(old) {
        let target = new.get(&name).ok_or_else(|| String::from_utf8_lossy(&name).into_owned())?;
        // movabs rax, target; jmp rax: rax is free at the beginning of a function.
        let mut jump = vec![0x48, 0xb8];
        jump.extend_from_slice(&(new_base + target).to_le_bytes());
        jump.extend_from_slice(&[0xff, 0xe0]);
        patches.insert(offset, jump);
    }
    Ok(patches.into_iter().collect())
}

#[cfg(test)]
mod tests;
