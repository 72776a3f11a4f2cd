//! Shipping to one replica: a task that lives while there is something to ship.
//!
//! Each replica has its own; a slow or dead one delays nobody else. What it
//! lacks waits in the spool, within the spool's budget.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use tokio::sync::Notify;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::numbers::{Held, Kept};
use super::upkeep::Keeper;
use super::{Destination, Entry, Shared, Source};
use crate::replica::{Replica, Segment, Shelf};
use crate::spool::{Seq, Uploaded};
use crate::storage::Counts;
use crate::types::Generation;
use crate::upload::{Advanced, Claims, Error, Uploader};

/// First wait after a failure; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(500);
/// No wait after a failure is longer: after an outage the backlog must not sit idle.
const RETRY_MAX: Duration = Duration::from_secs(8);

/// Nor longer than this after a failure on this machine, such as a full disk.
const RETRY_MAX_LOCAL: Duration = Duration::from_secs(4);

/// Why there is no base any more.
const CLOSING: &str = "the database is being stopped";

/// One replica's side of the work.
pub(super) struct Shipping {
    replica: Arc<Replica>,
    shelf: Shelf,
    uploader: tokio::sync::Mutex<Uploader>,
    interval: Duration,
    task: Mutex<Task>,
    /// Somebody waits: no pause now.
    at_once: Notify,
    keeper: Option<Keeper>,
    uploaded: Uploaded,
}

#[derive(Debug, Default)]
struct Task {
    running: Option<JoinHandle<()>>,
    more: bool,
    ended: bool,
    last_shipped: Option<Instant>,
    failures: u32,
    last_error: Option<String>,
}

impl Shipping {
    /// `path` is the database's. `state_dir`: where this machine remembers what it must not look up.
    pub(super) fn new(to: Destination, path: &Path, state_dir: &Path) -> Self {
        let replica = to.replica.clone();
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
        let (shelf, uploader) = (uploader.shelf().clone(), tokio::sync::Mutex::new(uploader));
        Self {
            replica,
            shelf,
            uploader,
            interval: to.sync_interval,
            task: Mutex::default(),
            at_once: Notify::new(),
            keeper,
            uploaded,
        }
    }

    /// The replica, and what is known to be on it.
    pub(super) fn kept(&self) -> Kept {
        Kept { replica: self.replica.clone(), listing: self.shelf.look(Clone::clone) }
    }

    /// The same in numbers.
    pub(super) fn held(&self) -> Option<Held> {
        self.shelf.look(Held::of)
    }

    /// What its storage was asked.
    pub(super) fn requests(&self) -> &Counts {
        self.replica.counts()
    }

    pub(super) fn keeper(&self) -> Option<&Keeper> {
        self.keeper.as_ref()
    }

    /// Upkeep has found the replica other than it should be.
    pub(super) async fn look_again(
        shared: &Arc<Shared>,
        entry: &Arc<Entry>,
        replica: usize,
        needs_base: bool,
        strangers: &[Segment],
    ) {
        let shipping = &entry.shipping[replica];
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
        Self::wake(shared, entry, replica);
    }

    /// Whether another writer has taken over.
    pub(super) async fn is_fenced(&self) -> bool {
        self.uploader.lock().await.is_fenced()
    }

    /// Makes sure that what is in the spool now will be shipped.
    pub(super) fn wake(shared: &Arc<Shared>, entry: &Arc<Entry>, replica: usize) {
        let mut task = entry.shipping[replica].task();
        if task.running.is_some() || task.ended {
            task.more = true;
            return;
        }
        let work = {
            let (shared, entry) = (shared.clone(), entry.clone());
            async move { entry.shipping[replica].run(&shared, &entry, replica).await }
        };
        // The lock is held until the handle is in its place, so the task cannot end before.
        task.running = Some(shared.runtime.spawn(work));
    }

    /// The same, without the usual pauses between objects and after failures.
    pub(super) fn wake_at_once(shared: &Arc<Shared>, entry: &Arc<Entry>, replica: usize) {
        entry.shipping[replica].at_once.notify_one();
        Self::wake(shared, entry, replica);
    }

    /// Ships nothing more, not even what is under way.
    pub(super) async fn end(&self) {
        let running = {
            let mut task = self.task();
            task.ended = true;
            task.running.take()
        };
        if let Some(running) = running {
            running.abort();
            // What it held is free only then.
            let _ = running.await;
        }
    }

    /// Puts a fresh copy of the whole database on the replica, whatever is there.
    pub(super) async fn rebase(shared: &Arc<Shared>, entry: &Arc<Entry>, replica: usize) -> Result<(), String> {
        let source = entry.source().ok_or("the database is not followed yet")?;
        let mut uploader = entry.shipping[replica].uploader.lock().await;
        // What was known of the replica has turned out to be wrong: look again.
        uploader.forget();
        uploader.advance(&source.spool, source.generation).await.map_err(|error| with_causes(&error))?;
        let base = base(shared, entry).await?;
        let put = uploader.put_base(base).await.map_err(|error| with_causes(&error));
        drop(uploader);
        // What is confirmed now, and what was captured meanwhile, is for the usual way.
        Self::wake(shared, entry, replica);
        put
    }

    async fn run(&self, shared: &Arc<Shared>, entry: &Arc<Entry>, replica: usize) {
        loop {
            let ended = match AssertUnwindSafe(self.round(shared, entry, replica)).catch_unwind().await {
                Ok(ended) => ended,
                Err(_) => self.panicked(shared, entry, replica).await,
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
    async fn panicked(&self, shared: &Arc<Shared>, entry: &Arc<Entry>, replica: usize) -> Ended {
        self.uploader.lock().await.forget();
        self.task().more = true;
        let error = Error::Base("an internal error stopped this upload; please report it together with the log".into());
        let name = self.uploader.lock().await.replica().name().to_owned();
        self.failed(shared, entry, replica, &name, &error).await.unwrap_or(Ended::Done)
    }

    /// Ships until nothing is left.
    async fn round(&self, shared: &Arc<Shared>, entry: &Arc<Entry>, replica: usize) -> Ended {
        loop {
            self.pace(entry).await;
            let Some(source) = entry.source() else { return Ended::Done };
            let mut uploader = self.uploader.lock().await;
            if uploader.is_fenced() {
                return Ended::Fenced;
            }
            let work = Box::pin(advance(shared, entry, &mut uploader, &source));
            let Some(advanced) = in_turn(&shared.turns, work).await else { continue };
            let confirmed = uploader.confirmed();
            let name = uploader.replica().name().to_owned();
            let kind = uploader.replica().kind();
            drop(uploader);
            shared.board.update(entry.id, |facts| {
                let current = facts.captured.is_some_and(|c| c.generation == source.generation);
                if let (Some(facts), Some(confirmed), true) = (facts.replicas.get_mut(replica), confirmed, current) {
                    facts.txid = Some(confirmed.txid);
                    facts.batch = Some(confirmed.seq.get());
                    facts.timestamp = Some(confirmed.timestamp);
                }
            });
            match advanced {
                Ok(advanced) => {
                    self.succeeded(shared, entry, replica, &name);
                    trim(shared, entry, &source);
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
                    if let Some(ended) = self.failed(shared, entry, replica, &name, &error).await {
                        return ended;
                    }
                }
            }
        }
    }

    /// Keeps objects apart by the configured interval, except when stopping.
    async fn pace(&self, entry: &Entry) {
        let last = self.task().last_shipped;
        if let Some(last) = last {
            self.pause_until(entry, last + self.interval).await;
        }
    }

    /// Unless somebody waits.
    async fn pause_until(&self, entry: &Entry, at: Instant) {
        tokio::select! {
            () = wait_until(entry, at) => {}
            () = self.at_once.notified() => {}
        }
    }

    fn succeeded(&self, shared: &Shared, entry: &Entry, replica: usize, name: &str) {
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
    async fn failed(
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
        let longest = if matches!(error, Error::Base(_) | Error::Merge(_)) { RETRY_MAX_LOCAL } else { RETRY_MAX };
        let wait = RETRY_MIN.saturating_mul(1 << (failures - 1).min(8)).min(longest);
        if *entry.hurry.borrow() {
            tokio::time::sleep(shared.stopping_retry).await;
        } else {
            self.pause_until(entry, Instant::now() + wait).await;
        }
        None
    }

    fn task(&self) -> std::sync::MutexGuard<'_, Task> {
        self.task.lock().expect("no holder of this lock panics")
    }
}

/// One object, or finding out that none is needed; `None`: a new history has begun meanwhile.
async fn advance(
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
async fn in_turn<T>(turns: &Semaphore, work: impl Future<Output = T> + Unpin) -> T {
    const TURN: Duration = Duration::from_secs(1);
    let permit = turns.acquire().await;
    let mut work = work;
    if let Ok(done) = tokio::time::timeout(TURN, &mut work).await {
        return done;
    }
    drop(permit);
    work.await
}

enum Ended {
    Done,
    Fenced,
}

/// Sleeps, unless the run is closing or begins to.
pub(super) async fn wait_until(entry: &Entry, at: Instant) {
    let mut hurry = entry.hurry.subscribe();
    if *hurry.borrow_and_update() {
        return;
    }
    tokio::select! {
        () = tokio::time::sleep_until(at) => {}
        _ = hurry.changed() => {}
    }
}

async fn base(shared: &Arc<Shared>, entry: &Arc<Entry>) -> Result<crate::capture::Base, String> {
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

/// Drops from the spool what every replica has and no merge will need soon. A
/// replica that was fenced needs nothing more.
pub(super) fn trim(shared: &Shared, entry: &Entry, source: &Source) {
    let facts = shared.board.read_one(entry.id);
    let Some(captured) = facts.as_ref().and_then(|f| f.captured).filter(|c| c.generation == source.generation) else {
        return;
    };
    let mut lowest = captured.batch;
    let mut wanted = None;
    let shippings = &entry.shipping;
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
        let db = db_name(&entry.path);
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
