//! One page as stored: compressed to a raw LZ4 block, or to a whole LZ4 frame.
//!
//! Always true: whatever the bytes, reading one page takes no more memory than
//! [`max_frame_size`], reads nothing after the payload, and gives exactly one
//! page or an error.
//!
//! The LZ4 frame is handled here, not by the library, because its reader
//! neither tells where a frame ends nor stops there when more bytes follow.
//! <https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md>

use std::io::Read;

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use twox_hash::XxHash32;

use crate::types::{PageSize, Pgno};

use super::{Error, FRAME_SIZE_FIELD, PAGE_HEADER_SIZE};

/// How the pages of a segment are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// A raw LZ4 block with its size before it: Litestream 0.5.16 and later.
    Block,
    /// A whole LZ4 frame: every Litestream 0.5 can read it.
    Frame,
}

/// Page flag: a size field and a raw LZ4 block follow.
const BLOCK_FLAG: u16 = 1;
/// Start of the LZ4 frames we write: magic, independent blocks, content
/// checksum, 64 KiB blocks, header checksum. Litestream 0.5.16 and later
/// refuse frames without the content checksum.
const LZ4_FRAME_START: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0xa7];
const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// Bit of an LZ4 block length: the block is stored, not compressed.
const STORED: u32 = 1 << 31;
/// Everything around the data in the largest LZ4 frame we read: magic 4,
/// descriptor 11, block length 4, block checksum 4, end mark 4, content checksum 4.
const LZ4_FRAME_OVERHEAD: usize = 31;

/// The smallest possible frame of a page: its header and one byte.
pub(super) const MIN_FRAME_SIZE: u64 = PAGE_HEADER_SIZE as u64 + 1;

/// The largest possible frame of one page, page header and all.
pub fn max_frame_size(page_size: PageSize) -> u64 {
    (PAGE_HEADER_SIZE + LZ4_FRAME_OVERHEAD + max_block(page_size)) as u64
}

/// The longest block LZ4 makes of a page: all literals.
fn max_block(page_size: PageSize) -> usize {
    let bytes = page_size.bytes();
    bytes + bytes / 255 + 16
}

/// The start of a frame: which page, and how it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageHeader {
    pub(super) pgno: Pgno,
    pub(super) encoding: Encoding,
}

impl PageHeader {
    pub(super) fn encode(self) -> [u8; PAGE_HEADER_SIZE] {
        let flags: u16 = match self.encoding {
            Encoding::Block => BLOCK_FLAG,
            Encoding::Frame => 0,
        };
        let mut bytes = [0; PAGE_HEADER_SIZE];
        bytes[..4].copy_from_slice(&self.pgno.get().to_be_bytes());
        bytes[4..].copy_from_slice(&flags.to_be_bytes());
        bytes
    }

    /// `None` for the end marker.
    pub(super) fn decode(bytes: [u8; PAGE_HEADER_SIZE]) -> Result<Option<Self>, Error> {
        let [a, b, c, d, e, f] = bytes;
        let pgno = u32::from_be_bytes([a, b, c, d]);
        let encoding = match u16::from_be_bytes([e, f]) {
            BLOCK_FLAG => Encoding::Block,
            0 => Encoding::Frame,
            0x0422 => return Err(Error::Unsupported { what: "pages as before Litestream 0.5.0" }),
            _ => return Err(Error::Page { pgno, reason: "has unknown flags" }),
        };
        match (Pgno::new(pgno), encoding) {
            (Some(pgno), encoding) => Ok(Some(Self { pgno, encoding })),
            (None, Encoding::Frame) => Ok(None),
            (None, Encoding::Block) => Err(Error::Page { pgno, reason: "cannot exist" }),
        }
    }
}

/// Compresses pages, with one table and one buffer for all of them.
pub(super) struct Packer {
    page_size: PageSize,
    encoding: Encoding,
    table: CompressTable,
    out: Vec<u8>,
}

impl Packer {
    pub(super) fn new(page_size: PageSize, encoding: Encoding) -> Self {
        let table = if page_size.get() < 65536 { CompressTable::small() } else { CompressTable::large() };
        let room = LZ4_FRAME_OVERHEAD + get_maximum_output_size(page_size.bytes());
        Self { page_size, encoding, table, out: vec![0; room] }
    }

    /// The payload of a page: what follows its header and size field.
    pub(super) fn pack(&mut self, page: &[u8]) -> &[u8] {
        debug_assert_eq!(page.len(), self.page_size.bytes());
        match self.encoding {
            Encoding::Block => {
                let size = compress(page, &mut self.out, &mut self.table);
                &self.out[..size]
            }
            Encoding::Frame => self.pack_frame(page),
        }
    }

    fn pack_frame(&mut self, page: &[u8]) -> &[u8] {
        let data = LZ4_FRAME_START.len() + 4;
        let mut size = compress(page, &mut self.out[data..], &mut self.table);
        let mut length = u32::try_from(size).expect("a page has at most 64 KiB");
        if size >= page.len() {
            size = page.len();
            length = self.page_size.get() | STORED;
            self.out[data..data + size].copy_from_slice(page);
        }
        self.out[..LZ4_FRAME_START.len()].copy_from_slice(&LZ4_FRAME_START);
        self.out[data - 4..data].copy_from_slice(&length.to_le_bytes());
        let end = data + size;
        self.out[end..end + 4].fill(0);
        self.out[end + 4..end + 8].copy_from_slice(&XxHash32::oneshot(0, page).to_le_bytes());
        &self.out[..end + 8]
    }
}

fn compress(page: &[u8], out: &mut [u8], table: &mut CompressTable) -> usize {
    compress_into_with_table(page, out, table).expect("the buffer has room for the worst case")
}

/// A payload as read, kept so that it can be copied into another segment.
#[derive(Debug, Default)]
pub(super) struct Stored {
    bytes: Vec<u8>,
    /// Whether these are bytes our own encoder could have written.
    canonical: bool,
}

impl Stored {
    /// The payload, if every official reader accepts it as it is.
    pub(super) fn canonical(&self) -> Option<&[u8]> {
        self.canonical.then_some(&self.bytes)
    }

    /// Reads the payload of one page from `input` and unpacks it into `page`.
    /// Gives the size field, if this encoding has one, and the payload's size.
    pub(super) fn read(
        &mut self,
        header: PageHeader,
        page_size: PageSize,
        input: &mut impl Read,
        page: &mut [u8],
    ) -> Result<(Option<[u8; FRAME_SIZE_FIELD]>, u64), Error> {
        self.bytes.clear();
        let mut source = Source { input, bytes: &mut self.bytes, pgno: header.pgno.get() };
        let field = match header.encoding {
            Encoding::Block => {
                let field = source.array::<FRAME_SIZE_FIELD>()?;
                source.bytes.clear();
                let size = source.bounded(u32::from_be_bytes(field), max_block(page_size))?;
                let at = source.take(size)?;
                unpack_block(&source.bytes[at..], page).map_err(|reason| source.wrong(reason))?;
                self.canonical = true;
                Some(field)
            }
            Encoding::Frame => {
                self.canonical = read_lz4_frame(&mut source, page_size, page)?;
                None
            }
        };
        Ok((field, self.bytes.len() as u64))
    }
}

/// Reads one LZ4 frame of one data block. True if it begins as ours do.
fn read_lz4_frame(source: &mut Source<'_, impl Read>, page_size: PageSize, page: &mut [u8]) -> Result<bool, Error> {
    let [a, b, c, d, flags, sizes] = source.array()?;
    if [a, b, c, d] != LZ4_MAGIC {
        return Err(source.wrong("does not begin as an LZ4 frame"));
    }
    let bit = |n: u8| flags & (1 << n) != 0;
    // Version 01; no reserved bit; no dictionary. Whether blocks are linked does not matter to one block.
    if flags >> 6 != 1 || bit(1) || bit(0) || sizes & 0x8f != 0 || sizes >> 4 < 4 {
        return Err(source.wrong("has an LZ4 frame of an unknown kind"));
    }
    if bit(3) && u64::from_le_bytes(source.array()?) != u64::from(page_size.get()) {
        return Err(source.wrong("does not have the size of a page"));
    }
    let descriptor = XxHash32::oneshot(0, &source.bytes[4..]);
    if source.array::<1>()?[0] != descriptor.to_le_bytes()[1] {
        return Err(source.wrong("has an LZ4 frame with a damaged header"));
    }
    let canonical = source.bytes[..] == LZ4_FRAME_START;

    let length = u32::from_le_bytes(source.array()?);
    let stored = length & STORED != 0;
    let limit = if stored { page_size.bytes() } else { max_block(page_size) };
    let size = source.bounded(length & !STORED, limit)?;
    let at = source.take(size)?;
    let block = &source.bytes[at..];
    let block_sum = XxHash32::oneshot(0, block);
    if !stored {
        unpack_block(block, page).map_err(|reason| source.wrong(reason))?;
    } else if block.len() == page.len() {
        page.copy_from_slice(block);
    } else {
        return Err(source.wrong("does not have the size of a page"));
    }
    if bit(4) && u32::from_le_bytes(source.array()?) != block_sum {
        return Err(source.wrong("has an LZ4 block with a wrong checksum"));
    }
    if source.array::<4>()? != [0; 4] {
        return Err(source.wrong("has an LZ4 frame that does not end after one page"));
    }
    if bit(2) && u32::from_le_bytes(source.array()?) != XxHash32::oneshot(0, page) {
        return Err(source.wrong("has an LZ4 frame with a wrong checksum"));
    }
    Ok(canonical)
}

fn unpack_block(block: &[u8], page: &mut [u8]) -> Result<(), &'static str> {
    match decompress_into(block, page) {
        Ok(size) if size == page.len() => Ok(()),
        Ok(_) => Err("does not have the size of a page"),
        Err(_) => Err("cannot be decompressed"),
    }
}

/// The bytes of one payload: keeps what it reads, and knows whom to blame.
struct Source<'a, R> {
    input: &'a mut R,
    bytes: &'a mut Vec<u8>,
    pgno: u32,
}

impl<R: Read> Source<'_, R> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        self.input.read_exact(&mut array).map_err(|error| Error::reading(error, "pages"))?;
        self.bytes.extend_from_slice(&array);
        Ok(array)
    }

    /// Reads `size` bytes, which the caller has checked; gives where they begin.
    fn take(&mut self, size: usize) -> Result<usize, Error> {
        let at = self.bytes.len();
        self.bytes.resize(at + size, 0);
        self.input.read_exact(&mut self.bytes[at..]).map_err(|error| Error::reading(error, "pages"))?;
        Ok(at)
    }

    fn bounded(&self, size: u32, limit: usize) -> Result<usize, Error> {
        usize::try_from(size)
            .ok()
            .filter(|size| (1..=limit).contains(size))
            .ok_or_else(|| self.wrong("claims a size no compressed page has"))
    }

    fn wrong(&self, reason: &'static str) -> Error {
        Error::Page { pgno: self.pgno, reason }
    }
}

/// Unpacks one frame that stands alone, in either encoding: what a page index
/// entry points to. Resizes `out` to the page.
pub fn decode_frame(bytes: &[u8], page_size: PageSize, out: &mut Vec<u8>) -> Result<Pgno, Error> {
    let (header, mut rest) = bytes.split_first_chunk::<PAGE_HEADER_SIZE>().ok_or(Error::Truncated { part: "pages" })?;
    let header =
        PageHeader::decode(*header)?.ok_or(Error::Page { pgno: 0, reason: "is the end marker, not a page" })?;
    out.resize(page_size.bytes(), 0);
    Stored::default().read(header, page_size, &mut rest, out)?;
    if !rest.is_empty() {
        return Err(Error::Page { pgno: header.pgno.get(), reason: "is followed by other bytes" });
    }
    Ok(header.pgno)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

    use super::super::forge::{Frame, page, pgno};
    use super::*;

    fn size_512() -> PageSize {
        PageSize::new(512).unwrap()
    }

    /// What the library's own encoder makes of a page.
    fn by_library(page: &[u8], info: FrameInfo) -> Vec<u8> {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(page).unwrap();
        encoder.finish().unwrap()
    }

    fn official() -> FrameInfo {
        FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent).content_checksum(true)
    }

    fn noise(size: PageSize) -> Vec<u8> {
        let mut seed = 1u64;
        std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed.to_be_bytes()[0]
        })
        .take(size.bytes())
        .collect()
    }

    fn unpack(frame: &Frame) -> Result<Pgno, Error> {
        let mut out = Vec::new();
        let pgno = decode_frame(&[&frame.start[..], &frame.payload].concat(), size_512(), &mut out)?;
        assert_eq!(out, frame.page);
        Ok(pgno)
    }

    #[test]
    fn pages_of_every_size_and_kind_pack_within_the_bound() {
        for size in PageSize::all() {
            for page in [vec![0; size.bytes()], noise(size)] {
                let block = Packer::new(size, Encoding::Block).pack(&page).to_vec();
                assert!(block.len() <= max_block(size), "{} bytes from {size}", block.len());
                let frame = Packer::new(size, Encoding::Frame).pack(&page).to_vec();
                assert!(6 + frame.len() as u64 <= max_frame_size(size));
                let mut unpacked = Vec::new();
                FrameDecoder::new(&frame[..]).read_to_end(&mut unpacked).unwrap();
                assert!(unpacked == page, "the library reads our frames");
            }
        }
    }

    #[test]
    fn a_packer_forgets_the_page_before() {
        let size = size_512();
        for encoding in [Encoding::Block, Encoding::Frame] {
            let mut used = Packer::new(size, encoding);
            used.pack(&noise(size));
            assert_eq!(used.pack(&page(1, 1)), Packer::new(size, encoding).pack(&page(1, 1)));
        }
    }

    #[test]
    fn frames_of_the_official_shape_are_copied_and_other_shapes_only_read() {
        for (info, canonical) in [
            (official(), true),
            (official().block_mode(BlockMode::Linked), false),
            (official().content_size(Some(512)), false),
            (official().content_checksum(false), false),
            (official().block_checksums(true), false),
            (official().block_size(BlockSize::Max4MB), false),
            (official().block_checksums(true).content_size(Some(512)).content_checksum(false), false),
        ] {
            for page in [page(1, 1), noise(size_512())] {
                let payload = by_library(&page, info.clone());
                assert_eq!(unpack(&Frame::lz4_frame(7, &page, payload.clone())).unwrap(), pgno(7));
                let mut stored = Stored::default();
                let mut out = vec![0; 512];
                let mut input = payload.chain(&b"next"[..]);
                let header = PageHeader { pgno: pgno(7), encoding: Encoding::Frame };
                stored.read(header, size_512(), &mut input, &mut out).unwrap();
                assert_eq!(stored.canonical().is_some(), canonical, "{info:?}");
                let mut rest = Vec::new();
                input.read_to_end(&mut rest).unwrap();
                assert_eq!(rest, b"next", "nothing after the frame was touched");
            }
        }
    }

    #[test]
    fn frames_of_kinds_we_do_not_know_are_refused_although_their_header_is_sound() {
        let spoiled = |flags: u8, sizes: u8| {
            let page = page(1, 1);
            let mut payload = by_library(&page, official());
            payload[4] ^= flags;
            payload[5] ^= sizes;
            payload[6] = XxHash32::oneshot(0, &payload[4..6]).to_le_bytes()[1];
            unpack(&Frame::lz4_frame(1, &page, payload))
        };
        assert!(spoiled(0, 0).is_ok());
        for (what, flags, sizes) in [
            ("dictionary", 0x01, 0),
            ("reserved flag", 0x02, 0),
            ("version 0", 0x40, 0),
            ("version 3", 0x80, 0),
            ("reserved sizes, low", 0, 0x01),
            ("reserved sizes, high", 0, 0x80),
            ("blocks below 64 KiB", 0, 0x70),
        ] {
            assert!(matches!(spoiled(flags, sizes), Err(Error::Page { pgno: 1, .. })), "{what}");
        }
    }

    #[test]
    fn payloads_of_any_other_length_than_a_page_are_refused() {
        for length in [0, 1, 511, 513, 1024] {
            let short = vec![1; length];
            let block = Frame::block(1, &short);
            assert!(matches!(unpack(&block), Err(Error::Page { pgno: 1, .. })), "block of {length}");
            for page in [short, noise(PageSize::new(1024).unwrap())[..length].to_vec()] {
                let frame = Frame::lz4_frame(1, &page, by_library(&page, official()));
                assert!(matches!(unpack(&frame), Err(Error::Page { pgno: 1, .. })), "frame of {length}");
            }
            let sized = official().content_size(Some(length as u64));
            let frame = Frame::lz4_frame(1, &[], by_library(&vec![1; length], sized));
            assert!(matches!(unpack(&frame), Err(Error::Page { pgno: 1, .. })), "sized frame of {length}");
        }
    }

    #[test]
    fn a_size_field_above_the_bound_is_refused_before_memory_is_taken() {
        let mut block = Frame::block(1, &page(1, 1));
        for size in [0, max_block(size_512()) + 1, u32::MAX as usize] {
            block.start[6..].copy_from_slice(&u32::try_from(size).unwrap().to_be_bytes());
            assert!(matches!(unpack(&block), Err(Error::Page { pgno: 1, .. })), "{size}");
        }
        let mut frame = Frame::lz4_frame(1, &page(1, 1), by_library(&page(1, 1), official()));
        for size in [0, STORED, STORED | 513, u32::try_from(max_block(size_512())).unwrap() + 1, u32::MAX] {
            frame.payload[7..11].copy_from_slice(&size.to_le_bytes());
            assert!(matches!(unpack(&frame), Err(Error::Page { pgno: 1, .. })), "{size:x}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_refused_or_harmless() {
        for info in [official(), official().block_checksums(true).content_size(Some(512))] {
            let sound = Frame::lz4_frame(7, &page(1, 1), by_library(&page(1, 1), info));
            for bit in 0..sound.payload.len() * 8 {
                let mut payload = sound.payload.clone();
                payload[bit / 8] ^= 1 << (bit % 8);
                // `unpack` insists on the same page.
                let _ = unpack(&Frame::lz4_frame(7, &sound.page, payload));
            }
        }
    }

    #[test]
    fn a_frame_alone_is_exactly_one_frame() {
        let frame = Frame::block(7, &page(7, 1));
        let bytes = [&frame.start[..], &frame.payload].concat();
        let decode = |bytes: &[u8]| decode_frame(bytes, size_512(), &mut Vec::new());
        assert_eq!(decode(&bytes).unwrap(), pgno(7));
        for length in 0..bytes.len() {
            assert!(matches!(decode(&bytes[..length]), Err(Error::Truncated { .. })), "{length}");
        }
        assert!(matches!(decode(&[&bytes[..], &[0]].concat()), Err(Error::Page { pgno: 7, .. })));
        assert!(matches!(decode(&[0; 6]), Err(Error::Page { pgno: 0, .. })));
    }
}
