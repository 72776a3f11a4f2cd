//! Another replicator on the same database: not a danger to the data, since each
//! takes its own guard, but each makes the other's checkpoints incomplete, and
//! usually one of the two was forgotten.
//!
//! A guard is a shared lock on one of the reader bytes of the wal-index
//! (<https://sqlite.org/walformat.html#wal_locks>). Any application has such locks
//! while it reads, so only programs that are known to replicate are reported.

use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

/// The five reader locks, `WAL_READ_LOCK(0)` to `(4)`.
const READER_BYTES: std::ops::RangeInclusive<u64> = 123..=127;

/// Programs that keep such locks for as long as they run.
const REPLICATORS: [&str; 2] = ["brooklet", "litestream"];

/// Of the time since the locks were last listed, no more than the 20th part goes into listing them.
const SHARE: u32 = 20;

/// Who reads what on this machine. The system's list of locks has a line for every
/// lock of every process; among thousands of databases it is not read for each.
#[derive(Debug, Default)]
pub struct Rivals(Mutex<Option<Listed>>);

#[derive(Debug)]
struct Listed {
    /// Reader locks of other processes.
    readers: Vec<Reader>,
    /// Good until then.
    until: Instant,
}

impl Rivals {
    /// A replicator in another process that follows the database of this wal-index file.
    pub(super) fn find(&self, shm: (u64, u64)) -> Option<(u32, String)> {
        let us = std::process::id();
        let mut listed = self.0.lock().expect("no holder of this lock panics");
        if listed.as_ref().is_none_or(|listed| listed.until <= Instant::now()) {
            let begun = Instant::now();
            let locks = std::fs::read_to_string("/proc/locks").ok()?;
            let readers = readers(&locks).filter(|reader| reader.pid != us).collect();
            let now = Instant::now();
            *listed = Some(Listed { readers, until: now + (now - begun) * SHARE });
        }
        let readers = &listed.as_ref()?.readers;
        readers.iter().filter(|reader| reader.file == shm).find_map(|reader| {
            let name = std::fs::read_to_string(Path::new("/proc").join(reader.pid.to_string()).join("comm")).ok()?;
            let name = name.trim_end();
            REPLICATORS.contains(&name).then(|| (reader.pid, name.to_owned()))
        })
    }
}

/// A process with a reader lock on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reader {
    /// Device and inode.
    file: (u64, u64),
    pid: u32,
}

/// The reader locks of all processes, as `/proc/locks` tells (proc_locks(5)).
/// Processes of other containers have no number there.
fn readers(locks: &str) -> impl Iterator<Item = Reader> {
    locks.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().filter(|field| *field != "->").skip(1);
        let (_, _, mode) = (fields.next()?, fields.next()?, fields.next()?);
        let pid: u32 = fields.next()?.parse().ok()?;
        let mut file = fields.next()?.split(':');
        let major = u32::from_str_radix(file.next()?, 16).ok()?;
        let minor = u32::from_str_radix(file.next()?, 16).ok()?;
        let inode: u64 = file.next()?.parse().ok()?;
        let start: u64 = fields.next()?.parse().ok()?;
        let file = (rustix::fs::makedev(major, minor), inode);
        (mode == "READ" && READER_BYTES.contains(&start)).then_some(Reader { file, pid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reader_locks_on_the_wal_index_are_found_among_all_others() {
        let locks = "\
1: POSIX  ADVISORY  READ  100 fd:00:2098 123 123
2: POSIX  ADVISORY  WRITE 101 fd:00:2098 120 120
3: POSIX  ADVISORY  READ  102 fd:00:2098 128 128
4: FLOCK  ADVISORY  WRITE 103 fd:00:2098 0 EOF
5: POSIX  ADVISORY  READ  104 fd:01:2098 124 124
6: POSIX  ADVISORY  READ  105 00:1a:2098 124 124
6: -> POSIX  ADVISORY  READ  106 fd:00:2098 127 127
7: OFDLCK ADVISORY  READ  -1 fd:00:2098 124 124
nonsense
8:";
        let file = (rustix::fs::makedev(0xfd, 0), 2098);
        let of_file: Vec<u32> = readers(locks).filter(|reader| reader.file == file).map(|reader| reader.pid).collect();
        assert_eq!(of_file, [100, 106]);
        assert_eq!(readers(locks).count(), 4);
    }
}
