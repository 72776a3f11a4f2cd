//! A wrapper that asks for no more than a storage wants to give, and sends no
//! more than the line should carry.
//!
//! Always true: after the storage asked for fewer requests, all who share a
//! `Pace` together make fewer, at first half as many as before, and more again
//! only as fast as requests succeed; nobody waits for a turn longer than ten
//! seconds, but is told to come again. With a limit on uploads, bodies at hand
//! (the tail of the log) go ahead of streams (whole databases), which get what
//! is left.
//!
//! Belongs inside `Retry`, so that each attempt waits for its turn.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Body, Error, ErrorKind, Key, Object, Progress, PutOptions, Result, Storage};
use crate::types::Timestamp;

/// Requests per second that are always allowed: enough to notice when the storage has recovered.
const SLOWEST: f64 = 2.0;

/// Requests per second, by which requests become more in every second in which some succeed.
const GROWTH: f64 = 10.0;

/// From so many requests per second on, nothing holds them back any more.
/// S3 gives 3,500 writes a second to a prefix.
const FREE: f64 = 1000.0;

/// Requests of one service under way at once. When thousands of databases are opened, or find their storage again
/// after an outage, they take turns.
const AT_ONCE: usize = 64;

/// Nobody waits longer for a turn.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// What several storages of one service share.
pub struct Pace {
    requests: Mutex<Requests>,
    /// Held by the one whose turn is next; the others stand in line for it.
    gate: tokio::sync::Mutex<()>,
    /// Permits for requests under way.
    under_way: Semaphore,
    uploads: Option<Mutex<Line>>,
}

impl Pace {
    /// Requests without limit until the storage asks for fewer; uploads of at
    /// most `max_upload_rate` bytes per second.
    pub fn new(max_upload_rate: Option<NonZeroU64>) -> Self {
        let now = Instant::now();
        Self {
            requests: Mutex::new(Requests::new(now)),
            gate: tokio::sync::Mutex::const_new(()),
            under_way: Semaphore::new(AT_ONCE),
            uploads: max_upload_rate.map(|rate| Mutex::new(Line { rate, ahead: now, all: now })),
        }
    }

    /// The pace that all storages of this process keep with the service of that name.
    pub fn shared(service: &str, max_upload_rate: Option<NonZeroU64>) -> Arc<Self> {
        type Known = HashMap<(String, Option<NonZeroU64>), Weak<Pace>>;
        static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_default();
        known.retain(|_, pace| pace.strong_count() > 0);
        let place = known.entry((service.to_owned(), max_upload_rate)).or_default();
        place.upgrade().unwrap_or_else(|| {
            let pace = Arc::new(Self::new(max_upload_rate));
            *place = Arc::downgrade(&pace);
            pace
        })
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a request when it is its turn, and learns from the outcome.
    async fn keep<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        if timeout(LONGEST_WAIT, self.turn()).await.is_err() {
            let text = "too many requests wait for a storage that asked for fewer";
            return Err(Error::new(ErrorKind::Later, text).throttled());
        }
        let _permit = match self.under_way.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                let _waiting = Waiting::begin();
                self.under_way.acquire().await.expect("nobody closes it")
            }
        };
        let begun = Instant::now();
        let outcome = request.await;
        match &outcome {
            Err(error) if error.throttled => self.requests().slow_down(begun, Instant::now()),
            // Any other answer than a lost one shows that the storage keeps up.
            Err(error) if error.kind == ErrorKind::Later => {}
            _ => self.requests().speed_up(Instant::now()),
        }
        outcome
    }

    /// Waits for a turn.
    async fn turn(&self) {
        if self.requests().free(Instant::now()) {
            return;
        }
        let _waiting = Waiting::begin();
        let _gate = self.gate.lock().await;
        // The pace may change meanwhile, in either direction.
        loop {
            let later = self.requests().take_turn(Instant::now());
            match later {
                None => return,
                Some(later) => sleep_until(later).await,
            }
        }
    }

    /// Waits until a body at hand may go.
    async fn send_ahead(&self, bytes: u64) {
        let Some(line) = &self.uploads else { return };
        let turn = line.lock().unwrap_or_else(PoisonError::into_inner).ahead(bytes, Instant::now());
        wait_until(turn).await;
    }

    /// Waits until a piece of a stream may go.
    async fn send(&self, bytes: u64) {
        let Some(line) = &self.uploads else { return };
        loop {
            let turn = line.lock().unwrap_or_else(PoisonError::into_inner).behind(bytes, Instant::now());
            match turn {
                None => return,
                Some(later) => wait_until(later).await,
            }
        }
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace").field("requests_per_second", &self.requests().rate).finish_non_exhaustive()
    }
}

async fn wait_until(turn: Instant) {
    if turn > Instant::now() {
        let _waiting = Waiting::begin();
        sleep_until(turn).await;
    }
}

/// Waiting for a turn is not the storage's silence.
struct Waiting(Progress);

impl Waiting {
    fn begin() -> Self {
        let progress = Progress::current();
        progress.waits_for_caller(true);
        Self(progress)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waits_for_caller(false);
        self.0.moved();
    }
}

/// How many requests may be made.
#[derive(Debug)]
struct Requests {
    /// Per second; `None`: as many as come.
    rate: Option<f64>,
    /// When the next one may begin.
    next: Instant,
    /// When the storage last asked for fewer.
    slowed: Instant,
    /// When `rate` last grew.
    grown: Instant,
    /// The second that is being counted, its requests, and those of the one before.
    counted: (Instant, u32, u32),
}

impl Requests {
    fn new(now: Instant) -> Self {
        Self { rate: None, next: now, slowed: now, grown: now, counted: (now, 0, 0) }
    }

    /// Whether a request may begin without standing in line; counted if so.
    fn free(&mut self, now: Instant) -> bool {
        if self.rate.is_none() {
            self.count(now);
        }
        self.rate.is_none()
    }

    /// Takes the turn if it has come, else says when to ask again.
    fn take_turn(&mut self, now: Instant) -> Option<Instant> {
        if let Some(rate) = self.rate {
            if self.next > now {
                // Not all the way: the pace may have picked up by then.
                return Some(self.next.min(now + Duration::from_millis(100)));
            }
            self.next = now + Duration::from_secs_f64(1.0 / rate);
        }
        self.count(now);
        None
    }

    fn count(&mut self, now: Instant) {
        let (since, count, _) = self.counted;
        let passed = now.duration_since(since);
        if passed >= Duration::from_secs(1) {
            let before = if passed < Duration::from_secs(2) { count } else { 0 };
            self.counted = (now, 0, before);
        }
        self.counted.1 += 1;
    }

    /// The storage asked for fewer. What had begun before it last did so tells nothing new.
    fn slow_down(&mut self, begun: Instant, now: Instant) {
        if self.rate.is_some() && begun <= self.slowed {
            return;
        }
        let (_, count, before) = self.counted;
        let rate = self.rate.unwrap_or_else(|| f64::from(count.max(before)));
        let rate = (rate / 2.0).max(SLOWEST);
        self.rate = Some(rate);
        self.next = now + Duration::from_secs_f64(1.0 / rate);
        (self.slowed, self.grown) = (now, now);
    }

    /// The storage keeps up.
    fn speed_up(&mut self, now: Instant) {
        let Some(rate) = &mut self.rate else { return };
        let passed = now.duration_since(self.grown).min(Duration::from_secs(1));
        self.grown = now;
        *rate += GROWTH * passed.as_secs_f64();
        if *rate >= FREE {
            self.rate = None;
        }
    }
}

/// A line out that carries `rate` bytes per second.
#[derive(Debug)]
struct Line {
    rate: NonZeroU64,
    /// When what went ahead will have gone.
    ahead: Instant,
    /// When everything will have gone.
    all: Instant,
}

impl Line {
    fn takes(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.get());
        // An hour at once is as good as longer.
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(Duration::from_secs(3600))
    }

    /// When something may go that waits only for others which went ahead.
    fn ahead(&mut self, bytes: u64, now: Instant) -> Instant {
        let takes = self.takes(bytes);
        let turn = self.ahead.max(now);
        self.ahead = turn + takes;
        self.all = self.all.max(now) + takes;
        turn
    }

    /// Nothing if the line is free and now taken, else when to ask again.
    fn behind(&mut self, bytes: u64, now: Instant) -> Option<Instant> {
        if self.all > now {
            return Some(self.all);
        }
        self.all = now + self.takes(bytes);
        None
    }
}

/// A storage that is asked at a pace.
pub struct Throttle {
    inner: Arc<dyn Storage>,
    pace: Arc<Pace>,
}

impl Throttle {
    /// Wraps a storage.
    pub fn new(inner: Arc<dyn Storage>, pace: Arc<Pace>) -> Self {
        Self { inner, pace }
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inner, pace } = self;
        f.debug_struct("Throttle").field("inner", &inner.kind()).field("pace", pace).finish()
    }
}

#[async_trait]
impl Storage for Throttle {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        self.pace.keep(self.inner.list(prefix, after)).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.pace.keep(self.inner.get(key, range)).await
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        let body = match body {
            Body::Bytes(bytes) => {
                self.pace.send_ahead(bytes.len() as u64).await;
                Body::Bytes(bytes)
            }
            Body::File(path) => {
                // What cannot be looked at is the storage's to complain about.
                let length = tokio::fs::metadata(&path).await.map_or(0, |found| found.len());
                self.pace.send_ahead(length).await;
                Body::File(path)
            }
            Body::Stream(chunks) => {
                let state = (chunks, Arc::clone(&self.pace));
                let paced = stream::unfold(state, |(mut chunks, pace)| async move {
                    let chunk = chunks.next().await?;
                    if let Ok(chunk) = &chunk {
                        pace.send(chunk.len() as u64).await;
                    }
                    Some((chunk, (chunks, pace)))
                });
                Body::Stream(paced.boxed())
            }
        };
        self.pace.keep(self.inner.put(key, body, options)).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        self.pace.keep(self.inner.delete(keys)).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<bool> {
        self.pace.keep(self.inner.copy(from, to)).await
    }

    async fn timestamp(&self, key: &Key) -> Result<Option<Timestamp>> {
        self.pace.keep(self.inner.timestamp(key)).await
    }

    async fn tidy(&self, prefix: &Key, before: Timestamp) -> Result<u64> {
        self.pace.keep(self.inner.tidy(prefix, before)).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MemoryStorage, Put, Retry};
    use super::*;

    const NEW: PutOptions = PutOptions { how: Put::New, timestamp: None };
    const REPLACE: PutOptions = PutOptions { how: Put::Replace, timestamp: None };

    /// F111: ten thousand databases that are opened together take turns.
    #[tokio::test]
    async fn no_more_than_so_many_requests_are_under_way() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let pace = Pace::new(None);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let one = || {
            pace.keep(async {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            })
        };
        let done = futures::future::join_all((0..500).map(|_| one())).await;
        assert!(done.iter().all(Result::is_ok));
        assert_eq!(most.into_inner(), AT_ONCE);
    }

    /// A storage that wants fewer requests from a moment on, for a while.
    struct Busy {
        memory: MemoryStorage,
        from: Instant,
        until: Instant,
        seen: Mutex<Vec<Instant>>,
    }

    impl Busy {
        fn new(from: u64, until: u64) -> Arc<Self> {
            let (now, at) = (Instant::now(), Duration::from_secs);
            let memory = MemoryStorage::new();
            Arc::new(Self { memory, from: now + at(from), until: now + at(until), seen: Mutex::default() })
        }

        /// Requests in each second from one moment to another.
        fn each_second(&self, from: Instant, until: Instant) -> Vec<usize> {
            let seen = self.seen.lock().unwrap();
            let mut counts = vec![0; usize::try_from((until - from).as_secs()).unwrap()];
            for at in seen.iter().filter(|at| (from..until).contains(*at)) {
                counts[usize::try_from((*at - from).as_secs()).unwrap()] += 1;
            }
            counts
        }
    }

    #[async_trait]
    impl Storage for Busy {
        fn kind(&self) -> &'static str {
            "busy"
        }

        async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
            self.memory.list(prefix, after).await
        }

        async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
            self.memory.get(key, range).await
        }

        async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
            let now = Instant::now();
            self.seen.lock().unwrap().push(now);
            tokio::time::sleep(Duration::from_millis(20)).await;
            if (self.from..self.until).contains(&now) {
                return Err(Error::new(ErrorKind::Later, "SlowDown").throttled());
            }
            self.memory.put(key, body, options).await
        }

        async fn delete(&self, keys: &[Key]) -> Result<()> {
            self.memory.delete(keys).await
        }
    }

    fn bytes(length: usize) -> Body {
        Body::from(vec![0; length])
    }

    /// F74: thirty seconds of refusals meet few requests, and afterwards every writer is soon through.
    #[tokio::test(start_paused = true)]
    async fn refusals_slow_everybody_down_and_are_soon_forgotten() {
        let busy = Busy::new(5, 35);
        let end = busy.until + Duration::from_secs(25);
        let pace = Arc::new(Pace::new(None));
        let mut writers = Vec::new();
        for n in 0..20u64 {
            let throttle = Throttle::new(busy.clone(), pace.clone());
            let dice = Mutex::new(n);
            let next = move || {
                let mut state = dice.lock().unwrap();
                *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *state
            };
            let storage = Retry::with_dice(Arc::new(throttle), Box::new(next));
            writers.push(tokio::spawn(async move {
                let mut successes = Vec::new();
                while Instant::now() < end {
                    if storage.put(&Key::new("a").unwrap(), bytes(1), REPLACE).await.is_ok() {
                        successes.push(Instant::now());
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                successes
            }));
        }
        let mut first_successes = Vec::new();
        for writer in writers {
            let successes = writer.await.unwrap();
            first_successes.push(successes.into_iter().find(|at| *at > busy.until).unwrap());
        }
        let during = busy.each_second(busy.from + Duration::from_secs(2), busy.until);
        assert!(during.iter().all(|count| *count <= 4), "{during:?}");
        let all_through = first_successes.into_iter().max().unwrap() - busy.until;
        assert!(all_through < Duration::from_secs(10), "{all_through:?}");
        // Twenty writers ten times a second, less what a request takes.
        let after = busy.each_second(busy.until, busy.until + Duration::from_secs(24));
        assert!(after[23] > 100, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_long_for_a_turn() {
        let busy = Busy::new(0, 1000);
        let pace = Arc::new(Pace::new(None));
        let throttle = Arc::new(Throttle::new(busy.clone(), pace));
        throttle.put(&Key::ROOT, bytes(1), NEW).await.unwrap_err();
        let begun = Instant::now();
        let requests: Vec<_> = (0..100)
            .map(|_| {
                let throttle = Arc::clone(&throttle);
                tokio::spawn(async move { throttle.put(&Key::ROOT, bytes(1), NEW).await.unwrap_err() })
            })
            .collect();
        for request in requests {
            assert!(request.await.unwrap().throttled);
        }
        assert!(begun.elapsed() <= LONGEST_WAIT + Duration::from_secs(1), "{:?}", begun.elapsed());
        assert!(busy.seen.lock().unwrap().len() < 30);
    }

    #[tokio::test(start_paused = true)]
    async fn uploads_keep_their_rate_and_the_tail_goes_ahead() {
        let memory: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let pace = Arc::new(Pace::new(NonZeroU64::new(1000)));
        let throttle = Arc::new(Throttle::new(memory, pace));
        let begun = Instant::now();
        let base = {
            let throttle = Arc::clone(&throttle);
            let chunks = stream::iter((0..100).map(|_| Ok(Bytes::from(vec![0; 500])))).boxed();
            tokio::spawn(async move { throttle.put(&Key::new("base").unwrap(), Body::Stream(chunks), NEW).await })
        };
        for n in 0..10u64 {
            // In the middle of a piece of the base.
            let due = Duration::from_millis(1200 + 2000 * n);
            sleep_until(begun + due).await;
            throttle.put(&Key::new(format!("tail/{n}")).unwrap(), bytes(1000), NEW).await.unwrap();
            let late = begun.elapsed() - due;
            assert!(late <= Duration::from_millis(10), "segment {n} waited {late:?} behind a base");
        }
        base.await.unwrap().unwrap();
        // 50,000 bytes of the base and 10,000 of the tail, the last piece of which need not have arrived.
        let took = begun.elapsed().as_secs_f64();
        assert!((59.0..=60.5).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_the_line_is_not_silence() {
        let memory: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let pace = Arc::new(Pace::new(NonZeroU64::new(10)));
        let storage = Retry::new(Arc::new(Throttle::new(memory, pace)));
        let begun = Instant::now();
        let chunks = stream::iter((0..3).map(|_| Ok(Bytes::from(vec![0; 1000])))).boxed();
        storage.put(&Key::new("base").unwrap(), Body::Stream(chunks), NEW).await.unwrap();
        storage.put(&Key::new("tail").unwrap(), bytes(10), NEW).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(200));
    }

    #[tokio::test]
    async fn one_service_has_one_pace() {
        let a = Pace::shared("https://a.example", None);
        assert!(Arc::ptr_eq(&a, &Pace::shared("https://a.example", None)));
        assert!(!Arc::ptr_eq(&a, &Pace::shared("https://b.example", None)));
        assert!(!Arc::ptr_eq(&a, &Pace::shared("https://a.example", NonZeroU64::new(1))));
    }
}
