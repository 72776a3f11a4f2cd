//! The segments of a chain from newest to oldest, opened before their turn.
//!
//! Always true: what was opened, and what was handed out and is still held, takes
//! a bounded amount of memory; dropping this ends all requests under way.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::error::RestoreError;
use super::fetch::{Fetcher, Opened};
use super::plan::Plan;
use super::unpanicked;
use crate::replica::Segment;

/// How many of the largest small segments may be fetched ahead, or fetched and
/// not yet written.
const AHEAD: u64 = 2;

/// What a small segment counts for at least, because its job needs buffers too.
const AHEAD_LEAST: u64 = 256 << 10;

/// A segment whose turn it is.
pub(super) struct Arrived {
    pub(super) segment: Segment,
    pub(super) opened: Opened,
    /// To be held until its bytes are let go of.
    pub(super) memory: Option<OwnedSemaphorePermit>,
}

/// The segments of a chain from newest to oldest, opened ahead of time.
pub(super) struct Coming {
    fetcher: Fetcher,
    segments: VecDeque<Segment>,
    opening: VecDeque<Opening>,
    memory: Arc<Semaphore>,
}

struct Opening {
    segment: Segment,
    task: JoinSet<Result<Opened, RestoreError>>,
    memory: Option<OwnedSemaphorePermit>,
}

impl Coming {
    pub(super) fn new(plan: &Plan, fetcher: Fetcher) -> Self {
        let segments = plan.segments().iter().rev().copied().collect();
        let memory = Arc::new(Semaphore::new(kibibytes(AHEAD * fetcher.limits().whole.max(AHEAD_LEAST)) as usize));
        Self { fetcher, segments, opening: VecDeque::new(), memory }
    }

    /// The next older segment; `None`: that was the oldest.
    pub(super) async fn next(&mut self) -> Result<Option<Arrived>, RestoreError> {
        self.open_ahead().await;
        let Some(Opening { segment, mut task, memory }) = self.opening.pop_front() else { return Ok(None) };
        let opened = task.join_next().await.expect("each opening is one task");
        Ok(Some(Arrived { segment, opened: unpanicked(opened)?, memory }))
    }

    /// Starts as many requests as memory allows, and at least one.
    async fn open_ahead(&mut self) {
        while let Some(&segment) = self.segments.front()
            && self.opening.len() < self.fetcher.parallelism()
        {
            let memory = match self.cost(&segment) {
                None => None,
                Some(cost) => match Arc::clone(&self.memory).try_acquire_many_owned(cost) {
                    Ok(memory) => Some(memory),
                    // Jobs under way will give some back.
                    Err(_) if self.opening.is_empty() => {
                        let memory = Arc::clone(&self.memory).acquire_many_owned(cost).await;
                        Some(memory.expect("the semaphore is never closed"))
                    }
                    Err(_) => return,
                },
            };
            self.segments.pop_front();
            let fetcher = self.fetcher.clone();
            let mut task = JoinSet::new();
            task.spawn(async move { fetcher.open(&segment).await });
            self.opening.push_back(Opening { segment, task, memory });
        }
    }

    /// The memory that opening a segment takes, in KiB; `None` if hardly any.
    fn cost(&self, segment: &Segment) -> Option<u32> {
        let whole = segment.size <= self.fetcher.limits().whole;
        whole.then(|| kibibytes(segment.size.max(AHEAD_LEAST)))
    }
}

fn kibibytes(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).expect("a few megabytes")
}
