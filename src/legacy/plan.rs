//! Choosing the snapshot and the log slices that rebuild one moment.
//!
//! A chain begins with a snapshot and goes on with every slice of the logs from
//! its index on, none left out, until the moment asked for. Whether the slices
//! of one log meet is known only when they are unpacked; everything that names
//! can tell is told here. Pure.

use super::layout::{Item, Listing, Part};
use crate::types::{Generation, Timestamp};

/// What to go back to. The default is the newest data there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Only this lineage.
    pub generation: Option<Generation>,
    /// Up to the end of this log.
    pub index: Option<u32>,
    /// What was stored at or before this instant.
    pub time: Option<Timestamp>,
}

/// A snapshot and what is replayed over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The snapshot.
    pub snapshot: Item,
    /// The slices, in order.
    pub slices: Vec<Item>,
}

impl Plan {
    /// The lineage.
    pub fn generation(&self) -> Generation {
        self.snapshot.generation
    }

    /// The last log that is replayed, or the one the snapshot was taken in.
    pub fn index(&self) -> u32 {
        self.slices.last().unwrap_or(&self.snapshot).index
    }

    /// When the newest of it was stored.
    pub fn time(&self) -> Timestamp {
        self.items().map(|item| item.created).max().unwrap_or(self.snapshot.created)
    }

    /// All objects, in the order in which they are needed.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        [&self.snapshot].into_iter().chain(&self.slices)
    }

    /// Bytes of all objects together.
    pub fn size(&self) -> u64 {
        self.items().map(|item| item.size).sum()
    }
}

/// Why there is no chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Nothing of the kind was ever stored there.
    #[error("no matching backup: there is none in the format of Litestream 0.3")]
    NoBackup,
    /// There are generations, but not this one.
    #[error("no matching backup: there is no generation {0} in the format of Litestream 0.3")]
    UnknownGeneration(Generation),
    /// There are slices, but nothing to replay them over.
    #[error(
        "no matching backup: the snapshots of generation {generation} are missing; use another generation or replica"
    )]
    NoSnapshot {
        /// The lineage.
        generation: Generation,
    },
    /// Everything that is kept is newer.
    #[error("no matching backup is as old as {asked}: the oldest Litestream 0.3 snapshot was stored at {oldest}")]
    BeforeOldest {
        /// What was asked for.
        asked: Timestamp,
        /// The time of the oldest snapshot.
        oldest: Timestamp,
    },
    /// There are logs that are old enough, and nothing to replay them over: Litestream
    /// 0.3 gives a snapshot the name of the one before it in the same log.
    #[error(
        "generation {generation} has data from before {asked}, but its oldest snapshot was stored at {oldest}: ask for \
         that time, or for an earlier generation by its name"
    )]
    SnapshotTooNew {
        /// The lineage.
        generation: Generation,
        /// What was asked for.
        asked: Timestamp,
        /// The time of its oldest snapshot.
        oldest: Timestamp,
    },
    /// The index asked for is not there.
    #[error(
        "generation {generation} cannot be restored to index {asked:08x}: it holds snapshots and logs from index \
         {first:08x} to {last:08x}"
    )]
    IndexUnavailable {
        /// The lineage.
        generation: Generation,
        /// What was asked for.
        asked: u32,
        /// The first index with a snapshot.
        first: u32,
        /// The last index there is.
        last: u32,
    },
    /// A whole log or the start of one is missing, and newer ones are there.
    #[error(
        "log {missing:08x} of generation {generation} is missing or incomplete at its start: restore up to index \
         {reached:08x} instead, or use another replica"
    )]
    MissingLog {
        /// The lineage.
        generation: Generation,
        /// The log.
        missing: u32,
        /// The last log before it.
        reached: u32,
    },
}

/// The chain that ends where the wish says. Of several generations the one with
/// the newest data at or before that moment; if that one cannot be restored, it is
/// an error and not an older one that nobody asked for.
pub fn choose(listing: &Listing, wish: &Wish) -> Result<Plan, PlanError> {
    if listing.is_empty() {
        return Err(PlanError::NoBackup);
    }
    let spans = listing.generations();
    if let Some(wanted) = wish.generation
        && !spans.iter().any(|span| span.generation == wanted)
    {
        return Err(PlanError::UnknownGeneration(wanted));
    }
    let mut best: Option<(Timestamp, Result<Plan, PlanError>)> = None;
    let mut reason = None;
    for span in spans.iter().filter(|span| wish.generation.is_none_or(|wanted| wanted == span.generation)) {
        match in_generation(listing, span.generation, wish) {
            Err(error @ PlanError::NoSnapshot { .. }) => reason = reason.or(Some(error)),
            outcome => {
                let newest = newest(listing, span.generation, wish);
                let outcome = match (outcome, newest) {
                    (Err(error @ PlanError::BeforeOldest { .. }), None) => {
                        reason = reason.or(Some(error));
                        continue;
                    }
                    (Err(PlanError::BeforeOldest { asked, oldest }), Some(_)) => {
                        Err(PlanError::SnapshotTooNew { generation: span.generation, asked, oldest })
                    }
                    (outcome, _) => outcome,
                };
                let time = newest.unwrap_or(span.end);
                if best.as_ref().is_none_or(|(before, _)| time >= *before) {
                    best = Some((time, outcome));
                }
            }
        }
    }
    match best {
        Some((_, outcome)) => outcome,
        None => Err(reason.unwrap_or(PlanError::NoBackup)),
    }
}

/// The newest object of a generation that the wish allows.
fn newest(listing: &Listing, generation: Generation, wish: &Wish) -> Option<Timestamp> {
    let own = listing.items().iter().filter(|item| item.generation == generation);
    own.map(|item| item.created).filter(|time| wish.time.is_none_or(|limit| *time <= limit)).max()
}

fn in_generation(listing: &Listing, generation: Generation, wish: &Wish) -> Result<Plan, PlanError> {
    let of = |item: &&Item| item.generation == generation;
    let snapshots: Vec<Item> = listing.snapshots().filter(of).copied().collect();
    let slices: Vec<Item> = listing.slices().filter(of).copied().collect();
    let (Some(first), Some(last)) = (snapshots.first(), snapshots.iter().chain(&slices).map(|item| item.index).max())
    else {
        return Err(PlanError::NoSnapshot { generation });
    };
    if let Some(asked) = wish.index
        && !(first.index..=last).contains(&asked)
    {
        return Err(PlanError::IndexUnavailable { generation, asked, first: first.index, last });
    }
    let in_time = |item: &Item| wish.time.is_none_or(|limit| item.created <= limit);
    let in_range = |item: &Item| wish.index.is_none_or(|limit| item.index <= limit);
    // Times within a generation do not run backwards; where they do, because a
    // clock was set, what follows a slice that is too new is left out with it.
    let wanted: Vec<Item> = slices.iter().copied().take_while(|item| in_time(item) && in_range(item)).collect();
    let usable: Vec<Item> = snapshots.iter().copied().filter(|item| in_time(item) && in_range(item)).collect();
    let chain = |snapshot: &Item| Plan {
        snapshot: *snapshot,
        slices: wanted.iter().copied().filter(|slice| slice.index >= snapshot.index).collect(),
    };
    let Some(newest) = usable.last() else {
        let oldest = snapshots.iter().map(|item| item.created).min().unwrap_or(first.created);
        return Err(match wish.time {
            Some(asked) => PlanError::BeforeOldest { asked, oldest },
            None => PlanError::NoSnapshot { generation },
        });
    };
    // A snapshot may hold more of its own log than had been stored as slices at
    // that moment. Replaying only a part of that log over it would mix two
    // moments, so a snapshot of an earlier index is better, if its logs are there.
    let cut_short = |snapshot: &&Item| {
        let own = |slice: &&Item| slice.index == snapshot.index;
        let taken = wanted.iter().filter(own).count();
        taken > 0 && taken < slices.iter().filter(own).count()
    };
    let settled = usable.iter().rev().find(|snapshot| !cut_short(snapshot)).map(chain);
    match settled.filter(|plan| hole(&plan.snapshot, &plan.slices).is_none()) {
        Some(plan) => Ok(plan),
        None => {
            let plan = chain(newest);
            match hole(&plan.snapshot, &plan.slices) {
                None => Ok(plan),
                Some(error) => Err(error),
            }
        }
    }
}

/// Other ways to the same moment, for when the snapshot turns out to be damaged:
/// from each earlier one over all the logs since, the nearest first.
pub fn detours(listing: &Listing, plan: &Plan) -> Vec<Plan> {
    let Some(last) = plan.slices.last() else { return Vec::new() };
    let of = |item: &&Item| item.generation == plan.generation();
    let earlier = listing.snapshots().filter(of).filter(|snapshot| snapshot.index < plan.snapshot.index);
    let mut plans: Vec<Plan> = earlier
        .map(|snapshot| {
            let wanted =
                |slice: &&Item| slice.index >= snapshot.index && (slice.index, slice.part) <= (last.index, last.part);
            Plan { snapshot: *snapshot, slices: listing.slices().filter(of).filter(wanted).copied().collect() }
        })
        .filter(|plan| hole(&plan.snapshot, &plan.slices).is_none())
        .collect();
    plans.reverse();
    plans
}

/// The first thing that names say is missing between a snapshot and the last slice.
fn hole(snapshot: &Item, slices: &[Item]) -> Option<PlanError> {
    let mut index = None;
    for slice in slices {
        let expected = index.map_or(snapshot.index, |index| index + 1);
        if index == Some(slice.index) {
            continue;
        }
        if slice.index != expected || slice.part != (Part::Log { offset: 0 }) {
            let reached = index.unwrap_or(snapshot.index);
            return Some(PlanError::MissingLog { generation: snapshot.generation, missing: expected, reached });
        }
        index = Some(slice.index);
    }
    None
}

/// What is missing in each generation between its oldest snapshot and its newest
/// slice, as far as names tell: one reason for each stretch of logs.
pub fn explain_holes(listing: &Listing) -> Vec<PlanError> {
    let mut holes = Vec::new();
    for span in listing.generations() {
        let of = |item: &&Item| item.generation == span.generation;
        let snapshots: Vec<Item> = listing.snapshots().filter(of).copied().collect();
        let Some(oldest) = snapshots.first() else {
            holes.push(PlanError::NoSnapshot { generation: span.generation });
            continue;
        };
        let mut slices: Vec<Item> = listing.slices().filter(of).copied().collect();
        slices.retain(|slice| slice.index >= oldest.index);
        let mut base = *oldest;
        while let Some(error) = hole(&base, &slices) {
            let PlanError::MissingLog { missing, .. } = error else { break };
            holes.push(error);
            // Go on behind the hole, as if a snapshot were there.
            slices.retain(|slice| slice.index > missing);
            let Some(next) = slices.first() else { break };
            base = Item { index: next.index, ..base };
        }
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(n: u64) -> Generation {
        Generation::new(n).unwrap()
    }

    fn snapshot(index: u32, created: i64) -> Item {
        let created = Timestamp::from_millis(created);
        Item { generation: generation(1), index, part: Part::Snapshot, size: 1, created }
    }

    fn slice(index: u32, offset: u64, created: i64) -> Item {
        Item { part: Part::Log { offset }, ..snapshot(index, created) }
    }

    fn of(n: u64, item: Item) -> Item {
        Item { generation: generation(n), ..item }
    }

    fn at(time: i64) -> Wish {
        Wish { time: Some(Timestamp::from_millis(time)), ..Wish::default() }
    }

    fn chosen(items: &[Item], wish: &Wish) -> Result<Vec<Item>, PlanError> {
        choose(&Listing::new(items.to_vec()), wish).map(|plan| plan.items().copied().collect())
    }

    #[test]
    fn the_newest_snapshot_and_all_that_follows() {
        let items = [snapshot(0, 10), slice(0, 0, 11), slice(1, 0, 12), snapshot(1, 13), slice(1, 4152, 14)];
        assert_eq!(chosen(&items, &Wish::default()).unwrap(), [items[3], items[2], items[4]]);
        assert_eq!(chosen(&items[..1], &Wish::default()).unwrap(), items[..1]);
    }

    #[test]
    fn an_instant_ends_the_chain_with_what_was_stored_at_or_before_it() {
        let items = [snapshot(0, 10), slice(0, 0, 11), slice(0, 4152, 12), slice(1, 0, 13)];
        assert_eq!(chosen(&items, &at(10)).unwrap(), items[..1]);
        assert_eq!(chosen(&items, &at(12)).unwrap(), items[..3]);
        assert_eq!(chosen(&items, &at(99)).unwrap(), items);
        let oldest = Timestamp::from_millis(10);
        let asked = Timestamp::from_millis(9);
        assert_eq!(chosen(&items, &at(9)), Err(PlanError::BeforeOldest { asked, oldest }));
    }

    #[test]
    fn a_snapshot_is_not_mixed_with_a_part_of_its_own_log() {
        let items = [
            snapshot(0, 10),
            slice(0, 0, 11),
            slice(1, 0, 12),
            snapshot(1, 13),
            slice(1, 4152, 14),
            slice(1, 8272, 15),
        ];
        assert_eq!(chosen(&items, &at(14)).unwrap(), [items[0], items[1], items[2], items[4]]);
        // Without the older one there is no choice.
        assert_eq!(chosen(&items[2..], &at(14)).unwrap(), [items[3], items[2], items[4]]);
        // Complete, it is as good as any.
        assert_eq!(chosen(&items, &at(15)).unwrap(), [items[3], items[2], items[4], items[5]]);
    }

    #[test]
    fn a_detour_ends_where_the_plan_does() {
        let items = [
            snapshot(0, 10),
            slice(0, 0, 11),
            slice(1, 0, 12),
            snapshot(1, 13),
            slice(2, 0, 14),
            snapshot(2, 15),
            slice(2, 4152, 16),
            slice(3, 0, 17),
        ];
        let listing = Listing::new(items.to_vec());
        let plan = choose(&listing, &at(16)).unwrap();
        assert_eq!(plan.snapshot, items[5]);
        let found: Vec<Vec<Item>> =
            detours(&listing, &plan).iter().map(|plan| plan.items().copied().collect()).collect();
        let nearest = vec![items[3], items[2], items[4], items[6]];
        let farthest = vec![items[0], items[1], items[2], items[4], items[6]];
        assert_eq!(found, [nearest.clone(), farthest]);
        // Not across a hole.
        let without = Listing::new(items.iter().copied().filter(|item| *item != items[1]).collect());
        let found: Vec<Vec<Item>> =
            detours(&without, &plan).iter().map(|plan| plan.items().copied().collect()).collect();
        assert_eq!(found, [nearest]);
    }

    #[test]
    fn a_slice_that_is_too_new_takes_what_follows_with_it() {
        let items = [snapshot(0, 10), slice(0, 0, 11), slice(0, 4152, 50), slice(1, 0, 12)];
        assert_eq!(chosen(&items, &at(20)).unwrap(), items[..2]);
    }

    #[test]
    fn refuses_to_bridge_a_missing_log() {
        let missing = |missing, reached| Err(PlanError::MissingLog { generation: generation(1), missing, reached });
        assert_eq!(chosen(&[snapshot(0, 1), slice(0, 0, 2), slice(2, 0, 3)], &Wish::default()), missing(1, 0));
        assert_eq!(chosen(&[snapshot(0, 1), slice(1, 0, 3)], &Wish::default()), missing(0, 0));
        assert_eq!(chosen(&[snapshot(0, 1), slice(0, 32, 3)], &Wish::default()), missing(0, 0));
        assert_eq!(chosen(&[snapshot(0, 1), slice(0, 0, 2), slice(1, 32, 3)], &Wish::default()), missing(1, 0));
        let up_to = |index| Wish { index: Some(index), ..Wish::default() };
        let items = [snapshot(0, 1), slice(0, 0, 2), slice(2, 0, 3)];
        assert_eq!(chosen(&items, &up_to(0)).unwrap(), items[..2]);
        assert_eq!(explain_holes(&Listing::new(items.to_vec())).len(), 1);
    }

    #[test]
    fn an_index_that_is_not_there_is_refused() {
        let items = [snapshot(3, 1), slice(3, 0, 2), slice(4, 0, 3)];
        let up_to = |index| Wish { index: Some(index), ..Wish::default() };
        assert_eq!(chosen(&items, &up_to(3)).unwrap(), items[..2]);
        for asked in [2, 5] {
            let error = PlanError::IndexUnavailable { generation: generation(1), asked, first: 3, last: 4 };
            assert_eq!(chosen(&items, &up_to(asked)), Err(error));
        }
    }

    #[test]
    fn the_generation_with_the_newest_data_is_taken() {
        let old = [of(9, snapshot(0, 1)), of(9, slice(0, 0, 5))];
        let new = [of(2, snapshot(0, 7)), of(2, slice(0, 0, 8))];
        let items = [old, new].concat();
        assert_eq!(chosen(&items, &Wish::default()).unwrap(), new);
        assert_eq!(chosen(&items, &at(6)).unwrap(), old);
        let only = Wish { generation: Some(generation(9)), ..Wish::default() };
        assert_eq!(chosen(&items, &only).unwrap(), old);
        let unknown = Wish { generation: Some(generation(5)), ..Wish::default() };
        assert_eq!(chosen(&items, &unknown), Err(PlanError::UnknownGeneration(generation(5))));
    }

    /// The first snapshot of a generation has got the name and the time of a later one.
    #[test]
    fn data_that_lost_its_snapshot_is_no_reason_for_an_older_generation() {
        let old = [of(9, snapshot(0, 1)), of(9, slice(0, 0, 5))];
        let items = [&old[..], &[of(2, slice(0, 0, 8)), of(2, snapshot(0, 20)), of(2, slice(0, 32, 12))]].concat();
        assert_eq!(chosen(&items, &at(7)).unwrap(), old);
        let (asked, oldest) = (Timestamp::from_millis(9), Timestamp::from_millis(20));
        assert_eq!(chosen(&items, &at(9)), Err(PlanError::SnapshotTooNew { generation: generation(2), asked, oldest }));
        let by_name = Wish { generation: Some(generation(9)), ..at(9) };
        assert_eq!(chosen(&items, &by_name).unwrap(), old);
        assert_eq!(chosen(&items, &at(20)).unwrap().len(), 3);
    }

    #[test]
    fn a_generation_without_snapshots_restores_nothing() {
        let items = [slice(0, 0, 5)];
        assert_eq!(chosen(&items, &Wish::default()), Err(PlanError::NoSnapshot { generation: generation(1) }));
        assert_eq!(chosen(&[], &Wish::default()), Err(PlanError::NoBackup));
    }
}
