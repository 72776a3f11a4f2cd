//! Weeks of a replica's life in a minute: commits, merges, snapshots, deletions,
//! pins, clocks that jump, a storage that fails, restarts, an official program that
//! takes over for a while. After each step everything that the planner calls
//! restorable is what was captured.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use brooklet::ltx::{Decoder, Encoder, Encoding, Header, Level, Proof};
use brooklet::replica::{Pin, Replica, Segment, Shelf};
use brooklet::restore::plan::Holdings;
use brooklet::restore::{Plan, Target, overview, survey};
use brooklet::storage::{Body, Error, ErrorKind, Key, MemoryStorage, Object, Put, PutOptions, Result, Storage};
use brooklet::types::{Generation, PageSize, Pgno, RollingChecksum, Timestamp, Txid, TxidRange, page_checksum};
use brooklet::upkeep::{Keep, Now, Policy, Retention, Snapshots, Stepped, Stop, Upkeep};
use bytes::Bytes;
use futures::StreamExt;

use crate::fault::splitmix;
use crate::running::replica_in;

/// A storage on which requests fail before or after they did something, on a
/// seed, and which counts the bytes that were sent to it.
pub(crate) struct Unlucky {
    inner: MemoryStorage,
    random: Mutex<u64>,
    per_thousand: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) fetched: AtomicU64,
    pub(crate) largest_get: AtomicU64,
    pub(crate) listings: AtomicU64,
    /// Whether deleting is denied, and how often it was tried.
    denies: AtomicBool,
    deletions: AtomicU64,
}

impl Unlucky {
    pub(crate) fn new(seed: u64, per_thousand: u64) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStorage::new(),
            random: Mutex::new(seed),
            per_thousand: AtomicU64::new(per_thousand),
            sent: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
            largest_get: AtomicU64::new(0),
            listings: AtomicU64::new(0),
            denies: AtomicBool::new(false),
            deletions: AtomicU64::new(0),
        })
    }

    fn calm(&self) {
        self.per_thousand.store(0, Ordering::Relaxed);
    }

    fn strikes(&self) -> bool {
        splitmix(&mut self.random.lock().unwrap()) % 1000 < self.per_thousand.load(Ordering::Relaxed)
    }

    fn before(&self) -> Result<()> {
        if self.strikes() { Err(Error::new(ErrorKind::Later, "injected: nothing happened")) } else { Ok(()) }
    }

    fn after<T>(&self, answer: Result<T>) -> Result<T> {
        if self.strikes() { Err(Error::new(ErrorKind::Later, "injected: the answer is lost")) } else { answer }
    }
}

#[async_trait]
impl Storage for Unlucky {
    fn kind(&self) -> &'static str {
        "unlucky"
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        self.before()?;
        self.listings.fetch_add(1, Ordering::Relaxed);
        self.inner.list(prefix, after).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.before()?;
        let mut bytes = self.inner.get(key, range).await?;
        self.fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.largest_get.fetch_max(bytes.len() as u64, Ordering::Relaxed);
        if self.strikes() {
            bytes.truncate(bytes.len() / 2);
        }
        Ok(bytes)
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        self.before()?;
        let counted = match body {
            Body::Bytes(bytes) => {
                self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Body::Bytes(bytes)
            }
            Body::Stream(mut pieces) => {
                // Into memory here, so that it can be counted.
                let mut whole = Vec::new();
                while let Some(piece) = pieces.next().await {
                    whole.extend_from_slice(&piece.map_err(|error| Error::new(ErrorKind::Later, error.to_string()))?);
                }
                self.sent.fetch_add(whole.len() as u64, Ordering::Relaxed);
                Body::Bytes(whole.into())
            }
            file @ Body::File(_) => file,
        };
        let answer = self.inner.put(key, counted, options).await;
        self.after(answer)
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        self.before()?;
        self.deletions.fetch_add(1, Ordering::Relaxed);
        if self.denies.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Refused, "injected: access denied"));
        }
        let answer = self.inner.delete(keys).await;
        self.after(answer)
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<bool> {
        self.before()?;
        let answer = self.inner.copy(from, to).await;
        self.after(answer)
    }
}

/// The pages of a database.
pub(crate) type Pages = BTreeMap<u32, Vec<u8>>;

fn checksum(pages: &Pages) -> brooklet::types::Checksum {
    let mut sum = RollingChecksum::default();
    pages.iter().for_each(|(n, page)| sum.toggle(page_checksum(Pgno::new(*n).unwrap(), page)));
    sum.checksum()
}

/// A replica whose history is made by hand, and everything that was ever put in it.
pub(crate) struct World {
    pub(crate) storage: Arc<Unlucky>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) shelf: Shelf,
    pub(crate) upkeep: Upkeep,
    pub(crate) policy: Policy,
    pub(crate) elapsed: Duration,
    /// By how much this machine's clock is wrong, in milliseconds.
    pub(crate) jump: i64,
    pub(crate) pages: Pages,
    /// What the database was at each TXID, and the time stamped on it.
    pub(crate) captured: BTreeMap<u64, (Pages, Timestamp)>,
    pub(crate) random: u64,
    page_size: usize,
    /// Chains that were applied and gave the right pages.
    seen: Mutex<HashSet<Vec<(Name, u64)>>>,
    decoded: Mutex<BTreeMap<Name, Decoded>>,
}

const BEGIN: i64 = 1_790_000_000_000;

impl World {
    pub(crate) async fn new(seed: u64, per_thousand: u64, policy: Policy, pages: u32, page_size: usize) -> Self {
        let storage = Unlucky::new(seed, 0);
        let replica = replica_in(storage.clone(), "r");
        let shelf = Shelf::default();
        let upkeep = Upkeep::new(replica.clone(), shelf.clone(), policy.clone(), "r", Stop::default());
        let mut world = Self {
            storage,
            replica,
            shelf,
            upkeep,
            policy,
            elapsed: Duration::ZERO,
            jump: 0,
            pages: Pages::new(),
            captured: BTreeMap::new(),
            random: seed,
            page_size,
            seen: Mutex::default(),
            decoded: Mutex::default(),
        };
        world.restart().await;
        for n in 1..=pages {
            let page = world.random_page();
            world.pages.insert(n, page);
        }
        world.put_base(false).await;
        world.storage.per_thousand.store(per_thousand, Ordering::Relaxed);
        world
    }

    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        splitmix(&mut self.random) % sides
    }

    fn random_page(&mut self) -> Vec<u8> {
        (0..self.page_size / 8).flat_map(|_| splitmix(&mut self.random).to_le_bytes()).collect()
    }

    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp::from_millis(BEGIN + i64::try_from(self.elapsed.as_millis()).unwrap() + self.jump)
    }

    fn now(&self) -> Now {
        Now { elapsed: self.elapsed, wall: self.wall() }
    }

    /// Nothing is remembered but what is on the replica.
    pub(crate) async fn restart(&mut self) {
        self.shelf = Shelf::default();
        let stop = Stop::default();
        self.upkeep = Upkeep::new(self.replica.clone(), self.shelf.clone(), self.policy.clone(), "r", stop);
        let listing = loop {
            if let Ok(listing) = self.replica.list_all().await {
                break listing;
            }
        };
        self.shelf.replace(self.shelf.begin_listing(), listing);
    }

    fn header(&self, txids: TxidRange, before: Option<brooklet::types::Checksum>) -> Header {
        Header {
            page_size: PageSize::new(u32::try_from(self.page_size).unwrap()).unwrap(),
            commit: *self.pages.keys().last().unwrap(),
            txids,
            timestamp: self.wall(),
            wal: None,
            generation: Generation::new(7),
            proof: Some(Proof { before, after: checksum(&self.pages) }),
        }
    }

    async fn put(&self, level: Level, header: Header, changed: &[u32]) {
        let mut encoder = Encoder::new(Vec::new(), header, Encoding::Block).unwrap();
        for n in changed {
            encoder.page(Pgno::new(*n).unwrap(), &self.pages[n]).unwrap();
        }
        let bytes = encoder.finish().unwrap().0;
        let size = bytes.len() as u64;
        let put = || self.replica.put_segment(level, header.txids, bytes.clone().into(), header.timestamp);
        while let Err(error) = put().await {
            assert!(error.to_string().contains("inject") || error.to_string().contains("arrived"), "{error}");
        }
        self.shelf.put(Segment { level, txids: header.txids, size, created: header.timestamp }, header);
    }

    /// Changes some pages, and perhaps the size of the database.
    pub(crate) async fn commit(&mut self, changes: u64) {
        let before = checksum(&self.pages);
        let end = *self.pages.keys().last().unwrap();
        let new_end = match self.roll(20) {
            0 => end + 2,
            1 if end > 4 => end - 1,
            _ => end,
        };
        let mut changed: Vec<u32> = (end + 1..=new_end).collect();
        for _ in 0..changes {
            changed.push(1 + u32::try_from(self.roll(u64::from(new_end))).unwrap());
        }
        self.pages.retain(|n, _| *n <= new_end);
        changed.retain(|n| *n <= new_end);
        changed.sort_unstable();
        changed.dedup();
        for n in &changed {
            let page = self.random_page();
            self.pages.insert(*n, page);
        }
        let txid = self.shelf.listing().next_txid();
        let header = self.header(TxidRange::single(txid), Some(before));
        self.put(Level::L0, header, &changed).await;
        self.captured.insert(txid.get(), (self.pages.clone(), header.timestamp));
    }

    /// As an upload does it.
    pub(crate) async fn put_base(&mut self, broken: bool) {
        let txid = self.shelf.listing().next_txid();
        let all: Vec<u32> = self.pages.keys().copied().collect();
        let header = self.header(TxidRange::single(txid), None);
        self.put(Level::L0, header, &all).await;
        if broken {
            let range = TxidRange::new(Txid::FIRST, txid).unwrap();
            self.put(Level::SNAPSHOT, Header { txids: range, ..header }, &all).await;
        }
        self.captured.insert(txid.get(), (self.pages.clone(), header.timestamp));
    }

    /// Steps until nothing is due; gives when something will be.
    pub(crate) async fn settle(&mut self) -> Option<Duration> {
        let mut failures = 0;
        loop {
            match self.upkeep.step(self.now()).await {
                Ok(Stepped::Worked) => {}
                Ok(Stepped::Idle { again }) => return again,
                Ok(Stepped::LookAgain { needs_base, .. }) => {
                    if needs_base {
                        self.put_base(true).await;
                    }
                }
                Err(error) => {
                    failures += 1;
                    let text = format!("{error:?}");
                    assert!(failures < 200, "{text}");
                    let injected = text.contains("injected") || text.contains("arrived");
                    assert!(injected || text.contains("Exists"), "{text}");
                }
            }
        }
    }

    /// Lets time pass, with upkeep done whenever it wants to be.
    pub(crate) async fn pass(&mut self, time: Duration) {
        let until = self.elapsed + time;
        loop {
            let again = self.settle().await;
            let next = again.map_or(until, |again| self.elapsed + again.max(Duration::from_millis(1)));
            if next >= until {
                self.elapsed = until;
                return;
            }
            self.elapsed = next;
        }
    }

    /// The segments on the storage itself, which nobody has to believe.
    pub(crate) async fn segments(&self) -> Vec<Segment> {
        loop {
            if let Ok(listing) = self.replica.list_all().await {
                return listing.segments().copied().collect();
            }
        }
    }

    /// The size of the database after a segment, and its pages.
    async fn decode(&self, segment: &Segment) -> (u32, Pages) {
        let bytes = loop {
            match self.replica.read(segment, 0..segment.size).await {
                Ok(bytes) => break bytes,
                Err(error) => assert!(error.kind() == ErrorKind::Later, "{segment}: {error}"),
            }
        };
        let mut decoder = Decoder::new(&bytes[..]).unwrap();
        let (commit, mut found, mut page) = (decoder.header().commit, Pages::new(), Vec::new());
        while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
            found.insert(pgno.get(), page.clone());
        }
        (commit, found)
    }

    /// Applies a chain as restore does, from bytes that may be kept between calls.
    async fn apply(&self, chain: &Plan) -> Pages {
        let mut pages = Pages::new();
        for segment in chain.segments() {
            let name = (segment.level, segment.txids);
            let known = self.decoded.lock().unwrap().get(&name).filter(|(size, _)| *size == segment.size).cloned();
            let content = match known {
                Some((_, content)) => content,
                None => {
                    let content = Arc::new(self.decode(segment).await);
                    self.decoded.lock().unwrap().insert(name, (segment.size, content.clone()));
                    content
                }
            };
            let (commit, found) = &*content;
            pages.extend(found.iter().map(|(n, page)| (*n, page.clone())));
            pages.retain(|n, _| n <= commit);
        }
        pages
    }

    /// Everything that the planner calls restorable is what was captured.
    pub(crate) async fn check(&self) -> Vec<u64> {
        let segments = self.segments().await;
        for level in Level::all().filter(|level| *level < Level::SNAPSHOT) {
            let ranges: Vec<TxidRange> = segments.iter().filter(|s| s.level == level).map(|s| s.txids).collect();
            for pair in ranges.windows(2) {
                assert!(pair[0].max() < pair[1].min(), "{level} holds {} and {}", pair[0], pair[1]);
            }
        }
        let newest = *self.captured.keys().last().unwrap();
        let holdings = Holdings::new(segments.iter().copied());
        let latest = holdings.latest().unwrap_or_else(|error| panic!("{error}: {segments:#?}"));
        assert_eq!(latest.end().get(), newest, "the newest point");
        let points = holdings.restorable();
        for point in &points {
            let chain = holdings.exactly(*point).unwrap();
            let names: Vec<_> = chain.segments().iter().map(|s| ((s.level, s.txids), s.size)).collect();
            if self.seen.lock().unwrap().contains(&names) {
                continue;
            }
            let found = self.apply(&chain).await;
            assert!(found == self.captured[&point.get()].0, "transaction {point} by {chain:#?}");
            self.seen.lock().unwrap().insert(names);
        }
        points.into_iter().map(Txid::get).collect()
    }

    /// The same by the restore that users run, at points and between them.
    pub(crate) async fn check_restores(&mut self, points: &[u64]) {
        self.storage.calm();
        for _ in 0..6 {
            let at = points[usize::try_from(self.roll(points.len() as u64)).unwrap()];
            let (pages, time) = self.captured[&at].clone();
            let bytes = |pages: &Pages| pages.values().flatten().copied().collect::<Vec<u8>>();
            let restored = restore(&self.replica, Target::Txid(Txid::new(at).unwrap())).await;
            assert!(restored == bytes(&pages), "transaction {at}");
            // Times are only comparable while the clock was right.
            let orderly = points.windows(2).all(|pair| self.captured[&pair[0]].1 < self.captured[&pair[1]].1);
            if orderly {
                let restored = restore(&self.replica, Target::Timestamp(time)).await;
                assert!(restored == bytes(&pages), "the instant of transaction {at}");
                let between = Timestamp::from_millis(time.as_millis() + 1);
                let newest = points.iter().rfind(|point| self.captured[point].1 <= between).unwrap();
                let restored = restore(&self.replica, Target::Timestamp(between)).await;
                assert!(restored == bytes(&self.captured[newest].0), "just after transaction {at}");
            }
        }
    }
}

impl World {
    /// A program that knows nothing of our proofs writes for a while, and the database is ours again.
    async fn official_interlude(&mut self) {
        for _ in 0..self.roll(3) + 1 {
            self.elapsed += Duration::from_secs(1);
            let end = *self.pages.keys().last().unwrap();
            let changed = 1 + u32::try_from(self.roll(u64::from(end))).unwrap();
            let page = self.random_page();
            self.pages.insert(changed, page);
            let txid = self.shelf.listing().next_txid();
            let header = Header { proof: None, generation: None, ..self.header(TxidRange::single(txid), None) };
            self.put(Level::L0, header, &[changed]).await;
            self.captured.insert(txid.get(), (self.pages.clone(), header.timestamp));
        }
        self.restart().await;
        self.elapsed += Duration::from_secs(1);
        self.put_base(false).await;
    }

    /// `info` names as many points as there are; and whatever instant is asked for,
    /// the answer is a point that is not after it, and no later one would do.
    /// Returns how many instants had one right answer.
    async fn check_instants(&mut self, points: &[u64]) -> usize {
        self.storage.calm();
        let shown = overview(&self.replica, 4).await.unwrap();
        assert_eq!(shown.ranges.iter().map(|range| range.points).sum::<usize>(), points.len(), "{:#?}", shown.ranges);
        let orderly = points.windows(2).all(|pair| self.captured[&pair[0]].1 < self.captured[&pair[1]].1);
        let mut asked = 0;
        for pair in points.windows(2) {
            let (from, to) = (self.captured[&pair[0]].1.as_millis(), self.captured[&pair[1]].1.as_millis());
            for instant in [from, from + (to - from) / 2, to - 1] {
                let instant = Timestamp::from_millis(instant);
                let answer = survey(std::slice::from_ref(&*self.replica), Target::Timestamp(instant)).await;
                let Ok(answer) = answer else {
                    assert!(!orderly, "{instant} is not before the first point");
                    continue;
                };
                let (end, time) = (answer[0].plan.end().get(), answer[0].time);
                assert!(points.contains(&end) && time <= instant && self.captured[&end].1 == time, "{instant}: {end}");
                if orderly {
                    assert_eq!(end, pair[0], "{instant}");
                    asked += 1;
                }
            }
        }
        asked
    }
}

type Name = (Level, TxidRange);

/// A segment's size, the size of the database after it, and its pages.
type Decoded = (u64, Arc<(u32, Pages)>);

async fn restore(replica: &Replica, target: Target) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let options = brooklet::restore::Options { target, ..brooklet::restore::Options::default() };
    let path = dir.path().join("restored");
    let progress = Arc::new(brooklet::restore::Progress::default());
    brooklet::restore::restore(std::slice::from_ref(replica), &path, &options, &progress).await.unwrap();
    std::fs::read(&path).unwrap()
}

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// What happens besides commits.
#[derive(Clone, Copy)]
struct Trouble {
    /// Requests that fail, of a thousand.
    per_thousand: u64,
    /// Whether the clock jumps.
    jumps: bool,
}

/// Acceptance of compaction, snapshots and retention together.
async fn live(seed: u64, days: u64, policy: Policy, trouble: Trouble) {
    let mut world = World::new(seed, trouble.per_thousand, policy, 12, 512).await;
    let (mut pinned, mut pins) = (Vec::<u64>::new(), 0);
    let (mut steps, mut asked) = (0u32, 0usize);
    for day in 0..days {
        let end = DAY * u32::try_from(day + 1).unwrap();
        while world.elapsed < end {
            steps += 1;
            match world.roll(40) {
                0 => world.restart().await,
                1 if trouble.jumps => world.jump += [-86_400_000, 86_400_000][usize::try_from(world.roll(2)).unwrap()],
                2 if trouble.jumps => world.jump = 0,
                3 => {
                    // A burst.
                    for _ in 0..world.roll(30) + 5 {
                        world.commit(2).await;
                        world.pass(Duration::from_secs(1)).await;
                    }
                }
                4 if pinned.len() < 4 => {
                    let points = Holdings::new(world.segments().await).restorable();
                    let at = points[usize::try_from(world.roll(points.len() as u64)).unwrap()];
                    pins += 1;
                    let name = format!("pin-{}", at.get()).parse().unwrap();
                    let pin = Pin { name, txid: at, time: Timestamp::from_millis(0) };
                    while let Err(error) = world.replica.put_pin(&pin).await {
                        if error.kind() == ErrorKind::Exists {
                            break;
                        }
                    }
                    if !pinned.contains(&at.get()) {
                        pinned.push(at.get());
                    }
                }
                6 if pinned.len() > 2 => {
                    let released = pinned.remove(0);
                    let name = format!("pin-{released}").parse().unwrap();
                    while world.replica.remove_pin(&name).await.is_err() {}
                }
                7 => world.official_interlude().await,
                5 => {
                    // Nothing happens for a long time.
                    let long = HOUR * u32::try_from(world.roll(20)).unwrap();
                    world.pass(long).await;
                }
                _ => {
                    let changes = world.roll(4) + 1;
                    world.commit(changes).await;
                    let pause = Duration::from_secs(world.roll(4800));
                    world.pass(pause).await;
                }
            }
            let points = world.check().await;
            for pin in &pinned {
                assert!(points.contains(pin), "seed {seed}: the pinned transaction {pin} is gone");
            }
        }
        if day % 4 == 3 {
            let points = world.check().await;
            let before = world.storage.per_thousand.load(Ordering::Relaxed);
            world.check_restores(&points).await;
            asked += world.check_instants(&points).await;
            world.storage.per_thousand.store(before, Ordering::Relaxed);
        }
    }
    println!("seed {seed}: {steps} steps, {} captures, {pins} pins, {asked} instants asked for", world.captured.len());
    assert!(pins > 0 && (trouble.jumps || asked > 90), "{pins} {asked}");
    let segments = world.segments().await;
    let count = world.captured.len();
    assert!(count > 500 && segments.len() < count, "seed {seed}: {} segments of {count}", segments.len());
    assert!(segments.iter().filter(|s| s.level == Level::SNAPSHOT).count() >= 2, "{segments:#?}");
}

fn short() -> Policy {
    Policy {
        retention: Some(Retention { history: DAY, ..Retention::default() }),
        snapshots: Snapshots { interval: DAY, at: None },
        ..Policy::default()
    }
}

/// F82: and with jumps of a day in both directions.
#[tokio::test(flavor = "multi_thread")]
async fn forty_days_of_upkeep_keep_every_restorable_point_true() {
    for seed in 0..3 {
        live(seed, 40, short(), Trouble { per_thousand: 0, jumps: true }).await;
    }
    live(3, 40, short(), Trouble { per_thousand: 0, jumps: false }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upkeep_on_a_storage_that_fails_keeps_every_restorable_point_true() {
    let keep = Keep { last: 2, daily: 5, weekly: 3, ..Keep::default() };
    for (seed, jumps) in [(10, true), (11, false)] {
        let retention = Retention { history: DAY / 2, keep, grace: HOUR, ..Retention::default() };
        let snapshots = Snapshots { interval: HOUR * 12, at: None };
        let policy = Policy { retention: Some(retention), snapshots, verify: true, ..Policy::default() };
        live(seed, 40, policy, Trouble { per_thousand: 30, jumps }).await;
    }
}

/// Counts what is sent, from the encoders' own sizes: the model puts its commits by hand.
fn bytes_of(segments: &[Segment], of: impl Fn(&Segment) -> bool) -> u64 {
    segments.iter().filter(|s| of(s)).map(|s| s.size).sum()
}

/// F86: on the first day of a database of which one part in a hundred changes,
/// little more goes up than the base and the changes.
#[tokio::test(flavor = "multi_thread")]
async fn a_base_goes_up_once_and_not_once_for_every_level() {
    let policy = Policy { retention: None, ..Policy::default() };
    let mut world = World::new(7, 0, policy, 2500, 4096).await;
    let base = world.storage.sent.load(Ordering::Relaxed);
    for _ in 0..24 {
        world.commit(1).await;
        world.pass(HOUR - Duration::from_secs(1)).await;
    }
    let sent = world.storage.sent.load(Ordering::Relaxed);
    let segments = world.segments().await;
    let changes = bytes_of(&segments, |s| s.level == Level::L0 && !s.txids.is_snapshot());
    assert!(base > 10_000_000 && segments.iter().any(|s| s.level.get() == 3), "{segments:#?}");
    println!("{sent} bytes sent for a base of {base} and changes of {changes}");
    assert!(sent * 10 <= (base + changes) * 12, "{sent} bytes for a base of {base} and changes of {changes}");
    assert_eq!(world.check().await.len(), 25);
    // The snapshot of the next day is the second full copy, and it is made without the database.
    let listings = world.storage.listings.load(Ordering::Relaxed);
    world.pass(HOUR * 3).await;
    let segments = world.segments().await;
    let snapshots: Vec<_> = segments.iter().filter(|s| s.level == Level::SNAPSHOT).collect();
    assert_eq!(snapshots.len(), 2, "{snapshots:?}");
    assert!(world.storage.listings.load(Ordering::Relaxed) <= listings + 20, "one audit and this test");
    world.check().await;
}

/// F84: what is held of a segment at a time does not depend on its size.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_made_in_small_pieces() {
    let policy = Policy { retention: None, ..Policy::default() };
    let mut world = World::new(8, 0, policy, 6000, 4096).await;
    world.commit(30).await;
    world.pass(HOUR * 30).await;
    let segments = world.segments().await;
    let snapshot = segments.iter().rfind(|s| s.level == Level::SNAPSHOT).unwrap();
    assert!(snapshot.txids.max().get() == 2 && snapshot.size > 20_000_000, "{snapshot}");
    let largest = world.storage.largest_get.load(Ordering::Relaxed);
    assert!(largest <= 4 << 20, "{largest} bytes in one request");
    world.check().await;
}

/// F85: a database that does not change costs one listing a day, and no object.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_replica_is_listed_once_a_day_and_left_alone() {
    let mut world = World::new(9, 0, short(), 5, 512).await;
    for _ in 0..5 {
        world.commit(2).await;
        world.pass(Duration::from_secs(40)).await;
    }
    world.pass(DAY * 5).await;
    let before = (world.segments().await, world.storage.fetched.load(Ordering::Relaxed));
    let listings = world.storage.listings.load(Ordering::Relaxed);
    world.pass(DAY * 10).await;
    let audits = (world.storage.listings.load(Ordering::Relaxed) - listings) / 10;
    assert!((10..=11).contains(&audits), "{audits} audits of ten levels in ten days");
    assert_eq!((world.segments().await, world.storage.fetched.load(Ordering::Relaxed)), before);
    world.check().await;
}

async fn lose(world: &World, segment: Segment) {
    world.replica.remove(&[segment]).await.unwrap();
}

/// F78: a lifecycle rule of the bucket deletes the only base of an idle database.
#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_somebody_deleted_is_made_good_by_the_audit() {
    let mut world = World::new(11, 0, short(), 5, 512).await;
    world.commit(2).await;
    world.pass(DAY * 3).await;
    for segment in world.segments().await.into_iter().filter(|s| s.txids.is_snapshot()) {
        lose(&world, segment).await;
    }
    assert!(Holdings::new(world.segments().await).latest().is_err());
    world.pass(DAY + HOUR).await;
    world.check().await;
}

/// F70: an object is lost although its upload was confirmed.
#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_made_good_by_the_audit_and_upkeep_goes_on_behind_it() {
    let mut world = World::new(12, 0, short(), 5, 512).await;
    for _ in 0..6 {
        world.commit(2).await;
    }
    world.pass(Duration::from_secs(1)).await;
    let lost = world.segments().await.into_iter().find(|s| s.txids.max().get() == 4).unwrap();
    lose(&world, lost).await;
    world.pass(Duration::from_secs(60)).await;
    let at_1: Vec<_> = world.segments().await.into_iter().filter(|s| s.level.get() == 1).collect();
    assert!(at_1.iter().all(|s| !(s.txids.min().get() <= 4 && s.txids.max().get() >= 4)), "{at_1:#?}");
    world.pass(DAY + HOUR).await;
    for _ in 0..3 {
        world.commit(2).await;
        world.pass(HOUR).await;
    }
    let points = world.check().await;
    assert!(points.len() >= 4, "{points:?}");
    let segments = world.segments().await;
    let newest = *world.captured.keys().last().unwrap();
    assert!(segments.iter().any(|s| s.level.get() == 3 && s.txids.max().get() >= newest - 1), "{segments:#?}");
}

/// F80: the merged segment that holds a transaction is lost; the transaction itself stays.
#[tokio::test(flavor = "multi_thread")]
async fn level_0_is_not_deleted_where_level_1_has_a_hole() {
    let policy = Policy { levels: vec![Duration::from_secs(30)], ..short() };
    let mut world = World::new(13, 0, policy, 5, 512).await;
    for _ in 0..3 {
        for _ in 0..3 {
            world.commit(2).await;
        }
        world.pass(Duration::from_secs(40)).await;
    }
    let middle = world.segments().await.into_iter().filter(|s| s.level.get() == 1).nth(1).unwrap();
    lose(&world, middle).await;
    world.restart().await;
    world.pass(HOUR * 3).await;
    let points = world.check().await;
    for held in middle.txids.min().get()..=middle.txids.max().get() {
        assert!(points.contains(&held), "transaction {held} of {points:?}");
    }
    let left = world.segments().await;
    assert!(left.iter().filter(|s| s.level == Level::L0).count() < 6, "the others are gone: {left:#?}");
}

/// F83: for every instant, before and after each merge, the newest commit at or
/// before it that is kept, and never one after it.
#[tokio::test(flavor = "multi_thread")]
async fn merging_changes_no_time() {
    let mut world = World::new(14, 0, short(), 5, 512).await;
    for n in 0..20 {
        world.commit(1).await;
        world.pass(Duration::from_secs(if n % 5 == 0 { 70 } else { 7 })).await;
    }
    for wait in [0, 40, 400, 4000, 90_000] {
        world.pass(Duration::from_secs(wait)).await;
        let points = world.check().await;
        world.check_restores(&points).await;
        let listing = world.replica.list_all().await.unwrap();
        for segment in listing.segments() {
            let header = world.replica.read_header(segment).await.unwrap();
            assert_eq!(header.timestamp, world.captured[&segment.txids.max().get()].1, "{segment}");
        }
    }
}

/// Within a grace of an hour most of the snapshots of every ten minutes are
/// dispensable. They go all the same, each when its time has come.
#[tokio::test(flavor = "multi_thread")]
async fn snapshots_that_are_made_more_often_than_the_grace_is_long_are_deleted() {
    let minute = Duration::from_secs(60);
    let policy = Policy {
        retention: Some(Retention { history: minute * 10, ..Retention::default() }),
        snapshots: Snapshots { interval: minute * 10, at: None },
        ..Policy::default()
    };
    let mut world = World::new(19, 0, policy, 5, 512).await;
    for _ in 0..200 {
        world.commit(1).await;
        world.pass(minute * 5).await;
    }
    let segments = world.segments().await;
    let snapshots = segments.iter().filter(|s| s.level == Level::SNAPSHOT).count();
    assert!((6..=12).contains(&snapshots) && segments.len() < 80, "{snapshots} of {}", segments.len());
    world.check().await;
    // But a policy that would have most of them go at once is not followed unasked.
    let retention = Retention { grace: minute, ..world.policy.retention.unwrap() };
    world.policy = Policy { retention: Some(retention), ..world.policy.clone() };
    world.restart().await;
    world.pass(minute * 5).await;
    let left = world.segments().await.into_iter().filter(|s| s.level == Level::SNAPSHOT).count();
    assert_eq!(left, snapshots);
}

/// Nothing that a restart forgets is deleted early, and what goes, goes only
/// after the grace.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_longer_needed_stays_for_the_grace() {
    let mut world = World::new(15, 0, short(), 5, 512).await;
    for _ in 0..4 {
        world.commit(1).await;
    }
    world.pass(Duration::from_secs(40)).await;
    let singles = |segments: Vec<Segment>| segments.into_iter().filter(|s| s.level == Level::L0).count();
    let before = singles(world.segments().await);
    world.pass(Duration::from_secs(3500)).await;
    assert_eq!(singles(world.segments().await), before);
    world.restart().await;
    world.pass(Duration::from_secs(3500)).await;
    assert_eq!(singles(world.segments().await), before, "the restart begins the grace again");
    world.pass(Duration::from_secs(700)).await;
    assert_eq!(singles(world.segments().await), 1);
    world.check().await;
}

/// Credentials that may create and read: everything but deleting goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_does_not_let_us_delete_is_asked_once() {
    let mut world = World::new(16, 0, short(), 5, 512).await;
    world.storage.denies.store(true, Ordering::Relaxed);
    for _ in 0..60 {
        world.commit(1).await;
        world.pass(HOUR).await;
    }
    assert_eq!(world.storage.deletions.load(Ordering::Relaxed), 1);
    let segments = world.segments().await;
    assert!(segments.iter().any(|s| s.level.get() == 3) && segments.len() > 180, "{}", segments.len());
    assert!(segments.iter().filter(|s| s.level == Level::SNAPSHOT).count() >= 3);
    assert_eq!(world.check().await.len(), 61);
}

/// As Litestream before 0.5.15 wrote it: a page that the database lost and got
/// back, whose new content is nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn segments_with_a_hole_in_their_growth_stay_as_they_are_and_a_new_base_follows() {
    let mut world = World::new(17, 0, short(), 6, 512).await;
    let mut put = async |pages: u32, changed: &[u32]| {
        let before = checksum(&world.pages);
        world.pages.retain(|n, _| *n <= pages);
        for n in 1..=pages {
            let page = world.random_page();
            world.pages.entry(n).or_insert(page);
        }
        let txid = world.shelf.listing().next_txid();
        let header = world.header(TxidRange::single(txid), Some(before));
        world.put(Level::L0, header, changed).await;
        world.captured.insert(txid.get(), (world.pages.clone(), header.timestamp));
    };
    put(4, &[1]).await;
    put(6, &[1, 6]).await;
    world.pass(HOUR).await;
    let segments = world.segments().await;
    let at_0 = segments.iter().filter(|s| s.level == Level::L0).count();
    assert_eq!((at_0, segments.iter().any(|s| s.level.get() == 1)), (3, false), "{segments:#?}");
    // The snapshot of the day would meet the same hole.
    world.commit(1).await;
    world.pass(DAY + HOUR).await;
    let newest = *world.captured.keys().last().unwrap();
    assert!(world.segments().await.iter().any(|s| s.level == Level::SNAPSHOT && s.txids.max().get() == newest));
    for _ in 0..3 {
        world.commit(1).await;
        world.pass(HOUR).await;
    }
    let chain = Holdings::new(world.segments().await).latest().unwrap();
    let found = world.apply(&chain).await;
    assert!(found == world.captured.values().last().unwrap().0);
    assert!(world.segments().await.iter().any(|s| s.level.get() == 2), "upkeep goes on behind it");
}

/// A damaged segment is found when it is merged, and not only when it is restored.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_segment_is_left_aside_and_a_new_base_follows() {
    let mut world = World::new(18, 0, short(), 6, 512).await;
    for _ in 0..4 {
        world.commit(1).await;
    }
    let damaged = world.segments().await.into_iter().find(|s| s.txids.max().get() == 3).unwrap();
    let key = world.replica.key(damaged.level, damaged.txids);
    let mut bytes = world.storage.get(&key, 0..damaged.size).await.unwrap().to_vec();
    bytes[200] ^= 1;
    let options = PutOptions { how: Put::Replace, timestamp: Some(damaged.created) };
    world.storage.put(&key, bytes.into(), options).await.unwrap();
    world.pass(HOUR).await;
    let newest = *world.captured.keys().last().unwrap();
    let segments = world.segments().await;
    let snapshots = segments.iter().filter(|s| s.level == Level::SNAPSHOT && s.txids.max().get() == newest).count();
    assert_eq!((newest, snapshots), (6, 1), "one base, and once: {segments:#?}");
    world.commit(1).await;
    world.pass(HOUR).await;
    let chain = Holdings::new(world.segments().await).latest().unwrap();
    let found = world.apply(&chain).await;
    assert!(found == world.captured.values().last().unwrap().0);
}
