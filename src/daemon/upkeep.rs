//! Upkeep of one replica: a task that lives while there is something to do. In
//! between an alarm is set for what will be due.
//!
//! Uploads never wait for it: it has its own task, works on what is uploaded
//! already, and shares with all others a small number of permits. For an idle
//! database it begins for the audit only.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::shipping::{Shipping, db_name, trim, wait_until};
use super::{Entry, Shared};
use crate::causes::with_causes;
use crate::replica::{Replica, Shelf};
use crate::spool::Uploaded;
use crate::upkeep::{Now, Policy, Stepped, Stop, Upkeep};

/// News of uploads are gathered for this long, or a quarter of the shortest level.
const GATHER: Duration = Duration::from_secs(5);
/// First wait after a failure; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(2);
/// No wait after a failure is longer.
const RETRY_MAX: Duration = Duration::from_secs(300);

/// One replica's upkeep.
pub(super) struct Keeper {
    work: tokio::sync::Mutex<Upkeep>,
    gather: Duration,
    news: Notify,
    stop: Stop,
    task: Mutex<Task>,
}

#[derive(Debug, Default)]
struct Task {
    running: Option<JoinHandle<()>>,
    /// When it would begin without news.
    due: Option<Instant>,
    ended: bool,
}

impl Keeper {
    pub(super) fn new(
        replica: Arc<Replica>,
        shelf: Shelf,
        uploaded: Uploaded,
        policy: Arc<Policy>,
        path: &Path,
    ) -> Self {
        let stop = Stop::default();
        let place = format!("{} {}", path.display(), replica.name());
        let gather = policy.levels.iter().min().map_or(GATHER, |shortest| GATHER.min(*shortest / 4));
        let work = Upkeep::new(replica, shelf, policy, &place, stop.clone()).with_uploaded(uploaded);
        let work = tokio::sync::Mutex::new(work);
        Self { work, gather, news: Notify::new(), stop, task: Mutex::default() }
    }

    /// Something was uploaded, or the replica was looked at: more of that is waited for, and then upkeep begins.
    pub(super) fn wake(shared: &Arc<Shared>, entry: &Arc<Entry>, replica: usize) {
        Self::start(shared, entry, replica, true);
    }

    /// Its time has come.
    pub(super) fn is_due(shared: &Arc<Shared>, entry: &Arc<Entry>, replica: usize) {
        Self::start(shared, entry, replica, false);
    }

    fn start(shared: &Arc<Shared>, entry: &Arc<Entry>, replica: usize, news: bool) {
        let Some(keeper) = entry.shipping.get(replica).and_then(Shipping::keeper) else { return };
        let mut task = keeper.task();
        if task.ended {
            return;
        }
        if task.running.is_some() {
            if news {
                keeper.news.notify_one();
            }
            return;
        }
        let now = Instant::now();
        let gathered = now + keeper.gather;
        let begin = if news { task.due.map_or(gathered, |due| due.min(gathered)) } else { now };
        let work = {
            let (shared, entry) = (shared.clone(), entry.clone());
            async move { run(&shared, &entry, replica, begin).await }
        };
        // The lock is held until the handle is in its place, so the task cannot end before.
        task.running = Some(shared.runtime.spawn(work));
    }

    /// Begins nothing more.
    pub(super) fn stop(&self) {
        self.stop.stop();
        self.news.notify_one();
    }

    /// Waits until what is under way has come to its end, which is soon once it was told to stop.
    pub(super) async fn ended(&self) {
        drop(self.work.lock().await);
    }

    /// Gives up what is under way.
    pub(super) async fn end(&self) {
        self.stop();
        let running = {
            let mut task = self.task();
            task.ended = true;
            task.running.take()
        };
        if let Some(running) = running {
            running.abort();
            let _ = running.await;
        }
    }

    /// The task ends until there are news or something is due, for which `alarm` is set. `false`: there are news already.
    fn rests(&self, due: Option<Instant>, alarm: impl FnOnce(Option<std::time::Instant>)) -> bool {
        let mut task = self.task();
        if self.news.notified().now_or_never().is_some() {
            return false;
        }
        (task.running, task.due) = (None, due);
        alarm(due.map(Instant::into_std));
        true
    }

    fn task(&self) -> MutexGuard<'_, Task> {
        self.task.lock().expect("no holder of this lock panics")
    }
}

/// Works until nothing is left to do now, and sees to it that it is called again.
async fn run(shared: &Arc<Shared>, entry: &Arc<Entry>, replica: usize, begin: Instant) {
    let shipping = &entry.shipping[replica];
    let Some(keeper) = shipping.keeper() else { return };
    wait_until(entry, begin).await;
    let mut failures = 0u32;
    while !keeper.stop.is_stopped() && !shipping.is_fenced().await {
        let stepped = {
            let Ok(_permit) = shared.upkeep_jobs.acquire().await else { return };
            let now = Now { elapsed: shared.started.elapsed(), wall: SystemTime::now().into() };
            let mut work = keeper.work.lock().await;
            // In a box of its own: the rest of the task mostly waits.
            Box::pin(std::panic::AssertUnwindSafe(work.step(now)).catch_unwind()).await
        };
        match stepped {
            Ok(Ok(Stepped::Worked)) => {
                if let Some(source) = entry.source() {
                    trim(shared, entry, &source);
                }
            }
            Ok(Ok(Stepped::LookAgain { needs_base, strangers })) => {
                Box::pin(Shipping::look_again(shared, entry, replica, needs_base, &strangers)).await;
                // The upload tells when it has looked.
                tokio::select! {
                    () = wait_until(entry, Instant::now() + RETRY_MAX) => {}
                    () = keeper.news.notified() => wait_until(entry, Instant::now() + keeper.gather).await,
                }
            }
            Ok(Ok(Stepped::Idle { again })) => {
                note(shared, entry, replica, None);
                failures = 0;
                let due = again.map(|again| Instant::now() + again);
                if keeper.rests(due, |due| shared.upkeep_clock.set((entry.id, replica), due)) {
                    return;
                }
                let gathered = Instant::now() + keeper.gather;
                wait_until(entry, due.map_or(gathered, |due| due.min(gathered))).await;
            }
            // What was under way was told to end.
            Ok(Err(_)) if keeper.stop.is_stopped() => break,
            Ok(Err(error)) => {
                failures = failures.saturating_add(1);
                note(shared, entry, replica, Some((with_causes(&error), error.advice())));
                if error.is_fenced() {
                    break;
                }
                back_off(entry, failures).await;
            }
            Err(_) => {
                let advice = "please report it together with the log";
                note(shared, entry, replica, Some(("an internal error stopped upkeep".to_owned(), advice)));
                failures = failures.saturating_add(1);
                back_off(entry, failures).await;
            }
        }
    }
    let mut task = keeper.task();
    (task.running, task.ended) = (None, true);
}

async fn back_off(entry: &Entry, failures: u32) {
    let wait = RETRY_MIN.saturating_mul(1 << (failures - 1).min(10)).min(RETRY_MAX);
    wait_until(entry, Instant::now() + wait).await;
}

/// One line per kind of trouble, and one when it is over, which is when nothing
/// is left to do. The texts of errors differ from try to try, by the ids of
/// requests; what to do about them does not.
fn note(shared: &Shared, entry: &Entry, replica: usize, trouble: Option<(String, &'static str)>) {
    let mut change = None;
    shared.board.update(entry.id, |facts| {
        let Some(facts) = facts.replicas.get_mut(replica) else { return };
        let is_known = match (&facts.upkeep_error, &trouble) {
            (Some(old), Some((_, advice))) => old.ends_with(advice),
            (old, new) => old.is_none() && new.is_none(),
        };
        if !is_known {
            change = Some((facts.name.clone(), trouble.clone()));
        }
        facts.upkeep_error = trouble.map(|(error, advice)| format!("{error}: {advice}"));
    });
    let db = db_name(&entry.path);
    match change {
        Some((replica, Some((error, advice)))) => {
            tracing::error!(db, replica, error, advice, "compaction or retention failed");
        }
        Some((replica, None)) => tracing::info!(db, replica, "compaction and retention recovered"),
        None => {}
    }
}
