//! Which page numbers a segment may hold, and in which order.
//!
//! The encoder refuses to write, and the decoders refuse to read, anything that
//! breaks these rules: numbers ascend, none is above `commit`, the lock page is
//! never there, and a complete segment has no hole.

use crate::types::{PageSize, Pgno, lock_page};

use super::{Error, Header};

/// The numbers seen so far in one segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbering {
    lock: u32,
    commit: u32,
    complete: bool,
    last: u32,
}

impl Numbering {
    pub(super) fn of(header: &Header) -> Self {
        Self { lock: lock_page(header.page_size).get(), commit: header.commit, complete: header.is_complete(), last: 0 }
    }

    /// Whether `pgno` may come next.
    pub(super) fn push(&mut self, pgno: Pgno) -> Result<(), Error> {
        let number = pgno.get();
        let wrong = |reason| Err(Error::Page { pgno: number, reason });
        if number > self.commit {
            return wrong("lies past the end of the database");
        }
        if number == self.lock {
            return wrong("is the lock page, which holds no content");
        }
        if number <= self.last {
            return wrong("comes after one that is not below it");
        }
        if self.complete && Some(number) != self.following() {
            return Err(Error::Missing { pgno: self.following().unwrap_or(number) });
        }
        self.last = number;
        Ok(())
    }

    /// Whether the segment may end here.
    pub(super) fn finish(&self) -> Result<(), Error> {
        match self.following() {
            Some(pgno) if self.complete && pgno <= self.commit => Err(Error::Missing { pgno }),
            _ => Ok(()),
        }
    }

    fn following(&self) -> Option<u32> {
        following(self.last, self.lock)
    }
}

/// The number after `last`, hopping over the lock page.
pub(super) fn following(last: u32, lock: u32) -> Option<u32> {
    let next = last.checked_add(1)?;
    if next == lock { next.checked_add(1) } else { Some(next) }
}

/// The first page of `(old, new]` that `pages` (ascending) does not hold, the
/// lock page aside. A transaction that grows the database writes every new
/// page, so a hole means that frames were lost: capture must not go on, and a
/// merge would bring back a dead version of the page.
pub fn growth_hole(pages: impl IntoIterator<Item = Pgno>, old: u32, new: u32, page_size: PageSize) -> Option<Pgno> {
    let lock = lock_page(page_size).get();
    let mut expected = following(old, lock);
    for pgno in pages {
        let number = pgno.get();
        if number <= old {
            continue;
        }
        if Some(number) != expected {
            break;
        }
        expected = following(number, lock);
    }
    expected.filter(|number| *number <= new).and_then(Pgno::new)
}

#[cfg(test)]
mod tests {
    use super::super::forge::{header, range};
    use super::*;

    fn pages(numbers: impl IntoIterator<Item = u32>) -> impl Iterator<Item = Pgno> {
        numbers.into_iter().map(|n| Pgno::new(n).unwrap())
    }

    /// F11.
    #[test]
    fn growth_without_a_hole_has_every_new_page() {
        let size = PageSize::new(512).unwrap();
        let hole = |numbers: &[u32], old, new| growth_hole(pages(numbers.to_vec()), old, new, size).map(Pgno::get);
        assert_eq!(hole(&[], 3, 3), None);
        assert_eq!(hole(&[1, 2], 3, 2), None, "a shrink needs nothing");
        assert_eq!(hole(&[1, 4, 5], 3, 5), None);
        assert_eq!(hole(&[4, 5, 6], 3, 5), None, "pages past the end do not matter here");
        assert_eq!(hole(&[1, 5], 3, 5), Some(4));
        assert_eq!(hole(&[1, 4], 3, 5), Some(5));
        assert_eq!(hole(&[], 0, 1), Some(1));
        assert_eq!(hole(&[1, 2, 3], 0, u32::MAX), Some(4));
    }

    #[test]
    fn growth_hops_over_the_lock_page_only() {
        for size in PageSize::all() {
            let lock = lock_page(size).get();
            let hole = |numbers: &[u32], old, new| growth_hole(pages(numbers.to_vec()), old, new, size).map(Pgno::get);
            assert_eq!(hole(&[lock - 1, lock + 1], lock - 2, lock + 1), None);
            assert_eq!(hole(&[lock - 1], lock - 2, lock), None, "the lock page itself may be the last");
            assert_eq!(hole(&[], lock - 1, lock), None);
            assert_eq!(hole(&[lock + 2], lock - 1, lock + 2), Some(lock + 1));
            assert_eq!(hole(&[lock + 1], lock - 2, lock + 1), Some(lock - 1));
        }
    }

    /// F22: databases that end just below, at and above the lock page, at every page size.
    #[test]
    fn complete_segments_skip_exactly_the_lock_page() {
        for page_size in PageSize::all() {
            let lock = lock_page(page_size).get();
            for commit in lock - 2..=lock + 2 {
                let header = Header { page_size, ..header(range(1, 1), commit) };
                let mut numbering = Numbering::of(&header);
                for pgno in pages((1..=commit).filter(|n| *n != lock)) {
                    assert!(pgno.get() == 1 || numbering.finish().is_err(), "may not end before {pgno}");
                    numbering.push(pgno).unwrap();
                }
                numbering.finish().unwrap();
                assert!(numbering.push(Pgno::new(commit + 1).unwrap()).is_err());
            }
            let mut numbering = Numbering::of(&Header { page_size, ..header(range(2, 2), lock + 1) });
            numbering.push(Pgno::new(lock - 1).unwrap()).unwrap();
            assert!(matches!(numbering.push(lock_page(page_size)), Err(Error::Page { .. })));
            numbering.push(Pgno::new(lock + 1).unwrap()).unwrap();
        }
    }

    #[test]
    fn the_largest_page_number_is_not_followed_by_another() {
        let mut numbering = Numbering::of(&header(range(2, 2), u32::MAX));
        numbering.push(Pgno::new(u32::MAX).unwrap()).unwrap();
        numbering.finish().unwrap();
        assert!(numbering.push(Pgno::FIRST).is_err());
    }
}
