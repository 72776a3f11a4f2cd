//! The way from the spool to one replica.
//!
//! Invariant: what a replica holds is, in the order of its TXIDs, one unbroken
//! history: each segment connects to the one before, or is complete. A name is
//! taken only with the condition that it is free; whoever finds it taken by
//! somebody else stops ([`Error::Fenced`]) and touches nothing.
//!
//! Nothing is remembered between runs. The newest segment on the replica says
//! where to go on: its generation and its database checksum are looked up in the
//! spool. If they are not found there, the replica gets a base above everything
//! it holds. Only where listing is forbidden this machine remembers the newest
//! TXID itself ([`Claims`]).
//!
//! Backlogs are merged: however much waits, one object goes up at a time, and
//! what arrives meanwhile goes into the next.

mod base;
mod claims;
mod error;
mod next;
mod prepare;
mod standing;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::ltx::{self, Encoding, Level};
use crate::replica::{PutError, Replica, Shelf};
use crate::spool::{Seq, Spool, Uploaded};
use crate::storage::ErrorKind;
use crate::types::{Generation, Timestamp, Txid, TxidRange};

pub use claims::Claims;
pub use error::Error;
pub use next::{Next, next};

use prepare::{BATCH_SEGMENTS, Prepared, Unprepared, prepare};
use standing::Standing;

/// No upload takes longer, so what is older and not finished never will be.
const LONGEST_UPLOAD: Duration = Duration::from_secs(24 * 3600);

/// What one round of work came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advanced {
    /// The replica has everything.
    UpToDate,
    /// One object went up; there may be more to do.
    Shipped,
    /// The replica needs a base: see [`Uploader::put_base`].
    NeedsBase,
    /// Another writer continued the replica's history after ours. To go on above
    /// it, this machine's history needs a new name first.
    TakenOver,
}

/// What a replica is known to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// The newest TXID.
    pub txid: Txid,
    /// The captured batch it ends with.
    pub seq: Seq,
    /// Its time.
    pub timestamp: Timestamp,
}

/// Ships to one replica of one database.
pub struct Uploader {
    replica: Arc<Replica>,
    /// What the replica holds, for whoever else works on it.
    shelf: Shelf,
    encoding: Encoding,
    max_segments: usize,
    history: Option<Generation>,
    /// `None`: to be found out.
    standing: Option<Standing>,
    /// An object whose fate is not known: it is sent again unchanged. In a box: mostly there is none.
    unresolved: Option<Box<Prepared>>,
    /// What this value itself wrote last.
    wrote: Option<Txid>,
    /// The history up to here is no use without a base.
    distrusted: Option<Txid>,
    fenced: bool,
    tidied: bool,
    claims: Option<Claims>,
    /// For whoever merges what was uploaded.
    uploaded: Option<Uploaded>,
}

impl Uploader {
    /// `max_segments` = 0 means as many as the program's own bound allows.
    pub fn new(replica: Arc<Replica>, encoding: Encoding, max_segments: usize) -> Self {
        let max_segments = if max_segments == 0 { BATCH_SEGMENTS } else { max_segments.min(BATCH_SEGMENTS) };
        Self {
            replica,
            shelf: Shelf::default(),
            encoding,
            max_segments,
            history: None,
            standing: None,
            unresolved: None,
            wrote: None,
            distrusted: None,
            fenced: false,
            tidied: false,
            claims: None,
            uploaded: None,
        }
    }

    /// What the replica holds, kept up to date with every upload.
    pub fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// The same for a replica that must not be listed.
    #[must_use]
    pub fn unlisted(self, claims: Claims) -> Self {
        Self { claims: Some(claims), ..self }
    }

    /// The same, remembering what each object was made of.
    #[must_use]
    pub fn remembering(self, uploaded: Uploaded) -> Self {
        Self { uploaded: Some(uploaded), ..self }
    }

    /// The replica.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// What the replica is known to have of the present history.
    pub fn confirmed(&self) -> Option<Confirmed> {
        self.standing.as_ref().and_then(|standing| standing.confirmed)
    }

    /// Whether another writer has taken over; then nothing more is tried.
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Asks the replica again where it stands before anything else is shipped.
    pub fn forget(&mut self) {
        (self.standing, self.unresolved) = (None, None);
    }

    /// What is there does not hold together: it gets a base and a snapshot above it.
    pub fn distrust(&mut self) {
        self.distrusted = self.shelf.listing().position();
        self.forget();
    }

    /// Ships the next object of this history, if there is one.
    ///
    /// After an error the object may be on the replica or not. If it is still at
    /// hand it is put again unchanged, which tells; otherwise the replica is asked
    /// again where it stands.
    ///
    /// # Errors
    /// Why not; nothing is lost by calling again.
    pub async fn advance(&mut self, spool: &Arc<Spool>, generation: Generation) -> Result<Advanced, Error> {
        if self.history != Some(generation) {
            (self.history, self.standing, self.unresolved) = (Some(generation), None, None);
        }
        if self.standing.is_none() && !self.open(spool, generation).await? {
            return Ok(Advanced::TakenOver);
        }
        if self.unresolved.is_none()
            && let Some(nothing_to_put) = self.prepare(spool).await?
        {
            return Ok(nothing_to_put);
        }
        self.put_prepared(spool).await?;
        Ok(Advanced::Shipped)
    }

    /// Finds out where the replica stands. `false`: its history goes on after ours under another name.
    async fn open(&mut self, spool: &Spool, generation: Generation) -> Result<bool, Error> {
        match self.find_out(spool, generation).await {
            Ok(Some(standing)) => {
                self.standing = Some(standing);
                self.tidy_once();
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) => {
                self.fenced |= matches!(error, Error::Fenced(_));
                Err(error)
            }
        }
    }

    /// Makes the next object. `Some`: there is none to be put, for this reason.
    async fn prepare(&mut self, spool: &Arc<Spool>) -> Result<Option<Advanced>, Error> {
        let standing = self.standing.as_ref().expect("found out by who calls this");
        if !standing.whole {
            return Ok(Some(Advanced::NeedsBase));
        }
        let cursor = standing.confirmed.map(|c| c.seq);
        let segments = match next(cursor, |seq| spool.pending(seq), self.max_segments) {
            Next::Nothing => return Ok(Some(Advanced::UpToDate)),
            Next::Base => return Ok(Some(Advanced::NeedsBase)),
            Next::Ship(segments) => segments,
        };
        let txid = Txid::after(standing.position);
        match prepare(spool.clone(), segments, txid, self.encoding).await {
            Ok(prepared) => {
                self.unresolved = Some(Box::new(prepared));
                Ok(None)
            }
            Err(Unprepared::Passing(error)) => Err(error.into()),
            Err(Unprepared::Unusable { through, error }) => {
                tracing::warn!(
                    replica = self.replica.name(),
                    error = error.to_string(),
                    "local segments cannot be read: the replica gets a new base"
                );
                spool.drop_through(through).map_err(ltx::Error::Io)?;
                Ok(Some(Advanced::NeedsBase))
            }
        }
    }

    /// Puts the object that was made, or made earlier and not heard of since.
    async fn put_prepared(&mut self, spool: &Arc<Spool>) -> Result<(), Error> {
        let prepared = self.unresolved.as_ref().expect("prepared by who calls this");
        self.claim(prepared.txid)?;
        let txids = TxidRange::single(prepared.txid);
        let put = self.replica.put_segment(Level::L0, txids, prepared.body(), prepared.timestamp).await;
        let list_again = matches!(&put, Err(PutError::Storage(error)) if error.kind == ErrorKind::Exists);
        if list_again || (put.is_err() && !prepared.is_at_hand()) {
            self.forget();
        }
        self.note_fence(put)?;
        let done = self.unresolved.take().expect("still there");
        if let Some(uploaded) = &self.uploaded {
            uploaded.add(spool, done.txid, &done.made_of);
        }
        self.shelf.put(done.segment(), done.header);
        self.confirm(done.txid, done.through, done.timestamp);
        Ok(())
    }

    fn claim(&self, txid: Txid) -> Result<(), Error> {
        self.claims.as_ref().map_or(Ok(()), |claims| claims.claim(txid)).map_err(Error::Record)
    }

    fn note_fence(&mut self, put: Result<(), PutError>) -> Result<(), Error> {
        let put = put.map_err(Error::from);
        self.fenced |= matches!(put, Err(Error::Fenced(_)));
        put
    }

    fn confirm(&mut self, txid: Txid, seq: Seq, timestamp: Timestamp) {
        self.wrote = Some(txid);
        let confirmed = Some(Confirmed { txid, seq, timestamp });
        self.standing = Some(Standing { position: Some(txid), whole: true, confirmed });
    }

    /// Has the storage remove what uploads of crashed processes left behind, once
    /// in the life of this. Nobody waits for it, and its failure changes nothing.
    fn tidy_once(&mut self) {
        // Who must not list is not asked to.
        if std::mem::replace(&mut self.tidied, true) || self.claims.is_some() {
            return;
        }
        let replica = Arc::clone(&self.replica);
        let before = SystemTime::now().checked_sub(LONGEST_UPLOAD).unwrap_or(SystemTime::UNIX_EPOCH);
        tokio::spawn(async move {
            match replica.tidy(before.into()).await {
                Ok(0) => {}
                Ok(removed) => {
                    let name = replica.name();
                    tracing::info!(replica = name, removed, "removed parts of uploads that were never finished");
                }
                // A right of its own in S3, and not one that everybody has.
                Err(error) => {
                    let name = replica.name();
                    tracing::debug!(replica = name, %error, "parts of unfinished uploads were not looked for");
                }
            }
        });
    }
}

#[cfg(test)]
mod tests;
