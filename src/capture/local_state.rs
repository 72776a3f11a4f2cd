//! The local state of a database from outside: taken to be removed, or looked at
//! while somebody else may be at work on it.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use super::attach::{lock_path, take_lock};
use super::error::Error;
use super::options::Options;
use super::page_map::PageMap;
use super::state::State;

/// The local state, held so that no daemon uses it.
#[derive(Debug)]
pub struct LocalState {
    dir: PathBuf,
    /// Held open: closing it gives the lock up.
    _lock: File,
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
