//! From what was observed to what it means. Pure.

use super::{Finding, Verdict};
use crate::storage::ErrorKind;
use crate::types::Timestamp;

/// How one request went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Step<T> {
    /// Not tried, because something before it failed.
    #[default]
    Skipped,
    /// It did what it was asked to; this came of it.
    Done(T),
    /// It did not.
    Failed {
        /// What to do about it.
        kind: ErrorKind,
        /// The storage's words.
        reason: String,
    },
}

impl<T> Step<T> {
    /// Whether it failed in this way.
    pub fn failed_as(&self, wanted: ErrorKind) -> bool {
        matches!(self, Self::Failed { kind, .. } if *kind == wanted)
    }
}

/// What a listing said about an object that had just been written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its length; `None` if it was not listed.
    pub size: Option<u64>,
    /// The time it was listed with.
    pub modified: Option<Timestamp>,
}

/// Everything that was observed, in the order in which it was tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Settings say that the credentials may create and read, and neither list nor remove.
    pub create_only: bool,
    /// Listing the place.
    pub list: Step<()>,
    /// Creating an object.
    pub create: Step<()>,
    /// The clock here before and after that.
    pub clock: Option<(Timestamp, Timestamp)>,
    /// Creating another one under the same name: should fail with `Exists`.
    pub again: Step<()>,
    /// Reading it: whether it was the first one, byte for byte.
    pub read: Step<bool>,
    /// Reading some bytes from its middle: whether they were these.
    pub range: Step<bool>,
    /// Listing it.
    pub seen: Step<Seen>,
    /// Its length.
    pub size: u64,
    /// Reading an object that never was: should fail with `Missing`.
    pub absent: Step<()>,
    /// Several creating one name at a time: how many were told that they had.
    pub race: Step<usize>,
    /// Storing an object with a time of its own, and asking for the time.
    pub stamp: Step<Stamp>,
    /// Creating an object in several parts.
    pub parts: Step<()>,
    /// Creating another one under the same name: should fail with `Exists`.
    pub parts_again: Step<()>,
    /// Removing everything.
    pub delete: Step<()>,
    /// Reading it after that: should fail with `Missing`.
    pub gone: Step<()>,
    /// What could not be removed.
    pub left: Vec<String>,
}

/// Where the time of an object is found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// Listings show it.
    Listed,
    /// It is beside the object.
    Kept,
    /// Nowhere.
    Lost,
}

/// A clock that is off by more is worth a word.
const NOTABLE_SKEW_MS: u64 = 60_000;

/// S3 refuses requests that are signed further from its own time.
const REFUSED_SKEW_MS: u64 = 15 * 60_000;

/// What the facts mean, one finding for each check.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![list(facts), create(facts), condition("conditions", &facts.again)];
    findings.extend(race(facts));
    if facts.parts != Step::Skipped {
        let created = needed("multipart", &facts.parts, "objects in several parts are stored", "");
        findings.push(created);
        findings.push(condition("multipart-conditions", &facts.parts_again));
    }
    findings.push(same("read", &facts.read, "an object is read back byte for byte"));
    findings.push(same("range", &facts.range, "a range of bytes is read"));
    findings.extend([absent(facts), listed(facts), stamp(facts), clock(facts), delete(facts)]);
    findings
}

fn skipped(check: &'static str) -> Finding {
    Finding::new(check, Verdict::Skipped, "not tried: what comes before it failed")
}

fn needed(check: &'static str, step: &Step<()>, fine: &str, advice: &str) -> Finding {
    match step {
        Step::Skipped => skipped(check),
        Step::Done(()) => Finding::new(check, Verdict::Ok, fine),
        Step::Failed { reason, .. } => {
            let finding = Finding::new(check, Verdict::Failed, reason);
            if advice.is_empty() { finding } else { finding.advise(advice) }
        }
    }
}

fn list(facts: &Facts) -> Finding {
    match &facts.list {
        Step::Failed { kind: ErrorKind::Refused, reason } if facts.create_only => {
            Finding::new("list", Verdict::Warning, reason).advise(
                "replicating works, because create-only is set and this machine remembers where the replica ends; to \
                 restore, to look at the replica and to go on from another machine, use credentials that can list",
            )
        }
        list => {
            let advice = match &facts.create {
                Step::Done(()) => {
                    "allow listing (s3:ListBucket), or set create-only if these credentials are only to replicate"
                }
                _ => "brooklet lists a replica when it opens it: allow listing (s3:ListBucket)",
            };
            needed("list", list, "objects are listed", advice)
        }
    }
}

fn create(facts: &Facts) -> Finding {
    let advice = match &facts.list {
        // Then it is not about rights to write alone.
        Step::Failed { .. } => "see above",
        _ => {
            "to replicate, allow writing (s3:PutObject); if the service does not know If-None-Match, set \
             conditional-writes to false"
        }
    };
    needed("create", &facts.create, "objects are created", advice)
}

fn condition(check: &'static str, again: &Step<()>) -> Finding {
    match again {
        Step::Skipped => skipped(check),
        Step::Failed { kind: ErrorKind::Exists, .. } => {
            Finding::new(check, Verdict::Ok, "a second write to the same name is refused")
        }
        Step::Failed { reason, .. } => Finding::new(check, Verdict::Warning, reason.clone())
            .advise("a write on condition that the name is free failed: try again, or set conditional-writes to false"),
        Step::Done(()) => Finding::new(
            check,
            Verdict::Warning,
            "conditions are ignored: a second write to the same name replaced the first",
        )
        .advise(
            "two writers would overwrite each other: set conditional-writes to false, so that brooklet looks before it \
             writes, and make sure that only one writes here",
        ),
    }
}

fn race(facts: &Facts) -> Option<Finding> {
    let check = "race";
    // Where conditions are ignored, everybody wins and that has been said.
    if !facts.again.failed_as(ErrorKind::Exists) {
        return None;
    }
    Some(match &facts.race {
        Step::Skipped => skipped(check),
        Step::Done(1) => Finding::new(check, Verdict::Ok, "of several writers at a time exactly one gets the name"),
        Step::Done(winners) => Finding::new(
            check,
            Verdict::Warning,
            format!("{winners} writers at a time were told that they got the name"),
        )
        .advise("conditions are only checked one after the other: make sure that only one brooklet writes here"),
        Step::Failed { reason, .. } => Finding::new(check, Verdict::Warning, reason.clone()),
    })
}

fn same(check: &'static str, step: &Step<bool>, fine: &str) -> Finding {
    match step {
        Step::Skipped => skipped(check),
        Step::Done(true) => Finding::new(check, Verdict::Ok, fine),
        Step::Done(false) => Finding::new(check, Verdict::Failed, "other bytes came back than were written")
            .advise("do not use this storage"),
        Step::Failed { reason, .. } => Finding::new(check, Verdict::Failed, reason.clone())
            .advise("a backup that cannot be read is none: allow reading (s3:GetObject)"),
    }
}

fn absent(facts: &Facts) -> Finding {
    let check = "absent";
    match &facts.absent {
        Step::Skipped => skipped(check),
        Step::Failed { kind: ErrorKind::Missing, .. } => {
            Finding::new(check, Verdict::Ok, "an object that does not exist is told from one that may not be read")
        }
        Step::Failed { reason, .. } => Finding::new(check, Verdict::Warning, reason.clone())
            .advise("a missing object looks like a forbidden one: allow listing (s3:ListBucket)"),
        Step::Done(()) => Finding::new(check, Verdict::Failed, "an object that was never written could be read")
            .advise("do not use this storage"),
    }
}

fn listed(facts: &Facts) -> Finding {
    let check = "listed";
    match &facts.seen {
        Step::Skipped => skipped(check),
        Step::Done(Seen { size: Some(size), .. }) if *size == facts.size => {
            Finding::new(check, Verdict::Ok, "a new object is in the next listing")
        }
        Step::Done(Seen { size: Some(size), .. }) => {
            Finding::new(check, Verdict::Failed, format!("an object of {} bytes is listed with {size}", facts.size))
                .advise("do not use this storage")
        }
        Step::Done(Seen { size: None, .. }) => {
            Finding::new(check, Verdict::Warning, "a new object is not in the next listing")
                .advise("wait before restoring what was just written, or ask the provider for consistent listings")
        }
        Step::Failed { reason, .. } => Finding::new(check, Verdict::Failed, reason.clone()),
    }
}

fn stamp(facts: &Facts) -> Finding {
    let check = "metadata";
    match &facts.stamp {
        Step::Skipped => skipped(check),
        Step::Done(Stamp::Listed) => Finding::new(check, Verdict::Ok, "listings show the time of what was captured"),
        Step::Done(Stamp::Kept) => {
            Finding::new(check, Verdict::Ok, "the time of what was captured is kept beside the object")
        }
        Step::Done(Stamp::Lost) => Finding::new(
            check,
            Verdict::Warning,
            "metadata is not kept: brooklet needs none, since times are in the objects, but Litestream's \
             restore -timestamp does",
        ),
        Step::Failed { reason, .. } => Finding::new(check, Verdict::Failed, reason.clone()),
    }
}

fn clock(facts: &Facts) -> Finding {
    let check = "clock";
    let modified = match &facts.seen {
        Step::Done(Seen { modified, .. }) => *modified,
        _ => None,
    };
    let (Some(modified), Some((before, after))) = (modified, facts.clock) else { return skipped(check) };
    // Storages cut times to whole seconds.
    let (modified, before, after) = (modified.as_millis(), before.as_millis() - 1000, after.as_millis() + 1000);
    let skew = if modified < before { modified - before } else { (modified - after).max(0) };
    let (seconds, behind) = (skew.unsigned_abs().div_ceil(1000), if skew < 0 { "behind" } else { "ahead of" });
    let found = format!("the storage's clock is {seconds} seconds {behind} this machine's");
    match skew.unsigned_abs() {
        0..=NOTABLE_SKEW_MS => Finding::new(check, Verdict::Ok, "this machine and the storage agree on the time"),
        REFUSED_SKEW_MS.. => Finding::new(check, Verdict::Failed, found).advise("set this machine's clock"),
        _ => Finding::new(check, Verdict::Warning, found).advise("set this machine's clock"),
    }
}

fn delete(facts: &Facts) -> Finding {
    let check = "delete";
    let left = match facts.left.as_slice() {
        [] => String::new(),
        left => format!("; what was written for this check is still there: {}", left.join(", ")),
    };
    match &facts.delete {
        Step::Skipped => skipped(check),
        Step::Done(()) if facts.gone.failed_as(ErrorKind::Missing) || facts.gone == Step::Skipped => {
            Finding::new(check, Verdict::Ok, format!("objects are removed{left}"))
        }
        Step::Done(()) => Finding::new(check, Verdict::Warning, format!("a removed object could still be read{left}")),
        Step::Failed { kind: ErrorKind::Refused, reason } => {
            Finding::new(check, Verdict::Warning, format!("{reason}{left}")).advise(
                "these credentials can create and not remove, which protects the backups from whoever steals them: \
                 replicating and restoring work, old data has to be removed with other credentials",
            )
        }
        Step::Failed { reason, .. } => Finding::new(check, Verdict::Failed, format!("{reason}{left}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed<T>(kind: ErrorKind) -> Step<T> {
        Step::Failed { kind, reason: format!("{kind:?}") }
    }

    /// A storage without fault.
    fn healthy() -> Facts {
        let at = |ms: i64| Timestamp::from_millis(1_700_000_000_000 + ms);
        Facts {
            create_only: false,
            list: Step::Done(()),
            create: Step::Done(()),
            clock: Some((at(0), at(500))),
            again: failed(ErrorKind::Exists),
            read: Step::Done(true),
            range: Step::Done(true),
            seen: Step::Done(Seen { size: Some(10), modified: Some(at(-999)) }),
            size: 10,
            absent: failed(ErrorKind::Missing),
            race: Step::Done(1),
            stamp: Step::Done(Stamp::Listed),
            parts: Step::Done(()),
            parts_again: failed(ErrorKind::Exists),
            delete: Step::Done(()),
            gone: failed(ErrorKind::Missing),
            left: Vec::new(),
        }
    }

    /// Findings that are not as they should be.
    fn remarkable(facts: &Facts) -> Vec<(&'static str, Verdict)> {
        let findings = judge(facts).into_iter().filter(|finding| finding.result != Verdict::Ok);
        findings.map(|finding| (finding.check, finding.result)).collect()
    }

    #[test]
    fn a_storage_without_fault_has_nothing_to_remark() {
        assert_eq!(remarkable(&healthy()), []);
        let checks: Vec<_> = judge(&healthy()).iter().map(|finding| finding.check).collect();
        let expected = [
            "list",
            "create",
            "conditions",
            "race",
            "multipart",
            "multipart-conditions",
            "read",
            "range",
            "absent",
            "listed",
            "metadata",
            "clock",
            "delete",
        ];
        assert_eq!(checks, expected);
    }

    #[test]
    fn each_fault_is_told_by_its_own_check() {
        use ErrorKind::{Later, Refused};
        use Verdict::{Failed, Skipped, Warning};
        type Change = fn(&mut Facts);
        let cases: [(Change, &[(&str, Verdict)]); 21] = [
            (|f| f.list = failed(Refused), &[("list", Failed)]),
            (|f| (f.list, f.create_only) = (failed(Refused), true), &[("list", Warning)]),
            (|f| f.list = failed(Later), &[("list", Failed)]),
            (|f| f.create = failed(Refused), &[("create", Failed)]),
            (|f| f.again = Step::Done(()), &[("conditions", Warning)]),
            (|f| f.again = failed(Later), &[("conditions", Warning)]),
            (|f| f.race = Step::Done(2), &[("race", Warning)]),
            (|f| f.race = Step::Done(0), &[("race", Warning)]),
            (|f| f.parts = failed(Refused), &[("multipart", Failed)]),
            (|f| f.parts_again = Step::Done(()), &[("multipart-conditions", Warning)]),
            (|f| f.read = Step::Done(false), &[("read", Failed)]),
            (|f| f.read = failed(Refused), &[("read", Failed)]),
            (|f| f.range = Step::Done(false), &[("range", Failed)]),
            (|f| f.absent = failed(Refused), &[("absent", Warning)]),
            (|f| f.absent = Step::Done(()), &[("absent", Failed)]),
            (|f| f.size = 11, &[("listed", Failed)]),
            (|f| f.seen = Step::Done(Seen { size: None, modified: None }), &[("listed", Warning), ("clock", Skipped)]),
            (|f| f.stamp = Step::Done(Stamp::Lost), &[("metadata", Warning)]),
            (|f| f.delete = failed(Refused), &[("delete", Warning)]),
            (|f| f.delete = failed(Later), &[("delete", Failed)]),
            (|f| f.gone = Step::Done(()), &[("delete", Warning)]),
        ];
        for (at, (change, expected)) in cases.into_iter().enumerate() {
            let mut facts = healthy();
            change(&mut facts);
            assert_eq!(remarkable(&facts), expected, "case {at}");
        }
    }

    #[test]
    fn clocks_are_compared_with_what_a_storage_can_show() {
        let skewed = |ms: i64| {
            let mut facts = healthy();
            let modified = Some(Timestamp::from_millis(1_700_000_000_000 + ms));
            facts.seen = Step::Done(Seen { size: Some(10), modified });
            judge(&facts).into_iter().find(|finding| finding.check == "clock").unwrap()
        };
        assert_eq!(skewed(-61_000).result, Verdict::Ok);
        assert_eq!(skewed(61_500).result, Verdict::Ok);
        assert_eq!(skewed(-62_001).found, "the storage's clock is 62 seconds behind this machine's");
        assert_eq!(skewed(-62_001).result, Verdict::Warning);
        assert_eq!(skewed(122_000).found, "the storage's clock is 121 seconds ahead of this machine's");
        assert_eq!(skewed(-3_600_000).result, Verdict::Failed);
    }

    #[test]
    fn what_was_left_behind_is_named() {
        let facts = Facts { delete: failed(ErrorKind::Refused), left: vec!["a".into(), "b".into()], ..healthy() };
        let finding = judge(&facts).pop().unwrap();
        assert_eq!(finding.found, "Refused; what was written for this check is still there: a, b");
        assert!(finding.advice.unwrap().contains("can create and not remove"));
    }

    #[test]
    fn nothing_is_claimed_about_what_was_not_tried() {
        let facts = Facts { list: failed(ErrorKind::Refused), create: failed(ErrorKind::Refused), ..Facts::default() };
        let verdicts = judge(&facts).into_iter().skip(2).map(|finding| finding.result);
        assert!(verdicts.into_iter().all(|verdict| verdict == Verdict::Skipped));
    }
}
