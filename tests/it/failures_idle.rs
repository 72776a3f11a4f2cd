//! What an idle database costs: nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use brooklet::storage::MemoryStorage;
use rusqlite::Connection;

use crate::capture::Rig;
use crate::pretend::{Pretend, bytes_of_locks, bytes_read, millis, seconds};
use crate::running::{database, follow, replica_in, stop, wait_for};

const TABLE: &str = "PRAGMA synchronous=OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)";

fn insert(app: &Connection, rows: u32, bytes: u32) {
    app.execute_batch("BEGIN").unwrap();
    for _ in 0..rows {
        app.execute("INSERT INTO t(x) VALUES (randomblob(?1))", [bytes]).unwrap();
    }
    app.execute_batch("COMMIT").unwrap();
}

/// Everything under a directory: size and time of each file.
fn files(dir: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let (mut dirs, mut found) = (vec![dir.to_owned()], BTreeMap::new());
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => dirs.push(entry.path()),
                false => {
                    let meta = entry.metadata().unwrap();
                    found.insert(entry.path(), (meta.len(), meta.modified().unwrap()));
                }
            }
        }
    }
    found
}

/// F13: a transaction that spilled 30 MB into the log is not read before it
/// commits, although it keeps the log changing. A minute of made-up time.
#[test]
fn an_open_transaction_is_not_read() {
    let (mut rig, app) = Rig::new(&format!("PRAGMA cache_size=20; {TABLE}"));
    let mut time = Pretend::new();
    insert(&app, 100, 600);
    rig.capture();
    app.execute_batch("BEGIN").unwrap();
    let mut read = 0;
    for _ in 0..600 {
        for _ in 0..10 {
            app.execute("INSERT INTO t(x) VALUES (randomblob(5000))", []).unwrap();
        }
        let before = bytes_read();
        time.event(&mut rig.followed);
        read += bytes_read() - before;
        time.skip(millis(100));
    }
    let log = std::fs::metadata(format!("{}-wal", rig.path.display())).unwrap().len();
    assert!(log > 30_000_000, "it spilled: {log}");
    // The minute's own checkpoint of the 100 rows is in it, too.
    assert!(read < 1_000_000, "{read} bytes");
    app.execute_batch("COMMIT").unwrap();
    rig.capture();
    rig.assert_shadow_equals_source();
}

/// F14: after the base of a large database (64 MB here) nothing is read again,
/// neither while idle nor to take it up after a restart.
#[test]
fn a_large_base_is_not_read_again() {
    let (mut rig, app) = Rig::new(TABLE);
    insert(&app, 16_000, 3500);
    let mut time = Pretend::new();
    rig.capture();
    time.pass(&mut rig.followed, seconds(30));
    let before = bytes_read();
    time.pass(&mut rig.followed, seconds(60));
    let idle = bytes_read() - before;
    assert!(idle < 4096, "{idle} bytes in an idle minute");
    insert(&app, 1, 100);
    time.pass(&mut rig.followed, seconds(30));
    rig.drain();
    rig.reopen();
    let (others, before) = (bytes_of_locks(), bytes_read());
    time.pass(&mut rig.followed, seconds(60));
    let restart = (bytes_read() - before).saturating_sub(others);
    // Eight bytes for each of its 16000 pages, and some frames.
    assert!(restart < 400_000, "{restart} bytes to take it up again");
    rig.drain();
    rig.assert_shadow_equals_source();
}

/// F42: a day without a commit leaves no frame, no segment, no file touched, no
/// byte read and no timer. Made-up time.
#[test]
fn an_idle_day_costs_nothing() {
    let (mut rig, app) = Rig::new(TABLE);
    insert(&app, 500, 600);
    rig.capture();
    let mut time = Pretend::new();
    time.pass(&mut rig.followed, seconds(60));
    time.skip(seconds(1));
    let (before, position) = (files(rig.path.parent().unwrap()), rig.followed.position());
    let (counters, read) = (rig.followed.counters(), bytes_read());
    let passed = time.pass(&mut rig.followed, seconds(24 * 3600));
    let read = bytes_read() - read;
    assert!(passed.steps > 17_000 && passed.asked == 0, "{passed:?}");
    assert_eq!(files(rig.path.parent().unwrap()), before);
    assert_eq!(rig.followed.position(), position);
    assert_eq!(rig.followed.counters(), counters);
    assert!(read < 4096, "{read} bytes");
}

/// With `synchronous=FULL` a commit is published after the last write to the log, which is the last event. It is found
/// all the same, and not only when the daemon looks by itself, every five seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_single_commit_that_is_flushed_before_it_is_published_is_noticed() {
    const COMMITS: u32 = 6;
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    app.execute_batch("PRAGMA synchronous=FULL").unwrap();
    let replica = replica_in(Arc::new(MemoryStorage::new()), "r");
    let daemon = follow(&path, &[&replica]).await;
    let begun = Instant::now();
    for _ in 0..COMMITS {
        let batch = daemon.board().read()[0].captured.unwrap().batch;
        insert(&app, 1, 10);
        wait_for(&daemon, "the commit is captured", |f| f.captured.unwrap().batch > batch).await;
    }
    assert!(begun.elapsed() < COMMITS * Duration::from_millis(2500), "{:?}", begun.elapsed());
    stop(daemon).await;
}
