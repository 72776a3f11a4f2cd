//! Failures that only a failpoint can bring about. Each test runs in a process
//! of its own, because failpoints are switched for a whole process.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use brooklet::capture::checkpoint::Policy;
use brooklet::capture::{Database, Followed, Options};
use rusqlite::Connection;

use crate::capture::Rig;
use crate::elsewhere::passive;
use crate::pretend::{Pretend, seconds};

const TABLE: &str = "PRAGMA synchronous=OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)";

fn insert(app: &Connection, rows: usize) {
    for _ in 0..rows {
        app.execute("INSERT INTO t(x) VALUES (randomblob(600))", []).unwrap();
    }
}

/// Runs one of the ignored tests below alone.
fn alone(test: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("failures_injected::{test}"), "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let ran = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    assert!(output.status.success() && ran, "{text}");
}

/// F4.
#[test]
fn a_guard_that_is_refused_after_a_checkpoint_is_asked_for_again_at_once() {
    alone("refused_a_few_times");
}

#[test]
#[ignore = "run alone by the test above"]
fn refused_a_few_times() {
    let scenario = fail::FailScenario::setup();
    let (mut rig, app) = Rig::new(TABLE);
    let mut time = Pretend::new();
    insert(&app, 50);
    rig.capture();
    // The bulk copy moves the guard once; then, under the barrier, it is refused.
    fail::cfg("capture::begin-read", "1*off->7*return->off").unwrap();
    time.pass(&mut rig.followed, seconds(5));
    assert_eq!(rig.followed.counters().seals, 1);
    insert(&app, 50);
    let foreign = passive(&rig.path);
    assert!(foreign.log >= 50 && foreign.copied == 0, "the guard is on slot 0: {foreign:?}");
    rig.capture();
    rig.assert_shadow_equals_source();
    assert_eq!(rig.followed.counters().resyncs, 0);
    scenario.teardown();
}

/// F4: a guard that cannot be had at all is a gap, during which anything may
/// have happened.
#[test]
fn a_guard_that_stays_refused_is_a_gap_in_the_proof() {
    alone("refused_for_good");
}

#[test]
#[ignore = "run alone by the test above"]
fn refused_for_good() {
    let scenario = fail::FailScenario::setup();
    let (mut rig, app) = Rig::new(TABLE);
    insert(&app, 50);
    rig.capture();
    fail::cfg("capture::begin-read", "1*off->return").unwrap();
    let (mut now, mut trouble) = (std::time::Instant::now(), None);
    for _ in 0..10 {
        let stepped = rig.followed.step(now, SystemTime::now());
        trouble = trouble.or(stepped.trouble.filter(|_| !stepped.live));
        now += seconds(3);
    }
    assert!(trouble.unwrap().contains("failpoint"));
    // While there is no guard: more frames, all copied, and a new run over the old one. Nothing grows.
    app.execute("UPDATE t SET x = randomblob(600) WHERE id > 20", []).unwrap();
    let foreign = passive(&rig.path);
    assert_eq!(foreign.log, foreign.copied, "nothing is held back");
    app.execute("UPDATE t SET x = 'new' WHERE id = 3", []).unwrap();
    fail::cfg("capture::begin-read", "off").unwrap();
    let stepped = rig.followed.step(now + seconds(60), SystemTime::now());
    assert!(stepped.live && stepped.trouble.is_none(), "{stepped:?}");
    rig.capture();
    rig.assert_shadow_equals_source();
    assert_eq!(rig.followed.counters().resyncs, 1);
    scenario.teardown();
}

/// F27.
#[test]
fn a_restart_between_two_passes_over_the_log_discards_what_was_read() {
    alone("restart_between_passes");
}

#[test]
#[ignore = "run alone by the test above"]
fn restart_between_passes() {
    let scenario = fail::FailScenario::setup();
    let (mut rig, app) = Rig::new(TABLE);
    insert(&app, 50);
    rig.capture();
    let before = rig.followed.position().unwrap().point.seq;
    rig.reopen();
    // More than a window in memory holds is read twice.
    let options = Options { max_pass_bytes: 1000, ..Options::new(&rig.path) };
    rig.followed = Database::new(options, Followed::default());
    // Not captured, but copied, so that the guard will be on slot 0 and the log may restart once.
    insert(&app, 200);
    app.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
    let (app, once) = (Arc::new(Mutex::new(app)), std::sync::Once::new());
    let other = app.clone();
    // Large enough to overwrite every frame that was proven.
    let overwrite = move || once.call_once(|| insert(&other.lock().unwrap(), 300));
    fail::cfg_callback("capture::between-passes", overwrite).unwrap();
    rig.capture();
    let after = rig.followed.position().unwrap().point.seq;
    assert_eq!(after, before.next(), "one segment, by comparison; what was read is discarded");
    let app = app.lock().unwrap();
    assert_eq!(app.query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0)).unwrap(), 550, "the hook ran");
    assert_eq!(rig.followed.counters().resyncs, 1);
    rig.assert_shadow_equals_source();
    insert(&app, 5);
    rig.capture();
    rig.assert_shadow_equals_source();
    scenario.teardown();
}

/// F34: writers so fast that much is left to capture whenever they are to be
/// stopped for a moment. Their log is sealed all the same, after a few attempts.
#[test]
fn a_writer_that_outpaces_every_copy_does_not_keep_the_log_from_restarting() {
    alone("outpaced");
}

#[test]
#[ignore = "run alone by the test above"]
fn outpaced() {
    let scenario = fail::FailScenario::setup();
    for megabytes in [2, 10] {
        let (mut rig, app) = Rig::new(TABLE);
        let policy = Policy { min_frames: 100, ..Policy::default() };
        rig.followed = Database::new(Options { checkpoint: policy, ..Options::new(&rig.path) }, Followed::default());
        rig.capture();
        let mut time = Pretend::new();
        let app = Mutex::new(app);
        fail::cfg_callback("capture::before-barrier", move || {
            app.lock().unwrap().execute("INSERT INTO t(x) VALUES (randomblob(?1))", [megabytes << 20]).unwrap();
        })
        .unwrap();
        for _ in 0..6 {
            time.event(&mut rig.followed);
            time.skip(seconds(1));
        }
        fail::remove("capture::before-barrier");
        let counters = rig.followed.counters();
        assert!(counters.seals >= 1 && counters.resyncs == 0, "{megabytes} MB: {counters:?}");
        rig.drain();
        rig.assert_shadow_equals_source();
    }
    scenario.teardown();
}
