//! A snapshot of the newest point, asked for by a person: made of what the
//! replica holds, like those that the daemon makes.
//!
//! Always true: nothing is put unless the newest point can be restored, and a
//! replica whose newest point is a snapshot already gets none. For when nothing
//! else works on the replica; if something does, one of the two is told so.

use std::sync::Arc;

use super::Error;
use super::compact::{FAN_IN, Merge};
use super::merge::{self, Inputs, Stop};
use crate::ltx::{Encoding, Level};
use crate::replica::{Replica, Segment};
use crate::restore::{Target, survey};
use crate::types::{Txid, TxidRange};

/// Makes the newest point of a replica a snapshot, unless it is one. Gives the snapshot.
///
/// # Errors
/// When the replica cannot be read or written, or its newest point cannot be restored.
pub async fn snapshot(replica: &Arc<Replica>, encoding: Encoding) -> Result<Segment, Error> {
    loop {
        let found = survey(std::slice::from_ref(&**replica), Target::Latest).await.map_err(Error::Chain)?;
        let [candidate, ..] = found.as_slice() else { return Err(Error::Nothing) };
        let chain = candidate.plan.segments();
        if let [only] = chain
            && only.txids.is_snapshot()
        {
            // The base of a database that has not changed since gets a second name, if that is to be had for nothing.
            if only.level == Level::SNAPSHOT {
                return Ok(*only);
            }
            if replica.copy(only, Level::SNAPSHOT).await? {
                return Ok(Segment { level: Level::SNAPSHOT, ..*only });
            }
        }
        // A chain that is too long goes part of the way, and the rest of it in the next round.
        let links = &chain[..chain.len().min(FAN_IN)];
        let end = links.last().ok_or(Error::Nothing)?.txids.max();
        let txids = TxidRange::new(Txid::FIRST, end).ok_or(Error::Nothing)?;
        let merge = Merge { level: Level::SNAPSHOT, txids, inputs: links.to_vec() };
        let inputs = Inputs { headers: merge::headers(replica, links).await?, ..Inputs::default() };
        let made = merge::merge(replica, &merge, inputs, encoding, &Stop::default()).await;
        let (segment, _) = made?;
        if links.len() == chain.len() {
            return Ok(segment);
        }
    }
}
