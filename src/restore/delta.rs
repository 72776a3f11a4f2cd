//! Bringing a database at the target up to date instead of fetching all of it.
//!
//! Always true: the database at the target is not touched. A copy of it becomes
//! the draft, the pages that changed since the point it shows are written over,
//! and the result has the checksum that was recorded for the whole database, or
//! nothing comes of it. So a wrong guess costs time and never a wrong database.
//!
//! That checksum is LTX's: the XOR of the pages' CRCs. It does not notice the same
//! bits flipped at the same place of an even number of pages. Nobody's accidents
//! look like this, but whoever has patched a file in that way must not build on it.
//!
//! Which point it shows is found by its own checksum among those that the
//! segments carry. Without such checksums, or if it shows no point of this
//! history, everything is fetched, and the log says why.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::durable::Draft;
use crate::types::{Checksum, Txid};

use super::apply::{Evidence, Trust, apply};
use super::error::RestoreError;
use super::fetch::Fetcher;
use super::local::{self, Local, truth};
use super::output::Output;
use super::pages::{Ground, Progress};
use super::survey::{self, Candidate};
use super::unpanicked;

/// A database that was brought up to date.
pub(super) struct Update {
    /// It; `None` if what is at the target is it already.
    pub(super) draft: Option<Draft>,
    /// The point that the database at the target shows.
    pub(super) built_upon: Txid,
}

/// Builds upon the database at the target; `None` if that does not help.
pub(super) async fn update(
    candidate: &Candidate,
    fetcher: &Fetcher,
    output: &Output,
    progress: &Arc<Progress>,
) -> Result<Option<Update>, RestoreError> {
    let Some((draft, local)) = copy(output).await? else {
        tracing::info!("there is no database to build upon, fetching everything");
        return Ok(None);
    };
    let end = candidate.plan.end();
    let holdings = survey::holdings(&candidate.replica).await?;
    let sums = [local.sum.checksum(), local.true_sum.checksum()];
    let Some((from, sum)) = local::find(&candidate.replica, &holdings, end, sums).await? else {
        tracing::info!(
            "the database at the target is not one that this replica recorded up to the point asked for, \
             fetching everything"
        );
        return Ok(None);
    };
    let (draft, local) = as_replicated(draft, local, sum).await?;
    if from == end {
        let same = local.sum.checksum() == sums[0];
        tracing::info!(txid = %from, "the database at the target is the one asked for");
        return Ok(Some(Update { draft: (!same).then_some(draft), built_upon: from }));
    }
    let Some(plan) = holdings.onward(from, end) else {
        tracing::info!(txid = %from, "no segments lead on from the database at the target, fetching everything");
        return Ok(None);
    };
    tracing::info!(txid = %from, segments = plan.segments().len(), "building upon the database at the target");
    let ground = Ground::Older(Arc::new(draft.file().try_clone().map_err(write(draft.path()))?), local);
    match apply(&plan, fetcher, &draft, ground, Trust::Proof, progress).await {
        Ok(applied) if applied.evidence == Evidence::Database => {
            Ok(Some(Update { draft: Some(draft), built_upon: from }))
        }
        Ok(_) => {
            tracing::info!("nothing vouches for the updated database, fetching everything");
            Ok(None)
        }
        Err(error @ (RestoreError::Write { .. } | RestoreError::Output(_))) => Err(error),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "cannot build upon the database at the target, fetching everything");
            Ok(None)
        }
    }
}

/// A draft with the content of the target, and what that is.
async fn copy(output: &Output) -> Result<Option<(Draft, Local)>, RestoreError> {
    let output = output.clone();
    let copying = tokio::task::spawn_blocking(move || {
        let Some(existing) = output.existing()? else { return Ok(None) };
        let draft = output.draft()?;
        let copied = || {
            // Where the file system can share blocks between files, it does.
            io::copy(&mut File::open(existing)?, &mut draft.file())?;
            Local::read(draft.file())
        };
        let local = copied().map_err(write(draft.path()))?;
        Ok(local.map(|local| (draft, local)))
    });
    unpanicked(copying.await)
}

/// The draft with page 1 as it was replicated, if that is what has the sum.
async fn as_replicated(draft: Draft, local: Local, sum: Checksum) -> Result<(Draft, Local), RestoreError> {
    if local.sum.checksum() == sum {
        return Ok((draft, Local { true_sum: local.sum, ..local }));
    }
    let mut page = vec![0; local.page_size.bytes()];
    let patched = draft.file().read_exact_at(&mut page, 0).and_then(|()| {
        truth(&mut page);
        draft.file().write_all_at(&page, 0)
    });
    patched.map_err(write(draft.path()))?;
    Ok((draft, Local { sum: local.true_sum, ..local }))
}

fn write(path: &Path) -> impl FnOnce(io::Error) -> RestoreError + use<> {
    let path = path.to_path_buf();
    move |source| RestoreError::Write { path, source }
}
