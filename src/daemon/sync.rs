//! Capture now, and waiting until replicas have what was captured.
//!
//! Waiting never causes a request by itself: it is watching the board. Only
//! whoever asks for it makes uploads skip their pauses.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::shipping::Shipping;
use super::{Daemon, Entry, Shared};
use crate::status::{Captured, DatabaseFacts, DatabaseId};

/// What a sync came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// What had been captured before.
    pub before: Option<Captured>,
    /// What is captured now.
    pub captured: Captured,
}

impl Synced {
    /// Whether there was anything to capture.
    pub fn changed(&self) -> bool {
        self.before.map(|c| (c.generation, c.batch)) != Some((self.captured.generation, self.captured.batch))
    }
}

/// Why something is not known to be captured or confirmed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// No database has that place.
    #[error("there is no such database: it may have been removed meanwhile")]
    NotThere,
    /// It is not followed now.
    #[error("the database is stopped: start it first")]
    Stopped,
    /// The capture failed.
    #[error("the capture failed: {reason}")]
    Capture {
        /// Why.
        reason: String,
    },
    /// A replica belongs to another writer now, and will get nothing more.
    #[error("replica {replica} will get nothing more: {reason}")]
    Fenced {
        /// The replica.
        replica: String,
        /// Who has it.
        reason: String,
    },
    /// The time is over.
    #[error("not confirmed in time: {lacking}")]
    Late {
        /// The replicas that lack something, and why.
        lacking: String,
    },
}

impl Daemon {
    /// Captures what is committed now.
    ///
    /// # Errors
    /// It could not, or not in time.
    pub async fn capture_now(&self, database: DatabaseId, patience: Duration) -> Result<Synced, SyncError> {
        let slot = self.shared.table.slot(database).ok_or(SyncError::NotThere)?;
        let entry = slot.entry().ok_or(SyncError::Stopped)?;
        let shared = self.shared.clone();
        let work = tokio::task::spawn_blocking(move || capture(&shared, &entry));
        match tokio::time::timeout(patience, work).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Err(SyncError::Capture { reason: error.to_string() }),
            Err(_) => Err(SyncError::Late { lacking: "the capture did not end".to_owned() }),
        }
    }

    /// Lets the uploads of a database go on at once, whatever they are waiting for.
    pub fn ship_now(&self, database: DatabaseId) {
        if let Some(entry) = self.shared.table.entry(database) {
            (0..entry.shipping.len()).for_each(|replica| Shipping::wake_at_once(&self.shared, &entry, replica));
        }
    }

    /// Waits until every replica has what was captured.
    ///
    /// # Errors
    /// That will not be, or was not in time.
    pub async fn confirmed(
        &self,
        database: DatabaseId,
        captured: Captured,
        patience: Duration,
    ) -> Result<(), SyncError> {
        let done = |facts: &DatabaseFacts| Ok(has_arrived(facts, captured));
        self.wait_for(database, patience, done).await
    }

    /// Waits until something is true of a database, or can no longer become so.
    ///
    /// # Errors
    /// The error of `done`, or it was not so in time.
    pub async fn wait_for(
        &self,
        database: DatabaseId,
        patience: Duration,
        done: impl Fn(&DatabaseFacts) -> Result<bool, SyncError>,
    ) -> Result<(), SyncError> {
        let deadline = tokio::time::Instant::now() + patience;
        let board = &self.shared.board;
        let mut changes = board.watch_one(database).ok_or(SyncError::NotThere)?;
        loop {
            changes.borrow_and_update();
            let facts = board.read_one(database).ok_or(SyncError::NotThere)?;
            if done(&facts)? {
                return Ok(());
            }
            if let Some(replica) = facts.replicas.iter().find(|replica| replica.fenced) {
                let reason = replica.error.clone().unwrap_or_else(|| "another writer has taken over".to_owned());
                return Err(SyncError::Fenced { replica: replica.name.clone(), reason });
            }
            if self.shared.table.entry(database).is_none() {
                return Err(SyncError::Stopped);
            }
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(SyncError::NotThere),
                Err(_) => return Err(SyncError::Late { lacking: lacking(&facts) }),
            }
        }
    }
}

fn capture(shared: &Arc<Shared>, entry: &Arc<Entry>) -> Result<Synced, SyncError> {
    let mut database = entry.database().filter(|_| !entry.is_closing()).ok_or(SyncError::Stopped)?;
    let before = shared.board.read_one(entry.id).and_then(|facts| facts.captured);
    let outcome = database.capture(SystemTime::now()).map_err(|error| SyncError::Capture { reason: error.chain() });
    entry.pin_up(shared, &mut database, None);
    drop(database);
    // For its health, its alarm and its watch.
    shared.queue.push(entry.id);
    outcome?;
    let captured = shared.board.read_one(entry.id).and_then(|facts| facts.captured).ok_or(SyncError::NotThere)?;
    Ok(Synced { before, captured })
}

/// A new history holds everything that the one before held.
fn has_arrived(facts: &DatabaseFacts, wanted: Captured) -> bool {
    let Some(now) = facts.captured else { return false };
    let batch = if now.generation == wanted.generation { wanted.batch } else { now.batch };
    facts.replicas.iter().all(|replica| replica.batch.is_some_and(|has| has >= batch))
}

fn lacking(facts: &DatabaseFacts) -> String {
    let one = |replica: &crate::status::ReplicaFacts| match &replica.error {
        Some(error) => format!("replica {}: {error}", replica.name),
        None => format!("replica {} is still behind", replica.name),
    };
    let lacking: Vec<String> = facts.behind().map(one).collect();
    if lacking.is_empty() { "nothing new was captured".to_owned() } else { lacking.join("; ") }
}
