//! What is on a replica, and what follows from it. Values only.

use crate::ltx::Level;
use crate::types::{Txid, TxidRange};

use super::{Segment, sorted};

/// The segments of one replica, level by level. Within a level they are ascending
/// by (first TXID, last TXID), each at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// In one list: of thousands of databases most have a handful.
    segments: Vec<Segment>,
}

impl Listing {
    /// The highest TXID at any level: what is above it is free. Not what is
    /// restorable: see [`gap_free_end`](Self::gap_free_end).
    ///
    /// All levels count, because a lifecycle rule can empty level 0 while higher
    /// levels still hold the history that a new TXID 1 would collide with.
    pub fn position(&self) -> Option<Txid> {
        self.segments().map(|segment| segment.txids.max()).max()
    }

    /// The TXID that the next captured segment gets: above every one at any
    /// level, so that two writers always collide on the same name.
    pub fn next_txid(&self) -> Txid {
        Txid::after(self.position())
    }

    /// The last TXID of the chain that begins with the whole database and has no
    /// hole: everything up to here can be restored, as far as names tell. This,
    /// not the position, is what counts as replicated.
    pub fn gap_free_end(&self) -> Option<Txid> {
        let mut ranges: Vec<TxidRange> = self.segments().map(|segment| segment.txids).collect();
        ranges.sort_unstable();
        let mut end = None;
        for range in ranges {
            // In this order, whatever connects at all connects when it is met.
            if range.min() <= Txid::after(end) {
                end = end.max(Some(range.max()));
            }
        }
        end
    }

    /// The TXIDs that no segment holds although later ones exist: the first hole.
    pub fn gap(&self) -> Option<TxidRange> {
        let missing = Txid::after(self.gap_free_end());
        let next = self.segments().map(|segment| segment.txids.min()).filter(|min| *min > missing).min()?;
        TxidRange::new(missing, Txid::new(next.get() - 1)?)
    }

    /// Whether any segment holds the whole database, as far as names tell.
    pub fn has_base(&self) -> bool {
        self.segments().any(|segment| segment.txids.is_snapshot())
    }

    /// The segments of one level, ascending.
    pub fn level(&self, level: Level) -> &[Segment] {
        let after = self.segments.partition_point(|segment| segment.level <= level);
        let here = &self.segments[..after];
        &here[here.partition_point(|segment| segment.level < level)..]
    }

    /// The segments of all levels, level by level.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter()
    }

    /// The segment of exactly these TXIDs.
    pub fn get(&self, level: Level, txids: TxidRange) -> Option<&Segment> {
        self.find(level, txids).ok().map(|at| &self.segments[at])
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// How many segments there are.
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// Adds a segment, or corrects size and time of the one of that name.
    pub fn insert(&mut self, segment: Segment) {
        match self.find(segment.level, segment.txids) {
            Ok(at) => self.segments[at] = segment,
            Err(at) => sorted::insert(&mut self.segments, at, segment),
        }
    }

    /// Forgets the segment of that name; tells whether it was there.
    pub fn remove(&mut self, level: Level, txids: TxidRange) -> bool {
        self.find(level, txids).map(|at| self.segments.remove(at)).is_ok()
    }

    fn find(&self, level: Level, txids: TxidRange) -> Result<usize, usize> {
        self.segments.binary_search_by_key(&(level, txids), |segment| (segment.level, segment.txids))
    }
}

impl Extend<Segment> for Listing {
    fn extend<I: IntoIterator<Item = Segment>>(&mut self, segments: I) {
        self.segments.extend(segments);
        // The sort keeps the order of those with the same name, of which the last counts.
        self.segments.sort_by_key(|segment| (segment.level, segment.txids));
        self.segments.dedup_by(|later, earlier| {
            let same = (later.level, later.txids) == (earlier.level, earlier.txids);
            if same {
                *earlier = *later;
            }
            same
        });
    }
}

impl FromIterator<Segment> for Listing {
    fn from_iter<I: IntoIterator<Item = Segment>>(segments: I) -> Self {
        let mut listing = Self::default();
        listing.extend(segments);
        listing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Timestamp;

    fn txid(n: u64) -> Txid {
        Txid::new(n).unwrap()
    }

    fn segment(level: u8, min: u64, max: u64) -> Segment {
        Segment {
            level: Level::new(level).unwrap(),
            txids: TxidRange::new(txid(min), txid(max)).unwrap(),
            size: 1,
            created: Timestamp::from_millis(0),
        }
    }

    fn listing(segments: &[(u8, u64, u64)]) -> Listing {
        segments.iter().map(|(level, min, max)| segment(*level, *min, *max)).collect()
    }

    /// Every TXID that some chain ends at, found by trying all chains.
    fn reachable(ranges: &[(u64, u64)]) -> Vec<u64> {
        let mut reached = vec![0];
        let mut at = 0;
        while let Some(end) = reached.get(at).copied() {
            for (min, max) in ranges {
                let extends = if end == 0 { *min == 1 } else { *min <= end + 1 && *max > end };
                if extends && !reached.contains(max) {
                    reached.push(*max);
                }
            }
            at += 1;
        }
        reached
    }

    #[test]
    fn every_listing_of_five_transactions_is_judged_right() {
        let ranges: Vec<(u64, u64)> = (1..=5).flat_map(|min| (min..=5).map(move |max| (min, max))).collect();
        for chosen in 0..1u32 << ranges.len() {
            let here: Vec<(u64, u64)> =
                ranges.iter().enumerate().filter(|(bit, _)| chosen >> bit & 1 == 1).map(|(_, range)| *range).collect();
            // The level must make no difference.
            let listing: Listing = (0..).zip(&here).map(|(n, (min, max))| segment((n * 7) % 10, *min, *max)).collect();
            let number = |txid: Option<Txid>| txid.map_or(0, Txid::get);

            let position = here.iter().map(|(_, max)| *max).max().unwrap_or(0);
            assert_eq!(number(listing.position()), position, "{here:?}");
            assert_eq!(listing.next_txid().get(), position + 1, "{here:?}");
            let end = reachable(&here).into_iter().max().unwrap_or(0);
            assert_eq!(number(listing.gap_free_end()), end, "{here:?}");
            assert_eq!(listing.has_base(), here.iter().any(|(min, _)| *min == 1), "{here:?}");
            let missing = |n: &u64| !here.iter().any(|(min, max)| (min..=max).contains(&n));
            let gap: Vec<u64> = (end + 1..=position).take_while(missing).collect();
            let found = listing.gap().map(|gap| (gap.min().get()..=gap.max().get()).collect());
            assert_eq!(found.unwrap_or(vec![]), gap, "{here:?}");
            assert_eq!(listing.gap().is_none(), end == position, "{here:?}");
        }
    }

    /// F70: a lost object must show in what counts as replicated, and its name
    /// must not be given to anything else.
    #[test]
    fn a_hole_ends_what_counts_as_replicated_but_not_the_numbering() {
        let mut holed = listing(&[(9, 1, 3), (0, 4, 4), (0, 5, 5), (0, 6, 6)]);
        assert_eq!(holed.gap_free_end(), Some(txid(6)));
        assert!(holed.remove(Level::L0, TxidRange::single(txid(5))));
        assert_eq!(holed.gap_free_end(), Some(txid(4)));
        assert_eq!(holed.gap(), Some(TxidRange::single(txid(5))));
        assert_eq!(holed.next_txid(), txid(7));
        holed.insert(segment(9, 1, 6));
        assert_eq!((holed.gap_free_end(), holed.gap()), (Some(txid(6)), None));
    }

    /// Whatever comes in, in whatever portions: one after the other is the same.
    #[test]
    fn many_at_once_are_the_same_as_one_after_the_other() {
        let mut random = 1u32;
        for _ in 0..200 {
            let segments: Vec<Segment> = (0..30)
                .map(|size| {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let [level, min, more] = [random >> 29, (random >> 20) % 5, (random >> 10) % 2].map(u64::from);
                    Segment { size, ..segment(u8::try_from(level).unwrap(), min + 1, min + 1 + more) }
                })
                .collect();
            let mut one_by_one = Listing::default();
            segments.iter().for_each(|segment| one_by_one.insert(*segment));
            let (first, second) = segments.split_at(random as usize % 30);
            let mut at_once: Listing = first.iter().copied().collect();
            at_once.extend(second.iter().copied());
            assert_eq!(at_once, one_by_one);
            assert!(one_by_one.segments().is_sorted_by_key(|segment| (segment.level, segment.txids)));
            let levels = Level::all().flat_map(|level| one_by_one.level(level)).copied();
            assert!(levels.eq(one_by_one.segments().copied()));
        }
    }

    /// F58: a lifecycle rule has emptied level 0.
    #[test]
    fn numbering_goes_on_above_what_only_higher_levels_hold() {
        assert_eq!(listing(&[(9, 1, 4), (2, 5, 9)]).next_txid(), txid(10));
        assert_eq!(Listing::default().next_txid(), Txid::FIRST);
    }

    #[test]
    fn a_level_is_sorted_and_holds_each_name_once() {
        let mut all = listing(&[(1, 5, 9), (1, 1, 4), (9, 1, 9), (9, 1, 4), (1, 1, 2)]);
        let names = |level: u8| -> Vec<(u64, u64)> {
            let segments = all.level(Level::new(level).unwrap()).iter();
            segments.map(|segment| (segment.txids.min().get(), segment.txids.max().get())).collect()
        };
        assert_eq!(names(1), [(1, 2), (1, 4), (5, 9)]);
        assert_eq!(names(9), [(1, 4), (1, 9)]);
        assert_eq!(all.len(), 5);
        let corrected = Segment { size: 7, ..segment(1, 5, 9) };
        all.insert(corrected);
        assert_eq!(all.len(), 5);
        assert_eq!(all.get(corrected.level, corrected.txids), Some(&corrected));
        assert!(!all.remove(Level::L0, corrected.txids));
        assert!(all.remove(corrected.level, corrected.txids));
        assert!(!all.remove(corrected.level, corrected.txids));
        assert_eq!((all.len(), all.is_empty()), (4, false));
    }
}
