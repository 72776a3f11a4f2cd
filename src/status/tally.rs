//! What this process as a whole has done, counted as it happens.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often something was done, how often in vain, and how long it took.
#[derive(Debug, Default)]
pub struct Tally {
    done: AtomicU64,
    failed: AtomicU64,
    nanos: AtomicU64,
}

/// Restores by this process.
pub static RESTORES: Tally = Tally::new();

impl Tally {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self { done: AtomicU64::new(0), failed: AtomicU64::new(0), nanos: AtomicU64::new(0) }
    }

    /// Once more.
    pub fn add(&self, succeeded: bool, took: Duration) {
        if succeeded { &self.done } else { &self.failed }.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How often it succeeded.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// How often it failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// How long all of it took.
    pub fn took(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }
}
