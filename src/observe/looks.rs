//! What one look after another has shown.
//!
//! Always true: whatever was told about a database since the last look, and whatever
//! only the passing of time changes, is seen by the next one. The others, which are
//! nearly all where there are thousands, are not looked at again: what is known about
//! them lies scattered over all of the memory, and fetching it costs more than judging.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Source;
use crate::health::{Cause, Grade, Objective, judge, lag, steady_until};
use crate::status::Health;

/// What is known of all from look to look.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// Those that are there, with how long each stays well unless something is told about it; `None`: it is to be
    /// looked at again in any case. In the order of their numbers, and close together, since it is gone through at each
    /// look.
    steady: Vec<(u64, Option<Instant>)>,
}

/// What one look has shown.
#[derive(Debug)]
pub(super) struct Look {
    /// Those with whom something is wrong.
    pub(super) troubled: BTreeMap<u64, State>,
    /// Those that are there.
    pub(super) there: Vec<u64>,
    /// The worst.
    pub(super) overall: Grade,
    /// At least one database is followed, and nothing is wrong with any but that some do not exist yet.
    pub(super) well: bool,
    /// How late those are that were looked at now; with the others nothing waits.
    pub(super) lags: Vec<(u64, Duration)>,
    /// Those that are there no more.
    pub(super) gone: Vec<u64>,
}

/// How one of many is.
#[derive(Debug)]
pub(super) struct State {
    pub(super) grade: Grade,
    pub(super) path: Arc<Path>,
    pub(super) reason: Option<String>,
    /// Being degraded for a shorter time is nothing to be told.
    pub(super) patience: Duration,
}

impl Default for Look {
    fn default() -> Self {
        Self {
            troubled: BTreeMap::new(),
            there: Vec::new(),
            overall: Grade::Ok,
            well: true,
            lags: Vec::new(),
            gone: Vec::new(),
        }
    }
}

impl Look {
    /// Whether there is such a one.
    pub(super) fn is_there(&self, id: u64) -> bool {
        self.there.binary_search(&id).is_ok()
    }
}

impl Looks {
    /// Looks at those that may be other than they were.
    pub(super) fn look(&mut self, source: &dyn Source, now: Instant, objective: Objective) -> Look {
        let restless = self.steady.iter().filter(|(_, until)| until.is_none_or(|until| until <= now));
        let ids: BTreeSet<u64> = restless.map(|(id, _)| *id).chain(source.news()).collect();
        let ids: Vec<u64> = ids.into_iter().collect();
        let mut look = Look::default();
        let mut live = false;
        source.some(&ids, &mut |id, facts| {
            let Some(facts) = facts else {
                look.gone.push(id);
                return;
            };
            let verdict = judge(facts, now, objective).overall;
            live |= facts.health == Health::Live;
            look.well &= verdict.reasons.iter().all(|reason| reason.cause == Cause::Absent);
            look.overall = look.overall.max(verdict.grade);
            look.lags.push((id, lag(facts, now)));
            let until = steady_until(facts, &verdict, objective);
            match self.steady.binary_search_by_key(&id, |(id, _)| *id) {
                Ok(at) => self.steady[at].1 = until,
                // Numbers are given in order: nearly always at the end.
                Err(at) => self.steady.insert(at, (id, until)),
            }
            if verdict.grade != Grade::Ok {
                let reason = verdict.reason().map(str::to_owned);
                let patience = objective.of(facts.interval);
                look.troubled.insert(id, State { grade: verdict.grade, path: facts.path.clone(), reason, patience });
            }
        });
        if !look.gone.is_empty() {
            self.steady.retain(|(id, _)| look.gone.binary_search(id).is_err());
        }
        // Only who is followed is ever steady.
        look.well &= live || self.steady.iter().any(|(_, until)| until.is_some());
        look.there = self.steady.iter().map(|(id, _)| *id).collect();
        look
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::Kept;
    use crate::observe::Observed;
    use crate::status::{Board, Captured, DatabaseFacts, DatabaseId, ReplicaFacts};
    use crate::types::{Generation, Timestamp};

    /// A board without a daemon, which tells what is new or, to compare, does not.
    struct Pinned(Board, bool);

    impl Source for Pinned {
        fn each(&self, look: &mut dyn FnMut(u64, &DatabaseFacts)) {
            self.0.each(|id, facts| look(id.get(), facts));
        }

        fn news(&self) -> Vec<u64> {
            let news = if self.1 { self.0.news() } else { self.0.entries().iter().map(|(id, _)| *id).collect() };
            news.into_iter().map(DatabaseId::get).collect()
        }

        fn some(&self, ids: &[u64], look: &mut dyn FnMut(u64, Option<&DatabaseFacts>)) {
            self.0.some(ids.iter().copied().map(DatabaseId::new), |id, facts| look(id.get(), facts));
        }

        fn observe(&self) -> Vec<Observed> {
            Vec::new()
        }

        fn kept(&self, _: u64, _: usize) -> Option<Kept> {
            None
        }
    }

    fn fresh(now: Instant) -> DatabaseFacts {
        let captured = Captured { generation: Generation::new(1).unwrap(), batch: 1, timestamp: Timestamp::EPOCH };
        let replica = ReplicaFacts { batch: Some(1), ..ReplicaFacts::default() };
        let (captured, replicas, looked) = (Some(captured), vec![replica], Some(now));
        DatabaseFacts { health: Health::Live, captured, replicas, looked, ..DatabaseFacts::default() }
    }

    fn shown(look: &Look) -> impl PartialEq + std::fmt::Debug {
        let troubled: Vec<_> = look.troubled.iter().map(|(id, s)| (*id, s.grade, s.reason.clone())).collect();
        let late: Vec<_> = look.lags.iter().filter(|(_, lag)| !lag.is_zero()).copied().collect();
        (troubled, late, look.overall, look.well, look.there.clone())
    }

    /// Whatever happens: who looks only at what may be different sees what one sees who looks at everything.
    #[test]
    fn no_look_misses_anything() {
        let objective = Objective::new(Some(Duration::from_secs(10)));
        let (mut random, mut now) = (7u32, Instant::now());
        let mut draw = |below: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) % below
        };
        let board = Board::default();
        let (source, everything) = (Pinned(board.clone(), true), Pinned(board.clone(), false));
        let (mut looks, mut some, mut all, mut well) = (Looks::default(), 0, 0, 0);
        for _ in 0..20 {
            board.add(fresh(now));
        }
        for _ in 0..5000 {
            for _ in 0..draw(4) {
                let ids: Vec<DatabaseId> = board.entries().iter().map(|(id, _)| *id).collect();
                let id = ids[draw(u32::try_from(ids.len()).unwrap()) as usize];
                let poll = Duration::from_secs([5, 60][draw(2) as usize]);
                match draw(12) {
                    0 => board.update(id, |facts| facts.health = Health::Waiting("gone".to_owned())),
                    1 => board.update(id, |facts| facts.health = Health::Stopped),
                    2 => board.update(id, |facts| facts.captured.as_mut().unwrap().batch += 1),
                    3 => board.update(id, |facts| facts.replicas[0].error = Some("refused".to_owned())),
                    4 if ids.len() > 10 => board.remove(id),
                    5 => drop(board.add(fresh(now))),
                    6 => board.looked(id, now, poll),
                    _ => board.update(id, |facts| *facts = DatabaseFacts { poll, ..fresh(now) }),
                }
            }
            now += Duration::from_millis(u64::from(draw(6000)));
            if draw(3) > 0 {
                // The look of the daemon, without which all of them would be taken to be forgotten.
                board.entries().iter().for_each(|(id, facts)| board.looked(*id, now, facts.poll));
            }
            let look = looks.look(&source, now, objective);
            let full = Looks::default().look(&everything, now, objective);
            assert_eq!(shown(&look), shown(&full));
            (some, all) = (some + look.lags.len(), all + full.lags.len());
            well += usize::from(look.well);
        }
        assert!(some < all / 4 * 3, "{some} of {all}");
        assert!(well > 10, "{well}");
    }
}
