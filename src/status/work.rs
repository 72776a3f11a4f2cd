//! What was done for one database so far: numbers that only grow.

use std::time::Duration;

/// Work since the database is known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Looks at the log that found something, or ended in an error.
    pub syncs: u64,
    /// Those that ended in an error.
    pub sync_errors: u64,
    /// The time that they took.
    pub sync_time: Duration,
    /// Bytes of the log that were captured.
    pub wal_bytes: u64,
    /// Checkpoints that were tried.
    pub checkpoints: u64,
    /// Those that ended in an error.
    pub checkpoint_errors: u64,
    /// Those that copied nothing and moved nothing.
    pub futile_checkpoints: u64,
    /// The time that they took.
    pub checkpoint_time: Duration,
    /// How often the log's file was cut.
    pub truncations: u64,
    /// Complete checkpoints, with everything captured.
    pub seals: u64,
    /// Continuations by comparison, for want of proof.
    pub resyncs: u64,
    /// Local segments that were given up to keep their budget.
    pub dropped: u64,
    /// How long writers were kept waiting.
    pub barriers: Barriers,
}

/// Upper bounds of the times in [`Barriers`], in microseconds.
pub const BARRIER_BOUNDS: [u64; 8] = [500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000];

/// How often and how long writers were kept waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Barriers {
    /// How many took up to the bound of the same place; the last: longer than all bounds.
    pub counts: [u64; BARRIER_BOUNDS.len() + 1],
    /// All of them together.
    pub total: Duration,
    /// The longest.
    pub longest: Duration,
}

impl Barriers {
    /// Writers were kept waiting for so long.
    pub fn add(&mut self, held: Duration) {
        let place = BARRIER_BOUNDS.iter().position(|bound| held.as_micros() <= u128::from(*bound));
        self.counts[place.unwrap_or(BARRIER_BOUNDS.len())] += 1;
        self.total += held;
        self.longest = self.longest.max(held);
    }

    /// What another has counted.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(mine, more)| *mine += more);
        self.total += other.total;
        self.longest = self.longest.max(other.longest);
    }

    /// How often.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl Work {
    /// What another has done.
    pub fn merge(&mut self, other: &Self) {
        self.syncs += other.syncs;
        self.sync_errors += other.sync_errors;
        self.sync_time += other.sync_time;
        self.wal_bytes += other.wal_bytes;
        self.checkpoints += other.checkpoints;
        self.checkpoint_errors += other.checkpoint_errors;
        self.futile_checkpoints += other.futile_checkpoints;
        self.checkpoint_time += other.checkpoint_time;
        self.truncations += other.truncations;
        self.seals += other.seals;
        self.resyncs += other.resyncs;
        self.dropped += other.dropped;
        self.barriers.merge(&other.barriers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_barrier_counts_once_at_the_least_bound_that_holds_it() {
        let mut barriers = Barriers::default();
        for micros in [0, 500, 501, 100_000, 100_001] {
            barriers.add(Duration::from_micros(micros));
        }
        assert_eq!(barriers.counts, [2, 1, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((barriers.count(), barriers.longest), (5, Duration::from_micros(100_001)));
        let mut both = barriers;
        both.merge(&barriers);
        assert_eq!((both.count(), both.total), (10, 2 * barriers.total));
    }
}
