//! What a new listing says, compared with what was believed. Pure.

use crate::replica::{Listing, Segment};

/// The differences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Audit {
    /// Believed to be there the whole time, and not listed.
    pub(super) missing: Vec<Segment>,
    /// Listed, and never heard of.
    pub(super) strangers: Vec<Segment>,
    /// Not listed, but there.
    pub(super) late: Vec<Segment>,
}

impl Audit {
    /// `before` and `after` are what was believed when the listing began and when it had ended.
    pub(super) fn compare(before: &Listing, after: &Listing, listed: &Listing) -> Self {
        let in_both = before.segments().filter(|s| after.get(s.level, s.txids).is_some());
        let heard_of = |s: &Segment| {
            let known = [before, after].into_iter().find_map(|listing| listing.get(s.level, s.txids));
            known.is_some_and(|known| known.size == s.size)
        };
        Self {
            missing: in_both.filter(|s| listed.get(s.level, s.txids).is_none()).copied().collect(),
            strangers: listed.segments().filter(|s| !heard_of(s)).copied().collect(),
            late: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::Level;
    use crate::types::{Timestamp, Txid, TxidRange};

    fn listing(numbers: &[u64]) -> Listing {
        let segment = |n: &u64| Segment {
            level: Level::L0,
            txids: TxidRange::single(Txid::new(*n).unwrap()),
            size: 1,
            created: Timestamp::from_millis(0),
        };
        numbers.iter().map(segment).collect()
    }

    fn found(before: &[u64], after: &[u64], listed: &[u64]) -> (Vec<u64>, Vec<u64>) {
        let audit = Audit::compare(&listing(before), &listing(after), &listing(listed));
        let numbers = |segments: &[Segment]| segments.iter().map(|s| s.txids.max().get()).collect();
        (numbers(&audit.missing), numbers(&audit.strangers))
    }

    #[test]
    fn only_what_nobody_here_did_counts() {
        assert_eq!(found(&[1, 2], &[1, 2], &[1, 2]), (vec![], vec![]));
        assert_eq!(found(&[1, 2], &[1, 2], &[1]), (vec![2], vec![]));
        assert_eq!(found(&[1], &[1], &[1, 2]), (vec![], vec![2]));
        // Put or removed while the listing was under way, seen by it or not.
        for listed in [&[1][..], &[1, 2]] {
            assert_eq!(found(&[1], &[1, 2], listed), (vec![], vec![]));
            assert_eq!(found(&[1, 2], &[1], listed), (vec![], vec![]));
        }
    }

    #[test]
    fn another_size_under_a_known_name_is_a_stranger() {
        let mut other = listing(&[2]);
        let known = *other.segments().next().unwrap();
        other.insert(Segment { size: 9, ..known });
        let audit = Audit::compare(&listing(&[2]), &listing(&[2]), &other);
        assert_eq!((audit.missing.len(), audit.strangers.len()), (0, 1));
    }
}
