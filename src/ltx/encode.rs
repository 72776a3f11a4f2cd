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

#[cfg(test)]
mod tests {
    use super::super::forge::{header, page, pgno, proof, range};
    use super::*;

    fn encoder(header: Header) -> Encoder<Vec<u8>> {
        Encoder::new(Vec::new(), header, Encoding::Block).unwrap()
    }

    #[test]
    fn a_header_that_breaks_a_rule_is_not_written() {
        for header in [
            header(range(2, 2), 0),
            header(range(2, u64::MAX), 1),
            Header { proof: proof(Some(1), 2), ..header(range(1, 1), 1) },
        ] {
            let mut out = Vec::new();
            assert!(matches!(Encoder::new(&mut out, header, Encoding::Block), Err(Error::Header { .. })));
            assert!(out.is_empty());
        }
    }

    #[test]
    fn refused_pages_leave_no_trace() {
        let mut with_refusals = encoder(header(range(2, 2), 4));
        let mut without = encoder(header(range(2, 2), 4));
        for encoder in [&mut with_refusals, &mut without] {
            encoder.page(pgno(2), &page(2, 1)).unwrap();
        }
        for (number, length) in [(1, 512), (2, 512), (5, 512), (3, 511), (3, 0), (3, 1024)] {
            assert!(with_refusals.page(pgno(number), &vec![0; length]).is_err(), "page {number} of {length} bytes");
        }
        for encoder in [&mut with_refusals, &mut without] {
            encoder.page(pgno(4), &page(4, 1)).unwrap();
        }
        assert_eq!(with_refusals.finish().unwrap(), without.finish().unwrap());
    }

    #[test]
    fn a_complete_segment_with_a_hole_is_not_finished() {
        let rebase = Header { proof: proof(None, 2), ..header(range(8, 8), 3) };
        for complete in [header(range(1, 1), 3), rebase] {
            let mut encoder = encoder(complete);
            assert!(matches!(encoder.page(pgno(2), &page(2, 1)), Err(Error::Missing { pgno: 1 })));
            encoder.page(pgno(1), &page(1, 1)).unwrap();
            assert!(matches!(encoder.page(pgno(3), &page(3, 1)), Err(Error::Missing { pgno: 2 })));
            encoder.page(pgno(2), &page(2, 1)).unwrap();
            assert!(matches!(encoder.finish(), Err(Error::Missing { pgno: 3 })));
        }
    }

    #[test]
    fn a_writer_that_fails_is_an_error_wherever_it_fails() {
        let whole = {
            let mut encoder = encoder(header(range(2, 2), 4));
            encoder.page(pgno(2), &page(2, 1)).unwrap();
            encoder.finish().unwrap().0
        };
        for room in 0..whole.len() {
            let mut space = vec![0; room];
            let written = || -> Result<(), Error> {
                let mut encoder = Encoder::new(&mut space[..], header(range(2, 2), 4), Encoding::Block)?;
                encoder.page(pgno(2), &page(2, 1))?;
                encoder.finish().map(drop)
            }();
            assert!(matches!(written, Err(Error::Io(_))), "room for {room} bytes");
        }
    }
}
