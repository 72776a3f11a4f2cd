//! Doors for those who want to know how things are: metrics, health, the status
//! page and its JSON, the heartbeat and the webhook.
//!
//! Always true: every door shows the verdict of `health`, about facts of the same
//! moment, and none of them changes anything. Asking costs the databases nothing
//! and the storages no request, with one exception that says so: the page's look at
//! one database reads its pins and the names of its generations, and keeps them for
//! a while.

mod families;
mod heartbeat;
mod history;
mod looks;
mod metrics;
mod monitor;
mod outbound;
mod page;
mod process;
mod ring;
mod routes;
mod source;
mod template;
mod told;
mod view;
mod webhook;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub use families::{FAMILIES, Family, Kind, Merge};
pub use heartbeat::Heartbeat;
pub use metrics::Detail;
pub use source::{Observed, Source};
pub use template::Template;
pub use view::{Alarm, DatabaseView, ReplicaView, StatusView};
pub use webhook::Webhook;

use self::history::Histories;
use self::looks::Look;
use self::ring::Ring;
use crate::health::{Grade, Objective, Verdict, judge};
use crate::types::{Secret, Timestamp};

/// With more databases than this, their metrics are shown as one, and all of them
/// are looked at less often.
const MANY: usize = 1000;

/// What an observer is told about the way the program was started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What the program is called.
    pub program: String,
    /// The config file, for commands to copy.
    pub config: Option<String>,
    /// How old a disagreement may be.
    pub objective: Objective,
    /// What must be shown to see anything but health.
    pub token: Option<Secret>,
    /// Whether metrics have series of their own for each database.
    pub detail: Detail,
}

/// What is shown at every door.
pub struct Observer {
    options: Options,
    source: Arc<dyn Source>,
    started: Instant,
    started_wall: Timestamp,
    state: Mutex<State>,
    histories: Histories,
}

/// What is remembered from look to look.
#[derive(Debug, Default)]
struct State {
    rings: BTreeMap<u64, Ring>,
    /// The worst of all.
    ring: Ring,
    /// The last look, told as the time since the start.
    looked: Duration,
    heartbeats: metrics::Calls,
    webhooks: metrics::Calls,
}

impl Observer {
    /// Nothing happens before it is asked, or its monitor is run.
    pub fn new(source: Arc<dyn Source>, options: Options) -> Arc<Self> {
        Arc::new(Self {
            options,
            source,
            started: Instant::now(),
            started_wall: SystemTime::now().into(),
            state: Mutex::default(),
            histories: Histories::default(),
        })
    }

    /// Takes lags of the past for what was seen: one for each 30 seconds before now,
    /// oldest first, for every database. For demonstrations.
    pub fn remember(&self, lags: impl Iterator<Item = Duration>) {
        let mut state = self.state();
        let mut ids = Vec::new();
        self.source.each(&mut |id, _| ids.push(id));
        for (at, lag) in (0u32..).zip(lags) {
            let then = ring::STEP * at;
            state.ring.add(then, lag);
            ids.iter().for_each(|id| state.rings.entry(*id).or_default().add(then, lag));
        }
    }

    /// The verdict about everything.
    pub fn verdict(&self, now: Instant) -> Verdict {
        let mut worst: Option<Verdict> = None;
        self.source.each(&mut |_, facts| {
            let verdict = judge(facts, now, self.options.objective).overall;
            if worst.as_ref().is_none_or(|worst| verdict.grade > worst.grade) {
                worst = Some(verdict);
            }
        });
        worst.unwrap_or_else(Verdict::nothing_to_do)
    }

    /// Whether each database was looked at since the start.
    pub fn is_ready(&self) -> bool {
        let mut ready = true;
        self.source.each(&mut |_, facts| ready &= facts.health != crate::status::Health::Starting);
        ready
    }

    /// Everything, as JSON shows it.
    pub fn status(&self) -> StatusView {
        view::status(self, &self.source.observe(), Instant::now(), SystemTime::now().into())
    }

    /// Everything, as Prometheus reads it.
    pub fn metrics(&self) -> String {
        let state = self.state();
        let whole = metrics::Whole {
            objective: self.options.objective,
            now: Instant::now(),
            started: self.started_wall,
            heartbeats: state.heartbeats,
            webhooks: state.webhooks,
            process: process::now(),
        };
        drop(state);
        metrics::render(&self.source.observe(), &whole, self.options.detail)
    }

    /// Takes down how late each database is, for the charts.
    fn take_down(&self, look: &Look, now: Instant) {
        let mut state = self.state();
        let since = now.duration_since(self.started);
        let last = std::mem::replace(&mut state.looked, since);
        state.ring.add(since, look.lags.iter().map(|(_, lag)| *lag).max().unwrap_or_default());
        for (id, lag) in &look.lags {
            let ring = state.rings.entry(*id).or_default();
            ring.was_in_time(last);
            ring.add(since, *lag);
        }
        look.gone.iter().for_each(|id| drop(state.rings.remove(id)));
    }

    /// How late a database was, in seconds, for the charts.
    fn lag_history(&self, id: u64) -> Vec<f32> {
        let mut state = self.state();
        let looked = state.looked;
        state
            .rings
            .get_mut(&id)
            .map(|ring| {
                ring.was_in_time(looked);
                ring.seconds()
            })
            .unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Only numbers are in it, and any of them is better than none.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many are how well.
fn grades(verdicts: impl Iterator<Item = Grade>) -> [usize; 3] {
    let mut counts = [0; 3];
    verdicts.for_each(|grade| counts[grade as usize] += 1);
    counts
}
