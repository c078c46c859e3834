//! Questions on the terminal, without showing what is secret.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

use ckpt_transfer::ssh::Prompter;
use rustix::process::getpgrp;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

use crate::text;

const LONGEST: usize = 4096;

/// Asks on the terminal that this program was started from, whatever its input and output are.
#[derive(Debug, Default)]
pub struct TerminalPrompter;

impl Prompter for TerminalPrompter {
    fn ask(&mut self, question: &str, echo: bool) -> Option<String> {
        let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
        // In the background a read would stop this program until somebody calls it to the foreground.
        if tcgetpgrp(&terminal).ok()? != getpgrp() {
            return None;
        }
        // What a server chose must not drive the terminal.
        let question = question.split('\n').map(text::plain).collect::<Vec<_>>().join("\n");
        if echo {
            show(&mut terminal, &question)?;
            line(&mut terminal)
        } else {
            secret(&mut terminal, &question)
        }
    }
}

fn show(terminal: &mut File, question: &str) -> Option<()> {
    terminal.write_all(question.as_bytes()).ok()?;
    terminal.flush().ok()
}

/// A line as the terminal gives it.
fn line(terminal: &mut File) -> Option<String> {
    let mut typed = Vec::new();
    let mut byte = [0];
    loop {
        match terminal.read(&mut byte) {
            Ok(0) if typed.is_empty() => return None,
            Ok(0) => break,
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) if typed.len() < LONGEST => typed.push(byte[0]),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    String::from_utf8(typed).ok()
}

/// A line that is not shown. Ctrl+C is read here rather than made a signal: a signal would leave the terminal mute.
/// It is mute before the question appears: what is typed at once is not shown either.
fn secret(terminal: &mut File, question: &str) -> Option<String> {
    let before = tcgetattr(&*terminal).ok()?;
    let mut mute = before.clone();
    mute.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
    let restored = Restored { terminal: terminal.try_clone().ok()?, before };
    tcsetattr(&*terminal, OptionalActions::Flush, &mute).ok()?;
    let typed = show(terminal, question).and_then(|()| typed(terminal));
    drop(restored);
    // The line's end was not shown either. Where that cannot be written nothing is lost.
    let _ = terminal.write_all(b"\n");
    typed
}

fn typed(terminal: &mut File) -> Option<String> {
    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    const CTRL_U: u8 = 21;
    const CTRL_BACKSLASH: u8 = 28;
    // As long as it can get, so that it never moves and leaves a copy behind.
    let mut typed = String::with_capacity(LONGEST);
    let mut pending = Vec::new();
    let mut byte = [0];
    loop {
        match terminal.read(&mut byte) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
        match byte[0] {
            b'\n' | b'\r' => return Some(typed),
            CTRL_C | CTRL_BACKSLASH => return None,
            CTRL_D if typed.is_empty() => return None,
            CTRL_U => typed.clear(),
            8 | 127 => drop(typed.pop()),
            byte if typed.len() + 4 < LONGEST => {
                pending.push(byte);
                if let Ok(text) = std::str::from_utf8(&pending) {
                    typed.push_str(text);
                    pending.clear();
                } else if pending.len() >= 4 {
                    pending.clear();
                }
            }
            _ => {}
        }
    }
}

/// Puts the terminal back as it was.
struct Restored {
    terminal: File,
    before: Termios,
}

impl Drop for Restored {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}
