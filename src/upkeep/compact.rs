//! Which segments are merged next, and whether a snapshot is due.
//!
//! Always true of what is returned: the inputs of a merge are segments of one
//! level that follow each other without a hole; together with what the level
//! above holds they leave none there, unless a point in between can be restored
//! without them. A segment that holds the whole database is never an input of a
//! merge into levels 1 to 8: its pages go up once, as a snapshot.
//!
//! Driven by what is there: a replica to which nothing was added has nothing due.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::ltx::Level;
use crate::replica::{Item, Segment};
use crate::restore::plan::Holdings;
use crate::types::{Timestamp, Txid, TxidRange};

use super::policy::Snapshots;

/// Segments merged at a time: each takes a buffer and a page or two of memory.
pub const FAN_IN: usize = 128;

/// A merge to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Where the result goes.
    pub level: Level,
    /// What it is called there.
    pub txids: TxidRange,
    /// What it is made of, oldest first.
    pub inputs: Vec<Segment>,
}

/// What to do about the levels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The next merge.
    pub merge: Option<Merge>,
    /// Segments that must say first whether they hold the whole database.
    pub ask: Vec<Segment>,
    /// When to look again if nothing changes before.
    pub again: Option<Duration>,
    /// Holes that keep a level from being merged: the level, what is missing.
    pub holes: Vec<(Level, TxidRange)>,
}

/// What is due, the lowest level first. `aside` are segments that could not be
/// merged and are left as they are.
pub fn merges(items: &[Item], intervals: &[Duration], aside: &BTreeSet<(Level, TxidRange)>) -> Found {
    let mut found = Found::default();
    let segments: Vec<Segment> = items.iter().map(|item| item.segment).collect();
    let mut restorable: Option<Vec<Txid>> = None;
    for (interval, number) in intervals.iter().zip(1u8..) {
        let (Some(level), Some(below)) = (Level::new(number), Level::new(number - 1)) else { continue };
        let reached = segments.iter().filter(|s| s.level == level).map(|s| s.txids.max()).max();
        let waiting = items.iter().filter(|i| i.segment.level == below && Some(i.segment.txids.max()) > reached);
        let run = run(waiting, reached, aside);
        let Some(first) = run.items.first() else { continue };
        let missing = missing_before(first.segment.txids.min(), reached, run.after_aside);
        if let Some(missing) = missing {
            let points = restorable.get_or_insert_with(|| Holdings::new(segments.iter().copied()).restorable());
            if points.binary_search(&missing.max()).is_err() {
                found.holes.push((level, missing));
                continue;
            }
        }
        let oldest = run.items.iter().map(|item| item.age).max().unwrap_or_default();
        if oldest < *interval && !run.ended && run.items.len() < FAN_IN {
            found.again = found.again.into_iter().chain([*interval - oldest]).min();
            continue;
        }
        let ask: Vec<Segment> = run.items.iter().filter(|i| i.header.is_none()).map(|i| i.segment).collect();
        if !ask.is_empty() {
            found.ask = ask;
            return found;
        }
        let inputs: Vec<Segment> = run.items.iter().map(|item| item.segment).collect();
        let last = inputs.last().unwrap_or(&first.segment);
        let Some(txids) = TxidRange::new(first.segment.txids.min(), last.txids.max()) else { continue };
        found.merge = Some(Merge { level, txids, inputs });
        return found;
    }
    found
}

struct Run<'a> {
    items: Vec<&'a Item>,
    /// Nothing can be added to it any more: what follows does not connect or is not merged.
    ended: bool,
    /// What comes before it was left out on purpose, up to here.
    after_aside: Option<Txid>,
}

fn run<'a>(
    waiting: impl Iterator<Item = &'a Item>,
    reached: Option<Txid>,
    aside: &BTreeSet<(Level, TxidRange)>,
) -> Run<'a> {
    let mut run = Run { items: Vec::new(), ended: false, after_aside: None };
    for item in waiting {
        let txids = item.segment.txids;
        let left_out = item.is_complete() || aside.contains(&(item.segment.level, txids));
        match run.items.last() {
            None if left_out => run.after_aside = run.after_aside.max(Some(txids.max())),
            // It overlaps with what the level above holds already.
            None if Some(txids.min()) <= reached => {}
            None => run.items.push(item),
            Some(last) if left_out || txids.min() != last.segment.txids.max().next() => {
                run.ended = true;
                break;
            }
            Some(_) if run.items.len() == FAN_IN => break,
            Some(_) => run.items.push(item),
        }
    }
    run
}

/// The transactions between what the level holds and what would come next.
fn missing_before(first: Txid, reached: Option<Txid>, aside: Option<Txid>) -> Option<TxidRange> {
    let next = Txid::after(reached);
    let last = Txid::new(first.get() - 1)?;
    if Some(last) <= aside {
        return None;
    }
    TxidRange::new(next, last)
}

/// A snapshot to be made of what the replica holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Snapshot {
    /// Merge these; the first of them holds the whole database.
    Merge(Merge),
    /// Give this base a second name at the snapshot level.
    Promote(Segment),
}

/// What to do about snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotDue {
    /// The next one.
    pub snapshot: Option<Snapshot>,
    /// When to look again if nothing changes before.
    pub again: Option<Duration>,
}

/// Whether a snapshot is due. `shift` is this replica's share of the jitter, of
/// 2^64; `can_promote` is false once the storage was seen to be unable.
pub fn snapshot(items: &[Item], policy: &Snapshots, wall: Timestamp, shift: u64, can_promote: bool) -> SnapshotDue {
    let nothing = SnapshotDue::default();
    let at_9 = items.iter().filter(|i| i.segment.level == Level::SNAPSHOT).map(|i| i.segment.txids.max()).max();
    let base = items.iter().filter(|i| i.is_complete()).max_by_key(|i| (i.segment.txids.max(), i.segment.level));
    let Some(base) = base else { return nothing };
    let end = base.segment.txids.max();
    if Some(end) > at_9 {
        // A base that stands among other segments would be lost with them, and would break levels in two.
        let base = base.segment;
        if base.txids.is_snapshot() {
            if can_promote && at_9.is_none() && base.level == Level::L0 {
                return SnapshotDue { snapshot: Some(Snapshot::Promote(base)), again: None };
            }
        } else if let Some(txids) = TxidRange::new(Txid::FIRST, end) {
            let merge = Merge { level: Level::SNAPSHOT, txids, inputs: vec![base] };
            return SnapshotDue { snapshot: Some(Snapshot::Merge(merge)), again: None };
        }
    }
    let news = items.iter().filter(|i| i.segment.txids.min() > end);
    let Some(waiting) = news.map(|item| item.age).max() else { return nothing };
    let left = wait(policy, waiting, wall, shift);
    if !left.is_zero() {
        return SnapshotDue { snapshot: None, again: Some(left) };
    }
    SnapshotDue { snapshot: snapshot_of(items, end).map(Snapshot::Merge), again: None }
}

/// How much longer a change that has waited this long is to wait for a snapshot.
fn wait(policy: &Snapshots, waiting: Duration, wall: Timestamp, shift: u64) -> Duration {
    const DAY: i128 = 86_400_000;
    let Some(at) = policy.at else { return policy.interval.saturating_sub(waiting) };
    let millis = |d: Duration| i128::try_from(d.as_millis()).unwrap_or(i128::MAX);
    let jitter = (millis(at.jitter).saturating_mul(i128::from(shift))) >> 64;
    let offset = millis(at.after_midnight) + jitter;
    let now = i128::from(wall.as_millis());
    let since = now - millis(waiting);
    let days = (millis(policy.interval) / DAY).max(1);
    // The first time of the day after the change, and as many days later as the interval has more than one.
    let due = ((since - offset).div_euclid(DAY) + days) * DAY + offset;
    Duration::from_millis(u64::try_from((due - now).max(0)).unwrap_or(u64::MAX))
}

/// The chain to the newest merged point, or to the newest point if nothing was merged since the base at `base`.
fn snapshot_of(items: &[Item], base: Txid) -> Option<Merge> {
    let mut holdings = Holdings::new(items.iter().map(|item| item.segment));
    // It needs nothing before it, whatever its name says.
    items.iter().filter(|item| item.is_complete()).for_each(|item| holdings.learn_complete(item.segment));
    let merged = items.iter().filter(|i| i.segment.level > Level::L0 && !i.is_complete());
    let merged = merged.map(|i| i.segment.txids.max()).filter(|end| *end > base).max();
    let chain = merged.and_then(|end| holdings.exactly(end).ok()).or_else(|| holdings.latest().ok())?;
    // One that is too long goes part of the way, and the rest of it next time.
    let links = &chain.segments()[..chain.segments().len().min(FAN_IN)];
    let end = links.last()?.txids.max();
    let txids = TxidRange::new(Txid::FIRST, end).filter(|_| end > base)?;
    Some(Merge { level: Level::SNAPSHOT, txids, inputs: links.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::{Header, Proof};
    use crate::types::{Checksum, PageSize};

    const SECOND: Duration = Duration::from_secs(1);
    const LEVELS: [Duration; 3] = [Duration::from_secs(30), Duration::from_secs(300), Duration::from_secs(3600)];

    fn txids(min: u64, max: u64) -> TxidRange {
        TxidRange::new(Txid::new(min).unwrap(), Txid::new(max).unwrap()).unwrap()
    }

    fn at(level: u8, min: u64, max: u64, age: u64) -> Item {
        let (level, txids) = (Level::new(level).unwrap(), txids(min, max));
        let segment = Segment { level, txids, size: 1, created: Timestamp::from_millis(0) };
        let sum = Checksum::from_crc(1);
        let header = Header {
            page_size: PageSize::new(512).unwrap(),
            commit: 1,
            txids,
            timestamp: segment.created,
            wal: None,
            generation: None,
            proof: Some(Proof { before: (min > 1).then_some(sum), after: sum }),
        };
        Item { segment, age: SECOND * u32::try_from(age).unwrap(), header: Some(header), proven: true }
    }

    fn complete(item: Item) -> Item {
        let mut header = item.header.unwrap();
        header.proof = header.proof.map(|proof| Proof { before: None, ..proof });
        Item { header: Some(header), ..item }
    }

    fn found(items: &[Item]) -> Found {
        merges(items, &LEVELS, &BTreeSet::new())
    }

    /// The level and the range of the merge that is due.
    fn due(items: &[Item]) -> Option<(u8, u64, u64, usize)> {
        let merge = found(items).merge?;
        let range = merge.txids;
        Some((merge.level.get(), range.min().get(), range.max().get(), merge.inputs.len()))
    }

    #[test]
    fn a_level_is_merged_when_its_oldest_input_has_waited_for_its_interval() {
        let items = [at(0, 1, 1, 100), at(0, 2, 2, 29), at(0, 3, 3, 5)];
        assert_eq!(found(&items), Found { again: Some(SECOND), ..Found::default() });
        let items = [at(0, 1, 1, 101), at(0, 2, 2, 30), at(0, 3, 3, 6)];
        assert_eq!(due(&items), Some((1, 2, 3, 2)));
    }

    #[test]
    fn nothing_new_is_nothing_due_and_no_reason_to_wake_up() {
        let items = [at(0, 1, 1, 99_999), at(0, 9, 9, 99_999), at(1, 2, 9, 99_999), at(2, 2, 9, 9), at(3, 2, 9, 9)];
        assert_eq!(found(&items), Found::default());
        assert_eq!(found(&[]), Found::default());
    }

    #[test]
    fn each_level_takes_over_where_it_ended() {
        let items = [at(0, 8, 8, 40), at(0, 9, 9, 40), at(1, 2, 5, 400), at(1, 6, 8, 400), at(2, 2, 5, 400)];
        assert_eq!(due(&items), Some((1, 9, 9, 1)));
        let items = [at(0, 9, 9, 10), at(1, 2, 5, 400), at(1, 6, 9, 301), at(2, 2, 5, 400)];
        assert_eq!(due(&items), Some((2, 6, 9, 1)));
    }

    #[test]
    fn a_backlog_is_merged_in_pieces_without_waiting() {
        let mut items = vec![at(0, 1, 1, 0)];
        items.extend((2..400).map(|n| at(0, n, n, 0)));
        assert_eq!(due(&items), Some((1, 2, 129, FAN_IN)));
        items.push(at(1, 2, 129, 0));
        assert_eq!(due(&items), Some((1, 130, 257, FAN_IN)));
    }

    /// F86: neither a first base, nor a later one, nor the copies that Litestream made.
    #[test]
    fn what_holds_the_whole_database_is_not_merged_into_a_level() {
        assert_eq!(due(&[at(0, 1, 1, 999)]), None);
        let later = [at(0, 1, 1, 99), at(0, 2, 2, 9), complete(at(0, 3, 3, 9)), at(0, 4, 4, 9)];
        assert_eq!(
            due(&later),
            Some((1, 2, 2, 1)),
            "and what comes before it does not wait: nothing joins it any more"
        );
        let mut later = later.to_vec();
        later.push(at(1, 2, 2, 9));
        assert_eq!(due(&later), Some((2, 2, 2, 1)).filter(|_| false), "level 2 waits, its run can still grow");
        later[3].age = SECOND * 31;
        assert_eq!(due(&later), Some((1, 4, 4, 1)));
        later.push(at(1, 4, 4, 0));
        assert_eq!(due(&later), Some((2, 2, 2, 1)), "and now it cannot");
        assert_eq!(due(&[at(1, 1, 5, 999), at(1, 6, 9, 999)]), Some((2, 6, 9, 1)));
    }

    /// F81: a hole ends the merge before it, and nothing goes on behind it.
    #[test]
    fn nothing_is_merged_across_a_hole() {
        let items = [at(0, 1, 1, 99), at(0, 2, 2, 99), at(0, 3, 3, 99), at(0, 5, 5, 99)];
        assert_eq!(due(&items), Some((1, 2, 3, 2)));
        let mut items = items.to_vec();
        items.push(at(1, 2, 3, 0));
        let stuck = found(&items);
        assert_eq!((stuck.merge, stuck.holes), (None, vec![(Level::new(1).unwrap(), txids(4, 4))]));
        // A snapshot beyond the hole makes it a matter of the past.
        items.push(at(9, 1, 4, 0));
        assert_eq!(due(&items), Some((1, 5, 5, 1)));
    }

    #[test]
    fn what_cannot_be_merged_is_passed_over() {
        let items = [at(0, 1, 1, 99), at(0, 2, 2, 99), at(0, 3, 3, 99), at(0, 4, 4, 99)];
        let aside = BTreeSet::from([(Level::L0, txids(2, 2)), (Level::L0, txids(3, 3))]);
        let merge = merges(&items, &LEVELS, &aside).merge.unwrap();
        assert_eq!(merge.txids, txids(4, 4));
    }

    #[test]
    fn segments_of_before_a_restart_are_asked_what_they_are_when_it_matters() {
        let unknown = |n, age| Item { header: None, ..at(0, n, n, age) };
        assert_eq!(found(&[at(0, 1, 1, 99), unknown(2, 5)]).ask, []);
        let asked = found(&[at(0, 1, 1, 99), unknown(2, 35), at(0, 3, 3, 5)]);
        assert_eq!((asked.ask.len(), asked.merge), (1, None));
    }

    const DAILY: Snapshots = Snapshots { interval: Duration::from_secs(86_400), at: None };

    fn snapshot_due(items: &[Item]) -> Option<(u64, Vec<(u8, u64)>)> {
        match snapshot(items, &DAILY, Timestamp::from_millis(0), 0, true).snapshot? {
            Snapshot::Merge(merge) => {
                assert_eq!((merge.level, merge.txids.min()), (Level::SNAPSHOT, Txid::FIRST));
                let inputs = merge.inputs.iter().map(|s| (s.level.get(), s.txids.max().get())).collect();
                Some((merge.txids.max().get(), inputs))
            }
            Snapshot::Promote(base) => Some((base.txids.max().get(), vec![])),
        }
    }

    #[test]
    fn the_first_base_becomes_a_snapshot_without_a_copy_of_it_and_an_idle_database_gets_no_other() {
        assert_eq!(snapshot_due(&[at(0, 1, 1, 0)]), Some((1, vec![])));
        let idle = [at(0, 1, 1, 9_999_999), at(9, 1, 1, 9_999_999)];
        assert_eq!(snapshot(&idle, &DAILY, Timestamp::from_millis(0), 0, true), SnapshotDue::default());
        let unable = snapshot(&[at(0, 1, 1, 9)], &DAILY, Timestamp::from_millis(0), 0, false);
        assert_eq!(unable, SnapshotDue::default());
    }

    #[test]
    fn a_snapshot_is_made_of_the_longest_strides_once_a_change_has_waited_for_it() {
        let mut items = vec![at(9, 1, 1, 90_000), at(3, 2, 9, 80_000), at(1, 2, 4, 86_399), at(1, 10, 12, 50)];
        items.push(at(0, 13, 13, 1));
        let waiting = snapshot(&items, &DAILY, Timestamp::from_millis(0), 0, true);
        assert_eq!(waiting, SnapshotDue { snapshot: None, again: Some(SECOND) });
        items[2].age += SECOND;
        assert_eq!(snapshot_due(&items), Some((12, vec![(9, 1), (3, 9), (1, 12)])));
    }

    /// Before Litestream deletes it as a mere change.
    #[test]
    fn a_base_in_the_middle_of_a_history_becomes_a_snapshot_at_once() {
        let items = [at(9, 1, 1, 9), at(1, 2, 4, 9), complete(at(0, 5, 5, 0)), at(0, 6, 6, 0)];
        assert_eq!(snapshot_due(&items), Some((5, vec![(0, 5)])));
        let items = [at(9, 1, 1, 9), at(9, 1, 5, 9), complete(at(0, 5, 5, 0)), at(0, 6, 6, 0)];
        assert_eq!(snapshot_due(&items), None);
        // And what came before it, which may have holes, is not read again.
        let items = [at(9, 1, 1, 9), complete(at(0, 5, 5, 0)), at(9, 1, 5, 0), at(1, 6, 7, 86_400)];
        assert_eq!(snapshot_due(&items), Some((7, vec![(0, 5), (1, 7)])));
    }

    #[test]
    fn a_very_long_chain_is_gone_in_stages() {
        let mut items = vec![at(9, 1, 1, 90_000)];
        items.extend((2..500).map(|n| at(0, n, n, 90_000)));
        let (end, inputs) = snapshot_due(&items).unwrap();
        assert_eq!((end, inputs.len()), (128, FAN_IN));
    }

    #[test]
    fn a_time_of_day_is_met_once_a_day_and_spread() {
        const HOUR: i64 = 3_600_000;
        let at_three = |jitter: u64| Snapshots {
            at: Some(TimeOfDay { after_midnight: SECOND * 10_800, jitter: SECOND * u32::try_from(jitter).unwrap() }),
            ..DAILY
        };
        let left = |policy: &Snapshots, waiting: u32, wall: i64, shift: u64| {
            wait(policy, SECOND * waiting, Timestamp::from_millis(wall), shift).as_secs()
        };
        assert_eq!(left(&at_three(0), 3600, 2 * HOUR, 0), 3600, "at two o'clock, a change of one o'clock");
        assert_eq!(left(&at_three(0), 3600, 3 * HOUR, 0), 0);
        assert_eq!(left(&at_three(0), 3600, 9 * HOUR, 0), 18 * 3600, "a change of eight o'clock");
        assert_eq!(left(&at_three(3600), 3600, 3 * HOUR, u64::MAX / 2), 1799);
        let weekly = Snapshots { interval: SECOND * 7 * 86_400, ..at_three(0) };
        assert_eq!(left(&weekly, 3600, 9 * HOUR, 0), (6 * 24 + 18) * 3600);
    }

    use super::super::policy::TimeOfDay;
}
