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
    let foreign_step = (last >> FOREIGN_HALVINGS).max(1);
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
