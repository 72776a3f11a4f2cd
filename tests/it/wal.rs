//! The scanner against SQLite: both read the same log, and must see the same
//! database in it.

use std::path::{Path, PathBuf};

use brooklet::types::{Chain, PageSize, Pgno, Salts, WAL_HEADER_SIZE, frame_end, frame_offset};
use brooklet::wal::{Committed, Frame, FrameHeader, Scanner, WalHeader, committed};
use proptest::prelude::*;
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

/// The two files of a database at one moment.
#[derive(Clone)]
struct Files {
    db: Vec<u8>,
    wal: Vec<u8>,
}

impl Files {
    /// What the database file becomes when SQLite recovers the log, or why it
    /// does not.
    fn recovered_by_sqlite(&self) -> rusqlite::Result<Vec<u8>> {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("copy.db");
        std::fs::write(&path, &self.db).unwrap();
        std::fs::write(wal_path(&path), &self.wal).unwrap();
        let conn = Connection::open(&path)?;
        conn.execute_batch("PRAGMA synchronous=OFF; SELECT count(*) FROM sqlite_schema")?;
        let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        assert_eq!(busy, 0);
        drop(conn);
        Ok(std::fs::read(&path).unwrap())
    }

    /// The same by our scanner.
    fn recovered_by_us(&self) -> Vec<u8> {
        let mut db = self.db.clone();
        let Some(found) = committed(&self.wal).filter(|found| found.page_count > 0) else { return db };
        let page_size = found.header.page_size;
        let end = |pages: u32| usize::try_from(u64::from(pages) * u64::from(page_size.get())).unwrap();
        db.resize(end(found.page_count), 0);
        for frame in found.frames.iter().filter(|frame| frame.pgno.get() <= found.page_count) {
            let at = end(frame.pgno.get() - 1);
            db[at..at + page_size.bytes()].copy_from_slice(self.page(frame, page_size));
        }
        db
    }

    /// Both must agree; gives what the scanner found.
    fn agreed(&self, what: &str) -> Option<Committed> {
        let (ours, theirs) = (self.recovered_by_us(), self.recovered_by_sqlite().unwrap());
        assert_eq!(ours.len(), theirs.len(), "{what}: database size");
        let differing = ours.iter().zip(&theirs).position(|(a, b)| a != b);
        assert_eq!(differing, None, "{what}: first differing byte");
        committed(&self.wal)
    }

    fn page(&self, frame: &Frame, page_size: PageSize) -> &[u8] {
        let start = usize::try_from(frame_offset(frame.number, page_size)).unwrap() + 24;
        &self.wal[start..start + page_size.bytes()]
    }

    /// The number of whole frames in the file, valid or not.
    fn frames_on_disk(&self, page_size: PageSize) -> usize {
        self.wal.len().saturating_sub(32) / (24 + page_size.bytes())
    }
}

/// A database in WAL mode that is never checkpointed unless asked.
struct Database {
    conn: Connection,
    path: PathBuf,
    page_size: PageSize,
    _dir: TempDir,
}

impl Database {
    fn new(page_size: PageSize) -> Self {
        Self::with_uri(page_size, "")
    }

    fn with_uri(page_size: PageSize, parameters: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("x.db");
        let uri = format!("file:{}{parameters}", path.display());
        let conn = Connection::open_with_flags(uri, OpenFlags::default() | OpenFlags::SQLITE_OPEN_URI).unwrap();
        conn.execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;
             PRAGMA synchronous=NORMAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB);"
        ))
        .unwrap();
        Self { conn, path, page_size, _dir: dir }
    }

    fn run(&self, sql: &str) {
        self.conn.execute_batch(sql).unwrap();
    }

    /// Adds rows that take about one page each.
    fn insert(&self, rows: u32) {
        self.run(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows})
             INSERT INTO t(v) SELECT randomblob({}) FROM n",
            self.page_size.get() * 3 / 4
        ));
    }

    fn rewrite(&self) {
        self.run("UPDATE t SET v = randomblob(length(v))");
    }

    /// Reads the files under the connection's feet. The tests have only this
    /// connection, so losing its POSIX locks hurts nobody.
    fn files(&self) -> Files {
        Files { db: std::fs::read(&self.path).unwrap(), wal: std::fs::read(wal_path(&self.path)).unwrap() }
    }
}

fn wal_path(db: &Path) -> PathBuf {
    db.with_extension("db-wal")
}

fn size(bytes: u32) -> PageSize {
    PageSize::new(bytes).unwrap()
}

/// Rebuilds a log with the same pages under another header, checksums and all.
fn resealed(wal: &[u8], change: impl FnOnce(&mut WalHeader)) -> Vec<u8> {
    let mut header = WalHeader::parse(wal).unwrap();
    change(&mut header);
    let header = header.sealed();
    let mut out = header.encode().to_vec();
    let mut chain = header.chain;
    for bytes in wal[32..].chunks_exact(24 + header.page_size.bytes()) {
        let (head, page) = bytes.split_first_chunk().unwrap();
        let head = FrameHeader { salts: header.salts, ..FrameHeader::parse(head) };
        let head = head.sealed(chain, header.big_endian, page);
        chain = head.chain;
        out.extend(head.encode());
        out.extend(page);
    }
    out
}

#[test]
fn commits_of_every_page_size_read_as_sqlite_reads_them() {
    for page_size in PageSize::all() {
        let db = Database::new(page_size);
        for rows in [1, 3, 10] {
            db.insert(rows);
            let found = db.files().agreed(&format!("{rows} rows in pages of {page_size}")).unwrap();
            assert_eq!(found.header.page_size, page_size);
            assert_eq!(found.frames.len(), db.files().frames_on_disk(page_size));
            let pages: u32 = db.conn.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
            assert_eq!(found.page_count, pages);
        }
    }
}

/// F12.
#[test]
fn a_vacuum_commits_a_smaller_database_and_leaves_frames_above_its_end() {
    for page_size in [size(512), size(4096), size(65536)] {
        let db = Database::new(page_size);
        db.insert(40);
        db.run("DELETE FROM t WHERE id > 3; VACUUM");
        let found = db.files().agreed("vacuum").unwrap();
        assert!(found.frames.iter().any(|frame| frame.pgno.get() > found.page_count));
    }
}

/// F15.
#[test]
fn an_open_transaction_that_spills_is_not_there_at_any_moment() {
    for page_size in [size(512), size(1024), size(4096)] {
        let db = Database::new(page_size);
        db.insert(60);
        db.run("PRAGMA cache_size=5");
        let before = db.files().agreed("before").unwrap();
        db.run("BEGIN IMMEDIATE");
        let mut chains = Vec::new();
        for round in 0..6 {
            db.rewrite();
            db.run("SAVEPOINT s");
            db.rewrite();
            db.insert(5);
            assert!(db.files().frames_on_disk(page_size) > before.frames.len(), "nothing spilled");
            assert_eq!(db.files().agreed("spilled").unwrap(), before, "round {round}");
            db.run(if round % 2 == 0 { "ROLLBACK TO s" } else { "RELEASE s" });
            assert_eq!(db.files().agreed("after savepoint").unwrap(), before);
            chains.push(db.files().wal);
        }
        // Frames past the last commit were rewritten in place meanwhile.
        let length = before.frames.len() * (24 + page_size.bytes()) + 32;
        let common = chains.iter().map(Vec::len).min().unwrap();
        assert!(chains.windows(2).any(|pair| pair[0][length..common] != pair[1][length..common]));
        db.run("COMMIT");
        let after = db.files().agreed("committed").unwrap();
        assert_eq!(after.frames[..before.frames.len()], before.frames[..]);
        assert!(after.frames.len() > before.frames.len());
    }
}

/// F16.
#[test]
fn a_rolled_back_tail_with_the_right_salts_is_not_read() {
    let db = Database::new(size(1024));
    db.insert(100);
    db.run("PRAGMA cache_size=5; CREATE TABLE u(x)");
    let before = db.files().agreed("before").unwrap();
    db.run("BEGIN");
    db.rewrite();
    db.run("ROLLBACK");
    let spilled = db.files();
    assert!(spilled.frames_on_disk(db.page_size) > before.frames.len() + 50);
    assert_eq!(spilled.agreed("rolled back").unwrap(), before);

    db.run("UPDATE t SET v = zeroblob(10) WHERE id = 1");
    let files = db.files();
    let after = files.agreed("one small commit").unwrap();
    let new = after.frames.len() - before.frames.len();
    assert!((1..=3).contains(&new), "{new} new frames");
    // What follows carries the salts of this log, so only the chain tells.
    let next = usize::try_from(frame_end(after.frames.last().unwrap().number, db.page_size)).unwrap();
    let stale = FrameHeader::parse(files.wal[next..].first_chunk().unwrap());
    assert_eq!(stale.salts, after.header.salts);
}

#[test]
fn what_a_restart_leaves_behind_the_new_frames_is_not_read() {
    for limit in [-1, 0, 1000, 20_000] {
        let db = Database::new(size(1024));
        db.insert(60);
        let old = db.files().agreed("old run").unwrap();
        db.run(&format!("PRAGMA journal_size_limit={limit}; PRAGMA wal_checkpoint(RESTART)"));
        for round in 0..3 {
            db.run("UPDATE t SET v = randomblob(100) WHERE id = 7");
            let files = db.files();
            let found = files.agreed(&format!("limit {limit}, round {round}")).unwrap();
            assert_ne!(found.header.salts, old.header.salts);
            assert!(found.frames.len() < 10);
            if limit != 0 && limit != 1000 {
                assert!(files.wal.len() > 32 + found.frames.len() * (24 + 1024), "limit {limit} left nothing");
            }
        }
    }
}

#[test]
fn a_log_truncated_by_a_checkpoint_holds_nothing() {
    let db = Database::new(size(512));
    db.insert(5);
    db.run("PRAGMA wal_checkpoint(TRUNCATE)");
    assert_eq!(db.files().wal.len(), 0);
    assert_eq!(db.files().agreed("truncated"), None);
}

/// F25.
#[test]
fn commit_frames_repeated_to_fill_a_sector_are_each_a_commit() {
    let db = Database::with_uri(size(512), "?psow=0");
    db.run("PRAGMA synchronous=FULL");
    db.insert(1);
    let found = db.files().agreed("padded").unwrap();
    let repeated = found.frames.windows(2).filter(|w| w[0].pgno == w[1].pgno && w[0].commit.is_some()).count();
    assert!(repeated > 0, "this build of SQLite does not pad: {:?}", found.frames);
}

#[test]
fn one_frame_per_commit_and_growth_in_a_single_commit_frame() {
    let db = Database::new(size(4096));
    db.insert(1);
    for _ in 0..20 {
        db.run("UPDATE t SET v = randomblob(10)");
    }
    let found = db.files().agreed("single frames").unwrap();
    assert!(found.frames.iter().filter(|frame| frame.commit.is_some()).count() >= 20);
}

/// F25.
#[test]
fn logs_of_big_endian_hosts_read_as_sqlite_reads_them() {
    for page_size in PageSize::all() {
        let db = Database::new(page_size);
        db.insert(10);
        let Files { db, wal } = db.files();
        let swapped = Files { db, wal: resealed(&wal, |header| header.big_endian = !header.big_endian) };
        let found = swapped.agreed("big-endian").unwrap();
        assert!(found.header.big_endian && !found.frames.is_empty());
        assert_eq!(found.frames, committed(&wal).unwrap().frames);
    }
}

/// F17.
#[test]
fn a_torn_or_wrong_header_makes_the_log_empty() {
    let db = Database::new(size(512));
    db.insert(5);
    let files = db.files();
    for length in 0..32 {
        let torn = Files { wal: files.wal[..length].to_vec(), ..files.clone() };
        assert_eq!(torn.agreed(&format!("{length} bytes")), None);
    }
    for bit in 0..32 * 8 {
        let mut wrong = files.clone();
        wrong.wal[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(wrong.agreed(&format!("bit {bit}")), None);
    }
    for (what, change) in [
        ("other salts", Box::new(|h: &mut WalHeader| h.salts = Salts { first: 1, second: 2 }) as Box<dyn Fn(&mut _)>),
        ("other sequence", Box::new(|h: &mut WalHeader| h.sequence = u32::MAX)),
    ] {
        let changed = Files { wal: resealed(&files.wal, change), ..files.clone() };
        assert!(!changed.agreed(what).unwrap().frames.is_empty(), "{what} is fine if the checksums follow");
    }
}

/// A version from the future is not an empty log to SQLite but an error; we
/// take nothing from it either way.
#[test]
fn a_version_sqlite_refuses_is_not_read() {
    let db = Database::new(size(512));
    db.insert(5);
    let Files { db, mut wal } = db.files();
    let header = WalHeader::parse(&wal).unwrap();
    wal[7] ^= 1;
    let sum = brooklet::wal::extend_chain(Chain::default(), header.big_endian, &wal[..24]);
    wal[24..28].copy_from_slice(&sum.0.to_be_bytes());
    wal[28..32].copy_from_slice(&sum.1.to_be_bytes());
    assert_eq!(committed(&wal), None);
    assert!(Files { db, wal }.recovered_by_sqlite().is_err());
}

#[test]
fn a_log_cut_anywhere_holds_the_commits_before_the_cut() {
    let db = Database::new(size(512));
    for _ in 0..6 {
        db.insert(2);
    }
    let files = db.files();
    let whole = files.agreed("whole").unwrap();
    for length in (32..files.wal.len()).step_by(67) {
        let cut = Files { wal: files.wal[..length].to_vec(), ..files.clone() };
        let found = cut.agreed(&format!("{length} bytes")).unwrap();
        assert_eq!(found.frames[..], whole.frames[..found.frames.len()]);
    }
}

#[test]
fn a_scanner_resumes_at_every_frame() {
    let db = Database::new(size(1024));
    db.insert(12);
    db.rewrite();
    let wal = db.files().wal;
    let header = WalHeader::parse(&wal).unwrap();
    let frames: Vec<&[u8]> = wal[32..].chunks_exact(24 + 1024).collect();
    let mut scanner = Scanner::at_start(&header);
    for (at, bytes) in frames.iter().enumerate() {
        let (frame, chain) = (scanner.frame(), scanner.chain());
        let mut resumed = Scanner::resume(header.page_size, header.big_endian, header.salts, frame, chain);
        assert_eq!(resumed, scanner);
        // Not the next frame, not a piece of it, not the one after.
        for wrong in [&bytes[..bytes.len() - 1], &bytes[..24], &[], frames.get(at + 1).copied().unwrap_or_default()] {
            assert_eq!(resumed.push(wrong), None);
            assert_eq!(resumed, scanner, "a refused frame leaves no trace");
        }
        assert_eq!(resumed.push(bytes), scanner.push(bytes));
        assert_eq!(resumed.frame() as usize, at + 1);
    }
}

/// F23: frames with a byte offset past 4 GiB, and the last frame a number can name.
#[test]
fn frame_numbers_and_offsets_do_not_wrap() {
    let page_size = size(65536);
    let page = vec![7; page_size.bytes()];
    let salts = Salts { first: 1, second: 2 };
    let head = FrameHeader { pgno: u32::MAX, commit: u32::MAX, salts, chain: Chain::default() };
    let bytes = [&head.sealed(Chain(3, 4), false, &page).encode()[..], &page].concat();
    for frame in [70_000, u32::MAX - 1] {
        let mut scanner = Scanner::resume(page_size, false, salts, frame, Chain(3, 4));
        let accepted = Frame { number: frame + 1, pgno: Pgno::new(u32::MAX).unwrap(), commit: Some(u32::MAX) };
        assert_eq!(scanner.push(&bytes), Some(accepted));
        assert_eq!(frame_end(frame + 1, page_size), WAL_HEADER_SIZE + u64::from(frame + 1) * 65560);
        assert!(frame_offset(frame, page_size) > u64::from(u32::MAX));
    }
    let mut full = Scanner::resume(page_size, false, salts, u32::MAX, Chain(3, 4));
    assert_eq!(full.push(&bytes), None);
}

/// The salts are not covered by the checksum: both have to fit.
#[test]
fn a_frame_with_other_salts_ends_the_log_although_its_checksum_fits() {
    let db = Database::new(size(512));
    db.insert(2);
    db.insert(2);
    let whole = db.files().agreed("whole").unwrap();
    for frame in [1, 2, whole.frames.len()] {
        for byte in 8..16 {
            let mut files = db.files();
            let at = frame_offset(u32::try_from(frame).unwrap(), db.page_size);
            files.wal[usize::try_from(at).unwrap() + byte] ^= 1;
            let found = files.agreed("other salts").unwrap();
            assert!(found.frames.len() < frame, "frame {frame}");
        }
    }
}

#[test]
fn a_frame_of_page_0_ends_the_log() {
    let db = Database::new(size(512));
    db.insert(3);
    let mut files = db.files();
    let at = files.wal.len() - (24 + 512);
    files.wal[at..at + 4].fill(0);
    let files = Files { wal: resealed(&files.wal, |_| ()), ..files };
    let found = files.agreed("page 0").unwrap();
    assert!(found.frames.len() < files.frames_on_disk(db.page_size));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever happens to the bytes after the header, SQLite and we see the
    /// same database.
    #[test]
    fn damaged_logs_read_as_sqlite_reads_them(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        doubled in prop::option::of(any::<prop::sample::Index>()),
        big_endian in any::<bool>(),
    ) {
        let db = Database::new(size(512));
        db.insert(4);
        db.rewrite();
        db.insert(3);
        let mut files = db.files();
        files.wal = resealed(&files.wal, |header| header.big_endian = big_endian);
        if let Some(at) = doubled {
            let frames = files.frames_on_disk(db.page_size);
            let at = 32 + at.index(frames) * (24 + 512);
            let frame = files.wal[at..at + 24 + 512].to_vec();
            files.wal.splice(at..at, frame);
        }
        for (at, byte) in edits {
            let at = at.index(files.wal.len());
            // Version fields past the checksum are covered elsewhere.
            if at >= 32 {
                files.wal[at] = byte;
            }
        }
        if let Some(at) = cut {
            files.wal.truncate(at.index(files.wal.len()));
        }
        files.agreed("damaged");
    }
}
