//! Numbers about one database, taken when somebody asks: sizes, and what its
//! replicas were asked. Looking costs two looks at files and no request.

use std::path::Path;
use std::sync::Arc;

use super::Entry;
use crate::capture;
use crate::ltx::Level;
use crate::replica::{Listing, Replica};
use crate::spool::Seq;
use crate::status::DatabaseFacts;
use crate::storage::{Operation, Snapshot};
use crate::types::Timestamp;

/// Numbers about one database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Bytes of the database file.
    pub db_bytes: u64,
    /// Bytes of its log.
    pub wal_bytes: u64,
    /// Local segments.
    pub spool_segments: usize,
    /// Their bytes.
    pub spool_bytes: u64,
    /// The most bytes they may have.
    pub spool_budget: u64,
    /// Its replicas, in the order of the configuration.
    pub replicas: Vec<ReplicaNumbers>,
}

/// Numbers about one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaNumbers {
    /// Bytes of local segments that it lacks.
    pub pending_bytes: u64,
    /// What its storage was asked, in the order of [`Operation::ALL`].
    pub requests: [Snapshot; Operation::ALL.len()],
    /// What is known to be there; `None` before it was first looked at.
    pub held: Option<Held>,
}

/// What a replica holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Its segments.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The time of the oldest.
    pub oldest: Option<Timestamp>,
    /// The smallest segments that are not merged yet.
    pub unmerged: usize,
    /// Those that are merged and still there.
    pub merged: usize,
}

impl Held {
    /// What a listing shows.
    pub fn of(listing: &Listing) -> Self {
        let through = Level::new(1).and_then(|level| listing.level(level).last()).map(|last| last.txids.max());
        let mut held = Self::default();
        for segment in listing.segments() {
            held.objects += 1;
            held.bytes += segment.size;
            held.oldest = Some(held.oldest.map_or(segment.created, |oldest| oldest.min(segment.created)));
            if segment.level == Level::L0 {
                match Some(segment.txids.max()) <= through {
                    true => held.merged += 1,
                    false => held.unmerged += 1,
                }
            }
        }
        held
    }
}

/// A replica, and what is known to be on it.
pub struct Kept {
    /// The replica.
    pub replica: Arc<Replica>,
    /// What is there, if it was looked at.
    pub listing: Option<Listing>,
}

pub(super) fn numbers(options: &capture::Options, facts: &DatabaseFacts, entry: Option<&Entry>) -> Numbers {
    let source = entry.and_then(Entry::source);
    let spool = source.as_ref().map(|source| &source.spool);
    let (spool_segments, spool_bytes) = spool.map_or((0, 0), |spool| spool.size_after(None));
    let replicas = entry.iter().flat_map(|entry| &entry.shipping).zip(&facts.replicas).map(|(shipping, facts)| {
        let seq = facts.batch.and_then(Seq::new);
        ReplicaNumbers {
            pending_bytes: spool.map_or(0, |spool| spool.size_after(seq).1),
            requests: Operation::ALL.map(|operation| shipping.requests().of(operation)),
            held: shipping.held(),
        }
    });
    Numbers {
        replicas: replicas.collect(),
        db_bytes: length(&options.path),
        wal_bytes: length(&options.log_path()),
        spool_segments,
        spool_bytes,
        spool_budget: spool.map_or(0, |spool| spool.budget()),
    }
}

/// 0 if there is no such file.
fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}
