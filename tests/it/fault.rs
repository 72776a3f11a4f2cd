//! A storage on a bad day: it fails, stalls, loses answers after it acted, acts
//! twice, cuts bodies short and lists what was there a moment ago. Which of
//! these, and when, follows from a seed alone.

use std::collections::BTreeMap;
use std::future;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use brooklet::storage::{Body, Error, ErrorKind, Key, Object, PutOptions, Result, Storage};
use bytes::Bytes;
use futures::StreamExt;

/// How many of a thousand requests meet each fault.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Odds {
    /// Fails before anything happens.
    pub(crate) fail: u64,
    /// Never answers, and nothing happens.
    pub(crate) stall: u64,
    /// Does what it should, then the answer is lost: an error, or silence.
    pub(crate) lose: u64,
    /// Sends the request twice and returns the second answer.
    pub(crate) repeat: u64,
    /// A read returns fewer bytes than it should.
    pub(crate) truncate: u64,
    /// A listing is the previous one of that folder.
    pub(crate) stale: u64,
}

impl Odds {
    /// Each fault equally often; listings are right.
    pub(crate) fn all(per_thousand: u64) -> Self {
        let n = per_thousand;
        Self { fail: n, stall: n, lose: n, repeat: n, truncate: n, stale: 0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Fail,
    Stall,
    Lose,
    LoseSilently,
    Repeat,
    Truncate,
    Stale,
}

pub(crate) struct Faulty {
    inner: Arc<dyn Storage>,
    odds: Odds,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    random: u64,
    previous: BTreeMap<(Key, Option<Key>), Vec<Object>>,
}

impl Faulty {
    pub(crate) fn new(inner: Arc<dyn Storage>, odds: Odds, seed: u64) -> Self {
        Self { inner, odds, state: Mutex::new(State { random: seed, ..State::default() }) }
    }

    /// The fault that this request meets, if it gets as far as the storage.
    async fn begin(&self, request: &str) -> Result<Option<Fault>> {
        match self.fault() {
            Some(Fault::Fail) => Err(later(request)),
            Some(Fault::Stall) => future::pending().await,
            fault => Ok(fault),
        }
    }

    fn fault(&self) -> Option<Fault> {
        let roll = splitmix(&mut self.state.lock().unwrap().random) % 1000;
        let Odds { fail, stall, lose, repeat, truncate, stale } = self.odds;
        let mut reached = 0;
        let odds = [
            (fail, Fault::Fail),
            (stall, Fault::Stall),
            (lose / 2, Fault::Lose),
            (lose - lose / 2, Fault::LoseSilently),
            (repeat, Fault::Repeat),
            (truncate, Fault::Truncate),
            (stale, Fault::Stale),
        ];
        odds.into_iter().find_map(|(share, fault)| {
            reached += share;
            (roll < reached).then_some(fault)
        })
    }
}

/// The next number of a sequence that looks random.
pub(crate) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn later(what: &str) -> Error {
    Error::new(ErrorKind::Later, format!("injected: {what}"))
}

/// What becomes of an answer.
async fn deliver<T>(fault: Option<Fault>, answer: Result<T>) -> Result<T> {
    match fault {
        Some(Fault::Lose) => Err(later("the answer is lost")),
        Some(Fault::LoseSilently) => future::pending().await,
        _ => answer,
    }
}

#[async_trait]
impl Storage for Faulty {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        let fault = self.begin("list").await?;
        let now = self.inner.list(prefix, after).await?;
        let which = (prefix.clone(), after.cloned());
        let before = self.state.lock().unwrap().previous.insert(which, now.clone());
        deliver(fault, Ok(if fault == Some(Fault::Stale) { before.unwrap_or(now) } else { now })).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let fault = self.begin("get").await?;
        let mut bytes = self.inner.get(key, range).await?;
        if fault == Some(Fault::Truncate) {
            bytes.truncate(bytes.len() / 2);
        }
        deliver(fault, Ok(bytes)).await
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        let fault = self.begin("put").await?;
        let again = body.again();
        let mut answer = self.inner.put(key, body, options).await;
        if let (Some(Fault::Repeat), Some(again)) = (fault, again) {
            answer = self.inner.put(key, again, options).await;
        }
        deliver(fault, answer).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        let fault = self.begin("delete").await?;
        let answer = self.inner.delete(keys).await;
        deliver(fault, answer).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<bool> {
        let fault = self.begin("copy").await?;
        let answer = self.inner.copy(from, to).await;
        deliver(fault, answer).await
    }
}

/// A storage whose mood the test decides.
pub(crate) struct Moody {
    inner: Arc<dyn Storage>,
    mood: Mutex<Mood>,
}

#[derive(Default)]
struct Mood {
    down: bool,
    lose_next_put: bool,
    puts: usize,
}

impl Moody {
    pub(crate) fn new(inner: Arc<dyn Storage>) -> Arc<Self> {
        Arc::new(Self { inner, mood: Mutex::default() })
    }

    /// Whether every request fails.
    pub(crate) fn set_down(&self, down: bool) {
        self.mood.lock().unwrap().down = down;
    }

    /// The next put does what it should, its answer is lost, and from then on the
    /// storage is down.
    pub(crate) fn lose_the_next_answer_and_go_down(&self) {
        self.mood.lock().unwrap().lose_next_put = true;
    }

    /// Puts that were tried while it was up.
    pub(crate) fn puts(&self) -> usize {
        self.mood.lock().unwrap().puts
    }

    fn check(&self, request: &str) -> Result<()> {
        if self.mood.lock().unwrap().down { Err(later(request)) } else { Ok(()) }
    }
}

#[async_trait]
impl Storage for Moody {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        self.check("list")?;
        self.inner.list(prefix, after).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.check("get")?;
        self.inner.get(key, range).await
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        self.check("put")?;
        let answer = self.inner.put(key, body, options).await;
        let mut mood = self.mood.lock().unwrap();
        mood.puts += 1;
        if std::mem::take(&mut mood.lose_next_put) {
            mood.down = true;
            return Err(later("the answer is lost"));
        }
        answer
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        self.check("delete")?;
        self.inner.delete(keys).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<bool> {
        self.check("copy")?;
        self.inner.copy(from, to).await
    }
}

/// A storage that waits for the test's word before each put and before each
/// listing of a whole replica, so that the test decides in which order several
/// writers act.
pub(crate) struct Turns {
    inner: Arc<dyn Storage>,
    permits: tokio::sync::Semaphore,
    arrivals: tokio::sync::watch::Sender<usize>,
}

impl Turns {
    pub(crate) fn new(inner: Arc<dyn Storage>) -> Arc<Self> {
        let permits = tokio::sync::Semaphore::new(0);
        Arc::new(Self { inner, permits, arrivals: tokio::sync::watch::Sender::new(0) })
    }

    /// Lets one request go ahead, and waits until its writer stands at the next
    /// one or has come to its end.
    pub(crate) async fn one_turn<T>(&self, writer: &tokio::task::JoinHandle<T>) {
        let mut arrivals = self.arrivals.subscribe();
        let before = *arrivals.borrow_and_update();
        self.permits.add_permits(1);
        while *arrivals.borrow_and_update() == before && !writer.is_finished() {
            let _ = tokio::time::timeout(std::time::Duration::from_millis(2), arrivals.changed()).await;
        }
    }

    /// Waits until the writer stands at its first request.
    pub(crate) async fn arrival(&self) {
        let _ = self.arrivals.subscribe().wait_for(|arrivals| *arrivals > 0).await;
    }

    async fn my_turn(&self) {
        self.arrivals.send_modify(|arrivals| *arrivals += 1);
        self.permits.acquire().await.unwrap().forget();
    }
}

#[async_trait]
impl Storage for Turns {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        if prefix.as_str().ends_with("/ltx/0") {
            self.my_turn().await;
        }
        self.inner.list(prefix, after).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.inner.get(key, range).await
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        self.my_turn().await;
        self.inner.put(key, body, options).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        self.inner.delete(keys).await
    }
}

/// A storage that takes some bodies piece by piece, and each piece only when the
/// test says so.
pub(crate) struct Trickle {
    inner: Arc<dyn Storage>,
    slow: fn(&Key, &Body) -> bool,
    allowed: Arc<tokio::sync::Semaphore>,
    asked: Arc<tokio::sync::watch::Sender<usize>>,
}

impl Trickle {
    pub(crate) fn new(inner: Arc<dyn Storage>, slow: fn(&Key, &Body) -> bool) -> Arc<Self> {
        let allowed = Arc::new(tokio::sync::Semaphore::new(0));
        Arc::new(Self { inner, slow, allowed, asked: Arc::new(tokio::sync::watch::Sender::new(0)) })
    }

    /// Lets so many pieces pass.
    pub(crate) fn allow(&self, pieces: usize) {
        self.allowed.add_permits(pieces);
    }

    /// Pieces that have come this far.
    pub(crate) fn asked(&self) -> usize {
        *self.asked.borrow()
    }
}

#[async_trait]
impl Storage for Trickle {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        self.inner.list(prefix, after).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.inner.get(key, range).await
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        if !(self.slow)(key, &body) {
            return self.inner.put(key, body, options).await;
        }
        let (allowed, asked) = (self.allowed.clone(), self.asked.clone());
        let turn = move || {
            asked.send_modify(|asked| *asked += 1);
            let allowed = allowed.clone();
            async move { allowed.acquire_owned().await.unwrap().forget() }
        };
        let body = match body {
            Body::Stream(pieces) => {
                let pieces = pieces.then(move |piece| {
                    let turn = turn();
                    async move {
                        turn.await;
                        piece
                    }
                });
                Body::Stream(pieces.boxed())
            }
            whole => {
                turn().await;
                whole
            }
        };
        self.inner.put(key, body, options).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        self.inner.delete(keys).await
    }
}
