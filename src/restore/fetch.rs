//! Bytes of segments, in pieces of bounded size.
//!
//! Always true: nothing here holds more than the limits below say, however
//! large a segment is. A request that fails for a while is repeated by the
//! storage's own retry, so a broken transfer resumes with the piece it broke in.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use futures::stream::Stream;
use tokio::sync::Semaphore;

use crate::ltx;
use crate::ltx::Header;
use crate::ltx::index::{Entry, Parser, TAIL_SIZE, locate, parse};
use crate::replica::{Replica, Segment};

use super::error::RestoreError;

/// Where the memory of a restore goes. The defaults add up to less than 40 MB at
/// eight requests at a time; tests use small ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Segments up to this size are fetched in one request.
    pub whole: u64,
    /// The most bytes of a larger segment in one request. Large enough that the
    /// transfer takes longer than the request's way there and back, small enough
    /// to have many under way.
    pub range: u64,
    /// Bytes that may be fetched in vain between two wanted pages, because
    /// another request would take longer than they do.
    pub in_vain: u64,
    /// Bytes fetched from the end of a larger segment: the page index of a few
    /// thousand pages fits.
    pub tail: u64,
    /// Bytes of a longer page index in one request.
    pub index: u64,
    /// Bytes of the database that an interrupted restore must have written for
    /// them to be kept for the next one.
    pub keep: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { whole: 1 << 20, range: 512 << 10, in_vain: 64 << 10, tail: 64 << 10, index: 256 << 10, keep: 16 << 20 }
    }
}

/// The most requests at a time that one may ask for: the bytes under way are to
/// stay a small part of any computer's memory.
const MAX_PARALLELISM: usize = 64;

/// What is known of a segment before its pages are read.
pub(super) enum Opened {
    /// All of it.
    Whole(Bytes),
    /// Its header and its last bytes.
    Large { header: Header, tail: Bytes },
}

impl Opened {
    /// What it says of itself.
    pub(super) fn header(&self, segment: &Segment) -> Result<Header, RestoreError> {
        match self {
            Self::Whole(bytes) => Header::decode(bytes).map_err(damaged(segment)),
            Self::Large { header, .. } => Ok(*header),
        }
    }
}

/// Reads from one replica, a limited number of requests at a time.
#[derive(Clone)]
pub(super) struct Fetcher {
    replica: Replica,
    requests: Arc<Semaphore>,
    parallelism: usize,
    limits: Limits,
}

impl Fetcher {
    pub(super) fn new(replica: Replica, parallelism: usize, limits: Limits) -> Self {
        let parallelism = parallelism.clamp(1, MAX_PARALLELISM);
        Self { replica, requests: Arc::new(Semaphore::new(parallelism)), parallelism, limits }
    }

    /// Requests at a time.
    pub(super) fn parallelism(&self) -> usize {
        self.parallelism
    }

    /// How much to fetch at a time.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The first bytes of a segment one needs.
    pub(super) async fn open(&self, segment: &Segment) -> Result<Opened, RestoreError> {
        let size = segment.size;
        if size <= self.limits.whole {
            return Ok(Opened::Whole(self.read(segment, 0..size).await?));
        }
        let (start, tail) = futures::try_join!(
            self.read(segment, 0..Header::SIZE as u64),
            self.read(segment, size.saturating_sub(self.limits.tail.max(TAIL_SIZE as u64))..size)
        )?;
        let header = Header::decode(&start).map_err(damaged(segment))?;
        Ok(Opened::Large { header, tail })
    }

    /// Exactly these bytes.
    pub(super) async fn read(&self, segment: &Segment, range: Range<u64>) -> Result<Bytes, RestoreError> {
        let _request = self.requests.acquire().await.expect("the semaphore is never closed");
        Ok(self.replica.read(segment, range).await?)
    }

    /// The whole segment from start to end, several pieces ahead of the reader.
    pub(super) fn stream(&self, segment: Segment) -> impl Stream<Item = Result<Bytes, RestoreError>> + use<> {
        let fetcher = self.clone();
        stream::iter(pieces(0..segment.size, self.limits.range))
            .map(move |range| {
                let fetcher = fetcher.clone();
                async move { fetcher.read(&segment, range).await }
            })
            .buffered(self.parallelism)
    }

    /// The page index of a large segment, piece by piece.
    pub(super) fn index(&self, segment: Segment, header: &Header, tail: Bytes) -> Result<IndexReader, RestoreError> {
        let ends: &[u8; TAIL_SIZE] =
            tail.last_chunk().ok_or_else(|| damaged(&segment)(ltx::Error::Truncated { part: "index" }))?;
        let list = locate(segment.size, ends).map_err(damaged(&segment))?;
        let parser = Parser::new(header, list.start);
        let tail_start = segment.size - tail.len() as u64;
        Ok(IndexReader { fetcher: self.clone(), segment, rest: list, tail, tail_start, parser })
    }
}

/// A page index being read.
pub(super) struct IndexReader {
    fetcher: Fetcher,
    segment: Segment,
    rest: Range<u64>,
    tail: Bytes,
    tail_start: u64,
    parser: Parser,
}

impl IndexReader {
    /// The next entries, ascending; none at the end, after everything agreed.
    pub(super) async fn next(&mut self) -> Result<Vec<Entry>, RestoreError> {
        let mut entries = Vec::new();
        while entries.is_empty() && !self.rest.is_empty() {
            let bytes = self.piece().await?;
            self.rest.start += bytes.len() as u64;
            self.parser.push(&bytes, |entry| entries.push(entry)).map_err(damaged(&self.segment))?;
        }
        if self.rest.is_empty() {
            self.parser.finish().map_err(damaged(&self.segment))?;
        }
        Ok(entries)
    }

    async fn piece(&self) -> Result<Bytes, RestoreError> {
        let start = self.rest.start;
        if let Some(at) = start.checked_sub(self.tail_start) {
            let end = self.rest.end - self.tail_start;
            let place = |at: u64| usize::try_from(at).expect("the tail is small");
            return Ok(self.tail.slice(place(at)..place(end)));
        }
        let end = self.rest.end.min(start + self.fetcher.limits.index);
        self.fetcher.read(&self.segment, start..end).await
    }
}

/// The page index of a segment that is all there.
pub(super) fn whole_index(bytes: &[u8], header: &Header, segment: &Segment) -> Result<Vec<Entry>, RestoreError> {
    let blame = || damaged(segment);
    let tail: &[u8; TAIL_SIZE] = bytes.last_chunk().ok_or_else(|| blame()(ltx::Error::Truncated { part: "index" }))?;
    let list = locate(bytes.len() as u64, tail).map_err(blame())?;
    let place = |at: u64| usize::try_from(at).expect("an offset in memory");
    parse(&bytes[place(list.start)..place(list.end)], header, list.start).map_err(blame())
}

/// A range cut into pieces of at most `size`.
fn pieces(range: Range<u64>, size: u64) -> impl Iterator<Item = Range<u64>> {
    let count = (range.end - range.start).div_ceil(size);
    (0..count).map(move |i| {
        let start = range.start + i * size;
        start..range.end.min(start + size)
    })
}

/// Blames a segment.
pub(super) fn damaged(segment: &Segment) -> impl FnOnce(ltx::Error) -> RestoreError + use<> {
    let segment = *segment;
    move |source| RestoreError::Damaged { segment, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_range_without_overlap() {
        let all = |start, end| pieces(start..end, 10).map(|piece| (piece.start, piece.end)).collect::<Vec<_>>();
        assert_eq!(all(0, 0), []);
        assert_eq!(all(5, 15), [(5, 15)]);
        assert_eq!(all(5, 16), [(5, 15), (15, 16)]);
    }
}
