//! Why a replica did not get what it should, and whether time alone may help.

use crate::ltx;
use crate::replica::{self, PutError};
use crate::storage::ErrorKind;

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
