//! One log, put together again from its slices, frame by frame.
//!
//! Always true: a frame is handed on only if it continues the log: SQLite itself
//! would accept it. The slices of a log must meet exactly. Litestream 0.3 stored
//! nothing behind a commit, so a frame that does not fit is damage, and not the
//! remains of a transaction that was rolled back.

use std::io::Read;

use super::content::Content;
use super::error::Damage;
use crate::types::{FRAME_HEADER_SIZE, PageSize, WAL_HEADER_SIZE};
use crate::wal::{Frame, Scanner, WalHeader};

/// How far a log has been read.
#[derive(Default)]
pub struct LogReader {
    scanner: Option<Scanner>,
    offset: u64,
    frame: Vec<u8>,
}

impl LogReader {
    /// Where the next slice has to begin.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The frames read so far.
    pub fn frames(&self) -> u32 {
        self.scanner.as_ref().map_or(0, Scanner::frame)
    }

    /// The size of the log's pages, once its header was read.
    pub fn page_size(&self) -> Option<PageSize> {
        self.scanner.as_ref().map(Scanner::page_size)
    }

    /// The next frame of a slice and its page; `None` at the end of the slice.
    pub fn next<R: Read>(&mut self, slice: &mut Content<R>) -> Result<Option<(Frame, &[u8])>, Damage> {
        let scanner = match &mut self.scanner {
            Some(scanner) => scanner,
            None => {
                self.frame.resize(to_usize(WAL_HEADER_SIZE), 0);
                let size = slice.fill(&mut self.frame)?;
                let header = WalHeader::parse(&self.frame[..size]).ok_or(Damage::LogHeader)?;
                self.offset += WAL_HEADER_SIZE;
                self.scanner.insert(Scanner::at_start(&header))
            }
        };
        let size = to_usize(FRAME_HEADER_SIZE) + scanner.page_size().bytes();
        self.frame.resize(size, 0);
        let number = scanner.frame().saturating_add(1);
        match slice.fill(&mut self.frame)? {
            0 => return Ok(None),
            found if found < size => return Err(Damage::PartialFrame { frame: number }),
            _ => {}
        }
        let frame = scanner.push(&self.frame).ok_or(Damage::Frame { frame: number })?;
        self.offset += size as u64;
        Ok(Some((frame, &self.frame[to_usize(FRAME_HEADER_SIZE)..])))
    }
}

fn to_usize(size: u64) -> usize {
    usize::try_from(size).expect("a few dozen bytes")
}
