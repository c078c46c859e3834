//! `x86_64`: `arch/x86/include/uapi/asm/ptrace.h`, `arch/x86/kernel/signal.c`, `arch/x86/kernel/fpu/regset.c`.

use std::arch::global_asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

/// The ELF machine number that images of this architecture carry (`EM_X86_64`).
pub const ELF_MACHINE: u16 = 62;
/// How many words `struct user_regs_struct` has.
pub const REGISTER_WORDS: usize = 27;
pub(crate) const NT_PRSTATUS: u32 = 1;
/// `NT_X86_XSTATE`.
pub(crate) const NT_EXTENDED: u32 = 0x202;
/// Room for every XSAVE component that there is (AMX tiles are 8 KiB of 11).
pub(crate) const EXTENDED_STATE_MAX: usize = 16384;
/// `syscall`.
pub const SYSCALL_INSTRUCTION: [u8; 2] = [0x0f, 0x05];
/// Where user space ends with four-level page tables (`TASK_SIZE`).
pub const USER_END: u64 = 0x7fff_ffff_f000;

/// The general registers of a thread (`struct user_regs_struct`, in its order).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    words: [u64; REGISTER_WORDS],
}

// Indices into user_regs_struct, of those that are used here.
const R13: usize = 2;
const R12: usize = 3;
const RBP: usize = 4;
const RBX: usize = 5;
const R10: usize = 7;
const R9: usize = 8;
const R8: usize = 9;
const RAX: usize = 10;
const RDX: usize = 12;
const RSI: usize = 13;
const RDI: usize = 14;
const ORIG_RAX: usize = 15;
const RIP: usize = 16;
const CS: usize = 17;
const RSP: usize = 19;

/// How the kernel marks an interrupted call in the result register while the thread is stopped
/// (`include/linux/errno.h`; never seen by user space).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupted {
    /// `ERESTARTSYS`, `ERESTARTNOINTR`, `ERESTARTNOHAND`: the same call again.
    Again,
    /// `ERESTART_RESTARTBLOCK`: `restart_syscall`, which knows the time that is left.
    RestartBlock,
    /// `EINTR`: a call that the kernel never restarts, such as `epoll_wait`.
    Eintr,
}

/// `-ERESTART_RESTARTBLOCK`.
pub const RESTART_BLOCK: i64 = -516;

impl Registers {
    /// From the words of `user_regs_struct`.
    #[must_use]
    pub fn from_words(words: [u64; REGISTER_WORDS]) -> Self {
        Self { words }
    }

    /// The words of `user_regs_struct`.
    #[must_use]
    pub fn to_words(&self) -> [u64; REGISTER_WORDS] {
        self.words
    }

    /// The instruction pointer.
    #[must_use]
    pub fn ip(&self) -> u64 {
        self.words[RIP]
    }

    /// Sets the instruction pointer.
    pub fn set_ip(&mut self, ip: u64) {
        self.words[RIP] = ip;
    }

    /// The stack pointer.
    #[must_use]
    pub fn sp(&self) -> u64 {
        self.words[RSP]
    }

    /// The result register, as a signed value.
    #[must_use]
    pub fn result(&self) -> i64 {
        self.words[RAX].cast_signed()
    }

    /// Whether the thread runs 64-bit code (`__USER_CS`).
    #[must_use]
    pub fn is_64_bit(&self) -> bool {
        self.words[CS] == 0x33
    }

    /// The system call that the thread was stopped in, with its arguments; `None` when it was in user code.
    #[must_use]
    pub fn syscall(&self) -> Option<(i64, [u64; 6])> {
        let number = self.words[ORIG_RAX].cast_signed();
        let w = &self.words;
        (number >= 0).then_some((number, [w[RDI], w[RSI], w[RDX], w[R10], w[R8], w[R9]]))
    }

    /// Names another system call as the one that the thread was stopped in.
    pub fn set_syscall(&mut self, number: i64) {
        self.words[ORIG_RAX] = number.cast_unsigned();
    }

    /// How the stop interrupted a system call, if it did.
    #[must_use]
    pub fn interrupted(&self) -> Option<Interrupted> {
        self.syscall()?;
        match self.result() {
            -514..=-512 => Some(Interrupted::Again),
            RESTART_BLOCK => Some(Interrupted::RestartBlock),
            -4 => Some(Interrupted::Eintr),
            _ => None,
        }
    }

    /// Makes the kernel issue the interrupted call once more when the thread resumes (`-ERESTARTNOINTR`).
    pub fn set_call_again(&mut self) {
        self.words[RAX] = (-513_i64).cast_unsigned();
    }

    /// Makes the kernel go on with the thread's restart block when the thread resumes (`-ERESTART_RESTARTBLOCK`).
    pub fn set_call_restart(&mut self) {
        self.words[RAX] = RESTART_BLOCK.cast_unsigned();
    }

    /// Ends the interrupted call with this result: nothing restarts.
    pub fn finish_call(&mut self, result: i64) {
        self.words[RAX] = result.cast_unsigned();
        self.words[ORIG_RAX] = u64::MAX;
    }

    /// These registers, set so that the thread makes one system call at the instruction `at`.
    pub(crate) fn for_call(&self, at: u64, number: i64, args: [u64; 6]) -> Self {
        let mut new = *self;
        new.words[RAX] = number.cast_unsigned();
        new.words[ORIG_RAX] = u64::MAX;
        for (register, value) in [RDI, RSI, RDX, R10, R8, R9].into_iter().zip(args) {
            new.words[register] = value;
        }
        new.words[RIP] = at;
        new
    }

    /// These registers, set so that the thread makes one call by the guard at `guard`. `undo` is the length of the mapping
    /// that the call makes, if it makes one.
    pub(crate) fn for_guarded_call(
        &self,
        guard: u64,
        number: i64,
        args: [u64; 6],
        trap_signal: i32,
        undo: Option<u64>,
    ) -> Self {
        let mut new = self.for_call(guard, number, args);
        new.words[RBP] = u64::from(trap_signal.unsigned_abs());
        new.words[RBX] = u64::from(undo.is_some());
        new.words[R13] = undo.unwrap_or_default();
        new
    }

    /// The result of a call by a guard.
    pub(crate) fn guarded_result(&self) -> i64 {
        self.words[R12].cast_signed()
    }

    /// These registers, set so that the thread runs the batch in the injected pages at `base`.
    pub(crate) fn for_batch(&self, base: u64, entry: u64, calls: u64, count: u64, trap_signal: i32) -> Self {
        let mut new = *self;
        new.words[ORIG_RAX] = u64::MAX;
        new.words[RIP] = base + entry;
        new.words[RBX] = calls;
        new.words[R12] = count;
        new.words[RBP] = u64::from(trap_signal.unsigned_abs());
        new
    }

    /// What the injected code loads, should the tracer die: the registers as the kernel would have resumed them
    /// (a call that was to be restarted is at its instruction again), in the order of `user_regs_struct`.
    pub(crate) fn healed(&self) -> [u64; REGISTER_WORDS] {
        let mut words = self.words;
        match self.interrupted() {
            Some(Interrupted::Again) => {
                words[RAX] = words[ORIG_RAX];
                words[RIP] -= 2;
            }
            Some(Interrupted::RestartBlock) => {
                words[RAX] = libc::SYS_restart_syscall.cast_unsigned();
                words[RIP] -= 2;
            }
            Some(Interrupted::Eintr) | None => {}
        }
        words
    }
}

/// The bytes of a call in a batch: number, six arguments, result.
pub(crate) const CALL_BYTES: usize = 64;

// The code that runs in the tracee. Its page is at `base`, the data page follows it; at data + 0 stands the address at
// which a guard (below) heals the thread.
// In: rbx the first call, r12 how many, rbp the trap signal.
// At the end it sends itself the trap signal, which the program ignores: a living tracer gets a stop before it would be
// delivered; with a dead one nothing happens, and the guard gives everything back.
global_asm!(
    ".pushsection .rodata.ckpt_batch,\"a\",@progbits",
    ".globl ckpt_trace_batch_start",
    ".hidden ckpt_trace_batch_start",
    ".globl ckpt_trace_batch_heal",
    ".hidden ckpt_trace_batch_heal",
    ".globl ckpt_trace_batch_tiles",
    ".hidden ckpt_trace_batch_tiles",
    ".globl ckpt_trace_batch_end",
    ".hidden ckpt_trace_batch_end",
    ".balign 16",
    "ckpt_trace_batch_start:",
    "2: test r12, r12",
    "jz 3f",
    "mov rax, [rbx]",
    "mov rdi, [rbx + 8]",
    "mov rsi, [rbx + 16]",
    "mov rdx, [rbx + 24]",
    "mov r10, [rbx + 32]",
    "mov r8, [rbx + 40]",
    "mov r9, [rbx + 48]",
    "syscall",
    "mov [rbx + 56], rax",
    "add rbx, 64",
    "dec r12",
    "jmp 2b",
    "3: mov eax, 39", // getpid
    "syscall",
    "mov r12, rax",
    "mov eax, 186", // gettid
    "syscall",
    "mov rdi, r12",
    "mov rsi, rax",
    "mov rdx, rbp",
    "mov eax, 234", // tgkill
    "syscall",
    "ckpt_trace_batch_heal:",
    "jmp qword ptr [rip + ckpt_trace_batch_start + 4096]",
    // Another way in: makes the kernel give the thread room for AMX tiles, which it does at the first use of one.
    "ckpt_trace_batch_tiles:",
    "ldtilecfg [rip + 4f]",
    "tilezero tmm0",
    "tilerelease",
    "jmp ckpt_trace_batch_start",
    ".balign 64",
    // Palette 1; tile 0 has one row of four bytes.
    "4: .byte 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0",
    ".byte 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0",
    ".byte 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0",
    ".byte 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0",
    "ckpt_trace_batch_end:",
    ".popsection",
);

// The guard: code that makes one call for us and, should the tracer die meanwhile or during a batch, gives the thread's
// registers and signal mask back and takes our pages away. It needs no memory but its own, which it only reads.
// In: rax and the argument registers the call, rbp the trap signal, rbx whether the result is a mapping of r13 bytes
// that would have to go again.
global_asm!(
    ".pushsection .rodata.ckpt_guard,\"a\",@progbits",
    ".globl ckpt_trace_guard_start",
    ".hidden ckpt_trace_guard_start",
    ".globl ckpt_trace_guard_trap",
    ".hidden ckpt_trace_guard_trap",
    ".globl ckpt_trace_guard_heal",
    ".hidden ckpt_trace_guard_heal",
    ".globl ckpt_trace_guard_data",
    ".hidden ckpt_trace_guard_data",
    ".balign 16",
    "ckpt_trace_guard_start:",
    "syscall",
    "mov r12, rax",
    "mov eax, 39", // getpid
    "syscall",
    "mov r15, rax",
    "mov eax, 186", // gettid
    "syscall",
    "mov rdi, r15",
    "mov rsi, rax",
    "mov rdx, rbp",
    "mov eax, 234", // tgkill
    "syscall",
    "ckpt_trace_guard_trap:",
    "test rbx, rbx",
    "jz ckpt_trace_guard_heal",
    "mov rdi, r12",
    "mov rsi, r13",
    "jmp 2f",
    "ckpt_trace_guard_heal:",
    "mov rdi, [rip + ckpt_trace_guard_data]",
    "mov rsi, [rip + ckpt_trace_guard_data + 8]",
    "2: mov eax, 11", // munmap
    "syscall",
    "mov eax, 14", // rt_sigprocmask
    "mov edi, 2",  // SIG_SETMASK
    "lea rsi, [rip + ckpt_trace_guard_data + 16]",
    "xor edx, edx",
    "mov r10d, 8",
    "syscall",
    "lea rsp, [rip + ckpt_trace_guard_data + 24 + 18*8]",
    "popfq",
    "mov r15, [rip + ckpt_trace_guard_data + 24 + 0*8]",
    "mov r14, [rip + ckpt_trace_guard_data + 24 + 1*8]",
    "mov r13, [rip + ckpt_trace_guard_data + 24 + 2*8]",
    "mov r12, [rip + ckpt_trace_guard_data + 24 + 3*8]",
    "mov rbp, [rip + ckpt_trace_guard_data + 24 + 4*8]",
    "mov rbx, [rip + ckpt_trace_guard_data + 24 + 5*8]",
    "mov r11, [rip + ckpt_trace_guard_data + 24 + 6*8]",
    "mov r10, [rip + ckpt_trace_guard_data + 24 + 7*8]",
    "mov r9, [rip + ckpt_trace_guard_data + 24 + 8*8]",
    "mov r8, [rip + ckpt_trace_guard_data + 24 + 9*8]",
    "mov rax, [rip + ckpt_trace_guard_data + 24 + 10*8]",
    "mov rcx, [rip + ckpt_trace_guard_data + 24 + 11*8]",
    "mov rdx, [rip + ckpt_trace_guard_data + 24 + 12*8]",
    "mov rsi, [rip + ckpt_trace_guard_data + 24 + 13*8]",
    "mov rdi, [rip + ckpt_trace_guard_data + 24 + 14*8]",
    "mov rsp, [rip + ckpt_trace_guard_data + 24 + 19*8]",
    "jmp qword ptr [rip + ckpt_trace_guard_data + 24 + 16*8]",
    ".balign 8",
    // The mapping to take away (address, length), the signal mask, user_regs_struct.
    "ckpt_trace_guard_data:",
    ".popsection",
);

/// How many bytes of data follow a guard's code.
const GUARD_DATA: usize = 24 + REGISTER_WORDS * 8;

/// Where calls may begin in the data page.
pub(crate) const CALLS: usize = 64;

unsafe extern "C" {
    static ckpt_trace_batch_start: u8;
    static ckpt_trace_batch_heal: u8;
    static ckpt_trace_batch_tiles: u8;
    static ckpt_trace_batch_end: u8;
    static ckpt_trace_guard_start: u8;
    static ckpt_trace_guard_trap: u8;
    static ckpt_trace_guard_heal: u8;
    static ckpt_trace_guard_data: u8;
}

/// The code that runs a batch, and the offset at which it stands when the trap signal is delivered.
pub(crate) fn batch_code() -> (&'static [u8], u64) {
    let start = &raw const ckpt_trace_batch_start;
    let heal = (&raw const ckpt_trace_batch_heal) as usize - start as usize;
    let length = (&raw const ckpt_trace_batch_end) as usize - start as usize;
    // SAFETY: the three symbols delimit one contiguous read-only object of the assembly above.
    (unsafe { std::slice::from_raw_parts(start, length) }, heal as u64)
}

/// Whether a page begins with the code that runs a batch: one that an earlier tracer left when it was killed.
#[must_use]
pub fn is_batch(bytes: &[u8]) -> bool {
    bytes.starts_with(batch_code().0)
}

/// How many bytes of a page tell that.
#[must_use]
pub fn batch_bytes() -> usize {
    batch_code().0.len()
}

/// A guard's code, and the offsets at which it stands when the trap signal is delivered and at which it heals.
pub(crate) fn guard_code() -> (&'static [u8], u64, u64) {
    let start = &raw const ckpt_trace_guard_start;
    let offset = |symbol: *const u8| symbol as usize - start as usize;
    let (trap, heal) = (offset(&raw const ckpt_trace_guard_trap), offset(&raw const ckpt_trace_guard_heal));
    // SAFETY: the symbols delimit one contiguous read-only object of the assembly above.
    let code = unsafe { std::slice::from_raw_parts(start, offset(&raw const ckpt_trace_guard_data)) };
    (code, trap as u64, heal as u64)
}

/// How many bytes a guard takes.
#[must_use]
pub fn guard_bytes() -> u64 {
    (guard_code().0.len() + GUARD_DATA) as u64
}

/// Whether these bytes begin with a guard that an earlier tracer left when it was killed.
#[must_use]
pub fn is_guard(bytes: &[u8]) -> bool {
    bytes.starts_with(guard_code().0)
}

/// A guard's data: the mapping that it is to take away, the signal mask and the registers that it gives back.
pub(crate) fn guard_data(mapping: (u64, u64), mask: u64, registers: &Registers) -> Vec<u8> {
    let words = [mapping.0, mapping.1, mask].into_iter().chain(registers.healed());
    words.flat_map(u64::to_le_bytes).collect()
}

/// Where a batch begins that first uses an AMX tile.
pub(crate) fn tiles_entry() -> u64 {
    ((&raw const ckpt_trace_batch_tiles) as usize - (&raw const ckpt_trace_batch_start) as usize) as u64
}

/// Whether an XSAVE area holds AMX tiles (`XTILEDATA`, bit 18 of `XSTATE_BV`).
#[must_use]
pub fn uses_tiles(state: &[u8]) -> bool {
    state.get(512 + 2).is_some_and(|byte| byte & (1 << 2) != 0)
}

/// One component of the XSAVE area in the standard format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XsaveComponent {
    /// Its bit in XCR0.
    pub bit: u32,
    /// Where it begins.
    pub offset: u32,
    /// How long it is.
    pub size: u32,
}

/// The components that this machine's XCR0 enables, as CPUID leaf 0xD describes them (Intel SDM volume 1, 13.5).
/// x87 and SSE (bits 0 and 1) are the fixed legacy area and not listed.
#[must_use]
pub fn xsave_layout() -> Vec<XsaveComponent> {
    if __cpuid(1).ecx & (1 << 27) == 0 {
        return Vec::new();
    }
    // SAFETY: OSXSAVE (checked above) says that XGETBV may be executed.
    let enabled = unsafe { xcr0() };
    (2..63)
        .filter(|bit| enabled & (1 << bit) != 0)
        .map(|bit| {
            let leaf = __cpuid_count(0xd, bit);
            XsaveComponent { bit, offset: leaf.ebx, size: leaf.eax }
        })
        .collect()
}

#[target_feature(enable = "xsave")]
fn xcr0() -> u64 {
    // SAFETY: the caller has checked OSXSAVE; index 0 always exists then.
    unsafe { _xgetbv(0) }
}

/// The register set of a processor without XSAVE (`NT_PRFPREG`), and its size.
pub(crate) const NT_BASIC: u32 = 2;
pub(crate) const BASIC_STATE: usize = 512;

/// Makes an FXSAVE area an XSAVE area, whose beginning it is.
pub(crate) fn extend_basic_state(state: &mut Vec<u8>) {
    const HEADER_END: usize = 576;
    const X87_AND_SSE: u64 = 3;
    state.resize(HEADER_END, 0);
    state[BASIC_STATE..BASIC_STATE + 8].copy_from_slice(&X87_AND_SSE.to_le_bytes());
}

/// Moves an XSAVE area saved with the layout `from` into this machine's layout. `None` when it uses a component that
/// this machine does not have.
#[must_use]
pub fn relayout(state: &[u8], from: &[XsaveComponent]) -> Option<Vec<u8>> {
    const HEADER_END: usize = 576;
    const SOFTWARE_FEATURES: usize = 464;
    const PKRU: u32 = 9;
    // `init_pkru_value` in arch/x86/mm/pkeys.c.
    const PKRU_OF_LINUX: u32 = 0x5555_5554;
    let here = xsave_layout();
    if here == from || state.len() < HEADER_END {
        return Some(state.to_vec());
    }
    let mut in_use = u64::from_le_bytes(state[512..520].try_into().ok()?);
    let end = here.iter().map(|c| c.offset + c.size).max().unwrap_or(0) as usize;
    let mut moved = state[..HEADER_END].to_vec();
    moved.resize(end.max(HEADER_END), 0);
    let mut features = 3_u64;
    // An image may say anything: bits that do not exist, places beyond all bounds.
    let used = in_use;
    let is_used = |c: &&XsaveComponent| 1_u64.checked_shl(c.bit).is_some_and(|bit| used & bit != 0);
    for old in from.iter().filter(is_used) {
        let bytes = state.get(old.offset as usize..old.offset.checked_add(old.size)? as usize)?;
        let Some(new) = here.iter().find(|c| c.bit == old.bit && c.size == old.size) else {
            // In use or not, what is in its initial state (zero, for all of these) need not exist. Linux gives every thread
            // another PKRU: all keys but the first locked, and then nobody has used them.
            let is_initial = bytes.iter().all(|byte| *byte == 0);
            if is_initial || old.bit == PKRU && bytes.starts_with(&PKRU_OF_LINUX.to_le_bytes()) {
                in_use &= !(1 << old.bit);
                continue;
            }
            return None;
        };
        moved[new.offset as usize..(new.offset + new.size) as usize].copy_from_slice(bytes);
    }
    for component in &here {
        features |= 1 << component.bit;
    }
    moved[512..520].copy_from_slice(&in_use.to_le_bytes());
    moved[SOFTWARE_FEATURES..SOFTWARE_FEATURES + 8].copy_from_slice(&features.to_le_bytes());
    Some(moved)
}

#[cfg(test)]
mod tests;
