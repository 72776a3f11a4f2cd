//! A database file that is already here, and the point of history it shows.
//!
//! Always true: what is said about the file is read from all of it. Which point
//! it shows is not guessed but looked up: its checksum is that of one point of
//! the replica's history, or it is of no use.
//!
//! A file that was followed (see [`super::follow`]) differs from the replicated
//! database in a few bytes of page 1. [`truth`] gives the page back as it was.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use futures::{StreamExt, stream};

use crate::replica::{Replica, Segment};
use crate::types::{Checksum, PageSize, Pgno, RollingChecksum, Txid, lock_page, page_checksum};

use super::error::RestoreError;
use super::plan::Holdings;

/// Pages read at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// Headers read at once when looking for the point.
const HEADERS_AT_ONCE: usize = 32;

/// Headers read in search of the point, the newest first. Beyond that, what has
/// changed since is so much that fetching everything is hardly more.
const HEADERS: usize = 20_000;

/// What all bytes of a database file amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Local {
    pub(super) page_size: PageSize,
    pub(super) pages: u32,
    /// The checksum of the file as it is.
    pub(super) sum: RollingChecksum,
    /// The checksum with the true page 1.
    pub(super) true_sum: RollingChecksum,
}

impl Local {
    /// Reads a file; `None` if it is not a whole database.
    pub(super) fn read(file: &File) -> io::Result<Option<Self>> {
        let size = file.metadata()?.len();
        let mut start = [0; 100];
        if size < start.len() as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut start, 0)?;
        let Some(page_size) = page_size(&start) else { return Ok(None) };
        let bytes = u64::from(page_size.get());
        let Ok(pages) = u32::try_from(size / bytes) else { return Ok(None) };
        if size % bytes != 0 {
            return Ok(None);
        }
        let (mut sum, mut true_sum) = (RollingChecksum::default(), RollingChecksum::default());
        let lock = lock_page(page_size);
        let mut chunk = vec![0; CHUNK.max(page_size.bytes())];
        let mut numbers = (1..=pages).filter_map(Pgno::new);
        let mut at = 0;
        while at < size {
            let length = usize::try_from(size - at).map_or(chunk.len(), |left| left.min(chunk.len()));
            let chunk = &mut chunk[..length];
            file.read_exact_at(chunk, at)?;
            at += length as u64;
            for (page, pgno) in chunk.chunks_exact_mut(page_size.bytes()).zip(numbers.by_ref()) {
                if pgno == lock {
                    continue;
                }
                sum.toggle(page_checksum(pgno, page));
                if pgno == Pgno::FIRST {
                    truth(page);
                }
                true_sum.toggle(page_checksum(pgno, page));
            }
        }
        Ok(Some(Self { page_size, pages, sum, true_sum }))
    }
}

/// The page size that the beginning of a database states.
pub(super) fn page_size(start: &[u8; 100]) -> Option<PageSize> {
    if !start.starts_with(b"SQLite format 3\0") {
        return None;
    }
    match u16::from_be_bytes([start[16], start[17]]) {
        1 => PageSize::new(65536),
        size => PageSize::new(size.into()),
    }
}

/// Where page 1 says how the file is written: 2 for a database in WAL mode, which
/// is what is replicated, 1 for one that is followed.
const VERSIONS: std::ops::Range<usize> = 18..20;

/// Where page 1 counts changes, so that readers know that theirs are old.
const COUNTER: std::ops::Range<usize> = 24..28;

/// Where page 1 repeats the counter as of when SQLite itself last wrote it.
/// Readers take the size of the file for the number of pages if the two differ.
const VALID_FOR: std::ops::Range<usize> = 92..96;

/// Turns page 1 of a followed file into what was replicated.
pub(super) fn truth(page: &mut [u8]) {
    if page[VERSIONS] == [1, 1] {
        page[VERSIONS].fill(2);
        page.copy_within(VALID_FOR, COUNTER.start);
    }
}

/// Turns page 1 as it was replicated into that of a followed file, in which
/// `counter` changes were counted.
pub(super) fn followed(page: &mut [u8], counter: u32) {
    page[VERSIONS].fill(1);
    page[COUNTER].copy_from_slice(&counter.to_be_bytes());
}

/// How many changes page 1 counts.
pub(super) fn counter(page: &[u8]) -> u32 {
    page[COUNTER].try_into().map(u32::from_be_bytes).expect("four bytes")
}

/// The newest point up to `end` at which the database had one of these checksums.
pub(super) async fn find(
    replica: &Replica,
    holdings: &Holdings,
    end: Txid,
    sums: [Checksum; 2],
) -> Result<Option<(Txid, Checksum)>, RestoreError> {
    let mut segments: Vec<Segment> =
        holdings.segments().iter().copied().filter(|segment| segment.txids.max() <= end).collect();
    segments.sort_by_key(|segment| (std::cmp::Reverse(segment.txids.max()), segment.level));
    segments.dedup_by_key(|segment| segment.txids.max());
    segments.truncate(HEADERS);
    let mut headers = stream::iter(segments.clone())
        .map(|segment| async move { replica.read_header(&segment).await })
        .buffered(HEADERS_AT_ONCE);
    while let Some(header) = headers.next().await {
        let header = match header {
            // Merged away meanwhile: other segments tell of other points.
            Err(error) if error.is_missing() => continue,
            header => header?,
        };
        let Some(proof) = header.proof else { continue };
        if sums.contains(&proof.after) {
            return Ok(Some((header.txids.max(), proof.after)));
        }
        let before = Txid::new(header.txids.min().get() - 1);
        if let (Some(before), Some(sum)) = (before, proof.before)
            && sums.contains(&sum)
        {
            return Ok(Some((before, sum)));
        }
    }
    Ok(None)
}
