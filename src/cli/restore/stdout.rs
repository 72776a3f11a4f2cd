//! `-o -`: the finished database on standard output.
//!
//! Always true: nothing is printed before the database is complete and proven. It
//! waits in a directory of its own below `$TMPDIR`, which only its owner may
//! enter and which is removed at the end. A killed process leaves it behind.

use std::fs::{self, DirBuilder, File};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use crate::cli::error::CliError;

/// Where the database is until it is printed.
pub(super) struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    pub(super) fn new() -> Result<Self, CliError> {
        if io::stdout().is_terminal() {
            return Err(CliError::usage(
                "a database is not for a terminal: redirect the output, or name a file with -o",
            ));
        }
        // Process numbers are used again, so that one may have been left behind.
        for attempt in 0..ATTEMPTS {
            let name = format!("brooklet-restore-{}-{attempt}", std::process::id());
            let dir = std::env::temp_dir().join(name);
            match DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => return Ok(Self { dir }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(CliError::failed(format!("cannot create {}: {error}", dir.display()))),
            }
        }
        Err(CliError::failed(format!(
            "{} is full of remains: remove brooklet-restore-*",
            std::env::temp_dir().display()
        )))
    }

    /// The name that the database is restored to.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.join("database")
    }

    /// Prints the database, if there is one.
    pub(super) fn pour(self) -> Result<(), CliError> {
        let mut database = match File::open(self.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(CliError::failed)?,
        };
        let mut out = io::stdout().lock();
        // Unlike after a listing, a reader that is gone has not seen enough.
        io::copy(&mut database, &mut out).and_then(|_| out.flush()).map_err(CliError::Output)
    }
}

/// Names tried for the directory.
const ATTEMPTS: u32 = 100;

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.dir));
    }
}
