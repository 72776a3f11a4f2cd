//! Capture: every commit of one database, proven and made durable in the spool.
//!
//! A [`Database`] is a value, not a thread. Whoever owns it calls
//! [`Database::step`] when the log may have grown or when the last step asked for
//! it; between steps it holds only its guard. Any error leaves it detached, and a
//! later step attaches again, which proves continuity or compares.
//!
//! Who decides what: `plan` (what a look at the log means), `pace` (when to
//! capture), `checkpoint` (when to checkpoint); `live` carries it out.

mod attach;
mod base;
mod batch;
mod brake;
pub mod checkpoint;
pub mod connection;
mod error;
mod file_system;
mod live;
mod local_state;
mod log_file;
mod options;
pub mod pace;
pub mod page_map;
mod parked;
pub mod plan;
mod resync;
mod rivals;
mod snapshot;
pub mod state;
pub mod wal_index;

pub use base::{Base, BaseReader};
pub use error::Error;
pub use local_state::LocalState;
pub use options::{Limits, Options, Parking, default_meta_path};
pub use rivals::Rivals;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use self::attach::Local;
use self::live::Live;
use self::parked::{Left, Parked};
use self::state::State;
use crate::spool::{Point, Spool};
use crate::status::{Seen, Work};
use crate::types::Generation;

/// The files that this process follows, so that none is followed twice: a second
/// SQLite connection set on one inode would drop the locks of the first.
#[derive(Clone, Debug, Default)]
pub struct Followed(Arc<Mutex<Files>>);

/// Their databases, by device and inode.
type Files = HashMap<(u64, u64), Arc<Path>>;

impl Position {
    fn of(state: &State) -> Self {
        Self { generation: state.generation, point: state.point(), timestamp: state.timestamp }
    }
}

impl Followed {
    /// Whether a file is one of them.
    pub fn contains(&self, file: (u64, u64)) -> bool {
        self.0.lock().expect("no holder of this lock panics").contains_key(&file)
    }

    /// How many there are.
    fn count(&self) -> usize {
        self.0.lock().expect("no holder of this lock panics").len()
    }
}

/// How far capture has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The history.
    pub generation: Generation,
    /// The last captured batch.
    pub point: Point,
    /// Its time.
    pub timestamp: crate::types::Timestamp,
}

/// What a step did and what it wants next.
#[derive(Clone, Debug, Default)]
pub struct Stepped {
    /// When to step again without being woken; `None` = only when woken.
    pub again: Option<Instant>,
    /// Following the database; events of its log matter.
    pub live: bool,
    /// Why it is not followed, if it is not.
    pub trouble: Option<String>,
    /// The trouble is only that there is nothing to follow yet.
    pub waiting: bool,
    /// It is left alone until its files change.
    pub parked: bool,
    /// The trouble is that the disk is full.
    pub disk_full: bool,
}

impl Stepped {
    /// Nothing: it is left alone.
    pub const RESTING: Self =
        Self { again: None, live: true, trouble: None, waiting: false, parked: true, disk_full: false };
}

/// Up to this size a database is compared sooner than anybody notices.
const CHEAP_TO_COMPARE: u64 = 16 << 20;
/// The wait before a database is left alone becomes longer by no more than 2 to this power.
const MOST_PATIENCE: u32 = 6;
/// First wait after an error; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(250);
/// A database that cannot be followed is tried again at least this often, so that it is followed within five seconds
/// after whatever was wrong has ended.
const RETRY_MAX: Duration = Duration::from_secs(4);

/// One database to follow.
#[derive(Debug)]
pub struct Database {
    options: Arc<Options>,
    followed: Followed,
    registered: Option<(u64, u64)>,
    local: Option<Local>,
    // In a box: most databases of many are parked.
    live: Option<Box<Live>>,
    parked: Option<Parked>,
    /// How often in a row nothing but a comparison could tell what had happened while it was parked.
    unproven: u32,
    /// Where capture was when the database was let go.
    last: Option<Position>,
    failures: u32,
    retry_at: Option<Instant>,
    /// The last step waited in vain for a lock that another connection holds.
    kept_out: bool,
    last_trouble: Option<String>,
    /// Files that programs may still use were taken away, after so many captures.
    lost_sight: Option<(String, u64)>,
    past: Work,
}

impl Database {
    /// Nothing is opened before the first step.
    pub fn new(options: impl Into<Arc<Options>>, followed: Followed) -> Self {
        Self {
            options: options.into(),
            followed,
            registered: None,
            local: None,
            live: None,
            parked: None,
            unproven: 0,
            last: None,
            failures: 0,
            retry_at: None,
            kept_out: false,
            last_trouble: None,
            lost_sight: None,
            past: Work::default(),
        }
    }

    /// The options it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The spool, once the local state is open.
    pub fn spool(&self) -> Option<Arc<Spool>> {
        self.local.as_ref().map(|local| local.spool.clone())
    }

    /// The captured position, as far as it is known.
    pub fn position(&self) -> Option<Position> {
        let parked = self.parked.as_ref().map(|parked| parked.position);
        self.live.as_ref().map(|live| Position::of(live.state())).or(parked).or(self.last)
    }

    /// Whether its files are open.
    pub fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// Whether it is left alone and its files are as they were, so that a step would do nothing.
    pub fn rests(&self) -> bool {
        self.live.is_none()
            && self.retry_at.is_none()
            && self.parked.as_ref().is_some_and(|parked| !parked.has_changed(&self.options))
    }

    /// Whether the next step would open its files, unless it rests.
    pub fn wants_in(&self, now: Instant) -> bool {
        self.live.is_none() && self.retry_at.is_none_or(|at| now >= at)
    }

    /// When it may be left alone, should nothing happen until then. `sooner`: others
    /// need its place, and it is left alone after this time, whatever the options say.
    pub fn park_at(&self, sooner: Option<Duration>) -> Option<Instant> {
        let since = self.live.as_ref()?.quiet_since()?;
        let patience = self.options.parking.filter(|parking| self.followed.count() >= parking.among).map(|parking| {
            let unproven = (2 * self.unproven).min(MOST_PATIENCE);
            parking.after.saturating_mul(1 << unproven)
        });
        since.checked_add(patience.into_iter().chain(sooner).min()?)
    }

    /// Leaves the database alone: gives up everything but the claim on its local
    /// state until its files change. Not before [`Database::park_at`], and not while
    /// anything is not captured; the caller makes sure that nothing is on its way to
    /// a replica.
    pub fn park(&mut self, now: Instant, wall: SystemTime, sooner: Option<Duration>) -> bool {
        if self.park_at(sooner).is_none_or(|at| now < at) {
            return false;
        }
        let Some(Ok(Some(parked))) = self.live.as_mut().map(|live| live.park(wall)) else { return false };
        self.past = self.counters();
        self.live = None;
        self.parked = Some(parked);
        tracing::debug!(db = self.options.path.display().to_string(), "left alone until it changes");
        true
    }

    /// What was done since this value was made.
    pub fn counters(&self) -> Work {
        let mut work = self.past;
        if let Some(live) = &self.live {
            work.merge(&live.activity.work);
        }
        work
    }

    /// What the last look at the log showed, while the database is followed.
    pub fn seen(&mut self) -> Option<Seen> {
        self.live.as_mut().map(|live| live.seen())
    }

    /// Why commits of programs that still use the files as they were may not be
    /// seen. Over when a commit is captured: somebody uses the files that there are now.
    pub fn lost_sight(&mut self) -> Option<&str> {
        let syncs = self.counters().syncs;
        self.lost_sight = self.lost_sight.take().filter(|(_, before)| syncs <= *before);
        self.lost_sight.as_ref().map(|(why, _)| why.as_str())
    }

    /// Something happened to the files: the next step makes sure that they are
    /// still the ones that are open.
    pub fn files_changed(&mut self) {
        if let Some(live) = &mut self.live {
            live.doubt_identity();
        }
    }

    /// Attaches if need be, then captures and checkpoints what is due.
    pub fn step(&mut self, now: Instant, wall: SystemTime) -> Stepped {
        if self.live.is_none() && self.retry_at.is_some_and(|at| now < at) {
            return self.stepped(self.retry_at);
        }
        if self.rests() {
            return Stepped::RESTING;
        }
        let was_live = self.live.is_some();
        let looked = self.attached(wall).and_then(|live| live.look(now, wall));
        match looked {
            Ok(looked) => {
                if !was_live {
                    tracing::info!(path = self.options.path.display().to_string(), "initialized db");
                }
                self.recovered();
                self.stepped(looked.again)
            }
            Err(error) => self.failed(&error, now, was_live),
        }
    }

    /// Captures everything that is committed now, without waiting for quiet.
    ///
    /// # Errors
    /// Why it could not; the database is then detached.
    pub fn capture(&mut self, wall: SystemTime) -> Result<(), Error> {
        let captured = self.attached(wall).and_then(|live| live.capture(wall));
        captured.inspect_err(|_| self.detach())
    }

    /// The same, where having nothing to capture from yet is no failure.
    ///
    /// # Errors
    /// Why it could not; the database is then detached.
    pub fn capture_if_possible(&mut self, wall: SystemTime) -> Result<(), Error> {
        match self.capture(wall) {
            Err(error) if error.is_waiting() => Ok(()),
            captured => captured,
        }
    }

    /// The database as of the captured position, for a replica that needs all of it.
    ///
    /// # Errors
    /// Why it could not; the database is then detached.
    pub fn base(&mut self, wall: SystemTime) -> Result<Base, Error> {
        let base = self.attached(wall).and_then(|live| live.base(wall));
        base.inspect_err(|_| self.detach())
    }

    /// Begins a new history under a new name, because another writer's came between
    /// ours on some replica. Nothing is read again; every replica needs a base.
    ///
    /// # Errors
    /// Why it could not; the database is then detached.
    pub fn new_generation(&mut self, wall: SystemTime) -> Result<(), Error> {
        let begun = self.attached(wall).and_then(|live| live.new_generation(attach::new_generation()));
        begun.inspect_err(|_| self.detach())
    }

    /// Captures a last time and tries to leave the log copied and small. The
    /// database stays held until [`Database::release`].
    ///
    /// # Errors
    /// Why the last capture failed; the database is then detached.
    pub fn finish(&mut self, now: Instant, wall: SystemTime) -> Result<(), Error> {
        if self.parked.as_ref().is_some_and(|parked| !parked.has_changed(&self.options)) {
            return Ok(());
        }
        if let Some(live) = &mut self.live
            && let Err(gone) = live.check_files()
        {
            live.last_words(&gone, wall);
            // What was replaced a moment ago is taken up anew, as the next step would do.
            self.detach();
        }
        self.capture_if_possible(wall)?;
        if let Some(live) = &mut self.live {
            // Only a courtesy: what matters is captured.
            if let Err(error) = live.checkpoint(now, wall, false) {
                tracing::debug!(db = self.options.path.display().to_string(), error = error.chain(), "last checkpoint");
                self.detach();
            }
        }
        Ok(())
    }

    /// Lets go of the database. A later step takes it up again.
    pub fn release(&mut self) {
        self.detach();
    }

    /// Lets go of the database and of its local state, which others may then use.
    pub fn close(&mut self) {
        self.detach();
        self.local = None;
    }

    fn attached(&mut self, wall: SystemTime) -> Result<&mut Live, Error> {
        if self.live.is_none() {
            let left = self.parked.as_ref().and_then(|parked| parked.left);
            let live = self.attach(left, wall)?;
            if self.parked.take().is_some() {
                // Short-lived users of the database remove its log each time: better to stay, unless it is small.
                let dear = live.activity.work.resyncs > 0 && live.bytes() > CHEAP_TO_COMPARE;
                self.unproven = if dear { self.unproven.saturating_add(1) } else { 0 };
            }
            self.live = Some(Box::new(live));
        }
        Ok(self.live.as_mut().expect("attached above"))
    }

    fn attach(&mut self, left: Option<Left>, wall: SystemTime) -> Result<Live, Error> {
        let path = &self.options.path;
        let id = state::file_id(path).map_err(Error::local("look at", path))?;
        let id = id.ok_or_else(|| Error::Missing(path.to_path_buf()))?;
        self.register(id)?;
        if self.local.as_ref().is_none_or(|local| !local.is_there()) {
            self.local = None;
            self.local = Some(Local::open(&self.options)?);
            warn_of_other_machines(&self.options.path);
        }
        // Waiting for the same lock again and again would keep a thread from everybody else (F43).
        let patience = if self.kept_out { Duration::ZERO } else { self.options.busy_timeout };
        let spool = &self.local.as_ref().expect("opened above").spool;
        // Before anything is opened.
        let rest = parked::rest(&self.options, wall);
        let live = attach::attach(&self.options, spool, left.as_ref(), patience, wall)?;
        Ok(live.after_rest(rest))
    }

    /// F53: one file, one follower.
    fn register(&mut self, id: (u64, u64)) -> Result<(), Error> {
        let mut files = self.followed.0.lock().expect("no holder of this lock panics");
        if let Some(old) = self.registered.take() {
            files.remove(&old);
        }
        let path = self.options.path.clone();
        if let Some(other) = files.get(&id) {
            return Err(Error::Duplicate { path: path.to_path_buf(), other: other.to_path_buf() });
        }
        files.insert(id, path);
        self.registered = Some(id);
        Ok(())
    }

    fn detach(&mut self) {
        self.past = self.counters();
        self.last = self.position();
        (self.live, self.parked) = (None, None);
        if let Some(id) = self.registered.take() {
            self.followed.0.lock().expect("no holder of this lock panics").remove(&id);
        }
    }

    fn stepped(&self, again: Option<Instant>) -> Stepped {
        let trouble = self.last_trouble.clone();
        Stepped { again, live: self.live.is_some(), trouble, ..Stepped::default() }
    }

    fn recovered(&mut self) {
        if self.last_trouble.take().is_some() {
            tracing::info!(db = self.options.path.display().to_string(), "sync recovered");
        }
        self.failures = 0;
        self.retry_at = None;
        self.kept_out = false;
    }

    /// One line per trouble, however often it is met.
    fn failed(&mut self, error: &Error, now: Instant, was_live: bool) -> Stepped {
        // Where it was left is still worth knowing once it can be opened again.
        let parked = self.parked.take();
        self.detach();
        self.parked = parked;
        let text = error.chain();
        if self.last_trouble.as_ref() != Some(&text) {
            let db = self.options.path.display().to_string();
            match error.is_waiting() {
                true => tracing::info!(db, "{text}"),
                false => tracing::error!(db, error = text, "sync error"),
            }
            self.last_trouble = Some(text);
        }
        // A file that was just replaced is looked at again at once.
        let wait =
            if was_live { RETRY_MIN } else { RETRY_MIN.saturating_mul(1 << self.failures.min(8)).min(RETRY_MAX) };
        self.failures = if was_live { 0 } else { self.failures.saturating_add(1) };
        self.retry_at = Some(now + wait);
        self.kept_out = matches!(error, Error::Sqlite(refusal) if refusal.is_busy());
        self.past.sync_errors += u64::from(!error.is_waiting());
        if matches!(error, Error::SidecarReplaced(_)) {
            self.lost_sight = Some((error.to_string(), self.past.syncs));
        }
        let disk_full = error.is_disk_full();
        Stepped { waiting: error.is_waiting(), disk_full, ..self.stepped(self.retry_at) }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.detach();
    }
}

fn warn_of_other_machines(path: &Path) {
    if let Some(kind) = file_system::reaches_further(path) {
        tracing::warn!(
            db = path.display().to_string(),
            file_system = kind,
            "this file system may be shared with other machines: run brooklet on the machine on which the application \
             runs, since commits of other machines are not seen and can damage the database"
        );
    }
}
