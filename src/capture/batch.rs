//! One captured batch on its way to durability: pages become a segment in the
//! spool, then entries in the page map.
//!
//! Order: the segment is encoded into a draft, the caller says that what was
//! read still holds, the draft is published (durable), the page map and the
//! state follow. A crash before the publishing leaves nothing; a crash after it
//! leaves a segment from which the map is repaired.

use std::io::{self, BufWriter, Write};

use super::error::Error;
use super::page_map::{Change, PageMap};
use super::state::{Cursor, State};
use crate::durable::Draft;
use crate::ltx::{self, Encoder, Encoding, Header, Proof, WalSpan};
use crate::spool::{Seq, Spool, Spooled};
use crate::types::{Timestamp, page_checksum};

/// What changed and where that leaves capture.
#[derive(Debug)]
pub(super) struct Batch {
    /// The changed pages and their checksums, ascending.
    pub(super) changes: Vec<Change>,
    /// Pages in the database afterwards.
    pub(super) page_count: u32,
    /// Where capture stands afterwards.
    pub(super) cursor: Cursor,
    /// The part of the log it came from.
    pub(super) wal: Option<WalSpan>,
    /// The time of its newest commit.
    pub(super) timestamp: Timestamp,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// In the spool; this many older segments had to leave it.
    Spooled {
        /// Segments dropped for the budget.
        dropped: usize,
    },
    /// Larger than the spool may become: every replica needs a base.
    TooBig,
}

/// Makes a batch durable. `read` gives the content of the page at an index of
/// `batch.changes`, which must have the checksum that stands there; `still_true`
/// is asked after the last read and before anything is promised.
pub(super) fn publish(
    map: &mut PageMap,
    spool: &Spool,
    encoding: Encoding,
    batch: &Batch,
    read: impl FnMut(usize, &mut Vec<u8>) -> Result<(), Error>,
    still_true: impl FnOnce() -> Result<(), Error>,
) -> Result<Published, Error> {
    let map_path = map.path().to_owned();
    let before = *map.state();
    let checksum = map.checksum_after(&batch.changes, batch.page_count).map_err(Error::local("read", &map_path))?;
    let state = State {
        seq: before.seq.next(),
        page_count: batch.page_count,
        checksum,
        timestamp: batch.timestamp.max(before.timestamp),
        cursor: Some(batch.cursor),
        ..before
    };
    let header = Header {
        page_size: state.identity.page_size,
        commit: state.page_count,
        txids: state.seq.as_txids(),
        timestamp: state.timestamp,
        wal: batch.wal,
        generation: Some(state.generation),
        proof: Some(Proof { before: Some(before.checksum), after: checksum }),
    };
    let encoded = encode(spool, state.seq, header, encoding, &batch.changes, read);
    let published = match encoded {
        Ok((draft, size)) => {
            still_true()?;
            fail::fail_point!("capture::before-publish", |_| Err(Error::local("write", &map_path)(io::Error::other(
                "failpoint"
            ))));
            let segment = Spooled { seq: state.seq, size, header };
            let dropped = spool.publish(draft, segment).map_err(Error::local("publish a segment beside", &map_path))?;
            Published::Spooled { dropped }
        }
        Err(Error::Segment(ltx::Error::Io(error))) if error.kind() == io::ErrorKind::FileTooLarge => {
            still_true()?;
            spool.restart(state.point()).map_err(Error::local("empty the spool beside", &map_path))?;
            Published::TooBig
        }
        Err(error) => {
            // Reading twice and differently is to be expected once the place that was read is no longer kept still.
            still_true()?;
            return Err(error);
        }
    };
    map.apply(&batch.changes, state).map_err(Error::local("update", &map_path))?;
    Ok(published)
}

fn encode(
    spool: &Spool,
    seq: Seq,
    header: Header,
    encoding: Encoding,
    changes: &[Change],
    mut read: impl FnMut(usize, &mut Vec<u8>) -> Result<(), Error>,
) -> Result<(Draft, u64), Error> {
    const BUFFER: usize = 256 * 1024;
    let draft = spool.draft(seq, crate::durable::PRIVATE_FILE).map_err(ltx::Error::Io)?;
    let limited = Limited { inner: draft, left: spool.budget() };
    // Most batches are of a few pages, and their buffers lie between what is kept for long.
    let pages = changes.len().saturating_add(1).saturating_mul(header.page_size.bytes());
    let mut encoder = Encoder::new(BufWriter::with_capacity(BUFFER.min(pages), limited), header, encoding)?;
    let mut page = Vec::new();
    for (index, (pgno, checksum)) in changes.iter().enumerate() {
        read(index, &mut page)?;
        if page_checksum(*pgno, &page) != *checksum {
            return Err(Error::Unstable { pgno: pgno.get() });
        }
        encoder.page(*pgno, &page)?;
    }
    let (writer, finished) = encoder.finish()?;
    let limited = writer.into_inner().map_err(|e| ltx::Error::Io(e.into_error()))?;
    Ok((limited.inner, finished.size))
}

/// A writer that refuses to grow past the spool's budget.
struct Limited {
    inner: Draft,
    left: u64,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        self.inner.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
