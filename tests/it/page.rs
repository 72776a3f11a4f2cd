//! The status page in a real browser: with no database, one, and a thousand; as it
//! changes; by keyboard, on a phone and in the dark. The README's pictures are taken here,
//! when `UPDATE_SCREENSHOTS` is set.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use brooklet::daemon::{Held, Kept, Numbers, ReplicaNumbers};
use brooklet::health::Objective;
use brooklet::ltx::{self, Encoding, Header, Level};
use brooklet::observe::{Observed, Observer, Options, Source};
use brooklet::replica::{Layout, Listing, Pin, Replica};
use brooklet::serve::{Limits, Server};
use brooklet::status::{Captured, DatabaseFacts, DrillFacts, Health, ProvenPoint, ReplicaFacts, Seen};
use brooklet::storage::{Key, MemoryStorage};
use brooklet::types::{Generation, PageSize, Pgno, Secret, Timestamp, Txid, TxidRange};

use crate::browser::Browser;

const HOUR: i64 = 3_600_000;

fn now() -> i64 {
    Timestamp::from(SystemTime::now()).as_millis()
}

/// A replica with a month of history by two generations, with snapshots and pins.
async fn month() -> (Arc<Replica>, Listing) {
    let storage = Arc::new(MemoryStorage::new());
    let replica = Replica::new("s3".to_owned(), storage, Key::new("app").unwrap(), Layout::Decimal);
    let mut txid = 0;
    for hours_ago in (0..30 * 24).rev().filter(|hours| hours % 11 == 0 || *hours < 40) {
        txid += 1;
        let generation = if hours_ago > 200 { 0x9f2c_41d0_77b3_0e65 } else { 0x3ab8_8e10_5c2f_9d17 };
        let time = Timestamp::from_millis(now() - i64::from(hours_ago) * HOUR);
        segment(&replica, Level::L0, txid, txid, time, generation).await;
        if hours_ago % 143 == 0 {
            segment(&replica, Level::SNAPSHOT, 1, txid, time, generation).await;
        }
    }
    for (name, back) in [("before-migration", 12), ("month-end", 40)] {
        let at = Txid::new(txid - back).unwrap();
        let listing = replica.list_all().await.unwrap();
        let found = listing.level(Level::L0).iter().find(|segment| segment.txids.max() == at).unwrap();
        let pin = Pin { name: name.parse().unwrap(), txid: at, time: found.created };
        replica.put_pin(&pin).await.unwrap();
    }
    let listing = replica.list_all().await.unwrap();
    (Arc::new(replica), listing)
}

async fn segment(replica: &Replica, level: Level, min: u64, max: u64, timestamp: Timestamp, generation: u64) {
    let txids = TxidRange::new(Txid::new(min).unwrap(), Txid::new(max).unwrap()).unwrap();
    let header = Header {
        page_size: PageSize::new(512).unwrap(),
        commit: 1,
        txids,
        timestamp,
        wal: None,
        generation: Generation::new(generation),
        proof: None,
    };
    let mut encoder = ltx::Encoder::new(Vec::new(), header, Encoding::Block).unwrap();
    encoder.page(Pgno::FIRST, &[7; 512]).unwrap();
    let (bytes, _) = encoder.finish().unwrap();
    replica.put_segment(level, txids, bytes.into(), timestamp).await.unwrap();
}

/// Databases as this test wants them.
struct Made {
    databases: Mutex<Vec<DatabaseFacts>>,
    kept: Option<(Arc<Replica>, Listing)>,
}

impl Made {
    fn new(databases: Vec<DatabaseFacts>, kept: Option<(Arc<Replica>, Listing)>) -> Arc<Self> {
        Arc::new(Self { databases: Mutex::new(databases), kept })
    }

    fn change(&self, change: impl FnOnce(&mut Vec<DatabaseFacts>)) {
        change(&mut self.databases.lock().unwrap());
    }
}

impl Source for Made {
    fn each(&self, look: &mut dyn FnMut(u64, &DatabaseFacts)) {
        for (id, facts) in self.databases.lock().unwrap().iter().enumerate() {
            let looked = Some(Instant::now());
            look(id as u64, &DatabaseFacts { looked, ..facts.clone() });
        }
    }

    fn observe(&self) -> Vec<Observed> {
        let mut all = Vec::new();
        self.each(&mut |id, facts| {
            let waits = facts.replicas.iter().any(|replica| replica.waiting.is_some());
            let held = |_| ReplicaNumbers {
                pending_bytes: if waits { 483_328 } else { 0 },
                held: Some(Held { objects: 107, bytes: 31_400_000 + id * 7_000_000, ..Held::default() }),
                ..ReplicaNumbers::default()
            };
            let numbers = Numbers {
                db_bytes: if facts.seen.is_some() { 52_428_800 + id * 11_111_111 } else { 0 },
                wal_bytes: if facts.seen.is_some() { 4_152_992 } else { 0 },
                spool_bytes: if waits { 483_328 } else { 0 },
                replicas: facts.replicas.iter().map(held).collect(),
                ..Numbers::default()
            };
            all.push(Observed { id, facts: facts.clone(), numbers });
        });
        all
    }

    fn kept(&self, _: u64, _: usize) -> Option<Kept> {
        let (replica, listing) = self.kept.clone()?;
        Some(Kept { replica, listing: Some(listing) })
    }
}

fn healthy(path: &str, replicas: &[(&str, &'static str)]) -> DatabaseFacts {
    let time = Timestamp::from_millis(now() - 40_000);
    let proven = ProvenPoint { txid: Txid::new(0x8f), time, took: Duration::from_millis(5300) };
    let at = Some(Timestamp::from_millis(now() - 5 * HOUR));
    let drill = DrillFacts { at, runs: 3, failures: 0, error: None, proven: Some(proven) };
    let replica = |(name, kind): &(&str, &'static str)| ReplicaFacts {
        name: (*name).to_owned(),
        kind,
        interval: Duration::from_secs(1),
        txid: Txid::new(0x8f),
        batch: Some(143),
        timestamp: Some(time),
        advanced: Some(time),
        drill: Some(drill.clone().into()),
        ..ReplicaFacts::default()
    };
    DatabaseFacts {
        path: PathBuf::from(path).into(),
        health: Health::Live,
        captured: Some(Captured {
            generation: Generation::new(0x3ab8_8e10_5c2f_9d17).unwrap(),
            batch: 143,
            timestamp: time,
        }),
        replicas: replicas.iter().map(replica).collect(),
        interval: Duration::from_secs(1),
        since: Instant::now().checked_sub(Duration::from_secs(7200)),
        seen: Some(Seen { frames: 1008, bytes: 4_152_992, uncaptured: None, guard: true }),
        ..DatabaseFacts::default()
    }
}

/// A replica that nothing reaches, for so long.
fn cut_off(facts: &mut DatabaseFacts, replica: usize, seconds: u64) {
    let since = Instant::now().checked_sub(Duration::from_secs(seconds));
    let replica = &mut facts.replicas[replica];
    (replica.batch, replica.waiting, replica.error_since) = (Some(140), since, since);
    replica.error = Some("cannot store app/0/00000000000000a1.ltx in bucket backups: connection refused".to_owned());
}

async fn serve(source: Arc<Made>) -> (Server, Arc<Observer>, String) {
    let options = Options {
        program: "brooklet".to_owned(),
        config: Some("/etc/litestream.yml".to_owned()),
        objective: Objective::default(),
        ..Options::default()
    };
    let observer = Observer::new(source, options);
    let server = Server::tcp("127.0.0.1:0", Limits::default(), observer.handler()).await.unwrap();
    let url = format!("http://{}/", server.address().unwrap());
    (server, observer, url)
}

/// The browser's work is done elsewhere: the server runs in this test's runtime.
async fn with_browser(work: impl FnOnce(&mut Browser) + Send + 'static) {
    let done = tokio::task::spawn_blocking(move || {
        let Some(mut browser) = Browser::start() else { return };
        work(&mut browser);
        assert!(browser.complaints.is_empty(), "the page complains: {:#?}", browser.complaints);
    });
    done.await.unwrap();
}

/// Where pictures go: beside the documents if they are to be renewed, else out of the way.
fn picture(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let renew = std::env::var_os("UPDATE_SCREENSHOTS").is_some();
    let dir = if renew { root.join("docs/images") } else { PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("images") };
    std::fs::create_dir_all(&dir).unwrap();
    dir.join(name)
}

const SHOWN: &str = "document.querySelectorAll('#list > li').length";
const SAID: &str = "document.getElementById('say').textContent";

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_it_when_there_is_no_database() {
    let (_server, _observer, url) = serve(Made::new(Vec::new(), None)).await;
    with_browser(move |browser| {
        browser.open(&url);
        browser.until(&format!("{SAID} === 'No database is replicated.'"));
        assert_eq!(browser.eval(SHOWN), 0);
        assert_eq!(browser.eval("document.getElementById('none').hidden"), false);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_one_database_by_keyboard_and_what_to_type_for_a_moment_of_the_past() {
    let path = "/data/it's here/app.db";
    let source = Made::new(vec![healthy(path, &[("s3", "s3")])], Some(month().await));
    let (_server, _observer, url) = serve(source.clone()).await;
    with_browser(move |browser| {
        browser.size(1100, 900, false);
        browser.open(&url);
        browser.until(&format!("{SAID} === 'The database is safe.'"));
        browser.eval("document.getElementById('find').focus()");
        browser.press("Tab", "");
        assert_eq!(browser.eval("document.activeElement.className"), "row", "the next stop is the database");
        browser.press("Enter", "\r");
        browser.until("document.querySelector('.replica svg.time .gen')");
        assert_eq!(browser.eval("document.activeElement.getAttribute('aria-expanded')"), "true");
        assert_eq!(browser.eval("document.querySelectorAll('svg.time .gen').length"), 2, "generations");
        assert!(browser.eval("document.querySelectorAll('svg.time .snap').length").as_u64().unwrap() > 2);
        assert_eq!(browser.eval("document.querySelectorAll('svg.time .pin').length"), 2);
        let command = "document.querySelector('.command code').textContent";
        let newest = "brooklet restore -config /etc/litestream.yml -o '/data/it'\\''s here/app.db.restored' \
                      '/data/it'\\''s here/app.db'";
        assert_eq!(browser.eval(command), newest);
        // An earlier moment, as somebody who drags the handle would choose it.
        browser.eval(
            "{ const range = document.querySelector('.moment input'); range.value = 3; \
               range.dispatchEvent(new Event('input')); }",
        );
        let chosen = browser.eval(command);
        let chosen = chosen.as_str().unwrap();
        let moment = chosen.split("-timestamp ").nth(1).unwrap().split(' ').next().unwrap();
        let far = now() - moment.parse::<jiff::Timestamp>().unwrap().as_millisecond();
        assert!(far > 25 * 24 * HOUR, "{chosen}");
        // It stays chosen while the page goes on looking.
        let polls = browser.eval("performance.getEntriesByType('resource').length").as_u64().unwrap();
        browser.until(&format!("performance.getEntriesByType('resource').length > {}", polls + 3));
        assert_eq!(browser.eval(command), chosen);
        nothing_is_nameless(browser);
        source.change(|databases| cut_off(&mut databases[0], 0, 400));
        browser.until(&format!("{SAID} === '1 database needs you.'"));
        browser.until("document.querySelector('.reasons li').textContent.includes('connection refused')");
        assert_eq!(browser.eval("document.title"), "(1) brooklet: Failed");
        source.change(|databases| databases[0] = healthy(path, &[("s3", "s3")]));
        browser.until(&format!("{SAID} === 'The database is safe.'"));
    })
    .await;
}

/// What a screen reader would have nothing to say about.
fn nothing_is_nameless(browser: &mut Browser) {
    let nameless = browser.eval(
        "[...document.querySelectorAll('button, input, select, [role=img], a')].filter((element) => \
           !(element.textContent.trim() || element.getAttribute('aria-label') || element.labels?.length \
             || element.querySelector('title'))).map((element) => element.outerHTML)",
    );
    assert_eq!(nameless, serde_json::json!([]));
    assert_eq!(browser.eval("document.querySelectorAll('h1').length"), 1);
    assert_eq!(browser.eval("document.documentElement.lang"), "en");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_holds_a_thousand_databases_and_changes_with_them() {
    let all = (0..1000).map(|n| healthy(&format!("/srv/tenants/{n:04}/store.db"), &[("s3", "s3")])).collect();
    let source = Made::new(all, None);
    let (_server, _observer, url) = serve(source.clone()).await;
    with_browser(move |browser| {
        browser.open(&url);
        browser.until(&format!("{SAID} === 'All 1,000 databases are safe.'"));
        assert_eq!(browser.eval(SHOWN), 1000);
        source.change(|databases| cut_off(&mut databases[777], 0, 600));
        browser.until(&format!("{SAID} === '1 database needs you.'"));
        let first = "document.querySelector('#list > li .name').textContent";
        browser.until(&format!("{first}.includes('connection refused')"));
        browser.eval(
            "{ const show = document.getElementById('show'); show.value = 'attention'; \
               show.dispatchEvent(new Event('change')); }",
        );
        browser.until(&format!("{SHOWN} === 1"));
        browser.eval(
            "{ document.getElementById('show').value = 'all'; const find = document.getElementById('find'); \
               find.value = '/042'; find.dispatchEvent(new Event('input')); }",
        );
        browser.until(&format!("{SHOWN} === 10"));
        browser.eval(
            "{ document.getElementById('show').dispatchEvent(new Event('change')); \
               const find = document.getElementById('find'); find.value = ''; find.dispatchEvent(new Event('input')); }",
        );
        source.change(|databases| databases.truncate(3));
        browser.until(&format!("{SHOWN} === 3"));
        browser.until(&format!("{SAID} === 'All 3 databases are safe.'"));
    })
    .await;
}

/// The pictures of the README; what they show fits on a phone, too.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_fits_on_a_phone_and_has_its_picture_taken() {
    let replicas: &[(&str, &'static str)] = &[("s3", "s3"), ("nas", "file")];
    let paths = ["/srv/shop/orders.db", "/srv/shop/catalogue.db", "/srv/auth/users.db", "/var/lib/grafana/grafana.db"];
    let mut all: Vec<_> = paths.iter().map(|path| healthy(path, replicas)).collect();
    all[3].health = Health::Waiting(
        "/var/lib/grafana/grafana.db does not exist: waiting until the application creates it".to_owned(),
    );
    (all[3].captured, all[3].seen) = (None, None);
    all[3].replicas.iter_mut().for_each(|replica| {
        *replica = ReplicaFacts { name: replica.name.clone(), kind: replica.kind, ..ReplicaFacts::default() }
    });
    let source = Made::new(all, Some(month().await));
    let (_server, observer, url) = serve(source.clone()).await;
    // An hour of charts, as if it had been watched.
    observer.remember((0..120).map(|step| {
        let wave = (f64::from(step) / 9.0).sin().abs() * 0.8;
        let burst = if (70..78).contains(&step) { f64::from(78 - step) * 0.9 } else { 0.0 };
        Duration::from_secs_f64(0.2 + wave + burst)
    }));
    with_browser(move |browser| {
        browser.size(1000, 1090, false);
        for (dark, name) in [(false, "status.png"), (true, "status-dark.png")] {
            browser.dark(dark);
            browser.open(&url);
            browser.until("document.querySelectorAll('.row').length === 4");
            browser.eval("document.querySelector('.row[aria-controls=\"detail-0\"]').click()");
            browser.until("document.querySelectorAll('.replica svg.time .gen').length === 4");
            browser.screenshot(&picture(name));
        }
        browser.dark(false);
        browser.size(375, 760, true);
        browser.open(&url);
        browser.until("document.querySelectorAll('.row').length === 4");
        browser.eval("document.querySelector('.row[aria-controls=\"detail-0\"]').click()");
        browser.until("document.querySelectorAll('.replica svg.time .gen').length === 4");
        let width = browser.eval("document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(width <= 375, "{width} pixels wide");
        browser.screenshot(&picture("status-phone.png"));
        nothing_is_nameless(browser);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_when_nobody_answers_any_more() {
    let source = Made::new(vec![healthy("/data/app.db", &[("s3", "s3")])], None);
    let (server, _observer, url) = serve(source).await;
    let server = Arc::new(Mutex::new(Some(server)));
    let done = tokio::task::spawn_blocking(move || {
        let Some(mut browser) = Browser::start() else { return };
        browser.open(&url);
        browser.until(&format!("{SAID} === 'The database is safe.'"));
        server.lock().unwrap().take();
        browser.until("!document.getElementById('stale').hidden");
        browser.until("document.getElementById('stale').textContent.startsWith('Nobody answers')");
    });
    done.await.unwrap();
}

/// Who opens the page in a browser is asked for the token there.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_opens_with_the_token_as_the_password() {
    let source = Made::new(vec![healthy("/data/app.db", &[("s3", "s3")])], None);
    let options = Options { token: Some(Secret::new("s3cret")), ..Options::default() };
    let observer = Observer::new(source, options);
    let server = Server::tcp("127.0.0.1:0", Limits::default(), observer.handler()).await.unwrap();
    let url = format!("http://me:s3cret@{}/", server.address().unwrap());
    with_browser(move |browser| {
        browser.open(&url);
        browser.until(&format!("{SAID} === 'The database is safe.'"));
    })
    .await;
}
