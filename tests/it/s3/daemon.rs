//! The daemon against a server on its bad days.

use std::sync::Arc;
use std::time::Duration;

use brooklet::ltx::Level;
use brooklet::replica::{Layout, Listing, Replica};
use brooklet::storage::s3::{Options, S3Storage};
use brooklet::storage::{Key, Pace, Retry, Throttle};

use super::{Server, options};
use crate::capture::consistent_copy;
use crate::running::{TABLE, database, follow, insert, rebuild, restored, start, stop, until, wait_for};
use crate::upkeep_daemon::{caught_up, count, has_later_snapshot, hurried, kept, listing_with, write_for};

/// As the command line opens one.
fn replica(server: &Server, change: impl FnOnce(&mut Options)) -> Arc<Replica> {
    let mut options = options(server);
    change(&mut options);
    let throttle = Throttle::new(Arc::new(S3Storage::new(options)), Arc::new(Pace::new(None)));
    let storage = Retry::new(Arc::new(throttle));
    Arc::new(Replica::new("s3".into(), Arc::new(storage), Key::new("backups/app").unwrap(), Layout::Hex))
}

/// F74: refusals, lost answers and broken connections cost time, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn commits_arrive_in_s3_on_a_bad_day() {
    let server = Server::start();
    server.faults(|faults| {
        faults.least_part = 0;
        faults.slow_down_every = Some(9);
        faults.lose_every = Some(7);
        faults.cut_after = Some(70_000);
    });
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    insert(&app, 400);
    let replica = replica(&server, |options| options.part_size = 50_000);
    let daemon = follow(&path, &[&replica]).await;
    for _ in 0..8 {
        insert(&app, 40);
        let batch = daemon.board().read()[0].captured.unwrap().batch;
        wait_for(&daemon, "the burst arrives", |f| f.captured.unwrap().batch > batch && f.behind().count() == 0).await;
    }
    stop(daemon).await;
    assert!(rebuild(&replica).await == consistent_copy(&path));
    assert!(restored(&replica).await == consistent_copy(&path));
    let counts = server.counts();
    assert!(counts["CompleteMultipartUpload"] > 0 && counts["PutObject"] > 0, "{counts:?}");
}

/// F73: merges and snapshots go on where their connections ended, and what an answer was lost for is there once.
#[tokio::test(flavor = "multi_thread")]
async fn segments_are_merged_and_deleted_in_s3_on_a_bad_day() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    insert(&app, 400);
    let replica = replica(&server, |options| options.part_size = 50_000);
    server.faults(|faults| faults.least_part = 0);
    let daemon = start(vec![kept(&path, &[&replica], &hurried())]);
    caught_up(&daemon).await;
    server.faults(|faults| {
        faults.slow_down_every = Some(23);
        faults.lose_every = Some(19);
        faults.cut_after = Some(70_000);
    });
    for _ in 0..4 {
        write_for(&app, Duration::from_millis(500)).await;
    }
    let busy = |l: &Listing| count(l, 2) > 0 && has_later_snapshot(l) && l.level(Level::L0)[0].txids.min().get() > 1;
    listing_with(&replica, "merges, snapshots and deletions", busy).await;
    caught_up(&daemon).await;
    stop(daemon).await;
    assert!(restored(&replica).await == consistent_copy(&path));
    let listing = replica.list_all().await.unwrap();
    assert_eq!(listing.gap_free_end(), listing.position());
}

/// F76: parts that an earlier run left behind are removed at the start, once they are old.
#[tokio::test(flavor = "multi_thread")]
async fn old_unfinished_uploads_are_removed_at_the_start() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    insert(&app, 1);
    let begun = aws(&server, "backups/app/0000/x").await;
    assert!(begun && aws(&server, "backups/app/0009/y").await && aws(&server, "elsewhere/z").await);
    server.age_uploads(Duration::from_secs(25 * 3600));
    assert!(aws(&server, "backups/app/0000/young").await);
    let daemon = follow(&path, &[&replica(&server, |_| {})]).await;
    let left = ["backups/app/0000/young", "elsewhere/z"];
    until("the old ones are removed", || {
        let mut uploads = server.uploads();
        uploads.sort();
        uploads == left
    });
    stop(daemon).await;
}

/// Begins an upload as some process did that is no more.
async fn aws(server: &Server, key: &str) -> bool {
    use aws_sdk_s3::config::{BehaviorVersion, Builder, Credentials, Region};
    let keys = Credentials::new(super::server::ACCESS_KEY, super::server::SECRET_KEY, None, None, "test");
    let tls =
        aws_smithy_http_client::tls::Provider::rustls(aws_smithy_http_client::tls::rustls_provider::CryptoMode::Ring);
    let config = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(keys)
        .endpoint_url(&server.endpoint)
        .force_path_style(true)
        .http_client(aws_smithy_http_client::Builder::new().tls_provider(tls).build_https())
        .build();
    let client = aws_sdk_s3::Client::from_conf(config);
    client.create_multipart_upload().bucket(super::BUCKET).key(key).send().await.is_ok()
}
