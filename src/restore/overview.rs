//! What a replica can give back, and how long that would take.
//!
//! Always true: looking changes nothing on the replica and fetches little: the
//! listing, some headers, and at most [`SAMPLES`] pieces of a segment.

use std::time::{Duration, Instant};

use futures::stream;
use futures::{StreamExt, TryStreamExt};

use crate::ltx::{Header, Level};
use crate::replica::{Listing, Replica, Run, Segment};
use crate::types::Txid;

use super::error::RestoreError;
use super::fetch::Limits;
use super::plan::{Holdings, Plan, PlanError};
use super::ranges::{Point, Range, ranges};
use super::survey::{holdings, time_of};

/// Pieces fetched to measure the throughput, all at once: enough to fill the
/// pipe, and no more than a few megabytes.
const SAMPLES: u64 = 4;

/// Ranges whose ends are stamped with the time in the headers. A replica with
/// more is broken in many places, and the listing's times do for it.
const EXACT_RANGES: usize = 64;

/// What a replica can give back.
#[derive(Clone, Debug)]
pub struct Overview {
    /// Who wrote it, oldest first.
    pub generations: Vec<Run>,
    /// What can be restored, oldest first. The ends have the times of the
    /// headers; what lies between them, those of the listing.
    pub ranges: Vec<Range>,
    /// What each level holds; empty ones are left out.
    pub levels: Vec<LevelSize>,
    /// The highest transaction at any level.
    pub position: Option<Txid>,
    /// What restoring the newest state would take, or why it is impossible.
    pub latest: Result<Estimate, PlanError>,
}

/// What one level holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelSize {
    /// Which one.
    pub level: Level,
    /// Its segments.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// How long a restore of the newest state takes, without writing it to disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Segments to read.
    pub segments: usize,
    /// Their bytes; pages that a newer segment replaces may be skipped.
    pub bytes: u64,
    /// The requests for them.
    pub requests: u64,
    /// Requests at a time.
    pub parallelism: usize,
    /// How long one small request took just now.
    pub latency: Duration,
    /// How many bytes a second came just now, several requests at a time.
    pub throughput: f64,
}

impl Estimate {
    /// Waiting for requests, and for bytes.
    pub fn duration(&self) -> Duration {
        let rounds = u32::try_from(self.requests.div_ceil(self.parallelism.max(1) as u64)).unwrap_or(u32::MAX);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let transfer = Duration::try_from_secs_f64(self.bytes as f64 / self.throughput).unwrap_or(Duration::MAX);
        self.latency.saturating_mul(rounds).saturating_add(transfer)
    }
}

/// Looks at a replica.
pub async fn overview(replica: &Replica, parallelism: usize) -> Result<Overview, RestoreError> {
    let holdings = holdings(replica).await?;
    let listing: Listing = holdings.segments().iter().copied().collect();
    let latest = match holdings.latest() {
        Ok(plan) => Ok(estimate(replica, &plan, parallelism).await?),
        Err(why) => Err(why),
    };
    Ok(Overview {
        generations: replica.generations(&listing).await?,
        ranges: exact_ranges(replica, &holdings).await?,
        levels: Level::all().filter_map(|level| level_size(&listing, level)).collect(),
        position: listing.position(),
        latest,
    })
}

fn level_size(listing: &Listing, level: Level) -> Option<LevelSize> {
    let segments = listing.level(level);
    let bytes = segments.iter().map(|segment| segment.size).sum();
    (!segments.is_empty()).then_some(LevelSize { level, objects: segments.len(), bytes })
}

async fn exact_ranges(replica: &Replica, holdings: &Holdings) -> Result<Vec<Range>, RestoreError> {
    let mut ranges = ranges(holdings);
    if ranges.len() > EXACT_RANGES {
        return Ok(ranges);
    }
    for range in &mut ranges {
        for point in [&mut range.first, &mut range.last] {
            let Point { txid, time } = point;
            *time = time_of(replica, holdings.segments(), *txid).await?;
        }
    }
    Ok(ranges)
}

async fn estimate(replica: &Replica, plan: &Plan, parallelism: usize) -> Result<Estimate, RestoreError> {
    let limits = Limits::default();
    let largest = plan.segments().iter().max_by_key(|segment| segment.size).expect("a plan is never empty");
    let begun = Instant::now();
    replica.read(largest, 0..Header::SIZE as u64).await?;
    let latency = begun.elapsed();
    let pieces = (0..SAMPLES).map(|n| n * limits.range..((n + 1) * limits.range).min(largest.size));
    let pieces: Vec<_> = pieces.filter(|piece| !piece.is_empty()).collect();
    let begun = Instant::now();
    let fetched: Vec<usize> = stream::iter(pieces)
        .map(|piece| async move { Ok::<_, RestoreError>(replica.read(largest, piece).await?.len()) })
        .buffer_unordered(parallelism.max(1))
        .try_collect()
        .await?;
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let throughput = fetched.iter().sum::<usize>() as f64 / begun.elapsed().as_secs_f64().max(1e-6);
    Ok(Estimate {
        segments: plan.segments().len(),
        bytes: plan.size(),
        requests: plan.segments().iter().map(|segment| requests(segment, &limits)).sum(),
        parallelism,
        latency,
        throughput,
    })
}

/// A small segment is fetched at once; a large one by its header, its index, and
/// ranges of pages.
fn requests(segment: &Segment, limits: &Limits) -> u64 {
    if segment.size <= limits.whole { 1 } else { 2 + segment.size.div_ceil(limits.range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_counts_waiting_and_bytes() {
        let estimate = Estimate {
            segments: 17,
            bytes: 1_000_000,
            requests: 17,
            parallelism: 8,
            latency: Duration::from_millis(100),
            throughput: 500_000.0,
        };
        assert_eq!(estimate.duration(), Duration::from_millis(300 + 2000));
        let nothing_came = Estimate { throughput: 0.0, ..estimate };
        assert_eq!(nothing_came.duration(), Duration::MAX);
    }
}
