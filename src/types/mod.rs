//! Nouns that more than one format speaks. Values only: no files, no clock.
//!
//! A number that means something has a type here, a constructor that refuses
//! nonsense, and one spelling. Raw integers live only inside the codecs.

mod checksum;
mod page;
mod point;
mod secret;
mod wal_offset;

pub use checksum::{Checksum, RollingChecksum, crc64_iso, page_checksum};
pub use page::{PageSize, Pgno, SQLITE_HEADER, lock_page};
pub use point::{Generation, Timestamp, Txid, TxidRange};
pub use secret::Secret;
pub use wal_offset::{Chain, FRAME_HEADER_SIZE, Salts, WAL_HEADER_SIZE, frame_end, frame_offset};
