//! What can go wrong in upkeep, by what happens next.

use std::io;

use super::retain::RetainError;
use crate::ltx;
use crate::replica;
use crate::replica::{PutError, Segment};
use crate::restore::RestoreError;
use crate::storage::{ErrorKind, Key};

/// Why segments were not merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The replica could not be read.
    #[error(transparent)]
    Replica(#[from] replica::Error),
    /// The result could not be stored.
    #[error(transparent)]
    Put(#[from] PutError),
    /// The inputs cannot be merged.
    #[error("these segments cannot be merged")]
    Inputs(#[source] ltx::Error),
    /// Something else on this machine.
    #[error("cannot merge segments on this machine")]
    Local(#[source] io::Error),
    /// Another segment has the name.
    #[error("{segment} was written by somebody else: stop one of the two writers")]
    Taken {
        /// What is there.
        segment: Segment,
    },
    /// The name was taken and is free again.
    #[error("{key} was taken and is gone: somebody else removes segments here")]
    Gone {
        /// The name.
        key: Key,
    },
    /// What is stored is not what was sent.
    #[error("{segment} was stored with other bytes than were sent: this storage cannot be trusted")]
    Stored {
        /// What is there.
        segment: Segment,
    },
}

impl MergeError {
    /// Sorts the error of a merge: the bytes, or how they were moved.
    pub(super) fn of(error: ltx::Error) -> Self {
        match error {
            ltx::Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<replica::Error>()) => {
                match error.into_inner().map(|inner| inner.downcast::<replica::Error>()) {
                    Some(Ok(error)) => Self::Replica(*error),
                    Some(Err(inner)) => Self::Local(io::Error::other(inner)),
                    None => Self::Local(io::Error::other("an error without a cause")),
                }
            }
            ltx::Error::Io(error) => Self::Local(error),
            error => Self::Inputs(error),
        }
    }

    pub(super) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Local(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// An input is gone: what is known about the replica is out of date.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Gone { .. }) || matches!(self, Self::Replica(error) if error.is_missing())
    }

    /// Trying the same again would fail again: the inputs are to blame.
    pub(super) fn is_of_inputs(&self) -> bool {
        match self {
            Self::Inputs(_) => true,
            Self::Replica(error) => matches!(error.kind(), ErrorKind::Refused),
            _ => false,
        }
    }
}

/// Why upkeep did not do what was due.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Merging failed.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// The replica could not be listed, read or cleared.
    #[error(transparent)]
    Replica(#[from] replica::Error),
    /// The rules and what is there do not agree.
    #[error(transparent)]
    Retain(#[from] RetainError),
    /// The newest point cannot be restored, so nothing can be made of it.
    #[error("no snapshot can be made of the replica")]
    Chain(#[source] RestoreError),
    /// An empty replica.
    #[error("the replica holds nothing that a snapshot could be made of")]
    Nothing,
    /// What is to stay does not hold together.
    #[error("{segment} does not hold what is to be relied on: {reason}; nothing is deleted")]
    Unproven {
        /// The segment.
        segment: Segment,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// What somebody can do about it: one text for each kind of trouble.
    pub fn advice(&self) -> &'static str {
        const STORAGE: &str = "it is tried again; check that the storage can be reached";
        const REFUSED: &str = "check the rights to list, read and create, with \"doctor\"";
        const BROKEN: &str = "nothing is deleted; run \"audit\" to see what is wrong with this replica";
        let of_kind = |kind| if kind == ErrorKind::Refused { REFUSED } else { STORAGE };
        match self {
            Self::Merge(MergeError::Replica(error)) | Self::Replica(error) => of_kind(error.kind()),
            Self::Merge(MergeError::Put(PutError::Storage(error))) => of_kind(error.kind),
            Self::Merge(
                MergeError::Put(PutError::Fenced { .. }) | MergeError::Taken { .. } | MergeError::Gone { .. },
            ) => "another program works on this replica: stop one of the two, then start the other again",
            Self::Merge(MergeError::Stored { .. }) => "use another storage; \"doctor\" shows what this one does",
            Self::Merge(MergeError::Local(_)) => "it is tried again; check memory and open files of this machine",
            Self::Merge(MergeError::Inputs(_)) | Self::Chain(_) | Self::Nothing | Self::Unproven { .. } => BROKEN,
            Self::Retain(RetainError::Broken) => BROKEN,
            Self::Retain(RetainError::Unsafe(_)) => "nothing is deleted; please report this together with the log",
        }
    }

    /// Another writer has taken over.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Merge(MergeError::Taken { .. } | MergeError::Put(PutError::Fenced { .. })))
    }

    /// What is known about the replica is out of date.
    pub(super) fn is_missing(&self) -> bool {
        match self {
            Self::Merge(error) => error.is_missing(),
            Self::Replica(error) => error.is_missing(),
            _ => false,
        }
    }
}
