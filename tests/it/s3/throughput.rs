//! A base of a gigabyte to the server and back, beside the official program: a
//! measurement, run by hand.
//!
//! `cargo test --release --test it -- s3::throughput --ignored --nocapture`

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{BUCKET, Server};

/// Seconds, and the most memory in MB.
struct Cost {
    seconds: f64,
    peak: f64,
}

fn run(program: &Path, dir: &Path, words: &[&str]) -> Cost {
    let begun = Instant::now();
    let mut command = Command::new(program);
    command.args(words).current_dir(dir).env_clear().env("HOME", dir).env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("LITESTREAM_ACCESS_KEY_ID", "test-access-key").env("LITESTREAM_SECRET_ACCESS_KEY", "test-secret-key");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    let status = loop {
        let text = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
        peak = peak.max(line.trim().trim_end_matches(" kB").parse::<u32>().unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{program:?} {words:?}");
    Cost { seconds: begun.elapsed().as_secs_f64(), peak: f64::from(peak) / 1024.0 }
}

#[test]
#[ignore = "a measurement of some minutes"]
fn a_base_of_a_gigabyte_up_and_down() {
    let Some(official) = std::env::var_os("LITESTREAM_BIN") else {
        println!("skipped: LITESTREAM_BIN is not set");
        return;
    };
    let megabytes: u32 = std::env::var("THROUGHPUT_MB").map_or(1000, |mb| mb.parse().unwrap());
    let programs = [Path::new(env!("CARGO_BIN_EXE_brooklet")), Path::new(&official)];
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let source = dir.path().join("app.db");
    let app = rusqlite::Connection::open(&source).unwrap();
    // Half of it can be compressed.
    let rows = megabytes * 250;
    let fill = format!(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO t SELECT i, CAST(randomblob(1950) || zeroblob(1950) AS BLOB) FROM n;
         PRAGMA wal_checkpoint(TRUNCATE);"
    );
    app.execute_batch(&fill).unwrap();
    drop(app);
    let count = |path: &Path| -> i64 {
        let db = rusqlite::Connection::open(path).unwrap();
        db.query_row("SELECT count(*) + sum(length(x)) FROM t", [], |row| row.get(0)).unwrap()
    };
    let size = std::fs::metadata(&source).unwrap().len() >> 20;
    println!("{size} MB | upload s | MB | restore s | MB");
    for (round, (name, program)) in ["brooklet", "official"].iter().zip(programs).cycle().take(4).enumerate() {
        let url = format!("s3://{BUCKET}/{name}{round}?endpoint={}&region=us-east-1", server.address);
        // A fresh copy each, so that nobody finds local state.
        let own = tempfile::tempdir().unwrap();
        std::fs::copy(&source, own.path().join("app.db")).unwrap();
        let up = run(program, own.path(), &["replicate", "-once", "app.db", &url]);
        let down = run(program, own.path(), &["restore", "-o", "restored.db", &url]);
        assert_eq!(count(&own.path().join("restored.db")), count(&source));
        println!("{name} | {:.2} | {:.1} | {:.2} | {:.1}", up.seconds, up.peak, down.seconds, down.peak);
    }
}
