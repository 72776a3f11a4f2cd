//! Another replicator on the same database: not a danger to the data, since each
//! takes its own guard, but each makes the other's checkpoints incomplete, and
//! usually one of the two was forgotten.
//!
//! A guard is a shared lock on one of the reader bytes of the wal-index
//! (<https://sqlite.org/walformat.html#wal_locks>). Any application has such locks
//! while it reads, so only programs that are known to replicate are reported.

use std::path::Path;

/// The five reader locks, `WAL_READ_LOCK(0)` to `(4)`.
const READER_BYTES: std::ops::RangeInclusive<u64> = 123..=127;

/// Programs that keep such locks for as long as they run.
const REPLICATORS: [&str; 2] = ["brooklet", "litestream"];

/// A replicator in another process that follows the database of this wal-index file.
pub(super) fn rival(shm: (u64, u64)) -> Option<(u32, String)> {
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let us = std::process::id();
    readers(&locks, shm).filter(|pid| *pid != us).find_map(|pid| {
        let name = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm")).ok()?;
        let name = name.trim_end();
        REPLICATORS.contains(&name).then(|| (pid, name.to_owned()))
    })
}

/// The processes that hold reader locks on a file, as `/proc/locks` tells
/// (proc_locks(5)). Processes of other containers have no number there.
fn readers(locks: &str, (device, inode): (u64, u64)) -> impl Iterator<Item = u32> {
    locks.lines().filter_map(move |line| {
        let mut fields = line.split_whitespace().filter(|field| *field != "->").skip(1);
        let (_, _, mode) = (fields.next()?, fields.next()?, fields.next()?);
        let pid: u32 = fields.next()?.parse().ok()?;
        let mut file = fields.next()?.split(':');
        let major = u32::from_str_radix(file.next()?, 16).ok()?;
        let minor = u32::from_str_radix(file.next()?, 16).ok()?;
        let found: u64 = file.next()?.parse().ok()?;
        let start: u64 = fields.next()?.parse().ok()?;
        let same = found == inode && rustix::fs::makedev(major, minor) == device;
        (same && mode == "READ" && READER_BYTES.contains(&start)).then_some(pid)
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
        assert_eq!(readers(locks, file).collect::<Vec<_>>(), [100, 106]);
    }
}
