//! Reading a segment from start to end.
//!
//! Always true: `next_page` gives `None` only when the whole segment was read
//! and everything agreed: page order, index, trailer, file checksum, and no
//! byte after it. Until then pages are only a claim. No input makes it panic,
//! and none makes it hold more than a page and its payload.

use std::io::{BufReader, Read};

use crate::types::{Checksum, Pgno, crc64_iso};

use super::index::{CHUNK, Expected};
use super::numbering::Numbering;
use super::payload::{PageHeader, Stored};
use super::{Encoding, Error, Header, PAGE_HEADER_SIZE, Trailer};

/// Reads one segment, page by page.
pub struct Decoder<R> {
    input: BufReader<R>,
    header: Header,
    digest: crc_fast::Digest,
    numbering: Numbering,
    index: Option<Expected>,
    encoding: Encoding,
    stored: Stored,
    state: State,
}

/// How far the segment has been read.
enum State {
    Pages,
    Verified(Trailer),
    Failed,
}

/// Enough for many small pages, little enough for many open segments.
const BUFFER: usize = 32 * 1024;

impl<R: Read> Decoder<R> {
    /// Reads the header.
    pub fn new(input: R) -> Result<Self, Error> {
        let mut input = BufReader::with_capacity(BUFFER, input);
        let mut digest = crc64_iso();
        let mut bytes = [0; Header::SIZE];
        read_exact(&mut input, &mut bytes, "header")?;
        digest.update(&bytes);
        let header = Header::decode(&bytes)?;
        Ok(Self {
            input,
            header,
            digest,
            numbering: Numbering::of(&header),
            index: Some(Expected::new(crc64_iso())),
            encoding: Encoding::Block,
            stored: Stored::default(),
            state: State::Pages,
        })
    }

    /// The header; verified only once the last page was read.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Reads the next page into `buf`, which gets the size of a page. `None`
    /// means that there are no more and the segment is sound.
    pub fn next_page(&mut self, buf: &mut Vec<u8>) -> Result<Option<Pgno>, Error> {
        match self.state {
            State::Pages => {}
            State::Verified(_) => return Ok(None),
            State::Failed => return Err(Error::AlreadyFailed),
        }
        self.state = State::Failed;
        let page = self.read_page(buf)?;
        self.state = match page {
            Some(_) => State::Pages,
            None => State::Verified(self.read_end()?),
        };
        Ok(page)
    }

    /// The page read last as it is stored, if it can be copied as it is into
    /// another segment of that encoding.
    pub fn payload(&self) -> Option<(Encoding, &[u8])> {
        Some((self.encoding, self.stored.canonical()?))
    }

    /// Reads whatever is left and verifies the segment.
    pub fn finish(mut self) -> Result<Trailer, Error> {
        let mut page = Vec::new();
        while self.next_page(&mut page)?.is_some() {}
        match self.state {
            State::Verified(trailer) => Ok(trailer),
            State::Pages | State::Failed => Err(Error::AlreadyFailed),
        }
    }

    fn read_page(&mut self, buf: &mut Vec<u8>) -> Result<Option<Pgno>, Error> {
        let mut bytes = [0; PAGE_HEADER_SIZE];
        read_exact(&mut self.input, &mut bytes, "pages")?;
        let Some(header) = PageHeader::decode(bytes)? else {
            self.digest.update(&bytes);
            return Ok(None);
        };
        self.numbering.push(header.pgno)?;
        buf.resize(self.header.page_size.bytes(), 0);
        let (field, payload) = self.stored.read(header, self.header.page_size, &mut self.input, buf)?;
        self.encoding = header.encoding;
        // One update for both, because the CRC is slow on tiny pieces.
        let mut start = [0; PAGE_HEADER_SIZE + 4];
        start[..PAGE_HEADER_SIZE].copy_from_slice(&bytes);
        let start = match field {
            Some(field) => {
                start[PAGE_HEADER_SIZE..].copy_from_slice(&field);
                &start[..]
            }
            None => &start[..PAGE_HEADER_SIZE],
        };
        self.digest.update(start);
        self.digest.update(buf);
        if let Some(index) = &mut self.index {
            index.push(header.pgno, start.len() as u64 + payload);
        }
        Ok(Some(header.pgno))
    }

    /// Everything after the end marker.
    fn read_end(&mut self) -> Result<Trailer, Error> {
        self.numbering.finish()?;
        let (length, list) = self.index.take().ok_or(Error::AlreadyFailed)?.finish();
        let wrong = Error::Index { reason: "disagrees with the pages" };
        if self.read_index(length)? != list {
            return Err(wrong);
        }
        let mut length_field = [0; 8];
        read_exact(&mut self.input, &mut length_field, "index")?;
        self.digest.update(&length_field);
        if u64::from_be_bytes(length_field) != length {
            return Err(wrong);
        }
        let mut bytes = [0; Trailer::SIZE];
        read_exact(&mut self.input, &mut bytes, "trailer")?;
        self.digest.update(&bytes[..8]);
        let trailer = Trailer::decode(&bytes)?;
        let computed = Checksum::from_crc(self.digest.finalize());
        if computed != trailer.file_checksum {
            return Err(Error::FileChecksum { stored: trailer.file_checksum, computed });
        }
        match self.input.read_exact(&mut [0]) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(trailer),
            Err(error) => Err(Error::Io(error)),
            Ok(()) => Err(Error::Trailer { reason: "is followed by other bytes" }),
        }
    }

    /// Reads the list of the index, which must have this length; gives its CRC.
    fn read_index(&mut self, mut length: u64) -> Result<u64, Error> {
        let mut list = crc64_iso();
        let mut chunk = [0; CHUNK];
        while length > 0 {
            let size = usize::try_from(length).map_or(CHUNK, |length| length.min(CHUNK));
            read_exact(&mut self.input, &mut chunk[..size], "index")?;
            list.update(&chunk[..size]);
            self.digest.update(&chunk[..size]);
            length -= size as u64;
        }
        Ok(list.finalize())
    }
}

fn read_exact(input: &mut impl Read, bytes: &mut [u8], part: &'static str) -> Result<(), Error> {
    input.read_exact(bytes).map_err(|error| Error::reading(error, part))
}
