//! A database as plain bytes, to which segments are applied in the simplest way.

use brooklet::ltx::{Decoder, Encoding, Header};
use brooklet::types::Pgno;

/// Everything in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) header: Header,
    pub(crate) pages: Vec<(Pgno, Vec<u8>)>,
    /// How the pages were stored.
    pub(crate) encodings: Vec<Option<Encoding>>,
}

/// Reads and verifies a whole segment.
pub(crate) fn content(file: &[u8]) -> Content {
    let mut decoder = Decoder::new(file).unwrap();
    let (mut pages, mut encodings, mut page) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
        pages.push((pgno, page.clone()));
        encodings.push(decoder.payload().map(|(encoding, _)| encoding));
    }
    Content { header: *decoder.header(), pages, encodings }
}

/// Applies a segment to the database file `image`.
pub(crate) fn apply(image: &mut Vec<u8>, segment: &Content) {
    let size = segment.header.page_size;
    image.resize(usize::try_from(u64::from(segment.header.commit) * u64::from(size.get())).unwrap(), 0);
    for (pgno, page) in &segment.pages {
        let at = usize::try_from(pgno.offset(size)).unwrap();
        image[at..at + size.bytes()].copy_from_slice(page);
    }
}
