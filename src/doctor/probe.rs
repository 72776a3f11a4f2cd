//! Trying out a storage: writes, reads and removes a few small objects and notes
//! what came of each request. Judges nothing.
//!
//! The objects lie in one folder beside the levels of a replica. Their names
//! are new each time, so that two that try at a time do not meet.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use tokio::time::timeout;

use super::judge::{Facts, Seen, Stamp, Step};
use crate::causes::with_causes;
use crate::storage::{self, Body, ErrorKind, Key, LIST_PAGE, Put, PutOptions, Storage};
use crate::types::Timestamp;

/// No request takes longer. Doctors are asked by people, who wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writers that want one name at a time.
const RACERS: usize = 4;

/// A body that is sent in two parts of the least size S3 allows.
const IN_PARTS: usize = 6 * 1024 * 1024;

/// Begins the names of what is written.
const PREFIX: &str = ".brooklet-probe-";

/// A storage to be tried.
pub struct Probe {
    /// The storage, without retries: what fails at times should be seen to.
    pub storage: Arc<dyn Storage>,
    /// The same, set up to send `IN_PARTS` bytes in parts; `None` leaves that out.
    pub in_parts: Option<Arc<dyn Storage>>,
    /// Where to write.
    pub folder: Key,
    /// Settings say that the credentials may create and read, and neither list nor remove.
    pub create_only: bool,
}

impl Probe {
    /// Tries everything.
    pub async fn run(&self) -> Facts {
        let mut facts = Facts { list: self.list_once().await, create_only: self.create_only, ..Facts::default() };
        let stem = format!("{PREFIX}{:016x}", RandomState::new().build_hasher().finish());
        let name = |what: &str| self.folder.child(&format!("{stem}-{what}"));
        let (Ok(one), Ok(other), Ok(raced), Ok(stamped), Ok(large)) =
            (name("1"), name("2"), name("3"), name("4"), name("5"))
        else {
            // The folder itself is a key, so its names are too.
            return facts;
        };
        let first = format!("{stem}: this may be deleted\n").into_bytes();
        facts.size = first.len() as u64;
        let before = now();
        facts.create = put(&*self.storage, &one, first.clone(), None).await;
        if facts.create != Step::Done(()) {
            return facts;
        }
        facts.clock = Some((before, now()));
        let lists = facts.list == Step::Done(());
        if lists {
            facts.seen = self.seen(&one).await;
        }
        facts.read = self.reads(&one, 0, &first).await;
        facts.range = self.reads(&one, 3, &first[3..11]).await;
        facts.again = put(&*self.storage, &one, b"another body".to_vec(), None).await;
        facts.absent = discard(attempt(self.storage.get(&other, 0..1)).await);
        facts.race = self.race(&raced).await;
        // Cut to what every storage can keep.
        let time = Timestamp::from_millis(1_600_000_000_000);
        let mut written = vec![one.clone(), raced];
        if put(&*self.storage, &stamped, first, Some(time)).await == Step::Done(()) {
            facts.stamp = self.stamp(&stamped, time, lists).await;
            written.push(stamped);
        }
        if let Some(storage) = &self.in_parts {
            facts.parts = put(&**storage, &large, vec![7; IN_PARTS], None).await;
            if facts.parts == Step::Done(()) {
                facts.parts_again = put(&**storage, &large, vec![8; IN_PARTS], None).await;
            }
            written.push(large);
        }
        facts.delete = attempt(self.storage.delete(&written)).await;
        match facts.delete {
            Step::Done(()) => facts.gone = discard(attempt(self.storage.get(&one, 0..1)).await),
            _ => facts.left = self.left(&written).await,
        }
        facts
    }

    async fn list_once(&self) -> Step<()> {
        discard(attempt(self.storage.list(&self.folder, None)).await)
    }

    /// What a listing shows of a new object.
    async fn seen(&self, key: &Key) -> Step<Seen> {
        let mut after = Key::new(format!("{key}").trim_end_matches(|c: char| c != '-')).ok();
        loop {
            let page = match attempt(self.storage.list(&self.folder, after.as_ref())).await {
                Step::Done(page) => page,
                Step::Failed { kind, reason } => return Step::Failed { kind, reason },
                Step::Skipped => return Step::Skipped,
            };
            if let Some(object) = page.iter().find(|object| object.key == *key) {
                return Step::Done(Seen { size: Some(object.size), modified: Some(object.modified) });
            }
            after = match page.last() {
                Some(last) if page.len() == LIST_PAGE && last.key < *key => Some(last.key.clone()),
                _ => return Step::Done(Seen { size: None, modified: None }),
            };
        }
    }

    /// Where the time of this object is found again.
    async fn stamp(&self, key: &Key, time: Timestamp, lists: bool) -> Step<Stamp> {
        if lists && matches!(self.seen(key).await, Step::Done(seen) if seen.modified == Some(time)) {
            return Step::Done(Stamp::Listed);
        }
        match attempt(self.storage.timestamp(key)).await {
            Step::Done(kept) if kept == Some(time) => Step::Done(Stamp::Kept),
            Step::Done(_) => Step::Done(Stamp::Lost),
            Step::Failed { kind, reason } => Step::Failed { kind, reason },
            Step::Skipped => Step::Skipped,
        }
    }

    /// Whether these bytes are there from `start` on.
    async fn reads(&self, key: &Key, start: u64, expected: &[u8]) -> Step<bool> {
        match attempt(self.storage.get(key, start..start + expected.len() as u64)).await {
            Step::Done(bytes) => Step::Done(bytes == expected),
            Step::Failed { kind, reason } => Step::Failed { kind, reason },
            Step::Skipped => Step::Skipped,
        }
    }

    async fn race(&self, key: &Key) -> Step<usize> {
        let racers = (0..RACERS).map(|racer| put(&*self.storage, key, format!("racer {racer}").into_bytes(), None));
        let ends = join_all(racers).await;
        let lost = |end: &Step<()>| end.failed_as(ErrorKind::Exists) || end.failed_as(ErrorKind::Later);
        match ends.iter().find(|end| **end != Step::Done(()) && !lost(end)) {
            Some(Step::Failed { kind, reason }) => Step::Failed { kind: *kind, reason: reason.clone() },
            _ => Step::Done(ends.iter().filter(|end| **end == Step::Done(())).count()),
        }
    }

    /// Which of these are there after all.
    async fn left(&self, written: &[Key]) -> Vec<String> {
        let mut left = Vec::new();
        for key in written {
            let there = attempt(self.storage.get(key, 0..1)).await;
            if !there.failed_as(ErrorKind::Missing) {
                left.push(key.to_string());
            }
        }
        left
    }
}

async fn put(storage: &dyn Storage, key: &Key, body: Vec<u8>, timestamp: Option<Timestamp>) -> Step<()> {
    attempt(storage.put(key, Body::from(body), PutOptions { how: Put::New, timestamp })).await
}

async fn attempt<T>(request: impl Future<Output = storage::Result<T>>) -> Step<T> {
    match timeout(PATIENCE, request).await {
        Ok(Ok(value)) => Step::Done(value),
        Ok(Err(error)) => Step::Failed { kind: error.kind, reason: with_causes(&error) },
        Err(_) => {
            let reason = format!("no answer within {} seconds", PATIENCE.as_secs());
            Step::Failed { kind: ErrorKind::Later, reason }
        }
    }
}

fn discard<T>(step: Step<T>) -> Step<()> {
    match step {
        Step::Done(_) => Step::Done(()),
        Step::Failed { kind, reason } => Step::Failed { kind, reason },
        Step::Skipped => Step::Skipped,
    }
}

fn now() -> Timestamp {
    SystemTime::now().into()
}
