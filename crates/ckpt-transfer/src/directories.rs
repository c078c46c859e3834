//! The user's own directories, by the XDG Base Directory Specification.

use std::path::PathBuf;

/// The directory that a variable such as `XDG_STATE_HOME` names, or else the one below the home directory. What is not absolute
/// counts as not set, as the specification asks; `None` without a home.
#[must_use]
pub fn base(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(below_home)))
}
