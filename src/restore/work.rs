//! A draft, and which of its pages are written: what an interrupted restore leaves
//! for the next one to the same target and the same state.
//!
//! Always true: nothing here is believed. A page that the journal names is read
//! back from the draft and counts only with the content that the journal recorded;
//! it goes into the checksum of the whole, and if that is not the recorded one,
//! everything is fetched anew. So after a power failure, when pages may be lost
//! that the journal names, work is lost and no more. Without a recorded checksum of
//! the database there is no journal.
//!
//! Each page has a checksum of its own here, because that of the database is a sum
//! in which the same change of two pages is no change.
//!
//! Draft and journal have names that follow from the target and the state, and the
//! form of every draft: whoever restores another state there removes them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::durable::Draft;
use crate::ltx::Header;
use crate::types::{Checksum, Pgno, RollingChecksum, crc64_iso, page_checksum};

use super::error::RestoreError;
use super::output::Output;

/// Bytes of one page in the journal: its number and its checksum.
const ENTRY: usize = 12;

/// A draft under construction.
pub(super) struct Work {
    pub(super) draft: Draft,
    pub(super) ledger: Arc<Ledger>,
    /// Removes the journal with the rest, whoever still has the ledger.
    _closing: Closing,
}

struct Closing(Arc<Ledger>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.lock().journal = None;
    }
}

/// What is known to be in a draft. Shared by the jobs that write it.
pub(super) struct Ledger {
    /// The state that the draft is to show.
    tag: u64,
    written: Mutex<Written>,
}

/// Pages that are in the draft.
struct Written {
    pages: Vec<Pgno>,
    sum: RollingChecksum,
    /// Where they are named; `None` if nothing is to be remembered.
    journal: Option<Draft>,
}

impl Work {
    /// Takes up what is there for this state, or begins.
    pub(super) fn open(output: &Output, end: &Header) -> Result<Self, RestoreError> {
        let tag = tag(end);
        if end.proof.is_some()
            && let Some(draft) = output.draft_of(tag)?
            && let Some(journal) = output.draft_of(!tag)?
        {
            output.sweep()?;
            let (pages, sum) = read(&journal, draft.file(), end).map_err(write(&journal))?;
            if !pages.is_empty() {
                tracing::info!(pages = pages.len(), of = end.commit, "going on with an interrupted restore");
            }
            return Ok(Self::new(draft, tag, Written { pages, sum, journal: Some(journal) }));
        }
        Self::anew(output, end)
    }

    /// Begins, and remembers nothing.
    pub(super) fn anew(output: &Output, end: &Header) -> Result<Self, RestoreError> {
        let nothing = Written { pages: Vec::new(), sum: RollingChecksum::default(), journal: None };
        Ok(Self::new(output.draft()?, tag(end), nothing))
    }

    fn new(draft: Draft, tag: u64, written: Written) -> Self {
        let ledger = Arc::new(Ledger { tag, written: Mutex::new(written) });
        Self { draft, _closing: Closing(Arc::clone(&ledger)), ledger }
    }

    /// Whether it remembers, and is for that state.
    pub(super) fn is_for(&self, end: &Header) -> bool {
        self.ledger.tag == tag(end) && self.ledger.lock().journal.is_some()
    }

    /// How many pages it remembers.
    pub(super) fn pages(&self) -> usize {
        self.ledger.lock().pages.len()
    }

    /// Leaves it for the next restore if that saves it from fetching this much.
    pub(super) fn leave(self, worth: u64, end: &Header) {
        let bytes = self.pages() as u64 * u64::from(end.page_size.get());
        if bytes >= worth
            && let Some(journal) = self.ledger.lock().journal.take()
        {
            tracing::info!(bytes, "keeping what was fetched for the next restore to this path");
            journal.leave();
            self.draft.leave();
        }
    }
}

impl Ledger {
    /// Whether anything is remembered.
    pub(super) fn remembers(&self) -> bool {
        self.lock().journal.is_some()
    }

    /// What is in the draft already: its pages, and their checksum.
    pub(super) fn written(&self) -> (Vec<Pgno>, RollingChecksum) {
        let written = self.lock();
        (written.pages.clone(), written.sum)
    }

    /// Remembers pages whose content is in the draft.
    pub(super) fn record(&self, pages: &[(Pgno, Checksum)], sum: RollingChecksum) -> io::Result<()> {
        let mut written = self.lock();
        let Some(journal) = &written.journal else { return Ok(()) };
        let mut entries = Vec::with_capacity(pages.len() * ENTRY);
        for (pgno, checksum) in pages {
            entries.extend_from_slice(&pgno.get().to_be_bytes());
            entries.extend_from_slice(&checksum.get().to_be_bytes());
        }
        journal.file().write_all(&entries)?;
        written.pages.extend(pages.iter().map(|(pgno, _)| *pgno));
        written.sum.join(sum);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        // What is in memory changes last, and by steps that do not panic.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names a state of a database: at most one file can be right for it.
fn tag(end: &Header) -> u64 {
    let mut digest = crc64_iso();
    digest.update(&end.txids.max().get().to_be_bytes());
    digest.update(&end.page_size.get().to_be_bytes());
    digest.update(&end.commit.to_be_bytes());
    digest.update(&end.proof.map_or(0, |proof| proof.after.get()).to_be_bytes());
    digest.finalize()
}

/// The pages that are in the draft as the journal says, and their checksum.
fn read(journal: &Draft, draft: &File, end: &Header) -> io::Result<(Vec<Pgno>, RollingChecksum)> {
    let mut entries = Vec::new();
    journal.file().read_to_end(&mut entries)?;
    // A crash can leave a part of an entry, and then nothing may follow it.
    let whole = entries.len() / ENTRY * ENTRY;
    journal.file().set_len(whole as u64)?;
    journal.file().seek(SeekFrom::End(0))?;
    let mut pages: Vec<(Pgno, Checksum)> = entries.chunks_exact(ENTRY).filter_map(entry).collect();
    // Written twice, a page has the same content twice.
    pages.sort_unstable();
    pages.dedup();
    let size = draft.metadata()?.len();
    let mut found = (Vec::new(), RollingChecksum::default());
    let mut page = vec![0; end.page_size.bytes()];
    for (pgno, checksum) in pages {
        let at = pgno.offset(end.page_size);
        if pgno.get() > end.commit || at + page.len() as u64 > size {
            continue;
        }
        draft.read_exact_at(&mut page, at)?;
        if page_checksum(pgno, &page) == checksum {
            found.0.push(pgno);
            found.1.toggle(checksum);
        }
    }
    Ok(found)
}

fn entry(bytes: &[u8]) -> Option<(Pgno, Checksum)> {
    let (number, checksum) = bytes.split_first_chunk()?;
    let checksum = Checksum::from_stored(u64::from_be_bytes(checksum.try_into().ok()?))?;
    Some((Pgno::new(u32::from_be_bytes(*number))?, checksum))
}

fn write(draft: &Draft) -> impl FnOnce(io::Error) -> RestoreError + use<> {
    let path = draft.path().to_path_buf();
    move |source| RestoreError::Write { path, source }
}
