//! Which points of history can be restored, and how dense they are.
//!
//! Always true: a point named here has a chain in the listing it was made from.
//! Merging takes points away and never moves one.
//!
//! Pure: a listing in, points and ranges out. Times are those of the listing;
//! where a storage shows when an object was uploaded, they are late by that.

use std::collections::BTreeMap;

use crate::ltx::Level;
use crate::replica::{Listing, Segment};
use crate::types::{Timestamp, Txid};

use super::plan::Holdings;

/// One moment that can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The transaction it shows.
    pub txid: Txid,
    /// When that was captured.
    pub time: Timestamp,
}

/// Neighbouring points that are equally dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The level of the segments that end at these points: the least merged.
    pub level: Level,
    /// The oldest point.
    pub first: Point,
    /// The newest.
    pub last: Point,
    /// How many there are.
    pub points: usize,
    /// The longest time between two neighbours, in milliseconds, counting the
    /// step to the range before unless history is broken there.
    pub widest_step: i64,
}

/// Every point that can be restored, ascending, as far as the names of a listing
/// tell.
pub fn points(listing: &Listing) -> Vec<Point> {
    of(&Holdings::new(listing.segments().copied())).iter().map(|(point, _)| *point).collect()
}

/// The same, of everything that is known about a replica.
pub(super) fn of(holdings: &Holdings) -> Vec<(Point, Level)> {
    let mut by_end: BTreeMap<Txid, (Timestamp, Level)> = BTreeMap::new();
    for &Segment { level, txids, created, .. } in holdings.segments() {
        let known = by_end.entry(txids.max()).or_insert((created, level));
        // A snapshot is stamped when it was taken, which may be later.
        *known = (known.0.min(created), known.1.min(level));
    }
    let ends = holdings.restorable();
    ends.into_iter()
        .map(|txid| {
            let (time, level) = by_end[&txid];
            (Point { txid, time }, level)
        })
        .collect()
}

/// The points as ranges, oldest first. A range ends where the level changes, and
/// where transactions are missing that no segment holds any more.
pub(super) fn ranges(holdings: &Holdings) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    let connected = connected_ends(holdings);
    for (point, level) in of(holdings) {
        let follows = connected.contains(&point.txid);
        match ranges.last_mut() {
            Some(range) if follows && range.level == level => {
                range.widest_step = range.widest_step.max(step(range.last, point));
                range.last = point;
                range.points += 1;
            }
            before => {
                let widest_step = before.filter(|_| follows).map_or(0, |range| step(range.last, point));
                ranges.push(Range { level, first: point, last: point, points: 1, widest_step });
            }
        }
    }
    ranges
}

fn step(from: Point, to: Point) -> i64 {
    to.time.as_millis().saturating_sub(from.time.as_millis()).max(0)
}

/// The ends that some segment leads to from the point before, so that nothing is
/// missing between the two.
fn connected_ends(holdings: &Holdings) -> std::collections::HashSet<Txid> {
    let points = holdings.restorable();
    let before = |end: Txid| points.partition_point(|point| *point < end).checked_sub(1).map(|at| points[at]);
    holdings
        .segments()
        .iter()
        .filter(|segment| before(segment.txids.max()).is_some_and(|point| segment.txids.min() <= point.next()))
        .map(|segment| segment.txids.max())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TxidRange;

    fn txid(n: u64) -> Txid {
        Txid::new(n).unwrap()
    }

    /// Transaction `n` is captured `n` seconds after the beginning of time.
    fn at(level: u8, min: u64, max: u64) -> Segment {
        Segment {
            level: Level::new(level).unwrap(),
            txids: TxidRange::new(txid(min), txid(max)).unwrap(),
            size: 1,
            created: Timestamp::from_millis(i64::try_from(max * 1000).unwrap()),
        }
    }

    /// level, first, last, points, widest step in seconds
    fn found(segments: &[Segment]) -> Vec<(u8, u64, u64, usize, i64)> {
        ranges(&Holdings::new(segments.iter().copied()))
            .into_iter()
            .map(|range| {
                let Range { level, first, last, points, widest_step } = range;
                (level.get(), first.txid.get(), last.txid.get(), points, widest_step / 1000)
            })
            .collect()
    }

    #[test]
    fn every_point_has_its_place_in_one_range() {
        assert_eq!(found(&[]), []);
        assert_eq!(found(&[at(0, 1, 1)]), [(0, 1, 1, 1, 0)]);
        let merged = [at(9, 1, 4), at(1, 5, 8), at(1, 9, 12), at(0, 12, 12), at(0, 13, 13), at(0, 14, 14)];
        assert_eq!(found(&merged), [(9, 4, 4, 1, 0), (1, 8, 8, 1, 4), (0, 12, 14, 3, 4)]);
    }

    #[test]
    fn a_snapshot_beside_changes_does_not_make_them_coarse() {
        let dense = [at(0, 1, 1), at(0, 2, 2), at(9, 1, 2), at(0, 3, 3)];
        assert_eq!(found(&dense), [(0, 1, 3, 3, 1)]);
    }

    #[test]
    fn a_lone_snapshot_ends_where_history_is_missing() {
        // Transactions 3 to 8 are gone; the snapshot bridges them, but nothing
        // between can be restored.
        let holed = [at(0, 1, 1), at(0, 2, 2), at(9, 1, 9), at(0, 10, 10)];
        assert_eq!(found(&holed), [(0, 1, 2, 2, 1), (9, 9, 9, 1, 7), (0, 10, 10, 1, 1)]);
        let mut broken = Holdings::new([at(0, 1, 1), at(0, 5, 5), at(0, 6, 6)]);
        broken.learn_complete(at(0, 5, 5));
        let ranges: Vec<_> = ranges(&broken).into_iter().map(|range| (range.points, range.widest_step)).collect();
        assert_eq!(ranges, [(1, 0), (2, 1000)]);
    }

    #[test]
    fn points_are_exactly_what_a_plan_reaches() {
        let merged = [at(9, 1, 4), at(1, 5, 8), at(0, 7, 7), at(0, 12, 12)];
        let listing: Listing = merged.into_iter().collect();
        let ends: Vec<u64> = points(&listing).iter().map(|point| point.txid.get()).collect();
        assert_eq!(ends, [4, 8]);
        let holdings = Holdings::new(merged);
        for n in 1..=13 {
            assert_eq!(holdings.exactly(txid(n)).is_ok(), ends.contains(&n), "{n}");
        }
    }
}
