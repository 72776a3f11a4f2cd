//! The end of a run, downstream: a last capture, a last upload, then what is
//! only local is told and the database let go.
//!
//! It takes as long as it is given and no longer, whatever hangs; afterwards
//! nothing of the run is at work any more, except a request to a file system or
//! a storage that does not come back.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::future::join_all;
use tokio::time::{Instant as Deadline, timeout_at};

use super::entry::Entry;
use super::shipping::Shipping;
use super::upkeep::Keeper;
use super::{Shared, Unconfirmed};
use crate::status::DatabaseFacts;

/// For giving back locks, even when the time is over: that is all that the next run has to wait for.
const MOMENT: Duration = Duration::from_millis(200);

/// Ends the run of a database.
pub(super) async fn close(shared: &Arc<Shared>, entry: &Arc<Entry>, deadline: Deadline) -> Vec<Unconfirmed> {
    entry.close();
    // Nothing is begun any more; what is under way has until the end.
    entry.keepers().for_each(Keeper::stop);
    let mut unconfirmed: Vec<Unconfirmed> =
        match timeout_at(deadline, last_capture(shared.clone(), entry.clone())).await {
            Ok(failure) => failure.into_iter().collect(),
            Err(_) => vec![only_here(entry, "the last capture did not end in time".to_owned())],
        };
    entry.hurry.begin();
    // Without a source nothing is under way: the database was never taken up in this run.
    if let (Some(mut changes), Some(_)) = (shared.board.watch_one(entry.id), entry.source()) {
        while may_catch_up(shared.board.read_one(entry.id))
            && matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(())))
        {}
    }
    // Whoever starts next must not meet a request that is still on its way.
    let _ = timeout_at(deadline, join_all(entry.keepers().map(Keeper::ended))).await;
    join_all(entry.shipping.iter().map(Shipping::end)).await;
    join_all(entry.keepers().map(Keeper::end)).await;
    (0..entry.shipping.len()).for_each(|replica| shared.upkeep_clock.set((entry.id, replica), None));
    entry.end();
    let _ = timeout_at(deadline.max(Deadline::now() + MOMENT), let_go(shared.clone(), entry.clone())).await;
    unconfirmed.extend(behind(shared.board.read_one(entry.id)));
    unconfirmed
}

/// As many at a time as there are processors: each has the disk to itself for a moment.
async fn last_capture(shared: Arc<Shared>, entry: Arc<Entry>) -> Option<Unconfirmed> {
    let Ok(_permit) = shared.closers.acquire().await else { return None };
    let work = {
        let (shared, entry) = (shared.clone(), entry.clone());
        tokio::task::spawn_blocking(move || {
            let mut database = entry.last_hold();
            let finished = database.finish(Instant::now(), SystemTime::now());
            entry.pin_up(&shared, &mut database, None);
            database.release();
            finished.map_err(|error| error.chain())
        })
    };
    let reason = match work.await {
        Ok(Ok(())) => return None,
        Ok(Err(reason)) => reason,
        Err(error) => error.to_string(),
    };
    Some(only_here(&entry, format!("the last capture failed: {reason}")))
}

/// Others may have the database and its local state after this.
async fn let_go(shared: Arc<Shared>, entry: Arc<Entry>) {
    let work = tokio::task::spawn_blocking(move || {
        let mut database = entry.last_hold();
        shared.watch.disarm(&database.options().log_path());
        shared.clock.set(entry.id, None);
        database.close();
        entry.makes_room(&shared);
        // If this took so long that the next run has begun, its alarm was just taken away.
        shared.queue.push(entry.id);
    });
    let _ = work.await;
}

fn only_here(entry: &Entry, reason: String) -> Unconfirmed {
    Unconfirmed { path: entry.path.to_path_buf(), replica: None, reason }
}

/// Whether waiting may help some replica that lacks something.
fn may_catch_up(facts: Option<DatabaseFacts>) -> bool {
    facts.is_some_and(|facts| facts.behind().any(|replica| !replica.fenced))
}

/// The replicas that lack something that is captured.
fn behind(facts: Option<DatabaseFacts>) -> Vec<Unconfirmed> {
    let Some(facts) = facts else { return Vec::new() };
    let lacking = facts.behind().map(|replica| Unconfirmed {
        path: facts.path.to_path_buf(),
        replica: Some(replica.name.clone()),
        reason: replica.error.clone().unwrap_or_else(|| "its upload did not end in time".to_owned()),
    });
    lacking.collect()
}
