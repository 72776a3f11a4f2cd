//! `prune` and `pin` as a user meets them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::SystemTime;

use brooklet::ltx::{Encoder, Encoding, Header, Level, Proof};
use brooklet::replica::{Layout, Replica};
use brooklet::storage::{FileStorage, Key};
use brooklet::types::{Generation, PageSize, Pgno, RollingChecksum, Timestamp, Txid, TxidRange, page_checksum};
use tempfile::TempDir;

/// A directory with a replica made by hand.
struct Shelf {
    dir: TempDir,
    replica: Replica,
}

const HOUR: i64 = 3_600_000;

impl Shelf {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let storage = Arc::new(FileStorage::new(dir.path().join("r")));
        let replica = Replica::new("r".to_owned(), storage, Key::ROOT, Layout::Decimal);
        Self { dir, replica }
    }

    /// One snapshot a day and one change between two of them, the newest now.
    async fn of_days(days: u64) -> Self {
        let shelf = Self::new();
        for day in 0..days {
            let hours = i64::try_from((days - 1 - day) * 24).unwrap();
            shelf.plant(9, 1, 1 + day * 10, hours).await;
            if day + 1 < days {
                shelf.plant(1, 2 + day * 10, 11 + day * 10, hours - 12).await;
            }
        }
        let newest = 1 + (days - 1) * 10;
        shelf.plant(0, newest, newest, 0).await;
        shelf
    }

    /// A database of one page that never changes, so everything connects.
    async fn plant(&self, level: u8, min: u64, max: u64, hours_ago: i64) {
        let page = sqlite_page();
        let mut sum = RollingChecksum::default();
        sum.toggle(page_checksum(Pgno::FIRST, &page));
        let now = Timestamp::from(SystemTime::now()).as_millis();
        let header = Header {
            page_size: PageSize::new(512).unwrap(),
            commit: 1,
            txids: TxidRange::new(Txid::new(min).unwrap(), Txid::new(max).unwrap()).unwrap(),
            timestamp: Timestamp::from_millis(now - hours_ago * HOUR),
            wal: None,
            generation: Generation::new(5),
            proof: Some(Proof { before: (min > 1).then(|| sum.checksum()), after: sum.checksum() }),
        };
        let mut encoder = Encoder::new(Vec::new(), header, Encoding::Block).unwrap();
        encoder.page(Pgno::FIRST, &page).unwrap();
        let bytes = encoder.finish().unwrap().0;
        let level = Level::new(level).unwrap();
        self.replica.put_segment(level, header.txids, bytes.into(), header.timestamp).await.unwrap();
    }

    fn url(&self) -> String {
        format!("file://{}", self.place().display())
    }

    fn place(&self) -> PathBuf {
        self.dir.path().join("r")
    }

    async fn names(&self) -> Vec<String> {
        let listing = self.replica.list_all().await.unwrap();
        listing.segments().map(|s| format!("{} {}", s.level, s.txids.max().get())).collect()
    }

    fn run(&self, line: &str) -> Output {
        let words = line.split(' ').map(|word| if word == "URL" { self.url() } else { word.to_owned() });
        let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
        command.args(words).current_dir(self.dir.path()).env_clear().output().unwrap()
    }

    fn ok(&self, line: &str) -> String {
        let done = self.run(line);
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    fn fails(&self, line: &str) -> String {
        let done = self.run(line);
        assert_eq!(done.status.code(), Some(1), "{line}: {}", String::from_utf8_lossy(&done.stdout));
        String::from_utf8(done.stderr).unwrap()
    }
}

/// A database without tables, in one page.
fn sqlite_page() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA page_size=512; PRAGMA user_version=1; VACUUM").unwrap();
    drop(db);
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(bytes.len(), 512);
    bytes
}

#[tokio::test]
async fn prune_tells_what_would_go_and_then_deletes_just_that() {
    let shelf = Shelf::of_days(5).await;
    let all = shelf.names().await;
    let told = shelf.ok("prune -dry-run -retention 60h URL");
    assert_eq!(shelf.names().await, all);
    assert!(told.contains("0000000000000001-0000000000000001.ltx  snapshot.retention"), "{told}");
    assert!(told.contains("0000000000000002-000000000000000b.ltx  before the oldest kept snapshot"), "{told}");
    let done = shelf.ok("prune -retention 60h URL");
    assert!(done.contains("deleted 2 segments") && done.contains("1 of 5 snapshots"), "{done}");
    let left = shelf.names().await;
    assert_eq!(left, ["L0 41", "L1 21", "L1 31", "L1 41", "L9 11", "L9 21", "L9 31", "L9 41"]);
    assert!(shelf.ok("prune -retention 60h URL").contains("deleted 0 segments"));
}

#[tokio::test]
async fn more_than_half_of_the_snapshots_go_only_if_that_is_confirmed() {
    let shelf = Shelf::of_days(9).await;
    let all = shelf.names().await;
    let error = shelf.fails("prune -retention 20h URL");
    assert!(error.contains("more than half of the snapshots") && error.contains("-confirm"), "{error}");
    assert_eq!(shelf.names().await, all);
    shelf.ok("prune -confirm -retention 20h URL");
    assert_eq!(shelf.names().await, ["L0 81", "L1 81", "L9 71", "L9 81"]);
}

#[tokio::test]
async fn a_pinned_point_survives_and_is_released() {
    let shelf = Shelf::of_days(5).await;
    let pinned = shelf.ok("pin -name release-1 -txid b URL");
    assert!(pinned.contains("release-1  000000000000000b"), "{pinned}");
    shelf.ok("pin -name release-1 -txid b URL");
    let taken = shelf.fails("pin -name release-1 -txid 15 URL");
    assert!(taken.contains("the name release-1 is taken by transaction 000000000000000b"), "{taken}");
    let listed = shelf.ok("pin -list -json URL");
    assert!(listed.contains("\"name\": \"release-1\""), "{listed}");
    shelf.ok("prune -confirm -retention 20h URL");
    let left = shelf.names().await;
    assert_eq!(left, ["L0 41", "L1 41", "L9 11", "L9 31", "L9 41"]);
    shelf.ok("restore -o out -txid b URL");
    shelf.ok("pin -release release-1 URL");
    assert_eq!(shelf.ok("pin -list URL").lines().count(), 1);
    assert!(shelf.fails("pin -release release-1 URL").contains("no pin named release-1"));
    shelf.ok("prune -confirm -retention 20h URL");
    assert_eq!(shelf.names().await, ["L0 41", "L1 41", "L9 31", "L9 41"]);
}

#[tokio::test]
async fn info_shows_pins_and_the_last_proof() {
    let shelf = Shelf::of_days(3).await;
    shelf.ok("pin -name release-1 -txid b URL");
    let shown: serde_json::Value = serde_json::from_str(&shelf.ok("info -json URL")).unwrap();
    assert_eq!(shown[0]["pins"][0]["name"], "release-1");
    assert_eq!(shown[0]["pins"][0]["txid"], "000000000000000b");
    assert!(shown[0]["last_proof"].is_null(), "by its URL, nothing is known of this machine: {shown}");
    let text = shelf.ok("info URL");
    assert!(text.contains("pin        txid") && text.contains("release-1  000000000000000b"), "{text}");
    assert!(text.contains("proven:    -"), "{text}");
    // By its database, what was proven on this machine is known.
    let living = Living::new("");
    assert!(living.once("").status.success());
    let run = |words: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
        let done = command.args(words.split(' ')).current_dir(living.dir.path()).env_clear().output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    run("drill -config l.yml db");
    let shown: serde_json::Value = serde_json::from_str(&run("info -config l.yml -json db")).unwrap();
    assert_eq!(shown[0]["last_proof"]["txid"], "0000000000000001", "{shown}");
    assert_eq!(shown[0]["pins"], serde_json::json!([]));
    assert!(run("info -config l.yml db").contains("proven:    0000000000000001 ("));
}

#[tokio::test]
async fn a_point_that_cannot_be_restored_is_not_pinned() {
    let shelf = Shelf::of_days(3).await;
    for line in ["pin -name a -txid 7 URL", "pin -name a -at 2001-01-01T00:00:00Z URL", "pin -name ../a URL"] {
        shelf.fails(line);
    }
    assert_eq!(shelf.ok("pin -list -json URL"), "[]\n");
    shelf.ok("pin -name newest URL");
    assert!(shelf.ok("pin -list URL").contains("newest  0000000000000015"));
}

#[tokio::test]
async fn prune_takes_its_settings_from_the_config_even_if_the_daemon_must_not_delete() {
    let shelf = Shelf::of_days(9).await;
    let config = format!(
        "retention: {{enabled: false}}\nsnapshot: {{retention: 20h}}\nkeep: {{daily: 6}}\ndbs:\n  - path: {}\n    \
         replica: {{path: {}}}\n",
        shelf.dir.path().join("db").display(),
        shelf.place().display()
    );
    std::fs::write(shelf.dir.path().join("c.yml"), config).unwrap();
    let done = shelf.ok("prune -config c.yml");
    assert!(done.contains("db on file: deleted"), "{done}");
    let left = shelf.names().await;
    let snapshots: Vec<&String> = left.iter().filter(|name| name.starts_with("L9")).collect();
    assert_eq!(snapshots, ["L9 31", "L9 41", "L9 51", "L9 61", "L9 71", "L9 81"]);
    assert!(shelf.fails("prune -config c.yml -replica other").contains("there is no replica \"other\""));
}

/// A damaged segment that everything would then depend on.
#[tokio::test]
async fn nothing_is_deleted_on_the_strength_of_a_damaged_segment() {
    let shelf = Shelf::of_days(5).await;
    let newest = newest_snapshot(&shelf.place());
    std::fs::write(&newest, vec![0; usize::try_from(newest.metadata().unwrap().len()).unwrap()]).unwrap();
    let all = shelf.names().await;
    let error = shelf.fails("prune -confirm -retention 20h URL");
    assert!(error.contains("cannot prune"), "{error}");
    assert_eq!(shelf.names().await, all);
}

fn newest_snapshot(place: &Path) -> PathBuf {
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(place.join("ltx/9")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names.pop().unwrap()
}

/// Litestream sees neither pins nor anything else that it does not know.
#[tokio::test]
async fn the_official_program_does_not_mind_pins() {
    let Ok(litestream) = std::env::var("LITESTREAM_BIN") else {
        println!("skipped: LITESTREAM_BIN is not set");
        return;
    };
    let shelf = Shelf::of_days(3).await;
    shelf.ok("pin -name a URL");
    let out = shelf.dir.path().join("theirs");
    let done = Command::new(litestream).arg("restore").arg("-o").arg(&out).arg(shelf.url()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(std::fs::read(out).unwrap(), sqlite_page());
}

/// A database beside the replica, replicated by the program itself.
struct Living {
    dir: TempDir,
}

impl Living {
    fn new(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let living = Self { dir };
        living.sql("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (randomblob(20000))");
        let at = living.dir.path().display();
        let config = format!("{settings}\ndbs: [{{path: {at}/db, replica: {{path: {at}/r}}}}]\n");
        std::fs::write(living.dir.path().join("l.yml"), config).unwrap();
        living
    }

    fn sql(&self, text: &str) {
        let db = rusqlite::Connection::open(self.dir.path().join("db")).unwrap();
        db.execute_batch(text).unwrap();
    }

    fn once(&self, flags: &str) -> Output {
        let words = format!("replicate -config l.yml -once {flags}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
        command.args(words.split_whitespace()).current_dir(self.dir.path()).env_clear().output().unwrap()
    }

    fn snapshots(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("r/ltx/9")).into_iter().flatten();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn a_snapshot_can_be_asked_for_with_once() {
    let living = Living::new("");
    let first = living.once("-force-snapshot");
    assert!(first.status.success(), "{first:?}");
    let base = format!("{0}-{0}.ltx", "0000000000000001");
    assert_eq!(living.snapshots(), [base.as_str()]);
    for _ in 0..3 {
        living.sql("INSERT INTO t VALUES (randomblob(3000))");
        assert!(living.once("").status.success());
    }
    let asked = living.once("-force-snapshot");
    assert!(
        asked.status.success() && String::from_utf8_lossy(&asked.stdout).contains("snapshot complete"),
        "{asked:?}"
    );
    assert_eq!(living.snapshots(), [base, format!("{}-{}.ltx", "0000000000000001", "0000000000000004")]);
    let again = living.once("-force-snapshot");
    assert!(again.status.success() && living.snapshots().len() == 2, "the newest point is one already: {again:?}");
    if let Ok(litestream) = std::env::var("LITESTREAM_BIN") {
        let (out, place) = (living.dir.path().join("theirs"), living.dir.path().join("r"));
        let url = format!("file://{}", place.display());
        let done = Command::new(litestream).arg("restore").arg("-o").arg(&out).arg(&url).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        let rows = rusqlite::Connection::open(&out).unwrap();
        let rows: i64 = rows.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 4);
    }
}

#[tokio::test]
async fn retention_can_be_enforced_with_once() {
    // Snapshots of nine days, to which a database of today is added.
    let shelf = Shelf::of_days(9).await;
    let living = Living { dir: shelf.dir };
    living.sql("PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
    let at = living.dir.path().display().to_string();
    let config = |settings: &str| {
        let text = format!("{settings}\ndbs: [{{path: {at}/db, replica: {{path: {at}/r}}}}]\n");
        std::fs::write(living.dir.path().join("l.yml"), text).unwrap();
    };
    config("snapshot: {retention: 20h}");
    let refused = living.once("-enforce-retention");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("use \"prune -confirm\""), "{refused:?}");
    assert!(living.snapshots().len() >= 9, "{:?}", living.snapshots());
    config("snapshot: {retention: 20h}\nkeep: {daily: 6}");
    let done = living.once("-enforce-retention");
    assert!(done.status.success(), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stdout).contains("retention enforced"), "{done:?}");
    assert!((6..=7).contains(&living.snapshots().len()), "{:?}", living.snapshots());
    config("snapshot: {retention: 20h}\nretention: {enabled: false}");
    let left = living.snapshots();
    assert!(living.once("-enforce-retention").status.success());
    assert_eq!(living.snapshots(), left, "retention is disabled");
}

/// The daemon may create and read; snapshots and deletions are made with other credentials.
#[test]
fn prune_makes_the_snapshots_of_a_replica_that_must_not_be_listed() {
    let living = Living::new("");
    let at = living.dir.path().display().to_string();
    let text = format!("dbs: [{{path: {at}/db, replica: {{path: {at}/r, create-only: true}}}}]\n");
    std::fs::write(living.dir.path().join("l.yml"), text).unwrap();
    for _ in 0..4 {
        assert!(living.once("").status.success());
        living.sql("INSERT INTO t VALUES (randomblob(3000))");
    }
    assert_eq!(living.snapshots(), [""; 0], "the daemon makes none");
    let run = |words: String| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
        let done = command.args(words.split(' ')).current_dir(living.dir.path()).env_clear().output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    let done = run(format!("prune -snapshot -retention 1h file://{at}/r"));
    assert!(done.contains("0000000000000001-0000000000000004.ltx is a snapshot"), "{done}");
    assert_eq!(living.snapshots(), ["0000000000000001-0000000000000004.ltx"]);
    assert!(living.once("").status.success(), "the daemon goes on");
    run(format!("prune -snapshot -retention 1h file://{at}/r"));
    assert_eq!(living.snapshots().len(), 2);
    run(format!("restore -o out.db file://{at}/r"));
    let out = rusqlite::Connection::open(living.dir.path().join("out.db")).unwrap();
    let rows: i64 = out.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 5);
}

#[test]
fn what_needs_a_listing_is_refused_where_listing_is_forbidden() {
    let living = Living::new("");
    let at = living.dir.path().display().to_string();
    let text = format!("dbs: [{{path: {at}/db, replica: {{path: {at}/r, create-only: true}}}}]\n");
    std::fs::write(living.dir.path().join("l.yml"), text).unwrap();
    for flag in ["-force-snapshot", "-enforce-retention"] {
        let refused = living.once(flag);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && said.contains("create-only"), "{refused:?}");
        assert!(!living.dir.path().join("r").exists(), "before anything was done");
    }
}
