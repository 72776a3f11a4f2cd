//! What this machine remembers of a replica that it must not list.
//!
//! Credentials that may only create and read objects protect a replica from
//! whoever takes over this machine, and they cannot tell where the replica ends.
//! So the TXID of every segment is written down here before the segment is put.
//!
//! Always true: no TXID above the remembered one was ever put from here. The
//! remembered one was put, or was about to be.

use std::io;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::types::Txid;

const MODE: u32 = 0o600;

/// What stands before the mark while nothing was put yet.
const BEGINNING: &str = "begin ";

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Remembered {
    /// No segment was put from here.
    Beginning(String),
    /// None above this one.
    Through(Txid),
}

/// The file that remembers, for one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims(PathBuf);

impl Claims {
    /// Remembers in the directory `dir`, for the replica that configuration calls `name`.
    pub fn new(dir: &Path, name: &str) -> Self {
        // A name can hold anything; a file name cannot.
        let mut file = String::from("replica-");
        for byte in name.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => file.push(char::from(byte)),
                _ => file.push_str(&format!("%{byte:02x}")),
            }
        }
        Self(dir.join(file))
    }

    /// What is remembered. The first time, `mark` is: it tells this machine's beginning from another one's.
    pub(super) fn open(&self, mark: impl FnOnce() -> u64) -> io::Result<Remembered> {
        let text = match std::fs::read_to_string(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mark = format!("{:016x}", mark());
                durable::replace(&self.0, format!("{BEGINNING}{mark}\n").as_bytes(), MODE)?;
                return Ok(Remembered::Beginning(mark));
            }
            read => read?,
        };
        let text = text.trim_end();
        if let Some(mark) = text.strip_prefix(BEGINNING) {
            return Ok(Remembered::Beginning(mark.to_owned()));
        }
        match u64::from_str_radix(text, 16).ok().and_then(Txid::new) {
            Some(txid) => Ok(Remembered::Through(txid)),
            None => {
                let message = format!(
                    "{} does not hold a TXID: put the newest one of the replica there, as 16 hex digits",
                    self.0.display()
                );
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            }
        }
    }

    /// Remembers, durably, that `txid` is about to be put.
    pub(super) fn claim(&self, txid: Txid) -> io::Result<()> {
        Ok(durable::replace(&self.0, format!("{txid}\n").as_bytes(), MODE)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_claim_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let claims = Claims::new(dir.path(), "s3/über");
        let begun = claims.open(|| 7).unwrap();
        assert_eq!(begun, Remembered::Beginning("0000000000000007".to_owned()));
        assert_eq!(claims.open(|| panic!("it has one")).unwrap(), begun);
        for n in [1, 41, 42].map(|n| Txid::new(n).unwrap()) {
            claims.claim(n).unwrap();
            assert_eq!(claims.open(|| 8).unwrap(), Remembered::Through(n));
        }
        assert_eq!(
            Claims::new(dir.path(), "s3").open(|| 9).unwrap(),
            Remembered::Beginning("0000000000000009".to_owned()),
            "each replica has its own"
        );
        std::fs::write(&claims.0, "").unwrap();
        assert!(claims.open(|| 1).is_err(), "a damaged record is not an empty one");
    }
}
