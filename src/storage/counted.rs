//! A wrapper that counts: what a storage is asked, how much it moves, how long it
//! takes. Every attempt counts, since every attempt is paid for. A backend that
//! needs several requests for what it is asked counts them itself.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::{Body, ErrorKind, Key, Object, PutOptions, Result, Storage};
use crate::types::Timestamp;

/// What a storage can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A page of a listing.
    List,
    /// A range of an object, or a look at it.
    Get,
    /// A new object, or one part of it.
    Put,
    /// A batch of deletions.
    Delete,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::List, Self::Get, Self::Put, Self::Delete];

    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::List => "LIST",
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

/// The counters of one replica.
#[derive(Debug, Default)]
pub struct Counts([OnceLock<Box<Counter>>; Operation::ALL.len()]);

#[derive(Debug, Default)]
struct Counter {
    requests: AtomicU64,
    /// By kind, in the order of [`Failure::ALL`].
    errors: [AtomicU64; Failure::ALL.len()],
    bytes: AtomicU64,
    nanos: AtomicU64,
    /// How many took up to the bound of the same place; the last: longer than all bounds.
    times: [AtomicU64; TIME_BOUNDS.len() + 1],
}

/// Upper bounds of the times of requests, in milliseconds.
pub const TIME_BOUNDS: [u64; 9] = [10, 50, 100, 500, 1_000, 5_000, 10_000, 30_000, 60_000];

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// There is no such object.
    Missing,
    /// The name is taken.
    Exists,
    /// It may succeed later.
    Later,
    /// It will not.
    Refused,
    /// Nobody waited for its end.
    Abandoned,
}

impl Failure {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Missing, Self::Exists, Self::Later, Self::Refused, Self::Abandoned];

    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Exists => "exists",
            Self::Later => "later",
            Self::Refused => "refused",
            Self::Abandoned => "abandoned",
        }
    }
}

impl From<ErrorKind> for Failure {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Missing => Self::Missing,
            ErrorKind::Exists => Self::Exists,
            ErrorKind::Later => Self::Later,
            ErrorKind::Refused => Self::Refused,
        }
    }
}

/// What was counted for one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Requests that were begun.
    pub requests: u64,
    /// Those that failed, by kind, in the order of [`Failure::ALL`].
    pub errors: [u64; Failure::ALL.len()],
    /// Bytes that went in or out in bodies.
    pub bytes: u64,
    /// Time spent, of all requests together.
    pub time: Duration,
    /// How many took up to the bound of the same place in [`TIME_BOUNDS`]; the last: longer than all bounds.
    pub times: [u64; TIME_BOUNDS.len() + 1],
}

impl Snapshot {
    /// What another has counted.
    pub fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors.iter_mut().zip(other.errors).for_each(|(mine, more)| *mine += more);
        self.bytes += other.bytes;
        self.time += other.time;
        self.times.iter_mut().zip(other.times).for_each(|(mine, more)| *mine += more);
    }
}

impl Counts {
    /// What was counted so far.
    pub fn of(&self, operation: Operation) -> Snapshot {
        let Some(counter) = self.0[operation as usize].get() else { return Snapshot::default() };
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Snapshot {
            requests: read(&counter.requests),
            errors: counter.errors.each_ref().map(read),
            bytes: read(&counter.bytes),
            time: Duration::from_nanos(read(&counter.nanos)),
            times: counter.times.each_ref().map(read),
        }
    }

    /// Requests of every kind.
    pub fn requests(&self) -> u64 {
        Operation::ALL.iter().map(|operation| self.of(*operation).requests).sum()
    }

    fn counter(&self, operation: Operation) -> &Counter {
        self.0[operation as usize].get_or_init(Box::default)
    }

    /// For backends that need several requests for what they are asked.
    pub(super) fn begin(self: &Arc<Self>, operation: Operation) -> Request {
        self.counter(operation).requests.fetch_add(1, Ordering::Relaxed);
        Request { counts: self.clone(), operation, begun: Instant::now(), failed: Some(Failure::Abandoned) }
    }

    pub(super) fn moved(&self, operation: Operation, bytes: usize) {
        self.counter(operation).bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A request under way. Dropped before its end, it counts as failed.
pub(super) struct Request {
    counts: Arc<Counts>,
    operation: Operation,
    begun: Instant,
    failed: Option<Failure>,
}

impl Request {
    fn moved(&self, bytes: usize) {
        self.counts.moved(self.operation, bytes);
    }

    pub(super) fn end<T>(self, outcome: Result<T>) -> Result<T> {
        self.end_as(outcome, |error| error.kind)
    }

    /// The same for an outcome that is not yet in our own words.
    pub(super) fn end_as<T, E>(
        mut self,
        outcome: std::result::Result<T, E>,
        kind: impl Fn(&E) -> ErrorKind,
    ) -> std::result::Result<T, E> {
        self.failed = outcome.as_ref().err().map(|error| kind(error).into());
        outcome
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let counter = self.counts.counter(self.operation);
        let took = self.begun.elapsed();
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        counter.nanos.fetch_add(nanos, Ordering::Relaxed);
        let place = TIME_BOUNDS.iter().position(|bound| took <= Duration::from_millis(*bound));
        counter.times[place.unwrap_or(TIME_BOUNDS.len())].fetch_add(1, Ordering::Relaxed);
        if let Some(failure) = self.failed {
            counter.errors[failure as usize].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A storage whose requests are counted.
#[derive(Debug)]
pub struct Counted<S> {
    inner: S,
    counts: Arc<Counts>,
}

impl<S: Storage> Counted<S> {
    /// Wraps a storage.
    pub fn new(inner: S, counts: Arc<Counts>) -> Self {
        Self { inner, counts }
    }
}

#[async_trait]
impl<S: Storage> Storage for Counted<S> {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        let request = self.counts.begin(Operation::List);
        request.end(self.inner.list(prefix, after).await)
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let request = self.counts.begin(Operation::Get);
        let got = self.inner.get(key, range).await;
        if let Ok(bytes) = &got {
            request.moved(bytes.len());
        }
        request.end(got)
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        let request = self.counts.begin(Operation::Put);
        let counts = self.counts.clone();
        let body = match body {
            Body::Stream(chunks) => {
                Body::Stream(chunks.inspect_ok(move |chunk| counts.moved(Operation::Put, chunk.len())).boxed())
            }
            Body::Bytes(bytes) => {
                request.moved(bytes.len());
                Body::Bytes(bytes)
            }
            Body::File(path) => {
                let size = tokio::fs::metadata(&path).await.map_or(0, |meta| meta.len());
                request.moved(usize::try_from(size).unwrap_or(usize::MAX));
                Body::File(path)
            }
        };
        request.end(self.inner.put(key, body, options).await)
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        let request = self.counts.begin(Operation::Delete);
        request.end(self.inner.delete(keys).await)
    }

    async fn tidy(&self, prefix: &Key, before: Timestamp) -> Result<u64> {
        self.inner.tidy(prefix, before).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<bool> {
        let request = self.counts.begin(Operation::Put);
        request.end(self.inner.copy(from, to).await)
    }

    async fn timestamp(&self, key: &Key) -> Result<Option<Timestamp>> {
        let request = self.counts.begin(Operation::Get);
        request.end(self.inner.timestamp(key).await)
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::super::{MemoryStorage, Put};
    use super::*;

    #[tokio::test]
    async fn every_request_counts_once_with_its_bytes_and_its_outcome() {
        let counts = Arc::new(Counts::default());
        let storage = Counted::new(MemoryStorage::new(), counts.clone());
        let key = Key::new("a").unwrap();
        let options = PutOptions { how: Put::New, timestamp: None };
        let body = || Body::Stream(stream::iter(["on", "e"].map(|part| Ok(Bytes::from(part)))).boxed());
        storage.put(&key, body(), options).await.unwrap();
        storage.put(&key, Body::Bytes(Bytes::from_static(b"two")), options).await.unwrap_err();
        assert_eq!(storage.get(&key, 1..3).await.unwrap(), "ne");
        storage.list(&Key::ROOT, None).await.unwrap();
        let counted = |operation| {
            let Snapshot { requests, errors, bytes, .. } = counts.of(operation);
            (requests, errors.iter().sum::<u64>(), bytes)
        };
        assert_eq!(counted(Operation::Put), (2, 1, 6));
        assert_eq!(counted(Operation::Get), (1, 0, 2));
        assert_eq!(counted(Operation::List), (1, 0, 0));
        assert_eq!(counted(Operation::Delete), (0, 0, 0));
        assert_eq!(counts.requests(), 4);
        let put = counts.of(Operation::Put);
        assert_eq!((put.errors[Failure::Exists as usize], put.times[0]), (1, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_given_up_counts_as_failed() {
        let counts = Arc::new(Counts::default());
        let request = counts.begin(Operation::Get);
        tokio::time::advance(Duration::from_secs(3)).await;
        drop(request);
        let Snapshot { errors, time, times, .. } = counts.of(Operation::Get);
        assert_eq!((errors[Failure::Abandoned as usize], time), (1, Duration::from_secs(3)));
        assert_eq!(times[5], 1, "{times:?}");
    }
}
