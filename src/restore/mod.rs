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

mod ahead;
mod apply;
mod claims;
mod delta;
mod error;
mod fetch;
mod follow;
mod inplace;
mod local;
mod older;
mod output;
mod overview;
mod pages;
pub mod plan;
mod points;
pub mod ranges;
mod run;
mod survey;
mod verify;
mod walk;
mod work;

use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinError;

use crate::durable::Draft;
use crate::ltx::Header;
use crate::replica::Replica;
use crate::types::Txid;

use apply::{Trust, apply};
use fetch::Fetcher;
use pages::Ground;
use work::Work;

pub use apply::Evidence;
pub use claims::Claims;
pub use error::{FollowError, RestoreError};
pub use fetch::Limits;
pub use follow::{Follower, Progressed};
pub use inplace::InPlaceError;
pub use older::{Backup, Older, OlderReport, Outcome, find, restore_any};
pub use output::{Output, OutputError};
pub use overview::{Estimate, LevelSize, Overview, overview};
pub use pages::Progress;
pub use plan::{Plan, PlanError, Target};
pub use ranges::{Point, Range, points};
pub use survey::{Candidate, Neighbours, survey};
pub use verify::{IntegrityCheck, VerifyError, immutable_uri};

/// How many plans in a row may lose a segment before the restore gives up, when
/// no page was written meanwhile and merging made nothing shorter. With the usual
/// grace no segment goes away during a restore: more than two in a row means that
/// something else deletes them.
const PLANS: u32 = 3;

/// How many plans may lose a segment in all: a replica that changes faster than it
/// can be read changes forever.
const PLANS_IN_ALL: u32 = 100;

/// What to restore, and how.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How far.
    pub target: Target,
    /// Whether a database at the target may be replaced.
    pub overwrite: bool,
    /// Whether it is replaced by itself, brought up to date: only what changed
    /// since is fetched, if it is a point of the replica's history.
    pub delta: bool,
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
            delta: false,
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
    /// The point that the database at the target showed, if it was built upon.
    pub built_upon: Option<Txid>,
}

/// Restores from the replica with the newest data, or from the next best one if
/// that turns out to be unusable.
pub async fn restore(
    replicas: &[Replica],
    path: &Path,
    options: &Options,
    progress: &Arc<Progress>,
) -> Result<Report, RestoreError> {
    let output = Output::inspect(path, options.overwrite || options.delta)?;
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
    if options.delta
        && let Some(update) = delta::update(&candidate, &fetcher, output, progress).await?
    {
        let delta::Update { draft, built_upon } = update;
        if let Some(draft) = draft {
            verify::check(draft.path(), options.integrity_check).await?;
            output.clone().publish(draft).await?;
        } else {
            verify::check(output.path(), options.integrity_check).await?;
        }
        return Ok(Report { candidate, evidence: Evidence::Database, built_upon: Some(built_upon) });
    }
    let (mut plans, mut in_vain) = (1, 1);
    let mut work = None;
    let (draft, evidence) = loop {
        let before = work.as_ref().map_or(0, Work::pages);
        let (error, left) = match fill(&candidate, &fetcher, output, work.take(), progress).await {
            Ok(filled) => break filled,
            Err(failed) => failed,
        };
        if error.is_vanished() && in_vain < PLANS && plans < PLANS_IN_ALL {
            tracing::info!(%error, "a segment is gone, listing the replica again");
            let again = look_again(&candidate, options.target).await?;
            let written = left.as_ref().map_or(0, Work::pages) > before;
            let shorter = again.plan.segments().len() < candidate.plan.segments().len();
            in_vain = if written || shorter { 1 } else { in_vain + 1 };
            (plans, work, candidate) = (plans + 1, left, again);
            continue;
        }
        // What was fetched is as good as ever if only the storage is away.
        if let (RestoreError::Read(_), Some(left)) = (&error, left) {
            left.leave(options.limits.keep, &candidate.end);
        }
        return Err(error);
    };
    let how = options.integrity_check;
    verify::check(draft.path(), how).await?;
    output.clone().publish(draft).await?;
    Ok(Report { candidate, evidence, built_upon: None })
}

/// Another way to the same state if there is one: what was written is then of use.
async fn look_again(candidate: &Candidate, target: Target) -> Result<Candidate, RestoreError> {
    match survey::look(&candidate.replica, Target::Txid(candidate.plan.end())).await {
        Ok(same) => Ok(Candidate { neighbours: candidate.neighbours, ..same }),
        Err(_) => survey::look(&candidate.replica, target).await,
    }
}

/// A draft with the pages of the plan.
async fn fill_draft(
    candidate: &Candidate,
    fetcher: &Fetcher,
    output: &Output,
    progress: &Arc<Progress>,
) -> Result<(Draft, Evidence), RestoreError> {
    fill(candidate, fetcher, output, None, progress).await.map_err(|(error, _)| error)
}

/// A draft with the pages of the plan, from what was begun before, or else what
/// there is of it.
async fn fill(
    candidate: &Candidate,
    fetcher: &Fetcher,
    output: &Output,
    begun: Option<Work>,
    progress: &Arc<Progress>,
) -> Result<(Draft, Evidence), (RestoreError, Option<Work>)> {
    let (plan, end) = (&candidate.plan, &candidate.end);
    let lost = |error| (error, None);
    let work = match begun.filter(|work| work.is_for(end)) {
        Some(work) => work,
        None => opened(Work::open, output, end).await.map_err(lost)?,
    };
    let taken_up = work.pages() > 0;
    let ground = Ground::Begun(Arc::clone(&work.ledger));
    match apply(plan, fetcher, &work.draft, ground, Trust::Proof, progress).await {
        Err(RestoreError::Checksum { .. }) => {}
        Ok(applied) => return Ok((work.draft, applied.evidence)),
        Err(error) => return Err((error, Some(work))),
    }
    drop(work);
    if taken_up {
        tracing::warn!("what an interrupted restore has left is not all there, fetching everything");
        let work = opened(Work::anew, output, end).await.map_err(lost)?;
        match apply(plan, fetcher, &work.draft, Ground::Nothing, Trust::Proof, progress).await {
            Err(RestoreError::Checksum { .. }) => {}
            outcome => return outcome.map(|applied| (work.draft, applied.evidence)).map_err(lost),
        }
    }
    // Something was wrong with what was fetched. Reading every file to its end
    // tells which one it was.
    tracing::warn!("the restored database has the wrong checksum, looking for the segment that is damaged");
    let draft = output.draft().map_err(|error| lost(error.into()))?;
    let applied = apply(plan, fetcher, &draft, Ground::Nothing, Trust::FilesOnly, progress).await;
    applied.map(|applied| (draft, applied.evidence)).map_err(lost)
}

/// Opens a draft where files may be slow.
async fn opened(
    open: fn(&Output, &Header) -> Result<Work, RestoreError>,
    output: &Output,
    end: &Header,
) -> Result<Work, RestoreError> {
    let (output, end) = (output.clone(), *end);
    unpanicked(tokio::task::spawn_blocking(move || open(&output, &end)).await)
}

/// The outcome of a task. None is ever aborted while somebody waits for it, so
/// the only way for one to end early is to panic, and then so do we.
fn unpanicked<T>(outcome: Result<T, JoinError>) -> T {
    outcome.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => unreachable!("a task was cancelled: {error}"),
    })
}
