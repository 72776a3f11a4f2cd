//! What the facts about all segments say together. Pure.

use std::collections::BTreeMap;

use super::finding::Finding;
use super::{ChainProof, Moment, Report, Scope, SegmentsSummary, Sizes};
use crate::ltx::{Header, Level};
use crate::replica::Segment;
use crate::restore::plan::Holdings;
use crate::storage::Key;
use crate::types::{Checksum, Generation, Timestamp, Txid, TxidRange};

/// A segment that was read to its end, and everything agreed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sound {
    /// What it says about itself.
    pub header: Header,
    /// The checksum of its pages.
    pub sum: Checksum,
    /// How many it holds.
    pub pages: u64,
}

/// A segment, and what became of reading it.
pub(super) struct Examined {
    pub(super) segment: Segment,
    pub(super) key: Key,
    pub(super) outcome: Result<Sound, Finding>,
}

/// Everything that was read.
pub(super) struct Chain {
    /// The newest chain first, from its newest segment on; then the others.
    pub(super) examined: Vec<Examined>,
    pub(super) in_chain: usize,
    pub(super) proof: Result<ChainProof, Finding>,
    /// All segments there are, also those that were not read.
    pub(super) names: Vec<Segment>,
    /// The storage shows the times that segments were put with.
    pub(super) keeps_times: bool,
    pub(super) scope: Scope,
    pub(super) now: Timestamp,
}

/// A clock may be this far ahead of ours, in milliseconds.
const AHEAD: i64 = 5 * 60 * 1000;

/// Times may run backwards by this much: clocks are corrected, in milliseconds.
const BACKWARDS: i64 = 1000;

/// What the storage shows may be coarser than what segments carry, in milliseconds.
const COARSE: i64 = 2000;

/// 30 days, in milliseconds.
const MONTH: u128 = 30 * 24 * 60 * 60 * 1000;

/// Writes findings and summary to the report.
pub(super) fn judge(chain: Chain, report: &mut Report) {
    let Chain { mut examined, in_chain, proof, names, keeps_times, scope, now } = chain;
    let chain_segments: Vec<Segment> = examined[..in_chain].iter().rev().map(|one| one.segment).collect();
    examined.sort_by_key(|one| (one.segment.level, one.segment.txids));
    let sound: Vec<(Segment, &Sound)> =
        examined.iter().filter_map(|one| Some((one.segment, one.outcome.as_ref().ok()?))).collect();
    let findings = &mut report.findings;
    findings.extend(examined.iter().filter_map(|one| one.outcome.as_ref().err().cloned()));
    if scope == Scope::All {
        levels(&examined, findings);
        findings.extend(holes(&names, &sound));
    }
    claims(&sound, findings);
    bases(&sound, findings);
    page_sizes(&chain_segments, &sound, findings);
    times(&sound, now, findings);
    if keeps_times {
        findings.extend(stored_times(&sound));
    }
    let generations = generations(&sound, findings);
    let proof = proof.unwrap_or_else(|finding| {
        findings.push(finding);
        ChainProof::None
    });
    report.segments = Some(summary(&examined, &sound, proof, generations));
}

/// Rules of each level: what may be there, and that it does not overlap.
fn levels(examined: &[Examined], findings: &mut Vec<Finding>) {
    for one in examined {
        let Segment { level, txids, .. } = one.segment;
        let reason = match level {
            Level::L0 if txids.min() != txids.max() => "level 0 holds single transactions",
            Level::SNAPSHOT if !txids.is_snapshot() => "level 9 holds whole databases",
            _ => continue,
        };
        findings.push(Finding::WrongLevel { key: one.key.clone(), reason });
    }
    for pair in examined.windows(2) {
        let (older, newer) = (pair[0].segment, pair[1].segment);
        if older.level == newer.level && older.level != Level::SNAPSHOT && newer.txids.min() <= older.txids.max() {
            findings.push(Finding::Overlap { level: older.level, older, newer });
        }
    }
}

/// Segments that are kept for nothing, because what leads to them is missing.
/// Retention leaves none behind but the newest of a level: what it deletes ends
/// where a snapshot begins. What lies beyond the newest point is a gap.
fn holes(names: &[Segment], sound: &[(Segment, &Sound)]) -> Vec<Finding> {
    let mut holdings = Holdings::new(names.iter().copied());
    sound.iter().filter(|(_, one)| one.header.is_complete()).for_each(|(segment, _)| holdings.learn_complete(*segment));
    let points = holdings.restorable();
    let Some(last) = points.last() else { return Vec::new() };
    let is_newest = |segment: &Segment| {
        !names.iter().any(|other| other.level == segment.level && other.txids.max() > segment.txids.max())
    };
    // Merged with its neighbours, which then goes before they do.
    let is_merged = |segment: &Segment| {
        names.iter().any(|other| {
            let (own, others) = (segment.txids, other.txids);
            let holds = others.min() <= own.min() && own.max() <= others.max() && others != own;
            holds && other.level != Level::SNAPSHOT && points.binary_search(&others.max()).is_ok()
        })
    };
    let mut missing: BTreeMap<Txid, TxidRange> = BTreeMap::new();
    for segment in names {
        let (min, max) = (segment.txids.min(), segment.txids.max());
        if max > *last || points.binary_search(&max).is_ok() || is_newest(segment) || is_merged(segment) {
            continue;
        }
        let reached = points.iter().rfind(|point| **point < min);
        let first = Txid::after(reached.copied());
        let range = Txid::new(min.get() - 1).and_then(|before| TxidRange::new(first, before));
        if let Some(range) = range {
            let known = missing.entry(first).or_insert(range);
            let shorter = range.max() < TxidRange::max(*known);
            *known = if shorter { range } else { *known };
        }
    }
    missing.into_values().map(|missing| Finding::Hole { missing }).collect()
}

/// Everything that segments claim about the database after a transaction must
/// be the same.
fn claims(sound: &[(Segment, &Sound)], findings: &mut Vec<Finding>) {
    let mut claimed: BTreeMap<Txid, (Segment, Checksum)> = BTreeMap::new();
    let after =
        sound.iter().filter_map(|(segment, one)| Some((segment.txids.max(), *segment, one.header.proof?.after)));
    let before = sound.iter().filter_map(|(segment, one)| {
        Some((Txid::new(segment.txids.min().get() - 1)?, *segment, one.header.proof?.before?))
    });
    for (txid, segment, checksum) in after.chain(before) {
        let (one, one_says) = *claimed.entry(txid).or_insert((segment, checksum));
        if one_says != checksum {
            findings.push(Finding::Unlinked { txid, one, other: segment, one_says, other_says: checksum });
        }
    }
}

/// A segment that holds a whole database says which.
fn bases(sound: &[(Segment, &Sound)], findings: &mut Vec<Finding>) {
    for (segment, one) in sound {
        if let Some(proof) = one.header.proof
            && proof.before.is_none()
            && proof.after != one.sum
        {
            findings.push(Finding::BaseChecksum { segment: *segment, expected: proof.after, found: one.sum });
        }
    }
}

/// The page size changes only with a whole database.
fn page_sizes(chain: &[Segment], sound: &[(Segment, &Sound)], findings: &mut Vec<Finding>) {
    let find = |segment: &Segment| sound.iter().find(|(other, _)| other == segment).map(|(_, one)| one.header);
    for pair in chain.windows(2) {
        let (Some(older), Some(newer)) = (find(&pair[0]), find(&pair[1])) else { continue };
        if older.page_size != newer.page_size && !newer.is_complete() {
            let (segment, found, expected) = (pair[1], newer.page_size, older.page_size);
            findings.push(Finding::PageSize { segment, found, expected });
        }
    }
}

/// Within a level, times follow transactions; snapshots are stamped when they
/// were made, which follows them too.
fn times(sound: &[(Segment, &Sound)], now: Timestamp, findings: &mut Vec<Finding>) {
    let mut latest: Option<(Level, Timestamp)> = None;
    for (segment, one) in sound {
        let time = one.header.timestamp;
        if time.as_millis() > now.as_millis().saturating_add(AHEAD) {
            findings.push(Finding::TimeAhead { segment: *segment, time });
        }
        match latest {
            Some((level, earlier)) if level == segment.level => {
                if time.as_millis().saturating_add(BACKWARDS) < earlier.as_millis() {
                    findings.push(Finding::TimeBackwards { segment: *segment, time, earlier });
                }
                latest = Some((level, earlier.max(time)));
            }
            _ => latest = Some((segment.level, time)),
        }
    }
}

fn stored_times(sound: &[(Segment, &Sound)]) -> Option<Finding> {
    let differs = |(segment, one): &&(Segment, &Sound)| {
        segment.created.as_millis().abs_diff(one.header.timestamp.as_millis()) > COARSE.unsigned_abs()
    };
    let first = sound.iter().find(differs)?.0;
    Some(Finding::StoredTime { count: sound.iter().filter(differs).count(), first })
}

/// Who wrote level 0, in order; each writer once, unless two took turns.
fn generations(sound: &[(Segment, &Sound)], findings: &mut Vec<Finding>) -> Vec<Option<Generation>> {
    let mut seen: Vec<Option<Generation>> = Vec::new();
    for (segment, one) in sound.iter().filter(|(segment, _)| segment.level == Level::L0) {
        let generation = one.header.generation;
        if seen.last() == Some(&generation) {
            continue;
        }
        if let Some(generation) = generation
            && seen.contains(&Some(generation))
        {
            findings.push(Finding::TwoWriters { generation, txid: segment.txids.min() });
        }
        seen.push(generation);
    }
    seen
}

fn summary(
    examined: &[Examined],
    sound: &[(Segment, &Sound)],
    proof: ChainProof,
    generations: Vec<Option<Generation>>,
) -> SegmentsSummary {
    let all: Vec<Segment> = examined.iter().map(|one| one.segment).collect();
    let complete = || sound.iter().filter(|(_, one)| one.header.is_complete()).map(|(segment, _)| *segment);
    let mut named = Holdings::new(all.iter().copied());
    let mut good = Holdings::new(sound.iter().map(|(segment, _)| *segment));
    for segment in complete() {
        named.learn_complete(segment);
        good.learn_complete(segment);
    }
    let points = good.restorable();
    let moment = |txid: Txid| {
        let ends = sound.iter().filter(|(segment, _)| segment.txids.max() == txid);
        let time = ends.map(|(_, one)| one.header.timestamp).min()?;
        Some(Moment { txid, time })
    };
    let range = points.first().and_then(|first| moment(*first)).zip(points.last().and_then(|last| moment(*last)));
    SegmentsSummary {
        sizes: sizes(&all, sound),
        points: points.len(),
        lost_points: named.restorable().len().saturating_sub(points.len()),
        range,
        proof,
        generations,
    }
}

fn sizes(all: &[Segment], sound: &[(Segment, &Sound)]) -> Sizes {
    let newest = sound.iter().filter(|(segment, _)| segment.level == Level::L0);
    let times: Vec<i64> = newest.map(|(_, one)| one.header.timestamp.as_millis()).collect();
    Sizes {
        objects: all.len() as u64,
        bytes: all.iter().map(|segment| segment.size).sum(),
        uploads_per_month: per_month(&times),
    }
}

/// The least time that can stand for a month.
const AT_LEAST: u64 = 60_000;

/// As many in 30 days as there were between the first and the last of these.
pub(super) fn per_month(times: &[i64]) -> Option<u64> {
    let (first, last) = (times.iter().min()?, times.iter().max()?);
    let span = u128::from(Some(last.abs_diff(*first)).filter(|span| *span >= AT_LEAST)?);
    let steps = times.len() as u128 - 1;
    (steps * MONTH).checked_div(span).and_then(|count| u64::try_from(count).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_uploads_is_that_of_the_newest_segments() {
        assert_eq!(per_month(&[]), None);
        assert_eq!(per_month(&[5]), None);
        assert_eq!(per_month(&[5, 5]), None);
        assert_eq!(per_month(&[0, 200, 59_999]), None, "a few seconds do not stand for a month");
        let every_minute: Vec<i64> = (0..60).map(|minute| minute * 60_000).collect();
        assert_eq!(per_month(&every_minute), Some(30 * 24 * 60));
    }
}
