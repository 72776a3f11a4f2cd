//! From a chain to a complete draft, in bounded memory.
//!
//! The chain is walked from its newest segment to its oldest. Each segment is
//! asked which of the pages nobody claimed yet it holds, so that every page is
//! fetched and written once, and the walk ends as soon as all are claimed.
//!
//! - A small segment is fetched whole, several ahead of the walk, and every byte
//!   of it is checked.
//! - Of a large one only the page index is read, and then the claimed stretches,
//!   in parallel. Their content is vouched for by the checksum of the whole
//!   database that the newest segment of the chain carries.
//! - A chain whose newest segment carries none (Litestream wrote it) has only the
//!   checksums of its files, and these cover whole files: large segments are then
//!   streamed from start to end, in parallel pieces.
//!
//! Always true: what is returned as applied was checked by one or the other.
//! Memory does not grow with the database, but for one bit a page: see
//! [`Limits`](super::Limits) for the rest.

use std::sync::Arc;

use super::ahead::Coming;
use super::claims::Claims;
use super::error::RestoreError;
use super::fetch::Fetcher;
use super::pages::{Ground, Progress};
use super::plan::Plan;
use super::walk::Walk;
use crate::durable::Draft;
use crate::ltx::Header;
use crate::types::RollingChecksum;

/// Whether the proof of the database may stand in for checksums of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Where the chain carries a proof.
    Proof,
    /// No: read every file to its end, to find the one that is wrong.
    FilesOnly,
}

/// What vouches for a restored database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It has the checksum that was recorded when it was captured.
    Database,
    /// Every segment it was made of has its own checksum; that they belong
    /// together is only told by their names.
    Files,
}

/// What was applied.
pub(super) struct Applied {
    pub(super) evidence: Evidence,
    /// The checksum of the database at the end of the chain.
    pub(super) sum: RollingChecksum,
    /// The pages that the segments provided.
    pub(super) written: Claims,
    /// What the newest segment says.
    pub(super) end: Header,
}

/// Writes the pages at the end of the chain into the draft.
pub(super) async fn apply(
    plan: &Plan,
    fetcher: &Fetcher,
    draft: &Draft,
    ground: Ground,
    trust: Trust,
    progress: &Arc<Progress>,
) -> Result<Applied, RestoreError> {
    let newest = *plan.segments().last().expect("a plan is never empty");
    let mut coming = Coming::new(plan, fetcher.clone());
    let first = coming.next().await?.expect("a plan is never empty");
    let header = first.opened.header(&first.segment)?;
    let mut walk = Walk::new(&header, fetcher, draft, ground, trust, progress).await?;
    let walked = async {
        let mut next = Some(first);
        while let Some(arrived) = next {
            walk.visit(arrived).await?;
            if walk.has_everything() {
                break;
            }
            next = coming.next().await?;
        }
        walk.finish(&newest).await
    };
    let walked = walked.await;
    if walked.is_err() {
        walk.stop().await;
    }
    walked
}
