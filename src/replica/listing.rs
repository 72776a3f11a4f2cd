//! What is on a replica, and what follows from it. Values only.

use crate::ltx::Level;
use crate::types::{Txid, TxidRange};

use super::Segment;

/// Levels 0 to 9.
const LEVELS: usize = 10;

/// The segments of one replica. Within a level they are ascending by (first
/// TXID, last TXID), each at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    levels: [Vec<Segment>; LEVELS],
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
        &self.levels[usize::from(level.get())]
    }

    /// The segments of all levels, level by level.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.levels.iter().flatten()
    }

    /// The segment of exactly these TXIDs.
    pub fn get(&self, level: Level, txids: TxidRange) -> Option<&Segment> {
        self.find(level, txids).ok().map(|at| &self.level(level)[at])
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.segments().next().is_none()
    }

    /// How many segments there are.
    pub fn len(&self) -> usize {
        self.levels.iter().map(Vec::len).sum()
    }

    /// Adds a segment, or corrects size and time of the one of that name.
    pub fn insert(&mut self, segment: Segment) {
        let found = self.find(segment.level, segment.txids);
        let level = &mut self.levels[usize::from(segment.level.get())];
        match found {
            Ok(at) => level[at] = segment,
            Err(at) => level.insert(at, segment),
        }
    }

    /// Forgets the segment of that name; tells whether it was there.
    pub fn remove(&mut self, level: Level, txids: TxidRange) -> bool {
        let found = self.find(level, txids);
        found.map(|at| self.levels[usize::from(level.get())].remove(at)).is_ok()
    }

    fn find(&self, level: Level, txids: TxidRange) -> Result<usize, usize> {
        self.level(level).binary_search_by_key(&txids, |segment| segment.txids)
    }
}

impl Extend<Segment> for Listing {
    fn extend<I: IntoIterator<Item = Segment>>(&mut self, segments: I) {
        for segment in segments {
            self.insert(segment);
        }
    }
}

impl FromIterator<Segment> for Listing {
    fn from_iter<I: IntoIterator<Item = Segment>>(segments: I) -> Self {
        let mut listing = Self::default();
        listing.extend(segments);
        listing
    }
}
