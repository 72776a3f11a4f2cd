//! The local state of a database from outside: taken to be removed, or looked at
//! while somebody else may be at work on it.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::PathBuf;

use super::attach::{Lock, lock_path, take_lock};
use super::error::Error;
use super::options::Options;
use super::page_map::PageMap;
use super::state::State;
use crate::types::{WAL_HEADER_SIZE, frame_end};
use crate::wal::{Scanner, WalHeader};

/// The local state, held so that no daemon uses it.
#[derive(Debug)]
pub struct LocalState {
    dir: PathBuf,
    _lock: Lock,
}

impl LocalState {
    /// Takes it.
    ///
    /// # Errors
    /// A daemon has it, or it cannot be opened.
    pub fn take(options: &Options) -> Result<Self, Error> {
        let dir = options.state_dir();
        let lock = take_lock(&dir)?;
        Ok(Self { dir, _lock: lock })
    }

    /// What was captured last, whoever is at work on it; `None`: nothing that can be read.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn peek(options: &Options) -> io::Result<Option<State>> {
        PageMap::peek(&options.state_dir().join("pagemap"))
    }

    /// Committed frames in the log after what was captured; `None`: only a comparison could tell, because the log has
    /// begun anew since or is gone.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn uncaptured(options: &Options, state: &State) -> io::Result<Option<u32>> {
        let Some(cursor) = state.cursor else { return Ok(None) };
        let log_path = options.log_path();
        let mut log = match File::open(log_path) {
            Ok(log) => log,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut header = Vec::new();
        log.by_ref().take(WAL_HEADER_SIZE).read_to_end(&mut header)?;
        let page_size = state.identity.page_size;
        let Some(header) = WalHeader::parse(&header).filter(|header| header.page_size == page_size) else {
            return Ok(None);
        };
        // Whatever a later run of the log holds came after what was captured.
        let same_run = header.salts == cursor.salts;
        let captured = if same_run { cursor.frame } else { 0 };
        log.seek(SeekFrom::Start(frame_end(captured, page_size)))?;
        let mut log = BufReader::new(log);
        let mut scanner = match captured {
            0 => Scanner::at_start(&header),
            frame => Scanner::resume(page_size, cursor.big_endian, cursor.salts, frame, cursor.chain),
        };
        let size = frame_end(1, page_size) - frame_end(0, page_size);
        let mut committed = captured;
        loop {
            let mut frame = Vec::new();
            log.by_ref().take(size).read_to_end(&mut frame)?;
            match scanner.push(&frame) {
                Some(frame) if frame.commit.is_some() => committed = frame.number,
                Some(_) => {}
                // Another run without commits tells nothing about the end of the one before.
                None => return Ok(Some(committed - captured).filter(|frames| same_run || *frames > 0)),
            }
        }
    }

    /// Removes all of it. The lock goes last: whoever takes a new one begins with nothing.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn clear(self) -> io::Result<()> {
        let lock = lock_path(&self.dir);
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            match () {
                () if path == lock => {}
                () if path.is_dir() && !path.is_symlink() => fs::remove_dir_all(&path)?,
                () => fs::remove_file(&path)?,
            }
        }
        fs::remove_file(lock)?;
        fs::remove_dir(&self.dir)
    }
}
