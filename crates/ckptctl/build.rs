//! Builds `libckpt.a`, the library that `ckptctl build` and `ckptctl cc` link into programs, to be embedded.
//!
//! A cargo of its own does it, because the two builds differ: ckptctl is static and cannot be linked into a program, the
//! library takes libc from whatever the program is linked with. Its target directory lies in `OUT_DIR`, so that it
//! never waits for the lock that the outer cargo holds.
//!
//! The archive that cargo makes holds 300 objects with public names (zstd, Rust's runtime) that may clash with the
//! program's own libraries. The linker makes one object of what is reachable from the constructor and from `ckpt.h`, and
//! every other name is made local.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The crates that the library is made of, below `crates/`.
const PARTS: [&str; 4] = ["ckpt-runtime", "ckpt-core", "ckpt-image", "ckpt-trace"];

/// The public names: the constructor, and the functions of `ckpt.h`.
const PUBLIC: [&str; 8] = [
    "ckpt_runtime_anchor",
    "ckpt_checkpoint",
    "ckpt_checkpoint_to",
    "ckpt_error",
    "ckpt_before",
    "ckpt_after",
    "ckpt_hold",
    "ckpt_release",
];

/// How hard the library is compressed: it goes to other machines with ckptctl.
const SMALL: i32 = 19;

/// Panics abort in the library, so nothing is ever unwound; only printing a backtrace would ask for these. Without them a
/// C program would need `libgcc_s`, and one version of it.
const NO_UNWINDER: &str = "
#include <stdlib.h>
int _Unwind_Backtrace(void *f, void *a) { (void)f; (void)a; return 5; /* end of stack */ }
#define NEVER(name) void name(void) { abort(); }
NEVER(_Unwind_RaiseException) NEVER(_Unwind_Resume) NEVER(_Unwind_DeleteException) NEVER(_Unwind_GetIP) NEVER(_Unwind_GetIPInfo)
NEVER(_Unwind_SetIP) NEVER(_Unwind_SetGR) NEVER(_Unwind_GetCFA) NEVER(_Unwind_GetRegionStart) NEVER(_Unwind_GetTextRelBase)
NEVER(_Unwind_GetDataRelBase) NEVER(_Unwind_GetLanguageSpecificData) NEVER(_Unwind_FindEnclosingFunction)
";

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let workspace = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    for part in PARTS {
        println!("cargo:rerun-if-changed={}", workspace.join("crates").join(part).display());
    }
    for file in ["Cargo.toml", "Cargo.lock", "crates/ckptctl/build.rs"] {
        println!("cargo:rerun-if-changed={}", workspace.join(file).display());
    }
    for name in ["CC", "LD", "AR", "OBJCOPY"] {
        println!("cargo:rerun-if-env-changed={name}");
    }

    let archive = build(&workspace, &out)?;
    let library = out.join("libckpt.a");
    join(&archive, &library, &out)?;
    let header = workspace.join("crates/ckpt-runtime/include/ckpt.h");
    let packed = out.join("libckpt.a.zst");

    let content = fs::read(&library)?;
    fs::write(&packed, zstd::bulk::compress(&content, SMALL)?)?;
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    fs::read(&header)?.hash(&mut hasher);
    println!("cargo:rustc-env=CKPT_LIBRARY={}", packed.display());
    println!("cargo:rustc-env=CKPT_LIBRARY_SIZE={}", content.len());
    println!("cargo:rustc-env=CKPT_HEADER={}", header.display());
    println!("cargo:rustc-env=CKPT_LIBRARY_ID={:016x}", hasher.finish());
    Ok(())
}

/// Compiles the runtime, and returns the archive.
fn build(workspace: &Path, out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let target = variable("TARGET")?;
    let directory = out.join("runtime");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo.current_dir(workspace);
    cargo.args(["rustc", "-p", "ckpt-runtime", "--lib", "--crate-type", "staticlib", "--release"]);
    // The outer cargo has resolved and fetched everything already.
    cargo.args(["--locked", "--offline", "--quiet", "--target"]).arg(&target).arg("--target-dir").arg(&directory);
    for setting in profile(&variable("PROFILE")?) {
        cargo.arg("--config").arg(format!("profile.release.{setting}"));
    }
    // What the outer build was told is not for the inner one: flags, lint runs, another target directory.
    for name in ["RUSTFLAGS", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS"] {
        cargo.env_remove(name);
    }
    for (name, _) in env::vars_os().filter(|(name, _)| is_profile(name)) {
        cargo.env_remove(name);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=-crt-static\x1f-Crelocation-model=pic");
    run(&mut cargo, "compile the runtime")?;
    Ok(directory.join(target).join("release/libckpt.a"))
}

/// Small and fast where it is shipped; quick to build where ckptctl itself is.
fn profile(outer: &str) -> [&'static str; 6] {
    let [optimize, lto, units] = if outer == "release" {
        ["opt-level=3", "lto=\"fat\"", "codegen-units=1"]
    } else {
        ["opt-level=1", "lto=\"off\"", "codegen-units=16"]
    };
    [optimize, lto, units, "panic=\"abort\"", "strip=\"none\"", "debug=false"]
}

/// One object with no public names but ours, in an archive of its own.
fn join(archive: &Path, library: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let (source, unwinder) = (out.join("no_unwinder.c"), out.join("no_unwinder.o"));
    let (joined, object) = (out.join("joined.o"), out.join("ckpt.o"));
    fs::write(&source, NO_UNWINDER)?;
    let mut cc = Command::new(tool("CC", "cc"));
    cc.args(["-O1", "-fPIC", "-c"]).arg(&source).arg("-o").arg(&unwinder);
    run(&mut cc, "compile a stub")?;

    let mut ld = Command::new(tool("LD", "ld"));
    ld.args(["-r", "--gc-sections"]).args(PUBLIC.map(|name| format!("--undefined={name}")));
    ld.arg(archive).arg(&unwinder).arg("-o").arg(&joined);
    run(&mut ld, "join the runtime's objects")?;

    let mut objcopy = Command::new(tool("OBJCOPY", "objcopy"));
    // Rust's own objects carry LLVM bitcode, which the plugin of another LLVM chokes on when it sees it in a link.
    objcopy.args(["--strip-debug", "--remove-section=.llvmbc", "--remove-section=.llvmcmd"]);
    objcopy.args(PUBLIC.map(|name| format!("--keep-global-symbol={name}")));
    objcopy.arg(&joined).arg(&object);
    run(&mut objcopy, "make the runtime's names local")?;

    let _ = fs::remove_file(library);
    let mut ar = Command::new(tool("AR", "ar"));
    // No times and owners: the same sources make the same bytes.
    ar.arg("rcsD").arg(library).arg(&object);
    run(&mut ar, "archive the runtime")
}

fn run(command: &mut Command, what: &str) -> Result<(), Box<dyn Error>> {
    let status =
        command.status().map_err(|error| format!("cannot {what}: {}: {error}", command.get_program().display()))?;
    if status.success() { Ok(()) } else { Err(format!("cannot {what}: {command:?}: {status}").into()) }
}

fn tool(variable: &str, default: &str) -> OsString {
    env::var_os(variable).filter(|value| !value.is_empty()).unwrap_or_else(|| default.into())
}

fn is_profile(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("CARGO_PROFILE_"))
}

fn variable(name: &str) -> Result<String, Box<dyn Error>> {
    env::var(name).map_err(|error| format!("{name}: {error}").into())
}
