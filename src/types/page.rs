//! Pages: their size, their numbers, and the one page nobody may write.

use std::fmt;
use std::num::NonZeroU32;

/// The first sixteen bytes of every SQLite database.
pub const SQLITE_HEADER: &[u8; 16] = b"SQLite format 3\0";

/// A page size SQLite allows: a power of two from 512 to 65536.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(u32);

impl PageSize {
    /// `None` unless `bytes` is a power of two from 512 to 65536.
    pub fn new(bytes: u32) -> Option<Self> {
        ((512..=65536).contains(&bytes) && bytes.is_power_of_two()).then_some(Self(bytes))
    }

    /// Reads the two-byte field of the database header (offset 16) and of the
    /// wal-index, where the value 1 stands for 65536.
    pub fn from_u16_field(field: u16) -> Option<Self> {
        Self::new(if field == 1 { 65536 } else { u32::from(field) })
    }

    /// Bytes in a page.
    pub fn bytes(self) -> usize {
        self.0 as usize
    }

    /// Bytes in a page, as stored in file headers.
    pub fn get(self) -> u32 {
        self.0
    }

    /// Every size SQLite allows, ascending.
    pub fn all() -> impl Iterator<Item = Self> {
        (9..=16).map(|shift| Self(1 << shift))
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A page number: 1 is the first page of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pgno(NonZeroU32);

impl Pgno {
    /// The page that holds the database header.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// `None` for 0, which numbers no page.
    pub fn new(n: u32) -> Option<Self> {
        NonZeroU32::new(n).map(Self)
    }

    /// The plain number.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// Where the page starts in the database file, in bytes.
    pub fn offset(self, page_size: PageSize) -> u64 {
        u64::from(self.get() - 1) * u64::from(page_size.get())
    }
}

impl fmt::Display for Pgno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The page containing byte `0x4000_0000`, where SQLite keeps its file locks on
/// every platform. It holds no content, never appears in a WAL, and must never
/// appear in a segment. <https://www.sqlite.org/fileformat2.html#the_lock_byte_page>
pub fn lock_page(page_size: PageSize) -> Pgno {
    Pgno::new(0x4000_0000 / page_size.get() + 1).expect("one more than a quotient is not zero")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_eight_sizes_of_sqlite_are_page_sizes() {
        let accepted: Vec<u32> = (0..=70_000).filter(|n| PageSize::new(*n).is_some()).collect();
        assert_eq!(accepted, [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]);
        assert_eq!(PageSize::all().map(PageSize::get).collect::<Vec<_>>(), accepted);
        assert_eq!(PageSize::from_u16_field(1), PageSize::new(65536));
    }

    #[test]
    fn the_lock_page_holds_the_first_gibibyte_boundary() {
        let numbers: Vec<u32> = PageSize::all().map(|size| lock_page(size).get()).collect();
        assert_eq!(numbers, [2_097_153, 1_048_577, 524_289, 262_145, 131_073, 65_537, 32_769, 16_385]);
        for size in PageSize::all() {
            assert_eq!(lock_page(size).offset(size), 0x4000_0000);
        }
    }

    #[test]
    fn offsets_do_not_overflow_at_the_largest_database() {
        let last = Pgno::new(u32::MAX).unwrap();
        let size = PageSize::new(65536).unwrap();
        assert_eq!(last.offset(size), (u64::from(u32::MAX) - 1) * 65536);
    }
}
