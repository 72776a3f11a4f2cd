//! A running daemon in this process: its database, its replicas, and the oracle
//! that compares the two. What tests of the whole pipeline share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use brooklet::capture;
use brooklet::daemon::{Daemon, Destination, Job, Settings};
use brooklet::ltx::{Decoder, Encoding, Level};
use brooklet::replica::{Layout, Replica};
use brooklet::restore::{IntegrityCheck, Limits, Options, Progress, Target, restore};
use brooklet::status::DatabaseFacts;
use brooklet::storage::{Key, Storage};
use brooklet::types::{Generation, Pgno, RollingChecksum, page_checksum};
use rusqlite::{Connection, ErrorCode};

use crate::capture::consistent_copy;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)";

/// A database in WAL mode. Its name is unique, so that it can be found in the log.
pub(crate) fn database(dir: &Path, setup: &str) -> (PathBuf, Connection) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let path = dir.join(format!("app{}.db", COUNT.fetch_add(1, Ordering::Relaxed)));
    let app = create(&path, setup);
    (path, app)
}

pub(crate) fn create(path: &Path, setup: &str) -> Connection {
    let app = Connection::open(path).unwrap();
    app.busy_timeout(Duration::from_secs(5)).unwrap();
    // These tests cut no power, and do not wait for the disk.
    app.execute_batch("PRAGMA journal_mode=wal; PRAGMA synchronous=off").unwrap();
    app.execute_batch(setup).unwrap();
    app
}

pub(crate) fn insert(app: &Connection, rows: usize) {
    for _ in 0..rows {
        app.execute("INSERT INTO t(x) VALUES (randomblob(500))", []).unwrap();
    }
}

/// Tries a checkpoint; that somebody is in its way is ordinary.
pub(crate) fn checkpoint(app: &Connection, mode: &str) {
    match app.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())) {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {}
        done => done.unwrap(),
    }
}

pub(crate) fn replica_in(storage: Arc<dyn Storage>, name: &str) -> Arc<Replica> {
    Arc::new(Replica::new(name.to_owned(), storage, Key::new(name).unwrap(), Layout::Decimal))
}

pub(crate) fn destination(replica: &Arc<Replica>) -> Destination {
    Destination {
        replica: replica.clone(),
        encoding: Encoding::Block,
        sync_interval: Duration::from_millis(100),
        max_segments: 0,
        upkeep: None,
        create_only: false,
    }
}

pub(crate) fn job(path: &Path, replicas: &[&Arc<Replica>]) -> Job {
    let options = capture::Options { sync_interval: Duration::from_millis(100), ..capture::Options::new(path) };
    Job { capture: options, replicas: replicas.iter().map(|r| destination(r)).collect() }
}

pub(crate) fn start(jobs: Vec<Job>) -> Daemon {
    keep_log();
    Daemon::start(jobs, Settings::default())
}

/// Follows one database and waits until all replicas have it.
pub(crate) async fn follow(path: &Path, replicas: &[&Arc<Replica>]) -> Daemon {
    let daemon = start(vec![job(path, replicas)]);
    wait_for(&daemon, "the replicas have the database", |f| f.captured.is_some() && f.behind().count() == 0).await;
    daemon
}

pub(crate) async fn stop(daemon: Daemon) {
    assert_eq!(daemon.stop(PATIENCE).await, []);
}

pub(crate) async fn wait_for(daemon: &Daemon, what: &str, done: impl Fn(&DatabaseFacts) -> bool) {
    wait_within(PATIENCE, daemon, what, done).await;
}

pub(crate) async fn wait_within(
    patience: Duration,
    daemon: &Daemon,
    what: &str,
    done: impl Fn(&DatabaseFacts) -> bool,
) {
    let deadline = Instant::now() + patience;
    let mut changes = daemon.board().watch();
    loop {
        let facts = daemon.board().read();
        if facts.iter().all(&done) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {facts:#?}");
        let _ = tokio::time::timeout(Duration::from_millis(200), changes.changed()).await;
    }
}

/// Waits until something that is looked at again and again is so.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn generation(daemon: &Daemon) -> Generation {
    daemon.board().read()[0].captured.unwrap().generation
}

/// What a restore gives.
pub(crate) async fn try_restore(replica: &Replica, target: Target) -> Result<Vec<u8>, String> {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        target,
        overwrite: false,
        delta: false,
        parallelism: 3,
        limits: Limits::default(),
        integrity_check: IntegrityCheck::Full,
    };
    let path = dir.path().join("restored");
    let restored = restore(std::slice::from_ref(replica), &path, &options, &Arc::new(Progress::default())).await;
    restored.map_err(|error| format!("{error}: {error:?}"))?;
    Ok(std::fs::read(&path).unwrap())
}

pub(crate) async fn restored(replica: &Replica) -> Vec<u8> {
    try_restore(replica, Target::Latest).await.unwrap()
}

/// The byte oracle: what a restore gives is the database, page by page.
pub(crate) async fn assert_restores(replica: &Replica, path: &Path) {
    assert_same_pages(&restored(replica).await, &consistent_copy(path));
}

pub(crate) fn assert_same_pages(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len(), "the sizes differ");
    for (index, (a, b)) in found.chunks(4096).zip(expected.chunks(4096)).enumerate() {
        assert!(a == b, "page {} differs", index + 1);
    }
}

/// Waits until a restore gives the database as it is, which nobody writes to now.
pub(crate) async fn arrives(replica: &Replica, path: &Path) {
    let expected = consistent_copy(path);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match try_restore(replica, Target::Latest).await {
            Ok(found) if found == expected => return,
            found => assert!(
                Instant::now() < deadline,
                "not there in time: {:?}",
                found.map(|bytes| format!("{} bytes instead of {}", bytes.len(), expected.len()))
            ),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Applies everything at level 0 in order, which must be one unbroken history
/// from TXID 1, and gives the database.
pub(crate) async fn rebuild(replica: &Replica) -> Vec<u8> {
    let listing = replica.list_all().await.unwrap();
    let mut pages: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut last = 0;
    let mut proven = None;
    for segment in listing.level(Level::L0) {
        assert_eq!(segment.txids.min(), segment.txids.max());
        last += 1;
        assert_eq!(segment.txids.max().get(), last, "no hole at level 0");
        let bytes = replica.read(segment, 0..segment.size).await.unwrap();
        let mut decoder = Decoder::new(&bytes[..]).unwrap();
        let header = *decoder.header();
        let mut page = Vec::new();
        while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
            pages.insert(pgno.get(), page.clone());
        }
        pages.retain(|pgno, _| *pgno <= header.commit);
        let proof = header.proof.unwrap();
        assert!(proof.before.is_none() || proof.before == proven, "segment {last} does not connect");
        let mut sum = RollingChecksum::default();
        for (pgno, page) in &pages {
            sum.toggle(page_checksum(Pgno::new(*pgno).unwrap(), page));
        }
        assert_eq!(sum.checksum(), proof.after, "the proof in segment {last}");
        proven = Some(proof.after);
    }
    pages.into_values().flatten().collect()
}

/// The TXIDs at level 0 of segments that hold every page.
pub(crate) async fn bases(replica: &Replica) -> Vec<u64> {
    let listing = replica.list(Level::L0).await.unwrap();
    let mut found = Vec::new();
    for segment in &listing {
        let header = replica.read_header(segment).await.unwrap();
        if header.proof.is_none_or(|proof| proof.before.is_none()) {
            found.push(segment.txids.max().get());
        }
    }
    found
}

/// Every object of a replica, byte by byte.
pub(crate) async fn objects(replica: &Replica) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for segment in replica.list_all().await.unwrap().segments() {
        let bytes = replica.read(segment, 0..segment.size).await.unwrap();
        found.insert(segment.to_string(), bytes.to_vec());
    }
    found
}

/// The files of a directory and its subdirectories.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                _ => found.push(entry.path()),
            }
        }
    }
    found.sort();
    found
}

pub(crate) fn unfinished_files_below(dir: &Path) -> usize {
    files_below(dir).iter().filter(|path| path.extension().is_some_and(|end| end == "tmp")).count()
}

/// What the program has logged about a database since this process began, at
/// levels a user sees by default.
pub(crate) fn log_lines(about: &Path) -> Vec<String> {
    let (path, name) = (about.display().to_string(), about.file_name().unwrap().to_string_lossy());
    let (path, name) = (format!("{path:?}"), format!("db={name:?}"));
    let lines = log().lock().unwrap();
    lines.iter().filter(|line| line.contains(&path) || line.contains(&name)).cloned().collect()
}

fn log() -> &'static Mutex<Vec<String>> {
    static LINES: OnceLock<Mutex<Vec<String>>> = OnceLock::new();
    LINES.get_or_init(Mutex::default)
}

/// Has the program's log kept for [`log_lines`]. Call it before the daemon starts.
pub(crate) fn keep_log() {
    use tracing_subscriber::layer::SubscriberExt;
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Keep));
    });
}

struct Keep;

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Keep {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: tracing_subscriber::layer::Context<'_, S>) -> bool {
        *metadata.level() <= tracing::Level::INFO && metadata.target().starts_with("brooklet")
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!(" {}={value:?}", field.name()));
            }
        }
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        log().lock().unwrap().push(line.0);
    }
}
