//! No footprint: a day of replication leaves nothing of ours in the database,
//! in its log or beside it.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;

use brooklet::wal::committed;
use rusqlite::Connection;

use crate::capture::Rig;
use crate::pretend::{Dice, Pretend, seconds};

const SETUP: &str = "PRAGMA synchronous=OFF; PRAGMA user_version=7; PRAGMA application_id=99; \
    CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB); CREATE INDEX i ON t(x); \
    CREATE TRIGGER g AFTER DELETE ON t BEGIN SELECT 1; END";

/// What the application would notice: its schema, the numbers in its header, its rows.
fn noticeable(app: &Connection) -> Vec<String> {
    let schema = "SELECT group_concat(type || name || tbl_name || rootpage || sql, ';') FROM sqlite_schema";
    let rows = "SELECT count(*) || ' ' || total(id) || ' ' || total(length(x)) FROM t";
    let numbers = ["schema_version", "user_version", "application_id", "page_size", "auto_vacuum", "journal_mode"];
    let pragmas = numbers.map(|name| format!("SELECT * FROM pragma_{name}"));
    let all = [schema, rows].into_iter().map(str::to_owned).chain(pragmas);
    all.map(|sql| format!("{:?}", app.query_row(&sql, [], |r| r.get::<_, rusqlite::types::Value>(0)).unwrap()))
        .collect()
}

/// Acceptance, and F36: over a day of made-up time, every commit in the log is one that
/// the application made.
#[test]
fn a_day_of_replication_leaves_nothing_of_ours_in_the_database() {
    let (mut rig, app) = Rig::new(SETUP);
    let (alone_dir, mut dice, mut time) = (tempfile::tempdir().unwrap(), Dice::new(24), Pretend::new());
    // The same statements, run where nobody replicates.
    let alone = Connection::open(alone_dir.path().join("db")).unwrap();
    alone.execute_batch("PRAGMA journal_mode=wal").unwrap();
    alone.execute_batch(SETUP).unwrap();
    rig.capture();
    let log = PathBuf::from(format!("{}-wal", rig.path.display()));
    let seen = |commits: &mut HashSet<_>| {
        let Some(found) = committed(&std::fs::read(&log).unwrap()) else { return };
        let salts = found.header.salts;
        commits.extend(found.frames.iter().filter(|f| f.commit.is_some()).map(|f| (salts, f.number)));
    };
    let mut commits = HashSet::new();
    seen(&mut commits);
    let before = commits.len();
    let (mut made, mut passed) = (0, 0);
    while passed < 24 * 3600 {
        let (id, bytes) = (dice.roll(5000), dice.roll(2000));
        let sql = match dice.roll(3) {
            0 => format!("DELETE FROM t WHERE id BETWEEN {id} AND {}", id + dice.roll(20)),
            _ => format!("INSERT OR REPLACE INTO t VALUES ({id}, zeroblob({bytes}) || {id})"),
        };
        // A statement that changes nothing commits nothing.
        made += usize::from(app.execute(&sql, []).unwrap() > 0);
        alone.execute(&sql, []).unwrap();
        seen(&mut commits);
        let pause = [0, 1, 3, 30, 300, 600][dice.roll(6) as usize];
        time.pass(&mut rig.followed, seconds(pause));
        seen(&mut commits);
        passed += pause;
    }
    assert!(made > 300, "{made}");
    assert_eq!(commits.len() - before, made, "commits in the log, and commits made");
    let counters = rig.followed.counters();
    assert!(counters.seals > 150 && counters.resyncs == 0, "{counters:?}");
    assert_eq!(noticeable(&app), noticeable(&alone));
    let names: BTreeSet<_> =
        std::fs::read_dir(rig.path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, [".db-litestream", "db", "db-shm", "db-wal"].map(Into::into).into());
    rig.capture();
    rig.assert_shadow_equals_source();
}
