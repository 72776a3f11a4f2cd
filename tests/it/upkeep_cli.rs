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
