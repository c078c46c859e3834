//! A terminal on which a job's output is shown: `vt100`, with the line drawing set of the VT100 in front of it, which that
//! crate does not have. `ncurses` draws its boxes with it.

use std::borrow::Cow;

/// The characters of the DEC special graphics set from 0x5f to 0x7e (xterm's control sequences, "Designate G0 Character Set").
const GRAPHICS: [char; 32] = [
    ' ', '◆', '▒', '␉', '␌', '␍', '␊', '°', '±', '␤', '␋', '┘', '┐', '┌', '└', '┼', '⎺', '⎻', '─', '⎼', '⎽', '├', '┤',
    '┴', '┬', '│', '≤', '≥', 'π', '≠', '£', '·',
];
const FIRST: u8 = 0x5f;
const ESC: u8 = 0x1b;
const SHIFT_OUT: u8 = 0x0e;
const SHIFT_IN: u8 = 0x0f;
/// CAN and SUB break a sequence off.
const CANCELS: [u8; 2] = [0x18, 0x1a];

/// A terminal's screen and what is above it.
pub struct Emulator {
    charsets: Charsets,
    parser: vt100::Parser,
}

impl Emulator {
    /// An empty one, which keeps so many lines that have left the screen.
    pub fn new(rows: u16, columns: u16, scrollback: usize) -> Self {
        Self { charsets: Charsets::default(), parser: vt100::Parser::new(rows, columns, scrollback) }
    }

    /// Shows what a program prints; a sequence or a character may go on in the next piece.
    pub fn process(&mut self, bytes: &[u8]) {
        self.parser.process(&self.charsets.translate(bytes));
    }

    /// What is shown.
    pub fn screen(&self) -> &vt100::Screen {
        self.parser.screen()
    }

    /// What is shown, to change its size or how far back it shows.
    pub fn screen_mut(&mut self) -> &mut vt100::Screen {
        self.parser.screen_mut()
    }
}

/// Which of a terminal's two character sets is the one for line drawing, and which is in use.
#[derive(Debug, Default, PartialEq)]
struct Charsets {
    now: Designated,
    /// As `ESC 7` has saved it with the cursor.
    saved: Designated,
    at: At,
}

/// The character sets G0 and G1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Designated {
    are_graphics: [bool; 2],
    is_shifted_out: bool,
}

/// Where in its output a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum At {
    /// Among characters.
    #[default]
    Text,
    /// Behind ESC.
    Escape,
    /// Behind ESC and the byte that says what is chosen.
    Designation(u8),
    /// In a control sequence.
    Control,
    /// In a string for the terminal; may BEL end it?
    String(bool),
}

impl Charsets {
    /// The same output, in which the characters for line drawing are those of Unicode.
    fn translate<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if *self == Self::default() && !bytes.contains(&ESC) && !bytes.contains(&SHIFT_OUT) {
            return Cow::Borrowed(bytes);
        }
        let mut out = Vec::with_capacity(bytes.len());
        for byte in bytes {
            match self.take(*byte) {
                Some(drawn) => out.extend_from_slice(drawn.encode_utf8(&mut [0; 4]).as_bytes()),
                None => out.push(*byte),
            }
        }
        Cow::Owned(out)
    }

    /// Takes a byte in; gives what is drawn instead of it, if anything is.
    fn take(&mut self, byte: u8) -> Option<char> {
        self.at = match (self.at, byte) {
            (_, ESC) => At::Escape,
            (_, byte) if CANCELS.contains(&byte) => At::Text,
            (At::Text, SHIFT_OUT | SHIFT_IN) => {
                self.now.is_shifted_out = byte == SHIFT_OUT;
                At::Text
            }
            (At::Text, _) => return self.now.drawn(byte),
            (At::Escape, b'[') => At::Control,
            (At::Escape, b']') => At::String(true),
            (At::Escape, b'P' | b'X' | b'^' | b'_') => At::String(false),
            (At::Escape, 0x20..=0x2f) => At::Designation(byte),
            (At::Escape, 0x30..=0x7e) => {
                match byte {
                    b'7' => self.saved = self.now,
                    b'8' => self.now = self.saved,
                    b'c' => (self.now, self.saved) = Default::default(),
                    _ => {}
                }
                At::Text
            }
            (At::Designation(set), 0x30..=0x7e) => {
                match set {
                    b'(' => self.now.are_graphics[0] = byte == b'0',
                    b')' => self.now.are_graphics[1] = byte == b'0',
                    _ => {}
                }
                At::Text
            }
            (At::Control, 0x40..=0x7e) | (At::String(true), 0x07) => At::Text,
            (at, _) => at,
        };
        None
    }
}

impl Designated {
    fn drawn(self, byte: u8) -> Option<char> {
        let is_drawn = self.are_graphics[usize::from(self.is_shifted_out)];
        GRAPHICS.get(usize::from(byte.checked_sub(FIRST)?)).copied().filter(|_| is_drawn)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use super::*;

    /// What the first line shows of this output, in one piece and byte by byte.
    fn shown(output: &str) -> String {
        let [mut whole, mut apart] = [0, 1].map(|_| Emulator::new(2, 40, 0));
        whole.process(output.as_bytes());
        output.as_bytes().chunks(1).for_each(|byte| apart.process(byte));
        let line = |emulator: &Emulator| emulator.screen().rows(0, 40).next().unwrap();
        assert_eq!(line(&whole), line(&apart));
        line(&whole)
    }

    #[test]
    fn lines_are_drawn_while_their_set_is_in_use() {
        assert_eq!(shown("lqk\x1b(0lqk x`~\x1b(Blqk"), "lqk┌─┐ │◆·lqk");
        // By shifts, which mean nothing before the set is chosen.
        assert_eq!(shown("\x0eq\x0fq\x1b)0q\x0eq\x0fq"), "qqq─q");
        assert_eq!(shown("\x1b(0AZ09é─q"), "AZ09é──");
    }

    #[test]
    fn sequences_and_strings_stay_as_they_are() {
        assert_eq!(shown("\x1b(0\x1b[1;32mq\x1b[mq\x1b[Cq"), "── ─");
        assert_eq!(shown("\x1b(0\x1b]0;lqk\x07q\x1b]0;lqk\x1b\\q\x1bPq\x07q\x1b\\q"), "───");
        assert_eq!(shown("\x1b(0\x1b[1\x18q\x1b%Gq"), "──");
    }

    #[test]
    fn the_cursor_is_saved_with_its_set_and_a_reset_forgets_it() {
        assert_eq!(shown("\x1b(0\x1b7\x1b(Bq\x1b8q"), "─");
        assert_eq!(shown("\x1b(0\x1bcq"), "q");
    }
}
