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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::types::{PageSize, lock_page};

    use super::super::forge::{Forged, Frame, header, page, pgno, proof, range, segment, uvarint};
    use super::super::{Encoder, examples, merge};
    use super::*;

    type Content = (Header, Vec<(u32, Vec<u8>)>);

    fn read(bytes: &[u8]) -> Result<Content, Error> {
        let mut decoder = Decoder::new(bytes)?;
        let mut pages = Vec::new();
        let mut page = Vec::new();
        while let Some(pgno) = decoder.next_page(&mut page)? {
            pages.push((pgno.get(), page.clone()));
        }
        assert!(matches!(decoder.next_page(&mut page), Ok(None)), "the end stays the end");
        let header = *decoder.header();
        decoder.finish()?;
        Ok((header, pages))
    }

    /// Small segments of every kind: foreign, ours, both encodings.
    fn small() -> Vec<Vec<u8>> {
        let delta = Header { proof: proof(Some(3), 4), ..header(range(7, 9), 300) };
        let pages = [(2, page(2, 1)), (5, page(5, 2)), (300, page(300, 3))];
        let mut files: Vec<_> = examples::files().into_iter().map(|(_, file)| file).collect();
        for encoding in [Encoding::Block, Encoding::Frame] {
            files.push(segment(delta, &pages, encoding));
            files.push(segment(header(range(4, 4), 9), &[], encoding));
        }
        files
    }

    #[test]
    fn every_truncation_is_refused() {
        for file in small() {
            read(&file).unwrap();
            for length in 0..file.len() {
                let error = read(&file[..length]).unwrap_err();
                assert!(matches!(error, Error::Truncated { .. }), "{length} of {} bytes: {error}", file.len());
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_refused_or_harmless() {
        let mut harmless = 0;
        for file in small() {
            let original = read(&file).unwrap();
            for bit in 0..file.len() * 8 {
                let mut file = file.clone();
                file[bit / 8] ^= 1 << (bit % 8);
                if let Ok(content) = read(&file) {
                    // The file checksum does not cover compressed bytes: a match
                    // distance inside a run may change and give the same page.
                    assert_eq!(content, original, "bit {bit}");
                    harmless += 1;
                }
            }
        }
        assert!(harmless < 100, "{harmless} flips went unnoticed");
    }

    #[test]
    fn bytes_after_the_end_are_refused() {
        for mut file in small() {
            file.push(0);
            assert!(matches!(read(&file), Err(Error::Trailer { .. })));
        }
    }

    #[test]
    fn a_failed_decoder_stays_failed() {
        let [(_, mut file), _] = examples::files();
        let last = file.len() - 1;
        file[last] ^= 1;
        let mut decoder = Decoder::new(&file[..]).unwrap();
        let mut page = Vec::new();
        while let Ok(found) = decoder.next_page(&mut page) {
            assert!(found.is_some(), "accepted");
        }
        assert!(matches!(decoder.next_page(&mut page), Err(Error::AlreadyFailed)));
        assert!(matches!(decoder.finish(), Err(Error::AlreadyFailed)));
    }

    #[test]
    fn a_failed_transfer_is_not_damage() {
        struct Unplugged;
        impl Read for Unplugged {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::ConnectionReset.into())
            }
        }
        let [(_, file), _] = examples::files();
        for length in 0..file.len() {
            let mut decoder = match Decoder::new(file[..length].chain(Unplugged)) {
                Ok(decoder) => decoder,
                Err(error) => {
                    assert!(matches!(error, Error::Io(_)) && !error.is_damage());
                    continue;
                }
            };
            let mut page = Vec::new();
            let error = loop {
                match decoder.next_page(&mut page) {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("ended after {length} bytes"),
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, Error::Io(_)), "{length}: {error}");
        }
    }

    #[test]
    fn forged_segments_are_read_while_they_keep_the_rules() {
        let header = header(range(2, 2), 9);
        let forged = Forged::new(&header, vec![Frame::block(3, &page(3, 1)), Frame::block(9, &page(9, 1))]);
        assert_eq!(read(&forged.bytes()).unwrap(), (header, vec![(3, page(3, 1)), (9, page(9, 1))]));
    }

    #[test]
    fn page_numbers_that_break_the_rules_are_refused_although_the_checksum_is_right() {
        let forged = |header: &Header, numbers: &[u32]| {
            let frames = numbers.iter().map(|n| Frame::block(*n, &page(*n, 1))).collect();
            read(&Forged::new(header, frames).bytes())
        };
        let delta = header(range(2, 2), 4);
        for numbers in [&[2, 1][..], &[2, 2], &[5], &[4, 5]] {
            assert!(matches!(forged(&delta, numbers), Err(Error::Page { .. })), "{numbers:?}");
        }
        let rebase = Header { proof: proof(None, 1), ..delta };
        for complete in [header(range(1, 1), 4), header(range(1, 8), 4), rebase] {
            assert!(forged(&complete, &[1, 2, 3, 4]).is_ok());
            for (numbers, missing) in [(&[2, 3, 4][..], 1), (&[1, 2, 4], 3), (&[1, 2, 3], 4), (&[], 1)] {
                let error = forged(&complete, numbers).unwrap_err();
                assert!(matches!(error, Error::Missing { pgno } if pgno == missing), "{numbers:?}: {error}");
            }
        }
        let lock = lock_page(delta.page_size).get();
        let huge = header(range(2, 2), lock + 1);
        assert!(forged(&huge, &[lock - 1, lock + 1]).is_ok());
        assert!(matches!(forged(&huge, &[lock - 1, lock, lock + 1]), Err(Error::Page { .. })));
    }

    #[test]
    fn an_index_that_disagrees_with_the_pages_is_refused_although_the_checksum_is_right() {
        let sound = || Forged::new(&header(range(2, 2), 9), vec![Frame::block(3, &page(3, 1))]);
        let size = sound().frames[0].start.len() + sound().frames[0].payload.len();
        let list = |entries: &[[u64; 3]]| {
            let mut list: Vec<u8> = entries.iter().flatten().flat_map(|number| uvarint(*number)).collect();
            list.push(0);
            list
        };
        let entry = [3, 100, size as u64];
        assert_eq!(sound().index, list(&[entry]));
        for (what, index) in [
            ("empty", list(&[])),
            ("twice", list(&[entry, entry])),
            ("other page", list(&[[4, 100, size as u64]])),
            ("other offset", list(&[[3, 101, size as u64]])),
            ("other size", list(&[[3, 100, size as u64 + 1]])),
            ("padded number", [&[0x83, 0][..], &sound().index[1..]].concat()),
        ] {
            let forged = Forged { index_length: index.len() as u64, index, ..sound() };
            assert!(read(&forged.bytes()).unwrap_err().is_damage(), "{what}");
        }
        for index_length in [0, sound().index_length + 1, u64::MAX] {
            let forged = Forged { index_length, ..sound() };
            assert!(matches!(read(&forged.bytes()), Err(Error::Index { .. })), "length {index_length}");
        }
    }

    #[test]
    fn page_headers_and_trailers_that_break_the_rules_are_refused_although_the_checksum_is_right() {
        let sound = || Forged::new(&header(range(2, 2), 9), vec![Frame::block(3, &page(3, 1))]);
        let unknown_flag = |flags: [u8; 2]| {
            let mut forged = sound();
            forged.frames[0].start[4..6].copy_from_slice(&flags);
            forged.bytes()
        };
        for flags in [[0, 2], [0, 3], [0x80, 1]] {
            assert!(matches!(read(&unknown_flag(flags)), Err(Error::Page { .. })));
        }
        assert!(matches!(read(&unknown_flag([4, 0x22])), Err(Error::Unsupported { .. })));
        let mut page_0 = sound();
        page_0.frames[0].start[3] = 0;
        assert!(matches!(read(&page_0.bytes()), Err(Error::Page { pgno: 0, .. })));
        let post_apply = Forged { post_apply: 1 << 63, ..sound() };
        assert!(matches!(read(&post_apply.bytes()), Err(Error::Trailer { .. })));
    }

    /// F22.
    #[test]
    fn a_database_of_more_than_a_gibibyte_hops_over_the_lock_page() {
        let page_size = PageSize::new(65536).unwrap();
        let lock = lock_page(page_size).get();
        let page = vec![0; page_size.bytes()];
        for commit in [lock, lock + 1] {
            let header = Header { page_size, ..header(range(1, 1), commit) };
            let mut encoder = Encoder::new(Vec::new(), header, Encoding::Block).unwrap();
            for number in (1..=commit).filter(|number| *number != lock) {
                encoder.page(pgno(number), &page).unwrap();
            }
            let (file, finished) = encoder.finish().unwrap();
            assert_eq!(finished.pages, u64::from(commit) - 1);
            Decoder::new(&file[..]).unwrap().finish().unwrap();
        }
    }

    fn content() -> impl Strategy<Value = (PageSize, Encoding, u64, Vec<(u32, Vec<u8>)>)> {
        let sizes: Vec<PageSize> = PageSize::all().collect();
        let encoding = prop_oneof![Just(Encoding::Block), Just(Encoding::Frame)];
        (prop::sample::select(sizes), encoding, 1..3u64).prop_flat_map(|(size, encoding, min)| {
            let page = (any::<u64>(), 0..=size.bytes()).prop_map(move |(seed, noisy)| noise(seed, noisy, size));
            let pages = prop::collection::btree_map(1..200u32, page, 0..8).prop_map(move |pages| {
                // A segment from TXID 1 may have no hole.
                (1..).zip(pages).map(|(i, (n, page))| (if min == 1 { i } else { n }, page)).collect()
            });
            (Just(size), Just(encoding), Just(min), pages)
        })
    }

    /// A page that begins with `noisy` bytes no compressor can do anything with.
    fn noise(mut seed: u64, noisy: usize, size: PageSize) -> Vec<u8> {
        let mut page = vec![0x11; size.bytes()];
        for byte in &mut page[..noisy] {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = seed.to_be_bytes()[0];
        }
        page
    }

    proptest! {
        #[test]
        fn what_is_written_is_read((page_size, encoding, min, pages) in content(), extra in 0..3u32) {
            let last = pages.last().map_or(1, |(number, _)| *number);
            let commit = if min == 1 { last } else { last + extra };
            prop_assume!(min > 1 || !pages.is_empty());
            let header = Header { page_size, ..header(range(min, 5), commit) };
            let file = segment(header, &pages, encoding);
            prop_assert_eq!(read(&file).unwrap(), (header, pages.clone()));
            // Through the other encoding and back.
            for other in [Encoding::Block, Encoding::Frame] {
                let input = Decoder::new(&file[..]).unwrap();
                let (copy, _) = merge(vec![input], Vec::new(), header.txids, other).unwrap();
                prop_assert_eq!(&read(&copy).unwrap().1, &pages);
                prop_assert!(other != encoding || copy == file);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = read(&bytes);
            let _ = read(&[&header(range(2, 2), 9).encode()[..], &bytes].concat());
        }

        #[test]
        fn no_mutation_makes_it_panic_or_lie(
            which in any::<prop::sample::Index>(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
            insert in prop::collection::vec(any::<u8>(), 0..5),
        ) {
            let files = small();
            let mut file = which.get(&files).clone();
            let original = read(&file).unwrap();
            for (at, byte) in edits {
                let at = at.index(file.len());
                file[at] = byte;
            }
            let cut = cut.index(file.len());
            file.splice(cut..cut, insert);
            if let Ok(content) = read(&file) {
                prop_assert_eq!(content, original);
            }
        }
    }
}
