//! `/proc/PID/uid_map` and `gid_map`: which ids outside the ids of a user
//! namespace are. See `user_namespaces(7)`; printed by `kernel/user_namespace.c`.

use std::fs;

use super::text::{lines, number, words};
use super::{Malformed, ProcError, read_as};

/// The ids of one kind, of one user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMap(Vec<Range>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    inside: u32,
    outside: u32,
    count: u32,
}

impl IdMap {
    /// The user and group ids of the user namespace that `pid` is in, as we see
    /// them; `None` where we are in the same one, whose ids are ours.
    ///
    /// # Errors
    /// When the files cannot be read or understood.
    pub fn of(pid: i32) -> Result<Option<(Self, Self)>, ProcError> {
        let namespace = |of: &str| {
            let path = format!("/proc/{of}/ns/user");
            fs::read_link(&path).map_err(|error| ProcError::io(path.as_ref(), error))
        };
        if namespace("self")? == namespace(&pid.to_string())? {
            return Ok(None);
        }
        let map = |kind| read_as(format!("/proc/{pid}/{kind}"), Self::parse);
        Ok(Some((map("uid_map")?, map("gid_map")?)))
    }

    /// The text of `uid_map` or `gid_map`.
    ///
    /// # Errors
    /// When a line is not three numbers.
    pub fn parse(text: &[u8]) -> Result<Self, Malformed> {
        let range = |line| {
            let mut numbers = words(line).map(number::<u32>);
            match (numbers.next(), numbers.next(), numbers.next()) {
                (Some(Some(inside)), Some(Some(outside)), Some(Some(count))) => Ok(Range { inside, outside, count }),
                _ => Err(Malformed::new("no range of ids", line)),
            }
        };
        lines(text).filter(|line| !line.is_empty()).map(range).collect::<Result<_, _>>().map(Self)
    }

    /// The id inside the namespace that is `outside` for us; `None` if it has none there.
    #[must_use]
    pub fn inside(&self, outside: u32) -> Option<u32> {
        self.0.iter().find_map(|range| {
            let above = outside.checked_sub(range.outside).filter(|above| *above < range.count)?;
            range.inside.checked_add(above)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_their_range() {
        let map = IdMap::parse(b"         0       1000          1\n      1000     100000      65536\n").unwrap();
        assert_eq!(map.inside(1000), Some(0));
        assert_eq!((map.inside(100_000), map.inside(165_535)), (Some(1000), Some(66_535)));
        assert_eq!((map.inside(1001), map.inside(165_536), map.inside(0)), (None, None, None));
        assert_eq!(IdMap::parse(b"0 0 4294967295\n").unwrap().inside(7), Some(7));
    }

    #[test]
    fn damaged_lines_are_refused() {
        assert!(IdMap::parse(b"").is_ok_and(|map| map.inside(0).is_none()));
        assert!(IdMap::parse(b"0 1000\n").is_err());
        assert!(IdMap::parse(b"0 -1 1\n").is_err());
        assert!(IdMap::parse(b"0 1000 4294967296\n").is_err());
    }
}
