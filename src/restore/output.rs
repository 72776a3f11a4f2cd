//! Where the restored database goes, and the moment it gets there.
//!
//! Always true: until the draft is complete nothing at the target changes, and
//! whenever the process or the machine stops, the target holds either what it
//! held before or the restored database. An `-wal`, `-shm` or `-journal` of
//! another database is never left beside the restored one, where SQLite would
//! replay it.
//!
//! What replaces a database cannot replace its WAL in the same step. So that no
//! moment shows half of each, SQLite first folds the old WAL into the old file;
//! only then is it removed, and only then the name changes hands.
//!
//! A crash can leave the draft, `<target>.<16 hex digits>.tmp`. The next restore
//! to the same target removes it.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::durable;
use crate::durable::Draft;

use super::unpanicked;

/// What SQLite keeps beside a database.
const SIDECARS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// How long the old database may be busy before it counts as in use: long
/// enough for a transaction, short enough for somebody who waits.
const BUSY: Duration = Duration::from_secs(2);

/// Links followed before the target counts as a circle, as Linux does.
const MAX_LINKS: usize = 40;

/// Why nothing can be restored to the target.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// There is a database, and replacing it was not asked for.
    #[error("cannot restore, output path already exists and is not empty: {}", .0.display())]
    Exists(PathBuf),
    /// There is a directory.
    #[error("cannot restore, output path is a directory: {}", .0.display())]
    Directory(PathBuf),
    /// There is a device, a pipe or the like.
    #[error("cannot restore, output path is not a regular file: {}", .0.display())]
    Special(PathBuf),
    /// An empty file with a sidecar: its content may all be in there.
    #[error("cannot restore, a file of an earlier database exists beside the output path: {}", .0.display())]
    Sidecar(PathBuf),
    /// Somebody has the old database open.
    #[error("cannot restore, the database is in use: {}: stop the programs that have it open", .0.display())]
    InUse(PathBuf),
    /// The links at the target lead nowhere.
    #[error("cannot restore, too many symbolic links: {}", .0.display())]
    Links(PathBuf),
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The draft could not be made durable or put in place.
    #[error(transparent)]
    Durable(#[from] durable::Error),
}

impl OutputError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}

/// A target that may be restored to.
#[derive(Clone, Debug)]
pub struct Output {
    path: PathBuf,
    replaced: Option<fs::Metadata>,
}

impl Output {
    /// Looks at the target. Without `overwrite`, only a name that is free or an
    /// empty file without sidecars will do.
    pub fn inspect(target: &Path, overwrite: bool) -> Result<Self, OutputError> {
        let path = follow_links(target)?;
        let replaced = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            found => Some(found.map_err(OutputError::io("look at", &path))?),
        };
        if let Some(found) = &replaced {
            if found.is_dir() {
                return Err(OutputError::Directory(path));
            }
            if !found.is_file() {
                return Err(OutputError::Special(path));
            }
            if !overwrite {
                if found.len() > 0 {
                    return Err(OutputError::Exists(path));
                }
                if let Some(sidecar) = SIDECARS.map(|suffix| beside(&path, suffix)).into_iter().find(|p| p.exists()) {
                    return Err(OutputError::Sidecar(sidecar));
                }
            }
        }
        Ok(Self { path, replaced })
    }

    /// Starts the draft. Nobody else can read it while it is being written.
    pub(super) fn draft(&self) -> Result<Draft, OutputError> {
        durable::create_dir_all(durable::parent(&self.path), durable::PRIVATE_DIR)?;
        durable::remove_stale_drafts_of(&self.path)?;
        Ok(Draft::create(&self.path, durable::PRIVATE_FILE)?)
    }

    /// Puts the complete draft at the target.
    pub(super) async fn publish(self, draft: Draft) -> Result<(), OutputError> {
        unpanicked(tokio::task::spawn_blocking(move || self.publish_now(draft)).await)
    }

    fn publish_now(&self, draft: Draft) -> Result<(), OutputError> {
        self.adopt(&draft)?;
        // Slow for a large file, so it is done before anything else is touched.
        draft.file().sync_all().map_err(OutputError::io("fsync", draft.path()))?;
        self.point("restore::draft-synced")?;
        self.settle()?;
        self.point("restore::settled")?;
        self.remove_sidecars()?;
        self.point("restore::sidecars-removed")?;
        match self.replaced {
            Some(_) => draft.publish()?,
            None => draft.publish_new()?,
        }
        self.point("restore::published")?;
        Ok(())
    }

    /// A place where tests stop or fail a restore.
    fn point(&self, name: &str) -> Result<(), OutputError> {
        durable::point(name).map_err(OutputError::io("put the database at", &self.path))
    }

    /// Mode and owner of the file that is replaced.
    fn adopt(&self, draft: &Draft) -> Result<(), OutputError> {
        let Some(replaced) = &self.replaced else { return Ok(()) };
        let ours = draft.file().metadata().map_err(OutputError::io("look at", draft.path()))?;
        if (ours.uid(), ours.gid()) != (replaced.uid(), replaced.gid())
            && let Err(error) = fchown(draft.file(), Some(replaced.uid()), Some(replaced.gid()))
        {
            let (uid, gid) = (replaced.uid(), replaced.gid());
            tracing::warn!(path = %self.path.display(), uid, gid, %error, "cannot keep the owner of the replaced database");
        }
        let mode = Permissions::from_mode(replaced.mode() & 0o7777);
        draft.file().set_permissions(mode).map_err(OutputError::io("set the mode of", draft.path()))
    }

    /// Folds the WAL or hot journal of the old database into its file. That
    /// changes no content, and afterwards removing them loses none.
    fn settle(&self) -> Result<(), OutputError> {
        let wal = beside(&self.path, "-wal");
        if self.replaced.is_none() || !(wal.exists() || beside(&self.path, "-journal").exists()) {
            return Ok(());
        }
        match fold(&self.path) {
            Ok(()) => {}
            Err(error) if is_busy(&error) => return Err(OutputError::InUse(self.path.clone())),
            Err(error) => {
                // Not a database, or one beyond repair: that is often why it is
                // being restored, and there is nothing left to preserve.
                tracing::warn!(path = %self.path.display(), %error, "the replaced database cannot be read");
                return Ok(());
            }
        }
        // The last connection to close removes the WAL. It was not ours.
        if wal.exists() { Err(OutputError::InUse(self.path.clone())) } else { Ok(()) }
    }

    fn remove_sidecars(&self) -> Result<(), OutputError> {
        let mut removed = false;
        for sidecar in SIDECARS.map(|suffix| beside(&self.path, suffix)) {
            match fs::remove_file(&sidecar) {
                Ok(()) => removed = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(OutputError::io("remove", &sidecar)(error)),
            }
        }
        // After power loss the rename must not be there without the removal.
        if removed {
            durable::sync_dir(durable::parent(&self.path))?;
        }
        Ok(())
    }
}

fn fold(path: &Path) -> rusqlite::Result<()> {
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    database.busy_timeout(BUSY)?;
    // Reading rolls a hot journal back.
    database.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    let busy: bool = database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        return Err(rusqlite::Error::SqliteFailure(code, None));
    }
    database.close().map_err(|(_, error)| error)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The file that links lead to, whether it exists or not: that is the database,
/// and SQLite keeps its sidecars beside it, not beside the link.
fn follow_links(target: &Path) -> Result<PathBuf, OutputError> {
    let mut path = target.to_path_buf();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(link) => path = durable::parent(&path).join(link),
            // Not a link, or nothing at all.
            Err(_) => return Ok(path),
        }
    }
    Err(OutputError::Links(target.to_path_buf()))
}
