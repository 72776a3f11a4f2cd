//! What of the spool is dispensable.
//!
//! Always true: a segment is dropped only when every replica that may still be
//! written has it, and no merge that comes soon wants it.

use super::super::{Entry, Shared, Source};
use super::db_name;
use crate::spool::Seq;

/// Drops from the spool what every replica has and no merge will need soon. A
/// replica that was fenced needs nothing more.
pub(in crate::daemon) fn trim(shared: &Shared, entry: &Entry, source: &Source) {
    let facts = shared.board.read_one(entry.id);
    let Some(captured) = facts.as_ref().and_then(|f| f.captured).filter(|c| c.generation == source.generation) else {
        return;
    };
    let mut lowest = captured.batch;
    let mut wanted = None;
    let shippings = &entry.shipping;
    for (replica, shipping) in facts.iter().flat_map(|f| &f.replicas).zip(shippings).filter(|(r, _)| !r.fenced) {
        match replica.batch {
            Some(batch) => lowest = lowest.min(batch),
            None => return,
        }
        wanted = wanted.into_iter().chain(shipping.uploaded.oldest()).min();
    }
    let Some(spare) = Seq::new(lowest) else { return };
    source.spool.spare_through(spare);
    let Some(seq) = wanted.map_or(Some(spare), |wanted| wanted.before().map(|before| before.min(spare))) else {
        return;
    };
    if let Err(error) = source.spool.drop_through(seq) {
        let db = db_name(&entry.path);
        tracing::warn!(db, error = error.to_string(), "cannot remove local segments that every replica has");
    }
}
