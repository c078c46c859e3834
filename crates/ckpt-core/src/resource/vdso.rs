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
/// old one, and code. A function that the new kernel does not have becomes the system call that it stands for.
///
/// # Errors
/// The name of a function that is missing and that no system call can stand in for.
pub fn redirections(old: &[u8], new: &[u8], new_base: u64) -> Result<Vec<(u64, Vec<u8>)>, String> {
    let new = functions(new);
    let mut patches: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (name, offset) in functions(old) {
        let code = match new.get(&name) {
            Some(target) => jump(new_base + target),
            None => stand_in(&name).ok_or_else(|| String::from_utf8_lossy(&name).into_owned())?,
        };
        patches.insert(offset, code);
    }
    Ok(patches.into_iter().collect())
}

/// `movabs rax, target; jmp rax`: rax is free at the beginning of a function.
fn jump(target: u64) -> Vec<u8> {
    let mut code = vec![0x48, 0xb8];
    code.extend_from_slice(&target.to_le_bytes());
    code.extend_from_slice(&[0xff, 0xe0]);
    code
}

/// Code for a function that this kernel's vDSO lacks. Which ones there are differs with the version (`getrandom` came
/// with Linux 6.11) and the configuration (SGX).
fn stand_in(name: &[u8]) -> Option<Vec<u8>> {
    // mov eax, -ENOSYS; ret
    const NO_SUCH_CALL: [u8; 6] = [0xb8, 0xda, 0xff, 0xff, 0xff, 0xc3];
    let number = match name.strip_prefix(b"__vdso_").unwrap_or(name) {
        b"clock_gettime" => libc::SYS_clock_gettime,
        b"clock_getres" => libc::SYS_clock_getres,
        b"gettimeofday" => libc::SYS_gettimeofday,
        b"time" => libc::SYS_time,
        b"getcpu" => libc::SYS_getcpu,
        b"getrandom" => libc::SYS_getrandom,
        // Nobody is in an enclave: memory of `/dev/sgx_enclave` is not in an image.
        b"sgx_enter_enclave" => return Some(NO_SUCH_CALL.to_vec()),
        _ => return None,
    };
    let mut code = Vec::new();
    if number == libc::SYS_getrandom {
        // Asked how large its state is (a length of -1 for it), it says that it does not exist, and libc makes the call
        // itself from then on. cmp r8, -1; jne over the next two
        code.extend_from_slice(&[0x49, 0x83, 0xf8, 0xff, 0x75, 0x08]);
        // mov rax, -ENOSYS: it gives a 64 bit number; ret
        code.extend_from_slice(&[0x48, 0xc7, 0xc0, 0xda, 0xff, 0xff, 0xff, 0xc3]);
    }
    // mov eax, number; syscall; ret: none has more than three arguments, which are in the same registers for both.
    code.push(0xb8);
    code.extend_from_slice(&i32::try_from(number).ok()?.to_le_bytes());
    code.extend_from_slice(&[0x0f, 0x05, 0xc3]);
    Some(code)
}

#[cfg(test)]
mod tests;
