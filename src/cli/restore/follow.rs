//! `-f`: restore, then keep up to date until a signal arrives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Command, Summary, shown};
use crate::cli::error::CliError;
use crate::cli::replicate::Signals;
use crate::replica::Replica;
use crate::restore::{Follower, Progress, Progressed};

impl Command<'_> {
    /// Restores, then applies what is new until a signal arrives. What goes wrong
    /// on the way is logged and tried again.
    pub(super) async fn follow(
        &self,
        interval: Duration,
        started: Instant,
        progress: &Arc<Progress>,
    ) -> Result<Option<Summary>, CliError> {
        let mut signals = Signals::new()?;
        let options = self.restore_options();
        let starting = Follower::start(&self.replicas, &self.path, &options, progress);
        let mut follower = tokio::select! {
            started = shown(starting, progress, self.options.json) => match started {
                Ok(follower) => follower,
                Err(error) => return self.ended_by(error),
            },
            _ = signals.next() => return Ok(None),
        };
        let output = self.path.display().to_string();
        tracing::info!(output, txid = %follower.position(), interval = ?interval, "entering follow mode");
        let mut failures = 0u64;
        loop {
            let step = tokio::select! {
                step = follower.step() => step,
                // A change that is under way is finished before the process ends.
                _ = signals.next() => break,
            };
            match step {
                Ok(None) => failures = 0,
                Ok(Some(Progressed { from, to })) => {
                    failures = 0;
                    tracing::info!(output, from_txid = %from, to_txid = %to, "follow: applied updates");
                }
                Err(error) => {
                    failures += 1;
                    let err = &error as &dyn std::error::Error;
                    tracing::error!(output, err, consecutive_errors = failures, "follow: error applying updates");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                _ = signals.next() => break,
            }
        }
        tracing::info!(output, txid = %follower.position(), "follow mode stopped");
        Ok(Some(Summary {
            db_path: output,
            replica: self.replicas.first().map_or("", Replica::kind),
            txid: follower.position().to_string(),
            duration_ms: started.elapsed().as_millis(),
            integrity_check: self.options.integrity_check.name(),
            ..Summary::default()
        }))
    }
}
