//! When batches came that some replica still lacks: so that the age of the oldest
//! is known, however long a replica stays away.
//!
//! Always true: an age told from here is never shorter than the true one. When
//! there is no room for more, neighbours are joined under the older time.

use std::collections::VecDeque;
use std::time::Instant;

/// More are not remembered: a joined pair is off by one capture interval, then two, and so on.
const MOST: usize = 64;

/// Batches with the times at which they were noticed, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrivals(VecDeque<(u64, Instant)>);

impl Arrivals {
    /// A batch was captured; its first commit was noticed then.
    pub fn push(&mut self, batch: u64, noticed: Instant) {
        while self.0.back().is_some_and(|(last, _)| *last >= batch) {
            self.0.pop_back();
        }
        if self.0.len() == MOST {
            // Every second pair becomes one, so that the newest stay apart.
            let old = std::mem::take(&mut self.0);
            let mut rest = old.into_iter();
            while let Some((batch, noticed)) = rest.next() {
                let last = rest.next().map_or(batch, |(next, _)| next);
                self.0.push_back((last, noticed));
            }
        }
        self.0.push_back((batch, noticed));
    }

    /// Every replica has this batch and those before it.
    pub fn drop_through(&mut self, batch: u64) {
        while self.0.front().is_some_and(|(first, _)| *first <= batch) {
            self.0.pop_front();
        }
        if self.0.is_empty() {
            // Of many databases nearly all wait for nothing: no room is kept for it.
            self.0 = VecDeque::new();
        }
    }

    /// When the first batch after this one was noticed.
    pub fn first_after(&self, batch: u64) -> Option<Instant> {
        self.0.iter().find(|(at, _)| *at > batch).map(|(_, noticed)| *noticed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_age_is_too_short_however_many_batches_came() {
        let start = Instant::now();
        let at = |batch: u64| start + Duration::from_secs(batch);
        let mut arrivals = Arrivals::default();
        for batch in 1..=1000 {
            arrivals.push(batch, at(batch));
            assert!(arrivals.0.len() <= MOST);
            for have in 0..batch {
                assert!(arrivals.first_after(have).unwrap() <= at(have + 1), "{have} of {batch}");
            }
            assert_eq!(arrivals.first_after(batch - 1), Some(at(batch)));
        }
        assert_eq!(arrivals.first_after(0), Some(at(1)));
        assert_eq!(arrivals.first_after(1000), None);
        arrivals.drop_through(1000);
        assert_eq!(arrivals, Arrivals::default());
    }
}
