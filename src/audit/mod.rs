//! What is on a replica, and whether all of it is what it should be.
//!
//! Always true: nothing is changed, neither there nor here, and no database is
//! written. Every object within the scope is read to its last byte. What is
//! wrong is a [`Finding`], each with advice; an error is only what keeps the
//! audit itself from going on.
//!
//! Memory is that of a few pieces of half a megabyte, one page, one bit for each
//! page of the database, and some hundred bytes for each object.
//!
//! ```text
//! list ─▶ read each object (decode, checksums) ─▶ judge what the facts say together
//! ```

pub mod cost;
mod finding;
mod judge;
mod older;
mod read;
mod segments;

use futures::{StreamExt, future, stream};

use crate::ltx::Level;
use crate::replica::{Replica, Segment};
use crate::restore::plan::Holdings;
use crate::restore::{Plan, PlanError};
use crate::storage;
use crate::storage::{Key, LIST_PAGE, Object};
use crate::types::{Generation, Timestamp, Txid};

pub use finding::{Finding, Weight};
pub use judge::Sound;

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    All,
    /// What a restore of the newest data needs.
    Chain,
}

/// Why an audit could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage cannot be listed.
    #[error("cannot list replica {replica}")]
    List {
        /// Its name.
        replica: String,
        /// What the storage says.
        source: storage::Error,
    },
    /// What Litestream 0.3 left cannot be looked at.
    #[error("cannot look at the Litestream 0.3 backup of replica {replica}")]
    Older {
        /// Its name.
        replica: String,
        /// Why.
        source: crate::legacy::Error,
    },
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// What is wrong, in the order of the objects.
    pub findings: Vec<Finding>,
    /// The segments.
    pub segments: Option<SegmentsSummary>,
    /// What Litestream 0.3 left.
    pub older: Option<OlderSummary>,
}

impl Report {
    /// Whether there is something that a person must look at.
    pub fn has_problems(&self) -> bool {
        self.findings.iter().any(|finding| finding.weight() == Weight::Problem)
    }

    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.segments.is_none() && self.older.is_none() && self.findings.is_empty()
    }
}

/// How much there is, and how it grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Objects looked at.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Uploads in 30 days at the present rate; `None` where there is too little to tell.
    pub uploads_per_month: Option<u64>,
}

/// What the segments give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentsSummary {
    /// How much there is.
    pub sizes: Sizes,
    /// Points that can be restored, as far as every segment is sound.
    pub points: usize,
    /// Points that could be, if the damaged segments were sound.
    pub lost_points: usize,
    /// The oldest and the newest of them.
    pub range: Option<(Moment, Moment)>,
    /// Whether the newest point was rebuilt page by page, and what vouches for it.
    pub proof: ChainProof,
    /// Who wrote them, in order.
    pub generations: Vec<Option<Generation>>,
}

/// A point in history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Its transaction.
    pub txid: Txid,
    /// When it was captured.
    pub time: Timestamp,
}

/// What is known of the newest point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainProof {
    /// All pages together have the checksum that was recorded when it was captured.
    Database,
    /// Every segment has its checksum; none for the database was recorded.
    Files,
    /// It cannot be rebuilt.
    None,
}

/// What old backups give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OlderSummary {
    /// How much there is.
    pub sizes: Sizes,
    /// Generations that can be restored to their end.
    pub sound_generations: usize,
    /// All generations looked at.
    pub generations: usize,
    /// When the oldest and the newest object were stored.
    pub range: Option<(Timestamp, Timestamp)>,
}

/// Looks at a replica.
pub async fn audit(replica: &Replica, scope: Scope, now: Timestamp) -> Result<Report, Error> {
    let mut report = Report::default();
    let list_error = |source| Error::List { replica: replica.name().into(), source };
    let shelf = Shelf::list(replica).await.map_err(list_error)?;
    report.findings.extend(shelf.foreign.into_iter().filter(|_| scope == Scope::All).map(Finding::foreign));
    let is_chain_of_segments = scope == Scope::Chain && !shelf.segments.is_empty();
    if !shelf.segments.is_empty() {
        segments::inspect(replica, shelf.segments, scope, now, &mut report).await.map_err(list_error)?;
    }
    older::inspect(replica, scope, is_chain_of_segments, &mut report)
        .await
        .map_err(|source| Error::Older { replica: replica.name().into(), source })?;
    Ok(report)
}

/// The names on a replica.
struct Shelf {
    segments: Vec<Segment>,
    foreign: Vec<Key>,
}

impl Shelf {
    /// From level 0 upwards, as merging goes: what is merged meanwhile is seen
    /// at one level or at both, never at none.
    async fn list(replica: &Replica) -> storage::Result<Self> {
        let mut shelf = Self { segments: Vec::new(), foreign: Vec::new() };
        for level in Level::all() {
            let folder = replica.folder(level);
            for object in list(replica, &folder).await? {
                let name = object.key.as_str().strip_prefix(folder.as_str()).and_then(|rest| rest.strip_prefix('/'));
                match name.and_then(crate::ltx::parse_file_name) {
                    Some(txids) => {
                        shelf.segments.push(Segment { level, txids, size: object.size, created: object.modified });
                    }
                    None => shelf.foreign.push(object.key),
                }
            }
        }
        Ok(shelf)
    }
}

/// Everything in a folder.
async fn list(replica: &Replica, folder: &Key) -> storage::Result<Vec<Object>> {
    let mut objects: Vec<Object> = Vec::new();
    loop {
        let after = objects.last().map(|object| object.key.clone());
        let page = replica.storage().list(folder, after.as_ref()).await?;
        let is_last = page.len() < LIST_PAGE;
        // A listing that repeats itself would never end.
        let goes_on = page.last().is_some_and(|object| Some(&object.key) > after.as_ref());
        objects.extend(page);
        if is_last || !goes_on {
            return Ok(objects);
        }
    }
}

/// Headers read at once when looking for a new beginning.
const HEADERS_AT_ONCE: usize = 8;

/// The names, with every beginning behind a break that headers tell of. A header
/// that cannot be read tells nothing; its segment is looked at later.
async fn holdings(replica: &Replica, segments: &[Segment]) -> Holdings {
    let mut holdings = Holdings::new(segments.iter().copied());
    let Some(first) = holdings.break_in_history() else { return holdings };
    let behind: Vec<Segment> = segments.iter().copied().filter(|segment| segment.txids.min() >= first).collect();
    let complete: Vec<Segment> = stream::iter(behind)
        .map(|segment| async move {
            let is_complete = replica.read_header(&segment).await.is_ok_and(|header| header.is_complete());
            is_complete.then_some(segment)
        })
        .buffer_unordered(HEADERS_AT_ONCE)
        .filter_map(future::ready)
        .collect()
        .await;
    complete.into_iter().for_each(|segment| holdings.learn_complete(segment));
    holdings
}

/// The chain to the newest point, or to the last one before a gap and the reason.
fn newest_chain(holdings: &Holdings) -> (Option<Plan>, Option<PlanError>) {
    match holdings.latest() {
        Ok(chain) => (Some(chain), None),
        Err(error) => {
            let reached = holdings.restorable().last().copied();
            (reached.and_then(|txid| holdings.exactly(txid).ok()), Some(error))
        }
    }
}
