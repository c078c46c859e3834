//! Commands that every login shell understands alike.
//!
//! The server hands what is to be executed to the user's login shell, whatever that is. So it is always
//! `sh -c '...'` with nothing between the quotes that csh or fish would touch: no quote, no backslash before a quote or at a
//! line's end, no exclamation mark, no newline. Other characters are written as octal numbers, which `printf` there makes characters.

use std::fs::File;
use std::io::{self, Read};

/// What the login shell is told, so that `words` are executed after the marker was printed on a line of its own.
pub fn command(words: &[&str], marker: &str) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("sh -c 'echo {marker}; exec {}'", words.join(" "))
}

/// A marker that no banner contains.
pub fn marker() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("ckptctl-begins-{}", hex::encode(bytes)))
}

/// A word for sh, within single quotes of any shell. Newlines at its end are lost.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+=:,@".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    let mut out = String::from("\"$(printf \"");
    for byte in word.bytes() {
        match byte {
            b'%' => out.push_str("%%"),
            b' ' => out.push(' '),
            byte if is_plain(byte) && !(out.ends_with("printf \"") && byte == b'-') => out.push(char::from(byte)),
            byte => {
                use std::fmt::Write as _;
                let _ = write!(out, "\\{byte:03o}");
            }
        }
    }
    out.push_str("\")\"");
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use std::process::Command;

    use super::*;

    #[test]
    fn shells_agree_on_every_word() {
        let words = [
            "plain",
            "",
            "two words",
            "it's",
            "a\"b",
            "$HOME",
            "`id`",
            "back\\slash",
            "!history",
            "100%",
            "%s%n",
            "a\nb",
            "-n",
            "--",
            "*?[a]",
            "~",
            "#x",
            "é",
            ";&|<>(){}",
            "\\'",
            "\\047",
            "\t",
        ];
        let all: Vec<&str> = ["printf", "[%s]"].iter().chain(&words).copied().collect();
        let expected: String = words.iter().map(|word| format!("[{word}]")).collect();
        let command = command(&all, "m");
        let mut tried = 0;
        for shell in ["sh", "dash", "bash", "zsh", "csh", "tcsh", "fish", "ksh"] {
            let Ok(output) = Command::new(shell).args(["-c", &command]).output() else { continue };
            tried += 1;
            assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("m\n{expected}"), "{shell}: {command}");
        }
        assert!(tried > 0);
    }

    #[test]
    fn markers_differ() {
        assert_ne!(marker().unwrap(), marker().unwrap());
    }
}
