//! Text for people: sizes, times, and names from elsewhere that must not drive the terminal.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A size in bytes, with the largest unit that leaves at least 1 before it.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let unit = (bytes.ilog2() / 10).min(6);
    // Tenths in integers: a float would lose the last bits of large sizes.
    let tenths = (u128::from(bytes) * 10) >> (10 * unit);
    let name = UNITS[unit as usize - 1];
    if tenths >= 1000 || tenths.is_multiple_of(10) {
        format!("{} {name}", tenths / 10)
    } else {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    }
}

/// How long something took.
pub fn took(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

/// How long ago something was, roughly.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// How long ago something was, in the fewest characters: `5s`, `12m`, `3h`, `2d`.
pub fn short_age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// A number of things: `1 thread`, `2 threads`.
pub fn count(number: impl TryInto<u64>, one: &str, many: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Text with control characters escaped: one that comes out of an image or a process may hold anything.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Besides what is a control character, those that turn the direction of writing or hide.
        if c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
        {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// A path with control characters escaped.
pub fn path(path: &Path) -> String {
    plain(&path.to_string_lossy())
}

/// A word as a shell would have to be told it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Rows under headings, in columns; numbers to the right where `right` says so. The last column is not padded.
pub fn table(headings: &[&str], right: &[bool], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(headings.get(column).map(|heading| heading.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (column, cell) in cells.enumerate() {
            let wide = widths.get(column).copied().unwrap_or(0);
            if right.get(column).copied().unwrap_or(false) {
                let _ = write!(line, "{cell:>wide$}  ");
            } else {
                let _ = write!(line, "{cell:<wide$}  ");
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    };
    line(&mut headings.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    out
}

/// The lines of a text that are at most so wide, broken between words where that is possible.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length <= width {
            used += 1 + length;
            lines.last_mut().into_iter().for_each(|line| line.extend([" ", word]));
            continue;
        }
        if used > 0 {
            lines.push(String::new());
        }
        used = 0;
        for c in word.chars() {
            if used == width {
                lines.push(String::new());
                used = 0;
            }
            used += 1;
            lines.last_mut().into_iter().for_each(|line| line.push(c));
        }
    }
    lines
}

/// A moment in UTC, from nanoseconds since 1970; as far as there is a calendar.
pub fn moment(nanoseconds: i64) -> String {
    let moment = Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or(Timestamp::MAX);
    moment.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// The time of day where the user is, from seconds since 1970.
pub fn clock(seconds: u64) -> String {
    let moment = Timestamp::from_second(i64::try_from(seconds).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX);
    moment.to_zoned(TimeZone::system()).strftime("%H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_decimal_where_it_says_something() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1 KiB");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(200 << 20), "200 MiB");
        assert_eq!(size((200 << 20) + (1 << 19)), "200 MiB");
        assert_eq!(size(u64::MAX), "15.9 EiB");
    }

    #[test]
    fn text_is_broken_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a/long/path b", 4), ["a/lo", "ng/p", "ath", "b"]);
        assert_eq!(wrap("", 4), [""]);
    }

    #[test]
    fn times_and_ages() {
        assert_eq!(took(Duration::from_micros(1234)), "1.2 ms");
        assert_eq!(took(Duration::from_millis(2500)), "2.50 s");
        assert_eq!(age(59), "59 s");
        assert_eq!(age(3 * 3600 + 61), "3 h 1 min");
        assert_eq!(age(90000), "1 d 1 h");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(plain("a\x1b[31mb\n\u{202e}c é"), "a\\u{1b}[31mb\\n\\u{202e}c é");
        assert_eq!(path(Path::new("/tmp/\u{7}x")), "/tmp/\\u{7}x");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(moment(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(moment(951_782_400_000_000_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(moment(1_763_974_861_000_000_000), "2025-11-24 09:01:01 UTC");
        assert_eq!(moment(-1), "1969-12-31 23:59:59 UTC");
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "10".to_owned()], vec!["long".to_owned(), "9".to_owned()]];
        assert_eq!(table(&["NAME", "N"], &[false, true], &rows), "NAME   N\na     10\nlong   9\n");
    }

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        assert_eq!(quoted("./count"), "./count");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
