//! The page map: the checksum of every page as the last captured batch left it,
//! eight bytes a page in a local file, together with the [`State`] it belongs to.
//!
//! Invariant: the entries, XORed, give the checksum in the newest state, or a
//! segment in the spool says what is missing. Resync and the proofs in every
//! segment rest on this.
//!
//! One batch is: entries written, then the state into the slot that holds the
//! older one, then one flush. A crash can leave entries of a batch whose state
//! was not written, or the other way round; the batch's segment was made durable
//! before, so applying it again repairs the map ([`PageMap::open`] does). A map
//! that cannot be repaired is refused, never trusted.
//!
//! File: two state slots of 4096 bytes, then the entries, big-endian, 0 for the
//! lock page.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::state::{STATE_SIZE, State};
use crate::durable;
use crate::spool::Seq;
use crate::types::{Checksum, Pgno, RollingChecksum};

const SLOT: u64 = 4096;
const ENTRIES: u64 = 2 * SLOT;
const ENTRY: u64 = 8;
/// Entries read at once when all of them are looked at: 64 KiB.
const BLOCK: usize = 8192;
const BLOCK_PAGES: u32 = 8192;
/// Changed entries closer together than this are written in one piece.
const NEAR: u32 = 512;

/// A page and its new checksum. Batches list them by ascending page number.
pub type Change = (Pgno, Checksum);

/// The open map of one database.
#[derive(Debug)]
pub struct PageMap {
    path: PathBuf,
    file: File,
    state: State,
    /// The slot that holds `state`.
    slot: u64,
}

/// Pages changed by one segment in the spool, for repairing the map after a crash.
#[derive(Debug)]
pub struct Replay {
    /// The state that the segment leads to; its cursor is not known.
    pub state: State,
    /// What it changed.
    pub changes: Vec<Change>,
}

impl PageMap {
    /// Creates a map for a database that is scanned from the start: `entries`
    /// gives the checksum of each page in order (`None` for the lock page).
    /// Replaces any older map only when it is whole and on disk.
    ///
    /// # Errors
    /// From `entries` or the file system; the older map is then still there.
    pub fn create<E: From<io::Error>>(
        path: &Path,
        entries: impl Iterator<Item = Result<Option<Checksum>, E>>,
        state: impl FnOnce(Checksum, u32) -> State,
    ) -> Result<Self, E> {
        let draft = path.with_extension("tmp");
        let created = Self::create_draft(&draft, entries, state).and_then(|(file, state)| {
            std::fs::rename(&draft, path)?;
            durable::sync_dir(path.parent().unwrap_or(Path::new("."))).map_err(io::Error::from)?;
            Ok(Self { path: path.to_owned(), file, state, slot: 0 })
        });
        // What cannot be removed now is written over by the next attempt.
        created.inspect_err(|_| drop(std::fs::remove_file(&draft)))
    }

    fn create_draft<E: From<io::Error>>(
        draft: &Path,
        entries: impl Iterator<Item = Result<Option<Checksum>, E>>,
        state: impl FnOnce(Checksum, u32) -> State,
    ) -> Result<(File, State), E> {
        durable::point("page-map::create")?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(draft)?;
        let mut block: Vec<u8> = Vec::new();
        let mut at = ENTRIES;
        let mut total = RollingChecksum::default();
        let mut count = 0u32;
        for entry in entries {
            let entry = entry?;
            if let Some(checksum) = entry {
                total.toggle(checksum);
            }
            count += 1;
            block.extend_from_slice(&entry.map_or(0, Checksum::get).to_be_bytes());
            if block.len() >= BLOCK * 8 {
                durable::point("page-map::write")?;
                file.write_all_at(&block, at)?;
                at += block.len() as u64;
                block.clear();
            }
        }
        file.write_all_at(&block, at)?;
        let state = state(total.checksum(), count);
        file.write_all_at(&state.encode(), 0)?;
        durable::point("page-map::sync")?;
        file.sync_all()?;
        Ok((file, state))
    }

    /// Opens the map and checks it. `newest` tells the newest batch in the spool
    /// of the state's history; `replay` gives the segments from the state's batch
    /// on, oldest first, and is asked only when the map needs them.
    /// `None`: there is no map, or none that can be trusted.
    ///
    /// # Errors
    /// From the file system.
    pub fn open(
        path: &Path,
        newest: impl FnOnce(&State) -> Option<Seq>,
        replay: impl FnOnce(&State) -> io::Result<Option<Vec<Replay>>>,
    ) -> io::Result<Option<Self>> {
        let opened =
            durable::point("page-map::open").and_then(|()| OpenOptions::new().read(true).write(true).open(path));
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let slots = [read_slot(&file, 0)?, read_slot(&file, 1)?];
        let states = (0u64..).zip(slots).filter_map(|(slot, state)| Some((slot, state?)));
        let Some((slot, state)) = states.max_by_key(|(_, state)| state.seq) else { return Ok(None) };
        let mut map = Self { path: path.to_owned(), file, state, slot };
        let behind = newest(&state).is_some_and(|newest| newest > state.seq);
        if !behind && map.total()? == state.checksum {
            return Ok(Some(map));
        }
        let Some(segments) = replay(&state)? else { return Ok(None) };
        for segment in &segments {
            map.write_entries(&segment.changes)?;
            // The state of the batch itself knows its place in the log; one made from a segment does not.
            if segment.state.seq > map.state.seq {
                map.state = segment.state;
            }
        }
        if map.total()? != map.state.checksum {
            return Ok(None);
        }
        let repaired = map.state;
        map.write_state(repaired)?;
        Ok(Some(map))
    }

    /// The newest state in a map, which may be another process's.
    ///
    /// # Errors
    /// Any failure other than absence.
    pub fn peek(path: &Path) -> io::Result<Option<State>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok([read_slot(&file, 0)?, read_slot(&file, 1)?].into_iter().flatten().max_by_key(|state| state.seq))
    }

    /// The state the entries belong to.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The recorded checksums of `count` pages from `first` on, `None` where
    /// there is no page.
    ///
    /// # Errors
    /// From the file system.
    pub fn read(&self, first: Pgno, count: usize) -> io::Result<Vec<Option<Checksum>>> {
        let mut bytes = vec![0u8; count * 8];
        read_full_or_zero(&self.file, &mut bytes, entry_at(first))?;
        let mut entries: Vec<_> = bytes.chunks_exact(8).map(checksum_of).collect();
        let known = usize::try_from(self.state.page_count.saturating_sub(first.get() - 1)).unwrap_or(usize::MAX);
        entries.iter_mut().skip(known).for_each(|entry| *entry = None);
        Ok(entries)
    }

    /// The database checksum that `changes` and a new size would give.
    ///
    /// # Errors
    /// From the file system.
    pub fn checksum_after(&self, changes: &[Change], page_count: u32) -> io::Result<Checksum> {
        let mut total = RollingChecksum::from_checksum(self.state.checksum);
        for run in runs(changes) {
            let (first, last) = (run[0].0, run[run.len() - 1].0);
            let old = self.read(first, span(first, last))?;
            for (pgno, new) in run {
                if let Some(old) = old[span(first, *pgno) - 1] {
                    total.toggle(old);
                }
                total.toggle(*new);
            }
        }
        let mut next = page_count.checked_add(1).and_then(Pgno::new);
        while let Some(first) = next.filter(|p| p.get() <= self.state.page_count) {
            let count = BLOCK.min(usize::try_from(self.state.page_count - first.get() + 1).unwrap_or(BLOCK));
            self.read(first, count)?.into_iter().flatten().for_each(|gone| total.toggle(gone));
            next = u32::try_from(count).ok().and_then(|n| first.get().checked_add(n)).and_then(Pgno::new);
        }
        Ok(total.checksum())
    }

    /// Records a batch whose segment is durable. `state.checksum` must be what
    /// [`PageMap::checksum_after`] said.
    ///
    /// # Errors
    /// From the file system; the map is then to be opened again.
    pub fn apply(&mut self, changes: &[Change], state: State) -> io::Result<()> {
        self.write_entries(changes)?;
        fail::fail_point!("capture::entries-written", |_| Err(io::Error::other("failpoint")));
        if state.page_count < self.state.page_count {
            durable::point("page-map::truncate")?;
            self.file.set_len(ENTRIES + u64::from(state.page_count) * ENTRY)?;
        }
        self.write_state(state)
    }

    /// Records a new position that changed no page.
    ///
    /// # Errors
    /// From the file system.
    pub fn write_state(&mut self, state: State) -> io::Result<()> {
        let slot = 1 - self.slot;
        self.file.write_all_at(&state.encode(), slot * SLOT)?;
        durable::point("page-map::sync")?;
        self.file.sync_data()?;
        (self.slot, self.state) = (slot, state);
        Ok(())
    }

    fn write_entries(&self, changes: &[Change]) -> io::Result<()> {
        for run in runs(changes) {
            let (first, last) = (run[0].0, run[run.len() - 1].0);
            let mut bytes = vec![0u8; span(first, last) * 8];
            if bytes.len() > run.len() * 8 {
                read_full_or_zero(&self.file, &mut bytes, entry_at(first))?;
            }
            for (pgno, checksum) in run {
                let at = (span(first, *pgno) - 1) * 8;
                bytes[at..at + 8].copy_from_slice(&checksum.get().to_be_bytes());
            }
            durable::point("page-map::write")?;
            self.file.write_all_at(&bytes, entry_at(first))?;
        }
        Ok(())
    }

    fn total(&self) -> io::Result<Checksum> {
        let mut total = RollingChecksum::default();
        let mut first = 1u32;
        while first <= self.state.page_count {
            let count = BLOCK_PAGES.min(self.state.page_count - first + 1);
            let start = Pgno::new(first).expect("counts from 1");
            self.read(start, count as usize)?.into_iter().flatten().for_each(|entry| total.toggle(entry));
            let Some(next) = first.checked_add(count) else { break };
            first = next;
        }
        Ok(total.checksum())
    }
}

/// Splits ascending changes where two neighbours are far apart.
fn runs(changes: &[Change]) -> impl Iterator<Item = &[Change]> {
    changes.chunk_by(|a, b| b.0.get() - a.0.get() < NEAR)
}

/// How many pages from `first` to `last`, both included.
fn span(first: Pgno, last: Pgno) -> usize {
    (last.get() - first.get()) as usize + 1
}

fn entry_at(pgno: Pgno) -> u64 {
    ENTRIES + u64::from(pgno.get() - 1) * ENTRY
}

fn checksum_of(bytes: &[u8]) -> Option<Checksum> {
    Checksum::from_stored(bytes.iter().fold(0u64, |n, b| n << 8 | u64::from(*b)))
}

fn read_slot(file: &File, slot: u64) -> io::Result<Option<State>> {
    let mut bytes = [0u8; STATE_SIZE];
    read_full_or_zero(file, &mut bytes, slot * SLOT)?;
    Ok(State::decode(&bytes))
}

/// Fills the buffer; what lies past the end of the file is zero.
fn read_full_or_zero(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    durable::point("page-map::read")?;
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer[done..].fill(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::state::Identity;
    use crate::types::{Generation, PageSize, Timestamp};

    fn state(seq: u64, page_count: u32, checksum: Checksum) -> State {
        State {
            identity: Identity { device: 1, inode: 2, page_size: PageSize::new(4096).unwrap() },
            generation: Generation::new(5).unwrap(),
            seq: Seq::new(seq).unwrap(),
            page_count,
            checksum,
            timestamp: Timestamp::from_millis(0),
            cursor: None,
        }
    }

    fn sum(n: u64) -> Checksum {
        Checksum::from_crc(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn total(entries: &[u64]) -> Checksum {
        let mut all = RollingChecksum::default();
        entries.iter().for_each(|n| all.toggle(sum(*n)));
        all.checksum()
    }

    fn change(pgno: u32, n: u64) -> Change {
        (Pgno::new(pgno).unwrap(), sum(n))
    }

    fn fresh(dir: &Path, entries: &[u64]) -> PageMap {
        let values: Vec<_> = entries.iter().map(|n| Ok::<_, io::Error>(Some(sum(*n)))).collect();
        PageMap::create(&dir.join("pagemap"), values.into_iter(), |checksum, count| state(1, count, checksum)).unwrap()
    }

    fn reopen(dir: &Path, replay: Option<Vec<Replay>>) -> Option<PageMap> {
        let newest = replay.as_ref().and_then(|r| r.last()).map(|r| r.state.seq);
        PageMap::open(&dir.join("pagemap"), |_| newest, |_| Ok(replay)).unwrap()
    }

    #[test]
    fn a_map_remembers_every_page_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let many: Vec<u64> = (1..=20_000).collect();
        let map = fresh(dir.path(), &many);
        assert_eq!(map.state().checksum, total(&many));
        drop(map);
        let map = reopen(dir.path(), Some(vec![])).unwrap();
        assert_eq!(map.state().page_count, 20_000);
        assert_eq!(
            map.read(Pgno::new(19_999).unwrap(), 4).unwrap(),
            [Some(sum(19_999)), Some(sum(20_000)), None, None]
        );
    }

    #[test]
    fn the_checksum_follows_changes_growth_and_shrinking() {
        let dir = tempfile::tempdir().unwrap();
        let mut map = fresh(dir.path(), &[1, 2, 3, 4]);
        let grow = [change(2, 20), change(5, 50), change(6, 60)];
        let after = map.checksum_after(&grow, 6).unwrap();
        assert_eq!(after, total(&[1, 20, 3, 4, 50, 60]));
        map.apply(&grow, state(2, 6, after)).unwrap();
        let shrink = [change(1, 10)];
        let after = map.checksum_after(&shrink, 3).unwrap();
        assert_eq!(after, total(&[10, 20, 3]));
        map.apply(&shrink, state(3, 3, after)).unwrap();
        let again = [change(4, 44)];
        let after = map.checksum_after(&again, 4).unwrap();
        assert_eq!(after, total(&[10, 20, 3, 44]), "a dropped page leaves nothing behind");
        map.apply(&again, state(4, 4, after)).unwrap();
        assert_eq!(reopen(dir.path(), Some(vec![])).unwrap().state().checksum, after);
    }

    #[test]
    fn far_apart_and_close_changes_land_where_they_belong() {
        let dir = tempfile::tempdir().unwrap();
        let mut numbers: Vec<u64> = (1..=5000).collect();
        let mut map = fresh(dir.path(), &numbers);
        let pages = [1u32, 2, 3, 511, 512, 513, 2000, 2511, 5000];
        let changes: Vec<_> = pages.iter().map(|p| change(*p, u64::from(*p) + 100_000)).collect();
        pages.iter().for_each(|p| numbers[*p as usize - 1] = u64::from(*p) + 100_000);
        let after = map.checksum_after(&changes, 5000).unwrap();
        assert_eq!(after, total(&numbers));
        map.apply(&changes, state(2, 5000, after)).unwrap();
        assert_eq!(map.total().unwrap(), after);
    }

    /// F97: killed after the segment was durable, at any point of the map's update.
    #[test]
    fn a_batch_cut_short_is_finished_from_its_segment() {
        for written in 0..=3 {
            let dir = tempfile::tempdir().unwrap();
            let map = fresh(dir.path(), &[1, 2, 3, 4]);
            let changes = [change(1, 11), change(3, 33), change(5, 55)];
            let after = map.checksum_after(&changes, 5).unwrap();
            map.write_entries(&changes[..written]).unwrap();
            drop(map);
            let replay = Replay { state: state(2, 5, after), changes: changes.to_vec() };
            let map = reopen(dir.path(), Some(vec![replay])).unwrap();
            assert_eq!((map.state().seq.get(), map.state().checksum), (2, after), "{written} entries written");
            drop(map);
            assert!(reopen(dir.path(), Some(vec![])).is_some(), "the repair is kept");
        }
    }

    #[test]
    fn a_state_that_reached_the_disk_before_its_entries_is_repaired_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut map = fresh(dir.path(), &[1, 2]);
        let changes = [change(2, 22)];
        let after = map.checksum_after(&changes, 2).unwrap();
        map.write_state(state(2, 2, after)).unwrap();
        drop(map);
        let replay = Replay { state: state(2, 2, after), changes: changes.to_vec() };
        assert_eq!(reopen(dir.path(), Some(vec![replay])).unwrap().total().unwrap(), after);
        let dir = tempfile::tempdir().unwrap();
        let mut map = fresh(dir.path(), &[1, 2]);
        map.write_state(state(2, 2, after)).unwrap();
        assert!(reopen(dir.path(), Some(vec![])).is_none(), "without the segment it cannot be trusted");
    }

    /// F60: damage anywhere in the file is noticed.
    #[test]
    fn a_damaged_map_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        drop(fresh(dir.path(), &[1, 2, 3]));
        let path = dir.path().join("pagemap");
        let good = std::fs::read(&path).unwrap();
        for at in (0..STATE_SIZE).chain(8192..good.len()) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            assert!(reopen(dir.path(), Some(vec![])).is_none(), "byte {at}");
        }
        for length in [0, 10, STATE_SIZE, 8192, good.len() - 1] {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(reopen(dir.path(), Some(vec![])).is_none(), "length {length}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(reopen(dir.path(), Some(vec![])).is_none());
    }
}
