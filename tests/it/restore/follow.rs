//! A database that follows a replica while others read it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use brooklet::ltx::{Encoding, Level};
use brooklet::replica::Replica;
use brooklet::restore::{FollowError, Follower, Options, RestoreError, Target};
use brooklet::storage::{Key, MemoryStorage, Storage};
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

use super::options;
use crate::history::{self, History, range, txid};

/// A real database in WAL mode; each step becomes one transaction of a history.
pub(super) struct Source {
    dir: TempDir,
    page_size: u32,
    before: Vec<Vec<u8>>,
    pub(super) history: History,
}

impl Source {
    pub(super) fn new(page_size: u32, proofs: bool) -> Self {
        let dir = TempDir::new().unwrap();
        let database = Connection::open(dir.path().join("db")).unwrap();
        let sql = format!("PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; CREATE TABLE t(x, y); VACUUM;");
        database.execute_batch(&sql).unwrap();
        drop(database);
        let history = History::new(page_size, proofs, Encoding::Block);
        let mut source = Self { dir, page_size, before: Vec::new(), history };
        source.step("INSERT INTO t VALUES (0, 0)");
        source
    }

    /// Runs the statements and captures what they changed.
    pub(super) fn step(&mut self, sql: &str) {
        let path = self.dir.path().join("db");
        let database = Connection::open(&path).unwrap();
        database.execute_batch(sql).unwrap();
        drop(database); // the last one to close checkpoints
        let now: Vec<Vec<u8>> = fs::read(&path).unwrap().chunks(self.page_size as usize).map(<[u8]>::to_vec).collect();
        let changed: BTreeMap<u32, Vec<u8>> = (1..)
            .zip(&now)
            .filter(|(n, page)| self.before.get(*n as usize - 1) != Some(*page))
            .map(|(n, page)| (n, page.clone()))
            .collect();
        self.history.commit(changed, u32::try_from(now.len()).unwrap());
        self.before = now;
    }

    /// Row `n`, large enough to need pages of its own.
    pub(super) fn row(&mut self, n: u64) {
        self.step(&format!("INSERT INTO t VALUES ({n}, zeroblob({}))", 3000 + n % 7 * 500));
    }
}

struct Place {
    dir: TempDir,
    storage: Arc<MemoryStorage>,
}

impl Place {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), storage: Arc::new(MemoryStorage::new()) }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn replica(&self) -> Replica {
        history::shelf(self.storage.clone(), "r")
    }

    /// Makes the replica hold exactly these segments.
    async fn show(&self, history: &History) {
        for level in Level::all() {
            let folder = self.replica().folder(level);
            let keys: Vec<Key> =
                self.storage.list(&folder, None).await.unwrap().into_iter().map(|object| object.key).collect();
            self.storage.delete(&keys).await.unwrap();
        }
        history.replica(self.storage.clone(), "r").await;
    }

    async fn start(&self) -> Result<Follower, RestoreError> {
        self.start_with(options(Target::Latest)).await
    }

    async fn start_with(&self, options: Options) -> Result<Follower, RestoreError> {
        Follower::start(&[self.replica()], &self.path(), &options, &Arc::default()).await
    }

    fn saved(&self) -> String {
        fs::read_to_string(self.dir.path().join("app.db-txid")).unwrap()
    }

    /// What a reader in another process sees.
    fn rows(&self) -> String {
        rows(&self.path())
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub(super) fn rows(path: &Path) -> String {
    let sql = "PRAGMA integrity_check; SELECT count(*), total(x), total(length(y)) FROM t";
    let ran = std::process::Command::new("sqlite3").arg("-readonly").arg(path).arg(sql).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    format!("{}{}", text(ran.stdout), text(ran.stderr)).trim().replace('\n', " ")
}

/// What the source shows after transaction `n`.
pub(super) fn expected(history: &History, n: u64) -> String {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x");
    fs::write(&path, history.file(n)).unwrap();
    let mode = "PRAGMA journal_mode=DELETE";
    assert!(std::process::Command::new("sqlite3").arg(&path).arg(mode).output().unwrap().status.success());
    rows(&path)
}

#[tokio::test]
async fn a_follower_shows_each_transaction_in_turn() {
    for (page_size, proofs) in [(512, true), (4096, true), (4096, false)] {
        let mut source = Source::new(page_size, proofs);
        let place = Place::new();
        place.show(&source.history).await;
        let mut follower = place.start().await.unwrap();
        assert_eq!((follower.position(), place.rows()), (txid(1), expected(&source.history, 1)));
        assert_eq!(follower.step().await.unwrap(), None);
        for n in 2..=12 {
            match n {
                8 => source.step("DELETE FROM t WHERE x < 6; VACUUM"),
                _ => source.row(n),
            }
            place.show(&source.history).await;
            let done = follower.step().await.unwrap().unwrap();
            assert_eq!((done.from, done.to), (txid(n - 1), txid(n)));
            assert_eq!(place.rows(), expected(&source.history, n), "{page_size} {proofs} {n}");
            assert_eq!(place.saved(), format!("{}\n", txid(n)));
            assert_eq!(place.names(), ["app.db", "app.db-txid"]);
        }
        assert_eq!(follower.step().await.unwrap(), None);
    }
}

/// A reader keeps its transaction, is not made to see half of two, and sees the
/// new rows in its next one, although page 1 did not change at the source.
#[tokio::test]
async fn readers_see_whole_transactions_and_notice_new_ones() {
    let mut source = Source::new(4096, true);
    (2..=6).for_each(|n| source.row(n));
    let place = Place::new();
    place.show(&source.history).await;
    let mut follower = place.start().await.unwrap();
    // In this process, and before the follower's: closing it must not be a close
    // of a descriptor that the follower relies on while it holds a lock.
    let reader = Connection::open_with_flags(place.path(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let count = || reader.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, u32>(0));
    assert_eq!(count(), Ok(6));
    for n in 7..=20u32 {
        source.step(&format!("UPDATE t SET y = {n} WHERE x = 3; INSERT INTO t VALUES ({n}, {n})"));
        place.show(&source.history).await;
        follower.step().await.unwrap().unwrap();
        assert_eq!(count(), Ok(n), "the reader's cache is not believed");
        let changed: u32 = reader.query_row("SELECT y FROM t WHERE x = 3", [], |row| row.get(0)).unwrap();
        assert_eq!(changed, n);
    }
    // While it reads, the change waits; then it is refused, and nothing has happened.
    reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    let mut statement = reader.prepare("SELECT x FROM t").unwrap();
    let mut open = statement.query([]).unwrap();
    open.next().unwrap();
    source.row(21);
    place.show(&source.history).await;
    let error = follower.step().await.unwrap_err();
    assert!(matches!(error, RestoreError::Follow(FollowError::InPlace(_))), "{error}");
    drop(open);
    drop(statement);
    assert_eq!(count(), Ok(20), "the same transaction");
    reader.execute_batch("COMMIT").unwrap();
    follower.step().await.unwrap().unwrap();
    assert_eq!(count(), Ok(21));
}

#[tokio::test]
async fn gaps_at_level_zero_are_bridged() {
    let mut source = Source::new(4096, true);
    let place = Place::new();
    place.show(&source.history).await;
    let mut follower = place.start().await.unwrap();
    (2..=9).for_each(|n| source.row(n));
    let mut merged = source.history.clone();
    merged.merge(1, 2, 4);
    merged.merge(3, 3, 6);
    (1..=6).for_each(|n| merged.remove(0, range(n, n)));
    place.show(&merged).await;
    follower.step().await.unwrap().unwrap();
    assert_eq!((follower.position(), place.rows()), (txid(9), expected(&source.history, 9)));
    // Level 0 is gone altogether.
    source.row(10);
    let mut emptied = source.history.clone();
    emptied.snapshot(10);
    (1..=10).for_each(|n| emptied.remove(0, range(n, n)));
    place.show(&emptied).await;
    let mut again = place.start().await.unwrap();
    again.step().await.unwrap().unwrap();
    assert_eq!((again.position(), place.rows()), (txid(10), expected(&source.history, 10)));
}

/// Another writer took over: a new base, of another database and page size, above
/// everything that was there.
#[tokio::test]
async fn a_new_beginning_is_followed() {
    for page_size in [4096, 1024, 8192] {
        let mut source = Source::new(4096, true);
        (2..=5).for_each(|n| source.row(n));
        let place = Place::new();
        place.show(&source.history).await;
        let mut follower = place.start().await.unwrap();
        let mut other = Source::new(page_size, true);
        (2..=9).for_each(|n| other.row(n * 100));
        let mut header = other.history.header(range(9, 9));
        header.proof.as_mut().unwrap().before = None;
        let all: Vec<u32> = (1..=header.commit).collect();
        let bytes = other.history.encode(range(9, 9), &all, header);
        let mut both = source.history.clone();
        both.segments.push(history::Stored { level: 0, txids: range(9, 9), bytes });
        place.show(&both).await;
        follower.step().await.unwrap().unwrap();
        assert_eq!((follower.position(), place.rows()), (txid(9), expected(&other.history, 9)), "{page_size}");
        drop(follower);
        assert_eq!(place.start().await.unwrap().position(), txid(9));
    }
}

#[tokio::test]
async fn a_restart_takes_up_where_the_database_is() {
    let mut source = Source::new(4096, true);
    (2..=5).for_each(|n| source.row(n));
    let place = Place::new();
    place.show(&source.history).await;
    drop(place.start().await.unwrap());
    // The position was lost before it was written: it is what the database shows.
    fs::write(place.dir.path().join("app.db-txid"), format!("{}\n", txid(3))).unwrap();
    let mut follower = place.start().await.unwrap();
    assert_eq!((follower.position(), follower.step().await.unwrap()), (txid(5), None));
    drop(follower);
    // The point is merged away: the saved position is all there is.
    source.row(6);
    let mut merged = source.history.clone();
    merged.merge(1, 4, 6);
    (4..=6).for_each(|n| merged.remove(0, range(n, n)));
    place.show(&merged).await;
    fs::write(place.dir.path().join("app.db-txid"), format!("{}\n", txid(5))).unwrap();
    let mut follower = place.start().await.unwrap();
    assert_eq!(follower.position(), txid(5));
    follower.step().await.unwrap().unwrap();
    assert_eq!((follower.position(), place.rows()), (txid(6), expected(&source.history, 6)));
}

/// Somebody wrote to it, or put another one in its place.
#[tokio::test]
async fn what_is_not_the_followed_database_is_written_anew() {
    let mut source = Source::new(4096, true);
    (2..=5).for_each(|n| source.row(n));
    let place = Place::new();
    place.show(&source.history).await;
    let follower = place.start().await.unwrap();
    drop(follower);
    let meddle = || {
        let database = Connection::open(place.path()).unwrap();
        database.execute_batch("DELETE FROM t").unwrap();
    };
    meddle();
    let mut follower = place.start().await.unwrap();
    follower.step().await.unwrap().unwrap();
    assert_eq!(place.rows(), expected(&source.history, 5));
    // While it is followed.
    meddle();
    source.row(6);
    place.show(&source.history).await;
    follower.step().await.unwrap().unwrap();
    assert_eq!(place.rows(), expected(&source.history, 6));
}

/// In WAL mode our lock would keep no reader out.
#[tokio::test]
async fn a_followed_database_is_taken_out_of_wal_mode() {
    let mut source = Source::new(4096, true);
    (2..=5).for_each(|n| source.row(n));
    let place = Place::new();
    place.show(&source.history).await;
    let to_wal = || {
        let ran = std::process::Command::new("sqlite3").arg(place.path()).arg("PRAGMA journal_mode=WAL").output();
        assert_eq!(ran.unwrap().stdout, b"wal\n");
    };
    let mut follower = place.start().await.unwrap();
    to_wal();
    source.row(6);
    place.show(&source.history).await;
    let refused = follower.step().await.unwrap_err().to_string();
    assert!(refused.starts_with("cannot change "), "{refused}");
    drop(follower);
    let mut follower = place.start().await.unwrap();
    follower.step().await.unwrap().unwrap();
    assert_eq!(place.rows(), expected(&source.history, 6));
    assert_eq!(place.names(), ["app.db", "app.db-txid"]);
    assert_eq!(fs::read(place.path()).unwrap()[18..20], [1, 1]);
}

#[tokio::test]
async fn what_cannot_be_followed_is_refused() {
    let mut source = Source::new(4096, true);
    source.row(2);
    let place = Place::new();
    place.show(&source.history).await;
    fs::write(place.path(), b"something").unwrap();
    let refused = place.start().await.err().unwrap().to_string();
    assert!(refused.contains("delete the database to restore it anew"), "{refused}");
    fs::remove_file(place.path()).unwrap();
    fs::write(place.dir.path().join("app.db-txid"), "stale").unwrap();
    drop(place.start().await.unwrap());
    fs::write(place.dir.path().join("app.db-txid"), "stale").unwrap();
    assert!(matches!(place.start().await.err().unwrap(), RestoreError::Follow(FollowError::Position { .. })));
    fs::write(place.dir.path().join("app.db-txid"), format!("{}\n", txid(9))).unwrap();
    assert!(matches!(place.start().await.err().unwrap(), RestoreError::Follow(FollowError::Ahead { .. })));
    let two = [place.replica(), place.replica()];
    let error = Follower::start(&two, &place.path(), &options(Target::Latest), &Arc::default()).await.err().unwrap();
    assert!(matches!(error, RestoreError::WhichReplica { .. }));
    let forced = Options { overwrite: true, ..options(Target::Latest) };
    fs::remove_file(place.dir.path().join("app.db-txid")).unwrap();
    assert_eq!(place.start_with(forced).await.unwrap().position(), txid(2));
}
