//! Capture against real SQLite: what is in the spool, applied to the state
//! before, gives exactly the database.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use brooklet::capture::{Database, Followed, Options};
use brooklet::ltx::Decoder;
use brooklet::spool::{Pending, Seq};
use brooklet::types::{Pgno, RollingChecksum, page_checksum};
use rusqlite::Connection;

/// A database that is followed, and a shadow of it made only of what capture put out.
pub(crate) struct Rig {
    pub(crate) _dir: tempfile::TempDir,
    pub(crate) path: PathBuf,
    pub(crate) followed: Database,
    generation: Option<brooklet::types::Generation>,
    seq: Seq,
    pages: BTreeMap<Pgno, Vec<u8>>,
    commit: u32,
}

impl Rig {
    pub(crate) fn new(setup: &str) -> (Self, Connection) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let app = Connection::open(&path).unwrap();
        app.execute_batch("PRAGMA journal_mode=wal;").unwrap();
        app.execute_batch(setup).unwrap();
        let followed = Database::new(Options::new(&path), Followed::default());
        let rig =
            Self { _dir: dir, path, followed, generation: None, seq: Seq::FIRST, pages: BTreeMap::new(), commit: 0 };
        (rig, app)
    }

    pub(crate) fn reopen(&mut self) {
        self.reopen_with(|options| options);
    }

    /// The same with other options.
    pub(crate) fn reopen_with(&mut self, change: impl FnOnce(Options) -> Options) {
        let options = change(self.followed.options().clone());
        // The old one lets go of its lock first.
        let nowhere = Options::new(Path::new("/nonexistent"));
        drop(std::mem::replace(&mut self.followed, Database::new(nowhere, Followed::default())));
        self.followed = Database::new(options, Followed::default());
    }

    pub(crate) fn capture(&mut self) {
        self.followed.capture(SystemTime::now()).unwrap();
        self.drain();
    }

    /// Takes over what the spool holds, as a replica would.
    pub(crate) fn drain(&mut self) {
        let position = self.followed.position().unwrap();
        let spool = self.followed.spool().unwrap();
        if self.generation != Some(position.generation) {
            self.take_base();
        }
        match spool.pending(self.seq) {
            Pending::None => {}
            Pending::Gone => self.take_base(),
            Pending::Segments(segments) => {
                for segment in segments {
                    let mut decoder = Decoder::new(spool.reader(segment.seq).unwrap()).unwrap();
                    self.apply(&mut decoder);
                    self.seq = segment.seq;
                    self.commit = segment.header.commit;
                    self.pages.retain(|pgno, _| pgno.get() <= segment.header.commit);
                    assert_eq!(
                        self.checksum(),
                        segment.header.proof.unwrap().after,
                        "the proof in segment {}",
                        self.seq
                    );
                }
            }
        }
        assert_eq!(self.checksum(), position.point.checksum);
    }

    fn take_base(&mut self) {
        let base = self.followed.base(SystemTime::now()).unwrap();
        self.generation = Some(base.generation());
        self.seq = base.point().seq;
        let mut bytes = Vec::new();
        let mut reader = base.encode(self.seq_as_snapshot(), None).unwrap();
        while let Some(piece) = reader.piece().unwrap() {
            bytes.extend(piece);
        }
        let mut decoder = Decoder::new(&bytes[..]).unwrap();
        self.commit = decoder.header().commit;
        self.pages.clear();
        self.apply(&mut decoder);
    }

    fn seq_as_snapshot(&self) -> brooklet::types::TxidRange {
        brooklet::types::TxidRange::single(brooklet::types::Txid::FIRST)
    }

    fn apply<R: std::io::Read>(&mut self, decoder: &mut Decoder<R>) {
        let mut page = Vec::new();
        while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
            self.pages.insert(pgno, page.clone());
        }
    }

    fn checksum(&self) -> brooklet::types::Checksum {
        let mut sum = RollingChecksum::default();
        self.pages.iter().for_each(|(pgno, page)| sum.toggle(page_checksum(*pgno, page)));
        sum.checksum()
    }

    /// The byte oracle: the shadow equals the source after a checkpoint of a copy.
    pub(crate) fn assert_shadow_equals_source(&self) {
        self.assert_shadow_equals(&consistent_copy(&self.path));
    }

    /// The same with a copy that was made before.
    pub(crate) fn assert_shadow_equals(&self, source: &[u8]) {
        let shadow: Vec<u8> = self.pages.values().flatten().copied().collect();
        assert_eq!(shadow.len(), source.len(), "sizes differ");
        let size = self.pages.values().next().map_or(1, Vec::len);
        for (index, (a, b)) in shadow.chunks(size).zip(source.chunks(size)).enumerate() {
            assert!(a == b, "page {} differs", index + 1);
        }
    }
}

/// The database as SQLite recovers it from a copy of its files.
pub(crate) fn consistent_copy(path: &Path) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    // By another process: opening and closing the database here would drop the locks of every connection in this one.
    copy_elsewhere(path, &copy);
    let wal = PathBuf::from(format!("{}-wal", path.display()));
    if wal.exists() {
        copy_elsewhere(&wal, &dir.path().join("copy-wal"));
    }
    let connection = Connection::open(&copy).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(connection);
    std::fs::read(&copy).unwrap()
}

fn copy_elsewhere(from: &Path, to: &Path) {
    assert!(std::process::Command::new("cp").args([from, to]).status().unwrap().success());
}

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)";

fn insert(app: &Connection, rows: usize) {
    for _ in 0..rows {
        app.execute("INSERT INTO t(x) VALUES (randomblob(600))", []).unwrap();
    }
}

#[test]
fn commits_reach_the_spool_and_prove_themselves() {
    let (mut rig, app) = Rig::new(TABLE);
    rig.capture();
    for rows in [1, 50, 300, 1] {
        insert(&app, rows);
        rig.capture();
        rig.assert_shadow_equals_source();
    }
    assert_eq!(rig.followed.counters().resyncs, 0);
}

/// F24: pages that exist only in the log.
#[test]
fn a_database_that_was_never_checkpointed_gets_a_base() {
    let (mut rig, app) = Rig::new("PRAGMA wal_autocheckpoint=0; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)");
    insert(&app, 500);
    rig.capture();
    rig.assert_shadow_equals_source();
}

/// F7: checkpoints between captures, by us, never lose a frame.
#[test]
fn our_own_checkpoints_seal_and_the_next_run_is_followed() {
    let (mut rig, app) = Rig::new(TABLE);
    rig.capture();
    for round in 0..20 {
        insert(&app, 10 + round);
        let soon = Instant::now() + std::time::Duration::from_secs(3600);
        // Far in the future: the log is quiet, so the checkpoint is due.
        rig.followed.step(soon, SystemTime::now());
        rig.followed.step(soon + std::time::Duration::from_secs(round as u64 * 100), SystemTime::now());
        rig.drain();
        insert(&app, 1);
        rig.capture();
        rig.assert_shadow_equals_source();
    }
    assert!(rig.followed.counters().seals > 10, "{:?}", rig.followed.counters());
    assert_eq!(rig.followed.counters().resyncs, 0, "every restart of the log was followed with proof");
}

/// F1: frames are added and checkpointed while nobody looks, then a short new
/// run overwrites the beginning of the log.
#[test]
fn a_restart_that_nobody_saw_is_found_by_comparison() {
    for mode in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
        let (mut rig, app) = Rig::new(TABLE);
        insert(&app, 65);
        rig.capture();
        rig.reopen();
        insert(&app, 90);
        app.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
        app.execute("UPDATE t SET x = 'new' WHERE id = 3", []).unwrap();
        rig.capture();
        rig.assert_shadow_equals_source();
        assert_eq!(rig.followed.counters().resyncs, 1, "{mode}");
    }
}

#[test]
fn a_short_absence_without_a_restart_is_continued_without_comparison() {
    let (mut rig, app) = Rig::new(TABLE);
    insert(&app, 65);
    rig.capture();
    rig.reopen();
    insert(&app, 9);
    rig.capture();
    rig.assert_shadow_equals_source();
    assert_eq!(rig.followed.counters().resyncs, 0);
}

/// A writer that dies between the two copies of the header in the wal-index
/// leaves it unreadable until somebody begins to read.
#[test]
fn a_wal_index_that_a_dead_writer_left_torn_is_rebuilt_without_letting_go() {
    let (mut rig, app) = Rig::new(TABLE);
    insert(&app, 20);
    rig.capture();
    let index = format!("{}-shm", rig.path.display());
    // By another process, for the sake of the locks in this one.
    let tear = format!("printf '\\377\\377\\377\\377' | dd of={index} bs=1 seek=56 conv=notrunc status=none");
    assert!(std::process::Command::new("sh").args(["-c", &tear]).status().unwrap().success());
    rig.capture();
    rig.assert_shadow_equals_source();
    insert(&app, 5);
    rig.capture();
    rig.assert_shadow_equals_source();
    assert_eq!(rig.followed.counters().resyncs, 0);
}
