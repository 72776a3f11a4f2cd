//! Choosing the segments that rebuild one point in history.
//!
//! A chain begins with a segment that holds the whole database, has no hole, and
//! ends exactly at the point asked for: no chain is better than a chain with a
//! hole. Of the chains that do this, one with the fewest segments is taken.
//! Segments may overlap; the newer one wins.
//!
//! Pure: a listing and a wish in, a chain or the reason why there is none out.

use std::collections::HashSet;

use crate::replica::Segment;
use crate::types::{Timestamp, Txid};

/// The moment to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Everything the replica holds.
    Latest,
    /// Exactly this transaction.
    Txid(Txid),
    /// The newest transaction captured at or before this instant.
    Timestamp(Timestamp),
}

/// The segments of one chain, oldest first; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    segments: Vec<Segment>,
}

impl Plan {
    /// The segments, oldest first.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The point the chain ends at.
    pub fn end(&self) -> Txid {
        self.segments.last().expect("a plan is never empty").txids.max()
    }

    /// Bytes of all segments together.
    pub fn size(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }
}

/// Why there is no chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Nothing was ever replicated there.
    #[error("no matching backup files available")]
    NoBackup,
    /// There are changes, but nothing to apply them to.
    #[error(
        "no matching backup: the replica begins with changes at transaction {first} and holds no whole copy of the \
         database before them; use another replica, or let replication write a new snapshot"
    )]
    NoBase {
        /// Where the oldest segment begins.
        first: Txid,
    },
    /// History is broken, and newer data lies behind the break.
    #[error(
        "the replica holds data up to a later point, but transactions {} to {} are missing: \
         restore to transaction {reached} instead, or use another replica",
        reached.next(), before(*next)
    )]
    Gap {
        /// The last point that can be restored.
        reached: Txid,
        /// Where the next segment begins.
        next: Txid,
    },
    /// No chain ends there.
    #[error("transaction {txid} cannot be restored: {}", nearest(*before, *after))]
    TxidUnavailable {
        /// What was asked for.
        txid: Txid,
        /// The newest point before it that can be restored.
        before: Option<Txid>,
        /// The oldest point after it that can be restored.
        after: Option<Txid>,
    },
    /// Everything that is kept is newer.
    #[error("no backup is as old as {asked}: the points that can be restored are from {oldest} to {newest}")]
    TimestampBeforeOldest {
        /// What was asked for.
        asked: Timestamp,
        /// The time of the oldest point that can be restored.
        oldest: Timestamp,
        /// The time of the newest.
        newest: Timestamp,
    },
}

fn before(txid: Txid) -> Txid {
    Txid::new(txid.get() - 1).unwrap_or(txid)
}

fn nearest(before: Option<Txid>, after: Option<Txid>) -> String {
    match (before, after) {
        (Some(before), Some(after)) => format!("the nearest points that are kept are {before} and {after}"),
        (Some(before), None) => format!("the newest point that is kept is {before}"),
        (None, Some(after)) => format!("the oldest point that is kept is {after}"),
        (None, None) => "no point is kept".to_owned(),
    }
}

/// What a replica holds.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    segments: Vec<Segment>,
    /// Segments that hold the whole database although their names do not say so.
    complete: HashSet<Segment>,
}

impl Holdings {
    /// What a listing tells. That a segment holds the whole database is told by
    /// its name if it begins with the first transaction.
    pub fn new(segments: impl IntoIterator<Item = Segment>) -> Self {
        Self { segments: segments.into_iter().collect(), complete: HashSet::new() }
    }

    /// Learns from its header that a segment holds the whole database.
    pub fn learn_complete(&mut self, segment: Segment) {
        self.complete.insert(segment);
    }

    /// Every segment.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The chain to the newest point the replica knows of. When newer segments
    /// cannot be connected that is an error, never a quietly older database.
    pub fn latest(&self) -> Result<Plan, PlanError> {
        let newest = self.segments.iter().map(|segment| segment.txids.max()).max().ok_or(PlanError::NoBackup)?;
        self.exactly(newest)
    }

    /// The chain that ends exactly at `txid`.
    pub fn exactly(&self, txid: Txid) -> Result<Plan, PlanError> {
        let usable = || self.segments.iter().filter(|segment| segment.txids.max() <= txid);
        // Whatever connects to an earlier end also connects to a later one. So the
        // newest base rules nothing out, the longest stride never rules out a
        // later one, and greedy is enough.
        let base = usable().filter(|segment| self.is_base(segment)).max_by_key(|segment| preference(segment));
        let mut chain: Vec<Segment> = base.into_iter().copied().collect();
        let mut others: Vec<&Segment> = usable().collect();
        others.sort_by_key(|segment| segment.txids.min());
        let mut others = others.into_iter().peekable();
        let mut best: Option<&Segment> = None;
        while let Some(reached) = chain.last().map(|segment| segment.txids.max()) {
            while let Some(next) = others.next_if(|segment| segment.txids.min() <= reached.next()) {
                best = best.into_iter().chain([next]).max_by_key(|segment| preference(segment));
            }
            match best {
                Some(next) if next.txids.max() > reached => chain.push(*next),
                _ => break,
            }
        }
        match chain.last() {
            Some(last) if last.txids.max() == txid => Ok(Plan { segments: chain }),
            _ => Err(self.explain(txid)),
        }
    }

    /// Every point at which some chain ends, ascending.
    pub fn restorable(&self) -> Vec<Txid> {
        let mut by_end: Vec<&Segment> = self.segments.iter().collect();
        by_end.sort_by_key(|segment| segment.txids.max());
        let mut points: Vec<Txid> = Vec::new();
        for segment in by_end {
            let end = segment.txids.max();
            // The newest point below the end connects if any does.
            let below = points.iter().rev().find(|point| **point < end);
            let connects = below.is_some_and(|point| segment.txids.min() <= point.next());
            if (connects || self.is_base(segment)) && points.last() != Some(&end) {
                points.push(end);
            }
        }
        points
    }

    /// Where the next segment begins after the newest point that can be restored:
    /// `None` when nothing lies beyond it.
    pub fn beyond(&self, reached: Txid) -> Option<Txid> {
        let behind = self.segments.iter().filter(|segment| segment.txids.max() > reached);
        behind.map(|segment| segment.txids.min()).min()
    }

    /// Where the first segment begins that no chain leads to: `None` when names
    /// alone connect everything.
    pub fn break_in_history(&self) -> Option<Txid> {
        match self.restorable().last() {
            Some(reached) => self.beyond(*reached),
            None => self.segments.iter().map(|segment| segment.txids.min()).min(),
        }
    }

    fn is_base(&self, segment: &Segment) -> bool {
        segment.txids.is_snapshot() || self.complete.contains(segment)
    }

    fn explain(&self, txid: Txid) -> PlanError {
        let Some(first) = self.segments.iter().map(|segment| segment.txids.min()).min() else {
            return PlanError::NoBackup;
        };
        let points = self.restorable();
        let Some(&reached) = points.last() else {
            return PlanError::NoBase { first };
        };
        match self.beyond(reached) {
            Some(next) if reached < txid && next <= txid => PlanError::Gap { reached, next },
            _ => PlanError::TxidUnavailable {
                txid,
                before: points.iter().copied().rfind(|point| *point < txid),
                after: points.iter().copied().find(|point| *point > txid),
            },
        }
    }
}

/// Among segments that connect: the longest stride; then the one with the least
/// overlap, which is the smallest; then the highest level, which lives longest.
fn preference(segment: &Segment) -> impl Ord + use<> {
    (segment.txids.max(), segment.txids.min(), segment.level)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::Level;
    use crate::types::TxidRange;

    fn txid(n: u64) -> Txid {
        Txid::new(n).unwrap()
    }

    fn at(level: u8, min: u64, max: u64) -> Segment {
        let txids = TxidRange::new(txid(min), txid(max)).unwrap();
        let level = Level::new(level).unwrap();
        Segment { level, txids, size: 1, created: Timestamp::from_millis(0) }
    }

    fn seg(min: u64, max: u64) -> Segment {
        at(0, min, max)
    }

    fn holdings(segments: &[Segment]) -> Holdings {
        Holdings::new(segments.iter().copied())
    }

    fn exactly(segments: &[Segment], txid: Txid) -> Result<Plan, PlanError> {
        holdings(segments).exactly(txid)
    }

    fn latest(segments: &[Segment]) -> Result<Plan, PlanError> {
        holdings(segments).latest()
    }

    /// The shortest chain from `reached` to `goal`, by trying every chain.
    fn shortest(listing: &[Segment], reached: u64, goal: u64) -> Option<usize> {
        shortest_with(listing, &[], reached, goal)
    }

    fn shortest_with(listing: &[Segment], complete: &[Segment], reached: u64, goal: u64) -> Option<usize> {
        if reached == goal {
            return Some(0);
        }
        let mut best: Option<usize> = None;
        for segment in listing {
            let (min, max) = (segment.txids.min().get(), segment.txids.max().get());
            let is_base = min == 1 || complete.contains(segment);
            let connects = if reached == 0 { is_base } else { is_base || min <= reached + 1 };
            if connects && max > reached && max <= goal {
                let rest = shortest_with(listing, complete, max, goal);
                best = best.into_iter().chain(rest.map(|n| n + 1)).min();
            }
        }
        best
    }

    fn every_listing_of(transactions: u64) -> impl Iterator<Item = Vec<Segment>> {
        let all: Vec<Segment> =
            (1..=transactions).flat_map(|min| (min..=transactions).map(move |max| seg(min, max))).collect();
        (0..1u32 << all.len()).map(move |chosen| {
            all.iter().enumerate().filter(|(i, _)| chosen & (1 << i) != 0).map(|(_, segment)| *segment).collect()
        })
    }

    #[test]
    fn every_small_listing_gives_the_shortest_chain_or_none_when_there_is_none() {
        for listing in every_listing_of(5) {
            for goal in 1..=6 {
                let expected = shortest(&listing, 0, goal);
                let plan = exactly(&listing, txid(goal));
                assert_eq!(plan.as_ref().ok().map(|plan| plan.segments().len()), expected, "{listing:?} {goal}");
                let Ok(plan) = plan else { continue };
                assert_eq!(plan.end(), txid(goal));
                assert!(plan.segments()[0].txids.is_snapshot());
                for pair in plan.segments().windows(2) {
                    assert!(pair[1].txids.min() <= pair[0].txids.max().next(), "a hole in {plan:?}");
                    assert!(pair[1].txids.max() > pair[0].txids.max());
                }
            }
        }
    }

    #[test]
    fn a_complete_segment_is_a_base_wherever_it_is() {
        for listing in every_listing_of(4) {
            let inner: Vec<Segment> = listing.iter().copied().filter(|segment| !segment.txids.is_snapshot()).collect();
            for chosen in 0..1u32 << inner.len() {
                let complete: Vec<Segment> =
                    inner.iter().enumerate().filter(|(i, _)| chosen & (1 << i) != 0).map(|(_, s)| *s).collect();
                let mut holdings = holdings(&listing);
                complete.iter().for_each(|segment| holdings.learn_complete(*segment));
                let mut points = Vec::new();
                for goal in 1..=4 {
                    let expected = shortest_with(&listing, &complete, 0, goal);
                    let plan = holdings.exactly(txid(goal));
                    assert_eq!(
                        plan.ok().map(|plan| plan.segments().len()),
                        expected,
                        "{listing:?} {complete:?} {goal}"
                    );
                    points.extend(expected.map(|_| txid(goal)));
                }
                assert_eq!(holdings.restorable(), points);
            }
        }
    }

    #[test]
    fn the_restorable_points_are_those_with_a_chain() {
        for listing in every_listing_of(5) {
            let expected: Vec<Txid> = (1..=5).filter(|goal| shortest(&listing, 0, *goal).is_some()).map(txid).collect();
            assert_eq!(holdings(&listing).restorable(), expected, "{listing:?}");
        }
    }

    #[test]
    fn latest_is_never_quietly_older_than_the_newest_segment() {
        for listing in every_listing_of(5) {
            let newest = listing.iter().map(|segment| segment.txids.max()).max();
            let points = holdings(&listing).restorable();
            match (latest(&listing), newest) {
                (Ok(plan), Some(newest)) => assert_eq!(plan.end(), newest),
                (Err(PlanError::NoBackup), None) => {}
                (Err(PlanError::NoBase { first }), Some(_)) => {
                    assert!(points.is_empty());
                    assert_eq!(Some(first), listing.iter().map(|segment| segment.txids.min()).min());
                }
                (Err(PlanError::Gap { reached, next }), Some(newest)) => {
                    assert_eq!(Some(&reached), points.last());
                    assert!(next > reached.next() && next <= newest, "{listing:?}");
                    assert!(exactly(&listing, reached).is_ok(), "the remedy it names works");
                }
                other => panic!("{listing:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_unavailable_transaction_names_the_nearest_points_that_work() {
        for listing in every_listing_of(4) {
            for goal in 1..=5 {
                let Err(PlanError::TxidUnavailable { txid: asked, before, after }) = exactly(&listing, txid(goal))
                else {
                    continue;
                };
                assert_eq!(asked, txid(goal));
                let possible = |range: std::ops::RangeInclusive<u64>| {
                    range.filter(|n| shortest(&listing, 0, *n).is_some()).map(txid).collect::<Vec<_>>()
                };
                assert_eq!(before, possible(1..=goal - 1).last().copied(), "{listing:?} {goal}");
                assert_eq!(after, possible(goal + 1..=9).first().copied(), "{listing:?} {goal}");
            }
        }
    }

    #[test]
    fn refuses_to_bridge_a_gap() {
        let missing_4 = [seg(1, 3), seg(5, 5)];
        let gap = PlanError::Gap { reached: txid(3), next: txid(5) };
        assert_eq!(latest(&missing_4), Err(gap.clone()));
        assert_eq!(exactly(&missing_4, txid(5)), Err(gap.clone()));
        assert_eq!(
            gap.to_string(),
            "the replica holds data up to a later point, but transactions 0000000000000004 to 0000000000000004 are \
             missing: restore to transaction 0000000000000003 instead, or use another replica"
        );
    }

    #[test]
    fn a_transaction_merged_away_is_not_a_gap() {
        let merged = [at(9, 1, 5), at(1, 6, 9), at(0, 8, 8), at(0, 9, 9)];
        let expected = PlanError::TxidUnavailable { txid: txid(8), before: Some(txid(5)), after: Some(txid(9)) };
        assert_eq!(exactly(&merged, txid(8)), Err(expected));
        assert_eq!(latest(&merged).unwrap().segments(), [at(9, 1, 5), at(1, 6, 9)]);
    }

    #[test]
    fn prefers_the_snapshot_level_and_little_overlap() {
        let listing = [at(2, 1, 4), at(9, 1, 4), at(1, 4, 6), at(0, 5, 6), at(2, 5, 6)];
        assert_eq!(latest(&listing).unwrap().segments(), [at(9, 1, 4), at(2, 5, 6)]);
    }

    /// F58: after level 0 was emptied and local state lost, Litestream began
    /// again at 1 below a higher level. The newest point is still the old one.
    #[test]
    fn a_history_restarted_below_a_higher_level_does_not_hide_it() {
        let listing = [at(9, 1, 40), seg(1, 1), seg(2, 2), seg(3, 3)];
        assert_eq!(latest(&listing).unwrap().segments(), [at(9, 1, 40)]);
    }

    #[test]
    fn an_empty_replica_and_one_without_a_base_are_different_news() {
        assert_eq!(latest(&[]), Err(PlanError::NoBackup));
        assert_eq!(exactly(&[], txid(1)), Err(PlanError::NoBackup));
        assert_eq!(latest(&[seg(2, 2), seg(3, 3)]), Err(PlanError::NoBase { first: txid(2) }));
    }
}
