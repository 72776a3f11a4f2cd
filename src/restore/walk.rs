//! The walk along a chain, from its newest segment to its oldest.
//!
//! Always true: each page is claimed by the newest segment that holds it, and
//! written once. After [`Walk::stop`], or a [`Walk::finish`] that succeeds, nothing
//! writes to the draft any more.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::ahead::Arrived;
use super::apply::{Applied, Evidence, Trust};
use super::claims::Claims;
use super::error::RestoreError;
use super::fetch::{Fetcher, Opened, whole_index};
use super::pages::{Ground, Pages, Progress};
use super::run::Run;
use super::unpanicked;
use crate::durable::Draft;
use crate::ltx::Header;
use crate::replica::Segment;
use crate::types::{Pgno, RollingChecksum};

/// The state of one walk along a chain.
pub(super) struct Walk {
    fetcher: Fetcher,
    pages: Arc<Pages>,
    claims: Claims,
    /// The chain carries a proof, and it is to be relied on.
    proven: bool,
    /// The segment passed last.
    newer: Option<(Segment, Header)>,
    jobs: JoinSet<Result<RollingChecksum, RestoreError>>,
    /// One for each range that is being fetched or written.
    ranges: Arc<Semaphore>,
    sum: RollingChecksum,
    end: Header,
}

impl Walk {
    pub(super) async fn new(
        end: &Header,
        fetcher: &Fetcher,
        draft: &Draft,
        ground: Ground,
        trust: Trust,
        progress: &Arc<Progress>,
    ) -> Result<Self, RestoreError> {
        let commit = end.commit;
        let (ground, sum) = unpanicked(
            tokio::task::spawn_blocking(move || {
                let sum = Pages::ground_sum(&ground, commit);
                (ground, sum)
            })
            .await,
        );
        let mut sum = sum.map_err(|source| RestoreError::Write { path: draft.path().to_path_buf(), source })?;
        let pages = Pages::new(draft, end.commit, end.page_size, ground, Arc::clone(progress))?;
        let mut claims = Claims::new(end.commit, end.page_size);
        if let Some(ledger) = pages.ledger() {
            let (written, written_sum) = ledger.written();
            progress.begin(written.len() as u64, u64::from(end.commit));
            for pgno in written {
                let _: bool = claims.claim(pgno);
            }
            sum.join(written_sum);
        }
        Ok(Self {
            fetcher: fetcher.clone(),
            pages: Arc::new(pages),
            claims,
            proven: end.proof.is_some() && trust == Trust::Proof,
            newer: None,
            jobs: JoinSet::new(),
            ranges: Arc::new(Semaphore::new(fetcher.parallelism())),
            sum,
            end: *end,
        })
    }

    /// Whether a segment is the one its name says and belongs before the newer one.
    fn check(&self, segment: &Segment, header: &Header) -> Result<(), RestoreError> {
        if header.txids != segment.txids {
            return Err(RestoreError::Misnamed { segment: *segment, header: header.txids });
        }
        if header.page_size != self.end.page_size {
            let (found, expected) = (header.page_size, self.end.page_size);
            return Err(RestoreError::PageSize { older: *segment, found, expected });
        }
        // Only neighbours without overlap meet in the same state of the database.
        if let Some((newer, newer_header)) = &self.newer
            && segment.txids.max().next() == newer.txids.min()
            && let (Some(proof), Some(newer_proof)) = (header.proof, newer_header.proof)
            && let Some(before) = newer_proof.before
            && before != proof.after
        {
            return Err(RestoreError::Unlinked { older: *segment, newer: *newer, after: proof.after, before });
        }
        Ok(())
    }

    /// Takes from a segment what nobody else provides.
    pub(super) async fn visit(&mut self, arrived: Arrived) -> Result<(), RestoreError> {
        let Arrived { segment, opened, memory } = arrived;
        let header = opened.header(&segment)?;
        self.check(&segment, &header)?;
        match opened {
            Opened::Whole(bytes) => self.whole(segment, &header, bytes, memory)?,
            Opened::Large { header, tail } if self.proven => self.ranges(segment, &header, tail).await?,
            Opened::Large { .. } => self.stream(segment).await?,
        }
        self.claims.pass(header.commit);
        self.newer = Some((segment, header));
        Ok(())
    }

    /// Whether every page has been found, so that older segments are of no use.
    pub(super) fn has_everything(&self) -> bool {
        self.claims.is_complete()
    }

    /// Ends all jobs. Afterwards nobody writes to the draft any more.
    pub(super) async fn stop(&mut self) {
        self.jobs.abort_all();
        while self.jobs.join_next().await.is_some() {}
        // A write under way outlives the task that waits for it, and holds one of these.
        let all = u32::try_from(self.fetcher.parallelism()).expect("there are few");
        let _quiet = self.ranges.acquire_many(all).await;
    }

    /// A small segment: claim by its index, then check and write in the background.
    fn whole(
        &mut self,
        segment: Segment,
        header: &Header,
        bytes: Bytes,
        memory: Option<OwnedSemaphorePermit>,
    ) -> Result<(), RestoreError> {
        let claimed: Vec<Pgno> = whole_index(&bytes, header, &segment)?
            .into_iter()
            .map(|entry| entry.pgno)
            .filter(|pgno| self.claims.claim(*pgno))
            .collect();
        if claimed.is_empty() {
            return Ok(());
        }
        let pages = Arc::clone(&self.pages);
        self.jobs.spawn_blocking(move || {
            let sum = pages.whole(&segment, &bytes, &claimed);
            drop(memory);
            sum
        });
        self.absorb_finished()
    }

    /// A large segment vouched for by the proof: only what is claimed.
    async fn ranges(&mut self, segment: Segment, header: &Header, tail: Bytes) -> Result<(), RestoreError> {
        let mut index = self.fetcher.index(segment, header, tail)?;
        let mut run = Run::default();
        loop {
            let entries = index.next().await?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                if !self.claims.claim(entry.pgno) {
                    continue;
                }
                if !run.takes(&entry, self.fetcher.limits()) {
                    self.fetch_run(segment, std::mem::take(&mut run)).await?;
                }
                run.add(entry);
            }
        }
        if run.entries.is_empty() { Ok(()) } else { self.fetch_run(segment, run).await }
    }

    async fn fetch_run(&mut self, segment: Segment, run: Run) -> Result<(), RestoreError> {
        let permit = Arc::clone(&self.ranges).acquire_owned().await.expect("the semaphore is never closed");
        let (fetcher, pages) = (self.fetcher.clone(), Arc::clone(&self.pages));
        self.jobs.spawn(async move {
            let bytes = fetcher.read(&segment, run.range.clone()).await?;
            let written = tokio::task::spawn_blocking(move || {
                let sum = pages.frames(&segment, &bytes, run.range.start, &run.entries);
                // Whoever waits for all permits relies on this having let go of the draft.
                drop(pages);
                drop(permit);
                sum
            });
            unpanicked(written.await)
        });
        self.absorb_finished()
    }

    /// A large segment with nothing to vouch for parts of it: all of it.
    async fn stream(&mut self, segment: Segment) -> Result<(), RestoreError> {
        let (sender, receiver) = mpsc::channel(1);
        let pages = Arc::clone(&self.pages);
        let mut claims = std::mem::take(&mut self.claims);
        let decoding = tokio::task::spawn_blocking(move || {
            let sum = pages.stream(&segment, receiver, &mut claims);
            (claims, sum)
        });
        let mut pieces = pin!(self.fetcher.stream(segment));
        let mut fetched = Ok(());
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(bytes) => {
                    if sender.send(bytes).await.is_err() {
                        break; // the decoder has seen enough and says why
                    }
                }
                Err(error) => {
                    fetched = Err(error);
                    break;
                }
            }
        }
        drop(sender);
        let (claims, sum) = unpanicked(decoding.await);
        self.claims = claims;
        // A transfer that broke looks like a truncated segment to the decoder.
        fetched?;
        self.sum.join(sum?);
        self.absorb_finished()
    }

    fn absorb_finished(&mut self) -> Result<(), RestoreError> {
        while let Some(job) = self.jobs.try_join_next() {
            self.sum.join(unpanicked(job)?);
        }
        Ok(())
    }

    /// Whether all that was done adds up to the database.
    pub(super) async fn finish(&mut self, newest: &Segment) -> Result<Applied, RestoreError> {
        while let Some(job) = self.jobs.join_next().await {
            self.sum.join(unpanicked(job)?);
        }
        let written = self.claims.clone();
        self.claims.fall_back_on(self.pages.ground_pages());
        if let Some(pgno) = self.claims.first_open() {
            return Err(RestoreError::MissingPage { pgno, pages: self.end.commit, end: *newest });
        }
        let found = self.sum.checksum();
        let evidence = match self.end.proof {
            Some(proof) if proof.after != found => {
                return Err(RestoreError::Checksum { end: *newest, expected: proof.after, found });
            }
            Some(_) => Evidence::Database,
            None => Evidence::Files,
        };
        Ok(Applied { evidence, sum: self.sum, written, end: self.end })
    }
}
