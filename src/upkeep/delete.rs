//! Carrying out what retention allows, in two steps: what may go is marked, and
//! goes once it could have gone for the whole of the grace. Marks live in memory:
//! a restart begins the grace again, which deletes nothing early.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::retain::{self, Rule, Verdict};
use super::{Error, Now, Retention, Stepped, Upkeep};
use crate::ltx::Level;
use crate::replica::{Item, Replica, Segment, Shelf};
use crate::restore::plan::Holdings;
use crate::storage::ErrorKind;
use crate::types::{Txid, TxidRange};

/// Removed with one request at most.
const BATCH: usize = 500;
/// How many times within the grace what is marked is gone through: no round is
/// worth its requests for a handful of segments.
const ROUNDS_IN_GRACE: u32 = 12;

/// What is remembered between rounds.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    /// Since when each segment could go.
    marks: BTreeMap<(Level, TxidRange), Duration>,
    last_round: Option<Duration>,
    /// The storage does not let us delete; said once.
    denied: bool,
    /// More would go than goes unasked; said once for each number.
    excessive: Option<(usize, usize)>,
    lost_pins: usize,
}

/// What a round came to.
pub(super) enum Round {
    Done,
    Nothing { again: Option<Duration> },
    Found(Stepped),
}

impl Upkeep {
    pub(super) async fn delete(&mut self, items: &[Item], now: Now) -> Result<Round, Error> {
        let Some(retention) = self.policy.retention else { return Ok(Round::Nothing { again: None }) };
        if self.deletions.denied {
            return Ok(Round::Nothing { again: None });
        }
        let every = retention.check_interval.max(retention.grace / ROUNDS_IN_GRACE);
        let since = self.deletions.last_round.map(|last| now.elapsed.saturating_sub(last));
        if let Some(left) = since.and_then(|since| every.checked_sub(since)).filter(|left| !left.is_zero()) {
            return Ok(Round::Nothing { again: Some(left) });
        }
        self.deletions.last_round = Some(now.elapsed);
        // What is broken is the audit's business, and nothing to be told every few minutes.
        let verdict = match retain::judge(items, &retention, &[]) {
            Err(retain::RetainError::Broken) => {
                return Ok(Round::Nothing { again: self.next_round(items, &retention, every) });
            }
            verdict => verdict?,
        };
        if self.ripe(&verdict, now, retention.grace).is_empty() {
            return Ok(Round::Nothing { again: self.next_round(items, &retention, every) });
        }
        let pins = self.replica.pins().await?;
        let verdict = retain::judge(items, &retention, &pins)?;
        self.report_pins(&verdict);
        let ripe = self.ripe(&verdict, now, retention.grace);
        let ripe = self.unasked(ripe, verdict.snapshots.1);
        if ripe.iter().any(|(_, rule)| matches!(rule, Rule::OldSnapshot | Rule::OldChanges)) {
            // What is to stay was not looked at for a long time, perhaps. What only makes room can wait.
            if let Some(found) = self.audit(now).await? {
                return Ok(Round::Found(found));
            }
            if self.keep_items(now).len() != items.len() {
                return Ok(Round::Done);
            }
        }
        if ripe.is_empty() {
            return Ok(Round::Nothing { again: self.next_round(items, &retention, every) });
        }
        prove(&self.replica, &self.shelf, items, &ripe).await?;
        let removed = remove(&self.replica, &self.shelf, &ripe).await;
        match removed {
            Err(error) if error.kind() == ErrorKind::Refused => {
                self.deletions.denied = true;
                tracing::warn!(
                    replica = self.replica.name(),
                    error = &error as &dyn std::error::Error,
                    "nothing is deleted from this replica: use \"prune\" with credentials that may"
                );
                Ok(Round::Nothing { again: None })
            }
            removed => removed.map(|()| Round::Done).map_err(Error::from),
        }
    }

    /// Marks what may go, and gives what was marked for long enough.
    fn ripe(&mut self, verdict: &Verdict, now: Now, grace: Duration) -> Vec<(Segment, Rule)> {
        let marks = &mut self.deletions.marks;
        let named: BTreeMap<_, _> =
            verdict.deletions.iter().map(|(segment, _)| ((segment.level, segment.txids), now.elapsed)).collect();
        marks.retain(|name, _| named.contains_key(name));
        for (name, since) in named {
            marks.entry(name).or_insert(since);
        }
        let is_ripe = |segment: &Segment| {
            let since = marks.get(&(segment.level, segment.txids));
            since.is_some_and(|since| now.elapsed.saturating_sub(*since) >= grace)
        };
        verdict.deletions.iter().filter(|(segment, _)| is_ripe(segment)).copied().collect()
    }

    /// When something may become dispensable, or its grace may have passed.
    fn next_round(&self, items: &[Item], retention: &Retention, every: Duration) -> Option<Duration> {
        let single = items.iter().filter(|i| i.segment.level == Level::L0).count() > 1 && retention.l0.is_some();
        if single || !self.deletions.marks.is_empty() {
            return Some(every);
        }
        // A snapshot that comes of age makes what lies before it dispensable.
        let young = items.iter().filter(|i| i.segment.txids.is_snapshot() && i.age < retention.history);
        young.filter(|_| items.len() > 1).map(|i| (retention.history - i.age).max(every)).min()
    }

    /// Says once what somebody should know.
    fn report_pins(&mut self, verdict: &Verdict) {
        if verdict.lost_pins.len() > self.deletions.lost_pins {
            let names: Vec<String> = verdict.lost_pins.iter().map(|pin| pin.name.to_string()).collect();
            tracing::error!(
                replica = self.replica.name(),
                pins = names.join(", "),
                "pinned points cannot be restored any more"
            );
        }
        self.deletions.lost_pins = verdict.lost_pins.len();
    }

    /// Takes back what nobody asked for. Only what is to go now counts: within a
    /// grace longer than the time between snapshots, most of them are dispensable.
    fn unasked(&mut self, mut ripe: Vec<(Segment, Rule)>, all: usize) -> Vec<(Segment, Rule)> {
        let old = ripe.iter().filter(|(_, rule)| *rule == Rule::OldSnapshot);
        let gone = old.map(|(segment, _)| segment.txids.max()).collect::<BTreeSet<_>>().len();
        if !retain::is_excessive(gone, all) {
            self.deletions.excessive = None;
            return ripe;
        }
        if self.deletions.excessive.replace((gone, all)) != Some((gone, all)) {
            tracing::error!(
                replica = self.replica.name(),
                snapshots = gone,
                of = all,
                "more than half of the snapshots would be deleted at once: none is; if this is wanted, use \"prune -confirm\""
            );
        }
        ripe.retain(|(_, rule)| matches!(rule, Rule::Merged | Rule::Promoted));
        ripe
    }
}

/// Looks at both ends of every segment that the newest point will depend on, and
/// at whether they connect, unless that was seen before.
pub(super) async fn prove(
    replica: &Replica,
    shelf: &Shelf,
    items: &[Item],
    deletions: &[(Segment, Rule)],
) -> Result<(), Error> {
    let goes = |segment: &Segment| deletions.iter().any(|(gone, _)| gone == segment);
    let left: Vec<Segment> = items.iter().map(|item| item.segment).filter(|segment| !goes(segment)).collect();
    let chain = Holdings::new(left).latest().map_err(|_| retain::RetainError::Broken)?;
    let mut before = None;
    for segment in chain.segments() {
        let item = items.iter().find(|item| item.segment == *segment);
        let header = match item.filter(|item| item.proven).and_then(|item| item.header) {
            Some(header) => header,
            None => {
                let header = replica.read_header(segment).await?;
                replica.read_trailer(segment).await?;
                shelf.learn(segment, header, true);
                header
            }
        };
        let adjacent = |end: Txid| end.next() == segment.txids.min();
        if let (Some((end, Some(after))), Some(Some(found))) = (before, header.proof.map(|proof| proof.before))
            && adjacent(end)
            && after != found
        {
            let reason = format!("it continues a database with checksum {found}, but the one before it leaves {after}");
            return Err(Error::Unproven { segment: *segment, reason });
        }
        before = Some((segment.txids.max(), header.proof.map(|proof| proof.after)));
    }
    Ok(())
}

/// Removes segments in their order.
pub(super) async fn remove(
    replica: &Replica,
    shelf: &Shelf,
    deletions: &[(Segment, Rule)],
) -> Result<(), crate::replica::Error> {
    for batch in deletions.chunks(BATCH) {
        let segments: Vec<Segment> = batch.iter().map(|(segment, _)| *segment).collect();
        replica.remove(&segments).await?;
        shelf.remove(&segments);
        for (segment, rule) in batch {
            let key = replica.key(segment.level, segment.txids).to_string();
            tracing::debug!(replica = replica.name(), segment = key, rule = rule.to_string(), "segment deleted");
        }
    }
    // One line for each level and rule.
    let mut of_rule: BTreeMap<(Level, String), Vec<TxidRange>> = BTreeMap::new();
    for (segment, rule) in deletions {
        of_rule.entry((segment.level, rule.to_string())).or_default().push(segment.txids);
    }
    for ((level, rule), ranges) in of_rule {
        let (first, last) =
            (ranges.iter().copied().map(TxidRange::min).min(), ranges.iter().copied().map(TxidRange::max).max());
        let shown = |txid: Option<Txid>| txid.map_or_else(String::new, |txid| txid.to_string());
        tracing::info!(
            replica = replica.name(),
            level = level.get(),
            segments = ranges.len(),
            minTXID = shown(first),
            maxTXID = shown(last),
            rule,
            "segments deleted"
        );
    }
    Ok(())
}
