//! The verdict about one database. Pure.

use std::time::{Duration, Instant};

use super::{Cause, Grade, Objective, Verdict};
use crate::status::{DatabaseFacts, Health, ReplicaFacts};

/// Three looks that did not happen are no accident...
const LOOKS: u32 = 3;
/// ...but a moment in which the machine does something else is none either.
const UNWATCHED: Duration = Duration::from_secs(15);

/// What is to be thought of one database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Everything together: the worst.
    pub overall: Verdict,
    /// What happens on this machine.
    pub local: Verdict,
    /// Each replica, in the order of the configuration.
    pub replicas: Vec<Verdict>,
}

/// Judges one database.
pub fn judge(facts: &DatabaseFacts, now: Instant, objective: Objective) -> Judged {
    let local = local(facts, now, objective);
    let stopped = facts.health == Health::Stopped;
    let replicas: Vec<_> = facts.replicas.iter().map(|facts| replica(facts, stopped, now, objective)).collect();
    let mut overall = local.clone();
    for (facts, verdict) in facts.replicas.iter().zip(&replicas) {
        for reason in &verdict.reasons {
            overall.add(reason.grade, reason.cause, format!("replica {}: {}", facts.name, reason.text));
        }
    }
    Judged { overall, local, replicas }
}

/// How long the oldest commit waits that is not on every replica; zero if all are.
/// A replica that was taken over gets nothing any more and does not count.
pub fn lag(facts: &DatabaseFacts, now: Instant) -> Duration {
    let uncaptured = facts.seen.and_then(|seen| seen.uncaptured);
    let waiting = facts.replicas.iter().filter(|replica| !replica.fenced).filter_map(|replica| replica.waiting);
    waiting.chain(uncaptured).map(|since| age(since, now)).max().unwrap_or_default()
}

/// How long a database with this verdict, if it is well and followed, stays so unless something new is told about it,
/// which is as long as it may be that nobody looks at it. `None`: it is not, or something waits.
pub fn steady_until(facts: &DatabaseFacts, verdict: &Verdict, objective: Objective) -> Option<Instant> {
    let well = facts.health == Health::Live && verdict.grade == Grade::Ok;
    let quiet = facts.seen.is_none_or(|seen| seen.uncaptured.is_none())
        && facts.replicas.iter().all(|replica| replica.waiting.is_none());
    let looked = facts.looked.or(facts.since).filter(|_| well && quiet)?;
    looked.checked_add(unwatched(facts, objective))
}

/// How long it may be that nobody looks at a log.
fn unwatched(facts: &DatabaseFacts, objective: Objective) -> Duration {
    objective.of(facts.interval).max(UNWATCHED).max(facts.poll * LOOKS)
}

fn local(facts: &DatabaseFacts, now: Instant, objective: Objective) -> Verdict {
    let mut verdict = Verdict::default();
    let unwatched = unwatched(facts, objective);
    let objective = objective.of(facts.interval);
    let state_age = facts.since.map_or(Duration::ZERO, |since| age(since, now));
    let grade_after = |age: Duration| if age > objective { Grade::Failed } else { Grade::Degraded };
    match &facts.health {
        Health::Starting => {
            let text = format!("not taken up yet{}", for_so_long(state_age));
            verdict.add(grade_after(state_age), Cause::Starting, text);
        }
        // It was there before: that is another matter than an application that has not started yet.
        Health::Waiting(reason) if facts.captured.is_some() => {
            verdict.add(grade_after(state_age), Cause::Absent, reason.clone());
        }
        Health::Waiting(reason) => verdict.add(Grade::Degraded, Cause::Absent, reason.clone()),
        Health::Broken(reason) => {
            let cause = if facts.disk_full { Cause::DiskFull } else { Cause::Broken };
            verdict.add(grade_after(state_age), cause, format!("{reason}{}", for_so_long(state_age)));
        }
        // Somebody wanted it so, and may have forgotten.
        Health::Stopped => verdict.add(Grade::Degraded, Cause::Stopped, "replication was stopped by hand".to_owned()),
        Health::Live => {
            let looked = facts.looked.or(facts.since).map_or(Duration::ZERO, |at| age(at, now));
            if looked > unwatched {
                let text = format!("nobody has looked at its log for {}", show(looked));
                verdict.add(Grade::Failed, Cause::Unwatched, text);
            }
            if facts.seen.is_some_and(|seen| !seen.guard) {
                verdict.add(
                    Grade::Failed,
                    Cause::Guard,
                    "the guard is not held: the log can restart unseen".to_owned(),
                );
            }
            let uncaptured = facts.seen.and_then(|seen| seen.uncaptured).map(|since| age(since, now));
            if let Some(age) = uncaptured.filter(|age| *age > objective) {
                verdict.add(Grade::Failed, Cause::Uncaptured, format!("commits are not captured for {}", show(age)));
            }
        }
    }
    if let Some(why) = &facts.lost_sight {
        verdict.add(Grade::Failed, Cause::LostSight, why.clone());
    }
    if facts.replicas.is_empty() {
        verdict.add(
            Grade::Degraded,
            Cause::NoReplica,
            "it has no replica: commits are only on this machine".to_owned(),
        );
    }
    verdict
}

fn replica(facts: &ReplicaFacts, stopped: bool, now: Instant, objective: Objective) -> Verdict {
    let mut verdict = Verdict::default();
    let objective = objective.of(facts.interval);
    if facts.fenced {
        let why = facts.error.as_deref().unwrap_or("another writer has taken over");
        verdict.add(Grade::Failed, Cause::Fenced, why.to_owned());
    } else if !stopped {
        let waiting = facts.waiting.map(|since| age(since, now)).filter(|age| *age > objective);
        let what = if facts.batch.is_none() { "it is not known to have anything captured" } else { "commits wait" };
        match (waiting, &facts.error) {
            (Some(age), Some(error)) => {
                verdict.add(Grade::Failed, Cause::Behind, format!("{what} for {}: {error}", show(age)));
            }
            (Some(age), None) => {
                verdict.add(
                    Grade::Failed,
                    Cause::Behind,
                    format!("{what} for {}: no request has ended yet", show(age)),
                );
            }
            (None, Some(error)) => {
                let failing = facts.error_since.map_or(Duration::ZERO, |since| age(since, now));
                let grade = if failing > objective { Grade::Failed } else { Grade::Degraded };
                verdict.add(grade, Cause::Storage, error.clone());
            }
            (None, None) => {}
        }
    }
    if let Some(error) = &facts.upkeep_error {
        let failing = facts.upkeep_since.map_or(Duration::ZERO, |since| age(since, now));
        let grade = if failing > objective { Grade::Failed } else { Grade::Degraded };
        verdict.add(grade, Cause::Upkeep, format!("merging and deleting segments fails: {error}"));
    }
    if let Some(error) = facts.drill.as_ref().and_then(|drill| drill.error.as_ref()) {
        verdict.add(Grade::Failed, Cause::Drill, format!("a rehearsed restore failed: {error}"));
    }
    verdict
}

fn age(since: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(since)
}

fn for_so_long(age: Duration) -> String {
    if age < Duration::from_secs(1) { String::new() } else { format!(" ({})", show(age)) }
}

/// Whole seconds, minutes or hours: a reason is read by people.
fn show(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Captured, DrillFacts, Seen};
    use crate::types::{Generation, Timestamp, Txid};

    const OBJECTIVE: Duration = Duration::from_secs(10);

    fn healthy(now: Instant) -> DatabaseFacts {
        let generation = Generation::new(1).unwrap();
        let replica = ReplicaFacts {
            name: "s3".to_owned(),
            txid: Txid::new(7),
            batch: Some(3),
            interval: Duration::from_secs(1),
            ..ReplicaFacts::default()
        };
        DatabaseFacts {
            health: Health::Live,
            captured: Some(Captured { generation, batch: 3, timestamp: Timestamp::from_millis(0) }),
            replicas: vec![replica.clone(), ReplicaFacts { name: "disk".to_owned(), ..replica }],
            interval: Duration::from_secs(1),
            since: Some(now - Duration::from_secs(3600)),
            looked: Some(now),
            seen: Some(Seen { frames: 4, bytes: 16384, uncaptured: None, guard: true }),
            ..DatabaseFacts::default()
        }
    }

    type Change = fn(&mut DatabaseFacts, Instant);

    /// F87: each disagreement, seen `age` after it began.
    const DISAGREEMENTS: [(&str, Change, Cause, bool); 14] = [
        ("not taken up", |f, t| (f.health, f.since) = (Health::Starting, Some(t)), Cause::Starting, true),
        ("broken", |f, t| (f.health, f.since) = (Health::Broken("x".into()), Some(t)), Cause::Broken, true),
        ("vanished", |f, t| (f.health, f.since) = (Health::Waiting("x".into()), Some(t)), Cause::Absent, true),
        (
            "disk full",
            |f, t| (f.health, f.since, f.disk_full) = (Health::Broken("x".into()), Some(t), true),
            Cause::DiskFull,
            true,
        ),
        ("frozen", |f, t| f.looked = Some(t), Cause::Unwatched, false),
        ("uncaptured", |f, t| f.seen.as_mut().unwrap().uncaptured = Some(t), Cause::Uncaptured, false),
        ("behind", |f, t| (f.replicas[1].batch, f.replicas[1].waiting) = (Some(2), Some(t)), Cause::Behind, false),
        ("never there", |f, t| (f.replicas[1].batch, f.replicas[1].waiting) = (None, Some(t)), Cause::Behind, false),
        (
            "refused",
            |f, t| (f.replicas[1].error, f.replicas[1].error_since) = (Some("x".into()), Some(t)),
            Cause::Storage,
            true,
        ),
        (
            "upkeep",
            |f, t| (f.replicas[0].upkeep_error, f.replicas[0].upkeep_since) = (Some("x".into()), Some(t)),
            Cause::Upkeep,
            true,
        ),
        ("fenced", |f, _| f.replicas[0].fenced = true, Cause::Fenced, true),
        ("lost sight", |f, _| f.lost_sight = Some("x".into()), Cause::LostSight, true),
        ("no guard", |f, _| f.seen.as_mut().unwrap().guard = false, Cause::Guard, true),
        (
            "not restorable",
            |f, _| f.replicas[0].drill = Some(DrillFacts { error: Some("x".into()), ..DrillFacts::default() }.into()),
            Cause::Drill,
            true,
        ),
    ];

    /// F87: within twice the objective whatever is wrong has failed, and when it is over all is well again.
    #[test]
    fn every_disagreement_is_a_failure_within_twice_the_objective() {
        let start = Instant::now();
        let objective = Objective::new(Some(OBJECTIVE));
        for (name, change, cause, at_once) in DISAGREEMENTS {
            let at = |age: Duration| {
                let now = start + Duration::from_secs(7200) + age;
                let mut facts = healthy(now);
                change(&mut facts, now - age);
                (judge(&facts, now, objective), judge(&healthy(now), now, objective))
            };
            let (soon, _) = at(OBJECTIVE / 4);
            assert_eq!(soon.overall.grade > Grade::Ok, at_once, "{name}: {soon:?}");
            let (late, well) = at(OBJECTIVE * 2);
            assert_eq!(late.overall.grade, Grade::Failed, "{name}: {late:?}");
            assert_eq!(late.overall.reasons[0].cause, cause, "{name}");
            assert_eq!(well, Judged { replicas: vec![Verdict::default(); 2], ..Judged::default() }, "{name}");
        }
    }

    /// Who is taken to be well until then, unless something is told, is well until then, with nothing waiting.
    #[test]
    fn whatever_time_alone_makes_worse_is_not_steady() {
        let start = Instant::now();
        let objective = Objective::new(Some(OBJECTIVE));
        let now = start + Duration::from_secs(7200);
        let none: fn(&mut DatabaseFacts, Instant) = |_, _| ();
        let rare: fn(&mut DatabaseFacts, Instant) = |facts, _| facts.poll = Duration::from_secs(60);
        let changes = DISAGREEMENTS.map(|(name, change, ..)| (name, change));
        let mut steady = Vec::new();
        for (name, change) in changes.into_iter().chain([("well", none), ("left alone", rare)]) {
            for age in [0, 1, 9, 11, 30, 200].map(Duration::from_secs) {
                let mut facts = healthy(now);
                change(&mut facts, now - age);
                let verdict = judge(&facts, now, objective).overall;
                let Some(until) = steady_until(&facts, &verdict, objective) else { continue };
                let grade = |at| judge(&facts, at, objective).overall.grade;
                for at in [now, now + (until - now) / 2, until] {
                    assert_eq!((grade(at), lag(&facts, at)), (Grade::Ok, Duration::ZERO), "{name}");
                }
                assert_eq!(grade(until + Duration::from_millis(1)), Grade::Failed, "{name}");
                steady.push((name, (until - now).as_secs()));
            }
        }
        steady.dedup();
        assert_eq!(
            steady,
            [("frozen", 15), ("frozen", 14), ("frozen", 6), ("frozen", 4), ("well", 15), ("left alone", 180)]
        );
    }

    #[test]
    fn one_bad_replica_does_not_speak_for_the_others() {
        let now = Instant::now() + Duration::from_secs(7200);
        let mut facts = healthy(now);
        (facts.replicas[1].batch, facts.replicas[1].waiting) = (Some(1), Some(now - Duration::from_secs(600)));
        let judged = judge(&facts, now, Objective::default());
        assert_eq!((judged.local.grade, judged.replicas[0].grade), (Grade::Ok, Grade::Ok));
        let reason = judged.overall.reason().unwrap();
        assert!(reason.starts_with("replica disk: commits wait for 10 min"), "{reason}");
        assert_eq!(lag(&facts, now), Duration::from_secs(600));
    }

    #[test]
    fn an_application_that_has_not_started_yet_is_no_failure() {
        let now = Instant::now() + Duration::from_secs(7200);
        let since = Some(now - Duration::from_secs(3600));
        let facts = DatabaseFacts { health: Health::Waiting("x".into()), captured: None, since, ..healthy(now) };
        assert_eq!(judge(&facts, now, Objective::default()).overall.grade, Grade::Degraded);
    }

    /// F110: one of thousands, and one that is left alone, is not looked at every five seconds.
    #[test]
    fn who_is_looked_at_rarely_is_unwatched_later() {
        let now = Instant::now() + Duration::from_secs(7200);
        let grade = |poll, ago| {
            let looked = Some(now - Duration::from_secs(ago));
            let facts = DatabaseFacts { looked, poll: Duration::from_secs(poll), ..healthy(now) };
            judge(&facts, now, Objective::default()).overall.grade
        };
        for (poll, expected) in [(60, 180), (50, 150), (5, 30)] {
            assert_eq!(grade(poll, expected), Grade::Ok, "{poll}");
            assert_eq!(grade(poll, expected + 1), Grade::Failed, "{poll}");
        }
    }

    #[test]
    fn a_database_that_goes_nowhere_is_not_well() {
        let now = Instant::now() + Duration::from_secs(7200);
        let judged = judge(&DatabaseFacts { replicas: vec![], ..healthy(now) }, now, Objective::default());
        assert_eq!(judged.overall.reasons[0].cause, Cause::NoReplica);
    }
}
