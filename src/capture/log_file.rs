//! The WAL file itself, read by its own descriptor. No SQLite locks live on it,
//! so it may be opened and closed freely.
//!
//! A scan hands out nothing that is not proven: every frame continues the
//! checksum chain from the start it was given, and the window ends at a commit.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::plan::Lost;
use super::state::Cursor;
use crate::durable;
use crate::types::{
    Chain, Checksum, FRAME_HEADER_SIZE, PageSize, Pgno, Salts, WAL_HEADER_SIZE, frame_end, frame_offset, page_checksum,
};
use crate::wal::{FrameHeader, Scanner, WalHeader};

const FRAME_HEADER_LEN: usize = 24;
const WAL_HEADER_LEN: usize = 32;
const _: () = assert!(FRAME_HEADER_LEN as u64 == FRAME_HEADER_SIZE && WAL_HEADER_LEN as u64 == WAL_HEADER_SIZE);
/// Frames are read this many bytes at a time.
const CHUNK: usize = 1 << 20;
/// An open WAL file.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    id: (u64, u64),
    page_size: PageSize,
}

/// Committed frames of a log: the newest frame of each page.
#[derive(Debug)]
pub(super) struct Window {
    /// The last frame, a commit.
    pub(super) end: u32,
    /// The running checksum at it.
    pub(super) chain: Chain,
    /// Pages in the database after it.
    pub(super) page_count: u32,
    /// Transactions in it.
    pub(super) commits: u32,
    /// The newest version of each page, ascending; pages past the end are left out.
    pages: Vec<Version>,
    /// All frames from `first` on, when the window is small.
    memory: Option<(u32, Vec<u8>)>,
}

/// A page as a frame holds it, with the checksum of the very bytes that the chain proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    pgno: Pgno,
    frame: u32,
    checksum: Checksum,
}

impl Window {
    /// The pages and their checksums, ascending.
    pub(super) fn changes(&self) -> impl Iterator<Item = (Pgno, Checksum)> + '_ {
        self.pages.iter().map(|version| (version.pgno, version.checksum))
    }

    /// Whether pages are read from the very bytes that were proven.
    pub(super) fn in_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// Reads the newest version of the page at `index` of [`Window::changes`].
    pub(super) fn read(&self, log: &LogFile, index: usize, page: &mut Vec<u8>) -> io::Result<()> {
        let Version { frame, .. } = self.pages[index];
        match &self.memory {
            Some((first, bytes)) => {
                let size = log.frame_size();
                let start = (frame - first) as usize * size + FRAME_HEADER_LEN;
                page.clear();
                page.extend_from_slice(&bytes[start..start + log.page_size.bytes()]);
                Ok(())
            }
            None => {
                page.resize(log.page_size.bytes(), 0);
                log.read_page(frame, page)
            }
        }
    }

    /// The newest frame of a page, if it has one.
    pub(super) fn frame_of(&self, pgno: Pgno) -> Option<u32> {
        self.pages.binary_search_by_key(&pgno, |version| version.pgno).ok().map(|at| self.pages[at].frame)
    }
}

impl LogFile {
    /// Opens the log beside a database.
    pub(super) fn open(path: &Path, page_size: PageSize) -> io::Result<Self> {
        durable::point("log::open")?;
        let file = File::open(path)?;
        let meta = file.metadata()?;
        Ok(Self { path: path.to_owned(), file, id: (meta.dev(), meta.ino()), page_size })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode of the open file.
    pub(super) fn id(&self) -> (u64, u64) {
        self.id
    }

    fn frame_size(&self) -> usize {
        FRAME_HEADER_LEN + self.page_size.bytes()
    }

    /// Whole frames that fit in the file, whether valid or not.
    pub(super) fn length_in_frames(&self) -> io::Result<u32> {
        let body = self.file.metadata()?.len().saturating_sub(WAL_HEADER_SIZE);
        Ok(u32::try_from(body / self.frame_size() as u64).unwrap_or(u32::MAX))
    }

    /// The log's header, if it is one that SQLite would accept, belongs to this
    /// run and has the database's page size.
    pub(super) fn header(&self, salts: Salts) -> io::Result<Option<WalHeader>> {
        let mut bytes = [0u8; WAL_HEADER_LEN];
        if !read_exact(&self.file, &mut bytes, 0)? {
            return Ok(None);
        }
        Ok(WalHeader::parse(&bytes).filter(|h| h.salts == salts && h.page_size == self.page_size))
    }

    /// The salts and running checksum stored with a frame.
    pub(super) fn frame_proof(&self, frame: u32) -> io::Result<Option<(Salts, Chain)>> {
        let mut bytes = [0u8; FRAME_HEADER_LEN];
        let found = read_exact(&self.file, &mut bytes, frame_offset(frame, self.page_size))?;
        Ok(found.then(|| FrameHeader::parse(&bytes)).map(|h| (h.salts, h.chain)))
    }

    /// Whether the frame at a cursor is still in its place, and no other of its
    /// run behind it. When the next run has begun and is shorter, this shows that
    /// the run of the cursor ended there: what a run has written stays until the
    /// next one gets that far.
    /// An empty run leaves nothing to see.
    pub(super) fn ended_at(&self, cursor: &Cursor) -> io::Result<bool> {
        if cursor.frame == 0 {
            return Ok(false);
        }
        let in_place = self.frame_proof(cursor.frame)? == Some((cursor.salts, cursor.chain));
        let Some(behind) = cursor.frame.checked_add(1) else { return Ok(false) };
        Ok(in_place && self.frame_proof(behind)?.is_none_or(|(salts, _)| salts != cursor.salts))
    }

    /// Reads the page in a frame.
    pub(super) fn read_page(&self, frame: u32, page: &mut [u8]) -> io::Result<()> {
        let offset = frame_offset(frame, self.page_size) + FRAME_HEADER_SIZE;
        if read_exact(&self.file, page, offset)? { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Proves the frames from where `scanner` stands up to and including `to`
    /// (which the wal-index says is a commit), or up to the first commit after
    /// `limit` bytes. A window of at most `keep` bytes stays in memory.
    pub(super) fn scan(
        &self,
        mut scanner: Scanner,
        to: u32,
        limit: u64,
        keep: u64,
    ) -> io::Result<Result<Window, Lost>> {
        let first = scanner.frame() + 1;
        let bytes = frame_end(to, self.page_size) - frame_end(scanner.frame(), self.page_size);
        let keep = bytes <= keep.min(limit);
        let size = self.frame_size();
        let whole = usize::try_from(bytes).unwrap_or(CHUNK);
        let mut buffer = vec![0u8; if keep { whole } else { whole.min((CHUNK / size).max(1) * size) }];
        let mut newest = Newest::default();
        let mut page_count = 0;
        let mut commits = 0;
        'file: while scanner.frame() < to {
            let left = (to - scanner.frame()) as usize * size;
            let want = left.min(buffer.len());
            if !read_exact(&self.file, &mut buffer[..want], frame_offset(scanner.frame() + 1, self.page_size))? {
                return Ok(Err(Lost::ChainBroken));
            }
            for bytes in buffer[..want].chunks_exact(size) {
                let Some(frame) = scanner.push(bytes) else { return Ok(Err(Lost::ChainBroken)) };
                let checksum = page_checksum(frame.pgno, &bytes[FRAME_HEADER_LEN..]);
                newest.push(Version { pgno: frame.pgno, frame: frame.number, checksum });
                if let Some(count) = frame.commit {
                    page_count = count;
                    commits += 1;
                    let scanned = u64::from(frame.number - first + 1) * size as u64;
                    if scanned >= limit {
                        break 'file;
                    }
                } else if frame.number == to {
                    return Ok(Err(Lost::ChainBroken)); // the wal-index promised a commit here
                }
            }
        }
        Ok(Ok(Window {
            end: scanner.frame(),
            chain: scanner.chain(),
            page_count,
            commits,
            pages: newest.finish(page_count),
            memory: keep.then_some((first, buffer)),
        }))
    }
}

/// Collects the newest frame of each page in memory that grows with the number
/// of distinct pages, not of frames.
#[derive(Default)]
struct Newest {
    entries: Vec<Version>,
    distinct: usize,
}

impl Newest {
    const SMALL: usize = 1 << 15;

    fn push(&mut self, version: Version) {
        self.entries.push(version);
        if self.entries.len() >= Self::SMALL && self.entries.len() >= self.distinct * 2 {
            self.fold();
        }
    }

    fn fold(&mut self) {
        self.entries.sort_unstable_by_key(|version| (version.pgno, std::cmp::Reverse(version.frame)));
        self.entries.dedup_by_key(|version| version.pgno);
        self.distinct = self.entries.len();
    }

    fn finish(mut self, page_count: u32) -> Vec<Version> {
        self.fold();
        self.entries.retain(|version| version.pgno.get() <= page_count);
        self.entries.shrink_to_fit();
        self.entries
    }
}

/// Fills the buffer, or says `false` when the file ends before.
fn read_exact(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
    match durable::point("log::read").and_then(|()| file.read_exact_at(buffer, offset)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(pgno: u32, frame: u32) -> Version {
        Version { pgno: Pgno::new(pgno).unwrap(), frame, checksum: Checksum::from_crc(frame.into()) }
    }

    #[test]
    fn the_newest_frame_of_each_page_is_kept_and_pages_past_the_end_are_not() {
        let mut newest = Newest::default();
        for (pgno, frame) in [(3, 1), (1, 2), (3, 3), (9, 4), (1, 5), (2, 6)] {
            newest.push(version(pgno, frame));
        }
        assert_eq!(newest.finish(3), [version(1, 5), version(2, 6), version(3, 3)]);
    }

    #[test]
    fn memory_follows_distinct_pages() {
        let mut newest = Newest::default();
        for frame in 1..=1_000_000u32 {
            newest.push(version(frame % 10 + 1, frame));
        }
        assert!(newest.entries.capacity() <= 2 * Newest::SMALL);
        let pages = newest.finish(100);
        assert_eq!(pages.len(), 10);
        assert!(pages.iter().all(|version| version.frame > 999_990));
    }
}
