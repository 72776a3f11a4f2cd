//! What a replica gets next. Pure.
//!
//! Always true: whatever is to be shipped begins right after what the replica
//! has, has no hole, and is bounded in segments and, beyond the first, in bytes.

use crate::spool::{Pending, Seq, Spooled};

/// Most bytes of spooled segments that go into one object, at least one segment.
const BATCH_BYTES: u64 = 64 << 20;

/// What to do for a replica next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It has everything.
    Nothing,
    /// Ship these segments as one.
    Ship(Vec<Spooled>),
    /// What it lacks is no longer at hand.
    Base,
}

/// Decides what a replica that has everything through `cursor` gets next.
pub fn next(cursor: Option<Seq>, pending: impl FnOnce(Seq) -> Pending, max_segments: usize) -> Next {
    let Some(cursor) = cursor else { return Next::Base };
    match pending(cursor) {
        Pending::None => Next::Nothing,
        Pending::Gone => Next::Base,
        Pending::Segments(mut segments) => {
            let mut bytes = 0;
            let fits = segments.iter().take(max_segments.max(1)).take_while(|segment| {
                let first = bytes == 0;
                bytes += segment.size;
                first || bytes <= BATCH_BYTES
            });
            let count = fits.count();
            segments.truncate(count);
            Next::Ship(segments)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx;
    use crate::types::{PageSize, Timestamp};

    fn seq(n: u64) -> Seq {
        Seq::new(n).unwrap()
    }

    fn spooled(n: u64, size: u64) -> Spooled {
        let header = ltx::Header {
            page_size: PageSize::new(512).unwrap(),
            commit: 1,
            txids: seq(n).as_txids(),
            timestamp: Timestamp::from_millis(0),
            wal: None,
            generation: None,
            proof: None,
        };
        Spooled { seq: seq(n), size, header }
    }

    fn shipped(sizes: &[u64], max: usize) -> usize {
        let segments = (2..).zip(sizes).map(|(n, size)| spooled(n, *size)).collect();
        match next(Some(seq(1)), |_| Pending::Segments(segments), max) {
            Next::Ship(segments) => segments.len(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_replica_whose_end_is_unknown_gets_a_base() {
        assert_eq!(next(None, |_| Pending::None, 10), Next::Base);
        assert_eq!(next(Some(seq(4)), |_| Pending::Gone, 10), Next::Base);
        assert_eq!(next(Some(seq(4)), |_| Pending::None, 10), Next::Nothing);
    }

    #[test]
    fn a_backlog_is_merged_within_bounds() {
        assert_eq!(shipped(&[10; 5], 100), 5);
        assert_eq!(shipped(&[10; 500], 100), 100);
        assert_eq!(shipped(&[BATCH_BYTES / 2 + 1; 5], 100), 1);
        assert_eq!(shipped(&[BATCH_BYTES * 3, 1], 100), 1, "one segment always goes");
        assert_eq!(shipped(&[1, 1], 0), 1);
    }
}
