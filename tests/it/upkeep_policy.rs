//! Retention against every policy and every listing that chance comes up with:
//! what may go never includes what is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use brooklet::ltx::Level;
use brooklet::replica::{Item, Pin, Segment};
use brooklet::restore::plan::Holdings;
use brooklet::types::{Timestamp, Txid, TxidRange};
use brooklet::upkeep::compact::{FAN_IN, Snapshot, merges, snapshot};
use brooklet::upkeep::retain::{RetainError, judge};
use brooklet::upkeep::{Keep, Retention, Snapshots};
use proptest::prelude::*;

const CASES: u32 = 100_000;

fn txid(n: u64) -> Txid {
    Txid::new(n).unwrap()
}

fn item(level: u8, min: u64, max: u64, born: i64, now: i64) -> Item {
    let segment = Segment {
        level: Level::new(level).unwrap(),
        txids: TxidRange::new(txid(min), txid(max)).unwrap(),
        size: 1,
        created: Timestamp::from_millis(born * 1000),
    };
    let age = Duration::from_secs(u64::try_from(now - born).unwrap_or(0));
    Item { segment, age, header: None, proven: true }
}

/// What happens to a replica.
#[derive(Clone, Debug)]
enum Event {
    Commit,
    Pass(i64),
    /// The next merge into this level, of at most so many.
    Merge(u8, usize),
    Snapshot,
    /// The chosen one of what is there is lost.
    Lose(prop::sample::Index),
    Pin(prop::sample::Index),
    Release(prop::sample::Index),
    /// What may go, goes.
    Prune,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => Just(Event::Commit),
        4 => (1..200_000i64).prop_map(Event::Pass),
        4 => (1..4u8, 1..6usize).prop_map(|(level, most)| Event::Merge(level, most)),
        2 => Just(Event::Snapshot),
        1 => any::<prop::sample::Index>().prop_map(Event::Lose),
        1 => any::<prop::sample::Index>().prop_map(Event::Pin),
        1 => any::<prop::sample::Index>().prop_map(Event::Release),
        3 => Just(Event::Prune),
    ]
}

fn policy() -> impl Strategy<Value = Retention> {
    let seconds = |most| (0..most).prop_map(Duration::from_secs);
    let number = || 0..4u32;
    let keep = (number(), number(), number(), number(), number(), number());
    (prop::option::of(seconds(10_000u64)), seconds(1_000_000), keep).prop_map(|(l0, history, k)| Retention {
        l0,
        history,
        keep: Keep { last: k.0, hourly: k.1, daily: k.2, weekly: k.3, monthly: k.4, yearly: k.5 },
        ..Retention::default()
    })
}

#[derive(Default)]
struct Model {
    now: i64,
    born: Vec<(u8, u64, u64, i64)>,
    pins: BTreeSet<u64>,
    next: u64,
    /// When each transaction was.
    committed: BTreeMap<u64, i64>,
}

impl Model {
    fn items(&self) -> Vec<Item> {
        let mut items: Vec<Item> =
            self.born.iter().map(|(level, min, max, born)| item(*level, *min, *max, *born, self.now)).collect();
        items.sort_by_key(|i| (i.segment.level, i.segment.txids));
        items
    }

    fn holdings(&self) -> Holdings {
        Holdings::new(self.items().into_iter().map(|i| i.segment))
    }

    fn pins(&self) -> Vec<Pin> {
        let pin = |n: &u64| Pin { name: "p".parse().unwrap(), txid: txid(*n), time: Timestamp::from_millis(0) };
        self.pins.iter().map(pin).collect()
    }

    fn add(&mut self, level: u8, min: u64, max: u64) {
        if !self.born.iter().any(|b| (b.0, b.1, b.2) == (level, min, max)) {
            self.born.push((level, min, max, self.now));
        }
    }

    fn apply(&mut self, event: &Event, policy: &Retention) -> Result<(), TestCaseError> {
        match event {
            Event::Commit => {
                self.next += 1;
                let n = self.next;
                self.committed.insert(n, self.now);
                self.add(0, n, n);
            }
            Event::Pass(seconds) => self.now += seconds,
            Event::Merge(level, most) => {
                let reached = self.born.iter().filter(|b| b.0 == *level).map(|b| b.2).max().unwrap_or(0);
                let mut below: Vec<_> = self.born.iter().filter(|b| b.0 == level - 1 && b.1 > reached.max(1)).collect();
                below.sort_by_key(|b| b.1);
                let run: Vec<_> = below.iter().zip(below.iter().skip(1)).take_while(|(a, b)| a.2 + 1 == b.1).collect();
                let end = run.iter().take(*most).next_back().map(|(_, b)| b.2);
                if let Some(first) = below.first() {
                    let (min, max) = (first.1, end.unwrap_or(first.2));
                    self.add(*level, min, max);
                }
            }
            Event::Snapshot => {
                if let Ok(chain) = self.holdings().latest() {
                    let end = chain.end().get();
                    self.add(9, 1, end);
                }
            }
            Event::Lose(which) if !self.born.is_empty() => {
                let at = which.index(self.born.len());
                self.born.remove(at);
            }
            Event::Pin(which) => {
                let points = self.holdings().restorable();
                if !points.is_empty() {
                    self.pins.insert(points[which.index(points.len())].get());
                }
            }
            Event::Release(which) if !self.pins.is_empty() => {
                let pin = *self.pins.iter().nth(which.index(self.pins.len())).unwrap();
                self.pins.remove(&pin);
            }
            Event::Lose(_) | Event::Release(_) => {}
            Event::Prune => self.prune(policy)?,
        }
        Ok(())
    }

    fn prune(&mut self, policy: &Retention) -> Result<(), TestCaseError> {
        let before = self.holdings();
        let points: BTreeSet<u64> = before.restorable().into_iter().map(Txid::get).collect();
        let items = self.items();
        let verdict = match judge(&items, policy, &self.pins()) {
            Ok(verdict) => verdict,
            Err(RetainError::Broken) => {
                prop_assert!(before.latest().is_err() && !items.is_empty());
                return Ok(());
            }
            // The net below the rules, which they need only where segments overlap in ways that nobody writes.
            Err(RetainError::Unsafe(_)) if self.committed.is_empty() => return Ok(()),
            Err(error) => return Err(TestCaseError::fail(format!("{error}: {items:?}"))),
        };
        // Whoever stops half way leaves no less.
        for gone in [verdict.deletions.len() / 2, verdict.deletions.len()] {
            let gone: Vec<Segment> = verdict.deletions[..gone].iter().map(|(segment, _)| *segment).collect();
            let left = Holdings::new(items.iter().map(|i| i.segment).filter(|s| !gone.contains(s)));
            let after: BTreeSet<u64> = left.restorable().into_iter().map(Txid::get).collect();
            if let Ok(newest) = before.latest() {
                prop_assert_eq!(left.latest().map(|chain| chain.end()), Ok(newest.end()), "the only chain");
            }
            for pin in self.pins.intersection(&points) {
                prop_assert!(after.contains(pin), "pin {} of {:?}", pin, items);
            }
            prop_assert!(after.is_subset(&points), "a point came into being");
            // Every merged point of the history that is kept.
            let history = i64::try_from(policy.history.as_secs()).unwrap();
            let is_young = |i: &&Item| {
                let committed = self.committed.get(&i.segment.txids.max().get());
                committed.is_some_and(|committed| self.now - committed < history)
            };
            let young = items.iter().filter(|i| i.segment.level > Level::L0).filter(is_young);
            for merged in young.map(|i| i.segment.txids.max().get()).filter(|point| points.contains(point)) {
                prop_assert!(after.contains(&merged), "point {} of {:?}", merged, items);
            }
            for single in items.iter().filter(|i| i.segment.level == Level::L0 && gone.contains(&i.segment)) {
                let rested = policy.l0.is_some_and(|l0| single.age >= l0);
                let end = single.segment.txids.max();
                let old = items
                    .iter()
                    .any(|i| i.segment.txids.is_snapshot() && i.segment.txids.max() >= end && i.age >= policy.history);
                prop_assert!(rested || old, "{} went too early", single.segment);
            }
        }
        let gone: Vec<Segment> = verdict.deletions.iter().map(|(segment, _)| *segment).collect();
        let is_gone = |level: u8, min: u64, max: u64| {
            gone.iter().any(|s| (s.level.get(), s.txids.min().get(), s.txids.max().get()) == (level, min, max))
        };
        self.born.retain(|b| !is_gone(b.0, b.1, b.2));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    /// A life of commits, merges, snapshots, losses, pins and prunings.
    #[test]
    fn no_policy_deletes_what_is_needed(events in prop::collection::vec(event(), 1..60), policy in policy()) {
        let mut model = Model { now: 1_700_000_000, ..Model::default() };
        for event in &events {
            model.apply(event, &policy)?;
        }
        model.prune(&policy)?;
    }

    /// Segments that nobody would write together.
    #[test]
    fn no_listing_misleads_retention(
        segments in prop::collection::vec((0..10u8, 1..12u64, 0..6u64, 0..2_000_000i64), 0..25),
        pins in prop::collection::btree_set(1..16u64, 0..4),
        policy in policy(),
    ) {
        let born: BTreeSet<_> = segments.iter().map(|(level, min, more, _)| (*level, *min, min + more)).collect();
        let born = born.into_iter().zip(&segments).map(|((level, min, max), (.., born))| (level, min, max, *born));
        let mut model = Model { now: 2_000_000, born: born.collect(), pins, ..Model::default() };
        model.prune(&policy)?;
    }

    /// What compaction wants made of such segments leaves no hole behind, and its inputs follow each other.
    #[test]
    fn no_listing_misleads_compaction(
        segments in prop::collection::vec((0..4u8, 1..12u64, 0..4u64, 0..9_000u64), 0..25),
    ) {
        let names: BTreeSet<_> = segments.iter().map(|(level, min, more, _)| (*level, *min, min + more)).collect();
        let items: Vec<Item> = names.into_iter().zip(&segments).map(|((level, min, max), (.., age))| {
            let age = i64::try_from(*age).unwrap();
            item(level, min, max, -age, 0)
        }).collect();
        let known: Vec<Item> = items.iter().map(|item| Item { header: Some(header(item)), ..*item }).collect();
        let intervals = [30, 300, 3600].map(Duration::from_secs);
        let found = merges(&known, &intervals, &BTreeSet::new());
        prop_assert!(found.ask.is_empty());
        if let Some(merge) = found.merge {
            prop_assert!(!merge.inputs.is_empty() && merge.inputs.len() <= FAN_IN);
            prop_assert!(merge.inputs.iter().all(|s| s.level.get() + 1 == merge.level.get() && !s.txids.is_snapshot()));
            prop_assert!(merge.inputs.windows(2).all(|w| w[0].txids.max().next() == w[1].txids.min()));
            let reached = known.iter().filter(|i| i.segment.level == merge.level).map(|i| i.segment.txids.max()).max();
            prop_assert!(Some(merge.txids.min()) > reached, "it overlaps with what is there");
        }
        let daily = Snapshots { interval: Duration::from_secs(60), at: None };
        let due = snapshot(&known, &daily, Timestamp::from_millis(0), 0, false);
        if let Some(Snapshot::Merge(merge)) = due.snapshot {
            prop_assert!(merge.inputs[0].txids.is_snapshot());
            prop_assert!(merge.inputs.windows(2).all(|w| w[1].txids.min() <= w[0].txids.max().next()));
            prop_assert_eq!(merge.inputs.last().unwrap().txids.max(), merge.txids.max());
        }
    }
}

fn header(item: &Item) -> brooklet::ltx::Header {
    brooklet::ltx::Header {
        page_size: brooklet::types::PageSize::new(512).unwrap(),
        commit: 1,
        txids: item.segment.txids,
        timestamp: item.segment.created,
        wal: None,
        generation: None,
        proof: None,
    }
}
