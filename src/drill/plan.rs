//! Whose turn it is. Pure.
//!
//! Each replica has its turn once in its interval. The first turns
//! are spread over it, so that a thousand databases are not rehearsed at once,
//! and a restart is not a reason to rehearse. A budget of bytes a day delays
//! turns; it never drops one: the one that waits longest comes first.

use crate::types::Timestamp;

/// A day, in milliseconds: what a budget is for.
const DAY: i64 = 24 * 60 * 60 * 1000;

/// One replica of one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// How often, in milliseconds.
    pub interval: i64,
    /// From when on it was to be rehearsed.
    pub since: Timestamp,
    /// When its last rehearsal ended; `None` before the first.
    pub last: Option<Timestamp>,
    /// The most bytes in 24 hours that it may be a part of.
    pub budget: Option<u64>,
    /// Bytes of its last rehearsal, or a guess.
    pub size: u64,
}

/// Bytes that were fetched for a rehearsal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// When.
    pub at: Timestamp,
    /// How many.
    pub bytes: u64,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Rehearse this one now.
    Rehearse(usize),
    /// Nothing before this moment.
    Wait(Timestamp),
    /// Nothing ever.
    Never,
}

/// What to do now.
pub fn next(subjects: &[Subject], spent: &[Spent], now: Timestamp) -> Next {
    let turns = subjects.iter().enumerate().map(|(at, subject)| {
        let due = due(subject, at, subjects.len());
        (due.max(affordable(subject, spent)), due, at)
    });
    // Of those that may begin, the one that has waited longest.
    let ready = turns.clone().filter(|(at, ..)| *at <= now).min_by_key(|(_, due, index)| (*due, *index));
    match (ready, turns.min()) {
        (Some((.., index)), _) => Next::Rehearse(index),
        (None, Some((at, ..))) => Next::Wait(at),
        (None, None) => Next::Never,
    }
}

fn due(subject: &Subject, at: usize, count: usize) -> Timestamp {
    let after = |from: Timestamp, millis: i64| Timestamp::from_millis(from.as_millis().saturating_add(millis));
    match subject.last {
        Some(last) => after(last, subject.interval),
        None => {
            let share = i64::try_from(at + 1).unwrap_or(i64::MAX);
            let count = i64::try_from(count).unwrap_or(i64::MAX).max(1);
            after(subject.since, subject.interval / count * share)
        }
    }
}

/// From when on the budget has room for it. One that is larger than the whole
/// budget has its turn when nothing else was fetched for a day.
fn affordable(subject: &Subject, spent: &[Spent]) -> Timestamp {
    let (Some(budget), long_ago) = (subject.budget, Timestamp::from_millis(i64::MIN)) else {
        return Timestamp::from_millis(i64::MIN);
    };
    let mut newest_first: Vec<&Spent> = spent.iter().collect();
    newest_first.sort_by_key(|spent| std::cmp::Reverse(spent.at));
    let mut room = budget.saturating_sub(subject.size.min(budget));
    for spent in newest_first {
        match room.checked_sub(spent.bytes) {
            Some(left) => room = left,
            // This one, and whatever is older, must be a day away.
            None => return Timestamp::from_millis(spent.at.as_millis().saturating_add(DAY)),
        }
    }
    long_ago
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 60 * 60 * 1000;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn subject(last: Option<i64>, budget: Option<u64>, size: u64) -> Subject {
        Subject { interval: 4 * HOUR, since: at(0), last: last.map(at), budget, size }
    }

    #[test]
    fn first_turns_are_spread_over_the_interval() {
        let subjects = [subject(None, None, 1); 4];
        assert_eq!(next(&subjects, &[], at(0)), Next::Wait(at(HOUR)));
        assert_eq!(next(&subjects, &[], at(HOUR)), Next::Rehearse(0));
        let mut subjects = subjects;
        subjects[0].last = Some(at(HOUR + 5));
        assert_eq!(next(&subjects, &[], at(HOUR + 5)), Next::Wait(at(2 * HOUR)));
        assert_eq!(next(&subjects, &[], at(2 * HOUR)), Next::Rehearse(1));
        assert_eq!(next(&[], &[], at(0)), Next::Never);
    }

    #[test]
    fn who_waits_longest_comes_first() {
        let subjects = [subject(Some(5), None, 1), subject(Some(3), None, 1), subject(Some(4), None, 1)];
        assert_eq!(next(&subjects, &[], at(9 * HOUR)), Next::Rehearse(1));
    }

    #[test]
    fn a_budget_delays_and_never_drops() {
        let subjects = [subject(Some(0), Some(100), 60)];
        let spent = [Spent { at: at(HOUR), bytes: 50 }, Spent { at: at(3 * HOUR), bytes: 30 }];
        // 60 and 30 fit, 50 more do not before they are a day old.
        assert_eq!(next(&subjects, &spent, at(5 * HOUR)), Next::Wait(at(HOUR + DAY)));
        assert_eq!(next(&subjects, &spent, at(HOUR + DAY)), Next::Rehearse(0));
        assert_eq!(next(&subjects, &spent[1..], at(5 * HOUR)), Next::Rehearse(0));
        // Another one that costs nothing need not wait for it.
        let both = [subjects[0], subject(Some(HOUR), None, 60)];
        assert_eq!(next(&both, &spent, at(5 * HOUR)), Next::Rehearse(1));
    }

    #[test]
    fn one_larger_than_the_budget_has_its_turn_after_a_quiet_day() {
        let subjects = [subject(Some(0), Some(100), 5000)];
        assert_eq!(next(&subjects, &[], at(5 * HOUR)), Next::Rehearse(0));
        let spent = [Spent { at: at(4 * HOUR), bytes: 1 }];
        assert_eq!(next(&subjects, &spent, at(5 * HOUR)), Next::Wait(at(4 * HOUR + DAY)));
    }
}
