//! Rehearsals while the daemon runs: one at a time, in a task of its own that
//! delays nothing else. What it proves or fails to prove is on the board.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::shipping::{Shipping, db_name};
use super::{Daemon, Shared};
use crate::causes::with_causes;
use crate::drill::plan::{Next, Spent, Subject, next};
use crate::drill::{Error, LastProof, Mode, Proven, Records, rehearse};
use crate::replica::Replica;
use crate::status::{DatabaseId, ProvenPoint};
use crate::types::Timestamp;

/// One replica of one database, and how restoring from it is rehearsed.
pub struct Rehearsal {
    /// The database.
    pub database: DatabaseId,
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

/// What is rehearsed, in turn.
#[derive(Default)]
pub(super) struct Rehearsals {
    planned: Mutex<Vec<Planned>>,
    changed: Notify,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone)]
struct Planned {
    rehearsal: Arc<Rehearsal>,
    subject: Subject,
    /// A base that did not help once will not help again.
    rebased: bool,
}

impl Rehearsals {
    /// Forgets those of a database.
    pub(super) fn remove(&self, database: DatabaseId) {
        self.planned().retain(|planned| planned.rehearsal.database != database);
        self.changed.notify_one();
    }

    /// Gives up what is under way, and begins nothing more.
    pub(super) fn end(&self) {
        if let Some(task) = self.task.lock().expect("no holder of this lock panics").take() {
            task.abort();
        }
    }

    /// It may have been replaced or removed meanwhile.
    fn ended(&self, rehearsal: &Arc<Rehearsal>, subject: Subject, rebased: bool) {
        let mut planned = self.planned();
        if let Some(planned) = planned.iter_mut().find(|planned| Arc::ptr_eq(&planned.rehearsal, rehearsal)) {
            (planned.subject, planned.rebased) = (subject, rebased);
        }
    }

    fn planned(&self) -> std::sync::MutexGuard<'_, Vec<Planned>> {
        self.planned.lock().expect("no holder of this lock panics")
    }
}

/// Fetches that a budget may have to count.
const REMEMBERED: usize = 10_000;

/// The longest wait at once: a clock that is set must not stop rehearsals.
const LOOK: Duration = Duration::from_secs(60);

impl Daemon {
    /// Rehearses these, too, in place of what was planned before for the same replicas.
    pub fn rehearse(&self, rehearsals: Vec<Rehearsal>) {
        let since = Timestamp::from(SystemTime::now());
        let mut planned = self.shared.rehearsals.planned();
        for rehearsal in rehearsals {
            planned.retain(|old| {
                (old.rehearsal.database, old.rehearsal.replica) != (rehearsal.database, rehearsal.replica)
            });
            let interval = i64::try_from(rehearsal.interval.as_millis()).unwrap_or(i64::MAX);
            let subject = Subject { interval, since, last: None, budget: rehearsal.budget, size: 0 };
            planned.push(Planned { rehearsal: Arc::new(rehearsal), subject, rebased: false });
        }
        drop(planned);
        self.shared.rehearsals.changed.notify_one();
    }
}

/// Starts the task that rehearses.
pub(super) fn start(shared: &Arc<Shared>) {
    let there = shared.clone();
    let task = shared.runtime.spawn(async move { run(&there).await });
    *shared.rehearsals.task.lock().expect("no holder of this lock panics") = Some(task);
}

async fn run(shared: &Arc<Shared>) {
    let mut spent: VecDeque<Spent> = VecDeque::new();
    loop {
        let now = Timestamp::from(SystemTime::now());
        let planned = shared.rehearsals.planned().clone();
        let subjects: Vec<Subject> = planned.iter().map(|planned| planned.subject).collect();
        let chosen = match next(&subjects, spent.make_contiguous(), now) {
            Next::Never => {
                shared.rehearsals.changed.notified().await;
                continue;
            }
            Next::Rehearse(index) => planned[index].clone(),
            Next::Wait(at) => {
                let millis = u64::try_from(at.as_millis().saturating_sub(now.as_millis())).unwrap_or(0);
                let wait = Duration::from_millis(millis).min(LOOK);
                let _ = tokio::time::timeout(wait, shared.rehearsals.changed.notified()).await;
                continue;
            }
        };
        let Planned { rehearsal, mut subject, rebased } = chosen;
        let outcome = rehearse(&rehearsal.on, &rehearsal.mode).await;
        let now = Timestamp::from(SystemTime::now());
        if let Ok(proven) = &outcome {
            subject.size = proven.bytes;
        }
        subject.last = Some(now);
        spent.push_back(Spent { at: now, bytes: subject.size });
        if spent.len() > REMEMBERED {
            spent.pop_front();
        }
        let wants_base = rehearsal.base_on_failure && !rebased;
        let rebased = match &outcome {
            Ok(_) => false,
            Err(error) => rebased || (wants_base && error.is_of_data()),
        };
        shared.rehearsals.ended(&rehearsal, subject, rebased);
        pin_up(shared, &rehearsal, outcome, now, wants_base).await;
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
    let Some(slot) = shared.table.slot(database) else { return };
    let path = &slot.capture.path;
    let (db, name) = (db_name(path), rehearsal.on.name());
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
            if let Some(entry) = slot.entry().filter(|_| wants_base && error.is_of_data()) {
                match Shipping::rebase(shared, &entry, replica).await {
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
        drill.runs += 1;
        drill.failures += u64::from(error.is_some());
        drill.error = error;
        if let Some(Proven { txid, time, took, .. }) = proven {
            drill.proven = Some(ProvenPoint { txid, time, took });
        }
    });
}
