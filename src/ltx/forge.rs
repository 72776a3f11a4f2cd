//! A second, naive encoder for tests. It writes whatever it is told, with right
//! checksums, so that each rule can be broken on its own.

use crate::types::{Checksum, Generation, PageSize, Pgno, Timestamp, Txid, TxidRange, crc64_iso};

use super::{Encoder, Encoding, Header, Proof};

/// A segment in the making. Every field may be spoiled before `bytes`.
pub(super) struct Forged {
    pub(super) header: [u8; 100],
    pub(super) frames: Vec<Frame>,
    pub(super) index: Vec<u8>,
    pub(super) index_length: u64,
    pub(super) post_apply: u64,
}

/// One frame: its bytes before the payload, its payload, and what the payload
/// should unpack to.
pub(super) struct Frame {
    pub(super) start: Vec<u8>,
    pub(super) payload: Vec<u8>,
    pub(super) page: Vec<u8>,
}

impl Frame {
    pub(super) fn block(pgno: u32, page: &[u8]) -> Self {
        let payload = lz4_flex::block::compress(page);
        let mut start = pgno.to_be_bytes().to_vec();
        start.extend([0, 1]);
        start.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        Self { start, payload, page: page.to_vec() }
    }

    /// With an LZ4 frame as the payload.
    pub(super) fn lz4_frame(pgno: u32, page: &[u8], payload: Vec<u8>) -> Self {
        let mut start = pgno.to_be_bytes().to_vec();
        start.extend([0, 0]);
        Self { start, payload, page: page.to_vec() }
    }

    fn size(&self) -> u64 {
        (self.start.len() + self.payload.len()) as u64
    }
}

impl Forged {
    /// With the index these frames should have.
    pub(super) fn new(header: &Header, frames: Vec<Frame>) -> Self {
        let mut index = Vec::new();
        let mut offset = 100;
        for frame in &frames {
            let pgno = u32::from_be_bytes(*frame.start.first_chunk().unwrap());
            for number in [u64::from(pgno), offset, frame.size()] {
                index.extend(uvarint(number));
            }
            offset += frame.size();
        }
        index.push(0);
        let index_length = index.len() as u64;
        Self { header: header.encode(), frames, index, index_length, post_apply: 0 }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let (mut file, mut summed) = (self.header.to_vec(), self.header.to_vec());
        for frame in &self.frames {
            file.extend(frame.start.iter().chain(&frame.payload));
            summed.extend(frame.start.iter().chain(&frame.page));
        }
        let mut rest = vec![0; 6];
        rest.extend(&self.index);
        rest.extend(self.index_length.to_be_bytes());
        rest.extend(self.post_apply.to_be_bytes());
        summed.extend(&rest);
        file.extend(&rest);
        let mut digest = crc64_iso();
        digest.update(&summed);
        file.extend(Checksum::from_crc(digest.finalize()).get().to_be_bytes());
        file
    }
}

pub(super) fn uvarint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

pub(super) fn range(min: u64, max: u64) -> TxidRange {
    TxidRange::new(Txid::new(min).unwrap(), Txid::new(max).unwrap()).unwrap()
}

pub(super) fn pgno(number: u32) -> Pgno {
    Pgno::new(number).unwrap()
}

/// Pages of 512 bytes, no WAL span, no proof.
pub(super) fn header(txids: TxidRange, commit: u32) -> Header {
    Header {
        page_size: PageSize::new(512).unwrap(),
        commit,
        txids,
        timestamp: Timestamp::from_millis(1_700_000_000_000),
        wal: None,
        generation: Generation::new(0xb00c),
        proof: None,
    }
}

/// A page of 512 bytes that tells where it came from.
pub(super) fn page(number: u32, version: u8) -> Vec<u8> {
    let mut page = vec![version; 512];
    page[..4].copy_from_slice(&number.to_be_bytes());
    page
}

/// A proof that says "from the database with checksum `before` to `after`".
pub(super) fn proof(before: Option<u64>, after: u64) -> Option<Proof> {
    Some(Proof { before: before.map(Checksum::from_crc), after: Checksum::from_crc(after) })
}

/// A segment written by the encoder under test.
pub(super) fn segment(header: Header, pages: &[(u32, Vec<u8>)], encoding: Encoding) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), header, encoding).unwrap();
    for (number, page) in pages {
        encoder.page(pgno(*number), page).unwrap();
    }
    encoder.finish().unwrap().0
}
