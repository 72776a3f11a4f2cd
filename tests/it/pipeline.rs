//! The daemon as a whole, in this process: commits go in at one end, and what
//! the replicas hold is the database.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use brooklet::capture;
use brooklet::daemon::{Daemon, Destination, Job, Settings};
use brooklet::ltx::{Decoder, Encoding, Level};
use brooklet::replica::{Layout, Replica};
use brooklet::status::DatabaseFacts;
use brooklet::storage::{FileStorage, Key, MemoryStorage, Storage};
use brooklet::types::{RollingChecksum, page_checksum};
use rusqlite::Connection;

use crate::capture::consistent_copy;

const PATIENCE: Duration = Duration::from_secs(20);

fn database(dir: &Path, setup: &str) -> (PathBuf, Connection) {
    let path = dir.join("app.db");
    let app = Connection::open(&path).unwrap();
    app.busy_timeout(Duration::from_secs(5)).unwrap();
    app.execute_batch("PRAGMA journal_mode=wal").unwrap();
    app.execute_batch(setup).unwrap();
    (path, app)
}

fn replica_in(storage: Arc<dyn Storage>, name: &str) -> Arc<Replica> {
    Arc::new(Replica::new(name.to_owned(), storage, Key::new(name).unwrap(), Layout::Decimal))
}

fn destination(replica: &Arc<Replica>) -> Destination {
    Destination {
        replica: replica.clone(),
        encoding: Encoding::Block,
        sync_interval: Duration::from_millis(200),
        max_segments: 0,
    }
}

fn job(path: &Path, replicas: &[&Arc<Replica>]) -> Job {
    let options = capture::Options { sync_interval: Duration::from_millis(200), ..capture::Options::new(path) };
    Job { capture: options, replicas: replicas.iter().map(|r| destination(r)).collect() }
}

async fn wait_for(daemon: &Daemon, what: &str, done: impl Fn(&DatabaseFacts) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    let mut changes = daemon.board().watch();
    loop {
        let facts = daemon.board().read();
        if facts.iter().all(&done) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {facts:#?}");
        let _ = tokio::time::timeout(Duration::from_millis(200), changes.changed()).await;
    }
}

/// Applies everything at level 0 in order, which must be one unbroken history
/// from TXID 1, and gives the database.
async fn rebuild(replica: &Replica) -> Vec<u8> {
    let listing = replica.list_all().await.unwrap();
    let mut pages: std::collections::BTreeMap<u32, Vec<u8>> = std::collections::BTreeMap::new();
    let mut last = 0;
    let mut proven = None;
    for segment in listing.level(Level::L0) {
        assert_eq!(segment.txids.min(), segment.txids.max());
        last += 1;
        assert_eq!(segment.txids.max().get(), last, "no hole at level 0");
        let bytes = replica.read(segment, 0..segment.size).await.unwrap();
        let mut decoder = Decoder::new(&bytes[..]).unwrap();
        let header = *decoder.header();
        let mut page = Vec::new();
        while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
            pages.insert(pgno.get(), page.clone());
        }
        pages.retain(|pgno, _| *pgno <= header.commit);
        let proof = header.proof.unwrap();
        assert!(proof.before.is_none() || proof.before == proven, "segment {last} does not connect");
        let mut sum = RollingChecksum::default();
        for (pgno, page) in &pages {
            sum.toggle(page_checksum(brooklet::types::Pgno::new(*pgno).unwrap(), page));
        }
        assert_eq!(sum.checksum(), proof.after, "the proof in segment {last}");
        proven = Some(proof.after);
    }
    pages.into_values().flatten().collect()
}

fn insert(app: &Connection, rows: usize) {
    for _ in 0..rows {
        app.execute("INSERT INTO t(x) VALUES (randomblob(500))", []).unwrap();
    }
}

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)";

#[tokio::test(flavor = "multi_thread")]
async fn commits_arrive_on_every_replica() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let memory = replica_in(Arc::new(MemoryStorage::new()), "memory");
    let files = replica_in(Arc::new(FileStorage::new(dir.path().join("files"))), "files");
    let daemon = Daemon::start(vec![job(&path, &[&memory, &files])], Settings::default());
    wait_for(&daemon, "both replicas get a base", |f| f.captured.is_some() && f.behind().count() == 0).await;
    for _ in 0..5 {
        insert(&app, 40);
        let batch = daemon.board().read()[0].captured.unwrap().batch;
        wait_for(&daemon, "the burst arrives", |f| f.captured.unwrap().batch > batch && f.behind().count() == 0).await;
    }
    assert_eq!(daemon.stop(PATIENCE).await, []);
    let source = consistent_copy(&path);
    assert!(rebuild(&memory).await == source);
    assert!(rebuild(&files).await == source);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_speed_writer_is_followed_without_a_comparison() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let memory = replica_in(Arc::new(MemoryStorage::new()), "memory");
    let daemon = Daemon::start(vec![job(&path, &[&memory])], Settings::default());
    wait_for(&daemon, "the database is taken up", |f| f.captured.is_some()).await;
    let writer = std::thread::spawn(move || {
        let until = Instant::now() + Duration::from_secs(3);
        let mut commits = 0u32;
        while Instant::now() < until {
            app.execute_batch(
                "BEGIN; INSERT INTO t(x) VALUES (randomblob(900)); UPDATE t SET x = randomblob(700) WHERE id % 97 = 3; COMMIT",
            )
            .unwrap();
            commits += 1;
        }
        (commits, app)
    });
    let (commits, _app) = writer.join().unwrap();
    assert!(commits > 20);
    let counters = daemon.counters(0).unwrap();
    assert_eq!(daemon.stop(PATIENCE).await, []);
    assert!(rebuild(&memory).await == consistent_copy(&path));
    assert_eq!(counters.resyncs, 0, "{counters:?}");
    assert!(counters.seals > 0, "{counters:?}");
}
