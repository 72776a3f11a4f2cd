//! The page index: where each page sits in its segment.
//!
//! ```text
//! (uvarint page number, uvarint offset, uvarint size)*  0x00  length u64
//! ```
//!
//! `uvarint` is LEB128: seven bits a byte, lowest first, bit 7 set on all but
//! the last. Offsets count from the start of the segment; `length` counts the
//! list with its terminator. Pages follow each other without gaps, so the list
//! is known from the page numbers and frame sizes alone: that is all the
//! encoder keeps, and all the decoder checks against.

use std::io::{self, Write};
use std::ops::Range;

use crate::types::Pgno;

use super::numbering::Numbering;
use super::{END_MARKER_SIZE, Error, Header, MIN_FRAME_SIZE, Trailer, max_frame_size};

/// Bytes of the length field after the list.
const LENGTH_SIZE: usize = 8;
/// Bytes one needs from the end of a segment to find its index.
pub const TAIL_SIZE: usize = LENGTH_SIZE + Trailer::SIZE;

/// Where one page sits in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The page.
    pub pgno: Pgno,
    /// Where its frame begins, in bytes from the start of the segment.
    pub offset: u64,
    /// Bytes of its frame.
    pub size: u64,
}

/// Where the list lies (with its terminator, without its length field) in a
/// segment of `file_len` bytes whose last [`TAIL_SIZE`] bytes are `tail`.
pub fn locate(file_len: u64, tail: &[u8; TAIL_SIZE]) -> Result<Range<u64>, Error> {
    let (length, _) = tail.split_first_chunk().expect("the tail is longer than the length field");
    let length = u64::from_be_bytes(*length);
    let first = Header::SIZE as u64 + END_MARKER_SIZE as u64;
    let end = file_len.checked_sub(TAIL_SIZE as u64).ok_or(Error::Truncated { part: "index" })?;
    let start = end.checked_sub(length).filter(|start| *start >= first && length > 0);
    start.map(|start| start..end).ok_or(Error::Index { reason: "has a length that does not fit the segment" })
}

/// Reads a whole list that begins at `start` in its segment.
pub fn parse(bytes: &[u8], header: &Header, start: u64) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    let mut parser = Parser::new(header, start);
    parser.push(bytes, |entry| entries.push(entry))?;
    parser.finish()?;
    Ok(entries)
}

/// Reads a list piece by piece, holding none of it. Every entry it passes on
/// obeys the numbering rules of the segment and touches its neighbours.
#[derive(Debug)]
pub struct Parser {
    numbering: Numbering,
    start: u64,
    max_frame: u64,
    /// Where the next frame must begin.
    offset: u64,
    fields: [u64; 3],
    field: usize,
    shift: u32,
    done: bool,
}

impl Parser {
    /// For the list at `start` in the segment with this header.
    pub fn new(header: &Header, start: u64) -> Self {
        Self {
            numbering: Numbering::of(header),
            start,
            max_frame: max_frame_size(header.page_size),
            offset: Header::SIZE as u64,
            fields: [0; 3],
            field: 0,
            shift: 0,
            done: false,
        }
    }

    /// Takes the next bytes of the list, of any number.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Entry)) -> Result<(), Error> {
        for &byte in bytes {
            if self.done {
                return Err(Error::Index { reason: "goes on after its end" });
            }
            if !self.take(byte)? {
                continue;
            }
            if self.field == 0 && self.fields[0] == 0 {
                self.done = true;
                continue;
            }
            self.field += 1;
            if self.field == self.fields.len() {
                each(self.entry()?);
                self.field = 0;
                self.fields = [0; 3];
            }
        }
        Ok(())
    }

    /// Checks that the list ended where it should.
    pub fn finish(&self) -> Result<(), Error> {
        if !self.done {
            return Err(Error::Truncated { part: "index" });
        }
        if self.offset.checked_add(END_MARKER_SIZE as u64) != Some(self.start) {
            return Err(Error::Index { reason: "does not cover all pages" });
        }
        self.numbering.finish()
    }

    /// Adds a byte to the current number; true if that completed it.
    fn take(&mut self, byte: u8) -> Result<bool, Error> {
        let bits = u64::from(byte & 0x7f);
        // No writer pads numbers, and the tenth byte has room for one bit.
        if (self.shift == 63 && bits > 1) || self.shift > 63 || (self.shift > 0 && byte == 0) {
            return Err(Error::Index { reason: "holds a malformed number" });
        }
        self.fields[self.field] |= bits << self.shift;
        self.shift += 7;
        if byte & 0x80 == 0 {
            self.shift = 0;
        }
        Ok(self.shift == 0)
    }

    fn entry(&mut self) -> Result<Entry, Error> {
        let [number, offset, size] = self.fields;
        let pgno = u32::try_from(number).ok().and_then(Pgno::new);
        let pgno = pgno.ok_or(Error::Index { reason: "names a page that cannot exist" })?;
        self.numbering.push(pgno)?;
        if offset != self.offset || !(MIN_FRAME_SIZE..=self.max_frame).contains(&size) {
            return Err(Error::Index { reason: "puts a page where it cannot be" });
        }
        self.offset = offset.checked_add(size).ok_or(Error::Index { reason: "puts a page where it cannot be" })?;
        Ok(Entry { pgno, offset, size })
    }
}

/// The list of a segment being written, kept as number and size differences:
/// about three bytes a page.
#[derive(Debug, Default)]
pub(super) struct Builder {
    compact: Vec<u8>,
    last: u32,
}

impl Builder {
    pub(super) fn push(&mut self, pgno: Pgno, size: u64) {
        push_uvarint(&mut self.compact, u64::from(pgno.get() - self.last));
        push_uvarint(&mut self.compact, size);
        self.last = pgno.get();
    }

    /// Writes the list and its length field.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut list = Unrolled::default();
        let mut compact = self.compact.iter();
        let mut length = 0;
        let mut pgno = 0;
        while let (Some(step), Some(size)) = (next_uvarint(&mut compact), next_uvarint(&mut compact)) {
            pgno += step;
            list.push(pgno, size);
            if list.bytes.len() >= CHUNK {
                length += list.bytes.len() as u64;
                out.write_all(&list.bytes)?;
                list.bytes.clear();
            }
        }
        list.bytes.push(0);
        length += list.bytes.len() as u64;
        list.bytes.extend_from_slice(&length.to_be_bytes());
        out.write_all(&list.bytes)
    }
}

/// The list that the frames read so far should have, as a checksum and a length.
#[derive(Debug)]
pub(super) struct Expected {
    list: Unrolled,
    length: u64,
    digest: crc_fast::Digest,
}

impl Expected {
    pub(super) fn new(digest: crc_fast::Digest) -> Self {
        Self { list: Unrolled::default(), length: 0, digest }
    }

    pub(super) fn push(&mut self, pgno: Pgno, size: u64) {
        self.list.push(u64::from(pgno.get()), size);
        // Fed in larger pieces because the CRC is slow on tiny ones.
        if self.list.bytes.len() >= CHUNK {
            self.flush();
        }
    }

    /// The length of the list with its terminator, and its CRC.
    pub(super) fn finish(mut self) -> (u64, u64) {
        self.list.bytes.push(0);
        self.flush();
        (self.length, self.digest.finalize())
    }

    fn flush(&mut self) {
        self.length += self.list.bytes.len() as u64;
        self.digest.update(&self.list.bytes);
        self.list.bytes.clear();
    }
}

/// How many bytes of a list are handled at a time.
pub(super) const CHUNK: usize = 4096;

/// Turns page numbers and frame sizes into entries as stored.
#[derive(Debug)]
struct Unrolled {
    bytes: Vec<u8>,
    offset: u64,
}

impl Default for Unrolled {
    fn default() -> Self {
        Self { bytes: Vec::new(), offset: Header::SIZE as u64 }
    }
}

impl Unrolled {
    fn push(&mut self, pgno: u64, size: u64) {
        push_uvarint(&mut self.bytes, pgno);
        push_uvarint(&mut self.bytes, self.offset);
        push_uvarint(&mut self.bytes, size);
        self.offset += size;
    }
}

fn push_uvarint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Reads a number that [`push_uvarint`] wrote.
fn next_uvarint<'a>(bytes: &mut impl Iterator<Item = &'a u8>) -> Option<u64> {
    let mut value = 0;
    let mut shift = 0;
    loop {
        let byte = *bytes.next()?;
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
}
