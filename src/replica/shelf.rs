//! What a replica holds, as its only writer knows it: listed once, then kept.
//!
//! Always true: what this process put is here from the moment its name was
//! given, and what it removed is not, also if a listing was under way meanwhile.
//! What others do is seen at the next listing.
//!
//! How old a segment is is told on a clock that only runs forward. What was put
//! here is as old as the time since then. What was listed is as old as its
//! storage says, compared with the newest one there and never with the clock of
//! this machine: a clock that is set to another day makes nothing older.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::ltx::{Header, Level};
use crate::types::{Timestamp, TxidRange};

use super::sorted::Sorted;
use super::{Listing, Segment};

/// Changes remembered for listings that were under way when they happened. A
/// listing takes less time than this many uploads.
const REMEMBERED: usize = 4096;

type Name = (Level, TxidRange);

/// One replica's segments, shared by all who work on it.
#[derive(Clone, Debug, Default)]
pub struct Shelf(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    listing: Listing,
    notes: Sorted<Name, Note>,
    /// Those since the oldest listing under way began.
    changes: VecDeque<Change>,
    /// Changes ever made.
    changed: u64,
    listed: bool,
    /// Each listing under way has another one.
    under_way: Arc<()>,
}

#[derive(Clone, Copy, Debug)]
struct Note {
    arrival: Arrival,
    header: Option<Header>,
    proven: bool,
}

#[derive(Clone, Copy, Debug)]
enum Arrival {
    /// Put here since the last look.
    Fresh,
    /// Found in a listing since the last look.
    Listed,
    /// At this time of the forward clock, in milliseconds; before its zero if negative.
    At(i64),
}

#[derive(Clone, Copy, Debug)]
struct Change {
    segment: Segment,
    put: bool,
}

/// A listing under way.
#[derive(Clone, Debug)]
pub struct Mark {
    changed: u64,
    _under_way: Arc<()>,
}

/// A segment with what is known about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The segment.
    pub segment: Segment,
    /// How long it has been there at least.
    pub age: Duration,
    /// What it says about itself, if it was asked.
    pub header: Option<Header>,
    /// Its ends were seen to be what was written.
    pub proven: bool,
}

impl Item {
    /// Whether it is known to hold the whole database, so that nothing before it is needed.
    pub fn is_complete(&self) -> bool {
        self.segment.txids.is_snapshot() || self.header.and_then(|h| h.proof).is_some_and(|p| p.before.is_none())
    }

    /// The time of its newest transaction, as far as it is known.
    pub fn time(&self) -> Timestamp {
        self.header.map_or(self.segment.created, |header| header.timestamp)
    }
}

impl Shelf {
    /// Whether the replica was listed.
    pub fn is_listed(&self) -> bool {
        self.lock().listed
    }

    /// What is there.
    pub fn listing(&self) -> Listing {
        self.lock().listing.clone()
    }

    /// Looks at what is there, if the replica was listed.
    pub fn look<T>(&self, at: impl FnOnce(&Listing) -> T) -> Option<T> {
        let inner = self.lock();
        inner.listed.then(|| at(&inner.listing))
    }

    /// Call before listing: what changes from now on is not lost.
    pub fn begin_listing(&self) -> Mark {
        let inner = self.lock();
        Mark { changed: inner.changed, _under_way: inner.under_way.clone() }
    }

    /// Takes over a listing.
    pub fn replace(&self, mark: Mark, mut listing: Listing) {
        let mut inner = self.lock();
        let since = usize::try_from(inner.changed - mark.changed).unwrap_or(usize::MAX).min(inner.changes.len());
        let later: Vec<Change> = inner.changes.iter().skip(inner.changes.len() - since).copied().collect();
        for change in &later {
            if change.put {
                listing.insert(change.segment);
            } else {
                listing.remove(change.segment.level, change.segment.txids);
            }
        }
        let mut notes = Sorted::default();
        for segment in listing.segments() {
            let name = (segment.level, segment.txids);
            let same_size = inner.listing.get(segment.level, segment.txids).is_some_and(|old| old.size == segment.size);
            let note = inner.notes.get(&name).filter(|_| same_size).copied();
            notes.insert(name, note.unwrap_or(Note { arrival: Arrival::Listed, header: None, proven: false }));
        }
        inner.listing = listing;
        inner.notes = notes;
        inner.listed = true;
    }

    /// A segment was put there by this process.
    pub fn put(&self, segment: Segment, header: Header) {
        let mut inner = self.lock();
        inner.change(Change { segment, put: true });
        inner.listing.insert(segment);
        let note = Note { arrival: Arrival::Fresh, header: Some(header), proven: true };
        inner.notes.insert((segment.level, segment.txids), note);
    }

    /// Segments were removed by this process, or are found to be gone.
    pub fn remove(&self, segments: &[Segment]) {
        let mut inner = self.lock();
        for segment in segments {
            inner.change(Change { segment: *segment, put: false });
            inner.listing.remove(segment.level, segment.txids);
            inner.notes.remove(&(segment.level, segment.txids));
        }
    }

    /// What a segment said about itself, if it was asked.
    pub fn header(&self, segment: &Segment) -> Option<Header> {
        self.lock().notes.get(&(segment.level, segment.txids))?.header
    }

    /// A segment was asked what it is. `proven`: both of its ends were.
    pub fn learn(&self, segment: &Segment, header: Header, proven: bool) {
        if let Some(note) = self.lock().notes.get_mut(&(segment.level, segment.txids)) {
            note.header = Some(header);
            note.proven |= proven;
        }
    }

    /// Everything that is there, level by level; `now` is the time of a clock that
    /// only runs forward, `wall` what this machine takes for the time of day.
    pub fn items(&self, now: Duration, wall: Timestamp) -> Vec<Item> {
        let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        let mut inner = self.lock();
        inner.date(now, wall);
        let items = inner.listing.segments().filter_map(|segment| {
            let note = inner.notes.get(&(segment.level, segment.txids))?;
            let age = match note.arrival {
                Arrival::At(at) => now.saturating_sub(at),
                Arrival::Fresh | Arrival::Listed => 0,
            };
            let age = Duration::from_millis(u64::try_from(age).unwrap_or(0));
            Some(Item { segment: *segment, age, header: note.header, proven: note.proven })
        });
        items.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is a few map operations, none of which panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn change(&mut self, change: Change) {
        self.changed += 1;
        if Arc::strong_count(&self.under_way) == 1 {
            self.changes = VecDeque::new();
            return;
        }
        self.changes.push_back(change);
        if self.changes.len() > REMEMBERED {
            self.changes.pop_front();
        }
    }

    /// Gives everything that came since the last look its place on the forward clock.
    fn date(&mut self, now: i64, wall: Timestamp) {
        if self.notes.values().all(|note| matches!(note.arrival, Arrival::At(_))) {
            return;
        }
        // Times that run backwards along the history are a clock that was set back: what comes later is not older.
        let mut by_end: Vec<&Segment> = self.listing.segments().collect();
        by_end.sort_by_key(|segment| segment.txids.max());
        let newest = by_end.iter().map(|s| s.created.as_millis()).max().unwrap_or(0).min(wall.as_millis());
        let mut latest = i64::MIN;
        let mut arrivals = Vec::with_capacity(by_end.len());
        for segment in by_end {
            latest = latest.max(segment.created.as_millis()).min(newest);
            arrivals.push(((segment.level, segment.txids), now - newest.saturating_sub(latest).max(0)));
        }
        for (name, arrived) in arrivals {
            let Some(note) = self.notes.get_mut(&name) else { continue };
            note.arrival = match note.arrival {
                Arrival::Fresh => Arrival::At(now),
                Arrival::Listed => Arrival::At(arrived),
                known @ Arrival::At(_) => known,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PageSize, Txid};

    fn segment(level: u8, min: u64, max: u64, created: i64) -> Segment {
        let txids = TxidRange::new(Txid::new(min).unwrap(), Txid::new(max).unwrap()).unwrap();
        Segment { level: Level::new(level).unwrap(), txids, size: 1, created: Timestamp::from_millis(created) }
    }

    fn header(segment: &Segment) -> Header {
        Header {
            page_size: PageSize::new(512).unwrap(),
            commit: 1,
            txids: segment.txids,
            timestamp: segment.created,
            wal: None,
            generation: None,
            proof: None,
        }
    }

    fn ages(shelf: &Shelf, now: u64, wall: i64) -> Vec<u64> {
        let items = shelf.items(Duration::from_millis(now), Timestamp::from_millis(wall));
        items.iter().map(|item| u64::try_from(item.age.as_millis()).unwrap()).collect()
    }

    fn listed(segments: &[Segment]) -> Shelf {
        let shelf = Shelf::default();
        shelf.replace(shelf.begin_listing(), segments.iter().copied().collect());
        shelf
    }

    /// F82: neither a jump of this machine's clock nor the time that it was off makes anything older.
    #[test]
    fn what_was_listed_is_as_old_as_the_newest_segment_says_and_no_clock_of_ours() {
        let shelf = listed(&[segment(0, 1, 1, 1000), segment(0, 2, 2, 4000), segment(0, 3, 3, 9000)]);
        assert_eq!(ages(&shelf, 50, 99_999_999), [8000, 5000, 0]);
        assert_eq!(ages(&shelf, 60, -5), [8010, 5010, 10]);
        let put = segment(0, 4, 4, -77_777);
        shelf.put(put, header(&put));
        assert_eq!(ages(&shelf, 70, 0)[3], 0);
        assert_eq!(ages(&shelf, 100, 0), [8050, 5050, 50, 30]);
    }

    /// F82: a clock that was a day ahead for a while, and one that was set back.
    #[test]
    fn times_that_run_backwards_make_nothing_older() {
        let ahead = listed(&[segment(0, 1, 1, 1000), segment(0, 2, 2, 86_401_000), segment(0, 3, 3, 3000)]);
        assert_eq!(ages(&ahead, 0, 4000), [3000, 0, 0]);
        let behind = listed(&[segment(0, 1, 1, 86_400_000), segment(0, 2, 2, 1000)]);
        assert_eq!(ages(&behind, 0, 2000), [0, 0]);
    }

    #[test]
    fn what_changes_during_a_listing_is_not_lost() {
        let (old, gone, new) = (segment(0, 1, 1, 0), segment(0, 2, 2, 0), segment(0, 3, 3, 0));
        let shelf = listed(&[old, gone]);
        let mark = shelf.begin_listing();
        shelf.put(new, header(&new));
        shelf.remove(&[gone]);
        shelf.replace(mark, [old, gone].into_iter().collect());
        assert_eq!(shelf.listing().level(Level::L0), [old, new]);
        assert!(
            shelf.items(Duration::ZERO, Timestamp::from_millis(0))[1].header.is_some(),
            "what is known stays known"
        );
        shelf.replace(shelf.begin_listing(), [old].into_iter().collect());
        assert_eq!(shelf.listing().level(Level::L0), [old], "but an older change does not outlive a newer listing");
    }
}
