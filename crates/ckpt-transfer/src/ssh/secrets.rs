//! Questions to the user, and the answers that are remembered for a while.

use std::collections::HashMap;

use zeroize::Zeroizing;

/// Somebody who can be asked.
pub trait Prompter {
    /// Asks; `None`: nobody is there, or they gave up. What is typed may be seen only with `echo`.
    fn ask(&mut self, question: &str, echo: bool) -> Option<String>;
}

/// Nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nobody;

impl Prompter for Nobody {
    fn ask(&mut self, _question: &str, _echo: bool) -> Option<String> {
        None
    }
}

/// Passwords and passphrases that worked, for further sessions of the same act. In memory only, and wiped when this goes.
#[derive(Default)]
pub struct Secrets {
    known: HashMap<String, Zeroizing<String>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.known.len())
    }
}

impl Secrets {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn recall(&self, what: &str) -> Option<Zeroizing<String>> {
        self.known.get(what).cloned()
    }

    pub(crate) fn remember(&mut self, what: &str, secret: Zeroizing<String>) {
        self.known.insert(what.to_owned(), secret);
    }

    pub(crate) fn forget(&mut self, what: &str) {
        self.known.remove(what);
    }
}
