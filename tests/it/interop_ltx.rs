//! Segments that travel between the official programs and ours.
//!
//! Needs the programs: `LITESTREAM_BIN` (0.5.16 or later), `LITESTREAM_BIN_0515`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use brooklet::ltx::{Decoder, Encoder, Encoding, Header, Level, Proof, WalSpan, file_name, growth_hole, merge};
use brooklet::types::{
    Generation, PageSize, Pgno, RollingChecksum, Timestamp, Txid, TxidRange, frame_end, lock_page, page_checksum,
};
use brooklet::wal::{Committed, committed};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::image::{apply, content};

/// An official program, and how it stores pages.
struct Official {
    binary: PathBuf,
    writes: Encoding,
}

impl Official {
    fn all() -> Vec<Self> {
        let known = [("LITESTREAM_BIN", Encoding::Block), ("LITESTREAM_BIN_0515", Encoding::Frame)];
        known.into_iter().filter_map(|(variable, writes)| Self::from_env(variable, writes)).collect()
    }

    fn from_env(variable: &str, writes: Encoding) -> Option<Self> {
        let binary = std::env::var_os(variable).map(PathBuf::from);
        if binary.is_none() {
            println!("skipped: {variable} is not set");
        }
        Some(Self { binary: binary?, writes })
    }

    fn reads(&self, encoding: Encoding) -> bool {
        encoding == Encoding::Frame || self.writes == Encoding::Block
    }

    /// Restores the newest state of a file replica.
    fn restore(&self, replica: &Path) -> Vec<u8> {
        let dir = TempDir::new().unwrap();
        let out = dir.path().join("restored");
        let result = Command::new(&self.binary)
            .arg("restore")
            .arg("-o")
            .arg(&out)
            .arg(format!("file://{}", replica.display()))
            .output()
            .unwrap();
        assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
        std::fs::read(out).unwrap()
    }
}

/// A replicating official program; ended by its id when dropped.
struct Running(Child);

impl Running {
    fn start(official: &Official, dir: &Path) -> Self {
        let config = dir.join("litestream.yml");
        let text = format!(
            "dbs:\n  - path: {0}/x.db\n    monitor-interval: 50ms\n    \
             replica:\n      type: file\n      path: {0}/replica\n      sync-interval: 50ms\n",
            dir.display()
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new(&official.binary);
        command.arg("replicate").arg("-config").arg(config).stdout(log).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn interrupt(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        until("the official program to end", || self.0.try_wait().unwrap());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended unless the test failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn segments(replica: &Path, level: Level) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(replica.join(format!("ltx/{}", level.get())));
    let mut files: Vec<_> = entries.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "ltx"));
    files.sort();
    files
}

fn open(dir: &Path, page_size: PageSize) -> Connection {
    let conn = Connection::open(dir.join("x.db")).unwrap();
    conn.busy_timeout(Duration::from_secs(10)).unwrap();
    conn.execute_batch(&format!(
        "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;
         CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB);"
    ))
    .unwrap();
    conn
}

fn insert(conn: &Connection, rows: u32, bytes: u32) {
    conn.execute_batch(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows})
         INSERT INTO t(v) SELECT randomblob({bytes} / 2) || zeroblob({bytes} / 2) FROM n"
    ))
    .unwrap();
}

#[test]
fn what_the_official_program_captures_decodes_to_what_it_restores() {
    for official in Official::all() {
        for page_size in [512, 1024, 4096, 65536].map(|bytes| PageSize::new(bytes).unwrap()) {
            let dir = TempDir::new().unwrap();
            let conn = open(dir.path(), page_size);
            insert(&conn, 10, page_size.get());
            let replica = dir.path().join("replica");
            let running = Running::start(&official, dir.path());
            for sql in ["", "UPDATE t SET v = randomblob(100) WHERE id % 3 = 0", "DELETE FROM t WHERE id > 4", "VACUUM"]
            {
                let before = segments(&replica, Level::L0).len();
                if !sql.is_empty() {
                    conn.execute_batch(sql).unwrap();
                    insert(&conn, 2, page_size.get());
                }
                until("the next segment", || (segments(&replica, Level::L0).len() > before).then_some(()));
            }
            running.interrupt();

            let captured = segments(&replica, Level::L0);
            let mut image = Vec::new();
            for path in &captured {
                let file = std::fs::read(path).unwrap();
                let segment = content(&file);
                assert_eq!(path.file_name().unwrap().to_str().unwrap(), file_name(segment.header.txids));
                assert!(segment.encodings.iter().all(|stored| *stored == Some(official.writes)));
                assert!(segment.header.wal.is_some());
                let old = u32::try_from(image.len() / page_size.bytes()).unwrap();
                let pages = segment.pages.iter().map(|(pgno, _)| *pgno);
                assert_eq!(growth_hole(pages, old, segment.header.commit, page_size), None);
                apply(&mut image, &segment);
            }
            assert!(image == official.restore(&replica), "pages of {page_size}");
            // Every level the program wrote meanwhile decodes too.
            for level in Level::all() {
                for path in segments(&replica, level) {
                    content(&std::fs::read(path).unwrap());
                }
            }
        }
    }
}

/// A replica written by our encoder from a real database, one segment a commit.
struct Ours {
    dir: TempDir,
    files: Vec<Vec<u8>>,
    image: Vec<u8>,
}

const GENERATION: u64 = 0x1234_5678_9abc_def0;

impl Ours {
    fn write(page_size: PageSize, encoding: Encoding) -> Self {
        let dir = TempDir::new().unwrap();
        let conn = open(dir.path(), page_size);
        insert(&conn, 20, page_size.get());
        conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let base = std::fs::read(dir.path().join("x.db")).unwrap();
        for sql in ["UPDATE t SET v = zeroblob(7) WHERE id = 2", "DELETE FROM t WHERE id > 8", "VACUUM"] {
            conn.execute_batch(sql).unwrap();
            insert(&conn, 3, page_size.get());
        }
        let wal = std::fs::read(dir.path().join("x.db-wal")).unwrap();
        let mut ours = Self { dir, files: Vec::new(), image: Vec::new() };
        ours.base(&base, page_size, encoding);
        ours.deltas(&wal, &committed(&wal).unwrap(), encoding);
        std::fs::create_dir_all(ours.level(Level::L0)).unwrap();
        for (txid, file) in (1..).zip(&ours.files) {
            let name = file_name(TxidRange::single(Txid::new(txid).unwrap()));
            std::fs::write(ours.level(Level::L0).join(name), file).unwrap();
        }
        ours
    }

    fn replica(&self) -> PathBuf {
        self.dir.path().join("replica")
    }

    fn level(&self, level: Level) -> PathBuf {
        self.replica().join(format!("ltx/{}", level.get()))
    }

    fn base(&mut self, db: &[u8], page_size: PageSize, encoding: Encoding) {
        let pages = db.chunks(page_size.bytes()).zip(1..).map(|(page, n)| (Pgno::new(n).unwrap(), page)).collect();
        let commit = u32::try_from(db.len() / page_size.bytes()).unwrap();
        self.segment(page_size, commit, pages, None, encoding);
    }

    /// One segment for each commit, as a capture of the log would make them.
    fn deltas(&mut self, wal: &[u8], found: &Committed, encoding: Encoding) {
        let page_size = found.header.page_size;
        let mut from = 0;
        for (at, frame) in found.frames.iter().enumerate() {
            let Some(commit) = frame.commit else { continue };
            let mut pages = std::collections::BTreeMap::new();
            for frame in &found.frames[from..=at] {
                let end = usize::try_from(frame_end(frame.number, page_size)).unwrap();
                pages.insert(frame.pgno, &wal[end - page_size.bytes()..end]);
            }
            pages.retain(|pgno, _| pgno.get() <= commit);
            let offset = frame_end(u32::try_from(from).unwrap(), page_size);
            let size = frame_end(frame.number, page_size) - offset;
            let span = WalSpan { offset, size, salts: found.header.salts };
            self.segment(page_size, commit, pages.into_iter().collect(), Some(span), encoding);
            from = at + 1;
        }
    }

    fn segment(
        &mut self,
        page_size: PageSize,
        commit: u32,
        pages: Vec<(Pgno, &[u8])>,
        wal: Option<WalSpan>,
        encoding: Encoding,
    ) {
        let txid = Txid::new(self.files.len() as u64 + 1).unwrap();
        let before = (!self.image.is_empty()).then(|| database_checksum(&self.image, page_size));
        for (pgno, page) in &pages {
            let at = usize::try_from(pgno.offset(page_size)).unwrap();
            self.image.resize(self.image.len().max(at + page_size.bytes()), 0);
            self.image[at..at + page_size.bytes()].copy_from_slice(page);
        }
        self.image.truncate(commit as usize * page_size.bytes());
        let header = Header {
            page_size,
            commit,
            txids: TxidRange::single(txid),
            timestamp: Timestamp::from_millis(1_700_000_000_000 + i64::try_from(txid.get()).unwrap()),
            wal,
            generation: Generation::new(GENERATION),
            proof: Some(Proof { before, after: database_checksum(&self.image, page_size) }),
        };
        let mut encoder = Encoder::new(Vec::new(), header, encoding).unwrap();
        for (pgno, page) in pages {
            encoder.page(pgno, page).unwrap();
        }
        self.files.push(encoder.finish().unwrap().0);
    }
}

fn database_checksum(image: &[u8], page_size: PageSize) -> brooklet::types::Checksum {
    let mut rolling = RollingChecksum::default();
    for (page, number) in image.chunks(page_size.bytes()).zip(1..) {
        let pgno = Pgno::new(number).unwrap();
        if pgno != lock_page(page_size) {
            rolling.toggle(page_checksum(pgno, page));
        }
    }
    rolling.checksum()
}

#[test]
fn the_official_programs_restore_what_we_encode_byte_for_byte() {
    let officials = Official::all();
    for encoding in [Encoding::Block, Encoding::Frame] {
        for page_size in PageSize::all() {
            let ours = Ours::write(page_size, encoding);
            assert!(ours.files.len() > 3);
            for official in officials.iter().filter(|official| official.reads(encoding)) {
                let restored = official.restore(&ours.replica());
                assert!(restored == ours.image, "{encoding:?}, pages of {page_size}, {}", official.binary.display());
            }
        }
    }
}

#[test]
fn the_official_programs_restore_from_what_we_merge() {
    let officials = Official::all();
    for encoding in [Encoding::Block, Encoding::Frame] {
        let page_size = PageSize::new(1024).unwrap();
        let ours = Ours::write(page_size, encoding);
        let half = ours.files.len() / 2;
        for (level, files, from) in
            [(Level::SNAPSHOT, &ours.files[..half], 0), (Level::new(1).unwrap(), &ours.files[half..], half)]
        {
            let txid = |n: usize| Txid::new(n as u64).unwrap();
            let txids = TxidRange::new(txid(from + 1), txid(from + files.len())).unwrap();
            let inputs = files.iter().map(|file| Decoder::new(&file[..]).unwrap()).collect();
            let (merged, _) = merge(inputs, Vec::new(), txids, encoding).unwrap();
            let proof = content(&merged).header.proof.unwrap();
            assert_eq!(proof.before.is_none(), from == 0);
            std::fs::create_dir_all(ours.level(level)).unwrap();
            std::fs::write(ours.level(level).join(file_name(txids)), merged).unwrap();
        }
        std::fs::remove_dir_all(ours.level(Level::L0)).unwrap();
        for official in officials.iter().filter(|official| official.reads(encoding)) {
            assert!(official.restore(&ours.replica()) == ours.image, "{encoding:?}, {}", official.binary.display());
        }
    }
}

#[test]
fn our_proofs_describe_the_database_between_the_segments() {
    let page_size = PageSize::new(512).unwrap();
    let ours = Ours::write(page_size, Encoding::Block);
    let mut image = Vec::new();
    for file in &ours.files {
        let segment = content(file);
        let proof = segment.header.proof.unwrap();
        assert_eq!(proof.before, (!image.is_empty()).then(|| database_checksum(&image, page_size)));
        assert_eq!(segment.header.generation, Generation::new(GENERATION));
        apply(&mut image, &segment);
        assert_eq!(proof.after, database_checksum(&image, page_size));
    }
    assert!(image == ours.image);
}
