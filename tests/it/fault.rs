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
}
