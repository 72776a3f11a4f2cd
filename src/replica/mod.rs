//! One database's shelf in a storage: which segments are there, putting one
//! there once, reading them.
//!
//! Always true: a name that was given to a segment never gets other bytes, also
//! when two programs write, when an answer is lost, and when a put is repeated
//! after a restart. A listing shows segments only: other names are skipped.
//!
//! A [`Replica`] remembers nothing between calls. The daemon lists once, then
//! keeps a [`Shelf`]: as the only writer it knows what it wrote, and it learns at
//! its next put if it is not.

mod below;
mod discover;
mod generations;
mod keys;
mod listing;
mod pins;
mod put;
mod shelf;
mod sorted;
mod spellings;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::ltx::{self, Header, Level, Trailer};
use crate::storage::{self, Body, Counts, ErrorKind, Key, LIST_PAGE, Put, PutOptions, Storage};
use crate::types::{Secret, Timestamp, Txid, TxidRange};

pub use below::databases_below;
pub use discover::discover;
pub use generations::Run;
pub use keys::Layout;
pub use listing::Listing;
pub use pins::{Pin, PinName};
pub use put::PutError;
pub use shelf::{Item, Mark, Shelf};
pub use spellings::Spellings;

/// Levels listed at once. All ten would be faster by little, and many databases
/// open their replicas at the same time.
const LISTINGS_AT_ONCE: usize = 5;

/// The object that marks a replica that is written without being listed.
const BEGUN: &str = "brooklet.begun";

/// A segment on a replica, as its name and a listing tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// How often it was merged.
    pub level: Level,
    /// The transactions it holds.
    pub txids: TxidRange,
    /// Its length in bytes.
    pub size: u64,
    /// When it was captured, as far as the storage's listing shows that: some
    /// show when it was uploaded. The header tells the truth.
    pub created: Timestamp,
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.level, self.txids)
    }
}

/// Why a replica could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage says no.
    #[error("{0}")]
    Storage(storage::Error),
    /// What is there is not what its name says.
    #[error("{key} cannot be used: restore to a point that does not need it, or use another replica")]
    Segment {
        /// Its whole name.
        key: Key,
        /// What is wrong with it.
        source: ltx::Error,
    },
    /// A segment under the name of another.
    #[error("{key} holds transactions {found} and not those in its name: find out who renamed it")]
    Misnamed {
        /// Its whole name.
        key: Key,
        /// What its header says.
        found: TxidRange,
    },
}

impl Error {
    /// What to do next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Storage(e) => e.kind,
            Self::Segment { .. } | Self::Misnamed { .. } => ErrorKind::Refused,
        }
    }

    /// Whether it was there and is gone: merged away or deleted since it was listed.
    pub fn is_missing(&self) -> bool {
        self.kind() == ErrorKind::Missing
    }
}

impl From<storage::Error> for Error {
    fn from(e: storage::Error) -> Self {
        Self::Storage(e)
    }
}

/// What reading a replica returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One database's place in a storage.
#[derive(Clone)]
pub struct Replica {
    name: String,
    storage: Arc<dyn Storage>,
    root: Key,
    layout: Layout,
    identities: Vec<Secret>,
    counts: Arc<Counts>,
}

impl Replica {
    /// The replica that configuration calls `name`, below `root`, which is used
    /// as the layout says (see [`Layout`]).
    pub fn new(name: String, storage: Arc<dyn Storage>, root: Key, layout: Layout) -> Self {
        Self { name, storage, root, layout, identities: Vec::new(), counts: Arc::default() }
    }

    /// The same with the counters of the storage that it was made with.
    #[must_use]
    pub fn with_counts(self, counts: Arc<Counts>) -> Self {
        Self { counts, ..self }
    }

    /// What its storage was asked so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The same with the age keys that open what Litestream 0.3 encrypted there.
    #[must_use]
    pub fn with_identities(self, identities: Vec<Secret>) -> Self {
        Self { identities, ..self }
    }

    /// What configuration calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What kind of storage it is in: `file`, `s3`.
    pub fn kind(&self) -> &'static str {
        self.storage.kind()
    }

    /// The storage it is in.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The keys for what Litestream 0.3 encrypted.
    pub fn identities(&self) -> &[Secret] {
        &self.identities
    }

    /// A folder below the root that is not one of the levels, joined as a path in
    /// every layout.
    pub fn beside_levels(&self, name: &str) -> Key {
        keys::beside_levels(&self.root, name)
    }

    /// Where the segments of a level are.
    pub fn folder(&self, level: Level) -> Key {
        self.layout.folder(&self.root, level)
    }

    /// Where a segment is.
    pub fn key(&self, level: Level, txids: TxidRange) -> Key {
        self.folder(level).child(&ltx::file_name(txids)).expect("digits are legal in a key")
    }

    /// The segments of one level, ascending.
    pub async fn list(&self, level: Level) -> Result<Vec<Segment>> {
        self.list_from(level, None).await
    }

    /// The segments of one level that begin after a transaction, ascending.
    pub async fn list_after(&self, level: Level, txid: Txid) -> Result<Vec<Segment>> {
        // Whatever begins there sorts before this, which cannot exist.
        let last = TxidRange::new(txid, Txid::MAX).expect("nothing is above the last");
        self.list_from(level, Some(self.key(level, last))).await
    }

    async fn list_from(&self, level: Level, mut after: Option<Key>) -> Result<Vec<Segment>> {
        let folder = self.folder(level);
        let mut segments = Vec::new();
        loop {
            let page = self.storage.list(&folder, after.as_ref()).await?;
            let last = page.last().map(|object| object.key.clone());
            if last.is_some() && last <= after {
                let message = format!("the listing of {folder} repeats itself: report this storage as not supported");
                return Err(storage::Error::new(ErrorKind::Refused, message).into());
            }
            segments.extend(page.iter().filter_map(|object| {
                // A folder within the folder is not ours.
                let name = object.key.as_str().strip_prefix(folder.as_str())?.strip_prefix('/')?;
                let txids = ltx::parse_file_name(name)?;
                Some(Segment { level, txids, size: object.size, created: object.modified })
            }));
            if page.len() < LIST_PAGE {
                return Ok(segments);
            }
            after = last;
        }
    }

    /// The segments of all levels. Not one moment's picture: what is merged and
    /// deleted meanwhile can be missing from both places, so whoever finds a gap
    /// lists again before believing it.
    pub async fn list_all(&self) -> Result<Listing> {
        stream::iter(Level::all())
            .map(|level| self.list(level))
            .buffer_unordered(LISTINGS_AT_ONCE)
            .try_fold(Listing::default(), |mut listing, segments| async move {
                listing.extend(segments);
                Ok(listing)
            })
            .await
    }

    /// Removes what unfinished uploads of segments left behind before a moment. Returns how many.
    pub async fn tidy(&self, before: Timestamp) -> Result<u64> {
        let mut removed = 0;
        for level in Level::all() {
            removed += self.storage.tidy(&self.folder(level), before).await?;
        }
        Ok(removed)
    }

    /// Exactly these bytes of a segment.
    pub async fn read(&self, segment: &Segment, range: Range<u64>) -> Result<Bytes> {
        Ok(self.piece(&self.key(segment.level, segment.txids), range).await?)
    }

    /// These bytes or an error, whatever a proxy in between makes of them.
    async fn piece(&self, key: &Key, range: Range<u64>) -> storage::Result<Bytes> {
        let wanted = range.end.saturating_sub(range.start);
        let bytes = self.storage.get(key, range).await?;
        if bytes.len() as u64 == wanted { Ok(bytes) } else { Err(storage::Error::cut_short(key, wanted, bytes.len())) }
    }

    /// What a segment says about itself; checked against its name.
    pub async fn read_header(&self, segment: &Segment) -> Result<Header> {
        self.header_of(segment.level, segment.txids).await
    }

    /// The same for a segment that may or may not be there.
    pub async fn header_of(&self, level: Level, txids: TxidRange) -> Result<Header> {
        let key = self.key(level, txids);
        let bytes = self.piece(&key, 0..Header::SIZE as u64).await?;
        let header = Header::decode(&bytes).map_err(|source| Error::Segment { key: key.clone(), source })?;
        if header.txids != txids {
            return Err(Error::Misnamed { key, found: header.txids });
        }
        Ok(header)
    }

    /// Marks that writing has begun, for who must not list. `false`: it had begun under another mark.
    pub async fn begin(&self, mark: &str) -> Result<bool> {
        let key = self.folder(Level::L0).child(BEGUN).expect("letters are legal in a key");
        let bytes = Bytes::from(format!("{mark}\n"));
        let options = PutOptions { how: Put::New, timestamp: None };
        match self.storage.put(&key, Body::Bytes(bytes.clone()), options).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind == ErrorKind::Exists => {
                Ok(self.storage.get(&key, 0..bytes.len() as u64).await? == bytes)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The last bytes of a segment.
    pub async fn read_trailer(&self, segment: &Segment) -> Result<Trailer> {
        let start = segment.size.saturating_sub(Trailer::SIZE as u64);
        let bytes = self.read(segment, start..segment.size).await?;
        let damaged = |source| Error::Segment { key: self.key(segment.level, segment.txids), source };
        let bytes = bytes.first_chunk().ok_or_else(|| damaged(ltx::Error::Truncated { part: "trailer" }))?;
        Trailer::decode(bytes).map_err(damaged)
    }

    /// Removes segments. Those already gone count as removed.
    pub async fn remove(&self, segments: &[Segment]) -> Result<()> {
        let keys: Vec<Key> = segments.iter().map(|segment| self.key(segment.level, segment.txids)).collect();
        Ok(self.storage.delete(&keys).await?)
    }
}

impl Replica {
    /// Gives a segment a second name at another level, if the storage can do that
    /// by itself. The header stays as it is, so the TXIDs do too.
    pub async fn copy(&self, segment: &Segment, level: Level) -> Result<bool> {
        let (from, to) = (self.key(segment.level, segment.txids), self.key(level, segment.txids));
        match self.storage.copy(&from, &to).await {
            // An earlier answer was lost, or somebody else did the same: the names agree, and so must the content.
            Err(error) if error.kind == ErrorKind::Exists => {
                let there = Segment { level, ..*segment };
                let same = self.read_header(&there).await? == self.read_header(segment).await?
                    && self.read_trailer(&there).await? == self.read_trailer(segment).await?;
                if same { Ok(true) } else { Err(error.into()) }
            }
            copied => Ok(copied?),
        }
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Replica");
        shown.field("name", &self.name).field("kind", &self.kind()).field("root", &self.root);
        shown.field("layout", &self.layout).finish()
    }
}
