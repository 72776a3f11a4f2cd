//! Checkpoints: what is captured is copied into the database, and the log is
//! sealed, so that it may restart without harm.
//!
//! Always true: the guard passes from one connection to the next, or to the write
//! lock and back, hand over hand. Writers wait only while the little that is left is
//! captured and copied, or are slowed down while the log is long.

use std::time::{Duration, Instant, SystemTime};

use super::super::brake::{self, Barrier, Brake};
use super::super::checkpoint;
use super::super::connection::{CheckpointMode, Handle};
use super::super::error::Error;
use super::super::log_file::Window;
use super::super::plan::{Frozen, Lost, Step};
use super::super::wal_index::View;
use super::Live;
use crate::types::frame_end;

/// More frames than this, in bytes, are not captured while writers wait...
const SEAL_BYTES: u64 = 1 << 20;
/// ...unless there always are more, because each transaction is that large, and the log would grow for as long as
/// writers go on: each attempt that was given up for it doubles the bound, up to what takes such a writer as long
/// to commit as it has to wait.
const SEAL_DOUBLINGS: u32 = 4;
/// When no more than this is left to copy, in bytes, the rest is copied while writers wait.
const ENOUGH: u64 = 256 << 10;
/// The same for a long log: a fast writer leaves more in the time of one flush.
const ENOUGH_WHEN_LONG: u64 = 4 << 20;
/// Bulk copies in a row while the rest keeps shrinking.
const BULK_ROUNDS: usize = 8;
/// What writers may write, in bytes, before the brake holds them up: a flush or two later, that is still little.
const BRAKE_BYTES: u64 = 1 << 20;
/// A checkpoint of the application that has nothing to copy takes less than this.
const OWN_CHECKPOINT: Duration = Duration::from_millis(3);
/// One that copies is waited for this long.
const FOREIGN_CHECKPOINT: Duration = Duration::from_millis(200);
/// A guard that cannot be taken again is tried this often before anything else is done.
const GUARD_TRIES: usize = 100;

impl Live {
    /// Copies the log into the database and tries to seal it, then perhaps cuts
    /// the file. Never waits for readers and keeps writers waiting only briefly.
    pub(in super::super) fn checkpoint(&mut self, now: Instant, wall: SystemTime, shrink: bool) -> Result<(), Error> {
        self.activity.last_attempt = Some(now);
        self.activity.work.checkpoints += 1;
        let begun = Instant::now();
        let before = self.guard.view()?;
        let mut checkpointer = Handle::open(&self.options.path, Duration::ZERO)?;
        let brake = self.bulk(&mut checkpointer, wall)?;
        let sealed = self.seal(&mut checkpointer, brake, wall)?;
        let after = self.guard.view()?;
        let mut moved = sealed || (after.salts, after.backfilled) != (before.salts, before.backfilled);
        if sealed {
            self.activity.work.seals += 1;
            self.activity.dirty_since = None;
            if shrink {
                // The guard stays on slot 0, so this succeeds only if nothing was committed since.
                moved = !checkpointer.checkpoint(CheckpointMode::Truncate)?.busy;
                self.activity.work.truncations += u64::from(moved);
            }
        }
        self.activity.work.checkpoint_time += begun.elapsed();
        self.activity.work.futile_checkpoints += u64::from(!moved);
        self.activity.futile = if moved { 0 } else { self.activity.futile.saturating_add(1) };
        if !moved {
            tracing::debug!(
                db = self.options.path.display().to_string(),
                unbackfilled = after.unbackfilled(),
                marks = ?after.read_marks,
                "checkpoint made no progress: a reader holds the log back"
            );
        }
        self.activity.file_frames = self.log.length_in_frames().map_err(Error::local("read", self.log.path()))?;
        Ok(())
    }

    /// Copies most of the log while nobody waits: the guard moves to a newer
    /// mark, a passive checkpoint copies up to it, and so on while that helps.
    /// When the log is long, writers are slowed down meanwhile.
    fn bulk(&mut self, checkpointer: &mut Handle, wall: SystemTime) -> Result<Option<Brake>, Error> {
        let page_size = u64::from(self.map.state().identity.page_size.get());
        let mut brake = None;
        let mut rest = u32::MAX;
        for _ in 0..BULK_ROUNDS {
            self.brake_as_needed(&mut brake)?;
            self.capture(wall)?;
            if self.guard.view()?.unbackfilled() == 0 {
                break;
            }
            let next = Handle::open(&self.options.path, self.options.busy_timeout)?;
            self.brake_as_needed(&mut brake)?;
            if let Some(brake) = &brake {
                // The application's own checkpoints try again after each commit. Should one win the race for what
                // the new mark sets free, then one commit of it would copy all of that.
                brake.hold();
                copy(checkpointer, OWN_CHECKPOINT)?;
            }
            let mark = self.guard.view()?.mx_frame;
            // Whatever this guard sees beyond the captured position stays in the log, because it does not let the
            // log restart: an old guard on slot 0 has kept everything since the seal from being copied.
            self.pass_guard_to(next)?;
            match &brake {
                None => copy(checkpointer, FOREIGN_CHECKPOINT),
                // What comes meanwhile is captured meanwhile.
                Some(_) => std::thread::scope(|scope| {
                    let copying = scope.spawn(|| copy(checkpointer, FOREIGN_CHECKPOINT));
                    self.capture(wall)?;
                    copying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                }),
            }?;
            let view = self.guard.view()?;
            self.activity.held_back = view.backfilled < mark;
            if self.activity.held_back {
                // A reader needs older pages: slowing writers down does not help.
                if let Some(brake) = brake {
                    self.braked(brake.off());
                }
                return Ok(None);
            }
            if view.unbackfilled() == 0 || (brake.is_none() && view.unbackfilled() >= rest) {
                break;
            }
            checkpointer.sync_database()?;
            rest = view.unbackfilled();
            let enough = if brake.is_some() { ENOUGH_WHEN_LONG } else { ENOUGH };
            if u64::from(rest) * page_size <= enough {
                break;
            }
        }
        Ok(brake)
    }

    /// Takes a new guard while the old one is held, then ends the old one.
    fn pass_guard_to(&mut self, mut next: Handle) -> Result<(), Error> {
        next.begin_read()?;
        self.frozen = self.frozen_now()?;
        self.guard.end();
        self.guard = next;
        Ok(())
    }

    /// F47: somebody else keeps the write lock. It may be a checkpoint of the
    /// application that waits until nobody reads from the log. When everything is
    /// captured and copied, a guard on slot 0 does as well as a seal, and does not keep it waiting.
    fn make_way(&mut self, wall: SystemTime) -> Result<bool, Error> {
        self.capture(wall)?;
        if self.guard.view()?.unbackfilled() > 0 {
            return Ok(false);
        }
        if !self.is_sealed() {
            self.pass_guard_to(Handle::open(&self.options.path, Duration::ZERO)?)?;
        }
        Ok(self.is_sealed())
    }

    /// Whether the log may restart without harm.
    pub(super) fn is_sealed(&self) -> bool {
        self.map.state().cursor.as_ref().is_some_and(|cursor| self.frozen.is_some_and(|f| f.seals(cursor)))
    }

    /// Sets the brake as the length of the log asks for, unless somebody's reader
    /// holds the log back: then it would slow writers down for nothing.
    fn brake_as_needed(&mut self, brake: &mut Option<Brake>) -> Result<(), Error> {
        let strength = self.options.checkpoint.brake(self.guard.view()?.mx_frame);
        match brake {
            Some(brake) => brake.set(strength),
            None if strength > checkpoint::Brake::Off && !self.activity.held_back => {
                let page_size = u64::from(self.map.state().identity.page_size.get());
                let quota = u32::try_from(BRAKE_BYTES / page_size).unwrap_or(u32::MAX);
                *brake = Some(Brake::on(&self.options.path, quota, strength)?);
            }
            None => {}
        }
        Ok(())
    }

    /// Whether a guard that was just taken beside the old one is on slot 0 with
    /// everything captured. Should it be on another slot after all, then no restart
    /// can happen that this could excuse.
    fn frozen_now(&mut self) -> Result<Option<Frozen>, Error> {
        let view = self.guard.view()?;
        let captured = self.map.state().cursor.is_some_and(|c| (c.salts, c.frame) == (view.salts, view.mx_frame));
        Ok((captured && view.unbackfilled() == 0).then_some(Frozen { salts: view.salts, frame: view.mx_frame }))
    }

    /// Proves under the barrier that everything in the log is captured and in
    /// the database, and moves the guard to slot 0 before the barrier falls.
    fn seal(&mut self, checkpointer: &mut Handle, brake: Option<Brake>, wall: SystemTime) -> Result<bool, Error> {
        let bound = SEAL_BYTES << self.activity.crowded.min(SEAL_DOUBLINGS);
        let view = self.guard.view()?;
        if self.uncaptured(&view) > bound / 2 {
            // What came while the bulk was being copied; while this is captured, less comes.
            self.capture(wall)?;
        }
        fail::fail_point!("capture::before-barrier");
        let Some(barrier) = self.barrier(brake)? else { return self.make_way(wall) };
        let sealed = self.seal_under_barrier(checkpointer, bound);
        let held = barrier.release(&self.options.path);
        self.activity.work.barriers.add(held);
        let sealed = sealed?;
        self.activity.crowded = match sealed {
            Sealed::Not => self.activity.crowded.saturating_add(1),
            _ => 0,
        };
        match sealed {
            Sealed::Not => Ok(false),
            Sealed::Lost(lost) => {
                self.resync(lost, wall)?;
                Ok(false)
            }
            Sealed::Yes { view, rest } => {
                if let Some((window, step)) = rest {
                    self.store(&view, &window, step, wall)?;
                }
                Ok(self.is_sealed())
            }
        }
    }

    /// Takes the write lock, from the brake if there is one. `None`: another writer keeps it.
    fn barrier(&mut self, brake: Option<Brake>) -> Result<Option<Barrier>, Error> {
        match brake.and_then(|brake| self.braked(brake.into_barrier())) {
            Some(barrier) => Ok(Some(barrier)),
            None => Ok(Barrier::take(Handle::open(&self.options.path, Duration::ZERO)?)?.ok()),
        }
    }

    /// Counts what a brake did.
    fn braked(&mut self, worked: brake::Worked) -> Option<Barrier> {
        self.activity.work.barriers.merge(&worked.holds);
        worked.barrier
    }

    /// Bytes of the log that a capture of everything in `view` would read.
    fn uncaptured(&self, view: &View) -> u64 {
        let page_size = self.map.state().identity.page_size;
        let (from, to) = match (self.plan(view), self.map.state().cursor) {
            (Some(Step::Append { to }), Some(cursor)) => (cursor.frame, to),
            (Some(Step::FollowRestart { to }), _) => (0, to),
            _ => return 0,
        };
        frame_end(to, page_size) - frame_end(from, page_size)
    }

    fn seal_under_barrier(&mut self, checkpointer: &mut Handle, bound: u64) -> Result<Sealed, Error> {
        let view = self.guard.view()?;
        let rest = match self.plan(&view).unwrap_or(Step::Resync(Lost::NoCursor)) {
            Step::Wait => None,
            Step::Resync(lost) => return Ok(Sealed::Lost(lost)),
            _ if self.uncaptured(&view) > bound => return Ok(Sealed::Not),
            // Small enough to be kept in memory: its frames may be overwritten once the barrier falls.
            step => match self.scan(&view, step, u64::MAX, bound)? {
                Ok(window) => Some((window, step)),
                Err(lost) => return Ok(Sealed::Lost(lost)),
            },
        };
        // From here to the new read transaction the write lock alone keeps the log from restarting.
        self.guard.end();
        let copied = checkpointer.checkpoint(CheckpointMode::Passive);
        self.frozen = None;
        self.retake_guard()?;
        copied?;
        let now = self.guard.view()?;
        let complete = now.unbackfilled() == 0 && (now.salts, now.mx_frame) == (view.salts, view.mx_frame);
        if complete {
            self.frozen = Some(Frozen { salts: now.salts, frame: now.mx_frame });
        }
        Ok(Sealed::Yes { view, rest })
    }

    /// F4: nothing else happens before the guard is held again. If it cannot be
    /// taken at all, the error makes the caller detach, and attaching proves
    /// continuity anew.
    fn retake_guard(&mut self) -> Result<(), Error> {
        let mut last = None;
        for _ in 0..GUARD_TRIES {
            match self.guard.begin_read() {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("tried at least once").into())
    }
}

/// Copies what it can. While somebody else is copying, it waits for that, but not longer than `patience`.
fn copy(checkpointer: &mut Handle, patience: Duration) -> Result<(), Error> {
    const MOMENT: Duration = Duration::from_micros(500);
    let until = Instant::now() + patience;
    while checkpointer.checkpoint(CheckpointMode::Passive)?.busy && Instant::now() < until {
        std::thread::sleep(MOMENT);
    }
    Ok(())
}

enum Sealed {
    /// The guard is held again; `frozen` says whether the log is sealed once the
    /// rest is stored.
    Yes { view: View, rest: Option<(Window, Step)> },
    /// Too much is left.
    Not,
    /// Continuity broke.
    Lost(Lost),
}
