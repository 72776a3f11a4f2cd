//! What SQLite itself knows about the WAL, read through SQLite's own handles.
//!
//! Three things have no SQL: the wal-index (where writers publish how far the
//! log is committed), the bytes of the database file as they are on disk, and a
//! switch that keeps the log when the last connection closes. All three go
//! through the `sqlite3_file` that the connection already has open. Opening
//! `X` or `X-shm` ourselves and closing them again would drop every lock this
//! process holds on them, the guard included
//! (<https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_>).
//!
//! This is the only file that needs `unsafe` for what it does with memory. Each
//! block says which fact makes it sound.
#![expect(unsafe_code, reason = "SQLite offers the wal-index and raw file reads only through C pointers")]

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{Ordering, fence};

use rusqlite::Connection;
use rusqlite::ffi;

use crate::types::{Chain, PageSize, Salts};

/// One consistent look at the wal-index.
/// <https://www.sqlite.org/walformat.html#the_wal_index_header>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Changes whenever the log does.
    pub change: u32,
    /// Page size; `None` while the log has never held a frame.
    pub page_size: Option<PageSize>,
    /// Whether frame checksums run over big-endian words.
    pub big_endian: bool,
    /// The last committed frame; 0 when the log is empty.
    pub mx_frame: u32,
    /// Pages in the database after that frame; 0 when the log was never used.
    pub page_count: u32,
    /// The running checksum at that frame.
    pub chain: Chain,
    /// The run of frames that is current.
    pub salts: Salts,
    /// Frames already copied into the database.
    pub backfilled: u32,
    /// The marks of the five reader slots; `None` = not in use.
    pub read_marks: [Option<u32>; 5],
}

impl View {
    /// Frames that are committed and not yet copied into the database.
    pub fn unbackfilled(&self) -> u32 {
        self.mx_frame.saturating_sub(self.backfilled)
    }
}

/// Result codes of SQLite that are not `SQLITE_OK`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("SQLite result code {0}")]
pub struct Code(pub c_int);

const REGION_BYTES: c_int = 32 * 1024;
const HEADER_WORDS: usize = 12;
const UNUSED_MARK: u32 = u32::MAX;

/// Reads the wal-index of the main database. `Ok(None)` when there is none to
/// read or when a writer is just publishing a new one: look again.
///
/// # Errors
/// SQLite's result code when it cannot give access to the mapping.
pub fn view(connection: &mut Connection) -> Result<Option<View>, Code> {
    let file = file_pointer(connection)?;
    let mut region: *mut c_void = ptr::null_mut();
    // SAFETY: `file` came from SQLITE_FCNTL_FILE_POINTER of a live connection which we hold exclusively, so it and its
    // method table stay valid during the call. `xShmMap` of region 0 without extension only returns the mapping
    // that the connection already made, or null.
    let code = unsafe {
        let methods = (*file).pMethods;
        if methods.is_null() {
            return Ok(None);
        }
        match ((*methods).iVersion >= 2, (*methods).xShmMap) {
            (true, Some(map)) => map(file, 0, REGION_BYTES, 0, &mut region),
            _ => return Ok(None),
        }
    };
    if code != ffi::SQLITE_OK {
        return Err(Code(code));
    }
    if region.is_null() {
        return Ok(None);
    }
    let words = region.cast::<u32>().cast_const();
    // SAFETY: a mapped region has 32 KiB and is page aligned; it stays mapped until the connection closes its WAL, which
    // needs the exclusive access we hold. Other processes write to it, so every load is volatile and the two copies
    // of the header are compared as SQLite's own readers do (copy 1, barrier, copy 2).
    let load = |index: usize| unsafe { ptr::read_volatile(words.add(index)) };
    let first: [u32; HEADER_WORDS] = std::array::from_fn(load);
    fence(Ordering::SeqCst);
    let second: [u32; HEADER_WORDS] = std::array::from_fn(|i| load(HEADER_WORDS + i));
    let backfilled = load(2 * HEADER_WORDS);
    let read_marks = std::array::from_fn(|i| Some(load(2 * HEADER_WORDS + 1 + i)).filter(|m| *m != UNUSED_MARK));
    if first != second {
        return Ok(None);
    }
    Ok(parse(&first).map(|header| View { backfilled, read_marks, ..header }))
}

/// Reads the header's twelve words; `None` unless initialised and whole.
fn parse(words: &[u32; HEADER_WORDS]) -> Option<View> {
    let bytes: [u8; 4] = words[3].to_ne_bytes();
    let [initialised, big_endian, size_low, size_high] = bytes;
    if initialised == 0 || header_checksum(&words[..10]) != (words[10], words[11]) {
        return None;
    }
    // The salts are copied byte by byte from the WAL header, where they are big-endian; all else is native.
    let salt = |word: u32| u32::from_be_bytes(word.to_ne_bytes());
    Some(View {
        change: words[2],
        page_size: PageSize::from_u16_field(u16::from_ne_bytes([size_low, size_high])),
        big_endian: big_endian != 0,
        mx_frame: words[4],
        page_count: words[5],
        chain: Chain(words[6], words[7]),
        salts: Salts { first: salt(words[8]), second: salt(words[9]) },
        backfilled: 0,
        read_marks: [None; 5],
    })
}

fn header_checksum(words: &[u32]) -> (u32, u32) {
    words.chunks_exact(2).fold((0u32, 0u32), |(s0, s1), pair| {
        let s0 = s0.wrapping_add(pair[0]).wrapping_add(s1);
        (s0, s1.wrapping_add(pair[1]).wrapping_add(s0))
    })
}

/// Reads bytes of the database file as they are on disk, without the log.
/// Returns `false` when the file ends before the range does.
///
/// # Errors
/// SQLite's result code when reading fails.
pub fn read_database(connection: &mut Connection, offset: u64, buffer: &mut [u8]) -> Result<bool, Code> {
    let file = file_pointer(connection)?;
    let length = c_int::try_from(buffer.len()).map_err(|_| Code(ffi::SQLITE_MISUSE))?;
    let offset = i64::try_from(offset).map_err(|_| Code(ffi::SQLITE_MISUSE))?;
    // SAFETY: `file` as in `view`; `xRead` writes at most `length` bytes to the buffer, which is exactly that long.
    let code = unsafe {
        let methods = (*file).pMethods;
        match methods.as_ref().and_then(|m| m.xRead) {
            Some(read) => read(file, buffer.as_mut_ptr().cast::<c_void>(), length, offset),
            None => return Err(Code(ffi::SQLITE_CANTOPEN)),
        }
    };
    match code {
        ffi::SQLITE_OK => Ok(true),
        ffi::SQLITE_IOERR_SHORT_READ => Ok(false),
        other => Err(Code(other)),
    }
}

/// Length of the database file on disk, in bytes.
///
/// # Errors
/// SQLite's result code.
pub fn database_size(connection: &mut Connection) -> Result<u64, Code> {
    let file = file_pointer(connection)?;
    let mut size: i64 = 0;
    // SAFETY: `file` as in `view`; `xFileSize` writes one i64 through the pointer it is given.
    let code = unsafe {
        match (*file).pMethods.as_ref().and_then(|m| m.xFileSize) {
            Some(file_size) => file_size(file, &mut size),
            None => return Err(Code(ffi::SQLITE_CANTOPEN)),
        }
    };
    if code == ffi::SQLITE_OK { u64::try_from(size).map_err(|_| Code(ffi::SQLITE_IOERR)) } else { Err(Code(code)) }
}

/// Flushes the database file to disk, so that a later checkpoint's own flush
/// finds little to do.
///
/// # Errors
/// SQLite's result code.
pub fn sync_database(connection: &mut Connection) -> Result<(), Code> {
    let file = file_pointer(connection)?;
    // SAFETY: `file` as in `view`; `xSync` takes only flags.
    let code = unsafe {
        match (*file).pMethods.as_ref().and_then(|m| m.xSync) {
            Some(sync) => sync(file, ffi::SQLITE_SYNC_NORMAL | ffi::SQLITE_SYNC_DATAONLY),
            None => return Err(Code(ffi::SQLITE_CANTOPEN)),
        }
    };
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(Code(code)) }
}

/// Gives up the memory that a connection sets aside for many small allocations,
/// more than 100 KiB of it: ours run a statement now and then, and there can be
/// ten thousand of them. To be called before anything else.
///
/// # Errors
/// SQLite's result code.
pub fn take_little_memory(connection: &mut Connection) -> Result<(), Code> {
    // SAFETY: the handle is live and ours alone; SQLITE_DBCONFIG_LOOKASIDE takes a pointer, which may be null, and
    // two ints.
    let code = unsafe {
        let nothing = ptr::null_mut::<c_void>();
        let none: c_int = 0;
        ffi::sqlite3_db_config(connection.handle(), ffi::SQLITE_DBCONFIG_LOOKASIDE, nothing, none, none)
    };
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(Code(code)) }
}

/// Gives back the cached pages that the connection does not need at the moment.
pub fn forget_pages(connection: &mut Connection) {
    // SAFETY: the handle is live and ours alone; the call only frees what is not in use.
    unsafe { ffi::sqlite3_db_release_memory(connection.handle()) };
}

/// Makes the connection leave the log alone: it stays when the last connection
/// closes, it is not checkpointed then, and never after a commit of ours.
///
/// # Errors
/// SQLite's result code.
pub fn leave_the_log_alone(connection: &mut Connection) -> Result<(), Code> {
    let mut on: c_int = 1;
    // SAFETY: the handle is live and ours alone; SQLITE_FCNTL_PERSIST_WAL reads and writes one int;
    // sqlite3_wal_autocheckpoint takes plain integers.
    let codes = unsafe {
        let handle = connection.handle();
        [
            ffi::sqlite3_file_control(
                handle,
                c"main".as_ptr(),
                ffi::SQLITE_FCNTL_PERSIST_WAL,
                ptr::from_mut(&mut on).cast::<c_void>(),
            ),
            ffi::sqlite3_wal_autocheckpoint(handle, 0),
        ]
    };
    codes.into_iter().find(|code| *code != ffi::SQLITE_OK).map_or(Ok(()), |code| Err(Code(code)))
}

/// Whether the connection holds a read (or write) transaction right now.
pub fn in_transaction(connection: &mut Connection) -> bool {
    // SAFETY: the handle is live and ours alone; the schema name is a constant C string.
    let state = unsafe { ffi::sqlite3_txn_state(connection.handle(), c"main".as_ptr()) };
    state >= ffi::SQLITE_TXN_READ
}

fn file_pointer(connection: &mut Connection) -> Result<*mut ffi::sqlite3_file, Code> {
    let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
    // SAFETY: the handle is live; SQLITE_FCNTL_FILE_POINTER stores one pointer to the connection's own file object,
    // which lives as long as the connection.
    let code = unsafe {
        ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_FILE_POINTER,
            ptr::from_mut(&mut file).cast::<c_void>(),
        )
    };
    match (code, file.is_null()) {
        (ffi::SQLITE_OK, false) => Ok(file),
        (ffi::SQLITE_OK, true) => Err(Code(ffi::SQLITE_CANTOPEN)),
        (other, _) => Err(Code(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> (tempfile::TempDir, Connection) {
        let dir = tempfile::tempdir().unwrap();
        let connection = Connection::open(dir.path().join("db")).unwrap();
        connection
            .execute_batch(
                "PRAGMA journal_mode=wal; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x); INSERT INTO t VALUES(1)",
            )
            .unwrap();
        (dir, connection)
    }

    #[test]
    fn the_view_shows_each_commit_and_each_checkpoint() {
        let (dir, mut connection) = database();
        let before = view(&mut connection).unwrap().unwrap();
        assert_eq!(before.page_size, PageSize::new(4096));
        connection.execute_batch("INSERT INTO t VALUES(2)").unwrap();
        let after = view(&mut connection).unwrap().unwrap();
        assert_eq!(after.mx_frame, before.mx_frame + 1);
        assert_eq!(after.salts, before.salts);
        assert_ne!(after.chain, before.chain);
        assert_eq!(after.page_count, 2);
        let wal = std::fs::read(dir.path().join("db-wal")).unwrap();
        assert_eq!(after.salts.first, u32::from_be_bytes(wal[16..20].try_into().unwrap()));
        let frames = (wal.len() - 32) / 4120;
        assert_eq!(after.mx_frame as usize, frames);
        let last = 32 + (frames - 1) * 4120;
        assert_eq!(after.chain.0, u32::from_be_bytes(wal[last + 16..last + 20].try_into().unwrap()));
        assert_eq!(after.backfilled, 0);
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        assert_eq!(view(&mut connection).unwrap().unwrap().unbackfilled(), 0);
    }

    #[test]
    fn a_database_without_a_log_has_no_view() {
        let dir = tempfile::tempdir().unwrap();
        let mut connection = Connection::open(dir.path().join("db")).unwrap();
        connection.execute_batch("CREATE TABLE t(x)").unwrap();
        assert_eq!(view(&mut connection), Ok(None));
    }

    #[test]
    fn raw_reads_see_the_file_and_not_the_log() {
        let (_dir, mut connection) = database();
        let mut buffer = [0u8; 100];
        // Only the switch to WAL mode has reached the file: one page.
        assert_eq!(database_size(&mut connection), Ok(4096));
        assert_eq!(read_database(&mut connection, 0, &mut buffer), Ok(true));
        assert_eq!(&buffer[..16], crate::types::SQLITE_HEADER);
        assert_eq!(read_database(&mut connection, 4096, &mut buffer), Ok(false));
        assert_eq!(sync_database(&mut connection), Ok(()));
    }

    #[test]
    fn a_header_with_one_flipped_bit_is_not_a_view() {
        let mut words = [0u32; HEADER_WORDS];
        words[3] = u32::from_ne_bytes([1, 0, 0, 16]);
        words[4] = 7;
        (words[10], words[11]) = header_checksum(&words[..10]);
        assert_eq!(parse(&words).unwrap().mx_frame, 7);
        for word in 0..HEADER_WORDS {
            for bit in 0..32 {
                let mut damaged = words;
                damaged[word] ^= 1 << bit;
                assert_eq!(parse(&damaged), None, "word {word} bit {bit}");
            }
        }
    }
}
