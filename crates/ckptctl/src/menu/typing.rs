//! Keys, pastes and the mouse as a terminal sends them to a program (xterm's control sequences).

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::Rect;
use vt100::{MouseProtocolEncoding, MouseProtocolMode, Screen};

/// The bytes of a key. `application` tells whether the program asked for application cursor keys (DECCKM).
pub fn bytes(key: KeyEvent, application: bool) -> Option<Vec<u8>> {
    let modifiers = key.modifiers;
    let alt = modifiers.contains(KeyModifiers::ALT);
    let mut bytes = Vec::new();
    if alt && matches!(key.code, KeyCode::Char(_) | KeyCode::Enter | KeyCode::Backspace | KeyCode::Tab) {
        bytes.push(0x1b);
    }
    match key.code {
        KeyCode::Char(c) if modifiers.contains(KeyModifiers::CONTROL) => bytes.push(control(c)?),
        KeyCode::Char(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        KeyCode::Enter => bytes.push(b'\r'),
        KeyCode::Tab => bytes.push(b'\t'),
        KeyCode::Backspace => bytes.push(0x7f),
        KeyCode::Esc => bytes.push(0x1b),
        KeyCode::BackTab => bytes.extend_from_slice(b"\x1b[Z"),
        KeyCode::Up => cursor(&mut bytes, b'A', modifiers, application),
        KeyCode::Down => cursor(&mut bytes, b'B', modifiers, application),
        KeyCode::Right => cursor(&mut bytes, b'C', modifiers, application),
        KeyCode::Left => cursor(&mut bytes, b'D', modifiers, application),
        KeyCode::Home => cursor(&mut bytes, b'H', modifiers, application),
        KeyCode::End => cursor(&mut bytes, b'F', modifiers, application),
        KeyCode::Insert => numbered(&mut bytes, 2, modifiers),
        KeyCode::Delete => numbered(&mut bytes, 3, modifiers),
        KeyCode::PageUp => numbered(&mut bytes, 5, modifiers),
        KeyCode::PageDown => numbered(&mut bytes, 6, modifiers),
        KeyCode::F(number @ 1..=4) => {
            let letter = b"PQRS"[usize::from(number - 1)];
            match code(modifiers) {
                1 => bytes.extend_from_slice(&[0x1b, b'O', letter]),
                held => bytes.extend_from_slice(format!("\x1b[1;{held}{}", char::from(letter)).as_bytes()),
            }
        }
        KeyCode::F(number @ 5..=12) => {
            const NUMBERS: [u8; 8] = [15, 17, 18, 19, 20, 21, 23, 24];
            numbered(&mut bytes, NUMBERS[usize::from(number - 5)], modifiers);
        }
        _ => return None,
    }
    Some(bytes)
}

/// The control character of a key.
fn control(c: char) -> Option<u8> {
    let c = u8::try_from(c).ok()?;
    match c.to_ascii_lowercase() {
        b' ' | b'2' | b'@' => Some(0),
        letter @ b'a'..=b'z' => Some(letter - b'a' + 1),
        b'[' | b'3' => Some(0x1b),
        b'\\' | b'4' => Some(0x1c),
        b']' | b'5' => Some(0x1d),
        b'^' | b'6' => Some(0x1e),
        b'_' | b'7' | b'/' => Some(0x1f),
        b'?' | b'8' => Some(0x7f),
        _ => None,
    }
}

/// xterm's number for held modifiers; 1 for none.
fn code(modifiers: KeyModifiers) -> u8 {
    let bit = |modifier, bit| if modifiers.contains(modifier) { bit } else { 0 };
    1 + bit(KeyModifiers::SHIFT, 1) + bit(KeyModifiers::ALT, 2) + bit(KeyModifiers::CONTROL, 4)
}

fn cursor(bytes: &mut Vec<u8>, letter: u8, modifiers: KeyModifiers, application: bool) {
    match code(modifiers) {
        1 => bytes.extend_from_slice(&[0x1b, if application { b'O' } else { b'[' }, letter]),
        held => bytes.extend_from_slice(format!("\x1b[1;{held}{}", char::from(letter)).as_bytes()),
    }
}

fn numbered(bytes: &mut Vec<u8>, number: u8, modifiers: KeyModifiers) {
    match code(modifiers) {
        1 => bytes.extend_from_slice(format!("\x1b[{number}~").as_bytes()),
        held => bytes.extend_from_slice(format!("\x1b[{number};{held}~").as_bytes()),
    }
}

/// The bytes of pasted text.
pub fn paste(text: &str, is_bracketed: bool) -> Vec<u8> {
    let text = text.replace("\r\n", "\r").replace('\n', "\r");
    if is_bracketed {
        // An end mark within what is pasted would let the rest be taken as typed.
        format!("\x1b[200~{}\x1b[201~", text.replace("\x1b[201~", "")).into_bytes()
    } else {
        text.into_bytes()
    }
}

/// The bytes of a mouse event within the pane, if the program asked for them.
pub fn mouse(event: MouseEvent, pane: Rect, screen: &Screen) -> Option<Vec<u8>> {
    if !pane.contains((event.column, event.row).into()) {
        return None;
    }
    let mode = screen.mouse_protocol_mode();
    let button = |button: MouseButton| match button {
        MouseButton::Left => 0_u8,
        MouseButton::Middle => 1,
        MouseButton::Right => 2,
    };
    let (number, is_release) = match event.kind {
        MouseEventKind::Down(pressed) => (button(pressed), false),
        MouseEventKind::Up(released) if mode != MouseProtocolMode::Press => (button(released), true),
        MouseEventKind::Drag(held)
            if matches!(mode, MouseProtocolMode::ButtonMotion | MouseProtocolMode::AnyMotion) =>
        {
            (button(held) + 32, false)
        }
        MouseEventKind::Moved if mode == MouseProtocolMode::AnyMotion => (35, false),
        MouseEventKind::ScrollUp => (64, false),
        MouseEventKind::ScrollDown => (65, false),
        _ => return None,
    };
    if mode == MouseProtocolMode::None {
        return None;
    }
    let (column, row) = (event.column - pane.x + 1, event.row - pane.y + 1);
    if screen.mouse_protocol_encoding() == MouseProtocolEncoding::Sgr {
        let end = if is_release { 'm' } else { 'M' };
        return Some(format!("\x1b[<{number};{column};{row}{end}").into_bytes());
    }
    let place = |at: u16| u8::try_from(at + 32).ok();
    let number = if is_release { 3 } else { number };
    Some(vec![0x1b, b'[', b'M', number + 32, place(column)?, place(row)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sent_as_xterm_does() {
        let key = |code, modifiers| bytes(KeyEvent::new(code, modifiers), false).unwrap_or_default();
        let none = KeyModifiers::NONE;
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), [3]);
        assert_eq!(key(KeyCode::Char('\u{e9}'), none), "\u{e9}".as_bytes());
        assert_eq!(key(KeyCode::Char('x'), KeyModifiers::ALT), b"\x1bx");
        assert_eq!(key(KeyCode::Up, none), b"\x1b[A");
        assert_eq!(key(KeyCode::Up, KeyModifiers::CONTROL), b"\x1b[1;5A");
        assert_eq!(bytes(KeyEvent::new(KeyCode::Up, none), true).unwrap_or_default(), b"\x1bOA");
        assert_eq!(key(KeyCode::Delete, none), b"\x1b[3~");
        assert_eq!(key(KeyCode::F(1), none), b"\x1bOP");
        assert_eq!(key(KeyCode::F(12), none), b"\x1b[24~");
        assert_eq!(key(KeyCode::Backspace, none), [0x7f]);
    }

    #[test]
    fn a_paste_cannot_end_its_brackets() {
        assert_eq!(paste("a\nb", false), b"a\rb");
        assert_eq!(paste("a\x1b[201~rm", true), b"\x1b[200~arm\x1b[201~");
    }
}
