//! From an instant to a transaction: the newest captured point at or before it.
//!
//! The truth about time is in the segments' headers, so this asks for headers,
//! and for few of them: times do not run backwards within one history, so a
//! bisection finds the place. What was read is checked for order, including both
//! neighbours of the answer; as soon as time is seen running backwards (a clock
//! was set back) every point is looked at instead.
//!
//! Pure: it says what to read next and is told the answer.

use super::plan::{Holdings, PlanError};
use super::ranges::Point;
use crate::types::{Timestamp, Txid};

/// Up to this many points, all are looked at: two rounds of parallel requests
/// cost less than a bisection one request at a time, and miss nothing.
const READ_ALL: usize = 32;

/// A search under way.
pub(super) struct TimeSearch {
    asked: Timestamp,
    points: Vec<Candidate>,
    /// The newest point with a chain. Points above it are here only so that
    /// their data is not silently left out.
    reached: Txid,
    /// Where the first segment behind a gap begins, if there is one.
    next: Option<Txid>,
}

struct Candidate {
    txid: Txid,
    time: Option<Timestamp>,
}

/// The answer, with what lies next to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The newest point at or before the instant asked for.
    pub(super) point: Point,
    /// The newest point before it that can be restored.
    pub(super) before: Option<Point>,
    /// The oldest point after it that can be restored.
    pub(super) after: Option<Point>,
}

/// What a search wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The time of these points: the earliest header time among the segments
    /// that end there (a snapshot is stamped when it was taken, which may be
    /// later than its newest transaction).
    Read(Vec<Txid>),
    /// The answer.
    Found(Found),
}

impl TimeSearch {
    /// Begins a search among what a replica holds.
    pub(super) fn new(holdings: &Holdings, asked: Timestamp) -> Result<Self, PlanError> {
        let listing = holdings.segments();
        let first = listing.iter().map(|segment| segment.txids.min()).min().ok_or(PlanError::NoBackup)?;
        let mut points = holdings.restorable();
        let reached = points.last().copied().ok_or(PlanError::NoBase { first })?;
        let next = holdings.beyond(reached);
        let mut behind: Vec<Txid> =
            listing.iter().map(|segment| segment.txids.max()).filter(|end| *end > reached).collect();
        behind.sort_unstable();
        behind.dedup();
        points.append(&mut behind);
        let points = points.into_iter().map(|txid| Candidate { txid, time: None }).collect();
        Ok(Self { asked, points, reached, next })
    }

    /// Answers one item of a [`Step::Read`].
    pub(super) fn learn(&mut self, txid: Txid, time: Timestamp) {
        if let Ok(at) = self.points.binary_search_by_key(&txid, |point| point.txid) {
            self.points[at].time = Some(time);
        }
    }

    /// The next thing to read, or the end of the search.
    pub(super) fn step(&self) -> Result<Step, PlanError> {
        let wanted = if self.points.len() <= READ_ALL || self.runs_backwards() {
            (0..self.points.len()).collect()
        } else {
            self.bisect()
        };
        let unread: Vec<Txid> =
            wanted.into_iter().filter(|at| self.time(*at).is_none()).map(|at| self.points[at].txid).collect();
        if unread.is_empty() { self.answer().map(Step::Found) } else { Ok(Step::Read(unread)) }
    }

    fn time(&self, at: usize) -> Option<Timestamp> {
        self.points.get(at).and_then(|point| point.time)
    }

    fn runs_backwards(&self) -> bool {
        !self.points.iter().filter_map(|point| point.time).is_sorted()
    }

    /// The points to look at next; all of them known once the place is found.
    fn bisect(&self) -> Vec<usize> {
        let last = self.points.len() - 1;
        let Some(low) = self.newest_at_or_before() else {
            // Nothing known is old enough: ask the oldest, then its neighbour.
            // The newest is for the message.
            return vec![0, 1, self.reached()];
        };
        let high = (low + 1..=last).find(|at| self.time(*at).is_some());
        match high {
            _ if low == last => vec![last - 1],
            None => vec![last],
            Some(high) if high - low > 1 => vec![low + (high - low) / 2],
            Some(high) => vec![low.saturating_sub(1), (high + 1).min(last)],
        }
    }

    fn newest_at_or_before(&self) -> Option<usize> {
        self.points.iter().rposition(|point| point.time.is_some_and(|time| time <= self.asked))
    }

    fn answer(&self) -> Result<Found, PlanError> {
        let Some(found) = self.newest_at_or_before() else {
            let read = "the search ends only after the oldest and the newest point were read";
            let (oldest, newest) = (self.time(0).expect(read), self.time(self.reached()).expect(read));
            return Err(PlanError::TimestampBeforeOldest { asked: self.asked, oldest, newest });
        };
        let Candidate { txid, time } = self.points[found];
        match self.next {
            // Anything between the last reachable point and the instant asked for
            // would be among the transactions that are missing.
            Some(next) if txid > self.reached || (txid == self.reached && time < Some(self.asked)) => {
                Err(PlanError::Gap { reached: self.reached, next })
            }
            _ => Ok(self.with_neighbours(found)),
        }
    }

    /// Both neighbours of the answer have been read: that is how it was found.
    fn with_neighbours(&self, found: usize) -> Found {
        let point = |at: usize| {
            let Candidate { txid, time } = self.points[at];
            Some(Point { txid, time: time? })
        };
        Found {
            point: point(found).expect("it was found by its time"),
            before: found.checked_sub(1).and_then(point),
            after: Some(found + 1).filter(|at| *at <= self.reached()).and_then(point),
        }
    }

    /// The place of the newest point with a chain.
    fn reached(&self) -> usize {
        self.points.partition_point(|point| point.txid <= self.reached) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::Level;
    use crate::replica::Segment;
    use crate::types::TxidRange;

    fn txid(n: usize) -> Txid {
        Txid::new(n as u64).unwrap()
    }

    fn time(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn seg(min: usize, max: usize) -> Segment {
        let txids = TxidRange::new(txid(min), txid(max)).unwrap();
        Segment { level: Level::L0, txids, size: 1, created: time(0) }
    }

    /// Runs a search over transactions 1, 2, 3 ... with the given times and
    /// counts the headers it read.
    fn search(listing: &[Segment], times: &[i64], asked: i64) -> (Result<Txid, PlanError>, usize) {
        let (found, reads) = search_all(listing, times, asked);
        (found.map(|found| found.point.txid), reads)
    }

    fn search_all(listing: &[Segment], times: &[i64], asked: i64) -> (Result<Found, PlanError>, usize) {
        let mut reads = 0;
        let mut search = match TimeSearch::new(&Holdings::new(listing.iter().copied()), time(asked)) {
            Ok(search) => search,
            Err(error) => return (Err(error), 0),
        };
        loop {
            match search.step() {
                Ok(Step::Found(found)) => return (Ok(found), reads),
                Err(error) => return (Err(error), reads),
                Ok(Step::Read(wanted)) => {
                    assert!(!wanted.is_empty());
                    for point in wanted {
                        reads += 1;
                        search.learn(point, time(times[usize::try_from(point.get()).unwrap() - 1]));
                    }
                }
            }
        }
    }

    fn singles(n: usize) -> Vec<Segment> {
        (1..=n).map(|i| seg(i, i)).collect()
    }

    #[test]
    fn the_newest_point_at_or_before_the_instant_is_found_inclusively() {
        for n in [1, 2, 3, 10, READ_ALL, READ_ALL + 1, 200] {
            let times: Vec<i64> = (0..n as i64).map(|i| 1000 + i / 3 * 10).collect();
            for asked in 999..=*times.last().unwrap() + 5 {
                let expected = times.iter().rposition(|t| *t <= asked);
                let (found, _) = search(&singles(n), &times, asked);
                match expected {
                    Some(at) => assert_eq!(found, Ok(txid(at + 1)), "{n} {asked}"),
                    None => assert_eq!(
                        found,
                        Err(PlanError::TimestampBeforeOldest {
                            asked: time(asked),
                            oldest: time(1000),
                            newest: time(*times.last().unwrap())
                        })
                    ),
                }
            }
        }
    }

    #[test]
    fn the_answer_comes_with_its_neighbours() {
        for n in [1, 2, 3, READ_ALL, READ_ALL + 1, 200] {
            let times: Vec<i64> = (0..n as i64).map(|i| 1000 + i * 10).collect();
            let point = |at: usize| (at < n).then(|| Point { txid: txid(at + 1), time: time(times[at]) });
            for at in 0..n {
                let found = search_all(&singles(n), &times, times[at] + 5).0.unwrap();
                assert_eq!(Some(found.point), point(at));
                assert_eq!((found.before, found.after), (at.checked_sub(1).and_then(point), point(at + 1)), "{n} {at}");
            }
        }
        // What cannot be restored is nobody's neighbour.
        let broken = [seg(1, 1), seg(2, 2), seg(5, 5)];
        let found = search_all(&broken, &[10, 20, 30, 40, 50], 20).0.unwrap();
        assert_eq!((found.before.unwrap().txid, found.after), (txid(1), None));
    }

    #[test]
    fn few_headers_are_read_in_a_long_history() {
        let times: Vec<i64> = (0..100_000).collect();
        let listing = singles(times.len());
        for asked in [0, 1, 17, 50_000, 99_998, 99_999, 1 << 40] {
            let (found, reads) = search(&listing, &times, asked);
            assert_eq!(found, Ok(txid(usize::try_from(asked + 1).unwrap().min(100_000))));
            assert!(reads <= 22, "{reads} headers for {asked}");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_is_noticed_at_the_neighbours_and_everything_is_read() {
        let mut times: Vec<i64> = (0..100).map(|i| 1000 + i).collect();
        for late in &mut times[50..] {
            *late -= 30;
        }
        let (found, reads) = search(&singles(100), &times, 1030);
        assert_eq!(found, Ok(txid(61)), "the newest transaction stamped at or before the instant");
        assert!(reads <= 100);
    }

    #[test]
    fn points_without_a_chain_are_passed_over() {
        let merged = [seg(1, 5), seg(6, 9), seg(8, 8)];
        let times = [0, 0, 0, 0, 50, 60, 70, 80, 90];
        assert_eq!(search(&merged, &times, 85).0, Ok(txid(5)));
        assert_eq!(search(&merged, &times, 90).0, Ok(txid(9)));
    }

    #[test]
    fn an_instant_behind_a_gap_is_an_error_and_one_before_it_is_not() {
        let broken = [seg(1, 1), seg(2, 2), seg(5, 5), seg(6, 6)];
        let times = [10, 20, 30, 40, 50, 60];
        let gap = Err(PlanError::Gap { reached: txid(2), next: txid(5) });
        assert_eq!(search(&broken, &times, 15).0, Ok(txid(1)));
        assert_eq!(search(&broken, &times, 20).0, Ok(txid(2)));
        for asked in [21, 49, 50, 55, 60, 99] {
            assert_eq!(search(&broken, &times, asked).0, gap, "{asked}");
        }
    }

    #[test]
    fn an_empty_replica_and_one_without_a_base_say_so() {
        assert_eq!(search(&[], &[], 5).0, Err(PlanError::NoBackup));
        assert_eq!(search(&[seg(2, 3)], &[1, 2, 3], 5).0, Err(PlanError::NoBase { first: txid(2) }));
    }
}
