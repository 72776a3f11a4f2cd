//! The way out: from a replica to a database at a path.
//!
//! Always true: when `restore` returns without an error, the target is the
//! database as it was at the point asked for, proven as far as the replica
//! allows, and durable. In every other case the target is as it was.
//!
//! A backup in the format of Litestream 0.3 goes the same way, see `older`.
//!
//! Segments can be merged and deleted while they are being restored from. A
//! restore that misses one lists again and plans again, a few times.

mod apply;
mod claims;
mod error;
mod fetch;
mod older;
mod output;
mod overview;
mod pages;
pub mod plan;
mod points;
pub mod ranges;
mod survey;
mod verify;

use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinError;

use crate::durable::Draft;
use crate::replica::Replica;

use apply::{Trust, apply};
use fetch::Fetcher;

pub use apply::Evidence;
pub use claims::Claims;
pub use error::RestoreError;
pub use fetch::Limits;
pub use older::{Backup, Older, OlderReport, Outcome, find, restore_any};
pub use output::{Output, OutputError};
pub use overview::{Estimate, LevelSize, Overview, overview};
pub use pages::Progress;
pub use plan::{Plan, PlanError, Target};
pub use ranges::{Point, Range, points};
pub use survey::{Candidate, Neighbours, survey};
pub use verify::{IntegrityCheck, VerifyError, immutable_uri};

/// How often a plan may lose a segment before the restore gives up. Merging
/// takes a segment away at most once in its life, and with the usual grace none
/// goes away during a restore: more than two in a row means that something else
/// deletes them.
const PLANS: u32 = 3;

/// What to restore, and how.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How far.
    pub target: Target,
    /// Whether a database at the target may be replaced.
    pub overwrite: bool,
    /// Requests to the replica at a time, 1 to 64.
    pub parallelism: usize,
    /// How much to fetch at a time.
    pub limits: Limits,
    /// Whether SQLite has a say before the database is put in place.
    pub integrity_check: IntegrityCheck,
}

impl Default for Options {
    /// The newest point, to a free name, as fast as eight requests at a time go.
    fn default() -> Self {
        Self {
            target: Target::Latest,
            overwrite: false,
            parallelism: 8,
            limits: Limits::default(),
            integrity_check: IntegrityCheck::None,
        }
    }
}

/// What was restored.
#[derive(Clone, Debug)]
pub struct Report {
    /// From where, along which chain.
    pub candidate: Candidate,
    /// What vouches for the result.
    pub evidence: Evidence,
}

/// Restores from the replica with the newest data, or from the next best one if
/// that turns out to be unusable.
pub async fn restore(
    replicas: &[Replica],
    path: &Path,
    options: &Options,
    progress: &Arc<Progress>,
) -> Result<Report, RestoreError> {
    let output = Output::inspect(path, options.overwrite)?;
    let mut first_error = None;
    for candidate in survey(replicas, options.target).await? {
        let name = candidate.replica.name().to_owned();
        let error = match restore_from(candidate, &output, options, progress).await {
            Err(error) if error.is_of_replica() => error,
            outcome => return outcome,
        };
        if replicas.len() > 1 {
            tracing::warn!(replica = name, error = &error as &dyn std::error::Error, "cannot restore from replica");
        }
        first_error.get_or_insert(error);
    }
    Err(first_error.expect("a survey finds a candidate or fails"))
}

async fn restore_from(
    mut candidate: Candidate,
    output: &Output,
    options: &Options,
    progress: &Arc<Progress>,
) -> Result<Report, RestoreError> {
    let fetcher = Fetcher::new(candidate.replica.clone(), options.parallelism, options.limits);
    let mut plans = 1;
    let (draft, evidence) = loop {
        match fill_draft(&candidate.plan, &fetcher, output, progress).await {
            Err(error) if error.is_vanished() && plans < PLANS => {
                tracing::info!(%error, "a segment is gone, listing the replica again");
                candidate = survey::look(&candidate.replica, options.target).await?;
                plans += 1;
            }
            outcome => break outcome?,
        }
    };
    let how = options.integrity_check;
    verify::check(draft.path(), how).await?;
    output.clone().publish(draft).await?;
    Ok(Report { candidate, evidence })
}

/// A new draft with the pages of the plan. Each attempt has its own, because
/// writes of an earlier one may still be under way.
async fn fill_draft(
    plan: &Plan,
    fetcher: &Fetcher,
    output: &Output,
    progress: &Arc<Progress>,
) -> Result<(Draft, Evidence), RestoreError> {
    let draft = output.draft()?;
    match apply(plan, fetcher, &draft, Trust::Proof, progress).await {
        Err(RestoreError::Checksum { .. }) => {}
        outcome => return Ok((draft, outcome?)),
    }
    // Something was wrong with what was fetched. Reading every file to its end
    // tells which one it was.
    tracing::warn!("the restored database has the wrong checksum, looking for the segment that is damaged");
    drop(draft);
    let draft = output.draft()?;
    let evidence = apply(plan, fetcher, &draft, Trust::FilesOnly, progress).await?;
    Ok((draft, evidence))
}

/// The outcome of a task. None is ever aborted while somebody waits for it, so
/// the only way for one to end early is to panic, and then so do we.
fn unpanicked<T>(outcome: Result<T, JoinError>) -> T {
    outcome.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => unreachable!("a task was cancelled: {error}"),
    })
}
