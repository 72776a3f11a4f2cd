//! Which pages of a large segment are fetched with one request. Pure.
//!
//! Always true: a request is limited in bytes and in pages, and so is what lies
//! between its pages and is fetched in vain.

use std::ops::Range;

use super::fetch::Limits;
use crate::ltx::index::Entry;

/// Pages in one request at most: a megabyte of frames can hold very many that
/// are nearly empty.
const RANGE_PAGES: usize = 8192;

/// Pages of one segment that are fetched with one request.
#[derive(Default)]
pub(super) struct Run {
    pub(super) range: Range<u64>,
    pub(super) entries: Vec<Entry>,
}

impl Run {
    /// Whether a page, which lies behind all that are here, may join them.
    pub(super) fn takes(&self, entry: &Entry, limits: &Limits) -> bool {
        let near = entry.offset - self.range.end <= limits.in_vain;
        let fits = entry.offset + entry.size - self.range.start <= limits.range;
        self.entries.is_empty() || (near && fits && self.entries.len() < RANGE_PAGES)
    }

    pub(super) fn add(&mut self, entry: Entry) {
        if self.entries.is_empty() {
            self.range.start = entry.offset;
        }
        self.range.end = entry.offset + entry.size;
        self.entries.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Pgno;

    /// The requests for pages at these offsets, each of 10 bytes.
    fn requests(offsets: &[u64], limits: &Limits) -> Vec<(u64, u64)> {
        let mut requests = Vec::new();
        let mut run = Run::default();
        for offset in offsets {
            let entry = Entry { pgno: Pgno::FIRST, offset: *offset, size: 10 };
            if !run.takes(&entry, limits) {
                let Run { range, .. } = std::mem::take(&mut run);
                requests.push((range.start, range.end));
            }
            run.add(entry);
        }
        requests.push((run.range.start, run.range.end));
        requests
    }

    #[test]
    fn near_pages_share_a_request_of_limited_size() {
        let limits = Limits { range: 100, in_vain: 20, ..Limits::default() };
        assert_eq!(requests(&[100, 110, 120], &limits), [(100, 130)]);
        assert_eq!(requests(&[100, 130], &limits), [(100, 140)], "twenty bytes in vain");
        assert_eq!(requests(&[100, 131], &limits), [(100, 110), (131, 141)]);
        let many: Vec<u64> = (0..15).map(|i| 100 + i * 10).collect();
        assert_eq!(requests(&many, &limits), [(100, 200), (200, 250)]);
        let most: Vec<u64> = (0..=RANGE_PAGES as u64).map(|i| i * 10).collect();
        let wide = Limits { range: u64::MAX, ..limits };
        assert_eq!(requests(&most, &wide).len(), 2, "pages are limited too");
    }
}
