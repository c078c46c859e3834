//! A recording of a terminal in the format of asciinema (<https://docs.asciinema.org/manual/asciicast/v2/>).

use std::fmt::Write;
use std::time::Duration;

use serde_json::json;

use crate::capture::Capture;

/// What a terminal showed, and when. Pauses for the reader are put into it afterwards: nobody waits for them while it is made.
#[derive(Default)]
pub struct Cast {
    /// After how many bytes, and how long.
    pauses: Vec<(usize, Duration)>,
}

impl Cast {
    /// Holds the picture that the first `bytes` of the output make.
    pub fn hold(&mut self, bytes: usize, pause: Duration) {
        self.pauses.push((bytes, pause));
    }

    /// The recording of a terminal of this size.
    #[must_use]
    pub fn text(&self, screen: &Capture, columns: u16, rows: u16, title: &str) -> String {
        let header = json!({ "version": 2, "width": columns, "height": rows, "title": title });
        let mut text = format!("{header}\n");
        let (arrivals, bytes) = (screen.arrivals(), screen.bytes_from(0));
        let Some((_, begun)) = arrivals.first() else { return text };
        let (mut from, mut pauses, mut paused) = (0, self.pauses.iter().peekable(), Duration::ZERO);
        for (until, at) in &arrivals {
            // What came together is shown together, but for a pause within it.
            while from < *until {
                let next = pauses.peek().map_or(*until, |(bytes, _)| (*bytes).min(*until));
                let piece = whole(&bytes[..next], from);
                if !piece.is_empty() {
                    let moment = (at.duration_since(*begun) + paused).as_secs_f64();
                    let _ = writeln!(text, "{}", json!([rounded(moment), "o", piece]));
                    from += piece.len();
                }
                match pauses.next_if(|(bytes, _)| *bytes <= *until) {
                    Some((_, pause)) => paused += *pause,
                    None => break,
                }
            }
        }
        text
    }
}

/// The characters from an offset on; one that is not complete comes with the next piece.
fn whole(bytes: &[u8], from: usize) -> &str {
    let bytes = bytes.get(from..).unwrap_or_default();
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

/// To microseconds: more digits are noise.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::whole;

    #[test]
    fn a_character_that_is_not_complete_waits() {
        let bytes = "a\u{2500}b".as_bytes();
        assert_eq!(whole(&bytes[..3], 0), "a");
        assert_eq!(whole(bytes, 1), "\u{2500}b");
        assert_eq!(whole(&bytes[..1], 1), "");
    }
}
