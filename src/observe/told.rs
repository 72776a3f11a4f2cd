//! Which changes of health are worth telling: those that are there to stay. Pure.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::looks::Look;
use crate::health::Grade;

/// What somebody was told last about something, and what it is like since.
#[derive(Clone, Debug)]
pub(super) struct Told {
    path: Arc<Path>,
    last: Grade,
    now: Grade,
    since: Instant,
}

impl Told {
    /// Nobody was told anything: all is taken to be well.
    fn new(path: Arc<Path>, now: Instant) -> Self {
        Self { path, last: Grade::Ok, now: Grade::Ok, since: now }
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

/// That one is no longer as somebody was told last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) id: u64,
    pub(super) path: Arc<Path>,
    pub(super) grade: Grade,
    pub(super) previous: Grade,
    pub(super) reason: Option<String>,
}

/// All are like this now: what somebody should be told. Those who are not there any more are forgotten, since
/// whoever took them away knows.
pub(super) fn observe(all: &mut AllTold, look: &Look, now: Instant) -> Vec<Changed> {
    all.retain(|id, told| !told.is_well() && look.is_there(*id));
    for (id, state) in &look.troubled {
        all.entry(*id).or_insert_with(|| Told::new(state.path.clone(), now));
    }
    let changed = all.iter_mut().filter_map(|(id, told)| {
        let (grade, patience, reason) = match look.troubled.get(id) {
            Some(state) => (state.grade, state.patience, state.reason.as_ref()),
            None => (Grade::Ok, Duration::ZERO, None),
        };
        let previous = told.observe(grade, now, patience)?;
        Some(Changed { id: *id, path: told.path.clone(), grade, previous, reason: reason.cloned() })
    });
    changed.collect()
}

/// It was told about one of those who were to be told about.
pub(super) fn tell(all: &mut AllTold, id: u64, grade: Grade) {
    if let Some(told) = all.get_mut(&id) {
        told.tell(grade);
    }
}

#[cfg(test)]
mod tests {
    use super::super::looks::State;
    use super::*;

    #[test]
    fn of_many_only_those_are_remembered_that_are_not_well() {
        let now = Instant::now();
        let path: Arc<Path> = Path::new("a").into();
        let like = |troubled: &[(u64, Grade)], without: Option<u64>| {
            let state = |grade| State { grade, path: path.clone(), reason: None, patience: Duration::ZERO };
            let troubled = troubled.iter().map(|(id, grade)| (*id, state(*grade))).collect();
            Look { troubled, there: (0..1000).filter(|id| Some(*id) != without).collect(), ..Look::default() }
        };
        let told = |all: &mut AllTold, look: &Look| {
            let changed = observe(all, look, now);
            changed.iter().map(|change| (change.id, change.previous, change.grade)).collect::<Vec<_>>()
        };
        let mut all = AllTold::new();
        assert_eq!((told(&mut all, &like(&[], None)), all.len()), (vec![], 0));
        let three = like(&[(3, Grade::Failed), (7, Grade::Degraded), (9, Grade::Failed)], None);
        let changed = [(3, Grade::Ok, Grade::Failed), (7, Grade::Ok, Grade::Degraded), (9, Grade::Ok, Grade::Failed)];
        assert_eq!(told(&mut all, &three), changed);
        assert_eq!(told(&mut all, &three), changed, "until it was told");
        tell(&mut all, 3, Grade::Failed);
        tell(&mut all, 7, Grade::Degraded);
        let well = like(&[], Some(7));
        let over = [(3, Grade::Failed, Grade::Ok)];
        assert_eq!(told(&mut all, &well), over, "what nobody was told is over untold, and 7 is gone");
        tell(&mut all, 3, Grade::Ok);
        assert_eq!((told(&mut all, &well), all.len()), (vec![], 0));
    }

    #[test]
    fn what_passes_by_itself_is_not_told() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let patience = Duration::from_secs(30);
        let mut told = Told::new(Path::new("a").into(), start);
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
