//! The user's own questions to a restored database.
//!
//! Always true: asking changes nothing, not even beside the file. It is opened
//! as one that cannot change.

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use crate::restore::immutable_uri;

/// The restored database is not what its owner expects.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// An answer other than the right one.
    #[error(
        "the restored database was asked {statement:?} and answered {answer:?}: expected ok, a number other than 0, or no row"
    )]
    Answer {
        /// The statement.
        statement: String,
        /// The first value of the first row.
        answer: String,
    },
    /// It could not be asked.
    #[error("the restored database cannot be asked {statement:?}: correct the statement, or the backup lacks a table")]
    Ask {
        /// The statement.
        statement: String,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

/// Asks every statement; the first wrong answer is the result.
pub(super) fn ask_all(path: &Path, statements: &[String]) -> Result<(), CheckError> {
    for statement in statements {
        match ask(path, statement) {
            Ok(None) => {}
            Ok(Some(answer)) => return Err(CheckError::Answer { statement: statement.clone(), answer }),
            Err(source) => return Err(CheckError::Ask { statement: statement.clone(), source }),
        }
    }
    Ok(())
}

/// `None` if the answer is right.
fn ask(path: &Path, statement: &str) -> rusqlite::Result<Option<String>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(immutable_uri(path), flags)?;
    let mut prepared = database.prepare(statement)?;
    let mut rows = prepared.query([])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(match row.get_ref(0)? {
        ValueRef::Text(text) if text.eq_ignore_ascii_case(b"ok") => None,
        ValueRef::Integer(number) if number != 0 => None,
        ValueRef::Real(number) if number != 0.0 => None,
        ValueRef::Null => Some("NULL".to_owned()),
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Some(format!("{} bytes", bytes.len())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_no_row_ok_or_a_number_other_than_zero() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("a ?.db");
        let database = Connection::open(&path).unwrap();
        database.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES (3)").unwrap();
        drop(database);
        let ask = |statement: &str| ask_all(&path, &[statement.to_owned()]);
        for right in
            ["SELECT 'ok'", "SELECT 'OK'", "SELECT count(*) FROM t", "SELECT 0.5", "SELECT x FROM t WHERE x > 9"]
        {
            assert!(ask(right).is_ok(), "{right}");
        }
        for wrong in ["SELECT 0", "SELECT 'missing'", "SELECT NULL", "SELECT x'6f6b'", "SELECT x < 0 FROM t"] {
            assert!(matches!(ask(wrong), Err(CheckError::Answer { .. })), "{wrong}");
        }
        for impossible in ["SELEKT", "SELECT * FROM nothing", "DELETE FROM t", "CREATE TABLE u(x)"] {
            assert!(matches!(ask(impossible), Err(CheckError::Ask { .. })), "{impossible}");
        }
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing beside it");
    }
}
