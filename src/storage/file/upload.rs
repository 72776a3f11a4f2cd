//! An object on its way into a directory.

use std::fs::{File, FileTimes};
use std::io::{self, Read};
use std::path::Path;
use std::time::SystemTime;

use super::super::{Error, ErrorKind, Key, Progress, Put, PutOptions, Result};
use super::PIECE;
use super::verdict::{failed, failed_durable, judge};
use crate::durable::{self, Draft};

/// An object on its way in.
pub(super) struct Upload {
    draft: Draft,
    key: Key,
    progress: Progress,
    unsynced: u64,
}

impl Upload {
    pub(super) fn new(draft: Draft, key: Key, progress: Progress) -> Self {
        Self { draft, key, progress, unsynced: 0 }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        for piece in bytes.chunks(PIECE) {
            self.draft.append(piece).map_err(|e| failed_durable(&self.key, e))?;
            self.unsynced += piece.len() as u64;
            if self.unsynced >= SYNC_EVERY {
                self.draft.file().sync_data().map_err(|e| failed("store", &self.key, e))?;
                self.unsynced = 0;
            }
            self.progress.moved();
        }
        Ok(())
    }

    pub(super) fn copy_from(&mut self, path: &Path) -> Result<()> {
        let unreadable = |e: io::Error| {
            let (kind, advice) = match judge(&e) {
                (ErrorKind::Missing, _) => (ErrorKind::Refused, ": it is gone"),
                judged => judged,
            };
            Error::new(kind, format!("cannot read {} to store it{advice}", path.display())).caused_by(e)
        };
        let mut source = File::open(path).map_err(unreadable)?;
        let mut buffer = vec![0; PIECE];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => self.write(&buffer[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(unreadable(e)),
            }
        }
    }

    pub(super) fn publish(self, options: PutOptions) -> Result<()> {
        let Self { draft, key, .. } = self;
        if let Some(timestamp) = options.timestamp {
            let time = SystemTime::from(timestamp);
            let times = FileTimes::new().set_accessed(time).set_modified(time);
            draft.file().set_times(times).map_err(|e| failed("set the time of", &key, e))?;
        }
        let folder = draft.path().parent().map(Path::to_path_buf);
        let published = match options.how {
            Put::New => draft.publish_new(),
            Put::Replace => draft.publish(),
        };
        match published {
            Err(e) if options.how == Put::New && e.kind() == io::ErrorKind::AlreadyExists => {
                // It may be there without being durable: ours, from before an
                // fsync that failed. Whoever compares may then rely on it.
                let synced = folder.map_or(Ok(()), |folder| durable::sync_dir(&folder));
                synced.map_err(|e| failed_durable(&key, e))?;
                Err(Error::exists(&key))
            }
            published => published.map_err(|e| failed_durable(&key, e)),
        }
    }
}

/// A single fsync of a large file can take longer than a request may stay
/// silent; 64 MiB take a few seconds even on a slow network share.
const SYNC_EVERY: u64 = 64 * 1024 * 1024;
