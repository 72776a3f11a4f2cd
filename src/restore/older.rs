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
use crate::legacy::{self, Archive, Wish, choose, detours, replay};
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
    let output = Output::inspect(path, options.overwrite || options.delta)?;
    let Some(found) = find_older(replicas, options.target, older).await? else {
        return restore(replicas, path, options, progress).await.map(Outcome::Segments);
    };
    let mut first_error = None;
    for Found { replica, archive, plan, detours } in found {
        for plan in [plan].into_iter().chain(detours) {
            tracing::info!(
                replica = replica.name(), generation = %plan.generation(), index = format!("{:08x}", plan.index()),
                time = %plan.time(), "restoring a backup in the format of Litestream 0.3"
            );
            let error = match restore_older(&archive, &plan, &output, options, progress).await {
                Err(error) if error.is_of_replica() => error,
                Err(error) => return Err(error),
                Ok(()) => return Ok(Outcome::Older(OlderReport { replica, plan })),
            };
            let reason = &error as &dyn std::error::Error;
            tracing::warn!(replica = replica.name(), error = reason, "cannot restore in this way, looking for another");
            first_error.get_or_insert(error);
        }
    }
    Err(first_error.expect("there is at least one way to try"))
}

async fn restore_older(
    archive: &Archive,
    plan: &legacy::Plan,
    output: &Output,
    options: &Options,
    progress: &Arc<Progress>,
) -> Result<(), RestoreError> {
    let draft = output.draft()?;
    let path = draft.path().to_path_buf();
    let file = draft.file().try_clone().map_err(|source| RestoreError::Write { path: path.clone(), source })?;
    progress.begin(0, plan.size());
    let done = Arc::clone(progress);
    let target = legacy::Target { file, beside: path.clone(), path };
    replay(archive, plan, target, options.parallelism, move |size| done.advance(size)).await?;
    verify::check(draft.path(), options.integrity_check).await?;
    Ok(output.clone().publish(draft).await?)
}

/// What [`restore_any`] would restore.
pub async fn find(replicas: &[Replica], target: Target, older: &Older) -> Result<Backup, RestoreError> {
    match find_older(replicas, target, older).await? {
        None => survey(replicas, target).await.map(Backup::Segments),
        Some(found) => {
            let Found { replica, archive, plan, .. } = found.into_iter().next().expect("there is at least one");
            Ok(Backup::Older { replica, archive: Box::new(archive), plan })
        }
    }
}

/// An old backup that reaches the target.
struct Found {
    replica: Replica,
    archive: Archive,
    plan: legacy::Plan,
    /// Other ways to the same moment.
    detours: Vec<legacy::Plan>,
}

/// The old backups to restore from, the newest first and never none; `None` if it
/// is to be segments, or nothing.
async fn find_older(replicas: &[Replica], target: Target, older: &Older) -> Result<Option<Vec<Found>>, RestoreError> {
    let time = match target {
        // Old backups know no TXIDs.
        Target::Txid(_) => return Ok(None),
        Target::Latest => None,
        Target::Timestamp(time) => Some(time),
    };
    let wish = Wish { generation: older.generation, index: older.index, time };
    let looks = future::join_all(replicas.iter().map(|replica| look(replica, &wish))).await;
    let mut usable: Vec<(Timestamp, Result<Found, RestoreError>)> = Vec::new();
    let mut unusable = None;
    for look in looks {
        match look {
            Look::Newest(at, found) => usable.push((at, found)),
            Look::Nothing(error) => unusable = unusable.or(error),
        }
    }
    // Stable: of equals, the one that is configured first.
    usable.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let Some(&(at, _)) = usable.first() else {
        return match unusable {
            Some(error) if older.is_asked_for() => Err(error),
            // Nothing is as old as that, unless a segment is.
            Some(error) => match survey(replicas, target).await {
                Err(RestoreError::Plan(PlanError::NoBackup)) => Err(error),
                // Neither is: the answer names the oldest moment there is.
                Err(RestoreError::Plan(PlanError::TimestampBeforeOldest { oldest, .. }))
                    if is_older_than(&error, oldest) =>
                {
                    Err(error)
                }
                _ => Ok(None),
            },
            None if older.is_asked_for() => Err(legacy::Error::from(legacy::PlanError::NoBackup).into()),
            None => Ok(None),
        };
    };
    let is_older = older.is_asked_for()
        || match survey(replicas, target).await {
            Ok(candidates) => candidates[0].time < at,
            Err(RestoreError::Plan(PlanError::NoBackup | PlanError::TimestampBeforeOldest { .. })) => true,
            // There are segments, and something is wrong with them: that is for the
            // restore of segments to say.
            Err(_) => false,
        };
    if !is_older {
        return Ok(None);
    }
    let mut ways = Vec::new();
    for (_, found) in usable {
        match found {
            Ok(found) => ways.push(found),
            // The newest is incomplete: an older one does not stand in for it.
            Err(error) if ways.is_empty() => return Err(error),
            Err(_) => {}
        }
    }
    Ok(Some(ways))
}

/// Whether old backups that cannot be restored to the moment asked for may still
/// reach further back than `oldest`, the oldest of the segments.
fn is_older_than(error: &RestoreError, oldest: Timestamp) -> bool {
    use legacy::PlanError::{BeforeOldest, SnapshotTooNew};
    match error {
        RestoreError::Older(legacy::Error::Plan(
            BeforeOldest { oldest: at, .. } | SnapshotTooNew { oldest: at, .. },
        )) => *at < oldest,
        // They could not be looked at.
        _ => true,
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
        (Ok(plan), _) => {
            let detours = detours(&listing, &plan);
            Look::Newest(plan.time(), Ok(Found { replica: replica.clone(), archive, plan, detours }))
        }
        (Err(legacy::PlanError::NoBackup), _) | (_, None) => Look::Nothing(None),
        (Err(error @ legacy::PlanError::MissingLog { .. }), Some(newest)) => {
            let at = wish.time.map_or(newest, |limit| limit.min(newest));
            Look::Newest(at, Err(legacy::Error::from(error).into()))
        }
        (Err(error), _) => Look::Nothing(Some(legacy::Error::from(error).into())),
    }
}
