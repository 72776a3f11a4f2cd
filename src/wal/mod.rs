//! The write-ahead log: which of its bytes are committed transactions.
//!
//! Always true: a frame is accepted only if SQLite itself would accept it when
//! recovering the log, that is, its salts are those of the header, and the
//! running checksum over everything before it and itself is the stored one.
//! Salts alone prove nothing: a rolled back transaction leaves frames with the
//! right salts behind. Only the chain ends where the valid log ends.
//!
//! Nothing after the last commit frame exists yet. SQLite rewrites such frames
//! in place while a large transaction goes on, so neither their content nor
//! their chain may be kept from one look to the next.
//! <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>
//!
//! Values only: whoever reads the file hands the bytes in.

mod frame;
mod header;

pub use frame::{FrameHeader, extend_chain};
pub use header::WalHeader;

use crate::types::{Chain, FRAME_HEADER_SIZE, PageSize, Pgno, Salts, WAL_HEADER_SIZE};

const FRAME_HEADER_LEN: usize = 24;
const WAL_HEADER_LEN: usize = 32;
const _: () = assert!(FRAME_HEADER_LEN as u64 == FRAME_HEADER_SIZE && WAL_HEADER_LEN as u64 == WAL_HEADER_SIZE);

/// A frame that was proven to belong to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its place in the log, counted from 1.
    pub number: u32,
    /// The page it holds a new version of.
    pub pgno: Pgno,
    /// The database size in pages, if this frame ends a transaction.
    pub commit: Option<u32>,
}

/// Verifies a log frame by frame, from the start or from any proven frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanner {
    page_size: PageSize,
    big_endian: bool,
    salts: Salts,
    frame: u32,
    chain: Chain,
}

impl Scanner {
    /// Expects frame 1 next.
    pub fn at_start(header: &WalHeader) -> Self {
        Self::resume(header.page_size, header.big_endian, header.salts, 0, header.chain)
    }

    /// Expects the frame after `frame`, whose running checksum was `chain`.
    pub fn resume(page_size: PageSize, big_endian: bool, salts: Salts, frame: u32, chain: Chain) -> Self {
        Self { page_size, big_endian, salts, frame, chain }
    }

    /// Takes the next frame: its header and its page, `24 + page_size` bytes.
    /// `None` if these bytes do not continue the log; the scanner then stands
    /// where it stood.
    pub fn push(&mut self, frame: &[u8]) -> Option<Frame> {
        let (head, page) = frame.split_first_chunk::<FRAME_HEADER_LEN>()?;
        if page.len() != self.page_size.bytes() {
            return None;
        }
        let header = FrameHeader::parse(head);
        if header.salts != self.salts {
            return None;
        }
        let pgno = Pgno::new(header.pgno)?;
        let number = self.frame.checked_add(1)?;
        let chain = extend_chain(extend_chain(self.chain, self.big_endian, &head[..8]), self.big_endian, page);
        if chain != header.chain {
            return None;
        }
        self.frame = number;
        self.chain = chain;
        Some(Frame { number, pgno, commit: (header.commit != 0).then_some(header.commit) })
    }

    /// The number of the last accepted frame; 0 before the first.
    pub fn frame(&self) -> u32 {
        self.frame
    }

    /// The running checksum at [`Self::frame`].
    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// The size of the pages in this log.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The salts every frame of this log carries.
    pub fn salts(&self) -> Salts {
        self.salts
    }
}

/// What a whole log holds: its committed prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The header of the log.
    pub header: WalHeader,
    /// Every frame up to and including the last commit frame.
    pub frames: Vec<Frame>,
    /// The database size in pages after the last commit; 0 if there is none.
    pub page_count: u32,
    /// The running checksum at the last commit frame, or that of the header.
    pub chain: Chain,
}

/// Reads a whole log. `None` if SQLite would treat it as empty because its
/// header is not valid.
pub fn committed(bytes: &[u8]) -> Option<Committed> {
    let header = WalHeader::parse(bytes)?;
    let mut scanner = Scanner::at_start(&header);
    let mut found = Committed { header, frames: Vec::new(), page_count: 0, chain: header.chain };
    let mut pending = Vec::new();
    for bytes in bytes[WAL_HEADER_LEN..].chunks_exact(FRAME_HEADER_LEN + header.page_size.bytes()) {
        let Some(frame) = scanner.push(bytes) else { break };
        pending.push(frame);
        if let Some(page_count) = frame.commit {
            found.frames.append(&mut pending);
            found.page_count = page_count;
            found.chain = scanner.chain();
        }
    }
    Some(found)
}
