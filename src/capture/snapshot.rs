//! The whole database at one moment, held still by a guard while it is read.
//!
//! Invariant: between [`Snapshot::take`] and its end every page reads the same.
//! With a guard on slot 0 nothing may be copied into the database file, so the
//! file alone is the database. With a guard on another slot the log cannot
//! restart, and only pages that have a frame up to the mark may change in the
//! file; those are read from the log.

use std::path::Path;
use std::time::Duration;

use super::connection::Handle;
use super::error::Error;
use super::log_file::{LogFile, Window};
use super::plan::{Frozen, Lost};
use super::state::Cursor;
use super::wal_index::View;
use crate::types::{PageSize, Pgno};
use crate::wal::Scanner;

/// A database held still.
#[derive(Debug)]
pub(super) struct Snapshot {
    guard: Handle,
    frozen: Option<Frozen>,
    view: View,
    page_size: PageSize,
    page_count: u32,
    log: Option<(LogFile, Window)>,
}

/// How often a guard is tried to be taken between two commits before a short
/// barrier makes room for it.
const TRIES: usize = 50;

/// Begins a read transaction at a known place: what it sees is exactly the
/// returned view. `Frozen` when it is on slot 0.
pub(super) fn take_guard(
    path: &Path,
    guard: &mut Handle,
    busy_timeout: Duration,
) -> Result<(View, Option<Frozen>), Error> {
    // The first read makes SQLite map the wal-index.
    guard.begin_read()?;
    guard.end();
    for _ in 0..TRIES {
        if let Some(taken) = try_guard(guard)? {
            return Ok(taken);
        }
    }
    let mut barrier = Handle::open(path, busy_timeout)?;
    barrier.begin_barrier()?;
    let taken = try_guard(guard);
    barrier.end();
    match taken? {
        Some(taken) => Ok(taken),
        None => Err(Error::Lost(Lost::ChangedUnderRead)),
    }
}

fn try_guard(guard: &mut Handle) -> Result<Option<(View, Option<Frozen>)>, Error> {
    let before = guard.view()?;
    guard.begin_read()?;
    let after = guard.view()?;
    let place = |v: &View| (v.change, v.salts, v.mx_frame, v.unbackfilled() == 0);
    if place(&before) != place(&after) {
        guard.end();
        return Ok(None);
    }
    let frozen = (after.unbackfilled() == 0).then_some(Frozen { salts: after.salts, frame: after.mx_frame });
    Ok(Some((after, frozen)))
}

/// The size of the database's pages, from the log or else from its own header.
pub(super) fn page_size(guard: &mut Handle, view: &View) -> Result<PageSize, Error> {
    match view.page_size {
        Some(size) => Ok(size),
        None => Ok(guard.file_page_size()?),
    }
}

impl Snapshot {
    /// Holds the database still as it is now.
    pub(super) fn take(path: &Path, log_path: &Path, busy_timeout: Duration) -> Result<Self, Error> {
        let mut guard = Handle::open(path, busy_timeout)?;
        let (view, frozen) = take_guard(path, &mut guard, busy_timeout)?;
        Self::of_guard(guard, view, frozen, log_path)
    }

    /// The database as a guard that was just taken sees it.
    pub(super) fn of_guard(
        mut guard: Handle,
        view: View,
        frozen: Option<Frozen>,
        log_path: &Path,
    ) -> Result<Self, Error> {
        let page_size = page_size(&mut guard, &view)?;
        let page_count = match view.page_count {
            0 => u32::try_from(guard.database_size()? / u64::from(page_size.get())).unwrap_or(u32::MAX),
            count => count,
        };
        let log = match frozen {
            Some(_) => None,
            None => {
                let log = LogFile::open(log_path, page_size).map_err(Error::local("open", log_path))?;
                let local = |error| Error::local("read", log_path)(error);
                let header = log.header(view.salts).map_err(local)?.ok_or(Lost::ChainBroken)?;
                let window = log.scan(Scanner::at_start(&header), view.mx_frame, u64::MAX, 0).map_err(local)??;
                if window.chain != view.chain {
                    return Err(Lost::ChainBroken.into());
                }
                Some((log, window))
            }
        };
        Ok(Self { guard, frozen, view, page_size, page_count, log })
    }

    /// Reads one page.
    pub(super) fn read(&mut self, pgno: Pgno, page: &mut Vec<u8>) -> Result<(), Error> {
        page.resize(self.page_size.bytes(), 0);
        if let Some((log, window)) = &self.log
            && let Some(frame) = window.frame_of(pgno)
        {
            return log.read_page(frame, page).map_err(Error::local("read", log.path()));
        }
        self.guard.read_page(pgno.offset(self.page_size), page)?;
        Ok(())
    }

    pub(super) fn page_size(&self) -> PageSize {
        self.page_size
    }

    pub(super) fn page_count(&self) -> u32 {
        self.page_count
    }

    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// Where capture continues after this moment.
    pub(super) fn cursor(&self) -> Cursor {
        Cursor {
            salts: self.view.salts,
            frame: self.view.mx_frame,
            chain: self.view.chain,
            big_endian: self.view.big_endian,
        }
    }

    /// Gives the guard back, still held.
    pub(super) fn into_guard(self) -> (Handle, Option<Frozen>) {
        (self.guard, self.frozen)
    }
}
