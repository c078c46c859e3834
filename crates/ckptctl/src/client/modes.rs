//! What a program has switched on in the user's terminal, so that it can be switched off when the program is left to itself.

use std::collections::BTreeSet;

/// The modes that matter to whoever uses the terminal next (`CSI ? N h`, see `console_codes(4)` and xterm's control sequences):
/// keys, the cursor, the mouse, the other screen, marks around what is pasted.
const KNOWN: [u16; 14] = [1, 25, 47, 1000, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1047, 1049, 2004];
/// The cursor is there as a rule; all others are off.
const CURSOR: u16 = 25;
/// Longer is none of these sequences.
const LONGEST: usize = 64;

/// The state of a terminal's modes, as far as a program has changed them.
#[derive(Debug, Default)]
pub struct Modes {
    /// Those that are not as they are as a rule.
    changed: BTreeSet<u16>,
    has_keypad: bool,
    /// A sequence that is not complete yet, behind its escape character.
    open: Option<Vec<u8>>,
}

impl Modes {
    /// Takes note of what is shown.
    pub fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some(open) = &mut self.open else {
                let Some(at) = bytes.iter().position(|byte| *byte == 0x1b) else { return };
                self.open = Some(Vec::new());
                bytes = &bytes[at + 1..];
                continue;
            };
            let (byte, rest) = (bytes[0], &bytes[1..]);
            bytes = rest;
            match (&open[..], byte) {
                (_, 0x1b) => open.clear(),
                ([], b'[') | ([b'['], b'?') | ([b'[', b'?', ..], b'0'..=b'9' | b';') if open.len() < LONGEST => {
                    open.push(byte);
                }
                ([], b'=' | b'>') => {
                    self.has_keypad = byte == b'=';
                    self.open = None;
                }
                ([b'[', b'?', numbers @ ..], b'h' | b'l') => {
                    let numbers = String::from_utf8_lossy(numbers).into_owned();
                    let is_set = byte == b'h';
                    for mode in numbers.split(';').filter_map(|number| number.parse().ok()) {
                        self.set(mode, is_set);
                    }
                    self.open = None;
                }
                _ => self.open = None,
            }
        }
    }

    fn set(&mut self, mode: u16, is_set: bool) {
        if is_set == (mode == CURSOR) {
            self.changed.remove(&mode);
        } else if KNOWN.contains(&mode) {
            self.changed.insert(mode);
        }
    }

    /// What makes all of them as they are as a rule; empty when they are.
    pub fn undo(&self) -> String {
        let mut undo = String::new();
        for mode in self.changed.iter().rev() {
            undo += &format!("\x1b[?{mode}{}", if *mode == CURSOR { 'h' } else { 'l' });
        }
        if self.has_keypad {
            undo += "\x1b>";
        }
        if !undo.is_empty() {
            // Colours as well; and what comes next begins a line.
            undo += "\x1b[m\r\n";
        }
        undo
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undone(shown: &str) -> String {
        let (mut whole, mut bytewise) = (Modes::default(), Modes::default());
        whole.see(shown.as_bytes());
        shown.as_bytes().iter().for_each(|byte| bytewise.see(&[*byte]));
        assert_eq!(whole.undo(), bytewise.undo());
        whole.undo()
    }

    #[test]
    fn what_is_on_is_switched_off() {
        assert_eq!(undone("plain \x1b[31mred\x1b[m text \x1b[?12l"), "");
        assert_eq!(undone("\x1b[?1049h\x1b[?1h\x1b=\x1b[?25l"), "\x1b[?1049l\x1b[?25h\x1b[?1l\x1b>\x1b[m\r\n");
        assert_eq!(undone("\x1b[?1049h\x1b[?1000;1006h\x1b[?1049l\x1b[?1006;1000l"), "");
        assert_eq!(undone("\x1b\x1b[?2004h"), "\x1b[?2004l\x1b[m\r\n");
        assert_eq!(undone("\x1b[?99999999h\x1b[?;;h\x1b[?1\x1b[?1z"), "");
    }

    #[test]
    fn a_sequence_without_end_is_none() {
        let mut modes = Modes::default();
        modes.see(format!("\x1b[?{}", "1".repeat(1 << 16)).as_bytes());
        assert!(modes.open.is_none_or(|open| open.len() <= LONGEST));
    }
}
