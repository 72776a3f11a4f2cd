//! SQLite's own opinion of a draft, asked before the draft gets its name.
//!
//! Always true: looking changes nothing. The draft is opened as a file that
//! cannot change, so no lock is taken and no `-wal` or `-shm` appears beside it.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::unpanicked;

/// How thoroughly to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IntegrityCheck {
    /// Not at all.
    #[default]
    None,
    /// `PRAGMA quick_check`: everything but whether indexes match their tables.
    Quick,
    /// `PRAGMA integrity_check`.
    Full,
}

impl IntegrityCheck {
    /// The word of the flag, and of the JSON result.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Quick => "quick",
            Self::Full => "full",
        }
    }
}

/// The draft is not a database that SQLite would work with.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// SQLite found faults in it.
    #[error("post-restore integrity check: {findings}")]
    Faulty {
        /// What SQLite says, the first findings only.
        findings: String,
    },
    /// SQLite could not read it.
    #[error("post-restore integrity check: cannot read the restored database")]
    Unreadable(#[source] rusqlite::Error),
}

/// How many of SQLite's findings are repeated: a broken database has thousands.
const FINDINGS: usize = 5;

/// Runs the check. Takes as long as reading the file does.
pub(super) async fn check(draft: &Path, how: IntegrityCheck) -> Result<(), VerifyError> {
    let draft = draft.to_path_buf();
    unpanicked(tokio::task::spawn_blocking(move || check_now(&draft, how)).await)
}

fn check_now(draft: &Path, how: IntegrityCheck) -> Result<(), VerifyError> {
    let pragma = match how {
        IntegrityCheck::None => return Ok(()),
        IntegrityCheck::Quick => "quick_check",
        IntegrityCheck::Full => "integrity_check",
    };
    let findings = ask(draft, &format!("PRAGMA {pragma}({FINDINGS})")).map_err(VerifyError::Unreadable)?;
    match findings.as_slice() {
        [only] if only == "ok" => Ok(()),
        _ => Err(VerifyError::Faulty { findings: findings.join("; ") }),
    }
}

fn ask(draft: &Path, pragma: &str) -> rusqlite::Result<Vec<String>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(immutable_uri(draft), flags)?;
    let mut statement = database.prepare(pragma)?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// The name under which SQLite opens a file as one that cannot change.
/// <https://www.sqlite.org/uri.html>
pub fn immutable_uri(path: &Path) -> String {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'~' => uri.push(char::from(*byte)),
            _ if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            _ => write!(uri, "%{byte:02x}").expect("a string takes everything"),
        }
    }
    uri + "?immutable=1"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(path: &Path) {
        let database = Connection::open(path).unwrap();
        database
            .execute_batch(
                "PRAGMA page_size=512; PRAGMA journal_mode=WAL; CREATE TABLE t(a, b); CREATE INDEX i ON t(b);
                 WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x < 500)
                 INSERT INTO t SELECT x, 'row ' || x FROM n;",
            )
            .unwrap();
    }

    #[test]
    fn a_sound_database_passes_and_nothing_appears_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b?#%é.db");
        database(&path);
        assert_eq!(std::fs::read(&path).unwrap()[18], 2, "the database is in WAL mode");
        for how in [IntegrityCheck::None, IntegrityCheck::Quick, IntegrityCheck::Full] {
            check_now(&path, how).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_broken_database_is_told_from_a_sound_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        database(&path);
        let whole = std::fs::read(&path).unwrap();
        let mut holed = whole.clone();
        holed[512 * 3..512 * 6].fill(0);
        std::fs::write(&path, &holed).unwrap();
        let error = check_now(&path, IntegrityCheck::Quick).unwrap_err().to_string();
        assert!(error.starts_with("post-restore integrity check: "), "{error}");
        check_now(&path, IntegrityCheck::None).unwrap();
        std::fs::write(&path, b"this is not a database, but long enough to be one".repeat(50)).unwrap();
        let error = check_now(&path, IntegrityCheck::Full).unwrap_err();
        assert!(matches!(error, VerifyError::Unreadable(_)), "{error}");
    }

    /// An index entry that belongs to no row: only the full check looks.
    #[test]
    fn only_the_full_check_compares_indexes_with_tables() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        database(&path);
        let edit = Connection::open(&path).unwrap();
        edit.execute_batch(
            "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql='CREATE INDEX i ON t(a)' WHERE name='i';",
        )
        .unwrap();
        drop(edit);
        check_now(&path, IntegrityCheck::Quick).unwrap();
        let error = check_now(&path, IntegrityCheck::Full).unwrap_err().to_string();
        assert_eq!(error.matches("; ").count(), FINDINGS - 1, "{error}");
    }
}
