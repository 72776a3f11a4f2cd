//! Why an old backup could not be read.

use std::io;
use std::path::PathBuf;

use super::plan::PlanError;
use crate::storage;
use crate::storage::{ErrorKind, Key};
use crate::types::PageSize;

/// Why an old backup could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage says no.
    #[error("{0}")]
    Storage(storage::Error),
    /// It does not hold what was asked for.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// An object is not what was written.
    #[error("{key} cannot be used")]
    Damaged {
        /// Its whole name.
        key: Key,
        /// What is wrong with it.
        source: Damage,
    },
    /// Two slices of a log that do not meet.
    #[error(
        "{key} begins at byte {found} of its log, but the slices before it end at byte {expected}: a slice is missing; \
         restore up to an earlier index, or from another replica"
    )]
    MissingSlice {
        /// The slice behind the hole.
        key: Key,
        /// Where it begins.
        found: u64,
        /// Where it should begin.
        expected: u64,
    },
    /// A key of the configuration is none.
    #[error(
        "age identity number {number} is not an age secret key ({reason}): give the key itself, AGE-SECRET-KEY-1..."
    )]
    Identity {
        /// Which one, from 1.
        number: usize,
        /// What the age library says.
        reason: &'static str,
    },
    /// The database could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl Error {
    /// Whether an object was there and is gone.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Storage(error) if error.kind == ErrorKind::Missing)
    }
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        Self::Storage(error)
    }
}

/// What is wrong with an object.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// No bytes at all.
    #[error("it is empty: restore to an earlier point, or from another replica")]
    Empty,
    /// Encrypted, and there is no key.
    #[error("it is encrypted with age: set age.identities of this replica in the config file")]
    Locked,
    /// Encrypted, and no key fits, or the envelope is broken.
    #[error("it cannot be decrypted with the age identities of the config")]
    Decrypt(#[source] age::DecryptError),
    /// The compressed bytes are not what was written.
    #[error("it is damaged")]
    Unpack(#[source] io::Error),
    /// It ends too early.
    #[error("it is cut off: restore to an earlier point, or from another replica")]
    Truncated,
    /// It goes on behind its end.
    #[error("other bytes follow its end")]
    Trailing,
    /// A snapshot that is not a database.
    #[error("it does not hold an SQLite database")]
    NotDatabase,
    /// A snapshot that is not a whole number of pages.
    #[error("it holds {bytes} bytes, which are not whole pages of {page_size}")]
    Size {
        /// Its length.
        bytes: u64,
        /// What its header says.
        page_size: PageSize,
    },
    /// The first bytes of a log are not its header.
    #[error("it does not begin with the header of a log")]
    LogHeader,
    /// The log belongs to a database with other pages.
    #[error("its pages have {found} bytes, those of the snapshot {expected}: it belongs to another database")]
    PageSize {
        /// In the log.
        found: PageSize,
        /// In the snapshot.
        expected: PageSize,
    },
    /// A frame is not whole.
    #[error("it ends inside frame {frame} of its log")]
    PartialFrame {
        /// The frame, counted from 1 in the whole log.
        frame: u32,
    },
    /// A frame does not continue the log.
    #[error("frame {frame} of its log has the wrong checksum or salt: restore up to the index before it")]
    Frame {
        /// The frame, counted from 1 in the whole log.
        frame: u32,
    },
}
