//! Checksums of pages and of whole databases, as LTX defines them.
//!
//! CRC-64/GO-ISO with bit 63 forced to 1, so a checksum is never 0 and 0 can
//! mean "absent". The checksum of a database is the XOR of its pages' checksums
//! (the lock page left out), which makes it cheap to keep up to date.

use std::fmt;

use super::page::Pgno;

const FLAG: u64 = 1 << 63;

/// A checksum; carries its flag bit, so it is never 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Checksum(u64);

impl Checksum {
    /// The checksum of a database without pages.
    pub const EMPTY: Self = Self(FLAG);

    /// Takes a CRC and sets the flag bit.
    pub fn from_crc(crc: u64) -> Self {
        Self(FLAG | crc)
    }

    /// Reads a stored checksum: `None` unless the flag bit is set.
    pub fn from_stored(raw: u64) -> Option<Self> {
        (raw & FLAG != 0).then_some(Self(raw))
    }

    /// The value as stored in files.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checksum({self})")
    }
}

/// A running CRC-64/GO-ISO (the ISO polynomial as Go's `hash/crc64` defines it).
pub fn crc64_iso() -> crc_fast::Digest {
    crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64GoIso)
}

/// The checksum of one page: its number (four bytes, big-endian), then its content.
pub fn page_checksum(pgno: Pgno, data: &[u8]) -> Checksum {
    let mut digest = crc64_iso();
    digest.update(&pgno.get().to_be_bytes());
    digest.update(data);
    Checksum::from_crc(digest.finalize())
}

/// The checksum of a set of pages, kept up to date page by page. Adding a page
/// and removing it again gives back what was there before; order is irrelevant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollingChecksum(u64);

impl RollingChecksum {
    /// Continues from a stored database checksum.
    pub fn from_checksum(checksum: Checksum) -> Self {
        Self(checksum.get())
    }

    /// Adds a page that was not there, or removes one that was.
    pub fn toggle(&mut self, page: Checksum) {
        self.0 ^= page.get();
    }

    /// Folds in the pages of another set that shares none with this one.
    pub fn join(&mut self, other: Self) {
        self.0 ^= other.0;
    }

    /// The database checksum.
    pub fn checksum(self) -> Checksum {
        Checksum::from_crc(self.0)
    }
}

impl Default for RollingChecksum {
    fn default() -> Self {
        Self::from_checksum(Checksum::EMPTY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_is_the_one_go_calls_iso() {
        let mut digest = crc64_iso();
        digest.update(b"123456789");
        assert_eq!(digest.finalize(), 0xb909_56c7_75a4_1001);
        assert_eq!(crc64_iso().finalize(), 0);
    }

    /// Values from a file written by the official encoder: two pages of 512
    /// bytes, the second holding i/64 at byte i.
    #[test]
    fn page_and_database_checksums_match_the_official_example() {
        let mut one = vec![0u8; 512];
        one[..16].copy_from_slice(b"SQLite format 3\0");
        one[511] = 0xab;
        let two: Vec<u8> = (0..512u32).map(|i| u8::try_from(i / 64).unwrap()).collect();
        let (p1, p2) = (Pgno::FIRST, Pgno::new(2).unwrap());
        assert_eq!(page_checksum(p1, &one).to_string(), "bffb2593341315e9");
        assert_eq!(page_checksum(p2, &two).to_string(), "9d9702014598f800");
        let mut rolling = RollingChecksum::default();
        rolling.toggle(page_checksum(p1, &one));
        rolling.toggle(page_checksum(p2, &two));
        assert_eq!(rolling.checksum().to_string(), "a26c2792718bede9");
    }

    #[test]
    fn removing_what_was_added_gives_back_the_old_value() {
        let start = RollingChecksum::from_checksum(Checksum::from_crc(7));
        let mut rolling = start;
        let page = page_checksum(Pgno::FIRST, &[1; 512]);
        rolling.toggle(page);
        assert_ne!(rolling.checksum(), start.checksum());
        rolling.toggle(page);
        assert_eq!(rolling.checksum(), start.checksum());
    }

    #[test]
    fn zero_is_never_a_checksum() {
        assert_eq!(Checksum::from_stored(0), None);
        assert_eq!(Checksum::from_stored(1), None);
        assert_ne!(Checksum::from_crc(0).get(), 0);
    }
}
