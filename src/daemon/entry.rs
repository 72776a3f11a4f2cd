//! One run of one database: stepped when it has something to do, until it is
//! told to close. After that no step begins.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use super::Shared;
use super::hurry::Hurry;
use super::room::{self, Entered};
use super::shipping::Shipping;
use super::table::Slot;
use super::upkeep::Keeper;
use super::watch::{Watched, Watching};
use super::workpiece::{Held, Workpiece};
use crate::capture::{Database, Stepped};
use crate::spool::Spool;
use crate::status::{Captured, DatabaseId, Health, ReplicaFacts};
use crate::types::Generation;

/// A live database that nobody wakes is looked at this often: the fallback for
/// lost events, and for files that were replaced.
const POLL: Duration = Duration::from_secs(5);
/// The same where events are known not to work.
const POLL_WITHOUT_EVENTS: Duration = Duration::from_secs(1);
/// The same of databases that are left alone.
const PARKED_POLL: Duration = Duration::from_secs(60);
const PARKED_POLL_WITHOUT_EVENTS: Duration = Duration::from_secs(15);
/// So many looks a second that nobody asked for, whatever the number of databases: 0.5 % of a core.
const LOOKS: u32 = 200;
/// Databases that are left alone are looked at together, so often: waking a thread costs more than a look.
const ROUND: Duration = Duration::from_millis(250);
/// A wake-up nearer than this needs no watch.
const NEAR: Duration = Duration::from_millis(60);

/// A commit is published in the wal-index after its last write to the log, and that is no event: with
/// `synchronous=FULL` the log is flushed in between. So the last event is followed by a few looks, this long after it.
const AFTER_EVENT: [Duration; 5] = [
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(320),
    Duration::from_millis(1280),
];

/// The next look after an event that nothing may follow.
fn after_event(event: Option<Instant>, now: Instant) -> Option<Instant> {
    AFTER_EVENT.iter().map(|after| event.map(|event| event + *after)).find(|at| at.is_some_and(|at| at > now)).flatten()
}

/// How long a database is not looked at that nobody wakes.
fn poll(parked: bool, events: bool, databases: usize) -> Duration {
    let alone = match (parked, events) {
        (false, true) => POLL,
        (false, false) => POLL_WITHOUT_EVENTS,
        (true, true) => PARKED_POLL,
        (true, false) => PARKED_POLL_WITHOUT_EVENTS,
    };
    let databases = u32::try_from(databases).unwrap_or(u32::MAX);
    alone.max(Duration::from_secs(1) * databases / LOOKS)
}

/// The first round of looks that is not before `at`.
fn rounded(at: Instant, first: Instant) -> Instant {
    let over = at.saturating_duration_since(first).as_nanos() % ROUND.as_nanos();
    let over = Duration::from_nanos(u64::try_from(over).expect("it is less than a round"));
    if over.is_zero() { at } else { at + (ROUND - over) }
}

/// The run.
pub(super) struct Entry {
    pub(super) id: DatabaseId,
    pub(super) path: Arc<Path>,
    capture: Workpiece<Database>,
    /// No step begins any more; a replica may still need a base.
    closing: AtomicBool,
    /// Nobody takes the database up any more.
    ended: AtomicBool,
    /// It may be left alone once everything is uploaded.
    leaves: AtomicBool,
    /// It was taken up before.
    begun: AtomicBool,
    /// It was left alone at the last look, and the board says so.
    rests: AtomicBool,
    /// Uploads wait for nothing any more.
    pub(super) hurry: Hurry,
    /// What the uploads work on; set once the database was first taken up.
    source: Mutex<Option<Source>>,
    events: Mutex<Events>,
    pub(super) shipping: Vec<Shipping>,
}

/// Where an upload takes segments from.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) spool: Arc<Spool>,
    pub(super) generation: Generation,
}

/// Whether file events can be relied on for this database.
#[derive(Clone, Copy, Debug, Default)]
struct Events {
    /// Commits found by polling although a watch was set, since the last event.
    missed: u32,
    /// The last one.
    last: Option<Instant>,
}

impl Events {
    /// One can be a race between the event and the poll; several in a row mean a
    /// file system without events.
    const TOLERATED: u32 = 3;

    fn work(self) -> bool {
        self.missed <= Self::TOLERATED
    }
}

impl Entry {
    pub(super) fn new(slot: &Slot, shared: &Shared) -> Self {
        let (id, path, state_dir) = (slot.id, slot.capture.path.clone(), slot.capture.state_dir());
        let database = Database::new(slot.capture.clone(), shared.followed.clone());
        let shipping = slot.replicas.iter().map(|to| Shipping::new(to, &path, &state_dir)).collect();
        Self {
            id,
            capture: Workpiece::new(database, shared.queue.clone(), id),
            closing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            leaves: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            rests: AtomicBool::new(false),
            hurry: Hurry::default(),
            source: Mutex::new(None),
            events: Mutex::new(Events::default()),
            shipping,
            path,
        }
    }

    /// Waits for the database; `None` once the run has ended.
    pub(super) fn database(&self) -> Option<Held<'_, Database>> {
        let held = self.capture.lock();
        (!self.ended.load(Ordering::SeqCst)).then_some(held)
    }

    /// Waits for the database, whatever is going on.
    pub(super) fn last_hold(&self) -> Held<'_, Database> {
        self.capture.lock()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        *self.source.lock().expect("no holder of this lock panics") = None;
    }

    pub(super) fn source(&self) -> Option<Source> {
        self.source.lock().expect("no holder of this lock panics").clone()
    }

    pub(super) fn keepers(&self) -> impl Iterator<Item = &Keeper> {
        self.shipping.iter().filter_map(Shipping::keeper)
    }

    /// Steps the database and arranges for the next step.
    pub(super) fn step(self: &Arc<Self>, shared: &Arc<Shared>) {
        // If a long step or a base is at work on it, the threads are for the other databases meanwhile.
        let Some(mut database) = self.capture.lock_if_free() else { return };
        if self.is_closing() {
            return;
        }
        // Asked once: for nearly all of many thousands, this is all there is to do.
        let rests = database.rests();
        if !rests && database.wants_in(Instant::now()) && !self.enters(shared) {
            return;
        }
        let log_path = database.options().log_path();
        let watched = shared.watch.disarm_fired(&log_path);
        if watched == Watched::Fired {
            database.files_changed();
        }
        let mut stepped = match rests && watched != Watched::Fired {
            true => {
                self.pin_up(shared, &mut database, Some(&Stepped::RESTING));
                Stepped::RESTING
            }
            false => self.step_once(shared, &mut database),
        };
        let found_something = stepped.again.is_some_and(|at| at <= Instant::now() + NEAR);
        let now = Instant::now();
        let echo = self.judge_events(watched, found_something, now);
        let far = stepped.again.is_none_or(|at| at > now + NEAR);
        let mut events = true;
        if stepped.live && far {
            let relied = self.events.lock().expect("no holder of this lock panics").work();
            match shared.watch.arm(self.id, &log_path) {
                Watching::FromNow if relied => {
                    // A commit between the look and the watch would otherwise go unnoticed, and so would a new file:
                    // the watch is on whatever has the name now.
                    database.files_changed();
                    stepped = self.step_once(shared, &mut database);
                }
                Watching::Already if relied => {}
                _ => events = false,
            }
        }
        let sooner = shared.room.is_tight().then_some(room::PATIENCE);
        let may_leave = stepped.live && !stepped.parked && database.park_at(sooner).is_some_and(|at| at <= now);
        // Before looking what is uploaded: whatever is confirmed from now on calls again.
        self.leaves.store(may_leave, Ordering::SeqCst);
        if may_leave && self.may_park(shared) && database.park(now, SystemTime::now(), sooner) {
            // What came before it was left shows in its files, and what comes from now on is an event.
            stepped = self.step_once(shared, &mut database);
        }
        let look = now + poll(stepped.parked, events, shared.table.count());
        let look = if stepped.parked { rounded(look, shared.started) } else { look };
        let at = match (stepped.live, stepped.again) {
            (true, again) => {
                // One that may not be left alone yet, because of an upload, is asked again after the same time.
                let leave = database.park_at(sooner).map(|at| sooner.map_or(at, |sooner| at.max(now + sooner)));
                let soonest = [again, echo, leave.filter(|at| *at > now)].into_iter().flatten().min();
                Some(soonest.map_or(look, |at| at.min(look)))
            }
            (false, again) => {
                shared.watch.disarm(&log_path);
                again
            }
        };
        shared.clock.set(self.id, at);
    }

    /// Whether there is room to open its files. If not, it is called as soon as there is.
    fn enters(&self, shared: &Shared) -> bool {
        let (now, begins) = (Instant::now(), !self.begun.load(Ordering::SeqCst));
        let (inside, ever) = match shared.room.enter(self.id, shared.table.count(), begins, now) {
            Entered::Inside => {
                self.begun.store(true, Ordering::SeqCst);
                return true;
            }
            Entered::Later(after) => {
                shared.clock.set(self.id, Some(now + after));
                return false;
            }
            Entered::Turned => (Vec::new(), false),
            Entered::First { inside, ever } => (inside, ever),
        };
        if ever {
            tracing::warn!(
                databases = shared.table.count(),
                followed = inside.len(),
                "the limit on open files is too low to follow all databases closely: one that rests for a second makes \
                 room for another (raise the limit with \"ulimit -n\" or LimitNOFILE)"
            );
        }
        inside.into_iter().for_each(|other| shared.queue.push(other));
        self.rests.store(false, Ordering::SeqCst);
        shared.board.update(self.id, |facts| {
            if facts.health != Health::Starting {
                let reason = "it changes, and the limit on open files leaves no room to follow it now";
                facts.health = Health::Broken(reason.to_owned());
            }
        });
        shared.clock.set(self.id, Some(Instant::now() + PARKED_POLL));
        false
    }

    /// Whether all that is captured is on every replica, so that no upload needs the database.
    fn may_park(&self, shared: &Shared) -> bool {
        let well = |replica: &ReplicaFacts| replica.error.is_none() && !replica.fenced;
        shared.board.read_one(self.id).is_some_and(|facts| {
            facts.captured.is_some() && facts.behind().next().is_none() && facts.replicas.iter().all(well)
        })
    }

    /// Something was confirmed, which may have been all that it waited for.
    pub(super) fn confirmed(&self, shared: &Shared) {
        if self.leaves.swap(false, Ordering::SeqCst) {
            // It is left alone now, which makes place too.
            shared.queue.push(self.id);
        } else if let Some(next) = shared.room.has_begun(self.id) {
            shared.queue.push(next);
        }
    }

    /// Its files are not open, or not any more.
    pub(super) fn makes_room(&self, shared: &Shared) {
        if let Some(next) = shared.room.leave(self.id) {
            shared.queue.push(next);
        }
    }

    /// A fault in the program: the database is let go and taken up anew, which
    /// proves everything that it uses. The others never notice.
    pub(super) fn panicked(&self, shared: &Shared) {
        self.last_hold().release();
        self.rests.store(false, Ordering::SeqCst);
        let reason = "an internal error stopped this step; please report it together with the log".to_owned();
        tracing::error!(db = self.path.display().to_string(), error = reason, "sync error");
        shared.board.update(self.id, |facts| (facts.health, facts.seen) = (Health::Broken(reason), None));
        shared.clock.set(self.id, Some(Instant::now() + POLL));
    }

    fn step_once(self: &Arc<Self>, shared: &Arc<Shared>, database: &mut Database) -> Stepped {
        let stepped = database.step(Instant::now(), SystemTime::now());
        self.pin_up(shared, database, Some(&stepped));
        stepped
    }

    /// Records what capture knows and wakes the uploads if there is news.
    pub(super) fn pin_up(self: &Arc<Self>, shared: &Arc<Shared>, database: &mut Database, stepped: Option<&Stepped>) {
        // Not while the board is held: whoever adds a database holds the table, and then the board.
        let poll = stepped.map(|stepped| poll(stepped.parked, true, shared.table.count()));
        let rests = stepped.is_some_and(|stepped| stepped.parked);
        if self.rests.swap(rests, Ordering::SeqCst) && rests {
            // Of ten thousand nearly all rest, and nothing about them is new.
            shared.board.looked(self.id, Instant::now(), poll.unwrap_or_default());
            return;
        }
        match database.is_live() {
            true => shared.room.is_inside(self.id),
            false => self.makes_room(shared),
        }
        let position = database.position();
        let captured =
            position.map(|p| Captured { generation: p.generation, batch: p.point.seq.get(), timestamp: p.timestamp });
        let mut news = false;
        shared.board.update(self.id, |facts| {
            if let Some(stepped) = stepped {
                facts.health = match (&stepped.trouble, stepped.live) {
                    (None, true) => Health::Live,
                    (Some(reason), false) if stepped.waiting => Health::Waiting(reason.clone()),
                    (Some(reason), _) => Health::Broken(reason.clone()),
                    (None, false) => Health::Starting,
                };
                facts.disk_full = stepped.disk_full;
                if stepped.live {
                    facts.looked = Some(Instant::now());
                    facts.poll = poll.unwrap_or_default();
                }
            }
            facts.seen = database.seen();
            facts.lost_sight = database.lost_sight().map(str::to_owned);
            facts.work = database.counters();
            if let Some(captured) = captured {
                let old = facts.captured.replace(captured);
                news = old.map(|c| (c.generation, c.batch)) != Some((captured.generation, captured.batch));
                if old.is_some_and(|c| c.generation != captured.generation) {
                    facts.replicas.iter_mut().for_each(|r| r.batch = None);
                }
            }
        });
        if let (Some(position), Some(spool)) = (position, database.spool()) {
            let source = Source { spool, generation: position.generation };
            let first = self.source.lock().expect("no holder of this lock panics").replace(source).is_none();
            // In an earlier run of the same database the same may have been captured and not uploaded.
            news |= first;
        }
        if news {
            (0..self.shipping.len()).for_each(|replica| Shipping::wake(shared, self, replica));
        }
    }

    /// When to look again because of an event.
    fn judge_events(&self, watched: Watched, found_something: bool, now: Instant) -> Option<Instant> {
        let mut events = self.events.lock().expect("no holder of this lock panics");
        let expected = events.last.is_some_and(|last| now < last + AFTER_EVENT[AFTER_EVENT.len() - 1] + NEAR);
        match watched {
            Watched::Fired => (events.missed, events.last) = (0, Some(now)),
            Watched::Quiet if found_something && !expected => {
                events.missed = events.missed.saturating_add(1);
                if events.missed == Events::TOLERATED + 1 {
                    tracing::warn!(
                        path = self.path.display().to_string(),
                        "commits come without file events: looking every second from now on"
                    );
                }
            }
            Watched::Quiet | Watched::Not => {}
        }
        after_event(events.last, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_followed_by_a_few_looks() {
        let event = Instant::now();
        let (mut now, mut looks) = (event, Vec::new());
        while let Some(at) = after_event(Some(event), now) {
            looks.push(at - event);
            now = at;
        }
        assert_eq!(looks, AFTER_EVENT);
        assert_eq!(after_event(None, event), None);
    }

    #[test]
    fn looks_come_in_rounds_and_never_early() {
        let first = Instant::now();
        for (millis, expected) in [(0, 0), (1, 250), (249, 250), (250, 250), (60_001, 60_250)] {
            let at = first + Duration::from_millis(millis);
            assert_eq!(rounded(at, first), first + Duration::from_millis(expected), "{millis}");
        }
    }

    /// F110: ten thousand databases are not looked at every five seconds each.
    #[test]
    fn many_databases_are_not_looked_at_more_often_all_together() {
        assert_eq!(poll(false, true, 1), POLL);
        assert_eq!(poll(false, true, 1000), POLL);
        assert_eq!(poll(false, true, 10_000), Duration::from_secs(50));
        assert_eq!(poll(false, false, 100), POLL_WITHOUT_EVENTS);
        assert_eq!(poll(true, true, 10_000), PARKED_POLL);
        assert_eq!(poll(true, false, 1), PARKED_POLL_WITHOUT_EVENTS);
    }
}
