//! Listing a directory tree in key order, one page at a time.
//!
//! Each page reads the names of the folders it comes through again, so that
//! nothing is kept between pages and no page is older than its request.

use std::fs;
use std::io;
use std::path::Path;

use super::super::{Key, LIST_PAGE, Object, Progress};
use crate::durable::TEMP_SUFFIX;
use crate::types::Timestamp;

/// The objects in `dir`, whose keys begin with the folder `prefix`, that sort
/// after `after`, until a page is full.
pub(super) fn page(dir: &Path, prefix: &Key, after: Option<&Key>, progress: &Progress) -> io::Result<Vec<Object>> {
    let stem = if *prefix == Key::ROOT { String::new() } else { format!("{prefix}/") };
    let mut page = Vec::new();
    walk(dir, &stem, after.map_or("", Key::as_str), progress, &mut page)?;
    Ok(page)
}

fn walk(dir: &Path, stem: &str, after: &str, progress: &Progress, page: &mut Vec<Object>) -> io::Result<()> {
    for key in entries(dir, stem, after)? {
        if page.len() == LIST_PAGE {
            break;
        }
        progress.moved();
        let path = dir.join(&key[stem.len()..]);
        if key.ends_with('/') {
            walk(&path, &key, after, progress, page)?;
            continue;
        }
        let found = match fs::metadata(&path) {
            // Deleted since, or a link to nothing.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            found => found?,
        };
        if let (true, Ok(key)) = (found.is_file(), Key::new(key)) {
            page.push(Object { key, size: found.len(), modified: Timestamp::from(found.modified()?) });
        }
    }
    Ok(())
}

/// The keys of a directory's entries that matter, sorted; those of its
/// subdirectories end in a slash, because that is how the keys in them go on:
/// what is in `a` sorts behind `a-b`.
fn entries(dir: &Path, stem: &str, after: &str) -> io::Result<Vec<String>> {
    let found = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found?,
    };
    let mut keys = Vec::new();
    for entry in found {
        let entry = entry?;
        let name = entry.file_name();
        // We never write names that are not text, so these are not ours.
        let Some(name) = name.to_str().filter(|name| !name.ends_with(TEMP_SUFFIX)) else { continue };
        let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
        let key = format!("{stem}{name}{slash}");
        if key.as_str() > after || (slash == "/" && after.starts_with(&key)) {
            keys.push(key);
        }
    }
    keys.sort_unstable();
    Ok(keys)
}
