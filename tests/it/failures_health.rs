//! Whatever is wrong and stays so, health says so within twice the objective; and
//! a database beside it that has nothing to do with it stays well.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use brooklet::capture::{Database, Followed};
use brooklet::daemon::{Daemon, Destination, Job, Rehearsal};
use brooklet::drill::{Mode, Records};
use brooklet::health::{Cause, Grade, Objective, judge};
use brooklet::ltx::{self, Encoding, Header, Level};
use brooklet::replica::Replica;
use brooklet::status::DatabaseId;
use brooklet::storage::{Body, Error, ErrorKind, Key, MemoryStorage, Object, PutOptions, Result, Storage};
use brooklet::types::{Generation, PageSize, Pgno, Timestamp, Txid, TxidRange};
use brooklet::upkeep::Policy;
use bytes::Bytes;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::running::{TABLE, create, insert, job, keep_log, log_lines, replica_in, start};

/// Long enough for a machine with other things to do.
const OBJECTIVE: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(60);

/// How a storage behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Fine,
    Silent,
    Unreachable,
    Refusing,
    RefusingMerged,
    Damaging,
}

/// A storage that can be told how to behave.
struct Moody(Mutex<Mood>, MemoryStorage);

impl Moody {
    async fn mood(&self, key: &Key) -> Result<Mood> {
        let mood = *self.0.lock().unwrap();
        let merged = key.as_str().contains("/1/");
        match mood {
            Mood::Silent => {
                while *self.0.lock().unwrap() == Mood::Silent {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(Error::new(ErrorKind::Later, "the connection was lost".to_owned()))
            }
            Mood::Unreachable => Err(Error::new(ErrorKind::Later, "connection refused".to_owned())),
            Mood::Refusing => Err(Error::new(ErrorKind::Refused, "access denied".to_owned())),
            Mood::RefusingMerged if merged => Err(Error::new(ErrorKind::Refused, "access denied".to_owned())),
            mood => Ok(mood),
        }
    }
}

#[async_trait]
impl Storage for Moody {
    fn kind(&self) -> &'static str {
        "memory"
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        self.mood(&Key::ROOT).await?;
        self.1.list(prefix, after).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let mood = self.mood(&Key::ROOT).await?;
        let mut bytes = self.1.get(key, range).await?.to_vec();
        if mood == Mood::Damaging {
            bytes.iter_mut().skip(150).for_each(|byte| *byte ^= 1);
        }
        Ok(bytes.into())
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        self.mood(key).await?;
        self.1.put(key, body, options).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        self.mood(&Key::ROOT).await?;
        self.1.delete(keys).await
    }
}

/// One database, its replica, and what uses it.
struct Place {
    dir: TempDir,
    path: PathBuf,
    app: Mutex<Option<Connection>>,
    storage: Arc<Moody>,
    replica: Arc<Replica>,
}

impl Place {
    fn new(number: usize) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join(format!("app{number}.db"));
        let app = create(&path, TABLE);
        insert(&app, 3);
        let storage = Arc::new(Moody(Mutex::new(Mood::Fine), MemoryStorage::new()));
        let replica = replica_in(storage.clone(), "memory");
        Self { dir, path, app: Mutex::new(Some(app)), storage, replica }
    }

    fn job(&self) -> Job {
        let job = job(&self.path, &[&self.replica]);
        let levels = vec![Duration::from_millis(500)];
        let policy = Policy { levels, retention: None, ..Policy::default() };
        let with = |to: Destination| Destination { upkeep: Some(Arc::new(policy.clone())), ..to };
        Job { replicas: job.replicas.into_iter().map(with).collect(), ..job }
    }

    fn is_now(&self, mood: Mood) {
        *self.storage.0.lock().unwrap() = mood;
        self.write();
    }

    fn write(&self) {
        insert(self.app.lock().unwrap().as_ref().unwrap(), 1);
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        PathBuf::from(format!("{}{suffix}", self.path.display()))
    }

    fn state(&self) -> PathBuf {
        let name = self.path.file_name().unwrap().to_string_lossy();
        self.dir.path().join(format!(".{name}-litestream"))
    }
}

/// Somebody else continues the history under another name.
async fn overtake(replica: &Replica) {
    let next = replica.list_all().await.unwrap().next_txid();
    let txids = TxidRange::single(next);
    let timestamp = Timestamp::from(SystemTime::now());
    let page_size = PageSize::new(4096).unwrap();
    let generation = Generation::new(0xdead);
    let header = Header { page_size, commit: 1, txids, timestamp, wal: None, generation, proof: None };
    let mut encoder = ltx::Encoder::new(Vec::new(), header, Encoding::Block).unwrap();
    encoder.page(Pgno::FIRST, &[7; 4096]).unwrap();
    let (bytes, _) = encoder.finish().unwrap();
    replica.put_segment(Level::L0, txids, bytes.into(), timestamp).await.unwrap();
}

/// A failure of the catalogue, and what health calls it.
struct Fault {
    name: &'static str,
    cause: Cause,
    provoke: fn(&Place),
}

const fn fault(name: &'static str, cause: Cause, provoke: fn(&Place)) -> Fault {
    Fault { name, cause, provoke }
}

const FAULTS: &[Fault] = &[
    fault("F50: deleted", Cause::Absent, |place| {
        place.app.lock().unwrap().take();
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(place.beside(suffix));
        }
    }),
    fault("F51: replaced by something else", Cause::Broken, |place| {
        let other = place.dir.path().join("other");
        fs::write(&other, [b'x'; 8192]).unwrap();
        place.app.lock().unwrap().take();
        // With the old log beside it, it would be the old database as far as SQLite is concerned.
        fs::rename(other, &place.path).unwrap();
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(place.beside(suffix));
        }
    }),
    fault("F52: the log is removed", Cause::LostSight, |place| {
        fs::remove_file(place.beside("-wal")).unwrap();
    }),
    fault("F52: the wal-index is removed", Cause::LostSight, |place| {
        fs::remove_file(place.beside("-shm")).unwrap();
    }),
    fault("F59, F104: the local state is gone and cannot be made anew", Cause::Broken, |place| {
        fs::rename(place.state(), place.dir.path().join("gone")).unwrap();
        fs::write(place.state(), "in the way").unwrap();
        place.write();
    }),
    fault("F62: another writer takes the replica over", Cause::Fenced, |place| {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(overtake(&place.replica)));
        place.write();
    }),
    fault("F73, F75: the storage does not answer", Cause::Behind, |place| place.is_now(Mood::Silent)),
    fault("F77: the storage cannot be reached", Cause::Behind, |place| place.is_now(Mood::Unreachable)),
    fault("F72: the storage says no", Cause::Behind, |place| place.is_now(Mood::Refusing)),
    fault("F78, F81: merged segments cannot be stored", Cause::Upkeep, |place| place.is_now(Mood::RefusingMerged)),
    fault("F28, F70: what is on the replica is damaged", Cause::Drill, |place| place.is_now(Mood::Damaging)),
];

fn causes(daemon: &Daemon, id: DatabaseId) -> (Grade, Vec<Cause>) {
    let facts = daemon.board().read_one(id).unwrap();
    let judged = judge(&facts, Instant::now(), Objective::new(Some(OBJECTIVE))).overall;
    (judged.grade, judged.reasons.iter().map(|reason| reason.cause).collect())
}

async fn wait_until(what: impl Fn() -> String, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{}", what());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// F87: one fault per database, all at once.
#[tokio::test(flavor = "multi_thread")]
async fn every_fault_flips_health_within_twice_the_objective() {
    let places: Vec<Place> = (0..=FAULTS.len()).map(Place::new).collect();
    let (well, faulty) = places.split_last().unwrap();
    let daemon = start(places.iter().map(Place::job).collect());
    let ids = daemon.databases();
    let all = || ids.iter().map(|id| causes(&daemon, *id)).collect::<Vec<_>>();
    let confirmed = || daemon.board().read().iter().all(|f| f.captured.is_some() && f.behind().count() == 0);
    wait_until(
        || format!("at first all is well: {:?}", all()),
        || confirmed() && all().iter().all(|(grade, _)| *grade == Grade::Ok),
    )
    .await;
    for (fault, (place, id)) in FAULTS.iter().zip(faulty.iter().zip(&ids)) {
        if fault.cause == Cause::Drill {
            daemon.rehearse(vec![Rehearsal {
                database: *id,
                replica: 0,
                on: place.replica.clone(),
                mode: Mode::Stream,
                interval: Duration::from_millis(200),
                budget: None,
                base_on_failure: false,
                records: Records::new(place.dir.path()),
            }]);
        }
    }
    let begun = Instant::now();
    FAULTS.iter().zip(faulty).for_each(|(fault, place)| (fault.provoke)(place));
    let provoked = Instant::now();
    let mut flipped = vec![None; FAULTS.len()];
    while provoked.elapsed() < 2 * OBJECTIVE {
        well.write();
        for ((fault, id), flipped) in FAULTS.iter().zip(&ids).zip(&mut flipped) {
            let (grade, causes) = causes(&daemon, *id);
            if flipped.is_none() && grade == Grade::Failed && causes.contains(&fault.cause) {
                *flipped = Some(begun.elapsed());
            }
        }
        assert_ne!(causes(&daemon, *ids.last().unwrap()).0, Grade::Failed, "{:?}", log_lines(&well.path));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let now = all();
    for (((fault, place), flipped), now) in FAULTS.iter().zip(faulty).zip(&flipped).zip(&now) {
        assert!(flipped.is_some(), "{}: {now:?}\n{:#?}", fault.name, log_lines(&place.path));
    }
    // What the storage did wrong it does no more, and health says that too.
    for (fault, place) in FAULTS.iter().zip(faulty) {
        if matches!(fault.cause, Cause::Behind | Cause::Drill) {
            place.is_now(Mood::Fine);
        }
    }
    for (fault, id) in FAULTS.iter().zip(&ids).filter(|(f, _)| matches!(f.cause, Cause::Behind | Cause::Drill)) {
        wait_until(
            || format!("{} is over: {:?}", fault.name, causes(&daemon, *id)),
            || causes(&daemon, *id).0 == Grade::Ok,
        )
        .await;
    }
    daemon.stop(Duration::from_secs(1)).await;
}

/// F53, F46: what cannot be taken up at all is no quiet state either.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_followed_is_a_failure_too() {
    let (first, exclusive) = (Place::new(100), Place::new(101));
    let link = first.dir.path().join("link.db");
    std::os::unix::fs::symlink(&first.path, &link).unwrap();
    // An application that lets nobody else in.
    exclusive.app.lock().unwrap().take();
    let alone = in_another_process(&exclusive.path);
    let daemon = start(vec![first.job(), Job { capture: job(&link, &[]).capture, ..exclusive.job() }]);
    let late = daemon.add(exclusive.job()).unwrap();
    let ids = daemon.databases();
    let begun = Instant::now();
    let failed = |id| causes(&daemon, id).0 == Grade::Failed;
    let either = |a: DatabaseId, b: DatabaseId| failed(a) || failed(b);
    wait_until(
        || format!("{:?}", ids.iter().map(|id| causes(&daemon, *id)).collect::<Vec<_>>()),
        || either(ids[0], ids[1]) && failed(late),
    )
    .await;
    assert!(begun.elapsed() < 2 * OBJECTIVE + Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(alone);
    daemon.stop(Duration::from_secs(1)).await;
}

/// A process that keeps the database for itself until this is dropped.
struct Alone(std::process::Child);

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn in_another_process(path: &Path) -> Alone {
    use std::io::{BufRead, BufReader};
    let script = "import sqlite3, sys, time\n\
                  c = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                  c.execute('PRAGMA locking_mode=EXCLUSIVE')\n\
                  c.execute('INSERT INTO t(x) VALUES (1)')\n\
                  print('ready', flush=True)\n\
                  time.sleep(600)\n";
    let mut child = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(path)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    Alone(child)
}

/// F88: a database that nobody uses says nothing. An hour of looks, as the daemon makes them.
#[test]
fn an_idle_hour_leaves_no_line_in_the_log() {
    keep_log();
    let place = Place::new(102);
    let mut followed = Database::new(place.job().capture, Followed::default());
    let (start, wall) = (Instant::now(), SystemTime::now());
    let mut step = |seconds: u64| {
        let after = Duration::from_secs(seconds);
        followed.step(start + after, wall + after);
    };
    (0..60).for_each(&mut step);
    let before = log_lines(&place.path);
    (12..720).for_each(|look| step(look * 5));
    assert_eq!(log_lines(&place.path), before);
    assert!(before.len() < 5, "{before:#?}");
}

#[test]
fn the_next_txid_is_what_an_overtaker_takes() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let replica = replica_in(Arc::new(MemoryStorage::new()), "r");
        overtake(&replica).await;
        assert_eq!(replica.list_all().await.unwrap().position(), Txid::new(1));
    });
}
