//! The detach key, which can be configured, and then d.

use std::fmt;

use serde::Deserialize;

/// The key before d that detaches: Ctrl and a letter, or one of `\ ] ^ _`, but none that is needed for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct DetachKey(u8);

/// What Ctrl leaves of a key.
const CTRL: u8 = 0x1f;

impl DetachKey {
    /// What a terminal sends for it.
    pub fn byte(self) -> u8 {
        self.0
    }
}

impl Default for DetachKey {
    /// Ctrl+].
    fn default() -> Self {
        Self(b']' & CTRL)
    }
}

impl TryFrom<String> for DetachKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let refuse = |why: &str| {
            let allowed = "give \"ctrl+\" and another letter, or one of \\ ] ^ _";
            Err(format!("{text:?} cannot be the detach key{why}: {allowed}"))
        };
        let lower = text.to_lowercase();
        match lower.strip_prefix("ctrl+").map(str::as_bytes) {
            Some(b"m" | b"j") => refuse(", since it is what Enter sends"),
            Some(b"i") => refuse(", since it is what Tab sends"),
            Some(b"[") => refuse(", since it is what Esc sends"),
            Some(b"c") => refuse(", since it ends programs"),
            Some([key @ (b'a'..=b'z' | b'\\' | b']' | b'^' | b'_')]) => Ok(Self(key & CTRL)),
            _ => refuse(""),
        }
    }
}

impl fmt::Display for DetachKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Ctrl+{}", char::from(self.0 | b'@'))
    }
}

/// Finds the detach key in what is typed.
#[derive(Debug)]
pub struct Keys {
    prefix: u8,
    /// The last key was the first half of it.
    is_half: bool,
}

impl Keys {
    /// With this one as its first half.
    pub fn new(key: DetachKey) -> Self {
        Self { prefix: key.byte(), is_half: false }
    }

    /// What of some typed bytes is for the program, and whether the detach key came (what is behind it is for nobody).
    pub fn sort(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut theirs = Vec::with_capacity(typed.len());
        for byte in typed {
            match (std::mem::take(&mut self.is_half), *byte) {
                (true, b'd' | b'D') => return (theirs, true),
                (true, byte) if byte == self.prefix => theirs.push(byte),
                (true, other) => theirs.extend([self.prefix, other]),
                (false, byte) if byte == self.prefix => self.is_half = true,
                (false, other) => theirs.push(other),
            }
        }
        (theirs, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Result<DetachKey, String> {
        DetachKey::try_from(text.to_owned())
    }

    #[test]
    fn the_detach_key_may_come_in_pieces_and_can_be_typed_itself() {
        let mut keys = Keys::new(DetachKey::default());
        assert_eq!(keys.sort(b"abc"), (b"abc".to_vec(), false));
        assert_eq!(keys.sort(b"a\x1d\x1db"), (b"a\x1db".to_vec(), false));
        assert_eq!(keys.sort(b"\x1dx"), (b"\x1dx".to_vec(), false));
        assert_eq!(keys.sort(b"x\x1d"), (b"x".to_vec(), false));
        assert_eq!(keys.sort(b"dyz"), (Vec::new(), true));
        assert_eq!(keys.sort(b"d"), (b"d".to_vec(), false));
    }

    #[test]
    fn another_key_leaves_the_usual_one_to_the_program() {
        let Ok(key) = key("ctrl+d") else { panic!("refused") };
        let mut keys = Keys::new(key);
        assert_eq!(keys.sort(b"\x1dd\x04\x04"), (b"\x1dd\x04".to_vec(), false));
        assert_eq!(keys.sort(b"\x04d"), (Vec::new(), true));
    }

    #[test]
    fn keys_are_named_as_they_are_shown() {
        for (text, byte, shown) in [
            ("ctrl+]", 0x1d, "Ctrl+]"),
            ("Ctrl+A", 1, "Ctrl+A"),
            ("ctrl+z", 26, "Ctrl+Z"),
            ("ctrl+\\", 0x1c, "Ctrl+\\"),
            ("ctrl+^", 0x1e, "Ctrl+^"),
            ("ctrl+_", 0x1f, "Ctrl+_"),
        ] {
            assert_eq!(key(text).map(|key| (key.byte(), key.to_string())), Ok((byte, shown.to_owned())));
        }
        for (taken, by) in [
            ("ctrl+m", "Enter"),
            ("Ctrl+J", "Enter"),
            ("ctrl+i", "Tab"),
            ("ctrl+[", "Esc"),
            ("ctrl+c", "ends programs"),
        ] {
            let refused = key(taken).err().unwrap_or_default();
            assert!(refused.contains(taken) && refused.contains(by), "{refused}");
        }
        for wrong in ["", "]", "ctrl+", "ctrl+5", "ctrl+ab", "alt+a", "ctrl+@", "ctrl+ä"] {
            assert!(key(wrong).is_err(), "{wrong}");
        }
    }
}
