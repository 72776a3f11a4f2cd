//! What may be deleted, and by which rule.
//!
//! Always true, whatever the policy, the ages and the listing: nothing goes
//! unless the newest point can be restored, and after everything named here is
//! gone so can the newest point, every snapshot that is kept, every pinned
//! point, and every point inside the history that the policy keeps, except
//! transactions that were merged with their neighbours. This is not left to the
//! rules: the outcome is checked against the planner of restores, and if the
//! check fails nothing is deleted at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::civil::{Date, ISOWeekDate};
use jiff::tz::TimeZone;

use crate::ltx::Level;
use crate::replica::{Item, Pin, Segment};
use crate::restore::plan::Holdings;
use crate::types::{Timestamp, Txid, TxidRange};

use super::policy::{Keep, Retention};

/// Why a segment may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A single transaction that a merged segment holds, after `l0-retention`.
    Merged,
    /// A base that the snapshot level holds too, after `l0-retention`.
    Promoted,
    /// A snapshot older than the history that is kept, which no `keep` rule asks for.
    OldSnapshot,
    /// Changes from before the snapshot that the kept history begins with.
    OldChanges,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Merged => "merged, l0-retention",
            Self::Promoted => "held as a snapshot, l0-retention",
            Self::OldSnapshot => "snapshot.retention",
            Self::OldChanges => "before the oldest kept snapshot",
        })
    }
}

/// What may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The segments in the order of their deletion: the snapshots first, then the
    /// newest changes first, so that what is left is never a chain with a hole.
    pub deletions: Vec<(Segment, Rule)>,
    /// Pinned points that cannot be restored any more, if they ever could.
    pub lost_pins: Vec<Pin>,
    /// The snapshots among the deletions, and all there are.
    pub snapshots: (usize, usize),
}

/// A check that should never fail: the rules would have deleted something that is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetainError {
    /// The newest point cannot be restored as it is.
    #[error("the newest point of the replica cannot be restored: nothing is deleted until it can")]
    Broken,
    /// Another point could not be restored afterwards.
    #[error("transaction {0} could not be restored afterwards: nothing is deleted; please report this")]
    Unsafe(Txid),
}

/// No more than this share of the snapshots goes at once without being asked
/// for: more means that a setting or a clock is wrong.
const SHARE: (usize, usize) = (1, 2);
/// So few may always go: of two, one is half.
const FEW: usize = 2;

impl Verdict {
    /// Whether somebody should look at this first.
    pub fn is_excessive(&self) -> bool {
        let (gone, all) = self.snapshots;
        is_excessive(gone, all)
    }
}

/// Whether so many of all snapshots should not go at once without being asked for.
pub(super) fn is_excessive(gone: usize, all: usize) -> bool {
    gone > FEW && gone * SHARE.1 > all * SHARE.0
}

/// Judges everything that is on a replica.
pub fn judge(items: &[Item], retention: &Retention, pins: &[Pin]) -> Result<Verdict, RetainError> {
    let all: Vec<Segment> = items.iter().map(|item| item.segment).collect();
    if all.is_empty() {
        return Ok(Verdict::default());
    }
    // By names alone, as Litestream plans: what only brooklet could restore is no reason to delete.
    let holdings = Holdings::new(all.iter().copied());
    let newest = holdings.latest().map_err(|_| RetainError::Broken)?;
    let restorable = holdings.restorable();
    let mut needed: BTreeSet<(Level, _)> = newest.segments().iter().map(name).collect();
    let mut points: BTreeSet<Txid> = BTreeSet::from([newest.end()]);
    let mut verdict = Verdict::default();
    for pin in pins {
        match holdings.exactly(pin.txid) {
            Ok(chain) => {
                needed.extend(chain.segments().iter().map(name));
                points.insert(pin.txid);
            }
            Err(_) => verdict.lost_pins.push(pin.clone()),
        }
    }
    // The history that is kept begins with the newest snapshot that is old enough.
    let snapshots: Vec<&Item> = items.iter().filter(|item| item.segment.txids.is_snapshot()).collect();
    let old_enough = snapshots.iter().filter(|item| item.age >= retention.history);
    let floor = old_enough.map(|item| item.segment.txids.max()).max();
    for item in kept_snapshots(&snapshots, &retention.keep) {
        needed.insert(name(&item.segment));
        points.insert(item.segment.txids.max());
    }
    for level in Level::all() {
        // Litestream takes the position of a level from its newest segment.
        needed.extend(all.iter().filter(|s| s.level == level).max_by_key(|s| s.txids.max()).map(name));
    }
    let holders = Holders::of(items);
    for item in items {
        let segment = item.segment;
        match rule_for(item, &holders, floor, retention) {
            Some(rule) if !needed.contains(&name(&segment)) => verdict.deletions.push((segment, rule)),
            // Kept for another reason than its own point.
            Some(_) => {}
            None => drop(points.insert(segment.txids.max())),
        }
    }
    points.retain(|point| restorable.binary_search(point).is_ok());
    let gone: BTreeSet<_> = verdict.deletions.iter().map(|(segment, _)| name(segment)).collect();
    let left: Vec<Segment> = all.iter().filter(|s| !gone.contains(&name(s))).copied().collect();
    let afterwards = Holdings::new(left.iter().copied()).restorable();
    if let Some(lost) = points.iter().find(|point| afterwards.binary_search(point).is_err()) {
        return Err(RetainError::Unsafe(*lost));
    }
    let ends = |segments: &mut dyn Iterator<Item = &Segment>| {
        segments.filter(|s| s.txids.is_snapshot()).map(|s| s.txids.max()).collect::<BTreeSet<_>>()
    };
    let (before, after) = (ends(&mut all.iter()), ends(&mut left.iter()));
    verdict.snapshots = (before.difference(&after).count(), before.len());
    verdict.deletions.sort_by_key(|(segment, rule)| {
        let snapshots_first = *rule != Rule::OldSnapshot;
        (snapshots_first, std::cmp::Reverse((segment.txids.max(), segment.level)))
    });
    Ok(verdict)
}

fn name(segment: &Segment) -> (Level, TxidRange) {
    (segment.level, segment.txids)
}

fn rule_for(item: &Item, holders: &Holders, floor: Option<Txid>, retention: &Retention) -> Option<Rule> {
    let Segment { level, txids, .. } = item.segment;
    let below_floor = floor.is_some_and(|floor| txids.max() <= floor);
    if txids.is_snapshot() {
        // The floor itself is what the kept history begins with.
        if floor.is_some_and(|floor| txids.max() < floor) {
            return Some(Rule::OldSnapshot);
        }
    } else if below_floor {
        return Some(Rule::OldChanges);
    }
    let rest = retention.l0.filter(|rest| level == Level::L0 && item.age >= *rest)?;
    match txids.is_snapshot() {
        true => holders.has_snapshot(&item.segment).then_some(Rule::Promoted),
        false => holders.held_since(&item.segment).is_some_and(|held| held >= rest).then_some(Rule::Merged),
    }
}

/// What could stand in for a segment of level 0: each level's segments, ascending.
/// What holds it counts, not what lies beyond it: a maximum says nothing about
/// holes below.
struct Holders {
    merged: Vec<Vec<TxidRange>>,
    snapshots: BTreeSet<TxidRange>,
    /// The ages of level 0, by the last TXID.
    singles: BTreeMap<Txid, Duration>,
}

impl Holders {
    fn of(items: &[Item]) -> Self {
        let at = |level: Level| items.iter().filter(move |i| i.segment.level == level);
        let between = Level::all().filter(|level| *level > Level::L0 && *level < Level::SNAPSHOT);
        let sorted = |level| {
            let mut ranges: Vec<TxidRange> = at(level).map(|i| i.segment.txids).collect();
            ranges.sort_unstable();
            ranges
        };
        Self {
            merged: between.map(sorted).collect(),
            snapshots: at(Level::SNAPSHOT).map(|i| i.segment.txids).collect(),
            singles: at(Level::L0).map(|i| (i.segment.txids.max(), i.age)).collect(),
        }
    }

    fn has_snapshot(&self, base: &Segment) -> bool {
        self.snapshots.contains(&base.txids)
    }

    /// How old the youngest is of all that the same merged segment holds: they go
    /// together. A transaction is no use without those between it and the last merged point.
    ///
    /// `None` as well if a segment of a lower level ends within that one and cannot
    /// be reached without this transaction, because what held it there was lost.
    fn held_since(&self, single: &Segment) -> Option<Duration> {
        let mut stranded: Option<Txid> = None;
        for ranges in &self.merged {
            let next = ranges.partition_point(|range: &TxidRange| (*range).min() <= single.txids.min());
            let holder = next.checked_sub(1).map(|at| ranges[at]);
            match holder.filter(|holder: &TxidRange| (*holder).max() >= single.txids.max()) {
                Some(holder) if stranded.is_some_and(|point| point < holder.max()) => return None,
                Some(holder) => return self.singles.range(holder.min()..=holder.max()).map(|(_, age)| *age).min(),
                None => stranded = stranded.into_iter().chain(ranges.get(next).map(|later| (*later).max())).min(),
            }
        }
        None
    }
}

/// The newest snapshot of each of the newest periods, for every kind of period.
fn kept_snapshots<'a>(snapshots: &[&'a Item], keep: &Keep) -> Vec<&'a Item> {
    let mut newest_first: Vec<&Item> = snapshots.to_vec();
    newest_first.sort_by_key(|item| std::cmp::Reverse((item.segment.txids.max(), item.segment.level)));
    newest_first.dedup_by_key(|item| item.segment.txids.max());
    let mut kept = Vec::new();
    let kinds: [(u32, PeriodOf); 6] = [
        (keep.last, |_, position| Period::Position(position)),
        (keep.hourly, |time, _| Period::Hour(time.as_millis().div_euclid(3_600_000))),
        (keep.daily, |time, _| Period::Day(date(time))),
        (keep.weekly, |time, _| week(date(time))),
        (keep.monthly, |time, _| Period::Month(date(time).year(), date(time).month())),
        (keep.yearly, |time, _| Period::Year(date(time).year())),
    ];
    for (wanted, period) in kinds {
        let mut seen: Vec<Period> = Vec::new();
        for (position, item) in newest_first.iter().enumerate() {
            if seen.len() >= usize::try_from(wanted).unwrap_or(usize::MAX) {
                break;
            }
            let period = period(item.time(), position);
            if seen.last() != Some(&period) {
                seen.push(period);
                kept.push(*item);
            }
        }
    }
    kept
}

/// The period that a snapshot belongs to, by its time and its position from the newest.
type PeriodOf = fn(Timestamp, usize) -> Period;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Period {
    Position(usize),
    Hour(i64),
    Day(Date),
    Week(i16, i8),
    Month(i16, i8),
    Year(i16),
}

fn date(time: Timestamp) -> Date {
    let time = jiff::Timestamp::from_millisecond(time.as_millis()).unwrap_or_default();
    TimeZone::UTC.to_datetime(time).date()
}

fn week(date: Date) -> Period {
    let week: ISOWeekDate = date.iso_week_date();
    Period::Week(week.year(), week.week())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;

    fn txid(n: u64) -> Txid {
        Txid::new(n).unwrap()
    }

    fn at(level: u8, min: u64, max: u64, age: u64) -> Item {
        let txids = TxidRange::new(txid(min), txid(max)).unwrap();
        let created = Timestamp::from_millis(1_700_000_000_000 - i64::try_from(age * 1000).unwrap());
        let segment = Segment { level: Level::new(level).unwrap(), txids, size: 1, created };
        Item { segment, age: Duration::from_secs(age), header: None, proven: true }
    }

    fn pin(n: u64) -> Pin {
        Pin { name: "p".parse().unwrap(), txid: txid(n), time: Timestamp::from_millis(0) }
    }

    /// What may go, as level and last TXID.
    fn gone(items: &[Item], retention: &Retention, pins: &[Pin]) -> Vec<(u8, u64)> {
        let verdict = judge(items, retention, pins).unwrap();
        verdict.deletions.iter().map(|(s, _)| (s.level.get(), s.txids.max().get())).collect()
    }

    fn by_default(items: &[Item]) -> Vec<(u8, u64)> {
        gone(items, &Retention::default(), &[])
    }

    #[test]
    fn single_transactions_go_once_they_are_merged_and_have_rested() {
        let mut items = vec![at(9, 1, 1, 9999), at(1, 2, 3, 900), at(1, 4, 5, 900)];
        items.extend([at(0, 2, 2, 301), at(0, 3, 3, 300), at(0, 4, 4, 999), at(0, 5, 5, 299), at(0, 6, 6, 999)]);
        assert_eq!(by_default(&items), [(0, 3), (0, 2)], "what was merged together goes together");
        let never = Retention { l0: None, ..Retention::default() };
        assert_eq!(gone(&items, &never, &[]), []);
    }

    /// F80: level 1 holds something newer, but not these.
    #[test]
    fn a_single_transaction_stays_if_only_later_ones_were_merged() {
        let mut items = vec![at(9, 1, 1, 9999), at(1, 2, 3, 9999), at(1, 7, 8, 9999)];
        items.extend((2..=9).map(|n| at(0, n, n, 9999)));
        assert_eq!(by_default(&items), [(0, 8), (0, 7), (0, 3), (0, 2)]);
    }

    /// Level 1 lost what held transaction 4, after it was merged further: without it nothing leads to 5, which is kept.
    #[test]
    fn a_single_transaction_stays_if_a_merged_point_needs_it() {
        let mut items = vec![at(9, 1, 3, 9999), at(1, 2, 2, 9999), at(1, 5, 5, 9999), at(1, 6, 7, 9999)];
        items.push(at(2, 2, 7, 9999));
        items.extend((1..=8).map(|n| at(0, n, n, 9999)));
        let all_past = Retention { history: Duration::ZERO, ..Retention::default() };
        assert_eq!(gone(&items, &all_past, &[]), [(0, 1), (0, 7), (0, 6), (0, 5), (0, 3), (1, 2), (0, 2)]);
        // With nothing in between, what was merged further is enough.
        items.retain(|item| item.segment.level != Level::new(1).unwrap());
        assert_eq!(gone(&items, &all_past, &[])[..5], [(0, 1), (0, 7), (0, 6), (0, 5), (0, 4)]);
    }

    /// Litestream takes its position from there, and both want the newest point.
    #[test]
    fn the_newest_segment_of_a_level_stays() {
        let items = [at(9, 1, 1, 9 * DAY), at(9, 1, 9, 2 * DAY), at(1, 2, 5, DAY), at(1, 6, 9, DAY), at(0, 9, 9, DAY)];
        assert_eq!(by_default(&items), [(9, 1), (1, 5)]);
    }

    #[test]
    fn a_base_goes_from_level_0_when_the_snapshot_level_holds_it_and_not_before() {
        let base = [at(0, 1, 1, 9999), at(0, 2, 2, 99), at(1, 2, 2, 99)];
        assert_eq!(by_default(&base), []);
        let mut items = base.to_vec();
        items.push(at(9, 1, 1, 9999));
        assert_eq!(by_default(&items), [(0, 1)]);
        assert_eq!(judge(&items, &Retention::default(), &[]).unwrap().deletions[0].1, Rule::Promoted);
    }

    /// A day of history means a day, not what is left of it after a snapshot.
    #[test]
    fn history_is_kept_from_the_newest_snapshot_that_is_old_enough() {
        let items = |hours: u64| {
            let now = 72 + hours;
            let mut items: Vec<Item> = (0..=3).map(|d| at(9, 1, 1 + d * 10, (now - d * 24) * HOUR)).collect();
            items.extend((0..4).map(|d| at(1, 2 + d * 10, 11 + d * 10, (now - d * 24 - 12).saturating_mul(HOUR))));
            items
        };
        assert_eq!(by_default(&items(23)), [(9, 11), (9, 1), (1, 21), (1, 11)], "21 was made 47 hours ago");
        assert_eq!(by_default(&items(24)), [(9, 21), (9, 11), (9, 1), (1, 31), (1, 21), (1, 11)]);
    }

    #[test]
    fn pinned_points_and_what_they_need_stay() {
        let mut items = vec![at(9, 1, 1, 9 * DAY), at(9, 1, 20, 5 * DAY), at(9, 1, 30, 2 * DAY), at(9, 1, 40, 9)];
        items.extend([at(1, 2, 5, 9 * DAY), at(1, 6, 8, 9 * DAY), at(1, 9, 20, 6 * DAY), at(1, 21, 40, 9)]);
        items.push(at(0, 7, 7, 9 * DAY));
        items.push(at(0, 41, 41, 9));
        let all = [(9, 20), (9, 1), (1, 20), (1, 8), (0, 7), (1, 5)];
        assert_eq!(by_default(&items), all);
        let kept = |n| gone(&items, &Retention::default(), &[pin(n)]);
        assert_eq!(kept(8), [(9, 20), (1, 20), (0, 7)]);
        assert_eq!(kept(20), [(9, 1), (1, 20), (1, 8), (0, 7), (1, 5)]);
        let lost = judge(&items, &Retention::default(), &[pin(33)]).unwrap();
        assert_eq!((lost.lost_pins, lost.deletions.len()), (vec![pin(33)], all.len()));
    }

    #[test]
    fn nothing_goes_while_the_newest_point_cannot_be_restored() {
        let hole = [at(9, 1, 1, 9 * DAY), at(9, 1, 4, 3 * DAY), at(0, 3, 3, DAY), at(0, 6, 6, DAY)];
        assert_eq!(judge(&hole, &Retention::default(), &[]), Err(RetainError::Broken));
        assert_eq!(judge(&[], &Retention::default(), &[]), Ok(Verdict::default()));
    }

    #[test]
    fn older_snapshots_are_kept_one_for_each_period() {
        // One every six hours for two years, numbered from the newest.
        let count = 4 * 730;
        let items: Vec<Item> = (0..count).map(|n| at(9, 1, count - n, n * 6 * HOUR)).collect();
        let kept = |keep: Keep| {
            let retention = Retention { keep, history: Duration::from_secs(HOUR), ..Retention::default() };
            let gone = judge(&items, &retention, &[]).unwrap().deletions.len();
            items.len() - gone
        };
        let none = Keep::default();
        assert_eq!(kept(none), 2, "the newest, and the one that the last hour begins with");
        assert_eq!(kept(Keep { last: 5, ..none }), 5);
        assert_eq!(kept(Keep { hourly: 5, ..none }), 5);
        assert_eq!(kept(Keep { daily: 7, ..none }), 8, "the second newest is of the same day as the newest");
        let monthly = kept(Keep { monthly: 12, ..none });
        assert!((13..=14).contains(&monthly), "{monthly}");
        assert_eq!(kept(Keep { yearly: 10, ..none }), 4);
        let together = Keep { last: 3, daily: 7, weekly: 4, monthly: 12, yearly: 3, ..none };
        assert!((22..=27).contains(&kept(together)), "{}", kept(together));
    }

    #[test]
    fn half_of_the_snapshots_at_once_is_worth_a_question() {
        let excessive = |gone, all| Verdict { snapshots: (gone, all), ..Verdict::default() }.is_excessive();
        assert!(!excessive(2, 3) && !excessive(1, 2), "ordinary with few snapshots");
        assert!(!excessive(15, 30) && excessive(16, 30) && excessive(3, 4));
    }
}
