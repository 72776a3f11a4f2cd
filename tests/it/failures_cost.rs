//! What replication costs: requests while nothing happens, while something does,
//! and after an outage.

use std::sync::Arc;
use std::time::Duration;

use brooklet::ltx::Encoding;
use brooklet::replica::Replica;
use brooklet::storage::{Counted, Counts, MemoryStorage, Operation};
use brooklet::upkeep::{Now, Policy, Retention, Stepped, Stop, Upkeep};
use brooklet::upload::{Advanced, Uploader};

use crate::capture::Rig;
use crate::fault::Moody;
use crate::pretend::{Pretend, seconds};
use crate::running::{TABLE, assert_restores, database, follow, insert, job, replica_in, start, stop, wait_for};

fn counted() -> (Arc<Replica>, Arc<Counts>) {
    let counts = Arc::new(Counts::default());
    let storage = Arc::new(Counted::new(MemoryStorage::new(), counts.clone()));
    (replica_in(storage, "r"), counts)
}

async fn ship(uploader: &mut Uploader, rig: &mut Rig) {
    let spool = rig.followed.spool().unwrap();
    let generation = rig.followed.position().unwrap().generation;
    loop {
        match uploader.advance(&spool, generation).await.unwrap() {
            Advanced::Shipped => {}
            Advanced::UpToDate => return,
            Advanced::NeedsBase => {
                let base = rig.followed.base(std::time::SystemTime::now()).unwrap();
                uploader.put_base(base).await.unwrap();
            }
            Advanced::TakenOver => panic!("nobody else writes here"),
        }
    }
}

/// F85: one commit a second for an hour of made-up time is one request each, and
/// no listing. A day without commits is nothing at all.
#[tokio::test(flavor = "multi_thread")]
async fn each_commit_costs_one_request_and_an_idle_day_none() {
    const HOUR: u64 = 3600;
    let (mut rig, app) = Rig::new(&format!("PRAGMA synchronous=OFF; {TABLE}"));
    let (replica, counts) = counted();
    let mut uploader = Uploader::new(replica, Encoding::Block, 0);
    let mut time = Pretend::new();
    insert(&app, 1);
    rig.capture();
    ship(&mut uploader, &mut rig).await;
    let opened = Operation::ALL.map(|operation| counts.of(operation).requests);
    for _ in 0..HOUR {
        insert(&app, 1);
        time.pass(&mut rig.followed, seconds(1));
        ship(&mut uploader, &mut rig).await;
    }
    let hour = Operation::ALL.map(|operation| counts.of(operation).requests);
    let made: Vec<u64> = hour.iter().zip(opened).map(|(now, before)| now - before).collect();
    let [list, get, put, delete] = made[..] else { unreachable!() };
    assert_eq!([list, get, delete], [0, 0, 0]);
    assert!((HOUR - 1..=HOUR).contains(&put), "{put} puts");

    let position = rig.followed.position();
    time.pass(&mut rig.followed, seconds(24 * HOUR));
    assert_eq!(rig.followed.position(), position, "nothing was captured, so nobody is woken to ship");
    ship(&mut uploader, &mut rig).await;
    assert_eq!(
        Operation::ALL.map(|operation| counts.of(operation).requests),
        hour,
        "and who looks all the same asks nothing"
    );
}

/// F85: with merging, snapshots and retention as they are by default, the hour
/// needs a put for each merge more, and still no listing.
#[tokio::test(flavor = "multi_thread")]
async fn an_hour_of_commits_with_upkeep_needs_no_listing() {
    const HOUR: u64 = 3600;
    let (mut rig, app) = Rig::new(&format!("PRAGMA synchronous=OFF; {TABLE}"));
    let (replica, counts) = counted();
    let mut uploader = Uploader::new(replica.clone(), Encoding::Block, 0);
    let policy = Policy { retention: Some(Retention::default()), ..Policy::default() };
    let minutes = |n: u64| Duration::from_secs(60 * n);
    assert_eq!(policy.levels, [Duration::from_secs(30), minutes(5), minutes(60)], "what is counted below");
    let mut upkeep = Upkeep::new(replica.clone(), uploader.shelf().clone(), policy, "r", Stop::default());
    let mut time = Pretend::new();
    insert(&app, 1);
    rig.capture();
    ship(&mut uploader, &mut rig).await;
    let opened = Operation::ALL.map(|operation| counts.of(operation).requests);
    let mut worked = 0;
    for second in 0..HOUR {
        insert(&app, 1);
        time.pass(&mut rig.followed, seconds(1));
        ship(&mut uploader, &mut rig).await;
        let now = Now { elapsed: Duration::from_secs(second), wall: time.wall().into() };
        while upkeep.step(now).await.unwrap() == Stepped::Worked {
            worked += 1;
        }
    }
    let [list, _, put, delete] = [0, 1, 2, 3].map(|at| counts.of(Operation::ALL[at]).requests - opened[at]);
    assert_eq!(list, 0);
    assert!(worked > 120, "{worked} steps: upkeep was at work");
    assert_eq!(delete, 0, "the grace is an hour, too");
    let merges = 120 + 12 + 1;
    assert!((HOUR..=HOUR + merges + 2).contains(&put), "{put} puts");
}

/// F85: the same of the whole daemon, for as long as a test can wait: it looks
/// at an idle database every five seconds, and asks the storage nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_asks_the_storage_nothing_while_nothing_happens() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let (replica, counts) = counted();
    let daemon = follow(&path, &[&replica]).await;
    insert(&app, 5);
    wait_for(&daemon, "it arrives", |f| f.captured.is_some_and(|c| c.batch > 1) && f.behind().count() == 0).await;
    let before = counts.requests();
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(counts.requests(), before);
    stop(daemon).await;
}

/// F89: what waited during an outage goes up as a few objects.
#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_the_backlog_goes_up_as_a_few_objects() {
    const COMMITS: usize = 400;
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let moody = Moody::new(Arc::new(MemoryStorage::new()));
    let replica = replica_in(moody.clone(), "r");
    let daemon = start(vec![job(&path, &[&replica])]);
    wait_for(&daemon, "it has a base", |f| f.captured.is_some() && f.behind().count() == 0).await;
    moody.set_down(true);
    for _ in 0..COMMITS {
        let batch = daemon.board().read()[0].captured.unwrap().batch;
        insert(&app, 1);
        wait_for(&daemon, "capture does not wait for the replica", |f| f.captured.unwrap().batch > batch).await;
    }
    wait_for(&daemon, "it is noticed", |f| f.replicas[0].error.is_some()).await;
    let before = moody.puts();
    moody.set_down(false);
    wait_for(&daemon, "it catches up", |f| f.behind().count() == 0).await;
    let objects = moody.puts() - before;
    assert!((1..=20).contains(&objects), "{objects} objects for {COMMITS} batches");
    stop(daemon).await;
    assert_restores(&replica, &path).await;
}
