//! Failures between this machine and its replicas: several writers, lost
//! answers, lost objects, forgotten state, dead and slow destinations.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use brooklet::capture::{self, Base, Database, Followed};
use brooklet::daemon::Daemon;
use brooklet::ltx::{self, Decoder, Encoder, Encoding, Header, Level, Proof};
use brooklet::replica::Replica;
use brooklet::restore::Target;
use brooklet::spool::{Point, Seq, Spool, Spooled};
use brooklet::storage::{self, Body, FileStorage, Key, MemoryStorage, Object, PutOptions, Storage};
use brooklet::types::{
    Checksum, Generation, PageSize, Pgno, RollingChecksum, Timestamp, Txid, TxidRange, page_checksum,
};
use brooklet::upload::{Advanced, Error, Uploader};
use bytes::Bytes;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::capture::consistent_copy;
use crate::fault::{Moody, Turns};
use crate::running::{
    PATIENCE, TABLE, arrives, assert_restores, assert_same_pages, bases, create, database, follow, generation, insert,
    job, objects, rebuild, replica_in, restored, start, stop, try_restore, until, wait_for, wait_within,
};

/// A database whose commits are captured by hand, and a base from before them.
struct Captured {
    _dir: TempDir,
    path: PathBuf,
    app: Connection,
    database: Database,
    base: Base,
}

impl Captured {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (path, app) = database(dir.path(), TABLE);
        insert(&app, 20);
        let mut database = Database::new(capture::Options::new(&path), Followed::default());
        let base = database.base(SystemTime::now()).unwrap();
        Self { _dir: dir, path, app, database, base }
    }

    fn commit(&mut self, rows: usize) {
        insert(&self.app, rows);
        self.database.capture(SystemTime::now()).unwrap();
    }

    fn spool(&self) -> Arc<Spool> {
        self.database.spool().unwrap()
    }

    fn generation(&self) -> Generation {
        self.database.position().unwrap().generation
    }
}

fn uploader(replica: &Arc<Replica>, max_segments: usize) -> Uploader {
    Uploader::new(replica.clone(), Encoding::Block, max_segments)
}

/// Ships until the replica has everything.
async fn ship(uploader: &mut Uploader, spool: &Arc<Spool>, of: Generation, base: &Base) -> Result<(), Error> {
    loop {
        match uploader.advance(spool, of).await? {
            Advanced::Shipped => {}
            Advanced::UpToDate => return Ok(()),
            Advanced::NeedsBase => uploader.put_base(base.clone()).await?,
            Advanced::TakenOver => panic!("this history was never left"),
        }
    }
}

/// Every order in which `a` turns of one and `b` turns of another can be taken.
fn orders(a: usize, b: usize) -> Vec<Vec<usize>> {
    let all = 0..1u32 << (a + b);
    let order = |bits: u32| (0..a + b).map(|turn| (bits >> turn & 1) as usize).collect::<Vec<_>>();
    all.filter(|bits| bits.count_ones() as usize == b).map(order).collect()
}

/// F62, I9, I10: whatever the order of their requests, at most one of two
/// writers is stopped, the other one's history is whole, and no name is given twice.
#[tokio::test(flavor = "multi_thread")]
async fn two_writers_in_every_order_of_their_requests_leave_one_history() {
    let writers = [1, 2].map(|_| {
        let mut writer = Captured::new();
        writer.commit(3);
        writer.commit(2);
        writer
    });
    let ends = writers.each_ref().map(|w| consistent_copy(&w.path));
    let mut fenced_before_anything = 0;
    for order in orders(4, 4) {
        let store: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let seen = replica_in(store.clone(), "r");
        let mut tasks = Vec::new();
        for writer in &writers {
            let turns = Turns::new(store.clone());
            let replica = replica_in(turns.clone(), "r");
            let (spool, generation, base) = (writer.spool(), writer.generation(), writer.base.clone());
            let task = tokio::spawn(async move {
                let mut uploader = uploader(&replica, 1);
                let outcome = ship(&mut uploader, &spool, generation, &base).await;
                assert_eq!(uploader.is_fenced(), matches!(outcome, Err(Error::Fenced(_))));
                (outcome, uploader.confirmed())
            });
            turns.arrival().await;
            tasks.push((turns, task));
        }
        let mut before = BTreeMap::new();
        for writer in &order {
            let (turns, task) = &tasks[*writer];
            turns.one_turn(task).await;
            let now = objects(&seen).await;
            assert!(
                before.iter().all(|(name, bytes)| now.get(name) == Some(bytes)),
                "{order:?}: a name has other bytes"
            );
            before = now;
        }
        let mut ended = Vec::new();
        for (turns, task) in tasks {
            // One that was stopped early left turns over; one that was not has used all.
            turns.one_turn(&task).await;
            ended.push(task.await.unwrap());
        }
        let fenced: Vec<bool> = ended.iter().map(|(outcome, _)| matches!(outcome, Err(Error::Fenced(_)))).collect();
        assert!(
            ended.iter().zip(&fenced).all(|((outcome, _), fenced)| outcome.is_ok() || *fenced),
            "{order:?}: {ended:?}"
        );
        assert!(fenced != [true, true], "{order:?}: both were stopped");
        let found = rebuild(&seen).await;
        let winner = found == ends[0] && !fenced[0] || found == ends[1] && !fenced[1];
        assert!(winner, "{order:?}: what is there is not what an unfenced writer has, {fenced:?}");
        assert_same_pages(&restored(&seen).await, &found);
        fenced_before_anything += ended.iter().filter(|(o, confirmed)| o.is_err() && confirmed.is_none()).count();
    }
    assert!(fenced_before_anything > 10, "the contest for the first name was not exercised");
}

/// A history made by hand: pages are one byte repeated.
struct Model {
    generation: Generation,
    pages: BTreeMap<u32, u8>,
    /// Milliseconds by which this machine's commits are later.
    clock: i64,
}

impl Model {
    fn page(byte: u8) -> Vec<u8> {
        vec![byte; 512]
    }

    fn checksum(&self) -> Checksum {
        let mut sum = RollingChecksum::default();
        self.pages.iter().for_each(|(n, byte)| sum.toggle(page_checksum(Pgno::new(*n).unwrap(), &Self::page(*byte))));
        sum.checksum()
    }

    /// The segment that changes `pages`; complete if `base`.
    fn segment(&mut self, number: TxidRange, changes: &[(u32, u8)], base: bool) -> (Header, Vec<u8>) {
        let before = (!base).then(|| self.checksum());
        self.pages.extend(changes.iter().copied());
        let header = Header {
            page_size: PageSize::new(512).unwrap(),
            commit: 3,
            txids: number,
            timestamp: Timestamp::from_millis(1_700_000_000_000 + self.clock),
            wal: None,
            generation: Some(self.generation),
            proof: Some(Proof { before, after: self.checksum() }),
        };
        let mut encoder = Encoder::new(Vec::new(), header, Encoding::Block).unwrap();
        for (pgno, byte) in changes {
            encoder.page(Pgno::new(*pgno).unwrap(), &Self::page(*byte)).unwrap();
        }
        (header, encoder.finish().unwrap().0)
    }
}

const START: [(u32, u8); 3] = [(1, 1), (2, 1), (3, 1)];

/// A spool of a machine that was cloned after batch 1 and went its own way.
fn clone_of(generation: Generation, byte: u8, dir: &Path) -> (Arc<Spool>, Vec<u8>) {
    let mut model = Model { generation, pages: START.into(), clock: i64::from(byte) };
    let spool = Spool::open(dir, None, 0o700).unwrap().0;
    spool
        .restart(Point {
            seq: Seq::FIRST,
            checksum: model.checksum(),
            timestamp: Some(Timestamp::from_millis(1_700_000_000_000)),
        })
        .unwrap();
    for number in [2, 3] {
        let seq = Seq::new(number).unwrap();
        let change = (u32::try_from(number).unwrap(), byte);
        let (header, bytes) = model.segment(seq.as_txids(), &[change], false);
        let mut draft = spool.draft(seq, 0o600).unwrap();
        draft.append(&bytes).unwrap();
        spool.publish(draft, Spooled { seq, size: bytes.len() as u64, header }).unwrap();
    }
    (Arc::new(spool), model.pages.values().flat_map(|byte| Model::page(*byte)).collect())
}

/// F62: a cloned machine has the same generation and the same position. Names
/// are the fence, not generations.
#[tokio::test(flavor = "multi_thread")]
async fn clones_in_every_order_of_their_requests_leave_one_history() {
    let generation = Generation::new(77).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let clones = [8u8, 9].map(|byte| clone_of(generation, byte, &dir.path().join(byte.to_string())));
    let mut fenced = 0;
    for order in orders(3, 3) {
        let store: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let seen = replica_in(store.clone(), "r");
        let first = TxidRange::single(Txid::FIRST);
        let (header, bytes) = Model { generation, pages: BTreeMap::new(), clock: 0 }.segment(first, &START, true);
        seen.put_segment(Level::L0, first, bytes.into(), header.timestamp).await.unwrap();
        let mut tasks = Vec::new();
        for (spool, _) in &clones {
            let turns = Turns::new(store.clone());
            let (replica, spool) = (replica_in(turns.clone(), "r"), spool.clone());
            let task = tokio::spawn(async move {
                let mut uploader = uploader(&replica, 1);
                loop {
                    match uploader.advance(&spool, generation).await {
                        Ok(Advanced::Shipped) => {}
                        outcome => return outcome,
                    }
                }
            });
            turns.arrival().await;
            tasks.push((turns, task));
        }
        for writer in &order {
            let (turns, task) = &tasks[*writer];
            turns.one_turn(task).await;
        }
        let found = rebuild(&seen).await;
        let mut complete = 0;
        for ((turns, task), (_, end)) in tasks.into_iter().zip(&clones) {
            turns.one_turn(&task).await;
            match task.await.unwrap() {
                Ok(Advanced::UpToDate) => {
                    assert!(found == *end, "{order:?}: another history than that of the one that finished");
                    complete += 1;
                }
                Err(Error::Fenced(_)) => fenced += 1,
                Ok(Advanced::NeedsBase | Advanced::TakenOver) => {}
                other => panic!("{order:?}: {other:?}"),
            }
        }
        assert_eq!(complete, 1, "{order:?}");
    }
    assert!(fenced > 5, "the clones hardly met");
}

/// F62: the daemon of a rolling deployment that was not stopped.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_daemons_on_one_destination_the_first_learns_at_its_next_write_that_it_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (old_path, old_app) = database(dir.path(), TABLE);
    let (new_path, new_app) = database(dir.path(), TABLE);
    let store: Arc<dyn Storage> = Arc::new(FileStorage::new(dir.path().join("files")));
    let replica = replica_in(store, "r");
    let old = follow(&old_path, &[&replica]).await;
    insert(&old_app, 30);
    arrives(&replica, &old_path).await;
    insert(&new_app, 10);
    let new = follow(&new_path, &[&replica]).await;
    let before = objects(&replica).await;

    insert(&old_app, 1);
    wait_for(&old, "the loser is told", |f| f.replicas[0].fenced).await;
    let facts = old.board().read()[0].clone();
    let reason = facts.replicas[0].error.clone().unwrap();
    assert!(reason.contains(&generation(&new).to_string()), "{reason}");
    insert(&old_app, 50);
    insert(&new_app, 20);
    arrives(&replica, &new_path).await;
    let after = objects(&replica).await;
    assert!(before.iter().all(|(name, bytes)| after.get(name) == Some(bytes)));
    assert_eq!(rebuild(&replica).await, consistent_copy(&new_path));

    // Nothing will change for the loser: its end does not wait.
    let asked = Instant::now();
    let unconfirmed = old.stop(PATIENCE).await;
    assert_eq!(unconfirmed.len(), 1, "{unconfirmed:?}");
    assert!(asked.elapsed() < PATIENCE / 2, "waited {:?} for a replica that is lost", asked.elapsed());

    // Started again on purpose, it takes over: under a new name, above everything.
    let old = follow(&old_path, &[&replica]).await;
    insert(&new_app, 1);
    wait_for(&new, "now the other one has lost", |f| f.replicas[0].fenced).await;
    assert_eq!(new.stop(PATIENCE).await.len(), 1);
    stop(old).await;
    assert_same_pages(&rebuild(&replica).await, &consistent_copy(&old_path));
}

/// F62: both start at once, on a destination with nothing on it.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_daemons_that_start_together_exactly_one_goes_on() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let replica = replica_in(store, "r");
        let rivals = [0, 1].map(|_| {
            let (path, app) = database(dir.path(), TABLE);
            (start(vec![job(&path, &[&replica])]), path, app)
        });
        let fenced = |daemon: &Daemon| daemon.board().read()[0].replicas[0].fenced;
        until("one of them is stopped", || {
            rivals.iter().for_each(|(_, _, app)| insert(app, 1));
            rivals.iter().any(|(daemon, ..)| fenced(daemon))
        });
        for (daemon, path, app) in rivals {
            insert(&app, 5);
            let lost = fenced(&daemon);
            assert_eq!(daemon.stop(PATIENCE).await.len(), usize::from(lost));
            if !lost {
                assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
            }
        }
    }
}

/// The object is there, the answer is not: it is our own, also if the database
/// has gone on meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_base_whose_answer_was_lost_is_not_taken_for_another_writers() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let moody = Moody::new(Arc::new(MemoryStorage::new()));
    let replica = replica_in(moody.clone(), "r");
    moody.lose_the_next_answer_and_go_down();
    let daemon = start(vec![job(&path, &[&replica])]);
    wait_for(&daemon, "the answer is lost", |f| f.replicas[0].error.is_some()).await;
    let batch = daemon.board().read()[0].captured.unwrap().batch;
    insert(&app, 10);
    wait_for(&daemon, "the database goes on", |f| f.captured.unwrap().batch > batch).await;
    moody.set_down(false);
    wait_for(&daemon, "the replica is up to date", |f| f.behind().count() == 0 || f.replicas[0].fenced).await;
    stop(daemon).await;
    assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
    assert_eq!(bases(&replica).await, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_whose_answer_was_lost_is_recognised_now_and_after_a_restart() {
    for restart in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (path, app) = database(dir.path(), TABLE);
        let moody = Moody::new(Arc::new(MemoryStorage::new()));
        let replica = replica_in(moody.clone(), "r");
        let mut daemon = follow(&path, &[&replica]).await;
        moody.lose_the_next_answer_and_go_down();
        insert(&app, 10);
        wait_for(&daemon, "the answer is lost", |f| f.replicas[0].error.is_some()).await;
        let batch = daemon.board().read()[0].captured.unwrap().batch;
        insert(&app, 10);
        wait_for(&daemon, "the database goes on", |f| f.captured.unwrap().batch > batch).await;
        if restart {
            assert_eq!(daemon.stop(Duration::from_secs(1)).await.len(), 1);
            moody.set_down(false);
            daemon = follow(&path, &[&replica]).await;
        }
        moody.set_down(false);
        wait_for(&daemon, "the replica is up to date", |f| f.behind().count() == 0 || f.replicas[0].fenced).await;
        stop(daemon).await;
        assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
        assert_eq!(bases(&replica).await, [1]);
    }
}

/// An upload that was prepared on disk, and somebody tidies the disk.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_file_was_removed_is_prepared_anew() {
    for stored in [false, true] {
        let mut writer = Captured::new();
        let moody = Moody::new(Arc::new(MemoryStorage::new()));
        let replica = replica_in(moody.clone(), "r");
        let mut uploader = uploader(&replica, 0);
        ship(&mut uploader, &writer.spool(), writer.generation(), &writer.base).await.unwrap();
        writer.app.execute("INSERT INTO t(x) VALUES (randomblob(9 << 20))", []).unwrap();
        writer.commit(1);
        match stored {
            true => moody.lose_the_next_answer_and_go_down(),
            false => moody.set_down(true),
        }
        uploader.advance(&writer.spool(), writer.generation()).await.unwrap_err();
        let drafts = crate::running::files_below(&writer.database.options().state_dir());
        let drafts: Vec<_> = drafts.iter().filter(|path| path.extension().is_some_and(|e| e == "tmp")).collect();
        assert_eq!(drafts.len(), 1, "so much is merged on disk");
        std::fs::remove_file(drafts[0]).unwrap();
        moody.set_down(false);
        let _ = uploader.advance(&writer.spool(), writer.generation()).await;
        ship(&mut uploader, &writer.spool(), writer.generation(), &writer.base).await.unwrap();
        assert_same_pages(&rebuild(&replica).await, &consistent_copy(&writer.path));
        assert_eq!(bases(&replica).await, [1]);
    }
}

/// An upload that still works for a history that is over must not take segments
/// of the next one for its own: both count their batches from 1.
#[tokio::test(flavor = "multi_thread")]
async fn segments_of_a_new_history_are_not_shipped_as_the_old_one() {
    let mut writer = Captured::new();
    let replica = replica_in(Arc::new(MemoryStorage::new()), "r");
    let mut uploader = uploader(&replica, 0);
    writer.commit(3);
    let old = writer.generation();
    ship(&mut uploader, &writer.spool(), old, &writer.base).await.unwrap();
    let before = objects(&replica).await;

    let Captured { _dir, path, app, mut database, base } = writer;
    drop((app, base));
    remove_database(&path);
    let app = create(&path, TABLE);
    insert(&app, 50);
    database.release();
    (0..6).for_each(|_| {
        insert(&app, 1);
        database.capture(SystemTime::now()).unwrap();
    });
    let (spool, new) = (database.spool().unwrap(), database.position().unwrap().generation);
    assert_ne!(new, old);
    let advanced = uploader.advance(&spool, old).await.unwrap();
    assert_ne!(advanced, Advanced::Shipped);
    assert!(objects(&replica).await == before, "nothing of the new history is there");
    let base = database.base(SystemTime::now()).unwrap();
    ship(&mut uploader, &spool, new, &base).await.unwrap();
    assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
}

fn remove_database(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
}

/// F70: a hole below the newest object. What follows it is of no use until a
/// complete segment lies above it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_object_is_made_good() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let replica = replica_in(Arc::new(MemoryStorage::new()), "r");
    let daemon = follow(&path, &[&replica]).await;
    for _ in 0..3 {
        insert(&app, 10);
        arrives(&replica, &path).await;
    }
    stop(daemon).await;
    let listing = replica.list_all().await.unwrap();
    let segments: Vec<_> = listing.segments().copied().collect();
    assert!(segments.len() >= 4);
    replica.remove(&segments[1..2]).await.unwrap();
    let daemon = follow(&path, &[&replica]).await;
    stop(daemon).await;
    assert_restores(&replica, &path).await;
    let listing = replica.list_all().await.unwrap();
    assert_eq!(listing.gap_free_end(), listing.position(), "the hole is bridged");
    // And from then on as if nothing had been.
    let (puts, daemon) = (listing.len(), follow(&path, &[&replica]).await);
    stop(daemon).await;
    assert_eq!(replica.list_all().await.unwrap().len(), puts);
}

fn copy_of(dir: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([dir, to]).status().unwrap().success());
}

/// F71, I10: power loss takes back what was captured, after it was shipped. The
/// names on the replica stay what they were.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_shipped_and_then_forgotten_here_is_not_overwritten() {
    for database_too in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (path, app) = database(dir.path(), TABLE);
        let replica = replica_in(Arc::new(FileStorage::new(dir.path().join("files"))), "r");
        let daemon = follow(&path, &[&replica]).await;
        insert(&app, 10);
        arrives(&replica, &path).await;
        stop(daemon).await;
        drop(app);
        let (state, kept) = (capture::default_meta_path(&path), dir.path().join("kept"));
        std::fs::create_dir(&kept).unwrap();
        copy_of(&state, &kept.join("state"));
        copy_of(&path, &kept.join("db"));

        let app = create(&path, "");
        let daemon = follow(&path, &[&replica]).await;
        insert(&app, 10);
        arrives(&replica, &path).await;
        stop(daemon).await;
        drop(app);
        let shipped = objects(&replica).await;
        let end = replica.list_all().await.unwrap().position().unwrap();
        let at_end = restored(&replica).await;

        std::fs::remove_dir_all(&state).unwrap();
        copy_of(&kept.join("state"), &state);
        if database_too {
            // Into the same file, as a file system that comes back from a power cut has it.
            assert!(Command::new("cp").arg(kept.join("db")).arg(&path).status().unwrap().success());
            let _ = std::fs::remove_file(format!("{}-wal", path.display()));
            let _ = std::fs::remove_file(format!("{}-shm", path.display()));
        }
        let app = create(&path, "");
        insert(&app, 5);
        let daemon = follow(&path, &[&replica]).await;
        insert(&app, 5);
        arrives(&replica, &path).await;
        stop(daemon).await;
        let now = objects(&replica).await;
        assert!(shipped.iter().all(|(name, bytes)| now.get(name) == Some(bytes)), "a name has other bytes");
        assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
        assert_same_pages(&try_restore(&replica, Target::Txid(end)).await.unwrap(), &at_end);
    }
}

/// Merges everything at level 0 into one object at level 1, as compaction does.
async fn merge_up(replica: &Replica) -> TxidRange {
    let listing = replica.list(Level::L0).await.unwrap();
    let mut files = Vec::new();
    for segment in &listing {
        files.push(replica.read(segment, 0..segment.size).await.unwrap());
    }
    let txids = TxidRange::new(Txid::FIRST, listing.last().unwrap().txids.max()).unwrap();
    let inputs = files.iter().map(|bytes| Decoder::new(&bytes[..]).unwrap()).collect();
    let (bytes, _) = ltx::merge(inputs, Vec::new(), txids, Encoding::Block).unwrap();
    replica.put_segment(Level::new(1).unwrap(), txids, bytes.into(), Timestamp::from_millis(1)).await.unwrap();
    txids
}

async fn remove_level_0(replica: &Replica) {
    replica.remove(&replica.list(Level::L0).await.unwrap()).await.unwrap();
}

/// F57, F58: a machine without memory of a replica goes on above everything that
/// is there, at whatever level.
#[tokio::test(flavor = "multi_thread")]
async fn with_local_state_lost_the_history_goes_on_above_every_level() {
    for level_0_gone in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (path, app) = database(dir.path(), TABLE);
        let replica = replica_in(Arc::new(FileStorage::new(dir.path().join("files"))), "r");
        let daemon = follow(&path, &[&replica]).await;
        for _ in 0..4 {
            insert(&app, 10);
            arrives(&replica, &path).await;
        }
        stop(daemon).await;
        let old = replica.list_all().await.unwrap().position().unwrap();
        let at_old = restored(&replica).await;
        assert_eq!(merge_up(&replica).await.max(), old);
        if level_0_gone {
            remove_level_0(&replica).await;
        }
        std::fs::remove_dir_all(capture::default_meta_path(&path)).unwrap();
        app.execute("DELETE FROM t WHERE id % 2", []).unwrap();
        let daemon = follow(&path, &[&replica]).await;
        insert(&app, 10);
        arrives(&replica, &path).await;
        stop(daemon).await;
        let fresh: Vec<_> =
            replica.list(Level::L0).await.unwrap().into_iter().filter(|s| s.txids.max() > old).collect();
        assert_eq!(fresh[0].txids, TxidRange::single(old.next()));
        assert_eq!(bases(&replica).await.last(), Some(&old.next().get()), "and stands on its own");
        assert_restores(&replica, &path).await;
        assert_same_pages(&try_restore(&replica, Target::Txid(old)).await.unwrap(), &at_old);
    }
}

/// F58 with the state still there: a replica whose level 0 was merged away and
/// deleted is known by its level 1. No base is sent again.
#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_level_0_is_no_reason_for_a_base() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let replica = replica_in(Arc::new(MemoryStorage::new()), "r");
    let daemon = follow(&path, &[&replica]).await;
    insert(&app, 10);
    arrives(&replica, &path).await;
    let history = generation(&daemon);
    stop(daemon).await;
    let old = merge_up(&replica).await.max();
    remove_level_0(&replica).await;
    let daemon = follow(&path, &[&replica]).await;
    insert(&app, 10);
    arrives(&replica, &path).await;
    assert_eq!(generation(&daemon), history, "nobody else has written here");
    stop(daemon).await;
    assert_eq!(bases(&replica).await, [0u64; 0]);
    assert_eq!(replica.list(Level::L0).await.unwrap()[0].txids.min(), old.next());
    assert_restores(&replica, &path).await;
}

/// F59: somebody resets the local state of a running daemon.
#[tokio::test(flavor = "multi_thread")]
async fn local_state_that_vanishes_at_run_time_is_made_anew_and_the_history_goes_on_above() {
    for what in ["", "brooklet", "brooklet/spool", "brooklet/pagemap", "brooklet/lock"] {
        let dir = tempfile::tempdir().unwrap();
        let (path, app) = database(dir.path(), TABLE);
        let replica = replica_in(Arc::new(MemoryStorage::new()), "r");
        let daemon = follow(&path, &[&replica]).await;
        insert(&app, 5);
        arrives(&replica, &path).await;
        let before = objects(&replica).await;
        let state = capture::default_meta_path(&path).join(what);
        match state.is_dir() {
            true => std::fs::remove_dir_all(&state).unwrap(),
            false => std::fs::remove_file(&state).unwrap(),
        }
        for _ in 0..2 {
            insert(&app, 5);
            arrives(&replica, &path).await;
        }
        stop(daemon).await;
        // What was lost must not be missed by the next run either.
        let daemon = follow(&path, &[&replica]).await;
        insert(&app, 5);
        arrives(&replica, &path).await;
        stop(daemon).await;
        let after = objects(&replica).await;
        assert!(before.iter().all(|(name, bytes)| after.get(name) == Some(bytes)), "{what:?}");
        assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
    }
}

/// D8: what one replica lacks waits for it, within a budget, and nobody else waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_replica_delays_nobody_and_alone_gets_a_base_when_it_has_missed_too_much() {
    const BUDGET: u64 = 60_000;
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let moody = Moody::new(Arc::new(MemoryStorage::new()));
    let (good, dead) = (replica_in(Arc::new(MemoryStorage::new()), "good"), replica_in(moody.clone(), "dead"));
    let mut job = job(&path, &[&good, &dead]);
    job.capture.spool_budget = Some(BUDGET);
    let daemon = start(vec![job]);
    wait_for(&daemon, "both have a base", |f| f.captured.is_some() && f.behind().count() == 0).await;
    let state = capture::default_meta_path(&path);
    let spooled = || -> u64 {
        crate::running::files_below(&state.join("brooklet/spool"))
            .iter()
            .filter_map(|p| p.metadata().ok())
            .map(|m| m.len())
            .sum()
    };

    moody.set_down(true);
    insert(&app, 10);
    wait_for(&daemon, "it is dead", |f| f.replicas[1].error.is_some()).await;
    // Within the budget nothing is lost for it.
    moody.set_down(false);
    wait_for(&daemon, "it catches up", |f| f.behind().count() == 0).await;
    assert_eq!([bases(&good).await, bases(&dead).await], [[1], [1]]);

    moody.set_down(true);
    for _ in 0..12 {
        let batch = daemon.board().read()[0].captured.unwrap().batch;
        insert(&app, 20);
        wait_within(Duration::from_secs(3), &daemon, "the good one goes on", |f| {
            f.captured.unwrap().batch > batch && f.replicas[0].batch == f.captured.map(|c| c.batch)
        })
        .await;
        assert!(spooled() <= BUDGET);
    }
    moody.set_down(false);
    wait_for(&daemon, "it catches up", |f| f.behind().count() == 0).await;
    insert(&app, 1);
    stop(daemon).await;
    let source = consistent_copy(&path);
    assert_same_pages(&rebuild(&good).await, &source);
    assert_same_pages(&rebuild(&dead).await, &source);
    assert_eq!(bases(&good).await, [1]);
    assert_eq!(bases(&dead).await.len(), 2);
    assert_eq!(spooled(), 0, "nobody needs anything any more");
}

/// D8 across a restart: that one replica has missed too much concerns only it.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_missed_too_much_before_a_restart_alone_gets_a_base() {
    for everything_dropped in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (path, app) = database(dir.path(), TABLE);
        let moody = Moody::new(Arc::new(MemoryStorage::new()));
        let (good, dead) = (replica_in(Arc::new(MemoryStorage::new()), "good"), replica_in(moody.clone(), "dead"));
        let small = |budget| {
            let mut job = job(&path, &[&good, &dead]);
            job.capture.spool_budget = Some(budget);
            job
        };
        let daemon = start(vec![small(20_000)]);
        wait_for(&daemon, "both have a base", |f| f.captured.is_some() && f.behind().count() == 0).await;
        insert(&app, 3);
        wait_for(&daemon, "both have it", |f| f.captured.unwrap().batch > 1 && f.behind().count() == 0).await;
        let history = generation(&daemon);
        moody.set_down(true);
        for _ in 0..5 {
            let batch = daemon.board().read()[0].captured.unwrap().batch;
            insert(&app, 12);
            wait_for(&daemon, "the good one goes on", |f| {
                f.captured.unwrap().batch > batch && f.replicas[0].batch == f.captured.map(|c| c.batch)
            })
            .await;
        }
        assert_eq!(daemon.stop(Duration::from_secs(1)).await.len(), 1);
        let spool = capture::default_meta_path(&path).join("brooklet/spool");
        let kept = crate::running::files_below(&spool);
        assert!(!kept.is_empty() && kept.len() < 5, "{kept:?}");
        if everything_dropped {
            kept.iter().for_each(|path| std::fs::remove_file(path).unwrap());
        }
        moody.set_down(false);
        let daemon = start(vec![small(20_000)]);
        wait_for(&daemon, "both are up to date", |f| f.captured.is_some() && f.behind().count() == 0).await;
        assert_eq!(generation(&daemon), history);
        stop(daemon).await;
        assert_same_pages(&rebuild(&good).await, &consistent_copy(&path));
        assert_same_pages(&rebuild(&dead).await, &consistent_copy(&path));
        assert_eq!((bases(&good).await.len(), bases(&dead).await.len()), (1, 2));
    }
}

/// A replica that never answers costs the others nothing, also not at the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_never_reachable_is_reported_and_the_rest_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let moody = Moody::new(Arc::new(MemoryStorage::new()));
    moody.set_down(true);
    let (good, dead) = (replica_in(Arc::new(MemoryStorage::new()), "good"), replica_in(moody.clone(), "dead"));
    let daemon = start(vec![job(&path, &[&good, &dead])]);
    insert(&app, 10);
    arrives(&good, &path).await;
    insert(&app, 10);
    let asked = Instant::now();
    let unconfirmed = daemon.stop(Duration::from_secs(1)).await;
    assert!(asked.elapsed() < Duration::from_secs(3));
    assert_eq!(unconfirmed.iter().map(|u| u.replica.as_deref()).collect::<Vec<_>>(), [Some("dead")]);
    assert_same_pages(&rebuild(&good).await, &consistent_copy(&path));

    // A daemon that was stopped does nothing more, whatever comes back to life.
    moody.set_down(false);
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(moody.puts(), 0);
    let daemon = follow(&path, &[&good, &dead]).await;
    stop(daemon).await;
    assert_same_pages(&rebuild(&dead).await, &consistent_copy(&path));
    assert_eq!(bases(&good).await, [1]);
}

/// A statement that sets the same flag in two rows changes two pages in the same
/// way. Checksums that are only XORed do not see that; then the replica would be
/// taken to have what it lacks.
#[tokio::test(flavor = "multi_thread")]
async fn equal_changes_to_two_pages_are_not_taken_for_none() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), "CREATE TABLE t(id INTEGER PRIMARY KEY, flag, x)");
    for id in 200..210 {
        app.execute("INSERT INTO t VALUES (?1, 0, zeroblob(3000))", [id]).unwrap();
    }
    let moody = Moody::new(Arc::new(MemoryStorage::new()));
    let replica = replica_in(moody.clone(), "r");
    let daemon = follow(&path, &[&replica]).await;
    let xor = |database: &[u8]| {
        let numbered = (1..).zip(database.chunks(4096));
        numbered.fold(0, |sum, (n, page)| sum ^ page_checksum(Pgno::new(n).unwrap(), page).get())
    };
    let before = consistent_copy(&path);
    moody.set_down(true);
    let batch = daemon.board().read()[0].captured.unwrap().batch;
    app.execute("UPDATE t SET flag = 1 WHERE id IN (201, 205)", []).unwrap();
    wait_for(&daemon, "it is captured", |f| f.captured.unwrap().batch > batch).await;
    assert_eq!(daemon.stop(Duration::from_secs(1)).await.len(), 1);
    let after = consistent_copy(&path);
    assert!(before != after && xor(&before) == xor(&after), "the case is not the one that this test is about");
    moody.set_down(false);
    let daemon = follow(&path, &[&replica]).await;
    stop(daemon).await;
    assert_same_pages(&restored(&replica).await, &after);
}

/// A storage with a fault in its code.
struct Panicking {
    inner: MemoryStorage,
    panics_left: std::sync::atomic::AtomicUsize,
}

#[async_trait::async_trait]
impl Storage for Panicking {
    fn kind(&self) -> &'static str {
        "panicking"
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> storage::Result<Vec<Object>> {
        self.inner.list(prefix, after).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> storage::Result<Bytes> {
        self.inner.get(key, range).await
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> storage::Result<()> {
        use std::sync::atomic::Ordering::Relaxed;
        let left = self.panics_left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        assert!(left.is_err(), "a fault in the program, as this test wants it");
        self.inner.put(key, body, options).await
    }

    async fn delete(&self, keys: &[Key]) -> storage::Result<()> {
        self.inner.delete(keys).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_uploading_is_reported_and_survived() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let storage = Panicking { inner: MemoryStorage::new(), panics_left: 1.into() };
    let (replica, good) = (replica_in(Arc::new(storage), "r"), replica_in(Arc::new(MemoryStorage::new()), "good"));
    let daemon = start(vec![job(&path, &[&replica, &good])]);
    let reported = |error: &Option<String>| error.as_ref().is_some_and(|e| e.contains("internal error"));
    wait_for(&daemon, "it is reported", |f| reported(&f.replicas[0].error)).await;
    insert(&app, 3);
    wait_for(&daemon, "all is well again", |f| f.behind().count() == 0 && f.replicas[0].error.is_none()).await;
    insert(&app, 3);
    stop(daemon).await;
    assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
    assert_same_pages(&rebuild(&good).await, &consistent_copy(&path));
}
