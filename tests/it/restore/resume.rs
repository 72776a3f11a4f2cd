//! A restore that was interrupted, and the next one.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use brooklet::ltx::Encoding;
use brooklet::replica::Replica;
use brooklet::restore::{Evidence, Limits, Options, RestoreError, Target};
use brooklet::storage::{self, ErrorKind, Key, MemoryStorage, Storage};
use bytes::Bytes;

use super::{Counting, Merge, Scratch, TINY, options};
use crate::between::{Behind, Between};
use crate::history::{self, History, noise, range, txid};

/// Goes away after some reads.
struct Leaving {
    counting: Counting,
    reads: AtomicUsize,
    until: usize,
}

#[async_trait]
impl Between for Leaving {
    async fn get(&self, storage: &dyn Storage, key: &Key, range: Range<u64>) -> storage::Result<Bytes> {
        if self.reads.fetch_add(1, Ordering::SeqCst) >= self.until {
            return Err(storage::Error::new(ErrorKind::Later, "the network is gone"));
        }
        self.counting.get(storage, key, range).await
    }
}

struct Interrupted {
    memory: Arc<MemoryStorage>,
    scratch: Scratch,
}

impl Interrupted {
    async fn new(history: &History) -> Self {
        let memory = Arc::new(MemoryStorage::new());
        history.replica(memory.clone(), "r").await;
        Self { memory, scratch: Scratch::new() }
    }

    /// The replica, gone after so many reads; and what is read.
    fn replica(&self, until: usize) -> (Replica, Arc<Behind<Leaving>>) {
        let leaving = Leaving { counting: Counting::default(), reads: AtomicUsize::new(0), until };
        let storage = Behind::new(leaving, self.memory.clone());
        (history::shelf(storage.clone(), "r"), storage)
    }

    /// Restores until the storage is gone; what is left then.
    async fn interrupt(&self, until: usize) -> Vec<PathBuf> {
        let error = self.scratch.restore(&self.replica(until).0, &keeping()).await.unwrap_err();
        assert!(matches!(error, RestoreError::Read(_)), "{error}");
        let mut left: Vec<PathBuf> =
            self.scratch.names().into_iter().map(|name| self.scratch.path().with_file_name(name)).collect();
        left.sort_by_key(|path| fs::metadata(path).unwrap().len());
        left
    }

    /// Restores to the end; the bytes that are read.
    async fn finish(&self, history: &History) -> u64 {
        let (replica, storage) = self.replica(usize::MAX);
        let (bytes, report) = self.scratch.restore(&replica, &keeping()).await.unwrap();
        assert!(bytes == history.file(history.end()));
        assert_eq!(report.evidence, Evidence::Database);
        assert!(self.scratch.names().is_empty(), "{:?}", self.scratch.names());
        storage.between.counting.bytes()
    }
}

fn keeping() -> Options {
    Options { limits: Limits { keep: 1, tail: 4096, ..TINY }, parallelism: 1, ..options(Target::Latest) }
}

/// A base and changes to it; some pages are zeros.
fn long() -> History {
    let mut history = History::new(512, true, Encoding::Block);
    history.commit((1..=120).map(|n| (n, if n % 9 == 0 { vec![0; 512] } else { noise(n.into(), 512) })), 120);
    for n in 0..30u32 {
        history.commit([(1 + n * 4, noise(1000 + u64::from(n), 512))], 120);
    }
    history
}

#[tokio::test]
async fn an_interrupted_restore_is_taken_up() {
    let history = long();
    let whole = Interrupted::new(&history).await.finish(&history).await;
    for until in [10, 20, 40, 60] {
        let place = Interrupted::new(&history).await;
        let left = place.interrupt(until).await;
        assert_eq!(left.len(), 2, "a draft and its journal");
        let rest = place.finish(&history).await;
        // The changes are small, and are read again; of the base, only the rest.
        assert!(rest <= whole, "{until}: {rest} of {whole} bytes");
        assert!(until < 60 || rest * 3 < whole * 2, "{rest} of {whole} bytes");
    }
}

/// A power failure leaves anything; what is left is read, and not believed. The
/// same change to an even number of pages leaves the checksum of the database as
/// it was, so each page has its own.
#[tokio::test]
async fn what_is_left_is_not_believed() {
    let history = long();
    let tampered: [fn(&PathBuf, &PathBuf); 6] = [
        |draft, _| {
            let mut bytes = fs::read(draft).unwrap();
            bytes.iter_mut().for_each(|byte| *byte ^= 1);
            fs::write(draft, bytes).unwrap();
        },
        |draft, _| fs::write(draft, b"").unwrap(),
        |draft, _| fs::write(draft, vec![0; 512 * 7 + 3]).unwrap(),
        |_, journal| {
            let mut bytes = fs::read(journal).unwrap();
            bytes.extend_from_slice(&[0, 0, 0, 119, 0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
            fs::write(journal, bytes).unwrap();
        },
        |_, journal| fs::write(journal, vec![0xff; 9]).unwrap(),
        |_, journal| fs::remove_file(journal).unwrap(),
    ];
    for tamper in tampered {
        let place = Interrupted::new(&history).await;
        let left = place.interrupt(50).await;
        tamper(&left[1], &left[0]);
        place.finish(&history).await;
    }
}

/// A wrong page that was never recorded lies where the right one is zeros.
#[tokio::test]
async fn zeros_are_written_over_what_is_left() {
    let history = long();
    let place = Interrupted::new(&history).await;
    let left = place.interrupt(40).await;
    let named = fs::read(&left[0]).unwrap();
    let mut bytes = fs::read(&left[1]).unwrap();
    let free = |n: u32| !named.chunks(12).any(|entry| entry[..4] == n.to_be_bytes());
    let mut wrong = 0;
    for n in (1..=120u32).filter(|n| free(*n)) {
        bytes[(n as usize - 1) * 512] = 0x77;
        wrong += u32::from(n % 9 == 0);
    }
    assert!(wrong > 0, "a page of zeros is still to come");
    fs::write(&left[1], bytes).unwrap();
    place.finish(&history).await;
}

#[tokio::test]
async fn what_is_left_is_for_the_same_state_only_and_otherwise_removed() {
    let mut history = long();
    let place = Interrupted::new(&history).await;
    place.interrupt(50).await;
    history.commit([(2, noise(77, 512))], 120);
    history.replica(place.memory.clone(), "other").await;
    let replica = history::shelf(place.memory.clone(), "other");
    let (bytes, _) = place.scratch.restore(&replica, &options(Target::Txid(txid(5)))).await.unwrap();
    assert!(bytes == history.file(5));
    assert!(place.scratch.names().is_empty());
    // Little is not worth it, and without a recorded checksum nothing is.
    let place = Interrupted::new(&history).await;
    let few = Options { limits: Limits { keep: u64::MAX, ..keeping().limits }, ..keeping() };
    place.scratch.restore(&place.replica(50).0, &few).await.unwrap_err();
    assert!(place.scratch.names().is_empty());
    let mut foreign = history.clone();
    for n in 1..=history.end() {
        foreign.rewrite(0, range(n, n), |header| (header.generation, header.proof) = (None, None));
    }
    let place = Interrupted::new(&foreign).await;
    place.scratch.restore(&place.replica(50).0, &keeping()).await.unwrap_err();
    assert!(place.scratch.names().is_empty());
}

/// Two at once: one takes up what was left, the other begins anew, both arrive.
#[tokio::test]
async fn two_restores_to_one_target_do_not_meet() {
    let history = long();
    let place = Interrupted::new(&history).await;
    place.interrupt(50).await;
    let options = Options { overwrite: true, ..keeping() };
    let one = place.replica(usize::MAX).0;
    let path = place.scratch.path();
    let restoring = || {
        let (one, path, options) = (one.clone(), path.clone(), options);
        async move { brooklet::restore::restore(&[one], &path, &options, &Arc::default()).await }
    };
    let outcomes = futures::join!(restoring(), restoring());
    assert!(outcomes.0.is_ok() || outcomes.1.is_ok(), "{outcomes:?}");
    assert!(fs::read(&path).unwrap() == history.file(history.end()));
    assert_eq!(place.scratch.names(), ["app.db"]);
}

/// Merges and deletes without any grace, after every few reads.
struct Relentless {
    reads: AtomicUsize,
    every: usize,
    steps: Vec<Merge>,
}

#[async_trait]
impl Between for Relentless {
    async fn get(&self, storage: &dyn Storage, key: &Key, range: Range<u64>) -> storage::Result<Bytes> {
        let read = self.reads.fetch_add(1, Ordering::SeqCst);
        if read.is_multiple_of(self.every)
            && let Some(merge) = self.steps.get(read / self.every)
        {
            merge.run(storage, "r").await?;
        }
        storage.get(key, range).await
    }
}

/// F77: a restore over a slow line, while segments are merged and deleted faster
/// than it reads them. It gets on, because what it wrote stays good.
#[tokio::test]
async fn a_slow_restore_survives_relentless_upkeep() {
    for every in [2, 3, 5, 9] {
        let mut history = long();
        let last = history.end();
        let all = history.clone();
        let mut steps = Vec::new();
        // The last transaction stays at level 0, as everywhere.
        for first in (2..last - 3).step_by(3) {
            history.merge(1, first, first + 2);
            let merged = history.segments.pop().unwrap();
            steps.push(Merge { merged, gone: first..=first + 2 });
        }
        let inner = Arc::new(MemoryStorage::new());
        all.replica(inner.clone(), "r").await;
        let relentless = Relentless { reads: AtomicUsize::new(0), every, steps };
        let replica = history::shelf(Behind::new(relentless, inner), "r");
        let (bytes, report) = Scratch::new().restore(&replica, &keeping()).await.unwrap();
        assert!(bytes == all.file(last), "{every}");
        assert_eq!(report.evidence, Evidence::Database);
    }
}
