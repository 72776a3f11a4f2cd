//! What is counted and kept in a spool: batches, the states between them, and
//! segments.
//!
//! Always true: a [`Seq`] counts from 1, and a segment that has a proof leads from
//! one [`Point`] to the next.

use std::fmt;
use std::num::NonZeroU64;

use crate::ltx;
use crate::types::{Checksum, Timestamp, Txid, TxidRange};

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

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    /// The checksums of the database before and after it.
    pub(super) fn proof(&self) -> Option<(Checksum, Checksum)> {
        self.header.proof.as_ref().and_then(|proof| Some((proof.before?, proof.after)))
    }

    /// The state that it continues from.
    pub(super) fn start(&self) -> Option<Point> {
        Some(Point { seq: self.seq.before()?, checksum: self.proof()?.0, timestamp: None })
    }

    /// The state that it leads to.
    pub(super) fn end(&self) -> Option<Point> {
        Some(Point { seq: self.seq, checksum: self.proof()?.1, timestamp: Some(self.header.timestamp) })
    }
}
