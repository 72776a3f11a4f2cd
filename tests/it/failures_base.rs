//! Bases: the whole database at exactly the position they carry, however long
//! they take to be read and whatever happens meanwhile.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use brooklet::capture::{Base, BaseReader};
use brooklet::ltx::Decoder;
use brooklet::storage::{Body, MemoryStorage};
use brooklet::types::{PageSize, Txid, TxidRange, lock_page};
use rusqlite::Connection;

use crate::capture::{Rig, consistent_copy};
use crate::elsewhere::{self, Elsewhere};
use crate::fault::Trickle;
use crate::pretend::{Pretend, seconds};
use crate::running::{self, assert_restores, bases, job, rebuild, replica_in, stop, wait_for};

const TABLE: &str = "PRAGMA synchronous=OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)";

fn insert(app: &Connection, rows: usize) {
    for _ in 0..rows {
        app.execute("INSERT INTO t(x) VALUES (randomblob(3000))", []).unwrap();
    }
}

fn start(base: &Base) -> BaseReader {
    base.encode(TxidRange::single(Txid::FIRST), None).unwrap()
}

/// The database in a complete segment.
fn database(segment: &[u8]) -> Vec<u8> {
    let mut decoder = Decoder::new(segment).unwrap();
    let (mut pages, mut page) = (Vec::new(), Vec::new());
    while decoder.next_page(&mut page).unwrap().is_some() {
        pages.extend_from_slice(&page);
    }
    decoder.finish().unwrap();
    pages
}

/// F8: a base of 6 MB leaves in pieces of about 1 MB; between two pieces the application
/// commits, and everyone checkpoints as much as they can.
#[test]
fn a_slowly_read_base_is_the_database_at_its_moment() {
    for sealed in [true, false] {
        let (mut rig, app) = Rig::new(TABLE);
        let mut time = Pretend::new();
        insert(&app, 2000);
        rig.capture();
        if sealed {
            time.pass(&mut rig.followed, seconds(5));
            assert_eq!(rig.followed.counters().seals, 1);
        } else {
            insert(&app, 20);
        }
        let base = rig.followed.base(SystemTime::now()).unwrap();
        let source = consistent_copy(&rig.path);
        let mut other = Elsewhere::open(&rig.path, seconds(0));
        let mut reader = start(&base);
        let (mut segment, mut pieces) = (Vec::new(), 0);
        while let Some(piece) = reader.piece().unwrap() {
            segment.extend(piece);
            pieces += 1;
            app.execute("UPDATE t SET x = randomblob(3100) WHERE id % 50 = ?1", [pieces]).unwrap();
            time.pass(&mut rig.followed, seconds(5));
            other.passive();
            other.run("PRAGMA wal_checkpoint(TRUNCATE)");
            insert(&app, 20);
        }
        assert!(pieces > 5, "{pieces}");
        assert!(database(&segment) == source);
        drop((base, reader));
        rig.capture();
        rig.assert_shadow_equals_source();
    }
}

/// F10: the first base of 9 MB goes over a line that takes a piece of it now and then,
/// while one application writes at full speed from before the first look on, another one
/// writes between any two pieces, and both checkpoint.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_base_that_takes_long_under_writes_connects_with_what_was_written_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = running::database(dir.path(), running::TABLE);
    app.execute_batch("BEGIN").unwrap();
    insert(&app, 3000);
    app.execute_batch("COMMIT").unwrap();
    let line = Trickle::new(Arc::new(MemoryStorage::new()), |_, body| matches!(body, Body::Stream(_)));
    let replica = replica_in(line.clone(), "r");
    let mut other = Elsewhere::open(&path, seconds(60));
    other.write_for(
        seconds(4),
        &[
            "BEGIN IMMEDIATE",
            "UPDATE t SET x = randomblob(2900) WHERE id % 500 = abs(random()) % 500",
            "INSERT INTO t(x) VALUES (randomblob(5000))",
            "DELETE FROM t WHERE id = abs(random()) % 3000",
            "COMMIT",
        ],
    );
    let daemon = running::start(vec![job(&path, &[&replica])]);
    wait_for(&daemon, "it is taken up", |f| f.captured.is_some()).await;
    app.busy_timeout(seconds(60)).unwrap();
    let (mut pieces, deadline) = (0, Instant::now() + seconds(60));
    while daemon.board().read()[0].replicas[0].txid.is_none() {
        assert!(Instant::now() < deadline, "the base arrives: {:#?}", daemon.board().read());
        let batch = daemon.board().read()[0].captured.unwrap().batch;
        app.execute("UPDATE t SET x = randomblob(3100) WHERE id % 100 = ?1", [pieces % 100]).unwrap();
        if pieces == 5 {
            app.execute("DELETE FROM t WHERE id % 3 = 1", []).unwrap();
        }
        elsewhere::passive(&path);
        wait_for(&daemon, "capture does not wait for the base", |f| f.captured.unwrap().batch > batch).await;
        pieces += 1;
        line.allow(1);
    }
    assert!(pieces > 8, "{pieces} pieces: {} asked for", line.asked());
    line.allow(1000);
    let written = other.written();
    assert!(written.commits > 20 && written.refusals == 0, "{written:?}");
    stop(daemon).await;
    assert_eq!(bases(&replica).await, [1]);
    // Every step of the history is proven, and SQLite finds nothing wrong with its end.
    assert!(rebuild(&replica).await == consistent_copy(&path));
    assert_restores(&replica, &path).await;
}

/// F9: a base holds exactly what its position says: what the segments up to
/// there give, no commit more.
#[test]
fn a_base_is_not_newer_than_its_position() {
    let (mut rig, app) = Rig::new(TABLE);
    insert(&app, 30);
    rig.capture();
    for _ in 0..5 {
        insert(&app, 5); // committed, not captured
        let base = rig.followed.base(SystemTime::now()).unwrap();
        assert_eq!(base.point(), rig.followed.position().unwrap().point);
        rig.drain();
        rig.assert_shadow_equals_source();
        let captured = consistent_copy(&rig.path);
        insert(&app, 5); // after the base was taken, before it is read
        rig.capture();
        let mut reader = start(&base);
        let mut segment = Vec::new();
        while let Some(piece) = reader.piece().unwrap() {
            segment.extend(piece);
        }
        assert!(database(&segment) == captured);
    }
    assert_eq!(rig.followed.counters().resyncs, 0);
}

/// A database whose last page is so many after the lock page (before it, if
/// negative), without being written: all but its first pages are one hole in the file.
fn about_a_gibibyte(setup: &str, size: PageSize, after: i32) -> (Rig, Connection) {
    let (rig, app) = Rig::new(&format!(
        "PRAGMA journal_mode=delete; PRAGMA page_size={size}; VACUUM; {setup}; INSERT INTO t(x) VALUES ('first')"
    ));
    drop(app);
    let pages = lock_page(size).get().checked_add_signed(after).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&rig.path).unwrap();
    file.set_len(u64::from(pages) * u64::from(size.get())).unwrap();
    file.write_all_at(&pages.to_be_bytes(), 28).unwrap();
    drop(file);
    let app = Connection::open(&rig.path).unwrap();
    app.execute_batch("PRAGMA journal_mode=wal").unwrap();
    assert_eq!(count(&app), pages);
    (rig, app)
}

fn count(app: &Connection) -> u32 {
    app.query_row("PRAGMA page_count", [], |r| r.get(0)).unwrap()
}

/// F22: bases, increments and comparisons of databases that end just below, at and
/// above the page that holds SQLite's lock bytes, that grow across it, and that
/// shrink back. The small page sizes are left to the numbering's own tests.
#[test]
fn the_lock_page_is_skipped_when_the_database_grows_across_it_and_back() {
    for (size, after) in [(4096, -1), (16384, -4), (65536, -2), (65536, 2)] {
        let size = PageSize::new(size).unwrap();
        let (rig, app) = about_a_gibibyte(TABLE, size, after);
        grow_across_the_lock_page(rig, &app, size);
    }
}

fn grow_across_the_lock_page(mut rig: Rig, app: &Connection, size: PageSize) {
    let lock = lock_page(size).get();
    rig.followed.capture(SystemTime::now()).unwrap();
    let mut seen = rig.followed.position().unwrap().point.seq;
    // The content of the pages at the end, by number.
    let mut end: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut pages = count(app);
    while pages < lock + 5 {
        app.execute("INSERT INTO t(x) VALUES (randomblob(?1))", [size.get()]).unwrap();
        rig.followed.capture(SystemTime::now()).unwrap();
        let spool = rig.followed.spool().unwrap();
        let brooklet::spool::Pending::Segments(segments) = spool.pending(seen) else { panic!("nothing captured") };
        for segment in segments {
            seen = segment.seq;
            let mut decoder = Decoder::new(spool.reader(seen).unwrap()).unwrap();
            let mut page = Vec::new();
            while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
                end.insert(pgno.get(), page.clone());
            }
            decoder.finish().unwrap();
        }
        let grown = count(app);
        for number in pages + 1..=grown {
            assert_eq!(end.contains_key(&number), number != lock, "page {number} of {grown}, lock page {lock}");
        }
        pages = grown;
    }
    // What is above the boundary is what a copy has there.
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    for (from, to) in [("", ""), ("-wal", "-wal")] {
        let from = format!("{}{from}", rig.path.display());
        let to = format!("{}{to}", copy.display());
        assert!(std::process::Command::new("cp").args(["--sparse=always", &from, &to]).status().unwrap().success());
    }
    let connection = Connection::open(&copy).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(connection);
    let file = std::fs::File::open(&copy).unwrap();
    for (number, page) in &end {
        let mut found = vec![0; size.bytes()];
        let at = u64::from(number - 1) * u64::from(size.get());
        file.read_exact_at(&mut found, at).unwrap();
        assert!(found == *page, "page {number}");
    }
    if size.get() == 65536 {
        assert_base_skips_one_number(&mut rig, pages);
        // A restart that nobody saw: all pages are compared.
        rig.followed.release();
        assert_eq!(app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get(0)), Ok(0));
        app.execute("UPDATE t SET x = randomblob(50) WHERE id = 1", []).unwrap();
        rig.followed.capture(SystemTime::now()).unwrap();
        assert_eq!(rig.followed.counters().resyncs, 1);
        assert_eq!(rig.followed.position().unwrap().point.seq, seen.next());
    }
    // Nothing refers to the hole, so it goes away.
    app.execute_batch("VACUUM").unwrap();
    assert!(count(app) < 30);
    rig.capture();
    rig.assert_shadow_equals_source();
}

/// The decoder makes sure that it is the right one, and the reader that the rest adds up.
fn assert_base_skips_one_number(rig: &mut Rig, pages: u32) {
    let base = rig.followed.base(SystemTime::now()).unwrap();
    let mut decoder = Decoder::new(Pieces { reader: start(&base), left: Vec::new(), at: 0 }).unwrap();
    let (mut page, mut held) = (Vec::new(), 0);
    while decoder.next_page(&mut page).unwrap().is_some() {
        held += 1;
    }
    decoder.finish().unwrap();
    assert_eq!(held, pages - 1);
}

/// A base as a stream, so that a gibibyte of it is never in memory.
struct Pieces {
    reader: BaseReader,
    left: Vec<u8>,
    at: usize,
}

impl std::io::Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.left.len() {
            match self.reader.piece().unwrap() {
                Some(piece) => (self.left, self.at) = (piece, 0),
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.left.len() - self.at);
        buffer[..n].copy_from_slice(&self.left[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
