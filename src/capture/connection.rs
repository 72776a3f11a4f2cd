//! Connections to the user's database. All SQL of the sidecar is here, and none
//! of it writes: a connection reads, waits with a lock that is rolled back, or
//! asks SQLite to checkpoint.
//!
//! A [`Handle`] never stays the reason for a checkpoint or for a lost log: it
//! neither checkpoints after commits nor when it closes, and keeps the WAL file.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::wal_index::{self, Code, View};
use crate::types::PageSize;

/// What went wrong between us and SQLite.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is there but SQLite does not recognise it.
    #[error("{} is not a SQLite database, or it is encrypted: point `path` at an unencrypted database file", .0.display())]
    NotADatabase(PathBuf),
    /// Nothing has been written to the database yet.
    #[error("{} is an empty file: waiting until the application has created its database in it", .0.display())]
    Empty(PathBuf),
    /// Not in WAL mode.
    #[error(
        "{} uses journal mode {mode:?}: switch it with `PRAGMA journal_mode=WAL` (once; it is kept in the file) \
         so that its commits can be followed", path.display()
    )]
    NotWal {
        /// The database.
        path: PathBuf,
        /// What `PRAGMA journal_mode` says.
        mode: String,
    },
    /// Another connection holds a lock that we need.
    #[error("{} is locked by another connection: {message}", path.display())]
    Busy {
        /// The database.
        path: PathBuf,
        /// SQLite's words.
        message: String,
    },
    /// The operating system refused.
    #[error("cannot open {}: {message}; check that this user may read and write the file and its directory", path.display())]
    Access {
        /// The database.
        path: PathBuf,
        /// SQLite's words.
        message: String,
    },
    /// Anything else SQLite reports.
    #[error("SQLite failed on {}: {message}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// SQLite's words.
        message: String,
    },
}

impl Error {
    /// Whether trying again soon is likely to help.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }
}

/// What a checkpoint reported: <https://www.sqlite.org/pragma.html#pragma_wal_checkpoint>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpointed {
    /// Something kept it from finishing.
    pub busy: bool,
    /// Frames in the log, -1 when unknown.
    pub log: i64,
    /// Frames copied into the database, -1 when unknown.
    pub backfilled: i64,
}

/// The checkpoint modes that brooklet uses. FULL and RESTART make writers wait
/// for readers and are never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointMode {
    /// Copies what it can without waiting for anyone.
    Passive,
    /// Passive, then cuts the log to zero bytes; only while a guard on slot 0 is
    /// held, so that it can succeed only when nothing is left to copy.
    Truncate,
}

/// One connection to the user's database.
#[derive(Debug)]
pub struct Handle {
    path: PathBuf,
    connection: Connection,
}

/// Rebuilding the wal-index needs the write lock; whoever holds it longer than this is alive and will publish.
const REPAIR_WAIT: Duration = Duration::from_millis(100);

impl Handle {
    /// Opens the database for reading and locking. It must exist and be in WAL mode.
    ///
    /// # Errors
    /// One of [`Error`]'s reasons why this file cannot be followed.
    pub fn open(path: &Path, busy_timeout: Duration) -> Result<Self, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let explain = |error| explain(path, error);
        let mut connection = Connection::open_with_flags(path, flags).map_err(explain)?;
        // What does not work here is only dearer.
        let _ = wal_index::take_little_memory(&mut connection);
        let mut handle = Self { path: path.to_owned(), connection };
        handle.set_busy_timeout(busy_timeout)?;
        // Fewer than three pages, so that SQLite sets none aside in advance.
        handle.run("PRAGMA cache_size = 2; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY")?;
        let mode: String = handle.connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).map_err(explain)?;
        if mode != "wal" {
            if handle.database_size()? == 0 {
                return Err(Error::Empty(path.to_owned()));
            }
            return Err(Error::NotWal { path: path.to_owned(), mode });
        }
        // Those that it has set aside before it knew.
        wal_index::forget_pages(&mut handle.connection);
        let code = wal_index::leave_the_log_alone(&mut handle.connection);
        code.map_err(|code| handle.raw(code))?;
        let setting = rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
        handle.connection.set_db_config(setting, true).map_err(explain)?;
        Ok(handle)
    }

    /// How long later calls wait for a lock that someone else holds.
    ///
    /// # Errors
    /// SQLite's refusal.
    pub fn set_busy_timeout(&mut self, timeout: Duration) -> Result<(), Error> {
        self.connection.busy_timeout(timeout).map_err(|e| explain(&self.path, e))
    }

    /// Later calls ask for a held lock again and again, up to `wait`. A writer at
    /// full speed frees the write lock for some ten microseconds at a time: SQLite's
    /// own waits, which grow, hardly ever meet them, so this asks in bursts.
    ///
    /// # Errors
    /// SQLite's refusal.
    pub fn insist(&mut self, wait: Duration) -> Result<(), Error> {
        const BURST: Duration = Duration::from_micros(100);
        const PAUSE: Duration = Duration::from_micros(150);
        let mut burst = Instant::now();
        let mut end = burst;
        let ask_again = move |asked: i32| {
            let mut now = Instant::now();
            if asked == 0 {
                (burst, end) = (now + BURST, now + wait);
            } else if now >= burst {
                std::thread::sleep(PAUSE);
                now = Instant::now();
                burst = now + BURST;
            }
            now < end
        };
        self.connection.busy_handler(Some(ask_again)).map_err(|e| explain(&self.path, e))
    }

    /// Begins a read transaction and takes its reader slot at once. Reading the
    /// user version touches page 1 only and needs no schema.
    ///
    /// # Errors
    /// SQLite's refusal; then no transaction is open.
    pub fn begin_read(&mut self) -> Result<(), Error> {
        fail::fail_point!("capture::begin-read", |_| Err(Error::Sqlite {
            path: self.path.clone(),
            message: "failpoint".to_owned()
        }));
        self.run("BEGIN")?;
        let read = self.connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
        if let Err(error) = read {
            self.end();
            return Err(explain(&self.path, error));
        }
        if !self.holds_transaction() {
            self.end();
            let message = "the read transaction was not taken".to_owned();
            return Err(Error::Sqlite { path: self.path.clone(), message });
        }
        // A guard is held for days and reads nothing through its cache.
        wal_index::forget_pages(&mut self.connection);
        Ok(())
    }

    /// Takes the write lock without writing: no one else can commit until
    /// [`Handle::end`].
    ///
    /// # Errors
    /// `Busy` when the lock is not free within the busy timeout.
    pub fn begin_barrier(&mut self) -> Result<(), Error> {
        self.run("BEGIN IMMEDIATE")
    }

    /// Ends whatever transaction is open. Nothing was ever written, so a failing
    /// rollback has nothing to lose; the transaction is over either way.
    pub fn end(&mut self) {
        if !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    /// Whether a transaction is open.
    pub fn holds_transaction(&mut self) -> bool {
        wal_index::in_transaction(&mut self.connection)
    }

    /// Runs a checkpoint.
    ///
    /// # Errors
    /// SQLite's refusal; being busy is a result, not an error.
    pub fn checkpoint(&mut self, mode: CheckpointMode) -> Result<Checkpointed, Error> {
        let sql = match mode {
            CheckpointMode::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
            CheckpointMode::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
        };
        let row = self.connection.query_row(sql, [], |row| {
            Ok(Checkpointed { busy: row.get::<_, i64>(0)? != 0, log: row.get(1)?, backfilled: row.get(2)? })
        });
        match row.map_err(|e| explain(&self.path, e)) {
            Err(Error::Busy { .. }) => Ok(Checkpointed { busy: true, log: -1, backfilled: -1 }),
            other => other,
        }
    }

    /// One look at the wal-index; tries again while a writer is publishing.
    ///
    /// A writer that died while publishing leaves a header that nobody can read. Any new
    /// read transaction makes SQLite rebuild it from the log; nobody else may come
    /// for a long time, so one of ours does it. The reader slot of this connection
    /// stays as it is.
    ///
    /// # Errors
    /// When there is no wal-index to read, although the database is in WAL mode.
    pub fn view(&mut self) -> Result<View, Error> {
        if let Some(view) = self.published_view()? {
            return Ok(view);
        }
        let mut repairer = Self::open(&self.path, REPAIR_WAIT)?;
        repairer.begin_read()?;
        match self.published_view()? {
            Some(view) => Ok(view),
            None => {
                let message = "its wal-index cannot be read".to_owned();
                Err(Error::Sqlite { path: self.path.clone(), message })
            }
        }
    }

    fn published_view(&mut self) -> Result<Option<View>, Error> {
        // A writer needs well under a microsecond to publish; a reader that keeps meeting one this often meets a crashed one.
        const LOOKS: usize = 1000;
        for look in 0..LOOKS {
            if let Some(view) = wal_index::view(&mut self.connection).map_err(|code| self.raw(code))? {
                return Ok(Some(view));
            }
            if look > 10 {
                std::thread::yield_now();
            }
        }
        Ok(None)
    }

    /// Reads one page from the database file, without the log. A page past the
    /// end of the file reads as zeros and gives `false`.
    ///
    /// # Errors
    /// SQLite's read error.
    pub fn read_page(&mut self, offset: u64, page: &mut [u8]) -> Result<bool, Error> {
        wal_index::read_database(&mut self.connection, offset, page).map_err(|code| self.raw(code))
    }

    /// Length of the database file in bytes.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn database_size(&mut self) -> Result<u64, Error> {
        wal_index::database_size(&mut self.connection).map_err(|code| self.raw(code))
    }

    /// Flushes the database file.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn sync_database(&mut self) -> Result<(), Error> {
        wal_index::sync_database(&mut self.connection).map_err(|code| self.raw(code))
    }

    /// The page size in the header of the database file.
    ///
    /// # Errors
    /// When the header does not hold one.
    pub fn file_page_size(&mut self) -> Result<PageSize, Error> {
        let mut field = [0u8; 2];
        self.read_page(16, &mut field)?;
        PageSize::from_u16_field(u16::from_be_bytes(field)).ok_or_else(|| Error::NotADatabase(self.path.clone()))
    }

    /// The version of SQLite that last wrote to the database file (header offset 96); 0 when unknown.
    ///
    /// # Errors
    /// SQLite's read error.
    pub fn writer_version(&mut self) -> Result<u32, Error> {
        let mut field = [0u8; 4];
        self.read_page(96, &mut field)?;
        Ok(u32::from_be_bytes(field))
    }

    fn run(&mut self, sql: &str) -> Result<(), Error> {
        self.connection.execute_batch(sql).map_err(|error| explain(&self.path, error))
    }

    fn raw(&self, code: Code) -> Error {
        explain(&self.path, rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code.0), None))
    }
}

fn explain(path: &Path, error: rusqlite::Error) -> Error {
    let path = path.to_owned();
    let message = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => Error::NotADatabase(path),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Busy { path, message },
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            Error::Access { path, message }
        }
        _ => Error::Sqlite { path, message },
    }
}

/// The oldest SQLite without the bug that lets a checkpoint and a log restart
/// lose commits: <https://www.sqlite.org/wal.html#the_wal_reset_bug>.
const FIRST_SAFE: i32 = 3_051_003;
/// Older lines that got the fix, and a newer one that was withdrawn.
const BACKPORTS: [i32; 2] = [3_044_006, 3_050_007];
const WITHDRAWN: i32 = 3_052_000;

/// Whether this version of SQLite may checkpoint beside writers without losing
/// their commits.
pub fn is_safe_version(version: i32) -> bool {
    (version >= FIRST_SAFE && version != WITHDRAWN) || BACKPORTS.contains(&version)
}

/// Whether the SQLite inside this program is one that may.
pub fn bundled_is_safe() -> bool {
    is_safe_version(rusqlite::version_number())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wal_database(dir: &Path) -> (PathBuf, Connection) {
        let path = dir.join("db");
        let app = Connection::open(&path).unwrap();
        app.execute_batch("PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
        (path, app)
    }

    const SOON: Duration = Duration::from_millis(50);

    #[test]
    fn a_guard_keeps_others_from_backfilling_past_its_mark() {
        let dir = tempfile::tempdir().unwrap();
        let (path, app) = wal_database(dir.path());
        let mut guard = Handle::open(&path, SOON).unwrap();
        guard.begin_read().unwrap();
        let mark = guard.view().unwrap().mx_frame;
        app.execute_batch("INSERT INTO t VALUES(2); INSERT INTO t VALUES(3)").unwrap();
        let row: (i64, i64) =
            app.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |r| Ok((r.get(1)?, r.get(2)?))).unwrap();
        assert_eq!(row.1, i64::from(mark));
        assert!(row.0 > row.1);
    }

    #[test]
    fn the_barrier_stops_writers_and_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (path, app) = wal_database(dir.path());
        app.busy_timeout(Duration::ZERO).unwrap();
        let mut barrier = Handle::open(&path, SOON).unwrap();
        let before = barrier.view().map(|v| v.mx_frame).ok();
        barrier.begin_barrier().unwrap();
        assert!(app.execute_batch("INSERT INTO t VALUES(2)").is_err());
        barrier.end();
        app.execute_batch("INSERT INTO t VALUES(2)").unwrap();
        let after = barrier.view().unwrap().mx_frame;
        assert!(before.is_none_or(|b| after == b + 1), "only the insert left a frame");
    }

    #[test]
    fn closing_the_last_connection_keeps_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let (path, app) = wal_database(dir.path());
        let mut handle = Handle::open(&path, SOON).unwrap();
        handle.begin_read().unwrap();
        drop(app);
        let wal = dir.path().join("db-wal");
        let before = std::fs::metadata(&wal).unwrap().len();
        handle.end();
        drop(handle);
        assert_eq!(std::fs::metadata(&wal).unwrap().len(), before);
        assert!(before > 0);
    }

    /// F55: each input has one clear reason.
    #[test]
    fn what_cannot_be_followed_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            Handle::open(&path, SOON).unwrap_err()
        };
        assert!(matches!(open("text", &[b'x'; 5000]), Error::NotADatabase(_)));
        assert!(matches!(open("empty", b""), Error::Empty(_)));
        let path = dir.path().join("rollback");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
        let error = Handle::open(&path, SOON).unwrap_err();
        assert!(matches!(&error, Error::NotWal { mode, .. } if mode == "delete"), "{error}");
        assert!(matches!(Handle::open(dir.path(), SOON).unwrap_err(), Error::Access { .. }));
        assert!(matches!(Handle::open(&dir.path().join("missing"), SOON).unwrap_err(), Error::Access { .. }));
        assert!(!dir.path().join("missing").exists());
    }

    #[test]
    fn the_bundled_library_is_past_the_wal_reset_bug() {
        assert!(bundled_is_safe(), "SQLite {}", rusqlite::version());
        for (version, safe) in [
            (3_044_005, false),
            (3_044_006, true),
            (3_045_000, false),
            (3_050_007, true),
            (3_051_002, false),
            (3_051_003, true),
            (3_052_000, false),
            (3_054_001, true),
        ] {
            assert_eq!(is_safe_version(version), safe, "{version}");
        }
    }
}
