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
//! A crash can leave drafts, `<target>.<16 hex digits>.tmp`. The next restore to
//! the same target takes them up (see [`super::work`]) or removes them.

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
    #[error("cannot restore, SQLite sidecar path already exists: {}", .0.display())]
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

    /// The database that is there, with everything that was committed to it in
    /// its file; `None` without one.
    pub(super) fn existing(&self) -> Result<Option<&Path>, OutputError> {
        if !self.is_taken() {
            return Ok(None);
        }
        self.settle()?;
        Ok(Some(&self.path))
    }

    /// Whether there is something, and more than an empty file.
    pub(super) fn is_taken(&self) -> bool {
        self.replaced.as_ref().is_some_and(|found| found.len() > 0)
    }

    /// Where the database goes.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts the draft. Nobody else can read it while it is being written.
    pub(super) fn draft(&self) -> Result<Draft, OutputError> {
        durable::create_dir_all(durable::parent(&self.path), durable::PRIVATE_DIR)?;
        self.sweep()?;
        Ok(Draft::create(&self.path, durable::PRIVATE_FILE)?)
    }

    /// Starts the draft with this tag, or takes it up; `None` if somebody else has it.
    pub(super) fn draft_of(&self, tag: u64) -> Result<Option<Draft>, OutputError> {
        durable::create_dir_all(durable::parent(&self.path), durable::PRIVATE_DIR)?;
        Ok(Draft::take_up(&self.path, tag)?)
    }

    /// Removes the drafts that nobody has.
    pub(super) fn sweep(&self) -> Result<(), OutputError> {
        durable::remove_stale_drafts_of(&self.path)?;
        Ok(())
    }

    /// Puts the complete draft at the target.
    pub(super) async fn publish(self, draft: Draft) -> Result<(), OutputError> {
        unpanicked(tokio::task::spawn_blocking(move || self.publish_now(draft)).await)
    }

    fn publish_now(&self, draft: Draft) -> Result<(), OutputError> {
        self.adopt(&draft)?;
        // Slow for a large file, so it is done before anything else is touched.
        self.point("restore::before-sync")?;
        draft.file().sync_all().map_err(OutputError::io("fsync", draft.path()))?;
        self.point("restore::synced")?;
        self.settle()?;
        self.point("restore::settled")?;
        self.remove_sidecars()?;
        self.point("restore::sidecars-removed")?;
        match self.replaced {
            Some(_) => draft.publish()?,
            None => draft.publish_new()?,
        }
        self.point("restore::published")
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

/// A file that belongs to a database and is named after it.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Writes a draft and puts it in place.
    fn publish(output: &Output, content: &[u8]) -> Result<(), OutputError> {
        let mut draft = output.draft()?;
        draft.write_all(content).unwrap();
        output.publish_now(draft)
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    /// A database in WAL mode with one row in its file and one in its WAL only.
    fn database_with_wal(path: &Path) {
        let database = Connection::open(path).unwrap();
        database.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1);").unwrap();
        database.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t VALUES (2);").unwrap();
        let parked = path.with_file_name("parked");
        for suffix in ["", "-wal", "-shm"] {
            fs::copy(beside(path, suffix), beside(&parked, suffix)).unwrap();
        }
        drop(database);
        for suffix in ["", "-wal", "-shm"] {
            fs::rename(beside(&parked, suffix), beside(path, suffix)).unwrap();
        }
    }

    #[test]
    fn a_new_file_is_private_and_so_are_the_directories_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/app.db");
        publish(&Output::inspect(&path, false).unwrap(), b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(mode(&path), 0o600);
        assert_eq!((mode(&dir.path().join("a")), mode(&dir.path().join("a/b"))), (0o700, 0o700));
        assert_eq!(names(&dir.path().join("a/b")), ["app.db"]);
    }

    #[test]
    fn a_replaced_file_passes_on_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        fs::write(&path, b"old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        publish(&Output::inspect(&path, true).unwrap(), b"new").unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"new".to_vec(), 0o640));
    }

    #[test]
    fn only_a_free_name_or_an_empty_file_will_do_unless_asked_to_overwrite() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let inspect = |overwrite| Output::inspect(&path, overwrite).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(inspect(false), Ok(()));
        fs::write(&path, b"").unwrap();
        assert_eq!(inspect(false), Ok(()));
        fs::write(beside(&path, "-wal"), b"").unwrap();
        assert!(inspect(false).unwrap_err().ends_with("app.db-wal"));
        assert_eq!(inspect(true), Ok(()));
        fs::write(&path, b"x").unwrap();
        let refused = "cannot restore, output path already exists and is not empty: ";
        assert!(inspect(false).unwrap_err().starts_with(refused));
        assert_eq!(inspect(true), Ok(()));
        let directory = Output::inspect(dir.path(), true).unwrap_err();
        assert!(matches!(directory, OutputError::Directory(_)));
        assert!(matches!(Output::inspect(Path::new("/dev/null"), true), Err(OutputError::Special(_))));
    }

    #[test]
    fn a_database_that_appeared_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let output = Output::inspect(&path, false).unwrap();
        fs::write(&path, b"somebody was faster").unwrap();
        let error = publish(&output, b"new").unwrap_err();
        assert!(matches!(&error, OutputError::Durable(error) if error.kind() == io::ErrorKind::AlreadyExists));
        assert_eq!(fs::read(&path).unwrap(), b"somebody was faster");
        assert_eq!(names(dir.path()), ["app.db"]);
    }

    #[test]
    fn the_wal_of_a_database_that_is_gone_is_not_replayed_over_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        database_with_wal(&path);
        fs::remove_file(&path).unwrap();
        publish(&Output::inspect(&path, false).unwrap(), b"new").unwrap();
        assert_eq!(names(dir.path()), ["app.db"]);
    }

    /// Between the removal of the old WAL and the rename, what is at the target
    /// must still be the old database with everything that was committed.
    #[test]
    fn the_old_database_is_whole_until_it_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        database_with_wal(&path);
        let output = Output::inspect(&path, true).unwrap();
        output.settle().unwrap();
        output.remove_sidecars().unwrap();
        assert_eq!(names(dir.path()), ["app.db"]);
        let rows: i64 =
            Connection::open(&path).unwrap().query_row("SELECT sum(x) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 3);
    }

    #[test]
    fn a_database_in_use_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        database_with_wal(&path);
        let idle = Connection::open(&path).unwrap();
        let rows = |database: &Connection| database.query_row("SELECT sum(x) FROM t", [], |row| row.get::<_, i64>(0));
        assert_eq!(rows(&idle), Ok(3));
        let error = publish(&Output::inspect(&path, true).unwrap(), b"new").unwrap_err();
        assert!(matches!(error, OutputError::InUse(_)), "{error}");
        idle.execute_batch("INSERT INTO t VALUES (4)").unwrap();
        drop(idle);
        assert_eq!(rows(&Connection::open(&path).unwrap()), Ok(7));
    }

    #[test]
    fn what_is_no_database_at_all_can_be_replaced_with_its_sidecars() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        fs::write(&path, vec![0x55; 9000]).unwrap();
        for suffix in SIDECARS {
            fs::write(beside(&path, suffix), b"rubble").unwrap();
        }
        publish(&Output::inspect(&path, true).unwrap(), b"new").unwrap();
        assert_eq!(names(dir.path()), ["app.db"]);
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn the_database_a_link_leads_to_is_replaced_and_not_the_link() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("volume")).unwrap();
        let (link, real) = (dir.path().join("app.db"), dir.path().join("volume/real.db"));
        symlink("volume/real.db", &link).unwrap();
        for content in [b"first", b"again"] {
            publish(&Output::inspect(&link, true).unwrap(), content).unwrap();
            assert_eq!(fs::read(&real).unwrap(), content);
            assert!(link.is_symlink());
        }
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        assert!(matches!(Output::inspect(&dir.path().join("a"), true), Err(OutputError::Links(_))));
    }

    #[test]
    fn the_draft_of_a_crashed_restore_is_removed_and_that_of_a_running_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        fs::write(dir.path().join("app.db.0123456789abcdef.tmp"), b"left behind").unwrap();
        for other in ["app.db.tmp", "other.db.0123456789abcdef.tmp", "app.db.0123456789abcdeX.tmp"] {
            fs::write(dir.path().join(other), b"not ours").unwrap();
        }
        let output = Output::inspect(&path, false).unwrap();
        let running = output.draft().unwrap();
        let second = output.draft().unwrap();
        assert!(running.path().exists() && second.path().exists());
        drop((running, second));
        assert_eq!(names(dir.path()), ["app.db.0123456789abcdeX.tmp", "app.db.tmp", "other.db.0123456789abcdef.tmp"]);
    }
}
