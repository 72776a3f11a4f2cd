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
//! [`Limits`] for the rest.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};

use crate::durable::Draft;
use crate::ltx::Header;
use crate::ltx::index::{Entry, TAIL_SIZE, locate, parse};
use crate::replica::Segment;
use crate::types::{Pgno, RollingChecksum};

use super::claims::Claims;
use super::error::RestoreError;
use super::fetch::{Fetcher, Limits, Opened, damaged};
use super::pages::{Ground, Pages, Progress};
use super::plan::Plan;
use super::unpanicked;

/// How many of the largest small segments may be fetched ahead, or fetched and
/// not yet written.
const AHEAD: u64 = 2;

/// What a small segment counts for at least, because its job needs buffers too.
const AHEAD_LEAST: u64 = 256 << 10;

/// Pages in one request at most: a megabyte of frames can hold very many that
/// are nearly empty.
const RANGE_PAGES: usize = 8192;

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
    let (segment, opened, memory) = coming.next().await?.expect("a plan is never empty");
    let header = opened.header(&segment)?;
    let mut walk = Walk::new(&header, fetcher, draft, ground, trust, progress).await?;
    let walked = async {
        let mut arrived = Some((segment, opened, memory));
        while let Some((segment, opened, memory)) = arrived {
            walk.visit(segment, opened, memory).await?;
            if walk.claims.is_complete() {
                break;
            }
            arrived = coming.next().await?;
        }
        walk.finish(&newest).await
    };
    let walked = walked.await;
    if walked.is_err() {
        walk.stop().await;
    }
    walked
}

/// The segments of a chain from newest to oldest, opened ahead of time.
struct Coming {
    fetcher: Fetcher,
    segments: VecDeque<Segment>,
    opening: VecDeque<Opening>,
    memory: Arc<Semaphore>,
}

struct Opening {
    segment: Segment,
    task: JoinSet<Result<Opened, RestoreError>>,
    memory: Option<OwnedSemaphorePermit>,
}

impl Coming {
    fn new(plan: &Plan, fetcher: Fetcher) -> Self {
        let segments = plan.segments().iter().rev().copied().collect();
        let memory = Arc::new(Semaphore::new(kibibytes(AHEAD * fetcher.limits().whole.max(AHEAD_LEAST)) as usize));
        Self { fetcher, segments, opening: VecDeque::new(), memory }
    }

    async fn next(&mut self) -> Result<Option<(Segment, Opened, Option<OwnedSemaphorePermit>)>, RestoreError> {
        self.open_ahead().await;
        let Some(Opening { segment, mut task, memory }) = self.opening.pop_front() else { return Ok(None) };
        let opened = task.join_next().await.expect("each opening is one task");
        Ok(Some((segment, joined(opened)?, memory)))
    }

    /// Starts as many requests as memory allows, and at least one.
    async fn open_ahead(&mut self) {
        while let Some(&segment) = self.segments.front()
            && self.opening.len() < self.fetcher.parallelism()
        {
            let memory = match self.cost(&segment) {
                None => None,
                Some(cost) => match Arc::clone(&self.memory).try_acquire_many_owned(cost) {
                    Ok(memory) => Some(memory),
                    // Jobs under way will give some back.
                    Err(_) if self.opening.is_empty() => {
                        let memory = Arc::clone(&self.memory).acquire_many_owned(cost).await;
                        Some(memory.expect("the semaphore is never closed"))
                    }
                    Err(_) => return,
                },
            };
            self.segments.pop_front();
            let fetcher = self.fetcher.clone();
            let mut task = JoinSet::new();
            task.spawn(async move { fetcher.open(&segment).await });
            self.opening.push_back(Opening { segment, task, memory });
        }
    }

    /// The memory that opening a segment takes, in KiB; `None` if hardly any.
    fn cost(&self, segment: &Segment) -> Option<u32> {
        let whole = segment.size <= self.fetcher.limits().whole;
        whole.then(|| kibibytes(segment.size.max(AHEAD_LEAST)))
    }
}

fn kibibytes(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).expect("a few megabytes")
}

impl Opened {
    fn header(&self, segment: &Segment) -> Result<Header, RestoreError> {
        match self {
            Self::Whole(bytes) => Header::decode(bytes).map_err(damaged(segment)),
            Self::Large { header, .. } => Ok(*header),
        }
    }
}

/// The state of one walk along a chain.
struct Walk {
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
    async fn new(
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
        let sum = sum.map_err(|source| RestoreError::Write { path: draft.path().to_path_buf(), source })?;
        let pages = Pages::new(draft, end.commit, end.page_size, ground, Arc::clone(progress))?;
        let mut claims = Claims::new(end.commit, end.page_size);
        let mut sum = sum;
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
    async fn visit(
        &mut self,
        segment: Segment,
        opened: Opened,
        memory: Option<OwnedSemaphorePermit>,
    ) -> Result<(), RestoreError> {
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

    /// Ends all jobs. Afterwards nobody writes to the draft any more.
    async fn stop(&mut self) {
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
        let claimed: Vec<Pgno> = index_of(&bytes, header, &segment)?
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
            joined(written.await)
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
            self.sum.join(joined(job)?);
        }
        Ok(())
    }

    async fn finish(&mut self, newest: &Segment) -> Result<Applied, RestoreError> {
        while let Some(job) = self.jobs.join_next().await {
            self.sum.join(joined(job)?);
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

/// Pages of one segment that are fetched with one request.
#[derive(Default)]
struct Run {
    range: Range<u64>,
    entries: Vec<Entry>,
}

impl Run {
    fn takes(&self, entry: &Entry, limits: &Limits) -> bool {
        let near = entry.offset - self.range.end <= limits.in_vain;
        let fits = entry.offset + entry.size - self.range.start <= limits.range;
        self.entries.is_empty() || (near && fits && self.entries.len() < RANGE_PAGES)
    }

    fn add(&mut self, entry: Entry) {
        if self.entries.is_empty() {
            self.range.start = entry.offset;
        }
        self.range.end = entry.offset + entry.size;
        self.entries.push(entry);
    }
}

/// The page index of a segment that is all there.
fn index_of(bytes: &[u8], header: &Header, segment: &Segment) -> Result<Vec<Entry>, RestoreError> {
    let blame = || damaged(segment);
    let tail: &[u8; TAIL_SIZE] =
        bytes.last_chunk().ok_or_else(|| blame()(crate::ltx::Error::Truncated { part: "index" }))?;
    let list = locate(bytes.len() as u64, tail).map_err(blame())?;
    let place = |at: u64| usize::try_from(at).expect("an offset in memory");
    parse(&bytes[place(list.start)..place(list.end)], header, list.start).map_err(blame())
}

fn joined<T>(outcome: Result<Result<T, RestoreError>, JoinError>) -> Result<T, RestoreError> {
    unpanicked(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The requests for pages at these offsets, each of 10 bytes.
    fn requests(offsets: &[u64], limits: &Limits) -> Vec<(u64, u64)> {
        let mut requests = Vec::new();
        let mut run = Run::default();
        for offset in offsets {
            let entry = Entry { pgno: Pgno::FIRST, offset: *offset, size: 10 };
            if !run.takes(&entry, limits) {
                let Run { range, .. } = std::mem::take(&mut run);
                requests.push((range.start, range.end));
            }
            run.add(entry);
        }
        requests.push((run.range.start, run.range.end));
        requests
    }

    #[test]
    fn near_pages_share_a_request_of_limited_size() {
        let limits = Limits { range: 100, in_vain: 20, ..Limits::default() };
        assert_eq!(requests(&[100, 110, 120], &limits), [(100, 130)]);
        assert_eq!(requests(&[100, 130], &limits), [(100, 140)], "twenty bytes in vain");
        assert_eq!(requests(&[100, 131], &limits), [(100, 110), (131, 141)]);
        let many: Vec<u64> = (0..15).map(|i| 100 + i * 10).collect();
        assert_eq!(requests(&many, &limits), [(100, 200), (200, 250)]);
        let most: Vec<u64> = (0..=RANGE_PAGES as u64).map(|i| i * 10).collect();
        let wide = Limits { range: u64::MAX, ..limits };
        assert_eq!(requests(&most, &wide).len(), 2, "pages are limited too");
    }
}
