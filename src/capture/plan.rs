//! Decides what a look at the wal-index means: nothing new, more frames of the
//! same run, a restart of the log that is proven harmless, or a break.
//!
//! Continuity is proven, never inferred from sizes, times or salts alone. Two
//! proofs exist: the running checksum at the cursor (checked frame by frame by
//! the scan that follows), and a *seal*: everything was captured and copied into
//! the database before our guard took slot 0, so the one restart that such a
//! guard allows cannot have dropped anything. Whatever is not proven is `Lost`,
//! and only a comparison with the page map can continue from there.

use super::state::Cursor;
use super::wal_index::View;
use crate::types::Salts;

/// The moment a guard was placed on reader slot 0: the log ended at `frame` of
/// `salts` and all of it had been copied into the database. While the guard
/// stays there, the database file cannot change and the log can restart at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// The run of frames at that moment.
    pub salts: Salts,
    /// Its last frame.
    pub frame: u32,
}

impl Frozen {
    /// Whether everything up to that moment is captured, which makes the next
    /// restart of the log harmless.
    pub fn seals(self, cursor: &Cursor) -> bool {
        (self.salts, self.frame) == (cursor.salts, cursor.frame)
    }
}

/// What to do about the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Everything committed is captured.
    Wait,
    /// Frames after the cursor up to and including `to` are new.
    Append {
        /// The last committed frame.
        to: u32,
    },
    /// A new run began after everything in the old one was captured: frames 1
    /// up to and including `to` are new.
    FollowRestart {
        /// The last committed frame of the new run.
        to: u32,
    },
    /// Continuity cannot be proven.
    Resync(Lost),
}

/// Why continuity cannot be proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The position of an earlier run is not known.
    #[error("the position in the write-ahead log is not known")]
    NoCursor,
    /// The log restarted, and nothing proves that it held no more than was captured.
    #[error("the write-ahead log was restarted while it was not watched")]
    UnseenRestart,
    /// The log is shorter than what was captured from it.
    #[error("the write-ahead log ends before the captured position")]
    Shrank,
    /// A frame at or after the cursor does not continue the checksum chain.
    #[error("the write-ahead log does not continue from the captured position")]
    ChainBroken,
    /// The database grew but some of the new pages are in no frame.
    #[error("the database grew by pages that are not in the write-ahead log")]
    GrowthHole,
    /// The log was restarted while its frames were being read.
    #[error("the write-ahead log was restarted while it was being read")]
    ChangedUnderRead,
    /// The database's content was put back to an earlier or other state.
    #[error("local segments after the recorded position have no position in the log")]
    AheadOfState,
}

/// What `view` means for a cursor, given the guard that has been held without
/// interruption since the cursor was last proven (`frozen` when it is on slot 0).
pub fn plan(cursor: &Cursor, frozen: Option<Frozen>, view: &View) -> Step {
    if view.salts == cursor.salts {
        return match view.mx_frame.cmp(&cursor.frame) {
            std::cmp::Ordering::Greater => Step::Append { to: view.mx_frame },
            std::cmp::Ordering::Less => Step::Resync(Lost::Shrank),
            std::cmp::Ordering::Equal if cursor.frame == 0 || view.chain == cursor.chain => Step::Wait,
            std::cmp::Ordering::Equal => Step::Resync(Lost::ChainBroken),
        };
    }
    match (frozen.is_some_and(|f| f.seals(cursor)), view.mx_frame) {
        (false, _) => Step::Resync(Lost::UnseenRestart),
        // Emptied, and nothing written since: the next run may still draw other salts.
        (true, 0) => Step::Wait,
        (true, to) => Step::FollowRestart { to },
    }
}

/// Whether a view may show the run right after the one of a cursor at which a
/// database was left alone: each restart adds one to the first salt, and the
/// wal-index counts every commit. `ended` says that the run of the cursor is seen
/// to have ended there; `commits` are those of the new run.
///
/// The count settles what the file alone cannot: a log that was cut, to exactly
/// its old length, behind a longer run.
pub fn is_next_run(cursor: &Cursor, counted: u32, view: &View, ended: bool, commits: u32) -> bool {
    ended
        && cursor.frame > 0
        && view.mx_frame > 0
        && view.salts.first == cursor.salts.first.wrapping_add(1)
        && view.change == counted.wrapping_add(commits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Chain;

    const OLD: Salts = Salts { first: 1, second: 10 };
    const NEXT: Salts = Salts { first: 2, second: 20 };

    fn cursor(frame: u32) -> Cursor {
        Cursor { salts: OLD, frame, chain: Chain(7, 7), big_endian: false }
    }

    #[test]
    fn only_the_very_next_run_with_every_commit_in_it_continues_unwatched() {
        let seen = |salts, frames, change| View { change, ..view(salts, frames, Chain(1, 1)) };
        let next = seen(NEXT, 3, 102);
        assert!(is_next_run(&cursor(9), 100, &next, true, 2));
        assert!(!is_next_run(&cursor(9), 100, &next, false, 2), "the old run may have gone on");
        assert!(!is_next_run(&cursor(9), 100, &next, true, 1), "a commit is missing");
        assert!(!is_next_run(&cursor(9), 100, &seen(NEXT, 3, 2), true, 2), "the wal-index was made anew");
        assert!(!is_next_run(&cursor(0), 100, &next, true, 2), "an empty log has no end to be seen");
        let later = Salts { first: 3, second: 20 };
        assert!(!is_next_run(&cursor(9), 100, &seen(later, 3, 102), true, 2), "there was one between");
    }

    fn view(salts: Salts, mx_frame: u32, chain: Chain) -> View {
        View {
            change: 0,
            page_size: None,
            big_endian: false,
            mx_frame,
            page_count: 1,
            chain,
            salts,
            backfilled: 0,
            read_marks: [None; 5],
        }
    }

    fn frozen(salts: Salts, frame: u32) -> Option<Frozen> {
        Some(Frozen { salts, frame })
    }

    #[test]
    fn more_frames_of_the_same_run_are_appended() {
        assert_eq!(plan(&cursor(3), None, &view(OLD, 5, Chain(1, 1))), Step::Append { to: 5 });
        assert_eq!(plan(&cursor(0), None, &view(OLD, 5, Chain(1, 1))), Step::Append { to: 5 });
    }

    #[test]
    fn the_same_frame_counts_only_with_the_same_chain() {
        assert_eq!(plan(&cursor(3), None, &view(OLD, 3, Chain(7, 7))), Step::Wait);
        assert_eq!(plan(&cursor(3), None, &view(OLD, 3, Chain(7, 8))), Step::Resync(Lost::ChainBroken));
        assert_eq!(plan(&cursor(0), None, &view(OLD, 0, Chain(9, 9))), Step::Wait);
    }

    #[test]
    fn a_shorter_log_of_the_same_run_is_a_break() {
        assert_eq!(plan(&cursor(3), frozen(OLD, 3), &view(OLD, 2, Chain(7, 7))), Step::Resync(Lost::Shrank));
    }

    /// F1, F26: salts one higher, fewer frames than before, everything looks
    /// plausible; only a seal makes it a restart to follow.
    #[test]
    fn a_restart_is_followed_only_from_a_seal() {
        let restarted = view(NEXT, 2, Chain(1, 1));
        assert_eq!(plan(&cursor(3), frozen(OLD, 3), &restarted), Step::FollowRestart { to: 2 });
        let broken = Step::Resync(Lost::UnseenRestart);
        assert_eq!(plan(&cursor(3), None, &restarted), broken);
        assert_eq!(plan(&cursor(3), frozen(OLD, 4), &restarted), broken, "one frame was not captured");
        assert_eq!(plan(&cursor(3), frozen(OLD, 2), &restarted), broken, "frozen before the last frames");
        assert_eq!(plan(&cursor(3), frozen(NEXT, 3), &restarted), broken);
    }

    #[test]
    fn an_emptied_log_keeps_the_seal_until_the_next_write() {
        assert_eq!(plan(&cursor(3), frozen(OLD, 3), &view(NEXT, 0, Chain(0, 0))), Step::Wait);
        assert_eq!(plan(&cursor(3), None, &view(NEXT, 0, Chain(0, 0))), Step::Resync(Lost::UnseenRestart));
    }

    /// Every small combination: following a restart needs all three facts.
    #[test]
    fn nothing_else_is_ever_followed() {
        for cursor_frame in 0..4 {
            for frozen_frame in 0..4 {
                for salts in [OLD, NEXT] {
                    for mx in 0..4 {
                        let step =
                            plan(&cursor(cursor_frame), frozen(OLD, frozen_frame), &view(salts, mx, Chain(7, 7)));
                        let follows = matches!(step, Step::FollowRestart { .. });
                        assert_eq!(follows, salts == NEXT && frozen_frame == cursor_frame && mx > 0);
                        if let Step::Append { to } = step {
                            assert!(salts == OLD && to > cursor_frame);
                        }
                    }
                }
            }
        }
    }
}
