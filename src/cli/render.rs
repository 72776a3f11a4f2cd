//! Tables, JSON, and the one way a command writes to stdout.
//!
//! Tables look as Go's `tabwriter` makes them (padding 2, left aligned): scripts
//! split them on white space and use the header words as keys. JSON is indented
//! by two spaces and ends in a newline; an empty list is `[]`.

use std::io::{self, Write};

use serde::Serialize;

use super::error::CliError;
use crate::types::Timestamp;

/// Rows under a header, printed at once.
pub(crate) struct Table {
    columns: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(header: [&str; N]) -> Self {
        Self { columns: N, rows: vec![header.map(str::to_owned).into()] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns, "a row has a cell for each column");
        self.rows.push(cells.into());
    }

    /// Each column as wide as its longest cell plus two spaces; the last is not padded.
    pub(crate) fn text(&self) -> String {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.saturating_sub(1)).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            for (cell, width) in row.iter().zip(&widths) {
                text.push_str(&format!("{cell:<width$}  "));
            }
            text.push_str(row.last().map_or("", String::as_str));
            text.push('\n');
        }
        text
    }
}

/// A time as tables and JSON show it: RFC 3339 in UTC, whole seconds.
pub(crate) fn seconds(time: Timestamp) -> String {
    let millis = time.as_millis();
    Timestamp::from_millis(millis - millis.rem_euclid(1000)).to_string()
}

/// The value as pretty JSON with a final newline.
pub(crate) fn json(value: &impl Serialize) -> Result<String, CliError> {
    let mut text = serde_json::to_string_pretty(value).map_err(CliError::failed)?;
    text.push('\n');
    Ok(text)
}

/// Writes a command's output. `println!` would panic when the reader is gone.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::ReaderGone,
        _ => CliError::Output(error),
    })
}

/// Writes a line to stderr. A stderr that cannot be written has nobody to tell.
pub(crate) fn complain(line: &str) {
    drop(writeln!(io::stderr().lock(), "{line}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_the_last_is_not_padded() {
        let mut table = Table::new(["path", "replica"]);
        table.row(["/data/app.db".to_owned(), "s3".to_owned()]);
        table.row(["/é".to_owned(), "file".to_owned()]);
        let expected = "path          replica\n/data/app.db  s3\n/é            file\n";
        assert_eq!(table.text(), expected);
    }

    #[test]
    fn the_header_is_printed_without_rows() {
        assert_eq!(Table::new(["level", "min_txid", "created"]).text(), "level  min_txid  created\n");
    }

    #[test]
    fn times_are_cut_to_seconds() {
        assert_eq!(seconds(Timestamp::from_millis(1_700_000_000_999)), "2023-11-14T22:13:20Z");
        assert_eq!(seconds(Timestamp::from_millis(-1)), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn an_empty_list_is_brackets() {
        assert_eq!(json(&Vec::<String>::new()).unwrap(), "[]\n");
        assert_eq!(json(&serde_json::json!([{"a": 1}])).unwrap(), "[\n  {\n    \"a\": 1\n  }\n]\n");
    }
}
