//! What a compiler's command line asks for: does it link an executable?

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Options of gcc and clang whose value is the next argument, which is no input then.
const WITH_VALUE: [&str; 37] = [
    "-o",
    "-I",
    "-L",
    "-D",
    "-U",
    "-x",
    "-l",
    "-T",
    "-u",
    "-z",
    "-e",
    "-B",
    "-A",
    "-G",
    "-b",
    "-V",
    "-h",
    "-include",
    "-imacros",
    "-isystem",
    "-iquote",
    "-idirafter",
    "-iprefix",
    "-iwithprefix",
    "-isysroot",
    "-MF",
    "-MT",
    "-MQ",
    "-Xlinker",
    "-Xassembler",
    "-Xpreprocessor",
    "-Xclang",
    "-target",
    "-arch",
    "-aux-info",
    "-wrapper",
    "--param",
];

/// Options after which no program is linked.
const NO_PROGRAM: [&str; 18] = [
    "-c",
    "-S",
    "-E",
    "-M",
    "-MM",
    "-fsyntax-only",
    "-shared",
    "--shared",
    "-r",
    "-Wl,-r",
    "-Wl,-shared",
    "-Wl,--relocatable",
    "-emit-llvm",
    "--version",
    "--help",
    "--target-help",
    "-dumpversion",
    "-dumpmachine",
];

/// Options of programs that bring their own start or libc: there is nothing that the runtime could stand on.
const FREESTANDING: [&str; 4] = ["-nostdlib", "-nostartfiles", "-nodefaultlibs", "-nolibc"];

/// One call of a compiler.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Call {
    has_inputs: bool,
    makes_no_program: bool,
    only_asks: bool,
    foreign: Option<String>,
}

impl Call {
    /// Reads the arguments, and those in response files (`@FILE`).
    pub(super) fn of(args: &[OsString]) -> Self {
        let mut call = Self::default();
        call.read(args, 0);
        call
    }

    /// Whether it reads sources.
    pub(super) fn compiles(&self) -> bool {
        self.has_inputs && !self.only_asks
    }

    /// Whether it makes an executable.
    pub(super) fn links(&self) -> bool {
        self.has_inputs && !self.makes_no_program && !self.only_asks
    }

    /// Why the executable that it makes cannot have the runtime.
    pub(super) fn foreign(&self) -> Option<&str> {
        self.foreign.as_deref().filter(|_| self.links())
    }

    fn read(&mut self, args: &[OsString], depth: usize) {
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let text = arg.to_string_lossy();
            if let Some(file) = text.strip_prefix('@').filter(|_| depth < 8)
                && let Ok(words) = std::fs::read_to_string(file)
            {
                self.read(&words.split_whitespace().map(OsString::from).collect::<Vec<_>>(), depth + 1);
            } else if text == "-" || !text.starts_with('-') {
                self.has_inputs = true;
            } else if WITH_VALUE.contains(&&*text) {
                args.next();
            } else {
                self.option(&text);
            }
        }
    }

    fn option(&mut self, option: &str) {
        self.makes_no_program |= NO_PROGRAM.contains(&option);
        self.only_asks |= option.starts_with("-print-") || option.starts_with("--print-") || option == "-###";
        let other_machine = matches!(option, "-m32" | "-mx32" | "-m16") || option.starts_with("--target=");
        if other_machine || FREESTANDING.contains(&option) {
            self.foreign = Some(option.to_owned());
        }
    }
}

/// Whether a file is C++ by its name, as gcc and clang see it.
pub(super) fn is_cplusplus(source: &OsStr) -> bool {
    let ending = Path::new(source).extension().and_then(OsStr::to_str);
    ending.is_some_and(|ending| matches!(ending, "cc" | "cpp" | "cxx" | "C" | "c++" | "cp" | "CPP" | "ii"))
}

/// Whether a file is C by its name.
pub(super) fn is_c(source: &OsStr) -> bool {
    Path::new(source).extension().is_some_and(|ending| ending == "c")
}

/// Whether a first argument is a compiler and not an input: a program, by path or in PATH, without a source's ending.
pub(super) fn is_compiler(word: &OsStr) -> bool {
    let path = Path::new(word);
    let input = path.extension().and_then(OsStr::to_str).is_some_and(|ending| {
        matches!(ending, "c" | "i" | "s" | "S" | "sx" | "o" | "a" | "so" | "m" | "f" | "f90") || is_cplusplus(word)
    });
    if input
        || word.is_empty()
        || word.as_encoded_bytes().starts_with(b"-")
        || word.as_encoded_bytes().starts_with(b"@")
    {
        return false;
    }
    if path.components().count() > 1 || path.is_absolute() {
        return is_program(path);
    }
    let directories = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&directories).any(|directory| is_program(&directory.join(path)))
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Call {
        Call::of(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn only_calls_that_make_a_program_link() {
        for line in [
            "prog.c",
            "-O2 a.o b.o -o prog",
            "-static -o p p.c -lm",
            "-x c - -o p",
            "-MD -MF d.d p.c",
            "-pie a.o",
            "-v a.c",
        ] {
            assert!(of(line).links(), "{line}");
        }
        for line in [
            "-c a.c",
            "-S a.c",
            "-E -",
            "-M a.c",
            "-shared a.o -o liba.so",
            "-r a.o",
            "-fsyntax-only a.c",
            "-Wl,-r a.o",
        ] {
            assert!(!of(line).links() && of(line).compiles(), "{line}");
        }
        for line in [
            "",
            "--version",
            "-v",
            "-dumpmachine",
            "-print-file-name=libc.a",
            "-o x",
            "-I dir -D X",
            "-print-search-dirs a.c",
        ] {
            assert!(!of(line).links() && !of(line).compiles(), "{line}");
        }
    }

    #[test]
    fn programs_for_another_machine_are_left_alone() {
        assert_eq!(of("-m32 a.c -o a").foreign(), Some("-m32"));
        assert_eq!(of("-nostdlib a.o").foreign(), Some("-nostdlib"));
        assert_eq!(of("-m32 -c a.c").foreign(), None, "nothing to link");
        assert_eq!(of("-m64 a.c").foreign(), None);
    }

    #[test]
    fn a_compiler_is_told_from_an_input() {
        assert!(is_compiler(OsStr::new("/bin/sh")) && is_compiler(OsStr::new("sh")));
        for input in ["prog.c", "a.o", "-c", "@args", "no-such-program-anywhere", "/tmp", ""] {
            assert!(!is_compiler(OsStr::new(input)), "{input}");
        }
        assert!(
            is_cplusplus(OsStr::new("a.cpp")) && is_cplusplus(OsStr::new("a.C")) && !is_cplusplus(OsStr::new("a.c"))
        );
    }
}
