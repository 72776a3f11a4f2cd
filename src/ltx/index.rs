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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::types::lock_page;

    use super::super::forge::{Forged, Frame, header, page, pgno, range, segment, uvarint};
    use super::super::{Decoder, Encoding, decode_frame};
    use super::*;

    /// The index of a segment as a reader of ranges finds it.
    fn fetched(file: &[u8]) -> Result<(Range<u64>, Vec<u8>), Error> {
        let tail = file.last_chunk().ok_or(Error::Truncated { part: "index" })?;
        let at = locate(file.len() as u64, tail)?;
        let bytes = &file[usize::try_from(at.start).unwrap()..usize::try_from(at.end).unwrap()];
        Ok((at, bytes.to_vec()))
    }

    fn list(entries: &[[u64; 3]]) -> Vec<u8> {
        let mut list: Vec<u8> = entries.iter().flatten().flat_map(|number| uvarint(*number)).collect();
        list.push(0);
        list
    }

    #[test]
    fn the_smallest_segment_has_an_empty_index() {
        let header = header(range(2, 2), 1);
        let file = segment(header, &[], Encoding::Block);
        assert_eq!(file.len(), 131);
        let (at, bytes) = fetched(&file).unwrap();
        assert_eq!((at.clone(), &bytes[..]), (106..107, &[0][..]));
        assert_eq!(parse(&bytes, &header, at.start).unwrap(), []);
    }

    #[test]
    fn an_index_that_does_not_fit_the_file_is_not_located() {
        let tail = |length: u64| {
            let mut tail = [0; TAIL_SIZE];
            tail[..8].copy_from_slice(&length.to_be_bytes());
            tail
        };
        assert_eq!(locate(131, &tail(1)).unwrap(), 106..107);
        assert_eq!(locate(1000, &tail(870)).unwrap(), 106..976);
        for (file_len, length) in [(131, 0), (131, 2), (1000, 871), (1000, u64::MAX), (130, 1), (23, 1), (0, 1)] {
            assert!(locate(file_len, &tail(length)).unwrap_err().is_damage(), "{length} in {file_len}");
        }
        assert!(locate(u64::MAX, &tail(u64::MAX - 130)).is_ok(), "no overflow at the largest file");
    }

    #[test]
    fn what_is_no_index_of_this_segment_is_refused() {
        let header = header(range(2, 2), 4);
        let parse = |bytes: &[u8], start| parse(bytes, &header, start);
        assert!(parse(&list(&[[1, 100, 20], [4, 120, 30]]), 156).is_ok());
        for (what, bytes, start) in [
            ("no end", vec![], 106),
            ("half an entry", vec![1, 100], 106),
            ("bytes after the end", vec![0, 0], 106),
            ("a gap before the end marker", list(&[[1, 100, 20]]), 127),
            ("a gap after the header", list(&[[1, 101, 20]]), 127),
            ("a gap between pages", list(&[[1, 100, 20], [4, 121, 30]]), 157),
            ("an overlap", list(&[[1, 100, 20], [4, 119, 30]]), 155),
            ("a frame without payload", list(&[[1, 100, 6]]), 112),
            ("a frame larger than any", list(&[[1, 100, 600]]), 706),
            ("a page past the end", list(&[[5, 100, 20]]), 126),
            ("a page number of 33 bits", list(&[[1 << 32, 100, 20]]), 126),
            ("pages out of order", list(&[[2, 100, 20], [1, 120, 20]]), 146),
            ("a page twice", list(&[[2, 100, 20], [2, 120, 20]]), 146),
            ("a padded number", vec![0x81, 0, 100, 20, 0], 126),
            ("a number of eleven bytes", [vec![0xff; 10], vec![1]].concat(), 106),
            // 100, were the 65th bit dropped silently.
            ("a number of 65 bits", [&[1, 0xe4][..], &[0x80; 8], &[2, 20, 0]].concat(), 126),
        ] {
            assert!(parse(&bytes, start).unwrap_err().is_damage(), "{what}");
        }
    }

    #[test]
    fn complete_segments_have_an_index_without_holes_and_none_has_the_lock_page() {
        let complete = header(range(1, 1), 2);
        assert!(parse(&list(&[[1, 100, 20], [2, 120, 20]]), &complete, 146).is_ok());
        assert!(matches!(parse(&list(&[[1, 100, 20]]), &complete, 126), Err(Error::Missing { pgno: 2 })));
        assert!(matches!(parse(&list(&[[2, 100, 20]]), &complete, 126), Err(Error::Missing { pgno: 1 })));
        let lock = lock_page(complete.page_size).get();
        let huge = header(range(2, 2), lock + 1);
        let entry = [u64::from(lock), 100, 20];
        assert!(matches!(parse(&list(&[entry]), &huge, 126), Err(Error::Page { .. })));
    }

    proptest! {
        /// Fetching one page by its index entry equals reading from the start,
        /// however the index arrives.
        #[test]
        fn random_access_equals_reading_in_order(
            numbers in prop::collection::btree_set(1..3000u32, 0..700),
            frames in any::<bool>(),
            chunk in 1..50usize,
        ) {
            let encoding = if frames { Encoding::Frame } else { Encoding::Block };
            let pages: Vec<_> = numbers.iter().map(|n| (*n, page(*n, 7))).collect();
            let header = header(range(2, 2), 3000);
            let file = segment(header, &pages, encoding);
            let (at, bytes) = fetched(&file).unwrap();
            let entries = parse(&bytes, &header, at.start).unwrap();

            let mut parser = Parser::new(&header, at.start);
            let mut streamed = Vec::new();
            for chunk in bytes.chunks(chunk) {
                parser.push(chunk, |entry| streamed.push(entry)).unwrap();
            }
            parser.finish().unwrap();
            prop_assert_eq!(&streamed, &entries);

            let mut decoder = Decoder::new(&file[..]).unwrap();
            let (mut in_order, mut alone) = (Vec::new(), Vec::new());
            for entry in &entries {
                let range = usize::try_from(entry.offset).unwrap()..usize::try_from(entry.offset + entry.size).unwrap();
                let found = decode_frame(&file[range], header.page_size, &mut alone).unwrap();
                prop_assert_eq!(Some(found), decoder.next_page(&mut in_order).unwrap());
                prop_assert_eq!(found, entry.pgno);
                prop_assert_eq!(&alone, &in_order);
            }
            prop_assert_eq!(decoder.next_page(&mut in_order).unwrap(), None);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), start in any::<u64>()) {
            let _ = parse(&bytes, &header(range(2, 2), u32::MAX), start);
        }

        /// The encoder's list is the naive one.
        #[test]
        fn the_list_is_what_a_naive_encoder_writes(numbers in prop::collection::btree_set(1..1000u32, 0..40)) {
            let header = header(range(2, 2), 1000);
            let frames: Vec<_> = numbers.iter().map(|n| Frame::block(*n, &page(*n, 7))).collect();
            let mut builder = Builder::default();
            for (number, frame) in numbers.iter().zip(&frames) {
                builder.push(pgno(*number), (frame.start.len() + frame.payload.len()) as u64);
            }
            let mut written = Vec::new();
            builder.write(&mut written).unwrap();
            let forged = Forged::new(&header, frames);
            prop_assert_eq!(written, [&forged.index[..], &forged.index_length.to_be_bytes()].concat());
        }
    }
}
