//! An application that treats one SQLite database as roughly as real ones do:
//! the other side of the torture test.
//!
//! It does what the lines on its standard input say, in order, and answers each
//! with one line, `ok` or `failed: ...`; between lines it is idle, except that it
//! keeps the readers and the write transaction that it was told to keep. At the
//! end of its input it closes everything and exits with 0.
//!
//! What it does follows from the seed in the line and from what other processes
//! do at the same time: being refused by a lock is ordinary and skips one
//! operation. Triggers keep `tally.n` equal to the number of rows in `t`, so any
//! mixture of two moments that ends up in a restored database can be seen there.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rng::Rng;
use rusqlite::{Connection, ErrorCode};

#[path = "../tests/it/torture/rng.rs"]
mod rng;

fn main() {
    let path = PathBuf::from(std::env::args_os().nth(1).expect("usage: app DATABASE"));
    let mut app = App { path, main: None, readers: Vec::new(), rng: Rng(0) };
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("the test writes whole lines");
        let answer = match app.obey(&line) {
            Ok(()) => "ok".to_owned(),
            Err(error) => format!("failed: {line}: {error}"),
        };
        let mut out = std::io::stdout().lock();
        // Whoever asked may be gone; then so are the next lines.
        let _ = writeln!(out, "{answer}").and_then(|()| out.flush());
    }
}

type Outcome = rusqlite::Result<()>;

struct App {
    path: PathBuf,
    main: Option<Connection>,
    readers: Vec<Connection>,
    rng: Rng,
}

/// The database is kept below about this many bytes.
const LARGE: i64 = 2 << 20;
/// How long a writer waits for another.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a checkpoint waits for readers, which may be this program's own.
const BRIEFLY: Duration = Duration::from_millis(15);

impl App {
    fn obey(&mut self, line: &str) -> Outcome {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(1);
        let done = match words.first().copied() {
            // The one order that must not be skipped.
            Some("commit") => return self.update_one(),
            Some("create") => self.create(number(1)),
            Some("run") => self.run(number(1), number(2)),
            Some("insert") => self.insert_each(number(1)),
            Some("big") => self.big(number(1)),
            Some("update") => self.update_one(),
            Some("checkpoint") => self.checkpoint(words.get(1).copied().unwrap_or("PASSIVE")),
            Some("convert") => self.convert(number(1)),
            Some("hold") => self.hold(),
            Some("hang") => self.hang(number(1)),
            Some("tear") => self.tear(),
            Some("release") => self.release(),
            other => panic!("unknown command {other:?}"),
        };
        self.tolerate(done)
    }

    /// A new database with settings and content drawn from the seed.
    fn create(&mut self, seed: u64) -> Outcome {
        self.rng = Rng(seed);
        let page_size = self.rng.pick(&[512, 1024, 4096, 4096, 4096, 8192, 65536]);
        let vacuum = self.rng.pick(&["NONE", "NONE", "FULL", "INCREMENTAL"]);
        let db = Connection::open(&self.path)?;
        db.busy_timeout(PATIENCE)?;
        db.execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA auto_vacuum={vacuum}; PRAGMA journal_mode=WAL"
        ))?;
        db.execute_batch(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, k INT, x BLOB);
             CREATE INDEX t_k ON t(k);
             CREATE TABLE tally(id INTEGER PRIMARY KEY CHECK (id = 1), n INT, commits INT);
             INSERT INTO tally VALUES (1, 0, 0);
             CREATE TRIGGER t_in AFTER INSERT ON t BEGIN UPDATE tally SET n = n + 1, commits = commits + 1; END;
             CREATE TRIGGER t_out AFTER DELETE ON t BEGIN UPDATE tally SET n = n - 1, commits = commits + 1; END;",
        )?;
        self.main = Some(db);
        self.tune()?;
        let rows = self.rng.below(200);
        self.in_one(|app| (0..rows).try_for_each(|_| app.insert()))
    }

    fn run(&mut self, seed: u64, operations: u64) -> Outcome {
        self.rng = Rng(seed);
        self.end_hanging()?;
        for _ in 0..operations {
            let done = self.operation();
            self.tolerate(done)?;
        }
        Ok(())
    }

    /// A lock that somebody else holds is no failure; whatever was begun is undone.
    fn tolerate(&mut self, done: Outcome) -> Outcome {
        let Err(error) = done else { return Ok(()) };
        let refused = [ErrorCode::DatabaseBusy, ErrorCode::DatabaseLocked, ErrorCode::SchemaChanged];
        if !error.sqlite_error_code().is_some_and(|code| refused.contains(&code)) {
            return Err(error);
        }
        match &self.main {
            Some(db) if !db.is_autocommit() => db.execute_batch("ROLLBACK"),
            _ => Ok(()),
        }
    }

    fn operation(&mut self) -> Outcome {
        match self.rng.below(100) {
            0..18 => self.insert_some(),
            18..30 => self.update(),
            30..37 => self.delete(),
            37..47 => self.insert_in_one(),
            47..59 => self.spill(),
            59..62 => self.shrink(),
            62..64 => self.db()?.execute_batch("VACUUM"),
            64..68 => {
                let pages = self.rng.below(20);
                self.rows(&format!("PRAGMA incremental_vacuum({pages})"))
            }
            68..78 => {
                let mode = self.rng.pick(&["PASSIVE", "PASSIVE", "FULL", "RESTART", "TRUNCATE"]);
                self.checkpoint(mode)
            }
            78..83 => self.tune(),
            83..86 => self.storm(),
            86..90 => self.hold(),
            90..95 => self.let_go(),
            95..97 => self.schema(),
            97..99 => self.upgrade(),
            _ => self.reopen(),
        }
    }

    fn db(&mut self) -> rusqlite::Result<&Connection> {
        if self.main.is_none() {
            self.main = Some(open(&self.path)?);
            self.tune()?;
        }
        Ok(self.main.as_ref().expect("opened above"))
    }

    /// Settings of the connection.
    fn tune(&mut self) -> Outcome {
        let cache = self.rng.pick(&[2, 5, 10, 50, 2000]);
        let auto = self.rng.pick(&[0, 1, 7, 50, 200, 1000]);
        let limit = self.rng.pick(&["-1", "-1", "0", "20000", "200000"]);
        let level = self.rng.pick(&["OFF", "NORMAL", "NORMAL", "FULL", "EXTRA"]);
        let map = self.rng.pick(&[0, 0, 1 << 20]);
        let db = self.db()?;
        for pragma in [
            format!("cache_size={cache}"),
            format!("wal_autocheckpoint={auto}"),
            format!("journal_size_limit={limit}"),
            format!("synchronous={level}"),
            format!("mmap_size={map}"),
        ] {
            rows(db, &format!("PRAGMA {pragma}"))?;
        }
        Ok(())
    }

    fn insert(&mut self) -> Outcome {
        let key = self.number(1000);
        // Most rows are small, some need a page or several of their own.
        let size = match self.rng.below(10) {
            0 => self.number(9000),
            1..4 => self.number(1200),
            _ => self.number(120),
        };
        let blob: Vec<u8> = (0..size).map(|_| self.rng.next().to_le_bytes()[0]).collect();
        self.db()?.execute("INSERT INTO t(k, x) VALUES (?1, ?2)", (key, blob)).map(drop)
    }

    fn insert_each(&mut self, count: u64) -> Outcome {
        (0..count).try_for_each(|_| self.insert())
    }

    fn insert_some(&mut self) -> Outcome {
        if self.bytes()? > LARGE {
            return self.shrink();
        }
        let count = self.rng.below(12) + 1;
        self.insert_each(count)
    }

    fn insert_in_one(&mut self) -> Outcome {
        if self.bytes()? > LARGE {
            return self.shrink();
        }
        let count = self.rng.below(60) + 1;
        self.in_one(|app| app.insert_each(count))
    }

    fn in_one(&mut self, work: impl FnOnce(&mut Self) -> Outcome) -> Outcome {
        self.db()?.execute_batch("BEGIN IMMEDIATE")?;
        work(self)?;
        self.db()?.execute_batch("COMMIT")
    }

    /// One transaction that is far larger than the page cache.
    fn big(&mut self, rows: u64) -> Outcome {
        self.db()?.execute_batch("PRAGMA cache_size=5")?;
        self.in_one(|app| app.insert_each(rows))
    }

    fn update_one(&mut self) -> Outcome {
        self.db()?.execute("UPDATE tally SET commits = commits + 1", []).map(drop)
    }

    fn update(&mut self) -> Outcome {
        let (key, size) = (self.number(1000), self.number(600));
        let db = self.db()?;
        db.execute("UPDATE t SET x = randomblob(?2), k = k + 1 WHERE k BETWEEN ?1 AND ?1 + 20", [key, size]).map(drop)
    }

    fn delete(&mut self) -> Outcome {
        let key = self.number(1000);
        self.db()?.execute("DELETE FROM t WHERE k BETWEEN ?1 AND ?1 + 60", [key]).map(drop)
    }

    fn shrink(&mut self) -> Outcome {
        self.db()?.execute("DELETE FROM t WHERE id % 4 <> 0", []).map(drop)
    }

    /// A transaction that writes more than the cache holds, partly takes it back,
    /// writes the same pages again, and in the end is kept or not.
    fn spill(&mut self) -> Outcome {
        if self.bytes()? > LARGE {
            return self.shrink();
        }
        self.db()?.execute_batch("PRAGMA cache_size=3; BEGIN IMMEDIATE")?;
        let mut open = 0u32;
        for _ in 0..self.rng.below(60) {
            match self.rng.below(12) {
                0..6 => self.insert()?,
                6..8 => self.update()?,
                8 => self.delete()?,
                9 => {
                    open += 1;
                    self.db()?.execute_batch(&format!("SAVEPOINT s{open}"))?;
                }
                10 if open > 0 => self.db()?.execute_batch(&format!("ROLLBACK TO s{open}"))?,
                11 if open > 0 => {
                    self.db()?.execute_batch(&format!("RELEASE s{open}"))?;
                    open -= 1;
                }
                _ => {}
            }
        }
        let end = self.rng.pick(&["COMMIT", "COMMIT", "COMMIT", "ROLLBACK"]);
        self.db()?.execute_batch(end)
    }

    fn checkpoint(&mut self, mode: &str) -> Outcome {
        let db = self.db()?;
        db.busy_timeout(BRIEFLY)?;
        let done = rows(db, &format!("PRAGMA wal_checkpoint({mode})"));
        db.busy_timeout(PATIENCE)?;
        self.tolerate(done)
    }

    /// Connections that come and go.
    fn storm(&mut self) -> Outcome {
        for _ in 0..self.rng.below(6) + 1 {
            let db = open(&self.path)?;
            match self.rng.below(3) {
                0 => rows(&db, "SELECT count(*) FROM t")?,
                1 => db.execute("UPDATE tally SET commits = commits + 1", []).map(drop)?,
                _ => drop(db.execute("INSERT INTO t(k, x) VALUES (1, randomblob(50))", [])?),
            }
        }
        Ok(())
    }

    /// Keeps a read transaction open on a connection of its own.
    fn hold(&mut self) -> Outcome {
        if self.readers.len() >= 3 {
            self.let_go()?;
        }
        let db = open(&self.path)?;
        db.execute_batch("BEGIN")?;
        rows(&db, "SELECT count(*) FROM t")?;
        self.readers.push(db);
        Ok(())
    }

    fn let_go(&mut self) -> Outcome {
        if !self.readers.is_empty() {
            let at = self.rng.below(self.readers.len() as u64);
            drop(self.readers.swap_remove(usize::try_from(at).expect("fewer than ten readers")));
        }
        Ok(())
    }

    /// Leaves a write transaction open whose pages are already in the log.
    fn hang(&mut self, seed: u64) -> Outcome {
        self.rng = Rng(seed);
        let begun =
            self.db()?.execute_batch("PRAGMA cache_size=2; BEGIN IMMEDIATE").and_then(|()| self.insert_each(40));
        self.tolerate(begun)
    }

    /// One flipped bit in the second copy of the wal-index header, as if this process
    /// had not got to the first one yet. Only who has the write lock writes there. It
    /// is to be killed now: until then it keeps the lock.
    fn tear(&mut self) -> Outcome {
        use std::os::unix::fs::FileExt;
        const CHANGE_COUNTER_2: u64 = 48 + 8;
        self.db()?.execute_batch("BEGIN IMMEDIATE")?;
        let index = PathBuf::from(format!("{}-shm", self.path.display()));
        let Ok(file) = std::fs::File::options().read(true).write(true).open(index) else { return Ok(()) };
        let mut byte = [0];
        if file.read_exact_at(&mut byte, CHANGE_COUNTER_2).is_ok() {
            file.write_all_at(&[byte[0] ^ 1], CHANGE_COUNTER_2).expect("the index can be written");
        }
        // Closing it would give up the locks.
        std::mem::forget(file);
        Ok(())
    }

    fn release(&mut self) -> Outcome {
        self.readers.clear();
        self.end_hanging()
    }

    fn end_hanging(&mut self) -> Outcome {
        match &self.main {
            Some(db) if !db.is_autocommit() => db.execute_batch(self.rng.pick(&["COMMIT", "ROLLBACK"])),
            _ => Ok(()),
        }
    }

    fn schema(&mut self) -> Outcome {
        let n = self.rng.below(3);
        if self.rng.percent(50) {
            return self.db()?.execute_batch(&format!("DROP TABLE IF EXISTS extra{n}"));
        }
        // In one transaction: another process may drop it the moment after.
        self.in_one(|app| {
            app.db()?.execute_batch(&format!(
                "CREATE TABLE IF NOT EXISTS extra{n}(a, b, PRIMARY KEY(a, b)) WITHOUT ROWID;
                 INSERT OR IGNORE INTO extra{n} SELECT k, id FROM t"
            ))
        })
    }

    /// A transaction that begins by reading: another's commit in between refuses it.
    fn upgrade(&mut self) -> Outcome {
        let db = self.db()?;
        db.execute_batch("BEGIN")?;
        rows(db, "SELECT count(*) FROM t")?;
        self.insert()?;
        self.db()?.execute_batch("COMMIT")
    }

    fn reopen(&mut self) -> Outcome {
        self.main = None;
        self.db().map(drop)
    }

    /// Leaves WAL mode, writes without a log, perhaps with another page size, and comes back.
    fn convert(&mut self, seed: u64) -> Outcome {
        self.rng = Rng(seed);
        self.readers.clear();
        let page_size = self.rng.pick(&[512, 1024, 4096, 8192]);
        let resize = self.rng.below(3) == 0;
        let left = rows(self.db()?, "PRAGMA journal_mode=DELETE");
        self.tolerate(left)?;
        self.insert_each(3)?;
        if resize {
            self.db()?.execute_batch(&format!("PRAGMA page_size={page_size}; VACUUM"))?;
        }
        let back = rows(self.db()?, "PRAGMA journal_mode=WAL");
        self.tolerate(back)?;
        self.insert_each(2)
    }

    fn bytes(&mut self) -> rusqlite::Result<i64> {
        let size = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
        self.db()?.query_row(size, [], |row| row.get(0))
    }

    fn rows(&mut self, sql: &str) -> Outcome {
        rows(self.db()?, sql)
    }

    fn number(&mut self, limit: u32) -> i64 {
        i64::try_from(self.rng.below(u64::from(limit))).expect("below 2^32")
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(PATIENCE)?;
    Ok(db)
}

/// Runs one statement to its end.
fn rows(db: &Connection, sql: &str) -> Outcome {
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}
