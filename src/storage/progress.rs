//! How a backend tells the retry wrapper that a request is alive.
//!
//! A time limit on a whole request would cut off large bodies on slow lines, or
//! be too long to notice a dead one. So a backend says `moved` whenever bytes
//! did, and the wrapper ends requests that have not said so for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::task_local;

task_local! {
    static CURRENT: Progress;
}

/// A sign of life of one request. Cheap to clone, and to use from other threads.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Signs>);

#[derive(Debug, Default)]
struct Signs {
    moved: AtomicU64,
    waits_for_caller: AtomicBool,
    /// The request that this is a part of.
    whole: Option<Progress>,
}

impl Progress {
    /// That of the request being worked on in this task; one that nobody watches
    /// where there is no wrapper.
    pub fn current() -> Self {
        CURRENT.try_with(Self::clone).unwrap_or_default()
    }

    /// Bytes have moved, or the other side has answered.
    pub fn moved(&self) {
        self.0.moved.fetch_add(1, Ordering::Relaxed);
        if let Some(whole) = &self.0.whole {
            whole.moved();
        }
    }

    /// That of a part of the request: its signs of life are also the whole's, but
    /// not the other way round.
    pub(super) fn part(&self) -> Self {
        Self(Arc::new(Signs { whole: Some(self.clone()), ..Signs::default() }))
    }

    /// The request waits for its own caller to produce more of the body: not the
    /// storage's fault, however long it takes.
    pub(super) fn waits_for_caller(&self, waits: bool) {
        self.0.waits_for_caller.store(waits, Ordering::Relaxed);
    }

    /// Changes with every sign of life; `None` while waiting for the caller.
    pub(super) fn count(&self) -> Option<u64> {
        (!self.0.waits_for_caller.load(Ordering::Relaxed)).then(|| self.0.moved.load(Ordering::Relaxed))
    }

    /// Runs a request so that `current` gives this.
    pub(super) async fn watch<F: Future>(self, request: F) -> F::Output {
        CURRENT.scope(self, request).await
    }
}
