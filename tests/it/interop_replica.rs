//! Replicas in directories, shared with the official program (`LITESTREAM_BIN`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use brooklet::replica::{Layout, PutError, Replica};
use brooklet::storage::{Body, FileStorage, Key};
use brooklet::types::Txid;
use rusqlite::Connection;

fn official() -> Option<PathBuf> {
    let binary = std::env::var_os("LITESTREAM_BIN").map(PathBuf::from);
    if binary.is_none() {
        println!("skipped: LITESTREAM_BIN is not set");
    }
    binary
}

fn run(binary: &Path, arguments: &[&str]) {
    let result = Command::new(binary).args(arguments).output().unwrap();
    assert!(result.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&result.stderr));
}

fn url(dir: &Path) -> String {
    format!("file://{}", dir.display())
}

fn at(dir: &Path) -> Replica {
    Replica::new("r".into(), Arc::new(FileStorage::new(dir)), Key::ROOT, Layout::Decimal)
}

fn restored(binary: &Path, replica: &Path, into: &Path) -> Vec<u8> {
    run(binary, &["restore", "-o", into.to_str().unwrap(), &url(replica)]);
    std::fs::read(into).unwrap()
}

#[tokio::test]
async fn the_official_programs_replica_is_ours_to_read_and_the_other_way_round() {
    let Some(binary) = official() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    let database = Connection::open(path("a.db")).unwrap();
    database.pragma_update(None, "journal_mode", "wal").unwrap();
    database.execute_batch("create table t(x)").unwrap();
    for n in 0..3 {
        database.execute("insert into t values (randomblob(5000))", []).unwrap();
        let (source, target) = (path("a.db"), url(&path("theirs")));
        let mut arguments = vec!["replicate", "-once"];
        if n == 1 {
            arguments.push("-force-snapshot");
        }
        arguments.extend([source.to_str().unwrap(), &target]);
        run(&binary, &arguments);
    }

    let (theirs, ours) = (at(&path("theirs")), at(&path("ours")));
    let listing = theirs.list_all().await.unwrap();
    assert_eq!(listing.gap_free_end(), listing.position());
    assert!(listing.position() >= Txid::new(3) && listing.has_base());
    let [run] = theirs.generations(&listing).await.unwrap()[..] else { panic!("one run") };
    assert_eq!((run.generation, Some(run.txids.max())), (None, listing.position()));

    for listed in listing.segments() {
        let header = theirs.read_header(listed).await.unwrap();
        assert_eq!(header.timestamp, listed.created, "{listed}");
        theirs.read_trailer(listed).await.unwrap();
        let bytes = theirs.read(listed, 0..listed.size).await.unwrap();
        let put = |replica: &Replica, bytes: &bytes::Bytes| {
            let (replica, body) = (replica.clone(), Body::Bytes(bytes.clone()));
            async move { replica.put_segment(listed.level, listed.txids, body, header.timestamp).await }
        };
        put(&ours, &bytes).await.unwrap();
        put(&theirs, &bytes).await.unwrap();
        let mut other = bytes.to_vec();
        other[39] ^= 1; // in the header's time
        let fenced = put(&theirs, &other.into()).await.unwrap_err();
        assert!(matches!(fenced, PutError::Fenced { theirs: None, .. }), "{fenced}");
    }
    assert_eq!(ours.list_all().await.unwrap(), listing);
    let expected = restored(&binary, &path("theirs"), &path("one.db"));
    assert!(restored(&binary, &path("ours"), &path("two.db")) == expected);
}
