//! Continuing without proof: compare the database with the page map and capture
//! what differs, or, with nothing to compare with, begin a new history.
//!
//! Both read the database once, held still by a guard, and neither keeps writers
//! or the application's checkpoints of older frames from going on.

use std::path::Path;

use super::batch::{self, Batch, Published};
use super::error::Error;
use super::page_map::PageMap;
use super::snapshot::Snapshot;
use super::state::{Identity, State};
use crate::ltx::{Encoding, WalSpan};
use crate::spool::{Seq, Spool};
use crate::types::{Checksum, Generation, Pgno, Timestamp, WAL_HEADER_SIZE, lock_page, page_checksum};

/// Pages whose recorded checksums are looked up at once.
const BLOCK: u32 = 4096;

/// Captures the difference between the database and the page map as one batch.
/// Nothing is written when only the position in the log was unknown.
pub(super) fn compare(
    snapshot: &mut Snapshot,
    map: &mut PageMap,
    spool: &Spool,
    encoding: Encoding,
    now: Timestamp,
) -> Result<Option<Published>, Error> {
    let lock = lock_page(snapshot.page_size());
    let mut changes = Vec::new();
    let mut page = Vec::new();
    let mut first = 1u32;
    while first <= snapshot.page_count() {
        let count = BLOCK.min(snapshot.page_count() - first + 1);
        let start = Pgno::new(first).expect("counts from 1");
        let recorded = map.read(start, count as usize).map_err(Error::local("read", map.path()))?;
        for (number, old) in (first..).zip(recorded) {
            let pgno = Pgno::new(number).expect("counts from 1");
            if pgno == lock {
                continue;
            }
            snapshot.read(pgno, &mut page)?;
            let new = page_checksum(pgno, &page);
            if old != Some(new) {
                changes.push((pgno, new));
            }
        }
        let Some(next) = first.checked_add(count) else { break };
        first = next;
    }
    let cursor = snapshot.cursor();
    if changes.is_empty() && snapshot.page_count() == map.state().page_count {
        let state = State { cursor: Some(cursor), ..*map.state() };
        let path = map.path().to_owned();
        map.write_state(state).map_err(Error::local("update", &path))?;
        return Ok(None);
    }
    // None of the log, from its beginning: Litestream, should it take over here, reads all of it again or
    // makes a full copy. Without a span it would refuse to go on.
    let wal = Some(WalSpan { offset: WAL_HEADER_SIZE, size: 0, salts: cursor.salts });
    let batch = Batch { changes, page_count: snapshot.page_count(), cursor, wal, timestamp: now };
    let read = |index: usize, page: &mut Vec<u8>| snapshot.read(batch.changes[index].0, page);
    batch::publish(map, spool, encoding, &batch, read, || Ok(())).map(Some)
}

/// Begins a new history with batch `first`: every page's checksum is recorded,
/// the spool is empty, and every replica needs a base.
pub(super) fn rebuild(
    snapshot: &mut Snapshot,
    path: &Path,
    spool: &Spool,
    identity: Identity,
    generation: Generation,
    first: Seq,
    now: Timestamp,
) -> Result<PageMap, Error> {
    let lock = lock_page(snapshot.page_size());
    let cursor = snapshot.cursor();
    let page_count = snapshot.page_count();
    let mut page = Vec::new();
    let entries = (1..=page_count).map(|number| -> Result<Option<Checksum>, Rebuild> {
        let pgno = Pgno::new(number).expect("counts from 1");
        if pgno == lock {
            return Ok(None);
        }
        snapshot.read(pgno, &mut page).map_err(Rebuild::Capture)?;
        Ok(Some(page_checksum(pgno, &page)))
    });
    let state = |checksum, page_count| State {
        identity,
        generation,
        seq: first,
        page_count,
        checksum,
        timestamp: now,
        cursor: Some(cursor),
    };
    let map = PageMap::create(path, entries, state).map_err(|error| match error {
        Rebuild::Capture(error) => error,
        Rebuild::Local(source) => Error::local("write", path)(source),
    })?;
    let floor = map.state().point();
    spool.restart(floor).map_err(Error::local("empty the spool beside", path))?;
    Ok(map)
}

enum Rebuild {
    Capture(Error),
    Local(std::io::Error),
}

impl From<std::io::Error> for Rebuild {
    fn from(error: std::io::Error) -> Self {
        Self::Local(error)
    }
}
