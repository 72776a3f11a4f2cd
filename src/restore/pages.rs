//! Pages on their way into the draft: unpacked, checked, written to their place.
//!
//! Any number of these jobs run at once. They share nothing but the file, and no
//! two of them write the same page, so their order does not matter: each returns
//! the checksum of what it wrote, and the XOR of all is the database's.

use std::fs::File;
use std::io;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Buf;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::durable;
use crate::durable::Draft;
use crate::ltx;
use crate::ltx::index::Entry;
use crate::ltx::{Decoder, decode_frame};
use crate::replica::Segment;
use crate::types::{PageSize, Pgno, RollingChecksum, page_checksum};

use super::claims::Claims;
use super::error::RestoreError;
use super::fetch::damaged;

/// How far a restore has come; written by its jobs, read by whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    pages: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Pages written so far, and pages of the database (0 while unknown).
    pub fn pages(&self) -> (u64, u64) {
        (self.pages.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    /// One more part of an old backup is done; their sizes take the place of pages.
    pub(super) fn advance(&self, done: u64) {
        self.pages.fetch_add(done, Ordering::Relaxed);
    }

    /// A restore (again) begins to write a database of this many pages.
    pub(super) fn begin(&self, total: u64) {
        self.pages.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }
}

/// The draft as a set of pages.
pub(super) struct Pages {
    file: File,
    path: PathBuf,
    page_size: PageSize,
    progress: Arc<Progress>,
}

impl Pages {
    /// Gives the draft its final size. What is not written reads as zeros; of the
    /// pages nobody provides that is right for the lock page only.
    pub(super) fn new(
        draft: &Draft,
        commit: u32,
        page_size: PageSize,
        progress: Arc<Progress>,
    ) -> Result<Self, RestoreError> {
        let path = draft.path().to_path_buf();
        let prepared = draft.file().try_clone().and_then(|file| {
            file.set_len(u64::from(commit) * u64::from(page_size.get()))?;
            Ok(file)
        });
        let file = prepared.map_err(|source| RestoreError::Write { path: path.clone(), source })?;
        progress.begin(u64::from(commit));
        Ok(Self { file, path, page_size, progress })
    }

    /// The claimed pages of a segment that is all there. Every byte of it is
    /// checked, also those of pages nobody needs.
    pub(super) fn whole(
        &self,
        segment: &Segment,
        bytes: &[u8],
        claimed: &[Pgno],
    ) -> Result<RollingChecksum, RestoreError> {
        let mut claimed = claimed.iter().copied().peekable();
        self.decode(segment, bytes, |pgno| claimed.next_if_eq(&pgno).is_some())
    }

    /// A segment as it arrives, claiming while it is read. Every byte of it is
    /// checked before this returns.
    pub(super) fn stream(
        &self,
        segment: &Segment,
        bytes: mpsc::Receiver<Bytes>,
        claims: &mut Claims,
    ) -> Result<RollingChecksum, RestoreError> {
        self.decode(segment, Arriving { bytes, current: Bytes::new() }, |pgno| claims.claim(pgno))
    }

    fn decode(
        &self,
        segment: &Segment,
        input: impl Read,
        mut wanted: impl FnMut(Pgno) -> bool,
    ) -> Result<RollingChecksum, RestoreError> {
        let mut sum = RollingChecksum::default();
        let mut page = Vec::new();
        let mut decoder = Decoder::new(input).map_err(damaged(segment))?;
        while let Some(pgno) = decoder.next_page(&mut page).map_err(damaged(segment))? {
            if wanted(pgno) {
                self.put(pgno, &page, &mut sum)?;
            }
        }
        Ok(sum)
    }

    /// Some pages of a segment: `bytes` begin at `start` in it and hold the
    /// frames of all `entries`. Only the frames themselves can be checked here;
    /// the checksum of the database answers for their content.
    pub(super) fn frames(
        &self,
        segment: &Segment,
        bytes: &[u8],
        start: u64,
        entries: &[Entry],
    ) -> Result<RollingChecksum, RestoreError> {
        let mut sum = RollingChecksum::default();
        let mut page = Vec::new();
        for entry in entries {
            let at = usize::try_from(entry.offset - start).ok();
            let frame = at.and_then(|at| bytes.get(at..)?.get(..usize::try_from(entry.size).ok()?));
            let frame = frame.ok_or(ltx::Error::Truncated { part: "pages" }).map_err(damaged(segment))?;
            let pgno = decode_frame(frame, self.page_size, &mut page).map_err(damaged(segment))?;
            if pgno != entry.pgno {
                return Err(damaged(segment)(ltx::Error::Index { reason: "disagrees with the pages" }));
            }
            self.put(pgno, &page, &mut sum)?;
        }
        Ok(sum)
    }

    fn put(&self, pgno: Pgno, page: &[u8], sum: &mut RollingChecksum) -> Result<(), RestoreError> {
        // The draft is new, so zeros are there already; left out, they take no room.
        if page.iter().any(|byte| *byte != 0) {
            durable::point("restore::before-page")
                .and_then(|()| self.file.write_all_at(page, pgno.offset(self.page_size)))
                .map_err(|source| RestoreError::Write { path: self.path.clone(), source })?;
        }
        sum.toggle(page_checksum(pgno, page));
        self.progress.pages.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Pieces from another task, read as one stream.
struct Arriving {
    bytes: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for Arriving {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.bytes.blocking_recv() {
                Some(bytes) => self.current = bytes,
                None => return Ok(0),
            }
        }
        let size = out.len().min(self.current.len());
        self.current.copy_to_slice(&mut out[..size]);
        Ok(size)
    }
}
