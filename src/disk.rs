//! Room on the file systems that databases and local state are on.
//!
//! Below a floor of free space this program takes next to nothing: what is left
//! is the application's. Half the floor further down it gives back what it can.
//! The system is asked once a second per file system, however many databases are
//! on it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// Enough.
    Enough,
    /// Below the floor.
    Scarce {
        /// The most bytes of local segments of one database.
        allowance: u64,
    },
    /// Below half of it: a long log is to be given up, too.
    Critical {
        /// The most bytes of local segments of one database.
        allowance: u64,
    },
}

impl Room {
    /// The most bytes of local segments of one database; `None`: no limit of this kind.
    pub fn allowance(self) -> Option<u64> {
        match self {
            Self::Enough => None,
            Self::Scarce { allowance } | Self::Critical { allowance } => Some(allowance),
        }
    }
}

/// Free space and its floor, by file system.
#[derive(Debug, Default)]
pub struct Disks {
    floor: Option<u64>,
    looked: Mutex<HashMap<u64, (Instant, Room)>>,
}

/// The system is not asked again sooner.
const FRESH: Duration = Duration::from_secs(1);
/// The default floor: this share of the file system...
const SHARE: u64 = 50;
/// ...and never more than this.
const MOST: u64 = 512 << 20;
/// The part of the floor that the local segments of one database may have below it.
const ALLOWANCE_SHARE: u64 = 16;
/// Never more than this.
const MOST_ALLOWANCE: u64 = 16 << 20;

impl Disks {
    /// `floor`: bytes that are to stay free; `None` = 2 % of each file system, at
    /// most 512 MiB; 0 = no floor.
    pub fn new(floor: Option<u64>) -> Self {
        Self { floor, looked: Mutex::default() }
    }

    /// The room on the file system `device`, on which `path` is.
    pub fn room(&self, device: u64, path: &Path, now: Instant) -> Room {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, room)) = looked.get(&device)
            && now < *at + FRESH
        {
            return *room;
        }
        // What cannot be told is no reason to hold anything back: a full disk says so itself.
        let Ok(fs) = rustix::fs::statvfs(path) else { return Room::Enough };
        let room = judge(fs.f_bavail.saturating_mul(fs.f_frsize), fs.f_blocks.saturating_mul(fs.f_frsize), self.floor);
        let before = looked.insert(device, (now, room)).map_or(Room::Enough, |(_, room)| room);
        if before != room {
            tell(room, path, fs.f_bavail.saturating_mul(fs.f_frsize));
        }
        room
    }
}

fn judge(free: u64, size: u64, floor: Option<u64>) -> Room {
    let floor = floor.unwrap_or((size / SHARE).min(MOST));
    let allowance = (floor / ALLOWANCE_SHARE).min(MOST_ALLOWANCE);
    match free {
        free if free >= floor => Room::Enough,
        free if free >= floor / 2 => Room::Scarce { allowance },
        _ => Room::Critical { allowance },
    }
}

fn tell(room: Room, path: &Path, free: u64) {
    let path = path.display().to_string();
    match room {
        Room::Enough => tracing::info!(path, free, "the disk has room again"),
        Room::Scarce { .. } | Room::Critical { .. } => tracing::warn!(
            path,
            free,
            "the disk is nearly full: local segments are kept short, replicas that lack them will get a new base"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_room_leaves_less() {
        let gib = 1u64 << 30;
        assert_eq!(judge(gib, 100 * gib, None), Room::Enough);
        let allowance = 16 << 20;
        assert_eq!(judge(500 << 20, 100 * gib, None), Room::Scarce { allowance });
        assert_eq!(judge(200 << 20, 100 * gib, None), Room::Critical { allowance });
        assert_eq!(
            judge(20 << 20, gib, None),
            Room::Scarce { allowance: gib / 50 / 16 },
            "a small one has a small floor"
        );
        assert_eq!(judge(0, gib, Some(0)), Room::Enough, "no floor was asked for");
        assert_eq!(judge(gib, 100 * gib, Some(3 * gib)), Room::Critical { allowance });
    }

    #[test]
    fn a_file_system_is_asked_once_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let disks = Disks::new(Some(u64::MAX));
        let now = Instant::now();
        let full = disks.room(1, dir.path(), now);
        assert!(matches!(full, Room::Critical { .. }));
        let gone = dir.path().join("gone");
        assert_eq!(disks.room(1, &gone, now + FRESH / 2), full);
        assert_eq!(disks.room(1, &gone, now + FRESH), Room::Enough);
    }
}
