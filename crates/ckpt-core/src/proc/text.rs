//! The kernel's ways to print lines, numbers and names.

use super::Malformed;

/// The lines of `text`, without their newlines.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    text.split(|&byte| byte == b'\n')
}

/// The words of `line`, apart by spaces and tabs.
pub(super) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| byte == b' ' || byte == b'\t').filter(|word| !word.is_empty())
}

/// What stands before and after the first `mark`.
pub(super) fn split_once(text: &[u8], mark: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == mark)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// `line` as its key and its value, which stand around the first colon.
pub(super) fn key_value(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (key, value) = split_once(line, b':')?;
    Some((key.trim_ascii_end(), value.trim_ascii()))
}

/// An unsigned number in `radix`, digits alone.
pub(super) fn unsigned(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, &digit| {
        let digit = char::from(digit).to_digit(radix)?;
        sum.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))
    })
}

/// A decimal number of whatever integer type is wanted, with its sign.
pub(super) fn number<T: TryFrom<i128>>(word: &[u8]) -> Option<T> {
    let (negative, digits) = match word.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, word),
    };
    let size = i128::from(unsigned(digits, 10)?);
    T::try_from(if negative { -size } else { size }).ok()
}

/// A hexadecimal number after its `0x`.
pub(super) fn prefixed_hex(word: &[u8]) -> Option<u64> {
    unsigned(word.strip_prefix(b"0x")?, 16)
}

/// `     8 kB` as bytes.
pub(super) fn kilobytes(value: &[u8]) -> Option<u64> {
    let mut words = words(value);
    let size = unsigned(words.next()?, 10)?;
    (words.next()? == b"kB").then(|| size.checked_mul(1024))?
}

/// The value of a file that holds one number alone.
pub(super) fn single<T: TryFrom<i128>>(text: &[u8]) -> Result<T, Malformed> {
    number(text.trim_ascii()).ok_or_else(|| Malformed::new("no decimal number", text))
}

/// The value of a file that holds one hexadecimal number alone, without `0x`.
pub(super) fn single_hex(text: &[u8]) -> Result<u32, Malformed> {
    unsigned(text.trim_ascii(), 16)
        .and_then(|value| u32::try_from(value).ok())
        .ok_or_else(|| Malformed::new("no hexadecimal number", text))
}

/// `escaped` with every occurrence of `from` turned into `to`.
pub(super) fn unescape(escaped: &[u8], from: &[u8], to: u8) -> Vec<u8> {
    let mut plain = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&first, after)) = rest.split_first() {
        if let Some(skipped) = rest.strip_prefix(from) {
            plain.push(to);
            rest = skipped;
        } else {
            plain.push(first);
            rest = after;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_within_their_type() {
        assert_eq!(number::<i32>(b"-1"), Some(-1));
        assert_eq!(number::<u32>(b"-1"), None);
        assert_eq!(number::<u8>(b"256"), None);
        assert_eq!(number::<u64>(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(number::<u64>(b"18446744073709551616"), None);
        assert_eq!(number::<i64>(b"+1"), None);
        assert_eq!(number::<i64>(b""), None);
        assert_eq!(prefixed_hex(b"0x7fF0"), Some(0x7ff0));
        assert_eq!(prefixed_hex(b"7ff0"), None);
    }

    #[test]
    fn a_key_ends_at_the_first_colon() {
        assert_eq!(key_value(b"Name:\ta:b"), Some((&b"Name"[..], &b"a:b"[..])));
        assert_eq!(key_value(b"Groups:\t "), Some((&b"Groups"[..], &b""[..])));
        assert_eq!(key_value(b"no key"), None);
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape(b"a\\012b\\01", b"\\012", b'\n'), b"a\nb\\01");
    }
}
