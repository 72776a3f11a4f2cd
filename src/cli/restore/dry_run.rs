//! What `-dry-run` shows. Values only.

use serde::Serialize;

use crate::cli::render::{Table, seconds};
use crate::legacy;
use crate::ltx;
use crate::replica::Segment;

/// What a restore would fetch.
#[derive(Serialize)]
pub(super) struct DryRun {
    pub(super) source: String,
    pub(super) target_path: String,
    pub(super) replica: &'static str,
    pub(super) min_txid: String,
    pub(super) max_txid: String,
    pub(super) files: Vec<PlannedFile>,
}

#[derive(Serialize)]
pub(super) struct PlannedFile {
    level: u8,
    name: String,
    min_txid: String,
    max_txid: String,
    size: u64,
    timestamp: String,
}

impl From<&Segment> for PlannedFile {
    fn from(segment: &Segment) -> Self {
        Self {
            level: segment.level.get(),
            name: ltx::file_name(segment.txids),
            min_txid: segment.txids.min().to_string(),
            max_txid: segment.txids.max().to_string(),
            size: segment.size,
            timestamp: seconds(segment.created),
        }
    }
}

impl DryRun {
    pub(super) fn text(&self) -> String {
        let mut table = Table::new(["level", "file", "min_txid", "max_txid", "size", "timestamp"]);
        for file in &self.files {
            let PlannedFile { level, name, min_txid, max_txid, size, timestamp } = file;
            let cells = [&level.to_string(), name, min_txid, max_txid, &size.to_string(), timestamp];
            table.row(cells.map(Clone::clone));
        }
        let Self { source, target_path, replica, min_txid, max_txid, .. } = self;
        format!(
            "Restore plan:\n  source: {source}\n  target: {target_path}\n  replica: {replica}\n  \
             txid range: {min_txid} - {max_txid}\n\nFiles to fetch:\n{}",
            table.text()
        )
    }
}

/// What a restore of a backup in the format of Litestream 0.3 would fetch.
#[derive(Serialize)]
pub(super) struct OlderDryRun {
    pub(super) source: String,
    pub(super) target_path: String,
    pub(super) replica: &'static str,
    pub(super) format: &'static str,
    pub(super) generation: String,
    pub(super) index: String,
    pub(super) files: Vec<OlderFile>,
}

#[derive(Serialize)]
pub(super) struct OlderFile {
    name: String,
    size: u64,
    timestamp: String,
}

impl From<&legacy::Item> for OlderFile {
    fn from(item: &legacy::Item) -> Self {
        Self { name: item.name(), size: item.size, timestamp: seconds(item.created) }
    }
}

impl OlderDryRun {
    pub(super) fn text(&self) -> String {
        let mut table = Table::new(["file", "size", "timestamp"]);
        for OlderFile { name, size, timestamp } in &self.files {
            table.row([name.clone(), size.to_string(), timestamp.clone()]);
        }
        let Self { source, target_path, replica, generation, index, .. } = self;
        format!(
            "Restore plan:\n  source: {source}\n  target: {target_path}\n  replica: {replica}\n  \
             format: Litestream 0.3\n  generation: {generation}, up to index {index}\n\nFiles to fetch:\n{}",
            table.text()
        )
    }
}
