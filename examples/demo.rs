//! The whole journey on this machine: a database is made, replicated to a local
//! directory while it is being written, restored, and compared.
//!
//! ```sh
//! cargo run --release --example demo
//! ```

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use brooklet::capture;
use brooklet::daemon::{Daemon, Destination, Job, Settings};
use brooklet::ltx::Encoding;
use brooklet::replica::{Layout, Replica};
use brooklet::restore::{self, IntegrityCheck, Limits, Progress, Target};
use brooklet::storage::{FileStorage, Key};
use brooklet::upkeep::Policy;
use rusqlite::Connection;

/// How long the example writes.
const WRITING: Duration = Duration::from_secs(3);
/// How long it waits for the last upload.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("brooklet-demo-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let outcome = runtime.block_on(demo(&dir));
    std::fs::remove_dir_all(&dir)?;
    outcome
}

async fn demo(dir: &Path) -> Result<(), Box<dyn Error>> {
    let (source, copy) = (dir.join("app.db"), dir.join("restored.db"));
    let app = Connection::open(&source)?;
    app.busy_timeout(Duration::from_secs(5))?;
    app.execute_batch("PRAGMA journal_mode=wal; CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT)")?;
    println!("made       {}", source.display());

    let storage = Arc::new(FileStorage::new(dir.join("replica")));
    let replica = Replica::new("demo".to_owned(), storage, Key::ROOT, Layout::Decimal);
    let destination = Destination {
        replica: Arc::new(replica.clone()),
        encoding: Encoding::Block,
        sync_interval: Duration::from_millis(250),
        max_segments: 0,
        create_only: false,
        upkeep: Some(Arc::new(Policy::default())),
    };
    let daemon = Daemon::start(
        vec![Job { capture: capture::Options::new(&source), replicas: vec![destination] }],
        Settings::default(),
    );
    println!("following  every commit goes to {}", dir.join("replica").display());

    let commits = write_for(&app, WRITING)?;
    let unconfirmed = daemon.stop(PATIENCE).await;
    if !unconfirmed.is_empty() {
        return Err(format!("not everything arrived: {unconfirmed:?}").into());
    }
    let objects = replica.list_all().await?.len();
    println!("wrote      {commits} commits while it was followed; the replica holds them in {objects} objects");

    let options = restore::Options {
        target: Target::Latest,
        overwrite: false,
        delta: false,
        parallelism: 8,
        limits: Limits::default(),
        integrity_check: IntegrityCheck::Full,
    };
    let begun = Instant::now();
    restore::restore(&[replica], &copy, &options, &Arc::new(Progress::default())).await?;
    println!("restored   {} in {:?}", copy.display(), begun.elapsed());

    let restored = Connection::open(&copy)?;
    let (expected, found) = (content(&app)?, content(&restored)?);
    if expected != found {
        return Err("the restored database differs from its source".into());
    }
    println!("compared   {} rows, all equal", expected.len());
    Ok(())
}

fn write_for(app: &Connection, time: Duration) -> Result<u64, rusqlite::Error> {
    let until = Instant::now() + time;
    let mut commits = 0;
    while Instant::now() < until {
        app.execute("INSERT INTO notes(text) VALUES (hex(randomblob(100)))", [])?;
        app.execute("UPDATE notes SET text = upper(text) || '.' WHERE id = abs(random()) % 1000", [])?;
        commits += 2;
    }
    Ok(commits)
}

fn content(connection: &Connection) -> Result<Vec<(i64, String)>, rusqlite::Error> {
    let mut rows = connection.prepare("SELECT id, text FROM notes ORDER BY id")?;
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}
