//! The detach key: Ctrl+] and then d.

/// Ctrl+].
const PREFIX: u8 = 0x1d;

/// Finds the detach key in what is typed.
#[derive(Debug, Default)]
pub struct Keys {
    /// The last key was the first half of it.
    is_half: bool,
}

impl Keys {
    /// What of some typed bytes is for the program, and whether the detach key came (what is behind it is for nobody).
    pub fn sort(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut theirs = Vec::with_capacity(typed.len());
        for byte in typed {
            match (std::mem::take(&mut self.is_half), *byte) {
                (true, b'd' | b'D') => return (theirs, true),
                (true, PREFIX) => theirs.push(PREFIX),
                (true, other) => theirs.extend([PREFIX, other]),
                (false, PREFIX) => self.is_half = true,
                (false, other) => theirs.push(other),
            }
        }
        (theirs, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detach_key_may_come_in_pieces_and_can_be_typed_itself() {
        let mut keys = Keys::default();
        assert_eq!(keys.sort(b"abc"), (b"abc".to_vec(), false));
        assert_eq!(keys.sort(b"a\x1d\x1db"), (b"a\x1db".to_vec(), false));
        assert_eq!(keys.sort(b"\x1dx"), (b"\x1dx".to_vec(), false));
        assert_eq!(keys.sort(b"x\x1d"), (b"x".to_vec(), false));
        assert_eq!(keys.sort(b"dyz"), (Vec::new(), true));
        assert_eq!(keys.sort(b"d"), (b"d".to_vec(), false));
    }
}
