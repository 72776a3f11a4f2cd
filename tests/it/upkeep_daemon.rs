//! Upkeep inside the running daemon: real databases, real clocks, short rhythms.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use brooklet::daemon::{Daemon, Destination, Job};
use brooklet::ltx::Level;
use brooklet::replica::{Listing, Replica};
use brooklet::restore::Target;
use brooklet::storage::{self, Body, FileStorage, Key, MemoryStorage, PutOptions, Storage};
use brooklet::upkeep::{Policy, Retention, Snapshots};
use bytes::Bytes;
use rusqlite::Connection;

use crate::between::{Behind, Between};
use crate::capture::consistent_copy;
use crate::running::{
    PATIENCE, TABLE, assert_restores, assert_same_pages, database, insert, job, replica_in, start, stop, try_restore,
    wait_for,
};

/// Everything that takes hours takes less than a second.
pub(crate) fn hurried() -> Policy {
    let ms = Duration::from_millis;
    let retention = Retention {
        l0: Some(ms(300)),
        check_interval: ms(100),
        history: ms(1500),
        grace: ms(400),
        ..Retention::default()
    };
    Policy {
        levels: vec![ms(150), ms(400), ms(900)],
        snapshots: Snapshots { interval: ms(700), at: None },
        retention: Some(retention),
        audit_interval: Duration::from_secs(2),
        ..Policy::default()
    }
}

pub(crate) fn kept(path: &Path, replicas: &[&Arc<Replica>], policy: &Policy) -> Job {
    let job = job(path, replicas);
    let with = |to: Destination| Destination { upkeep: Some(Arc::new(policy.clone())), ..to };
    Job { replicas: job.replicas.into_iter().map(with).collect(), ..job }
}

pub(crate) async fn listing_with(replica: &Replica, what: &str, done: impl Fn(&Listing) -> bool) -> Listing {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let listing = replica.list_all().await.unwrap();
        if done(&listing) {
            return listing;
        }
        assert!(Instant::now() < deadline, "{what}: {listing:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn count(listing: &Listing, level: u8) -> usize {
    listing.level(Level::new(level).unwrap()).len()
}

/// Whether a snapshot was made beyond the first base; retention may have left nothing but the newest since.
pub(crate) fn has_later_snapshot(listing: &Listing) -> bool {
    listing.level(Level::SNAPSHOT).iter().any(|snapshot| snapshot.txids.max().get() > 1)
}

pub(crate) async fn write_for(app: &Connection, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        insert(app, 2);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn caught_up(daemon: &Daemon) {
    wait_for(daemon, "the replicas have everything", |f| f.captured.is_some() && f.behind().count() == 0).await;
}

/// F77: a restore at any moment of this gets a database.
#[tokio::test(flavor = "multi_thread")]
async fn segments_are_merged_and_deleted_while_they_are_written_and_restored() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let memory = replica_in(Arc::new(MemoryStorage::new()), "memory");
    let files = replica_in(Arc::new(FileStorage::new(dir.path().join("files"))), "files");
    let daemon = start(vec![kept(&path, &[&memory, &files], &hurried())]);
    caught_up(&daemon).await;
    let mut restores = 0;
    for _ in 0..12 {
        write_for(&app, Duration::from_millis(400)).await;
        for replica in [&memory, &files] {
            try_restore(replica, Target::Latest).await.unwrap();
            restores += 1;
        }
    }
    assert_eq!(restores, 24);
    for replica in [&memory, &files] {
        let busy = |l: &Listing| count(l, 3) > 0 && count(l, 9) > 0 && l.level(Level::L0)[0].txids.min().get() > 5;
        let listing = listing_with(replica, "merges, snapshots and deletions", busy).await;
        assert!(
            listing.get(Level::SNAPSHOT, brooklet::types::TxidRange::single(brooklet::types::Txid::FIRST)).is_none()
        );
    }
    stop(daemon).await;
    assert_restores(&memory, &path).await;
    assert_restores(&files, &path).await;
}

/// Nothing can be merged, and each refusal has another text.
#[derive(Default)]
struct NoMerges {
    refused: AtomicU64,
    relents: AtomicBool,
}

#[async_trait]
impl Between for NoMerges {
    async fn put(&self, storage: &dyn Storage, key: &Key, body: Body, options: PutOptions) -> storage::Result<()> {
        if key.as_str().contains("/ltx/1/") && !self.relents.load(Ordering::SeqCst) {
            let n = self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(storage::Error::new(storage::ErrorKind::Refused, format!("access denied (request {n})")));
        }
        storage.put(key, body, options).await
    }
}

/// What keeps segments from being merged is on the board as long as it lasts, and in
/// the log once, with what to do about it.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_upkeep_is_told_once_with_advice_and_so_is_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let storage = Behind::new(NoMerges::default(), Arc::new(MemoryStorage::new()));
    let replica = replica_in(storage.clone(), "r");
    let policy = Policy { retention: None, snapshots: Snapshots { interval: PATIENCE * 100, at: None }, ..hurried() };
    let daemon = start(vec![kept(&path, &[&replica], &policy)]);
    caught_up(&daemon).await;
    insert(&app, 3);
    let advice = "check the rights";
    let told = |f: &brooklet::status::DatabaseFacts| {
        f.replicas[0].upkeep_error.as_ref().is_some_and(|e| e.contains("access denied") && e.contains(advice))
    };
    wait_for(&daemon, "the failure is on the board", told).await;
    let deadline = Instant::now() + PATIENCE;
    while storage.between.refused.load(Ordering::SeqCst) < 3 {
        assert!(Instant::now() < deadline, "it is tried again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    storage.between.relents.store(true, Ordering::SeqCst);
    wait_for(&daemon, "it is over", |f| f.replicas[0].upkeep_error.is_none()).await;
    stop(daemon).await;
    let lines = crate::running::log_lines(&path);
    let with = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!((with("compaction or retention failed"), with(advice)), (1, 1), "{lines:#?}");
    assert_eq!(with("compaction and retention recovered"), 1, "{lines:#?}");
}

/// A line that carries so many bytes a second, of all requests together.
struct Slow {
    per_second: u64,
    free_at: tokio::sync::Mutex<tokio::time::Instant>,
    lost: AtomicU64,
}

#[async_trait]
impl Between for Slow {
    async fn get(&self, storage: &dyn Storage, key: &Key, range: std::ops::Range<u64>) -> storage::Result<Bytes> {
        let takes = Duration::from_micros((range.end - range.start) * 1_000_000 / self.per_second);
        let until = {
            let mut free_at = self.free_at.lock().await;
            *free_at = (*free_at).max(tokio::time::Instant::now()) + takes;
            *free_at
        };
        tokio::time::sleep_until(until).await;
        let got = storage.get(key, range).await;
        if got.is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        got
    }
}

/// F77: merging and deleting every second, under restores over a line of a megabyte
/// a second that take many times as long. On one replica everything is deleted that
/// is older than a second, after a grace as long as a restore; on the other one,
/// what was merged goes at once.
#[tokio::test(flavor = "multi_thread")]
async fn restores_over_a_slow_line_outlast_upkeep_every_second() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    app.execute_batch(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 800)
         INSERT INTO t(x) SELECT randomblob(3900) FROM n",
    )
    .unwrap();
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let replicas = ["all", "merged"].map(|name| replica_in(storage.clone(), name));
    let second = Duration::from_secs(1);
    let retention = |history, grace| {
        Some(Retention { l0: Some(second), check_interval: second, history, grace, ..Retention::default() })
    };
    let policy = Policy {
        levels: vec![second, second * 2],
        snapshots: Snapshots { interval: second, at: None },
        retention: retention(second, second * 10),
        ..Policy::default()
    };
    let merging = Policy {
        snapshots: Snapshots { interval: PATIENCE * 100, at: None },
        retention: retention(PATIENCE * 100, Duration::ZERO),
        ..policy.clone()
    };
    let mut both = kept(&path, &[&replicas[0], &replicas[1]], &policy);
    both.replicas[1].upkeep = Some(Arc::new(merging));
    let daemon = start(vec![both]);
    caught_up(&daemon).await;
    let until = Instant::now() + second * 30;
    let restoring = replicas.each_ref().map(|replica| {
        let (storage, name) = (storage.clone(), replica.name().to_owned());
        tokio::spawn(async move {
            let free_at = tokio::sync::Mutex::new(tokio::time::Instant::now());
            let slow = Behind::new(Slow { per_second: 1_000_000, free_at, lost: AtomicU64::new(0) }, storage);
            let read = replica_in(slow.clone(), &name);
            let mut took = Vec::new();
            while Instant::now() < until {
                let begun = Instant::now();
                let bytes = try_restore(&read, Target::Latest).await.unwrap();
                assert!(bytes.len() > 3_000_000, "{}", bytes.len());
                took.push(begun.elapsed());
            }
            (took, slow.between.lost.load(Ordering::Relaxed))
        })
    });
    while Instant::now() < until {
        write_for(&app, Duration::from_millis(200)).await;
    }
    for (restored, replica) in restoring.into_iter().zip(&replicas) {
        let (took, lost) = restored.await.unwrap();
        println!("{}: {} restores, {took:?}, {lost} reads came too late", replica.name(), took.len());
        assert!(took.len() >= 2 && took.iter().all(|took| *took > second * 2), "{took:?}");
    }
    caught_up(&daemon).await;
    stop(daemon).await;
    for replica in &replicas {
        let listing = replica.list_all().await.unwrap();
        let oldest = listing.level(Level::L0)[0].txids.min().get();
        assert!(oldest > 20 && count(&listing, 9) < 20, "much was deleted: {listing:#?}");
        assert_restores(replica, &path).await;
    }
}

/// A daemon that is started again goes on with what it finds.
#[tokio::test(flavor = "multi_thread")]
async fn upkeep_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let files = replica_in(Arc::new(FileStorage::new(dir.path().join("files"))), "files");
    for _ in 0..4 {
        let daemon = start(vec![kept(&path, &[&files], &hurried())]);
        caught_up(&daemon).await;
        write_for(&app, Duration::from_millis(900)).await;
        caught_up(&daemon).await;
        stop(daemon).await;
        assert_restores(&files, &path).await;
    }
    let daemon = start(vec![kept(&path, &[&files], &hurried())]);
    insert(&app, 1);
    listing_with(&files, "a third level", |l| count(l, 3) > 1).await;
    stop(daemon).await;
    assert_restores(&files, &path).await;
    let rows = daemon_errors(&path);
    assert_eq!(rows, [""; 0]);
}

fn daemon_errors(path: &Path) -> Vec<String> {
    let lines = crate::running::log_lines(path);
    lines.into_iter().filter(|line| line.starts_with("ERROR")).collect()
}

/// F70: while the daemon runs, somebody deletes what it has uploaded.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_daemon_makes_a_lost_base_good() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let memory = replica_in(Arc::new(MemoryStorage::new()), "memory");
    let policy = Policy { retention: None, snapshots: Snapshots { interval: PATIENCE * 100, at: None }, ..hurried() };
    let daemon = start(vec![kept(&path, &[&memory], &policy)]);
    caught_up(&daemon).await;
    insert(&app, 10);
    caught_up(&daemon).await;
    listing_with(&memory, "the base is a snapshot", |l| count(l, 9) == 1).await;
    let listing = memory.list_all().await.unwrap();
    let bases: Vec<_> = listing.segments().filter(|s| s.txids.is_snapshot()).copied().collect();
    assert_eq!(bases.len(), 2);
    memory.remove(&bases).await.unwrap();
    listing_with(&memory, "a new base", |l| l.gap_free_end().is_some() && l.gap_free_end() == l.position()).await;
    caught_up(&daemon).await;
    stop(daemon).await;
    assert_restores(&memory, &path).await;
}

fn official() -> Option<String> {
    let path = std::env::var("LITESTREAM_BIN").ok();
    if path.is_none() {
        println!("skipped: LITESTREAM_BIN is not set");
    }
    path
}

fn official_restore(litestream: &str, replica: &Path, extra: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let url = format!("file://{}", replica.display());
    let done = Command::new(litestream).arg("restore").args(extra).arg("-o").arg(&out).arg(&url).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{said}");
    std::fs::read(&out).unwrap()
}

/// What is left after merges, merged snapshots and deletions is what Litestream restores too,
/// the newest point and every earlier one.
#[tokio::test(flavor = "multi_thread")]
async fn the_official_program_restores_what_upkeep_leaves() {
    let Some(litestream) = official() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let place = dir.path().join("files");
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::new(&place));
    let files = replica_in(storage, "r");
    let daemon = start(vec![kept(&path, &[&files], &hurried())]);
    caught_up(&daemon).await;
    for round in 0..5 {
        write_for(&app, Duration::from_millis(700)).await;
        if round == 2 {
            app.execute_batch("DELETE FROM t WHERE id % 2; VACUUM").unwrap();
        }
    }
    listing_with(&files, "everything was done", |l| count(l, 3) > 0 && has_later_snapshot(l)).await;
    caught_up(&daemon).await;
    stop(daemon).await;
    assert_same_pages(&official_restore(&litestream, &place.join("r"), &[]), &consistent_copy(&path));
    let segments: Vec<_> = files.list_all().await.unwrap().segments().copied().collect();
    let points = brooklet::restore::plan::Holdings::new(segments.iter().copied()).restorable();
    assert!(points.len() > 5);
    let last = *points.last().unwrap();
    for point in points {
        let ours = try_restore(&files, Target::Txid(point)).await.unwrap();
        let theirs = official_restore(&litestream, &place.join("r"), &["-txid", &point.to_string()]);
        assert_same_pages(&theirs, &ours);
        if point == last {
            // By URL, Litestream refuses times after the newest segment.
            continue;
        }
        let newest = segments.iter().filter(|s| s.txids.max() == point).map(|s| s.created).min().unwrap();
        let after = brooklet::types::Timestamp::from_millis(newest.as_millis() + 1).to_string();
        let by_time = official_restore(&litestream, &place.join("r"), &["-timestamp", &after]);
        let ours = try_restore(&files, Target::Timestamp(newest)).await.unwrap();
        assert_same_pages(&by_time, &ours);
    }
}

/// Litestream goes on where we stopped, with its own compaction and retention, and loses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_official_program_continues_what_upkeep_leaves() {
    let Some(litestream) = official() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let place = dir.path().join("files");
    let files = replica_in(Arc::new(FileStorage::new(&place)), "r");
    // No snapshot but the first base: the case in which Litestream depends on where that is.
    let policy = Policy { snapshots: Snapshots { interval: PATIENCE * 100, at: None }, ..hurried() };
    let daemon = start(vec![kept(&path, &[&files], &policy)]);
    caught_up(&daemon).await;
    write_for(&app, Duration::from_secs(2)).await;
    listing_with(&files, "two levels", |l| count(l, 2) > 0).await;
    caught_up(&daemon).await;
    stop(daemon).await;
    let old = files.list_all().await.unwrap();
    assert_eq!(count(&old, 9), 1, "the base is where Litestream's retention of level 0 does not reach");
    let old_point = old.level(Level::new(1).unwrap())[0].txids.max();
    let old_state = try_restore(&files, Target::Txid(old_point)).await.unwrap();

    let config = dir.path().join("litestream.yml");
    std::fs::write(
        &config,
        format!(
            "levels: [{{interval: 1s}}, {{interval: 2s}}]\nl0-retention: 1s\nl0-retention-check-interval: 500ms\n\
             dbs:\n  - path: {}\n    replica: {{path: {}}}\n",
            path.display(),
            place.join("r").display()
        ),
    )
    .unwrap();
    let mut child = Command::new(&litestream).args(["replicate", "-config"]).arg(&config).spawn().unwrap();
    let before = old.position().unwrap();
    write_for(&app, Duration::from_secs(6)).await;
    listing_with(&files, "it has continued and deleted", |l| {
        let at_0 = l.level(Level::L0);
        count(l, 2) > 1 && at_0.first().is_some_and(|s| s.txids.min() > before)
    })
    .await;
    let expected = consistent_copy(&path);
    let deadline = Instant::now() + PATIENCE;
    while rows(&official_restore(&litestream, &place.join("r"), &[])) != rows(&expected) {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    child.wait().unwrap();
    let after = files.list_all().await.unwrap();
    assert!(after.level(Level::L0).iter().all(|s| !s.txids.is_snapshot()), "it has deleted the base that it saw");
    let theirs = official_restore(&litestream, &place.join("r"), &["-txid", &old_point.to_string()]);
    assert_same_pages(&theirs, &old_state);
    assert_eq!(rows(&try_restore(&files, Target::Latest).await.unwrap()), rows(&expected));
}

/// Every row: Litestream writes tables of its own, so pages differ.
fn rows(database: &[u8]) -> Vec<(i64, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    std::fs::write(&path, database).unwrap();
    let connection = Connection::open(&path).unwrap();
    let mut statement = connection.prepare("SELECT id, x FROM t ORDER BY id").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}
