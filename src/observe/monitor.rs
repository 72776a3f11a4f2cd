//! The watch: looks at everything again and again, says in the log when health
//! changes, keeps the charts, and calls whoever wants to be called.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::heartbeat::{Heart, Heartbeat};
use super::outbound::Outbound;
use super::told::{self, AllTold, State, state};
use super::webhook::{Bell, Webhook};
use super::{MANY, Observer, view};
use crate::health::{Cause, Grade, judge, lag};
use crate::status::Health;

/// How often to look: well within any objective, and rarely enough to cost nothing.
const LOOK: Duration = Duration::from_secs(1);
/// Where there are many databases.
const LOOK_AT_MANY: Duration = Duration::from_secs(5);

impl Observer {
    /// Runs until it is dropped.
    pub async fn monitor(self: Arc<Self>, heartbeat: Option<Heartbeat>, webhook: Option<Webhook>) {
        let outbound = match Outbound::new() {
            Ok(outbound) => Some(outbound),
            Err(error) => {
                if heartbeat.is_some() || webhook.is_some() {
                    tracing::error!(error, "nobody can be called");
                }
                None
            }
        };
        let calls = outbound.map(|outbound| {
            let heart = heartbeat.map(|heartbeat| Heart::new(heartbeat, Instant::now()));
            let bell = webhook.map(|webhook| Bell::new(webhook, Instant::now()));
            (outbound, heart, bell)
        });
        let (send, receive) = tokio::sync::watch::channel(Arc::new(Look::default()));
        let caller = async {
            if let Some((outbound, heart, bell)) = calls {
                self.call(&outbound, heart, bell, receive).await;
            }
            // Without anybody to call, looking goes on all the same.
            std::future::pending::<()>().await;
        };
        let looker = async {
            let mut log = AllTold::new();
            loop {
                let look = self.look();
                say(&look, &mut log);
                let pause = if look.states.len() > MANY { LOOK_AT_MANY } else { LOOK };
                // Whoever calls looks at the newest.
                let _ = send.send(Arc::new(look));
                tokio::time::sleep(pause).await;
            }
        };
        // A call that hangs does not keep one from looking.
        tokio::join!(caller, looker);
    }

    fn look(&self) -> Look {
        let now = Instant::now();
        let (mut look, mut lags) = (Look::default(), Vec::new());
        let mut live = false;
        // All at once: with many databases, what this costs is fetching what is known about each.
        self.source.each(&mut |id, facts| {
            lags.push((id, lag(facts, now)));
            let verdict = judge(facts, now, self.options.objective).overall;
            live |= facts.health == Health::Live;
            look.well &= verdict.reasons.iter().all(|reason| reason.cause == Cause::Absent);
            look.overall = look.overall.max(verdict.grade);
            let state = State {
                grade: verdict.grade,
                path: facts.path.clone(),
                reason: verdict.reason().map(str::to_owned),
                patience: self.options.objective.of(facts.interval),
            };
            look.states.push((id, state));
        });
        look.well &= live;
        self.take_down(&lags, now);
        look
    }

    async fn call(
        &self,
        outbound: &Outbound,
        mut heart: Option<Heart>,
        mut bell: Option<Bell>,
        mut looks: tokio::sync::watch::Receiver<Arc<Look>>,
    ) {
        let host = view::host();
        while looks.changed().await.is_ok() {
            let look = looks.borrow_and_update().clone();
            if let Some(heart) = &mut heart
                && look.well
                && heart.is_due(Instant::now())
            {
                let heard = heart.beat(outbound).await;
                self.state().heartbeats.add(heard);
            }
            if let Some(bell) = &mut bell
                && let Some(heard) = bell.ring(&look.states, look.overall, &host, outbound).await
            {
                self.state().webhooks.add(heard);
            }
        }
    }
}

/// What one look has shown.
struct Look {
    /// In the order of the numbers.
    states: Vec<(u64, State)>,
    overall: Grade,
    /// At least one database is followed, and nothing is wrong with any but that some do not exist yet.
    well: bool,
}

impl Default for Look {
    fn default() -> Self {
        Self { states: Vec::new(), overall: Grade::Ok, well: true }
    }
}

/// One line when a database's health changes for longer than a moment.
fn say(look: &Look, log: &mut AllTold) {
    let now = Instant::now();
    for (id, previous) in told::observe(log, &look.states, now) {
        let State { grade, path, reason, .. } = state(&look.states, id);
        let path = path.display().to_string();
        told::tell(log, id, *grade);
        let (status, previous) = (grade.name(), previous.name());
        let reason = reason.as_deref().unwrap_or_default();
        match grade {
            Grade::Ok => tracing::info!(path, status, previous, "health changed"),
            Grade::Degraded => tracing::warn!(path, status, previous, reason, "health changed"),
            Grade::Failed => tracing::error!(path, status, previous, reason, "health changed"),
        }
    }
}
