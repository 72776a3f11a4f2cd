//! What capture is told about one database.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::checkpoint::Policy;
use super::rivals::Rivals;
use crate::disk::Disks;
use crate::ltx::Encoding;
use crate::spool::Together;

/// Options for following one database.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database file. Shared by all who know the database by its name.
    pub path: Arc<Path>,
    /// Where the local state lives, normally `.<name>-litestream` beside the database.
    pub meta_path: PathBuf,
    /// How long calls wait for a lock that another connection holds.
    pub busy_timeout: Duration,
    /// The longest a noticed commit waits before it is captured.
    pub sync_interval: Duration,
    /// When to checkpoint.
    pub checkpoint: Policy,
    /// The encoding of segments.
    pub encoding: Encoding,
    /// Most bytes of local segments; `None` = 1 GiB or 5 % of the file system, whichever is less.
    pub spool_budget: Option<u64>,
    /// Bytes of the log that one pass turns into one segment, at least to the next commit.
    pub max_pass_bytes: u64,
    /// When it is left alone; `None`: never.
    pub parking: Option<Parking>,
    /// What all databases of this process share.
    pub limits: Limits,
}

/// When a database is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parking {
    /// Without a commit for this long...
    pub after: Duration,
    /// ...if this process follows at least so many.
    pub among: usize,
}

/// What all databases of a process share.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Room on the disks.
    pub disks: Arc<Disks>,
    /// The budget for all local segments; `None`: each spool has its own only.
    pub spools: Option<Arc<Together>>,
    /// Other replicators on this machine.
    pub rivals: Arc<Rivals>,
}

/// `max-sync-wal-bytes`, unless configured.
const DEFAULT_PASS: u64 = 64 << 20;

impl Options {
    /// The defaults for a database.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.into(),
            meta_path: default_meta_path(path),
            busy_timeout: Duration::from_secs(1),
            sync_interval: Duration::from_secs(1),
            checkpoint: Policy::default(),
            encoding: Encoding::Block,
            spool_budget: None,
            max_pass_bytes: DEFAULT_PASS,
            parking: None,
            limits: Limits::default(),
        }
    }

    /// The write-ahead log beside the database.
    pub fn log_path(&self) -> PathBuf {
        with_suffix(&self.file(), "-wal")
    }

    /// The wal-index beside the database.
    pub fn shm_path(&self) -> PathBuf {
        with_suffix(&self.file(), "-shm")
    }

    /// Where SQLite finds the database, and keeps the other files beside it: a
    /// path that is a symbolic link is followed.
    fn file(&self) -> PathBuf {
        let target = self.path.is_symlink().then(|| self.path.canonicalize().ok()).flatten();
        target.unwrap_or_else(|| self.path.to_path_buf())
    }

    /// Our own part of the local state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.meta_path.join("brooklet")
    }

    /// Where Litestream keeps its own segments in the same directory.
    pub fn foreign_segments(&self) -> PathBuf {
        self.meta_path.join("ltx")
    }
}

/// `/dir/NAME` has its state in `/dir/.NAME-litestream`.
pub fn default_meta_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push("-litestream");
    path.with_file_name(name)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_a_linked_database_lies_beside_the_file_itself() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("real");
        std::fs::create_dir(&real).unwrap();
        std::fs::write(real.join("app.db"), "").unwrap();
        let link = dir.path().join("link.db");
        std::os::unix::fs::symlink("real/app.db", &link).unwrap();
        let options = Options::new(&link);
        assert_eq!(options.log_path(), real.join("app.db-wal"));
        assert_eq!(options.shm_path(), real.join("app.db-shm"));
        assert_eq!(options.state_dir(), dir.path().join(".link.db-litestream/brooklet"));
    }

    #[test]
    fn the_state_lies_beside_the_database_under_its_full_name() {
        let options = Options::new(Path::new("/data/app.db"));
        assert_eq!(options.meta_path, Path::new("/data/.app.db-litestream"));
        assert_eq!(options.log_path(), Path::new("/data/app.db-wal"));
        assert_eq!(options.shm_path(), Path::new("/data/app.db-shm"));
    }
}
