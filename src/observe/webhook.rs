//! The webhook: a call when health changes, tried until it is heard.
//!
//! Always true: whoever is called learns how each database is in the end. Changes
//! that follow each other while nobody answers are told as one. So nothing piles
//! up, however long that takes.

use std::time::{Duration, Instant};

use super::looks::Look;
use super::outbound::Outbound;
use super::template::Template;
use super::told::{self, AllTold};
use super::view::Alarm;
use crate::types::Secret;

/// Whom to call, and what to say.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Whom.
    pub url: Secret,
    /// Sent along.
    pub headers: Vec<(String, Secret)>,
    /// What is said; `None`: our own JSON.
    pub body: Option<Template>,
}

/// First wait after a failure; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// No wait after a failure is longer.
const RETRY_MAX: Duration = Duration::from_secs(300);

/// What was told to whom.
#[derive(Debug)]
pub(super) struct Bell {
    webhook: Webhook,
    told: AllTold,
    failures: u32,
    due: Instant,
}

impl Bell {
    pub(super) fn new(webhook: Webhook, now: Instant) -> Self {
        Self { webhook, told: AllTold::new(), failures: 0, due: now }
    }

    /// Tells what has changed since it last was told. `None`: nothing, or not yet;
    /// else whether it was heard.
    pub(super) async fn ring(&mut self, look: &Look, host: &str, outbound: &Outbound) -> Option<bool> {
        let now = Instant::now();
        let changed = told::observe(&mut self.told, look, now);
        if changed.is_empty() || now < self.due {
            return None;
        }
        let alarm = Alarm::new(look.overall, host, &changed);
        let body = match &self.webhook.body {
            Some(template) => template.fill(&alarm.names()),
            None => serde_json::to_string(&alarm).expect("texts and numbers can be written"),
        };
        let mut headers = self.webhook.headers.clone();
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            headers.push(("content-type".to_owned(), Secret::new("application/json")));
        }
        match outbound.call("POST", &self.webhook.url, &headers, Some(body)).await {
            Ok(()) => {
                changed.iter().for_each(|change| told::tell(&mut self.told, change.id, change.grade));
                self.failures = 0;
                Some(true)
            }
            Err(error) => {
                if self.failures == 0 {
                    tracing::warn!(error, "webhook failed, trying again");
                }
                self.due = Instant::now() + RETRY_MIN.saturating_mul(1 << self.failures.min(10)).min(RETRY_MAX);
                self.failures = self.failures.saturating_add(1);
                Some(false)
            }
        }
    }
}
