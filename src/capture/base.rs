//! A base: one segment with every page, for a replica that has nothing to build
//! on. It is read while it is sent and never staged on the local disk.
//!
//! Invariant: the segment is complete only if the pages that were read add up to
//! the database checksum that capture had recorded. Otherwise the last piece is
//! an error, and whoever stores it throws everything away.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use super::error::Error;
use super::snapshot::Snapshot;
use super::state::{Cursor, State};
use crate::ltx::{Encoder, Encoding, Header, Proof, WalSpan};
use crate::spool::Point;
use crate::types::{
    Checksum, Generation, Pgno, RollingChecksum, Timestamp, TxidRange, WAL_HEADER_SIZE, frame_end, lock_page,
    page_checksum,
};

/// A base waiting to be numbered and sent, more than once if need be. It holds a
/// guard of its own: while it exists the log cannot restart more than once.
#[derive(Clone, Debug)]
pub struct Base {
    snapshot: Arc<Mutex<Snapshot>>,
    cursor: Cursor,
    state: State,
    encoding: Encoding,
}

impl Base {
    pub(super) fn new(snapshot: Snapshot, state: State, encoding: Encoding) -> Self {
        let cursor = snapshot.cursor();
        Self { snapshot: Arc::new(Mutex::new(snapshot)), cursor, state, encoding }
    }

    /// The captured position it shows.
    pub fn point(&self) -> Point {
        self.state.point()
    }

    /// The history it belongs to.
    pub fn generation(&self) -> Generation {
        self.state.generation
    }

    /// The time stamped on it.
    pub fn timestamp(&self) -> Timestamp {
        self.state.timestamp
    }

    /// Bytes of the database it shows.
    pub fn database_bytes(&self) -> u64 {
        u64::from(self.state.page_count) * u64::from(self.state.identity.page_size.get())
    }

    /// The header of the segment under those TXIDs.
    pub fn header(&self, txids: TxidRange) -> Header {
        let size = frame_end(self.cursor.frame, self.state.identity.page_size) - WAL_HEADER_SIZE;
        Header {
            page_size: self.state.identity.page_size,
            commit: self.state.page_count,
            txids,
            timestamp: self.state.timestamp,
            wal: Some(WalSpan { offset: WAL_HEADER_SIZE, size, salts: self.cursor.salts }),
            generation: Some(self.state.generation),
            proof: Some(Proof { before: None, after: self.state.checksum }),
        }
    }

    /// Starts the segment under the TXIDs that the replica gives it. `encoding`
    /// is the replica's.
    ///
    /// # Errors
    /// When the header would not be a legal one.
    pub fn encode(&self, txids: TxidRange, encoding: Option<Encoding>) -> Result<BaseReader, Error> {
        let header = self.header(txids);
        let out = Pipe::default();
        let encoder = Encoder::new(out.clone(), header, encoding.unwrap_or(self.encoding))?;
        Ok(BaseReader {
            snapshot: self.snapshot.clone(),
            page_count: self.state.page_count,
            lock: lock_page(self.state.identity.page_size).get(),
            expected: self.state.checksum,
            encoder: Some(encoder),
            out,
            next: 1,
            sum: RollingChecksum::default(),
        })
    }
}

/// Reads a base piece by piece.
pub struct BaseReader {
    snapshot: Arc<Mutex<Snapshot>>,
    page_count: u32,
    lock: u32,
    expected: Checksum,
    encoder: Option<Encoder<Pipe>>,
    out: Pipe,
    next: u32,
    sum: RollingChecksum,
}

/// Bytes in one piece, about.
const PIECE: usize = 1 << 20;

impl BaseReader {
    /// The next bytes of the segment; `None` after the last.
    ///
    /// # Errors
    /// When the database cannot be read, or does not add up; the segment must
    /// then not be kept.
    pub fn piece(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let Some(mut encoder) = self.encoder.take() else { return Ok(None) };
        let mut snapshot = self.snapshot.lock().expect("no holder of this lock panics");
        let mut page = Vec::new();
        while self.next <= self.page_count {
            if self.next != self.lock {
                let pgno = Pgno::new(self.next).expect("counts from 1");
                snapshot.read(pgno, &mut page)?;
                self.sum.toggle(page_checksum(pgno, &page));
                encoder.page(pgno, &page)?;
            }
            let Some(next) = self.next.checked_add(1) else { break };
            self.next = next;
            if self.out.len() >= PIECE {
                self.encoder = Some(encoder);
                return Ok(Some(self.out.take()));
            }
        }
        if self.sum.checksum() != self.expected {
            return Err(Error::BaseMismatch);
        }
        encoder.finish()?;
        Ok(Some(self.out.take()))
    }
}

/// Collects what the encoder writes until the next piece is taken.
#[derive(Clone, Debug, Default)]
struct Pipe(Arc<Mutex<Vec<u8>>>);

impl Pipe {
    fn len(&self) -> usize {
        self.0.lock().expect("no holder of this lock panics").len()
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().expect("no holder of this lock panics"))
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no holder of this lock panics").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
