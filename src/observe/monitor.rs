//! The watch: looks at everything again and again, says in the log when health
//! changes, keeps the charts, and calls whoever wants to be called.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::heartbeat::{Heart, Heartbeat};
use super::looks::{Look, Looks};
use super::outbound::Outbound;
use super::told::{self, AllTold, Changed};
use super::webhook::{Bell, Webhook};
use super::{MANY, Observer, view};
use crate::health::Grade;

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
            let (mut looks, mut log) = (Looks::default(), AllTold::new());
            loop {
                let look = self.look(&mut looks);
                say(&look, &mut log);
                let pause = if look.there.len() > MANY { LOOK_AT_MANY } else { LOOK };
                // Whoever calls looks at the newest.
                let _ = send.send(Arc::new(look));
                tokio::time::sleep(pause).await;
            }
        };
        // A call that hangs does not keep one from looking.
        tokio::join!(caller, looker);
    }

    fn look(&self, looks: &mut Looks) -> Look {
        let now = Instant::now();
        let look = looks.look(&*self.source, now, self.options.objective);
        self.take_down(&look, now);
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
                && let Some(heard) = bell.ring(&look, &host, outbound).await
            {
                self.state().webhooks.add(heard);
            }
        }
    }
}

/// One line when a database's health changes for longer than a moment.
fn say(look: &Look, log: &mut AllTold) {
    let now = Instant::now();
    for Changed { id, path, grade, previous, reason } in told::observe(log, look, now) {
        told::tell(log, id, grade);
        let path = path.display().to_string();
        let (status, previous) = (grade.name(), previous.name());
        let reason = reason.as_deref().unwrap_or_default();
        match grade {
            Grade::Ok => tracing::info!(path, status, previous, "health changed"),
            Grade::Degraded => tracing::warn!(path, status, previous, reason, "health changed"),
            Grade::Failed => tracing::error!(path, status, previous, reason, "health changed"),
        }
    }
}
