//! Changing a database that others read, in one step for all of them.
//!
//! Always true: whoever reads through SQLite sees the database before a change or
//! after it, also when this process is killed, or the power fails, at any moment
//! of it. The pages are changed under SQLite's own exclusive lock, and before the
//! first of them a rollback journal, in SQLite's format, is on disk. Its removal
//! is the commit. Whoever opens the database after a crash, we or a reader that
//! may write, finds the journal and rolls back.
//!
//! The locks belong to the process and end when it closes *any* descriptor of
//! the file. So there is one descriptor beside SQLite's, it is opened before and
//! closed after, and everybody in this process shares it.
//!
//! <https://www.sqlite.org/fileformat.html#the_rollback_journal>

use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::durable;
use crate::types::{PageSize, Pgno, lock_page};

use super::local::{counter, followed, page_size, truth};
use super::output::beside;

/// How long readers are waited for: longer than most transactions, shorter than
/// anybody wants to be kept from beginning one.
const BUSY: Duration = Duration::from_secs(5);

/// Where records begin in the journal; the header fills a sector.
const SECTOR: u32 = 512;

/// How every rollback journal begins.
const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// Why the database could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum InPlaceError {
    /// SQLite says no.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
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
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InPlaceError {
    let path = path.to_path_buf();
    move |source| InPlaceError::Io { action, path, source }
}

/// Pages to be written.
pub(super) struct Change<'a> {
    /// A file that holds each of them at its place.
    pub(super) staged: &'a File,
    pub(super) pages: &'a mut dyn Iterator<Item = Pgno>,
    pub(super) page_size: PageSize,
    /// Pages of the database afterwards.
    pub(super) commit: u32,
}

/// A database that is changed while others read it.
pub(super) struct InPlace {
    // In this order: SQLite's descriptor is closed first.
    connection: Mutex<Connection>,
    file: Arc<File>,
    path: PathBuf,
}

impl InPlace {
    /// Opens a database. What a crash left half done is rolled back.
    pub(super) fn open(path: &Path) -> Result<Self, InPlaceError> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io_error("open", path))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let refused = |source| InPlaceError::Lock { path: path.to_path_buf(), source };
        let connection = Connection::open_with_flags(path, flags).map_err(refused)?;
        connection.busy_timeout(BUSY).map_err(refused)?;
        // In WAL mode the lock would keep no reader out. Somebody must have asked
        // for it, because a followed database is never in it.
        let mode = |sql| connection.query_row(sql, [], |row| row.get::<_, String>(0)).map_err(refused);
        if mode("PRAGMA journal_mode")? == "wal" {
            mode("PRAGMA journal_mode=DELETE")?;
        }
        let database = Self { connection: Mutex::new(connection), file: Arc::new(file), path: path.to_path_buf() };
        database.locked(|| Ok(()))?;
        Ok(database)
    }

    /// The one descriptor of the file.
    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Makes a change, whole or not at all.
    pub(super) fn apply(&self, change: Change<'_>) -> Result<(), InPlaceError> {
        self.locked(|| self.apply_locked(change))
    }

    fn locked(&self, work: impl FnOnce() -> Result<(), InPlaceError>) -> Result<(), InPlaceError> {
        // A panic elsewhere leaves a transaction open at worst, and then this is refused.
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let execute = |sql| {
            let refused = |source| InPlaceError::Lock { path: self.path.clone(), source };
            connection.execute_batch(sql).map_err(refused)
        };
        execute("BEGIN EXCLUSIVE")?;
        let worked = work();
        // SQLite itself has changed nothing: this only lets go of the lock.
        let released = execute("ROLLBACK");
        worked.and(released)
    }

    fn apply_locked(&self, change: Change<'_>) -> Result<(), InPlaceError> {
        let old = Old::of(&self.file).map_err(io_error("read", &self.path))?;
        if old.in_wal_mode {
            let found = io::Error::other("somebody has put it into WAL mode: start following it again");
            return Err(io_error("change", &self.path)(found));
        }
        let pages: Vec<Pgno> = change.pages.collect();
        let journal = beside(&self.path, "-journal");
        self.point("follow::before-journal")?;
        if let Err(error) = self.write_journal(&journal, &old, &pages, &change) {
            // Nothing has changed, so there is nothing to roll back.
            drop(fs::remove_file(&journal));
            return Err(error);
        }
        self.point("follow::journal-written")?;
        self.write_pages(&old, &pages, &change).map_err(io_error("write", &self.path))?;
        self.point("follow::pages-written")?;
        fs::remove_file(&journal).map_err(io_error("remove", &journal))?;
        self.point("follow::journal-removed")?;
        durable::sync_dir(durable::parent(&self.path)).map_err(|error| io_error("fsync", &self.path)(error.into()))
    }

    /// The old content of every page that will change or go.
    fn write_journal(&self, path: &Path, old: &Old, pages: &[Pgno], change: &Change<'_>) -> Result<(), InPlaceError> {
        let lock = lock_page(old.page_size);
        let changed = pages.iter().copied().filter(|pgno| *pgno != Pgno::FIRST && pgno.get() <= change.commit);
        let kept = if old.page_size == change.page_size { change.commit } else { 1 };
        let cut = (kept.saturating_add(1)..=old.pages).filter_map(Pgno::new);
        // Page 1 counts the change. Where pages have another size now, all are "cut".
        let changed = changed.take_while(|_| old.page_size == change.page_size);
        let records = [Pgno::FIRST].into_iter().chain(changed).chain(cut);
        let records: Vec<Pgno> = records.filter(|pgno| *pgno != lock && pgno.get() <= old.pages).collect();
        let written = || -> io::Result<()> {
            let mode = self.file.metadata()?.mode() & 0o777;
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).truncate(true).mode(mode).open(path)?;
            file.set_permissions(Permissions::from_mode(mode))?;
            let mut out = BufWriter::new(file);
            let seed = u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or(1);
            let mut header = vec![0; SECTOR as usize];
            let count = u32::try_from(records.len()).map_err(io::Error::other)?;
            let fields = [count, seed, old.pages, SECTOR, old.page_size.get()];
            header[..8].copy_from_slice(&MAGIC);
            for (field, place) in fields.iter().zip(header[8..].chunks_exact_mut(4)) {
                place.copy_from_slice(&field.to_be_bytes());
            }
            out.write_all(&header)?;
            let mut page = vec![0; old.page_size.bytes()];
            for pgno in records {
                self.file.read_exact_at(&mut page, pgno.offset(old.page_size))?;
                out.write_all(&pgno.get().to_be_bytes())?;
                out.write_all(&page)?;
                out.write_all(&record_checksum(seed, &page).to_be_bytes())?;
            }
            out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
        };
        written().map_err(io_error("write", path))?;
        durable::sync_dir(durable::parent(path)).map_err(|error| io_error("fsync", path)(error.into()))
    }

    fn write_pages(&self, old: &Old, pages: &[Pgno], change: &Change<'_>) -> io::Result<()> {
        let mut page = vec![0; change.page_size.bytes()];
        let mut first = None;
        for &pgno in pages {
            change.staged.read_exact_at(&mut page, pgno.offset(change.page_size))?;
            if pgno == Pgno::FIRST {
                first = Some(page.clone());
            } else {
                durable::point("follow::before-page")?;
                self.file.write_all_at(&page, pgno.offset(change.page_size))?;
            }
        }
        let mut first = first.map_or_else(|| self.true_first_page(old), Ok)?;
        followed(&mut first, old.counter.wrapping_add(1));
        self.file.write_all_at(&first, 0)?;
        self.file.set_len(u64::from(change.commit) * u64::from(change.page_size.get()))?;
        self.file.sync_all()
    }

    fn true_first_page(&self, old: &Old) -> io::Result<Vec<u8>> {
        let mut page = vec![0; old.page_size.bytes()];
        self.file.read_exact_at(&mut page, 0)?;
        truth(&mut page);
        Ok(page)
    }

    /// A place where tests stop or fail.
    fn point(&self, name: &str) -> Result<(), InPlaceError> {
        durable::point(name).map_err(io_error("change", &self.path))
    }
}

/// The database before the change.
struct Old {
    page_size: PageSize,
    pages: u32,
    counter: u32,
    in_wal_mode: bool,
}

impl Old {
    fn of(file: &File) -> io::Result<Self> {
        let mut start = [0; 100];
        file.read_exact_at(&mut start, 0)?;
        let page_size = page_size(&start).ok_or_else(|| io::Error::other("it is not a database any more"))?;
        let pages = u32::try_from(file.metadata()?.len() / u64::from(page_size.get())).map_err(io::Error::other)?;
        Ok(Self { page_size, pages, counter: counter(&start), in_wal_mode: start[18..20] != [1, 1] })
    }
}

/// Every 200th byte, counted from the end, on top of the journal's own number.
fn record_checksum(seed: u32, page: &[u8]) -> u32 {
    let bytes = (1..).map_while(|n| page.len().checked_sub(n * 200)).take_while(|at| *at > 0);
    bytes.fold(seed, |sum, at| sum.wrapping_add(page[at].into()))
}
