//! Credentials that may create and read objects, and nothing else: no listing,
//! no deleting, and no word about whether a name is free.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use brooklet::capture;
use brooklet::daemon::{Daemon, Job};
use brooklet::replica::Replica;
use brooklet::storage::{Body, Error, ErrorKind, Key, MemoryStorage, Object, PutOptions, Result, Storage};
use bytes::Bytes;

use crate::running::{
    TABLE, arrives, assert_restores, bases, database, insert, job, replica_in, start, stop, wait_for,
};

/// What such credentials see of a storage.
struct CreateOnly {
    storage: Arc<MemoryStorage>,
    forbidden: AtomicU32,
}

impl CreateOnly {
    fn new(storage: &Arc<MemoryStorage>) -> Arc<Self> {
        Arc::new(Self { storage: storage.clone(), forbidden: AtomicU32::new(0) })
    }

    fn denied(&self, what: &str) -> Error {
        self.forbidden.fetch_add(1, Ordering::SeqCst);
        Error::new(ErrorKind::Refused, format!("{what}: AccessDenied"))
    }
}

#[async_trait]
impl Storage for CreateOnly {
    fn kind(&self) -> &'static str {
        "create-only"
    }

    async fn list(&self, _: &Key, _: Option<&Key>) -> Result<Vec<Object>> {
        Err(self.denied("list"))
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let hidden = |error: Error| Error::new(ErrorKind::Refused, format!("get: AccessDenied ({error})"));
        self.storage.get(key, range).await.map_err(hidden)
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        self.storage.put(key, body, options).await
    }

    async fn delete(&self, _: &[Key]) -> Result<()> {
        Err(self.denied("delete"))
    }
}

fn create_only_job(path: &Path, replica: &Arc<Replica>) -> Job {
    let mut job = job(path, &[replica]);
    job.replicas.iter_mut().for_each(|to| to.create_only = true);
    job
}

async fn followed(path: &Path, replica: &Arc<Replica>) -> Daemon {
    let daemon = start(vec![create_only_job(path, replica)]);
    wait_for(&daemon, "the replica has the database", |f| f.captured.is_some() && f.behind().count() == 0).await;
    daemon
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_create_replicates_across_restarts_without_asking_for_more() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let storage = Arc::new(MemoryStorage::new());
    let everything = replica_in(storage.clone(), "r");
    let seen = CreateOnly::new(&storage);
    let replica = replica_in(seen.clone(), "r");
    for _ in 0..3 {
        let daemon = followed(&path, &replica).await;
        insert(&app, 10);
        arrives(&everything, &path).await;
        insert(&app, 10);
        stop(daemon).await;
        assert_restores(&everything, &path).await;
    }
    assert_eq!(bases(&everything).await, [1], "the history went on");
    assert_eq!(seen.forbidden.load(Ordering::SeqCst), 0);
}

/// The daemon was killed between writing down a TXID and putting it.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_claimed_and_not_used_costs_a_base_and_no_history() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let storage = Arc::new(MemoryStorage::new());
    let everything = replica_in(storage.clone(), "r");
    let replica = replica_in(CreateOnly::new(&storage), "r");
    let daemon = followed(&path, &replica).await;
    insert(&app, 10);
    stop(daemon).await;
    let record = capture::Options::new(&path).state_dir().join("replica-r");
    let newest = std::fs::read_to_string(&record).unwrap();
    let newest = u64::from_str_radix(newest.trim_end(), 16).unwrap();
    std::fs::write(&record, format!("{:016x}\n", newest + 1)).unwrap();
    let daemon = followed(&path, &replica).await;
    insert(&app, 10);
    stop(daemon).await;
    assert_eq!(bases(&everything).await, [1, newest + 2]);
    assert_restores(&everything, &path).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_record_it_says_so_and_puts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let storage = Arc::new(MemoryStorage::new());
    let everything = replica_in(storage.clone(), "r");
    let replica = replica_in(CreateOnly::new(&storage), "r");
    stop(followed(&path, &replica).await).await;
    let before = everything.list_all().await.unwrap();
    std::fs::remove_file(capture::Options::new(&path).state_dir().join("replica-r")).unwrap();
    insert(&app, 10);
    let daemon = start(vec![create_only_job(&path, &replica)]);
    let said = |f: &brooklet::status::DatabaseFacts| {
        f.replicas[0].error.as_ref().is_some_and(|e| e.contains("use a path that nothing was written to"))
    };
    wait_for(&daemon, "it says what is wrong", said).await;
    drop(daemon);
    assert_eq!(everything.list_all().await.unwrap(), before);
}
