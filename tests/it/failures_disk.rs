//! What the local disk and the network must not be asked for: room for a base,
//! and full images that nobody needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use brooklet::storage::{Body, FileStorage, Key, MemoryStorage, PutOptions, Result, Storage};
use futures::StreamExt;

use crate::between::{Behind, Between};
use crate::capture::consistent_copy;
use crate::running::{
    TABLE, assert_same_pages, bases, checkpoint, create, database, files_below, follow, insert, job, rebuild,
    replica_in, restored, start, stop, wait_for,
};

fn bytes_below(dir: &Path) -> u64 {
    files_below(dir).iter().filter_map(|path| path.metadata().ok()).map(|meta| meta.len()).sum()
}

/// Looks at a local directory at each piece of a body that is sent.
struct Measuring {
    dir: PathBuf,
    most: Arc<AtomicU64>,
    pieces: Arc<AtomicU64>,
}

#[async_trait]
impl Between for Measuring {
    async fn put(&self, storage: &dyn Storage, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        let body = match body {
            Body::Stream(pieces) => {
                let (dir, most, count) = (self.dir.clone(), self.most.clone(), self.pieces.clone());
                let measured = pieces.inspect(move |_| {
                    most.fetch_max(bytes_below(&dir), Ordering::Relaxed);
                    count.fetch_add(1, Ordering::Relaxed);
                });
                Body::Stream(measured.boxed())
            }
            body => body,
        };
        storage.put(key, body, options).await
    }
}

/// F100: a base needs next to no local room, however large the database is.
#[tokio::test(flavor = "multi_thread")]
async fn a_base_is_not_staged_on_the_local_disk() {
    const MEGABYTES: u64 = 80;
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    app.execute_batch("BEGIN").unwrap();
    for _ in 0..MEGABYTES {
        app.execute("INSERT INTO t(x) VALUES (randomblob(1 << 20))", []).unwrap();
    }
    app.execute_batch("COMMIT").unwrap();
    checkpoint(&app, "TRUNCATE");
    let elsewhere = tempfile::tempdir().unwrap();
    let (most, pieces) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let measuring = Measuring { dir: dir.path().to_owned(), most: most.clone(), pieces: pieces.clone() };
    let storage = Behind::new(measuring, Arc::new(FileStorage::new(elsewhere.path())));
    let before = bytes_below(dir.path());
    assert!(before > MEGABYTES << 20);
    let replica = replica_in(storage, "r");
    let daemon = follow(&path, &[&replica]).await;
    stop(daemon).await;
    assert!(pieces.load(Ordering::Relaxed) >= MEGABYTES / 2, "it is sent while it is read");
    let growth = most.load(Ordering::Relaxed) - before;
    assert!(growth < 2 << 20, "{growth} more bytes while a base of {before} bytes was sent");
    assert!(restored(&replica).await == consistent_copy(&path));
}

/// F101: checkpoints of every kind by both sides, restarts with and without
/// writes meanwhile, truncation, VACUUM: the database is sent whole once.
#[tokio::test(flavor = "multi_thread")]
async fn one_full_image_is_enough_for_a_whole_life() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), &format!("PRAGMA auto_vacuum=incremental; {TABLE}"));
    app.execute_batch("PRAGMA wal_autocheckpoint = 30").unwrap();
    insert(&app, 100);
    let checkpointer = create(&path, "");
    checkpointer.busy_timeout(Duration::ZERO).unwrap();
    let replica = replica_in(Arc::new(MemoryStorage::new()), "r");
    let start_here = || {
        let mut job = job(&path, &[&replica]);
        // Checkpoints of ours are due all the time, and the log is cut each time.
        job.capture.checkpoint.min_frames = 20;
        job.capture.checkpoint.truncate_frames = Some(60);
        start(vec![job])
    };
    let up_to_date = |f: &brooklet::status::DatabaseFacts| f.captured.is_some() && f.behind().count() == 0;
    let mut seals = 0;
    for round in 0..4 {
        let daemon = start_here();
        wait_for(&daemon, "it is taken up", up_to_date).await;
        for mode in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
            insert(&app, 40);
            checkpoint(&checkpointer, mode);
            app.execute("DELETE FROM t WHERE id % 7 = 1", []).unwrap();
            if round == 1 {
                app.execute_batch("PRAGMA incremental_vacuum(10)").unwrap();
            }
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        if round == 2 {
            app.execute_batch("VACUUM").unwrap();
        }
        wait_for(&daemon, "it is up to date", up_to_date).await;
        seals += daemon.counters(daemon.databases()[0]).unwrap().seals;
        stop(daemon).await;
        if round != 2 {
            // While nobody looks.
            insert(&app, 30);
            checkpoint(&app, "TRUNCATE");
            insert(&app, 3);
        }
    }
    assert!(seals > 0, "no checkpoint of ours was exercised");
    let daemon = start_here();
    wait_for(&daemon, "it is up to date", up_to_date).await;
    stop(daemon).await;
    assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
    assert_eq!(bases(&replica).await, [1]);
}
