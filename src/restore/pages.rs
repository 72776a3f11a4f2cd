//! Pages on their way into the draft: unpacked, checked, written to their place.
//!
//! Any number of these jobs run at once. They share nothing but the file, and no
//! two of them write the same page, so their order does not matter: each returns
//! the checksum of what it wrote, and the XOR of all is the database's. Where
//! they write over an older database, each also takes the checksum of the page
//! that it replaces out again.

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
use crate::types::{Checksum, PageSize, Pgno, RollingChecksum, lock_page, page_checksum};

use super::claims::Claims;
use super::error::RestoreError;
use super::fetch::damaged;
use super::local::{Local, truth};
use super::work::Ledger;

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

    /// A restore (again) begins to write a database of this many pages, of which
    /// some are there.
    pub(super) fn begin(&self, pages: u64, total: u64) {
        self.pages.store(pages, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }
}

/// What the pages are written over.
pub(super) enum Ground {
    /// Nothing: the draft is new.
    Nothing,
    /// A part of the result, and zeros elsewhere.
    Begun(Arc<Ledger>),
    /// An older database, which this file holds and keeps. Its pages that nobody
    /// provides are pages of the result, and the draft holds them already or need
    /// not hold them.
    Older(Arc<File>, Local),
}

/// What a job has written.
#[derive(Default)]
struct Done {
    sum: RollingChecksum,
    /// Each page with its checksum, if they are to be remembered.
    entries: Option<Vec<(Pgno, Checksum)>>,
}

/// The draft as a set of pages.
pub(super) struct Pages {
    file: File,
    path: PathBuf,
    page_size: PageSize,
    ground: Ground,
    ledger: Option<Arc<Ledger>>,
    /// The draft was empty, so that what is not written is zeros.
    blank: bool,
    progress: Arc<Progress>,
}

impl Pages {
    /// The checksum of an older database without the pages above `commit`: what
    /// the result has before anything is written.
    pub(super) fn ground_sum(ground: &Ground, commit: u32) -> io::Result<RollingChecksum> {
        let Ground::Older(file, local) = ground else { return Ok(RollingChecksum::default()) };
        let mut sum = local.true_sum;
        let mut page = vec![0; local.page_size.bytes()];
        let cut = (commit.saturating_add(1)..=local.pages).filter_map(Pgno::new);
        for pgno in cut.filter(|pgno| *pgno != lock_page(local.page_size)) {
            file.read_exact_at(&mut page, pgno.offset(local.page_size))?;
            sum.toggle(page_checksum(pgno, &page));
        }
        Ok(sum)
    }

    /// What was begun before.
    pub(super) fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_deref()
    }

    /// How many pages an older database provides.
    pub(super) fn ground_pages(&self) -> u32 {
        match &self.ground {
            Ground::Nothing | Ground::Begun(_) => 0,
            Ground::Older(_, local) => local.pages,
        }
    }

    /// Gives the draft its final size. What is not written reads as zeros; of the
    /// pages nobody provides that is right for the lock page only.
    pub(super) fn new(
        draft: &Draft,
        commit: u32,
        page_size: PageSize,
        ground: Ground,
        progress: Arc<Progress>,
    ) -> Result<Self, RestoreError> {
        let path = draft.path().to_path_buf();
        let prepared = draft.file().try_clone().and_then(|file| {
            let blank = file.metadata()?.len() == 0;
            file.set_len(u64::from(commit) * u64::from(page_size.get()))?;
            Ok((file, blank))
        });
        let (file, blank) = prepared.map_err(|source| RestoreError::Write { path: path.clone(), source })?;
        let ledger = match &ground {
            Ground::Begun(ledger) if ledger.remembers() => Some(Arc::clone(ledger)),
            Ground::Begun(_) | Ground::Nothing | Ground::Older(..) => None,
        };
        progress.begin(0, u64::from(commit));
        Ok(Self { file, path, page_size, ground, ledger, blank, progress })
    }

    /// The claimed pages of a segment that is all there. Every byte of it is
    /// checked, also those of pages nobody needs.
    pub(super) fn whole(
        &self,
        segment: &Segment,
        bytes: &[u8],
        claimed: &[Pgno],
    ) -> Result<RollingChecksum, RestoreError> {
        let mut wanted = claimed.iter().copied().peekable();
        let mut done = self.to_be_recorded();
        self.decode(segment, bytes, |pgno| wanted.next_if_eq(&pgno).is_some(), &mut done)?;
        self.record(done)
    }

    /// A segment as it arrives, claiming while it is read. Every byte of it is
    /// checked before this returns.
    pub(super) fn stream(
        &self,
        segment: &Segment,
        bytes: mpsc::Receiver<Bytes>,
        claims: &mut Claims,
    ) -> Result<RollingChecksum, RestoreError> {
        // There may be any number of pages, so they are not listed.
        let mut done = Done::default();
        self.decode(segment, Arriving { bytes, current: Bytes::new() }, |pgno| claims.claim(pgno), &mut done)?;
        Ok(done.sum)
    }

    fn decode(
        &self,
        segment: &Segment,
        input: impl Read,
        mut wanted: impl FnMut(Pgno) -> bool,
        done: &mut Done,
    ) -> Result<(), RestoreError> {
        let mut page = Vec::new();
        let mut decoder = Decoder::new(input).map_err(damaged(segment))?;
        while let Some(pgno) = decoder.next_page(&mut page).map_err(damaged(segment))? {
            if wanted(pgno) {
                self.put(pgno, &page, done)?;
            }
        }
        Ok(())
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
        let mut done = self.to_be_recorded();
        let mut page = Vec::new();
        for entry in entries {
            let at = usize::try_from(entry.offset - start).ok();
            let frame = at.and_then(|at| bytes.get(at..)?.get(..usize::try_from(entry.size).ok()?));
            let frame = frame.ok_or(ltx::Error::Truncated { part: "pages" }).map_err(damaged(segment))?;
            let pgno = decode_frame(frame, self.page_size, &mut page).map_err(damaged(segment))?;
            if pgno != entry.pgno {
                return Err(damaged(segment)(ltx::Error::Index { reason: "disagrees with the pages" }));
            }
            self.put(pgno, &page, &mut done)?;
        }
        self.record(done)
    }

    fn to_be_recorded(&self) -> Done {
        Done { entries: self.ledger.is_some().then(Vec::new), ..Done::default() }
    }

    /// Remembers what was written; gives its checksum.
    fn record(&self, done: Done) -> Result<RollingChecksum, RestoreError> {
        if let (Some(ledger), Some(entries)) = (&self.ledger, done.entries) {
            let recorded = ledger.record(&entries, done.sum);
            recorded.map_err(|source| RestoreError::Write { path: self.path.clone(), source })?;
        }
        Ok(done.sum)
    }

    fn put(&self, pgno: Pgno, page: &[u8], done: &mut Done) -> Result<(), RestoreError> {
        self.take_out(pgno, &mut done.sum)
            .and_then(|()| {
                // Zeros that are there already take no room if left out.
                if self.blank && page.iter().all(|byte| *byte == 0) {
                    return Ok(());
                }
                durable::point("restore::before-page")?;
                self.file.write_all_at(page, pgno.offset(self.page_size))
            })
            .map_err(|source| RestoreError::Write { path: self.path.clone(), source })?;
        let checksum = page_checksum(pgno, page);
        done.sum.toggle(checksum);
        if let Some(entries) = &mut done.entries {
            entries.push((pgno, checksum));
        }
        self.progress.pages.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Takes the page of the older database out of the sum, if it has one.
    fn take_out(&self, pgno: Pgno, sum: &mut RollingChecksum) -> io::Result<()> {
        match &self.ground {
            Ground::Older(file, local) if pgno.get() <= local.pages => {
                let mut old = vec![0; self.page_size.bytes()];
                file.read_exact_at(&mut old, pgno.offset(self.page_size))?;
                if pgno == Pgno::FIRST {
                    truth(&mut old);
                }
                sum.toggle(page_checksum(pgno, &old));
                Ok(())
            }
            _ => Ok(()),
        }
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
