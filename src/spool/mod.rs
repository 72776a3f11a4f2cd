//! The spool: segments captured from one database, not yet on every replica.
//!
//! Invariant: once `publish` returns, the segment survives power loss, and the
//! spool holds every batch after `floor` without a hole, each connected to the
//! next by its checksums. Capture relies on this to let SQLite reuse the log:
//! between that checkpoint and the upload, nothing else protects those pages.
//!
//! The spool has a byte budget. When it is full the oldest segments go and the
//! floor rises; a replica that had not got them is behind the floor and is given
//! a base instead. So an outage costs bounded disk, never data.
//!
//! A crash can leave drafts, which opening removes: a file that was never
//! published was never promised to anyone.

mod budget;
mod directory;
mod segment;
mod uploaded;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use crate::durable;
use crate::types::{Checksum, Generation, Timestamp};

pub use budget::Together;
pub use segment::{Point, Seq, Spooled};
pub use uploaded::Uploaded;

use budget::default_budget;
use directory::{Found, path_in, remove};

/// What a replica that has everything through some batch still needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Nothing.
    None,
    /// These segments, oldest first.
    Segments(Vec<Spooled>),
    /// Segments that are no longer here: only a base helps.
    Gone,
}

/// What opening found besides good segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Files that were damaged or cut off from the rest, and removed.
    pub removed: Vec<PathBuf>,
}

/// The spool of one database, shared by capture and the uploads.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    budget: u64,
    /// A smaller budget for as long as the disk is nearly full.
    allowance: AtomicU64,
    /// What all spools of this process may have together.
    together: OnceLock<Arc<Together>>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    segments: BTreeMap<Seq, Spooled>,
    bytes: u64,
    /// Everything through here has left the spool.
    floor: Option<Point>,
    /// Every replica has what is here up to this one.
    spare: Option<Seq>,
}

impl Spool {
    /// Opens or creates the spool in `dir`. Segments that are damaged, or that do
    /// not connect to the newest run, are removed and reported.
    ///
    /// # Errors
    /// From the file system.
    pub fn open(dir: &Path, budget: Option<u64>, mode: u32) -> io::Result<(Self, Opened)> {
        durable::create_dir_all(dir, mode)?;
        durable::remove_stale(dir)?;
        let Found { segments, useless } = directory::read(dir)?;
        for path in &useless {
            remove(path)?;
        }
        let floor = segments.values().next().and_then(Spooled::start);
        let bytes = segments.values().map(|s| s.size).sum();
        let budget = budget.unwrap_or_else(|| default_budget(dir));
        let inner = Mutex::new(Inner { segments, bytes, floor, spare: None });
        let allowance = AtomicU64::new(u64::MAX);
        let spool = Self { dir: dir.to_owned(), budget, allowance, together: OnceLock::new(), inner };
        Ok((spool, Opened { removed: useless }))
    }

    /// Lets it share a budget with others, from now on.
    pub fn share(self: &Arc<Self>, together: &Arc<Together>) {
        if self.together.set(together.clone()).is_ok() {
            together.admit(self);
        }
    }

    /// Keeps no more than this, however large the budget is, until told otherwise.
    ///
    /// # Errors
    /// From the file system.
    pub fn allow(&self, allowance: Option<u64>) -> io::Result<usize> {
        let allowance = allowance.unwrap_or(u64::MAX);
        if self.allowance.swap(allowance, Ordering::Relaxed) == allowance {
            return Ok(0);
        }
        self.shed(&mut self.lock())
    }

    /// Starts the file of a segment. Nothing is promised before [`Spool::publish`].
    ///
    /// # Errors
    /// From the file system.
    pub fn draft(&self, seq: Seq, mode: u32) -> io::Result<durable::Draft> {
        Ok(durable::Draft::create(&path_in(&self.dir, seq), mode)?)
    }

    /// The most bytes one segment may have.
    pub fn budget(&self) -> u64 {
        self.budget.min(self.allowance.load(Ordering::Relaxed))
    }

    /// Makes a segment durable and visible. Returns how many of the oldest
    /// segments had to go to keep the budget, of those that some replica lacks.
    ///
    /// # Errors
    /// From the file system; the segment is then not in the spool.
    pub fn publish(&self, draft: durable::Draft, segment: Spooled) -> io::Result<usize> {
        draft.publish()?;
        let mut inner = self.lock();
        if inner.floor.is_none() {
            inner.floor = segment.start();
        }
        inner.bytes += segment.size;
        if let Some(together) = self.together.get() {
            together.grow(segment.size);
        }
        inner.segments.insert(segment.seq, segment);
        let dropped = self.shed(&mut inner)?;
        drop(inner);
        self.together.get().map_or(Ok(()), |together| together.shed())?;
        Ok(dropped)
    }

    fn shed(&self, inner: &mut Inner) -> io::Result<usize> {
        let mut dropped = 0;
        while inner.bytes > self.budget() {
            let Some(oldest) = inner.segments.keys().next().copied() else { break };
            self.drop_one(inner, oldest)?;
            dropped += usize::from(inner.spare.is_none_or(|spare| oldest > spare));
        }
        Ok(dropped)
    }

    /// Empties the spool: what follows continues from `floor`.
    ///
    /// # Errors
    /// From the file system.
    pub fn restart(&self, floor: Point) -> io::Result<()> {
        let mut inner = self.lock();
        for seq in inner.segments.keys().copied().collect::<Vec<_>>() {
            self.drop_one(&mut inner, seq)?;
        }
        inner.floor = Some(floor);
        Ok(())
    }

    /// Keeps the segments only if they belong to this generation and end at this
    /// point; otherwise empties the spool.
    ///
    /// # Errors
    /// From the file system.
    pub fn resume(&self, generation: Generation, at: Point) -> io::Result<()> {
        let fits = {
            let inner = self.lock();
            match inner.segments.values().next_back() {
                Some(last) => {
                    last.seq == at.seq
                        && last.header.generation == Some(generation)
                        && last.proof().is_some_and(|(_, after)| after == at.checksum)
                }
                None => false,
            }
        };
        if fits { Ok(()) } else { self.restart(at) }
    }

    /// What is there after batch `seq`.
    pub fn pending(&self, seq: Seq) -> Pending {
        let inner = self.lock();
        match inner.floor {
            Some(floor) if seq >= floor.seq => {}
            _ => return Pending::Gone,
        }
        let segments: Vec<_> = inner.segments.range(seq.next()..).map(|(_, s)| s.clone()).collect();
        if segments.is_empty() { Pending::None } else { Pending::Segments(segments) }
    }

    /// The oldest batch after which the database had this checksum and which has
    /// this time, among those from which the spool can continue.
    ///
    /// The oldest, because a batch can leave the checksum as it was: the checksum
    /// of a database is linear, and equal changes to two pages cancel out. Shipping
    /// such a batch twice does no harm; leaving it out would.
    pub fn find(&self, generation: Generation, checksum: Checksum, timestamp: Timestamp) -> Option<Seq> {
        let inner = self.lock();
        let same_time = |floor: &Point| floor.timestamp.is_none_or(|t| t == timestamp);
        if let Some(floor) = inner.floor.filter(|f| f.checksum == checksum && same_time(f)) {
            return Some(floor.seq);
        }
        let matches = |s: &&Spooled| {
            s.header.generation == Some(generation)
                && s.header.timestamp == timestamp
                && s.proof().is_some_and(|(_, after)| after == checksum)
        };
        inner.segments.values().find(matches).map(|s| s.seq)
    }

    /// Whether a batch of this history and this time has left the spool, so that
    /// nothing here can tell it.
    pub fn is_past(&self, timestamp: Timestamp) -> bool {
        let inner = self.lock();
        match inner.floor.and_then(|floor| floor.timestamp) {
            Some(floor) => timestamp <= floor,
            None => inner.segments.values().next().is_some_and(|oldest| timestamp < oldest.header.timestamp),
        }
    }

    /// Segments and bytes here of what comes after batch `seq`, or of everything.
    pub fn size_after(&self, seq: Option<Seq>) -> (usize, u64) {
        let inner = self.lock();
        let segments = inner.segments.range(seq.map_or(Seq::FIRST, Seq::next)..);
        segments.fold((0, 0), |(count, bytes), (_, segment)| (count + 1, bytes + segment.size))
    }

    /// The newest batch that is here or has been.
    pub fn newest(&self) -> Option<Seq> {
        let inner = self.lock();
        inner.segments.keys().next_back().copied().or(inner.floor.map(|f| f.seq))
    }

    /// The newest batch of one history that is here.
    pub fn newest_of(&self, generation: Generation) -> Option<Seq> {
        let inner = self.lock();
        inner.segments.values().next_back().filter(|s| s.header.generation == Some(generation)).map(|s| s.seq)
    }

    /// Opens a segment for reading.
    ///
    /// # Errors
    /// From the file system; `NotFound` when it is gone.
    pub fn reader(&self, seq: Seq) -> io::Result<BufReader<File>> {
        durable::point("spool::read")?;
        Ok(BufReader::with_capacity(64 * 1024, File::open(path_in(&self.dir, seq))?))
    }

    /// Starts a scratch file in the spool's directory, for what is too big for memory.
    ///
    /// # Errors
    /// From the file system.
    pub fn scratch(&self, name: &str) -> io::Result<durable::Draft> {
        Ok(durable::Draft::create(&self.dir.join(name), durable::PRIVATE_FILE)?)
    }

    /// Every replica has the segments up to this one.
    pub fn spare_through(&self, seq: Seq) {
        let mut inner = self.lock();
        inner.spare = inner.spare.max(Some(seq));
    }

    /// Drops segments that every replica has.
    ///
    /// # Errors
    /// From the file system.
    pub fn drop_through(&self, seq: Seq) -> io::Result<()> {
        let mut inner = self.lock();
        let done: Vec<_> = inner.segments.range(..=seq).map(|(seq, _)| *seq).collect();
        done.into_iter().try_for_each(|seq| self.drop_one(&mut inner, seq))
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    fn drop_one(&self, inner: &mut Inner, seq: Seq) -> io::Result<()> {
        let Some(segment) = inner.segments.get(&seq) else { return Ok(()) };
        let (size, end) = (segment.size, segment.end());
        remove(&path_in(&self.dir, seq))?;
        inner.segments.remove(&seq);
        inner.bytes = inner.bytes.saturating_sub(size);
        if let Some(together) = self.together.get() {
            together.shrink(size);
        }
        inner.floor = end;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Some(together) = self.together.get() {
            together.shrink(self.bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx;
    use crate::types::{PageSize, Pgno};

    pub(super) fn sum(n: u64) -> Checksum {
        Checksum::from_crc(n)
    }

    fn generation() -> Generation {
        Generation::new(9).unwrap()
    }

    pub(super) fn open(dir: &Path) -> Spool {
        Spool::open(dir, None, 0o700).unwrap().0
    }

    /// Batch `seq` leads from checksum `seq - 1` to checksum `seq`.
    pub(super) fn add(spool: &Spool, seq: u64) -> usize {
        add_between(spool, seq, sum(seq - 1), sum(seq))
    }

    fn add_between(spool: &Spool, seq: u64, before: Checksum, after: Checksum) -> usize {
        let seq = Seq::new(seq).unwrap();
        let header = ltx::Header {
            page_size: PageSize::new(512).unwrap(),
            commit: 1,
            txids: seq.as_txids(),
            timestamp: Timestamp::from_millis(0),
            wal: None,
            generation: Some(generation()),
            proof: Some(ltx::Proof { before: Some(before), after }),
        };
        let draft = spool.draft(seq, 0o600).unwrap();
        let mut encoder = ltx::Encoder::new(draft, header, ltx::Encoding::Block).unwrap();
        encoder.page(Pgno::FIRST, &[7; 512]).unwrap();
        let (draft, done) = encoder.finish().unwrap();
        spool.publish(draft, Spooled { seq, size: done.size, header }).unwrap()
    }

    pub(super) fn pending(spool: &Spool, after: u64) -> Option<Vec<u64>> {
        match spool.pending(Seq::new(after).unwrap()) {
            Pending::None => Some(vec![]),
            Pending::Segments(segments) => Some(segments.iter().map(|s| s.seq.get()).collect()),
            Pending::Gone => None,
        }
    }

    #[test]
    fn a_nearly_full_disk_makes_the_budget_smaller_while_it_lasts() {
        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path());
        (2..=5).for_each(|seq| assert_eq!(add(&spool, seq), 0));
        let size = spool.bytes() / 4;
        assert_eq!(spool.allow(Some(2 * size)).unwrap(), 2);
        assert_eq!(spool.bytes(), 2 * size);
        assert_eq!(spool.allow(None).unwrap(), 0);
        assert_eq!(add(&spool, 6), 0);
    }

    #[test]
    fn each_replica_gets_exactly_what_it_lacks() {
        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path());
        (2..=4).for_each(|seq| assert_eq!(add(&spool, seq), 0));
        assert_eq!(pending(&spool, 1), Some(vec![2, 3, 4]));
        assert_eq!(pending(&spool, 3), Some(vec![4]));
        assert_eq!(pending(&spool, 4), Some(vec![]));
        spool.drop_through(Seq::new(2).unwrap()).unwrap();
        assert_eq!(pending(&spool, 1), None, "a base is needed");
        assert_eq!(pending(&spool, 2), Some(vec![3, 4]));
    }

    #[test]
    fn segments_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path());
        (2..=4).for_each(|seq| assert_eq!(add(&spool, seq), 0));
        let bytes = spool.bytes();
        drop(spool);
        let spool = open(dir.path());
        assert_eq!(pending(&spool, 1), Some(vec![2, 3, 4]));
        assert_eq!(spool.bytes(), bytes);
        assert_eq!(spool.find(generation(), sum(3), Timestamp::from_millis(0)), Seq::new(3));
        assert_eq!(spool.find(generation(), sum(1), Timestamp::from_millis(0)), Seq::new(1), "the floor counts");
        assert_eq!(spool.find(generation(), sum(8), Timestamp::from_millis(0)), None);
    }

    #[test]
    fn a_batch_that_leaves_the_checksum_alone_is_not_taken_for_shipped() {
        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path());
        spool.restart(Point { seq: Seq::FIRST, checksum: sum(1), timestamp: None }).unwrap();
        for (seq, before, after) in [(2, 1, 7), (3, 7, 7), (4, 7, 8)] {
            add_between(&spool, seq, sum(before), sum(after));
        }
        assert_eq!(spool.find(generation(), sum(7), Timestamp::from_millis(0)), Seq::new(2));
        assert_eq!(spool.find(generation(), sum(1), Timestamp::from_millis(0)), Seq::new(1));
        assert_eq!(spool.find(generation(), sum(8), Timestamp::from_millis(0)), Seq::new(4));
        assert_eq!(
            spool.find(generation(), sum(8), Timestamp::from_millis(1)),
            None,
            "a copy of this machine wrote it"
        );
    }

    #[test]
    fn the_budget_drops_the_oldest_first() {
        let dir = tempfile::tempdir().unwrap();
        let one = {
            let spool = open(dir.path());
            add(&spool, 2);
            spool.bytes()
        };
        let spool = Spool::open(dir.path(), Some(one * 2), 0o700).unwrap().0;
        assert_eq!(add(&spool, 3), 0);
        assert_eq!(add(&spool, 4), 1);
        assert_eq!(pending(&spool, 2), Some(vec![3, 4]));
        assert_eq!(pending(&spool, 1), None);
        assert!(spool.bytes() <= one * 2);
        spool.spare_through(Seq::new(3).unwrap());
        assert_eq!((add(&spool, 5), add(&spool, 6)), (0, 1), "what every replica has is no loss");
    }

    #[test]
    fn a_spool_of_another_history_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path());
        (2..=3).for_each(|seq| assert_eq!(add(&spool, seq), 0));
        let point = |seq, checksum| Point { seq: Seq::new(seq).unwrap(), checksum, timestamp: None };
        spool.resume(generation(), point(3, sum(3))).unwrap();
        assert_eq!(pending(&spool, 1), Some(vec![2, 3]));
        spool.resume(Generation::new(8).unwrap(), point(3, sum(3))).unwrap();
        assert_eq!(pending(&spool, 3), Some(vec![]));
        assert_eq!(pending(&spool, 2), None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_unpublished_draft_is_never_seen() {
        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path());
        drop(spool.draft(Seq::new(2).unwrap(), 0o600).unwrap());
        drop(spool);
        assert_eq!(open(dir.path()).newest(), None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
