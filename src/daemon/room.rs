//! Room for databases that are followed closely. Such a one has several files
//! open, of which the system allows a process only so many; one that is left alone
//! has a single one. And it takes some memory, so of thousands that are taken up
//! at the same time, most of which will be left alone, only some begin at once.
//!
//! Always true: whoever was turned away is called as soon as there is room, first
//! come, first served. Nobody who is inside is sent out: they leave when they are
//! left alone, which is sooner while somebody waits for open files. Who was inside
//! before comes first: there are commits to be captured. And a beginning counts as
//! one for a second at most, however slow a replica is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::status::DatabaseId;

/// Open files of a database that is followed, beyond the one that it has in any case:
/// database, log and wal-index of two connections, and the log once more.
const FILES: u64 = 6;
/// Open files for everything else, where so many can be spared: uploads, merges, requests, listeners.
const OTHER_FILES: u64 = 1024;
/// While somebody waits, a database without a commit for this long is left alone.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// Databases that begin at once.
const BEGINNINGS: usize = 256;
/// One that is not all uploaded after this long is not waited for.
const BEGINNING: Duration = Duration::from_secs(1);

/// How many databases of so many can be followed closely with so many open files; always some.
fn most(open_files: u64, databases: usize) -> usize {
    let databases = u64::try_from(databases).unwrap_or(u64::MAX);
    let rest = open_files.saturating_sub(OTHER_FILES.min(open_files / 4)).saturating_sub(databases);
    usize::try_from(rest / FILES).unwrap_or(usize::MAX).max(1)
}

/// The room.
#[derive(Debug)]
pub(super) struct Room {
    /// `None`: as many as there are.
    open_files: Option<u64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    inside: HashSet<DatabaseId>,
    waiting: Waiting,
    /// Those inside that have just begun, since when.
    beginning: HashMap<DatabaseId, Instant>,
    /// Those who wait to begin.
    newcomers: Waiting,
    most: usize,
    was_tight: bool,
}

/// Those who wait, each once, in the order in which they came.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    order: BTreeMap<u64, DatabaseId>,
    of: HashMap<DatabaseId, u64>,
}

impl Waiting {
    fn push(&mut self, id: DatabaseId) {
        if let std::collections::hash_map::Entry::Vacant(place) = self.of.entry(id) {
            self.order.insert(*place.insert(self.next), id);
            self.next += 1;
        }
    }

    fn remove(&mut self, id: DatabaseId) {
        if let Some(number) = self.of.remove(&id) {
            self.order.remove(&number);
        }
    }

    fn len(&self) -> usize {
        self.order.len()
    }

    fn pop(&mut self) -> Option<DatabaseId> {
        let (_, id) = self.order.pop_first()?;
        self.of.remove(&id);
        Some(id)
    }
}

impl State {
    /// The next one for whom there is room.
    fn next(&mut self) -> Option<DatabaseId> {
        if self.inside.len() >= self.most {
            return None;
        }
        let may_begin = self.beginning.len() < BEGINNINGS;
        self.waiting.pop().or_else(|| if may_begin { self.newcomers.pop() } else { None })
    }
}

/// What became of one who wants in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entered {
    /// It may be followed closely.
    Inside,
    /// It is called when there is room.
    Turned,
    /// Others are beginning. It is called when it can begin, and should come by itself after this long.
    Later(Duration),
    /// The same, and it is the first for whom there is none: those inside do not know yet.
    First {
        /// Who is inside.
        inside: Vec<DatabaseId>,
        /// Nobody ever waited before.
        ever: bool,
    },
}

impl Room {
    /// For a process that may have so many open files.
    pub(super) fn new(open_files: Option<u64>) -> Self {
        Self { open_files, state: Mutex::default() }
    }

    /// One of so many databases wants to be followed closely. `begins`: it never was.
    pub(super) fn enter(&self, id: DatabaseId, databases: usize, begins: bool, now: Instant) -> Entered {
        let mut state = self.state();
        state.most = self.open_files.map_or(usize::MAX, |files| most(files, databases));
        if state.inside.contains(&id) || state.inside.len() < state.most {
            state.waiting.remove(id);
            state.beginning.retain(|_, since| now.saturating_duration_since(*since) < BEGINNING);
            if begins && state.beginning.len() >= BEGINNINGS {
                state.newcomers.push(id);
                let before = u32::try_from(state.newcomers.len() / BEGINNINGS).unwrap_or(u32::MAX);
                return Entered::Later(BEGINNING.saturating_mul(before.saturating_add(1)));
            }
            state.newcomers.remove(id);
            if begins {
                state.beginning.insert(id, now);
            }
            state.inside.insert(id);
            return Entered::Inside;
        }
        state.newcomers.remove(id);
        let first = state.waiting.order.is_empty();
        state.waiting.push(id);
        if !first {
            return Entered::Turned;
        }
        let ever = !std::mem::replace(&mut state.was_tight, true);
        Entered::First { inside: state.inside.iter().copied().collect(), ever }
    }

    /// It is followed closely, whoever allowed it: an upload that needs the database does not ask.
    pub(super) fn is_inside(&self, id: DatabaseId) {
        self.state().inside.insert(id);
    }

    /// What it had when it began is uploaded. Tells who is to be called.
    pub(super) fn has_begun(&self, id: DatabaseId) -> Option<DatabaseId> {
        let mut state = self.state();
        state.beginning.remove(&id)?;
        state.next()
    }

    /// It is not followed closely and does not want to be. Tells who is to be called.
    pub(super) fn leave(&self, id: DatabaseId) -> Option<DatabaseId> {
        let mut state = self.state();
        state.waiting.remove(id);
        state.newcomers.remove(id);
        state.beginning.remove(&id);
        state.inside.remove(&id);
        state.next()
    }

    /// Whether somebody waits.
    pub(super) fn is_tight(&self) -> bool {
        !self.state().waiting.order.is_empty()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> DatabaseId {
        DatabaseId::new(number as u64)
    }

    #[test]
    fn there_is_room_for_as_many_as_their_files_allow() {
        for (open_files, databases, expected) in [
            (20_000, 10_000, 1496),
            (20_000, 1000, 2996),
            (1_048_576, 10_000, 172_925),
            (1024, 10, 126),
            (1024, 500, 44),
            (1024, 5000, 1),
            (0, 0, 1),
        ] {
            assert_eq!(most(open_files, databases), expected, "{open_files} for {databases}");
            let others = OTHER_FILES.min(open_files / 4);
            assert!(
                most(open_files, databases) == 1 || expected as u64 * FILES + databases as u64 + others <= open_files
            );
        }
    }

    #[test]
    fn who_comes_first_is_called_first() {
        // Room for two: the rest of the files is for the claims of the other ones.
        let room = Room::new(Some(1024));
        let databases = 768 - 2 * 6;
        let now = Instant::now();
        let enter = |n| room.enter(id(n), databases, false, now);
        assert_eq!([enter(1), enter(2), enter(1)], [Entered::Inside, Entered::Inside, Entered::Inside]);
        assert!(!room.is_tight());
        let Entered::First { mut inside, ever: true } = enter(3) else { panic!("the first one that is turned away") };
        inside.sort();
        assert_eq!(inside, [id(1), id(2)]);
        assert_eq!([enter(4), enter(3)], [Entered::Turned, Entered::Turned]);
        assert!(room.is_tight());
        assert_eq!([room.leave(id(9)), room.leave(id(1))], [None, Some(id(3))]);
        // Called and not come: the next one is called by whoever passes by.
        assert_eq!(room.leave(id(3)), Some(id(4)));
        assert_eq!(enter(4), Entered::Inside);
        assert!(!room.is_tight());
        assert!(matches!(enter(5), Entered::First { ever: false, .. }));
        // An upload does not ask; only when both have left there is room for another one.
        room.is_inside(id(6));
        assert_eq!([room.leave(id(6)), room.leave(id(2))], [None, Some(id(5))]);
        assert_eq!(room.leave(id(4)), None);
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let room = Room::new(None);
        let now = Instant::now();
        assert!((0..100_000).all(|n| room.enter(id(n), 100_000, false, now) == Entered::Inside));
    }

    /// Ten thousand, also if half of those who are called do not come: all get in, and never too many.
    #[test]
    fn everybody_gets_in() {
        for begins in [false, true] {
            let room = Room::new(Some(20_000));
            let (mut now, most) = (Instant::now(), if begins { BEGINNINGS } else { most(20_000, 10_000) });
            let (mut inside, mut called): (Vec<_>, Vec<_>) = (Vec::new(), (0..10_000).map(id).collect());
            let (mut seen, mut alarms) = (HashSet::new(), BTreeMap::new());
            let mut rounds = 0;
            while seen.len() < 10_000 {
                for (at, one) in called.drain(..).enumerate() {
                    if rounds % 7 == 1 && at % 2 == 1 {
                        alarms.entry(one).or_insert(now + 3 * BEGINNING);
                        continue;
                    }
                    match room.enter(one, 10_000, begins, now) {
                        Entered::Inside => {
                            inside.push(one);
                            seen.insert(one);
                        }
                        Entered::Later(after) => drop(alarms.insert(one, now + after)),
                        Entered::Turned | Entered::First { .. } => {}
                    }
                }
                // Those who stay for longer than a second no longer count as beginning.
                assert!(inside.len() <= if begins { most + most / 8 } else { most });
                let leaves = inside.drain(..inside.len().div_ceil(3)).collect::<Vec<_>>();
                called.extend(leaves.into_iter().filter_map(|one| room.leave(one)));
                now += Duration::from_millis(100);
                called.extend(alarms.extract_if(.., |_, at| *at <= now).map(|(one, _)| one));
                rounds += 1;
                assert!(rounds < 1000, "{} of them are inside after {rounds} rounds", seen.len());
            }
        }
    }

    /// A replica that does not answer keeps nobody from beginning for long.
    #[test]
    fn who_began_a_second_ago_is_not_waited_for() {
        let (room, start) = (Room::new(None), Instant::now());
        let mut alarms: Vec<_> = (0..10_000).map(|n| (start, id(n))).collect();
        let mut last = start;
        while let Some((now, one)) = alarms.pop() {
            match room.enter(one, 10_000, true, now) {
                Entered::Later(after) => alarms.push((now + after, one)),
                entered => assert_eq!(entered, Entered::Inside),
            }
            last = last.max(now);
            alarms.sort_by_key(|(at, one)| std::cmp::Reverse((*at, *one)));
        }
        assert_eq!(room.state().newcomers.len(), 0);
        assert_eq!(last - start, Duration::from_secs(10_000 / BEGINNINGS as u64));
    }

    #[test]
    fn who_is_uploaded_makes_place_for_a_beginning_and_who_has_commits_comes_first() {
        let (room, now) = (Room::new(Some(1024)), Instant::now());
        let room_for = |files: usize| 768 - files * 6;
        let begin = |n| room.enter(id(n), room_for(100), true, now);
        assert!((0..100).all(|n| begin(n) == Entered::Inside));
        assert!(matches!(begin(100), Entered::First { .. }), "no open files");
        assert_eq!(room.has_begun(id(0)), None, "it is still inside");
        assert_eq!(room.leave(id(1)), Some(id(100)));

        let room = Room::new(None);
        let enter = |n, begins| room.enter(id(n), 1000, begins, now);
        assert!((0..BEGINNINGS).all(|n| enter(n, true) == Entered::Inside));
        let late: Vec<_> = (500..500 + BEGINNINGS).map(|n| enter(n, true)).collect();
        assert_eq!(late[0], Entered::Later(BEGINNING));
        assert_eq!(late[BEGINNINGS - 1], Entered::Later(2 * BEGINNING));
        assert_eq!(enter(900, false), Entered::Inside, "it has begun before");
        assert_eq!([room.has_begun(id(900)), room.has_begun(id(3))], [None, Some(id(500))]);
        assert_eq!(enter(500, true), Entered::Inside);
        assert_eq!([room.has_begun(id(3)), room.leave(id(900))], [None, None]);
        assert_eq!(room.leave(id(500)), Some(id(501)));
    }
}
