//! The first hundred bytes of a segment and its last sixteen.
//!
//! Always true: what `decode` returns passes `check`, and only headers that
//! pass `check` are written by the encoder. Official readers accept them all.

use crate::types::{Checksum, Generation, PageSize, Salts, Timestamp, Txid, TxidRange, WAL_HEADER_SIZE};

use super::Error;

const MAGIC: &[u8; 4] = b"LTX1";
/// Header flag: no database checksum in the official fields.
const NO_CHECKSUM: u32 = 2;
/// Header flag of releases before 0.5.0: all pages in one LZ4 frame.
const WHOLE_LZ4: u32 = 1;
/// First bytes of our own proof in the reserved bytes.
const PROOF_MAGIC: &[u8; 4] = b"BKL1";

/// The stretch of a WAL whose frames a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalSpan {
    /// Where the first frame begins, in bytes; never below the WAL header.
    pub offset: u64,
    /// Bytes of frames; 0 if the pages came from the database file only.
    pub size: u64,
    /// The salts of the WAL.
    pub salts: Salts,
}

/// The checksum of the whole database on both sides of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Of the database this segment must be applied to. `None` if the segment
    /// is complete: it holds every page, so it can be applied to anything.
    pub before: Option<Checksum>,
    /// Of the database after it.
    pub after: Checksum,
}

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Size of every page.
    pub page_size: PageSize,
    /// Database size in pages after this segment; never 0.
    pub commit: u32,
    /// The transactions it holds.
    pub txids: TxidRange,
    /// When the newest of them was captured.
    pub timestamp: Timestamp,
    /// Where its frames were in the WAL.
    pub wal: Option<WalSpan>,
    /// The run of capture that wrote it; `None` if brooklet did not.
    pub generation: Option<Generation>,
    /// The database checksums; `None` if brooklet did not write all of it.
    pub proof: Option<Proof>,
}

impl Header {
    /// Bytes of a header.
    pub const SIZE: usize = 100;

    /// Whether the segment promises to hold every page of the database, so
    /// that it needs nothing before it.
    pub fn is_complete(&self) -> bool {
        self.txids.is_snapshot() || self.proof.is_some_and(|proof| proof.before.is_none())
    }

    /// The bytes as stored.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        let wal = self.wal.unwrap_or(WalSpan { offset: 0, size: 0, salts: Salts::default() });
        put(MAGIC);
        put(&NO_CHECKSUM.to_be_bytes());
        put(&self.page_size.get().to_be_bytes());
        put(&self.commit.to_be_bytes());
        put(&self.txids.min().get().to_be_bytes());
        put(&self.txids.max().get().to_be_bytes());
        put(&self.timestamp.as_millis().to_be_bytes());
        put(&[0; 8]); // The database checksum before: official readers want none.
        put(&wal.offset.to_be_bytes());
        put(&wal.size.to_be_bytes());
        put(&wal.salts.first.to_be_bytes());
        put(&wal.salts.second.to_be_bytes());
        put(&self.generation.map_or(0, Generation::get).to_be_bytes());
        if let Some(proof) = self.proof {
            put(PROOF_MAGIC);
            put(&proof.before.map_or(0, Checksum::get).to_be_bytes());
            put(&proof.after.get().to_be_bytes());
        }
        out
    }

    /// Reads the first hundred bytes of a segment, whoever wrote it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let bytes: &[u8; Self::SIZE] = bytes.first_chunk().ok_or(Error::Truncated { part: "header" })?;
        let wrong = |reason| Err(Error::Header { reason });
        let (u32_at, u64_at) = (|at| u32_at(bytes, at), |at| u64_at(bytes, at));
        if !bytes.starts_with(MAGIC) {
            return wrong("it does not begin with LTX1");
        }
        match u32_at(4) {
            NO_CHECKSUM => {}
            0 => return Err(Error::Unsupported { what: "an official database checksum" }),
            flags if flags & !NO_CHECKSUM == WHOLE_LZ4 => {
                return Err(Error::Unsupported { what: "its pages in one LZ4 frame" });
            }
            _ => return wrong("it has unknown flags"),
        }
        let Some(page_size) = PageSize::new(u32_at(8)) else {
            return wrong("its page size is not a power of two from 512 to 65536");
        };
        let (Some(min), Some(max)) = (Txid::new(u64_at(16)), Txid::new(u64_at(24))) else {
            return wrong("it names transaction 0");
        };
        let Some(txids) = TxidRange::new(min, max) else {
            return wrong("its first transaction is above its last");
        };
        if u64_at(40) != 0 {
            return wrong("it has a database checksum, but its flags say otherwise");
        }
        let wal =
            WalSpan { offset: u64_at(48), size: u64_at(56), salts: Salts { first: u32_at(64), second: u32_at(68) } };
        let header = Self {
            page_size,
            commit: u32_at(12),
            txids,
            timestamp: Timestamp::from_millis(u64_at(32).cast_signed()),
            wal: (wal.offset != 0 || wal.size != 0 || wal.salts != Salts::default()).then_some(wal),
            generation: Generation::new(u64_at(72)),
            proof: decode_proof(bytes)?,
        };
        header.check()?;
        Ok(header)
    }

    /// The rules that link fields; both sides of the border apply them.
    pub(super) fn check(&self) -> Result<(), Error> {
        let wrong = |reason| Err(Error::Header { reason });
        if self.commit == 0 {
            return wrong("it leaves a database without pages");
        }
        if self.txids.max().get() == u64::MAX {
            return wrong("no transaction could follow it");
        }
        if let Some(wal) = self.wal {
            let limit = i64::MAX.unsigned_abs();
            if wal.offset < WAL_HEADER_SIZE {
                return wrong("its WAL offset lies before the first frame");
            }
            if wal.offset > limit || wal.size > limit {
                return wrong("its WAL offset or size is negative");
            }
        }
        if self.txids.is_snapshot() && self.proof.is_some_and(|proof| proof.before.is_some()) {
            return wrong("it holds all transactions, but its proof continues from others");
        }
        Ok(())
    }
}

/// Reserved bytes that do not begin with our magic are not ours to judge.
fn decode_proof(bytes: &[u8; Header::SIZE]) -> Result<Option<Proof>, Error> {
    if &bytes[80..84] != PROOF_MAGIC {
        return Ok(None);
    }
    let malformed = Error::Header { reason: "its proof holds a number that is no checksum" };
    let before = match u64_at(bytes, 84) {
        0 => None,
        raw => match Checksum::from_stored(raw) {
            Some(before) => Some(before),
            None => return Err(malformed),
        },
    };
    let after = Checksum::from_stored(u64_at(bytes, 92)).ok_or(malformed)?;
    Ok(Some(Proof { before, after }))
}

/// The last sixteen bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Covers everything before it, the pages uncompressed.
    pub file_checksum: Checksum,
}

impl Trailer {
    /// Bytes of a trailer.
    pub const SIZE: usize = 16;

    /// The bytes as stored.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        (u128::from(self.file_checksum.get())).to_be_bytes()
    }

    /// Reads the last sixteen bytes of a segment.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Result<Self, Error> {
        let (post_apply, file_checksum) = (u64_at(bytes, 0), u64_at(bytes, 8));
        if post_apply != 0 {
            return Err(Error::Trailer { reason: "has a database checksum, but the header says otherwise" });
        }
        let file_checksum = Checksum::from_stored(file_checksum)
            .ok_or(Error::Trailer { reason: "holds a number that is no checksum" })?;
        Ok(Self { file_checksum })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::super::examples;
    use super::super::forge::{header, proof, range};
    use super::*;

    fn ours() -> Header {
        let salts = Salts { first: 1, second: u32::MAX };
        let wal = Some(WalSpan { offset: 4152, size: 4120, salts });
        Header { wal, proof: proof(Some(5), 6), ..header(range(2, 9), 17) }
    }

    #[test]
    fn round_trips_with_and_without_each_optional_field() {
        let full = ours();
        let bare = Header { wal: None, generation: None, proof: None, ..full };
        let complete = Header { proof: proof(None, 6), ..full };
        let before_1970 = Header { timestamp: Timestamp::from_millis(-1), ..full };
        for header in [full, bare, complete, before_1970, examples::header()] {
            assert_eq!(Header::decode(&header.encode()).unwrap(), header);
        }
    }

    #[test]
    fn the_proof_lies_in_the_reserved_bytes_and_the_generation_in_the_node() {
        let bytes = ours().encode();
        assert_eq!(bytes[72..80], 0xb00c_u64.to_be_bytes());
        assert_eq!(&bytes[80..84], b"BKL1");
        assert_eq!(bytes[84..92], ((1 << 63) | 5_u64).to_be_bytes());
        assert_eq!(bytes[92..], ((1 << 63) | 6_u64).to_be_bytes());
        let complete = Header { proof: proof(None, 6), ..ours() }.encode();
        assert_eq!(complete[84..92], [0; 8]);
    }

    #[test]
    fn a_segment_is_complete_by_its_transactions_or_by_its_proof() {
        assert!(header(range(1, 3), 1).is_complete());
        assert!(!header(range(2, 3), 1).is_complete());
        assert!(Header { proof: proof(None, 1), ..header(range(2, 3), 1) }.is_complete());
        assert!(!Header { proof: proof(Some(1), 1), ..header(range(2, 3), 1) }.is_complete());
    }

    #[test]
    fn foreign_reserved_bytes_are_no_proof() {
        let mut bytes = ours().encode();
        bytes[80..].fill(0x5a);
        assert_eq!(Header::decode(&bytes).unwrap(), Header { proof: None, ..ours() });
    }

    #[test]
    fn every_broken_rule_is_refused() {
        let spoiled = |at: usize, bytes: &[u8]| {
            let mut header = ours().encode();
            header[at..at + bytes.len()].copy_from_slice(bytes);
            Header::decode(&header)
        };
        for (rule, at, bytes) in [
            ("magic", 0, &b"LTX2"[..]),
            ("unknown flag", 4, &[0, 0, 0, 6]),
            ("page size 0", 8, &[0, 0, 0, 0]),
            ("page size 768", 8, &[0, 0, 3, 0]),
            ("page size 65537", 8, &[0, 1, 0, 1]),
            ("commit 0", 12, &[0; 4]),
            ("first TXID 0", 16, &[0; 8]),
            ("last TXID 0", 16, &[0; 16]),
            ("first above last", 16, &[0, 0, 0, 0, 0, 0, 0, 10]),
            ("the very last TXID", 24, &[0xff; 8]),
            ("database checksum", 40, &[0x80, 0, 0, 0, 0, 0, 0, 0]),
            ("salts or size without offset", 48, &[0; 8]),
            ("offset inside the WAL header", 48, &[0, 0, 0, 0, 0, 0, 0, 31]),
            ("negative offset", 48, &[0x80]),
            ("negative size", 56, &[0x80]),
            ("complete from 1, but continues", 16, &[0, 0, 0, 0, 0, 0, 0, 1]),
            ("before is no checksum", 84, &[0x7f]),
            ("after is no checksum", 92, &[0x7f]),
            ("after is absent", 92, &[0; 8]),
        ] {
            assert!(matches!(spoiled(at, bytes), Err(Error::Header { .. })), "{rule}");
        }
        assert!(matches!(spoiled(4, &[0; 4]), Err(Error::Unsupported { .. })), "official checksums");
        assert!(matches!(spoiled(4, &[0, 0, 0, 3]), Err(Error::Unsupported { .. })), "0.5.0-beta1");
        for length in 0..Header::SIZE {
            assert!(matches!(Header::decode(&ours().encode()[..length]), Err(Error::Truncated { .. })));
        }
    }

    #[test]
    fn the_trailer_has_a_file_checksum_and_no_other() {
        let trailer = Trailer { file_checksum: Checksum::from_crc(42) };
        let bytes = trailer.encode();
        assert_eq!(Trailer::decode(&bytes).unwrap(), trailer);
        for at in [0, 8] {
            let mut bytes = bytes;
            bytes[at] ^= 0x80;
            assert!(matches!(Trailer::decode(&bytes), Err(Error::Trailer { .. })), "bit 63 at {at}");
        }
    }
}
