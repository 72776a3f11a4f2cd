//! One pipeline per database: build, supervise, stop in order.
//!
//! A database is a value in a table. A few worker threads step those that have
//! something to do; uploads are tasks that exist only while there is something
//! to ship. An idle database costs its guard and one look every five seconds.
//!
//! Stopping goes downstream: a last capture, a last upload, then a report of
//! what is only local.

mod clock;
mod drill;
mod queue;
mod shipping;
mod upkeep;
mod watch;
mod workpiece;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch as signal;

pub use self::drill::{Rehearsal, Rehearsals};

use self::clock::Clock;
use self::queue::Queue;
use self::shipping::Shipping;
use self::upkeep::Keeper;
use self::watch::{Watch, Watched};
use self::workpiece::Workpiece;
use crate::capture::{self, Database, Followed, Stepped};
use crate::ltx::Encoding;
use crate::replica::Replica;
use crate::spool::Spool;
use crate::status::{Board, Captured, DatabaseFacts, Health, ReplicaFacts};
use crate::types::Generation;
use crate::upkeep::Policy;

/// One database and where it goes.
pub struct Job {
    /// How it is followed.
    pub capture: capture::Options,
    /// Its replicas.
    pub replicas: Vec<Destination>,
}

/// One replica of one database.
#[derive(Clone)]
pub struct Destination {
    /// Where it is.
    pub replica: Arc<Replica>,
    /// How segments are encoded there.
    pub encoding: Encoding,
    /// Objects are at least this far apart.
    pub sync_interval: Duration,
    /// Most local segments in one object; 0 = as many as the program's own bound allows.
    pub max_segments: usize,
    /// How its segments are merged and how long they are kept; `None`: neither.
    pub upkeep: Option<Policy>,
    /// The credentials may only create and read: it is not listed, and nothing is deleted from it.
    pub create_only: bool,
}

/// How the daemon as a whole behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Threads that capture; at least one.
    pub workers: usize,
    /// The pause between tries of a failed upload while stopping.
    pub stopping_retry: Duration,
    /// Merges and deletions under way at once, over all databases; at least one.
    pub upkeep_jobs: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { workers: 2, stopping_retry: Duration::from_millis(500), upkeep_jobs: 2 }
    }
}

/// What is only on this machine at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unconfirmed {
    /// The database.
    pub path: PathBuf,
    /// The replica that lacks something, or `None` when the last capture failed.
    pub replica: Option<String>,
    /// Why.
    pub reason: String,
}

/// A live database that nobody wakes is looked at this often: the fallback for
/// lost events, and for files that were replaced.
const POLL: Duration = Duration::from_secs(5);
/// The same where events are known not to work.
const POLL_WITHOUT_EVENTS: Duration = Duration::from_secs(1);
/// A wake-up nearer than this needs no watch.
const NEAR: Duration = Duration::from_millis(60);

/// The running daemon.
pub struct Daemon {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    databases: Vec<Entry>,
    board: Board,
    queue: Arc<Queue>,
    clock: Clock,
    watch: Watch,
    runtime: tokio::runtime::Handle,
    stopping: signal::Sender<bool>,
    stopping_retry: Duration,
    started: Instant,
    /// Permits for upkeep. The bound on memory and traffic of its jobs is theirs times this.
    upkeep_jobs: tokio::sync::Semaphore,
}

struct Entry {
    path: PathBuf,
    capture: Workpiece<Database>,
    /// What the uploads work on; set once the database was first taken up.
    source: Mutex<Option<Source>>,
    events: Mutex<Events>,
    shipping: Vec<Shipping>,
}

#[derive(Clone)]
struct Source {
    spool: Arc<Spool>,
    generation: Generation,
}

/// Whether file events can be relied on for this database.
#[derive(Clone, Copy, Debug, Default)]
struct Events {
    /// Commits found by polling although a watch was set, since the last event.
    missed: u32,
}

impl Events {
    /// One can be a race between the event and the poll; several in a row mean a
    /// file system without events.
    const TOLERATED: u32 = 3;

    fn work(self) -> bool {
        self.missed <= Self::TOLERATED
    }
}

impl Daemon {
    /// Starts following and shipping. Needs a tokio runtime.
    pub fn start(jobs: Vec<Job>, settings: Settings) -> Self {
        let followed = Followed::default();
        let facts = jobs.iter().map(|job| DatabaseFacts {
            path: job.capture.path.clone(),
            replicas: job
                .replicas
                .iter()
                .map(|d| ReplicaFacts { name: d.replica.name().to_owned(), ..ReplicaFacts::default() })
                .collect(),
            ..DatabaseFacts::default()
        });
        let board = Board::new(facts.collect());
        let queue = Arc::new(Queue::new(jobs.len()));
        let databases: Vec<Entry> =
            jobs.into_iter().enumerate().map(|(index, job)| Entry::new(job, &followed, &queue, index)).collect();
        let shared = Arc::new(Shared {
            board,
            watch: Watch::new(&queue),
            queue,
            clock: Clock::default(),
            runtime: tokio::runtime::Handle::current(),
            stopping: signal::Sender::new(false),
            stopping_retry: settings.stopping_retry,
            started: Instant::now(),
            upkeep_jobs: tokio::sync::Semaphore::new(settings.upkeep_jobs.max(1)),
            databases,
        });
        (0..shared.databases.len()).for_each(|database| shared.queue.push(database));
        Keeper::start_all(&shared);
        let mut threads = vec![spawn("clock", &shared, |shared| {
            while let Some(database) = shared.clock.next() {
                shared.queue.push(database);
            }
        })];
        threads.extend((0..settings.workers.max(1)).map(|n| {
            spawn(&format!("capture-{n}"), &shared, |shared| {
                while let Some(database) = shared.queue.pop() {
                    if catch_unwind(AssertUnwindSafe(|| Shared::step(shared, database))).is_err() {
                        shared.panicked(database);
                    }
                }
            })
        }));
        Self { shared, threads }
    }

    /// What is true now.
    pub fn board(&self) -> &Board {
        &self.shared.board
    }

    /// Numbers about one database.
    pub fn counters(&self, database: usize) -> Option<capture::Counters> {
        self.shared.databases.get(database).map(|entry| entry.capture.lock().counters())
    }

    /// Captures a last time, waits until every replica has everything or the
    /// deadline has passed, and lets go of the databases. Tells what is only here.
    pub async fn stop(self, patience: Duration) -> Vec<Unconfirmed> {
        let deadline = tokio::time::Instant::now() + patience;
        self.shared.clock.stop();
        self.shared.queue.stop();
        let shared = self.shared.clone();
        let failures = tokio::task::spawn_blocking(move || {
            self.threads.into_iter().for_each(|thread| drop(thread.join()));
            shared.close_all()
        });
        // Nothing is begun any more; what is under way has until the end.
        self.shared.keepers().for_each(Keeper::stop);
        let mut unconfirmed = match tokio::time::timeout_at(deadline, failures).await {
            Ok(Ok(failures)) => failures,
            Ok(Err(error)) => vec![Unconfirmed { path: PathBuf::new(), replica: None, reason: error.to_string() }],
            Err(_) => self.shared.all_failed("the last capture did not end in time"),
        };
        self.shared.stopping.send_replace(true);
        let mut changes = self.shared.board.watch();
        while self.shared.may_catch_up() && tokio::time::timeout_at(deadline, changes.changed()).await.is_ok() {}
        // Whoever starts next must not meet a request that is still on its way.
        let ended = futures::future::join_all(self.shared.keepers().map(Keeper::ended));
        let _ = tokio::time::timeout_at(deadline, ended).await;
        let shippings = self.shared.databases.iter().flat_map(|entry| &entry.shipping);
        shippings.for_each(Shipping::end);
        self.shared.keepers().for_each(Keeper::end);
        unconfirmed.extend(self.shared.behind());
        unconfirmed
    }
}

fn spawn(name: &str, shared: &Arc<Shared>, work: impl FnOnce(&Arc<Shared>) + Send + 'static) -> JoinHandle<()> {
    let shared = shared.clone();
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(move || work(&shared)).expect("the system has room for a handful of threads")
}

impl Entry {
    fn new(job: Job, followed: &Followed, queue: &Arc<Queue>, index: usize) -> Self {
        let (path, state_dir) = (job.capture.path.clone(), job.capture.state_dir());
        Self {
            capture: Workpiece::new(Database::new(job.capture, followed.clone()), queue.clone(), index),
            source: Mutex::new(None),
            events: Mutex::new(Events::default()),
            shipping: job.replicas.into_iter().map(|to| Shipping::new(to, &path, &state_dir)).collect(),
            path,
        }
    }

    fn source(&self) -> Option<Source> {
        self.source.lock().expect("no holder of this lock panics").clone()
    }
}

impl Shared {
    /// Steps one database and arranges for the next step.
    fn step(self: &Arc<Self>, index: usize) {
        let entry = &self.databases[index];
        // If a long step or a base is at work on it, the threads are for the other databases meanwhile.
        let Some(mut database) = entry.capture.lock_if_free() else { return };
        let log_path = database.options().log_path();
        let watched = self.watch.disarm_fired(&log_path);
        if watched == Watched::Fired {
            database.files_changed();
        }
        let mut stepped = self.step_once(index, &mut database);
        let found_something = stepped.again.is_some_and(|at| at <= Instant::now() + NEAR);
        Self::judge_events(entry, watched, found_something);
        let now = Instant::now();
        let far = stepped.again.is_none_or(|at| at > now + NEAR);
        let mut poll = POLL;
        if stepped.live && far {
            let relied = entry.events.lock().expect("no holder of this lock panics").work();
            if self.watch.arm(index, &log_path) && relied {
                // A commit between the look and the watch would otherwise go unnoticed, and so would a new file: the
                // watch is on whatever has the name now.
                database.files_changed();
                stepped = self.step_once(index, &mut database);
            } else {
                poll = POLL_WITHOUT_EVENTS;
            }
        }
        let at = match (stepped.live, stepped.again) {
            (true, Some(at)) => Some(at.min(now + poll)),
            (true, None) => Some(now + poll),
            (false, again) => {
                self.watch.disarm(&log_path);
                again
            }
        };
        self.clock.set(index, at);
    }

    /// A fault in the program: the database is let go and taken up anew, which
    /// proves everything that it uses. The others never notice.
    fn panicked(&self, index: usize) {
        let entry = &self.databases[index];
        entry.capture.lock().release();
        let reason = "an internal error stopped this step; please report it together with the log".to_owned();
        tracing::error!(db = entry.path.display().to_string(), error = reason, "sync error");
        self.board.update(index, |facts| facts.health = Health::Broken(reason));
        self.clock.set(index, Some(Instant::now() + POLL));
    }

    fn step_once(self: &Arc<Self>, index: usize, database: &mut Database) -> Stepped {
        let stepped = database.step(Instant::now(), SystemTime::now());
        self.pin_up(index, database, Some(&stepped));
        stepped
    }

    /// Records what capture knows and wakes the uploads if there is news.
    fn pin_up(self: &Arc<Self>, index: usize, database: &Database, stepped: Option<&Stepped>) {
        let entry = &self.databases[index];
        let position = database.position();
        let captured =
            position.map(|p| Captured { generation: p.generation, batch: p.point.seq.get(), timestamp: p.timestamp });
        let mut news = false;
        self.board.update(index, |facts| {
            if let Some(stepped) = stepped {
                facts.health = match (&stepped.trouble, stepped.live) {
                    (None, true) => Health::Live,
                    (Some(reason), false) if stepped.waiting => Health::Waiting(reason.clone()),
                    (Some(reason), _) => Health::Broken(reason.clone()),
                    (None, false) => Health::Starting,
                };
            }
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
            *entry.source.lock().expect("no holder of this lock panics") = Some(source);
        }
        if news {
            (0..entry.shipping.len()).for_each(|replica| Shipping::wake(self, index, replica));
        }
    }

    fn judge_events(entry: &Entry, watched: Watched, found_something: bool) {
        let mut events = entry.events.lock().expect("no holder of this lock panics");
        match watched {
            Watched::Fired => events.missed = 0,
            Watched::Quiet if found_something => {
                events.missed = events.missed.saturating_add(1);
                if events.missed == Events::TOLERATED + 1 {
                    tracing::warn!(
                        path = entry.path.display().to_string(),
                        "commits come without file events: looking every second from now on"
                    );
                }
            }
            Watched::Quiet | Watched::Not => {}
        }
    }

    /// Last capture of every database, on as many threads as there are processors.
    fn close_all(self: &Arc<Self>) -> Vec<Unconfirmed> {
        let next = std::sync::atomic::AtomicUsize::new(0);
        let failures = Mutex::new(Vec::new());
        let threads = std::thread::available_parallelism().map_or(2, usize::from).min(self.databases.len().max(1));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(failure) = self.close_next(&next) {
                        failures.lock().expect("no holder of this lock panics").extend(failure);
                    }
                });
            }
        });
        failures.into_inner().expect("all threads have ended")
    }

    fn close_next(self: &Arc<Self>, next: &std::sync::atomic::AtomicUsize) -> Option<Option<Unconfirmed>> {
        let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let entry = self.databases.get(index)?;
        let mut database = entry.capture.lock();
        let (now, wall) = (Instant::now(), SystemTime::now());
        let finished = database.finish(now, wall);
        self.pin_up(index, &database, None);
        database.release();
        Some(finished.err().map(|error| Unconfirmed {
            path: entry.path.clone(),
            replica: None,
            reason: format!("the last capture failed: {}", error.chain()),
        }))
    }

    fn keepers(&self) -> impl Iterator<Item = &Keeper> {
        self.databases.iter().flat_map(|entry| &entry.shipping).filter_map(Shipping::keeper)
    }

    fn all_failed(&self, reason: &str) -> Vec<Unconfirmed> {
        let one = |e: &Entry| Unconfirmed { path: e.path.clone(), replica: None, reason: reason.to_owned() };
        self.databases.iter().map(one).collect()
    }

    /// Whether waiting may help some replica that lacks something.
    fn may_catch_up(&self) -> bool {
        self.board.read().iter().any(|facts| facts.behind().any(|replica| !replica.fenced))
    }

    /// The replicas that lack something that is captured.
    fn behind(&self) -> Vec<Unconfirmed> {
        let mut found = Vec::new();
        for facts in self.board.read() {
            for replica in facts.behind() {
                found.push(Unconfirmed {
                    path: facts.path.clone(),
                    replica: Some(replica.name.clone()),
                    reason: replica.error.clone().unwrap_or_else(|| "its upload did not end in time".to_owned()),
                });
            }
        }
        found
    }
}
