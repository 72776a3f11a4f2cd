//! Segments: the LTX file format, byte by byte.
//!
//! A segment holds the newest version of each page that a range of transactions
//! changed. It is written once and never changed.
//!
//! ```text
//! segment    := header frame* end_marker index trailer
//! header     := 100 bytes, below
//! frame      := pgno u32 | flags u16 | payload                  flags 0
//!             | pgno u32 | flags u16 | size u32 | payload       flags 1
//! end_marker := 6 zero bytes
//! index      := (uvarint pgno, uvarint offset, uvarint size)* 0x00 | length u64
//! trailer    := 8 zero bytes | file_checksum u64
//! ```
//!
//! Numbers are big-endian, offsets count bytes from the start of the segment.
//!
//! # Header
//!
//! ```text
//!  0   4  "LTX1"
//!  4  u32 flags: always 2, "no database checksum in the official fields"
//!  8  u32 page size, 512 to 65536
//! 12  u32 commit: database size in pages after this segment
//! 16  u64 first TXID, from 1
//! 24  u64 last TXID
//! 32  i64 time of the newest transaction, milliseconds since 1970 UTC
//! 40  u64 0 (official database checksum before)
//! 48  i64 WAL offset where its frames begin; 0 = none, else at least 32
//! 56  i64 bytes of WAL frames
//! 64  u32 WAL salt 1
//! 68  u32 WAL salt 2
//! 72  u64 node: the generation of brooklet that wrote it; Litestream writes 0
//! 80   4  "BKL1" if the next two fields are ours, else anything
//! 84  u64 database checksum before; 0 = the segment is complete
//! 92  u64 database checksum after
//! ```
//!
//! The last three fields lie in bytes which official readers cover with the
//! file checksum but do not look at. The official checksum fields would be the
//! natural place; but Litestream can neither merge nor restore files that use
//! them. *Complete* means: every page from 1 to `commit` is there except the
//! lock page, so the segment can be applied to anything. All segments that
//! begin at TXID 1 are complete, whoever wrote them.
//!
//! The checksum of a database is the XOR of the checksums of its pages, each
//! of which is CRC-64/GO-ISO over the page number (u32) and the page, with bit
//! 63 set after each step.
//!
//! # Pages
//!
//! Page numbers ascend from 1 to `commit`; the lock page never appears. With
//! flags 1 the payload is a raw LZ4 block of `size` bytes (Litestream 0.5.16
//! and later). With flags 0 it is one LZ4 frame of one block with a content
//! checksum (Litestream 0.5.0 to 0.5.15; nothing older is read). Either unpacks
//! to exactly one page. A segment may mix them.
//!
//! # Index and trailer
//!
//! The index says where the frame of each page begins and how long it is,
//! `length` counts its list with the zero byte: [`index`]. The file checksum
//! is CRC-64/GO-ISO with bit 63 set over the header; for each frame its header,
//! size field if any, and the page *uncompressed*; the end marker; the index
//! with its length; and the eight zero bytes.
//!
//! # Names
//!
//! `<first TXID>-<last TXID>.ltx`, 16 lower-case hex digits each.
//!
//! # Use
//!
//! [`Encoder`] and [`Decoder`] go from start to end; [`index`] and
//! [`decode_frame`] fetch single pages; [`merge()`] makes one segment of several.
//! All are strict: what does not follow every rule above is refused, both when
//! writing and when reading. No input makes a reader panic.

mod decode;
mod encode;
mod error;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod forge;
mod header;
pub mod index;
mod merge;
mod numbering;
mod payload;
mod segment;

pub use decode::Decoder;
pub use encode::{Encoder, Finished};
pub use error::Error;
pub use header::{Header, Proof, Trailer, WalSpan};
pub use merge::{check_txids, merge, merged_header};
pub use numbering::growth_hole;
pub use payload::{Encoding, decode_frame, max_frame_size};
pub use segment::{Level, file_name, parse_file_name};

use payload::MIN_FRAME_SIZE;

/// Bytes before each payload: page number and flags.
const PAGE_HEADER_SIZE: usize = 6;
/// Bytes of the size field that some frames have.
const FRAME_SIZE_FIELD: usize = 4;
/// Bytes of zeros after the last frame.
const END_MARKER_SIZE: usize = 6;
