//! Two small files written by the official encoders, byte for byte.

use crate::types::{PageSize, Pgno, Salts, Timestamp, Txid, TxidRange};

use super::{Decoder, Encoding, Header, WalSpan, merge};

/// Bytes 0 to 99 of both files.
const HEADER: &str = "
    4c54 5831 0000 0002 0000 0200 0000 0002 0000 0000 0000 0001 0000 0000 0000 0001
    0000 018b cfe5 687b 0000 0000 0000 0000 0000 0000 0000 0020 0000 0000 0000 0430
    1122 3344 5566 7788 0000 0000 0000 0000 0000 0000 0000 0000 0000 0000 0000 0000
    0000 0000";

/// The rest of what ltx main wrote.
const BLOCK: &str = "
                        0000 0001 0001 0000 0028 ff01 5351 4c69 7465 2066 6f72 6d61 7420 3300
    0100 ffcc 0002 00e0 0000 0000 0000 0000 0000 0000 00ab 0000 0002 0001 0000 003a
    1f00 0100 2c1f 0101 002c 1f02 0100 2c1f 0301 002c 1f04 0100 2c1f 0501 002c 1f06
    0100 2c1f 0701 001a 0002 00e0 0707 0707 0707 0707 0707 0707 0707 0000 0000 0000
    0164 3202 9601 4400 0000 0000 0000 0008 0000 0000 0000 0000 cdf1 0ef0 4089 d511";

/// The rest of what ltx v0.5.1 wrote.
const FRAME: &str = "
                        0000 0001 0000 0422 4d18 6440 a728 0000 00ff 0153 514c 6974 6520 666f
    726d 6174 2033 0001 00ff cc00 0200 e000 0000 0000 0000 0000 0000 0000 ab00 0000
    00e1 87e3 1e00 0000 0200 0004 224d 1864 40a7 3a00 0000 1f00 0100 2c1f 0101 002c
    1f02 0100 2c1f 0301 002c 1f04 0100 2c1f 0501 002c 1f06 0100 2c1f 0701 001a 0002
    00e0 0707 0707 0707 0707 0707 0707 0707 0000 0000 15d9 cf1c 0000 0000 0000 0164
    4102 a501 5300 0000 0000 0000 0008 0000 0000 0000 0000 fafb ffbf 8a81 a00d";

/// Both files, with the encoding of their pages.
pub(super) fn files() -> [(Encoding, Vec<u8>); 2] {
    [(Encoding::Block, bytes(BLOCK)), (Encoding::Frame, bytes(FRAME))]
}

/// What their header says.
pub(super) fn header() -> Header {
    Header {
        page_size: PageSize::new(512).unwrap(),
        commit: 2,
        txids: TxidRange::single(Txid::FIRST),
        timestamp: Timestamp::from_millis(1_700_000_000_123),
        wal: Some(WalSpan {
            offset: 32,
            size: 2 * (24 + 512),
            salts: Salts { first: 0x1122_3344, second: 0x5566_7788 },
        }),
        generation: None,
        proof: None,
    }
}

/// Their pages.
pub(super) fn pages() -> [Vec<u8>; 2] {
    let mut one = vec![0; 512];
    one[..16].copy_from_slice(b"SQLite format 3\0");
    one[511] = 0xab;
    [one, (0..512).map(|i| u8::try_from(i / 64).unwrap()).collect()]
}

fn bytes(rest: &str) -> Vec<u8> {
    let digits: Vec<u8> = HEADER.bytes().chain(rest.bytes()).filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn both_decode_to_the_same_header_and_pages() {
    for (encoding, file) in files() {
        let mut decoder = Decoder::new(&file[..]).unwrap();
        assert_eq!(*decoder.header(), header());
        let mut page = Vec::new();
        for (number, expected) in (1..).zip(pages()) {
            assert_eq!(decoder.next_page(&mut page).unwrap(), Pgno::new(number));
            assert_eq!(page, expected, "page {number} of {encoding:?}");
            assert_eq!(decoder.payload().map(|(encoding, _)| encoding), Some(encoding));
        }
        assert_eq!(decoder.next_page(&mut page).unwrap(), None);
        let stored = u64::from_be_bytes(*file.last_chunk().unwrap());
        assert_eq!(decoder.finish().unwrap().file_checksum.get(), stored);
    }
}

/// LZ4 compressors differ in what they find, so the payloads are taken from the
/// file. Everything around them is our encoder's.
#[test]
fn our_encoder_writes_them_byte_for_byte_around_the_same_payloads() {
    for (encoding, file) in files() {
        let input = Decoder::new(&file[..]).unwrap();
        let (written, finished) = merge(vec![input], Vec::new(), header().txids, encoding).unwrap();
        assert_eq!(written, file, "{encoding:?}");
        assert_eq!((finished.size, finished.pages), (file.len() as u64, 2));
    }
}
