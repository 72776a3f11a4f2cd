//! One database while it is followed: the guard is held, and each look at the
//! wal-index is answered by capturing what it shows.
//!
//! Invariant: from attach to detach this process holds a reader slot or the
//! write lock, and passes from one to the other hand over hand. What is captured
//! is proven by the checksum chain or by the seal (see `plan`; made in `seal`).

mod seal;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Position;
use super::base::Base;
use super::batch::{self, Batch, Published};
use super::checkpoint::{self, Due, Situation};
use super::connection::Handle;
use super::error::Error;
use super::log_file::{LogFile, Window};
use super::options::Options;
use super::pace::{self, Waiting};
use super::page_map::PageMap;
use super::parked::{Left, Parked};
use super::plan::{self, Frozen, Lost, Step};
use super::resync;
use super::snapshot::Snapshot;
use super::state::{Cursor, State, file_id};
use super::wal_index::View;
use crate::disk::Room;
use crate::ltx::{WalSpan, growth_hole};
use crate::spool::Spool;
use crate::status::{Seen, Work};
use crate::types::{Generation, Timestamp, WAL_HEADER_SIZE, frame_end};
use crate::wal::Scanner;

/// What a look led to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Looked {
    /// When to look again without being woken; `None` = only when woken.
    pub(super) again: Option<Instant>,
}

/// A database that is being followed.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) options: Arc<Options>,
    pub(super) spool: Arc<Spool>,
    pub(super) guard: Handle,
    pub(super) frozen: Option<Frozen>,
    pub(super) log: LogFile,
    pub(super) map: PageMap,
    /// The wal-index file that the guard's lock is on.
    pub(super) shm: (PathBuf, Option<(u64, u64)>),
    /// Files of the local state that are open: the lock and the page map.
    pub(super) local: [(PathBuf, Option<(u64, u64)>); 2],
    pub(super) activity: Activity,
}

/// What was noticed about the log besides its content.
#[derive(Debug, Default)]
pub(super) struct Activity {
    seen: Option<(View, Instant, SystemTime)>,
    waiting: Option<Waiting>,
    last_commit: Option<Instant>,
    /// For how long nobody had written to the database when it was taken up.
    rest: Duration,
    dirty_since: Option<Instant>,
    last_attempt: Option<Instant>,
    futile: u32,
    /// Attempts in a row that were given up because too much was not captured.
    crowded: u32,
    /// The last copy stopped short at somebody's reader mark.
    held_back: bool,
    file_frames: u32,
    identity_checked: Option<Instant>,
    /// What was done so far.
    pub(super) work: Work,
}

/// The paths are compared with the open files at most this often.
const IDENTITY_EVERY: Duration = Duration::from_millis(100);
/// A window up to this size is kept in memory, so its pages are read only once.
const IN_MEMORY: u64 = 4 << 20;
/// Snapshots taken for a base before giving up until later.
const BASE_TRIES: usize = 5;

/// Databases above this size are not left alone: should it be impossible to prove
/// what happened meanwhile, all of it would have to be read.
const PARK_BYTES: u64 = 256 << 20;

/// A log below this size is not worth cutting, even on a full disk: the application would only grow it again.
const LOG_TO_KEEP: u64 = 8 << 20;

/// How far a capture got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    /// What is captured is exactly what the view showed.
    Exactly,
    /// Continuity had to be restored by comparison, which saw the present.
    Past,
}

impl Live {
    /// Looks at the log and does what is due: capture, then checkpoint.
    pub(super) fn look(&mut self, now: Instant, wall: SystemTime) -> Result<Looked, Error> {
        if let Err(gone) = self.check_identity(now) {
            self.last_words(&gone, wall);
            return Err(gone);
        }
        self.make_room(now, wall)?;
        let view = self.guard.view()?;
        let pending = self.notice(&view, now, wall)?;
        match self.checkpoint_due(&view, now) {
            Due::No(again) => {
                let capture = self.activity.waiting.filter(|_| pending);
                let at = capture.map(|w| pace::capture_at(&w, self.options.sync_interval));
                if at.is_some_and(|at| now >= at) {
                    self.capture(wall)?;
                    return self.look_again(now);
                }
                Ok(Looked { again: [again, at].into_iter().flatten().min() })
            }
            due => {
                let checkpointed = self.checkpoint(now, wall, due == Due::Shrink);
                self.activity.work.checkpoint_errors += u64::from(checkpointed.is_err());
                checkpointed?;
                self.look_again(now)
            }
        }
    }

    /// F103: when the disk is nearly full, local segments are kept short. If that is
    /// not enough and the log is long, it is cut, and if somebody's reader prevents
    /// that, the database is let go, so that the log at least grows no further once
    /// that reader has ended.
    fn make_room(&mut self, now: Instant, wall: SystemTime) -> Result<(), Error> {
        let database = self.map.state().identity.device;
        let state = self.local[0].1.map_or(database, |(device, _)| device);
        let disks = &self.options.limits.disks;
        let room = disks.room(database, &self.options.path, now).max(disks.room(state, self.map.path(), now));
        let dropped =
            self.spool.allow(room.allowance()).map_err(Error::local("empty the spool beside", self.map.path()))?;
        self.report(Published::Spooled { dropped });
        let Room::Critical { .. } = room else { return Ok(()) };
        if self.log_bytes()? <= LOG_TO_KEEP {
            return Ok(());
        }
        self.checkpoint(now, wall, true)?;
        match self.log_bytes()? {
            bytes if bytes > LOG_TO_KEEP => Err(Error::NoRoom { path: self.options.path.to_path_buf(), log: bytes }),
            _ => Ok(()),
        }
    }

    fn log_bytes(&self) -> Result<u64, Error> {
        let frames = self.log.length_in_frames().map_err(Error::local("read", self.log.path()))?;
        Ok(frame_end(frames, self.map.state().identity.page_size))
    }

    fn look_again(&mut self, now: Instant) -> Result<Looked, Error> {
        let view = self.guard.view()?;
        let again = match self.checkpoint_due(&view, now) {
            Due::No(again) => again,
            _ => Some(now),
        };
        let pending = self.plan(&view).is_some_and(|step| step != Step::Wait);
        Ok(Looked { again: if pending { Some(now) } else { again } })
    }

    /// What the last look showed.
    pub(super) fn seen(&mut self) -> Seen {
        let frames = self.activity.seen.as_ref().map_or(0, |(view, ..)| view.mx_frame);
        let page_size = self.map.state().identity.page_size;
        Seen {
            frames,
            bytes: if frames == 0 { 0 } else { frame_end(frames, page_size) },
            uncaptured: self.activity.waiting.map(|waiting| waiting.first),
            guard: self.guard.holds_transaction(),
        }
    }

    /// The captured position.
    pub(super) fn state(&self) -> &State {
        self.map.state()
    }

    /// Captures everything that is committed now.
    pub(super) fn capture(&mut self, wall: SystemTime) -> Result<(), Error> {
        let view = self.guard.view()?;
        self.capture_to(&view, wall)?;
        Ok(())
    }

    /// Captures up to a view and no further, in as many batches as the bound on
    /// one pass makes of it.
    fn capture_to(&mut self, view: &View, wall: SystemTime) -> Result<Reached, Error> {
        loop {
            let lost = match self.plan(view).unwrap_or(Step::Resync(Lost::NoCursor)) {
                Step::Wait => {
                    self.activity.waiting = None;
                    return Ok(Reached::Exactly);
                }
                Step::Resync(lost) => lost,
                step => match self.scan(view, step, self.options.max_pass_bytes, IN_MEMORY)? {
                    Err(lost) => lost,
                    Ok(window) => match self.store(view, &window, step, wall) {
                        Err(Error::Lost(lost)) => lost,
                        stored => {
                            stored?;
                            continue;
                        }
                    },
                },
            };
            self.resync(lost, wall)?;
            return Ok(Reached::Past);
        }
    }

    /// F114: a database that was deleted or replaced is still open here, with its
    /// log. What was committed to it last is captured as far as it is proven.
    pub(super) fn last_words(&mut self, gone: &Error, wall: SystemTime) {
        if !matches!(gone, Error::Missing(_) | Error::Replaced(_)) {
            return;
        }
        let Ok(view) = self.guard.view() else { return };
        while let Some(step @ (Step::Append { .. } | Step::FollowRestart { .. })) = self.plan(&view) {
            let stored = match self.scan(&view, step, self.options.max_pass_bytes, IN_MEMORY) {
                Ok(Ok(window)) => self.store(&view, &window, step, wall),
                Ok(Err(lost)) => Err(lost.into()),
                Err(error) => Err(error),
            };
            if let Err(error) = stored {
                let db = self.options.path.display().to_string();
                tracing::warn!(db, error = error.chain(), "the last commits before the database went are lost");
                return;
            }
        }
    }

    /// The size of the database at the captured position.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.state().page_count) * u64::from(self.state().identity.page_size.get())
    }

    /// The same, for which nobody had written to the database for this long.
    pub(super) fn after_rest(self, rest: Duration) -> Self {
        Self { activity: Activity { rest, ..self.activity }, ..self }
    }

    /// Since when there has been no commit, as far as is known.
    pub(super) fn quiet_since(&self) -> Option<Instant> {
        let (_, at, _) = self.activity.seen.as_ref()?;
        let rest = if self.activity.last_commit.is_none() { self.activity.rest } else { Duration::ZERO };
        Some(at.checked_sub(rest).unwrap_or(*at))
    }

    /// What is needed to leave the database alone, if all of it is captured and
    /// comparing it later, should that be needed, is cheap.
    pub(super) fn park(&mut self, wall: SystemTime) -> Result<Option<Parked>, Error> {
        let position = Position::of(self.state());
        let Some(cursor) = self.state().cursor.filter(|_| self.bytes() <= PARK_BYTES) else { return Ok(None) };
        let parked = Parked::remember(&self.options, position, wall);
        let parked = parked.map_err(Error::local("look at", &self.options.path))?;
        self.check_files()?;
        // After the files were looked at: whatever comes later changes them.
        let view = self.guard.view()?;
        let all = (view.salts, view.mx_frame) == (cursor.salts, cursor.frame) && self.plan(&view) == Some(Step::Wait);
        let left = Left { cursor, change: view.change };
        Ok(parked.filter(|_| all).map(|parked| parked.left_at(left)))
    }

    /// Takes up the log where it was left, if what is there now is the very next run.
    pub(super) fn follow_next_run(&mut self, left: &Left, wall: SystemTime) -> Result<bool, Error> {
        let view = self.guard.view()?;
        let cursor = left.cursor;
        let local = |error| Error::local("read", self.log.path())(error);
        // The cheap part of the proof first.
        let ended = self.log.ended_at(&cursor).map_err(local)?;
        if self.state().cursor != Some(cursor) || !plan::is_next_run(&cursor, view.change, &view, ended, 0) {
            return Ok(false);
        }
        let step = Step::FollowRestart { to: view.mx_frame };
        let Ok(window) = self.scan(&view, step, u64::MAX, IN_MEMORY)? else { return Ok(false) };
        if !plan::is_next_run(&cursor, left.change, &view, ended, window.commits) {
            return Ok(false);
        }
        match self.store(&view, &window, step, wall) {
            Err(Error::Lost(_)) => Ok(false),
            stored => stored.map(|()| true),
        }
    }

    fn plan(&self, view: &View) -> Option<Step> {
        self.map.state().cursor.as_ref().map(|cursor| plan::plan(cursor, self.frozen, view))
    }

    /// Proves the new frames.
    fn scan(&mut self, view: &View, step: Step, limit: u64, keep: u64) -> Result<Result<Window, Lost>, Error> {
        let page_size = self.map.state().identity.page_size;
        let Some(cursor) = self.map.state().cursor else { return Ok(Err(Lost::NoCursor)) };
        let local = |error| Error::local("read", self.log.path())(error);
        let (scanner, to) = match step {
            Step::Append { to } if cursor.frame > 0 => {
                (Scanner::resume(page_size, cursor.big_endian, cursor.salts, cursor.frame, cursor.chain), to)
            }
            Step::Append { to } | Step::FollowRestart { to } => match self.log.header(view.salts).map_err(local)? {
                Some(header) => (Scanner::at_start(&header), to),
                None => return Ok(Err(Lost::ChainBroken)),
            },
            Step::Wait | Step::Resync(_) => return Ok(Err(Lost::NoCursor)),
        };
        let window = match self.log.scan(scanner, to, limit, keep).map_err(local)? {
            Ok(window) => window,
            Err(lost) => return Ok(Err(lost)),
        };
        if window.end == view.mx_frame && window.chain != view.chain {
            return Ok(Err(Lost::ChainBroken));
        }
        let state = self.map.state();
        if growth_hole(window.changes().map(|(pgno, _)| pgno), state.page_count, window.page_count, page_size).is_some()
        {
            return Ok(Err(Lost::GrowthHole));
        }
        Ok(Ok(window))
    }

    /// Makes a proven window durable.
    fn store(&mut self, view: &View, window: &Window, step: Step, wall: SystemTime) -> Result<(), Error> {
        let begun = Instant::now();
        let page_size = self.map.state().identity.page_size;
        let from = match (step, self.map.state().cursor) {
            (Step::Append { .. }, Some(cursor)) => cursor.frame,
            _ => 0,
        };
        let offset = if from == 0 { WAL_HEADER_SIZE } else { frame_end(from, page_size) };
        let batch = Batch {
            changes: window.changes().collect(),
            page_count: window.page_count,
            cursor: Cursor { salts: view.salts, frame: window.end, chain: window.chain, big_endian: view.big_endian },
            wal: Some(WalSpan { offset, size: frame_end(window.end, page_size) - offset, salts: view.salts }),
            timestamp: self.commit_time(view, wall),
        };
        fail::fail_point!("capture::between-passes");
        let (guard, log) = (&mut self.guard, &self.log);
        let read = |index: usize, page: &mut Vec<u8>| match window.read(log, index, page) {
            // Its frames were there a moment ago: the log was cut.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(Error::Lost(Lost::ChangedUnderRead)),
            done => done.map_err(Error::local("read", log.path())),
        };
        // A guard on slot 0 allows one restart of the log; a writer announces it in the wal-index before it overwrites
        // the first frame. So the same salts now mean that every read above saw what the chain had proven.
        // A window in memory was proven and is read from the same bytes.
        let still_true = || match window.in_memory() || guard.view()?.salts == view.salts {
            true => Ok(()),
            false => Err(Error::Lost(Lost::ChangedUnderRead)),
        };
        let published = batch::publish(&mut self.map, &self.spool, self.options.encoding, &batch, read, still_true)?;
        self.report(published);
        self.activity.work.syncs += 1;
        self.activity.work.wal_bytes += batch.wal.map_or(0, |span| span.size);
        self.activity.work.sync_time += begun.elapsed();
        Ok(())
    }

    fn report(&mut self, published: Published) {
        let db = self.options.path.display().to_string();
        match published {
            Published::Spooled { dropped: 0 } => {}
            Published::Spooled { dropped } => {
                self.activity.work.dropped += u64::try_from(dropped).unwrap_or(u64::MAX);
                tracing::warn!(
                    db,
                    dropped,
                    budget = self.spool.budget(),
                    "local segments exceed their budget: replicas that lack them will get a new base"
                );
            }
            Published::TooBig => {
                self.activity.work.dropped += 1;
                tracing::warn!(
                    db,
                    budget = self.spool.budget(),
                    "one batch exceeds the budget for local segments: every replica will get a new base"
                );
            }
        }
    }

    /// Continues by comparison.
    pub(super) fn resync(&mut self, lost: Lost, wall: SystemTime) -> Result<(), Error> {
        let options = self.options.clone();
        let mut snapshot = Snapshot::take(&options.path, &options.log_path(), options.busy_timeout)?;
        // It was opened by its path, which can name another file by now.
        self.check_files()?;
        if snapshot.page_size() != self.map.state().identity.page_size {
            return Err(Error::Replaced(options.path.to_path_buf()));
        }
        self.activity.work.resyncs += 1;
        let now = Timestamp::from(wall);
        let published = resync::compare(&mut snapshot, &mut self.map, &self.spool, options.encoding, now)?;
        tracing::info!(
            db = options.path.display().to_string(),
            reason = lost.to_string(),
            changed = published.is_some(),
            "continued by comparing the database with the recorded page checksums"
        );
        if let Some(published) = published {
            self.report(published);
        }
        // The new guard was taken while the old one was held; only now does the old one end.
        (self.guard, self.frozen) = snapshot.into_guard();
        self.activity.waiting = None;
        Ok(())
    }

    /// The database as of exactly the captured position, for a replica that needs
    /// all of it. Captures first what is new up to that moment.
    pub(super) fn base(&mut self, wall: SystemTime) -> Result<Base, Error> {
        let options = self.options.clone();
        for _ in 0..BASE_TRIES {
            let snapshot = Snapshot::take(&options.path, &options.log_path(), options.busy_timeout)?;
            self.check_files()?;
            // A comparison may have captured more than the snapshot shows; then it takes another one.
            if self.capture_to(snapshot.view(), wall)? == Reached::Exactly {
                return Ok(Base::new(snapshot, *self.state(), options.encoding));
            }
        }
        Err(Error::Lost(Lost::ChangedUnderRead))
    }

    /// Goes on under another name.
    pub(super) fn new_generation(&mut self, generation: Generation) -> Result<(), Error> {
        let path = self.map.path().to_owned();
        // The batch counter goes on, so that the newest state stays recognisable.
        let state = State { generation, seq: self.state().seq.next(), ..*self.state() };
        self.map.write_state(state).map_err(Error::local("update", &path))?;
        self.spool.restart(state.point()).map_err(Error::local("empty the spool beside", &path))?;
        tracing::info!(
            db = self.options.path.display().to_string(),
            generation = generation.to_string(),
            reason = "another writer continued the history of a replica meanwhile",
            "new generation"
        );
        Ok(())
    }

    /// Notices new commits and their time; `true` when some are not captured.
    fn notice(&mut self, view: &View, now: Instant, wall: SystemTime) -> Result<bool, Error> {
        let pending = self.plan(view) != Some(Step::Wait);
        let activity = &mut self.activity;
        let place = |v: &View| (v.salts, v.mx_frame);
        let first_look = activity.seen.is_none();
        if activity.seen.as_ref().is_none_or(|(seen, ..)| place(seen) != place(view)) {
            activity.seen = Some((*view, now, wall));
            let file_frames = self.log.length_in_frames().map_err(Error::local("read", self.log.path()))?;
            activity.file_frames = file_frames;
            if pending || !first_look {
                activity.last_commit = Some(now);
                activity.dirty_since.get_or_insert(now);
            }
            if pending {
                let first = activity.waiting.map_or(now, |w| w.first);
                activity.waiting = Some(Waiting { first, newest: now });
            }
        } else if pending && activity.waiting.is_none() {
            activity.waiting = Some(Waiting { first: now, newest: now });
        }
        Ok(pending)
    }

    /// When the newest commit of a view was noticed.
    fn commit_time(&self, view: &View, wall: SystemTime) -> Timestamp {
        match &self.activity.seen {
            Some((seen, _, at)) if (seen.salts, seen.mx_frame) == (view.salts, view.mx_frame) => Timestamp::from(*at),
            _ => Timestamp::from(wall),
        }
    }

    fn checkpoint_due(&self, view: &View, now: Instant) -> Due {
        let activity = &self.activity;
        let situation = Situation {
            unbackfilled: view.unbackfilled(),
            held: view.mx_frame > 0 && view.unbackfilled() == 0 && !self.is_sealed(),
            file_frames: activity.file_frames,
            last_commit: activity.last_commit,
            dirty_since: activity.dirty_since,
            last_attempt: activity.last_attempt,
            futile: activity.futile,
        };
        checkpoint::due(&self.options.checkpoint, now, &situation)
    }

    /// Something happened to the files: the next look compares them with the paths.
    pub(super) fn doubt_identity(&mut self) {
        self.activity.identity_checked = None;
    }

    /// [`Live::check_files`], unless that was a moment ago.
    fn check_identity(&mut self, now: Instant) -> Result<(), Error> {
        if self.activity.identity_checked.is_some_and(|at| now < at + IDENTITY_EVERY) {
            return Ok(());
        }
        self.activity.identity_checked = Some(now);
        self.check_files()
    }

    /// F50 to F52, F59: what the paths name must be what is open.
    pub(super) fn check_files(&mut self) -> Result<(), Error> {
        let identity = self.map.state().identity;
        let path = &self.options.path;
        match file_id(path).map_err(Error::local("look at", path))? {
            None => return Err(Error::Missing(path.to_path_buf())),
            Some(found) if found != (identity.device, identity.inode) => {
                return Err(Error::Replaced(path.to_path_buf()));
            }
            Some(_) => {}
        }
        let log = self.log.path();
        if file_id(log).map_err(Error::local("look at", log))? != Some(self.log.id()) {
            return Err(Error::SidecarReplaced(log.to_owned()));
        }
        let (shm, id) = &self.shm;
        if file_id(shm).map_err(Error::local("look at", shm))? != *id {
            return Err(Error::SidecarReplaced(shm.clone()));
        }
        for (path, id) in &self.local {
            if file_id(path).map_err(Error::local("look at", path))? != *id {
                return Err(Error::StateReplaced(path.clone()));
            }
        }
        if !self.guard.holds_transaction() {
            return Err(Error::Lost(Lost::UnseenRestart));
        }
        Ok(())
    }
}
