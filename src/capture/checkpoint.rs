//! When to checkpoint. The guard keeps the application's own checkpoints from
//! finishing, so the size of the log is ours to bound.
//!
//! Decisions only: how a checkpoint is carried out is in `live`.

use std::time::{Duration, Instant};

/// What the user set, and the few numbers that follow from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Frames not yet in the database that make a checkpoint due at once
    /// (`min-checkpoint-page-count`).
    pub min_frames: u32,
    /// A dirty log is checkpointed at least this often (`checkpoint-interval`); zero = never for its age.
    pub interval: Duration,
    /// Log file size in frames from which it is cut even while busy
    /// (`truncate-page-n`); `None` = never.
    pub truncate_frames: Option<u32>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { min_frames: 1000, interval: Duration::from_secs(60), truncate_frames: Some(121_359) }
    }
}

/// Without a commit for this long the log is quiet: the cheapest moment to checkpoint, as nobody waits for a lock.
const QUIET: Duration = Duration::from_secs(2);
/// Without a commit for this long a log file that outgrew its use is cut.
const LONG_QUIET: Duration = Duration::from_secs(15);
/// Two checkpoints of a busy log are at least this far apart, so that flushing the disk does not become the main work...
const SPACING: Duration = Duration::from_millis(400);
/// ...unless this many times the trigger has piled up meanwhile.
const PILE: u32 = 4;
/// While a log as long as this many triggers is copied, writers are slowed down, and more the longer it is: as long as
/// they were faster than the disk it would grow. By default it begins at 8 MB, for a log that should not reach 64.
const LONG: [u32; 3] = [2, 6, 12];
/// While a checkpoint waits for its distance to the last one, the log is looked at this often: a fast writer needs
/// only a tenth of a second for a pile.
const CLOSE: Duration = Duration::from_millis(15);
/// A log file shorter than this many triggers is not worth cutting: the application would only grow it again.
const KEEP: u32 = 4;
/// First wait after an attempt that moved nothing; doubles up to `FUTILE_MAX`.
const FUTILE_MIN: Duration = Duration::from_secs(10);
/// A reader that holds the log back is looked at again at least this often.
const FUTILE_MAX: Duration = Duration::from_secs(60);

impl Policy {
    /// How much writers must be slowed down while a log of this length is copied.
    pub fn brake(&self, frames: u32) -> Brake {
        let triggers = frames / self.min_frames.max(1);
        match LONG.map(|long| triggers >= long) {
            [false, ..] => Brake::Off,
            [_, false, _] => Brake::Gentle,
            [.., false] => Brake::Firm,
            [.., true] => Brake::Hard,
        }
    }
}

/// How much to slow writers down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Brake {
    /// Not at all.
    Off,
    /// To a fraction of the speed of memory.
    Gentle,
    /// To about the speed of a disk.
    Firm,
    /// To well below that.
    Hard,
}

/// What is known about the log.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// Frames committed and not yet in the database.
    pub unbackfilled: u32,
    /// All of the log is in the database, and our guard is on a slot that keeps it from starting over all the same.
    pub held: bool,
    /// Length of the log file, in frames.
    pub file_frames: u32,
    /// When the newest commit was noticed; `None` when none was since attaching.
    pub last_commit: Option<Instant>,
    /// When the first commit after the last complete checkpoint was noticed.
    pub dirty_since: Option<Instant>,
    /// The last attempt.
    pub last_attempt: Option<Instant>,
    /// Attempts in a row that moved nothing.
    pub futile: u32,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing; look again at the given time, or only when something happens.
    No(Option<Instant>),
    /// Copy the log into the database and try to seal it.
    Checkpoint,
    /// The same, and then cut the file.
    Shrink,
}

/// Whether a checkpoint is due.
pub fn due(policy: &Policy, now: Instant, log: &Situation) -> Due {
    let oversize = log.file_frames > policy.min_frames.saturating_mul(KEEP);
    if log.unbackfilled == 0 && !oversize && !log.held {
        return Due::No(None);
    }
    if let (Some(last), true) = (log.last_attempt, log.futile > 0) {
        let wait = FUTILE_MIN.saturating_mul(1 << (log.futile - 1).min(8)).min(FUTILE_MAX);
        if now < last + wait {
            return Due::No(Some(last + wait));
        }
    }
    let quiet_for = log.last_commit.map(|at| now.saturating_duration_since(at));
    let quiet = |span: Duration| quiet_for.is_none_or(|q| q >= span);
    let huge = policy.truncate_frames.is_some_and(|limit| log.file_frames > limit);
    if huge || (oversize && quiet(LONG_QUIET)) {
        return Due::Shrink;
    }
    let mut next = oversize.then(|| log.last_commit.map(|at| at + LONG_QUIET)).flatten();
    if log.unbackfilled == 0 && !log.held {
        return Due::No(next);
    }
    if log.unbackfilled >= policy.min_frames {
        match log.last_attempt.map(|at| at + SPACING) {
            Some(spaced) if now < spaced && log.unbackfilled < policy.min_frames.saturating_mul(PILE) => {
                return Due::No(Some(spaced.min(now + CLOSE)));
            }
            _ => return Due::Checkpoint,
        }
    }
    if quiet(QUIET) {
        return Due::Checkpoint;
    }
    let aged = log.dirty_since.filter(|_| !policy.interval.is_zero()).map(|at| at + policy.interval);
    if aged.is_some_and(|at| now >= at) {
        return Due::Checkpoint;
    }
    for candidate in [log.last_commit.map(|at| at + QUIET), aged].into_iter().flatten() {
        next = Some(next.map_or(candidate, |n| n.min(candidate)));
    }
    Due::No(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn log(unbackfilled: u32) -> Situation {
        Situation {
            unbackfilled,
            held: false,
            file_frames: unbackfilled,
            last_commit: None,
            dirty_since: None,
            last_attempt: None,
            futile: 0,
        }
    }

    #[test]
    fn an_idle_clean_log_needs_nothing_and_no_timer() {
        assert_eq!(due(&Policy::default(), Instant::now(), &log(0)), Due::No(None));
    }

    #[test]
    fn a_full_log_is_checkpointed_while_busy_but_spaced() {
        let now = Instant::now();
        let busy = Situation { last_commit: Some(now), dirty_since: Some(now), ..log(1000) };
        assert_eq!(due(&Policy::default(), now, &busy), Due::Checkpoint);
        let just = Situation { last_attempt: Some(now), ..busy };
        assert_eq!(due(&Policy::default(), now, &just), Due::No(Some(now + CLOSE)));
        let later = now + SPACING - CLOSE / 2;
        assert_eq!(due(&Policy::default(), later, &just), Due::No(Some(now + SPACING)));
        let piled = Situation { unbackfilled: 4000, ..just };
        assert_eq!(due(&Policy::default(), now, &piled), Due::Checkpoint);
    }

    #[test]
    fn a_few_frames_wait_for_quiet_or_for_age() {
        let start = Instant::now();
        let now = start + seconds(59);
        let busy = Situation { last_commit: Some(now), dirty_since: Some(start), ..log(5) };
        assert_eq!(due(&Policy::default(), now, &busy), Due::No(Some(start + seconds(60))));
        assert_eq!(due(&Policy::default(), start + seconds(60), &busy), Due::Checkpoint);
        let quiet = Situation { last_commit: Some(start), ..busy };
        assert_eq!(due(&Policy::default(), start + QUIET, &quiet), Due::Checkpoint);
        let never_aged = Policy { interval: Duration::ZERO, ..Policy::default() };
        assert_eq!(due(&never_aged, now, &busy), Due::No(Some(now + QUIET)));
    }

    /// F47: a log that only our guard keeps from starting over, which somebody may be waiting for.
    #[test]
    fn a_copied_log_that_we_hold_is_let_go_of_once_it_is_quiet() {
        let start = Instant::now();
        let held = Situation { held: true, file_frames: 9, last_commit: Some(start), ..log(0) };
        assert_eq!(due(&Policy::default(), start, &held), Due::No(Some(start + QUIET)));
        assert_eq!(due(&Policy::default(), start + QUIET, &held), Due::Checkpoint);
    }

    /// F32: a reader that pins the log costs at most three attempts a minute.
    #[test]
    fn futile_attempts_become_rare() {
        let start = Instant::now();
        let mut attempts = Vec::new();
        let mut pinned = log(2000);
        for second in 0..=60 {
            let now = start + seconds(second);
            if due(&Policy::default(), now, &pinned) == Due::Checkpoint {
                attempts.push(second);
                pinned.last_attempt = Some(now);
                pinned.futile += 1;
            }
        }
        assert_eq!(attempts, [0, 10, 30]);
    }

    /// F41: a long file with few frames in it is not a reason to checkpoint a busy log.
    #[test]
    fn stale_frames_behind_the_end_do_not_count() {
        let now = Instant::now();
        let restarted = Situation { file_frames: 25_000, last_commit: Some(now), dirty_since: Some(now), ..log(3) };
        assert_eq!(due(&Policy::default(), now, &restarted), Due::No(Some(now + QUIET)));
    }

    #[test]
    fn the_longer_the_log_the_harder_the_brake() {
        let policy = Policy::default();
        let at = |frames| policy.brake(frames);
        assert_eq!([at(0), at(1999)], [Brake::Off; 2]);
        assert_eq!([at(2000), at(5999)], [Brake::Gentle; 2]);
        assert_eq!([at(6000), at(11_999)], [Brake::Firm; 2]);
        assert_eq!([at(12_000), at(u32::MAX)], [Brake::Hard; 2]);
        assert_eq!(Policy { min_frames: 0, ..policy }.brake(12), Brake::Hard);
    }

    /// F35: after a burst and a quiet spell the file is cut.
    #[test]
    fn an_oversized_file_is_cut_once_it_is_quiet() {
        let start = Instant::now();
        let burst = Situation { file_frames: 25_000, last_commit: Some(start), ..log(0) };
        assert_eq!(due(&Policy::default(), start + QUIET, &burst), Due::No(Some(start + LONG_QUIET)));
        assert_eq!(due(&Policy::default(), start + LONG_QUIET, &burst), Due::Shrink);
        let small = Situation { file_frames: 4000, ..burst };
        assert_eq!(due(&Policy::default(), start + LONG_QUIET, &small), Due::No(None));
    }

    #[test]
    fn a_huge_file_is_cut_even_while_busy_unless_told_never() {
        let now = Instant::now();
        let huge = Situation { file_frames: 200_000, last_commit: Some(now), ..log(10) };
        assert_eq!(due(&Policy::default(), now, &huge), Due::Shrink);
        let never = Policy { truncate_frames: None, ..Policy::default() };
        assert_eq!(due(&never, now, &huge), Due::No(Some(now + QUIET)));
    }
}
