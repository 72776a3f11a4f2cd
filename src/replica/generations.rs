//! Which generations wrote a replica's history, found without reading all of it.
//!
//! A generation is never resumed once another has begun. So where two segments
//! have the same one, so have all between them, and halving finds each border in
//! a few reads. History that is not brooklet's has no generation and can begin
//! again; between two such segments a bounded number of samples is taken, and a
//! short visit of brooklet between them can be missed.

use std::collections::BTreeMap;

use crate::ltx::Header;
use crate::types::{Generation, Timestamp, Txid, TxidRange};

use super::{Listing, Replica, Result, Segment};

/// How often the history between two segments without a generation is halved:
/// at most fifteen extra reads.
const FOREIGN_HALVINGS: u32 = 4;

/// A stretch of history by one writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its name; `None` if brooklet did not write it.
    pub generation: Option<Generation>,
    /// The transactions that are still there.
    pub txids: TxidRange,
    /// The time of the first of its segments that are still there.
    pub start: Timestamp,
    /// The time of the last.
    pub end: Timestamp,
}

/// What one segment says about the transaction it ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    generation: Option<Generation>,
    timestamp: Timestamp,
}

impl Replica {
    /// The runs of history on the replica, oldest first.
    pub async fn generations(&self, listing: &Listing) -> Result<Vec<Run>> {
        let points = points(listing);
        let mut samples = BTreeMap::new();
        while let Some(wanted) = next_sample(points.len(), &samples) {
            let Header { generation, timestamp, .. } = self.read_header(points[wanted]).await?;
            samples.insert(wanted, Sample { generation, timestamp });
        }
        Ok(runs(&points, &samples))
    }
}

/// One segment for each TXID that a segment ends with, ascending: the least
/// merged, whose time is nearest to the truth.
fn points(listing: &Listing) -> Vec<&Segment> {
    let mut points: Vec<&Segment> = listing.segments().collect();
    points.sort_by_key(|segment| (segment.txids.max(), segment.level));
    points.dedup_by_key(|segment| segment.txids.max());
    points
}

/// Which of `count` points to read next; `None` when all borders are known.
fn next_sample(count: usize, samples: &BTreeMap<usize, Sample>) -> Option<usize> {
    let last = count.checked_sub(1)?;
    for end in [0, last] {
        if !samples.contains_key(&end) {
            return Some(end);
        }
    }
    let foreign_step = last.div_ceil(1 << FOREIGN_HALVINGS);
    let neighbours = samples.iter().zip(samples.iter().skip(1));
    neighbours
        .filter(|((low, before), (high, after))| {
            let unsettled = before.generation != after.generation;
            let foreign = before.generation.is_none() && *high - *low > foreign_step;
            *high - *low > 1 && (unsettled || foreign)
        })
        .map(|((low, _), (high, _))| low + (high - low) / 2)
        .next()
}

/// Joins neighbours of one generation.
fn runs(points: &[&Segment], samples: &BTreeMap<usize, Sample>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (at, Sample { generation, timestamp }) in samples {
        let txids = points[*at].txids;
        match runs.last_mut() {
            Some(run) if run.generation == *generation => {
                run.txids = TxidRange::new(run.txids.min(), txids.max()).unwrap_or(run.txids);
                run.end = *timestamp;
            }
            before => {
                let after = Txid::after(before.map(|run| run.txids.max()));
                // A snapshot is a moment, not a history from TXID 1.
                let first = if txids.is_snapshot() { txids.max() } else { txids.min().max(after) };
                let txids = TxidRange::new(first, txids.max()).unwrap_or(txids);
                runs.push(Run { generation: *generation, txids, start: *timestamp, end: *timestamp });
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::Level;

    fn segment(level: u8, min: u64, max: u64) -> Segment {
        let txid = |n| Txid::new(n).unwrap();
        Segment {
            level: Level::new(level).unwrap(),
            txids: TxidRange::new(txid(min), txid(max)).unwrap(),
            size: 1,
            created: Timestamp::from_millis(0),
        }
    }

    fn sample(generation: u64, at: usize) -> Sample {
        Sample {
            generation: Generation::new(generation),
            timestamp: Timestamp::from_millis(i64::try_from(at).unwrap() * 10),
        }
    }

    /// Runs found in a history of single transactions, and how many were read.
    fn find(history: &[u64]) -> (Vec<(u64, u64, u64)>, usize) {
        let segments: Vec<Segment> = (1..=history.len() as u64).map(|n| segment(0, n, n)).collect();
        let points: Vec<&Segment> = segments.iter().collect();
        let mut samples = BTreeMap::new();
        while let Some(wanted) = next_sample(points.len(), &samples) {
            assert!(samples.insert(wanted, sample(history[wanted], wanted)).is_none(), "read twice");
        }
        let found = runs(&points, &samples);
        for run in &found {
            assert_eq!(run.start.as_millis(), (run.txids.min().get().cast_signed() - 1) * 10);
            assert_eq!(run.end.as_millis(), (run.txids.max().get().cast_signed() - 1) * 10);
        }
        let plain =
            |run: &Run| (run.generation.map_or(0, Generation::get), run.txids.min().get(), run.txids.max().get());
        (found.iter().map(plain).collect(), samples.len())
    }

    fn runs_of(history: &[u64]) -> Vec<(u64, u64, u64)> {
        let mut runs: Vec<(u64, u64, u64)> = Vec::new();
        for (n, generation) in (1..).zip(history) {
            match runs.last_mut() {
                Some(run) if run.0 == *generation => run.2 = n,
                _ => runs.push((*generation, n, n)),
            }
        }
        runs
    }

    #[test]
    fn every_short_history_is_found_exactly() {
        // Lengths of up to five runs, any of which may be foreign (0).
        for lengths in 0..4usize.pow(5) {
            for foreign in 0..1usize << 5 {
                let history: Vec<u64> = (0..5)
                    .flat_map(|run| {
                        let generation = if foreign >> run & 1 == 1 { 0 } else { run as u64 + 1 };
                        std::iter::repeat_n(generation, lengths / 4usize.pow(run) % 4)
                    })
                    .collect();
                assert_eq!(find(&history).0, runs_of(&history), "{history:?}");
            }
        }
    }

    #[test]
    fn a_long_history_takes_few_reads() {
        let history: Vec<u64> = [(7, 4000), (8, 1), (9, 3000), (10, 2999)]
            .into_iter()
            .flat_map(|(generation, length)| std::iter::repeat_n(generation, length))
            .collect();
        let (found, reads) = find(&history);
        assert_eq!(found, runs_of(&history));
        assert!(reads <= 2 + 3 * 14, "{reads} reads");
        assert_eq!(find(&[7; 10_000]), (vec![(7, 1, 10_000)], 2));
        assert_eq!(find(&[0; 10_000]).0, [(0, 1, 10_000)]);
        assert!(find(&[0; 10_000]).1 <= 2 + 15);
    }

    #[test]
    fn the_least_merged_segment_speaks_for_a_transaction() {
        let listing: Listing =
            [segment(9, 1, 5), segment(1, 4, 5), segment(0, 5, 5), segment(9, 1, 3)].into_iter().collect();
        let chosen: Vec<(u8, u64)> =
            points(&listing).iter().map(|segment| (segment.level.get(), segment.txids.max().get())).collect();
        assert_eq!(chosen, [(9, 3), (0, 5)]);
    }

    #[test]
    fn a_snapshot_is_a_moment_and_a_run_begins_where_the_one_before_ended() {
        let segments = [segment(9, 1, 40), segment(1, 35, 50), segment(0, 51, 51)];
        let points: Vec<&Segment> = segments.iter().collect();
        let samples = BTreeMap::from([(0, sample(1, 0)), (1, sample(2, 1)), (2, sample(2, 2))]);
        let found: Vec<String> = runs(&points, &samples).iter().map(|run| run.txids.to_string()).collect();
        assert_eq!(found, ["0000000000000028-0000000000000028", "0000000000000029-0000000000000033"]);
    }
}
