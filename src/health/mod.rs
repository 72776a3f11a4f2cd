//! Whether one can sleep: from what is known now to a verdict with its reasons.
//!
//! Always true: what the log shows, what is captured and what each replica has
//! confirmed agree, or the verdict is not `Ok`. A disagreement that is older than
//! the objective is a failure, whatever the cause and also if nobody reported one.
//! So is silence: a log that nobody has looked at for that long.
//!
//! Values only. The same verdict is shown by every door: the log, metrics, the
//! status command, the page, the heartbeat, the webhook and `check`.

mod judge;

use std::fmt;
use std::time::Duration;

use serde::Serialize;

pub use judge::{Judged, judge, lag, steady_until};

/// How well something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    #[default]
    Ok,
    /// Something is wrong, or not yet right, and not for long; or it concerns no commit.
    Degraded,
    /// Somebody should look.
    Failed,
}

impl Grade {
    /// All of them, best first.
    pub const ALL: [Self; 3] = [Self::Ok, Self::Degraded, Self::Failed];

    /// As everybody shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// There is no database at all.
    NoDatabase,
    /// The database has no replica.
    NoReplica,
    /// It was not taken up yet.
    Starting,
    /// There is no database file, or an empty one.
    Absent,
    /// Somebody has stopped it.
    Stopped,
    /// It cannot be followed.
    Broken,
    /// This machine's disk is full.
    DiskFull,
    /// Nobody has looked at its log.
    Unwatched,
    /// The guard is not held.
    Guard,
    /// Files that an application may still use are no longer there to be followed.
    LostSight,
    /// Commits are not captured.
    Uncaptured,
    /// Captured commits are not on a replica.
    Behind,
    /// Requests to a replica fail.
    Storage,
    /// Another writer has taken a replica over.
    Fenced,
    /// Merging or deleting segments fails.
    Upkeep,
    /// A rehearsal of a restore failed.
    Drill,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// How bad it is.
    pub grade: Grade,
    /// What kind of thing it is.
    pub cause: Cause,
    /// In words.
    pub text: String,
}

/// How well something is, and why not better.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The worst of the reasons.
    pub grade: Grade,
    /// Worst first; none if all is well.
    pub reasons: Vec<Reason>,
}

impl Verdict {
    fn add(&mut self, grade: Grade, cause: Cause, text: String) {
        self.grade = self.grade.max(grade);
        self.reasons.push(Reason { grade, cause, text });
        self.reasons.sort_by_key(|reason| std::cmp::Reverse(reason.grade));
    }

    /// The first reason in words.
    pub fn reason(&self) -> Option<&str> {
        self.reasons.first().map(|reason| reason.text.as_str())
    }

    /// The verdict about a program without databases.
    pub fn nothing_to_do() -> Self {
        let mut verdict = Self::default();
        verdict.add(Grade::Degraded, Cause::NoDatabase, "no database is replicated".to_owned());
        verdict
    }
}

/// How old a disagreement may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Objective(Option<Duration>);

/// The objective, unless configured, or five intervals if that is more.
const DEFAULT: Duration = Duration::from_secs(30);
/// Nothing can be expected sooner than this many intervals after a commit.
const FEWEST_INTERVALS: u32 = 2;

impl Objective {
    /// `None`: the default, 30 seconds or five intervals.
    pub fn new(configured: Option<Duration>) -> Self {
        Self(configured)
    }

    /// For something that happens once per interval.
    pub fn of(self, interval: Duration) -> Duration {
        match self.0 {
            Some(configured) => configured.max(interval.saturating_mul(FEWEST_INTERVALS)),
            None => DEFAULT.max(interval.saturating_mul(5)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_reason_comes_first_and_decides() {
        let mut verdict = Verdict::default();
        verdict.add(Grade::Degraded, Cause::Upkeep, "a".to_owned());
        verdict.add(Grade::Failed, Cause::Behind, "b".to_owned());
        verdict.add(Grade::Degraded, Cause::Storage, "c".to_owned());
        assert_eq!((verdict.grade, verdict.reason()), (Grade::Failed, Some("b")));
    }

    #[test]
    fn an_objective_leaves_room_for_the_interval() {
        let seconds = Duration::from_secs;
        assert_eq!(Objective::default().of(seconds(1)), seconds(30));
        assert_eq!(Objective::default().of(seconds(60)), seconds(300));
        assert_eq!(Objective::new(Some(seconds(10))).of(seconds(1)), seconds(10));
        assert_eq!(Objective::new(Some(seconds(10))).of(seconds(60)), seconds(120));
    }
}
