//! What can keep capture from going on.

use std::io;
use std::path::{Path, PathBuf};

use super::connection;
use super::plan::Lost;
use crate::ltx;

/// Why capture of one database stopped. All of them are tried again; the
/// message says what has to change first, if anything.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no file yet.
    #[error("{} does not exist: waiting until the application creates it", .0.display())]
    Missing(PathBuf),
    /// The path names something that is not a file.
    #[error("{} is not a file: point `path` at the database file itself", .0.display())]
    NotAFile(PathBuf),
    /// The file at the path is no longer the one that was being followed.
    #[error("{} was replaced by another file", .0.display())]
    Replaced(PathBuf),
    /// The log or its index was removed or replaced while in use.
    #[error(
        "{} was removed or replaced while the database is in use: commits of programs that still use the old one \
         cannot be seen; restart the application", .0.display()
    )]
    SidecarReplaced(PathBuf),
    /// The local state was removed or replaced while in use.
    #[error("{} was removed or replaced while it was in use: continuing with what is there now", .0.display())]
    StateReplaced(PathBuf),
    /// Another process replicates this database with the same local state.
    #[error("another process is replicating this database: it holds the lock on {}", .0.display())]
    Locked(PathBuf),
    /// The same file is already followed under another path.
    #[error("{} is the same file as {}, which is already being replicated", path.display(), other.display())]
    Duplicate {
        /// The path that was refused.
        path: PathBuf,
        /// The path it is followed under.
        other: PathBuf,
    },
    /// SQLite refused.
    #[error(transparent)]
    Sqlite(#[from] connection::Error),
    /// Continuity cannot be proven.
    #[error("{0}")]
    Lost(#[from] Lost),
    /// A file of the local state could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Local {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The disk is nearly full, and our guard must not be what keeps the log long.
    #[error(
        "the disk is nearly full and the log of {} has {log} bytes, which a reader of the application holds: let go of \
         it until there is room; end long read transactions or free space", path.display()
    )]
    NoRoom {
        /// The database.
        path: PathBuf,
        /// Length of the log.
        log: u64,
    },
    /// A segment could not be encoded.
    #[error("cannot write a segment")]
    Segment(#[from] ltx::Error),
    /// What was read for a base is not what capture had recorded.
    #[error("the pages read for a base do not have the recorded database checksum")]
    BaseMismatch,
    /// Two looks at a frozen database differed.
    #[error("page {pgno} changed while a guard should have kept it still")]
    Unstable {
        /// The page.
        pgno: u32,
    },
}

impl Error {
    pub(super) fn local(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Local { action, path, source }
    }

    /// Waiting for the application, not a fault.
    pub fn is_waiting(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::Sqlite(connection::Error::Empty(_)))
    }

    /// The disk has no room, or the user's share of it is used up.
    pub fn is_disk_full(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
            if matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// The message with its causes and, where it helps, the way out.
    pub fn chain(&self) -> String {
        let mut text = self.causes();
        if let Self::Local { source, .. } = self
            && matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
        {
            text.push_str("; set `meta-path` to a directory that this user may write to");
        }
        text
    }

    fn causes(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }
}
