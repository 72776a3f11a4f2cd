//! Which changes of health are worth telling: those that are there to stay. Pure.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::health::Grade;

/// How one of many is.
#[derive(Debug)]
pub(super) struct State {
    pub(super) grade: Grade,
    pub(super) path: Arc<Path>,
    pub(super) reason: Option<String>,
    /// Being degraded for a shorter time is nothing to be told.
    pub(super) patience: Duration,
}

/// How that one is.
pub(super) fn state(states: &[(u64, State)], id: u64) -> &State {
    let at = states.binary_search_by_key(&id, |(id, _)| *id).expect("asked of those that are there");
    &states[at].1
}

/// What somebody was told last about something, and what it is like since.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    last: Grade,
    now: Grade,
    since: Instant,
}

impl Told {
    /// Nobody was told anything: all is taken to be well.
    fn new(now: Instant) -> Self {
        Self { last: Grade::Ok, now: Grade::Ok, since: now }
    }

    /// It is like this now. `Some`: somebody should be told that it is no longer as it was, and how it was.
    ///
    /// A failure is told at once, and so is its end. That something is degraded is
    /// told if it stays so for as long as the objective: most of that passes by itself.
    fn observe(&mut self, grade: Grade, now: Instant, patience: Duration) -> Option<Grade> {
        if grade != self.now {
            (self.now, self.since) = (grade, now);
        }
        let stays = grade != Grade::Degraded || now.saturating_duration_since(self.since) >= patience;
        (stays && self.last != grade).then_some(self.last)
    }

    /// All is well, and nobody was told otherwise.
    fn is_well(&self) -> bool {
        (self.last, self.now) == (Grade::Ok, Grade::Ok)
    }

    /// It was told.
    fn tell(&mut self, grade: Grade) {
        self.last = grade;
    }
}

/// What was told about each of many. Who is not in it was and is well, as nearly all are.
pub(super) type AllTold = BTreeMap<u64, Told>;

/// All are like this now. Who should be told about, with what was told last. Those who are not there any more are
/// forgotten, since whoever took them away knows.
pub(super) fn observe(all: &mut AllTold, states: &[(u64, State)], now: Instant) -> Vec<(u64, Grade)> {
    all.retain(|id, told| !told.is_well() && states.binary_search_by_key(id, |(id, _)| *id).is_ok());
    let mut changed = Vec::new();
    for (id, state) in states {
        if state.grade == Grade::Ok && !all.contains_key(id) {
            continue;
        }
        let told = all.entry(*id).or_insert_with(|| Told::new(now));
        changed.extend(told.observe(state.grade, now, state.patience).map(|previous| (*id, previous)));
    }
    changed
}

/// It was told about one of those who were to be told about.
pub(super) fn tell(all: &mut AllTold, id: u64, grade: Grade) {
    if let Some(told) = all.get_mut(&id) {
        told.tell(grade);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_only_those_are_remembered_that_are_not_well() {
        let now = Instant::now();
        let like = |grades: &[(u64, Grade)]| -> Vec<(u64, State)> {
            let state = |grade| State { grade, path: Path::new("a").into(), reason: None, patience: Duration::ZERO };
            grades.iter().map(|(id, grade)| (*id, state(*grade))).collect()
        };
        let mut all = AllTold::new();
        let mut ids: Vec<(u64, Grade)> = (0..1000).map(|id| (id, Grade::Ok)).collect();
        assert_eq!((observe(&mut all, &like(&ids), now), all.len()), (vec![], 0));
        (ids[3].1, ids[7].1, ids[9].1) = (Grade::Failed, Grade::Degraded, Grade::Failed);
        let changed = [3, 7, 9].map(|id| (id, Grade::Ok));
        assert_eq!(observe(&mut all, &like(&ids), now), changed);
        assert_eq!(observe(&mut all, &like(&ids), now), changed, "until it was told");
        tell(&mut all, 3, Grade::Failed);
        tell(&mut all, 7, Grade::Degraded);
        (ids[3].1, ids[9].1) = (Grade::Ok, Grade::Ok);
        ids.remove(7);
        assert_eq!(observe(&mut all, &like(&ids), now), [(3, Grade::Failed)], "what nobody was told is over untold");
        tell(&mut all, 3, Grade::Ok);
        assert_eq!((observe(&mut all, &like(&ids), now), all.len()), (vec![], 0));
    }

    #[test]
    fn what_passes_by_itself_is_not_told() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let patience = Duration::from_secs(30);
        let mut told = Told::new(start);
        assert_eq!(told.observe(Grade::Degraded, at(1), patience), None);
        assert_eq!(told.observe(Grade::Ok, at(10), patience), None);
        assert_eq!(told.observe(Grade::Degraded, at(20), patience), None);
        assert_eq!(told.observe(Grade::Degraded, at(50), patience), Some(Grade::Ok), "it stays");
        assert_eq!(told.observe(Grade::Degraded, at(51), patience), Some(Grade::Ok), "until it was told");
        told.tell(Grade::Degraded);
        assert_eq!(told.observe(Grade::Degraded, at(52), patience), None);
        assert_eq!(told.observe(Grade::Failed, at(53), patience), Some(Grade::Degraded));
        told.tell(Grade::Failed);
        assert_eq!(told.observe(Grade::Ok, at(54), patience), Some(Grade::Failed));
        assert_eq!(told.observe(Grade::Failed, at(55), patience), None, "it came back before anybody was told");
    }
}
