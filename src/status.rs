//! The noticeboard: what is true now about each database and each replica.
//!
//! Plain facts, pinned up by whoever knows them and read by whoever asks. Nothing
//! here decides anything. Watching it is how one waits for "confirmed everywhere".
//!
//! Always true: since when something is as it is, and since when a commit waits for
//! a replica, is noted here and by nobody else, at the moment the news arrives.

mod arrivals;
mod tally;
mod work;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use crate::types::{Generation, Timestamp, Txid};

pub use arrivals::Arrivals;
pub use tally::{RESTORES, Tally};
pub use work::{BARRIER_BOUNDS, Barriers, Work};

/// A database's place on the board. It is never given to another one, not even
/// to the same file when that is taken up again after it was let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseId(u64);

impl DatabaseId {
    /// The one with that number; the board counts from 0.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// How a database is doing.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Health {
    /// Not looked at yet.
    #[default]
    Starting,
    /// Followed.
    Live,
    /// Nothing to follow yet.
    Waiting(String),
    /// It cannot be followed.
    Broken(String),
    /// It is not followed because somebody asked for that.
    Stopped,
}

/// A captured position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The history.
    pub generation: Generation,
    /// The batch within it.
    pub batch: u64,
    /// The time of its newest commit.
    pub timestamp: Timestamp,
}

/// What the last look at the log showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Committed frames in the log.
    pub frames: u32,
    /// Bytes of the log up to there.
    pub bytes: u64,
    /// Since when the oldest commit that is not captured is known; `None`: all are captured.
    pub uncaptured: Option<Instant>,
    /// The read transaction that keeps the log from restarting unseen is open.
    pub guard: bool,
}

/// What one replica is known to have.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ReplicaFacts {
    /// What configuration calls it.
    pub name: String,
    /// What kind of storage it is in.
    pub kind: &'static str,
    /// Objects are at least this far apart.
    pub interval: Duration,
    /// The newest TXID on it.
    pub txid: Option<Txid>,
    /// The captured batch that it ends with.
    pub batch: Option<u64>,
    /// The time of that batch.
    pub timestamp: Option<Timestamp>,
    /// Why it is not up to date, if something is wrong.
    pub error: Option<String>,
    /// Another writer has taken over.
    pub fenced: bool,
    /// Why segments are not merged or deleted, if something is wrong.
    pub upkeep_error: Option<String>,
    /// What rehearsals of a restore have shown; `None` before the first.
    pub drill: Option<Box<DrillFacts>>,
    /// Since when the oldest captured commit waits that is not here; `None`: all are here.
    pub waiting: Option<Instant>,
    /// Since when there is some `error`.
    pub error_since: Option<Instant>,
    /// Since when there is some `upkeep_error`.
    pub upkeep_since: Option<Instant>,
    /// When it was last seen to have more than before.
    pub advanced: Option<Timestamp>,
}

/// What rehearsals of a restore have shown.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DrillFacts {
    /// When the last one ended.
    pub at: Option<Timestamp>,
    /// How many there were.
    pub runs: u64,
    /// How many of them failed.
    pub failures: u64,
    /// Why the last one failed, if it did.
    pub error: Option<String>,
    /// The newest point that one has proven.
    pub proven: Option<ProvenPoint>,
}

/// A point that was restored in a rehearsal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProvenPoint {
    /// Its transaction; `None` in a backup of Litestream 0.3.
    pub txid: Option<Txid>,
    /// Its time.
    pub time: Timestamp,
    /// How long it took, which is about what a restore takes.
    pub took: Duration,
}

/// What is known about one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseFacts {
    /// The database file.
    pub path: Arc<Path>,
    /// How it is doing.
    pub health: Health,
    /// What is captured.
    pub captured: Option<Captured>,
    /// Its replicas, in the order of the configuration.
    pub replicas: Vec<ReplicaFacts>,
    /// A noticed commit is captured within this time.
    pub interval: Duration,
    /// Since when its `health` is of this kind.
    pub since: Option<Instant>,
    /// When its log was last looked at.
    pub looked: Option<Instant>,
    /// It is looked at again within this time, whatever happens.
    pub poll: Duration,
    /// What that showed; `None` while it is not followed.
    pub seen: Option<Seen>,
    /// The trouble is that this machine's disk is full.
    pub disk_full: bool,
    /// Why commits of programs that still use the database as it was may not be seen.
    pub lost_sight: Option<String>,
    /// What was done for it so far.
    pub work: Work,
    /// When the batches came that some replica lacks.
    pub arrivals: Arrivals,
}

impl Default for DatabaseFacts {
    fn default() -> Self {
        Self {
            path: Path::new("").into(),
            health: Health::default(),
            captured: None,
            replicas: Vec::new(),
            interval: Duration::ZERO,
            since: None,
            looked: None,
            poll: Duration::ZERO,
            seen: None,
            disk_full: false,
            lost_sight: None,
            work: Work::default(),
            arrivals: Arrivals::default(),
        }
    }
}

impl DatabaseFacts {
    /// Notes since when what has changed is as it is.
    fn settle(&mut self, before: &Self, now: Instant, wall: Timestamp) {
        let same_kind = std::mem::discriminant(&self.health) == std::mem::discriminant(&before.health);
        if self.since.is_none() || !same_kind {
            self.since = Some(now);
        }
        if let Some(captured) = self.captured
            && before.captured.map(|c| (c.generation, c.batch)) != Some((captured.generation, captured.batch))
        {
            let noticed = before.seen.and_then(|seen| seen.uncaptured).unwrap_or(now);
            self.arrivals.push(captured.batch, noticed);
        }
        let batches = self.replicas.iter().filter(|replica| !replica.fenced).map(|replica| replica.batch);
        if let Some(everywhere) = batches.min().flatten() {
            self.arrivals.drop_through(everywhere);
        }
        for (index, replica) in self.replicas.iter_mut().enumerate() {
            let old = before.replicas.get(index);
            since(&mut replica.error_since, replica.error.is_some(), now);
            since(&mut replica.upkeep_since, replica.upkeep_error.is_some(), now);
            let missing = self.captured.is_some_and(|c| replica.batch.is_none_or(|have| have < c.batch));
            replica.waiting = match missing {
                true => self.arrivals.first_after(replica.batch.unwrap_or(0)).or(replica.waiting).or(Some(now)),
                false => None,
            };
            if replica.txid > old.and_then(|old| old.txid) {
                replica.advanced = Some(wall);
            }
        }
    }

    /// The replicas that lack something that is captured.
    pub fn behind(&self) -> impl Iterator<Item = &ReplicaFacts> {
        let batch = self.captured.map(|c| c.batch);
        self.replicas.iter().filter(move |r| batch.is_some_and(|b| r.batch.is_none_or(|have| have < b)))
    }
}

/// `Some` from the moment on at which something began to be so.
fn since(at: &mut Option<Instant>, is_so: bool, now: Instant) {
    match is_so {
        true => drop(at.get_or_insert(now)),
        false => *at = None,
    }
}

/// The board.
#[derive(Clone, Debug)]
pub struct Board {
    databases: Arc<Mutex<Databases>>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Databases {
    next: u64,
    /// In boxes: half of the places in a tree are empty.
    pinned: BTreeMap<DatabaseId, Box<Pinned>>,
    /// Those that came, went or changed since somebody asked; `None`: nobody ever did.
    news: Option<BTreeSet<DatabaseId>>,
}

impl Databases {
    fn note(&mut self, id: DatabaseId) {
        if let Some(news) = &mut self.news {
            news.insert(id);
        }
    }
}

#[derive(Debug)]
struct Pinned {
    facts: DatabaseFacts,
    /// For those who wait for this one, if anybody ever did: with thousands of others, their news must not wake them.
    changed: Option<watch::Sender<()>>,
}

thread_local! {
    /// Whether this thread looks at the board, or changes it, at this moment.
    static HELD: Cell<bool> = const { Cell::new(false) };
}

/// While it lasts, this thread holds the board and calls somebody.
struct Held;

impl Held {
    fn begin() -> Self {
        HELD.set(true);
        Self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.set(false);
    }
}

/// Whether this thread holds the board. Who does must not wait for another lock
/// under which somebody waits for the board.
pub(crate) fn board_is_held() -> bool {
    HELD.get()
}

impl Default for Board {
    fn default() -> Self {
        Self { databases: Arc::default(), changed: watch::Sender::new(0) }
    }
}

impl Board {
    /// Pins up another database.
    pub fn add(&self, facts: DatabaseFacts) -> DatabaseId {
        let mut databases = self.databases();
        let id = DatabaseId(databases.next);
        databases.next += 1;
        let facts = DatabaseFacts { since: facts.since.or(Some(Instant::now())), ..facts };
        databases.pinned.insert(id, Box::new(Pinned { facts, changed: None }));
        databases.note(id);
        drop(databases);
        self.tell();
        id
    }

    /// Takes everything about a database down. Those who wait for its news learn that there will be none.
    pub fn remove(&self, id: DatabaseId) {
        let mut databases = self.databases();
        let removed = databases.pinned.remove(&id);
        databases.note(id);
        drop(databases);
        if removed.is_some() {
            self.tell();
        }
    }

    /// Changes what is known about one database, if it is on the board.
    pub fn update(&self, id: DatabaseId, change: impl FnOnce(&mut DatabaseFacts)) {
        let mut databases = self.databases();
        let Some(pinned) = databases.pinned.get_mut(&id) else { return };
        let before = pinned.facts.clone();
        let held = Held::begin();
        change(&mut pinned.facts);
        drop(held);
        pinned.facts.settle(&before, Instant::now(), SystemTime::now().into());
        // That somebody has looked again is no news.
        let looked = std::mem::replace(&mut pinned.facts.looked, before.looked);
        let differs = pinned.facts != before;
        pinned.facts.looked = looked;
        if differs {
            pinned.changed.iter().for_each(|changed| changed.send_replace(()));
            databases.note(id);
        }
        drop(databases);
        if differs {
            self.tell();
        }
    }

    /// Somebody has looked at a database and found nothing new, and looks again after `poll`.
    pub fn looked(&self, id: DatabaseId, now: Instant, poll: Duration) {
        let mut databases = self.databases();
        let Some(pinned) = databases.pinned.get_mut(&id) else { return };
        let sooner = poll < pinned.facts.poll;
        (pinned.facts.looked, pinned.facts.poll) = (Some(now), poll);
        if sooner {
            // Silence means something sooner, too.
            databases.note(id);
        }
    }

    /// Those that came, went or changed since the last call, whether they are there or not; at the first call all. That
    /// somebody has looked at one again is nothing new. For one who asks again and again.
    pub fn news(&self) -> Vec<DatabaseId> {
        let mut databases = self.databases();
        match databases.news.replace(BTreeSet::new()) {
            Some(news) => news.into_iter().collect(),
            None => databases.pinned.keys().copied().collect(),
        }
    }

    /// Shows what is known about some, without copying it; `None`: it is not there.
    pub fn some(
        &self,
        ids: impl Iterator<Item = DatabaseId>,
        mut look: impl FnMut(DatabaseId, Option<&DatabaseFacts>),
    ) {
        let databases = self.databases();
        let _held = Held::begin();
        ids.for_each(|id| look(id, databases.pinned.get(&id).map(|pinned| &pinned.facts)));
    }

    /// Everything on it now, in the order in which it was added.
    pub fn read(&self) -> Vec<DatabaseFacts> {
        self.databases().pinned.values().map(|pinned| pinned.facts.clone()).collect()
    }

    /// The same, with the places.
    pub fn entries(&self) -> Vec<(DatabaseId, DatabaseFacts)> {
        self.databases().pinned.iter().map(|(id, pinned)| (*id, pinned.facts.clone())).collect()
    }

    /// Shows what is known about each database, without copying it.
    pub fn each(&self, mut look: impl FnMut(DatabaseId, &DatabaseFacts)) {
        let databases = self.databases();
        let _held = Held::begin();
        databases.pinned.iter().for_each(|(id, pinned)| look(*id, &pinned.facts));
    }

    /// What is known about one database.
    pub fn read_one(&self, id: DatabaseId) -> Option<DatabaseFacts> {
        self.databases().pinned.get(&id).map(|pinned| pinned.facts.clone())
    }

    /// Hears of each change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Hears of each change of one database, and that it is taken down.
    pub fn watch_one(&self, id: DatabaseId) -> Option<watch::Receiver<()>> {
        let mut databases = self.databases();
        let pinned = databases.pinned.get_mut(&id)?;
        Some(pinned.changed.get_or_insert_with(|| watch::Sender::new(())).subscribe())
    }

    fn tell(&self) {
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }

    fn databases(&self) -> MutexGuard<'_, Databases> {
        self.databases.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_behind_until_it_has_the_captured_batch() {
        let captured =
            Captured { generation: Generation::new(1).unwrap(), batch: 5, timestamp: Timestamp::from_millis(0) };
        let replica = |batch| ReplicaFacts { batch, ..ReplicaFacts::default() };
        let facts = DatabaseFacts {
            captured: Some(captured),
            replicas: vec![replica(None), replica(Some(4)), replica(Some(5))],
            ..DatabaseFacts::default()
        };
        assert_eq!(facts.behind().count(), 2);
    }

    #[test]
    fn only_a_change_is_news() {
        let board = Board::default();
        let id = board.add(DatabaseFacts::default());
        let (mut watch, mut one) = (board.watch(), board.watch_one(id).unwrap());
        board.update(id, |_| {});
        assert!(!watch.has_changed().unwrap() && !one.has_changed().unwrap());
        board.update(id, |facts| facts.health = Health::Live);
        assert!(watch.has_changed().unwrap() && one.has_changed().unwrap());
        watch.borrow_and_update();
        one.borrow_and_update();
        let other = board.add(DatabaseFacts::default());
        board.update(other, |facts| facts.health = Health::Live);
        assert!(watch.has_changed().unwrap());
        assert!(!one.has_changed().unwrap(), "news of others wake nobody");
        watch.borrow_and_update();
        board.update(id, |facts| facts.looked = Some(Instant::now()));
        assert!(!watch.has_changed().unwrap(), "a look is none");
    }

    #[test]
    fn what_came_went_or_changed_is_told_once() {
        let board = Board::default();
        let [first, second] = [0, 1].map(|_| board.add(DatabaseFacts::default()));
        assert_eq!(board.news(), [first, second]);
        board.update(first, |facts| facts.looked = Some(Instant::now()));
        board.looked(first, Instant::now(), Duration::from_secs(60));
        assert_eq!(board.news(), [], "a look is none");
        board.looked(first, Instant::now(), Duration::from_secs(5));
        assert_eq!(board.news(), [first], "but who is looked at more often has to be");
        board.update(second, |facts| facts.health = Health::Live);
        let third = board.add(DatabaseFacts::default());
        board.remove(first);
        let news = board.news();
        assert_eq!(news, [first, second, third]);
        let mut there = Vec::new();
        board.some(news.into_iter(), |id, facts| there.push((id, facts.is_some())));
        assert_eq!(there, [(first, false), (second, true), (third, true)]);
        assert_eq!(board.news(), []);
    }

    #[test]
    fn a_place_is_never_given_away_again() {
        let board = Board::default();
        let [first, second] = [0, 1].map(|_| board.add(DatabaseFacts::default()));
        let watch = board.watch_one(first).unwrap();
        board.remove(first);
        assert!(watch.has_changed().is_err(), "who waited for it learns that it is gone");
        let third = board.add(DatabaseFacts::default());
        assert!(first != third && second != third);
        board.update(first, |facts| facts.health = Health::Live);
        assert_eq!((board.read_one(first), board.watch_one(first).is_none()), (None, true));
        assert_eq!(board.entries().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [second, third]);
        assert_eq!(board.read().len(), 2);
    }

    #[test]
    fn a_commit_waits_from_the_moment_it_was_noticed_until_the_replica_has_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let wall = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        let mut facts = DatabaseFacts { replicas: vec![ReplicaFacts::default(); 2], ..DatabaseFacts::default() };
        let step = |facts: &mut DatabaseFacts, seconds: u32, change: &dyn Fn(&mut DatabaseFacts)| {
            let before = facts.clone();
            change(facts);
            facts.settle(&before, at(seconds.into()), wall(seconds.into()));
        };
        let captured = |batch| {
            Some(Captured { generation: Generation::new(1).unwrap(), batch, timestamp: Timestamp::from_millis(0) })
        };
        let seen = |uncaptured| Some(Seen { frames: 1, bytes: 1, uncaptured, guard: true });
        step(&mut facts, 1, &|f| (f.captured, f.health) = (captured(1), Health::Live));
        assert_eq!((facts.since, facts.replicas[0].waiting), (Some(at(1)), Some(at(1))));
        step(&mut facts, 2, &|f| f.replicas.iter_mut().for_each(|r| (r.batch, r.txid) = (Some(1), Txid::new(1))));
        assert_eq!((facts.replicas[1].waiting, facts.replicas[1].advanced), (None, Some(wall(2))));
        step(&mut facts, 3, &|f| f.seen = seen(Some(at(3))));
        step(&mut facts, 4, &|f| (f.captured, f.seen) = (captured(2), seen(None)));
        step(&mut facts, 5, &|f| f.captured = captured(3));
        assert_eq!(facts.replicas[0].waiting, Some(at(3)), "not when it was captured");
        step(&mut facts, 6, &|f| f.replicas[0].error = Some("refused".to_owned()));
        step(&mut facts, 7, &|f| f.replicas[0].error = Some("refused again".to_owned()));
        step(&mut facts, 8, &|f| (f.replicas[1].batch, f.replicas[1].txid) = (Some(2), Txid::new(2)));
        assert_eq!(facts.replicas[1].waiting, Some(at(5)), "it lacks the last one");
        assert_eq!((facts.replicas[0].waiting, facts.replicas[0].error_since), (Some(at(3)), Some(at(6))));
        step(&mut facts, 9, &|f| (f.replicas[0].batch, f.replicas[0].error) = (Some(3), None));
        assert_eq!((facts.replicas[0].waiting, facts.replicas[0].error_since), (None, None));
        assert_eq!(facts.replicas[0].advanced, Some(wall(2)), "nothing more was seen to be there");
        step(&mut facts, 10, &|f| f.health = Health::Broken("gone".to_owned()));
        step(&mut facts, 11, &|f| f.health = Health::Broken("still gone".to_owned()));
        assert_eq!(facts.since, Some(at(10)));
    }
}
