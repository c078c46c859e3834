//! The machine that an image was made on, and whether this one can run it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;

use ckpt_trace::arch;
use serde::{Deserialize, Serialize};

/// A machine, as far as a program depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its name.
    pub host: String,
    /// Its kernel's release.
    pub kernel: String,
    /// The processor's model.
    pub cpu: String,
    /// The instruction set extensions that a program may have chosen its code by.
    pub cpu_features: BTreeSet<String>,
    /// Where the components of an XSAVE area lie: bit, offset, size.
    pub xsave: Vec<(u32, u32, u32)>,
}

/// Flags of `/proc/cpuinfo` that name instructions which user space can execute. Others (virtualization, security,
/// topology) say nothing about whether a program can go on.
const INSTRUCTION_PREFIXES: &[&str] =
    &["sse", "ssse", "avx", "amx", "bmi", "sha", "xsave", "vaes", "vpclmul", "movdir"];
const INSTRUCTIONS: &[&str] = &[
    "fpu",
    "mmx",
    "fxsr",
    "cmov",
    "cx8",
    "cx16",
    "pni",
    "popcnt",
    "movbe",
    "aes",
    "pclmulqdq",
    "fma",
    "f16c",
    "rdrand",
    "rdseed",
    "adx",
    "abm",
    "lahf_lm",
    "gfni",
    "clflushopt",
    "clwb",
    "fsgsbase",
    "rdpid",
    "serialize",
    "erms",
    "fsrm",
    "rdtscp",
    "hle",
    "rtm",
    "cldemote",
    "waitpkg",
    "enqcmd",
    "fma4",
    "xop",
    "tbm",
    "sse4a",
    "3dnowprefetch",
    "clzero",
    "rdpru",
    "mwaitx",
    "monitorx",
    "prefetchwt1",
    "xgetbv1",
];

/// More than what `/proc/cpuinfo` says of one processor.
const ONE_PROCESSOR: u64 = 16 * 1024;

impl Machine {
    /// This machine.
    #[must_use]
    pub fn this() -> Self {
        let uname = rustix::system::uname();
        // One processor's paragraph is enough; the whole file is long on a large machine.
        let mut text = Vec::new();
        if let Ok(file) = File::open("/proc/cpuinfo") {
            // What cannot be read is left empty: no feature is claimed then, and none is asked for.
            let _ = file.take(ONE_PROCESSOR).read_to_end(&mut text);
        }
        let text = String::from_utf8_lossy(&text);
        let field = |name: &str| {
            let line = text.lines().take_while(|line| !line.is_empty()).find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(": ")).map(|(_, value)| value.to_owned()).unwrap_or_default()
        };
        let is_instruction =
            |flag: &&str| INSTRUCTIONS.contains(flag) || INSTRUCTION_PREFIXES.iter().any(|p| flag.starts_with(p));
        Self {
            host: uname.nodename().to_string_lossy().into_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            cpu: field("model name"),
            cpu_features: field("flags").split(' ').filter(is_instruction).map(str::to_owned).collect(),
            xsave: arch::xsave_layout().iter().map(|c| (c.bit, c.offset, c.size)).collect(),
        }
    }

    /// The features that `self` has and `here` lacks.
    #[must_use]
    pub fn missing_from(&self, here: &Self) -> Vec<String> {
        self.cpu_features.difference(&here.cpu_features).cloned().collect()
    }

    /// Components of the XSAVE area here that the image's machine did not have and that the dynamic linker of glibc saves
    /// (`STATE_SAVE_MASK`) when it binds a function: into room that it measured at the program's start.
    #[must_use]
    pub fn larger_state(&self, here: &Self) -> Vec<u32> {
        const SAVED: [u32; 5] = [2, 3, 5, 6, 7];
        let is_new = |bit: &u32| SAVED.contains(bit) && !self.xsave.iter().any(|component| component.0 == *bit);
        here.xsave.iter().map(|component| component.0).filter(is_new).collect()
    }

    /// The XSAVE layout as the trace crate takes it.
    #[must_use]
    pub fn xsave_components(&self) -> Vec<arch::XsaveComponent> {
        self.xsave.iter().map(|&(bit, offset, size)| arch::XsaveComponent { bit, offset, size }).collect()
    }
}

/// Environment variables with which a program chooses no code beyond the oldest common x86-64 machine (x86-64-v2): name
/// and value.
#[must_use]
pub fn portable_environment() -> Vec<(&'static str, String)> {
    unimplemented!("in progress")
}

#[cfg(test)]
mod tests;
