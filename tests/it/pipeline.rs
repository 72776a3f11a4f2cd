//! The daemon as a whole, in this process: commits go in at one end, and what
//! the replicas hold is the database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use brooklet::daemon::{Daemon, Settings};
use brooklet::storage::{FileStorage, MemoryStorage};

use crate::capture::consistent_copy;
use crate::running::{PATIENCE, TABLE, database, insert, job, rebuild, replica_in, wait_for};

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
    let counters = daemon.counters(daemon.databases()[0]).unwrap();
    assert_eq!(daemon.stop(PATIENCE).await, []);
    assert!(rebuild(&memory).await == consistent_copy(&path));
    assert_eq!(counters.resyncs, 0, "{counters:?}");
    assert!(counters.seals > 0, "{counters:?}");
}
