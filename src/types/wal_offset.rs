//! Places and proofs in a write-ahead log.

use std::fmt;

use super::page::PageSize;

/// Bytes of the WAL header. <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>
pub const WAL_HEADER_SIZE: u64 = 32;

/// Bytes of the header before each page in the WAL.
pub const FRAME_HEADER_SIZE: u64 = 24;

/// The two salts that name one run of frames between two WAL restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Salts {
    /// Grows by one at each restart by a connection that knows the log.
    pub first: u32,
    /// Random at each restart.
    pub second: u32,
}

impl fmt::Display for Salts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}{:08x}", self.first, self.second)
    }
}

/// The running WAL checksum at some frame: the only proof that the frames up to
/// there belong together and are unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Chain(pub u32, pub u32);

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}{:08x}", self.0, self.1)
    }
}

/// Where frame `frame` (counted from 1) begins in the file, in bytes.
pub fn frame_offset(frame: u32, page_size: PageSize) -> u64 {
    debug_assert!(frame > 0, "frames count from 1");
    frame_end(frame - 1, page_size)
}

/// Where frame `frame` ends; the end of "frame 0" is the end of the WAL header.
pub fn frame_end(frame: u32, page_size: PageSize) -> u64 {
    WAL_HEADER_SIZE + u64::from(frame) * (FRAME_HEADER_SIZE + u64::from(page_size.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_follow_the_header_without_gaps() {
        let size = PageSize::new(4096).unwrap();
        assert_eq!(frame_offset(1, size), 32);
        assert_eq!(frame_offset(2, size), 32 + 4120);
        assert_eq!(frame_end(4, size), 0x4080);
    }

    #[test]
    fn offsets_beyond_four_gibibytes_do_not_wrap() {
        let size = PageSize::new(65536).unwrap();
        assert_eq!(frame_end(u32::MAX, size), 32 + u64::from(u32::MAX) * 65560);
    }
}
