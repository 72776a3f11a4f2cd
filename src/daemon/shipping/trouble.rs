//! What an upload that failed leads to: one line in the log for each kind of
//! trouble, the reason on the board, and a wait that grows.
//!
//! Always true: no wait is so long that a backlog sits idle after an outage, and a
//! replica that was taken over is left alone.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::{Entry, Shared};
use super::{Ended, Shipping, db_name, trim};
use crate::causes::with_causes;
use crate::upload::Error;

/// First wait after a failure; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(500);
/// No wait after a failure is longer: after an outage the backlog must not sit idle.
const RETRY_MAX: Duration = Duration::from_secs(8);

/// Nor longer than this after a failure on this machine, such as a full disk.
const RETRY_MAX_LOCAL: Duration = Duration::from_secs(4);

impl Shipping {
    /// Trouble is over, if there was any.
    pub(super) fn succeeded(&self, shared: &Shared, entry: &Entry, replica: usize, name: &str) {
        let (failures, recovered) = {
            let mut task = self.task();
            (std::mem::take(&mut task.failures), task.last_error.take().is_some())
        };
        if recovered {
            let db = db_name(&entry.path);
            tracing::info!(db, replica = name, previous_errors = failures, "replica sync recovered");
            shared.board.update(entry.id, |facts| {
                if let Some(facts) = facts.replicas.get_mut(replica) {
                    facts.error = None;
                }
            });
        }
    }

    /// One line per kind of trouble, then a wait that grows. `Some` = no use to go on.
    pub(super) async fn failed(
        &self,
        shared: &Arc<Shared>,
        entry: &Arc<Entry>,
        replica: usize,
        name: &str,
        error: &Error,
    ) -> Option<Ended> {
        let text = with_causes(error);
        let fenced = matches!(error, Error::Fenced(_));
        let (failures, news) = {
            let mut task = self.task();
            task.failures = task.failures.saturating_add(1);
            let news = task.last_error.as_ref() != Some(&text);
            task.last_error = Some(text.clone());
            (task.failures, news)
        };
        if news {
            let path = entry.path.display().to_string();
            let db = db_name(&entry.path);
            tracing::error!(db, path, replica = name, error = text, "sync error");
        }
        shared.board.update(entry.id, |facts| {
            if let Some(facts) = facts.replicas.get_mut(replica) {
                facts.error = Some(text);
                facts.fenced = fenced;
            }
        });
        if fenced {
            if let Some(source) = entry.source() {
                trim(shared, entry, &source);
            }
            return Some(Ended::Fenced);
        }
        if entry.hurry.has_begun() {
            tokio::time::sleep(shared.stopping_retry).await;
        } else {
            self.pause_until(entry, Instant::now() + wait_after(failures, error)).await;
        }
        None
    }
}

/// `failures` counts from 1.
fn wait_after(failures: u32, error: &Error) -> Duration {
    let longest = if matches!(error, Error::Base(_) | Error::Merge(_)) { RETRY_MAX_LOCAL } else { RETRY_MAX };
    RETRY_MIN.saturating_mul(1 << (failures - 1).min(8)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_that_is_lower_for_trouble_of_our_own() {
        let waits = |error: &Error| [1, 2, 5, 6, 1000].map(|failures| wait_after(failures, error).as_millis());
        assert_eq!(waits(&Error::Unknown { replica: "r".into() }), [500, 1000, 8000, 8000, 8000]);
        assert_eq!(waits(&Error::Base("full".into())), [500, 1000, 4000, 4000, 4000]);
    }
}
