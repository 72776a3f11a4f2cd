//! The way from the spool to one replica.
//!
//! Invariant: what a replica holds is, in the order of its TXIDs, one unbroken
//! history: each segment connects to the one before, or is complete. A name is
//! taken only with the condition that it is free; whoever finds it taken by
//! somebody else stops ([`Error::Fenced`]) and touches nothing.
//!
//! Nothing is remembered between runs. The newest segment on the replica says
//! where to go on: its generation and its database checksum are looked up in the
//! spool. If they are not found there, the replica gets a base above everything
//! it holds. Only where listing is forbidden this machine remembers the newest
//! TXID itself ([`Claims`]).
//!
//! Backlogs are merged: however much waits, one object goes up at a time, and
//! what arrives meanwhile goes into the next.

mod claims;
mod prepare;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream;

use crate::capture::Base;
use crate::ltx::{self, Encoding, Level};
use crate::replica;
use crate::replica::{Listing, PutError, Replica, Segment, Shelf};
use crate::spool::{Pending, Seq, Spool, Spooled, Uploaded};
use crate::storage::{Body, ErrorKind};
use crate::types::{Generation, Timestamp, Txid, TxidRange};

pub use claims::Claims;
use claims::Remembered;
use prepare::{BATCH_SEGMENTS, Prepared, Unprepared, prepare};

/// Most bytes of spooled segments that go into one object, at least one segment.
const BATCH_BYTES: u64 = 64 << 20;

/// No upload takes longer, so what is older and not finished never will be.
const LONGEST_UPLOAD: Duration = Duration::from_secs(24 * 3600);

/// What to do for a replica next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It has everything.
    Nothing,
    /// Ship these segments as one.
    Ship(Vec<Spooled>),
    /// What it lacks is no longer at hand.
    Base,
}

/// Decides what a replica that has everything through `cursor` gets next.
pub fn next(cursor: Option<Seq>, pending: impl FnOnce(Seq) -> Pending, max_segments: usize) -> Next {
    let Some(cursor) = cursor else { return Next::Base };
    match pending(cursor) {
        Pending::None => Next::Nothing,
        Pending::Gone => Next::Base,
        Pending::Segments(mut segments) => {
            let mut bytes = 0;
            let fits = segments.iter().take(max_segments.max(1)).take_while(|segment| {
                let first = bytes == 0;
                bytes += segment.size;
                first || bytes <= BATCH_BYTES
            });
            let count = fits.count();
            segments.truncate(count);
            Next::Ship(segments)
        }
    }
}

/// Why a replica did not get what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another writer has taken over.
    #[error("{0}")]
    Fenced(PutError),
    /// Writing failed.
    #[error(transparent)]
    Put(PutError),
    /// Reading failed.
    #[error(transparent)]
    Replica(#[from] replica::Error),
    /// A replica that must not be listed, and nothing here knows where it ends.
    #[error(
        "replica {replica} was written before, this machine has no record of where it ends, and \"create-only\" forbids \
         listing it: use a path that nothing was written to, or remove \"create-only\" and allow listing"
    )]
    Unknown {
        /// The replica's name.
        replica: String,
    },
    /// What was put on a replica that must not be listed could not be read or written down.
    #[error("the record of what was uploaded cannot be used: {0}")]
    Record(std::io::Error),
    /// Local segments could not be merged.
    #[error("cannot merge local segments for upload")]
    Merge(#[from] ltx::Error),
    /// The base could not be read from the database.
    #[error("cannot read the base from the database: {0}")]
    Base(String),
}

impl Error {
    /// Whether trying again may help without anybody's help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Fenced(_) => false,
            Self::Put(PutError::Storage(error)) => error.kind == ErrorKind::Later,
            Self::Put(PutError::Fenced { .. }) => false,
            Self::Replica(error) => error.kind() == ErrorKind::Later,
            Self::Unknown { .. } => false,
            Self::Merge(_) | Self::Base(_) | Self::Record(_) => true,
        }
    }
}

impl From<PutError> for Error {
    fn from(error: PutError) -> Self {
        match error {
            PutError::Fenced { .. } => Self::Fenced(error),
            PutError::Storage(_) => Self::Put(error),
        }
    }
}

/// What one round of work came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advanced {
    /// The replica has everything.
    UpToDate,
    /// One object went up; there may be more to do.
    Shipped,
    /// The replica needs a base: see [`Uploader::put_base`].
    NeedsBase,
    /// Another writer continued the replica's history after ours. To go on above
    /// it, this machine's history needs a new name first.
    TakenOver,
}

/// What a replica is known to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// The newest TXID.
    pub txid: Txid,
    /// The captured batch it ends with.
    pub seq: Seq,
    /// Its time.
    pub timestamp: Timestamp,
}

/// Ships to one replica of one database.
pub struct Uploader {
    replica: Arc<Replica>,
    /// What the replica holds, for whoever else works on it.
    shelf: Shelf,
    encoding: Encoding,
    max_segments: usize,
    history: Option<Generation>,
    opened: Option<Opened>,
    /// An object whose fate is not known: it is sent again unchanged.
    unresolved: Option<Prepared>,
    /// What this value itself wrote last.
    wrote: Option<Txid>,
    /// The history up to here is no use without a base.
    distrusted: Option<Txid>,
    fenced: bool,
    tidied: bool,
    claims: Option<Claims>,
    /// For whoever merges what was uploaded.
    uploaded: Option<Uploaded>,
}

#[derive(Debug)]
struct Opened {
    /// The highest TXID at any level.
    position: Option<Txid>,
    /// From the first TXID to `position` nothing is missing.
    whole: bool,
    /// The captured batch that the replica ends with; `None` = not one of ours.
    confirmed: Option<Confirmed>,
}

impl Uploader {
    /// `max_segments` = 0 means as many as the program's own bound allows.
    pub fn new(replica: Arc<Replica>, encoding: Encoding, max_segments: usize) -> Self {
        let max_segments = if max_segments == 0 { BATCH_SEGMENTS } else { max_segments.min(BATCH_SEGMENTS) };
        Self {
            replica,
            shelf: Shelf::default(),
            encoding,
            max_segments,
            history: None,
            opened: None,
            unresolved: None,
            wrote: None,
            distrusted: None,
            fenced: false,
            tidied: false,
            claims: None,
            uploaded: None,
        }
    }

    /// What the replica holds, kept up to date with every upload.
    pub fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// The same for a replica that must not be listed.
    #[must_use]
    pub fn unlisted(self, claims: Claims) -> Self {
        Self { claims: Some(claims), ..self }
    }

    /// The same, remembering what each object was made of.
    #[must_use]
    pub fn remembering(self, uploaded: Uploaded) -> Self {
        Self { uploaded: Some(uploaded), ..self }
    }

    /// The replica.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// What the replica is known to have of the present history.
    pub fn confirmed(&self) -> Option<Confirmed> {
        self.opened.as_ref().and_then(|o| o.confirmed)
    }

    /// Whether another writer has taken over; then nothing more is tried.
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Asks the replica again where it stands before anything else is shipped.
    pub fn forget(&mut self) {
        (self.opened, self.unresolved) = (None, None);
    }

    /// What is there does not hold together: it gets a base and a snapshot above it.
    pub fn distrust(&mut self) {
        self.distrusted = self.shelf.listing().position();
        self.forget();
    }

    /// Ships the next object of this history, if there is one.
    ///
    /// After an error the object may be on the replica or not. If it is still at
    /// hand it is put again unchanged, which tells; otherwise the replica is asked
    /// again where it stands.
    ///
    /// # Errors
    /// Why not; nothing is lost by calling again.
    pub async fn advance(&mut self, spool: &Arc<Spool>, generation: Generation) -> Result<Advanced, Error> {
        if self.history != Some(generation) {
            (self.history, self.opened, self.unresolved) = (Some(generation), None, None);
        }
        if self.opened.is_none() {
            match self.open(spool, generation).await {
                Ok(Some(opened)) => {
                    self.opened = Some(opened);
                    self.tidy_once();
                }
                Ok(None) => return Ok(Advanced::TakenOver),
                Err(error) => {
                    self.fenced |= matches!(error, Error::Fenced(_));
                    return Err(error);
                }
            }
        }
        if self.unresolved.is_none() {
            let opened = self.opened.as_ref().expect("opened above");
            if !opened.whole {
                return Ok(Advanced::NeedsBase);
            }
            let cursor = opened.confirmed.map(|c| c.seq);
            match next(cursor, |seq| spool.pending(seq), self.max_segments) {
                Next::Nothing => return Ok(Advanced::UpToDate),
                Next::Base => return Ok(Advanced::NeedsBase),
                Next::Ship(segments) => {
                    let txid = Txid::after(opened.position);
                    match prepare(spool.clone(), segments, txid, self.encoding).await {
                        Ok(prepared) => self.unresolved = Some(prepared),
                        Err(Unprepared::Passing(error)) => return Err(error.into()),
                        Err(Unprepared::Unusable { through, error }) => {
                            tracing::warn!(
                                replica = self.replica.name(),
                                error = error.to_string(),
                                "local segments cannot be read: the replica gets a new base"
                            );
                            spool.drop_through(through).map_err(ltx::Error::Io)?;
                            return Ok(Advanced::NeedsBase);
                        }
                    }
                }
            }
        }
        let prepared = self.unresolved.as_ref().expect("prepared above");
        self.claim(prepared.txid)?;
        let txids = TxidRange::single(prepared.txid);
        let put = self.replica.put_segment(Level::L0, txids, prepared.body(), prepared.timestamp).await;
        let list_again = matches!(&put, Err(PutError::Storage(error)) if error.kind == ErrorKind::Exists);
        if list_again || (put.is_err() && !prepared.is_at_hand()) {
            self.forget();
        }
        self.note_fence(put)?;
        let done = self.unresolved.take().expect("still there");
        if let Some(uploaded) = &self.uploaded {
            uploaded.add(spool, done.txid, &done.made_of);
        }
        self.shelf.put(done.segment(), done.header);
        self.confirm(done.txid, done.through, done.timestamp);
        Ok(Advanced::Shipped)
    }

    /// Puts a base above everything that the replica holds. Where its history has
    /// a hole, a snapshot that spans all of it follows, so that restores need not
    /// cross the hole.
    ///
    /// # Errors
    /// Why not; a new base is then needed.
    pub async fn put_base(&mut self, base: Base) -> Result<(), Error> {
        let Some(opened) = self.opened.as_ref().filter(|_| self.history == Some(base.generation())) else {
            return Err(Error::Base("a new history has begun meanwhile".to_owned()));
        };
        let txid = Txid::after(opened.position);
        let broken = opened.position.is_some() && !opened.whole;
        // Whatever goes wrong, the next look tells what arrived: a base is not read a second time in the same state.
        self.forget();
        self.claim(txid)?;
        self.put_complete(&base, Level::L0, TxidRange::single(txid)).await?;
        self.wrote = Some(txid);
        if broken {
            let all = TxidRange::new(Txid::FIRST, txid).expect("the first TXID is the lowest");
            self.put_complete(&base, Level::SNAPSHOT, all).await?;
        }
        self.confirm(txid, base.point().seq, base.timestamp());
        Ok(())
    }

    async fn put_complete(&mut self, base: &Base, level: Level, txids: TxidRange) -> Result<(), Error> {
        let trouble = Arc::new(Mutex::new(None));
        let size = Arc::new(AtomicU64::new(0));
        let sent = size.clone();
        let reader = base.encode(txids, Some(self.encoding)).map_err(|e| Error::Base(e.chain()))?;
        let seen = trouble.clone();
        let pieces = stream::unfold(Some(reader), move |reader| {
            let (seen, sent) = (seen.clone(), sent.clone());
            async move {
                let mut reader = reader?;
                let piece = tokio::task::spawn_blocking(move || {
                    let piece = reader.piece();
                    (piece, reader)
                });
                match piece.await {
                    Ok((Ok(Some(bytes)), reader)) => {
                        sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                        Some((Ok(Bytes::from(bytes)), Some(reader)))
                    }
                    Ok((Ok(None), _)) => None,
                    Ok((Err(error), _)) => {
                        let text = error.chain();
                        *seen.lock().expect("no holder of this lock panics") = Some(text.clone());
                        Some((Err(std::io::Error::other(text)), None))
                    }
                    Err(error) => Some((Err(std::io::Error::other(error)), None)),
                }
            }
        });
        let body = Body::Stream(Box::pin(pieces));
        let put = self.replica.put_segment(level, txids, body, base.timestamp()).await;
        if let Some(text) = trouble.lock().expect("no holder of this lock panics").take() {
            return Err(Error::Base(text));
        }
        self.note_fence(put)?;
        let size = size.load(Ordering::Relaxed);
        self.shelf.put(Segment { level, txids, size, created: base.timestamp() }, base.header(txids));
        Ok(())
    }

    fn note_fence(&mut self, put: Result<(), PutError>) -> Result<(), Error> {
        let put = put.map_err(Error::from);
        self.fenced |= matches!(put, Err(Error::Fenced(_)));
        put
    }

    fn confirm(&mut self, txid: Txid, seq: Seq, timestamp: Timestamp) {
        self.wrote = Some(txid);
        let confirmed = Some(Confirmed { txid, seq, timestamp });
        self.opened = Some(Opened { position: Some(txid), whole: true, confirmed });
    }

    /// Has the storage remove what uploads of crashed processes left behind, once
    /// in the life of this. Nobody waits for it, and its failure changes nothing.
    fn tidy_once(&mut self) {
        // Who must not list is not asked to.
        if std::mem::replace(&mut self.tidied, true) || self.claims.is_some() {
            return;
        }
        let replica = Arc::clone(&self.replica);
        let before = SystemTime::now().checked_sub(LONGEST_UPLOAD).unwrap_or(SystemTime::UNIX_EPOCH);
        tokio::spawn(async move {
            match replica.tidy(before.into()).await {
                Ok(0) => {}
                Ok(removed) => {
                    let name = replica.name();
                    tracing::info!(replica = name, removed, "removed parts of uploads that were never finished");
                }
                // A right of its own in S3, and not one that everybody has.
                Err(error) => {
                    let name = replica.name();
                    tracing::debug!(replica = name, %error, "parts of unfinished uploads were not looked for");
                }
            }
        });
    }

    /// Finds out where the replica stands. `None`: its history goes on after ours
    /// under another name.
    async fn open(&self, spool: &Spool, generation: Generation) -> Result<Option<Opened>, Error> {
        if let Some(claims) = &self.claims {
            return self.open_unlisted(claims, spool, generation).await.map(Some);
        }
        let mark = self.shelf.begin_listing();
        let listing = self.replica.list_all().await?;
        self.shelf.replace(mark, listing.clone());
        let position = listing.position();
        let Some(position) = position else {
            return Ok(Some(Opened { position: None, whole: true, confirmed: None }));
        };
        let whole = listing.gap_free_end() == Some(position) && self.distrusted != Some(position);
        let newest = newest_at(&listing, position);
        let header = match newest {
            Some(segment) => Some(self.replica.read_header(segment).await?),
            None => None,
        };
        let confirmed = header.filter(|h| h.generation == Some(generation)).and_then(|h| {
            let seq = spool.find(generation, h.proof?.after, h.timestamp)?;
            Some(Confirmed { txid: position, seq, timestamp: h.timestamp })
        });
        let forgotten = header.filter(|h| h.generation == Some(generation) && spool.is_past(h.timestamp));
        if confirmed.is_none() && forgotten.is_some() {
            tracing::info!(
                replica = self.replica.name(),
                position = position.to_string(),
                "what the replica lacks is no longer kept here: continuing above it with a base"
            );
        } else if confirmed.is_none() {
            self.still_alone(position, header.as_ref())?;
            let written_by = header.and_then(|h| h.generation);
            // Our own name on something newer than what we remember is a copy of this machine's state at work. Our name
            // before another one is an older part of this history. A name is never taken up again.
            if written_by == Some(generation) || self.has_written(&listing, generation).await? {
                return Ok(None);
            }
            tracing::info!(
                replica = self.replica.name(),
                position = position.to_string(),
                written_by = written_by.map_or("another program".to_owned(), |g| g.to_string()),
                "the replica ends with a state that this machine does not know: continuing above it with a base"
            );
        }
        Ok(Some(Opened { position: Some(position), whole, confirmed }))
    }
}

impl Uploader {
    fn claim(&self, txid: Txid) -> Result<(), Error> {
        self.claims.as_ref().map_or(Ok(()), |claims| claims.claim(txid)).map_err(Error::Record)
    }

    /// Finds out where a replica stands that must not be listed: what was put
    /// last is known, or that nothing ever was.
    async fn open_unlisted(&self, claims: &Claims, spool: &Spool, generation: Generation) -> Result<Opened, Error> {
        // Every `RandomState` hashes differently, with keys from the system.
        let newest = match claims.open(|| RandomState::new().build_hasher().finish()).map_err(Error::Record)? {
            Remembered::Through(newest) => newest,
            Remembered::Beginning(mark) => {
                return match self.replica.begin(&mark).await? {
                    true => Ok(Opened { position: None, whole: true, confirmed: None }),
                    false => Err(Error::Unknown { replica: self.replica.name().to_owned() }),
                };
            }
        };
        let header = match self.replica.header_of(Level::L0, TxidRange::single(newest)).await {
            Ok(header) => header,
            // Who must not list is not told that there is nothing. The name is left out: it may have been put and merged
            // since. What follows is complete, and a snapshot spans the hole.
            Err(error) if matches!(error.kind(), ErrorKind::Missing | ErrorKind::Refused) => {
                return Ok(Opened { position: Some(newest), whole: false, confirmed: None });
            }
            Err(error) => return Err(error.into()),
        };
        let seq = header.proof.filter(|_| header.generation == Some(generation));
        let seq = seq.and_then(|proof| spool.find(generation, proof.after, header.timestamp));
        let confirmed = seq.map(|seq| Confirmed { txid: newest, seq, timestamp: header.timestamp });
        if confirmed.is_none() {
            tracing::info!(
                replica = self.replica.name(),
                position = newest.to_string(),
                "what follows the last upload is not known here: continuing above it with a base"
            );
        }
        Ok(Opened { position: Some(newest), whole: true, confirmed })
    }

    async fn has_written(&self, listing: &Listing, generation: Generation) -> Result<bool, Error> {
        let runs = self.replica.generations(listing).await?;
        Ok(runs.iter().any(|run| run.generation == Some(generation)))
    }

    /// Whoever has written once goes on only after what it wrote itself: if
    /// something else follows, another writer has taken over.
    fn still_alone(&self, position: Txid, newest: Option<&ltx::Header>) -> Result<(), Error> {
        if self.wrote.is_none_or(|txid| position <= txid) {
            return Ok(());
        }
        let txids = TxidRange::single(position);
        Err(Error::Fenced(PutError::Fenced {
            replica: self.replica.name().to_owned(),
            key: self.replica.key(Level::L0, txids),
            txids,
            ours: self.history,
            theirs: newest.and_then(|h| h.generation),
            written: newest.map_or(Timestamp::from_millis(0), |h| h.timestamp),
        }))
    }
}

/// The least merged segment that ends the history. It is not always at level 0:
/// merging and lifecycle rules remove from there what higher levels hold.
fn newest_at(listing: &Listing, position: Txid) -> Option<&Segment> {
    listing.segments().find(|segment| segment.txids.max() == position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Checksum, PageSize};

    fn seq(n: u64) -> Seq {
        Seq::new(n).unwrap()
    }

    fn spooled(n: u64, size: u64) -> Spooled {
        let header = ltx::Header {
            page_size: PageSize::new(512).unwrap(),
            commit: 1,
            txids: seq(n).as_txids(),
            timestamp: Timestamp::from_millis(0),
            wal: None,
            generation: None,
            proof: None,
        };
        Spooled { seq: seq(n), size, header }
    }

    fn shipped(sizes: &[u64], max: usize) -> usize {
        let segments = (2..).zip(sizes).map(|(n, size)| spooled(n, *size)).collect();
        match next(Some(seq(1)), |_| Pending::Segments(segments), max) {
            Next::Ship(segments) => segments.len(),
            other => panic!("{other:?}"),
        }
    }

    fn generation() -> Generation {
        Generation::new(7).unwrap()
    }

    fn sum(n: u64) -> Checksum {
        Checksum::from_crc(n)
    }

    fn header(txid: u64, before: Option<Checksum>, after: Checksum) -> ltx::Header {
        ltx::Header {
            page_size: PageSize::new(512).unwrap(),
            commit: 1,
            txids: TxidRange::single(Txid::new(txid).unwrap()),
            timestamp: Timestamp::from_millis(0),
            wal: None,
            generation: Some(generation()),
            proof: Some(ltx::Proof { before, after }),
        }
    }

    fn encoded(header: ltx::Header, fill: u8) -> Vec<u8> {
        let mut encoder = ltx::Encoder::new(Vec::new(), header, Encoding::Block).unwrap();
        encoder.page(crate::types::Pgno::FIRST, &[fill; 512]).unwrap();
        encoder.finish().unwrap().0
    }

    /// A spool that began at checksum 1 and holds the batches 2 to `last`; batch n leads to checksum n.
    fn spool(dir: &std::path::Path, last: u64) -> Arc<Spool> {
        let spool = Spool::open(dir, None, 0o700).unwrap().0;
        spool.restart(crate::spool::Point { seq: seq(1), checksum: sum(1), timestamp: None }).unwrap();
        for n in 2..=last {
            add(&spool, n);
        }
        Arc::new(spool)
    }

    fn add(spool: &Spool, n: u64) {
        let header = header(n, Some(sum(n - 1)), sum(n));
        let bytes = encoded(header, 1);
        let mut draft = spool.draft(seq(n), 0o600).unwrap();
        draft.append(&bytes).unwrap();
        spool.publish(draft, Spooled { seq: seq(n), size: bytes.len() as u64, header }).unwrap();
    }

    fn replica(storage: &Arc<crate::storage::MemoryStorage>) -> Arc<Replica> {
        let layout = replica::Layout::Decimal;
        Arc::new(Replica::new("r".to_owned(), storage.clone(), crate::storage::Key::ROOT, layout))
    }

    async fn put(replica: &Replica, header: ltx::Header, fill: u8) {
        let body = Body::from(encoded(header, fill));
        replica.put_segment(Level::L0, header.txids, body, header.timestamp).await.unwrap();
    }

    async fn names(replica: &Replica) -> Vec<u64> {
        replica.list(Level::L0).await.unwrap().iter().map(|s| s.txids.max().get()).collect()
    }

    #[tokio::test]
    async fn a_replica_that_ends_with_a_known_state_is_continued_without_a_base() {
        let dir = tempfile::tempdir().unwrap();
        let (storage, spool) = (Arc::default(), spool(dir.path(), 4));
        let replica = replica(&storage);
        put(&replica, header(1, None, sum(2)), 9).await;
        let mut uploader = Uploader::new(replica.clone(), Encoding::Block, 0);
        assert_eq!(uploader.advance(&spool, generation()).await.unwrap(), Advanced::Shipped);
        assert_eq!(uploader.advance(&spool, generation()).await.unwrap(), Advanced::UpToDate);
        assert_eq!(names(&replica).await, [1, 2], "batches 3 and 4 went up as one");
        assert_eq!(uploader.confirmed().unwrap().seq, seq(4));
    }

    /// A copy of this machine's disk went on under the same name.
    #[tokio::test]
    async fn a_name_that_somebody_else_used_is_not_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let (storage, spool) = (Arc::default(), spool(dir.path(), 2));
        let replica = replica(&storage);
        put(&replica, header(1, None, sum(2)), 9).await;
        put(&replica, header(2, Some(sum(2)), sum(99)), 9).await;
        let mut uploader = Uploader::new(replica.clone(), Encoding::Block, 0);
        assert_eq!(uploader.advance(&spool, generation()).await.unwrap(), Advanced::TakenOver);
        let renamed = Generation::new(8).unwrap();
        assert_eq!(uploader.advance(&spool, renamed).await.unwrap(), Advanced::NeedsBase);
    }

    /// F62: the older writer stops at its first conflicting write, whatever the
    /// other one is called, and leaves what is there as it is.
    #[tokio::test]
    async fn a_writer_that_was_overtaken_is_fenced() {
        for same_name in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let (storage, spool) = (Arc::default(), spool(dir.path(), 3));
            let replica = replica(&storage);
            put(&replica, header(1, None, sum(2)), 9).await;
            let mut uploader = Uploader::new(replica.clone(), Encoding::Block, 0);
            assert_eq!(uploader.advance(&spool, generation()).await.unwrap(), Advanced::Shipped);
            let other = if same_name { generation() } else { Generation::new(5).unwrap() };
            put(&replica, ltx::Header { generation: Some(other), ..header(3, None, sum(77)) }, 9).await;
            add(&spool, 4);
            let error = uploader.advance(&spool, generation()).await.unwrap_err();
            assert!(matches!(error, Error::Fenced(_)), "{error}");
            assert!(uploader.is_fenced());
            // The same when it looks again for another reason.
            let mut again = Uploader::new(replica.clone(), Encoding::Block, 0);
            again.wrote = Txid::new(2);
            let error = again.advance(&spool, generation()).await.unwrap_err();
            assert!(matches!(error, Error::Fenced(_)), "{error}");
            assert_eq!(names(&replica).await, [1, 2, 3]);
        }
    }

    fn unlisted(replica: &Arc<Replica>, dir: &std::path::Path) -> Uploader {
        Uploader::new(replica.clone(), Encoding::Block, 0).unlisted(Claims::new(dir, "r"))
    }

    /// Where the replica ends is remembered here: also through a put whose outcome was not heard of.
    #[tokio::test]
    async fn a_replica_that_must_not_be_listed_is_continued_from_what_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let (storage, spool) = (Arc::new(crate::storage::MemoryStorage::new()), spool(dir.path(), 2));
        let blind = Arc::new(Blind(storage.clone()));
        let replica = Arc::new(Replica::new("r".into(), blind, crate::storage::Key::ROOT, replica::Layout::Decimal));
        assert_eq!(
            unlisted(&replica, dir.path()).advance(&spool, generation()).await.unwrap(),
            Advanced::NeedsBase,
            "nothing was ever put"
        );
        put(&replica, header(1, None, sum(2)), 9).await;
        Claims::new(dir.path(), "r").claim(Txid::FIRST).unwrap();
        let mut uploader = unlisted(&replica, dir.path());
        assert_eq!(uploader.advance(&spool, generation()).await.unwrap(), Advanced::UpToDate);
        add(&spool, 3);
        assert_eq!(uploader.advance(&spool, generation()).await.unwrap(), Advanced::Shipped);
        assert_eq!(
            unlisted(&replica, dir.path()).advance(&spool, generation()).await.unwrap(),
            Advanced::UpToDate,
            "a restart"
        );
        // The next name was claimed and nothing came of it: it is not used again.
        Claims::new(dir.path(), "r").claim(Txid::new(3).unwrap()).unwrap();
        let mut uploader = unlisted(&replica, dir.path());
        assert_eq!(uploader.advance(&spool, generation()).await.unwrap(), Advanced::NeedsBase);
        let opened = uploader.opened.unwrap();
        assert_eq!((opened.position, opened.whole), (Txid::new(3), false), "a snapshot will span the hole");
    }

    /// A machine without a memory must not begin anew on top of what is there.
    #[tokio::test]
    async fn a_replica_that_must_not_be_listed_and_is_not_remembered_is_left_alone() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (storage, spool) = (Arc::default(), spool(ours.path(), 2));
        let replica = replica(&storage);
        unlisted(&replica, theirs.path()).advance(&spool, generation()).await.unwrap();
        let error = unlisted(&replica, ours.path()).advance(&spool, generation()).await.unwrap_err();
        assert!(matches!(error, Error::Unknown { .. }) && !error.is_passing(), "{error}");
        assert_eq!(
            unlisted(&replica, theirs.path()).advance(&spool, generation()).await.unwrap(),
            Advanced::NeedsBase,
            "who marked it may begin, also after a restart"
        );
    }

    /// A storage seen with credentials that may create and read: no lists, and a 403 for what is not there.
    struct Blind(Arc<crate::storage::MemoryStorage>);

    #[async_trait::async_trait]
    impl crate::storage::Storage for Blind {
        fn kind(&self) -> &'static str {
            "blind"
        }

        async fn list(
            &self,
            _: &crate::storage::Key,
            _: Option<&crate::storage::Key>,
        ) -> crate::storage::Result<Vec<crate::storage::Object>> {
            panic!("it was told not to list")
        }

        async fn get(&self, key: &crate::storage::Key, range: std::ops::Range<u64>) -> crate::storage::Result<Bytes> {
            self.0.get(key, range).await.map_err(|error| crate::storage::Error { kind: ErrorKind::Refused, ..error })
        }

        async fn put(
            &self,
            key: &crate::storage::Key,
            body: Body,
            options: crate::storage::PutOptions,
        ) -> crate::storage::Result<()> {
            self.0.put(key, body, options).await
        }

        async fn delete(&self, _: &[crate::storage::Key]) -> crate::storage::Result<()> {
            panic!("it was told not to delete")
        }
    }

    #[test]
    fn a_replica_whose_end_is_unknown_gets_a_base() {
        assert_eq!(next(None, |_| Pending::None, 10), Next::Base);
        assert_eq!(next(Some(seq(4)), |_| Pending::Gone, 10), Next::Base);
        assert_eq!(next(Some(seq(4)), |_| Pending::None, 10), Next::Nothing);
    }

    #[test]
    fn a_backlog_is_merged_within_bounds() {
        assert_eq!(shipped(&[10; 5], 100), 5);
        assert_eq!(shipped(&[10; 500], 100), 100);
        assert_eq!(shipped(&[BATCH_BYTES / 2 + 1; 5], 100), 1);
        assert_eq!(shipped(&[BATCH_BYTES * 3, 1], 100), 1, "one segment always goes");
        assert_eq!(shipped(&[1, 1], 0), 1);
    }
}
