//! What rehearsals have proven, kept beside the database for `info` and for the
//! next life of the daemon.
//!
//! Always true: what is recorded was proven. A crash leaves the old record or the
//! new one; a record that cannot be read counts as none, since the next rehearsal
//! writes it anew.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::durable;
use crate::types::{Timestamp, Txid};

/// The last proof of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastProof {
    /// When the rehearsal ended.
    pub at: Timestamp,
    /// The point that was restored; `None` in a backup of Litestream 0.3.
    pub txid: Option<Txid>,
    /// The time of that point.
    pub time: Timestamp,
    /// How long the rehearsal took.
    pub took: Duration,
}

/// As stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    at: i64,
    txid: Option<String>,
    time: i64,
    took_ms: u64,
}

/// The records of one database's replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records(PathBuf);

impl Records {
    /// In the directory of the database's local state.
    pub fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("proofs.json"))
    }

    /// The last proof of the replica that configuration calls `name`.
    pub fn of(&self, name: &str) -> Option<LastProof> {
        let Stored { at, txid, time, took_ms } = self.read().remove(name)?;
        let txid = match txid {
            Some(digits) => Some(u64::from_str_radix(&digits, 16).ok().and_then(Txid::new)?),
            None => None,
        };
        let (at, time) = (Timestamp::from_millis(at), Timestamp::from_millis(time));
        Some(LastProof { at, txid, time, took: Duration::from_millis(took_ms) })
    }

    /// Records a proof.
    ///
    /// # Errors
    /// From the file system; the old record is then still there.
    pub fn put(&self, name: &str, proof: &LastProof) -> io::Result<()> {
        let LastProof { at, txid, time, took } = proof;
        let mut all = self.read();
        let stored = Stored {
            at: at.as_millis(),
            txid: txid.map(|txid| txid.to_string()),
            time: time.as_millis(),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        };
        all.insert(name.to_owned(), stored);
        let text = serde_json::to_vec(&all).expect("texts and numbers can be written");
        Ok(durable::replace(&self.0, &text, durable::PRIVATE_FILE)?)
    }

    fn read(&self) -> BTreeMap<String, Stored> {
        let text = std::fs::read(&self.0).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_proof_of_each_replica_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path());
        assert_eq!(records.of("s3"), None);
        let proof = |n: i64, txid| LastProof {
            at: Timestamp::from_millis(n),
            txid,
            time: Timestamp::from_millis(n - 5),
            took: Duration::from_millis(1250),
        };
        records.put("s3", &proof(100, Txid::new(26))).unwrap();
        records.put("a/b", &proof(200, None)).unwrap();
        records.put("s3", &proof(300, Txid::new(27))).unwrap();
        assert_eq!(records.of("s3"), Some(proof(300, Txid::new(27))));
        assert_eq!(records.of("a/b"), Some(proof(200, None)));
        std::fs::write(&records.0, "{").unwrap();
        assert_eq!(records.of("s3"), None);
        records.put("s3", &proof(400, None)).unwrap();
        assert_eq!(records.of("s3"), Some(proof(400, None)));
    }
}
