//! Builds what lies in `tests/programs`, once, and again only when a source has changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

/// A built program, or the reason why this machine cannot build it.
pub struct Program {
    /// Its file name in [`crate::Stage::bin`].
    pub name: String,
    /// What is missing here, when it could not be built.
    pub missing: Option<String>,
}

/// Programs that are built from another one's source, in another way.
const VARIANTS: &[(&str, &str, &[&str])] = &[
    ("kinds_no_pie", "kinds.c", &["-no-pie", "-fno-pie"]),
    ("kinds_static", "kinds.c", &["-static"]),
    ("kinds_static_pie", "kinds.c", &["-static-pie"]),
    ("kinds_asan", "kinds.c", &["-fsanitize=address"]),
];

/// What may be missing from a machine without the tests failing for it: the compiler's libasan, Go, Rust.
const OPTIONAL: &[&str] = &["kinds_asan", "golang", "rusty"];

pub(crate) fn build_all(cache: &Path, bin: &Path) -> Result<Vec<Program>> {
    let sources = crate::stage::workspace().join("tests/programs");
    let cache = cache.join("programs");
    fs::create_dir_all(&cache)?;
    let mut jobs = Vec::new();
    for entry in fs::read_dir(&sources)? {
        let source = entry?.path();
        if let Some(name) = source.file_stem().and_then(|s| s.to_str()) {
            let output = cache.join(name);
            if let Some(command) = command_for(&source, &output, &[]) {
                jobs.push((name.to_owned(), source.clone(), output, command));
            }
        }
    }
    for (name, source, flags) in VARIANTS {
        let (source, output) = (sources.join(source), cache.join(name));
        let command = command_for(&source, &output, flags).context("a variant of no language")?;
        jobs.push(((*name).to_owned(), source, output, command));
    }
    let header = modified(&sources.join("check.h"))?;
    let mut programs = Vec::new();
    for (name, source, output, mut command) in jobs {
        let newest = modified(&source)?.max(header);
        let missing = build(&name, &output, newest, &mut command)?;
        if missing.is_none() {
            fs::copy(&output, bin.join(&name))?;
        }
        programs.push(Program { name, missing });
    }
    Ok(programs)
}

fn command_for(source: &Path, output: &Path, flags: &[&str]) -> Option<Command> {
    let mut command;
    match source.extension()?.to_str()? {
        language @ ("c" | "cpp") => {
            command = Command::new(if language == "c" { "gcc" } else { "g++" });
            command.args(["-O1", "-g", "-D_GNU_SOURCE", "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-Werror"]);
            command.args(["-pthread", "-o"]).arg(output).arg(source).args(flags).args(["-lm", "-lrt"]);
        }
        "rs" => {
            command = Command::new("rustc");
            command.args(["--edition=2024", "-O", "-o"]).arg(output).arg(source);
        }
        "go" => {
            command = Command::new("go");
            command.args(["build", "-o"]).arg(output).arg(source);
            command.env("GO111MODULE", "off").env("GOCACHE", output.with_extension("gocache"));
        }
        "py" => {
            command = Command::new("install");
            command.args(["-m", "755"]).arg(source).arg(output);
        }
        _ => return None,
    }
    Some(command)
}

/// Builds when the source or the way to build it has changed. Gives the reason when it cannot be built here.
fn build(name: &str, output: &Path, newest: SystemTime, command: &mut Command) -> Result<Option<String>> {
    let how = format!("{command:?}");
    let stamp = PathBuf::from(format!("{}.how", output.display()));
    let fresh = modified(output).is_ok_and(|built| built > newest)
        && fs::read_to_string(&stamp).is_ok_and(|before| before == how);
    if fresh {
        return Ok(None);
    }
    let tool = command.get_program().to_string_lossy().into_owned();
    let result = match command.output() {
        Ok(result) => result,
        Err(error) if OPTIONAL.contains(&name) => {
            return Ok(Some(format!("cannot run {tool}: {error}")));
        }
        Err(error) => bail!("cannot run {tool} for {name}: {error}; install it"),
    };
    if result.status.success() {
        fs::write(stamp, how)?;
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&result.stderr).into_owned();
    if OPTIONAL.contains(&name) && said.contains("cannot find") {
        return Ok(Some(format!("{tool} cannot build {name} here: {}", said.trim())));
    }
    bail!("{tool} cannot build {name}:\n{said}");
}

fn modified(path: &Path) -> Result<SystemTime> {
    let metadata = fs::metadata(path).with_context(|| format!("no {}", path.display()))?;
    Ok(metadata.modified()?)
}
