//! Shipping to one replica: a task that lives while there is something to ship.
//!
//! Each replica has its own; a slow or dead one delays nobody else. What it
//! lacks waits in the spool, within the spool's budget.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::upkeep::Keeper;
use super::{Destination, Shared, Source};
use crate::replica::Segment;
use crate::spool::{Seq, Uploaded};
use crate::types::Generation;
use crate::upload::{Advanced, Claims, Error, Uploader};

/// First wait after a failure; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(500);
/// No wait after a failure is longer: after an outage the backlog must not sit idle.
const RETRY_MAX: Duration = Duration::from_secs(15);

/// Nor longer than this after a failure on this machine, such as a full disk.
const RETRY_MAX_LOCAL: Duration = Duration::from_secs(4);

/// One replica's side of the work.
pub(super) struct Shipping {
    uploader: tokio::sync::Mutex<Uploader>,
    interval: Duration,
    task: Mutex<Task>,
    keeper: Option<Keeper>,
    uploaded: Uploaded,
}

#[derive(Debug, Default)]
struct Task {
    running: Option<AbortHandle>,
    more: bool,
    ended: bool,
    last_shipped: Option<Instant>,
    failures: u32,
    last_error: Option<String>,
}

impl Shipping {
    /// `path` is the database's. `state_dir`: where this machine remembers what it must not look up.
    pub(super) fn new(to: Destination, path: &Path, state_dir: &Path) -> Self {
        let claims = to.create_only.then(|| Claims::new(state_dir, to.replica.name()));
        let uploader = Uploader::new(to.replica.clone(), to.encoding, to.max_segments);
        // What must not be listed cannot be merged, and nothing may be deleted from it.
        let policy = to.upkeep.filter(|_| claims.is_none());
        let uploaded = Uploaded::default();
        let uploader = match (claims, &policy) {
            (Some(claims), _) => uploader.unlisted(claims),
            (None, Some(policy)) if !policy.levels.is_empty() => uploader.remembering(uploaded.clone()),
            (None, _) => uploader,
        };
        let keeper =
            policy.map(|policy| Keeper::new(to.replica, uploader.shelf().clone(), uploaded.clone(), policy, path));
        let uploader = tokio::sync::Mutex::new(uploader);
        Self { uploader, interval: to.sync_interval, task: Mutex::default(), keeper, uploaded }
    }

    pub(super) fn keeper(&self) -> Option<&Keeper> {
        self.keeper.as_ref()
    }

    /// Upkeep has found the replica other than it should be.
    pub(super) async fn look_again(
        shared: &Arc<Shared>,
        (database, replica): (usize, usize),
        needs_base: bool,
        strangers: &[Segment],
    ) {
        let shipping = &shared.databases[database].shipping[replica];
        {
            let mut uploader = shipping.uploader.lock().await;
            // An upload of our own may have been under way when its segment was taken for a stranger's.
            let ours = |segment: &Segment| uploader.confirmed().is_some_and(|c| c.txid >= segment.txids.max());
            if strangers.is_empty() || needs_base || !strangers.iter().all(ours) {
                match needs_base {
                    true => uploader.distrust(),
                    false => uploader.forget(),
                }
            }
        }
        Self::wake(shared, database, replica);
    }

    /// Whether another writer has taken over.
    pub(super) async fn is_fenced(&self) -> bool {
        self.uploader.lock().await.is_fenced()
    }

    /// Makes sure that what is in the spool now will be shipped.
    pub(super) fn wake(shared: &Arc<Shared>, database: usize, replica: usize) {
        let mut task = shared.databases[database].shipping[replica].task();
        if task.running.is_some() || task.ended {
            task.more = true;
            return;
        }
        let work = {
            let shared = shared.clone();
            async move { shared.databases[database].shipping[replica].run(&shared, database, replica).await }
        };
        // The lock is held until the handle is in its place, so the task cannot end before.
        task.running = Some(shared.runtime.spawn(work).abort_handle());
    }

    /// Ships nothing more.
    pub(super) fn end(&self) {
        let mut task = self.task();
        task.ended = true;
        if let Some(running) = task.running.take() {
            running.abort();
        }
    }

    /// Puts a fresh copy of the whole database on the replica, whatever is there.
    pub(super) async fn rebase(shared: &Arc<Shared>, database: usize, replica: usize) -> Result<(), String> {
        let entry = &shared.databases[database];
        let source = entry.source().ok_or("the database is not followed yet")?;
        let mut uploader = entry.shipping[replica].uploader.lock().await;
        // What was known of the replica has turned out to be wrong: look again.
        uploader.forget();
        uploader.advance(&source.spool, source.generation).await.map_err(|error| with_causes(&error))?;
        let base = base(shared, database).await?;
        let put = uploader.put_base(base).await.map_err(|error| with_causes(&error));
        drop(uploader);
        // What is confirmed now, and what was captured meanwhile, is for the usual way.
        Self::wake(shared, database, replica);
        put
    }

    async fn run(&self, shared: &Arc<Shared>, database: usize, replica: usize) {
        loop {
            let ended = match AssertUnwindSafe(self.round(shared, database, replica)).catch_unwind().await {
                Ok(ended) => ended,
                Err(_) => self.panicked(shared, database, replica).await,
            };
            let mut task = self.task();
            if matches!(ended, Ended::Fenced) || !std::mem::take(&mut task.more) {
                task.running = None;
                return;
            }
        }
    }

    /// A fault in the program: this replica is looked at anew after a while. The
    /// others never notice.
    async fn panicked(&self, shared: &Arc<Shared>, database: usize, replica: usize) -> Ended {
        self.uploader.lock().await.forget();
        self.task().more = true;
        let error = Error::Base("an internal error stopped this upload; please report it together with the log".into());
        let name = self.uploader.lock().await.replica().name().to_owned();
        self.failed(shared, database, replica, &name, &error).await.unwrap_or(Ended::Done)
    }

    /// Ships until nothing is left.
    async fn round(&self, shared: &Arc<Shared>, database: usize, replica: usize) -> Ended {
        let entry = &shared.databases[database];
        loop {
            self.pace(shared).await;
            let Some(source) = entry.source() else { return Ended::Done };
            let mut uploader = self.uploader.lock().await;
            if uploader.is_fenced() {
                return Ended::Fenced;
            }
            let advanced = match uploader.advance(&source.spool, source.generation).await {
                Ok(Advanced::NeedsBase) => match base(shared, database).await {
                    // A new history has begun meanwhile.
                    Ok(base) if base.generation() != source.generation => continue,
                    Ok(base) => uploader.put_base(base).await.map(|()| Advanced::Shipped),
                    Err(reason) => Err(Error::Base(reason)),
                },
                Ok(Advanced::TakenOver) => match new_generation(shared, database, source.generation).await {
                    Ok(()) => continue,
                    Err(reason) => Err(Error::Base(reason)),
                },
                other => other,
            };
            let confirmed = uploader.confirmed();
            let name = uploader.replica().name().to_owned();
            let kind = uploader.replica().kind();
            drop(uploader);
            shared.board.update(database, |facts| {
                let current = facts.captured.is_some_and(|c| c.generation == source.generation);
                if let (Some(facts), Some(confirmed), true) = (facts.replicas.get_mut(replica), confirmed, current) {
                    facts.txid = Some(confirmed.txid);
                    facts.batch = Some(confirmed.seq.get());
                    facts.timestamp = Some(confirmed.timestamp);
                }
            });
            match advanced {
                Ok(advanced) => {
                    self.succeeded(shared, database, replica, &name);
                    trim(shared, database, &source);
                    match advanced {
                        Advanced::Shipped => {
                            self.task().last_shipped = Some(Instant::now());
                            self.keeper.iter().for_each(Keeper::wake);
                            if let Some(confirmed) = confirmed {
                                tracing::debug!(
                                    db = db_name(&entry.path),
                                    replica = kind,
                                    name,
                                    level = 0,
                                    minTXID = confirmed.txid.to_string(),
                                    maxTXID = confirmed.txid.to_string(),
                                    "ltx file uploaded"
                                );
                            }
                        }
                        _ => {
                            self.keeper.iter().for_each(Keeper::wake);
                            return Ended::Done;
                        }
                    }
                }
                Err(error) => {
                    if let Some(ended) = self.failed(shared, database, replica, &name, &error).await {
                        return ended;
                    }
                }
            }
        }
    }

    /// Keeps objects apart by the configured interval, except when stopping.
    async fn pace(&self, shared: &Shared) {
        let last = self.task().last_shipped;
        if let Some(last) = last {
            wait_until(shared, last + self.interval).await;
        }
    }

    fn succeeded(&self, shared: &Shared, database: usize, replica: usize, name: &str) {
        let (failures, recovered) = {
            let mut task = self.task();
            (std::mem::take(&mut task.failures), task.last_error.take().is_some())
        };
        if recovered {
            let db = db_name(&shared.databases[database].path);
            tracing::info!(db, replica = name, previous_errors = failures, "replica sync recovered");
            shared.board.update(database, |facts| {
                if let Some(facts) = facts.replicas.get_mut(replica) {
                    facts.error = None;
                }
            });
        }
    }

    /// One line per kind of trouble, then a wait that grows. `Some` = no use to go on.
    async fn failed(
        &self,
        shared: &Arc<Shared>,
        database: usize,
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
            let path = shared.databases[database].path.display().to_string();
            let db = db_name(&shared.databases[database].path);
            tracing::error!(db, path, replica = name, error = text, "sync error");
        }
        shared.board.update(database, |facts| {
            if let Some(facts) = facts.replicas.get_mut(replica) {
                facts.error = Some(text);
                facts.fenced = fenced;
            }
        });
        if fenced {
            if let Some(source) = shared.databases[database].source() {
                trim(shared, database, &source);
            }
            return Some(Ended::Fenced);
        }
        let longest = if matches!(error, Error::Base(_) | Error::Merge(_)) { RETRY_MAX_LOCAL } else { RETRY_MAX };
        let wait = RETRY_MIN.saturating_mul(1 << (failures - 1).min(8)).min(longest);
        if *shared.stopping.borrow() {
            tokio::time::sleep(shared.stopping_retry).await;
        } else {
            wait_until(shared, Instant::now() + wait).await;
        }
        None
    }

    fn task(&self) -> std::sync::MutexGuard<'_, Task> {
        self.task.lock().expect("no holder of this lock panics")
    }
}

enum Ended {
    Done,
    Fenced,
}

/// Sleeps, unless the daemon is stopping or begins to.
pub(super) async fn wait_until(shared: &Shared, at: Instant) {
    let mut stopping = shared.stopping.subscribe();
    if *stopping.borrow_and_update() {
        return;
    }
    tokio::select! {
        () = tokio::time::sleep_until(at) => {}
        _ = stopping.changed() => {}
    }
}

async fn base(shared: &Arc<Shared>, database: usize) -> Result<crate::capture::Base, String> {
    let shared = shared.clone();
    let work = tokio::task::spawn_blocking(move || {
        let mut locked = shared.databases[database].capture.lock();
        let base = locked.base(SystemTime::now()).map_err(|error| error.chain());
        shared.pin_up(database, &locked, None);
        base
    });
    work.await.map_err(|error| error.to_string())?
}

/// Goes on under another name, unless that has happened already: another replica
/// can have found the same.
async fn new_generation(shared: &Arc<Shared>, database: usize, taken_over: Generation) -> Result<(), String> {
    let shared = shared.clone();
    let work = tokio::task::spawn_blocking(move || {
        let mut locked = shared.databases[database].capture.lock();
        if locked.position().is_some_and(|position| position.generation != taken_over) {
            shared.pin_up(database, &locked, None);
            return Ok(());
        }
        let begun = locked.new_generation(SystemTime::now()).map_err(|error| error.chain());
        shared.pin_up(database, &locked, None);
        begun
    });
    work.await.map_err(|error| error.to_string())?
}

/// Drops from the spool what every replica has and no merge will need soon. A
/// replica that was fenced needs nothing more.
pub(super) fn trim(shared: &Shared, database: usize, source: &Source) {
    let facts = shared.board.read_one(database);
    let Some(captured) = facts.as_ref().and_then(|f| f.captured).filter(|c| c.generation == source.generation) else {
        return;
    };
    let mut lowest = captured.batch;
    let mut wanted = None;
    let shippings = &shared.databases[database].shipping;
    for (replica, shipping) in facts.iter().flat_map(|f| &f.replicas).zip(shippings).filter(|(r, _)| !r.fenced) {
        match replica.batch {
            Some(batch) => lowest = lowest.min(batch),
            None => return,
        }
        wanted = wanted.into_iter().chain(shipping.uploaded.oldest()).min();
    }
    let Some(spare) = Seq::new(lowest) else { return };
    source.spool.spare_through(spare);
    let Some(seq) = wanted.map_or(Some(spare), |wanted| wanted.before().map(|before| before.min(spare))) else {
        return;
    };
    if let Err(error) = source.spool.drop_through(seq) {
        let db = db_name(&shared.databases[database].path);
        tracing::warn!(db, error = error.to_string(), "cannot remove local segments that every replica has");
    }
}

/// As in Litestream's logs: the file's name.
pub(super) fn db_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
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
