//! `ckptctl build` and `ckptctl cc`: the user's compiler, with the runtime linked in. The source is not edited.

mod call;
mod library;

use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow};

use call::Call;
use library::Library;

use crate::{cli, output};

/// `ckptctl build`.
#[derive(Debug, Clone, clap::Args)]
pub struct BuildArgs {
    /// C or C++ source files; objects and archives too
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<PathBuf>,
    /// The program to make [default: the first source without its ending]
    #[arg(short, long, value_name = "PROGRAM")]
    output: Option<PathBuf>,
    /// Flags for the compiler, instead of -O2 -g
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<OsString>,
}

/// Compiles the sources to one program that Ctrl+C saves and `-r` restores.
///
/// The compiler is `$CC` (cc), or `$CXX` (c++) when any source is C++. Returns the compiler's exit status.
///
/// # Errors
/// When there is no compiler, or no place for the library.
pub fn build(args: &BuildArgs) -> Result<i32> {
    let cplusplus = args.sources.iter().any(|source| call::is_cplusplus(source.as_os_str()));
    let (variable, default) = if cplusplus { ("CXX", "c++") } else { ("CC", "cc") };
    let output = match &args.output {
        Some(output) => output.clone(),
        None => default_output(&args.sources)?,
    };
    let library = Library::unpack()?;
    let mut command = compiler(variable, default);
    command.arg("-I").arg(library.directory());
    if args.flags.is_empty() {
        command.args(["-O2", "-g"]);
    }
    command.arg("-o").arg(&output);
    for source in &args.sources {
        // A C++ compiler would take C for C++.
        if cplusplus && call::is_c(source.as_os_str()) {
            command.args(["-x", "c"]).arg(source).args(["-x", "none"]);
        } else {
            command.arg(source);
        }
    }
    command.args(&args.flags).args(library.link_flags());
    println!("{}", shown(&command));
    let status = run(&mut command)?;
    if status == 0 {
        let program = startable(&output);
        println!("built {program}. Run it: {program}   save and end it: Ctrl+C   go on: {program} -r");
    }
    Ok(status)
}

/// Runs the real compiler with the same arguments, and links the runtime into the executables that it makes.
///
/// The compiler is the first argument if that is one (`ckptctl cc g++ ...`, as ccache does it), else `$CKPT_CC`, else cc.
/// Returns the compiler's exit status. `--help` alone is answered by both, since a configure script may look for an option.
///
/// # Errors
/// When there is no compiler, or no place for the library.
pub fn cc(args: &[OsString]) -> Result<i32> {
    let (mut command, args) = match args.split_first() {
        Some((first, rest)) if call::is_compiler(first) => (Command::new(first), rest),
        _ => (compiler("CKPT_CC", "cc"), args),
    };
    if args == ["--help"] {
        output::print(&cli::help_of("cc"))?;
    }
    let call = Call::of(args);
    command.args(args);
    if call.compiles() || call.links() {
        let library = Library::unpack()?;
        // Looked at last: a header of the project's own that has the same name is the one that it means.
        command.arg("-idirafter").arg(library.directory());
        if let Some(reason) = call.foreign() {
            eprintln!("ckptctl: note: {reason}: the runtime is not linked in");
        } else if call.links() {
            command.args(library.link_flags());
        }
    }
    run(&mut command)
}

/// The compiler that a variable names, which may bring flags along (`CC="ccache gcc"`).
fn compiler(variable: &str, default: &str) -> Command {
    let value = std::env::var(variable).unwrap_or_default();
    let mut words = value.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or(default));
    command.args(words);
    command
}

fn run(command: &mut Command) -> Result<i32> {
    let status = command.status().map_err(|error| {
        let name = command.get_program().display();
        match error.kind() {
            std::io::ErrorKind::NotFound => anyhow!(
                "there is no compiler {name}; install one (Debian, Ubuntu: apt install gcc libc6-dev, for C++ g++; Fedora: dnf install gcc gcc-c++), or name yours in CC, CXX or CKPT_CC"
            ),
            _ => anyhow!("{name}: {error}; check that it can be run"),
        }
    })?;
    Ok(status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1))
}

fn default_output(sources: &[PathBuf]) -> Result<PathBuf> {
    let first = sources.first().context("no source file; name one")?;
    let stem = first.file_stem().with_context(|| format!("{}: not a file; name a source file", first.display()))?;
    if first.extension().is_none() {
        return Err(anyhow!("{}: the program would take the source's name; name the program with -o", first.display()));
    }
    Ok(PathBuf::from(stem))
}

/// As a shell can start it: a bare name would be looked for in PATH.
fn startable(output: &Path) -> String {
    let path = if output.components().count() == 1 && !output.is_absolute() {
        Path::new(".").join(output)
    } else {
        output.into()
    };
    quoted(path.as_os_str())
}

fn shown(command: &Command) -> String {
    std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_named_after_the_first_source() -> Result<()> {
        assert_eq!(default_output(&["src/count.c".into(), "b.c".into()])?, Path::new("count"));
        assert!(default_output(&["count".into()]).is_err(), "the source must not be overwritten");
        Ok(())
    }

    #[test]
    fn what_is_shown_can_be_pasted_into_a_shell() {
        assert_eq!(startable(Path::new("count")), "./count");
        assert_eq!(startable(Path::new("/tmp/a b")), "'/tmp/a b'");
        assert_eq!(shown(Command::new("cc").arg("-DX=\"a b\"")), "cc '-DX=\"a b\"'");
    }
}
