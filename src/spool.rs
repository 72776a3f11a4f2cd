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

mod uploaded;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use crate::durable;
use crate::ltx;
use crate::types::{Checksum, Generation, Timestamp, Txid, TxidRange};

pub use uploaded::Uploaded;

/// One batch captured from a database on this machine. The state in which a
/// history begins has a number too, so segments count from 2. A new history goes
/// on counting: an upload that still works for the one before must not find
/// segments under the numbers it knows. Replicas number what they keep by their
/// own TXIDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(NonZeroU64);

impl Seq {
    /// The state in which the first generation begins.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// `None` for 0.
    pub fn new(n: u64) -> Option<Self> {
        NonZeroU64::new(n).map(Self)
    }

    /// The plain number.
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The batch after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("fewer than 2^64 batches"))
    }

    /// The batch before this.
    pub fn before(self) -> Option<Self> {
        Self::new(self.get() - 1)
    }

    /// The TXID that a segment carries while it is in the spool.
    pub fn as_txids(self) -> TxidRange {
        TxidRange::single(Txid::new(self.get()).expect("counts from 1"))
    }
}

impl std::fmt::Display for Seq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A captured position: the batch, the database checksum after it, and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The batch.
    pub seq: Seq,
    /// The database after it.
    pub checksum: Checksum,
    /// The time stamped on it; `None` when only what follows is known.
    pub timestamp: Option<Timestamp>,
}

/// One segment in the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spooled {
    /// The batch it holds.
    pub seq: Seq,
    /// Bytes of the file.
    pub size: u64,
    /// Its header; the TXID in it is the batch number.
    pub header: ltx::Header,
}

impl Spooled {
    fn proof(&self) -> Option<(Checksum, Checksum)> {
        self.header.proof.as_ref().and_then(|proof| Some((proof.before?, proof.after)))
    }
}

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

/// The default budget, unless 5 % of the file system is less.
const DEFAULT_BUDGET: u64 = 1 << 30;
const SHARE_OF_FILE_SYSTEM: u64 = 20;

impl Spool {
    /// Opens or creates the spool in `dir`. Segments that are damaged, or that do
    /// not connect to the newest run, are removed and reported.
    ///
    /// # Errors
    /// From the file system.
    pub fn open(dir: &Path, budget: Option<u64>, mode: u32) -> io::Result<(Self, Opened)> {
        durable::create_dir_all(dir, mode)?;
        durable::remove_stale(dir)?;
        let mut found = BTreeMap::new();
        let mut opened = Opened::default();
        durable::point("spool::list")?;
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(txids) = name.to_str().and_then(ltx::parse_file_name) else { continue };
            match read_header(&entry.path(), txids)? {
                Some(segment) => drop(found.insert(segment.seq, segment)),
                None => opened.removed.push(entry.path()),
            }
        }
        let segments = newest_run(found, |lost| opened.removed.push(path_in(dir, lost.seq)));
        for path in &opened.removed {
            remove(path)?;
        }
        let floor = segments
            .values()
            .next()
            .and_then(|first| Some(Point { seq: first.seq.before()?, checksum: first.proof()?.0, timestamp: None }));
        let bytes = segments.values().map(|s| s.size).sum();
        let budget = budget.unwrap_or_else(|| default_budget(dir));
        let inner = Mutex::new(Inner { segments, bytes, floor, spare: None });
        let allowance = AtomicU64::new(u64::MAX);
        Ok((Self { dir: dir.to_owned(), budget, allowance, together: OnceLock::new(), inner }, opened))
    }

    /// Lets it share a budget with others, from now on.
    pub fn share(self: &Arc<Self>, together: &Arc<Together>) {
        if self.together.set(together.clone()).is_ok() {
            let mut members = together.members.lock().unwrap_or_else(PoisonError::into_inner);
            members.retain(|member| member.strong_count() > 0);
            members.push(Arc::downgrade(self));
            drop(members);
            together.budget.get_or_init(|| size_of_file_system(&self.dir).map_or(u64::MAX, |size| size / 10));
            together.bytes.fetch_add(self.bytes(), Ordering::Relaxed);
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
            inner.floor = segment
                .proof()
                .and_then(|(before, _)| Some(Point { seq: segment.seq.before()?, checksum: before, timestamp: None }));
        }
        inner.bytes += segment.size;
        if let Some(together) = self.together.get() {
            together.bytes.fetch_add(segment.size, Ordering::Relaxed);
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
        let (size, proof, timestamp) = (segment.size, segment.proof(), segment.header.timestamp);
        remove(&path_in(&self.dir, seq))?;
        inner.segments.remove(&seq);
        inner.bytes = inner.bytes.saturating_sub(size);
        if let Some(together) = self.together.get() {
            together.bytes.fetch_sub(size, Ordering::Relaxed);
        }
        inner.floor = proof.map(|(_, checksum)| Point { seq, checksum, timestamp: Some(timestamp) });
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Some(together) = self.together.get() {
            together.bytes.fetch_sub(self.bytes(), Ordering::Relaxed);
        }
    }
}

/// A budget that all spools of a process share. Whoever has most gives first, so
/// that one database whose replica is away costs no other its segments.
#[derive(Debug)]
pub struct Together {
    budget: OnceLock<u64>,
    bytes: AtomicU64,
    members: Mutex<Vec<Weak<Spool>>>,
}

impl Together {
    /// A budget in bytes; `None`: a tenth of the file system that the first of them is on.
    pub fn new(budget: Option<u64>) -> Self {
        let budget = budget.map_or_else(OnceLock::new, OnceLock::from);
        Self { budget, bytes: AtomicU64::new(0), members: Mutex::default() }
    }

    fn budget(&self) -> u64 {
        self.budget.get().copied().unwrap_or(u64::MAX)
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn shed(&self) -> io::Result<()> {
        while self.bytes() > self.budget() {
            let members: Vec<Arc<Spool>> =
                self.members.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
            let Some(largest) = members.iter().max_by_key(|spool| spool.bytes()).filter(|spool| spool.bytes() > 0)
            else {
                return Ok(());
            };
            let mut inner = largest.lock();
            let Some(oldest) = inner.segments.keys().next().copied() else { return Ok(()) };
            largest.drop_one(&mut inner, oldest)?;
            tracing::warn!(
                path = largest.dir.display().to_string(),
                budget = self.budget(),
                "all local segments together exceed their budget: replicas that lack these will get a new base"
            );
        }
        Ok(())
    }
}

/// Keeps the newest segments that connect without a hole; tells about the others.
fn newest_run(mut found: BTreeMap<Seq, Spooled>, mut lost: impl FnMut(&Spooled)) -> BTreeMap<Seq, Spooled> {
    let mut start = found.keys().next_back().copied();
    for (seq, segment) in found.iter().rev() {
        let connected = seq.before().and_then(|before| found.get(&before)).is_some_and(|previous| {
            previous.header.generation == segment.header.generation
                && previous.proof().zip(segment.proof()).is_some_and(|((_, after), (before, _))| after == before)
        });
        start = Some(*seq);
        if !connected {
            break;
        }
    }
    let Some(start) = start else { return found };
    let kept = found.split_off(&start);
    found.values().for_each(&mut lost);
    kept
}

/// `None`: damaged. F105: what cannot be read just now is an error instead, as it may be whole.
fn read_header(path: &Path, txids: TxidRange) -> io::Result<Option<Spooled>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut bytes = [0u8; ltx::Header::SIZE];
    match file.read_exact(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let (Ok(header), Some(seq)) = (ltx::Header::decode(&bytes), Seq::new(txids.max().get())) else { return Ok(None) };
    let segment = Spooled { seq, size, header };
    Ok((segment.header.txids == txids && segment.proof().is_some()).then_some(segment))
}

fn path_in(dir: &Path, seq: Seq) -> PathBuf {
    dir.join(ltx::file_name(seq.as_txids()))
}

fn remove(path: &Path) -> io::Result<()> {
    match durable::point("spool::remove").and_then(|()| std::fs::remove_file(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn default_budget(dir: &Path) -> u64 {
    size_of_file_system(dir).map_or(DEFAULT_BUDGET, |size| DEFAULT_BUDGET.min(size / SHARE_OF_FILE_SYSTEM))
}

fn size_of_file_system(dir: &Path) -> Option<u64> {
    rustix::fs::statvfs(dir).ok().map(|fs| fs.f_blocks.saturating_mul(fs.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
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

    fn pending(spool: &Spool, after: u64) -> Option<Vec<u64>> {
        match spool.pending(Seq::new(after).unwrap()) {
            Pending::None => Some(vec![]),
            Pending::Segments(segments) => Some(segments.iter().map(|s| s.seq.get()).collect()),
            Pending::Gone => None,
        }
    }

    /// F105: for want of descriptors, say.
    #[test]
    fn a_segment_that_cannot_be_read_is_not_taken_for_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path());
        (2..=3).for_each(|seq| assert_eq!(add(&spool, seq), 0));
        drop(spool);
        let unreadable = path_in(dir.path(), Seq::new(4).unwrap());
        std::fs::create_dir(&unreadable).unwrap();
        assert!(Spool::open(dir.path(), None, 0o700).is_err());
        std::fs::remove_dir(&unreadable).unwrap();
        assert_eq!(open(dir.path()).newest(), Seq::new(3));
    }

    /// The one whose replica is away gives first.
    #[test]
    fn the_largest_spool_gives_first_when_all_are_too_large_together() {
        let dir = tempfile::tempdir().unwrap();
        let spools: Vec<Arc<Spool>> = ["a", "b"].iter().map(|name| Arc::new(open(&dir.path().join(name)))).collect();
        add(&spools[0], 2);
        let size = spools[0].bytes();
        let together = Arc::new(Together::new(Some(4 * size)));
        spools.iter().for_each(|spool| spool.share(&together));
        (3..=4).for_each(|seq| assert_eq!(add(&spools[0], seq), 0));
        add(&spools[1], 2);
        assert_eq!((spools[0].bytes(), together.bytes()), (3 * size, 4 * size));
        add(&spools[1], 3);
        assert_eq!((spools[0].bytes(), spools[1].bytes()), (2 * size, 2 * size));
        assert_eq!(spools[0].pending(Seq::new(1).unwrap()), Pending::Gone);
        drop(spools);
        assert_eq!(together.bytes(), 0);
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

    /// F60: a missing or damaged file cuts off what came before it, and only that.
    #[test]
    fn damage_keeps_what_still_connects() {
        for (damaged, kept) in [(2, vec![3, 4]), (3, vec![4]), (4, vec![2, 3])] {
            let dir = tempfile::tempdir().unwrap();
            let spool = open(dir.path());
            (2..=4).for_each(|seq| assert_eq!(add(&spool, seq), 0));
            std::fs::write(path_in(dir.path(), Seq::new(damaged).unwrap()), b"LTX1 but short").unwrap();
            drop(spool);
            let (spool, opened) = Spool::open(dir.path(), None, 0o700).unwrap();
            assert!(!opened.removed.is_empty());
            assert_eq!(pending(&spool, kept[0] - 1), Some(kept));
        }
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
