//! A database that is left alone because nothing happens to it: nothing of it is
//! open but the claim on its local state.
//!
//! The files' sizes and times only say whether it is worth while to look closer.
//! Whoever looks closer attaches, and attaching proves continuity or compares:
//! while a database is parked its log can be restarted and removed like anybody's.

use std::borrow::Cow;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::Position;
use super::options::Options;
use super::state::Cursor;

/// Where the log ended when a database was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    /// The captured position; all there was.
    pub(super) cursor: Cursor,
    /// The number of commits that the wal-index had counted.
    pub(super) change: u32,
}

/// A parked database.
#[derive(Debug)]
pub(super) struct Parked {
    /// The database and its log.
    files: [Stamp; 2],
    pub(super) position: Position,
    pub(super) left: Option<Left>,
}

/// What the file system tells about a file without opening it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A file that changed a shorter time ago could change again without its times showing it.
const SETTLED: Duration = Duration::from_millis(50);

impl Parked {
    /// Remembers the files as they are. The caller makes sure afterwards that all
    /// that is in them is captured: what comes later then shows. `None`: not now.
    pub(super) fn remember(options: &Options, position: Position, wall: SystemTime) -> io::Result<Option<Self>> {
        let mut stamps = Vec::new();
        for path in files(options) {
            let Some((stamp, touched)) = stamp(&path)? else { return Ok(None) };
            if wall.duration_since(touched).is_ok_and(|age| age < SETTLED) {
                return Ok(None);
            }
            stamps.push(stamp);
        }
        let stamps: Result<[_; 2], _> = stamps.try_into();
        Ok(stamps.ok().map(|files| Self { files, position, left: None }))
    }

    /// The same, with where the log ended.
    pub(super) fn left_at(self, left: Left) -> Self {
        Self { left: Some(left), ..self }
    }

    /// Whether it is worth while to look closer. What cannot be told is.
    pub(super) fn has_changed(&self, options: &Options) -> bool {
        let now = files(options).map(|path| stamp(&path));
        self.files.iter().zip(now).any(|(then, now)| !matches!(now, Ok(Some((now, _))) if now == *then))
    }
}

/// The database and its log.
fn files(options: &Options) -> [Cow<'_, Path>; 2] {
    [Cow::Borrowed(&*options.path), Cow::Owned(options.log_path())]
}

/// For how long nobody has written to a database, as far as its files tell. An
/// empty log tells nothing: whoever opens the database may have made it.
pub(super) fn rest(options: &Options, wall: SystemTime) -> Duration {
    let rests = files(options).map(|path| match stamp(&path) {
        Ok(Some((stamp, touched))) if stamp.size > 0 => wall.duration_since(touched).unwrap_or_default(),
        Ok(_) => Duration::MAX,
        Err(_) => Duration::ZERO,
    });
    rests.into_iter().min().unwrap_or_default()
}

fn stamp(path: &Path) -> io::Result<Option<(Stamp, SystemTime)>> {
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let stamp = Stamp {
        file: (meta.dev(), meta.ino()),
        size: meta.len(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    };
    Ok(Some((stamp, meta.modified()?)))
}
