//! The heartbeat: a call while everything is well, and silence otherwise. Whoever
//! misses it knows that something is wrong, also if this machine is gone.

use std::time::{Duration, Instant};

use super::outbound::Outbound;
use crate::types::Secret;

/// Whom to call, and how often.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// Whom.
    pub url: Secret,
    /// How often at most.
    pub interval: Duration,
}

/// A failed call is made again after this time.
const RETRY: Duration = Duration::from_secs(15);

/// The heart.
#[derive(Debug)]
pub(super) struct Heart {
    heartbeat: Heartbeat,
    due: Instant,
    failing: bool,
}

impl Heart {
    pub(super) fn new(heartbeat: Heartbeat, now: Instant) -> Self {
        Self { heartbeat, due: now, failing: false }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.due
    }

    /// Calls. Tells whether it was heard.
    pub(super) async fn beat(&mut self, outbound: &Outbound) -> bool {
        let begun = Instant::now();
        let outcome = outbound.call("GET", &self.heartbeat.url, &[], None).await;
        let pause = if outcome.is_ok() { self.heartbeat.interval } else { RETRY.min(self.heartbeat.interval) };
        self.due = begun + pause;
        match &outcome {
            Err(error) if !self.failing => tracing::warn!(error, "heartbeat ping failed"),
            Ok(()) if self.failing => tracing::info!("heartbeat recovered"),
            _ => {}
        }
        self.failing = outcome.is_err();
        outcome.is_ok()
    }
}
