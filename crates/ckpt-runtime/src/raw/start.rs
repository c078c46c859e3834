//! The constructor: what happens before `main`.

use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::ptr;

use super::{exit, handler, spawn};
use crate::role::{Action, Role, role};
use crate::settings::{self, OnInterrupt, Started};
use crate::{engine, recover};

type Constructor = extern "C" fn(c_int, *const *const c_char, *const *const c_char);

/// The entry in the program's table of constructors, and the name by which the linker is told to keep it.
/// Priority 100 is after Rust's own constructor (99) and before those of C++ objects (65535) and of users (101 on):
/// the engine and a restore must not run any of the program's code.
#[used]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".init_array.00100")]
#[allow(non_upper_case_globals, reason = "a name for linkers, among C's")]
pub static ckpt_runtime_anchor: Constructor = start;

extern "C" fn start(count: c_int, argv: *const *const c_char, environment: *const *const c_char) {
    // SAFETY: takes a number.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        // Set-user-id: neither the environment nor an image of the user's may decide what it does.
        return;
    }
    let argv = arguments(count, argv, environment);
    let recover = std::env::var_os(settings::RECOVER).is_none_or(|value| value != "off");
    match role(&argv, recover) {
        Role::Engine(order) => exit(engine::run(&order)),
        Role::Recover(file) => with_started(&argv, |started| recover::run(file, started)),
        Role::Program => with_started(&argv, install),
    }
}

/// glibc passes constructors what `main` gets; where the three do not fit together, the kernel is asked.
fn arguments(count: c_int, argv: *const *const c_char, environment: *const *const c_char) -> Vec<OsString> {
    let fits = |count: &usize| !argv.is_null() && ptr::eq(environment, argv.wrapping_add(count + 1));
    let Some(count) = usize::try_from(count).ok().filter(fits) else {
        let line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
        let words = line.strip_suffix(&[0]).unwrap_or(&line);
        return words.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    };
    // SAFETY: the process's argument vector, whose length was just confirmed by where the environment begins.
    unsafe { std::slice::from_raw_parts(argv, count) }.iter().map(|word| owned(*word)).collect()
}

fn owned(word: *const c_char) -> OsString {
    // SAFETY: an entry of the process's argument vector or environment, a C string.
    OsStr::from_bytes(unsafe { CStr::from_ptr(word) }.to_bytes()).to_owned()
}

fn with_started(argv: &[OsString], act: impl FnOnce(&Started<'_>)) {
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let exe = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let named = std::env::var_os(settings::FILE);
    act(&Started {
        argv0: argv.first().map_or(exe.as_os_str(), OsString::as_os_str),
        cwd: &cwd,
        exe: &exe,
        named: named.as_deref(),
    });
}

fn install(started: &Started<'_>) {
    let wish = OnInterrupt::parse(std::env::var_os(settings::ON_INTERRUPT).as_deref()).unwrap_or_else(|error| {
        eprintln!("ckpt: {error}; Ctrl+C will save and end the program");
        OnInterrupt::Save
    });
    // The strings come from C strings: none has a zero byte inside, and none is left out here.
    let string = |text: &OsStr| CString::new(text.as_bytes()).unwrap_or_default();
    let mut env: Vec<*const c_char> = std::env::vars_os()
        .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).unwrap_or_default())
        .map(|entry| entry.into_raw().cast_const())
        .collect();
    env.push(ptr::null());
    handler::set_prepared(spawn::Prepared {
        exe: string(started.exe.as_os_str()),
        env,
        program: string(started.argv0),
        files: started.save_to().iter().take(spawn::FILES_MAX).map(|file| string(file.as_os_str())).collect(),
        action: if wish == OnInterrupt::Continue { Action::Continue } else { Action::End },
    });
    if wish != OnInterrupt::Off {
        handler::install();
    }
}
