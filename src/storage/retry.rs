//! A wrapper that tries again what may succeed later.
//!
//! Always true: only `Later` is tried again, a bounded number of times, after
//! waits that grow and are spread by chance; a body that came as a stream is
//! never sent twice; a request in which nothing moves ends, and its connection
//! with it, within half a minute.
//!
//! A put that failed may have been stored all the same (the answer was lost), so
//! the second attempt of a `Put::New` can meet the first one's object and return
//! `Exists`. Telling that from another writer takes a look at the content, which
//! is the caller's business.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use tokio::time::sleep;

use super::{Body, Error, ErrorKind, Key, Object, Progress, PutOptions, Result, Storage};

/// Attempts of one request. With the waits below the last one begins at most 13
/// seconds after the first, when each fails at once: long enough for a restart of
/// the other side, short enough for the caller to show that something is wrong.
const ATTEMPTS: u32 = 7;

/// The longest wait before the second attempt; doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// No wait before repeating an upload is longer: after an outage the backlog
/// must not sit idle.
const UPLOAD_WAIT_CAP: Duration = Duration::from_secs(15);

/// No wait before repeating anything else is longer: somebody waits for it.
const WAIT_CAP: Duration = Duration::from_secs(5);

/// A request that has shown no sign of life for this many checks is given up:
/// after 20 to 25 seconds.
const SILENT_CHECKS: u32 = 4;

/// How often to look for signs of life.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// Gives a number that is random over all of `u64`.
pub type Dice = Box<dyn Fn() -> u64 + Send + Sync>;

/// A storage whose passing failures are tried again.
pub struct Retry {
    inner: Arc<dyn Storage>,
    dice: Dice,
}

impl Retry {
    /// Wraps a storage.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        // Every `RandomState` hashes differently, with keys from the system.
        Self::with_dice(inner, Box::new(|| RandomState::new().build_hasher().finish()))
    }

    /// Wraps a storage; `dice` spreads the waits. The clock is tokio's, which
    /// tests can pause.
    pub fn with_dice(inner: Arc<dyn Storage>, dice: Dice) -> Self {
        Self { inner, dice }
    }

    /// Runs the requests that `next` makes until one is done, or failed for good,
    /// or there are no more.
    async fn run<'a, T: Send>(
        &self,
        cap: Duration,
        mut next: impl FnMut(&Progress) -> Option<BoxFuture<'a, Result<T>>> + Send,
    ) -> Result<T> {
        let mut progress = Progress::default();
        let mut request = next(&progress).expect("there is always a first attempt");
        for attempt in 1.. {
            let error = match watched(progress, request).await {
                Err(error) if error.kind == ErrorKind::Later => error,
                outcome => return outcome,
            };
            progress = Progress::default();
            let again = if attempt < ATTEMPTS { next(&progress) } else { None };
            let Some(again) = again else {
                let message = format!("{} ({attempt} of {ATTEMPTS} attempts made)", error.message);
                return Err(Error { message, ..error });
            };
            let wait = wait_after(attempt, cap, (self.dice)());
            tracing::debug!(%error, attempt, wait = ?wait, "storage request failed, trying again");
            sleep(wait).await;
            request = again;
        }
        unreachable!("the last attempt has returned")
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("inner", &self.inner.kind()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Storage for Retry {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        self.run(WAIT_CAP, |_| Some(self.inner.list(prefix, after))).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.run(WAIT_CAP, |_| Some(self.inner.get(key, range.clone()))).await
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        let mut body = Some(body);
        self.run(UPLOAD_WAIT_CAP, |progress| {
            let this_time = body.take()?;
            body = this_time.again();
            Some(self.inner.put(key, announced(this_time, progress), options))
        })
        .await
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        self.run(WAIT_CAP, |_| Some(self.inner.delete(keys))).await
    }
}

/// Full jitter: anything between nothing and the doubling limit, so that many
/// databases that failed together do not come back together.
/// <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>
fn wait_after(attempt: u32, cap: Duration, dice: u64) -> Duration {
    let doubled = 1u32.checked_shl(attempt.saturating_sub(1)).and_then(|times| FIRST_WAIT.checked_mul(times));
    let limit = doubled.map_or(cap, |limit| limit.min(cap));
    let nanos = (limit.as_nanos() * u128::from(dice)) >> u64::BITS;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Runs one attempt until it is done or shows no sign of life.
async fn watched<T>(progress: Progress, request: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        outcome = progress.clone().watch(request) => outcome,
        () = silence(&progress) => {
            let limit = CHECK_EVERY * SILENT_CHECKS;
            Err(Error::new(ErrorKind::Later, format!("nothing moved for {} s, gave up waiting", limit.as_secs())))
        }
    }
}

/// Returns when nothing has moved for long enough.
async fn silence(progress: &Progress) {
    let mut seen = progress.count();
    let mut silent = 0;
    while silent < SILENT_CHECKS {
        sleep(CHECK_EVERY).await;
        let count = progress.count();
        silent = if count.is_some() && count == seen { silent + 1 } else { 0 };
        seen = count;
    }
}

/// A stream says when it keeps the storage waiting.
fn announced(body: Body, progress: &Progress) -> Body {
    let Body::Stream(mut chunks) = body else { return body };
    let progress = progress.clone();
    let polled = stream::poll_fn(move |context| {
        let polled = chunks.poll_next_unpin(context);
        progress.waits_for_caller(polled.is_pending());
        progress.moved();
        polled
    });
    Body::Stream(polled.boxed())
}
