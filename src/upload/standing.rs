//! Where a replica stands: how far it goes, and which captured batch that is.
//!
//! Always true: a replica is taken for one of this history only if its newest
//! segment carries our generation and a database checksum that the spool knows.
//! Whoever has written before goes on only after what it wrote itself.

use std::hash::{BuildHasher, Hasher, RandomState};

use super::claims::{Claims, Remembered};
use super::{Confirmed, Error, Uploader};
use crate::ltx::{self, Level};
use crate::replica::{Listing, PutError, Segment};
use crate::spool::Spool;
use crate::storage::ErrorKind;
use crate::types::{Generation, Timestamp, Txid, TxidRange};

/// What was found out about a replica.
#[derive(Debug)]
pub(super) struct Standing {
    /// The highest TXID at any level.
    pub(super) position: Option<Txid>,
    /// From the first TXID to `position` nothing is missing.
    pub(super) whole: bool,
    /// The captured batch that the replica ends with; `None` = not one of ours.
    pub(super) confirmed: Option<Confirmed>,
}

impl Uploader {
    /// Finds out where the replica stands. `None`: its history goes on after ours
    /// under another name.
    pub(super) async fn find_out(&self, spool: &Spool, generation: Generation) -> Result<Option<Standing>, Error> {
        if let Some(claims) = &self.claims {
            return self.find_out_unlisted(claims, spool, generation).await.map(Some);
        }
        let mark = self.shelf.begin_listing();
        let listing = self.replica.list_all().await?;
        self.shelf.replace(mark, listing.clone());
        let position = listing.position();
        let Some(position) = position else {
            return Ok(Some(Standing { position: None, whole: true, confirmed: None }));
        };
        let whole = listing.gap_free_end() == Some(position) && self.distrusted != Some(position);
        let newest = newest_at(&listing, position);
        let header = match newest {
            Some(segment) => Some(self.replica.read_header(segment).await?),
            None => None,
        };
        let confirmed = header.filter(|h| h.generation == Some(generation)).and_then(|h| {
            let seq = spool.find(generation, h.proof?.after, h.timestamp)?;
            Some(Confirmed { txid: position, seq, timestamp: h.timestamp })
        });
        let forgotten = header.filter(|h| h.generation == Some(generation) && spool.is_past(h.timestamp));
        if confirmed.is_none() && forgotten.is_some() {
            tracing::info!(
                replica = self.replica.name(),
                position = position.to_string(),
                "what the replica lacks is no longer kept here: continuing above it with a base"
            );
        } else if confirmed.is_none() {
            self.still_alone(position, header.as_ref())?;
            let written_by = header.and_then(|h| h.generation);
            // Our own name on something newer than what we remember is a copy of this machine's state at work. Our name
            // before another one is an older part of this history. A name is never taken up again.
            if written_by == Some(generation) || self.has_written(&listing, generation).await? {
                return Ok(None);
            }
            tracing::info!(
                replica = self.replica.name(),
                position = position.to_string(),
                written_by = written_by.map_or("another program".to_owned(), |g| g.to_string()),
                "the replica ends with a state that this machine does not know: continuing above it with a base"
            );
        }
        Ok(Some(Standing { position: Some(position), whole, confirmed }))
    }

    /// Finds out where a replica stands that must not be listed: what was put
    /// last is known, or that nothing ever was.
    async fn find_out_unlisted(
        &self,
        claims: &Claims,
        spool: &Spool,
        generation: Generation,
    ) -> Result<Standing, Error> {
        // Every `RandomState` hashes differently, with keys from the system.
        let newest = match claims.open(|| RandomState::new().build_hasher().finish()).map_err(Error::Record)? {
            Remembered::Through(newest) => newest,
            Remembered::Beginning(mark) => {
                return match self.replica.begin(&mark).await? {
                    true => Ok(Standing { position: None, whole: true, confirmed: None }),
                    false => Err(Error::Unknown { replica: self.replica.name().to_owned() }),
                };
            }
        };
        let header = match self.replica.header_of(Level::L0, TxidRange::single(newest)).await {
            Ok(header) => header,
            // Who must not list is not told that there is nothing. The name is left out: it may have been put and merged
            // since. What follows is complete, and a snapshot spans the hole.
            Err(error) if matches!(error.kind(), ErrorKind::Missing | ErrorKind::Refused) => {
                return Ok(Standing { position: Some(newest), whole: false, confirmed: None });
            }
            Err(error) => return Err(error.into()),
        };
        let seq = header.proof.filter(|_| header.generation == Some(generation));
        let seq = seq.and_then(|proof| spool.find(generation, proof.after, header.timestamp));
        let confirmed = seq.map(|seq| Confirmed { txid: newest, seq, timestamp: header.timestamp });
        if confirmed.is_none() {
            tracing::info!(
                replica = self.replica.name(),
                position = newest.to_string(),
                "what follows the last upload is not known here: continuing above it with a base"
            );
        }
        Ok(Standing { position: Some(newest), whole: true, confirmed })
    }

    async fn has_written(&self, listing: &Listing, generation: Generation) -> Result<bool, Error> {
        let runs = self.replica.generations(listing).await?;
        Ok(runs.iter().any(|run| run.generation == Some(generation)))
    }

    /// Whoever has written once goes on only after what it wrote itself: if
    /// something else follows, another writer has taken over.
    fn still_alone(&self, position: Txid, newest: Option<&ltx::Header>) -> Result<(), Error> {
        if self.wrote.is_none_or(|txid| position <= txid) {
            return Ok(());
        }
        let txids = TxidRange::single(position);
        Err(Error::Fenced(PutError::Fenced {
            replica: self.replica.name().to_owned(),
            key: self.replica.key(Level::L0, txids),
            txids,
            ours: self.history,
            theirs: newest.and_then(|h| h.generation),
            written: newest.map_or(Timestamp::from_millis(0), |h| h.timestamp),
        }))
    }
}

/// The least merged segment that ends the history. It is not always at level 0:
/// merging and lifecycle rules remove from there what higher levels hold.
fn newest_at(listing: &Listing, position: Txid) -> Option<&Segment> {
    listing.segments().find(|segment| segment.txids.max() == position)
}
