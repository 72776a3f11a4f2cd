//! Which page comes from which segment, decided while walking a chain from its
//! newest segment to its oldest.
//!
//! Always true: a page is claimed once, by the newest segment that holds a living
//! copy of it. A copy is dead when a newer segment made the database too small
//! for its page: if the database grew again later, the newer content of that page
//! was lost on the way, and no older copy may stand in for it.
//!
//! Pure. Takes one bit for each page, the only thing that grows with the database:
//! at pages of 4 KiB, a megabyte for every 32 GiB.

use crate::types::{PageSize, Pgno, lock_page};

/// The pages of the database at the end of the chain. The default is a database
/// without pages.
#[derive(Clone, Default)]
pub struct Claims {
    /// One bit a page, page 1 first; set once somebody provides it.
    bits: Vec<u64>,
    /// Pages nobody provides yet.
    open: u64,
    /// Pages above this are dead in the segments still to come.
    ceiling: u32,
    /// Pages of the database.
    commit: u32,
}

impl Claims {
    /// Nothing claimed yet of a database of `commit` pages.
    pub fn new(commit: u32, page_size: PageSize) -> Self {
        let mut claims =
            Self { bits: vec![0; commit.div_ceil(64) as usize], open: u64::from(commit), ceiling: commit, commit };
        // SQLite never writes the lock page: it is complete from the start.
        let _: bool = claims.claim(lock_page(page_size));
        claims
    }

    /// True if the current segment is to provide this page.
    pub fn claim(&mut self, pgno: Pgno) -> bool {
        if pgno.get() > self.ceiling {
            return false;
        }
        let (word, bit) = place(pgno.get());
        let new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        self.open -= u64::from(new);
        new
    }

    /// The walk goes on to the segment before one that left `commit` pages.
    pub fn pass(&mut self, commit: u32) {
        self.ceiling = self.ceiling.min(commit);
    }

    /// Every page has somebody who provides it.
    pub fn is_complete(&self) -> bool {
        self.open == 0
    }

    /// The pages that no segment provides are those of an older database of
    /// `pages` pages, as far as they are not dead.
    pub(super) fn fall_back_on(&mut self, pages: u32) {
        for pgno in (1..=self.ceiling.min(pages)).filter_map(Pgno::new) {
            let _: bool = self.claim(pgno);
        }
    }

    /// Every page that was claimed so far, ascending. The lock page counts.
    pub(super) fn claimed(&self) -> impl Iterator<Item = Pgno> + '_ {
        (1..=self.commit).filter_map(Pgno::new).filter(|pgno| {
            let (word, bit) = place(pgno.get());
            self.bits[word] & bit != 0
        })
    }

    /// The first page that nobody provides.
    pub fn first_open(&self) -> Option<Pgno> {
        if self.is_complete() {
            return None;
        }
        let word = self.bits.iter().position(|word| *word != u64::MAX)?;
        let number = u32::try_from(word).ok()? * 64 + self.bits[word].trailing_ones() + 1;
        Pgno::new(number).filter(|pgno| pgno.get() <= self.commit)
    }
}

fn place(number: u32) -> (usize, u64) {
    let at = number - 1;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_size(bytes: u32) -> PageSize {
        PageSize::new(bytes).unwrap()
    }

    fn pgno(n: u32) -> Pgno {
        Pgno::new(n).unwrap()
    }

    #[test]
    fn the_newest_copy_is_taken_and_only_once() {
        let mut claims = Claims::new(3, page_size(512));
        assert!(claims.claim(pgno(2)));
        claims.pass(3);
        assert!(!claims.claim(pgno(2)));
        assert!(claims.claim(pgno(1)));
        assert_eq!(claims.first_open(), Some(pgno(3)));
        assert!(claims.claim(pgno(3)));
        assert!(claims.is_complete());
        assert_eq!(claims.first_open(), None);
    }

    #[test]
    fn pages_above_the_end_are_dropped() {
        let mut claims = Claims::new(2, page_size(512));
        assert!(!claims.claim(pgno(3)));
        assert!(claims.claim(pgno(1)) && claims.claim(pgno(2)) && claims.is_complete());
    }

    /// Four pages, shrunk to three, grown to five by a writer that forgot page 4.
    #[test]
    fn a_copy_from_before_a_shrink_is_dead() {
        let mut claims = Claims::new(5, page_size(512));
        assert!(claims.claim(pgno(1)) && claims.claim(pgno(5)));
        claims.pass(5);
        assert!(!claims.claim(pgno(1)));
        claims.pass(3);
        assert!(claims.claim(pgno(2)) && claims.claim(pgno(3)));
        assert!(!claims.claim(pgno(4)), "page 4 of the oldest segment is dead");
        assert_eq!(claims.first_open(), Some(pgno(4)));
    }

    #[test]
    fn an_older_database_provides_what_is_not_dead() {
        let mut claims = Claims::new(5, page_size(512));
        assert!(claims.claim(pgno(2)) && claims.claim(pgno(5)));
        claims.pass(5);
        claims.fall_back_on(4);
        assert!(claims.is_complete());
        let mut shrunk = Claims::new(5, page_size(512));
        assert!(shrunk.claim(pgno(5)));
        assert_eq!(shrunk.claimed().collect::<Vec<_>>(), [pgno(5)]);
        shrunk.pass(3);
        shrunk.fall_back_on(9);
        assert_eq!(shrunk.first_open(), Some(pgno(4)));
        assert_eq!(shrunk.claimed().map(Pgno::get).collect::<Vec<_>>(), [1, 2, 3, 5]);
    }

    #[test]
    fn the_lock_page_needs_nobody() {
        let size = page_size(65536);
        let lock = lock_page(size);
        let mut claims = Claims::new(lock.get() + 1, size);
        assert!(!claims.claim(lock));
        for n in (1..lock.get()).chain([lock.get() + 1]) {
            assert!(claims.claim(pgno(n)));
        }
        assert!(claims.is_complete());
        assert_eq!(Claims::new(lock.get() - 1, size).open, u64::from(lock.get() - 1), "the database ends before it");
    }

    #[test]
    fn every_size_around_a_word_of_bits_counts_right() {
        for commit in 1..200 {
            let mut claims = Claims::new(commit, page_size(4096));
            for n in 1..=commit {
                assert_eq!(claims.first_open(), Some(pgno(n)));
                assert!(claims.claim(pgno(n)));
            }
            assert!(claims.is_complete() && claims.first_open().is_none());
        }
    }
}
