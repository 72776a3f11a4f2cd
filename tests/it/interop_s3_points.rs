//! Buckets in full swing: every point that one program left behind, merged, with
//! snapshots and with level 0 thinned out, is restored by both, and both restore
//! the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use brooklet::ltx::Level;
use brooklet::replica::{Layout, Replica};
use brooklet::restore::Target;
use brooklet::restore::plan::Holdings;
use brooklet::storage::s3::S3Storage;
use brooklet::storage::{Key, Retry};
use brooklet::types::Timestamp;

use crate::running::{PATIENCE, TABLE, assert_same_pages, database, insert, start, stop, try_restore};
use crate::s3::{BUCKET, Server, options};
use crate::upkeep_daemon::{caught_up, count, has_later_snapshot, hurried, kept, listing_with, write_for};

fn replica(server: &Server) -> Arc<Replica> {
    let storage = Retry::new(Arc::new(S3Storage::new(options(server))));
    Arc::new(Replica::new("s3".into(), Arc::new(storage), Key::new("backups/app").unwrap(), Layout::Hex))
}

fn official(variable: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from);
    if found.is_none() {
        println!("skipped: {variable} is not set");
    }
    found
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("HOME", "/nonexistent").env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("LITESTREAM_ACCESS_KEY_ID", "test-access-key");
    command.env("LITESTREAM_SECRET_ACCESS_KEY", "test-secret-key").stdin(Stdio::null());
    command
}

/// What the official program restores; `None` if it says that it cannot.
fn theirs(program: &Path, server: &Server, flags: &[&str]) -> Option<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let url = format!("s3://{BUCKET}/backups/app?endpoint={}&region=us-east-1", server.address);
    let done = command(program).arg("restore").args(flags).arg("-o").arg(&out).arg(url).output().unwrap();
    if !done.status.success() {
        println!("{flags:?}: {}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    }
    done.status.success().then(|| std::fs::read(out).unwrap())
}

/// Every point that is there, by its TXID and by the time of each segment that ends
/// with it. Returns how many there are.
async fn compare(program: &Path, server: &Server, replica: &Replica) -> usize {
    let segments: Vec<_> = replica.list_all().await.unwrap().segments().copied().collect();
    let points = Holdings::new(segments.iter().copied()).restorable();
    assert_same_pages(&theirs(program, server, &[]).unwrap(), &try_restore(replica, Target::Latest).await.unwrap());
    for point in &points {
        let ours = try_restore(replica, Target::Txid(*point)).await.unwrap();
        let by_txid = theirs(program, server, &["-txid", &point.to_string()]);
        assert_same_pages(&by_txid.unwrap_or_else(|| panic!("they cannot restore {point}")), &ours);
    }
    let mut stamped = Vec::new();
    for segment in &segments {
        stamped.push((replica.read_header(segment).await.unwrap().timestamp, *segment));
    }
    let ends = stamped.iter().filter(|(_, segment)| points.contains(&segment.txids.max()));
    let times: BTreeSet<_> = ends.map(|(time, _)| *time).collect();
    let mut agreed = 0;
    for time in times {
        let ours = try_restore(replica, Target::Timestamp(time)).await.unwrap();
        // They take what is older than the instant, we take what is stamped with it too. By URL they refuse times
        // after the newest upload, and times before the first snapshot was stored: in S3 they learn those from listings.
        let after = Timestamp::from_millis(time.as_millis() + 1).to_string();
        let Some(by_time) = theirs(program, server, &["-timestamp", &after]) else { continue };
        // A snapshot is stamped when it is made, and they use none that is stamped later than the instant. Where level
        // 0 was thinned out below it, they end before the newest transaction of the instant, which we restore.
        let early = stamped.iter().filter(|(stamp, _)| *stamp <= time);
        let reached = *Holdings::new(early.map(|(_, segment)| *segment)).restorable().last().unwrap();
        assert_same_pages(&by_time, &try_restore(replica, Target::Txid(reached)).await.unwrap());
        let newest = stamped.iter().filter(|(stamp, segment)| {
            *stamp <= time && segment.level != Level::SNAPSHOT && points.contains(&segment.txids.max())
        });
        let newest = newest.map(|(_, segment)| segment.txids.max()).max().unwrap().max(reached);
        assert_same_pages(&ours, &try_restore(replica, Target::Txid(newest)).await.unwrap());
        agreed += usize::from(reached == newest);
    }
    println!("{} points, {agreed} times restored by both", points.len());
    assert!(agreed * 2 > points.len(), "{agreed} of {}", points.len());
    points.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_that_upkeep_leaves_in_a_bucket_is_restored_by_the_official_program() {
    let Some(program) = official("LITESTREAM_BIN") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let server = Server::start();
    let replica = replica(&server);
    let daemon = start(vec![kept(&path, &[&replica], &hurried())]);
    caught_up(&daemon).await;
    for round in 0..5 {
        write_for(&app, Duration::from_millis(700)).await;
        if round == 2 {
            app.execute_batch("DELETE FROM t WHERE id % 2; VACUUM").unwrap();
        }
    }
    listing_with(&replica, "everything was done", |l| count(l, 3) > 0 && has_later_snapshot(l)).await;
    caught_up(&daemon).await;
    stop(daemon).await;
    let listing = replica.list_all().await.unwrap();
    assert!(listing.level(Level::L0)[0].txids.min().get() > 3, "level 0 was thinned out: {listing:#?}");
    let points = compare(&program, &server, &replica).await;
    assert!(points > 5, "{points}");
}

/// Litestream replicates to the bucket for a while, with everything it does there.
async fn busy(variable: &str) {
    let Some(program) = official(variable) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let server = Server::start();
    let replica = replica(&server);
    let config = dir.path().join("litestream.yml");
    let text = format!(
        "levels: [{{interval: 400ms}}, {{interval: 1s}}]\nsnapshot: {{interval: 1500ms, retention: 1h}}\n\
         l0-retention: 1s\nl0-retention-check-interval: 200ms\ndbs:\n  - path: {}\n    monitor-interval: 50ms\n    \
         replica: {{type: s3, bucket: {BUCKET}, path: backups/app, endpoint: '{}', region: us-east-1, \
         force-path-style: true, sync-interval: 50ms}}\n",
        path.display(),
        server.endpoint
    );
    std::fs::write(&config, text).unwrap();
    let mut running = command(&program);
    let mut running = running.args(["replicate", "-config"]).arg(&config).stdout(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    loop {
        insert(&app, 3);
        tokio::time::sleep(Duration::from_millis(60)).await;
        let listing = replica.list_all().await.unwrap();
        if begun.elapsed() > Duration::from_secs(4) && count(&listing, 2) > 1 && count(&listing, 9) > 1 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE * 3, "{listing:#?}");
    }
    let stopped = Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap();
    assert!(stopped.success() && running.wait().unwrap().success());
    let points = compare(&program, &server, &replica).await;
    assert!(points > 5, "{points}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_that_0_5_17_leaves_in_a_bucket_is_restored_as_it_restores_it() {
    busy("LITESTREAM_BIN").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_that_0_5_15_leaves_in_a_bucket_is_restored_as_it_restores_it() {
    busy("LITESTREAM_BIN_0515").await;
}
