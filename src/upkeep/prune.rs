//! Deleting by hand what policy no longer keeps: for replicas whose daemon may
//! not delete, and for what the daemon does not delete unasked.
//!
//! Nothing is remembered from before, so the grace is kept in another way: only
//! what could have gone before it began goes now.

use std::sync::Arc;
use std::time::Duration;

use super::delete::{prove, remove};
use super::retain::{self, Rule, Verdict};
use super::{Error, Retention};
use crate::replica::{Item, Replica, Segment, Shelf};
use crate::types::Timestamp;

/// How to prune.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PruneOptions {
    /// What is kept.
    pub retention: Retention,
    /// Only tell.
    pub dry_run: bool,
    /// Also delete more than half of the snapshots.
    pub confirm: bool,
}

/// What pruning came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// What may go, and has gone unless only told or refused.
    pub deletions: Vec<(Segment, Rule)>,
    /// More would go than goes without being confirmed: nothing has gone.
    pub refused: bool,
    /// The snapshots among them, and all there were.
    pub snapshots: (usize, usize),
    /// Bytes of what may go, and of everything.
    pub bytes: (u64, u64),
}

/// Lists the replica and deletes what its policy no longer keeps.
///
/// # Errors
/// When the replica cannot be read, does not hold together, or does not delete.
pub async fn prune(replica: &Arc<Replica>, wall: Timestamp, options: &PruneOptions) -> Result<Pruned, Error> {
    let shelf = Shelf::default();
    shelf.replace(shelf.begin_listing(), replica.list_all().await?);
    let pins = replica.pins().await?;
    let items: Vec<Item> =
        shelf.items(Duration::ZERO, wall).into_iter().map(|i| before(i, options.retention.grace)).collect();
    let verdict = retain::judge(&items, &options.retention, &pins)?;
    let refused = verdict.is_excessive() && !options.confirm;
    let Verdict { deletions, snapshots, .. } = verdict;
    let bytes = (deletions.iter().map(|(s, _)| s.size).sum(), items.iter().map(|i| i.segment.size).sum());
    if !refused && !options.dry_run && !deletions.is_empty() {
        prove(replica, &shelf, &items, &deletions).await?;
        remove(replica, &shelf, &deletions).await?;
    }
    Ok(Pruned { deletions, refused, snapshots, bytes })
}

fn before(item: Item, grace: Duration) -> Item {
    Item { age: item.age.saturating_sub(grace), ..item }
}
