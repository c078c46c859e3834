//! Which addresses have been stored so far.

use std::collections::BTreeMap;

/// Ranges, ascending and apart from each other: start and end.
#[derive(Debug, Default)]
pub struct Seen(BTreeMap<u64, u64>);

impl Seen {
    /// Adds a range, and says whether some of it was there.
    pub fn add(&mut self, start: u64, end: u64) -> bool {
        let (mut start, mut end) = (start, end);
        let mut overlaps = false;
        // Only the last range that begins before the end of this one, and those before it, can touch it.
        while let Some((&from, &to)) = self.0.range(..=end).next_back()
            && to >= start
        {
            overlaps |= from < end && start < to;
            start = start.min(from);
            end = end.max(to);
            self.0.remove(&from);
        }
        self.0.insert(start, end);
        overlaps
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_touches_is_one_and_does_not_overlap() {
        let mut seen = Seen::default();
        assert!(!seen.add(10, 20) && !seen.add(30, 40) && !seen.add(20, 30));
        assert_eq!(seen.0, BTreeMap::from([(10, 40)]));
        assert!(seen.add(39, 41) && seen.add(5, 11) && seen.add(15, 16) && seen.add(0, 100));
        assert_eq!(seen.0, BTreeMap::from([(0, 100)]));
    }

    proptest! {
        #[test]
        fn it_is_a_set_of_addresses(ranges in prop::collection::vec((0_u64..60, 1_u64..12), 1..40)) {
            let (mut seen, mut set) = (Seen::default(), BTreeSet::new());
            for (start, length) in ranges {
                let had = (start..start + length).any(|address| set.contains(&address));
                set.extend(start..start + length);
                prop_assert_eq!(seen.add(start, start + length), had);
                let all: BTreeSet<u64> = seen.0.iter().flat_map(|(&start, &end)| start..end).collect();
                prop_assert_eq!(&all, &set);
                let apart = seen.0.iter().zip(seen.0.iter().skip(1)).all(|(one, next)| one.1 < next.0);
                prop_assert!(apart);
            }
        }
    }
}
