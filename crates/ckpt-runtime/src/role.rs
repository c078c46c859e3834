//! Which role this process has, decided from its arguments alone.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// `argv[0]` of the engine. No shell starts a program under this name by accident.
pub(crate) const ENGINE: &std::ffi::CStr = c"ckpt-engine";

/// What the constructor has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Install the handler and go on to `main`.
    Program,
    /// Restore this image (or the program's own, when none is named) instead of running `main`.
    Recover(Option<OsString>),
    /// Save another process instead of running `main`.
    Engine(EngineArgs),
}

/// What the handler tells the engine, as arguments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EngineArgs {
    /// The process to save.
    pub(crate) pid: i32,
    /// The engine's parent, a child of that process and no part of it.
    pub(crate) guard: i32,
    /// Who asked, and what comes after.
    pub(crate) action: Action,
    /// The program as it was started, for messages.
    pub(crate) program: OsString,
    /// Where to save; the first whose directory can be written.
    pub(crate) files: Vec<PathBuf>,
}

/// Who asked for the checkpoint, and what comes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Ctrl+C: save, then end the program.
    End,
    /// Ctrl+C with `CKPT_ON_INTERRUPT=continue`: save, and the program goes on.
    Continue,
    /// `ckpt_checkpoint()`: save, and the call returns.
    Call,
}

impl Action {
    /// The word that stands for it among the engine's arguments.
    pub(crate) fn word(self) -> &'static std::ffi::CStr {
        match self {
            Self::End => c"end",
            Self::Continue => c"continue",
            Self::Call => c"call",
        }
    }

    fn from_word(word: &OsStr) -> Option<Self> {
        [Self::End, Self::Continue, Self::Call]
            .into_iter()
            .find(|action| action.word().to_bytes() == word.as_encoded_bytes())
    }
}

/// Decides the role from the command line. `-r` counts only as the first argument and with at most a file after it:
/// any other command line is the program's own. `recover` is false when the user reserved `-r` for the program.
pub(crate) fn role(argv: &[OsString], recover: bool) -> Role {
    if let Some(engine) = engine(argv) {
        return Role::Engine(engine);
    }
    match argv {
        [_, flag, file @ ..] if recover && file.len() <= 1 && (flag == "-r" || flag == "--recover") => {
            Role::Recover(file.first().cloned())
        }
        _ => Role::Program,
    }
}

fn engine(argv: &[OsString]) -> Option<EngineArgs> {
    let [marker, pid, guard, action, program, files @ ..] = argv else { return None };
    if marker.as_encoded_bytes() != ENGINE.to_bytes() || files.is_empty() {
        return None;
    }
    let number = |text: &OsString| text.to_str()?.parse().ok();
    Some(EngineArgs {
        pid: number(pid)?,
        guard: number(guard)?,
        action: Action::from_word(action)?,
        program: program.clone(),
        files: files.iter().map(PathBuf::from).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Role {
        role(&words.iter().map(OsString::from).collect::<Vec<_>>(), true)
    }

    #[test]
    fn only_a_leading_flag_with_at_most_a_file_restores() {
        assert_eq!(of(&["./p", "-r"]), Role::Recover(None));
        assert_eq!(of(&["./p", "--recover", "x.ckpt"]), Role::Recover(Some("x.ckpt".into())));
        for own in [&["./p"][..], &["./p", "x", "-r"], &["./p", "-r", "a", "b"], &["./p", "-rf"], &[]] {
            assert_eq!(of(own), Role::Program, "{own:?}");
        }
        assert_eq!(role(&["./p".into(), "-r".into()], false), Role::Program);
    }

    #[test]
    fn the_engine_is_known_by_its_whole_command_line() {
        let Role::Engine(args) = of(&["ckpt-engine", "12", "13", "call", "./p", "/a.ckpt", "/b.ckpt"]) else {
            panic!("not the engine")
        };
        assert_eq!((args.pid, args.guard, args.action, args.files.len()), (12, 13, Action::Call, 2));
        for own in
            [&["ckpt-engine"][..], &["ckpt-engine", "x", "13", "end", "p", "f"], &["p", "1", "2", "end", "p", "f"]]
        {
            assert_eq!(of(own), Role::Program, "{own:?}");
        }
    }
}
