//! Restoring from histories whose every state is known.

mod chains;
mod cli;
#[cfg(feature = "failpoints")]
mod crash;
mod damage;
mod delta;
mod follow;
mod official;
mod resume;

use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use brooklet::replica::Replica;
use brooklet::restore::{Evidence, Limits, Options, Progress, Report, RestoreError, Target, restore};
use brooklet::storage::{self, Body, Key, Put, PutOptions, Storage};
use brooklet::types::TxidRange;
use bytes::Bytes;
use tempfile::TempDir;

use crate::between::Between;
use crate::history::{Stored, range};

/// Limits so small that a few pages exercise every way of fetching.
const TINY: Limits = Limits { whole: 1500, range: 1200, in_vain: 100, tail: 40, index: 7, keep: u64::MAX };

fn options(target: Target) -> Options {
    Options { target, parallelism: 3, ..Options::default() }
}

/// A directory with a target in it that is never touched unless a restore succeeds.
struct Scratch {
    dir: TempDir,
}

impl Scratch {
    fn new() -> Self {
        // Thousands of restores go here, and none of them has to survive anything.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        Self { dir: dir.unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    /// Everything in the directory.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    async fn restore(&self, replica: &Replica, options: &Options) -> Result<(Vec<u8>, Report), RestoreError> {
        restore_to(&self.path(), replica, options).await
    }
}

/// Restores and takes the result away again.
async fn restore_to(path: &Path, replica: &Replica, options: &Options) -> Result<(Vec<u8>, Report), RestoreError> {
    let report = restore(std::slice::from_ref(replica), path, options, &Arc::new(Progress::default())).await?;
    let bytes = std::fs::read(path).unwrap();
    std::fs::remove_file(path).unwrap();
    Ok((bytes, report))
}

fn evidence(proofs: bool) -> Evidence {
    if proofs { Evidence::Database } else { Evidence::Files }
}

/// Counts the bytes that are read.
#[derive(Default)]
struct Counting {
    bytes: AtomicU64,
}

impl Counting {
    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Between for Counting {
    async fn get(&self, storage: &dyn Storage, key: &Key, range: Range<u64>) -> storage::Result<Bytes> {
        self.bytes.fetch_add(range.end - range.start, Ordering::SeqCst);
        storage.get(key, range).await
    }
}

/// What upkeep does with some transactions: puts them as one, and deletes them at level 0.
struct Merge {
    merged: Stored,
    gone: RangeInclusive<u64>,
}

impl Merge {
    async fn run(&self, storage: &dyn Storage, root: &str) -> storage::Result<()> {
        let key = |level: u8, txids: TxidRange| Key::new(format!("{root}/ltx/{level}/{txids}.ltx")).unwrap();
        let options = PutOptions { how: Put::Replace, timestamp: None };
        let body = Body::from(self.merged.bytes.clone());
        storage.put(&key(self.merged.level, self.merged.txids), body, options).await?;
        let gone: Vec<Key> = self.gone.clone().map(|n| key(0, range(n, n))).collect();
        storage.delete(&gone).await
    }
}
