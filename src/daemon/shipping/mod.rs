//! Shipping to one replica: a task that lives while there is something to ship.
//!
//! Each replica has its own; a slow or dead one delays nobody else. What it
//! lacks waits in the spool, within the spool's budget.

mod advance;
mod trim;
mod trouble;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::numbers::{Held, Kept};
use super::upkeep::Keeper;
use super::{Destination, Entry, Shared};
use crate::causes::with_causes;
use crate::replica::{Replica, Segment, Shelf};
use crate::spool::Uploaded;
use crate::storage::Counts;
use crate::types::Generation;
use crate::upload::{Advanced, Claims, Confirmed, Error, Uploader};

pub(super) use trim::trim;

use advance::{advance, base, in_turn};

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

enum Ended {
    Done,
    Fenced,
}

impl Shipping {
    /// `path` is the database's. `state_dir`: where this machine remembers what it must not look up.
    pub(super) fn new(to: &Destination, path: &Path, state_dir: &Path) -> Self {
        let replica = to.replica.clone();
        let claims = to.create_only.then(|| Claims::new(state_dir, to.replica.name()));
        let uploader = Uploader::new(to.replica.clone(), to.encoding, to.max_segments);
        // What must not be listed cannot be merged, and nothing may be deleted from it.
        let policy = to.upkeep.clone().filter(|_| claims.is_none());
        let uploaded = Uploaded::default();
        let uploader = match (claims, &policy) {
            (Some(claims), _) => uploader.unlisted(claims),
            (None, Some(policy)) if !policy.levels.is_empty() => uploader.remembering(uploaded.clone()),
            (None, _) => uploader,
        };
        let keeper =
            policy.map(|policy| Keeper::new(replica.clone(), uploader.shelf().clone(), uploaded.clone(), policy, path));
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
            show(shared, entry, replica, source.generation, confirmed);
            match advanced {
                Ok(advanced) => {
                    self.succeeded(shared, entry, replica, &name);
                    entry.confirmed(shared);
                    trim(shared, entry, &source);
                    Keeper::wake(shared, entry, replica);
                    if advanced != Advanced::Shipped {
                        return Ended::Done;
                    }
                    self.task().last_shipped = Some(Instant::now());
                    if let Some(confirmed) = confirmed {
                        let (db, txid) = (db_name(&entry.path), confirmed.txid.to_string());
                        tracing::debug!(
                            db,
                            replica = kind,
                            name,
                            level = 0,
                            minTXID = txid,
                            maxTXID = txid,
                            "ltx file uploaded"
                        );
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

    fn task(&self) -> MutexGuard<'_, Task> {
        self.task.lock().expect("no holder of this lock panics")
    }
}

/// What a replica has of the history `generation`, for whoever asks.
fn show(shared: &Shared, entry: &Entry, replica: usize, generation: Generation, confirmed: Option<Confirmed>) {
    shared.board.update(entry.id, |facts| {
        let current = facts.captured.is_some_and(|c| c.generation == generation);
        if let (Some(facts), Some(confirmed), true) = (facts.replicas.get_mut(replica), confirmed, current) {
            facts.txid = Some(confirmed.txid);
            facts.batch = Some(confirmed.seq.get());
            facts.timestamp = Some(confirmed.timestamp);
        }
    });
}

/// Sleeps, unless the run is closing or begins to.
pub(super) async fn wait_until(entry: &Entry, at: Instant) {
    tokio::select! {
        () = entry.hurry.begins() => {}
        () = tokio::time::sleep_until(at) => {}
    }
}

/// As in Litestream's logs: the file's name.
pub(super) fn db_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
