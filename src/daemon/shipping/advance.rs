//! One object for one replica. What only the database can give, a base or a new
//! name for its history, is fetched from it on the way.
//!
//! Always true: however many uploads begin together, only as many as there are
//! turns work at their beginning, and none waits for another for ever.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;

use super::super::{Entry, Shared, Source};
use crate::capture::Base;
use crate::types::Generation;
use crate::upload::{Advanced, Error, Uploader};

/// Why there is no base any more.
const CLOSING: &str = "the database is being stopped";

/// One object, or finding out that none is needed; `None`: a new history has begun meanwhile.
pub(super) async fn advance(
    shared: &Arc<Shared>,
    entry: &Arc<Entry>,
    uploader: &mut Uploader,
    source: &Source,
) -> Option<Result<Advanced, Error>> {
    Some(match uploader.advance(&source.spool, source.generation).await {
        Ok(Advanced::NeedsBase) => match base(shared, entry).await {
            Ok(base) if base.generation() != source.generation => return None,
            Ok(base) => uploader.put_base(base).await.map(|()| Advanced::Shipped),
            Err(reason) => Err(Error::Base(reason)),
        },
        Ok(Advanced::TakenOver) => match new_generation(shared, entry, source.generation).await {
            Ok(()) => return None,
            Err(reason) => Err(Error::Base(reason)),
        },
        other => other,
    })
}

/// Uploads that begin at the same time take turns, so that ten thousand databases
/// do not need memory for all their first uploads at once. One that takes long
/// gives its turn to another and goes on: a storage that never answers delays
/// nobody by more than a turn.
pub(super) async fn in_turn<T>(turns: &Semaphore, work: impl Future<Output = T> + Unpin) -> T {
    const TURN: Duration = Duration::from_secs(1);
    let permit = turns.acquire().await;
    let mut work = work;
    if let Ok(done) = tokio::time::timeout(TURN, &mut work).await {
        return done;
    }
    drop(permit);
    work.await
}

/// A fresh copy of the whole database, to be read while it is sent.
pub(super) async fn base(shared: &Arc<Shared>, entry: &Arc<Entry>) -> Result<Base, String> {
    let (shared, entry) = (shared.clone(), entry.clone());
    let work = tokio::task::spawn_blocking(move || {
        let mut database = entry.database().ok_or(CLOSING)?;
        let base = database.base(SystemTime::now()).map_err(|error| error.chain());
        entry.pin_up(&shared, &mut database, None);
        base
    });
    work.await.map_err(|error| error.to_string())?
}

/// Goes on under another name, unless that has happened already: another replica
/// can have found the same.
async fn new_generation(shared: &Arc<Shared>, entry: &Arc<Entry>, taken_over: Generation) -> Result<(), String> {
    let (shared, entry) = (shared.clone(), entry.clone());
    let work = tokio::task::spawn_blocking(move || {
        let mut database = entry.database().ok_or(CLOSING)?;
        if database.position().is_some_and(|position| position.generation != taken_over) {
            entry.pin_up(&shared, &mut database, None);
            return Ok(());
        }
        let begun = database.new_generation(SystemTime::now()).map_err(|error| error.chain());
        entry.pin_up(&shared, &mut database, None);
        begun
    });
    work.await.map_err(|error| error.to_string())?
}
