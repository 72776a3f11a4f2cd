//! The 24 bytes before each page in the log, and the running checksum.
//!
//! ```text
//!  0  u32  page number
//!  4  u32  database size in pages if this frame commits, else 0
//!  8  u32  salt 1
//! 12  u32  salt 2
//! 16  u32  running checksum, first half
//! 20  u32  second half
//! ```
//!
//! The checksum covers the first eight bytes of the frame header and the page,
//! and continues from the frame before (from the header for frame 1).

use crate::types::{Chain, Salts};

use super::FRAME_HEADER_LEN;

/// A frame header as stored; nothing about it is proven yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The page number; 0 in no valid frame.
    pub pgno: u32,
    /// Database size in pages after a commit, 0 inside a transaction.
    pub commit: u32,
    /// The run this frame claims to belong to.
    pub salts: Salts,
    /// The running checksum it claims.
    pub chain: Chain,
}

impl FrameHeader {
    /// Reads the fields.
    pub fn parse(bytes: &[u8; FRAME_HEADER_LEN]) -> Self {
        let (words, _) = bytes.as_chunks::<4>();
        let [pgno, commit, salt_1, salt_2, check_1, check_2] = std::array::from_fn(|i| u32::from_be_bytes(words[i]));
        Self { pgno, commit, salts: Salts { first: salt_1, second: salt_2 }, chain: Chain(check_1, check_2) }
    }

    /// The bytes as stored.
    pub fn encode(&self) -> [u8; FRAME_HEADER_LEN] {
        let words = [self.pgno, self.commit, self.salts.first, self.salts.second, self.chain.0, self.chain.1];
        let mut bytes = [0; FRAME_HEADER_LEN];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
            chunk.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    /// The same header with the checksum it should have after `before`.
    #[must_use]
    pub fn sealed(mut self, before: Chain, big_endian: bool, page: &[u8]) -> Self {
        let chain = extend_chain(before, big_endian, &self.encode()[..8]);
        self.chain = extend_chain(chain, big_endian, page);
        self
    }
}

/// Continues the running checksum over `bytes`, whose length is a multiple of
/// eight; what is left over is not counted. The recurrence is serial, so this
/// loop is the speed limit of reading a log.
pub fn extend_chain(chain: Chain, big_endian: bool, bytes: &[u8]) -> Chain {
    debug_assert!(bytes.len().is_multiple_of(8), "checksummed in pairs of words");
    if big_endian { add_pairs(chain, bytes, u32::from_be_bytes) } else { add_pairs(chain, bytes, u32::from_le_bytes) }
}

#[inline(always)]
fn add_pairs(chain: Chain, bytes: &[u8], word: impl Fn([u8; 4]) -> u32) -> Chain {
    let Chain(mut s0, mut s1) = chain;
    let (pairs, _) = bytes.as_chunks::<8>();
    for &[a, b, c, d, e, f, g, h] in pairs {
        s0 = s0.wrapping_add(word([a, b, c, d])).wrapping_add(s1);
        s1 = s1.wrapping_add(word([e, f, g, h])).wrapping_add(s0);
    }
    Chain(s0, s1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_header_round_trips() {
        let header = FrameHeader {
            pgno: 7,
            commit: 0x0102_0304,
            salts: Salts { first: 5, second: u32::MAX },
            chain: Chain(8, 9),
        };
        assert_eq!(FrameHeader::parse(&header.encode()), header);
        assert_eq!(header.encode()[..8], [0, 0, 0, 7, 1, 2, 3, 4]);
    }

    #[test]
    fn the_checksum_adds_words_in_the_byte_order_of_the_magic() {
        let bytes = [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0];
        // Little-endian by hand: 1, 1+2=3; 1+3+3=7, 3+4+7=14.
        assert_eq!(extend_chain(Chain::default(), false, &bytes), Chain(7, 14));
        assert_eq!(extend_chain(Chain::default(), true, &bytes), Chain(7 << 24, 14 << 24));
    }

    #[test]
    fn sums_wrap() {
        let chain = extend_chain(Chain(u32::MAX, 1), false, &[0xff; 8]);
        assert_eq!(chain, Chain(u32::MAX, u32::MAX));
    }
}
