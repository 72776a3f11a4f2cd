//! Writing a segment.
//!
//! Always true: what `finish` returned `Ok` for is a segment that every
//! official reader of its encoding accepts. Before that the bytes written so
//! far are worthless: they have no index and no checksum. The memory used does
//! not grow with the pages, except for about three bytes each for the index.

use std::io::{self, Write};

use crate::types::{Checksum, Pgno, crc64_iso};

use super::index::Builder;
use super::numbering::Numbering;
use super::payload::{Packer, PageHeader};
use super::{END_MARKER_SIZE, Encoding, Error, Header, Trailer};

/// What became of a finished segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its size in bytes.
    pub size: u64,
    /// The checksum in its trailer.
    pub file_checksum: Checksum,
    /// How many pages it holds.
    pub pages: u64,
}

/// Writes one segment, page by page. It writes small pieces: give it a writer
/// that buffers.
pub struct Encoder<W> {
    out: Summed<W>,
    page_size: usize,
    numbering: Numbering,
    index: Builder,
    encoding: Encoding,
    packer: Packer,
    pages: u64,
}

impl<W: Write> Encoder<W> {
    /// Checks the header and writes it.
    pub fn new(out: W, header: Header, encoding: Encoding) -> Result<Self, Error> {
        header.check()?;
        let mut out = Summed { out, digest: crc64_iso(), size: 0 };
        out.write_all(&header.encode()).map_err(Error::Io)?;
        Ok(Self {
            out,
            page_size: header.page_size.bytes(),
            numbering: Numbering::of(&header),
            index: Builder::default(),
            encoding,
            packer: Packer::new(header.page_size, encoding),
            pages: 0,
        })
    }

    /// Adds a page. Numbers ascend; the lock page and pages past the end of the
    /// database are refused, and so is a hole in a complete segment.
    pub fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), Error> {
        self.accept(pgno, page)?;
        let payload = self.packer.pack(page);
        let size = write_frame(&mut self.out, PageHeader { pgno, encoding: self.encoding }, page, payload)?;
        self.index.push(pgno, size);
        Ok(())
    }

    /// Adds a page whose payload was taken from another segment of the same
    /// encoding, so that it need not be compressed again.
    pub(super) fn page_compressed(&mut self, pgno: Pgno, page: &[u8], payload: &[u8]) -> Result<(), Error> {
        self.accept(pgno, page)?;
        let size = write_frame(&mut self.out, PageHeader { pgno, encoding: self.encoding }, page, payload)?;
        self.index.push(pgno, size);
        Ok(())
    }

    /// Writes the index and the trailer. Refused if a complete segment lacks
    /// pages. The writer comes back unflushed.
    pub fn finish(mut self) -> Result<(W, Finished), Error> {
        self.numbering.finish()?;
        self.out.write_all(&[0; END_MARKER_SIZE]).map_err(Error::Io)?;
        self.index.write(&mut self.out).map_err(Error::Io)?;
        // The trailer begins with the official database checksum, which is
        // absent but counts towards the file checksum.
        self.out.digest.update(&[0; 8]);
        let file_checksum = Checksum::from_crc(self.out.digest.finalize());
        self.out.out.write_all(&Trailer { file_checksum }.encode()).map_err(Error::Io)?;
        let size = self.out.size + Trailer::SIZE as u64;
        Ok((self.out.out, Finished { size, file_checksum, pages: self.pages }))
    }

    fn accept(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), Error> {
        if page.len() != self.page_size {
            return Err(Error::Page { pgno: pgno.get(), reason: "does not have the size of a page" });
        }
        self.numbering.push(pgno)?;
        self.pages += 1;
        Ok(())
    }
}

/// Writes one frame and gives its size. The checksum covers the page, not its
/// payload.
fn write_frame<W: Write>(out: &mut Summed<W>, header: PageHeader, page: &[u8], payload: &[u8]) -> Result<u64, Error> {
    let before = out.size;
    let mut start = [0; 10];
    start[..6].copy_from_slice(&header.encode());
    let start = match header.encoding {
        Encoding::Block => {
            let size = u32::try_from(payload.len()).expect("a payload is little more than a page");
            start[6..].copy_from_slice(&size.to_be_bytes());
            &start[..]
        }
        Encoding::Frame => &start[..6],
    };
    out.write_all(start).map_err(Error::Io)?;
    out.digest.update(page);
    out.out.write_all(payload).map_err(Error::Io)?;
    out.size += payload.len() as u64;
    Ok(out.size - before)
}

/// A writer that counts its bytes and adds them to the file checksum.
struct Summed<W> {
    out: W,
    digest: crc_fast::Digest,
    size: u64,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
