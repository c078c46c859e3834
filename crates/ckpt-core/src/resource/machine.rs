//! The machine that an image was made on, as far as the program may depend on it, and whether another can run it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

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
    /// Whether the program may save the components of an XSAVE area into room that it measured at its start, as the dynamic
    /// linker of glibc does when it binds functions one by one.
    #[serde(default = "measured")]
    pub measured_state: bool,
}

/// Images that do not say were made of programs of any kind.
fn measured() -> bool {
    true
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
            measured_state: true,
        }
    }

    /// This machine, as a program may use it that was started with this environment (`/proc/PID/environ`) and has these
    /// files mapped.
    ///
    /// What glibc was told not to use (`GLIBC_TUNABLES`) is not among the features: code that asks the processor by itself
    /// has its own ways of being told, see [`portable_environment`].
    #[must_use]
    pub fn of_program<'a>(environment: &[u8], mapped: impl IntoIterator<Item = &'a Path>) -> Self {
        let libraries = Libraries::among(mapped);
        let masked = if libraries.has_glibc { masked_features(environment) } else { BTreeSet::new() };
        let is_bound_at_start = variable(environment, "LD_BIND_NOW").is_some_and(|value| !value.is_empty());
        let saves_nothing = ["XSAVE", "XSAVEC"].iter().all(|name| masked.contains(*name));
        let mut machine = Self::this();
        machine.measured_state = libraries.has_glibc_linker && !is_bound_at_start && !saves_nothing;
        machine.cpu_features.retain(|feature| !is_masked(feature, &masked));
        machine
    }

    /// Why a program that was here, on `self`, cannot go on on the machine `there`: what is wrong, and what to do.
    #[must_use]
    pub fn unfit(&self, there: &Self) -> Option<(String, String)> {
        let missing = self.missing_from(there);
        if !missing.is_empty() {
            return Some((
                format!("the program may use processor features that {} lacks: {}", there.host, missing.join(" ")),
                "take a machine that has them, start it with `ckptctl run --portable`, which lets it use none of them, or try --ignore-cpu if you know that it does not".to_owned(),
            ));
        }
        let larger = self.larger_state(there);
        (!larger.is_empty()).then(|| {
            (
                format!(
                    "the processor of {} has more registers (XSAVE components {larger:?}) than the program made room for when it bound its libraries",
                    there.host
                ),
                format!(
                    "take a machine like {}, start it with `ckptctl run --portable` (or LD_BIND_NOW=1), or try --ignore-cpu",
                    self.cpu
                ),
            )
        })
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
        if !self.measured_state {
            return Vec::new();
        }
        let is_new = |bit: &u32| SAVED.contains(bit) && !self.xsave.iter().any(|component| component.0 == *bit);
        here.xsave.iter().map(|component| component.0).filter(is_new).collect()
    }

    /// The XSAVE layout as the trace crate takes it.
    #[must_use]
    pub fn xsave_components(&self) -> Vec<arch::XsaveComponent> {
        self.xsave.iter().map(|&(bit, offset, size)| arch::XsaveComponent { bit, offset, size }).collect()
    }
}

/// The oldest common machine (x86-64-v2, System V ABI for AMD64): every processor of the last fifteen years has this.
const PORTABLE: [&str; 14] = [
    "fpu", "mmx", "fxsr", "cmov", "cx8", "sse", "sse2", "pni", "ssse3", "sse4_1", "sse4_2", "cx16", "lahf_lm", "popcnt",
];
/// What glibc knows beyond that and can be told not to use, by its names (`sysdeps/x86/cpu-tunables.c`). A name that a
/// version does not know is ignored by it.
const BEYOND_PORTABLE: [&str; 19] = [
    "AVX", "AVX2", "AVX512F", "AVX512CD", "AVX512BW", "AVX512DQ", "AVX512ER", "AVX512PF", "AVX512VL", "BMI1", "BMI2",
    "ERMS", "FMA", "FMA4", "LZCNT", "MOVBE", "RTM", "XSAVE", "XSAVEC",
];

/// Environment variables with which a program chooses no code beyond the oldest common x86-64 machine (x86-64-v2): name
/// and value. What `GLIBC_TUNABLES` holds already is kept.
///
/// Beside glibc they tell libraries that ask the processor by themselves: OpenSSL (`OPENSSL_ia32cap(3)`) and `OpenBLAS`.
#[must_use]
pub fn portable_environment() -> Vec<(&'static str, String)> {
    portable_beside(std::env::var("GLIBC_TUNABLES").ok().as_deref())
}

fn portable_beside(tunables: Option<&str>) -> Vec<(&'static str, String)> {
    // In the first word of what OpenSSL asks: PCLMULQDQ, FMA, MOVBE, AES, AVX, RDRAND; in the second: all.
    const OPENSSL: u64 = 1 << 33 | 1 << 44 | 1 << 54 | 1 << 57 | 1 << 60 | 1 << 62;
    let mut all: Vec<String> = tunables
        .into_iter()
        .flat_map(|tunables| tunables.split(':'))
        .filter(|tunable| !tunable.is_empty() && !tunable.starts_with(HWCAPS))
        .map(str::to_owned)
        .collect();
    all.push(format!("{HWCAPS}{}", BEYOND_PORTABLE.map(|name| format!("-{name}")).join(",")));
    vec![
        ("GLIBC_TUNABLES", all.join(":")),
        ("LD_BIND_NOW", "1".to_owned()),
        ("OPENSSL_ia32cap", format!("~{OPENSSL:#x}:0")),
        ("OPENBLAS_CORETYPE", "Nehalem".to_owned()),
    ]
}

const HWCAPS: &str = "glibc.cpu.hwcaps=";

/// A variable in the form of `/proc/PID/environ`.
fn variable<'a>(environment: &'a [u8], name: &str) -> Option<&'a [u8]> {
    environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// What glibc was told not to use, by its names. Of a tunable that is given twice the last one holds.
fn masked_features(environment: &[u8]) -> BTreeSet<String> {
    let tunables = variable(environment, "GLIBC_TUNABLES").map(String::from_utf8_lossy).unwrap_or_default();
    let hwcaps = tunables.split(':').filter_map(|tunable| tunable.strip_prefix(HWCAPS)).next_back().unwrap_or_default();
    hwcaps.split(',').filter_map(|name| name.strip_prefix('-')).map(str::to_owned).collect()
}

/// Whether a program that was told not to use these features (by glibc's names) has no use for a feature (by the name in
/// `/proc/cpuinfo`). Told all that [`portable_environment`] tells, it has none for any beyond the oldest machine.
fn is_masked(feature: &str, masked: &BTreeSet<String>) -> bool {
    if BEYOND_PORTABLE.iter().all(|name| masked.contains(*name)) {
        return !PORTABLE.contains(&feature);
    }
    let name = match feature {
        "abm" => "LZCNT".to_owned(),
        // The extensions of AVX-512 are nothing without its foundation.
        feature if feature.starts_with("avx512") && masked.contains("AVX512F") => return true,
        feature => feature.to_ascii_uppercase(),
    };
    masked.contains(&name)
}

/// Which of the libraries that matter here a program has mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Libraries {
    has_glibc: bool,
    has_glibc_linker: bool,
}

impl Libraries {
    /// The files' own names are those of older versions where the usual ones are links to them.
    fn among<'a>(mapped: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut found = Self { has_glibc: false, has_glibc_linker: false };
        for name in mapped.into_iter().filter_map(|path| path.file_name()?.to_str()) {
            found.has_glibc |= name == "libc.so.6" || name.starts_with("libc-2.");
            found.has_glibc_linker |= name.starts_with("ld-linux") || name.starts_with("ld-2.");
        }
        found
    }
}

#[cfg(test)]
mod tests;
