//! Pins: points of the history that stay restorable until they are released,
//! kept as small objects beside the levels, where Litestream does not look.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::storage::{self, ErrorKind, Key, LIST_PAGE, Put, PutOptions};
use crate::types::{Timestamp, Txid};

use super::{Replica, Result};

/// No pin is longer.
const LONGEST: u64 = 4096;

/// The name of a pin: up to 64 letters, digits, `.`, `-` and `_`, a letter or digit first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PinName(String);

impl FromStr for PinName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let fine = text.len() <= 64 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(plain);
        match fine && !text.ends_with(".tmp") {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "{text:?} cannot be the name of a pin: use up to 64 letters, digits, '.', '-' and '_', \
                 a letter or digit first"
            )),
        }
    }
}

impl fmt::Display for PinName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A point that stays restorable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// What it is called.
    pub name: PinName,
    /// The transaction.
    pub txid: Txid,
    /// The time of that transaction.
    pub time: Timestamp,
}

/// As stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    txid: String,
    timestamp: i64,
}

impl Replica {
    /// The pins, by name. One that cannot be read is an error: whoever deletes
    /// must know all of them.
    pub async fn pins(&self) -> Result<Vec<Pin>> {
        let folder = self.layout.beside(&self.root, "pins");
        let mut pins = Vec::new();
        let mut after: Option<Key> = None;
        loop {
            let page = self.storage.list(&folder, after.as_ref()).await?;
            for object in &page {
                let name = object.key.as_str().strip_prefix(folder.as_str()).and_then(|name| name.strip_prefix('/'));
                let Some(Ok(name)) = name.map(str::parse::<PinName>) else { continue };
                let size = object.size.min(LONGEST);
                let bytes = self.storage.get(&object.key, 0..size).await;
                let bytes = match bytes {
                    // Released since it was listed.
                    Err(error) if error.kind == ErrorKind::Missing => continue,
                    bytes => bytes?,
                };
                if bytes.len() as u64 != size {
                    return Err(storage::Error::cut_short(&object.key, size, bytes.len()).into());
                }
                pins.push(read(name, &bytes).ok_or_else(|| unreadable(&object.key))?);
            }
            after = page.last().map(|object| object.key.clone());
            if page.len() < LIST_PAGE {
                return Ok(pins);
            }
        }
    }

    /// Stores a pin. Refused with `Exists` if the name is taken.
    pub async fn put_pin(&self, pin: &Pin) -> Result<()> {
        let stored = Stored { txid: pin.txid.to_string(), timestamp: pin.time.as_millis() };
        let body = serde_json::to_vec(&stored).expect("a text and a number can be written");
        let options = PutOptions { how: Put::New, timestamp: None };
        Ok(self.storage.put(&self.pin_key(&pin.name), body.into(), options).await?)
    }

    /// Removes a pin. One that does not exist counts as removed.
    pub async fn remove_pin(&self, name: &PinName) -> Result<()> {
        Ok(self.storage.delete(&[self.pin_key(name)]).await?)
    }

    fn pin_key(&self, name: &PinName) -> Key {
        self.layout.beside(&self.root, "pins").child(&name.0).expect("the name of a pin is legal in a key")
    }
}

fn read(name: PinName, bytes: &[u8]) -> Option<Pin> {
    let stored: Stored = serde_json::from_slice(bytes).ok()?;
    let txid = u64::from_str_radix(&stored.txid, 16).ok().and_then(Txid::new)?;
    Some(Pin { name, txid, time: Timestamp::from_millis(stored.timestamp) })
}

fn unreadable(key: &Key) -> storage::Error {
    let message = format!("{key} is not a pin that can be read: nothing is deleted while it is there; remove it");
    storage::Error::new(ErrorKind::Refused, message)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::replica::Layout;
    use crate::storage::{MemoryStorage, Storage};

    fn pin(name: &str, txid: u64) -> Pin {
        let time = Timestamp::from_millis(5);
        Pin { name: name.parse().unwrap(), txid: Txid::new(txid).unwrap(), time }
    }

    #[tokio::test]
    async fn pins_are_found_again_and_a_name_is_given_once() {
        for layout in [Layout::Decimal, Layout::Hex] {
            let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
            let replica = Replica::new("r".to_owned(), storage, Key::new("db").unwrap(), layout);
            assert_eq!(replica.pins().await.unwrap(), []);
            replica.put_pin(&pin("release-1", 7)).await.unwrap();
            replica.put_pin(&pin("before.migration", 9)).await.unwrap();
            let taken = replica.put_pin(&pin("release-1", 8)).await.unwrap_err();
            assert_eq!(taken.kind(), ErrorKind::Exists);
            assert_eq!(replica.pins().await.unwrap(), [pin("before.migration", 9), pin("release-1", 7)]);
            assert!(replica.list_all().await.unwrap().is_empty(), "a pin is no segment");
            replica.remove_pin(&"release-1".parse().unwrap()).await.unwrap();
            replica.remove_pin(&"release-1".parse().unwrap()).await.unwrap();
            assert_eq!(replica.pins().await.unwrap(), [pin("before.migration", 9)]);
        }
    }

    #[tokio::test]
    async fn a_pin_that_cannot_be_read_is_an_error() {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let replica = Replica::new("r".to_owned(), storage.clone(), Key::ROOT, Layout::Decimal);
        let options = PutOptions { how: Put::New, timestamp: None };
        storage.put(&Key::new("pins/x").unwrap(), b"{".to_vec().into(), options).await.unwrap();
        assert_eq!(replica.pins().await.unwrap_err().kind(), ErrorKind::Refused);
    }

    #[test]
    fn names_are_plain() {
        for good in ["a", "2026-11-20", "v1.2_x", &"x".repeat(64)] {
            assert_eq!(good.parse::<PinName>().unwrap().to_string(), good);
        }
        for bad in ["", ".a", "-a", "a/b", "a b", "é", "..", "a.tmp", &"x".repeat(65)] {
            assert!(bad.parse::<PinName>().is_err(), "{bad}");
        }
    }
}
