//! What capture remembers about a database between two looks: which file it is,
//! which history it writes, and where in the log it stands.
//!
//! A [`State`] is written after the segment and the page-map entries it
//! describes. It fits in one disk sector and carries its own checksum, so a torn
//! write is seen and the older copy is used.

use std::path::Path;

use crate::spool::{Point, Seq};
use crate::types::{Chain, Checksum, Generation, PageSize, Salts, Timestamp, crc64_iso};

/// Which file this is. A database that was replaced, recreated or rebuilt with
/// another page size is another database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Size of a page.
    pub page_size: PageSize,
}

/// Device and inode of whatever is at a path now; `None` when nothing is.
///
/// # Errors
/// Any failure other than absence.
pub fn file_id(path: &Path) -> std::io::Result<Option<(u64, u64)>> {
    use std::os::unix::fs::MetadataExt;
    match std::fs::metadata(path) {
        Ok(meta) => Ok(Some((meta.dev(), meta.ino()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A place in the log: everything up to and including `frame` of the run named
/// by `salts` is captured, and `chain` is the running checksum there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The run of frames.
    pub salts: Salts,
    /// The last captured frame, 0 = none of this run.
    pub frame: u32,
    /// The running checksum at that frame; meaningless at frame 0.
    pub chain: Chain,
    /// Byte order of the checksums in this run.
    pub big_endian: bool,
}

/// All that capture knows about one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The file this is about.
    pub identity: Identity,
    /// The history being written.
    pub generation: Generation,
    /// The last captured batch.
    pub seq: Seq,
    /// Pages in the database at that batch.
    pub page_count: u32,
    /// The database checksum at that batch.
    pub checksum: Checksum,
    /// The time stamped on that batch; the next one is never earlier.
    pub timestamp: Timestamp,
    /// Where the log was at that batch; `None` when that is not known, so that
    /// only a comparison can continue.
    pub cursor: Option<Cursor>,
}

const MAGIC: &[u8; 8] = b"BKLSTAT1";
const BODY: usize = 112;
/// Bytes of an encoded state: less than the 512 bytes a disk writes at once.
pub const STATE_SIZE: usize = BODY + 8;

impl State {
    /// The captured position.
    pub fn point(&self) -> Point {
        Point { seq: self.seq, checksum: self.checksum, timestamp: Some(self.timestamp) }
    }

    /// The bytes to store.
    pub fn encode(&self) -> [u8; STATE_SIZE] {
        let mut out = Vec::with_capacity(STATE_SIZE);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.identity.device.to_be_bytes());
        out.extend_from_slice(&self.identity.inode.to_be_bytes());
        out.extend_from_slice(&self.identity.page_size.get().to_be_bytes());
        out.extend_from_slice(&self.page_count.to_be_bytes());
        out.extend_from_slice(&self.generation.get().to_be_bytes());
        out.extend_from_slice(&self.seq.get().to_be_bytes());
        out.extend_from_slice(&self.checksum.get().to_be_bytes());
        out.extend_from_slice(&self.timestamp.as_millis().to_be_bytes());
        let cursor = self.cursor.unwrap_or(Cursor {
            salts: Salts::default(),
            frame: 0,
            chain: Chain::default(),
            big_endian: false,
        });
        let flags = u32::from(self.cursor.is_some()) | (u32::from(cursor.big_endian) << 1);
        for word in [flags, cursor.salts.first, cursor.salts.second, cursor.frame, cursor.chain.0, cursor.chain.1] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out.resize(BODY, 0);
        let mut digest = crc64_iso();
        digest.update(&out);
        out.extend_from_slice(&Checksum::from_crc(digest.finalize()).get().to_be_bytes());
        out.try_into().expect("the body and its checksum have a fixed size")
    }

    /// Reads what [`State::encode`] wrote; `None` for anything else.
    pub fn decode(bytes: &[u8; STATE_SIZE]) -> Option<Self> {
        let (body, stored) = bytes.split_at(BODY);
        let mut digest = crc64_iso();
        digest.update(body);
        if body[..8] != *MAGIC || Checksum::from_crc(digest.finalize()).get().to_be_bytes() != *stored {
            return None;
        }
        let long = |at: usize| body[at..at + 8].iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
        let word = |at: usize| body[at..at + 4].iter().fold(0u32, |n, b| n << 8 | u32::from(*b));
        let flags = word(64);
        let cursor = Cursor {
            salts: Salts { first: word(68), second: word(72) },
            frame: word(76),
            chain: Chain(word(80), word(84)),
            big_endian: flags & 2 != 0,
        };
        Some(Self {
            identity: Identity { device: long(8), inode: long(16), page_size: PageSize::new(word(24))? },
            page_count: word(28),
            generation: Generation::new(long(32))?,
            seq: Seq::new(long(40))?,
            checksum: Checksum::from_stored(long(48))?,
            timestamp: Timestamp::from_millis(i64::from_be_bytes(long(56).to_be_bytes())),
            cursor: (flags & 1 != 0).then_some(cursor),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(cursor: Option<Cursor>) -> State {
        State {
            identity: Identity { device: 3, inode: u64::MAX, page_size: PageSize::new(65536).unwrap() },
            generation: Generation::new(0xfeed).unwrap(),
            seq: Seq::new(9).unwrap(),
            page_count: u32::MAX,
            checksum: Checksum::from_crc(77),
            timestamp: Timestamp::from_millis(-5),
            cursor,
        }
    }

    fn cursor() -> Cursor {
        Cursor { salts: Salts { first: 1, second: 2 }, frame: 3, chain: Chain(4, 5), big_endian: true }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for state in [sample(None), sample(Some(cursor()))] {
            assert_eq!(State::decode(&state.encode()), Some(state));
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let bytes = sample(Some(cursor())).encode();
        for at in 0..STATE_SIZE {
            for bit in 0..8 {
                let mut damaged = bytes;
                damaged[at] ^= 1 << bit;
                assert_eq!(State::decode(&damaged), None, "byte {at} bit {bit}");
            }
        }
    }
}
