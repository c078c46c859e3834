//! What is particular to a processor: the register sets, the code that runs a batch, and how a system call restarts.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
