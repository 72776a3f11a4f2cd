//! What can be wrong, each with what to do about it. Values only.

use crate::ltx::Level;
use crate::replica::Segment;
use crate::storage::Key;
use crate::types::{Checksum, Generation, PageSize, Pgno, Timestamp, Txid, TxidRange};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Good to know; everything can be restored.
    Note,
    /// Something cannot be restored, or will not be what it should.
    Problem,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// A name that nobody gives.
    #[error("{key} is not a name that replication gives")]
    Foreign {
        /// The object.
        key: Key,
    },
    /// It could not be fetched.
    #[error("{key} cannot be read: {reason}")]
    Unreadable {
        /// The object.
        key: Key,
        /// What the storage says.
        reason: String,
    },
    /// Its bytes are not what was written.
    #[error("{key} is damaged: {reason}")]
    Damaged {
        /// The object.
        key: Key,
        /// What is wrong.
        reason: String,
    },
    /// Its name and its header disagree.
    #[error("{key} holds transactions {header}: it was given the name of another")]
    Misnamed {
        /// The object.
        key: Key,
        /// What its header says.
        header: TxidRange,
    },
    /// It is at a level where its like is never written.
    #[error("{key} is at the wrong level: {reason}")]
    WrongLevel {
        /// The object.
        key: Key,
        /// The broken rule.
        reason: &'static str,
    },
    /// Two segments of one level hold the same transactions.
    #[error("{older} and {newer} overlap at {level}")]
    Overlap {
        /// Where.
        level: Level,
        /// The one with the lower name.
        older: Segment,
        /// The other.
        newer: Segment,
    },
    /// Changes without anything to apply them to.
    #[error("no segment holds a whole database: the oldest begins at transaction {first}")]
    NoBase {
        /// Where the oldest begins.
        first: Txid,
    },
    /// Newer data that nothing connects with what can be restored.
    #[error("transactions {} to {} are missing: nothing after {reached} can be restored", reached.next(), next.get() - 1)]
    Gap {
        /// The last point that can be restored.
        reached: Txid,
        /// Where the next segment begins.
        next: Txid,
    },
    /// Points that cannot be restored although later and earlier ones can.
    #[error("no segment holds the changes of transactions {missing}: moments among them cannot be restored")]
    Hole {
        /// Which.
        missing: TxidRange,
    },
    /// Two segments that disagree about the database between them.
    #[error(
        "{one} and {other} disagree about the database after transaction {txid}: one says {one_says}, the other {other_says}"
    )]
    Unlinked {
        /// The point they meet at.
        txid: Txid,
        /// The older claim.
        one: Segment,
        /// The newer claim.
        other: Segment,
        /// The checksum it claims.
        one_says: Checksum,
        /// The checksum it claims.
        other_says: Checksum,
    },
    /// A whole database that is not the one that was captured.
    #[error("{segment} holds a database with checksum {found}, but {expected} was captured")]
    BaseChecksum {
        /// The segment.
        segment: Segment,
        /// What was captured.
        expected: Checksum,
        /// What its pages give.
        found: Checksum,
    },
    /// The newest point does not add up to what was captured.
    #[error("the segments up to {end} add up to a database with checksum {found}, but {expected} was captured")]
    ChainChecksum {
        /// The last of them.
        end: Segment,
        /// What was captured.
        expected: Checksum,
        /// What the pages give.
        found: Checksum,
    },
    /// The newest point lacks a page.
    #[error("page {pgno} of the newest database is in no segment that it is made of")]
    MissingPage {
        /// The first such page.
        pgno: Pgno,
    },
    /// Changes for pages of another size.
    #[error("{segment} has pages of {found} bytes, the segments it builds on have {expected}")]
    PageSize {
        /// The segment.
        segment: Segment,
        /// Its page size.
        found: PageSize,
        /// That of the one before.
        expected: PageSize,
    },
    /// Times that run backwards.
    #[error("{segment} is stamped {time}, before {earlier} of the transactions before it")]
    TimeBackwards {
        /// The segment.
        segment: Segment,
        /// Its time.
        time: Timestamp,
        /// The later time of an earlier one.
        earlier: Timestamp,
    },
    /// A time that has not come yet.
    #[error("{segment} is stamped {time}, which has not come yet")]
    TimeAhead {
        /// The segment.
        segment: Segment,
        /// Its time.
        time: Timestamp,
    },
    /// The storage shows other times than the segments carry.
    #[error("the storage shows other times than {count} segments carry, as with {first}")]
    StoredTime {
        /// How many.
        count: usize,
        /// The first of them.
        first: Segment,
    },
    /// Two writers at the same time.
    #[error("generation {generation} goes on at transaction {txid} after another one had taken over")]
    TwoWriters {
        /// The one that went on.
        generation: Generation,
        /// Where.
        txid: Txid,
    },
    /// An old backup that cannot be restored in whole.
    #[error("{reason}")]
    OlderHole {
        /// What is missing.
        reason: String,
    },
}

impl Finding {
    pub(super) fn foreign(key: Key) -> Self {
        Self::Foreign { key }
    }

    /// A word for scripts.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Foreign { .. } => "foreign-object",
            Self::Unreadable { .. } => "unreadable",
            Self::Damaged { .. } => "damaged",
            Self::Misnamed { .. } => "misnamed",
            Self::WrongLevel { .. } => "wrong-level",
            Self::Overlap { .. } => "overlap",
            Self::NoBase { .. } => "no-base",
            Self::Gap { .. } => "gap",
            Self::Hole { .. } => "hole",
            Self::Unlinked { .. } => "unlinked",
            Self::BaseChecksum { .. } => "base-checksum",
            Self::ChainChecksum { .. } => "chain-checksum",
            Self::MissingPage { .. } => "missing-page",
            Self::PageSize { .. } => "page-size",
            Self::TimeBackwards { .. } => "time-backwards",
            Self::TimeAhead { .. } => "time-ahead",
            Self::StoredTime { .. } => "stored-time",
            Self::TwoWriters { .. } => "two-writers",
            Self::OlderHole { .. } => "older-incomplete",
        }
    }

    /// How much it matters.
    pub fn weight(&self) -> Weight {
        match self {
            Self::StoredTime { .. } => Weight::Note,
            _ => Weight::Problem,
        }
    }

    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Foreign { .. } => "find out who put it there; replication does not look at it, and it may be removed",
            Self::Unreadable { .. } => "check the permissions, then audit again: it may just have been merged away",
            Self::Damaged { .. } => {
                "restore from another replica, or let replication write a new snapshot; what needs this object cannot \
                 be restored from here"
            }
            Self::Misnamed { .. } => "find out who renamed or copied it; it is refused when a restore needs it",
            Self::WrongLevel { .. } => "find out who moved it; replication may delete it before its time",
            Self::Overlap { .. } => "find out whether two programs replicate to this place",
            Self::NoBase { .. } => "let replication write a new snapshot; until then nothing can be restored from here",
            Self::Gap { .. } => "let replication write a new snapshot, and restore older moments from another replica",
            Self::Hole { .. } => "restore these moments from another replica, if one holds them",
            Self::Unlinked { .. } => {
                "find out whether two programs replicate to this place; let replication write a new snapshot"
            }
            Self::BaseChecksum { .. } | Self::ChainChecksum { .. } | Self::MissingPage { .. } => {
                "do not rely on this replica: let replication write a new snapshot, then audit again"
            }
            Self::PageSize { .. } => "find out whether two databases are replicated to this place",
            Self::TimeBackwards { .. } | Self::TimeAhead { .. } => {
                "the clock of the machine was wrong: choose moments around it by transaction, not by time"
            }
            Self::StoredTime { .. } => {
                "the objects were copied without their times: brooklet restores by the times they carry, Litestream \
                 by those that the storage shows"
            }
            Self::TwoWriters { .. } => "make sure that one program only replicates to this place",
            Self::OlderHole { .. } => "restore up to the index before it, or from another replica",
        }
    }
}
