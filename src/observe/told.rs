//! Which changes of health are worth telling: those that are there to stay. Pure.

use std::time::{Duration, Instant};

use crate::health::Grade;

/// What somebody was told last about something, and what it is like since.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    last: Grade,
    now: Grade,
    since: Instant,
}

impl Told {
    /// Nobody was told anything: all is taken to be well.
    pub(super) fn new(now: Instant) -> Self {
        Self { last: Grade::Ok, now: Grade::Ok, since: now }
    }

    /// It is like this now. `Some`: somebody should be told that it is no longer as it was, and how it was.
    ///
    /// A failure is told at once, and so is its end. That something is degraded is
    /// told if it stays so for as long as the objective: most of that passes by itself.
    pub(super) fn observe(&mut self, grade: Grade, now: Instant, patience: Duration) -> Option<Grade> {
        if grade != self.now {
            (self.now, self.since) = (grade, now);
        }
        let stays = grade != Grade::Degraded || now.saturating_duration_since(self.since) >= patience;
        (stays && self.last != grade).then_some(self.last)
    }

    /// It was told.
    pub(super) fn tell(&mut self, grade: Grade) {
        self.last = grade;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
