//! The 32 bytes at the start of a write-ahead log.
//!
//! ```text
//!  0  u32  magic 0x377f0682, or ...83: checksums add up big-endian words
//!  4  u32  version, always 3007000
//!  8  u32  page size
//! 12  u32  sequence: counts checkpoints, per connection, proves nothing
//! 16  u32  salt 1
//! 20  u32  salt 2
//! 24  u32  checksum of the 24 bytes above, first half
//! 28  u32  second half
//! ```
//!
//! All numbers are big-endian, whatever the magic says.

use crate::types::{Chain, PageSize, Salts};

use super::{WAL_HEADER_LEN, extend_chain};

const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;

/// A header whose checksum agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalHeader {
    /// Whether checksums add up big-endian words. Written by big-endian hosts.
    pub big_endian: bool,
    /// Size of every page in the log.
    pub page_size: PageSize,
    /// Counts checkpoints, but only as far as one connection knows.
    pub sequence: u32,
    /// Every frame of this run carries these.
    pub salts: Salts,
    /// The checksum of the header, from which that of frame 1 continues.
    pub chain: Chain,
}

impl WalHeader {
    /// `None` if the log counts as empty: shorter than a header, or with a
    /// wrong magic, version, page size or checksum. A half-written header is a
    /// normal state of a log, not damage.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; WAL_HEADER_LEN] = bytes.first_chunk()?;
        let [magic, version, page_size, sequence, salt_1, salt_2, check_1, check_2] = words(bytes);
        if magic & !1 != MAGIC || version != VERSION {
            return None;
        }
        let header = Self {
            big_endian: magic & 1 == 1,
            page_size: PageSize::new(page_size)?,
            sequence,
            salts: Salts { first: salt_1, second: salt_2 },
            chain: Chain(check_1, check_2),
        };
        (header.checksum(bytes) == header.chain).then_some(header)
    }

    /// The header as stored, with `self.chain` as its checksum.
    pub fn encode(&self) -> [u8; WAL_HEADER_LEN] {
        let words = [
            MAGIC | u32::from(self.big_endian),
            VERSION,
            self.page_size.get(),
            self.sequence,
            self.salts.first,
            self.salts.second,
            self.chain.0,
            self.chain.1,
        ];
        let mut bytes = [0; WAL_HEADER_LEN];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
            chunk.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    /// The same header with the checksum it should have.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.chain = self.checksum(&self.encode());
        self
    }

    fn checksum(&self, bytes: &[u8; WAL_HEADER_LEN]) -> Chain {
        extend_chain(Chain::default(), self.big_endian, &bytes[..24])
    }
}

fn words(bytes: &[u8; WAL_HEADER_LEN]) -> [u32; 8] {
    let (words, _) = bytes.as_chunks::<4>();
    std::array::from_fn(|i| u32::from_be_bytes(words[i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(big_endian: bool) -> WalHeader {
        WalHeader {
            big_endian,
            page_size: PageSize::new(4096).unwrap(),
            sequence: 3,
            salts: Salts { first: 0x1122_3344, second: 0x5566_7788 },
            chain: Chain::default(),
        }
        .sealed()
    }

    #[test]
    fn round_trips_in_both_byte_orders() {
        for big_endian in [false, true] {
            let header = header(big_endian);
            assert_eq!(WalHeader::parse(&header.encode()), Some(header));
        }
        assert_ne!(header(false).chain, header(true).chain);
    }

    #[test]
    fn a_torn_header_is_an_empty_log() {
        let bytes = header(false).encode();
        for length in 0..bytes.len() {
            assert_eq!(WalHeader::parse(&bytes[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn every_flipped_bit_makes_it_an_empty_log() {
        let bytes = header(false).encode();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(WalHeader::parse(&bytes), None, "bit {bit}");
        }
    }

    #[test]
    fn a_right_checksum_does_not_excuse_a_wrong_field() {
        let with = |at: usize, word: u32| {
            let mut bytes = header(false).encode();
            bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
            let chain = extend_chain(Chain::default(), false, &bytes[..24]);
            bytes[24..28].copy_from_slice(&chain.0.to_be_bytes());
            bytes[28..].copy_from_slice(&chain.1.to_be_bytes());
            WalHeader::parse(&bytes)
        };
        assert!(with(12, 99).is_some(), "the sequence may be anything");
        assert_eq!(with(0, 0x377f_0684), None, "magic");
        assert_eq!(with(4, VERSION + 1), None, "version");
        for page_size in [0, 1, 256, 513, 131_072] {
            assert_eq!(with(8, page_size), None, "page size {page_size}");
        }
    }
}
