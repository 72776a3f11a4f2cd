//! Taking up a database: guard first, then the proof that what is remembered
//! still connects, or a comparison, or a new history.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};

use super::connection::Handle;
use super::error::Error;
use super::live::{Activity, Live};
use super::log_file::LogFile;
use super::options::Options;
use super::page_map::{Change, PageMap, Replay};
use super::parked::Left;
use super::plan::{self, Lost, Step};
use super::resync;
use super::snapshot::{Snapshot, page_size, take_guard};
use super::state::{Identity, State, file_id};
use super::wal_index::View;
use crate::durable;
use crate::ltx::{self, Decoder};
use crate::spool::{Pending, Seq, Spool};
use crate::types::{Generation, Timestamp, page_checksum};

/// The local directory of one database, locked for this process.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) spool: Arc<Spool>,
    lock: Lock,
    dir: PathBuf,
}

/// The local state of a database, for this process alone until this is dropped.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file would not do: a child process that is just being started has it open too for a moment.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

impl Local {
    /// Opens the local state of a database, alone.
    pub(super) fn open(options: &Options) -> Result<Self, Error> {
        let dir = options.state_dir();
        durable::create_dir_all(&dir, durable::PRIVATE_DIR).map_err(|e| Error::local("create", &dir)(e.into()))?;
        let lock = take_lock(&dir)?;
        let spool_dir = spool_dir(&dir);
        let opened = Spool::open(&spool_dir, options.spool_budget, durable::PRIVATE_DIR);
        let (spool, opened) = opened.map_err(Error::local("open", &spool_dir))?;
        if !opened.removed.is_empty() {
            tracing::warn!(
                db = options.path.display().to_string(),
                files = opened.removed.len(),
                "local segments were damaged or cut off and are gone: replicas that lack them will get a new base"
            );
        }
        let local = Self { spool: Arc::new(spool), lock, dir };
        if let Some(together) = &options.limits.spools {
            local.spool.share(together);
        }
        // Between opening and locking it, somebody can have removed the file.
        if local.is_there() { Ok(local) } else { Err(Error::StateReplaced(lock_path(&local.dir))) }
    }

    /// Whether the directory still is the one that was opened, and locked for us alone.
    pub(super) fn is_there(&self) -> bool {
        let locked = self.lock.0.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
        let found = file_id(&lock_path(&self.dir)).ok().flatten();
        found.is_some() && found == locked && spool_dir(&self.dir).is_dir()
    }
}

pub(super) fn take_lock(dir: &Path) -> Result<Lock, Error> {
    let path = lock_path(dir);
    let lock = durable::point("lock::open")
        .and_then(|()| File::options().create(true).truncate(false).write(true).open(&path));
    let lock = lock.map_err(Error::local("open", &path))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked(path)),
        Err(error) => Err(Error::local("lock", &path)(error.into())),
    }
}

pub(super) fn lock_path(dir: &Path) -> PathBuf {
    dir.join("lock")
}

fn spool_dir(dir: &Path) -> PathBuf {
    dir.join("spool")
}

/// Takes up a database whose file exists; `left` if this process has followed it before. If
/// others keep us out, it waits for so long.
pub(super) fn attach(
    options: &Arc<Options>,
    spool: &Arc<Spool>,
    left: Option<&Left>,
    patience: Duration,
    wall: SystemTime,
) -> Result<Live, Error> {
    let path = &options.path;
    let before = existing_file(path)?;
    let mut guard = Handle::open(path, patience)?;
    let (view, frozen) = take_guard(path, &mut guard, patience)?;
    guard.set_busy_timeout(options.busy_timeout)?;
    if existing_file(path)? != before {
        return Err(Error::Replaced(path.to_path_buf()));
    }
    warn_of_old_writers(&mut guard, path);
    let page_size = page_size(&mut guard, &view)?;
    let identity = Identity { device: before.0, inode: before.1, page_size };
    let log_path = options.log_path();
    let log = LogFile::open(&log_path, page_size).map_err(Error::local("open", &log_path))?;
    let shm_path = options.shm_path();
    let shm = file_id(&shm_path).map_err(Error::local("look at", &shm_path))?;
    if let Some((pid, program)) = shm.and_then(|shm| options.limits.rivals.find(shm)) {
        tracing::warn!(
            db = path.display().to_string(),
            pid,
            program,
            "another program replicates this database too: its log grows until both have read it; stop one of them \
             unless this is meant"
        );
    }
    let map_path = options.state_dir().join("pagemap");
    let newest = |state: &State| spool.newest_of(state.generation);
    let map = PageMap::open(&map_path, newest, |state| replay(spool, state));
    let map = map.map_err(Error::local("open", &map_path))?;
    let mut guard = Some(guard);
    let mut frozen = frozen;
    let (map, lost) = match map {
        Some(map) if map.state().identity == identity => {
            let state = *map.state();
            spool.resume(state.generation, state.point()).map_err(Error::local("open the spool beside", &map_path))?;
            let lost = continuity(&state, &view, &log).map_err(Error::local("read", log.path()))?;
            (map, lost)
        }
        other => {
            let reason = match &other {
                None if map_path.exists() => "the recorded page checksums cannot be trusted",
                None => "nothing is recorded about this database",
                Some(_) => "this is another file than the recorded one",
            };
            let held = guard.take().expect("the guard is still here");
            let mut snapshot = Snapshot::of_guard(held, view, frozen, &log_path)?;
            let generation = new_generation();
            let now = Timestamp::from(wall);
            let last = other.map(|map| map.state().seq).max(spool.newest());
            let first = last.map_or(Seq::FIRST, Seq::next);
            let map = resync::rebuild(&mut snapshot, &map_path, spool, identity, generation, first, now)?;
            tracing::info!(
                db = path.display().to_string(),
                generation = generation.to_string(),
                reason,
                "new generation"
            );
            let (held, still) = snapshot.into_guard();
            (guard, frozen) = (Some(held), still);
            (map, None)
        }
    };
    let lock_path = lock_path(&options.state_dir());
    let [lock, open_map] = [&lock_path, &map_path].map(|path| file_id(path).map_err(Error::local("look at", path)));
    let local = [(lock_path.clone(), lock?), (map_path.clone(), open_map?)];
    let mut live = Live {
        options: options.clone(),
        spool: spool.clone(),
        guard: guard.expect("the guard is held on every way here"),
        frozen,
        log,
        map,
        shm: (shm_path, shm),
        local,
        activity: Activity::default(),
    };
    if let Some(lost) = lost {
        let followed = match left {
            Some(left) => live.follow_next_run(left, wall)?,
            None => false,
        };
        if !followed {
            live.resync(lost, wall)?;
        }
    }
    forget_foreign_segments(options);
    Ok(live)
}

/// `None` when the recorded position is proven to lie in the current run of the
/// log: the frame at the cursor is committed there and carries the recorded checksum.
fn continuity(state: &State, view: &View, log: &LogFile) -> io::Result<Option<Lost>> {
    let Some(cursor) = state.cursor else { return Ok(Some(Lost::AheadOfState)) };
    // Nobody held a guard since the state was written, so neither a seal nor an empty log proves anything.
    if cursor.frame == 0 {
        return Ok(Some(Lost::UnseenRestart));
    }
    if let Step::Resync(lost) = plan::plan(&cursor, None, view) {
        return Ok(Some(lost));
    }
    let proven =
        log.header(cursor.salts)?.is_some() && log.frame_proof(cursor.frame)? == Some((cursor.salts, cursor.chain));
    Ok((!proven).then_some(Lost::ChainBroken))
}

/// What the spool's segments from a state's batch on changed; `None` when that
/// cannot be told from what is there. A file that cannot be opened just now is an
/// error: it may hold what is needed.
fn replay(spool: &Spool, state: &State) -> io::Result<Option<Vec<Replay>>> {
    match replayed(spool, state) {
        Ok(steps) => Ok(steps),
        Err(ltx::Error::Io(error)) if !matches!(error.kind(), io::ErrorKind::NotFound) => Err(error),
        Err(_) => Ok(None),
    }
}

fn replayed(spool: &Spool, state: &State) -> Result<Option<Vec<Replay>>, ltx::Error> {
    let before = Seq::new(state.seq.get() - 1).unwrap_or(state.seq);
    let pending = [before, state.seq].into_iter().find_map(|from| match spool.pending(from) {
        Pending::Segments(segments) => Some(segments),
        Pending::None => Some(Vec::new()),
        Pending::Gone => None,
    });
    let Some(pending) = pending else { return Ok(None) };
    let mut steps = Vec::new();
    for segment in pending.into_iter().filter(|s| s.header.generation == Some(state.generation)) {
        let mut decoder = Decoder::new(spool.reader(segment.seq).map_err(ltx::Error::Io)?)?;
        let mut changes: Vec<Change> = Vec::new();
        let mut page = Vec::new();
        while let Some(pgno) = decoder.next_page(&mut page)? {
            changes.push((pgno, page_checksum(pgno, &page)));
        }
        decoder.finish()?;
        let Some(proof) = segment.header.proof else { return Ok(None) };
        let after = proof.after;
        let state = State {
            seq: segment.seq,
            page_count: segment.header.commit,
            checksum: after,
            timestamp: segment.header.timestamp,
            cursor: None,
            ..*state
        };
        steps.push(Replay { state, changes });
    }
    Ok(Some(steps))
}

fn existing_file(path: &Path) -> Result<(u64, u64), Error> {
    let id = file_id(path).map_err(Error::local("look at", path))?.ok_or_else(|| Error::Missing(path.to_owned()))?;
    if path.is_file() { Ok(id) } else { Err(Error::NotAFile(path.to_owned())) }
}

fn warn_of_old_writers(guard: &mut Handle, path: &Path) {
    if let Ok(version) = guard.writer_version()
        && let Ok(number) = i32::try_from(version)
        && number > 0
        && !super::connection::is_safe_version(number)
    {
        tracing::debug!(
            db = path.display().to_string(),
            version = format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000),
            "the application uses a SQLite with the WAL-reset bug; while brooklet runs its guard prevents it"
        );
    }
}

/// Litestream resumes from its own local segments when they look newer than its
/// replica. They are older than what this run captures, so they must not be
/// there when it comes back; it then starts from the replica.
fn forget_foreign_segments(options: &Options) {
    let dir = options.foreign_segments();
    match std::fs::remove_dir_all(&dir) {
        Ok(()) => tracing::info!(
            path = dir.display().to_string(),
            "removed the local segments of another program: they would be stale once it is started again"
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(
            path = dir.display().to_string(),
            error = error.to_string(),
            "cannot remove the local segments of another program: remove them before it is started again"
        ),
    }
}

/// A name that no other history has.
pub(super) fn new_generation() -> Generation {
    loop {
        // The standard library seeds each of these from the operating system's randomness.
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        if let Some(generation) = Generation::new(hasher.finish()) {
            return generation;
        }
    }
}
