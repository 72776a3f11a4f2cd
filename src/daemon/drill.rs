//! Rehearsals while the daemon runs: one at a time, in a task of its own that
//! delays nothing else. What it proves or fails to prove is on the board.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::AbortHandle;

use super::shipping::{Shipping, db_name};
use super::{Daemon, Shared};
use crate::drill::plan::{Next, Spent, Subject, next};
use crate::drill::{Error, LastProof, Mode, Proven, Records, rehearse};
use crate::replica::Replica;
use crate::status::ProvenPoint;
use crate::types::Timestamp;

/// One replica of one database, and how restoring from it is rehearsed.
pub struct Rehearsal {
    /// The database's place in the daemon.
    pub database: usize,
    /// The replica's place in the database.
    pub replica: usize,
    /// The replica.
    pub on: Arc<Replica>,
    /// How.
    pub mode: Mode,
    /// How often.
    pub interval: Duration,
    /// The most bytes in 24 hours for all rehearsals together, if it matters.
    pub budget: Option<u64>,
    /// A replica that fails gets a fresh base.
    pub base_on_failure: bool,
    /// Where what was proven is written down.
    pub records: Records,
}

/// Rehearsals go on until this is dropped.
#[derive(Debug)]
pub struct Rehearsals(AbortHandle);

impl Drop for Rehearsals {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Fetches that a budget may have to count.
const REMEMBERED: usize = 10_000;

/// The longest wait at once: a clock that is set must not stop rehearsals.
const LOOK: Duration = Duration::from_secs(60);

impl Daemon {
    /// Begins to rehearse.
    pub fn rehearse(&self, rehearsals: Vec<Rehearsal>) -> Rehearsals {
        let shared = self.shared.clone();
        Rehearsals(self.shared.runtime.spawn(async move { run(&shared, &rehearsals).await }).abort_handle())
    }
}

async fn run(shared: &Arc<Shared>, rehearsals: &[Rehearsal]) {
    let started = Timestamp::from(SystemTime::now());
    let mut spent: VecDeque<Spent> = VecDeque::new();
    // A base that did not help once will not help again.
    let mut rebased = vec![false; rehearsals.len()];
    let mut subjects: Vec<Subject> = rehearsals
        .iter()
        .map(|rehearsal| Subject {
            interval: i64::try_from(rehearsal.interval.as_millis()).unwrap_or(i64::MAX),
            last: None,
            budget: rehearsal.budget,
            size: 0,
        })
        .collect();
    loop {
        let now = Timestamp::from(SystemTime::now());
        let index = match next(&subjects, spent.make_contiguous(), started, now) {
            Next::Never => return,
            Next::Rehearse(index) => index,
            Next::Wait(at) => {
                let millis = u64::try_from(at.as_millis().saturating_sub(now.as_millis())).unwrap_or(0);
                tokio::time::sleep(Duration::from_millis(millis).min(LOOK)).await;
                continue;
            }
        };
        let outcome = rehearse(&rehearsals[index].on, &rehearsals[index].mode).await;
        let now = Timestamp::from(SystemTime::now());
        if let Ok(proven) = &outcome {
            subjects[index].size = proven.bytes;
        }
        subjects[index].last = Some(now);
        spent.push_back(Spent { at: now, bytes: subjects[index].size });
        if spent.len() > REMEMBERED {
            spent.pop_front();
        }
        let wants_base = rehearsals[index].base_on_failure && !rebased[index];
        rebased[index] = match &outcome {
            Ok(_) => false,
            Err(error) => rebased[index] || (wants_base && error.is_of_data()),
        };
        pin_up(shared, &rehearsals[index], outcome, now, wants_base).await;
    }
}

async fn pin_up(
    shared: &Arc<Shared>,
    rehearsal: &Rehearsal,
    outcome: Result<Proven, Error>,
    now: Timestamp,
    wants_base: bool,
) {
    let Rehearsal { database, replica, .. } = *rehearsal;
    let path: PathBuf = shared.databases[database].path.clone();
    let (db, name) = (db_name(&path), rehearsal.on.name());
    let (proven, error) = match outcome {
        Ok(proven) => {
            tracing::info!(
                db, replica = name, txid = proven.txid.map(|txid| txid.to_string()), time = %proven.time,
                bytes = proven.bytes, duration = ?proven.took, "restore rehearsed"
            );
            (Some(proven), None)
        }
        Err(error) => {
            let text = with_causes(&error);
            tracing::error!(db, path = %path.display(), replica = name, error = text, "restore rehearsal failed");
            if wants_base && error.is_of_data() {
                match Shipping::rebase(shared, database, replica).await {
                    Ok(()) => tracing::info!(db, replica = name, "a fresh base was put on the replica"),
                    Err(error) => {
                        tracing::error!(db, replica = name, error, "no fresh base could be put on the replica");
                    }
                }
            }
            (None, Some(text))
        }
    };
    if let Some(Proven { txid, time, took, .. }) = proven
        && let Err(error) = rehearsal.records.put(name, &LastProof { at: now, txid, time, took })
    {
        tracing::warn!(db, replica = name, error = error.to_string(), "what was proven cannot be written down");
    }
    shared.board.update(database, |facts| {
        let Some(facts) = facts.replicas.get_mut(replica) else { return };
        let drill = facts.drill.get_or_insert_default();
        drill.at = Some(now);
        drill.error = error;
        if let Some(Proven { txid, time, took, .. }) = proven {
            drill.proven = Some(ProvenPoint { txid, time, took });
        }
    });
}

fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}
