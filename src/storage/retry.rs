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
use futures::{FutureExt, StreamExt, stream};
use tokio::time::sleep;

use super::{Body, Error, ErrorKind, Key, Object, Progress, PutOptions, Result, Storage};
use crate::types::Timestamp;

/// Attempts of one request. If each fails at once, the last one begins at most
/// half a minute after the first: long enough for the other side to restart,
/// short enough for the caller to show in time that something is wrong.
const ATTEMPTS: u32 = 7;

/// The longest wait before the second attempt; doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// No wait before repeating an upload is longer: ten seconds after an outage the
/// backlog is to be gone.
const UPLOAD_WAIT_CAP: Duration = Duration::from_secs(8);

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
            // The pace slows down those who are asked to, together; waiting on top would only add to the lag.
            let cap = if error.throttled { cap.min(WAIT_CAP) } else { cap };
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
        self.run(WAIT_CAP, |_| Some(whole(&*self.inner, key, range.clone()).boxed())).await
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

    async fn tidy(&self, prefix: &Key, before: Timestamp) -> Result<u64> {
        self.run(WAIT_CAP, |_| Some(self.inner.tidy(prefix, before))).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<bool> {
        self.run(WAIT_CAP, |_| Some(self.inner.copy(from, to))).await
    }

    async fn timestamp(&self, key: &Key) -> Result<Option<Timestamp>> {
        self.run(WAIT_CAP, |_| Some(self.inner.timestamp(key))).await
    }
}

/// A read that arrives whole. Backends promise that; a proxy that cuts bodies
/// short can make one break its promise.
async fn whole(inner: &dyn Storage, key: &Key, range: Range<u64>) -> Result<Bytes> {
    let bytes = inner.get(key, range.clone()).await?;
    let wanted = range.end.saturating_sub(range.start);
    if bytes.len() as u64 == wanted { Ok(bytes) } else { Err(Error::cut_short(key, wanted, bytes.len())) }
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
pub(super) async fn watched<T>(progress: Progress, request: impl Future<Output = Result<T>>) -> Result<T> {
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
        if polled.is_ready() {
            progress.moved();
        }
        polled
    });
    Body::Stream(polled.boxed())
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::FutureExt;
    use tokio::time::Instant;

    use super::super::Put;
    use super::*;

    type Script = Box<dyn Fn(u32) -> BoxFuture<'static, Result<()>> + Send + Sync>;

    /// Does what a script says at each attempt, and notes when.
    struct Scripted {
        script: Script,
        begun: Mutex<Vec<Instant>>,
    }

    impl Scripted {
        async fn act(&self) -> Result<()> {
            let attempt = {
                let mut begun = self.begun.lock().unwrap();
                begun.push(Instant::now());
                u32::try_from(begun.len()).unwrap()
            };
            (self.script)(attempt).await
        }
    }

    #[async_trait]
    impl Storage for Scripted {
        fn kind(&self) -> &'static str {
            "scripted"
        }

        async fn list(&self, _: &Key, _: Option<&Key>) -> Result<Vec<Object>> {
            self.act().await.map(|()| Vec::new())
        }

        async fn get(&self, _: &Key, range: Range<u64>) -> Result<Bytes> {
            self.act().await.map(|()| Bytes::from(vec![0; usize::try_from(range.end - range.start).unwrap()]))
        }

        async fn put(&self, _: &Key, body: Body, _: PutOptions) -> Result<()> {
            if let Body::Stream(chunks) = body {
                chunks.for_each(|_| async {}).await;
            }
            self.act().await
        }

        async fn delete(&self, _: &[Key]) -> Result<()> {
            self.act().await
        }
    }

    const NEW: PutOptions = PutOptions { how: Put::New, timestamp: None };

    fn retry(
        dice: u64,
        script: impl Fn(u32) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) -> (Retry, Arc<Scripted>) {
        let scripted = Arc::new(Scripted { script: Box::new(script), begun: Mutex::default() });
        let inner: Arc<dyn Storage> = scripted.clone();
        (Retry::with_dice(inner, Box::new(move || dice)), scripted)
    }

    fn fails(kind: ErrorKind) -> impl Fn(u32) -> BoxFuture<'static, Result<()>> {
        move |_| async move { Err(Error::new(kind, "no")) }.boxed()
    }

    fn bytes() -> Body {
        Body::Bytes(Bytes::from_static(b"x"))
    }

    impl Scripted {
        fn waits(&self) -> Vec<Duration> {
            self.begun.lock().unwrap().windows(2).map(|pair| pair[1] - pair[0]).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_may_succeed_later_is_tried_again() {
        for kind in [ErrorKind::Missing, ErrorKind::Exists, ErrorKind::Refused] {
            let (retry, scripted) = retry(0, fails(kind));
            assert_eq!(retry.put(&Key::ROOT, bytes(), NEW).await.unwrap_err().kind, kind);
            assert!(scripted.waits().is_empty());
        }
        let (retry, _) = retry(0, |attempt| {
            async move { if attempt < 3 { Err(Error::new(ErrorKind::Later, "no")) } else { Ok(()) } }.boxed()
        });
        retry.delete(&[]).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_bounded_and_the_last_error_tells_how_many() {
        let (retry, scripted) = retry(u64::MAX, fails(ErrorKind::Later));
        let error = retry.put(&Key::ROOT, bytes(), NEW).await.unwrap_err();
        assert_eq!((error.kind, error.to_string().as_str()), (ErrorKind::Later, "no (7 of 7 attempts made)"));
        assert_eq!(scripted.waits().len(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_double_up_to_their_cap() {
        // In tenths of a second; the clock ticks in milliseconds.
        let tenths = |waits: Vec<Duration>| waits.iter().map(|wait| (wait.as_millis() + 50) / 100).collect::<Vec<_>>();
        let (retry_put, scripted) = retry(u64::MAX, fails(ErrorKind::Later));
        retry_put.put(&Key::ROOT, bytes(), NEW).await.unwrap_err();
        assert_eq!(tenths(scripted.waits()), [5, 10, 20, 40, 80, 80]);
        let (retry_get, scripted) = retry(u64::MAX, fails(ErrorKind::Later));
        retry_get.get(&Key::ROOT, 0..1).await.unwrap_err();
        assert_eq!(tenths(scripted.waits()), [5, 10, 20, 40, 50, 50]);
    }

    #[test]
    fn chance_spreads_the_waits_from_nothing_to_the_limit() {
        assert_eq!(wait_after(3, WAIT_CAP, 0), Duration::ZERO);
        assert_eq!(wait_after(3, WAIT_CAP, u64::MAX / 2 + 1), Duration::from_secs(1));
        for attempt in 1..200 {
            assert!(wait_after(attempt, WAIT_CAP, u64::MAX) <= WAIT_CAP);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_never_sent_twice() {
        let (retry, scripted) = retry(0, fails(ErrorKind::Later));
        let body = Body::Stream(stream::iter([Ok(Bytes::from_static(b"x"))]).boxed());
        let error = retry.put(&Key::ROOT, body, NEW).await.unwrap_err();
        assert_eq!(error.to_string(), "no (1 of 7 attempts made)");
        assert!(scripted.waits().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hung_request_is_ended_within_thirty_seconds() {
        let dropped = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&dropped);
        let (retry, scripted) = retry(0, move |attempt| {
            let count = Arc::clone(&count);
            let guard = DropGuard(count);
            async move {
                let _guard = guard;
                if attempt == 1 { pending().await } else { Ok(()) }
            }
            .boxed()
        });
        retry.list(&Key::ROOT, None).await.unwrap();
        let waits = scripted.waits();
        assert!((Duration::from_secs(20)..=Duration::from_secs(30)).contains(&waits[0]), "{waits:?}");
        assert_eq!(dropped.load(Ordering::SeqCst), 2, "the connection goes with the request");
    }

    struct DropGuard(Arc<AtomicU32>);

    impl Drop for DropGuard {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_request_that_moves_is_left_alone() {
        let (retry, scripted) = retry(0, |_| {
            async {
                for _ in 0..60 {
                    sleep(Duration::from_secs(10)).await;
                    Progress::current().moved();
                }
                Ok(())
            }
            .boxed()
        });
        retry.get(&Key::ROOT, 0..1).await.unwrap();
        assert!(scripted.waits().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_the_producer_of_a_stream_is_not_the_storages_silence() {
        let (retry, _) = retry(0, |_| async { Ok(()) }.boxed());
        let slow = stream::iter([1, 2]).then(|_| async {
            sleep(Duration::from_secs(600)).await;
            Ok(Bytes::from_static(b"x"))
        });
        retry.put(&Key::ROOT, Body::Stream(slow.boxed()), NEW).await.unwrap();
        let (retry, _) = retry_that_hangs();
        let quick = stream::iter([Ok(Bytes::from_static(b"x"))]);
        let error = retry.put(&Key::ROOT, Body::Stream(quick.boxed()), NEW).await.unwrap_err();
        assert_eq!(error.to_string(), "nothing moved for 20 s, gave up waiting (1 of 7 attempts made)");
    }

    fn retry_that_hangs() -> (Retry, Arc<Scripted>) {
        retry(0, |_| pending().boxed())
    }
}
