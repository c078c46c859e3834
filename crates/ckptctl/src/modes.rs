//! What a program has switched on in its terminal: it can be switched off in the user's when the program is left to itself, and
//! on again when the program is restored.

use std::collections::BTreeSet;

/// The modes that matter to whoever uses the terminal next (`CSI ? N h`, see `console_codes(4)` and xterm's control sequences):
/// keys, the cursor, the mouse, the other screen, marks around what is pasted.
const KNOWN: [u16; 14] = [1, 25, 47, 1000, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1047, 1049, 2004];
/// Of these, the other screen, from the oldest way to the newest.
const OTHER_SCREEN: [u16; 3] = [47, 1047, 1049];
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

    /// Whether the program shows itself on a screen of its own.
    pub fn is_full_screen(&self) -> bool {
        OTHER_SCREEN.iter().any(|mode| self.changed.contains(mode))
    }

    /// What makes a terminal's modes these; empty when they are as they are as a rule.
    pub fn set_up(&self) -> String {
        let modes: String = self.changed.iter().map(|mode| sequence(*mode, *mode != CURSOR)).collect();
        modes + if self.has_keypad { "\x1b=" } else { "" }
    }

    /// What makes all of them as they are as a rule; empty when they are.
    pub fn undo(&self) -> String {
        let modes: String = self.changed.iter().rev().map(|mode| sequence(*mode, *mode == CURSOR)).collect();
        let undo = modes + if self.has_keypad { "\x1b>" } else { "" };
        // Colours as well; and what comes next begins a line.
        if undo.is_empty() { undo } else { undo + "\x1b[m\r\n" }
    }
}

fn sequence(mode: u16, is_set: bool) -> String {
    format!("\x1b[?{mode}{}", if is_set { 'h' } else { 'l' })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undone(shown: &str) -> String {
        let (mut whole, mut bytewise) = (Modes::default(), Modes::default());
        whole.see(shown.as_bytes());
        shown.as_bytes().iter().for_each(|byte| bytewise.see(&[*byte]));
        assert_eq!((whole.undo(), whole.set_up()), (bytewise.undo(), bytewise.set_up()));
        let mut again = Modes::default();
        again.see(whole.set_up().as_bytes());
        assert_eq!((again.undo(), again.is_full_screen()), (whole.undo(), whole.is_full_screen()));
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
