//! Why a restore did not happen, and what may help.

use std::io;
use std::path::PathBuf;

use crate::durable;
use crate::legacy;
use crate::ltx;
use crate::replica;
use crate::replica::Segment;
use crate::types::{Checksum, PageSize, Pgno, Txid, TxidRange};

use super::inplace::InPlaceError;
use super::output::OutputError;
use super::plan::PlanError;
use super::verify::VerifyError;

/// Why a restore did not happen. The target is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The replica does not hold what was asked for.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The target will not do.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// SQLite does not accept the result.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The replica could not be listed.
    #[error("cannot list replica {replica}")]
    List {
        /// Its name.
        replica: String,
        /// What it said.
        source: replica::Error,
    },
    /// A segment could not be fetched.
    #[error(transparent)]
    Read(#[from] replica::Error),
    /// A segment is not what was written.
    #[error("segment {segment} is damaged: restore to an earlier point, or from another replica")]
    Damaged {
        /// Which one.
        segment: Segment,
        /// What is wrong with it.
        source: ltx::Error,
    },
    /// A segment was given another's name.
    #[error("segment {segment} is damaged: its header says {header}, so it was given the wrong name")]
    Misnamed {
        /// The name.
        segment: Segment,
        /// What its header says.
        header: TxidRange,
    },
    /// Two neighbours that do not belong together.
    #[error(
        "segment {newer} does not continue segment {older}: it expects a database with checksum {before} and would \
         find {after}; another program has written to this replica, or a segment was exchanged: restore to \
         transaction {} instead, or from another replica", older.txids.max()
    )]
    Unlinked {
        /// The older segment.
        older: Segment,
        /// The newer one.
        newer: Segment,
        /// What the older one leaves.
        after: Checksum,
        /// What the newer one expects.
        before: Checksum,
    },
    /// The page size changes within a chain that needs both.
    #[error("segment {older} has pages of {found} bytes, newer ones {expected}: they do not belong together")]
    PageSize {
        /// The older segment.
        older: Segment,
        /// Its page size.
        found: PageSize,
        /// That of the newer ones.
        expected: PageSize,
    },
    /// No segment of the chain has a page that the database needs.
    #[error(
        "page {pgno} of {pages} is missing: no segment up to transaction {} holds a copy that is still valid; \
         restore to an earlier point, or from another replica", end.txids.max()
    )]
    MissingPage {
        /// The first such page.
        pgno: Pgno,
        /// Pages of the database.
        pages: u32,
        /// The last segment of the chain.
        end: Segment,
    },
    /// Every segment is sound, and yet the result is not what was replicated.
    #[error(
        "the segments up to {end} do not add up to the database that was replicated: its checksum was {expected}, the \
         restored one has {found}; restore to an earlier point, or from another replica"
    )]
    Checksum {
        /// The last segment of the chain.
        end: Segment,
        /// The checksum it carries.
        expected: Checksum,
        /// The checksum of what was restored.
        found: Checksum,
    },
    /// The draft could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The draft.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The database cannot be followed.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// A backup in the format of Litestream 0.3 could not be restored.
    #[error(transparent)]
    Older(#[from] legacy::Error),
    /// TXIDs are counted by each replica for itself.
    #[error(
        "a transaction number means something else on each replica: name the one to restore from ({})",
        names.join(", ")
    )]
    WhichReplica {
        /// The replicas there are.
        names: Vec<String>,
    },
}

/// Why a database cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// There is a database that was not followed before.
    #[error(
        "cannot follow into {}: it exists, and {} does not say which transaction it shows: delete the database to \
         restore it anew", path.display(), position.display()
    )]
    NoPosition {
        /// The database.
        path: PathBuf,
        /// Where its position would be.
        position: PathBuf,
    },
    /// The database is newer than the replica.
    #[error(
        "cannot follow into {}: it shows transaction {position}, and the replica ends at {newest}: this is another \
         history; delete the database to restore it anew", path.display()
    )]
    Ahead {
        /// The database.
        path: PathBuf,
        /// What it shows.
        position: Txid,
        /// What the replica ends with.
        newest: Txid,
    },
    /// Its position could not be read.
    #[error("cannot read {}", path.display())]
    Position {
        /// Where it is.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It could not be changed.
    #[error(transparent)]
    InPlace(#[from] InPlaceError),
    /// Its position could not be written.
    #[error(transparent)]
    Durable(#[from] durable::Error),
}

impl RestoreError {
    /// A segment of the plan is gone: it was merged into another or deleted
    /// after the listing, so a new listing will have what replaces it.
    pub(super) fn is_vanished(&self) -> bool {
        matches!(self, Self::Read(error) if error.is_missing())
    }

    /// What is stored is to blame, not the way there nor this machine.
    pub fn is_of_data(&self) -> bool {
        self.is_of_replica()
            && !matches!(self, Self::List { .. } | Self::Read(_) | Self::Older(legacy::Error::Storage(_)))
    }

    /// The replica is to blame, so that another one may do better.
    pub(super) fn is_of_replica(&self) -> bool {
        !matches!(
            self,
            Self::Output(_)
                | Self::Write { .. }
                | Self::Follow(_)
                | Self::WhichReplica { .. }
                | Self::Older(legacy::Error::Write { .. } | legacy::Error::Identity { .. })
        )
    }
}
