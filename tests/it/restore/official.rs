//! Replicas of the official programs: what they restore, we restore.
//!
//! Kept files of every release are always tried. With the programs at hand
//! (`LITESTREAM_BIN`, `LITESTREAM_BIN_0515`) so are replicas in full swing:
//! merged, with snapshots, with level 0 thinned out.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use brooklet::replica::{Layout, Replica, Segment};
use brooklet::restore::{Evidence, IntegrityCheck, Limits, Options, RestoreError, Target};
use brooklet::storage::{FileStorage, Key};
use brooklet::types::{Timestamp, Txid};
use rusqlite::Connection;
use tempfile::TempDir;

use super::{Scratch, TINY, options};
use crate::legacy::crc32;

fn at(dir: &Path) -> Replica {
    Replica::new("file".into(), Arc::new(FileStorage::new(dir)), Key::ROOT, Layout::Decimal)
}

#[tokio::test]
async fn kept_replicas_of_every_release_restore_to_what_they_restored_to_then() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut tried = 0;
    for release in ["litestream-0.5.15", "litestream-0.5.17"] {
        for entry in std::fs::read_dir(data.join(release)).unwrap() {
            let dir = entry.unwrap().path();
            let expected = std::fs::read_to_string(dir.join("restored.txt")).unwrap();
            for limits in [TINY, Limits::default()] {
                let options = Options { limits, integrity_check: IntegrityCheck::Full, ..options(Target::Latest) };
                let (bytes, report) = Scratch::new().restore(&at(&dir), &options).await.unwrap();
                let found = format!("{} bytes, CRC-32 {:08x}", bytes.len(), crc32(&bytes));
                assert_eq!(found, expected.trim(), "{}", dir.display());
                assert_eq!(report.evidence, Evidence::Files);
                tried += 1;
            }
        }
    }
    assert_eq!(tried, 12);
}

/// An official program and a database that it replicates.
struct Official {
    binary: PathBuf,
    dir: TempDir,
    database: Connection,
}

/// Ended by its id when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended unless the test failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Official {
    fn from_env(variable: &str) -> Option<Self> {
        let Some(binary) = std::env::var_os(variable).map(PathBuf::from) else {
            println!("skipped: {variable} is not set");
            return None;
        };
        let dir = TempDir::new().unwrap();
        let database = Connection::open(dir.path().join("app.db")).unwrap();
        database.busy_timeout(Duration::from_secs(10)).unwrap();
        database.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);").unwrap();
        Some(Self { binary, dir, database })
    }

    fn replica(&self) -> PathBuf {
        self.dir.path().join("replica")
    }

    fn start(&self) -> Running {
        let config = self.dir.path().join("litestream.yml");
        let text = format!(
            "levels:\n  - interval: 400ms\n  - interval: 1s\nsnapshot:\n  interval: 1500ms\n  retention: 1h\n\
             l0-retention: 1s\nl0-retention-check-interval: 200ms\n\
             dbs:\n  - path: {dir}/app.db\n    monitor-interval: 50ms\n    checkpoint-interval: 1s\n    \
             replica:\n      type: file\n      path: {dir}/replica\n      sync-interval: 50ms\n",
            dir = self.dir.path().display()
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let mut command = Command::new(&self.binary);
        command.arg("replicate").arg("-config").arg(config).stdout(log).stderr(Stdio::null());
        Running(command.spawn().unwrap())
    }

    /// What the official program restores; `None` if it says that it cannot.
    fn restore(&self, flags: &[String]) -> Option<Vec<u8>> {
        let out = TempDir::new().unwrap();
        let path = out.path().join("x");
        let result = Command::new(&self.binary)
            .arg("restore")
            .args(flags)
            .arg("-o")
            .arg(&path)
            .arg(format!("file://{}", self.replica().display()))
            .output()
            .unwrap();
        result.status.success().then(|| std::fs::read(path).unwrap())
    }

    /// Changes the database in every way there is, one commit at a time.
    fn write(&self, round: u32) {
        let change = match round % 7 {
            0..=3 => "INSERT INTO t(x) SELECT randomblob(3000) FROM generate_series LIMIT 20",
            4 => "UPDATE t SET x = randomblob(100) WHERE id % 3 = 0",
            5 => "DELETE FROM t WHERE id % 2 = 0",
            _ => "VACUUM",
        };
        let change = change.replace(
            "generate_series",
            "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20) SELECT i FROM n)",
        );
        self.database.execute_batch(&change).unwrap();
    }
}

async fn segments(replica: &Replica) -> Vec<Segment> {
    replica.list_all().await.unwrap().segments().copied().collect()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn files(level: &Path) -> usize {
    std::fs::read_dir(level).map_or(0, Iterator::count)
}

/// A replica as a busy program leaves it, and the program at rest.
fn in_full_swing(official: &Official) {
    let mut running = official.start();
    let levels = official.replica().join("ltx");
    let mut round = 0;
    until("merges and snapshots", || {
        official.write(round);
        round += 1;
        round > 30 && files(&levels.join("1")) >= 3 && files(&levels.join("2")) >= 2 && files(&levels.join("9")) >= 2
    });
    let pid = rustix::process::Pid::from_child(&running.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    until("the official program to end", || running.0.try_wait().unwrap().is_some());
}

async fn compare(official: &Official) {
    in_full_swing(official);
    let replica = at(&official.replica());
    let scratch = Scratch::new();
    let ours = async |target, limits| {
        let options = Options { limits, integrity_check: IntegrityCheck::Full, ..options(target) };
        scratch.restore(&replica, &options).await
    };
    for limits in [TINY, Limits::default()] {
        let (bytes, _) = ours(Target::Latest, limits).await.unwrap();
        assert!(Some(bytes) == official.restore(&[]), "the newest point differs");
    }

    // Every transaction that ever was: both restore the same, or neither can.
    let listed = segments(&replica).await;
    let newest = listed.iter().map(|segment| segment.txids.max()).max().unwrap();
    let mut points = 0;
    for txid in (1..=newest.get()).filter_map(Txid::new) {
        let theirs = official.restore(&["-txid".into(), txid.to_string()]);
        match ours(Target::Txid(txid), Limits::default()).await {
            Ok((bytes, _)) => {
                assert!(theirs.as_ref() == Some(&bytes), "transaction {txid} differs");
                points += 1;
            }
            Err(RestoreError::Plan(_)) => assert_eq!(theirs, None, "only they can restore {txid}"),
            Err(error) => panic!("{txid}: {error}"),
        }
    }
    assert!(points >= 5, "only {points} points in {listed:?}");

    // They take what is older than the instant, we take what is stamped with it too.
    for segment in &listed {
        let time = segment.created.as_millis();
        let theirs = official.restore(&["-timestamp".into(), Timestamp::from_millis(time + 1).to_string()]);
        let (bytes, report) = ours(Target::Timestamp(Timestamp::from_millis(time)), Limits::default()).await.unwrap();
        match theirs {
            Some(theirs) => assert!(bytes == theirs, "{segment} at {time}: {report:?}"),
            // They refuse an instant after the newest segment.
            None => assert_eq!(Some(time), listed.iter().map(|segment| segment.created.as_millis()).max()),
        }
    }
}

#[tokio::test]
async fn every_point_of_a_busy_replica_of_0_5_17_restores_as_the_program_restores_it() {
    if let Some(official) = Official::from_env("LITESTREAM_BIN") {
        compare(&official).await;
    }
}

#[tokio::test]
async fn every_point_of_a_busy_replica_of_0_5_15_restores_as_the_program_restores_it() {
    if let Some(official) = Official::from_env("LITESTREAM_BIN_0515") {
        compare(&official).await;
    }
}
