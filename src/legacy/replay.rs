//! A plan, written into a file: the snapshot, then the logs over it.
//!
//! Always true: a page reaches the file only with its whole transaction, and
//! when this returns without an error, the file is what SQLite would have made
//! of snapshot and logs. Memory does not grow with the database; a transaction
//! that is larger than a few megabytes waits for its commit in a second file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Archive;
use super::content::{Content, Keys};
use super::error::{Damage, Error};
use super::layout::{Item, Part};
use super::log::LogReader;
use super::plan::Plan;
use super::stream::{Arrivals, feed};
use crate::durable::{Draft, PRIVATE_FILE};
use crate::types::{PageSize, Pgno, SQLITE_HEADER};

/// Where a database is written.
pub struct Target {
    /// An empty file.
    pub file: File,
    /// Its name, for messages.
    pub path: PathBuf,
    /// The name beside which a large transaction may wait in a draft.
    pub beside: PathBuf,
}

/// Writes what the plan says. `progress` is told the stored size of each object
/// that is done.
pub async fn replay(
    archive: &Archive,
    plan: &Plan,
    target: Target,
    parallelism: usize,
    progress: impl Fn(u64) + Send + 'static,
) -> Result<(), Error> {
    let (sender, arrivals) = Arrivals::channel();
    let job = Job { archive: archive.clone(), plan: plan.clone(), target, arrivals };
    let writing = tokio::task::spawn_blocking(move || job.run(progress));
    let fed = feed(archive, plan.items().copied(), parallelism, sender).await;
    let written = match writing.await {
        Ok(written) => written,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => unreachable!("a task was cancelled: {error}"),
        },
    };
    // A transfer that broke looks like a truncated object to the reader.
    fed?;
    written
}

struct Job {
    archive: Archive,
    plan: Plan,
    target: Target,
    arrivals: Arrivals,
}

impl Job {
    fn run(mut self, progress: impl Fn(u64)) -> Result<(), Error> {
        let snapshot = self.plan.snapshot;
        let page_size = self.snapshot(&snapshot)?;
        progress(snapshot.size);
        let mut log = LogReader::default();
        let mut index = None;
        let mut waiting = Waiting::new(page_size);
        for slice in std::mem::take(&mut self.plan.slices) {
            if index != Some(slice.index) {
                self.end_of_log(&mut waiting)?;
                log = LogReader::default();
                index = Some(slice.index);
            }
            self.slice(&slice, &mut log, &mut waiting)?;
            progress(slice.size);
        }
        self.end_of_log(&mut waiting)
    }

    fn end_of_log(&self, waiting: &mut Waiting) -> Result<(), Error> {
        let Target { file, path, .. } = &self.target;
        waiting.end_of_log(file).map_err(|source| Error::Write { path: path.clone(), source })
    }

    /// Copies the snapshot.
    fn snapshot(&mut self, item: &Item) -> Result<PageSize, Error> {
        let key = self.archive.key(item);
        let damaged = |source| Error::Damaged { key: key.clone(), source };
        let object = self.arrivals.object(item.size).map_err(|e| damaged(Damage::Unpack(e)))?;
        let mut content = Content::new(object, self.archive.keys()).map_err(damaged)?;
        let (target, path) = (&self.target.file, &self.target.path);
        let found = read_snapshot(&mut content, |at, bytes| {
            target.write_all_at(bytes, at).map_err(|source| Error::Write { path: path.clone(), source })
        });
        found.map_err(|error| match error {
            SnapshotError::Damage(source) => damaged(source),
            SnapshotError::Sink(error) => error,
        })
    }

    /// Applies the transactions of one slice.
    fn slice(&mut self, item: &Item, log: &mut LogReader, waiting: &mut Waiting) -> Result<(), Error> {
        let key = self.archive.key(item);
        let damaged = |source| Error::Damaged { key: key.clone(), source };
        if item.part != (Part::Log { offset: log.offset() }) {
            let Part::Log { offset } = item.part else { unreachable!("a plan replays slices of logs") };
            return Err(Error::MissingSlice { key, found: offset, expected: log.offset() });
        }
        let object = self.arrivals.object(item.size).map_err(|e| damaged(Damage::Unpack(e)))?;
        let mut content = Content::new(object, self.archive.keys()).map_err(damaged)?;
        loop {
            let Some((frame, page)) = log.next(&mut content).map_err(damaged)? else { return Ok(()) };
            if page.len() != waiting.page_size.bytes() {
                let found = PageSize::new(u32::try_from(page.len()).unwrap_or(0)).unwrap_or(waiting.page_size);
                return Err(damaged(Damage::PageSize { found, expected: waiting.page_size }));
            }
            let Target { file, path, beside } = &self.target;
            let written = waiting.push(frame.pgno, page, beside).and_then(|()| match frame.commit {
                Some(pages) => waiting.commit(file, pages),
                None => Ok(()),
            });
            written.map_err(|source| Error::Write { path: path.clone(), source })?;
        }
    }
}

/// Reads a snapshot to its end; what it holds goes nowhere.
pub fn check_snapshot<R: io::Read>(object: R, keys: &Keys) -> Result<PageSize, Damage> {
    let mut content = Content::new(object, keys)?;
    read_snapshot(&mut content, |_, _| Ok::<(), std::convert::Infallible>(())).map_err(|error| match error {
        SnapshotError::Damage(damage) => damage,
        SnapshotError::Sink(never) => match never {},
    })
}

/// What can stop the reading of a snapshot.
enum SnapshotError<E> {
    Damage(Damage),
    Sink(E),
}

/// Reads a snapshot to its end, checks that it is a whole database as far as its
/// header tells, and hands its bytes on.
fn read_snapshot<R: io::Read, E>(
    content: &mut Content<R>,
    mut sink: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<PageSize, SnapshotError<E>> {
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    let mut page_size = None;
    loop {
        let size = content.fill(&mut buffer).map_err(SnapshotError::Damage)?;
        if at == 0 {
            page_size = page_size_of(&buffer[..size]);
            if page_size.is_none() {
                return Err(SnapshotError::Damage(Damage::NotDatabase));
            }
        }
        sink(at, &buffer[..size]).map_err(SnapshotError::Sink)?;
        at += size as u64;
        if size < buffer.len() {
            break;
        }
    }
    let page_size = page_size.ok_or(SnapshotError::Damage(Damage::NotDatabase))?;
    if !at.is_multiple_of(u64::from(page_size.get())) {
        return Err(SnapshotError::Damage(Damage::Size { bytes: at, page_size }));
    }
    Ok(page_size)
}

fn page_size_of(start: &[u8]) -> Option<PageSize> {
    let field = start.strip_prefix(SQLITE_HEADER)?.first_chunk()?;
    PageSize::from_u16_field(u16::from_be_bytes(*field))
}

/// Bytes of a transaction that wait in memory: most transactions are smaller.
const IN_MEMORY: usize = 4 << 20;

/// The pages of a transaction that has not committed yet.
struct Waiting {
    page_size: PageSize,
    pages: Vec<Pgno>,
    /// The first of them, up to the limit.
    memory: Vec<u8>,
    /// The others.
    spilled: Option<Draft>,
    /// Pages of the database after the last commit of this log.
    committed: Option<u32>,
}

impl Waiting {
    fn new(page_size: PageSize) -> Self {
        Self { page_size, pages: Vec::new(), memory: Vec::new(), spilled: None, committed: None }
    }

    /// A transaction that did not commit before its log ended never happened.
    /// The size changes only now, as in a checkpoint of the whole log.
    fn end_of_log(&mut self, file: &File) -> io::Result<()> {
        self.pages.clear();
        self.memory.clear();
        match self.committed.take() {
            // Larger: SQLite does not write new pages that were given back at once.
            Some(pages) => file.set_len(u64::from(pages) * u64::from(self.page_size.get())),
            None => Ok(()),
        }
    }

    fn push(&mut self, pgno: Pgno, page: &[u8], beside: &Path) -> io::Result<()> {
        if self.memory.len() + page.len() <= IN_MEMORY {
            self.memory.extend_from_slice(page);
        } else {
            let draft = match &mut self.spilled {
                Some(draft) => draft,
                None => self.spilled.insert(Draft::create(beside, PRIVATE_FILE).map_err(io::Error::other)?),
            };
            let at = self.pages.len() - self.memory.len() / self.page_size.bytes();
            draft.file().write_all_at(page, at as u64 * u64::from(self.page_size.get()))?;
        }
        self.pages.push(pgno);
        Ok(())
    }

    /// The transaction leaves a database of `pages` pages.
    fn commit(&mut self, file: &File, pages: u32) -> io::Result<()> {
        let size = self.page_size.bytes();
        let mut page = vec![0; size];
        let held = self.memory.len() / size;
        for (at, pgno) in self.pages.iter().enumerate() {
            let bytes = match (self.memory.get(at * size..(at + 1) * size), &self.spilled) {
                (Some(bytes), _) => bytes,
                (None, Some(draft)) => {
                    draft.file().read_exact_at(&mut page, ((at - held) * size) as u64)?;
                    &page
                }
                (None, None) => unreachable!("what is not in memory was spilled"),
            };
            file.write_all_at(bytes, pgno.offset(self.page_size))?;
        }
        self.pages.clear();
        self.memory.clear();
        self.committed = Some(pages);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_larger_than_memory_is_whole_or_absent() {
        let dir = tempfile::TempDir::new().unwrap();
        let beside = dir.path().join("db");
        let file = File::options().read(true).write(true).create_new(true).open(&beside).unwrap();
        let page_size = PageSize::new(65536).unwrap();
        let page = |n: u32| vec![n.to_be_bytes()[3]; page_size.bytes()];
        let pages = 3 * u32::try_from(IN_MEMORY).unwrap() / page_size.get();
        let mut waiting = Waiting::new(page_size);
        for round in 1..=2 {
            for n in 1..=pages {
                waiting.push(Pgno::new(n).unwrap(), &page(n + round), &beside).unwrap();
            }
            assert_eq!(file.metadata().unwrap().len(), u64::from(round - 1) * u64::from(pages * page_size.get()));
            if round == 1 {
                waiting.commit(&file, pages).unwrap();
                waiting.end_of_log(&file).unwrap();
            }
        }
        // The second round never committed.
        waiting.end_of_log(&file).unwrap();
        waiting.push(Pgno::FIRST, &page(9), &beside).unwrap();
        waiting.commit(&file, pages - 1).unwrap();
        waiting.end_of_log(&file).unwrap();
        drop(waiting);
        let expected: Vec<u8> = page(9).into_iter().chain((2..pages).flat_map(|n| page(n + 1))).collect();
        assert!(std::fs::read(&beside).unwrap() == expected);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "what was spilled is gone");
    }
}
