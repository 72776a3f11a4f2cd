//! Backups of both formats at one place, and restoring the older one.
//!
//! Always true: the format with the newer data is taken, and which one it was is
//! in the result. An older backup never stands in silently for a newer one that
//! turned out to be incomplete: then the reason is the result.
//!
//! Where Litestream 0.3 was replaced, its objects stay beside the segments. They
//! end where the segments begin, so an instant belongs to one of the two.

use std::path::Path;
use std::sync::Arc;

use futures::future;

use super::error::RestoreError;
use super::output::Output;
use super::pages::Progress;
use super::plan::{PlanError, Target};
use super::survey::{Candidate, survey};
use super::{Options, Report, restore, verify};
use crate::legacy::{self, Archive, Wish, choose, replay};
use crate::replica::Replica;
use crate::types::{Generation, Timestamp};

/// What narrows a restore down to the format of Litestream 0.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Older {
    /// Only this generation.
    pub generation: Option<Generation>,
    /// Up to the end of the log with this number.
    pub index: Option<u32>,
}

impl Older {
    fn is_asked_for(&self) -> bool {
        *self != Self::default()
    }
}

/// What can be restored.
pub enum Backup {
    /// Segments, from one of these, the best first.
    Segments(Vec<Candidate>),
    /// Objects of Litestream 0.3.
    Older {
        /// Beside which replica.
        replica: Replica,
        /// Where.
        archive: Box<Archive>,
        /// Which.
        plan: legacy::Plan,
    },
}

/// What was restored.
pub enum Outcome {
    /// Segments.
    Segments(Report),
    /// Objects of Litestream 0.3.
    Older(OlderReport),
}

/// What was restored from an old backup.
#[derive(Clone, Debug)]
pub struct OlderReport {
    /// Beside which replica it was.
    pub replica: Replica,
    /// The objects.
    pub plan: legacy::Plan,
}

/// Restores whatever is newest.
pub async fn restore_any(
    replicas: &[Replica],
    path: &Path,
    options: &Options,
    older: &Older,
    progress: &Arc<Progress>,
) -> Result<Outcome, RestoreError> {
    // A target that will not do is found out before anything is fetched.
    let output = Output::inspect(path, options.overwrite)?;
    let (replica, archive, plan) = match find_older(replicas, options.target, older).await? {
        None => return restore(replicas, path, options, progress).await.map(Outcome::Segments),
        Some(found) => (found.replica, found.archive, found.plan),
    };
    tracing::info!(
        replica = replica.name(), generation = %plan.generation(), index = format!("{:08x}", plan.index()),
        time = %plan.time(), "restoring a backup in the format of Litestream 0.3"
    );
    let draft = output.draft()?;
    let path = draft.path().to_path_buf();
    let file = draft.file().try_clone().map_err(|source| RestoreError::Write { path: path.clone(), source })?;
    progress.begin(plan.size());
    let done = Arc::clone(progress);
    let target = legacy::Target { file, beside: path.clone(), path };
    replay(&archive, &plan, target, options.parallelism, move |size| done.advance(size)).await?;
    verify::check(draft.path(), options.integrity_check).await?;
    output.publish(draft).await?;
    Ok(Outcome::Older(OlderReport { replica, plan }))
}

/// What [`restore_any`] would restore.
pub async fn find(replicas: &[Replica], target: Target, older: &Older) -> Result<Backup, RestoreError> {
    match find_older(replicas, target, older).await? {
        None => survey(replicas, target).await.map(Backup::Segments),
        Some(Found { replica, archive, plan, .. }) => Ok(Backup::Older { replica, archive: Box::new(archive), plan }),
    }
}

/// An old backup that reaches the target, or would if it were complete.
struct Found {
    replica: Replica,
    archive: Archive,
    plan: legacy::Plan,
}

/// The old backup to restore; `None` if it is to be segments, or nothing.
async fn find_older(replicas: &[Replica], target: Target, older: &Older) -> Result<Option<Found>, RestoreError> {
    let time = match target {
        // Old backups know no TXIDs.
        Target::Txid(_) => return Ok(None),
        Target::Latest => None,
        Target::Timestamp(time) => Some(time),
    };
    let wish = Wish { generation: older.generation, index: older.index, time };
    let looks = future::join_all(replicas.iter().map(|replica| look(replica, &wish))).await;
    let mut best: Option<(Timestamp, Result<Found, RestoreError>)> = None;
    let mut unusable = None;
    for look in looks {
        match look {
            Look::Newest(at, found) if best.as_ref().is_none_or(|(before, _)| at > *before) => best = Some((at, found)),
            Look::Newest(..) => {}
            Look::Nothing(error) => unusable = unusable.or(error),
        }
    }
    let Some((at, found)) = best else {
        return match unusable {
            Some(error) if older.is_asked_for() => Err(error),
            // Nothing is as old as that, unless a segment is.
            Some(error) => match survey(replicas, target).await {
                Err(RestoreError::Plan(PlanError::NoBackup)) => Err(error),
                _ => Ok(None),
            },
            None if older.is_asked_for() => Err(legacy::Error::from(legacy::PlanError::NoBackup).into()),
            None => Ok(None),
        };
    };
    if older.is_asked_for() {
        return found.map(Some);
    }
    match survey(replicas, target).await {
        Ok(candidates) if candidates[0].time >= at => Ok(None),
        Ok(_) | Err(RestoreError::Plan(PlanError::NoBackup | PlanError::TimestampBeforeOldest { .. })) => {
            found.map(Some)
        }
        // There are segments, and something is wrong with them: that is for the
        // restore of segments to say.
        Err(_) => Ok(None),
    }
}

enum Look {
    /// The time of its newest data within the wish, and the way there or why there is none.
    Newest(Timestamp, Result<Found, RestoreError>),
    /// Nothing that the wish allows, and the reason if there is one worth telling.
    Nothing(Option<RestoreError>),
}

async fn look(replica: &Replica, wish: &Wish) -> Look {
    let archive = match Archive::of(replica) {
        Ok(archive) => archive,
        Err(error) => return Look::Nothing(Some(error.into())),
    };
    let listing = match archive.list().await {
        Ok(listing) => listing,
        Err(error) => return Look::Nothing(Some(error.into())),
    };
    match (choose(&listing, wish), listing.newest()) {
        (Ok(plan), _) => Look::Newest(plan.time(), Ok(Found { replica: replica.clone(), archive, plan })),
        (Err(legacy::PlanError::NoBackup), _) | (_, None) => Look::Nothing(None),
        (Err(error @ legacy::PlanError::MissingLog { .. }), Some(newest)) => {
            let at = wish.time.map_or(newest, |limit| limit.min(newest));
            Look::Newest(at, Err(legacy::Error::from(error).into()))
        }
        (Err(error), _) => Look::Nothing(Some(legacy::Error::from(error).into())),
    }
}
