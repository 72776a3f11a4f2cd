//! File systems that several machines, or a machine and its guest, can have in
//! common.
//!
//! The log's index is memory that all users of a database share, and such memory
//! ends at the machine (F56). On one machine all is well there too; so this is
//! told, and nothing is refused.

use std::path::Path;

/// The kind of file system, if others than this machine could use a database on it.
#[cfg(target_os = "linux")]
pub(super) fn reaches_further(path: &Path) -> Option<&'static str> {
    // As wide as a word of the machine, of which 32 bits count.
    let magic = rustix::fs::statfs(path).ok()?.f_type.to_le_bytes();
    kind(u32::from_le_bytes(*magic.first_chunk()?))
}

/// Only Linux has the numbers below.
#[cfg(not(target_os = "linux"))]
pub(super) fn reaches_further(_: &Path) -> Option<&'static str> {
    None
}

/// The magic numbers of statfs(2). Virtual machines and Docker on other systems show their host's folders as FUSE or 9p.
#[cfg(target_os = "linux")]
fn kind(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x0102_1997 => "9p",
        0x6573_5546 => "FUSE",
        0x00c3_6400 => "CephFS",
        0x5346_414f | 0x6b41_4653 => "AFS",
        _ => return None,
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// F56: by the numbers of `linux/magic.h`; the usual local ones are none of them.
    #[test]
    fn file_systems_of_several_machines_are_known_by_their_numbers() {
        let found = [0x6969, 0xfe53_4d42, 0xff53_4d42, 0x517b, 0x0102_1997, 0x6573_5546, 0x00c3_6400].map(kind);
        let names = ["NFS", "SMB", "SMB", "SMB", "9p", "FUSE", "CephFS"];
        assert_eq!(found, names.map(Some));
        let (ext4, xfs, btrfs, overlay, tmpfs) = (0xef53, 0x5846_5342, 0x9123_683e, 0x794c_7630, 0x0102_1994);
        assert_eq!([ext4, xfs, btrfs, overlay, tmpfs].map(kind), [None; 5]);
        assert_eq!(reaches_further(Path::new("/proc/self/status")), None);
        assert_eq!(reaches_further(Path::new("/nonexistent")), None);
    }
}
