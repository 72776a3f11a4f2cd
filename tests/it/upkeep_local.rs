//! Merging what was just uploaded: made of what is still in the spool, and of
//! the replica's own objects where it is not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use brooklet::capture;
use brooklet::daemon::{Daemon, Destination, Job};
use brooklet::ltx::Level;
use brooklet::replica::{Listing, Replica};
use brooklet::status::DatabaseFacts;
use brooklet::storage::{Counted, Counts, MemoryStorage, Operation};
use brooklet::upkeep::{Policy, Snapshots};
use rusqlite::Connection;

use crate::running::{
    PATIENCE, TABLE, assert_restores, database, insert, job, log_lines, replica_in, start, stop, wait_for,
};

/// Level 1 after a while that is long enough to have several objects, and nothing else.
fn policy(wait: Duration) -> Policy {
    Policy {
        levels: vec![wait],
        snapshots: Snapshots { interval: PATIENCE * 1000, at: None },
        retention: None,
        ..Policy::default()
    }
}

struct Rig {
    counts: Arc<Counts>,
    replica: Arc<Replica>,
    daemon: Daemon,
}

impl Rig {
    async fn follow(path: &Path, wait: Duration) -> Self {
        let counts = Arc::new(Counts::default());
        let storage = Counted::new(Arc::new(MemoryStorage::new()), counts.clone());
        let replica = replica_in(Arc::new(storage), "r");
        let followed = job(path, &[&replica]);
        let with = |to: Destination| Destination { upkeep: Some(Arc::new(policy(wait))), ..to };
        let daemon = start(vec![Job { replicas: followed.replicas.into_iter().map(with).collect(), ..followed }]);
        let rig = Self { counts, replica, daemon };
        rig.caught_up().await;
        rig
    }

    async fn caught_up(&self) {
        wait_for(&self.daemon, "the replica has everything", |f| f.captured.is_some() && f.behind().count() == 0).await;
    }

    /// Commits, and waits until they are there.
    async fn burst(&self, app: &Connection) {
        let before = self.daemon.board().read()[0].captured.unwrap().batch;
        insert(app, 20);
        let arrived = |f: &DatabaseFacts| f.captured.unwrap().batch > before && f.behind().count() == 0;
        wait_for(&self.daemon, "the replica has the burst", arrived).await;
    }

    async fn listing_with(&self, what: &str, done: impl Fn(&Listing) -> bool) -> Listing {
        let deadline = Instant::now() + PATIENCE * 3;
        loop {
            let listing = self.replica.list_all().await.unwrap();
            if done(&listing) {
                return listing;
            }
            assert!(Instant::now() < deadline, "{what}: {listing:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until everything is in level 1.
    async fn merged(&self) -> Listing {
        let is_merged = |listing: &Listing| {
            let one = listing.level(Level::new(1).unwrap()).last().map(|segment| segment.txids.max());
            one.is_some() && one == listing.position()
        };
        self.listing_with("everything is merged", is_merged).await
    }
}

fn spooled(path: &Path) -> Vec<PathBuf> {
    let dir = capture::Options::new(path).state_dir().join("spool");
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// F85: a merge costs what it puts, and fetches nothing but the end of the result.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_just_uploaded_is_merged_without_fetching_it() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let rig = Rig::follow(&path, Duration::from_secs(2)).await;
    for _ in 0..5 {
        rig.burst(&app).await;
    }
    let listing = rig.merged().await;
    let (singles, merged) = (listing.level(Level::L0), listing.level(Level::new(1).unwrap()));
    let bytes: u64 = singles.iter().skip(1).map(|segment| segment.size).sum();
    let fetched = rig.counts.of(Operation::Get);
    println!("{} objects of {bytes} bytes merged into {}: {fetched:?}", singles.len() - 1, merged.len());
    assert!(singles.len() > 4 && bytes > 20_000, "{singles:#?}");
    // The newest header at the start, the ends of the base and of each merge.
    assert!(fetched.requests <= 4 + merged.len() as u64, "{fetched:?}");
    assert!(fetched.bytes < 1000, "{fetched:?}");
    let deadline = Instant::now() + PATIENCE;
    while !spooled(&path).is_empty() {
        assert!(Instant::now() < deadline, "what is merged is not kept here: {:?}", spooled(&path));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop(rig.daemon).await;
    assert_restores(&rig.replica, &path).await;
}

/// The copies here are a convenience: without them, or with damage in them, the
/// replica's own objects are merged.
#[tokio::test(flavor = "multi_thread")]
async fn without_sound_local_copies_the_uploaded_objects_are_merged() {
    for damage in ["gone", "flipped"] {
        let dir = tempfile::tempdir().unwrap();
        let (path, app) = database(dir.path(), TABLE);
        let rig = Rig::follow(&path, Duration::from_secs(3)).await;
        rig.burst(&app).await;
        rig.burst(&app).await;
        let copies = spooled(&path);
        assert!(!copies.is_empty(), "they wait for the merge");
        for copy in copies {
            if damage == "gone" {
                std::fs::remove_file(copy).unwrap();
            } else {
                let mut bytes = std::fs::read(&copy).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                std::fs::write(copy, bytes).unwrap();
            }
        }
        let listing = rig.merged().await;
        assert_eq!(listing.level(Level::SNAPSHOT).len(), 1, "{damage}: no base was needed");
        assert!(rig.counts.of(Operation::Get).bytes > 1000, "{damage}");
        stop(rig.daemon).await;
        assert_restores(&rig.replica, &path).await;
        let errors: Vec<String> = log_lines(&path).into_iter().filter(|line| line.starts_with("ERROR")).collect();
        assert_eq!(errors, [""; 0], "{damage}");
    }
}

/// Nobody keeps for a merge what will not be merged.
#[tokio::test(flavor = "multi_thread")]
async fn what_every_replica_has_leaves_the_spool_where_nothing_is_merged() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let replica = replica_in(Arc::new(MemoryStorage::new()), "r");
    let daemon = start(vec![job(&path, &[&replica])]);
    let shipped = |f: &DatabaseFacts| f.captured.is_some() && f.behind().count() == 0;
    wait_for(&daemon, "the base", shipped).await;
    insert(&app, 20);
    wait_for(&daemon, "the rows", |f| shipped(f) && f.captured.unwrap().batch > 1).await;
    let deadline = Instant::now() + PATIENCE;
    while !spooled(&path).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", spooled(&path));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop(daemon).await;
}
