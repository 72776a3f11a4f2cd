//! What a restored database is held against: the source as SQLite recovers it
//! from a copy of its files, page by page.
//!
//! This process has no SQLite connection to a source, so copying it here drops
//! nobody's locks.

use std::path::Path;

use rusqlite::Connection;

/// The byte that SQLite locks; its page holds nothing.
const LOCK_BYTE: usize = 0x4000_0000;

/// Copies the file and the log of a database that nobody writes to.
pub(crate) fn copy(source: &Path, to: &Path) -> Result<(), String> {
    let (log, log_to) = (with_suffix(source, "-wal"), with_suffix(to, "-wal"));
    let length = || std::fs::metadata(&log).map(|meta| meta.len()).ok();
    // A follower may checkpoint meanwhile: pages that it copies are also in the log, unless it cuts the log between
    // the two copies.
    loop {
        let before = length();
        std::fs::copy(source, to).map_err(|error| format!("copy {}: {error}", source.display()))?;
        let copied = match before {
            Some(_) => std::fs::copy(&log, &log_to).ok(),
            None => std::fs::remove_file(&log_to).err().and(None),
        };
        if before == copied && before == length() {
            return Ok(());
        }
    }
}

/// Lets SQLite recover a copy: afterwards the file alone is the database.
pub(crate) fn recover(copy: &Path) -> Result<(), String> {
    let db = Connection::open(copy).map_err(text)?;
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(text)?;
    sound(&db).map(drop).map_err(|reason| format!("the source itself: {reason}"))
}

/// Whether a restored database is whole in itself: structure, and the number
/// that triggers keep. Gives the number that grows with each commit.
pub(crate) fn whole(restored: &Path) -> Result<i64, String> {
    sound(&Connection::open(restored).map_err(text)?)
}

fn sound(db: &Connection) -> Result<i64, String> {
    let said: String = db.query_row("PRAGMA integrity_check(3)", [], |row| row.get(0)).map_err(text)?;
    if said != "ok" {
        return Err(format!("integrity_check: {said}"));
    }
    let sql = "SELECT n, (SELECT count(*) FROM t), commits FROM tally";
    let numbers = db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let (tally, rows, commits): (i64, i64, i64) = numbers.map_err(text)?;
    if tally == rows { Ok(commits) } else { Err(format!("{rows} rows where the triggers counted {tally}")) }
}

/// Holds the restored file against the copy, byte for byte.
pub(crate) fn same_pages(copy: &Path, restored: &Path) -> Result<(), String> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let (wanted, found) = (read(copy)?, read(restored)?);
    let size = match wanted.get(16..18).map(|field| u16::from_be_bytes([field[0], field[1]])) {
        Some(1) => 65536,
        Some(size) if size >= 512 => usize::from(size),
        _ => return Err("the copy of the source is not a database".to_owned()),
    };
    let pages = |bytes: &[u8]| bytes.len() / size;
    let lock = LOCK_BYTE / size;
    let differ: Vec<usize> = wanted
        .chunks(size)
        .zip(found.chunks(size))
        .enumerate()
        .filter(|(index, (wanted, found))| *index != lock && wanted != found)
        .map(|(index, _)| index + 1)
        .collect();
    match (differ.is_empty(), wanted.len() == found.len()) {
        (true, true) => Ok(()),
        _ => Err(format!("{} pages restored of {}, different ones: {differ:?}", pages(&found), pages(&wanted))),
    }
}

/// The same for a program that writes to the source on its own account: the
/// application's rows.
pub(crate) fn same_rows(copy: &Path, restored: &Path) -> Result<(), String> {
    let (wanted, found) = (rows(copy)?, rows(restored)?);
    let missing = wanted.iter().filter(|row| found.binary_search(row).is_err()).count();
    match wanted == found {
        true => Ok(()),
        false => Err(format!("{} of {} rows are not as in the source", missing, wanted.len())),
    }
}

fn rows(path: &Path) -> Result<Vec<(i64, i64, Vec<u8>)>, String> {
    let db = Connection::open(path).map_err(text)?;
    let mut statement =
        db.prepare("SELECT id, k, x FROM t UNION ALL SELECT -1, commits, x'' FROM tally ORDER BY 1").map_err(text)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).map_err(text)?;
    rows.collect::<rusqlite::Result<_>>().map_err(text)
}

fn text(error: rusqlite::Error) -> String {
    error.to_string()
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
