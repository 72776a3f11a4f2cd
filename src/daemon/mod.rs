//! One pipeline per database: build, supervise, stop in order.
//!
//! A database is a value in a table. A few worker threads step those that have
//! something to do; uploads are tasks that exist only while there is something
//! to ship. An idle database costs its guard and one look every five seconds. How
//! many are open at a time is bounded by the limit on open files.
//!
//! Stopping goes downstream: a last capture, a last upload, then a report of
//! what is only local.

mod clock;
mod closing;
mod drill;
mod entry;
mod hurry;
mod numbers;
mod queue;
mod room;
mod shipping;
mod sync;
mod table;
mod upkeep;
mod watch;
mod workpiece;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::future::join_all;

pub use self::drill::Rehearsal;
pub use self::numbers::{Held, Kept, Numbers, ReplicaNumbers};
pub use self::sync::{SyncError, Synced};

use self::clock::Clock;
use self::drill::Rehearsals;
use self::entry::{Entry, Source};
use self::queue::Queue;
use self::room::Room;
use self::table::{Slot, Table};
use self::upkeep::Keeper;
use self::watch::Watch;
use crate::capture::{self, Followed, Limits};
use crate::disk::Disks;
use crate::ltx::Encoding;
use crate::replica::Replica;
use crate::spool::Together;
use crate::status::{Board, DatabaseFacts, DatabaseId, Health, ReplicaFacts, Work};
use crate::upkeep::Policy;

/// One database and where it goes.
#[derive(Clone)]
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
    pub upkeep: Option<Arc<Policy>>,
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
    /// Most bytes of local segments of all databases together; `None`: a share of the file system.
    pub spool_max_bytes: Option<u64>,
    /// Bytes of each file system that are to stay free; `None`: a small share of it.
    pub disk_free_floor: Option<u64>,
    /// How many files this process may have open; `None`: as many as it likes.
    pub open_files: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: 2,
            stopping_retry: Duration::from_millis(500),
            upkeep_jobs: 2,
            spool_max_bytes: None,
            disk_free_floor: None,
            open_files: None,
        }
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

/// Why the table of databases was left as it was.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// That database is there already, followed or stopped.
    #[error("database {path} is managed already", path = path.display())]
    AlreadyThere {
        /// The database.
        path: PathBuf,
    },
    /// No database has that place.
    #[error("there is no such database: it may have been removed meanwhile")]
    NotThere,
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
    /// The end of an earlier run takes longer than one was ready to wait.
    #[error("the database is still being stopped: try again later")]
    Busy,
}

/// What came of taking up or letting go of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It was done; what is only on this machine after that.
    Done(Vec<Unconfirmed>),
    /// It was so already.
    Already,
}

/// Uploads that begin at the same time. Each needs up to a few hundred kilobytes at first.
const UPLOADS_AT_ONCE: usize = 64;

/// The running daemon.
pub struct Daemon {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    table: Table,
    board: Board,
    followed: Followed,
    queue: Arc<Queue>,
    clock: Clock<DatabaseId>,
    last_policy: Mutex<Option<Arc<Policy>>>,
    /// When upkeep of a replica is due that nothing is uploaded to.
    upkeep_clock: Clock<(DatabaseId, usize)>,
    room: Room,
    watch: Watch,
    runtime: tokio::runtime::Handle,
    stopping_retry: Duration,
    started: Instant,
    /// Permits for uploads that have just begun.
    turns: tokio::sync::Semaphore,
    /// What all databases share.
    limits: Limits,
    /// Permits for upkeep. The bound on memory and traffic of its jobs is theirs times this.
    upkeep_jobs: tokio::sync::Semaphore,
    /// Permits for last captures.
    closers: tokio::sync::Semaphore,
    rehearsals: Rehearsals,
}

impl Daemon {
    /// Starts following and shipping. Needs a tokio runtime. Of several jobs for one path, only the first counts.
    pub fn start(jobs: Vec<Job>, settings: Settings) -> Self {
        let queue = Arc::new(Queue::default());
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let shared = Arc::new(Shared {
            table: Table::default(),
            board: Board::default(),
            followed: Followed::default(),
            watch: Watch::new(&queue),
            queue,
            clock: Clock::default(),
            last_policy: Mutex::default(),
            upkeep_clock: Clock::default(),
            room: Room::new(settings.open_files),
            runtime: tokio::runtime::Handle::current(),
            stopping_retry: settings.stopping_retry,
            started: Instant::now(),
            turns: tokio::sync::Semaphore::new(UPLOADS_AT_ONCE),
            limits: Limits {
                disks: Arc::new(Disks::new(settings.disk_free_floor)),
                spools: Some(Arc::new(Together::new(settings.spool_max_bytes))),
                rivals: Arc::default(),
            },
            upkeep_jobs: tokio::sync::Semaphore::new(settings.upkeep_jobs.max(1)),
            closers: tokio::sync::Semaphore::new(processors),
            rehearsals: Rehearsals::default(),
        });
        let clock = spawn("clock", &shared, |shared| {
            while let Some(database) = shared.clock.next() {
                shared.queue.push(database);
            }
        });
        let upkeep_clock = spawn("upkeep-clock", &shared, |shared| {
            while let Some((database, replica)) = shared.upkeep_clock.next() {
                if let Some(entry) = shared.table.entry(database) {
                    Keeper::is_due(shared, &entry, replica);
                }
            }
        });
        let mut threads = vec![clock, upkeep_clock];
        threads.extend((0..settings.workers.max(1)).map(|n| {
            spawn(&format!("capture-{n}"), &shared, |shared| {
                while let Some(database) = shared.queue.pop() {
                    let Some(entry) = shared.table.entry(database) else { continue };
                    if catch_unwind(AssertUnwindSafe(|| entry.step(shared))).is_err() {
                        entry.panicked(shared);
                    }
                }
            })
        }));
        drill::start(&shared);
        let daemon = Self { shared, threads: Mutex::new(threads) };
        for job in jobs {
            if let Err(error) = daemon.add(job) {
                tracing::error!("{error}");
            }
        }
        daemon
    }

    /// What is true now.
    pub fn board(&self) -> &Board {
        &self.shared.board
    }

    /// Every database, in the order in which they were added.
    pub fn databases(&self) -> Vec<DatabaseId> {
        self.shared.table.slots().iter().map(|slot| slot.id).collect()
    }

    /// The database with exactly this path.
    pub fn find(&self, path: &Path) -> Option<DatabaseId> {
        self.shared.table.find(path)
    }

    /// Whether SQLite may have a file open in this process.
    pub fn follows_file(&self, device_and_inode: (u64, u64)) -> bool {
        self.shared.followed.contains(device_and_inode)
    }

    /// What was asked for about a database.
    pub fn job(&self, database: DatabaseId) -> Option<Job> {
        Some(self.shared.table.slot(database)?.job())
    }

    /// Numbers about one database that is followed.
    pub fn counters(&self, database: DatabaseId) -> Option<Work> {
        self.shared.table.entry(database).map(|entry| entry.last_hold().counters())
    }

    /// Sizes and counts of one database as they are now.
    pub fn numbers(&self, database: DatabaseId, facts: &DatabaseFacts) -> Option<Numbers> {
        let slot = self.shared.table.slot(database)?;
        Some(numbers::numbers(&slot.capture, facts, slot.entry().as_deref()))
    }

    /// What is known to be on one replica of a database that is followed.
    pub fn kept(&self, database: DatabaseId, replica: usize) -> Option<Kept> {
        Some(self.shared.table.entry(database)?.shipping.get(replica)?.kept())
    }

    /// Takes up another database.
    ///
    /// # Errors
    /// It is there already, or the daemon is stopping.
    pub fn add(&self, job: Job) -> Result<DatabaseId, RegistryError> {
        self.make_room(job, Health::Starting, |slot| self.shared.begin(slot))
    }

    /// The same, but it is not followed before [`Daemon::resume`].
    ///
    /// # Errors
    /// It is there already, or the daemon is stopping.
    pub fn add_stopped(&self, job: Job) -> Result<DatabaseId, RegistryError> {
        self.make_room(job, Health::Stopped, |_| ())
    }

    fn make_room(&self, mut job: Job, health: Health, begin: impl FnOnce(&Slot)) -> Result<DatabaseId, RegistryError> {
        job.capture.limits = self.shared.limits.clone();
        job.replicas.iter_mut().filter_map(|to| to.upkeep.as_mut()).for_each(|policy| self.shared.share(policy));
        let pin_up = |job: &Job| {
            let replicas = job.replicas.iter().map(fresh_facts).collect();
            let (path, interval) = (job.capture.path.clone(), job.capture.sync_interval);
            self.shared.board.add(DatabaseFacts { path, health, replicas, interval, ..DatabaseFacts::default() })
        };
        self.shared.table.add(job, pin_up, begin)
    }

    /// Stops a database and forgets it.
    ///
    /// # Errors
    /// There is no such database, or it was still being stopped when the time was over.
    pub async fn remove(&self, database: DatabaseId, patience: Duration) -> Result<Vec<Unconfirmed>, RegistryError> {
        let deadline = tokio::time::Instant::now() + patience;
        let slot = self.shared.table.slot(database).ok_or(RegistryError::NotThere)?;
        Ok(self.end(slot, deadline, After::Removed).await?.unwrap_or_default())
    }

    /// Captures a last time, waits until every replica has everything or the time
    /// is over, and lets go of the database. It stays in the table.
    ///
    /// # Errors
    /// There is no such database, or it was still being stopped when the time was over.
    pub async fn pause(&self, database: DatabaseId, patience: Duration) -> Result<Changed, RegistryError> {
        let deadline = tokio::time::Instant::now() + patience;
        let slot = self.shared.table.slot(database).ok_or(RegistryError::NotThere)?;
        let ended = self.end(slot, deadline, After::Paused).await?;
        Ok(ended.map_or(Changed::Already, Changed::Done))
    }

    /// Takes a database up again.
    ///
    /// # Errors
    /// There is no such database, the daemon is stopping, or the database was still being stopped when the time was
    /// over.
    pub async fn resume(&self, database: DatabaseId, patience: Duration) -> Result<Changed, RegistryError> {
        let slot = self.shared.table.slot(database).ok_or(RegistryError::NotThere)?;
        let turn = tokio::time::timeout(patience, slot.turn.lock()).await;
        let _turn = turn.map_err(|_| RegistryError::Busy)?;
        // It may have gone while one waited.
        self.shared.table.slot(database).ok_or(RegistryError::NotThere)?;
        if slot.entry().is_some() {
            return Ok(Changed::Already);
        }
        if self.shared.table.is_closed() {
            return Err(RegistryError::Stopping);
        }
        self.shared.board.update(database, |facts| {
            facts.health = Health::Starting;
            for (replica, destination) in facts.replicas.iter_mut().zip(&slot.replicas) {
                let drill = replica.drill.take();
                *replica = ReplicaFacts { drill, ..fresh_facts(destination) };
            }
        });
        self.shared.begin(&slot);
        Ok(Changed::Done(Vec::new()))
    }

    /// Also if nobody waits for it any more: half an end would be worse than either.
    async fn end(
        &self,
        slot: Arc<Slot>,
        deadline: tokio::time::Instant,
        after: After,
    ) -> Result<Option<Vec<Unconfirmed>>, RegistryError> {
        let shared = self.shared.clone();
        let work = self.shared.runtime.spawn(async move { shared.end(&slot, deadline, after).await });
        work.await.unwrap_or(Err(RegistryError::Busy))
    }

    /// Captures a last time, waits until every replica has everything or the
    /// time is over, and lets go of the databases. Tells what is only here.
    pub async fn stop(&self, patience: Duration) -> Vec<Unconfirmed> {
        let deadline = tokio::time::Instant::now() + patience;
        self.shared.table.close();
        self.shared.rehearsals.end();
        self.shared.clock.stop();
        self.shared.upkeep_clock.stop();
        self.shared.queue.stop();
        let slots = self.shared.table.slots();
        let ends = slots.iter().map(|slot| async move {
            let path = slot.capture.path.to_path_buf();
            match self.shared.end(slot, deadline, After::Stopped).await {
                Ok(unconfirmed) => unconfirmed.unwrap_or_default(),
                Err(error) => vec![Unconfirmed { path, replica: None, reason: error.to_string() }],
            }
        });
        let unconfirmed = join_all(ends).await.concat();
        let threads = std::mem::take(&mut *self.threads.lock().expect("no holder of this lock panics"));
        let ended = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
        // One that hangs in a step was told of above.
        let _ = tokio::time::timeout_at(deadline, ended).await;
        unconfirmed
    }
}

fn spawn(name: &str, shared: &Arc<Shared>, work: impl FnOnce(&Arc<Shared>) + Send + 'static) -> JoinHandle<()> {
    let shared = shared.clone();
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(move || work(&shared)).expect("the system has room for a handful of threads")
}

fn fresh_facts(to: &Destination) -> ReplicaFacts {
    ReplicaFacts {
        name: to.replica.name().to_owned(),
        kind: to.replica.kind(),
        interval: to.sync_interval,
        ..ReplicaFacts::default()
    }
}

/// What becomes of a database whose run ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Removed,
    Paused,
    /// With the daemon; what is known about it stays on the board.
    Stopped,
}

impl Shared {
    /// Of thousands of databases nearly all have the same policy: it is there once.
    fn share(&self, policy: &mut Arc<Policy>) {
        let mut last = self.last_policy.lock().expect("no holder of this lock panics");
        match &*last {
            Some(same) if same == policy => *policy = same.clone(),
            _ => *last = Some(policy.clone()),
        }
    }

    fn begin(self: &Arc<Self>, slot: &Slot) {
        let entry = Arc::new(Entry::new(slot, self));
        slot.set(Some(entry.clone()));
        self.queue.push(slot.id);
    }

    /// Ends the run of a database. `None`: it had none.
    async fn end(
        self: &Arc<Self>,
        slot: &Slot,
        deadline: tokio::time::Instant,
        after: After,
    ) -> Result<Option<Vec<Unconfirmed>>, RegistryError> {
        let turn = tokio::time::timeout_at(deadline, slot.turn.lock()).await;
        let _turn = turn.map_err(|_| RegistryError::Busy)?;
        if after == After::Removed && self.table.slot(slot.id).is_none() {
            return Err(RegistryError::NotThere);
        }
        let unconfirmed = match slot.entry() {
            Some(entry) => Some(closing::close(self, &entry, deadline).await),
            None => None,
        };
        slot.set(None);
        match after {
            After::Removed => {
                self.rehearsals.remove(slot.id);
                self.table.remove(slot.id);
                self.board.remove(slot.id);
            }
            After::Paused => self.board.update(slot.id, |facts| (facts.health, facts.seen) = (Health::Stopped, None)),
            After::Stopped => {}
        }
        Ok(unconfirmed)
    }
}
