//! What can be wrong with a segment, or with what is asked of one.

use std::io;

use crate::types::{Checksum, PageSize, Txid, TxidRange};

/// Why a segment could not be read, written or merged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes could not be moved; the segment itself may be fine.
    #[error("cannot read or write the bytes of a segment")]
    Io(#[source] io::Error),
    /// Fewer bytes than the format needs.
    #[error("the segment ends inside its {part}: fetch it again, or use an older one")]
    Truncated {
        /// Where the bytes ran out.
        part: &'static str,
    },
    /// The first hundred bytes are not a legal header.
    #[error("not a segment header: {reason}")]
    Header {
        /// The broken rule.
        reason: &'static str,
    },
    /// Legal LTX of a kind that no Litestream release writes to replicas.
    #[error("the segment has {what}, which is not supported: write it again with Litestream 0.5.0 or later")]
    Unsupported {
        /// The feature.
        what: &'static str,
    },
    /// A page or its place in the segment is wrong.
    #[error("page {pgno} of the segment {reason}")]
    Page {
        /// The page number as stored.
        pgno: u32,
        /// The broken rule.
        reason: &'static str,
    },
    /// A page that must be there is not.
    #[error("the segment holds no page {pgno}, which it needs to be complete")]
    Missing {
        /// The first missing page.
        pgno: u32,
    },
    /// The page index disagrees with the pages.
    #[error("the page index of the segment {reason}")]
    Index {
        /// The broken rule.
        reason: &'static str,
    },
    /// The last sixteen bytes are not a legal trailer.
    #[error("the trailer of the segment {reason}")]
    Trailer {
        /// The broken rule.
        reason: &'static str,
    },
    /// Some byte is not what was written.
    #[error("the segment is damaged: its bytes have checksum {computed}, but {stored} was written")]
    FileChecksum {
        /// The value in the trailer.
        stored: Checksum,
        /// The value of the bytes read.
        computed: Checksum,
    },
    /// The call before this one failed; there is nothing more to get.
    #[error("the segment was already found unreadable")]
    AlreadyFailed,
    /// A merge of no segments.
    #[error("there is no segment to merge")]
    NothingToMerge,
    /// Segments of one merge differ in page size.
    #[error("segment {position} has pages of {found} bytes, those before it {expected}: they cannot be merged")]
    PageSizes {
        /// Which input, counted from 0.
        position: usize,
        /// The page size of the inputs before it.
        expected: PageSize,
        /// Its own.
        found: PageSize,
    },
    /// Two neighbours whose proofs do not meet.
    #[error("segment {position} continues a database with checksum {before}, but the one before it leaves {after}")]
    Unlinked {
        /// Which input, counted from 0.
        position: usize,
        /// What the older segment leaves behind.
        after: Checksum,
        /// What the newer one starts from.
        before: Checksum,
    },
    /// Two neighbours whose TXIDs do not meet.
    #[error("nothing connects transaction {reached} with segment {next}")]
    Gap {
        /// The last transaction reached.
        reached: Txid,
        /// The segment that does not continue from there.
        next: TxidRange,
    },
    /// A page was cut off by a shrink, and no segment after that brings it back.
    #[error("page {pgno} is missing since the database shrank below it: merge more segments, or take a new snapshot")]
    Lost {
        /// The first such page.
        pgno: u32,
    },
}

impl Error {
    /// An error of a reader: an early end is the segment's fault.
    pub(super) fn reading(error: io::Error, part: &'static str) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Truncated { part } } else { Self::Io(error) }
    }

    /// Whether the bytes of a segment are to blame, not their transport.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Truncated { .. }
                | Self::Header { .. }
                | Self::Page { .. }
                | Self::Missing { .. }
                | Self::Index { .. }
                | Self::Trailer { .. }
                | Self::FileChecksum { .. }
        )
    }
}
