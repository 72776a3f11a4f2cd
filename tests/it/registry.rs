//! Databases that come and go while the daemon runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use brooklet::daemon::{Changed, Daemon, RegistryError, Settings, SyncError};
use brooklet::replica::Replica;
use brooklet::status::{DatabaseFacts, DatabaseId, Health};
use brooklet::storage::{Body, Key, MemoryStorage, PutOptions, Result, Storage};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::between::{Behind, Between};
use crate::capture::consistent_copy;
use crate::running::{
    PATIENCE, TABLE, arrives, assert_same_pages, database, insert, job, rebuild, replica_in, start, stop, wait_for,
};

/// Uploads hang while it is told so.
#[derive(Default)]
struct Hanging {
    hangs: AtomicBool,
}

impl Hanging {
    fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::SeqCst);
    }
}

#[async_trait]
impl Between for Hanging {
    async fn put(&self, storage: &dyn Storage, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        storage.put(key, body, options).await
    }
}

fn up_to_date(facts: &DatabaseFacts) -> bool {
    facts.captured.is_some() && facts.behind().count() == 0
}

/// A followed database with one replica, in a storage that may hang.
struct Place {
    dir: TempDir,
    path: PathBuf,
    app: Connection,
    storage: Arc<Behind<Hanging>>,
    replica: Arc<Replica>,
    daemon: Daemon,
    id: DatabaseId,
}

async fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let storage = Behind::new(Hanging::default(), Arc::new(MemoryStorage::new()));
    let replica = replica_in(storage.clone(), "r");
    let daemon = start(vec![]);
    let id = daemon.add(job(&path, &[&replica])).unwrap();
    wait_for(&daemon, "it is followed", up_to_date).await;
    Place { dir, path, app, storage, replica, daemon, id }
}

async fn settled(daemon: &Daemon, id: DatabaseId) {
    daemon.wait_for(id, PATIENCE, |facts| Ok(up_to_date(facts))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_added_and_removed_while_another_goes_on() {
    let Place { dir, path, app, replica, daemon, id, .. } = place().await;
    let (other_path, other_app) = database(dir.path(), TABLE);
    let other = replica_in(Arc::new(MemoryStorage::new()), "other");
    let second = daemon.add(job(&other_path, &[&other])).unwrap();
    assert_ne!(id, second);
    wait_for(&daemon, "both are followed", up_to_date).await;
    insert(&other_app, 10);
    // Committed a moment ago: the last capture and the last upload find it.
    assert_eq!(daemon.remove(second, PATIENCE).await.unwrap(), []);
    assert_same_pages(&rebuild(&other).await, &consistent_copy(&other_path));
    assert_eq!((daemon.databases(), daemon.board().read().len()), (vec![id], 1));
    assert_eq!(daemon.remove(second, PATIENCE).await, Err(RegistryError::NotThere));
    insert(&app, 10);
    arrives(&replica, &path).await;
    // Nothing holds the removed one any more: it can be taken up again, here or elsewhere.
    insert(&other_app, 10);
    let elsewhere = Daemon::start(vec![job(&other_path, &[&other])], Settings::default());
    wait_for(&elsewhere, "it is followed elsewhere", up_to_date).await;
    stop(elsewhere).await;
    let third = daemon.add(job(&other_path, &[&other])).unwrap();
    assert!(third != second && third != id, "a place is never given away again");
    wait_for(&daemon, "it is followed again", up_to_date).await;
    stop(daemon).await;
    assert_same_pages(&rebuild(&other).await, &consistent_copy(&other_path));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_path_is_added_once() {
    let Place { dir: _dir, path, app, replica, daemon, id, .. } = place().await;
    let again = daemon.add(job(&path, &[&replica]));
    assert_eq!(again, Err(RegistryError::AlreadyThere { path: path.clone() }));
    daemon.pause(id, PATIENCE).await.unwrap();
    assert!(daemon.add(job(&path, &[&replica])).is_err(), "nor while it is stopped");
    assert_eq!(daemon.find(&path), Some(id));
    daemon.remove(id, PATIENCE).await.unwrap();
    assert_eq!(daemon.find(&path), None);
    daemon.add(job(&path, &[&replica])).unwrap();
    insert(&app, 1);
    arrives(&replica, &path).await;
    stop(daemon).await;
}

/// F90: and whoever removes it learns what is only local.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_upload_hangs_is_removed_in_time() {
    let Place { dir: _dir, path, app, storage, replica, daemon, id, .. } = place().await;
    storage.between.hang(true);
    insert(&app, 10);
    let begun = Instant::now();
    let unconfirmed = daemon.remove(id, Duration::from_millis(700)).await.unwrap();
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert_eq!(unconfirmed.len(), 1);
    assert_eq!((&unconfirmed[0].path, unconfirmed[0].replica.as_deref()), (&path, Some("r")));
    // What was captured is kept, and the next run ships it.
    storage.between.hang(false);
    daemon.add(job(&path, &[&replica])).unwrap();
    arrives(&replica, &path).await;
    stop(daemon).await;
    assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_added_and_removed_while_one_is_being_stopped() {
    let Place { dir, app, storage, daemon, id, .. } = place().await;
    storage.between.hang(true);
    insert(&app, 1);
    let (other_path, _other_app) = database(dir.path(), TABLE);
    let other = replica_in(Arc::new(MemoryStorage::new()), "other");
    let patience = Duration::from_secs(4);
    let (slow, ()) = tokio::join!(daemon.remove(id, patience), async {
        let begun = Instant::now();
        let second = daemon.add(job(&other_path, &[&other])).unwrap();
        settled(&daemon, second).await;
        assert_eq!(daemon.remove(second, PATIENCE).await.unwrap(), []);
        assert!(begun.elapsed() < patience, "it did not wait for the slow one");
        // And whoever wants the slow one too has to wait for its turn.
        assert_eq!(daemon.pause(id, Duration::from_millis(10)).await, Err(RegistryError::Busy));
    });
    assert_eq!(slow.unwrap().len(), 1);
    assert_eq!(daemon.databases(), []);
    stop(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_database_is_left_alone_until_it_is_started() {
    let Place { dir: _dir, path, app, replica, daemon, id, .. } = place().await;
    insert(&app, 5);
    assert_eq!(daemon.pause(id, PATIENCE).await, Ok(Changed::Done(vec![])));
    assert_eq!(daemon.pause(id, PATIENCE).await, Ok(Changed::Already));
    assert_eq!(daemon.board().read_one(id).unwrap().health, Health::Stopped);
    assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
    // Nothing of ours is on the database: the application may do what a guard forbids.
    let before = consistent_copy(&path);
    app.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode=delete; PRAGMA journal_mode=wal").unwrap();
    insert(&app, 5);
    assert_eq!(daemon.capture_now(id, PATIENCE).await, Err(SyncError::Stopped));
    assert_same_pages(&rebuild(&replica).await, &before);
    assert_eq!(daemon.resume(id, PATIENCE).await, Ok(Changed::Done(vec![])));
    assert_eq!(daemon.resume(id, PATIENCE).await, Ok(Changed::Already));
    arrives(&replica, &path).await;
    insert(&app, 5);
    arrives(&replica, &path).await;
    assert_eq!(daemon.board().read_one(id).unwrap().health, Health::Live);
    stop(daemon).await;
    assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
}

/// What an upload could not send before a stop is sent after the next start, although nothing new was captured.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_over_is_shipped_after_the_next_start() {
    let Place { dir: _dir, path, app, storage, replica, daemon, id, .. } = place().await;
    storage.between.hang(true);
    insert(&app, 5);
    let stopped = daemon.pause(id, Duration::from_millis(500)).await.unwrap();
    assert!(matches!(&stopped, Changed::Done(unconfirmed) if unconfirmed.len() == 1), "{stopped:?}");
    storage.between.hang(false);
    daemon.resume(id, PATIENCE).await.unwrap();
    arrives(&replica, &path).await;
    stop(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_comes_and_goes_a_hundred_times_loses_nothing() {
    let Place { dir: _dir, path, app, replica, daemon, id, .. } = place().await;
    let mut id = id;
    for round in 0..100 {
        insert(&app, 1);
        match round % 3 {
            0 => {
                daemon.pause(id, PATIENCE).await.unwrap();
                insert(&app, 1);
                daemon.resume(id, PATIENCE).await.unwrap();
            }
            1 => {
                assert_eq!(daemon.remove(id, PATIENCE).await.unwrap(), [], "round {round}");
                id = daemon.add(job(&path, &[&replica])).unwrap();
            }
            _ => drop(daemon.capture_now(id, PATIENCE).await.unwrap()),
        }
    }
    arrives(&replica, &path).await;
    stop(daemon).await;
    assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_captured_now_is_known_and_its_confirmation_can_be_waited_for() {
    let Place { dir: _dir, app, storage, daemon, id, path, replica, .. } = place().await;
    insert(&app, 3);
    let synced = daemon.capture_now(id, PATIENCE).await.unwrap();
    assert!(synced.changed());
    assert!(!daemon.capture_now(id, PATIENCE).await.unwrap().changed());
    daemon.ship_now(id);
    daemon.confirmed(id, synced.captured, PATIENCE).await.unwrap();
    assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
    storage.between.hang(true);
    insert(&app, 3);
    let synced = daemon.capture_now(id, PATIENCE).await.unwrap();
    let late = daemon.confirmed(id, synced.captured, Duration::from_millis(300)).await;
    assert!(matches!(&late, Err(SyncError::Late { lacking }) if lacking.contains("replica r")), "{late:?}");
    // Who waits for a database that goes is told so, long before the time is over.
    let (waited, removed) = tokio::join!(
        daemon.confirmed(id, synced.captured, Duration::from_secs(60)),
        daemon.remove(id, Duration::from_millis(200))
    );
    assert!(matches!(waited, Err(SyncError::NotThere)), "{waited:?}");
    assert_eq!(removed.unwrap().len(), 1);
    stop(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_added_to_a_daemon_that_stops() {
    let Place { dir: _dir, path, replica, daemon, .. } = place().await;
    assert_eq!(daemon.stop(PATIENCE).await, []);
    let other = Path::new("/nowhere/else.db");
    assert_eq!(daemon.add(job(other, &[&replica])), Err(RegistryError::Stopping));
    assert_eq!(daemon.add(job(&path, &[&replica])), Err(RegistryError::Stopping));
}
